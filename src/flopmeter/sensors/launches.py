"""Launches: what runs on a device without torch's dispatcher being asked, as a witness.

Kernels of C++ extensions, of Triton, and replays of CUDA graphs each add a number of their own to one sum. It stands
beside the count of autograd's nodes in the witness of every passage, so that a passage with three of them is never
taken for one with two. That costs an addition; what was launched is looked at only where somebody counts.
Not here: who notes it (`current_recorder.py`), who tells of it (`captured.py`, `extensions.py`, `triton_kernels.py`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b

NODES = (1 << 32) - 1
"""The part of a witness that autograd's nodes take; launches stand above it."""

_covered = threading.local()


class Launched:
    """The sum of what was launched in this process; `hears_triton` says whether Triton's launches are in it.

    It is the process's, as the launches are: what other threads launch is in it. What is launched and noted runs within
    `span`, so that a census (`census.py`) knows it.
    """

    __slots__ = ("hears_triton", "span", "total")

    def __init__(self) -> None:
        """Start with nothing launched."""
        self.total = 0
        self.hears_triton = False
        self.span: Callable[[], AbstractContextManager[object]] = nullcontext


launched = Launched()


def number_launch(name: str) -> int:
    """Return what a launch of this name adds: launches of other names, or another number of them, have another sum."""
    return (NODES + 1) * (1 + int.from_bytes(blake2b(name.encode(), digest_size=5).digest()))


def is_covered() -> bool:
    """Say whether what this thread launches now is counted by somebody who knows all of it (`covered`)."""
    return getattr(_covered, "depth", 0) > 0


@contextmanager
def covered() -> Iterator[None]:
    """Have nobody note what this thread launches within, because it is counted as a whole: a compiled region.

    It stays in the witness.
    """
    _covered.depth = getattr(_covered, "depth", 0) + 1
    try:
        yield
    finally:
        _covered.depth -= 1
