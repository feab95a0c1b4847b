"""What other tools take a device's peak to be: their own tables and look-ups, run out of their files.

Their packages are not imported: the assignments and functions that matter are cut out of the file, and what they ask of
torch or of the machine is answered by stand-ins. So it needs no GPU, no network, and none of their dependencies.
"""

import ast
import builtins
import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

Ask = Callable[[str, str], int | None]


class Word:
    """A stand-in for a module: every attribute is its dotted name, and calling one does nothing."""

    def __init__(self, name: str) -> None:
        """Remember the name."""
        self.name = name

    def __getattr__(self, name: str) -> "Word":
        """Return a part of it."""
        return Word(f"{self.name}.{name}")

    def __call__(self, *_: object, **__: object) -> None:
        """Do nothing."""

    def __eq__(self, other: object) -> bool:
        """Words are equal by name."""
        return isinstance(other, Word) and other.name == self.name

    def __hash__(self) -> int:
        """Words are keys of the tables."""
        return hash(self.name)


@functools.cache
def compiled(path: Path, names: frozenset[str]) -> CodeType:
    """Return what a file says under these names at its top level, without annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if names & set(named(node))]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.copy_location(ast.Constant(value=0), node)
    return compile(tree, str(path), "exec", dont_inherit=True)


def cut(path: Path, names: set[str], given: dict[str, Any]) -> dict[str, Any]:
    """Run what a file says under these names, and nothing else of it; an import inside gives a stand-in."""
    stand_ins = {**vars(builtins), "__import__": lambda name, *_, **__: Word(name)}
    scope = {"__builtins__": stand_ins, "__name__": "cut", **given}
    exec(compiled(path, frozenset(names)), scope)  # noqa: S102 - an installed package's own words
    return scope


def named(node: ast.stmt) -> Iterator[str]:
    """Return the names that a statement gives."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        held = target.value if isinstance(target, ast.Subscript) else target
        if isinstance(held, ast.Name):
            yield held.id


def torch_words(name: str) -> Any:
    """Return a torch that has one device of this name."""
    torch = Word("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda *_: name)
    torch.get_float32_matmul_precision = lambda: "highest"
    return torch


def ask_torch(path: Path) -> Ask:
    """Return Inductor's `datasheet_tops`, what it takes a device to do densely."""
    types = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    types |= {"fp8": "float8_e5m2", "int8": "int8"}

    def ask(name: str, precision: str) -> int | None:
        torch = torch_words(name)
        wanted = {"DeviceInfo", "_device_mapping", "lookup_device_info", "datasheet_tops"}
        scope = cut(path, wanted, {"torch": torch, "dataclass": dataclasses.dataclass, "log": Word("log")})
        if precision not in types:
            return None
        tera = scope["datasheet_tops"](Word(f"torch.{types[precision]}"), precision == "tf32")
        return None if tera is None else round(tera * 10**12)

    return ask


def ask_lightning(path: Path) -> Ask:
    """Return Fabric's `get_available_flops`; its key of TF32 is asked where it would be chosen by a setting."""
    types = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}

    def ask(name: str, precision: str) -> int | None:
        given = {"torch": torch_words(name), "rank_zero_warn": Word("warn"), "Union": Word("U"), "Optional": Word("O")}
        scope = cut(path, {"_CUDA_FLOPS", "get_available_flops"}, given)
        if precision != "tf32" and precision not in types:
            return None
        dtype = "tfloat32" if precision == "tf32" else Word(f"torch.{types[precision]}")
        found = scope["get_available_flops"](SimpleNamespace(type="cuda"), dtype)
        return None if found is None else int(found)

    return ask


def ask_torchtitan(path: Path) -> Ask:
    """Return `get_peak_flops`, as where no `lspci` is installed; it has bf16 alone."""

    def ask(name: str, precision: str) -> int | None:
        def run(*_: object, **__: object) -> None:
            raise FileNotFoundError

        given = {"subprocess": SimpleNamespace(run=run, PIPE=None), "logger": Word("logger"), "torch": Word("torch")}
        scope = cut(path, {"get_peak_flops"}, given)
        return int(scope["get_peak_flops"](name)) if precision == "bf16" else None

    return ask


def ask_composer(path: Path) -> Ask:
    """Return `get_gpu_flops_available` of the speed monitor; 0 is its word for unknown."""

    def ask(name: str, precision: str) -> int | None:
        given = {"torch": torch_words(name), "warnings": Word("warnings"), "is_xla_installed": lambda: False}
        wanted = {"_HSERIES_SXM", "GPU_AVAILABLE_FLOPS", "get_gpu_flops_available"}
        scope = cut(path, wanted, given)
        return scope["get_gpu_flops_available"](SimpleNamespace(precision=SimpleNamespace(value=precision))) or None

    return ask


PEERS: dict[str, tuple[tuple[str, ...], str, Callable[[Path], Ask]]] = {
    "torch": (("torch",), "torch/_inductor/analysis/device_info.py", ask_torch),
    "lightning-fabric": (("lightning-fabric", "lightning"), "lightning_fabric/utilities/throughput.py", ask_lightning),
    "torchtitan": (("torchtitan",), "torchtitan/tools/utils.py", ask_torchtitan),
    "composer": (("mosaicml",), "composer/callbacks/speed_monitor.py", ask_composer),
}


def find(peer: str, folder: Path | None = None) -> tuple[str, Ask] | None:
    """Return a peer's version and its look-up, from a folder or from what is installed; None where it is not there."""
    packages, file, make = PEERS[peer]
    paths = [folder] if folder else []
    spec = importlib.util.find_spec(Path(file).parts[0])
    if spec is not None and spec.submodule_search_locations:
        paths.append(Path(spec.submodule_search_locations[0]).parent)
    for root in paths:
        path = root / file
        versions = [
            one.version for name in packages for one in importlib.metadata.distributions(name=name, path=[str(root)])
        ]
        if path.exists() and versions:
            return versions[0].partition("+")[0], make(path)
    return None
