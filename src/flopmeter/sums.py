"""Sums: what the entries of ledgers add up to while they are read; one pass, no entry kept.

Not here: the value that comes out (`account.py`), what follows from chance (`bounds.py`), files (`ledger`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from flopmeter import wire
from flopmeter.bounds import Group, bound_groups, product
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError, MalformedError
from flopmeter.ledger.chain import Segment
from flopmeter.ledger.entry import Entry
from flopmeter.step import Chance, Ran, Steps, Table, Totals
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
class _Alike:
    """What booked passages have in common that are bounded together."""

    rank: int
    name: str | None
    one_in: int
    ceiling: int | None
    has_uncounted: bool


class Sums:
    """The sums while ledgers are read; one pass, no entry kept."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.counts: list[Tally] = []
        self.usage = Usage()
        self.gaps: dict[tuple[str, str, int, int], Gap] = {}
        self.lower = 0
        self.upper: int | None = 0
        self.groups: dict[_Alike, list[int]] = {}
        self.opened: set[str] = set()
        self.passages: Counter[str] = Counter()
        self.models: dict[int, Model] = {}
        self.subjects: dict[str, str] = {}
        self.steps: Counter[int] = Counter()
        self.tokens = self.samples = self.own_ns = self.metered_ns = self.audits = self.misses = 0
        self.self_tests: list[bool] = []
        self.warned: list[tuple[str, int]] = []
        self.attestations: list[str] = []

    def add_segment(self, segment: Segment, following: Segment | None, *, live: bool) -> None:
        """Add one life of one rank; `following` is the next of that rank."""
        tables: dict[str, Table] = {}
        total = Totals()
        ran: Counter[tuple[str, str, str]] = Counter()
        loose: dict[tuple[str, str], list[Tally]] = {}
        ceiling = wire.parse_known(segment.header.body.get("ceiling_flop_per_s"))
        for entry in segment.entries:
            where = f"{segment.path}:{entry.seq + 1}"
            try:
                if entry.kind == "table":
                    table = Table.from_wire(entry.body)
                    tables[table.name] = table
                elif entry.kind == "steps":
                    steps = Steps.from_wire(entry.body)
                    total = self._add_steps(segment, steps, tables, total)
                    for item in steps.ran:
                        if item.table is not None:
                            ran[item.table, item.purpose, item.basis] += item.times
                        elif item.tally is not None:
                            loose.setdefault((item.purpose, item.basis), []).append(item.tally)
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
        self.counts.extend(
            tally.labelled(purpose=purpose, basis=basis)
            for (purpose, basis), tallies in loose.items()
            for tally in tallies
        )
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

    def _add_steps(self, segment: Segment, steps: Steps, tables: Mapping[str, Table], before: Totals) -> Totals:
        total = before + Totals(tokens=steps.tokens, steps=steps.count)
        for item in steps.ran:
            cost = item.total(tables)
            if cost is None:
                msg = f"table {str(item.table)[:12]}… ran, and stands nowhere before"
                raise LedgerBrokenError(msg)
            self.passages[item.basis] += item.times
            total += Totals.of(cost)
            self._bound(segment, item, cost, steps.ceiling_flop_per_s)
        if total != steps.total:
            msg = f"the record says {steps.total} so far, its parts add up to {total}"
            raise LedgerBrokenError(msg)
        self.usage += steps.usage
        self.steps[segment.rank] += steps.count
        self.tokens += steps.tokens
        self.samples += steps.samples
        self.own_ns += steps.own_ns
        self.metered_ns += steps.ended_ns - steps.started_ns
        self.audits += steps.audits
        self.misses += steps.misses
        return total

    def _bound(self, segment: Segment, item: Ran, cost: Tally, ceiling: int | None) -> None:
        """Take what was counted as it is, and put the rest with those alike: what it can be shows at the end."""
        if item.basis == "counted":
            self.lower += cost.flop
            upper = cost.flop if not cost.uncounted else None if ceiling is None else product(ceiling, item.ns)
            self.upper = _added(self.upper, upper)
            return
        chance = item.chance or Chance(one_in=0, longest_ns=item.ns)
        is_guess = item.basis == "modelled" or item.basis == "declared"
        family = None if item.family is None else f"{segment.rank}/{segment.number}/{item.family}"
        alike = _Alike(
            rank=segment.rank,
            name=item.table or family,
            one_in=0 if is_guess else chance.one_in,
            ceiling=ceiling,
            has_uncounted=bool(cost.uncounted),
        )
        sums = self.groups.setdefault(alike, [0] * 6)
        most = cost.flop // item.times if item.table and item.times else item.most_flop
        lower, upper = (cost.flop if end is None else end for end in (chance.lower, chance.upper))
        sums[0] += item.times
        sums[1] += item.ns
        sums[2] = max(sums[2], chance.longest_ns)
        sums[3] += min(lower, cost.flop)
        sums[4] += max(upper, cost.flop)
        sums[5] = max(sums[5], cost.flop if most is None else most)

    def _bounds(self) -> tuple[int, int | None]:
        """Return what all of it lies between, gaps included: each rank's draws bound what that rank booked."""
        by_rank: dict[int, list[Group]] = {}
        for alike, (times, ns, longest_ns, lower, upper, most_flop) in self.groups.items():
            group = Group(
                times=times,
                ns=ns,
                longest_ns=longest_ns,
                lower=lower,
                upper=upper,
                most_flop=most_flop,
                one_in=alike.one_in,
                ceiling=alike.ceiling,
                is_open=alike.name in self.opened,
                has_uncounted=alike.has_uncounted,
            )
            by_rank.setdefault(alike.rank, []).append(group)
        lowest, highest = self.lower, self.upper
        for groups in by_rank.values():
            lower, most = bound_groups(groups, misses=self.misses)
            lowest += lower
            highest = _added(highest, most)
        return lowest, highest

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
        elif entry.kind == "miss":
            self._open(segment, body)
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
        upper = 0 if ns == 0 else None if ns is None or ceiling is None else product(ceiling, ns)
        key = (reason, detail, segment.rank, segment.number)
        gap = Gap(reason=reason, detail=detail, rank=key[2], segment=key[3], ns=ns, upper_flop=upper, times=times)
        self.gaps[key] = self.gaps[key] + gap if key in self.gaps else gap
        self.upper = _added(self.upper, upper)

    def _open(self, segment: Segment, body: Mapping[str, wire.Wire]) -> None:
        """A figure was seen to be wrong: what was booked at it, before and after, may be anything."""
        if body.get("family") is not None:
            family = wire.parse_text(body.get("family"), name="family")
            self.opened.add(f"{segment.rank}/{segment.number}/{family}")
        else:
            self.opened.add(wire.parse_digest(body.get("booked"), name="booked"))

    def fields(self) -> dict[str, Any]:
        """Return the sums, named as an Account names them."""
        tally = Tally.of(
            (count for part in self.counts for count in part.counts),
            (seen for part in self.counts for seen in part.uncounted),
        )
        lower, upper = self._bounds()
        return {
            "steps": max(self.steps.values(), default=0),
            "tokens": self.tokens,
            "samples": self.samples,
            "tally": tally,
            "usage": self.usage,
            "lower": lower,
            "upper": None if upper is None else max(upper, tally.flop),
            "gaps": tuple(self.gaps.values()),
            "model": next(iter(self.models.values()), None),
            "passages": dict(self.passages),
            "audits": self.audits,
            "misses": self.misses,
            "own_ns": self.own_ns,
            "metered_ns": self.metered_ns,
            "subjects": self.subjects,
            "self_tests": tuple(self.self_tests),
            "warned": tuple(self.warned),
            "attestations": tuple(self.attestations),
        }


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
