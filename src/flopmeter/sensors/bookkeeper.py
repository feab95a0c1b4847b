"""Bookkeeper: one passage after the other begins, ends, and is booked.

Between `begin` and `end` lies the passage that is open; there is one at any time while the sensor runs.
Not here: where the boundaries are (`passage.py`), what is decided (`replay.py`), what is noted (`torch_ops.py`).
"""

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Any, NamedTuple, Protocol

import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.allocator import device_marks, marks_between
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.draws import Draws
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.kinship import Booking, Verdict
from flopmeter.sensors.lap import FORWARD_END, OPTIMIZER, Lap, Leg
from flopmeter.sensors.pricing import Pricer
from flopmeter.sensors.replay import Choice, Place, ReplayPlan
from flopmeter.sensors.rota import Change
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.situation import Situation, WatchedModel, WatchedOptimizer, Witness, count_nodes
from flopmeter.sensors.threads import OUTLIVED, ThreadWatch
from flopmeter.sensors.torch_ops import OpRecorder, is_heard
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.sensors.values import Waiting
from flopmeter.sensors.variant import Variant

SETTLE_NS = 1_000_000_000
"""What ran is booked once this long has passed; until then it is added up where it costs next to nothing."""
MAX_GRAPHS = 8
MAX_LEGS = 256
"""A step of more passages than this is never expected to go on as the last one did."""
_NONE: tuple[int, ...] = ()
BETWEEN, OPTIMIZER_END = "between", "optimizer-end"
INTERRUPTED = "an interrupt came between the end of one passage and the beginning of the next"
LIFTED = "something took the counter off torch's stack of modes"
UNKNOWN = "a passage was neither counted nor known: it was new, and counting it was beyond the overhead budget"


class PassageSink(Protocol):
    """What the meter offers the sensor."""

    def passages_ran(self, booking: Booking) -> None:
        """Take passages that ran."""

    def passage_audited(self, verdict: Verdict) -> None:
        """Hear of a passage that was counted by chance, or that showed others to be wrong."""

    def passages_doubted(self, table: str) -> None:
        """Hear that passages were booked at a table that may not have been theirs."""

    def passage_lost(self, *, reason: str, ns: int | None) -> None:
        """Take note of a passage whose work is not known."""

    def optimizer_steps(self, optimizer_id: int) -> None:
        """Hear that an optimizer is about to step."""

    def sensor_failed(self, error: Exception, *, ns: int | None = None) -> None:
        """Hear of a failure of ours, and how long it hid the work at most; may raise in strict mode."""


@dataclass(slots=True)
class _Open:
    """The passage that is running, the `turn`th of its step. Of one that is known and not counted, `place` says what.

    `alone` is what its own forward was given, without the graphs that were open then.
    """

    situation: Situation
    given: Any
    at: int
    is_trusted: bool
    place: Place | None
    choice: Choice | None
    owner: WatchedModel | WatchedOptimizer | None
    turn: int
    marks: tuple[int, ...]
    reached: tuple[int, ...]
    nodes: int
    started_ns: int
    alone: Any
    inner: int = 0
    failed: str = ""


class _Graph(NamedTuple):
    """A forward that ended before any gradient reached its model."""

    model: WatchedModel | WatchedOptimizer
    reached: tuple[int, ...]
    passage: _Open
    nodes: int


@dataclass(frozen=True, slots=True)
class _Counted:
    """A passage that was counted."""

    choice: Choice
    witness: Witness
    marks: tuple[int, ...]
    ns: int
    seen: int
    is_fixed: bool


class Bookkeeper:
    """Books the passages of one thread."""

    def __init__(
        self, sink: PassageSink, phase: PhaseTracker, *, book: FormulaBook, exact: bool, budget: float, seed: int
    ) -> None:
        """Prepare; no passage is open yet."""
        self._sink = sink
        self._phase = phase
        self.budget = Budget(budget, time.perf_counter_ns)
        self.draws = Draws(seed)
        self._plan = ReplayPlan(budget=self.budget, draws=self.draws, exact=exact)
        self.recorder = OpRecorder(phase.now, self.on_failure, book)
        self._threads = ThreadWatch(
            lambda: OpRecorder(phase.now, self.on_failure, book),
            lambda: sink.passage_lost(reason=OUTLIVED, ns=None),
        )
        self._late: Waiting[_Counted] = Waiting()
        self._pricer = Pricer(book, lambda error: sink.sensor_failed(error, ns=self._ending_ns))
        self._open: _Open | None = None
        self._ending_ns: int | None = None
        self._closed_ns: int | None = None  # since when no passage is open
        self._settled_ns = 0
        self._was_on = self._was_on_before = False  # in the last passage; in that before a forward or a step
        self._has_cuda = torch.cuda.is_initialized()
        self._is_wanted = False  # that the mode is on between passages: what follows in an inference mode is unknown
        self._graphs: list[_Graph] = []
        self.lap: Lap | None = None  # while it is on, its open leg is the open passage
        self._parked: Lap | None = None  # one that was just left, and may go on with the next passage
        self._trail: list[Leg] | None = None  # the passages of this step, while all of them are known
        self._last_trail: list[Leg] = []

    @property
    def is_running(self) -> bool:
        """Whether a passage is open, or one was closed and none was opened after it."""
        return self.lap is not None or self._open is not None or self._closed_ns is not None

    @property
    def is_between(self) -> bool:
        """Whether the open passage is one that runs between others."""
        if self.lap is not None:
            return self.lap.leg.owner is None
        return self._open is not None and self._open.situation[0] == BETWEEN

    @property
    def _is_counting(self) -> bool:
        return self._open is not None and self._open.choice is not None and self._open.choice.is_counted

    def start(self) -> None:
        """Open the first passage."""
        self._threads.start()
        self.begin_between("start")

    def stop(self) -> None:
        """Let go of the stack of modes, and of new threads."""
        self._closed_ns = None
        self.recorder.retire()
        if self._was_on and torch.is_inference_mode_enabled():
            self.recorder.switch_on()  # retired, it lets calls through; the end of this mode wants somebody there
        self._threads.stop()

    def leave(self) -> None:
        """Step off the stack of a forked child: what is open there is its parent's."""
        self.recorder.switch_off()
        self._open = self.lap = self._parked = None

    def on_failure(self, error: Exception) -> None:
        """Mark the running passage as not fully known, and tell the meter; the passage's end tells how long it was."""
        self.leave_lap()
        if self._open is None:
            self._sink.sensor_failed(error, ns=self._ending_ns)
            return
        is_first, self._open.failed = not self._open.failed, f"{type(error).__name__}: {error}"
        if is_first:
            self._sink.sensor_failed(error, ns=0)

    def note_inner(self, situation: Situation) -> None:
        """Note that something with a situation of its own ran inside the open passage."""
        self.leave_lap()
        if self._open is not None:
            self._open.inner = hash((self._open.inner, situation))

    def note_region(self, name: str, outs: Sequence[torch.Tensor]) -> None:
        """Note work in the open passage whose inside is not seen."""
        if self._is_counting:
            self.recorder.note_region(name, outs)

    def begin_between(self, after: str) -> None:
        """Open a passage of what runs between others: nothing tells one from another.

        The end of `torch.inference_mode` puts back what its beginning found, the hook's key with it. So the mode has
        to be on the stack there if it was before, and must not if it was not.
        """
        is_counted = True if self._is_wanted else None
        if torch.is_inference_mode_enabled():
            is_counted = self._was_on_before if after in (FORWARD_END, OPTIMIZER_END) else self._was_on
            self._is_wanted = not (is_counted or self._plan.is_known((BETWEEN, after), ()))
        self.begin((BETWEEN, after), (), 0, is_trusted=False, is_counted=is_counted)

    def begin(
        self,
        situation: Situation,
        given: Any,
        at: int,
        *,
        is_trusted: bool,
        owner: WatchedModel | WatchedOptimizer | None = None,
        is_counted: bool | None = None,
    ) -> None:
        """Open a passage; `is_counted` takes the choice away whether it is counted."""
        self.draws.at += 1
        alone = given
        if situation[0] != BETWEEN:
            self._was_on_before = self._was_on
        if owner is not None and self._graphs and given is not None:
            given = (given, self._open_graphs())
        place = self._plan.pass_by(situation, given, at) if is_counted is None else None
        choice, failed = None, ""
        if place is None:
            choice = self._plan.begin(situation, given, at, is_trusted=is_trusted)
            if is_counted is not None:
                choice = choice._replace(is_counted=is_counted, is_drawn=False)
            if choice.is_counted:
                failed = "" if self.recorder.switch_on() else LIFTED
                self.recorder.take()  # what was noted between passages belongs to none
                self._threads.follow()
        marks = device_marks() if self._has_cuda and situation[0] != BETWEEN else ()
        if self._goes_on(place, marks):
            self._closed_ns = None
            return
        self._open = _Open(
            situation,
            given,
            at,
            is_trusted,
            place,
            choice,
            owner,
            self.draws.at,
            marks,
            tuple(owner.reached) if owner is not None else (),
            count_nodes(),
            time.perf_counter_ns(),
            alone,
            failed=failed,
        )
        self._closed_ns = None

    def _goes_on(self, place: Place | None, marks: tuple[int, ...]) -> bool:
        """Say whether the passage that begins is a leg of a lap: of the one that was just left, or of a new one."""
        lap, self._parked = self._parked, None
        if self.draws.at == 1:
            trail, self._trail = self._trail, []
            if lap is None and trail:
                if Lap.can_be(trail, self._last_trail):
                    lap = Lap(trail, self.draws)
                self._last_trail = trail
        if lap is None or place is None or self.budget.is_ample:
            return False  # with time to spare, models are looked at each time
        now = time.perf_counter_ns()
        if lap.resume(place, now, marks=marks, due_ns=self._settled_ns + SETTLE_NS):
            self.lap, self._trail = lap, None
            return True
        return False

    def look_at_lap(self) -> None:
        """Keep for the books what ran in the lap that is on; leave it where something was not as expected."""
        if self.lap is not None and not self._settle_lap(self.lap):
            self.leave_lap()
            self._parked = None

    def leave_lap(self) -> None:
        """Where a lap is on, let its open leg be the open passage as any other, and keep what ran for the books."""
        lap, self.lap = self.lap, None
        if lap is None:
            return
        self._parked = lap if self._settle_lap(lap) else None
        leg = lap.leg
        started_ns, nodes, reached, marks = lap.opened
        self._plan.reopen(leg.place)
        self._open = _Open(
            leg.situation,
            leg.given,
            leg.at,
            leg.is_trusted,
            leg.place,
            None,
            leg.owner,
            leg.turn,
            marks,
            reached,
            nodes,
            started_ns,
            leg.given,
        )
        self._was_on = self._was_on_before = False
        self._phase.optimizer_task = -1 if leg.kind == OPTIMIZER else None

    def _settle_lap(self, lap: Lap) -> bool:
        """Keep for the books what ran; say whether all of it was as expected."""
        ns = lap.taped_ns
        strange = lap.settle()
        if strange is None:
            self._sink.passage_lost(reason=INTERRUPTED, ns=ns)
            return False
        for leg in lap.legs:
            if leg.times:
                self._plan.wait_for(leg.place, leg.variant, leg.take(), usual_ns=leg.usual_ns)
        for leg, nodes, reached, marks, ns in strange:
            self._plan.reopen(leg.place)
            choice = Choice(leg.situation, leg.given, leg.at, leg.is_trusted, is_counted=False, place=leg.place)
            ended_by = "" if leg.owner is None else "meter" if leg.following.kind == "step" else leg.following.kind
            self._end_uncounted(choice, Witness(nodes, reached, ended_by), marks, ns)
        return not strange

    def leave_trail(self) -> None:
        """Take it that this step is not one that is expected to go on: one watched forward runs inside of another."""
        self.leave_lap()
        self._trail = self._parked = None

    def _follow_trail(self, passage: _Open, variant: Variant, seen: tuple[Any, ...], marks: tuple[int, ...]) -> None:
        """Note a passage that was told and not counted; two steps of the same ones make a lap."""
        trail, situation, place = self._trail, passage.situation, passage.place
        if trail is None or place is None:
            return
        nodes, reached, _, inner = seen
        is_odd = inner or self._graphs or passage.given is None or (marks and marks != variant.marks)
        if is_odd or len(trail) >= MAX_LEGS:
            self._trail = None
            return
        trail.append(
            Leg(
                situation[1] if situation[0] == BETWEEN else situation[0],
                passage.owner,
                situation,
                passage.given,
                passage.at,
                passage.turn,
                is_trusted=passage.is_trusted,
                place=place,
                variant=variant,
                nodes=nodes,
                reached=reached,
                has_marks=bool(marks),
            )
        )

    def end(self, ended_by: str, now: int = 0) -> None:
        """Close the open passage and book it."""
        self.leave_lap()
        now = now or time.perf_counter_ns()
        (passage, self._open), closed_ns, self._closed_ns = (self._open, None), self._closed_ns, now
        if passage is None:
            if closed_ns is not None:
                self._sink.passage_lost(reason=INTERRUPTED, ns=now - closed_ns)
            return
        ns = self._ending_ns = now - passage.started_ns
        choice = passage.choice
        self._was_on = choice is not None and choice.is_counted
        try:
            self._end(passage, choice, "" if passage.situation[0] == BETWEEN else ended_by, ns)
            if now - self._settled_ns > SETTLE_NS:
                self._settled_ns = now
                self.book_waiting()
                self.budget.weigh_hooks(now)
                self._has_cuda = torch.cuda.is_initialized()
        except Exception:
            raise  # `guarded` hears of it
        except BaseException:  # an interrupt in our own code: what was not booked must not be missing silently
            self._sink.passage_lost(reason=INTERRUPTED, ns=ns)
            raise
        self._ending_ns = None

    def _end(self, passage: _Open, choice: Choice | None, ended_by: str, ns: int) -> None:
        nodes, owner, place, reached = count_nodes() - passage.nodes, passage.owner, passage.place, _NONE
        if owner is not None:
            reached = tuple(map(sub, owner.reached, passage.reached))
            if reached and nodes and not any(reached):
                self._graphs = [*self._graphs[1 - MAX_GRAPHS :], _Graph(owner, tuple(owner.reached), passage, nodes)]
        marks = marks_between(passage.marks, device_marks()) if passage.marks else _NONE
        seen = (nodes, reached, ended_by, passage.inner)
        if place is not None and not passage.failed:
            variant = self._plan.wait(place, seen, ns, marks)
            if variant is not None:
                self._follow_trail(passage, variant, seen, marks)
                return
        self._trail = self._parked = None
        if choice is not None and choice.is_counted:
            self.settle_late()
            self._take_counted(passage, choice, Witness(*seen), marks, ns)
            return
        if passage.failed:
            self._sink.passage_lost(reason=passage.failed, ns=ns)
        if choice is None:
            choice = Choice(
                passage.situation, passage.given, passage.at, passage.is_trusted, is_counted=False, place=place
            )
        self._end_uncounted(choice, Witness(*seen), marks, ns)

    def _take_counted(self, passage: _Open, choice: Choice, witness: Witness, marks: tuple[int, ...], ns: int) -> None:
        recorder = self.recorder
        if not (recorder.is_on and is_heard()):
            passage.failed = passage.failed or LIFTED
        late, seen, has_values = recorder.late, recorder.seen, recorder.has_values
        calls = recorder.take()
        recorder.switch_off()
        gathered = self._threads.gather(calls)
        if not gathered.is_done:
            passage.failed = passage.failed or OUTLIVED
        if passage.failed:
            self._sink.passage_lost(reason=passage.failed, ns=ns)
        self.budget.spend(calls=seen)
        is_fixed = not (passage.failed or has_values or gathered.has_values)
        counted = _Counted(choice, witness, marks, ns, seen, is_fixed)
        if late:
            self._late.put(calls, counted, late)
        else:
            self._end_counted(counted, calls, is_complete=not passage.failed)

    @guarded
    def _end_counted(self, counted: _Counted, calls: Mapping[Key, int], *, is_complete: bool = True) -> None:
        table = self._pricer.table(calls)
        self._sink.passages_ran(Booking("counted", 1, counted.ns, table=table))
        if not is_complete:
            return
        verdict = self._plan.end_counted(
            counted.choice,
            counted.witness,
            table,
            calls=counted.seen,
            ns=counted.ns,
            is_fixed=counted.is_fixed and not table.holds_once,
            marks=counted.marks,
        )
        if verdict is not None:
            self._sink.passage_audited(verdict)

    @guarded
    def _end_uncounted(self, choice: Choice, witness: Witness, marks: tuple[int, ...], ns: int) -> None:
        try:
            booking = self._plan.end_uncounted(choice, witness, ns, marks=marks)
        except LookupError:
            self._sink.passage_lost(reason=UNKNOWN, ns=ns)
            return
        if booking is not None:
            self._sink.passages_ran(booking)

    @guarded
    def settle_late(self, *, is_last: bool = False) -> None:
        """Price the passages whose integers have come meanwhile."""
        for calls, counted in self._late.take(is_last=is_last):
            self._end_counted(counted, calls)

    def close_graphs(self) -> None:
        """Forget the graphs that no backward has gone through: an optimizer has stepped, or a step has ended."""
        if self._graphs:
            self._graphs = []

    def _open_graphs(self) -> tuple[Any, ...]:
        """Return what tells of forwards whose backward is still to come: it will run in the passage that begins now."""
        self._graphs = [graph for graph in self._graphs if tuple(graph.model.reached) == graph.reached]
        return tuple([(graph.passage.situation, graph.passage.alone, graph.nodes) for graph in self._graphs])

    def take_change(self, owner: int, change: Change) -> None:
        """Book what waits; where a change may be older than that, what waits is in doubt, and what was just booked."""
        self.leave_lap()
        if change.doubted_since is None:
            self.book_waiting()
            return
        for name in self._plan.booked_since(owner, change.doubted_since):
            self._sink.passages_doubted(name)
        self.book_waiting(doubted=owner)

    def book_waiting(self, *, doubted: Hashable = None, is_last: bool = False) -> None:
        """Book what has ended and waits; as a guess where what it belongs to is in doubt."""
        self.leave_lap()
        now = time.perf_counter_ns()
        for booking in self._plan.settle(now, doubted=doubted, is_last=is_last):
            self._sink.passages_ran(booking)
