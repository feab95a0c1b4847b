"""Where a passage begins and ends, and what becomes of it: the conductor of the torch sensor.

Boundaries are a watched module's forward, an optimizer's step, and the meter's own calls; between two of them lies
one passage. Forward and optimizer passages are counted or replayed; whatever else runs is always counted.
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
from flopmeter.sensors import situation as situations
from flopmeter.sensors.compiled import REGION, UNWATCHED, CompileWatch, adopt_compiled, is_unadopted, release_compiled
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.hook import BoundaryHook
from flopmeter.sensors.model import devices_in_reach
from flopmeter.sensors.pricing import Pricer
from flopmeter.sensors.replay import ReplayPlan
from flopmeter.sensors.shadows import Key
from flopmeter.sensors.situation import OTHER, Situation, WatchedModel, Witness
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker, is_in_backward
from flopmeter.sensors.values import Late, Waiting
from flopmeter.step import Table

SCRIPTED = "a scripted module takes no hooks: where its forwards begin is not known"
INTERRUPTED = "an interrupt came between the end of one passage and the beginning of the next"
LIFTED = "something took the counter off torch's stack of modes"


class PassageSink(Protocol):
    """What the meter offers the sensor."""

    def passage_ran(self, table: Table, *, basis: str, ns: int) -> None:
        """Take one passage."""

    def passage_lost(self, *, reason: str, ns: int | None) -> None:
        """Take note of a passage whose work is not known."""

    def optimizer_steps(self, optimizer_id: int) -> None:
        """Hear that an optimizer is about to step."""

    def sensor_failed(self, error: Exception, *, ns: int | None = None) -> None:
        """Hear of a failure of ours, and how long it hid the work at most; may raise in strict mode."""


@dataclass(slots=True)
class _Open:
    """The passage that is running."""

    situation: Situation
    place: int
    is_counted: bool
    started_ns: int
    nodes: int
    gradients: tuple[Any, ...]
    model: WatchedModel | None
    inner: int = 0
    failed: str = ""
    late: list[Late] = field(default_factory=list)
    has_values: bool = False


class TorchSensor:
    """Meters one thread of a PyTorch program."""

    def __init__(self, sink: PassageSink, *, book: FormulaBook, exact: bool = False) -> None:
        """Prepare; nothing is hooked before `start`."""
        self._sink = sink
        self._plan = ReplayPlan(exact=exact)
        self._phase = PhaseTracker()
        self._recorder = OpRecorder(self._phase.now, self.on_failure, book)
        self._waiting = Waiting()
        self._pricer = Pricer(book, lambda error: sink.sensor_failed(error, ns=self._ending_ns))
        self._ending_ns: int | None = None
        self._closed_ns: int | None = None  # since when no passage is open
        self._models: dict[int, WatchedModel] = {}
        self._handles: list[Any] = []
        self._open: _Open | None = None
        self._place = 0
        self._thread = 0
        self._pid = 0
        self._hook_ns = 0
        self._is_foreign_known = self._is_unwatched_known = self._is_adoption_due = False
        self._regions, self._compiles = 0, CompileWatch(self._compile_begins)

    @property
    def own_ns(self) -> int:
        """Time spent in our own Python code so far.

        Units: nanoseconds.
        Basis: `measured`, around our code; torch's own path to it while counting is not in it.
        """
        return self._hook_ns + self._recorder.own_ns

    @property
    def devices(self) -> frozenset[str]:
        """Kinds of device that this process can have used: the CPU, CUDA once initialised, others where there are."""
        return devices_in_reach()

    def start(self) -> None:
        """Begin to meter on this thread."""
        self._thread, self._pid = threading.get_ident(), os.getpid()
        self._handles += [
            register_optimizer_step_pre_hook(BoundaryHook(self._optimizer_begins)),
            register_optimizer_step_post_hook(BoundaryHook(self._optimizer_ended)),
            register_module_module_registration_hook(self._part_registered),
            register_module_parameter_registration_hook(self._part_registered),
        ]
        self._compiles.look()
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _leave_child(reference()))
        self._begin(OTHER, place=0)

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
        """Close the running passage and open one that belongs to nothing in particular."""
        if self._is_ours():
            self._end("meter")
            self._begin(OTHER, place=0)

    @guarded
    def new_step(self) -> None:
        """Close the running passage as the last of its step."""
        if self._is_ours():
            self._phase.leave_forwards()
            self._look_again()
            self._end("meter")
            self._place = 0
            self._begin(OTHER, place=0)

    def stop(self) -> None:
        """Close the running passage and take every hook away; twice is fine."""
        try:
            if (self._open is not None or self._closed_ns is not None) and self._is_ours():
                self._end("meter")
                self._settle(is_last=True)
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
            if watched.refresh():
                adopt_compiled(self, module)
            situation = watched.situation(args, kwargs)
            self._end("forward")
            self._place += 1
            self._begin(situation, place=self._place, model=watched)
        if hasattr(module, "_orig_mod"):
            self._regions += 1
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _forward_ended(self, module: torch.nn.Module, _args: Any, _kwargs: Any, out: Any) -> None:
        if is_in_backward() or not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_forward()
        if hasattr(module, "_orig_mod"):
            self._region_ran(out)
        if self._phase.forward_depth == 0 and not torch.is_grad_enabled():
            self._end("forward-end")  # nothing of it can come later: no graph was made
            self._begin(OTHER, place=0)
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if is_in_backward():
            # No boundary: the engine restores the modes that it found. The passage's witness tells instead.
            self._phase.enter_optimizer()
            if self._open is not None:
                self._open.inner = hash((self._open.inner, situations.optimizer_situation(optimizer)))
            self._sink.optimizer_steps(id(optimizer))
            return
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_forwards()
        self._look_again()
        self._end("optimizer")
        self._place = 0
        self._sink.optimizer_steps(id(optimizer))
        self._phase.enter_optimizer()
        self._begin(situations.optimizer_situation(optimizer), place=0)
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _optimizer_ended(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if is_in_backward():
            self._phase.leave_optimizer()
            return
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.leave_optimizer()
        self._end("optimizer-end")
        self._begin(OTHER, place=0)
        self._hook_ns += time.perf_counter_ns() - begun

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
        if self._is_ours() and self._open is not None and self._open.is_counted:
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
        if os.getpid() != self._pid:
            return False
        if threading.get_ident() == self._thread:
            return True
        if not self._is_foreign_known:
            self._is_foreign_known = True
            reason = "a watched module or an optimizer ran on another thread than the one that started the meter"
            self._sink.passage_lost(reason=reason, ns=None)
        return False

    def _begin(self, situation: Situation, *, place: int, model: WatchedModel | None = None) -> None:
        is_counted = situation is OTHER or self._plan.is_to_be_counted(situation, place)
        is_noted = self._recorder.switch_on() if is_counted else False
        if not is_counted:
            self._recorder.switch_off()
        self._recorder.take()  # what was noted between passages belongs to none
        gradients = model.gradient_marks() if model else ()
        self._open = _Open(
            situation, place, is_counted, time.perf_counter_ns(), situations.count_nodes(), gradients, model
        )
        self._closed_ns = None
        if is_counted and not is_noted:
            self._open.failed = LIFTED

    def _end(self, ended_by: str) -> None:
        now = time.perf_counter_ns()
        (passage, self._open), closed_ns, self._closed_ns = (self._open, None), self._closed_ns, now
        if passage is None:
            if closed_ns is not None:
                self._sink.passage_lost(reason=INTERRUPTED, ns=now - closed_ns)
            return
        ns = self._ending_ns = now - passage.started_ns
        try:
            self._settle()
            self._book(passage, ended_by, ns)
        except Exception:
            raise  # `guarded` hears of it
        except BaseException:  # an interrupt in our own code: what was not booked must not be missing silently
            self._sink.passage_lost(reason=INTERRUPTED, ns=ns)
            raise
        self._ending_ns = None

    def _book(self, passage: _Open, ended_by: str, ns: int) -> None:
        marks = passage.model.gradient_marks() if passage.model else ()
        changed = tuple([before != after for before, after in zip(passage.gradients, marks, strict=False)])
        witness = Witness(situations.count_nodes() - passage.nodes, changed, ended_by, passage.inner)
        if passage.is_counted and not self._recorder.is_on:
            passage.failed = passage.failed or LIFTED
        if passage.failed:
            self._sink.passage_lost(reason=passage.failed, ns=ns)
        if passage.is_counted:
            passage.late, passage.has_values = self._recorder.late, self._recorder.has_values
            self._end_counted(passage, witness, ns, self._recorder.take())
        else:
            self._end_replayed(passage, witness, ns)

    @guarded
    def _end_counted(self, passage: _Open, witness: Witness, ns: int, calls: Mapping[Key, int]) -> None:
        if not calls and passage.situation is OTHER:
            return
        if passage.late:
            self._waiting.put(calls, ns, passage.late)
            return
        table = self._pricer.table(calls)
        self._sink.passage_ran(table, basis="counted", ns=ns)
        if passage.situation is not OTHER and not (passage.failed or passage.has_values or table.holds_once):
            self._plan.learn(passage.situation, passage.place, witness, table.name)

    @guarded
    def _settle(self, *, is_last: bool = False) -> None:
        """Price the passages whose integers have come meanwhile."""
        for calls, ns in self._waiting.take(is_last=is_last):
            self._sink.passage_ran(self._pricer.table(calls), basis="counted", ns=ns)

    @guarded
    def _end_replayed(self, passage: _Open, witness: Witness, ns: int) -> None:
        name, is_vouched_for = self._plan.find(passage.situation, passage.place, witness)
        table = self._pricer.find(name)
        if table is None:
            self._plan.forget(passage.situation, passage.place)
            self._sink.passage_lost(reason="the table of a replayed passage was no longer kept", ns=ns)
        else:
            self._sink.passage_ran(table, basis="replayed" if is_vouched_for else "modelled", ns=ns)

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
        self._recorder.switch_off()
        self._open = None


def _leave_child(sensor: TorchSensor | None) -> None:
    if sensor is not None:
        sensor.leave_child()
