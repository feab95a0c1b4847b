"""A figure says what it counts and where the rule comes from."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flopmeter.formulas.book import FormulaBook

SOURCE = Path(__file__).parents[2] / "src" / "flopmeter"
FORMULAS = SOURCE / "formulas"
NO_FAMILY = {"__init__.py", "book.py", "call.py", "cost.py"}
FAMILIES = sorted(path for path in FORMULAS.glob("*.py") if path.name not in NO_FAMILY)

FIGURE = re.compile(r"^(?!parse_|print_)(\w*_)?(flop|int_op|ns|mj|bytes|tokens|elements)$")
INT_RETURNS = {"int", "int | None", "'int | None'"}
EXCLUDES = re.compile(r"\b(not|no|nothing|nowhere|never|without)\b", re.IGNORECASE)
SAYS = ("Counts:", "Units:", "Basis:")


def functions_of(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def lacks(function: ast.FunctionDef, *sections: str) -> list[str]:
    text = ast.get_docstring(function) or ""
    return [section for section in sections if section not in text]


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.name)
def test_a_formula_says_what_it_counts_and_its_source(path):
    """Else nobody can tell a convention from a mistake."""
    lacking = {
        function.name: missing
        for function in functions_of(path)
        if function.returns and re.search(r"\b(int|Cost)\b", ast.unparse(function.returns))
        if (missing := lacks(function, "Counts:", "Source:"))
    }
    assert lacking == {}


def test_every_formula_of_the_standard_book_says_so():
    """The same by the book itself: a formula made by another function is asked as well."""
    lacking = sorted(
        op
        for op, entry in FormulaBook.standard().entries.items()
        if not all(section in (inspect.getdoc(entry.formula) or "") for section in ("Counts:", "Source:"))
    )
    assert lacking == []


def test_a_figure_says_its_unit():
    """Else a reader adds joules to millijoules."""
    lacking = [
        f"{path.relative_to(SOURCE)}: {function.name}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path not in FAMILIES
        for function in functions_of(path)
        if FIGURE.search(function.name) and function.returns and ast.unparse(function.returns) in INT_RETURNS
        if len(lacks(function, *SAYS)) == len(SAYS)
    ]
    assert lacking == []


def test_a_module_says_what_is_not_in_it():
    """Else the next thing is put where it does not belong."""
    lacking = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if not text or (path.name not in {"__init__.py", "__main__.py"} and not EXCLUDES.search(text)):
            lacking.append(str(path.relative_to(SOURCE)))
    assert lacking == []
