"""What bypasses torch's dispatcher, all of it together: what is put into torch and libraries while somebody meters.

Libraries are shared by the whole process: so there is one watch, and all is put back when nobody meters any more.
Not here: graphs (`captured.py`), compiled regions (`regions.py`), extensions (`extensions.py`), Triton
(`triton_kernels.py`).
"""

import threading
from collections.abc import Sequence
from types import ModuleType

from flopmeter.sensors.arrivals import Arrivals
from flopmeter.sensors.captured import CaptureWatch, PhasesOnly, User
from flopmeter.sensors.extensions import EXTENSIONS, GRAPH_MAKERS, PACKAGES, stand_in
from flopmeter.sensors.hook import BoundaryHook
from flopmeter.sensors.patches import Patches
from flopmeter.sensors.regions import MODULE, region_watch
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.sensors.triton_kernels import LAUNCHERS, hear_triton, stop_hearing_triton


class Listening:
    """Stands for one who listens, until it is removed; twice is fine."""

    def __init__(self, watch: "BypassWatch") -> None:
        """Remember who is listening for us."""
        self._watch = watch

    def remove(self) -> None:
        """Listen no more."""
        self._watch.stop_listening(self)


class BypassWatch:
    """Stands in for what is known to run kernels by itself."""

    def __init__(self) -> None:
        """Stand in for nothing yet."""
        self._patches = Patches()
        self._captures = CaptureWatch()
        awaited = (*LAUNCHERS, *EXTENSIONS, *GRAPH_MAKERS, *PACKAGES, MODULE)
        self._arrivals = Arrivals(awaited, self._arrived, self._captures.on_failure)

    def listen(self, hooks: Sequence[BoundaryHook], phase: PhaseTracker, recorder: OpRecorder) -> Listening:
        """Listen for somebody who meters this thread with such recorders, and whose boundaries have these hooks."""
        listening, is_first = Listening(self), not self._captures.users
        self._captures.users[id(listening)] = User(
            threading.get_ident(),
            lambda: OpRecorder(phase.now, recorder.on_failure, recorder.book),
            PhasesOnly(phase, hooks),
            recorder.on_failure,
        )
        region_watch.listen(id(listening), recorder.on_failure)
        if is_first:
            self._captures.start(self._patches)
            self._arrivals.start()
        return listening

    def stop_listening(self, listening: Listening) -> None:
        """Put everything back, once nobody listens."""
        region_watch.stop_listening(id(listening))
        if self._captures.users.pop(id(listening), None) is None or self._captures.users:
            return
        self._arrivals.stop()
        self._captures.stop()
        stop_hearing_triton()
        self._patches.take_back()

    def _arrived(self, name: str, module: ModuleType) -> None:
        if name == MODULE:
            region_watch.look()
        elif name in LAUNCHERS:
            hear_triton(self._patches, name, module)
        else:
            stand_in(self._patches, name, module)


bypass_watch = BypassWatch()
