"""The page of errors names every error, with the exit code that the commands give it."""

import inspect
import re
from pathlib import Path

from flopmeter import errors
from flopmeter.cli.output import find_exit_code

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
ROW = re.compile(r"^\| `(?P<name>\w+)` \| .* \| (?P<code>\d) \|$", re.MULTILINE)
OURS = {name: cls for name, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__}


def rows() -> list[tuple[str, str]]:
    return [(match["name"], match["code"]) for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def test_every_error_has_one_row() -> None:
    """Else somebody meets an error that nobody explained."""
    assert sorted(name for name, _ in rows()) == sorted(OURS)


def test_the_exit_codes_are_those_of_the_commands() -> None:
    """Else a script that goes by the page takes a no for a cannot tell."""
    assert {name: int(code) for name, code in rows()} == {
        name: find_exit_code(cls("why")) for name, cls in OURS.items()
    }
