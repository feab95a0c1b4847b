"""What every test shares: which tests need torch, and what becomes of them where it is absent."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

GUESTS = ("torch", "numpy", "lightning", "transformers", "accelerate", "safetensors")
ABSENT = {name for name in GUESTS if importlib.util.find_spec(name) is None}

_left_out: list[str] = []


def guests_of(path: Path) -> set[str]:
    """Packages of the training side that a file imports when it is imported itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names & set(GUESTS)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out, and count, the files that cannot be imported without an absent package."""
    if collection_path.suffix == ".py" and collection_path.name.startswith("test_"):
        missing = guests_of(collection_path) & ABSENT
        if missing:
            _left_out.append(collection_path.name)
            return True
    return None


def pytest_report_collectionfinish() -> str:
    """Say aloud what was left out."""
    if not _left_out:
        return ""
    return f"left out, for want of {', '.join(sorted(ABSENT))}: {', '.join(sorted(_left_out))}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of a file that imports torch, so that `-m torch` and `-m 'not torch'` are true to their names."""
    known: dict[Path, bool] = {}
    for item in items:
        if item.path not in known:
            known[item.path] = bool(guests_of(item.path))
        if known[item.path]:
            item.add_marker(pytest.mark.torch)


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Forget what tests before this one compiled: on torch 2.9 nothing is counted after that."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None and sys.modules["torch"].__version__.startswith("2.9"):
        dynamo.counters.clear()
