"""Recording and OpenGaps: what a running meter has gathered since the last record that it wrote.

Not here: the file it goes to (`ledger`), and where passages come from (`sensors`).
"""

import time

from flopmeter import wire
from flopmeter.step import Ran, Steps, Table, Totals
from flopmeter.tally import Tally
from flopmeter.usage import Usage

MAX_TABLES = 4096
MAX_ROWS = 200_000
MAX_GAP_LINES = 1000
MAX_GAP_KINDS = 100


class Recording:
    """Adds up passages, tokens and usage; hands them over as one `Steps` at a time.

    Room for tables is bounded: past `MAX_TABLES` tables or `MAX_ROWS` rows a passage is kept as a loose tally, which
    is counted and cannot be counted again.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._flop = 0
        self._tables: dict[str, tuple[Table, Totals]] = {}
        self._rows = 0
        self._own_ns = 0
        self.begin_segment(first=0)
        self._clear(time.monotonic_ns())

    def begin_segment(self, *, first: int) -> None:
        """Begin a new ledger file, in which no table stands yet; what is open stays open. `first` is the next step."""
        self._first = first
        self._total = Totals()
        self._written: set[str] = set()

    def _clear(self, now_ns: int) -> None:
        self._ran: dict[tuple[str, str, str], list[int]] = {}
        self._loose: list[Tally] = []
        self._loose_ns = 0
        self._usage = Usage()
        self._count = self._tokens = self._samples = 0
        self._started_ns = now_ns

    @property
    def flop(self) -> int:
        """Operations since this recording began.

        Units: FLOP.
        """
        return self._flop

    @property
    def total(self) -> Totals:
        """Totals of this segment as of the last record."""
        return self._total

    @property
    def is_empty(self) -> bool:
        """Say whether nothing ran since the last record."""
        return not (self._ran or self._loose or self._count or self._tokens or self._samples or self._usage.devices)

    def add(self, table: Table, *, purpose: str, basis: str, ns: int) -> None:
        """Take one passage."""
        name = table.name
        known = self._tables.get(name)
        totals = known[1] if known is not None else Totals.of(table.tally)
        if known is None:
            if len(self._tables) < MAX_TABLES and self._rows < MAX_ROWS:
                self._tables[name] = (table, totals)
                self._rows += len(table.rows)
            else:
                self._loose.append(table.tally.labelled(purpose=purpose, basis=basis))
                self._loose_ns += 0 if basis == "counted" and not table.tally.uncounted else ns
                self._flop += totals.flop
                return
        cell = self._ran.get((name, purpose, basis))
        if cell is None:
            cell = self._ran[name, purpose, basis] = [0, 0]
        cell[0] += 1
        cell[1] += ns
        self._flop += totals.flop

    def add_tokens(self, *, tokens: int, samples: int) -> None:
        """Take what was trained in the step that is open."""
        self._tokens += tokens
        self._samples += samples

    def finish_step(self) -> None:
        """Count one finished step."""
        self._count += 1

    def add_usage(self, usage: Usage) -> None:
        """Take what the devices spent."""
        self._usage += usage

    def unwritten(self) -> tuple[Table, ...]:
        """Return the tables that this record names and that do not stand in the segment yet."""
        named = dict.fromkeys(name for name, _, _ in self._ran)
        return tuple(self._tables[name][0] for name in named if name not in self._written)

    def table_written(self, table: Table) -> None:
        """Remember that a table stands in the segment."""
        self._written.add(table.name)

    def steps(self, *, own_ns: int, ceiling: int | None) -> Steps:
        """Return the open record, its totals included; it stays open until `steps_written`."""
        loose = Tally.of(
            (count for tally in self._loose for count in tally.counts),
            (seen for tally in self._loose for seen in tally.uncounted),
        )
        ran = tuple(
            Ran(table=table, purpose=purpose, basis=basis, times=times, ns=ns)
            for (table, purpose, basis), (times, ns) in sorted(self._ran.items())
        )
        total = self._total + Totals.of(loose, tokens=self._tokens, steps=self._count)
        for item in ran:
            total += self._tables[item.table][1] * item.times
        self._ended_ns = time.monotonic_ns()
        self._pending = total
        return Steps(
            first=self._first,
            count=self._count,
            tokens=self._tokens,
            samples=self._samples,
            started_ns=self._started_ns,
            ended_ns=self._ended_ns,
            own_ns=max(0, own_ns - self._own_ns),
            ran=ran,
            loose=loose,
            loose_ns=self._loose_ns,
            usage=self._usage,
            ceiling_flop_per_s=ceiling,
            total=total,
        )

    def steps_written(self, *, own_ns: int) -> None:
        """Begin the next record."""
        self._first += self._count
        self._total = self._pending
        self._own_ns = own_ns
        self._clear(self._ended_ns)


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
