"""Meter: sensors in, steps out, ledger kept.

The one object that a training script holds. It never raises into the run unless `strict=True`: what fails on our
side is written down as a gap. Not here: torch (behind `sensors`), laws (`monitor`), frameworks (`integrations`).
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flopmeter import wire
from flopmeter.devices.peaks import bound_cpu
from flopmeter.errors import FlopmeterError, MeterError, UncountedOpError
from flopmeter.formulas.book import FormulaBook
from flopmeter.journal import Circumstances, Journal, make_alarm
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.sink import INTERRUPTED
from flopmeter.settings import Settings, check_count, check_purpose
from flopmeter.usage import Usage

if TYPE_CHECKING:
    from types import TracebackType

    import torch

    from flopmeter.account import Account
    from flopmeter.attestation.signers.signer import Signer
    from flopmeter.regimes.regime import Regime
    from flopmeter.sensors.kinship import Booking, Verdict
    from flopmeter.sensors.nvml import NvmlSampler
    from flopmeter.sensors.passage import TorchSensor

INTERVAL_S = 5.0

_log = logging.getLogger("flopmeter")


class Meter:
    """Meters the compute of a training run into `run_dir`.

    Use it as a context manager around the training loop, on the thread that trains, and call `step` after each
    optimizer update. On an existing run directory it goes on with that run in a new segment.

    Args:
        run_dir: where the ledger lies; made if it is missing.
        model: the module or modules whose forward begins a passage; `watch` does the same later.
        optimizer: accepted for symmetry; every torch optimizer's step is seen without being named.
        exact: count every operator of every passage instead of replaying passages that stay the same.
        overhead_budget: share of wall time that metering may take, all of it together: what it leaves goes into
            audits, which count passages again that are replayed, and into counting what no witness covers.
        purpose: what the run is for, until `purpose(...)` says otherwise; one of `flopmeter.tally.PURPOSES`.
        regimes: ids of the catalogue, or paths of TOML files, to be warned about while training.
        signer: key that signs an attestation at each warning: a path, `file:PATH`, or a Signer.
        book: the formulas; by default the standard book, with those of installed packages. Where it has none, a
            formula that somebody registered with torch is borrowed.
        strict: raise what fails on our side instead of recording a gap.
        census: also list kernels of CUDA that no operator asked for; needs torch's profiler for itself, now and then.
        interval_s: a record is written at the end of a passage once this long has passed, the first one at once; a
            killed process loses what ran since the last record.

    Raises:
        UnknownRegimeError: a regime that cannot be used; said before training begins, as is a key that cannot.
        ValueError: a purpose outside the list.
        LedgerError: in strict mode, when it starts: the ledger cannot be opened. Else this is logged, what runs is
            kept in memory, and opening it is tried again at every record.
    """

    def __init__(
        self,
        run_dir: Path | str,
        *,
        model: "torch.nn.Module | Sequence[torch.nn.Module] | None" = None,
        optimizer: object | None = None,
        exact: bool = False,
        overhead_budget: float = 0.01,
        purpose: str | None = None,
        regimes: "Sequence[Regime | Path | str]" = (),
        signer: "Signer | Path | str | None" = None,
        book: FormulaBook | None = None,
        strict: bool = False,
        census: bool = False,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Check the arguments; nothing is opened or hooked before the `with`, or `start`."""
        self.run_dir = Path(run_dir).absolute()  # the program may change its directory
        self._models: list[Any] = [] if model is None else list(model) if isinstance(model, list | tuple) else [model]
        self._optimizer = optimizer
        self._settings = Settings.of(
            exact=exact, overhead_budget=overhead_budget, strict=strict, census=census, interval_s=interval_s
        )
        self._purpose = check_purpose(purpose or "undeclared")
        self._book = book or FormulaBook.installed()
        self._alarm = make_alarm(self.run_dir, [regimes] if isinstance(regimes, str | Path) else regimes, signer)
        self._journal: Journal | None = None
        self._sensor: TorchSensor | None = None
        self._nvml: NvmlSampler | None = None
        self._stepped: set[int] = set()
        self._tokens_so_far: int | None = None
        self._has_size: bool | None = None
        self._thread = threading.get_ident()
        self._has_explicit_steps = self._is_idle_known = False
        self._last_flush_ns = self._flushes_ns = 0

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        """Close, whatever happened inside; the run's own exception goes on its way."""
        self.close(reason="end" if kind is None else f"{kind.__name__} in the run")

    def start(self) -> Self:
        """Open the ledger, test the counter, hook in; a second call changes nothing.

        Whatever fails is logged, and the run goes on without being metered, or not yet.
        """
        if self._journal is None:
            try:
                self._start()
            except BaseException:  # Ctrl-C, or strict mode: nobody will call close
                self.close(reason="interrupted at the start")
                raise
        return self

    @guarded
    def _start(self) -> None:
        from flopmeter.sensors.nvml import NvmlSampler
        from flopmeter.sensors.passage import TorchSensor  # torch comes in here
        from flopmeter.sensors.ranks import find_rank, is_cuda_build
        from flopmeter.sensors.registered import with_registered
        from flopmeter.sensors.self_test import run_self_test

        self._tokens_so_far, self._thread = None, threading.get_ident()
        rank, world = find_rank()
        self._book = with_registered(self._book)
        test = run_self_test(self._book)
        alarm = self._alarm if rank == 0 else None  # one rank warns for all
        header = self._settings.header(
            self._book, purpose=self._purpose, world=world, torch_version=test.torch_version, has_cuda=is_cuda_build()
        )
        self._journal = Journal(self.run_dir, rank=rank, header=header, alarm=alarm, strict=self._settings.strict)
        self._journal.open()
        self._journal.note("self-test", test.to_wire())
        if not test.has_passed:
            self._gap("self-test", "the counter gave a wrong answer to a known question on this torch build", None)
        self._nvml = NvmlSampler(run=f"{self._journal.seed:x}")
        self._nvml.start()
        exact, budget = self._settings.exact, self._settings.overhead_budget
        self._sensor = TorchSensor(self, book=self._book, exact=exact, budget=budget, seed=self._journal.seed)
        self._sensor.start()
        if self._settings.census:
            self._sensor.census.start()
        self._sensor.begin_step(self._journal.recording.next_step)
        if self._models:
            self.watch(*self._models)
        self._flush()
        self._last_flush_ns = 0  # the first step is written at once

    def watch(self, model: "torch.nn.Module | Sequence[torch.nn.Module]", *more: object) -> None:
        """Make the forward of these modules begin passages, and note the model's size.

        Optimizers may be named too; they are seen anyway.
        """
        self._watch([*(model if isinstance(model, list | tuple) else [model]), *more])

    @guarded
    def _watch(self, given: list[object]) -> None:
        modules: list[Any] = [item for item in given if hasattr(item, "register_forward_pre_hook")]
        self._models = list({id(item): item for item in [*self._models, *modules]}.values())
        if self._sensor is None or self._journal is None:
            return
        for module in modules:
            self._sensor.watch(module)
        self._note_model()

    def _note_model(self) -> None:
        from flopmeter.sensors.model import measure_model

        if self._journal is not None and self._models:
            size = measure_model(self._models)
            self._has_size = size.parameters > 0  # lazy layers have none before their first forward
            self._journal.note("model", size.to_wire())

    def step(self, tokens: int = 0, samples: int = 0) -> None:
        """Close a Step: one optimizer update has been made.

        Units: `tokens` and `samples` trained in this step on this rank, all micro-batches together.
        """
        if self._sensor is None or self._journal is None:
            if not self._is_idle_known:
                self._is_idle_known = True
                _log.warning("step() was called while nothing is metered; use `with Meter(…)`, or start()")
            return
        tokens, samples = check_count(tokens), check_count(samples)
        self._has_explicit_steps = True
        self._sensor.new_step(self._journal.recording.finish_step(tokens=tokens, samples=samples))
        self._flush_when_due()

    def trained(self, *, tokens: int = 0, samples: int = 0, tokens_so_far: int | None = None) -> None:
        """Add tokens and samples to the step that is open, without closing it.

        `tokens_so_far` is for frameworks that keep a running total: what is new since it was last told is added, and
        the first telling adds nothing.

        Raises:
            TypeError, ValueError: a number that is not whole, or negative.
        """
        if tokens_so_far is not None:
            before, self._tokens_so_far = self._tokens_so_far, check_count(tokens_so_far)
            tokens += self._tokens_so_far - (self._tokens_so_far if before is None else before)
        if self._journal is not None:
            self._journal.recording.add_tokens(tokens=check_count(tokens), samples=check_count(samples))

    @contextmanager
    def purpose(self, name: str) -> Iterator[None]:
        """Label what runs inside, such as `evaluation`. A claim of whoever runs the training.

        Raises:
            ValueError: a purpose outside the list.
        """
        inner = check_purpose(name)
        if threading.get_ident() != self._thread:
            yield  # only the thread that started the meter is metered
            return
        outer = self._purpose
        self._switch_purpose(inner)
        try:
            yield
        finally:
            self._switch_purpose(outer)

    def checkpoint(self, path: Path | str) -> dict[str, str]:
        """Record that this run made these weight files; a directory stands for every file in it.

        Returns the SHA-256 of each file by name. The record is durable when this returns.

        Raises:
            MeterError: in strict mode, a file that cannot be read.
        """
        root = Path(path)
        try:
            files = sorted(item for item in root.rglob("*") if item.is_file()) if root.is_dir() else [root]
            digests = {wire.print_path(item.relative_to(root.parent)): wire.digest_file(item) for item in files}
        except OSError as error:
            self.sensor_failed(MeterError(f"cannot be read: {error.strerror}", where=str(root)), ns=0)
            return {}
        if self._journal is not None:
            self._journal.note("checkpoint", {"files": [{"name": n, "sha256": d} for n, d in digests.items()]})
            self._flush()
        return digests

    def account(self) -> "Account":
        """Return what the run adds up to until now, read back from its files."""
        from flopmeter.account import Account  # few runs ask for it

        if self._sensor is not None:
            self._sensor.boundary()
            self._flush()
        return Account.of(self.run_dir, live=self._sensor is not None)

    @property
    def flop(self) -> int:
        """Floating-point operations since this meter started, as far as they are booked: a second or so behind.

        Units: FLOP.
        Basis: mixed, as `Account.flop`; cheap enough for a progress bar.
        """
        return self._journal.recording.flop if self._journal is not None else 0

    def close(self, *, reason: str = "end") -> None:
        """Take the hooks away, write the last record and let go of the ledger; twice is fine."""
        self._close(reason)
        self._sensor = self._journal = None

    @guarded
    def _close(self, reason: str) -> None:
        if self._journal is None:
            return
        is_stopped = False
        try:
            self._stop_sensor()
            is_stopped = True
        finally:  # what was summed up until then is written, and that it may not be all
            if not is_stopped:
                self.passage_lost(reason=INTERRUPTED, ns=None)
            if self._has_size is False:
                self._note_model()
            if self._stepped and not self._has_explicit_steps:
                self._journal.recording.finish_step()
            if self._nvml is not None:
                self._nvml.stop()
            self._journal.close(reason=reason, **self._circumstances())
            if self._nvml is not None:
                self._nvml.sign(self._journal.last)

    @guarded
    def _stop_sensor(self) -> None:
        if self._sensor is not None:
            self._sensor.stop()

    def passages_ran(self, booking: "Booking") -> None:
        """Take passages from the sensor; in strict mode, refuse some with an operator that has no formula."""
        tally = booking.tally if booking.table is None else booking.table.tally
        if self._settings.strict and tally is not None and tally.uncounted:
            msg = f"{tally.uncounted[0].op} has no formula"
            raise UncountedOpError(msg, hint="FormulaBook.with_formula gives it one; without strict=True it is listed")
        if self._journal is not None:
            self._journal.recording.add(purpose=self._purpose, **booking._asdict())
            self._flush_when_due()  # generation and evaluation may go on for hours without a step

    def passage_audited(self, verdict: "Verdict") -> None:
        """Hear what an audit found; of a miss, write down whose figure was wrong."""
        if self._journal is None:
            return
        self._journal.recording.add_audit(is_miss=verdict.is_miss)
        if verdict.booked is not None or verdict.family is not None:
            self._journal.note_miss(booked=verdict.booked, family=verdict.family)

    def passages_doubted(self, table: str | None, *, family: str | None) -> None:
        """Hear that passages were booked at a table, or as one of a family, that may not have been theirs."""
        if self._journal is not None:
            self._journal.note_miss(booked=table, family=family)

    def passage_lost(self, *, reason: str, ns: int | None) -> None:
        """Take note of a passage whose work is not known in full."""
        self._gap("passage", reason, ns)

    def rank_placed(self, fields: Mapping[str, wire.Wire]) -> None:
        """Write down where this rank stands in the grid of the run."""
        if self._journal is not None:
            self._journal.note("coordinates", fields)

    def optimizer_steps(self, optimizer_id: int) -> None:
        """Where `step` is never called, end a Step when an optimizer that has stepped steps again."""
        if self._has_explicit_steps or self._journal is None:
            return
        if optimizer_id in self._stepped:
            self._stepped.clear()
            self._finish_step()
        self._stepped.add(optimizer_id)

    def _finish_step(self) -> None:
        if self._journal is not None and self._sensor is not None:
            self._sensor.begin_step(self._journal.recording.finish_step())

    def sensor_failed(self, error: Exception, *, ns: int | None = None) -> None:
        """Record a failure of ours as a gap of at most `ns`; raise it in strict mode."""
        if self._settings.strict:
            ours = error if isinstance(error, FlopmeterError) else MeterError(f"{type(error).__name__}: {error}")
            raise ours from error
        self._gap("failure", f"{type(error).__name__}: {error}"[:500], ns)

    def on_failure(self, error: Exception) -> None:
        """Hear of a failure at the start or the end, from `guarded`."""
        self.sensor_failed(error)

    def _switch_purpose(self, name: str) -> None:
        if self._sensor is not None:
            self._sensor.boundary()
        self._purpose = name

    def _gap(self, reason: str, detail: str, ns: int | None) -> None:
        if self._journal is not None:
            self._journal.note_gap(reason, detail, ns=ns, ceiling=self._ceiling())
        else:
            _log.error("nothing is metered, the run goes on: %s", detail)

    def _ceiling(self) -> int | None:
        """Return what the devices in use could have done per second at most, None where that is unknown."""
        devices = {"cpu"} if self._sensor is None else self._sensor.devices
        return bound_cpu(os.cpu_count() or 1) if devices == {"cpu"} else None

    def _flush_when_due(self) -> None:
        if time.monotonic_ns() - self._last_flush_ns >= self._settings.interval_ns:
            self._flush()

    def _flush(self) -> None:
        begun = time.perf_counter_ns()
        self._last_flush_ns = time.monotonic_ns()  # first: what is settled now asks whether a flush is due
        if self._sensor is not None:
            self._sensor.settle()
        if self._journal is not None:
            self._journal.flush(**self._circumstances())
        self._flushes_ns += time.perf_counter_ns() - begun

    def _circumstances(self) -> Circumstances:
        usage = Usage()
        if self._nvml is not None and self._journal is not None:
            usage = self._nvml.read()
            for uuid, fields in self._nvml.identities().items():  # at the end, too: a short run has no other flush
                self._journal.note_device(uuid, fields)
        own_ns = self._flushes_ns + (self._sensor.own_ns if self._sensor is not None else 0)
        return {"usage": usage, "own_ns": own_ns, "ceiling": self._ceiling()}
