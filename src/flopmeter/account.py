"""Account: what the ledgers of one run add up to, from files alone.

Not here: laws (`regimes`), comparison with estimates (`reconciliation`), signatures (`attestation`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from flopmeter import wire
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError, MalformedError
from flopmeter.estimate.estimate import Estimate
from flopmeter.estimate.six_nd import estimate_six_nd
from flopmeter.ledger.chain import Segment
from flopmeter.ledger.entry import Entry
from flopmeter.ledger.merge import Head, RunLedger, join_heads, read_run
from flopmeter.step import Steps, Table, Totals
from flopmeter.tally import Tally
from flopmeter.units import NS_PER_S
from flopmeter.usage import Usage

MAX_WORLD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch whose work was not measured, or not in full.

    Units: `ns` is how long it lasted at most, None where unknown; `upper_flop` what it could have held at most, None
    where nothing bounds it; `times` is how often it happened.
    """

    reason: str
    detail: str
    rank: int
    segment: int
    ns: int | None
    upper_flop: int | None
    times: int = 1

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the gap as reports and attestations carry it."""
        return {
            "reason": self.reason,
            "detail": self.detail,
            "rank": wire.print_count(self.rank),
            "segment": wire.print_count(self.segment),
            "ns": wire.print_known(self.ns),
            "upper_flop": wire.print_known(self.upper_flop),
            "times": wire.print_count(self.times),
        }

    def __add__(self, other: object) -> "Gap":
        """Join two gaps of one reason in one segment."""
        if not isinstance(other, Gap):
            return NotImplemented
        ns, upper = _added(self.ns, other.ns), _added(self.upper_flop, other.upper_flop)
        return replace(self, ns=ns, upper_flop=upper, times=self.times + other.times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model's size, which 6ND needs.

    Units: parameters; logical ones (a tied weight once, a sharded one whole).
    """

    parameters: int
    trainable: int
    embedding: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {
            "parameters": wire.print_count(self.parameters),
            "trainable": wire.print_count(self.trainable),
            "embedding": wire.print_count(self.embedding),
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="model")
        return cls(
            **{name: wire.parse_count(fields.get(name), name=name) for name in ("parameters", "trainable", "embedding")}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What all ledgers of one run add up to.

    Units: `flop`, `int_op` operations; `steps` optimizer updates of the rank that made most; `tokens` summed over
    ranks; `passages` by basis; `foreign_formulas` operator by operator, where theirs is written down; `own_ns`
    and `metered_ns` nanoseconds summed over ranks.
    """

    run: str
    ranks: int
    steps: int
    tokens: int
    samples: int
    tally: Tally
    usage: Usage
    upper: int | None
    gaps: tuple[Gap, ...]
    model: Model | None
    passages: Mapping[str, int]
    own_ns: int
    metered_ns: int
    subjects: Mapping[str, str] = field(default_factory=dict)
    books: tuple[str, ...] = ()
    foreign_formulas: Mapping[str, str] = field(default_factory=dict)
    self_tests: tuple[bool, ...] = ()
    warned: tuple[tuple[str, int], ...] = ()
    attestations: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    heads: tuple[Head, ...] = ()

    @classmethod
    def of(cls, run: "Path | str | RunLedger", *, live: bool = False) -> Self:
        """Add up the ledgers of a run directory, or of ledgers already read.

        Every record's cumulative totals are computed again and compared. `live` means that the last segments are
        still being written and the account is as of their last record; else an end without a closing line is a gap.

        Raises:
            LedgerMissingError: no ledger there.
            LedgerUnreadableError: a file or a record is not of a form that this build reads.
            LedgerBrokenError: a chain or a total does not follow.
        """
        ledger = run if isinstance(run, RunLedger) else read_run(run)
        sums = _Sums()
        for segment, following in zip(ledger.segments, [*ledger.segments[1:], None], strict=True):
            same_rank = following is not None and following.rank == segment.rank
            sums.add_segment(segment, following if same_rank else None, live=live)
        sums.add_missing_ranks(ledger.segments)
        return cls(**sums.fields(), run=ledger.run, **_circumstances(ledger))

    @property
    def flop(self) -> int:
        """Floating-point operations executed, best figure.

        Units: FLOP.
        Basis: mixed; `tally.by("basis")` splits it.
        Is not: anything uncounted or in a gap; `interval` says how much that may be.
        """
        return self.tally.flop

    @property
    def int_op(self) -> int:
        """Integer operations executed, best figure.

        Units: operations.
        """
        return self.tally.int_op

    @property
    def lower(self) -> int:
        """What is known to have run at least: the counted passages.

        Units: FLOP. No replayed passage has been audited yet (n = 0), so none of them stands here.
        """
        return self.tally.select(basis="counted").flop

    @property
    def interval(self) -> tuple[int, int | None]:
        """What `flop` lies between; no upper end when nothing bounds what was not counted.

        Units: FLOP.
        """
        return (self.lower, self.upper)

    @property
    def estimate(self) -> Estimate:
        """6ND from the model and the tokens that the ledger names."""
        return estimate_six_nd(parameters=self.model.parameters if self.model else None, tokens=self.tokens)

    @property
    def head(self) -> str:
        """One digest over the heads of all ledger files."""
        return join_heads(self.heads)

    @property
    def entries(self) -> int:
        """Lines of all ledger files.

        Units: lines.
        """
        return sum(head.entries for head in self.heads)

    @property
    def overhead_fraction(self) -> float | None:
        """Share of the metered time that the meter spent in its own Python code; None where nothing was metered.

        Is not: what torch's dispatcher adds around that code while a passage is counted.
        """
        return self.own_ns / self.metered_ns if self.metered_ns else None


class _Sums:
    """The sums while ledgers are read; one pass, no entry kept."""

    def __init__(self) -> None:
        self.counts: list[Tally] = []
        self.usage = Usage()
        self.gaps: dict[tuple[str, str, int, int], Gap] = {}
        self.upper: int | None = 0
        self.passages: Counter[str] = Counter()
        self.models: dict[int, Model] = {}
        self.subjects: dict[str, str] = {}
        self.steps: Counter[int] = Counter()
        self.tokens = self.samples = self.own_ns = self.metered_ns = 0
        self.self_tests: list[bool] = []
        self.warned: list[tuple[str, int]] = []
        self.attestations: list[str] = []

    def add_segment(self, segment: Segment, following: Segment | None, *, live: bool) -> None:
        tables: dict[str, Table] = {}
        total = Totals()
        ran: Counter[tuple[str, str, str]] = Counter()
        loose: list[Tally] = []
        ceiling = wire.parse_known(segment.header.body.get("ceiling_flop_per_s"))
        for entry in segment.entries:
            where = f"{segment.path}:{entry.seq + 1}"
            try:
                if entry.kind == "table":
                    table = Table.from_wire(entry.body)
                    tables[table.name] = table
                elif entry.kind == "steps":
                    steps = Steps.from_wire(entry.body)
                    total = self._add_steps(segment.rank, steps, tables, total, ran)
                    loose.append(steps.loose)
                    ceiling = steps.ceiling_flop_per_s
                else:
                    self._add_event(segment, entry)
            except MalformedError as error:
                raise LedgerUnreadableError(error.what, where=where) from error
            except LedgerBrokenError as error:
                raise LedgerBrokenError(error.what, where=where) from error
        self.counts.extend(
            (tables[name].tally * times).labelled(purpose=purpose, basis=basis)
            for (name, purpose, basis), times in ran.items()
        )
        self.counts.extend(loose)
        if not segment.is_closed and not (live and following is None):
            self._add_unclosed(segment, following, ceiling)

    def add_missing_ranks(self, segments: Sequence[Segment]) -> None:
        """A rank that a header speaks of and that left no file has done unknown work."""
        found = {segment.rank for segment in segments}
        world = max((wire.parse_known(segment.header.body.get("world")) or 0 for segment in segments), default=0)
        missing = [str(rank) for rank in range(min(world, MAX_WORLD)) if rank not in found]
        if missing:
            some = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
            detail = f"{len(missing)} of {world} ranks left no ledger here: {some}"
            self._add_gap(segments[0], "missing ranks", detail, None, None)

    def _add_steps(
        self, rank: int, steps: Steps, tables: Mapping[str, Table], before: Totals, ran: Counter[tuple[str, str, str]]
    ) -> Totals:
        total = before + Totals.of(steps.loose, tokens=steps.tokens, steps=steps.count)
        closed_flop, open_ns = steps.loose.flop, steps.loose_ns
        for item in steps.ran:
            table = tables.get(item.table)
            if table is None:
                msg = f"table {item.table[:12]}… ran, and stands nowhere before"
                raise LedgerBrokenError(msg)
            ran[item.table, item.purpose, item.basis] += item.times
            self.passages[item.basis] += item.times
            total += Totals.of(table.tally) * item.times
            if item.basis == "counted" and not table.tally.uncounted:
                closed_flop += table.tally.flop * item.times
            else:
                open_ns += item.ns
        if total != steps.total:
            msg = f"the record says {steps.total} so far, its parts add up to {total}"
            raise LedgerBrokenError(msg)
        self._raise_upper(closed_flop, open_ns, steps.ceiling_flop_per_s)
        self.usage += steps.usage
        self.steps[rank] += steps.count
        self.tokens += steps.tokens
        self.samples += steps.samples
        self.own_ns += steps.own_ns
        self.metered_ns += steps.ended_ns - steps.started_ns
        return total

    def _add_event(self, segment: Segment, entry: Entry) -> None:
        body = entry.body
        if entry.kind == "gap":
            self._add_gap(
                segment,
                wire.parse_text(body.get("reason"), name="reason"),
                wire.parse_text(body.get("detail"), name="detail"),
                wire.parse_known(body.get("ns")),
                wire.parse_known(body.get("ceiling_flop_per_s")),
                times=wire.parse_count(body.get("times", "1"), name="times"),
            )
        elif entry.kind == "model":
            self.models[segment.rank] = Model.from_wire(body)
        elif entry.kind == "self-test":
            self.self_tests.append(body.get("passed") is True)
        elif entry.kind == "checkpoint":
            for item in wire.parse_list(body.get("files"), name="files"):
                fields = wire.parse_object(item, name="file")
                self.subjects[wire.parse_digest(fields.get("sha256"))] = wire.parse_text(fields.get("name"))
        elif entry.kind == "threshold":
            self.warned.append((wire.parse_text(body.get("regime")), wire.parse_count(body.get("percent"))))
        elif entry.kind == "attestation":
            self.attestations.append(wire.parse_digest(body.get("payload")))

    def _add_unclosed(self, segment: Segment, following: Segment | None, ceiling: int | None) -> None:
        """A life that did not end in order: what ran after its last record is unknown, and bounded by time at most."""
        last = segment.entries[-1].at
        torn = f"; {segment.torn.size} bytes of a line that was being written were lost" if segment.torn else ""
        if following is None:
            detail = f"last record {last}{torn}; the process still runs, or was killed"
            self._add_gap(segment, "not closed", detail, None, None)
            return
        ns = _bound_ns(last, following.header.at)
        detail = f"last record {last}, gone on {following.header.at}{torn}; work since that record is unknown"
        self._add_gap(segment, "killed", detail, ns, ceiling)

    def _add_gap(
        self, segment: Segment, reason: str, detail: str, ns: int | None, ceiling: int | None, *, times: int = 1
    ) -> None:
        upper = 0 if ns == 0 else None if ns is None or ceiling is None else _product(ceiling, ns)
        key = (reason, detail, segment.rank, segment.number)
        gap = Gap(reason=reason, detail=detail, rank=key[2], segment=key[3], ns=ns, upper_flop=upper, times=times)
        self.gaps[key] = self.gaps[key] + gap if key in self.gaps else gap
        self.upper = _added(self.upper, upper)

    def _raise_upper(self, closed_flop: int, open_ns: int, ceiling: int | None) -> None:
        bounded = None if open_ns and ceiling is None else closed_flop + _product(ceiling or 0, open_ns)
        self.upper = _added(self.upper, bounded)

    def fields(self) -> dict[str, Any]:
        """Return the sums, named as an Account names them."""
        tally = Tally.of(
            (count for part in self.counts for count in part.counts),
            (seen for part in self.counts for seen in part.uncounted),
        )
        return {
            "steps": max(self.steps.values(), default=0),
            "tokens": self.tokens,
            "samples": self.samples,
            "tally": tally,
            "usage": self.usage,
            "upper": None if self.upper is None else max(self.upper, tally.flop),
            "gaps": tuple(self.gaps.values()),
            "model": next(iter(self.models.values()), None),
            "passages": dict(self.passages),
            "own_ns": self.own_ns,
            "metered_ns": self.metered_ns,
            "subjects": self.subjects,
            "self_tests": tuple(self.self_tests),
            "warned": tuple(self.warned),
            "attestations": tuple(self.attestations),
        }


def _circumstances(ledger: RunLedger) -> dict[str, Any]:
    books: Iterable[wire.Wire] = (segment.header.body.get("book") for segment in ledger.segments)
    bodies = [segment.header.body.get("foreign_formulas") or {} for segment in ledger.segments]
    foreign = [wire.parse_object(body, name="foreign formulas") for body in bodies]
    return {
        "ranks": len({segment.rank for segment in ledger.segments}),
        "books": tuple(dict.fromkeys(book for book in books if isinstance(book, str))),
        "foreign_formulas": {op: str(name) for found in foreign for op, name in found.items()},
        "started": min(date for segment in ledger.segments for date in (segment.header.at, segment.entries[-1].at)),
        "ended": max(segment.entries[-1].at for segment in ledger.segments),
        "heads": ledger.heads,
    }


def _product(ceiling_flop_per_s: int, ns: int) -> int:
    """Round up: an upper bound stays one."""
    return -(-ceiling_flop_per_s * ns // NS_PER_S)


def _bound_ns(earlier: str, later: str) -> int | None:
    """Return how long it was at most between two dates; None where the clock was set back meanwhile."""
    try:
        seconds = (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except (TypeError, ValueError) as error:
        msg = f"{earlier!r} or {later!r} is no date"
        raise LedgerUnreadableError(msg) from error
    return None if seconds < 0 else round(seconds * NS_PER_S) + NS_PER_S // 1000  # dates are cut to milliseconds


def _added(one: int | None, two: int | None) -> int | None:
    return None if one is None or two is None else one + two
