"""Whether a block of `torch.inference_mode` is open on this thread, be it one that turns the mode off.

The end of such a block puts back all that torch keeps for the thread as the block found it, the key of our hook
included: a mode that came or went meanwhile leaves torch with the one and not the other, and then no operator runs any
more. A block with `mode=False` shows in nothing that torch tells, so blocks are counted as they are entered; only those
that Python code enters, while somebody meters.
Not here: what follows for the hook (`bookkeeper.py`).
"""

import threading
from typing import Any

import torch

_entered = threading.local()
_users: set[int] = set()
_originals: tuple[Any, Any] | None = None


def is_block_open() -> bool:
    """Say whether a block is open that Python code entered while somebody metered, or any that turns the mode on."""
    return torch.is_inference_mode_enabled() or getattr(_entered, "depth", 0) > 0


def listen(user: int) -> None:
    """Count the blocks that are entered from now on."""
    global _originals  # noqa: PLW0603 # torch has one class of them, and it is one process
    if not _users:
        kind = torch.inference_mode
        _originals = kind.__enter__, kind.__exit__
        kind.__enter__, kind.__exit__ = _enter, _leave  # type: ignore[method-assign]
    _users.add(user)


def stop_listening(user: int) -> None:
    """Put back what torch had, once nobody meters; twice is fine."""
    _users.discard(user)
    kind = torch.inference_mode
    if not _users and _originals is not None and kind.__enter__ is _enter:
        kind.__enter__, kind.__exit__ = _originals  # type: ignore[method-assign]


def _enter(block: Any) -> Any:
    entered = _originals[0](block) if _originals is not None else None
    _entered.depth = getattr(_entered, "depth", 0) + 1
    return entered


def _leave(block: Any, *error: Any) -> Any:
    _entered.depth = max(0, getattr(_entered, "depth", 0) - 1)
    return _originals[1](block, *error) if _originals is not None else None
