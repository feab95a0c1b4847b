"""The report that the README shows is the one that its loop gives.

`python tests/house/test_readme.py` writes it anew.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
LOOP = re.compile(r"```python\n(?P<code>.*?)```", re.DOTALL)
REPORT = re.compile(
    r"(?P<before><!-- report -->\n```console\n\$ flopmeter (?P<command>[^\n]*)\n)(?P<text>.*?)(?P<after>```)", re.DOTALL
)

# What differs from run to run: ids, dates, and what follows from the clock or the machine.
VARYING = (
    (re.compile(r"[0-9a-f]{12,}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<date>"),
    # How sure a figure is depends on what the budget allowed to be counted in that time, and on what was drawn.
    (re.compile(r"known to lie between [^\n]+"), "known to lie between <bounds>"),
    (re.compile(r"passages: [^;]+;"), "passages: <n>;"),
    (re.compile(r" \d+ audits?[ :].*?(?:as|was)\s+booked", re.DOTALL), " <audits>"),
    (re.compile(r"(\ncounted +[\d.e+]+ FLOP)(?: +[\d.e+]+ FLOP){2}"), r"\1 <bounds>"),
    (re.compile(r"besides [\d,]+ integer"), "besides <n> integer"),
    (re.compile(r"took [\d.e-]+ %"), "took <share> %"),
    (re.compile(r"(\(counted\) and |FLOP +)[\d.]+e\+1[3-9] FLOP"), r"\1<bound> FLOP"),
    (re.compile(r"(no NVIDIA driver: )[^;\n]*"), r"\1<reason>"),
    (re.compile(r"host: [\d.,]+ s of.*?of\s+the\s+hardware", re.DOTALL), "host: <what it used>"),
    (re.compile(r"head \S+"), "head <id>"),
    (re.compile(r"\d+ lines"), "<n> lines"),
    (re.compile(r"[ ─]+"), " "),
)


def run_readme(folder: Path) -> str:
    """Run the loop and the command of the README, and return what the command prints."""
    text = README.read_text(encoding="utf-8")
    loop, report = LOOP.search(text), REPORT.search(text)
    assert loop is not None
    assert report is not None
    command = [sys.executable, "-m", "flopmeter", *report["command"].split()]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", loop["code"]], cwd=folder, check=True, capture_output=True)
    printed = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def settle(text: str) -> str:
    """Replace what differs from run to run."""
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text.strip()


def test_the_report_in_the_readme_is_the_one_that_comes_out(tmp_path: Path) -> None:
    """If this failed, the first thing that a newcomer reads would be invented."""
    pytest.importorskip("torch")
    shown = REPORT.search(README.read_text(encoding="utf-8"))
    assert shown is not None
    assert settle(run_readme(tmp_path)) == settle(shown["text"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        printed = run_readme(Path(folder))
    page = README.read_text(encoding="utf-8")
    README.write_text(REPORT.sub(lambda m: m["before"] + printed + m["after"], page), encoding="utf-8")
