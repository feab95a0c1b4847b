"""Bounds: what a figure lies between, when part of it was counted and audits of the rest were drawn by chance.

Integers only, so that an auditor computes the same bounds to the operation; `docs/spec/ledger-v0.1.md` is the
normative text. Not here: sums of what was counted and of gaps (`sums.py`), what was drawn (`sensors/draws.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flopmeter.step import Ran
from flopmeter.tally import Tally
from flopmeter.units import NS_PER_S

UNIT = 1 << 64
"""One expected audit; chances are whole numbers of its parts."""
GUESSES = frozenset({"modelled", "declared"})

Share = tuple[str, str]


class Cost(NamedTuple):
    """What passages were booked at. Units: FLOP; `most_flop` of the dearest of them, `declared` is part of `flop`.

    What somebody declared may be more or less: it is not known to have run, and bounds nothing.
    """

    flop: int
    most_flop: int
    phases: Mapping[str, int]
    has_uncounted: bool
    declared: int = 0

    @classmethod
    def of(cls, tally: Tally, *, most_flop: int | None = None) -> "Cost":
        """Return the cost that a tally is, of one passage or of several of which the dearest is known."""
        phases: Counter[str] = Counter()
        declared = [count.flop for count in tally.counts if count.basis == "declared"]
        for count in tally.counts:
            phases[count.phase] += count.flop
        flop = sum(phases.values())
        most = flop if most_flop is None else min(most_flop, flop)
        return cls(flop, most, phases, bool(tally.uncounted or declared), sum(declared))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """What passages have in common that are bounded together: `booked` is the table or family they were booked at.

    Units: `ceiling` operations per second, None where unknown.
    """

    rank: int
    booked: str | None
    purpose: str
    basis: str
    one_in: int
    ceiling: int | None
    has_uncounted: bool


@dataclass(slots=True)
class Group:
    """Passages that are alike, were booked and not counted.

    Units: `ns`, `longest_ns` nanoseconds, of all and of the longest; `flop`, `lower`, `upper`, `phases` FLOP of all;
    `most_flop` of the dearest.
    """

    alike: Alike
    times: int = 0
    ns: int = 0
    longest_ns: int = 0
    flop: int = 0
    lower: int = 0
    upper: int = 0
    most_flop: int = 0
    phases: Counter[str] = field(default_factory=Counter)

    @property
    def by_time(self) -> int:
        """The most that can have run in all of it.

        Units: FLOP.
        """
        return max(product(self.alike.ceiling or 0, self.ns), self.upper)


class Bounds(NamedTuple):
    """What passages that were booked and not counted can have been.

    `lower` and `upper` are the ends of their sum, no upper one where nothing bounds it; `unsure` says how much of each
    phase and purpose may not have run; `unsure_passages` how many of them may not be what they were booked at.

    Units: FLOP; passages.
    """

    lower: int
    upper: int | None
    unsure: Mapping[Share, int]
    unsure_passages: int


class Booked:
    """Gathers passages that were booked and not counted; bounded in size by how many sorts of them there are."""

    def __init__(self) -> None:
        """Start with none."""
        self._groups: dict[Alike, Group] = {}
        self._opened: set[str] = set()
        self._loose_opened: set[int] = set()

    def add(self, item: Ran, cost: Cost, *, rank: int, segment: int, ceiling: int | None) -> None:
        """Take the passages of one line of a record."""
        chance = item.chance
        family = None if item.family is None else name_family(rank, segment, item.family)
        alike = Alike(
            rank=rank,
            booked=item.table or family,
            purpose=item.purpose,
            basis=item.basis,
            one_in=0 if chance is None or chance.one_in == 1 or item.basis in GUESSES else chance.one_in,
            ceiling=ceiling,
            has_uncounted=cost.has_uncounted,
        )
        times = item.times if item.table is not None else 1
        flop = cost.flop * times
        group = self._groups.setdefault(alike, Group(alike))
        group.times += item.times
        group.ns += item.ns
        group.longest_ns = max(group.longest_ns, item.ns if chance is None else chance.longest_ns)
        group.flop += flop
        lower = flop if chance is None or chance.lower is None else min(chance.lower, flop)
        group.lower += max(0, lower - cost.declared * times)
        group.upper += flop if chance is None or chance.upper is None else max(chance.upper, flop)
        group.most_flop = max(group.most_flop, cost.most_flop)
        for phase, amount in cost.phases.items():
            group.phases[phase] += amount * times

    def open(self, booked: str) -> None:
        """Hear that a table or a family was seen to be wrong: what was booked at it, before and after, is unknown."""
        self._opened.add(booked)

    def open_loose(self, rank: int) -> None:
        """Hear that something was seen to be wrong that has no table and no family, on this rank."""
        self._loose_opened.add(rank)

    def bound(self, audits: Mapping[int, int], *, misses: int) -> Bounds:
        """Return what all of it lies between.

        `audits` are those of each rank, `misses` those of the run. Ranks draw alike, so that they may have missed the
        same things: what is wrong on any of them weighs no more than `misses` of them all allow.
        """
        by_rank: dict[int, list[Group]] = {}
        for group in self._groups.values():
            by_rank.setdefault(group.alike.rank, []).append(group)
        lower, passages = 0, 0
        upper: int | None = 0
        unsure: Counter[Share] = Counter()
        for rank, groups in by_rank.items():
            weight = weigh_unseen(misses) * _correct(groups, audits.get(rank, 0))
            sure = [group for group in groups if weight and self._is_drawn(group)]
            open_ = [group for group in groups if not (weight and self._is_drawn(group))]
            lower += sum(group.lower for group in sure) - _take(
                weight, ((group.most_flop * group.alike.one_in, group.lower) for group in sure)
            )
            passages += sum(group.times for group in open_)
            passages += _take(weight, ((group.alike.one_in, group.times) for group in sure))
            unsure += _find_unsure(sure, open_, weight)
            most = _bound_above(sure, open_, weight)
            upper = None if upper is None or most is None else upper + most
        return Bounds(lower, upper, dict(unsure), passages)

    def _is_drawn(self, group: Group) -> bool:
        alike = group.alike
        is_open = alike.rank in self._loose_opened if alike.booked is None else alike.booked in self._opened
        return alike.one_in > 0 and not is_open


def name_family(rank: int, segment: int, family: str) -> str:
    """Return a name for a family that no other segment's has, and no table."""
    return f"{rank}/{segment}/{family}"


def product(ceiling: int, ns: int) -> int:
    """Return the most that can have run in this time, rounded up.

    Units: operations, of operations per second times nanoseconds.
    """
    return -(-ceiling * ns // NS_PER_S)


def weigh_unseen(misses: int) -> int:
    """Return how much chance the passages can have had, all together, whose figure is wrong and was not noticed.

    A passage that stood a chance p to be counted adds p. Where the wrong ones add up to w and none was drawn, that had
    a probability of at most e^-w; so w is at most 3 with 95 % confidence when no audit found anything. With x misses
    it is at most the upper limit of a Poisson mean of which x was seen (a sum of unequal chances is less often that
    low: Hoeffding 1956), and 3 + 2·x is never less than that. It holds for work that does not depend on what is drawn.

    Units: expected audits.
    Source: docs/spec/ledger-v0.1.md, interval; exact limits 3.00, 4.74, 6.30, 7.75 for 0 to 3 misses.

    Example:
        >>> weigh_unseen(0)
        3
    """
    return 3 + 2 * misses


def _correct(groups: Iterable[Group], audits: int) -> int:
    """Return one expected audit in parts; more where fewer came than were to be expected, and 0 where none came.

    So with n audits no less than 3/n of what stood a chance is taken for wrong, whatever the chances are said to be.
    """
    times: Counter[int] = Counter()
    for group in groups:
        if group.alike.one_in:
            times[group.alike.one_in] += group.times
    expected = sum(-(-number * UNIT // one_in) for one_in, number in times.items())
    return max(UNIT, -(-expected // audits)) if audits else 0


def _take(weight: int, stakes: Iterable[tuple[int, int]]) -> int:
    """Return how much can be at stake in passages that weigh no more than this together.

    A stake is what one passage puts at stake for one expected audit, and what all of its group do. The best choice
    fills up those that put most at stake first; the last of them in part. Rounded up.
    """
    whole: Counter[int] = Counter()
    for rate, amount in stakes:
        if rate and amount:
            whole[rate] += amount
    taken = 0
    for rate in sorted(whole, reverse=True):
        if weight <= 0:
            break
        part = min(whole[rate], -(-weight * rate // UNIT))
        taken += part
        weight -= part * UNIT // rate
    return taken


def _find_unsure(sure: Iterable[Group], open_: Iterable[Group], weight: int) -> Counter[Share]:
    """Say how much of each phase and purpose may not have run.

    Of sampled passages the sum alone was compared, so any of their phases may be another's.
    """
    unsure: Counter[Share] = Counter()
    stakes: dict[Share, list[tuple[int, int]]] = {}
    for group in open_:
        for phase, flop in group.phases.items():
            unsure[phase, group.alike.purpose] += flop
    for group in sure:
        for phase, flop in group.phases.items():
            if group.alike.basis == "sampled":
                unsure[phase, group.alike.purpose] += flop
            else:
                rate = min(group.most_flop, flop) * group.alike.one_in
                stakes.setdefault((phase, group.alike.purpose), []).append((rate, flop))
    for share, some in stakes.items():
        unsure[share] += _take(weight, some)
    return unsure


def _bound_above(sure: Iterable[Group], open_: Iterable[Group], weight: int) -> int | None:
    """Return the most that can have run; a wrong passage did what the hardware can do in its time."""
    total, stakes = 0, []
    for group in open_:
        if group.alike.ceiling is None:
            return None
        total += group.by_time
    for group in sure:
        if group.alike.ceiling is None:
            return None
        if group.alike.has_uncounted:
            total += group.by_time
        else:
            total += group.upper
            stakes.append(
                (product(group.alike.ceiling, group.longest_ns) * group.alike.one_in, group.by_time - group.upper)
            )
    return total + _take(weight, stakes)
