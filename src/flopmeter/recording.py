"""Recording and OpenGaps: what a running meter has gathered since the last record that it wrote.

Not here: the file it goes to (`ledger`), and where passages come from (`sensors`).
"""

import time
from typing import NamedTuple

from flopmeter import wire
from flopmeter.step import Chance, Ran, Steps, Table, Totals
from flopmeter.tally import Tally
from flopmeter.usage import Usage

MAX_TABLES = 4096
MAX_ROWS = 100_000
MAX_GAP_LINES = 1000
MAX_GAP_KINDS = 100


class _Alike(NamedTuple):
    """What passages have in common that are one line of a record."""

    purpose: str
    basis: str
    table: str | None
    family: str | None
    one_in: int | None


class _Sum:
    """What those passages add up to."""

    def __init__(self) -> None:
        self.times = self.ns = self.longest_ns = self.lower = self.upper = self.most_flop = 0
        self.is_between = False
        self.tallies: list[Tally] = []

    def add(
        self, *, times: int, ns: int, chance: Chance | None, tally: Tally | None, most_flop: int, flop: int
    ) -> None:
        self.times += times
        self.ns += ns
        self.most_flop = max(self.most_flop, most_flop)
        if tally is not None:
            self.tallies.append(tally)
        if chance is not None:
            self.longest_ns = max(self.longest_ns, chance.longest_ns)
            self.is_between |= chance.lower is not None
            self.lower += flop if chance.lower is None else chance.lower
            self.upper += flop if chance.upper is None else chance.upper

    def line(self, alike: _Alike, each: Totals | None) -> Ran:
        """Return the line of a record; an interrupt may have left a sum half made, so its parts are made to agree."""
        tally = Tally.of(
            (count for tally in self.tallies for count in tally.counts),
            (seen for tally in self.tallies for seen in tally.uncounted),
        )
        flop = tally.flop if each is None else each.flop * self.times
        chance = None
        if alike.one_in is not None:
            chance = Chance(
                one_in=alike.one_in,
                longest_ns=min(max(self.longest_ns, -(-self.ns // self.times)), self.ns),
                lower=min(self.lower, flop) if self.is_between else None,
                upper=max(self.upper, flop) if self.is_between else None,
            )
        return Ran(
            purpose=alike.purpose,
            basis=alike.basis,
            times=self.times,
            ns=self.ns,
            table=alike.table,
            tally=None if alike.table else tally,
            most_flop=None if alike.table else max(self.most_flop, -(-tally.flop // self.times)),
            family=alike.family,
            chance=chance,
        )


class _Record:
    """What ran since the record before: still open, or closed and waiting to be written."""

    def __init__(self, started_ns: int) -> None:
        self.started_ns = self.ended_ns = started_ns
        self.ran: dict[_Alike, _Sum] = {}
        self.count = self.tokens = self.samples = self.own_ns = self.audits = self.misses = 0
        self.usage = Usage()
        self.ceiling: int | None = None

    @property
    def is_empty(self) -> bool:
        has_usage = self.usage.devices or self.usage.notes
        return not (self.ran or self.count or self.tokens or self.samples or self.audits or has_usage)


class _State(NamedTuple):
    """Replaced as one value, so that an interrupt finds a record waiting, or written, and never half of it."""

    first: int
    total: Totals
    waiting: _Record | None
    open: _Record


class Recording:
    """Adds up passages, tokens and usage; hands them over as one `Steps` at a time.

    Room for tables is bounded: past `MAX_TABLES` tables or `MAX_ROWS` rows work is loose: it has a tally in the
    record, is counted, and cannot be counted again.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._flop = 0
        self._tables: dict[str, tuple[Table, Totals]] = {}
        self._rows = 0
        self._own_ns = 0
        self._written: set[str] = set()
        self._state = _State(0, Totals(), None, _Record(time.monotonic_ns()))

    def begin_segment(self, *, first: int) -> None:
        """Begin a new ledger file, in which no table stands yet; what is open stays open. `first` is the next step."""
        self._written = set()
        self._state = self._state._replace(first=first, total=Totals())

    @property
    def flop(self) -> int:
        """Operations since this recording began.

        Units: FLOP.
        """
        return self._flop

    @property
    def total(self) -> Totals:
        """Totals of this segment as of the last record."""
        return self._state.total

    @property
    def is_empty(self) -> bool:
        """Say whether nothing ran since the last record that was written."""
        return self._state.waiting is None and self._state.open.is_empty

    @property
    def next_step(self) -> int:
        """The index of the step that is open.

        Units: steps of this run on this rank, from 0.
        """
        state = self._state
        return state.first + (state.waiting.count if state.waiting is not None else 0) + state.open.count

    def add(
        self,
        *,
        purpose: str,
        basis: str,
        times: int,
        ns: int,
        table: Table | None = None,
        tally: Tally | None = None,
        most_flop: int | None = None,
        family: str | None = None,
        chance: Chance | None = None,
    ) -> None:
        """Take passages: `times` of one table, or those that `tally` is the cost of."""
        if table is not None and not self._has_room(table):
            tally, most_flop = table.tally * times, table.tally.flop
            table = None
        cost = Totals.of(tally) if tally is not None else self._tables[table.name][1] * times if table else Totals()
        self._flop += cost.flop
        one_in = None if chance is None else chance.one_in
        alike = _Alike(purpose, basis, table.name if table is not None else None, family, one_in)
        self._state.open.ran.setdefault(alike, _Sum()).add(
            times=times,
            ns=ns,
            chance=chance,
            tally=None if table is not None else tally,
            most_flop=cost.flop if most_flop is None else most_flop,
            flop=cost.flop,
        )

    def _has_room(self, table: Table) -> bool:
        if table.name in self._tables:
            return True
        if len(self._tables) >= MAX_TABLES or self._rows >= MAX_ROWS:
            return False
        self._tables[table.name] = (table, Totals.of(table.tally))
        self._rows += table.size
        return True

    def add_audit(self, *, is_miss: bool) -> None:
        """Take an audit, and whether it found something else than what was ready for that passage."""
        self._state.open.audits += 1
        self._state.open.misses += is_miss

    def add_tokens(self, *, tokens: int, samples: int) -> None:
        """Take what was trained in the step that is open."""
        self._state.open.tokens += tokens
        self._state.open.samples += samples

    def finish_step(self, *, tokens: int = 0, samples: int = 0) -> int:
        """Count one finished step and what was trained in it; return the index of the next.

        Units: steps of this run on this rank, from 0.
        """
        state = self._state
        record = state.open
        record.count += 1
        if tokens:
            record.tokens += tokens
        if samples:
            record.samples += samples
        return state.first + (state.waiting.count if state.waiting is not None else 0) + record.count

    def add_usage(self, usage: Usage) -> None:
        """Take what the devices spent."""
        self._state.open.usage += usage

    def close_record(self, *, own_ns: int, ceiling: int | None) -> None:
        """Close the open record, unless one still waits to be written or nothing ran; what runs next is another."""
        state = self._state
        if state.waiting is not None or state.open.is_empty:
            return
        record = state.open
        record.ended_ns = time.monotonic_ns()
        record.own_ns, self._own_ns = max(0, own_ns - self._own_ns), own_ns
        record.ceiling = ceiling
        self._state = state._replace(waiting=record, open=_Record(record.ended_ns))

    def unwritten(self) -> tuple[Table, ...]:
        """Return the tables that the waiting record names and that do not stand in the segment yet."""
        record = self._state.waiting
        named = dict.fromkeys(alike.table for alike in record.ran if alike.table) if record is not None else ()
        return tuple(self._tables[name][0] for name in named if name not in self._written)

    def table_written(self, table: Table) -> None:
        """Remember that a table stands in the segment."""
        self._written.add(table.name)

    def waiting(self) -> Steps | None:
        """Return the record that waits to be written, its totals included; None where none does."""
        first, total, record, _ = self._state
        if record is None:
            return None
        lines = sorted(record.ran.items(), key=lambda item: tuple(map(str, item[0])))
        ran = tuple(
            found.line(alike, self._tables[alike.table][1] if alike.table is not None else None)
            for alike, found in lines
            if found.times
        )
        total += Totals(tokens=record.tokens, steps=record.count)
        for item in ran:
            total += (
                Totals.of(item.tally or Tally()) if item.table is None else self._tables[item.table][1] * item.times
            )
        return Steps(
            first=first,
            count=record.count,
            tokens=record.tokens,
            samples=record.samples,
            started_ns=record.started_ns,
            ended_ns=record.ended_ns,
            own_ns=record.own_ns,
            ran=ran,
            usage=record.usage,
            ceiling_flop_per_s=record.ceiling,
            total=total,
            audits=record.audits,
            misses=record.misses,
        )

    def steps_written(self, steps: Steps) -> None:
        """Note that the waiting record, handed out as these steps, stands in the ledger; again changes nothing."""
        state = self._state
        if state.waiting is not None and state.waiting.started_ns == steps.started_ns:
            self._state = _State(state.first + steps.count, steps.total, None, state.open)


class OpenGaps:
    """Adds up gaps until a record tells of them; one that repeats itself is one line with a number.

    Bounded: past `MAX_GAP_KINDS` kinds in one record the rest are one kind, and past `MAX_GAP_LINES` lines they wait
    for the last record.
    """

    def __init__(self) -> None:
        """Start without a gap."""
        self._open: dict[tuple[str, str, int | None], tuple[int, int | None]] = {}
        self._known: set[tuple[str, str]] = set()
        self._lines = 0

    def add(self, reason: str, detail: str, *, ns: int | None, ceiling: int | None) -> bool:
        """Take one gap of at most `ns`, None where its length is unknown; say whether its kind is new."""
        key = (reason, detail, ceiling)
        if key not in self._open and len(self._open) >= MAX_GAP_KINDS:
            key = ("too many kinds", f"more than {MAX_GAP_KINDS} kinds of gap in one record", ceiling)
        times, before_ns = self._open.get(key, (0, 0))
        self._open[key] = (times + 1, None if ns is None or before_ns is None else before_ns + ns)
        is_new = key[:2] not in self._known and len(self._known) < MAX_GAP_KINDS
        if is_new:
            self._known.add(key[:2])
        return is_new

    def take(self, *, is_last: bool = False) -> list[dict[str, wire.Wire]]:
        """Return the bodies of ledger lines, and start anew."""
        if self._lines >= MAX_GAP_LINES and not is_last:
            return []
        taken: list[dict[str, wire.Wire]] = [
            {
                "reason": reason,
                "detail": detail,
                "ns": None if ns is None else wire.print_count(ns),
                "ceiling_flop_per_s": None if ceiling is None else wire.print_count(ceiling),
                "times": wire.print_count(times),
            }
            for (reason, detail, ceiling), (times, ns) in self._open.items()
        ]
        self._lines += len(taken)
        self._open.clear()
        return taken
