"""The logical figure: what the ranks of a run did, with work that several did alike taken once.

Not here: how a rank tells such work (`sensors/repeats.py`), how the ranks' files are read (`sums.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple, Self

from flopmeter import wire
from flopmeter.coordinates import ANYWHERE, Coordinates
from flopmeter.repeat import Repeat
from flopmeter.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """Work of one phase and kind that ranks along some axes did alike.

    Units: `flop` is what was executed of it beyond the first time.
    """

    over: tuple[str, ...]
    phase: str
    kind: str
    flop: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as reports carry them."""
        return {
            "over": list(self.over),
            "phase": self.phase,
            "kind": self.kind,
            "flop": wire.print_count(self.flop),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Logical:
    """What one process would have run of the same program, as far as it is known; `repeated` is what it would not.

    Units: FLOP. The ends are equal where each rank knows of all its work whether others do it too.
    Is not: work that only a distributed run does, such as the scaling of summed gradients: that stays in.
    """

    lower: int
    upper: int
    repeated: tuple[Repeated, ...] = ()

    @property
    def flop(self) -> int | None:
        """The logical figure; None where it is not known.

        Units: FLOP.
        """
        return self.lower if self.lower == self.upper else None


@dataclass(slots=True)
class Shares:
    """What one rank did, by the axes over which others did the same."""

    flop: int = 0
    parts: Counter[tuple[tuple[str, ...], tuple[str, ...], str, str]] = field(default_factory=Counter)
    loose: Counter[str] = field(default_factory=Counter)

    def add(self, flop: int, repeats: Iterable[Repeat], *, times: int) -> None:
        """Take `times` passages of so much work each."""
        self.flop += flop * times
        for repeat in repeats:
            for count in repeat.tally.counts:
                if count.flop:
                    self.parts[repeat.over, repeat.unsure, count.phase, count.kind] += count.flop * times

    def add_loose(self, tally: Tally) -> None:
        """Take work that has no table, and of which nobody said who else did it."""
        self.flop += tally.flop
        for count in tally.counts:
            self.loose[count.phase] += count.flop


class Standing(NamedTuple):
    """Which rank did work, of how many, and where it stood in their grid while it did."""

    rank: int
    world: int
    place: Coordinates

    @property
    def is_whole(self) -> bool:
        """Say whether the axes of its place make up the world."""
        return self.place.size(self.place.names()) == self.world


class _Alike(NamedTuple):
    """Work that ranks of one group say that all of them do alike; `group` is where they stand along the other axes."""

    over: tuple[str, ...]
    unsure: tuple[str, ...]
    phase: str
    kind: str
    surely: int
    every: int
    group: tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class _Sum:
    """What the ranks of a group did of it, all together and the one that did most."""

    flop: int = 0
    most: int = 0


class Merge:
    """Adds the ranks of a run up."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._lower: Counter[int] = Counter()
        self._upper = 0
        self._alike: defaultdict[_Alike, _Sum] = defaultdict(_Sum)

    @classmethod
    def of(cls, ranks: Mapping[Standing, Shares]) -> Self:
        """Add up what these ranks did; one without coordinates may have done what every other did.

        Of a rank that is missing it is not known whether it did what the others say that it did.
        """
        merge = cls()
        present: defaultdict[int, set[int]] = defaultdict(set)
        for standing in ranks:
            present[standing.world].add(standing.rank)
        for standing, shares in ranks.items():
            merge.add(shares, standing, is_complete=len(present[standing.world]) == standing.world)
        return merge

    def add(self, shares: Shares, standing: Standing, *, is_complete: bool = True) -> None:
        """Take one rank; `is_complete` says that no other is missing."""
        _, world, place = standing
        rest, is_whole = shares.flop, standing.is_whole
        for (over, unsure, phase, kind), flop in shares.parts.items():
            rest -= flop
            surely = _size(standing, over) if is_complete else 1
            every = _size(standing, (*over, *unsure))
            if surely == 1:
                self._add_alone(flop, perhaps=every)
                continue
            apart = () if ANYWHERE in over else (axis for axis in place.axes if axis.name not in over)
            group = tuple((axis.name, axis.size, axis.index) for axis in apart)
            summed = self._alike[_Alike(over, unsure, phase, kind, surely, every, group)]
            summed.flop += flop
            summed.most = max(summed.most, flop)
        for phase, flop in shares.loose.items():
            rest -= flop
            is_known = is_whole and phase not in ("optimizer", "other")
            self._add_alone(flop, perhaps=place.size(place.names("model")) if is_known else world)
        # Coordinates that do not make up the run, and a rank that marked nothing: anything may have been repeated.
        self._add_alone(rest, perhaps=1 if is_whole else world)

    def _add_alone(self, flop: int, *, perhaps: int) -> None:
        self._upper += flop
        self._lower[perhaps] += flop

    def logical(self) -> Logical:
        """Return the sum. Where ranks did unequal amounts of what they did alike, one did all of it or they took turns.

        So a rank that ended early, or trained fewer batches, leaves the figure open between the mean and the most.
        """
        lower = sum((Fraction(flop, ranks) for ranks, flop in self._lower.items()), Fraction())
        upper = Fraction(self._upper)
        found: Counter[tuple[tuple[str, ...], str, str]] = Counter()
        once: defaultdict[tuple[tuple[str, ...], str, str], Fraction] = defaultdict(Fraction)
        for alike, summed in self._alike.items():
            cell = alike.over, alike.phase, alike.kind
            most = max(Fraction(summed.flop, alike.surely), Fraction(summed.most))
            lower += Fraction(summed.flop, alike.every)
            upper += most
            found[cell] += summed.flop
            once[cell] += most
        repeated = tuple(
            Repeated(over=over, phase=phase, kind=kind, flop=flop - floor(once[over, phase, kind]))
            for (over, phase, kind), flop in sorted(found.items())
        )
        return Logical(lower=floor(lower), upper=ceil(upper), repeated=repeated)


def _size(standing: Standing, names: Iterable[str]) -> int:
    wanted = tuple(names)
    return standing.world if ANYWHERE in wanted else standing.place.size(wanted)
