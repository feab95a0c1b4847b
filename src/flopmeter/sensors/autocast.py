"""Autocast stays on inside of an operator, although torch switches it off below a mode.

An operator that casts by itself (a matrix product) is done with autocast when the hook sees it. One that only calls
such operators (`einsum`, `pinv`) has them cast what they get, and must still find autocast on, or its bits change.
Not here: any other state of torch.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch

Keys: TypeAlias = tuple[Any, ...]

_ALL: Keys = tuple(key for name, key in torch._C.DispatchKey.__members__.items() if name.startswith("Autocast"))  # noqa: SLF001

_AS_IT_IS = nullcontext()


def keys_outside() -> Keys:
    """Return the dispatch keys of the devices for which autocast was on when the running operator was called."""
    with torch._C._RestorePythonTLSSnapshot():  # type: ignore[attr-defined]  # noqa: SLF001
        if not torch._C._is_any_autocast_enabled():  # noqa: SLF001
            return ()
        off = torch._C._dispatch_tls_local_exclude_set()  # noqa: SLF001
        return tuple([key for key in _ALL if not off.has(key)])


def keys_inside(func: Any, outside: Keys) -> Keys:
    """Return those of the keys for which autocast is still on inside of an operator."""
    return tuple([key for key in outside if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)])  # noqa: SLF001


def switched_on(keys: Keys) -> AbstractContextManager[None]:
    """Have autocast on for these keys, as below no mode."""
    return _switched_on(keys) if keys else _AS_IT_IS


@contextmanager
def _switched_on(keys: Keys) -> Iterator[None]:
    off = torch._C._dispatch_tls_local_exclude_set()  # noqa: SLF001
    for key in keys:
        off = off.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), off):  # noqa: SLF001
        yield
