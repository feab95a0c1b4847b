"""Threads that start while a passage is counted are counted with it; one that outlives it is a gap with a name.

Torch's modes are each thread's own, so a new thread has none. Python tells of each thread that `threading` starts;
those that other code starts are not heard of. Not here: what an operator call is noted as (`torch_ops.py`).
"""

import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from flopmeter.sensors.shadows import Key
from flopmeter.sensors.torch_ops import OpRecorder

OUTLIVED = "a thread that began while a passage was counted ran on after it: what it ran then is not known"


class Gathered(NamedTuple):
    """What is known of threads at a passage's end: all are done; values inside tensors decided a cost."""

    is_done: bool
    has_values: bool


class _Leave:
    """Takes a recorder off its thread's stack when the thread ends.

    Else torch lets go of the mode after Python is done with the thread, and has to take the interpreter's lock for it:
    a process that ends just then is aborted.
    """

    def __init__(self, recorder: OpRecorder) -> None:
        self._recorder = recorder

    def __del__(self) -> None:
        """Run in the thread that ends: nobody else holds this."""
        self._recorder.switch_off()


class ThreadWatch:
    """Puts a recorder into each new thread while `follow` is on.

    `make` makes a recorder. Whoever else asked Python to be told of new threads is told as before.
    """

    def __init__(self, make: Callable[[], OpRecorder], on_latecomer: Callable[[], None]) -> None:
        """Prepare; nothing is hooked before `start`. `on_latecomer` hears of a thread that goes on to run operators."""
        self._make = make
        self._on_latecomer = on_latecomer
        self._before: Any = None
        self._is_following = False
        self._followed: list[tuple[threading.Thread, OpRecorder]] = []
        self._own = threading.local()

    def start(self) -> None:
        """Ask to be told of new threads."""
        self._before = threading.getprofile()
        threading.setprofile(self._thread_begins)

    def stop(self) -> None:
        """Ask no more, unless somebody has put themselves into our place."""
        if threading.getprofile() == self._thread_begins:
            threading.setprofile(self._before)
        self._is_following = False

    def follow(self) -> None:
        """Note from now on what new threads run."""
        self._is_following = True

    def gather(self, calls: dict[Key, int]) -> "Gathered":
        """Add to `calls` what the threads ran since `follow`, and follow no more."""
        self._is_following = False
        if not self._followed:
            return Gathered(is_done=True, has_values=False)
        followed, self._followed = self._followed, []
        is_done = not any(thread.is_alive() and recorder.seen for thread, recorder in followed)
        has_values = any(recorder.has_values or recorder.late for _, recorder in followed)
        for _, recorder in followed:
            for key, times in recorder.take().items():
                calls[key] = calls.get(key, 0) + times
            recorder.retire(self._on_latecomer)
        return Gathered(is_done=is_done, has_values=has_values)

    def _thread_begins(self, frame: Any, event: str, arg: Any) -> None:
        """Take the first event of a new thread, and leave it to whoever was there before."""
        sys.setprofile(self._before)
        if self._before is not None:
            self._before(frame, event, arg)
        if self._is_following:
            recorder = self._make()
            recorder.switch_on()
            self._own.leave = _Leave(recorder)
            self._followed.append((threading.current_thread(), recorder))
