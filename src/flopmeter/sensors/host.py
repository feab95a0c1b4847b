"""Processor time and memory of this process and its children, through psutil: the host's side of a run.

Where there is no NVIDIA driver it is all that is known of the hardware. Each reading asks the system about the
processes that are known; to look for new ones takes a walk over all processes of the machine, so it is done rarely.
Whoever was started and ended between two walks is in the times of its parent, as the system keeps them.
Not here: when it is read; devices (`nvml.py`).
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from flopmeter.host import HostUsage
from flopmeter.sensors.guard import guarded
from flopmeter.units import NS_PER_S

WALK_NS = 5 * NS_PER_S
WALK_SHARE = 1000
"""A walk is made at most every five seconds, and for at most one part in a thousand of the time."""
NOT_STARTED = "the host's usage is not read"
UNREADABLE = "some child processes cannot be read: their processor time and memory are not in it"

LATE = "the first reading failed: what was used before the next one is not in it"
FORKED = "this process was forked from the one that is read"

Key = tuple[int, float]
"""A process: its number, which is used again, and when it began."""
Times = tuple[int, int]
"""Units: nanoseconds of a process itself, and of its children that have ended and were waited for."""


class HostSampler:
    """Reads what this process and its children use.

    `start` and `sample` ask the system, which can take long where many processes run, so leave them to a thread that
    does not train; `read` only hands over what the readings found. None of them raises.
    """

    def __init__(self, *, library: Any = None, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Prepare; psutil is loaded by `start`."""
        self._library = library
        self._clock_ns = clock_ns
        self._pid = 0
        self._forget()

    def _forget(self) -> None:
        self._sampling = threading.Lock()
        self._handover = threading.Lock()
        self._processes: dict[Key, Any] = {}
        self._times: dict[Key, Times] = {}
        self._walk_after_ns = 0
        self._cpu_ns = self._peak_bytes = self._now_bytes = 0
        self._notes: set[str] = set()
        self._failure = NOT_STARTED

    @guarded
    def start(self) -> None:
        """Take the first reading, from which later ones differ; a forked child that goes on has to start again."""
        self._forget()
        self._pid = os.getpid()
        try:
            self._library = self._library or import_module("psutil")
        except (ImportError, NotImplementedError) as error:
            self._failure = f"psutil does not load: {error}"
            self._library = None
        self.sample()

    @guarded
    def sample(self) -> None:
        """Take a reading."""
        if self._library is None or self._pid != os.getpid():
            return
        with self._sampling:
            notes: set[str] = set()
            self._walk()
            seen, resident = self._look(notes)
            spent = _spent(self._times, seen) if self._times else 0
            if not self._times and self._failure != NOT_STARTED:
                notes.add(LATE)
            self._times = seen
        with self._handover:
            self._failure = ""
            self._cpu_ns += spent
            self._now_bytes = resident
            self._peak_bytes = max(self._peak_bytes, resident)
            self._notes |= notes

    def on_failure(self, error: Exception) -> None:
        """Say why the last reading is missing; the next one makes up for it."""
        words = " ".join(str(error).split()) or type(error).__name__
        self._failure = f"the host's usage could not be read: {words}"

    def read(self) -> HostUsage:
        """Return what was used between the last reading before the last `read` and the last reading of all.

        Units: those of `HostUsage`.
        Basis: `measured`, by the system's own clock ticks (10 ms on Linux).
        Is not: what happens in processes that have left the tree, and the most memory between two readings. Pages
        that several processes share are counted in each.
        """
        if self._pid and self._pid != os.getpid():  # first: the fork may have copied a lock that is taken
            return HostUsage(note=FORKED)
        with self._handover:
            if self._failure:
                return HostUsage(note=self._failure)
            usage = HostUsage(
                cpu_ns=self._cpu_ns,
                peak_bytes=self._peak_bytes,
                cores=_count_cores(),
                note="; ".join(sorted(self._notes)),
            )
            self._cpu_ns, self._peak_bytes, self._notes = 0, self._now_bytes, set()
            return usage

    def _walk(self) -> None:
        """Find the processes of the tree, now and then."""
        began = self._clock_ns()
        if began < self._walk_after_ns:
            return
        own = self._library.Process()
        found = {}
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(self._library.NoSuchProcess):  # it may end meanwhile
                found[process.pid, process.create_time()] = process
        self._processes = found
        now = self._clock_ns()
        self._walk_after_ns = now + max(WALK_NS, WALK_SHARE * (now - began))

    def _look(self, notes: set[str]) -> tuple[dict[Key, Times], int]:
        """Return the times of the processes that are known, and the bytes that are resident."""
        seen: dict[Key, Times] = {}
        resident = 0
        for key, process in self._processes.items():
            try:
                times = process.cpu_times()
            except self._library.NoSuchProcess:
                continue  # its parent has its time
            except self._library.AccessDenied:
                notes.add(UNREADABLE)
                continue
            own = round((times.user + times.system) * NS_PER_S)
            if own < self._times.get(key, (0, 0))[0]:
                continue  # another process has its number by now
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            seen[key] = (own, round(ended * NS_PER_S))
            # One that has ended and waits to be waited for has times, but no memory.
            with contextlib.suppress(self._library.NoSuchProcess, self._library.AccessDenied):
                resident += process.memory_info().rss
        return seen, resident


def _spent(before: dict[Key, Times], now: dict[Key, Times]) -> int:
    """Return the processor time between two readings of a tree.

    What a process that ended had used comes back in its parent's time for ended children, so it is taken off there;
    unless nobody waited for it, and then what was last seen of it stands.
    """
    own = sum(time - before.get(key, (0, 0))[0] for key, (time, _) in now.items())
    ended = sum(time - before.get(key, (0, 0))[1] for key, (_, time) in now.items())
    known_of_ended = sum(sum(times) for key, times in before.items() if key not in now)
    return max(0, own) + max(0, ended - known_of_ended)


def _count_cores() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # no such call but on Linux
        return os.cpu_count()
