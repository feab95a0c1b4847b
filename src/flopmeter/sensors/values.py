"""Integers inside tensors, where they decide a cost: the offsets of packed sequences, of experts, of a block mask.

On the host they are read at once. On a device they are copied without waiting for it, and read when the copy is
there, about a step later: nothing here ever waits for a device while training goes on.
Not here: which arguments are asked for (`FormulaBook.reads`), and what they cost (`formulas`).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

Key = tuple[Any, ...]

MAX_VALUES = 8192
"""A longer tensor is left unread: its integers would fill the ledger. Its formula says what it makes of that."""
_INTEGERS = frozenset({torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool})


INDEXING = frozenset({torch.ops.aten.index.Tensor})
"""Indexing picks as many elements as the mask holds where it is given one, and as many as the indices else."""
_PACKS = frozenset({"aten::_pack_padded_sequence"})


def decides_shapes(func: Any) -> bool:
    """Say whether values decide how large the results of an operator are, and so what follows it costs."""
    tags = getattr(func, "tags", ())
    return torch.Tag.dynamic_output_shape in tags or (
        getattr(func, "_schema", None) is not None
        and (
            func._schema.name in _PACKS  # noqa: SLF001
        )
    )


def has_mask(args: Sequence[Any]) -> bool:
    """Say whether an indexing operator is given a mask."""
    indices = args[1] if len(args) > 1 else ()
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


class Late:
    """Integers on their way from a device; each is itself alone, so that no two copies are taken for one."""

    __slots__ = ("_copy", "_event")

    def __init__(self, copy: torch.Tensor, event: Any) -> None:
        """Keep a copy into pinned memory and the event that follows it on its stream."""
        self._copy = copy
        self._event = event

    @property
    def is_here(self) -> bool:
        """Say whether the copy is done; asking does not wait."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Wait for the copy: for the end of a run, when nothing else runs any more."""
        self._event.synchronize()

    def read(self) -> tuple[int, ...]:
        """Return the integers, once they are here."""
        return read_host(self._copy)


P = TypeVar("P")


class Waiting(Generic[P]):
    """Passages whose costs wait for integers, in the order in which they ran."""

    def __init__(self) -> None:
        """Start with none."""
        self._passages: deque[tuple[Mapping[Key, int], P, list[Late]]] = deque()

    def put(self, calls: Mapping[Key, int], passage: P, late: list[Late]) -> None:
        """Keep a passage until its integers are here."""
        self._passages.append((calls, passage, late))

    def take(self, *, is_last: bool = False) -> list[tuple[dict[Key, int], P]]:
        """Return the passages whose integers are here; all of them at the end of a run."""
        ready: list[tuple[dict[Key, int], P]] = []
        while self._passages:
            calls, passage, late = self._passages[0]
            if is_last:
                for one in late:
                    one.wait()
            elif not all(one.is_here for one in late):
                break
            self._passages.popleft()
            ready.append((_settle(calls), passage))
        return ready


def read_values(tensor: torch.Tensor) -> tuple[int, ...] | Late | None:
    """Return the integers in a tensor, or a promise of them; None where they cannot be had without waiting."""
    if tensor.dtype not in _INTEGERS or tensor.numel() > MAX_VALUES or tensor.layout is not torch.strided:
        return None
    if tensor.device.type == "cpu":
        return read_host(tensor)
    if tensor.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return None  # a copy inside a graph would be made again at each replay
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return Late(copy, event)


def read_host(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the integers of a tensor on the host, in order."""
    return tuple(map(int, tensor.flatten().tolist()))


def _settle(calls: Mapping[Key, int]) -> dict[Key, int]:
    settled: dict[Key, int] = {}
    for key, times in calls.items():
        here = _with_values(key)
        settled[here] = settled.get(here, 0) + times
    return settled


def _with_values(part: Any) -> Any:
    if isinstance(part, Late):
        return part.read()
    return tuple([_with_values(item) for item in part]) if type(part) is tuple else part
