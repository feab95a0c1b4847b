"""CUDA graphs: what a graph captured is noted once, and added at each replay of it.

While a graph is captured nothing runs; calls are told all the same, so a recorder of its own takes them down, and the
passage that is open goes on without them. The dispatcher is not asked when a graph is replayed, so its methods are.
Torch's own users of graphs (`torch.cuda.graph`, `make_graphed_callables`, Inductor's trees) call the same methods.
On a CPU this was tested with a stand-in for the graph; `tests/gpu/test_graphs.py` tests it on a device.
Not here: graphs of compiled regions whose every call is counted already (`launches.covered`), and captures that do not
go through `torch.cuda.CUDAGraph`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import ref

import torch

from flopmeter.sensors.current_recorder import recorder_here
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.hook import BoundaryHook, hide_from_dynamo
from flopmeter.sensors.launches import is_covered, launched, number_launch
from flopmeter.sensors.patches import Patches
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.sensors.values import Late

UNKNOWN = "cuda_graph::captured_before"
"""What replays of a graph are listed as, uncounted, whose capture nobody saw."""
_VAGUE = ("forward", "other")
"""Phases that say little of a capture: a module is captured outside of its forward, and replayed anywhere."""
_depth = torch._C._len_torch_dispatch_stack  # noqa: SLF001


class User(NamedTuple):
    """Who meters: on which thread, with what recorders, and what its boundaries do while nothing runs."""

    thread: int
    make: Callable[[], OpRecorder]
    phases: "PhasesOnly"
    on_failure: Callable[[Exception], None]


class PhasesOnly:
    """Has the hooks at the boundaries tell phases alone for a while: what is captured begins and ends no passage.

    `hooks` are those of a forward's begin and end, and of an optimizer's step.
    """

    def __init__(self, phase: PhaseTracker, hooks: Sequence[BoundaryHook]) -> None:
        """Prepare."""
        self._phase = phase
        self._hooks = tuple(hooks)
        self._before: tuple[Any, ...] | None = None

    def begin(self) -> None:
        """Put the hooks aside."""
        if self._before is not None:
            return
        phase = self._phase
        self._before = [hook.call for hook in self._hooks], list(phase.forwards), phase.optimizer_task
        calls = (phase.enter_forward, phase.leave_forward, phase.enter_optimizer, phase.leave_optimizer)
        for hook, call in zip(self._hooks, calls, strict=True):
            hook.call = _without_arguments(call)

    def end(self) -> None:
        """Put them back, and the phase that was on."""
        before, self._before = self._before, None
        if before is None:
            return
        calls, self._phase.forwards[:], self._phase.optimizer_task = before
        for hook, call in zip(self._hooks, calls, strict=True):
            hook.call = call


class Captured(NamedTuple):
    """The calls of one graph, and what a replay of it adds to the witness; no calls where nobody saw its capture."""

    launch_number: int
    calls: Mapping[Key, int] | None = None
    has_values: bool = False
    late: Sequence[Late] = ()


class _Capture(NamedTuple):
    """A capture that goes on: who notes it, who noted before, and whose boundaries are put aside."""

    recorder: OpRecorder
    outer: OpRecorder | None
    phases: PhasesOnly | None


class CaptureWatch:
    """Hears of captures and replays in this process while somebody meters."""

    def __init__(self) -> None:
        """Know no graph."""
        self.users: dict[int, User] = {}
        self._graphs: dict[int, tuple[ref[Any], Captured]] = {}  # by their ids
        self._open: dict[int, _Capture] = {}
        self._taken: dict[int, Captured] = {}
        self._numbered = 0
        self._replays: Any = None
        hide_from_dynamo(CaptureWatch.replayed)

    def start(self, patches: Patches) -> None:
        """Stand in for the methods of graphs, and for what refuses modules with hooks on them."""
        graphs = torch.cuda.graphs
        kind = graphs.CUDAGraph
        patches.put(kind, "capture_begin", self._stand_in_for_begin)
        # Since torch 2.14 a capture may also be ended by hand, in two calls of which this is the first.
        ends = "capture_end_pre" if "capture_end_pre" in vars(kind) else "capture_end"
        patches.put(kind, ends, self._stand_in_for_end)
        patches.put(kind, "reset", self._stand_in_for_reset)
        register = getattr(graphs, "register_graph_replay_end_hook", None)  # since torch 2.14
        if register is None:
            patches.put(kind, "replay", self._stand_in_for_replay)
        else:
            self._replays = register(self.replayed)
        for owner in (graphs, torch.cuda):
            patches.put(owner, "make_graphed_callables", without_hooks)

    def stop(self) -> None:
        """Forget all graphs: what they are replayed as, once somebody meters again, nobody will have seen."""
        for capture in self._open.values():
            self._close(capture)
        self._open.clear()
        self._taken.clear()
        self._graphs.clear()
        if self._replays is not None:
            self._replays.remove()
            self._replays = None

    def on_failure(self, error: Exception) -> None:
        """Hear of a failure of ours: whoever meters does, too."""
        for user in tuple(self.users.values()):
            user.on_failure(error)

    @guarded
    def begin(self, graph: Any) -> None:
        """Note from now on what this thread calls as calls of the graph."""
        self._end_open(graph)
        user = self._find_user()
        if user is None or is_covered():
            return
        outer, is_theirs = recorder_here(), user.thread == threading.get_ident()
        capture = self._open[id(graph)] = _Capture(user.make(), outer, user.phases if is_theirs else None)
        if capture.phases is not None:
            capture.phases.begin()
        if outer is not None:
            outer.switch_off()
        capture.recorder.switch_on()

    @guarded
    def end(self, graph: Any) -> None:
        """Take what was noted; it is kept once torch has the graph (`keep`)."""
        capture = self._end_open(graph)
        if capture is not None:
            recorder = capture.recorder
            late, has_values = tuple(recorder.late), recorder.has_values
            self._taken[id(graph)] = Captured(self._next_number(), recorder.take(), has_values, late)

    @guarded
    def keep(self, graph: Any) -> None:
        """Keep what was taken: the capture has not failed."""
        taken = self._taken.pop(id(graph), None)
        if taken is not None:
            self._remember(graph, taken)

    @guarded
    def forget(self, graph: Any) -> None:
        """Take it that the graph holds nothing any more."""
        self._taken.pop(id(graph), None)
        self._graphs.pop(id(graph), None)

    def replayed(self, graph: Any) -> None:
        """Add what the graph holds to the witness and, where somebody counts, to what is noted."""
        known = self._graphs.get(id(graph))
        if known is not None and known[0]() is graph:
            launched.total += known[1].launch_number
            if _depth():
                self._note_replay(known[1])
        else:
            self._meet(graph)

    @guarded
    def _meet(self, graph: Any) -> None:
        captured = self._remember(graph, Captured(self._next_number()))
        launched.total += captured.launch_number
        self._note_replay(captured)

    @guarded
    def _note_replay(self, captured: Captured) -> None:
        recorder = recorder_here()
        if recorder is None:
            return
        recorder.note_bypass(lambda phase, inside: _calls_of(captured, phase, inside))
        recorder.has_values |= captured.has_values
        recorder.late += captured.late

    def _remember(self, graph: Any, captured: Captured) -> Captured:
        key, graphs = id(graph), self._graphs
        graphs[key] = ref(graph, lambda _: graphs.pop(key, None)), captured
        return captured

    def _find_user(self) -> User | None:
        here = threading.get_ident()
        users = list(self.users.values())
        return next((user for user in users if user.thread == here), users[-1] if users else None)

    def _next_number(self) -> int:
        self._numbered += 1
        return number_launch(f"cuda graph {self._numbered}")

    def _end_open(self, graph: Any) -> _Capture | None:
        capture = self._open.pop(id(graph), None)
        if capture is not None:
            self._close(capture)
        return capture

    def _close(self, capture: _Capture) -> None:
        capture.recorder.switch_off()
        if capture.phases is not None:
            capture.phases.end()
        if capture.outer is not None:
            capture.outer.switch_on()

    def _stand_in_for_begin(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def capture_begin(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.forget(graph)
            out = original(graph, *args, **kwargs)
            self.begin(graph)
            return out

        return capture_begin

    def _stand_in_for_end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def capture_end(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.end(graph)
            out = original(graph, *args, **kwargs)  # raises where the capture has failed
            self.keep(graph)
            return out

        return capture_end

    def _stand_in_for_replay(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def replay(graph: Any, *args: Any, **kwargs: Any) -> Any:
            out = original(graph, *args, **kwargs)
            self.replayed(graph)
            return out

        return replay

    def _stand_in_for_reset(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def reset(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.forget(graph)
            return original(graph, *args, **kwargs)

        return reset


def without_hooks(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes graphs of modules, with our hooks off them: torch refuses modules with hooks."""

    def make_graphed_callables(callables: Any, *args: Any, **kwargs: Any) -> Any:
        with _hooks_off(callables if isinstance(callables, tuple | list) else (callables,)):
            return original(callables, *args, **kwargs)

    return make_graphed_callables


@contextmanager
def _hooks_off(callables: Sequence[Any]) -> Iterator[None]:
    taken: list[tuple[Any, int, BoundaryHook]] = []
    for module in callables:
        for hooks in (getattr(module, "_forward_pre_hooks", {}), getattr(module, "_forward_hooks", {})):
            taken += [(hooks, key, hook) for key, hook in hooks.items() if isinstance(hook, BoundaryHook)]
    for hooks, key, _ in taken:
        del hooks[key]
    try:
        yield
    finally:
        for hooks, key, hook in taken:
            hooks[key] = hook
            hooks.move_to_end(key, last=False)


def _without_arguments(call: Callable[[], None]) -> Callable[..., None]:
    return lambda *_args: call()


def _calls_of(captured: Captured, phase: str, inside: tuple[str, ...]) -> Mapping[Key, int]:
    """Return the calls of a replay in this phase: where the capture's own says little, they are of this one."""
    if captured.calls is None:
        return {(UNKNOWN, phase, (), (), (), "", inside): 1}
    calls: dict[Key, int] = {}
    for (func, own, *rest, within), times in captured.calls.items():
        is_vague = own in _VAGUE and phase != "other"
        key = (func, phase if is_vague else own, *rest, (*inside, *within))
        calls[key] = calls.get(key, 0) + times
    return calls
