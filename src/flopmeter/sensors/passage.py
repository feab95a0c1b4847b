"""Where a passage begins and ends: the hooks of the torch sensor.

Boundaries are a watched module's forward, an optimizer's step, and the meter's own calls; between two lies a passage.
Not here: what becomes of a passage (`bookkeeper.py`), what tells it from others (`situation.py`), sums (`meter.py`).
"""

import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.modules import module as torch_modules
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.bookkeeper import Bookkeeper
from flopmeter.sensors.budget import HOOK_NS
from flopmeter.sensors.bypasses import bypass_watch
from flopmeter.sensors.compiled import UNWATCHED, CompileWatch, adopt_compiled, is_unadopted, release_compiled
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.hook import BoundaryHook, hide_from_dynamo
from flopmeter.sensors.lap import FORWARD, FORWARD_END, LOOK_EVERY_NS, OPTIMIZER, OPTIMIZER_END, Lap, Leg
from flopmeter.sensors.model import devices_in_reach
from flopmeter.sensors.regions import REGION
from flopmeter.sensors.rota import Change
from flopmeter.sensors.sink import PassageSink
from flopmeter.sensors.situation import HAS_NODE_COUNT, WatchedModel, WatchedOptimizer, watch_optimizer
from flopmeter.sensors.torch_phase import PhaseTracker

LOOKS = 12
"""How many parts of a model are looked at when its forward begins, and some for the time since the last look."""
_this_thread, _clock = threading.get_ident, time.perf_counter_ns
_has_gradients = torch.is_grad_enabled
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001
"""Not -1 while the autograd engine runs on behalf of this thread."""
SCRIPTED = "a scripted module takes no hooks: where its forwards begin is not known"


class TorchSensor:
    """Meters one thread of a PyTorch program.

    `budget` is the share of wall time that metering may take, `seed` the run's own from which audits are drawn.
    """

    def __init__(
        self, sink: PassageSink, *, book: FormulaBook, exact: bool = False, budget: float = 0.01, seed: int = 0
    ) -> None:
        """Prepare; nothing is hooked before `start`."""
        self._sink = sink
        self._phase = PhaseTracker()
        self._books = Bookkeeper(sink, self._phase, book=book, exact=exact, budget=budget, seed=seed)
        self._budget, self.census = self._books.budget, self._books.census
        self._models: dict[int, WatchedModel] = {}
        self._optimizers: dict[int, WatchedOptimizer] = {}
        self._handles: list[Any] = []
        self._place = self._thread = 0
        self._is_child = self._has_steps = False  # the latter: that somebody tells where steps end
        self._is_foreign_known = self._is_unwatched_known = self._is_adoption_due = False
        self._regions, self._compiles = 0, CompileWatch(self._compile_begins)
        self._has_compiled = self._compiles.has_compiled
        calls = self._forward_begins, self._forward_ended, self._optimizer_begins, self._optimizer_ended
        self._hooks = self._begins, self._ended, *_ = [BoundaryHook(call, self.on_failure) for call in calls]

    @property
    def own_ns(self) -> int:
        """Time that metering has taken so far.

        Units: nanoseconds. Basis: measured in our own code, estimated for the way to it and back (`Budget.spent_ns`).
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
            register_optimizer_step_pre_hook(self._hooks[2]),
            register_optimizer_step_post_hook(self._hooks[3]),
            torch_modules.register_module_module_registration_hook(self._part_registered),
            torch_modules.register_module_parameter_registration_hook(self._part_registered),
            bypass_watch.listen(self._hooks, self._phase, self._books.recorder),
        ]
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _leave_child(reference()))
        self._books.start()
        self._compiles.look()

    def begin_step(self, index: int) -> None:
        """Note which step of the run it is that goes on now; draws depend on it."""
        draws, lap = self._books.draws, self._books.lap
        draws.step, draws.at = index, 0
        if lap is not None and lap.until <= index:
            self._leave_drawn(lap)

    @guarded
    def _leave_drawn(self, lap: Lap) -> None:
        if lap.is_drawn():
            self._books.leave_lap()

    def watch(self, module: torch.nn.Module) -> None:
        """Make a module's forward a boundary; a second call for the same module changes nothing."""
        if id(module) in self._models:
            return
        self._books.leave_lap()
        watched = self._models[id(module)] = WatchedModel(module)
        if isinstance(module, torch.jit.ScriptModule):
            self._sink.passage_lost(reason=SCRIPTED, ns=0)  # its work is counted, between passages
            return
        self._handles.append(module.register_forward_pre_hook(self._begins, with_kwargs=True, prepend=True))
        self._hear_of_end(watched)
        adopt_compiled(self, module)
        self._adopt_wrapped(module)

    @guarded
    def boundary(self) -> None:
        """Close the running passage, hand over what is not booked yet, and open one that belongs to nothing."""
        if self._is_ours():
            self._books.end("meter")
            self._settle_all()
            self._books.begin_between("meter")

    def new_step(self, index: int) -> None:
        """Close the running passage as the last of its step, unless it runs between others; go on in step `index`."""
        begun, lap, self._has_steps = _clock(), self._books.lap, True
        if _this_thread() != self._thread:
            return  # told from elsewhere it is no boundary: the passage that runs here goes on
        if lap is None or lap.leg.owner is not None or lap.leg.is_forced:
            self._end_step()
        self._place = 0
        if not self._compiles.is_hooked:
            self._compiles.look()
        self.begin_step(index)
        self._budget.hook_ns += _clock() - begun + HOOK_NS

    @guarded
    def _end_step(self) -> None:
        self._phase.leave_forwards()
        self._books.end_step()

    @guarded
    def settle(self) -> None:
        """Hand over what ran and is not booked yet, up to the passage that is running."""
        if not self._is_child:
            self._settle_all()

    def stop(self) -> None:
        """Close the running passage and take every hook away; twice is fine."""
        try:
            if self._books.is_running and self._is_ours():
                self._books.end("meter")
                self._books.settle_late(is_last=True)
                self._settle_all()
        finally:
            self._compiles.stop()
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            for watched in self._models.values():
                watched.release_end()
                watched.release()
                release_compiled(watched.module)
            self._models.clear()
            self._optimizers.clear()
            self._books.stop()

    def on_failure(self, error: Exception) -> None:
        """Hear of a failure in a hook: the passage that is open is not fully known."""
        self._books.on_failure(error)

    def _forward_begins(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        begun = _clock()
        if not (_this_thread() == self._thread or self._is_ours()):
            return
        forwards, lap, has_gradients = self._phase.forwards, self._books.lap, _has_gradients()
        if lap is not None and not forwards and lap.forward(module, args, kwargs, has_gradients, begun):
            self._place += 1
            if self._models[id(module)].end is not None:
                self._begin_leg(lap.leg)
            if len(lap.tape) > lap.full:
                self._books.look_at_lap()
            self._budget.hook_ns += _clock() - begun + HOOK_NS
            return
        if _graph_task() != -1:
            return
        is_inner = len(forwards) > 0
        self._phase.enter_forward()
        if is_inner:
            self._books.leave_trail()
        watched = self._models[id(module)]
        self._hear_of_end(watched)
        if not is_inner:
            self._begin_forward(watched, args, kwargs, begun)
        self._regions += watched.is_region
        self._budget.hook_ns += _clock() - begun + HOOK_NS

    def _begin_leg(self, leg: Leg) -> None:
        """Begin a forward that was expected and whose end is heard of; see that the next one's is not, if that may be.

        A hook at the end of a forward costs as much as one at its beginning. Where torch compiles it stays: code is
        compiled for the hooks that are there, but for those of torch.compile's own wrapper.
        """
        if leg.is_quiet and isinstance(leg.owner, WatchedModel) and not (leg.is_region and self._compiles.is_opaque):
            if leg.is_region or not self._has_compiled:
                leg.owner.release_end()
            return
        self._phase.enter_forward()
        self._regions += leg.is_region

    def _hear_of_end(self, watched: WatchedModel) -> None:
        """Hook onto the end of a model's forwards, unless that is done."""
        if watched.end is None and not isinstance(watched.module, torch.jit.ScriptModule):
            watched.end = watched.module.register_forward_hook(self._ended, with_kwargs=True, always_call=True)

    def _begin_forward(
        self, watched: WatchedModel, args: tuple[Any, ...], kwargs: Mapping[str, Any], begun: int
    ) -> None:
        self._books.end(FORWARD, begun)
        self._compiles.look()
        is_due = self._budget.is_ample or begun - watched.looked_ns >= LOOK_EVERY_NS
        if is_due or watched.is_stale or watched.is_switched:
            version = watched.version
            self._look(watched, begun)
            if watched.version != version:
                adopt_compiled(self, watched.module)
        situation, given = watched.situation(args, kwargs)
        self._place += 1
        has_witness = (torch.is_grad_enabled() and HAS_NODE_COUNT) or torch.cuda.is_initialized()
        is_trusted = given is not None and watched.is_trusted and has_witness
        self._books.begin(situation, given, self._place, is_trusted=is_trusted, owner=watched)

    def _forward_ended(self, module: torch.nn.Module, _args: Any, _kwargs: Any, out: Any) -> None:
        begun, lap = _clock(), self._books.lap
        if lap is not None and lap.leg.is_quiet and not self._phase.forwards:
            self._budget.hook_ns += _clock() - begun + HOOK_NS
            return
        if _graph_task() != -1 or not (_this_thread() == self._thread or self._is_ours()):
            return
        self._phase.leave_forward()
        if self._models[id(module)].is_region:
            self._region_ran(out)
        has_graph = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        if not self._phase.forwards and not has_graph:
            # Nothing of it can come later: no graph was made. A forward that raised has no output.
            self._books.recorder.unseen.returned(out)
            if lap is not None and out is not None and lap.between(FORWARD_END, begun):
                self._budget.hook_ns += _clock() - begun + HOOK_NS
                return
            self._books.end(FORWARD_END if out is not None else "forward-failed", begun)
            self._books.begin_between(FORWARD_END)
        self._budget.hook_ns += _clock() - begun + HOOK_NS

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        begun = _clock()
        if not (_this_thread() == self._thread or _graph_task() != -1 or self._is_ours()):
            return
        if not self._has_steps:
            self._sink.optimizer_steps(id(optimizer))  # may begin a step
        lap = self._books.lap
        if lap is not None and lap.optimizer(optimizer, begun):
            self._place = 0
            self._budget.hook_ns += _clock() - begun + HOOK_NS
            return
        if _graph_task() != -1:
            # No boundary: the engine restores the modes that it found. The passage's witness tells instead.
            self._phase.enter_optimizer()
            self._books.note_inner(watch_optimizer(self._optimizers, optimizer).situation(self._models.values()))
            return
        self._phase.leave_forwards()
        self._look_again()
        self._place = 0
        self._phase.enter_optimizer()
        self._begin_optimizer(watch_optimizer(self._optimizers, optimizer), begun)
        self._budget.hook_ns += _clock() - begun + HOOK_NS

    def _begin_optimizer(self, watched: WatchedOptimizer, begun: int) -> None:
        self._books.end(OPTIMIZER, begun)
        self._books.graphs.close()
        if self._budget.is_ample or begun - watched.looked_ns >= LOOK_EVERY_NS:
            self._look(watched, begun)
        situation = watched.situation(self._models.values())
        self._books.begin(situation, (), 0, is_trusted=watched.is_trusted, owner=watched)

    def _optimizer_ended(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        begun = _clock()
        is_ours, lap = _this_thread() == self._thread, self._books.lap
        if lap is None or not is_ours or not lap.between(OPTIMIZER_END, begun):
            if _graph_task() != -1:
                self._phase.leave_optimizer()
                return
            if not (is_ours or self._is_ours()):
                return
            self._phase.leave_optimizer()
            self._books.end(OPTIMIZER_END, begun)
            self._books.begin_between(OPTIMIZER_END)
        self._budget.hook_ns += _clock() - begun + HOOK_NS

    def _look(self, watched: WatchedModel | WatchedOptimizer, now_ns: int, *, is_whole: bool = False) -> None:
        """Look at some parts of what is about to run, or at all of it."""
        before, is_plain = watched.looked_ns, isinstance(watched, WatchedModel) and watched.is_switched
        change = watched.look(now_ns, looks=0 if is_whole else LOOKS, is_whole=is_whole)
        if change is not None and change.doubted_since is None and not (self._budget.is_ample or is_plain):
            change = Change(before)  # looks were left out since then
        if change is not None:
            self._books.take_change(watched.owner, change)

    def _settle_all(self) -> None:
        """Book whatever waits; first look whether all still is what it was booked as."""
        now = _clock()
        self._books.leave_lap()
        for watched in self._models.values():
            self._hear_of_end(watched)  # hooks are among what is looked at
            self._look(watched, now, is_whole=True)
        self._books.book_waiting(is_last=True)
        self._books.places.look([watched.module for watched in self._models.values()])

    def region_began(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the call of a module compiled in place: a watched one's forward begins here."""
        self._regions += 1
        if id(module) in self._models:
            self._begins(module, args, kwargs)

    def region_ended(self, module: torch.nn.Module, out: Any) -> None:
        """Hear that it has returned."""
        self._region_ran(out)
        if id(module) in self._models:
            self._ended(module, (), {}, out)

    @guarded
    def _region_ran(self, out: Any) -> None:
        self._regions = max(0, self._regions - 1)
        if self._compiles.is_opaque and self._is_ours():
            self._books.note_opaque(REGION, [out] if isinstance(out, torch.Tensor) else [])

    @guarded
    def _compile_begins(self) -> None:
        self._has_compiled = True
        for watched in self._models.values():
            self._hear_of_end(watched)
        if self._regions or _graph_task() != -1:
            return
        self._books.leave_lap()
        if any(is_unadopted(watched.module) for watched in self._models.values()):
            if not self._is_adoption_due:  # our hooks on it are a frame of their own
                self._region_ran(None)
            self._is_adoption_due = True  # compiled in place since it was watched: this call is noted here
        elif (self._compiles.is_opaque or self._compiles.has_missed) and not self._is_unwatched_known:
            self._is_unwatched_known = True
            self._sink.passage_lost(reason=UNWATCHED, ns=None)

    @hide_from_dynamo
    def _part_registered(self, _module: Any, _name: Any, _part: Any) -> None:
        for watched in self._models.values():
            watched.is_stale = True
        self._books.expire_lap()

    def _look_again(self) -> None:
        """Hear of Dynamo once it is there, and find what was compiled in place since it was watched."""
        self._compiles.look()
        if self._is_adoption_due:
            self._is_adoption_due = False
            for watched in self._models.values():
                adopt_compiled(self, watched.module)

    def _is_ours(self) -> bool:
        if self._is_child or _this_thread() == self._thread:
            return not self._is_child
        if not self._is_foreign_known:
            self._is_foreign_known = True
            reason = "a watched module or an optimizer ran on another thread than the one that started the meter"
            self._sink.passage_lost(reason=reason, ns=None)
        return False

    def _adopt_wrapped(self, module: torch.nn.Module) -> None:
        """Note the runs of parts that are torch.compile's own wrappers; a watched one notes its own."""
        began = BoundaryHook(self._wrapped_begins, self.on_failure)
        ended = BoundaryHook(lambda _module, _args, out: self._region_ran(out), self.on_failure)
        for part in module.modules():
            if hasattr(part, "_orig_mod") and id(part) not in self._models:
                self._handles.append(part.register_forward_pre_hook(began))
                self._handles.append(part.register_forward_hook(ended, always_call=True))

    def _wrapped_begins(self, *_: Any) -> None:
        self._regions += 1

    def leave_child(self) -> None:
        """Step off the stack of a forked child (a DataLoader worker): there is nothing to meter there."""
        self._is_child, self._thread = True, 0
        self._books.leave()


def _leave_child(sensor: TorchSensor | None) -> None:
    if sensor is not None:
        sensor.leave_child()
