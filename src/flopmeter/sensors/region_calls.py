"""What a compiled region runs for inputs of given sizes: its graph once more, on tensors that have sizes and no data.

Not here: the texts of graphs (`graph_text.py`), which regions run and when (`regions.py`).
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from flopmeter.sensors.graph_text import Graph
from flopmeter.sensors.operators import is_skipped
from flopmeter.sensors.shadows import flatten, schema_of, shadow
from flopmeter.sensors.triton_kernels import DECLARED, ask_registered, find_kernel

Given: TypeAlias = tuple[Any, ...]
"""What a region was given: of each tensor a `Sizes`, of anything else what may be kept of it."""

_RUN_ONE = {"auto_functionalized": 0, "auto_functionalized_v2": 0, "out_dtype": 0, "with_effects": 1}
"""Operators that run one other, and where in their arguments that stands."""
_SAVE_RANDOM = "run_and_save_rng_state"
_RANDOM = {_SAVE_RANDOM: 0, "graphsafe_run_with_rng_state": 0, "run_with_rng_state": 1}
"""Those that mind the state of random numbers meanwhile."""
_RUN_GRAPH = {"invoke_subgraph": 2, "hints_wrapper": 1}
"""Operators that run a graph once, and where in their arguments its own begin."""
_MASKED = {"flex_attention": 4, "flex_attention_backward": 9}
"""Operators whose cost integers inside of tensors tell, and where in their arguments those stand."""
_NOWHERE = torch.device("meta")
_FUNCTIONAL_KERNEL, _KERNEL = "triton_kernel_wrapper_functional", "triton_kernel_wrapper_mutation"


class Sizes(NamedTuple):
    """All of a tensor that its graph is told, and its integers where a formula reads them."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    values: Any = None


class Made(NamedTuple):
    """One call of a graph: the name of the value that it makes, and what is kept of it."""

    name: str
    func: Any
    given: tuple[Any, ...]
    options: tuple[Any, ...]
    outs: tuple[Any, ...]
    device: str


def list_calls(graph: Graph, given: Given, kernels: list[str]) -> list[Made]:
    """Return the calls that a graph makes for inputs of these sizes, in order; `kernels` are Triton's, by number.

    Raises:
        Exception: whatever torch raises where sizes alone do not tell what is run.
    """
    with _alone():
        inputs = tuple([_make(one) if isinstance(one, Sizes) else one for one in given])
        values = {id(made): one.values for made, one in zip(inputs, given, strict=True) if isinstance(one, Sizes)}
        devices = [one.device.type for one in given if isinstance(one, Sizes)]
        run = _Run(values, kernels, next((name for name in devices if name != "cpu"), "cpu"))
        graph.run(run.step, inputs)
    return run.made


@contextmanager
def _alone() -> Iterator[None]:
    """Keep away everybody's modes, and autocast: what that does is in the graph already."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())  # noqa: SLF001
        stack.enter_context(torch._C._DisableAutocast())  # noqa: SLF001
        stack.enter_context(torch.no_grad())
        yield


def _make(sizes: Sizes) -> torch.Tensor:
    return torch.empty_strided(sizes.shape, sizes.strides, dtype=sizes.dtype, device=_NOWHERE)


class _Run:
    """One run of a graph; `made` are its calls so far."""

    def __init__(self, values: dict[int, Any], kernels: list[str], device: str) -> None:
        self.made: list[Made] = []
        self._device = device
        self._ran: dict[Any, Any] = {}
        self._values = values
        self._kernels = kernels
        self._is_deaf = False  # within an operator that stands for all that it runs

    def step(self, name: str, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Make one call of the graph."""
        if isinstance(func, HigherOrderOperator):
            return self._run_higher_order(name, func, args, kwargs)
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        out = self._run(func, args, kwargs)
        if not is_skipped(func) and not func._schema.name.startswith("aten::sym_"):  # noqa: SLF001
            self._note(name, func, args, kwargs, out)
        return out

    def _run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator, unless it ran on such operands before: layers are alike, and torch finds sizes slowly."""
        is_plain = not func._schema.is_mutable and not is_skipped(func)  # noqa: SLF001
        asked = (func, _read(args), _read(tuple(kwargs.items()))) if is_plain else None
        if asked is not None and asked in self._ran:
            return _make_again(self._ran[asked])
        here = [_NOWHERE if type(arg) is torch.device else arg for arg in args]
        out = func(*here, **{key: _elsewhere(key, value) for key, value in kwargs.items()})
        if asked is not None and all(isinstance(one, torch.Tensor) for one in (out if type(out) is tuple else (out,))):
            self._ran[asked] = _read(out)
        return out

    def _run_higher_order(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = func.name()
        if kind in _RUN_GRAPH:
            return args[0](*args[_RUN_GRAPH[kind] :])
        if kind in {_FUNCTIONAL_KERNEL, _KERNEL}:
            return self._start_kernel(name, kind, kwargs)
        if kind in _RANDOM:
            at = _RANDOM[kind]
            kwargs.pop("rng_state", None)
            out = self.step(name, args[at], *args[at + 1 :], **kwargs)
            return (torch.empty(0, dtype=torch.uint8, device=_NOWHERE), out) if kind == _SAVE_RANDOM else out
        was_deaf, self._is_deaf = self._is_deaf, True
        try:
            out = _run_fake(func, args, kwargs)
        finally:
            self._is_deaf = was_deaf
        if kind in _RUN_ONE:
            at = _RUN_ONE[kind]
            self._note(name, args[at], args[at + 1 :], kwargs, out)
        else:
            self._note(name, func, args, kwargs, out, values_at=_MASKED.get(kind, -1))
        return out

    def _start_kernel(self, name: str, kind: str, kwargs: dict[str, Any]) -> Any:
        """Note a kernel of the user's by its name, or at what its author registered: no schema tells what it does."""
        given, number = kwargs["kwargs"], kwargs["kernel_idx"]
        kernel = self._kernels[number] if number < len(self._kernels) else "kernel"
        out = None
        if kind == _FUNCTIONAL_KERNEL:
            out = {key: given[key] for key in kwargs["tensors_to_clone"]}
        declared = ask_registered(_kernel_named(kernel), kwargs["grid"], given)
        if declared:
            self._note(name, DECLARED, (kernel,), dict(declared), ())
        else:
            self._note(name, f"triton::{kernel}", (), {}, list((out or {}).values()))
        return out

    def _note(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, *, values_at: int = -1
    ) -> None:
        if self._is_deaf:
            return
        outs = flatten(out)
        given = tuple([self._look(arg) if at == values_at else shadow(arg) for at, arg in enumerate(args)])
        options = tuple([(key, shadow(value)) for key, value in kwargs.items()])
        device = self._device if outs else ""
        self.made.append(Made(name, func, given, options, tuple(map(shadow, outs)), device))

    def _look(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple([self._look(item) for item in value])
        values = self._values.get(id(value))
        return shadow(value) if values is None else (value.shape, value.dtype, None, values)


def _kernel_named(name: str) -> Any:
    """Return the kernel that Dynamo met under this name; None where it met none, or several."""
    module = sys.modules.get("torch._higher_order_ops.triton_kernel_wrap")
    known = getattr(getattr(module, "kernel_side_table", None), "id_to_kernel", {})
    found = [one for one in map(find_kernel, list(known.values())) if getattr(one, "__name__", None) == name]
    return found[0] if len(found) == 1 else None


def _read(value: Any) -> Any:
    """Return what tells an operand, or what came of some, from others."""
    if isinstance(value, torch.Tensor):
        return Sizes(tuple(value.shape), value.stride(), value.dtype, _NOWHERE)
    if isinstance(value, list | tuple):
        return tuple([_read(one) for one in value])
    return value, type(value)  # 1, 1.0 and True are equal


def _make_again(read: Any) -> Any:
    return _make(read) if isinstance(read, Sizes) else tuple([_make(one) for one in read])


def _elsewhere(key: str, value: Any) -> Any:
    """Return an option so that whatever is made of it is made nowhere."""
    return _NOWHERE if type(value) is torch.device else False if key == "pin_memory" else value


def _run_fake(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator that is given graphs: those have no kernel for tensors without data, but torch's tracer has."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # there long since, where anything was compiled

    with FakeTensorMode() as mode:
        there, options = tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
        out = func(*there, **options)
    return tree_map_only(
        torch.Tensor, lambda one: torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=_NOWHERE), out
    )


def name_of(func: Any) -> str:
    """Return `namespace::op`."""
    return func if isinstance(func, str) else schema_of(func)[0]
