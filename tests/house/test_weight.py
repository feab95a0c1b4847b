"""What it weighs to come in."""

import json
import subprocess
import sys

FRONT_DOOR = 5

COUNT = """
import json, sys
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_after(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", COUNT.format(code=code)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_front_door_is_light():
    """Else a training script pays for what it does not use, and an auditor loads what they do not trust."""
    new = modules_after("import flopmeter; dir(flopmeter)")
    assert len(new) <= FRONT_DOOR, new


def test_the_count_sees_a_heavy_import():
    assert len(modules_after("import argparse, dataclasses, decimal")) > FRONT_DOOR
