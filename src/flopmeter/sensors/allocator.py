"""What torch's CUDA allocator has handed out so far: a witness of work that makes no autograd nodes.

The counters are kept on the host at the moment a tensor is made, so they are the same in every run of the same
passage, however far the device lags behind, and reading them waits for nothing. They are the process's: what other
threads allocate is in them.
Blind to work that allocates nothing (`out=` variants, operations in place, replays of a CUDA graph) and to arguments
that change no size, such as `is_causal` of a fused kernel.
Under any dispatch mode a backward allocates more: torch adds up gradients that meet, and fills those of indexing, in
new tensors instead of in place. So a counted passage has other marks than the same one uncounted: compare marks of
uncounted passages with each other, and an uncounted one with a counted one by `could_be_same` alone.
A read builds a dictionary of some 150 numbers in torch, about 10 µs, whatever one wants of it; because the counters
are cumulative, one read per step bears witness to every passage of that step.
Not here: when they are read and what follows (`passage.py`, `replay.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

Marks: TypeAlias = tuple[int, ...]

_NATIVE = "native"
"""The one backend that counts: `cudaMallocAsync` always says zero, a pluggable allocator raises."""

# The public one looks its argument up anew, which takes a quarter more.
_read: Callable[[int], dict[str, Any]] | None = getattr(torch._C, "_cuda_memoryStats", None)  # noqa: SLF001


def device_marks(devices: Sequence[int] | None = None) -> Marks:
    """Return how many allocations were made on each device so far, and how many bytes were asked for.

    `devices` are indices; without them it is the current device. Empty where nothing can be told: CUDA is not in use,
    or its allocator does not count (another backend, or caching is off). Sizes are as they were asked for, before
    rounding: what a block really takes depends on what is cached. Initialises nothing.
    """
    if not torch.cuda.is_initialized():
        return ()
    try:
        if torch.cuda.get_allocator_backend() != _NATIVE:
            return ()
        marks: list[int] = []
        for index in (torch.cuda.current_device(),) if devices is None else devices:
            stats = (_read or torch.cuda.memory_stats_as_nested_dict)(index)
            marks += [stats[name]["all"]["allocated"] for name in ("allocation", "requested_bytes")]
    except (RuntimeError, AssertionError, KeyError, TypeError, ValueError):
        return ()  # an allocator or a build that tells something else
    return tuple(marks) if any(marks) else ()  # nothing counted yet, or ever: with caching off it stays at zero


def marks_between(before: Marks, after: Marks) -> Marks:
    """Return what was allocated between two reads; empty where one of them is missing or the counters were reset."""
    if not before or len(before) != len(after):
        return ()
    difference = tuple([late - early for early, late in zip(before, after, strict=True)])
    return () if min(difference) < 0 else difference


def could_be_same(counted: Marks, uncounted: Marks) -> bool:
    """Say whether a passage that was not counted can have been the one that was.

    Torch saves allocations where no mode is on, and never makes more.
    """
    return 0 < len(counted) == len(uncounted) and all(
        0 <= plain <= most for most, plain in zip(counted, uncounted, strict=True)
    )


def devices_in_use() -> tuple[int, ...]:
    """Return the devices on which this process has ever allocated; a read for each device there is, so ask rarely."""
    if not torch.cuda.is_initialized():
        return ()
    return tuple([index for index in range(torch.cuda.device_count()) if any(device_marks((index,)))])
