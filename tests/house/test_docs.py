"""What the documents show is what happens.

Each Python block of README.md and docs/ runs, the blocks of one page one after the other, in an empty folder. What a
block needs and a reader does not want to see stands before it in a comment that starts with `<!-- python`; a block
that cannot run has `<!-- not run: reason -->` before it.
"""

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flopmeter"
EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
PAGES = sorted([*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md")])

BLOCK = re.compile(r"^(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--\s*(?P<kind>python\b|not run:)(?P<text>(?:(?!-->).)*)-->\s*\Z", re.DOTALL)


class Block(NamedTuple):
    line: int
    code: str
    reason: str  # why it is not run; empty where it is


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        before = COMMENT.search(text[: match.start()])
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        kind, comment = (before["kind"], before["text"]) if before else ("", "")
        if kind == "not run:":
            found.append(Block(text.count("\n", 0, match.start()) + 1, code, comment.strip() or "?"))
        else:
            found.append(Block(text.count("\n", 0, match.start()) + 1, comment + "\n" + code, ""))
    return found


RUNNABLE = [page for page in PAGES if any(not block.reason for block in blocks_of(page.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_runs(page, tmp_path):
    """Else the first thing a reader tries fails."""
    code = "\n".join(block.code for block in blocks_of(page.read_text(encoding="utf-8")) if not block.reason)
    if "import torch" in code or "Meter(" in code:
        pytest.importorskip("torch")
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_that_is_not_run_says_why(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.reason:
            assert len(block.reason.split()) > 1, f"{page.name}:{block.line}: give a reason"
        compile(block.code, f"{page.name}:{block.line}", "exec")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_in_docstrings_are_true(path):
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(import_module(name))
    assert result.attempted
    assert not result.failed


def test_blocks_are_found():
    page = (
        "x\n```python\na = 1\n```\n<!-- not run: needs a GPU -->\n```python\nb\n```\n"
        "<!-- python\nc = 2\n-->\n```python\nc\n```\n"
    )
    assert [(block.line, bool(block.reason)) for block in blocks_of(page)] == [(2, False), (6, True), (12, False)]
    assert "c = 2" in blocks_of(page)[2].code
