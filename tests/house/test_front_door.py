"""The front door: the names we promise are there, and no others."""

import ast
import importlib.util
from pathlib import Path

import pytest

import flopmeter
from flopmeter.errors import MissingExtraError

SOURCE = Path(flopmeter.__file__)


@pytest.mark.parametrize("name", flopmeter.__all__)
def test_a_promised_name_resolves(name):
    """Else `from flopmeter import …` fails on a user's machine and nowhere else."""
    if importlib.util.find_spec("torch") is None:
        try:
            found = getattr(flopmeter, name)
        except MissingExtraError:
            found = name  # and the message is the command that installs it
    else:
        found = getattr(flopmeter, name)
    assert found is not None


def test_dir_shows_what_all_promises():
    assert sorted(dir(flopmeter)) == sorted(flopmeter.__all__)
    assert len(set(flopmeter.__all__)) == len(flopmeter.__all__)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="nope"):
        _ = flopmeter.nope


def test_checkers_see_the_same_names():
    """Else mypy and editors offer names that are not there, or miss some that are."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == set(flopmeter.__all__) - {"__version__"}


def test_the_version_is_that_of_the_project_file():
    project = SOURCE.parents[2] / "pyproject.toml"
    assert f'version = "{flopmeter.__version__}"' in project.read_text(encoding="utf-8")
