"""Formulas that others registered with torch (`torch.utils.flop_counter.register_flop_formula`).

A library that tells torch's counter what its operators cost tells us as well: where our book has no formula, theirs is
borrowed, under its own name, so that the book's digest and the ledger's header show it.
Not here: our formulas (`formulas`), and those of Triton kernels (`triton_kernels.py`), which no dispatcher calls.
"""

import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, Arg, OpCall, TensorSpec
from flopmeter.formulas.cost import Cost, Part
from flopmeter.sensors.precision import DTYPES

_REGISTRY = "torch.utils.flop_counter"
_TYPES = {name: dtype for dtype, name in DTYPES.items()}


class Borrowed:
    """A formula of torch's registry, called as torch's counter calls it, with tensors that have shapes and no data."""

    def __init__(self, formula: Callable[..., Any]) -> None:
        """Keep the formula, and its name as ours."""
        self.formula = formula
        self.__module__ = getattr(formula, "__module__", "unknown")
        self.__qualname__ = getattr(formula, "__qualname__", type(formula).__qualname__)

    def __call__(self, call: OpCall) -> Cost:
        """Return what the formula says, as work of kind `other`: it does not tell products from the rest."""
        out = tuple(map(_hollow, call.out))
        options = {name: _hollow(value) for name, value in call.options}
        found = self.formula(*map(_hollow, call.args), **options, out_val=out[0] if len(out) == 1 else out)
        return Cost.of(Part(kind="other", flop=operator.index(found)))


def with_registered(book: FormulaBook) -> FormulaBook:
    """Return the book with torch's registered formulas for operators that it does not know."""
    for op, formula in sorted(_registered().items()):
        if book.find(op) is None:
            book = book.with_formula(op, Borrowed(formula), kind="other")
    return book


def _registered() -> Mapping[str, Callable[..., Any]]:
    """Return what others registered, by operator name. A registry that nobody imported holds nothing of theirs."""
    registry = getattr(sys.modules.get(_REGISTRY), "flop_registry", {})
    theirs = {target: formula for target, formula in registry.items() if formula.__module__ != _REGISTRY}
    return {name: formula for target, formula in theirs.items() if (name := _name_of(target))}


def _name_of(target: Any) -> str:
    """Return what an operator is called here; nothing for what is none, a kernel of Triton."""
    if isinstance(target, torch._ops.HigherOrderOperator):  # noqa: SLF001
        return f"higher_order::{target.name()}"
    is_operator = isinstance(target, torch._ops.OpOverloadPacket)  # noqa: SLF001
    return str(target._qualified_op_name) if is_operator else ""  # noqa: SLF001


def _hollow(arg: Arg) -> Any:
    """Return an argument as the formula expects it: shapes in tensors without data, any number as 1."""
    if isinstance(arg, TensorSpec):
        dtype = _TYPES.get(arg.dtype) or getattr(torch, arg.dtype, torch.float32)
        return torch.empty(arg.shape, dtype=dtype, device="meta")
    if isinstance(arg, AnyNumber):
        return 1.0
    return [_hollow(item) for item in arg] if isinstance(arg, tuple) else arg
