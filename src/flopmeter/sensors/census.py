"""Census: kernels that a CUDA device ran and that belong to no operator, told now and then by torch's own profiler.

Somebody has to ask for it: while it runs, nobody else can use CUPTI, its start takes seconds, and its end waits for the
device. Some of the passages that are counted run within it; kernels that it finds beside the operators are listed as
uncounted there, and in all passages of that situation that are counted later, so that replayed ones carry them too.
What cannot be judged is left out: a kernel of which no launch was seen, graphs that are replayed, copies, collectives,
and other threads than this one and autograd's. Written without a GPU, and not run on one yet.
A record that ends in another session of the profiler than it began in is written to memory that is free by then, which
ends the process; torch's own label around an optimizer's step does so. Hence labels are not recorded, and whoever
meets another such record takes no census any more.
Not here: when a passage is counted (`replay.py`), who notes launches that are known by name (`launches.py`).
"""

import re
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext, suppress
from itertools import accumulate
from typing import Any, TypeAlias

import torch

from flopmeter.sensors.budget import Budget
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.launches import launched
from flopmeter.sensors.patches import Patches
from flopmeter.sensors.sink import PassageSink
from flopmeter.sensors.situation import Situation
from flopmeter.sensors.torch_ops import OpRecorder

Unowned: TypeAlias = dict[tuple[str, bool], int]
"""Launches by the kernel's name, and whether autograd's engine ran them."""
EVERY_NS, FIRST_NS = 600_000_000_000, 2_000_000_000
"""So long there is no other census of a situation; what the first of all is held to take."""
MAX_SITUATIONS, MAX_NAMES, MAX_LENGTH = 64, 64, 80
NOTED, LAST = "flopmeter::noted", "flopmeter::last"
OTHERS = "cuda::other_kernels"
STRADDLED = "a census of launches would end within a record of torch's profiler: from then on there was none"
YIELDED = "a profiler of the program's own was started: from then on there was no census of launches"
BLIND = "the census of launches was told of no kernel: another program's profiler may hold CUPTI"
_OPERATOR = re.compile(r"(\w+)::[\w.]+")
_LAUNCH = re.compile(r"(cu|hip)\w*Launch\w*Kernel\w*")
_OWN = frozenset(
    {
        *("aten", "prims", "rngprims", "quantized", "_quantized", "inductor", "inductor_prims", "flopmeter"),
        *("c10d", "_c10d_functional", "c10d_functional", "_c10d_functional_autograd", "symm_mem", "fsdp"),
    }
)
"""Torch's own namespaces; of another, an operator was counted only if the recorder was asked for it."""

_CPU = torch._C._autograd.DeviceType.CPU  # noqa: SLF001
_SCOPES = {torch._C._profiler.RecordScope.FUNCTION}  # noqa: SLF001
"""What is recorded: all calls, which end within each other, but no labels (`record_function`), which need not."""


class _Spans:
    """Stretches of time on threads, of which one lies within another or beside it."""

    def __init__(self, records: Iterable[Any]) -> None:
        by_thread: dict[int, list[tuple[int, int]]] = {}
        for record in records:
            begun = record.start_ns()
            by_thread.setdefault(record.device_resource_id(), []).append((begun, begun + record.duration_ns()))
        self._ends = {}
        for thread, spans in by_thread.items():
            begun, ends = zip(*sorted(spans), strict=True)
            self._ends[thread] = begun, list(accumulate(ends, max))

    def knows(self, record: Any) -> bool:
        """Say whether there is any on its thread."""
        return record.device_resource_id() in self._ends

    def hold(self, record: Any) -> bool:
        """Say whether one was open when the record began."""
        begun, ends = self._ends.get(record.device_resource_id(), ((), []))
        at = bisect_right(begun, record.start_ns()) - 1
        return at >= 0 and ends[at] >= record.start_ns()


def list_unowned(events: Collection[Any], met: Collection[str]) -> Unowned:
    """Return the launches of kernels that no operator asked for; `met` are operators that a recorder was asked for.

    A kernel goes by its launch, which has its correlation id, and by the innermost record that torch linked it to.
    """
    host = [event for event in events if event.device_type() == _CPU]
    launches = {event.correlation_id(): event for event in host if _LAUNCH.fullmatch(event.name())}
    records = [event for event in host if not event.name().startswith(("cu", "hip"))]
    by_id = {record.correlation_id(): record for record in records}
    owners = _Spans(record for record in records if _is_owner(record, met))
    engine = _Spans(record for record in records if record.name().startswith("autograd::engine::"))
    found: Unowned = {}
    for event in events:
        launch = launches.get(event.correlation_id()) if event.device_type() != _CPU else None
        if launch is None or event.is_user_annotation() or event.name().startswith("nccl"):
            continue
        linked = by_id.get(event.linked_correlation_id())
        places = [one for one in (launch, linked) if one is not None and (owners.knows(one) or engine.knows(one))]
        if places and not any(map(owners.hold, places)):
            key = name_kernel(event.name()), any(map(engine.hold, places))
            if key not in found and len(found) >= MAX_NAMES:
                key = OTHERS, key[1]
            found[key] = found.get(key, 0) + 1
    return found


def _is_owner(record: Any, met: Collection[str]) -> bool:
    name, operator = record.name(), _OPERATOR.fullmatch(record.name())
    if operator is None or record.scope() != 0:  # a label, and one that torch puts around each region
        return bool(name.startswith("## Call CompiledFxGraph"))
    return operator[1] in _OWN or name in met


def name_kernel(name: str) -> str:
    """Return what the launches of a kernel are listed as: its name without arguments, be they of templates or not."""
    plain = name.replace("(anonymous namespace)::", "").removeprefix("void ").partition("<")[0].partition("(")[0]
    return "cuda::" + (re.sub(r"[^\w.]+", "_", plain.strip().replace("::", "."))[:MAX_LENGTH] or "kernel")


def has_straddled(events: Collection[Any]) -> bool:
    """Say whether a record had not ended when the last one of this census, `LAST`, was written."""
    host = [event for event in events if event.device_type() == _CPU and not event.name().startswith(("cu", "hip"))]
    last = max((event.start_ns() for event in host if event.name() == LAST), default=None)
    return last is not None and any(
        event.name() != LAST and event.start_ns() <= last < event.start_ns() + event.duration_ns() for event in host
    )


def has_unfinished(tree: Iterable[Any]) -> bool:
    """Say whether a record of a tree has no end."""
    nodes = list(tree)
    while nodes:
        node = nodes.pop()
        if node.end_time_ns < node.start_time_ns:
            return True
        nodes.extend(node.children)
    return False


def _make_profiler() -> Any:
    return torch.autograd.profiler.profile(use_device="cuda", use_kineto=True)


class Census:
    """Has a passage run within torch's profiler, now and then; nothing before `start`, nothing after a failure."""

    def __init__(self, sink: PassageSink, phase_now: Callable[[], str], budget: Budget) -> None:
        """Prepare."""
        self._sink = sink
        self._phase_now = phase_now
        self._budget = budget
        self._make: Callable[[], Any] = _make_profiler
        self._is_on = self._is_starting = self._was_taken = self._has_seen = False
        self._thread, self._begun_ns, self._cost_ns = 0, 0, FIRST_NS
        self._profiler: Any = None
        self._patches = Patches()
        self._last: dict[Situation, int] = {}
        self._found: dict[Situation, Mapping[tuple[str, str], int]] = {}
        self._phase = ""

    def start(self) -> None:
        """Take a census from now on, on this thread, until somebody else starts a profiler."""
        self._is_on, self._thread = True, threading.get_ident()
        self._patches.put(torch.autograd.profiler, "_prepare_profiler", self._stand_in)
        self._patches.put(torch.autograd.profiler, "_enable_profiler", lambda of: self._stand_in(of, scopes=_SCOPES))

    def on_failure(self, error: Exception) -> None:
        """Hear of a failure of ours: there is no census any more, and all else goes on."""
        self._let_go()
        self._sink.sensor_failed(error, ns=0)

    @guarded
    def begin(self, situation: Situation) -> None:
        """Hear that a passage begins that is counted: it may be one to look at."""
        if self._profiler is not None:  # something kept its passage from its end
            self._finish()
        if not self._is_on:
            return
        self._phase, now = self._phase_now(), time.perf_counter_ns()
        if not self._is_due(situation, now):
            return
        self._last[situation] = now
        self._is_starting = True
        self._profiler = self._make()
        self._profiler.__enter__()
        self._is_starting, self._was_taken = False, True
        launched.span = _note
        with _note():  # so that this thread is known
            self._begun_ns = time.perf_counter_ns() - now

    def _is_due(self, situation: Situation, now: int) -> bool:
        last = self._last.get(situation, 0 if len(self._last) < MAX_SITUATIONS else now)
        if (last and now - last < EVERY_NS) or not _is_usable():
            return False
        if torch._C._autograd._profiler_enabled() or torch.autograd.profiler._is_profiler_enabled:  # noqa: SLF001
            return False
        return self._budget.can_afford(self._cost_ns // self._budget.call_ns)

    @guarded
    def end(self, situation: Situation, recorder: OpRecorder) -> None:
        """Hear that it ends: note there what this census, or the last one of its situation, has found."""
        if self._profiler is not None:
            now = time.perf_counter_ns()
            events = self._finish()
            self._has_seen = self._has_seen or any(_LAUNCH.fullmatch(event.name()) for event in events)
            found = list_unowned(events, recorder.names)
            self._found[situation] = {
                (name, "backward" if is_backward else self._phase): times
                for (name, is_backward), times in found.items()
            }
            self._cost_ns = self._begun_ns + time.perf_counter_ns() - now
        for (name, phase), times in self._found.get(situation, {}).items():
            recorder.add((name, phase, (), (), (), "", ()), times=times)

    def stop(self) -> None:
        """Put everything back; twice is fine."""
        if self._is_on and self._was_taken and not self._has_seen:
            self._sink.passage_lost(reason=BLIND, ns=0)
        self._let_go()

    def _finish(self) -> Collection[Any]:
        profiler, launched.span = self._profiler, nullcontext
        if not (self._is_on and _is_usable()):
            profiler.use_device = None  # it would wait for the device, which ends a capture
        with _note(LAST):
            pass
        profiler.__exit__(None, None, None)
        self._profiler = None
        events: Collection[Any] = profiler.kineto_results.events()
        # Torch 2.9 leaves what has not ended out of its events, and keeps it in their tree.
        tree = getattr(profiler.kineto_results, "experimental_event_tree", list)
        if self._is_on and (has_straddled(events) or has_unfinished(tree())):
            self._is_on = False
            self._sink.passage_lost(reason=STRADDLED, ns=0)
        return events

    def _let_go(self) -> None:
        self._is_on = self._is_starting = False
        self._patches.take_back()
        if self._profiler is not None:
            with suppress(RuntimeError, AttributeError):  # torch's own, where it never began, or has ended
                self._finish()
            self._profiler = None
            with suppress(AttributeError):  # if it failed at its start, torch takes it to be on
                torch.autograd.profiler._run_on_profiler_stop()  # noqa: SLF001

    def _stand_in(self, original: Callable[..., Any], **ours: Any) -> Callable[..., Any]:
        """Stand for one that starts a profiler: it gets `ours` too if it is this one, which else gives way."""

        def start_profiler(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                if self._is_starting:
                    return original(*args, **kwargs, **ours)
                self._yield()
            return original(*args, **kwargs)

        return start_profiler

    @guarded
    def _yield(self) -> None:
        if self._is_on:
            self._let_go()
            self._sink.passage_lost(reason=YIELDED, ns=0)


def _is_usable() -> bool:
    return torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing()


def _note(name: str = NOTED) -> Any:
    return torch._C._profiler._RecordFunctionFast(name)  # noqa: SLF001
