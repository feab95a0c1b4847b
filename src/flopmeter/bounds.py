"""Bounds: what a figure lies between, when part of it was counted and audits of the rest were drawn by chance.

Integers and fractions only, so that an auditor computes the same bounds to the operation. Not here: where the groups
come from (`sums.py`), what was drawn (`sensors/replay.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from flopmeter.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Passages of one rank that were booked and not counted, alike in what they were booked at and in their chance.

    `one_in` is the chance that each had to be counted instead, 0 for none; `is_open` says that a figure of theirs was
    seen to be wrong, or was a guess, so that nothing but time bounds them.

    Units: `ns`, `longest_ns` nanoseconds, of all and of the longest; `lower`, `upper` FLOP of all of them; `most_flop`
    FLOP of the dearest; `ceiling` operations per second, None where unknown. `has_uncounted` says that operators
    without a formula ran in them.
    """

    times: int
    ns: int
    longest_ns: int
    lower: int
    upper: int
    most_flop: int
    one_in: int
    ceiling: int | None
    is_open: bool = False
    has_uncounted: bool = False


def product(ceiling: int, ns: int) -> int:
    """Return the most that can have run in this time, rounded up.

    Units: operations, of operations per second times nanoseconds.
    """
    return -(-ceiling * ns // NS_PER_S)


def weigh_unseen(misses: int) -> int:
    """Return how much chance the passages can have had, all together, whose figure is wrong and was not noticed.

    A passage that stood a chance p to be counted adds p. Where the wrong ones add up to w and none was drawn, that had
    a probability of at most e^-w; so w is at most 3 with 95 % confidence when no audit found anything. With x misses
    it is at most the upper limit of a Poisson mean of which x was seen, and 3 + 2·x is never less than that.

    Units: expected audits.
    Source: docs/spec/fm-1.md, replayed figures (about 3/n of n audits); exact limits 3.00, 4.74, 6.30, 7.75 for 0 to 3.

    Example:
        >>> weigh_unseen(0)
        3
    """
    return 3 + 2 * misses


def bound_groups(groups: Sequence[Group], *, misses: int) -> tuple[int, int | None]:
    """Return the least and the most that booked passages of one rank can have computed; no most where nothing tells.

    The wrong ones among them are taken where they matter most: those that could weigh most for their chance first.
    Of a wrong passage nothing but its duration is known, so it did nothing at least and the ceiling at most.

    Units: FLOP.
    """
    weight = Fraction(weigh_unseen(misses))
    lower = sum(group.lower for group in groups if not group.is_open)
    drawn = [group for group in groups if group.one_in and not group.is_open]
    never = [group for group in groups if not group.one_in and not group.is_open]
    lower -= sum(group.lower for group in never)
    lower -= _take(drawn, weight, most=lambda group: group.most_flop, all_=lambda group: group.lower)
    if not groups:
        return (0, 0)
    if any(group.ceiling is None for group in groups):
        return (lower, None)

    def all_of(group: Group) -> int:
        return max(product(group.ceiling or 0, group.ns), group.upper)

    by_time = [group for group in groups if group.is_open or not group.one_in or group.has_uncounted]
    rest = [group for group in drawn if not group.has_uncounted]
    upper = sum(map(all_of, by_time)) + sum(group.upper for group in rest)
    upper += _take(
        rest,
        weight,
        most=lambda group: product(group.ceiling or 0, group.longest_ns),
        all_=lambda group: all_of(group) - group.upper,
    )
    return (lower, upper)


def _take(
    groups: Iterable[Group], weight: Fraction, *, most: Callable[[Group], int], all_: Callable[[Group], int]
) -> int:
    """Return how much can be at stake in passages that weigh so much together.

    `most` is at stake in one passage of a group, `all_` in all of them. The best choice fills up the groups where one
    passage puts most at stake for its chance, one after the other; the last of them in part.
    """
    taken = Fraction(0)
    for group in sorted(groups, key=lambda group: most(group) * group.one_in, reverse=True):
        if weight <= 0 or not most(group):
            break
        whole = Fraction(all_(group))
        part = min(whole, weight * group.one_in * most(group))
        taken += part
        weight -= part / (group.one_in * most(group))
    return -(-taken.numerator // taken.denominator)
