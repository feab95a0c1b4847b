"""Every import points down, torch stays a guest, and every source file has its mirror test."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flopmeter"

GUESTS = {"torch", "pynvml", "numpy", "lightning", "transformers", "accelerate"}

# Floors that may meet torch or NVML; everything else is the auditor's.
TRAINING_SIDE = {"sensors", "exporters", "meter", "launch", "testing", "integrations", "cli"}

# Source files whose tests live elsewhere, and where.
MIRRORED_ELSEWHERE: dict[str, str] = {
    "sensors/device.py": "tests/unit/sensors/test_nvml.py",
    "sensors/lowest_mode.py": "tests/unit/sensors/test_torch_ops.py",
    "sensors/sink.py": "tests/unit/test_meter.py",
    "sensors/trail.py": "tests/unit/sensors/test_lap.py",
    "errors.py": "tests/house/test_errors.py",
    "integrations/lightning.py": "tests/integrations/test_lightning.py",
    "integrations/transformers.py": "tests/integrations/test_transformers.py",
}

# Tests of a whole room rather than of one file of it, and what they are about.
OF_A_ROOM: dict[str, str] = {
    "attestation/test_flipped_bits.py": "any bit changed in attestation, ledger or subject is noticed",
    "sensors/test_passage_changes.py": "what changes under a passage is never replayed unseen",
    "test_meter_workload.py": "a metered program computes, draws and keeps what it would without the meter",
}


def contracts() -> list[dict[str, object]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return config["tool"]["importlinter"]["contracts"]


def mirror_of(path: Path) -> Path:
    relative = path.relative_to(SOURCE)
    return ROOT / "tests" / "unit" / relative.parent / f"test_{relative.name}"


def test_the_import_contracts_hold():
    """Else a layer reaches upwards, or an auditor's command loads torch, and nobody notices until it hurts."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_floor_has_a_place_and_the_list_is_exhaustive():
    (layers,) = (contract for contract in contracts() if contract["type"] == "layers")
    assert layers["exhaustive"] is True
    floors = {name for row in layers["layers"] for name in re.findall(r"\w+", row)}
    modules = {path.stem for path in SOURCE.glob("[!_]*.py")}
    rooms = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert modules | rooms <= floors


def test_every_room_of_the_auditor_is_closed_to_torch():
    """Else a new module joins the house and may import torch unseen."""
    (closed,) = (contract for contract in contracts() if str(contract["name"]).startswith("the auditor's side"))
    listed = {str(name).removeprefix("flopmeter.") for name in closed["source_modules"]}
    modules = {path.stem for path in SOURCE.glob("[!_]*.py")}
    rooms = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert (modules | rooms) - TRAINING_SIDE <= listed
    ours = {f"flopmeter.{name}" for name in ("sensors", "meter") if name in modules | rooms}
    assert {"torch", "pynvml", "numpy"} | ours <= set(closed["forbidden_modules"])


def test_every_formula_family_is_on_the_list_of_independent_ones():
    """Else one family leans on another, and changing one convention changes two."""
    (independent,) = (contract for contract in contracts() if contract["type"] == "independence")
    families = {path.stem for path in (SOURCE / "formulas").glob("[!_]*.py")} - {
        "book",
        "call",
        "cost",
        "lapack",
        "pairs",
        "rates",
    }
    assert {f"flopmeter.formulas.{family}" for family in families} == set(independent["modules"])


def imported_by(node: ast.AST) -> Iterator[str]:
    """Packages that a file imports anywhere, but for the checker's eyes."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module.partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from imported_by(child)


def test_only_the_training_side_names_a_guest():
    """Written without the linter, so that a mistake in its configuration is seen as well."""
    found = [
        str(path.relative_to(SOURCE))
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in {"sensors", "integrations"}
        and GUESTS & set(imported_by(ast.parse(path.read_text(encoding="utf-8"))))
    ]
    assert found == []


def test_every_source_file_has_its_mirror_test():
    """Else a reader who wants to know what a file promises has nowhere to look."""
    missing = [
        str(path.relative_to(SOURCE))
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name not in {"__init__.py", "__main__.py"}
        and str(path.relative_to(SOURCE)) not in MIRRORED_ELSEWHERE
        and not mirror_of(path).exists()
    ]
    assert missing == []


def test_the_list_of_exceptions_is_not_stale():
    for source, test in MIRRORED_ELSEWHERE.items():
        assert (SOURCE / source).exists(), source
        assert (ROOT / test).exists(), test
        assert not mirror_of(SOURCE / source).exists(), source


def is_about_a_file(test: Path) -> bool:
    """Whether `test_meter_workload.py`, say, stands beside a `meter.py`: more tests of one file say so by its name."""
    words = test.stem.removeprefix("test_").split("_")
    room = SOURCE / test.relative_to(ROOT / "tests" / "unit").parent
    return any((room / f"{'_'.join(words[:length])}.py").exists() for length in range(1, len(words) + 1))


def test_no_mirror_test_is_orphaned():
    """Else a test goes on promising things about a file that moved."""
    unit = ROOT / "tests" / "unit"
    orphans = [
        str(path.relative_to(unit))
        for path in sorted(unit.rglob("test_*.py"))
        if str(path.relative_to(unit)) not in OF_A_ROOM and not is_about_a_file(path)
    ]
    assert orphans == []
