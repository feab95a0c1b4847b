"""A dispatch mode that comes and goes below all others, whatever users do with theirs.

Not here: what it does with a call (`torch_ops.py`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

_INFRA_KEYS = (
    torch._C._TorchDispatchModeKey.FAKE,  # noqa: SLF001
    torch._C._TorchDispatchModeKey.PROXY,  # noqa: SLF001
    torch._C._TorchDispatchModeKey.FUNCTIONAL,  # noqa: SLF001
)
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001
_mode_at = torch._C._get_dispatch_stack_at  # noqa: SLF001
# What `_push_mode` and `_pop_mode` come to for a mode of ours; they stand at every boundary, replayed or not.
_push = torch._C._push_on_torch_dispatch_stack  # noqa: SLF001
_pop = torch._C._pop_torch_dispatch_stack  # noqa: SLF001


class LowestMode(TorchDispatchMode):
    """A mode that is switched on and off, rather than entered and left."""

    def __init__(self) -> None:
        """Start off the stack."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._was_put_on = False

    @property
    def is_on(self) -> bool:
        """Say whether the mode is on this thread's stack."""
        for index in range(_depth()):  # noqa: SIM110  # a generator costs as much as all the rest
            if _mode_at(index) is self:
                return True
        return False

    def switch_on(self) -> bool:
        """Go below every mode of the user's, so that theirs may come and go above us in any order.

        Returns whether calls are noted now: where someone lifted all modes for a while, ours will be put back with
        the others, and a second one beside it would note everything twice.
        """
        if self.is_on:
            return True
        if self._was_put_on:
            return False
        if not _depth():
            _push(self)
        else:
            with _user_modes_lifted():
                _push_mode(self)
        self._was_put_on = True
        return True

    def switch_off(self) -> None:
        """Leave the stack, wherever on it we are, and however often."""
        if _depth() == 1 and _mode_at(0) is self:
            self._was_put_on = False
            _pop(None)
            return
        lifted: list[Any] = []
        try:
            while self.is_on:
                self._was_put_on = False
                # One statement: an interrupt in between would lose a mode of the user's.
                lifted.append(_pop_mode())
        finally:
            for mode in reversed(lifted):
                if mode is not self:
                    _push_mode(mode)


@contextlib.contextmanager
def _user_modes_lifted() -> Iterator[None]:
    """Take the user's own modes off for a moment; torch's internal ones stay where torch wants them."""
    internal = sum(torch._C._get_dispatch_mode(key) is not None for key in _INFRA_KEYS)  # noqa: SLF001
    lifted: list[Any] = []
    try:
        while _depth() > internal:
            lifted.append(_pop_mode())
        yield
    finally:
        for mode in reversed(lifted):
            _push_mode(mode)
