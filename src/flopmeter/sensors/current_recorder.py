"""The recorder that notes what this thread launches past the dispatcher, and how it is kept from noting it twice.

Not here: what is launched (`launches.py` names the files).
"""

from types import TracebackType

import torch

from flopmeter.sensors.guard import guarded
from flopmeter.sensors.launches import is_covered
from flopmeter.sensors.torch_ops import OpRecorder

_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001
_mode_at = torch._C._get_dispatch_stack_at  # noqa: SLF001


def recorder_here() -> OpRecorder | None:
    """Return who notes what this thread launches now; None where nobody counts.

    Within an operator that the dispatcher was asked for there is nobody: the operator was noted, and is priced with all
    that it launches.
    """
    return next(iter(recorders_here()), None)


def recorders_here() -> list[OpRecorder]:
    """Return all who do, where several meter this thread."""
    modes = [_mode_at(index) for index in range(_depth() - 1, -1, -1)]
    return [] if is_covered() else [mode for mode in modes if isinstance(mode, OpRecorder)]


class Silence:
    """Keeps a recorder off the stack of modes for a while; never raises, and lets what is raised within go on."""

    def __init__(self, recorder: OpRecorder) -> None:
        """Prepare."""
        self._recorder = recorder
        self._was_on = False
        self.on_failure = recorder.on_failure

    def __enter__(self) -> None:
        """Take it off."""
        self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put it back, if it was there."""
        self._end()

    @guarded
    def _begin(self) -> None:
        self._was_on = self._recorder.is_on
        self._recorder.switch_off()

    @guarded
    def _end(self) -> None:
        if self._was_on:
            self._recorder.switch_on()
