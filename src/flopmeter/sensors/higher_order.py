"""Operators that call others (`torch.cond`, `while_loop`, `scan`): what they call is noted, they cost nothing.

Torch runs such an operator with every mode off. Here its own kernel runs, with the recorder back on while it calls what
it was given: only the branch that runs is noted, and each round of a loop.
Around a Triton kernel it is the launch that is noted, where launches are heard of.
Not here: those whose inside is no operator (compiled code) or that are priced whole (attention with a
block mask): they are noted as one call, `higher_order::NAME`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch._ops import HigherOrderOperator, _compute_keyset

from flopmeter.sensors.launches import launched

CALL_FUNCTIONS = frozenset(
    {
        "associative_scan",
        "cond",
        "foreach_map",
        "hints_wrapper",
        "invoke_quant",
        "invoke_quant_packed",
        "invoke_subgraph",
        "local_map_hop",
        "map_impl",
        "scan",
        "strict_mode",
        "while_loop",
        "while_loop_stack_output",
    }
)
"""They are given functions or graphs; most of their kernels insist that no mode is on when they begin."""
CALL_OPERATORS = frozenset(
    {
        "auto_functionalized",
        "auto_functionalized_v2",
        "graphsafe_run_with_rng_state",
        "out_dtype",
        "run_and_save_rng_state",
        "run_const_graph",
        "run_dtensor_rng_op",
        "run_with_rng_state",
        "with_effects",
    }
)
"""They are given one operator, or a graph that must be a graph; nothing stands in its place."""
LAUNCH_KERNELS = frozenset({"triton_kernel_wrapper_functional", "triton_kernel_wrapper_mutation"})
"""They launch a Triton kernel, and are open where its launches are heard of (`triton_kernels.py`)."""
DECIDE_BY_VALUES = frozenset({"cond", "while_loop", "while_loop_stack_output"})


class Recorder(Protocol):
    """What the recorder offers here."""

    has_values: bool

    @property
    def is_on(self) -> bool:
        """Say whether it is on the stack of modes."""

    def again(self) -> AbstractContextManager[None]:
        """Be on the stack of modes within."""


class _Opened:
    """Stands before a function that an operator was given; in all else it is that function."""

    def __init__(self, inner: Callable[..., Any], recorder: Recorder) -> None:
        self._inner = inner
        self._recorder = recorder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._recorder.is_on:  # one of the functions calls another
            return self._inner(*args, **kwargs)
        with self._recorder.again():
            return self._inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def is_open(func: HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Say whether the inside of an operator can be seen.

    While something else still wants to see the call (a compiler that traces, a mode below us, a tensor of a class of
    its own), the operator is passed on as it came.
    """
    is_launch = func.name() in LAUNCH_KERNELS and launched.hears_triton
    if not (is_launch or func.name() in CALL_FUNCTIONS | CALL_OPERATORS):
        return False
    return not _keys(func, args, kwargs).has(torch._C.DispatchKey.Python)  # noqa: SLF001


def run_open(recorder: Recorder, func: HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run the operator's own kernel, with the recorder on wherever it calls operators."""
    key = _keys(func, args, kwargs).highestPriorityTypeId()
    if func.name() in DECIDE_BY_VALUES:
        recorder.has_values = True
    if func.name() in CALL_OPERATORS | LAUNCH_KERNELS:
        with recorder.again():
            return func.dispatch(key, *args, **kwargs)
    opened = [_Opened(arg, recorder) if callable(arg) and not isinstance(arg, torch.Tensor) else arg for arg in args]
    return func.dispatch(key, *opened, **kwargs)


def _keys(func: HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return _compute_keyset(args, kwargs, func.non_fallthrough_keys)
