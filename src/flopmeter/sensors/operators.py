"""What there is to know of an operator before it runs: asked once, when it is met, and kept.

Not here: what becomes of its calls (`torch_ops.py`), what a call is told by (`shadows.py`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch._ops import HigherOrderOperator, OpOverload

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors import composite, foreign
from flopmeter.sensors.shadows import schema_of
from flopmeter.sensors.values import decides_shapes

Path: TypeAlias = tuple[int | str, ...]

_SKIPPED_NAMESPACES = frozenset({"profiler"})
_VIEW_NAMESPACES = frozenset({"aten", "prims"})
_MOVERS = frozenset(
    {
        *("_local_scalar_dense", "_to_copy", "_unsafe_view", "clone", "copy_", "detach_", "fill_", "zero_"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_zeros", "ones_like", "zeros", "zeros_like"),
    }
)
"""Operators of torch that move or fill and do nothing else, though some of them call others for it."""


ALLOCATE = frozenset(
    {
        *("aten::empty", "aten::empty_like", "aten::empty_permuted", "aten::empty_strided"),
        *("aten::new_empty", "aten::new_empty_strided"),
    }
)
PRODUCTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "aten::mm": (0, 1),
        "aten::bmm": (0, 1),
        **dict.fromkeys(("aten::addmm", "aten::addmm_", "aten::baddbmm", "aten::baddbmm_"), (1, 2)),
        "aten::_scaled_mm": (0, 1),
    }
)
"""Products of matrices, and where in their arguments the two factors are."""
CAST = "aten::_to_copy"


class Operator:
    """One operator as the recorder sees it."""

    __slots__ = (
        "calls_others",
        "decides",
        "func",
        "is_allocating",
        "is_composite",
        "is_foreign",
        "is_higher_order",
        "is_owing",
        "is_plain",
        "is_quiet",
        "is_skipped",
        "name",
        "paths",
        "run",
    )

    def __init__(self, func: Any) -> None:
        """Begin with an operator of which nothing is known: it is run, and passed over."""
        self.func = func
        self.run = func._op if type(func) is OpOverload and hasattr(func, "_op") else func  # noqa: SLF001
        """The same call, without a function of torch's in between."""
        self.is_plain = self.is_skipped = True
        self.is_owing = self.is_allocating = False

    def ask(self, book: FormulaBook | None) -> None:
        """Ask torch about it, and the book, which says whether it has a formula and what that reads."""
        func = self.func
        self.name, _ = schema_of(func)
        self.is_higher_order = isinstance(func, HigherOrderOperator)
        self.is_composite = composite.is_composite(func)
        self.is_foreign = book is not None and foreign.is_foreign(func) and not book.find(self.name)
        self.calls_others = not self.is_higher_order and composite.calls_others(func)
        self.decides = decides_shapes(func)
        self.paths = _paths(self.name, book)
        """Where in the arguments the integers stand that its formula reads."""
        self.is_owing = self.name in PRODUCTS or self.name == CAST
        """In the forward of a custom autograd function it matters to who owes a gradient."""
        self.is_allocating = self.name in ALLOCATE
        """It gives memory that nobody has written."""
        is_reshaping = torch.Tag.inplace_view in getattr(func, "tags", ()) or "resize" in self.name
        self.is_plain = not any(
            (
                self.is_higher_order,
                self.is_composite,
                self.is_foreign,
                self.decides,
                self.paths,
                is_reshaping,
                self.is_allocating,
            )
        )
        """It has a kernel of its own, shapes and scalars tell what it costs, and no operand changes its shape."""
        self.is_quiet = _is_quiet(func, self.name, calls_others=self.calls_others)
        """It calls nothing that minds autocast, or makes lazy signs where its operands are real."""
        self.is_skipped = is_skipped(func)


def is_skipped(func: Any) -> bool:
    """Views run nothing, where torch itself says that one is a view; profiler marks are no operators."""
    namespace = getattr(func, "namespace", "")
    is_view = namespace in _VIEW_NAMESPACES and bool(getattr(func, "is_view", False))
    return is_view or namespace in _SKIPPED_NAMESPACES


def _is_quiet(func: Any, name: str, *, calls_others: bool) -> bool:
    """Say whether an operator of torch's own moves its operand, or goes through it element by element by itself."""
    if getattr(func, "namespace", "") != "aten":
        return False
    is_pointwise = torch.Tag.pointwise in func.tags and not calls_others
    return is_pointwise or name.removeprefix("aten::") in _MOVERS


def _paths(name: str, book: FormulaBook | None) -> tuple[Path, ...]:
    places = book.reads(name) if book is not None else ()
    return tuple([place if isinstance(place, tuple) else (place,) for place in places])
