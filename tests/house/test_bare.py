"""The auditor's promise: base dependencies are enough, and torch is never asked for."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flopmeter"
GUESTS = ("torch", "numpy", "lightning", "transformers", "accelerate")

# Modules that only make sense beside torch or a framework: importing them may ask for it.
TRAINING_SIDE = re.compile(r"flopmeter\.(sensors\.(?!nvml|host)\w+|integrations\.\w+)$")

# Refuses the guests as if they were not installed, so that this holds in every environment.
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {GUESTS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def run_bare(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", REFUSE + code], capture_output=True, text=True, check=False
    )


def modules() -> list[str]:
    names = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1] != "__main__" and not TRAINING_SIDE.match(name):
            names.append(name)
    return names


def test_the_bare_environment_is_bare():
    """Else every other test of this environment proves nothing."""
    if os.environ.get("FLOPMETER_BARE") != "1":
        pytest.skip("this is not the bare environment")
    assert [name for name in GUESTS if importlib.util.find_spec(name)] == []


def test_the_base_dependencies_are_four():
    """Else an auditor has to trust more than we said."""
    base = {re.match(r"[\w-]+", line).group() for line in requires("flopmeter") if "extra ==" not in line}
    assert base == {"cryptography", "nvidia-ml-py", "psutil", "rich"}


def test_every_module_outside_the_training_side_imports_without_torch():
    names = modules()
    done = run_bare(f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_a_guest_is_refused_here():
    assert run_bare("import torch").returncode != 0
