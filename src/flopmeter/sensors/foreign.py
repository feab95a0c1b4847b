"""Operators of others that the book does not know: they stay uncounted by name, and what they call is counted.

A library's operator is often a function that calls torch's own, and a kernel or two besides. Its kernel runs as ever,
with the recorder on: what it calls through the dispatcher is noted, and so is the operator itself, for the rest of it.
Not here: operators that are given functions (`higher_order.py`), and those that torch takes apart before anybody sees
them.
"""

from collections.abc import Sequence
from typing import Any

import torch

_OURS = frozenset({"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional", "inductor", "mkldnn", "quantized"})
"""Namespaces of torch, whose kernels call nothing that is not part of their own price."""


def is_foreign(func: Any) -> bool:
    """Say whether an operator is somebody else's."""
    return hasattr(func, "_op_dk") and func.namespace not in _OURS


def keys_of(func: Any, types: Sequence[type], args: Sequence[Any]) -> Any:
    """Return the dispatch keys that lead to the kernel which is about to run, None where it is not plain which one.

    It is plain for strided tensors of one device, while no other mode and no tensor of a class of its own want to see
    the call first.
    """
    tensors = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else [arg])]
    tensors = [one for one in tensors if isinstance(one, torch.Tensor)]
    devices = {tensor.device.type for tensor in tensors}
    if types or len(devices) != 1 or torch._C._len_torch_dispatch_stack():  # noqa: SLF001
        return None
    if not all(
        tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested for tensor in tensors
    ):
        return None
    name = torch._C._dispatch_key_for_device(devices.pop())  # noqa: SLF001
    if not torch._C._dispatch_has_computed_kernel_for_dispatch_key(func.name(), name):  # noqa: SLF001
        return None
    key = torch._C._parse_dispatch_key(name)  # noqa: SLF001
    return None if key is None else torch._C.DispatchKeySet(key)  # noqa: SLF001
