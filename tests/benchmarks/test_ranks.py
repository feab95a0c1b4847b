"""A world of many ranks against one process: a small one here, the whole by the script itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401  # the script needs it
from versions import since_2_10

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ranks" / "world.py"


@pytest.mark.slow
@since_2_10("a mesh refuses these slices of it")
def test_the_ranks_of_a_world_come_to_what_one_process_does_each_difference_named(tmp_path):
    """If this failed, the total of a sharded run would be wrong, or its logical figure would."""
    out = tmp_path / "result.json"
    subprocess.run([sys.executable, str(SCRIPT), "--quick", "--out", str(out)], check=True, capture_output=True)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "date", "device", "versions", "layout"} <= set(result)
    assert result["wrong"] == {}
    assert result["logical_flop"][0] == result["logical_flop"][1]
    once = int(result["one_process_flop"]) + sum(map(int, result["named_flop"].values()))
    assert int(result["logical_flop"][0]) == once
    assert int(result["executed_flop"]) == once + sum(map(int, result["repeated_flop"].values()))
    assert all(one["is_equal"] for one in result["others"].values())
    assert result["is_exact"] is True
