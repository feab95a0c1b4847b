"""Bookkeeper: one passage after the other begins, ends, and is booked.

Between `begin` and `end` lies the passage that is open; there is one at any time while the sensor runs.
Not here: where the boundaries are (`passage.py`), what is decided (`replay.py`), what is noted (`torch_ops.py`).
"""

import time
from collections.abc import Hashable, Mapping, Sequence
from operator import sub
from typing import Any

import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors import inference
from flopmeter.sensors.allocator import Marks, device_marks, marks_between
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.census import Census
from flopmeter.sensors.compiled import refusal
from flopmeter.sensors.draws import Draws
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.kinship import Booking
from flopmeter.sensors.lap import FORWARD_END, OPTIMIZER, OPTIMIZER_END, Lap
from flopmeter.sensors.launches import NODES
from flopmeter.sensors.place import Choice, Place
from flopmeter.sensors.pricing import Pricer
from flopmeter.sensors.ranks import PlaceWatch
from flopmeter.sensors.replay import ReplayPlan
from flopmeter.sensors.rota import Change
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.sink import INTERRUPTED, UNKNOWN, PassageSink, owning_up
from flopmeter.sensors.situation import Situation, WatchedModel, WatchedOptimizer, Witness, count_nodes
from flopmeter.sensors.threads import OUTLIVED, ThreadWatch
from flopmeter.sensors.torch_ops import OpRecorder, is_heard
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.sensors.trail import BETWEEN, Counted, Graphs, Passage, Trail
from flopmeter.sensors.values import Waiting

SETTLE_NS = 1_000_000_000
"""What ran is booked once this long has passed; until then it is added up where it costs next to nothing."""
MAX_WISHES = 8
LIFTED = "something took the counter off torch's stack of modes"


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
        self.places = PlaceWatch(self.recorder, sink)
        self._threads = ThreadWatch(
            lambda: OpRecorder(phase.now, self.on_failure, book),
            lambda: sink.passage_lost(reason=OUTLIVED, ns=None),
        )
        self._late: Waiting[Counted] = Waiting()
        self._pricer = Pricer(book, lambda error: sink.sensor_failed(error, ns=self._ending_ns))
        self._open: Passage | None = None
        self._ending_ns: int | None = None
        self._closed_ns: int | None = None  # since when no passage is open
        self._settled_ns, self._booked_ns = 0, time.perf_counter_ns()
        self._was_on = self._was_on_before = False  # in the last passage; in that before a forward or a step
        self._has_cuda = torch.cuda.is_initialized()
        self._wishes = 0  # for the mode to be on where a block of inference mode may begin: what runs there is unknown
        self.census = Census(sink, phase.now, self.budget)
        self.lap: Lap | None = None  # while it is on, its open leg is the open passage
        self._parked: Lap | None = None  # one that was just left, and may go on with the next passage
        self.graphs, self._trail = Graphs(), Trail()

    @property
    def is_running(self) -> bool:
        """Whether a passage is open, or one was closed and none was opened after it."""
        return self.lap is not None or self._open is not None or self._closed_ns is not None

    @property
    def is_between(self) -> bool:
        """Whether the open passage is one that runs between others."""
        is_open = self._open is not None and self._open.situation[0] == BETWEEN
        return is_open if self.lap is None else self.lap.leg.owner is None

    def start(self) -> None:
        """Open the first passage."""
        self._threads.start()
        inference.listen(id(self))
        self.begin_between("start")

    def stop(self) -> None:
        """Let go of the stack of modes, and of new threads."""
        self._closed_ns = None
        self.census.stop()
        self.recorder.retire()
        if self._was_on and inference.is_block_open():
            self.recorder.switch_on()  # retired, it lets calls through; the end of this mode wants somebody there
        self._threads.stop()
        inference.stop_listening(id(self))

    def leave(self) -> None:
        """Step off the stack of a forked child: what is open there is its parent's."""
        self.recorder.switch_off()
        self._open = self.lap = self._parked = None

    def on_failure(self, error: Exception) -> None:
        """Mark the running passage as not fully known, and tell the meter; the passage's end tells how long it was."""
        guarded(Bookkeeper.leave_lap)(self)  # it may be this that failed; failing again it leaves no lap
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

    def note_opaque(self, name: str, outs: Sequence[torch.Tensor]) -> None:
        """Note work in the open passage whose inside is not seen."""
        if self._open is not None and self._open.choice is not None and self._open.choice.is_counted:
            self.recorder.note_opaque(name, outs)

    def begin_between(self, after: str) -> None:
        """Open a passage of what runs between others: nothing tells one from another.

        The end of `torch.inference_mode` puts back what its beginning found, the hook's key with it. So the mode has
        to be on the stack there if it was before, and must not if it was not.
        """
        is_counted, is_forced = None, inference.is_block_open()
        if is_forced:
            is_counted = self._was_on_before if after in (FORWARD_END, OPTIMIZER_END) else self._was_on
            self._wish(is_counted, (BETWEEN, after), ())
        elif self._wishes > 0:
            self._wishes -= 1
            is_counted = self.budget.can_afford(self.budget.usual_calls) or None
        self.begin((BETWEEN, after), (), 0, is_trusted=False, is_counted=is_counted, is_forced=is_forced)

    def _wish(self, is_counted: bool, situation: Situation, given: Any) -> None:  # noqa: FBT001
        """Have the mode on where the next block may begin, if what runs in this one stays unknown."""
        self._wishes = 0 if is_counted or self._plan.is_known(situation, given) else MAX_WISHES

    def begin(
        self,
        situation: Situation,
        given: Any,
        at: int,
        *,
        is_trusted: bool,
        owner: WatchedModel | WatchedOptimizer | None = None,
        is_counted: bool | None = None,
        is_forced: bool = False,
    ) -> None:
        """Open a passage; `is_counted`, where it is given, settles whether it is counted: then nothing is chosen.

        A passage with gradients may go on beyond the end of a block; there the mode has to stay as the block found it.
        """
        self.draws.at += 1
        alone = given
        if situation[0] != BETWEEN:
            self._was_on_before = self._was_on
            if inference.is_block_open() and not torch.is_inference_mode_enabled():
                is_counted, is_forced = self._was_on, True
                self._wish(is_counted, situation, given)
        if owner is not None and self.graphs.open and given is not None:
            given = (given, self.graphs.read())
        place = self._plan.pass_by(situation, given, at) if is_counted is None else None
        choice, failed = None, ""
        if place is None:
            choice = self._plan.begin(situation, given, at, is_trusted=is_trusted)
            if is_counted is not None:
                choice = choice._replace(is_counted=is_counted, is_drawn=False)
            if choice.is_counted:
                failed = refusal() or ("" if self.recorder.switch_on() else LIFTED)
                self.recorder.begin(owner, goes_on=self._was_on)  # what was noted between belongs to none
                self._threads.follow()
                self.census.begin(situation)
        marks = device_marks() if self._has_cuda and situation[0] != BETWEEN else ()
        if self._go_on(place, choice, marks, is_forced=is_forced):
            self._closed_ns = None
            return
        self._open = Passage(
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
            is_forced=is_forced,
        )
        self._closed_ns = None

    def _go_on(self, place: Place | None, choice: Choice | None, marks: tuple[int, ...], *, is_forced: bool) -> bool:
        """Go on in a lap, the one just left or a new one, if the passage that begins is its next leg; say whether."""
        lap, self._parked = self._parked, None
        if self.draws.at == 1:
            lap = self._trail.begin_step(lap, self.draws)
        if lap is None or self.budget.is_ample:  # with time to spare, models are looked at each time
            return False
        known = place if choice is None else self._plan.find_known(choice)
        now, due_ns = time.perf_counter_ns(), self._settled_ns + SETTLE_NS
        if known is None or not lap.resume(known, choice, now, is_forced=is_forced, marks=marks, due_ns=due_ns):
            return False
        self.lap = lap
        self._trail.leave()
        return True

    def look_at_lap(self) -> None:
        """Keep for the books what ran in the lap that is on; leave it where something was not as expected."""
        if self.lap is not None and not self._settle_lap(self.lap):
            self.leave_lap()
            self._parked = None

    def leave_lap(self) -> None:
        """Where a lap is on, let its open leg be the open passage as any other, and keep what ran for the books."""
        if (lap := self.lap) is None:
            return
        self._open = Passage.of(lap)
        try:
            self._parked = lap if self._settle_lap(lap) else None
        except Exception:
            self.lap = None  # it would fail again
            raise
        self._plan.reopen(lap.leg.one_in)
        self._was_on = self._was_on_before = False
        self._phase.optimizer_task = -1 if lap.leg.kind == OPTIMIZER else None
        self.lap = None  # not before: interrupted above, all this is done again

    def _settle_lap(self, lap: Lap) -> bool:
        """Keep for the books what ran; say whether all of it was as expected."""
        with owning_up(self._sink, taped_ns := lap.taped_ns):
            told = lap.settle()
            for leg in lap.legs:
                if leg.times and leg.variant is not None and isinstance(leg.known, Place):
                    self._plan.wait_for(leg.known, leg.variant, leg.take(), usual_ns=leg.usual_ns)
            for leg, nodes, reached, marks, ns, sizes, _ in told or ():
                self._plan.reopen(leg.one_in)
                self._end_uncounted(leg.choice(sizes), Witness(nodes, reached, leg.ended_by), marks, ns)
        if told is None:
            self._sink.passage_lost(reason=INTERRUPTED, ns=taped_ns)
            return False
        return all(one.is_expected for one in told) and not any(self._plan.is_due(leg.known) for leg in lap.legs)

    def expire_lap(self) -> None:
        """Have no lap go on: something was added to a model. Any thread may say so; the next boundary acts on it."""
        for lap in filter(None, (self.lap, self._parked)):
            lap.expire()

    def leave_trail(self) -> None:
        """Take it that this step does not go on as others did: something changed, or one forward runs in another."""
        self.leave_lap()
        self._parked = None
        self._trail.leave()

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
        self._was_on = passage.choice is not None and passage.choice.is_counted
        try:
            self._end(passage, "" if passage.situation[0] == BETWEEN else ended_by, ns)
            if now - self._settled_ns > SETTLE_NS:
                self._settled_ns = now
                self.book_waiting()
                self.budget.weigh_hooks(now)
                self._has_cuda = torch.cuda.is_initialized()
        except BaseException as error:  # an interrupt in our own code: what was not booked is not missing silently
            if not isinstance(error, Exception):  # of those `guarded` hears
                self._sink.passage_lost(reason=INTERRUPTED, ns=ns)
            raise
        self._ending_ns = None

    def _end(self, passage: Passage, ended_by: str, ns: int) -> None:
        nodes, owner, place = count_nodes() - passage.nodes, passage.owner, passage.place
        reached = tuple(map(sub, owner.reached, passage.reached)) if owner is not None else ()
        if owner is not None and nodes & NODES and reached and not any(reached):
            self.graphs.add(passage, owner, nodes)
        marks = marks_between(passage.marks, device_marks()) if passage.marks else ()
        seen = (nodes, reached, ended_by, passage.inner)
        if place is not None and not passage.failed:
            variant = self._plan.wait(place, seen, ns, marks)
            if variant is not None:
                self._trail.add(passage, place, variant, seen, marks, has_graphs=bool(self.graphs.open))
                return
        choice = passage.decided
        is_asked = self._parked is not None or self._trail.is_followed
        known = self._plan.find_known(choice) if is_asked and not passage.failed else None
        if known is None:
            self._parked = None
            self._trail.leave()
        else:
            self._trail.add(passage, known, None, seen, marks, has_graphs=bool(self.graphs.open))
        if choice.is_counted:
            self.settle_late()
            self._take_counted(passage, choice, Witness(*seen), marks, ns)
            return
        if passage.failed:
            self._sink.passage_lost(reason=passage.failed, ns=ns)
        self._end_uncounted(choice, Witness(*seen), marks, ns)

    def _take_counted(self, passage: Passage, choice: Choice, witness: Witness, marks: Marks, ns: int) -> None:
        recorder = self.recorder
        recorder.unseen.look_at_gradients(passage.owner)
        self.census.end(passage.situation, recorder)
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
        counted = Counted(choice, witness, marks, ns, seen, is_fixed)
        if late:
            self._late.put(calls, counted, late)
        else:
            self._end_counted(counted, calls, is_complete=not passage.failed)

    @guarded
    def _end_counted(self, counted: Counted, calls: Mapping[Key, int], *, is_complete: bool = True) -> None:
        table = self._pricer.table(calls)
        self._sink.passages_ran(Booking("counted", 1, counted.ns, table=table))
        if not is_complete:
            return
        is_fixed = counted.is_fixed and not table.holds_once
        choice, witness, ns, marks = counted.choice, counted.witness, counted.ns, counted.marks
        verdict = self._plan.end_counted(
            choice, witness, table, calls=counted.seen, ns=ns, is_fixed=is_fixed, marks=marks
        )
        if verdict is not None:
            self._sink.passage_audited(verdict)

    @guarded
    def _end_uncounted(self, choice: Choice, witness: Witness, marks: Marks, ns: int) -> None:
        try:
            self._plan.end_uncounted(choice, witness, ns, marks=marks)
        except LookupError:
            self._sink.passage_lost(reason=UNKNOWN, ns=ns)

    @guarded
    def settle_late(self, *, is_last: bool = False) -> None:
        """Price the passages whose integers have come meanwhile."""
        for calls, counted in self._late.take(is_last=is_last):
            self._end_counted(counted, calls)

    def end_step(self) -> None:
        """Close the open passage as the last of its step.

        One that runs between others goes on into the next step, unless it kept the mode as an inference mode found it
        (`begin_between`): that ends here once no such block is open, so that the next one is decided anew.
        """
        running = self._open if self.lap is None else self.lap.leg
        is_held = running is not None and running.is_forced and not inference.is_block_open()
        if is_held or not self.is_between:
            self.end("meter")
            self.begin_between("step")
        self.graphs.close()

    def take_change(self, owner: int, change: Change) -> None:
        """Book what waits; where a change may be older than that, what waits is in doubt, and what was just booked."""
        self.leave_trail()
        if change.doubted_since is None:
            self.book_waiting()
            return
        for table, family in self._plan.booked_since(owner, change.doubted_since):
            self._sink.passages_doubted(table, family=family)
        self.book_waiting(doubted=owner)

    def book_waiting(self, *, doubted: Hashable = None, is_last: bool = False) -> None:
        """Book what has ended and waits; as a guess where what it belongs to is in doubt."""
        self.leave_lap()
        since, self._booked_ns = self._booked_ns, (now := time.perf_counter_ns())
        with owning_up(self._sink, now - since):
            for booking in self._plan.settle(now, doubted=doubted, is_last=is_last):
                self._sink.passages_ran(booking)
