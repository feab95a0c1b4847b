"""Where a passage begins and ends, and what becomes of it: the conductor of the torch sensor.

Boundaries are a watched module's forward, an optimizer's step, and the meter's own calls; between two of them lies
one passage. The mode that notes operators is on while a passage is counted, and off the stack else.
Not here: operators (`torch_ops.py`), fingerprints (`situation.py`), the decision (`replay.py`), sums (`meter.py`).
"""

import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.compiled import REGION, UNWATCHED, CompileWatch, adopt_compiled, is_unadopted, release_compiled
from flopmeter.sensors.draws import Draws
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.hook import BoundaryHook
from flopmeter.sensors.model import devices_in_reach
from flopmeter.sensors.kinship import Booking, Verdict
from flopmeter.sensors.pricing import Pricer
from flopmeter.sensors.replay import Choice, ReplayPlan
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.situation import (
    Situation,
    WatchedModel,
    WatchedOptimizer,
    Witness,
    count_nodes,
    has_node_count,
)
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker, is_in_backward
from flopmeter.sensors.values import Late, Waiting
from flopmeter.step import Table

SETTLE_NS = 1_000_000_000
MAX_OPTIMIZERS = 64
SCRIPTED = "a scripted module takes no hooks: where its forwards begin is not known"
INTERRUPTED = "an interrupt came between the end of one passage and the beginning of the next"
LIFTED = "something took the counter off torch's stack of modes"
UNKNOWN = "a passage was neither counted nor known: it was new, and counting it was beyond the overhead budget"


class PassageSink(Protocol):
    """What the meter offers the sensor."""

    def passages_ran(self, booking: Booking) -> None:
        """Take passages that ran."""

    def passage_audited(self, verdict: Verdict) -> None:
        """Hear of a passage that was counted by chance, or that showed others to be wrong."""

    def passage_lost(self, *, reason: str, ns: int | None) -> None:
        """Take note of a passage whose work is not known."""

    def optimizer_steps(self, optimizer_id: int) -> None:
        """Hear that an optimizer is about to step."""

    def sensor_failed(self, error: Exception, *, ns: int | None = None) -> None:
        """Hear of a failure of ours, and how long it hid the work at most; may raise in strict mode."""


@dataclass(slots=True)
class _Open:
    """The passage that is running."""

    choice: Choice
    started_ns: int
    nodes: int
    gradients: tuple[Any, ...]
    model: WatchedModel | None
    inner: int = 0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A passage that was counted."""

    choice: Choice
    witness: Witness
    ns: int
    seen: int
    is_fixed: bool


class TorchSensor:
    """Meters one thread of a PyTorch program.

    `budget` is the share of wall time that metering may take, `seed` the run's own from which audits are drawn.
    """

    def __init__(
        self, sink: PassageSink, *, book: FormulaBook, exact: bool = False, budget: float = 0.01, seed: int = 0
    ) -> None:
        """Prepare; nothing is hooked before `start`."""
        self._sink = sink
        self._budget = Budget(budget, time.perf_counter_ns)
        self._draws = Draws(seed)
        self._plan = ReplayPlan(budget=self._budget, draws=self._draws, exact=exact)
        self._phase = PhaseTracker()
        self._recorder = OpRecorder(self._phase.now, self.on_failure, book)
        self._waiting: Waiting[_Ended] = Waiting()
        self._pricer = Pricer(book, lambda error: sink.sensor_failed(error, ns=self._ending_ns))
        self._ending_ns: int | None = None
        self._closed_ns: int | None = None  # since when no passage is open
        self._models: dict[int, WatchedModel] = {}
        self._optimizers: dict[int, WatchedOptimizer] = {}
        self._handles: list[Any] = []
        self._open: _Open | None = None
        self._place = 0
        self._thread = 0
        self._is_child = False
        self._settled_ns = 0
        self._is_foreign_known = self._is_unwatched_known = self._is_adoption_due = False
        self._regions, self._compiles = 0, CompileWatch(self._compile_begins)

    @property
    def own_ns(self) -> int:
        """Time that metering has taken so far.

        Units: nanoseconds.
        Basis: `measured` in our own code, estimated for torch's path to it (`Budget.spent_ns`).
        """
        return self._budget.spent_ns

    @property
    def devices(self) -> frozenset[str]:
        """Kinds of device that this process can have used: the CPU, CUDA once initialised, others where there are."""
        return devices_in_reach()

    def start(self) -> None:
        """Begin to meter on this thread."""
        self._thread = threading.get_ident()
        self._handles += [
            register_optimizer_step_pre_hook(BoundaryHook(self._optimizer_begins)),
            register_optimizer_step_post_hook(BoundaryHook(self._optimizer_ended)),
            register_module_module_registration_hook(self._part_registered),
            register_module_parameter_registration_hook(self._part_registered),
        ]
        self._compiles.look()
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _leave_child(reference()))
        self._begin_other("start")

    def begin_step(self, index: int) -> None:
        """Note which step of the run it is that goes on now; draws depend on it."""
        self._draws.begin_step(index)

    def watch(self, module: torch.nn.Module) -> None:
        """Make a module's forward a boundary; a second call for the same module changes nothing."""
        if id(module) in self._models:
            return
        watched = WatchedModel(module)
        self._models[id(module)] = watched
        if isinstance(module, torch.jit.ScriptModule):
            self._sink.passage_lost(reason=SCRIPTED, ns=0)  # its work is counted, between passages
            return
        self._handles += [
            module.register_forward_pre_hook(BoundaryHook(self._forward_begins), with_kwargs=True, prepend=True),
            module.register_forward_hook(BoundaryHook(self._forward_ended), with_kwargs=True, always_call=True),
        ]
        adopt_compiled(self, module)
        self._adopt_wrapped(module)

    @guarded
    def boundary(self) -> None:
        """Close the running passage, hand over what is not booked yet, and open one that belongs to nothing."""
        if self._is_ours():
            self._end("meter")
            self._settle_all()
            self._begin_other("meter")

    @guarded
    def new_step(self) -> None:
        """Close the running passage as the last of its step, unless it belongs to none."""
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_forwards()
        self._look_again()
        self._place = 0
        if self._open is None or self._open.choice.situation[0] != "other":
            self._end("meter")
            self._begin_other("step")
        self._budget.hook_ns += time.perf_counter_ns() - begun

    @guarded
    def settle(self) -> None:
        """Hand over what ran and is not booked yet, up to the passage that is running."""
        if not self._is_child:
            self._settle_all()

    def stop(self) -> None:
        """Close the running passage and take every hook away; twice is fine."""
        try:
            if (self._open is not None or self._closed_ns is not None) and self._is_ours():
                self._end("meter")
                self._settle_late(is_last=True)
                self._settle_all()
        finally:
            self._closed_ns = None
            self._recorder.retire()
            self._compiles.stop()
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            for watched in self._models.values():
                release_compiled(watched.module)
            self._models.clear()
            self._optimizers.clear()

    def on_failure(self, error: Exception) -> None:
        """Mark the running passage as not fully known, and tell the meter; the passage's end tells how long it was."""
        if self._open is None:
            self._sink.sensor_failed(error, ns=self._ending_ns)
            return
        is_first, self._open.failed = not self._open.failed, f"{type(error).__name__}: {error}"
        if is_first:
            self._sink.sensor_failed(error, ns=0)

    @guarded
    def _forward_begins(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if is_in_backward() or not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.enter_forward()
        watched = self._models.get(id(module))
        if self._phase.forward_depth == 1 and watched is not None:
            self._end("forward", begun)
            if self._look(watched, begun):
                adopt_compiled(self, module)
            situation, given = watched.situation(args, kwargs)
            self._place += 1
            is_trusted = given is not None and watched.is_trusted and torch.is_grad_enabled() and has_node_count()
            self._begin(situation, given, self._place, is_trusted=is_trusted, model=watched)
        if hasattr(module, "_orig_mod"):
            self._regions += 1
        self._budget.hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _forward_ended(self, module: torch.nn.Module, _args: Any, _kwargs: Any, out: Any) -> None:
        if is_in_backward() or not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_forward()
        if hasattr(module, "_orig_mod"):
            self._region_ran(out)
        if self._phase.forward_depth == 0 and not torch.is_grad_enabled():
            self._end("forward-end", begun)  # nothing of it can come later: no graph was made
            self._begin_other("forward-end")
        self._budget.hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if is_in_backward():
            # No boundary: the engine restores the modes that it found. The passage's witness tells instead.
            self._phase.enter_optimizer()
            if self._open is not None:
                self._open.inner = hash((self._open.inner, self._watched_optimizer(optimizer).situation()))
            self._sink.optimizer_steps(id(optimizer))
            return
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_forwards()
        self._look_again()
        self._end("optimizer", begun)
        self._place = 0
        self._sink.optimizer_steps(id(optimizer))
        self._phase.enter_optimizer()
        watched = self._watched_optimizer(optimizer)
        self._look(watched, begun)
        self._begin(watched.situation(), (), 0, is_trusted=watched.is_trusted)
        self._budget.hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _optimizer_ended(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if is_in_backward():
            self._phase.leave_optimizer()
            return
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_optimizer()
        self._end("optimizer-end", begun)
        self._begin_other("optimizer-end")
        self._budget.hook_ns += time.perf_counter_ns() - begun

    def _watched_optimizer(self, optimizer: torch.optim.Optimizer) -> WatchedOptimizer:
        watched = self._optimizers.get(id(optimizer))
        if watched is None or watched.optimizer is not optimizer:
            if len(self._optimizers) >= MAX_OPTIMIZERS:
                self._optimizers.clear()
            watched = self._optimizers[id(optimizer)] = WatchedOptimizer(optimizer)
        return watched

    def _look(self, watched: WatchedModel | WatchedOptimizer, now_ns: int) -> bool:
        """Look at some parts of what is about to run; where something is new, what ran since the last round is doubted."""
        was_current = watched.rota.is_current
        is_new = watched.look(now_ns)
        if is_new:
            self._book_waiting(doubted=None if was_current else watched.owner)
        return is_new

    def region_began(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the call of a module compiled in place: a watched one's forward begins here."""
        self._regions += 1
        if id(module) in self._models:
            self._forward_begins(module, args, kwargs)

    def region_ended(self, module: torch.nn.Module, out: Any) -> None:
        """Note that compiled code ran whose inside is not seen; it will be listed as uncounted."""
        self._region_ran(out)
        if id(module) in self._models:
            self._forward_ended(module, (), {}, out)

    @guarded
    def _region_ran(self, out: Any) -> None:
        self._regions = max(0, self._regions - 1)
        if self._is_ours() and self._open is not None and self._open.choice.is_counted:
            self._recorder.note_region(REGION, [out] if isinstance(out, torch.Tensor) else [])

    @guarded
    def _compile_begins(self) -> None:
        if self._regions or is_in_backward():
            return
        if any(is_unadopted(watched.module) for watched in self._models.values()):
            self._is_adoption_due = True  # compiled in place since it was watched: this call is noted here
            self._region_ran(None)
        elif not self._is_unwatched_known:
            self._is_unwatched_known = True
            self._sink.passage_lost(reason=UNWATCHED, ns=None)

    def _part_registered(self, _module: Any, _name: Any, _part: Any) -> None:
        for watched in self._models.values():
            watched.is_stale = True

    def _look_again(self) -> None:
        """Hear of Dynamo as soon as it is there, and find what was compiled in place since it was watched."""
        self._compiles.look()
        if self._is_adoption_due:
            self._is_adoption_due = False
            for watched in self._models.values():
                adopt_compiled(self, watched.module)

    def _is_ours(self) -> bool:
        if self._is_child:
            return False
        if threading.get_ident() == self._thread:
            return True
        if not self._is_foreign_known:
            self._is_foreign_known = True
            reason = "a watched module or an optimizer ran on another thread than the one that started the meter"
            self._sink.passage_lost(reason=reason, ns=None)
        return False

    def _begin_other(self, after: str) -> None:
        """Open a passage of what runs between others: no witness tells one from another."""
        self._begin(("other", after), (), 0, is_trusted=False)

    def _begin(
        self, situation: Situation, given: Any, at: int, *, is_trusted: bool, model: WatchedModel | None = None
    ) -> None:
        self._draws.next()
        choice = self._plan.begin(situation, given, at, is_trusted=is_trusted)
        is_noted = False
        if choice.is_counted:
            is_noted = self._recorder.switch_on()
            self._recorder.take()  # what was noted between passages belongs to none
        gradients = model.gradient_marks() if model is not None else ()
        self._open = _Open(choice, time.perf_counter_ns(), count_nodes(), gradients, model)
        self._closed_ns = None
        if choice.is_counted and not is_noted:
            self._open.failed = LIFTED

    def _end(self, ended_by: str, now: int = 0) -> None:
        now = now or time.perf_counter_ns()
        (passage, self._open), closed_ns, self._closed_ns = (self._open, None), self._closed_ns, now
        if passage is None:
            if closed_ns is not None:
                self._sink.passage_lost(reason=INTERRUPTED, ns=now - closed_ns)
            return
        ns = self._ending_ns = now - passage.started_ns
        try:
            if passage.choice.is_counted:
                self._settle_late()
            self._book(passage, ended_by, ns)
            if now - self._settled_ns > SETTLE_NS:
                self._settled_ns = now
                self._book_waiting()
        except Exception:
            raise  # `guarded` hears of it
        except BaseException:  # an interrupt in our own code: what was not booked must not be missing silently
            self._sink.passage_lost(reason=INTERRUPTED, ns=ns)
            raise
        self._ending_ns = None

    def _book(self, passage: _Open, ended_by: str, ns: int) -> None:
        model, choice = passage.model, passage.choice
        marks = model.gradient_marks() if model is not None else ()
        changed = tuple([before != after for before, after in zip(passage.gradients, marks, strict=False)])
        ended_by = "" if choice.situation[0] == "other" else ended_by  # what it is between says nothing of it
        witness = Witness(count_nodes() - passage.nodes, changed, ended_by, passage.inner)
        if choice.is_counted and not self._recorder.is_on:
            passage.failed = passage.failed or LIFTED
        if passage.failed:
            self._sink.passage_lost(reason=passage.failed, ns=ns)
        if not choice.is_counted:
            self._end_uncounted(choice, witness, ns)
            return
        is_fixed = not (passage.failed or self._recorder.has_values)
        late, seen = self._recorder.late, self._recorder.seen
        ended = _Ended(choice, witness, ns, seen, is_fixed)
        calls = self._recorder.take()
        self._recorder.switch_off()
        self._budget.spend(calls=seen)
        if late:
            self._waiting.put(calls, ended, late)
        else:
            self._end_counted(ended, calls, is_complete=not passage.failed)

    @guarded
    def _end_counted(self, ended: _Ended, calls: Mapping[Key, int], *, is_complete: bool = True) -> None:
        table = self._pricer.table(calls)
        self._sink.passages_ran(Booking("counted", 1, ended.ns, table=table))
        if not is_complete:
            return
        is_fixed = ended.is_fixed and not table.holds_once
        verdict = self._plan.end_counted(
            ended.choice, ended.witness, table, calls=ended.seen, ns=ended.ns, is_fixed=is_fixed
        )
        if verdict is not None:
            self._sink.passage_audited(verdict)

    @guarded
    def _end_uncounted(self, choice: Choice, witness: Witness, ns: int) -> None:
        try:
            booking = self._plan.end_uncounted(choice, witness, ns)
        except LookupError:
            self._sink.passage_lost(reason=UNKNOWN, ns=ns)
            return
        if booking is not None:
            self._sink.passages_ran(booking)

    @guarded
    def _settle_late(self, *, is_last: bool = False) -> None:
        """Price the passages whose integers have come meanwhile."""
        for calls, ended in self._waiting.take(is_last=is_last):
            self._end_counted(ended, calls)

    def _settle_all(self) -> None:
        """Book whatever waits; first look whether everything still is what it was booked as."""
        for watched in (*self._models.values(), *self._optimizers.values()):
            was_current = watched.rota.is_current
            if watched.look_at_all():
                self._book_waiting(doubted=None if was_current else watched.owner)
        self._book_waiting(is_last=True)

    def _book_waiting(self, *, doubted: Any = None, is_last: bool = False) -> None:
        for booking in self._plan.settle(doubted=doubted, is_last=is_last):
            self._sink.passages_ran(booking)

    def _adopt_wrapped(self, module: torch.nn.Module) -> None:
        """Note the runs of parts that are torch.compile's own wrappers; a watched one notes its own."""
        for part in module.modules():
            if hasattr(part, "_orig_mod") and id(part) not in self._models:
                self._handles += [
                    part.register_forward_pre_hook(BoundaryHook(self._wrapped_begins)),
                    part.register_forward_hook(BoundaryHook(self._wrapped_ended), always_call=True),
                ]

    def _wrapped_begins(self, _module: torch.nn.Module, _args: Any) -> None:
        self._regions += 1

    def _wrapped_ended(self, _module: torch.nn.Module, _args: Any, out: Any) -> None:
        self._region_ran(out)

    def leave_child(self) -> None:
        """Step off the stack of a forked child (a DataLoader worker): there is nothing to meter there."""
        self._is_child = True
        self._recorder.switch_off()
        self._open = None


def _leave_child(sensor: TorchSensor | None) -> None:
    if sensor is not None:
        sensor.leave_child()
