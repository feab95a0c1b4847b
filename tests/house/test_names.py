"""How files and names are called, how long files get, and where everything may be caught."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flopmeter"
FILES = sorted(SOURCE.rglob("*.py"))

REFUSED = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "types", "manager", "handler"}

MAX_LINES = 400
# Longer files, each with its reason.
LONG_FILES: dict[str, str] = {}

# Where everything may be caught: (file, function) → why.
CATCH_ALL: dict[tuple[str, str], str] = {
    ("cli/main.py", "main"): "the top of every command: bad input is one sentence, never a traceback",
    ("cli/recount.py", "read_book"): "the file is the user's own program: whatever it raises is a mistake in it",
    ("formulas/book.py", "cost"): "a formula is anybody's: whatever it raises leaves its call uncounted",
    ("formulas/book.py", "installed"): "a package's entry point is foreign code: it is left out, the run starts",
    ("sensors/guard.py", "wrapper"): "the `guarded` boundary: whatever fails on our side, the run lives",
    ("sensors/regions.py", "_open"): "a graph is torch's or a user's: whatever it raises, its call stays uncounted",
    ("sensors/hook.py", "__call__"): "a hook on somebody's module: as `guarded`, at one call less",
    ("sensors/torch_ops.py", "__torch_dispatch__"): "a call goes on by the way that is guarded, and fails there or not",
    (
        "monitor.py",
        "_attempt",
    ): "a signer is foreign code in a thread of ours: its failure is an outcome, never the run's",
}

FOREIGN_PLURALS = {"flops", "flos", "macs", "tflops", "gflops", "mflops", "pflops"}


def broad_catches(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Function and line of each handler that catches everything and does not raise it again."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from visit(child, child.name)
                continue
            if isinstance(child, ast.ExceptHandler) and is_broad(child) and not raises_again(child):
                yield function, child.lineno
            if isinstance(child, ast.Call) and suppresses_all(child):
                yield function, child.lineno
            yield from visit(child, function)

    yield from visit(tree, "")


def suppresses_all(call: ast.Call) -> bool:
    names = {ast.unparse(argument) for argument in call.args}
    return ast.unparse(call.func).endswith("suppress") and bool(names & {"Exception", "BaseException"})


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether a handler only tidies up: its last statement is a bare `raise`."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def bound_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that a file gives, as opposed to names of others that it uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def is_foreign_plural(name: str) -> bool:
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
    return any(part in FOREIGN_PLURALS for part in parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_file_is_a_drawer():
    """Else things are put where nobody finds them."""
    names = {part.removesuffix(".py") for path in FILES for part in path.relative_to(SOURCE).parts}
    assert names & REFUSED == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_stays_short(path):
    name = str(path.relative_to(SOURCE))
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if name in LONG_FILES:
        assert lines > MAX_LINES, f"{name} is short again: take it off the list"
    else:
        assert lines <= MAX_LINES, f"{name} has {lines} lines: split it, or give a reason in LONG_FILES"


def test_no_public_function_hides_a_module():
    """Else `from flopmeter.x import y` means a function here and a module there. Commands alone are called by verbs."""
    modules = {name for path in FILES if path.parent.name != "cli" for name in (path.stem, path.parent.name)}
    hiding = [
        f"{path.relative_to(SOURCE)}: {node.name}"
        for path in FILES
        for node in parse(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and node.name in modules
    ]
    assert hiding == []


def test_flop_has_no_plural():
    """Else a count and a rate look alike."""
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {name}"
        for path in FILES
        for name, line in bound_names(parse(path))
        if is_foreign_plural(name)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "is_plural"),
    [
        ("flops", True),
        ("total_flops", True),
        ("peakFlops", True),
        ("FLOPS", True),
        ("flop", False),
        ("flop_per_s", False),
    ],
)
def test_a_plural_is_recognised(name, is_plural):
    assert is_foreign_plural(name) is is_plural


def test_everything_is_caught_in_two_places_only():
    """Else a bug of ours turns into a figure that is quietly wrong."""
    found = {
        (str(path.relative_to(SOURCE)), function): line
        for path in FILES
        for function, line in broad_catches(parse(path))
    }
    assert {place: line for place, line in found.items() if place not in CATCH_ALL} == {}
    assert set(CATCH_ALL) <= set(found), "a place on the list no longer catches everything: take it off"


@pytest.mark.parametrize(
    ("code", "is_caught"),
    [
        ("try:\n    f()\nexcept Exception:\n    pass", True),
        ("try:\n    f()\nexcept:\n    pass", True),
        ("try:\n    f()\nexcept (ValueError, BaseException) as e:\n    print(e)", True),
        ("with contextlib.suppress(Exception):\n    f()", True),
        ("try:\n    f()\nexcept BaseException:\n    g()\n    raise", False),
        ("try:\n    f()\nexcept ValueError:\n    pass", False),
    ],
)
def test_a_broad_catch_is_recognised(code, is_caught):
    assert bool(list(broad_catches(ast.parse(code)))) is is_caught
