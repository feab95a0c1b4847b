"""The page of commands is what the commands say of themselves.

`python tests/house/test_cli_reference.py` writes it anew.
"""

import os
import re
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest

from flopmeter.cli.main import COMMANDS, main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
PLACE = re.compile(r"(<!-- made from --help: begin -->\n).*?(<!-- made from --help: end -->\n)", re.DOTALL)


def help_of(*words: str) -> str:
    """Return what `flopmeter WORDS --help` prints in a terminal 100 columns wide."""
    said = StringIO()
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    with mock.patch.dict(os.environ, plain), redirect_stdout(said), suppress(SystemExit):
        import_module(COMMANDS[words[0]][0]).run(["--help"]) if words else main(["--help"])
    return "".join(f"{line.rstrip()}\n" for line in said.getvalue().splitlines())


def render() -> str:
    """Return the middle of the page."""
    parts = [f"## flopmeter\n\n```text\n{help_of()}```\n"]
    parts += [f"## flopmeter {name}\n\n```text\n{help_of(name)}```\n" for name in COMMANDS]
    return "\n".join(["", *parts, ""])


def words_of(text: str) -> list[str]:
    """Forget where lines are broken and which brackets stand around metavars: both vary with Python's version."""
    return re.sub(r"[\[\]]", " ", text).split()


def test_the_page_says_what_the_commands_say() -> None:
    """Else the reference promises an option that is not there, or hides one that is."""
    found = PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert words_of(found.group()) == words_of(f"{found.group(1)}{render()}{found.group(2)}")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_a_section(name: str) -> None:
    assert f"\n## flopmeter {name}\n" in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PLACE.sub(lambda m: f"{m.group(1)}{render()}{m.group(2)}", page), encoding="utf-8")
