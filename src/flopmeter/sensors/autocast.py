"""What torch switches off below a mode stays on inside of an operator that calls others, or its result changes.

Autocast: an operator that casts by itself (a matrix product) is done with it when the hook sees it. One that only
calls such operators (`einsum`, `pinv`) has them cast what they get. Lazy signs: torch conjugates and negates by a mark
on the tensor; an operator that calls others may set such a mark, and the next one must heed it.
Not here: which operators call others (`composite.py`).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch

Keys: TypeAlias = tuple[Any, ...]

_ALL: Keys = tuple(key for name, key in torch._C.DispatchKey.__members__.items() if name.startswith("Autocast"))  # noqa: SLF001

LAZY: Keys = tuple(getattr(torch._C.DispatchKey, name) for name in ("Conjugate", "Negative", "ZeroTensor"))  # noqa: SLF001
"""Keys that make an operator heed the marks of its operands. Without them `linalg.pinv` of complex numbers is wrong."""
_OFF_INSIDE = frozenset({"aten::_cdist_forward", "aten::_euclidean_dist"})
"""What an operator that is done in fp32 under autocast (`cdist`) calls with autocast off, and nobody else calls."""

_AS_IT_IS = nullcontext()
_OuterState = torch._C._RestorePythonTLSSnapshot  # type: ignore[attr-defined]  # noqa: SLF001
_is_any_on = torch._C._is_any_autocast_enabled  # noqa: SLF001
_is_off = torch._C._dispatch_tls_is_dispatch_key_excluded  # noqa: SLF001
_set_off = torch._C._dispatch_tls_set_dispatch_key_excluded  # noqa: SLF001


def keys_outside() -> Keys:
    """Return the dispatch keys of the devices for which autocast was on when the running operator was called."""
    with _OuterState():
        if not _is_any_on():
            return ()
        off = torch._C._dispatch_tls_local_exclude_set()  # noqa: SLF001
        return tuple([key for key in _ALL if not off.has(key)])


def keys_inside(func: Any, outside: Keys) -> Keys:
    """Return those of the keys for which autocast is still on inside of an operator."""
    if func.name() in _OFF_INSIDE:
        return ()
    return tuple([key for key in outside if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)])  # noqa: SLF001


def switched_on(keys: Keys) -> AbstractContextManager[None]:
    """Have these keys on, as below no mode."""
    return _SwitchedOn(keys) if keys else _AS_IT_IS


class _SwitchedOn:
    """A class, because a generator would cost as much as the operator."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def __enter__(self) -> None:
        self._keys = tuple([key for key in self._keys if _is_off(key)])
        for key in self._keys:
            _set_off(key, False)  # noqa: FBT003  # torch's own signature

    def __exit__(self, *_raised: object) -> None:
        for key in self._keys:
            _set_off(key, True)  # noqa: FBT003
