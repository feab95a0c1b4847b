"""What is written holds on any machine: no path of ours in it, and every path it names is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A path from the root of somebody's disk; devices, /proc and /sys are the same everywhere.
FOREIGN = re.compile(r"(?<![\w.~/:$})-])/(?:work|root|tmp|home|opt|mnt|Users|var/tmp)/[\w.-]*")


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_tracked_file_names_a_place_on_somebodys_disk():
    """Else it works on one machine only. Tests may make up paths; they write to `tmp_path`."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in tracked()
        if path.relative_to(ROOT).parts[0] != "tests"
        for number, line in enumerate(text_of(path).splitlines(), 1)
        for match in FOREIGN.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_foreign"),
    [
        ('open("' + "/work" + '/x")', True),
        ("see " + "/root" + "/.cache", True),
        ("https://example.org" + "/home" + "/x", False),
        ("/proc/self/status and /dev/nvidia0", False),
        ("runs" + "/opt" + "/x", False),
    ],
)
def test_a_place_is_recognised(line, is_foreign):
    assert bool(FOREIGN.search(line)) is is_foreign


def test_every_place_in_where_exists():
    """Else the map sends people into walls."""
    text = (ROOT / "docs" / "reference" / "where.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert rows
    for row in rows:
        for place in re.findall(r"`([\w./-]+)`", row.split("|")[2]):
            if "/" in place or "." in place:
                assert (ROOT / place).exists() or (ROOT / "src" / "flopmeter" / place).exists(), place


def test_every_file_that_the_table_of_stacks_names_exists():
    """Else what is said to have been run cannot be run again."""
    text = (ROOT / "docs" / "reference" / "stacks.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|benchmarks)/[\w./-]+)`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_waits_for_a_gpu_is_not_said_to_be_run():
    """Else CUDA is claimed as run by somebody's word alone; what did run has a dated result file, named at the top."""
    text = (ROOT / "docs" / "reference" / "stacks.md").read_text(encoding="utf-8")
    rows = [cells for line in text.splitlines() if len(cells := line.split("|")) == 7]
    assert len(rows) > 30
    assert [row[1] for row in rows if "tests/gpu" in row[4]] == []
    assert re.findall(r"`tests/gpu/results/\d{4}-\d\d-\d\d-[\w-]+\.json`", text)
