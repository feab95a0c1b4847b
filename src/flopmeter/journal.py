"""Journal: everything that a running meter writes, and what it does when it cannot.

Keeps the open record, gaps and events until the ledger has them; opens the ledger when it can, and a new segment when
the disk has refused to make one durable. Not here: the file (`ledger`), sensors (`meter`), laws (`alarm`).
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from flopmeter import wire
from flopmeter.errors import LedgerError
from flopmeter.ledger.file import LedgerFile
from flopmeter.recording import OpenGaps, Recording
from flopmeter.usage import Usage

if TYPE_CHECKING:
    from flopmeter.alarm import Alarm
    from flopmeter.attestation.signers.signer import Signer
    from flopmeter.ledger.merge import RunLedger
    from flopmeter.regimes.regime import Regime

_log = logging.getLogger("flopmeter")


class Circumstances(TypedDict):
    """What a record says besides what ran: device usage, the meter's own time, what the devices could do at most."""

    usage: Usage
    own_ns: int
    ceiling: int | None


class Journal:
    """What one meter has written and has still to write; nothing is dropped before it is written.

    `alarm` watches the totals as they are written; None where no regime is watched.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        rank: int,
        header: Mapping[str, wire.Wire],
        alarm: "Alarm | None" = None,
        strict: bool = False,
    ) -> None:
        """Remember what to write where; nothing is opened before `open`."""
        self._run_dir = run_dir
        self._rank = rank
        self._header = header
        self._alarm = alarm
        self._strict = strict
        self._ledger: LedgerFile | None = None
        self._events: list[tuple[str, Mapping[str, wire.Wire]]] = []
        self._gaps = OpenGaps()
        self._devices: dict[str, dict[str, str]] = {}
        self._is_failing = False
        self._is_flushing = False
        self._in_flight: tuple[LedgerFile, int, Callable[[], None]] | None = None
        self._pid = os.getpid()
        self.recording = Recording()

    def open(self) -> None:
        """Open the ledger; where that fails, say so and try again at each `flush`.

        Raises:
            LedgerError: in strict mode, the ledger cannot be opened.
        """
        try:
            self._open_segment()
        except LedgerError as error:
            self._fail(error, "nothing is recorded until the ledger can be opened")

    @property
    def seed(self) -> int:
        """The number from which audits are drawn: the same on all ranks that share a run directory, and in each life.

        It follows from the run's id, which is made up at random, and stands in the header before anything runs.
        """
        run = self._ledger.run if self._ledger is not None else os.urandom(16).hex()
        return int(wire.digest(f"audits of {run}".encode())[:16], 16)

    @property
    def last(self) -> tuple[Path, str] | None:
        """The file that is or was written, and the digest of its last line."""
        return None if self._ledger is None else (self._ledger.path, self._ledger.head)

    def note_miss(self, *, booked: str | None, family: str | None) -> None:
        """Keep for the next flush that passages were booked at a figure that an audit found to be wrong."""
        self.note("miss", {"booked": booked, "family": family})

    def note(self, kind: str, body: Mapping[str, wire.Wire]) -> None:
        """Keep an event for the next flush."""
        self._events.append((kind, body))

    def note_device(self, uuid: str, fields: Mapping[str, str]) -> None:
        """Keep a device's identity for the next flush, once, and again where it is another."""
        if self._devices.get(uuid) != fields:
            self._devices[uuid] = dict(fields)
            self.note("device", {"uuid": uuid, **fields})

    def note_gap(self, reason: str, detail: str, *, ns: int | None, ceiling: int | None) -> None:
        """Keep a gap of at most `ns` for the next flush; the first of a kind is logged."""
        if self._gaps.add(reason, detail, ns=ns, ceiling=ceiling):
            _log.warning("%s, the run goes on: %s", reason, detail)

    def flush(self, *, usage: Usage, own_ns: int, ceiling: int | None) -> None:
        """Write what is open and make it durable; what cannot be written is kept and tried again.

        Raises:
            LedgerError: in strict mode, the ledger cannot be written.
        """
        if os.getpid() != self._pid or self._is_flushing:
            return  # a forked child has no part in this ledger; a signal handler comes in the middle and has to wait
        self._is_flushing = True
        try:
            self._flush(usage, own_ns, ceiling)
        finally:
            self._is_flushing = False

    def _flush(self, usage: Usage, own_ns: int, ceiling: int | None) -> None:
        self.recording.add_usage(self._encodable(usage))
        self.recording.close_record(own_ns=own_ns, ceiling=ceiling)
        try:
            self._settle()
            ledger = self._ledger if self._ledger is not None and self._ledger.is_open else self._open_segment()
            for table in self.recording.unwritten():
                self._append(ledger, "table", table.to_wire(), partial(self.recording.table_written, table))
            steps = self.recording.waiting()
            if steps is not None:
                self._append(ledger, "steps", steps.to_wire(), partial(self.recording.steps_written, steps))
            if self._alarm is not None:
                self._events.extend(self._alarm.look(self.recording.total))
            self._events.extend(("gap", body) for body in self._gaps.take())
            self._write_events(ledger)
            ledger.sync()
            if self._alarm is not None:
                self._alarm.raise_now()
            self._is_failing = False
        except LedgerError as error:
            self._fail(error, "the run goes on and it is tried again")

    def close(self, *, reason: str, usage: Usage, own_ns: int, ceiling: int | None) -> None:
        """Write the last records and let go of the ledger; what cannot be written is said, and lost."""
        if os.getpid() != self._pid:
            return
        self.flush(usage=usage, own_ns=own_ns, ceiling=ceiling)
        if self._alarm is not None:
            for _ in range(2):  # what is being signed, and what became due meanwhile
                self._events.extend(self._alarm.settle())
                self.flush(usage=Usage(), own_ns=own_ns, ceiling=ceiling)
            self._events.extend(self._alarm.settle())
        self._events.extend(("gap", body) for body in self._gaps.take(is_last=True))
        self.note("close", {"reason": reason})
        self.flush(usage=Usage(), own_ns=own_ns, ceiling=ceiling)
        if self._ledger is not None:
            self._ledger.close()
        if self._events or not self.recording.is_empty:
            _log.error("%s: what ran since the last record could not be written and is lost", self._run_dir)

    def _open_segment(self) -> LedgerFile:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        ledger = LedgerFile(self._run_dir, rank=self._rank, header=self._header)
        former = ledger.former
        own = tuple(s for s in former.segments if s.rank == self._rank) if former is not None else ()
        done = _steps_of(replace(former, segments=own)) if former is not None and own else 0
        self.recording.begin_segment(first=done)
        if self._alarm is not None:
            self._alarm.start(former, own_file=ledger.path)
        self._ledger = ledger
        return ledger

    def _encodable(self, usage: Usage) -> Usage:
        """Return usage that a line can hold: what a driver says must not keep what ran from being written."""
        try:
            wire.encode(usage.to_wire())
        except (TypeError, ValueError) as error:
            detail = f"what the devices spent could not be encoded: {error!r}"
            self.note_gap("record", detail[:300], ns=0, ceiling=0)
            return Usage((), ("what the devices spent could not be encoded for a while",))
        return usage

    def _write_events(self, ledger: LedgerFile) -> None:
        while self._events:
            event = self._events[0]
            try:
                self._append(ledger, *event, partial(self._event_written, event))
            except (TypeError, ValueError) as error:  # it cannot be encoded, now or ever
                self._event_written(event)
                self.note_gap(
                    "record", f"a line of kind {event[0]} could not be encoded: {error!r}"[:300], ns=0, ceiling=0
                )

    def _append(
        self, ledger: LedgerFile, kind: str, body: Mapping[str, wire.Wire], note_written: Callable[[], None]
    ) -> None:
        """Write a line and note that it is written, so that an interrupt between the two is made good later."""
        self._in_flight = (ledger, ledger.entries, note_written)
        ledger.append(kind, body)
        note_written()
        self._in_flight = None

    def _settle(self) -> None:
        if self._in_flight is not None:
            ledger, entries, note_written = self._in_flight
            if ledger.entries > entries:
                note_written()
            self._in_flight = None

    def _event_written(self, event: tuple[str, Mapping[str, wire.Wire]]) -> None:
        if self._events and self._events[0] is event:
            self._events.pop(0)

    def _fail(self, error: LedgerError, consequence: str) -> None:
        if self._strict:
            raise error
        if not self._is_failing:
            _log.error("%s; %s", error, consequence)
        self._is_failing = True


def _steps_of(ledger: "RunLedger") -> int:
    from flopmeter.account import Account  # for runs that go on

    return Account.of(ledger).steps


def make_alarm(
    run_dir: Path, regimes: "Sequence[Regime | Path | str]", signer: "Signer | Path | str | None"
) -> "Alarm | None":
    """Look regimes and key up, so that a wrong name is said before training begins; None without a regime.

    Raises:
        ValueError: a key and no regime.
        UnknownRegimeError, UnknownSignerError, SigningError: a regime or key that cannot be used.
    """
    if signer is not None and not regimes:
        raise ValueError("a signer signs warnings about regimes, and none is named; give regimes=[…] too")
    if not regimes:
        return None
    from flopmeter.alarm import Alarm  # loads regimes and signing, which few runs need

    return Alarm.of(run_dir, regimes, signer)
