"""The tree of errors in the docstring is the tree in the code, and no error of ours lives elsewhere."""

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

from flopmeter import errors

SOURCE = Path(errors.__file__).parent

# Errors that another file of ours catches before anybody else can, and where.
NEVER_OUTSIDE = {"sensors/fingerprint.py: HiddenShapeError": "sensors/situation.py"}
OURS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


def tree_in(text: str) -> dict[str, str | None]:
    """Read `name → parent` from a drawn tree; several names may share a line."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in text.splitlines():
        names = re.findall(r"\w+Error\b", line)
        drawn = re.match(r"^([│├└─ ]*)\w+Error\b", line)
        if not names or not drawn:
            continue
        depth = len(drawn.group(1)) // 4
        for name in names:
            parents[name] = path[depth - 1] if depth else None
        path[depth:] = [names[-1]]
    return parents


def tree_of(classes: list[type]) -> dict[str, str | None]:
    parents: dict[str, str | None] = {}
    for cls in classes:
        above = [base.__name__ for base in cls.__bases__ if base in classes]
        assert len(above) <= 1, f"{cls.__name__} has two parents of ours: {above}"
        parents[cls.__name__] = above[0] if above else None
    return parents


def test_the_drawn_tree_is_the_tree_in_the_code():
    """Else whoever catches by the drawing catches too much or too little."""
    assert tree_in(errors.__doc__) == tree_of(OURS)


def test_no_and_cannot_tell_are_siblings():
    """Else a script that handles a forged file handles an unreadable one the same way."""
    assert not issubclass(errors.VerificationError, errors.CannotVerifyError)
    assert not issubclass(errors.CannotVerifyError, errors.VerificationError)


def test_a_missing_extra_is_an_import_error_too():
    assert issubclass(errors.MissingExtraError, ImportError)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_an_error_says_what_where_and_what_to_do(cls):
    error = cls("two is not three", where="a.json:7", hint="write three")
    assert (error.what, error.where, error.hint) == ("two is not three", "a.json:7", "write three")
    assert str(error) == "a.json:7: two is not three (write three)"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(again) is cls
    assert str(again) == str(error)


def test_errors_import_nothing_of_ours_and_neither_print_nor_exit():
    tree = ast.parse((SOURCE / "errors.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Import | ast.ImportFrom)
        assert not (isinstance(node, ast.Name) and node.id in {"print", "exit", "quit", "SystemExit"})


def test_no_error_is_defined_elsewhere():
    """Else an error leaves the house that is not in the tree."""
    elsewhere = {
        f"{path.relative_to(SOURCE)}: {node.name}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")  # a private one is caught where it is raised
        and any(re.search(r"(Error|Exception|Warning|Exit|Interrupt)$", ast.unparse(base)) for base in node.bases)
    }
    assert elsewhere == set(NEVER_OUTSIDE)
    for error, catcher in NEVER_OUTSIDE.items():
        assert f"except {error.rpartition(' ')[2]}" in (SOURCE / catcher).read_text(encoding="utf-8")
