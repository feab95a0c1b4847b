"""Operators that torch builds of others: above autograd's layer they never arrive whole, without it they do.

Torch's own kernel takes them apart, never a decomposition written in Python: else bits differ.
Not here: when they arrive so (`torch_ops.py`, `higher_order.py`, `foreign.py`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.overrides import enable_reentrant_dispatch

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001
_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality  # noqa: SLF001
_EXPLICIT = torch._C.DispatchKey.CompositeExplicitAutograd  # noqa: SLF001
_ASK_FOR_MODES = frozenset({"aten::linalg_svdvals", "aten::linalg_eigvalsh"})
"""They take another way below a mode; run whole, they take the way that they take without one."""
_ASK_FOR_GRADIENTS = frozenset({"aten::linear"})
"""They look whether a view of a weight wants gradients, and take another product if not; below a mode no view does,
unless torch's state is the outer one. Never for an operator that may return a view of an input."""


def is_composite(func: Any) -> bool:
    """Say whether torch's own kernel of an operator only calls other operators."""
    return hasattr(func, "_op_dk") and func.name() not in _ASK_FOR_MODES and _has_kernel(func, _COMPOSITE)


def calls_others(func: Any) -> bool:
    """Say whether a kernel of an operator may call other operators."""
    return any(_has_kernel(func, key) for key in (_EXPLICIT, _COMPOSITE))


def _has_kernel(func: Any, key: torch._C.DispatchKey) -> bool:
    """Say so of an operator that torch's dispatcher knows; `prim::device`, which asks a tensor, is none."""
    name = func.name()
    known = torch._C._dispatch_has_kernel(name)  # noqa: SLF001
    return bool(known and torch._C._dispatch_has_kernel_for_dispatch_key(name, key))  # noqa: SLF001


def is_below_autograd() -> bool:
    """Say whether torch has left autograd's layer behind."""
    return bool(torch._C._dispatch_tls_is_dispatch_key_excluded(_AUTOGRAD))  # noqa: SLF001


def state_of(func: Any) -> AbstractContextManager[None] | None:
    """Return the state of torch in which an operator is to be taken apart, None where it is the one that is there."""
    return enable_reentrant_dispatch() if func.name() in _ASK_FOR_GRADIENTS else None


def take_apart(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operator by the kernel that calls other operators."""
    return func._op_dk(_COMPOSITE, *args, **kwargs)  # noqa: SLF001
