"""Sums: what the entries of ledgers add up to while they are read; one pass, no entry kept.

Not here: the value that comes out (`account.py`), what follows from chance (`bounds.py`), files (`ledger`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from flopmeter import wire
from flopmeter.bounds import Booked, Cost, name_family, product
from flopmeter.coordinates import Coordinates
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError, MalformedError
from flopmeter.holders import Holders
from flopmeter.ledger.chain import Segment
from flopmeter.ledger.entry import Entry
from flopmeter.logical import Merge, Shares, Standing
from flopmeter.model import Model
from flopmeter.repeat import Repeat
from flopmeter.replicas import Replica, Signature, find_contradictions, sign
from flopmeter.step import Ran, Steps, Table, Totals
from flopmeter.tally import Tally
from flopmeter.units import NS_PER_S

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


class _Priced(NamedTuple):
    """What one passage of a table costs, and where its rank stood when it was counted."""

    place: Coordinates
    tally: Tally
    cost: Cost
    totals: Totals
    repeated: tuple[Repeat, ...]
    products: tuple[Signature, int]


@dataclass(slots=True)
class _Life:
    """What is known of a segment while it is read. `missed` are the tables that an audit found to be wrong."""

    ceiling: int | None
    world: int
    recorded_at: str  # the date of the last record, or of the header
    recorded_ns: int = 0  # the same by the monotonic clock, 0 before there is one
    place: Coordinates = field(default_factory=Coordinates)
    total: Totals = field(default_factory=Totals)
    tables: dict[str, _Priced] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)
    ran: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    loose: list[Tally] = field(default_factory=list)

    def take(self, item: Ran) -> tuple[Cost, Totals]:
        """Take a line of a record; return what one passage of its table, or all loose ones cost, and the sum.

        Raises:
            LedgerBrokenError: it names a table that does not stand here.
        """
        if item.tally is not None:
            self.loose.append(item.tally.labelled(purpose=item.purpose, basis=item.basis))
            return Cost.of(item.tally, most_flop=item.most_flop), Totals.of(item.tally)
        priced = self.tables.get(item.table or "")
        if priced is None:
            msg = f"table {str(item.table)[:12]}… ran, and stands nowhere before"
            raise LedgerBrokenError(msg)
        self.ran[item.table or "", item.purpose, item.basis] += item.times
        return priced.cost, priced.totals * item.times

    def tallies(self) -> Iterator[Tally]:
        """Return what ran, by purpose and basis."""
        for (name, purpose, basis), times in self.ran.items():
            yield (self.tables[name].tally * times).labelled(purpose=purpose, basis=basis)
        yield from self.loose


class Sums:
    """The sums while ledgers are read; one pass, no entry kept."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.counts: list[Tally] = []
        self.holders = Holders()
        self.gaps: dict[tuple[str, str, int, int], Gap] = {}
        self.lower = 0
        self.upper: int | None = 0
        self.booked = Booked()
        self.passages: Counter[str] = Counter()
        self.models: dict[int, Model] = {}
        self.subjects: dict[str, str] = {}
        self.devices: dict[str, dict[str, str]] = {}
        self.world = 1
        self.told_world = 0
        self.coordinates: dict[int, Coordinates] = {}
        self.shares: defaultdict[Standing, Shares] = defaultdict(Shares)
        self.replicas: defaultdict[int, Replica] = defaultdict(Replica)
        self.steps: Counter[int] = Counter()
        self.counted: Counter[int] = Counter()
        self.audits: Counter[int] = Counter()
        self.tokens: Counter[Standing] = Counter()
        self.samples: Counter[Standing] = Counter()
        self.own_ns = self.metered_ns = self.misses = 0
        self.self_tests: list[bool] = []
        self.warned: list[tuple[str, int]] = []
        self.attestations: list[str] = []

    def add_segment(self, segment: Segment, following: Segment | None, *, live: bool) -> None:
        """Add one life of one rank; `following` is the next of that rank."""
        told = wire.parse_known(segment.header.body.get("world")) or 0
        self.told_world = max(self.told_world, told)
        world = max(told, 1, segment.rank + 1)
        ceiling = wire.parse_known(segment.header.body.get("ceiling_flop_per_s"))
        life = _Life(ceiling=ceiling, world=world, recorded_at=segment.header.at)
        self.world = max(self.world, world)
        for entry in segment.entries:
            where = f"{segment.path}:{entry.seq + 1}"
            try:
                self._add_entry(segment, entry, life)
            except MalformedError as error:
                raise LedgerUnreadableError(error.what, where=where) from error
            except LedgerBrokenError as error:
                raise LedgerBrokenError(error.what, where=where) from error
        self.counts.extend(life.tallies())
        if life.missed - set(life.tables):
            self.booked.open_loose(segment.rank)  # the room for tables was used up: it is among what has none
        if not segment.is_closed and not (live and following is None):
            self._add_unclosed(segment, following, life.ceiling)

    def _add_entry(self, segment: Segment, entry: Entry, life: _Life) -> None:
        if entry.kind == "table":
            table = Table.from_wire(entry.body)
            products = sign(table) if self.world > 1 else (frozenset(), 0)
            totals = Totals.of(table.tally)
            life.tables[table.name] = _Priced(
                life.place, table.tally, Cost.of(table.tally), totals, table.repeated, products
            )
        elif entry.kind == "steps":
            self._add_steps(segment, steps := Steps.from_wire(entry.body), life)
            dates, machine_ns = (life.recorded_at, entry.at), (life.recorded_ns or steps.started_ns, steps.ended_ns)
            self.holders.add(segment.rank, steps.usage, dates=dates, machine_ns=machine_ns)
            life.recorded_at, life.recorded_ns = entry.at, steps.ended_ns
        elif entry.kind == "miss":
            life.missed |= self._add_miss(segment, entry.body)
        else:
            self._add_event(segment, entry)
            if entry.kind == "coordinates":
                self._take_place(life, self.coordinates[segment.rank])

    def _take_place(self, life: _Life, place: Coordinates) -> None:
        """Take where a rank stands; a meter that began before its process knew of others took itself to be alone."""
        life.place = place
        life.world = max(life.world, place.size(place.names()))
        self.world, self.told_world = max(self.world, life.world), max(self.told_world, life.world)

    def add_missing_ranks(self, segments: Sequence[Segment]) -> None:
        """A rank that a header speaks of and that left no file has done unknown work."""
        found = {segment.rank for segment in segments}
        world = self.told_world
        missing = [str(rank) for rank in range(min(world, MAX_WORLD)) if rank not in found]
        if missing:
            some = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
            detail = f"{len(missing)} of {world} ranks left no ledger here: {some}"
            self._add_gap(segments[0], "missing ranks", detail, None, None)

    def _add_steps(self, segment: Segment, steps: Steps, life: _Life) -> None:
        total = life.total + Totals(tokens=steps.tokens, steps=steps.count)
        for item in steps.ran:
            cost, totals = life.take(item)
            total += totals
            self._share(segment.rank, item, life)
            self.passages[item.basis] += item.times
            self._bound(segment, item, cost, steps.ceiling_flop_per_s)
        if total != steps.total:
            msg = f"the record says {steps.total} so far, its parts add up to {total}"
            raise LedgerBrokenError(msg)
        self.steps[segment.rank] += steps.count
        standing = Standing(segment.rank, life.world, life.place)
        self.tokens[standing] += steps.tokens
        self.samples[standing] += steps.samples
        self.replicas[segment.rank].say(steps=steps.count, tokens=steps.tokens, samples=steps.samples)
        self.own_ns += steps.own_ns
        self.metered_ns += steps.ended_ns - steps.started_ns
        self.audits[segment.rank] += steps.audits
        self.misses += steps.misses
        life.total, life.ceiling = total, steps.ceiling_flop_per_s

    def _share(self, rank: int, item: Ran, life: _Life) -> None:
        """Note what one rank did, for what it has in common with others."""
        priced = life.tables.get(item.table or "")
        shares = self.shares[Standing(rank, life.world, life.place if priced is None else priced.place)]
        if priced is None:
            shares.add_loose(item.tally or Tally())
            self.replicas[rank].add_loose(item.tally or Tally())
            return
        shares.add(priced.totals.flop, priced.repeated, times=item.times)
        self.replicas[rank].add(*priced.products, times=item.times, purpose=item.purpose, basis=item.basis)

    def _bound(self, segment: Segment, item: Ran, cost: Cost, ceiling: int | None) -> None:
        """Take what was counted as it is, and put the rest with those alike: what it can be shows at the end."""
        times = 1 if item.table is None else item.times
        flop = cost.flop * times
        item.check_ends(flop)
        if item.basis != "counted":
            self.booked.add(item, cost, rank=segment.rank, segment=segment.number, ceiling=ceiling)
            return
        self.counted[segment.rank] += item.times
        self.lower += flop - cost.declared * times
        by_time = None if ceiling is None else product(ceiling, item.ns)
        upper = flop if not cost.has_uncounted else None if by_time is None else max(by_time, flop)
        self.upper = _added(self.upper, upper)

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
        elif entry.kind == "coordinates":
            self.coordinates[segment.rank] = Coordinates.from_wire(body)
        elif entry.kind == "device":
            said = {name: wire.parse_text(value, name=name) for name, value in body.items()}
            self.devices[said.pop("uuid", "")] = said
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
        self.holders.break_off(segment.rank)
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

    def _add_miss(self, segment: Segment, body: Mapping[str, wire.Wire]) -> set[str]:
        """A figure was seen to be wrong: what was booked at it may be anything. Return the table that this names."""
        booked, family = body.get("booked"), body.get("family")
        if (booked is None) == (family is None):
            raise MalformedError("a miss names the table or the family that was wrong: one of the two")
        if family is not None:
            self.booked.open(name_family(segment.rank, segment.number, wire.parse_text(family, name="family")))
            return set()
        self.booked.open(wire.parse_digest(booked, name="booked"))
        return {wire.parse_digest(booked, name="booked")}

    def _find_model(self) -> Model | None:
        """Return the model of the first rank that names one; where it is a stage, all stages together.

        Stages that the first rank of each says nothing of leave the size unknown.
        """
        if not self.models:
            return None
        first = min(self.models)
        place = self.coordinates.get(first, Coordinates())
        if not place.names("pipeline"):
            return self.models[first]
        stages: dict[object, Model] = {}
        for rank, model in sorted(self.models.items()):
            stages.setdefault(self.coordinates.get(rank, Coordinates()).place("pipeline"), model)
        if len(stages) != place.size(place.names("pipeline")):
            return None
        return replace(
            self.models[first],
            parameters=sum(model.parameters for model in stages.values()),
            trainable=sum(model.trainable for model in stages.values()),
            embedding=sum(model.embedding for model in stages.values()),
            headed=sum(model.headed for model in stages.values()),
        )

    def fields(self) -> dict[str, Any]:
        """Return the sums, named as an Account names them."""
        tally = Tally.of(
            (count for part in self.counts for count in part.counts),
            (seen for part in self.counts for seen in part.uncounted),
        )
        audits = {rank: min(number, self.counted[rank]) for rank, number in self.audits.items()}
        bounds = self.booked.bound(audits, misses=self.misses)
        upper = _added(self.upper, bounds.upper)
        logical = Merge.of(self.shares).logical()
        left_out = frozenset(gap.rank for gap in self.gaps.values())
        return {
            "logical": logical,
            "coordinates": self.coordinates,
            "contradictions": find_contradictions(self.replicas, self.coordinates, left_out=left_out),
            "steps": max(self.steps.values(), default=0),
            "tokens": _sum_of_examples(self.tokens),
            "samples": _sum_of_examples(self.samples),
            "tally": tally,
            "usage": self.holders.usage(),
            "lower": self.lower + bounds.lower,
            "upper": None if upper is None else max(upper, tally.flop),
            "unsure": bounds.unsure,
            "unsure_passages": bounds.unsure_passages,
            "gaps": tuple(self.gaps.values()),
            "model": self._find_model(),
            "passages": dict(self.passages),
            "audits": self.audits.total(),
            "misses": self.misses,
            "own_ns": self.own_ns,
            "metered_ns": self.metered_ns,
            "subjects": self.subjects,
            "devices": self.devices,
            "self_tests": tuple(self.self_tests),
            "warned": tuple(self.warned),
            "attestations": tuple(self.attestations),
        }


def _sum_of_examples(told: Mapping[Standing, int]) -> int:
    """Sum what ranks say that they trained; of those that share their examples, what the one says that says most."""
    most: dict[object, int] = {}
    for standing, number in told.items():
        at = standing.place
        grid = frozenset((axis.name, axis.size) for axis in at.axes)
        place = (standing.world, grid, at.examples()) if standing.is_whole else standing
        most[place] = max(most.get(place, 0), number)
    return sum(most.values())


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
