"""What a sample of the devices costs: whether the script runs and writes what the documents quote."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sampling" / "cost.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="the fake NVML library needs a C compiler")
def test_the_cost_of_a_sample_is_measured_and_written(tmp_path):
    """If this failed, nobody could repeat the figures that the documents quote."""
    out = tmp_path / "result.json"
    subprocess.run([sys.executable, str(SCRIPT), "--turns", "5", "--out", str(out)], check=True, capture_output=True)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "date", "device", "versions", "bar", "meters"} <= set(result)
    ours = result["meters"]["flopmeter"]
    assert ours["ms_per_sample"] > 0
    assert ours["calls_per_sample"] >= 8 * 4
    assert result["flopmeter_where_cycles_are_counted"]["ms_per_sample"] > 0
    for row in result["meters"].values():
        assert "status" in row or row["calls_per_sample"] > 0
