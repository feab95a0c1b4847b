"""The logical figure: what the ranks of a run did, with work that several did alike taken once.

Not here: how a rank tells such work (`sensors/repeats.py`), how the ranks' files are read (`sums.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Self

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


@dataclass(slots=True)
class _Once:
    """Sums of work, each rank's divided by the number of ranks that did the same."""

    lower: Counter[int] = field(default_factory=Counter)
    upper: Counter[int] = field(default_factory=Counter)

    def add(self, flop: int, *, surely: int, perhaps: int) -> None:
        self.upper[surely] += flop
        self.lower[surely * perhaps] += flop

    @staticmethod
    def total(sums: Mapping[int, int]) -> Fraction:
        return sum((Fraction(flop, ranks) for ranks, flop in sums.items()), Fraction())


class Merge:
    """Adds the ranks of a run up."""

    def __init__(self, world: int, *, is_complete: bool = True) -> None:
        """Start with nothing; `world` is the number of ranks, and `is_complete` says that none is missing.

        Of a rank that is missing it is not known whether it did what the others say that it did.
        """
        self._world = max(world, 1)
        self._is_complete = is_complete
        self._once = _Once()
        self._repeated: Counter[tuple[tuple[str, ...], str, str]] = Counter()
        self._repeated_once: Counter[tuple[tuple[str, ...], str, str, int]] = Counter()

    @classmethod
    def of(cls, ranks: Mapping[int, Shares], coordinates: Mapping[int, Coordinates], *, world: int) -> Self:
        """Add up what these ranks did; one without coordinates may have done what every other did."""
        merge = cls(world, is_complete=len(ranks) == world)
        for rank, shares in ranks.items():
            merge.add(shares, coordinates.get(rank, Coordinates()))
        return merge

    def add(self, shares: Shares, place: Coordinates) -> None:
        """Take one rank."""
        rest = shares.flop
        is_whole = place.size(place.names()) == self._world
        for (over, unsure, phase, kind), flop in shares.parts.items():
            rest -= flop
            every = self._size(place, (*over, *unsure))
            surely = self._size(place, over) if self._is_complete else 1
            self._once.add(flop, surely=surely, perhaps=every // surely)
            if surely > 1:
                self._repeated[over, phase, kind] += flop
                self._repeated_once[over, phase, kind, surely] += flop
        for phase, flop in shares.loose.items():
            rest -= flop
            is_known = is_whole and phase != "optimizer"
            self._once.add(flop, surely=1, perhaps=place.size(place.names("model")) if is_known else self._world)
        # Coordinates that do not make up the run, and a rank that marked nothing: anything may have been repeated.
        self._once.add(rest, surely=1, perhaps=1 if is_whole else self._world)

    def _size(self, place: Coordinates, names: Iterable[str]) -> int:
        wanted = tuple(names)
        return self._world if ANYWHERE in wanted else place.size(wanted)

    def logical(self) -> Logical:
        """Return the sum."""
        once: Counter[tuple[tuple[str, ...], str, str]] = Counter()
        for (over, phase, kind, ranks), flop in self._repeated_once.items():
            once[over, phase, kind] += flop // ranks
        repeated = tuple(
            Repeated(over=over, phase=phase, kind=kind, flop=flop - once[over, phase, kind])
            for (over, phase, kind), flop in sorted(self._repeated.items())
        )
        lower, upper = (_Once.total(sums) for sums in (self._once.lower, self._once.upper))
        return Logical(lower=floor(lower), upper=ceil(upper), repeated=repeated)
