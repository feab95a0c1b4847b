"""Where a passage begins and ends, and what becomes of it: the conductor of the torch sensor.

Boundaries are a watched module's forward, an optimizer's step, and the meter's own calls; between two of them lies
one passage. Forward and optimizer passages are counted or replayed; whatever else runs is always counted.
Not here: operators (`torch_ops.py`), fingerprints (`situation.py`), the decision (`replay.py`), sums (`meter.py`).
"""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors import situation as situations
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.replay import ReplayPlan
from flopmeter.sensors.situation import Situation, WatchedModel, Witness
from flopmeter.sensors.torch_ops import Key, OpRecorder, rows_of
from flopmeter.sensors.torch_phase import PhaseTracker, is_in_backward
from flopmeter.step import Table
from flopmeter.tally import Tally

MAX_ROWS = 4096
MAX_TABLES = 4096
REGION = "torch.compile::region"
OTHER: Situation = ("other",)


class PassageSink(Protocol):
    """What the meter offers the sensor."""

    def passage_ran(self, table: Table, *, basis: str, ns: int) -> None:
        """Take one passage."""

    def passage_lost(self, *, reason: str, ns: int | None) -> None:
        """Take note of a passage whose work is not known."""

    def optimizer_steps(self, optimizer_id: int) -> None:
        """Hear that an optimizer is about to step."""

    def sensor_failed(self, error: Exception) -> None:
        """Hear of a failure of ours; may raise in strict mode."""


class BoundaryHook:
    """A hook on a watched module that never travels: copies and pickles of the module get one that does nothing."""

    def __init__(self, call: Callable[..., None]) -> None:
        """Wrap what is to be called."""
        self._call = call

    def __call__(self, *args: Any) -> None:
        """Pass on, unless a compiler is tracing: then there is nothing to meter, and nothing to trace either."""
        if torch.compiler.is_compiling():
            return
        self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        """Turn into a standard-library callable that takes anything and returns None."""
        return (getattr, (contextlib.nullcontext(), "__exit__"))


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
    failed: str = ""


class TorchSensor:
    """Meters one thread of a PyTorch program."""

    def __init__(self, sink: PassageSink, *, book: FormulaBook, exact: bool = False) -> None:
        """Prepare; nothing is hooked before `start`."""
        self._sink = sink
        self._book = book
        self._plan = ReplayPlan(exact=exact)
        self._phase = PhaseTracker()
        self._recorder = OpRecorder(self._phase.now, self.on_failure)
        self._tables: dict[str, Table] = {}
        self._by_calls: dict[frozenset[tuple[Key, int]], Table] = {}
        self._models: dict[int, WatchedModel] = {}
        self._handles: list[Any] = []
        self._open: _Open | None = None
        self._place = 0
        self._thread = 0
        self._pid = 0
        self._hook_ns = 0
        self._is_foreign_known = False

    @property
    def own_ns(self) -> int:
        """Time spent in our own Python code so far.

        Units: nanoseconds.
        Basis: `measured`, around our code; torch's own path to it while counting is not in it.
        """
        return self._hook_ns + self._recorder.own_ns

    @property
    def devices(self) -> frozenset[str]:
        """Kinds of device that this process can have used: the CPU, and CUDA once it was initialised."""
        return frozenset({"cpu", "cuda"} if torch.cuda.is_initialized() else {"cpu"})

    def start(self) -> None:
        """Begin to meter on this thread."""
        self._thread, self._pid = threading.get_ident(), os.getpid()
        self._handles += [
            register_optimizer_step_pre_hook(BoundaryHook(self._optimizer_begins)),
            register_optimizer_step_post_hook(BoundaryHook(self._optimizer_ended)),
        ]
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _leave_child(reference()))
        self._begin(OTHER, place=0)

    def watch(self, module: torch.nn.Module) -> None:
        """Make a module's forward a boundary; a second call for the same module changes nothing."""
        if id(module) in self._models:
            return
        watched = WatchedModel(module)
        self._models[id(module)] = watched
        self._handles += [
            module.register_forward_pre_hook(BoundaryHook(self._forward_begins), with_kwargs=True, prepend=True),
            module.register_forward_hook(BoundaryHook(self._forward_ended), with_kwargs=True, always_call=True),
        ]
        for part in module.modules():
            self._adopt_compiled(part)

    def boundary(self) -> None:
        """Close the running passage and open one that belongs to nothing in particular."""
        if self._is_ours():
            self._end("meter")
            self._begin(OTHER, place=0)

    def new_step(self) -> None:
        """Close the running passage as the last of its step."""
        self.boundary()
        self._place = 0

    def stop(self) -> None:
        """Close the running passage and take every hook away; twice is fine."""
        if self._open is not None and self._is_ours():
            self._end("meter")
        self._recorder.switch_off()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for watched in self._models.values():
            for part in watched.module.modules():
                wrapper = part.__dict__.get("_compiled_call_impl")
                if isinstance(wrapper, _RegionCall):
                    part._compiled_call_impl = wrapper.inner  # noqa: SLF001
        self._models.clear()

    def on_failure(self, error: Exception) -> None:
        """Mark the running passage as not fully known, and tell the meter."""
        if self._open is not None:
            self._open.failed = f"{type(error).__name__}: {error}"
        self._sink.sensor_failed(error)

    @guarded
    def _forward_begins(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._is_ours() or is_in_backward():
            return
        begun = time.perf_counter_ns()
        self._phase.forward_depth += 1
        watched = self._models.get(id(module))
        if self._phase.forward_depth == 1 and watched is not None:
            self._end("forward")
            self._place += 1
            self._begin(watched.situation(args, kwargs), place=self._place, model=watched)
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _forward_ended(self, module: torch.nn.Module, _args: Any, _kwargs: Any, out: Any) -> None:
        if not self._is_ours() or is_in_backward():
            return
        begun = time.perf_counter_ns()
        self._phase.forward_depth = max(0, self._phase.forward_depth - 1)
        if hasattr(module, "_orig_mod"):
            self.region_ran(out)
        if self._phase.forward_depth == 0 and not torch.is_grad_enabled():
            self._end("forward-end")  # nothing of it can come later: no graph was made
            self._begin(OTHER, place=0)
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _optimizer_begins(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._end("optimizer")
        self._sink.optimizer_steps(id(optimizer))
        self._phase.in_optimizer = True
        self._begin(situations.optimizer_situation(optimizer), place=0)
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _optimizer_ended(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._is_ours():
            return
        begun = time.perf_counter_ns()
        self._phase.in_optimizer = False
        self._end("optimizer-end")
        self._begin(OTHER, place=0)
        self._hook_ns += time.perf_counter_ns() - begun

    @guarded
    def _compiled_ended(self, module: torch.nn.Module, out: Any) -> None:
        self.region_ran(out)
        self._forward_ended(module, (), {}, out)

    def region_ran(self, out: Any) -> None:
        """Note that compiled code ran whose inside is not seen; it will be listed as uncounted."""
        if self._open is not None and self._open.is_counted:
            outs = [out] if isinstance(out, torch.Tensor) else []
            self._recorder.note_region(REGION, outs)

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
        if is_counted and not self._recorder.is_on:
            self._recorder.switch_on()
        elif not is_counted:
            self._recorder.switch_off()
        gradients = model.gradient_marks() if model else ()
        self._open = _Open(
            situation, place, is_counted, time.perf_counter_ns(), situations.count_nodes(), gradients, model
        )

    def _end(self, ended_by: str) -> None:
        passage, self._open = self._open, None
        if passage is None:
            return
        ns = time.perf_counter_ns() - passage.started_ns
        marks = passage.model.gradient_marks() if passage.model else ()
        changed = tuple([before != after for before, after in zip(passage.gradients, marks, strict=False)])
        witness = Witness(situations.count_nodes() - passage.nodes, changed, ended_by)
        if not passage.is_counted:
            self._end_replayed(passage, witness, ns)
            return
        calls = self._recorder.take()
        if passage.failed:
            self._sink.passage_lost(reason=passage.failed, ns=ns)
        if calls or passage.situation is not OTHER:
            table = self._table(calls)
            self._sink.passage_ran(table, basis="counted", ns=ns)
            if passage.situation is not OTHER and not passage.failed:
                self._plan.learn(passage.situation, passage.place, witness, table.name)

    def _end_replayed(self, passage: _Open, witness: Witness, ns: int) -> None:
        name, is_vouched_for = self._plan.find(passage.situation, passage.place, witness)
        table = self._tables.get(name or "")
        if table is None:
            self._plan.forget(passage.situation, passage.place)
            self._sink.passage_lost(reason="the table of a replayed passage was no longer kept", ns=ns)
        else:
            self._sink.passage_ran(table, basis="replayed" if is_vouched_for else "modelled", ns=ns)

    def _table(self, calls: Mapping[Key, int]) -> Table:
        """Return the table of these calls, priced once."""
        signature = frozenset(calls.items())
        table = self._by_calls.get(signature)
        if table is None:
            rows = rows_of(calls)
            kept, beyond = rows[:MAX_ROWS], rows[MAX_ROWS:]
            rest = self._price(beyond)
            table = Table(kept, self._price(kept) + rest, rest)
            for held in (self._by_calls, self._tables):
                if len(held) >= MAX_TABLES:
                    held.pop(next(iter(held)))
            self._by_calls[signature] = table
            self._tables[table.name] = table
        return table

    def _price(self, rows: tuple[Any, ...]) -> Tally:
        tallies = [self._book.count(row.call, calls=row.calls, phase=row.phase) for row in rows]
        return Tally.of(
            (count for tally in tallies for count in tally.counts),
            (seen for tally in tallies for seen in tally.uncounted),
        )

    def _adopt_compiled(self, part: torch.nn.Module) -> None:
        """Make the calls of a module that was compiled in place visible: its hooks are inside the compiled code."""
        inner = part.__dict__.get("_compiled_call_impl")
        if inner is not None and not isinstance(inner, _RegionCall):
            part._compiled_call_impl = _RegionCall(self, part, inner)  # noqa: SLF001
        elif hasattr(part, "_orig_mod") and id(part) not in self._models:
            self._handles.append(part.register_forward_hook(BoundaryHook(lambda _m, _a, out: self.region_ran(out))))

    def leave_child(self) -> None:
        """Step off the stack of a forked child (a DataLoader worker): there is nothing to meter there."""
        self._recorder.switch_off()
        self._open = None


def _leave_child(sensor: TorchSensor | None) -> None:
    if sensor is not None:
        sensor.leave_child()


class _RegionCall:
    """Stands before the compiled call of a module; the module never pickles or copies it."""

    def __init__(self, sensor: TorchSensor, module: torch.nn.Module, inner: Callable[..., Any]) -> None:
        self.sensor, self.module, self.inner = sensor, module, inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.inner(*args, **kwargs)
        self.sensor._forward_begins(self.module, args, kwargs)  # noqa: SLF001
        out = None
        try:
            out = self.inner(*args, **kwargs)
        finally:
            self.sensor._compiled_ended(self.module, out)  # noqa: SLF001
        return out
