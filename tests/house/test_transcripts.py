"""What the documents show as printed is what is printed.

A page may hold, each behind a comment of its own:

* `<!-- file: NAME -->` before a block: the block is a file of that name in an empty folder;
* `<!-- run -->` before a console block: its commands, the lines that begin with `$`, run in that folder, one shell for
  each block; what follows each of them is what it printed;
* `<!-- run, figures vary -->`: the same, and only the words are compared.

`python tests/house/test_transcripts.py [PAGE…]` writes the printed lines anew.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARKED = re.compile(
    r"<!-- (?P<mark>file: (?P<name>[\w./-]+)|run|run, figures vary) -->\n"
    r"(?:<!-- python\n(?:(?!-->).)*-->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if "<!-- run" in page.read_text(encoding="utf-8")]
SEPARATOR = "\x1e"
TIMEOUT_S = 180

# What differs from run to run: ids, dates, and what follows from the clock, the machine or the version.
VARYING = (
    (re.compile(r"[0-9a-f]{12,}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<date>"),
    # How sure a figure is depends on what the budget allowed to be counted in that time, and on what was drawn.
    (re.compile(r"known to lie between [^\n]+"), "known to lie between <bounds>"),
    (re.compile(r"(known to be at least [\d.e+]+ FLOP)( \(counted\))?;"), r"\1;"),
    (re.compile(r"passages: [\d,]+ counted[^\n]*"), "passages: <n>"),
    (re.compile(r" \d+ audits?[ :].*?(?:as|was)\s+booked", re.DOTALL), " <audits>"),
    (re.compile(r"(\ncounted +[\d.e+]+ FLOP)(?: +[\d.e+]+ FLOP){2}"), r"\1 <bounds>"),
    (re.compile(r"besides [\d,]+ integer"), "besides <n> integer"),
    (re.compile(r"took [\d.e-]+ %"), "took <share> %"),
    (re.compile(r"(\(counted\) and )[\d.]+e\+\d+ FLOP|(FLOP +)[\d.]+e\+1[3-9] FLOP"), r"\1\2<bound> FLOP"),
    (re.compile(r"at most [\d.]+e\+1[3-9] FLOP"), "at most <bound> FLOP"),
    (re.compile(r"(no NVIDIA driver: )[^;\n]*"), r"\1<reason>"),
    (re.compile(r"Not *\n? +Found"), ""),
    (re.compile(r"host: [\d.,]+ s of.*?of\s+the\s+hardware", re.DOTALL), "host: <what it used>"),
    (re.compile(r"\d+ lines"), "<n> lines"),
    (re.compile(r"the \d+ lines of the ledger"), "the <n> lines of the ledger"),
    (re.compile(r"\d+ operators, "), "<n> operators, "),
    (re.compile(r"(torch +)[\d.]+\S*"), r"\1<version>"),
    (re.compile(r"Python [\d.]+"), "Python <version>"),
    (re.compile(r"\d+ cores; bound for what is not counted: \S+ FLOP/s"), "<n> cores"),
    (re.compile(r"[ ─]+"), " "),
)
FIGURE = re.compile(r"[−-]?\d[\d.,]*(e[+-]\d+)?")


def commands_of(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def run_block(block: str, folder: Path) -> str:
    """Run the commands of one block and return the block as it should be."""
    commands = commands_of(block)
    lines = [
        f"{{ {command.partition('  #')[0]}\n}} 2>&1; code=$?; printf '{SEPARATOR}'; (exit $code)"
        for command in commands
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONWARNINGS": "error"}
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)  # what it started in the background, too
        said, _ = shell.communicate()
    printed = said.split(SEPARATOR)
    assert len(printed) == len(commands) + 1, said
    shown = [f"$ {command}\n{text}" for command, text in zip(commands, printed, strict=False)]
    return "".join(f"{line.rstrip()}\n" for line in "".join(shown).splitlines())


def replay(page: str, folder: Path) -> str:
    """Return the page with what its commands print now."""

    def again(match: re.Match[str]) -> str:
        text = match["text"]
        if match["name"]:
            file = folder / match["name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return match.group()
        return match.group().replace(text, run_block(text, folder))

    return MARKED.sub(again, page)


def settle(page: str) -> list[str]:
    """Return the blocks that were run, without what differs from run to run."""
    blocks = []
    for match in MARKED.finditer(page):
        if match["name"]:
            continue
        text = match["text"]
        for pattern, instead in VARYING:
            text = pattern.sub(instead, text)
        if "vary" in match["mark"]:
            text = re.sub(r"\s+", " ", FIGURE.sub("#", text))
        blocks.append(text.strip())
    return blocks


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_shown_is_what_is_printed(page: Path, tmp_path: Path) -> None:
    """If this failed, a newcomer would see something else than what we promised, and doubt either."""
    pytest.importorskip("torch")
    text = page.read_text(encoding="utf-8")
    assert settle(replay(text, tmp_path)) == settle(text)


def test_a_changed_word_is_noticed(tmp_path: Path) -> None:
    file = "<!-- file: a.txt -->\n```text\nhello\n```\n\n"
    page = f"{file}<!-- run -->\n```console\n$ cat a.txt; false\nhullo\n$ echo $?\n1\n```\n"
    again = replay(page, tmp_path)
    assert again == page.replace("hullo", "hello")
    assert settle(again) != settle(page)


if __name__ == "__main__":
    for given in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            given.write_text(replay(given.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")
