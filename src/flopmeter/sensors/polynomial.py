"""Polynomials through counted points, exactly: what they say of a place, and which counts vouch for it.

Integers only; the algebra is elimination without fractions, done once for all figures of a point together.
Not here: several polynomials side by side (`pieces.py`), what the figures are (`interpolation.py`).
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import ge, le, mul
from typing import NamedTuple, TypeAlias

MAX_MONOMIALS = 16
PROOFS = 3
COUNTS = 6
"""How many counts stand behind a sum at least, proofs included: a constant is seen by chance more easily."""
_HIGHEST = 3

Place: TypeAlias = tuple[int, ...]
Exponents: TypeAlias = tuple[int, ...]


class Point:
    """One counted passage: the sizes of its inputs, and its figures in one list, which may get zeros added.

    `digest` is a weighted sum of the figures: a polynomial that disagrees with one disagrees with the other, but for
    a chance of one in 2^61, so most that do not fit are told by one product instead of hundreds.
    """

    __slots__ = ("digest", "figures", "sizes")

    def __init__(self, sizes: Place, figures: list[int]) -> None:
        """Take both as they are."""
        self.sizes = sizes
        self.figures = figures
        self.digest = sum(map(mul, figures, _factors(1 << len(figures).bit_length())))


@lru_cache(maxsize=32)
def _factors(many: int) -> tuple[int, ...]:
    return tuple([pow(37, at + 1, (1 << 61) - 1) for at in range(many)])


Placed: TypeAlias = tuple[Place, Point]


def eliminate(vector: list[int], rows: Iterable[tuple[int, list[int]]]) -> list[int]:
    """Return a multiple of the vector, less multiples of the rows, that is zero at all their pivots."""
    for pivot, row in rows:
        if vector[pivot]:
            one, two = row[pivot], vector[pivot]
            vector = [one * a - two * b for a, b in zip(vector, row, strict=True)]
            common = math.gcd(*vector)
            if common > 1:
                vector = [value // common for value in vector]
    return vector


class Frame:
    """Which of the sizes vary on their own (`free`, by index), and the linear rules by which all others follow."""

    def __init__(self, seen: Sequence[Place]) -> None:
        """Find the rules that all these sizes keep."""
        self._first = seen[0]
        self.free: list[int] = []
        self._rules: list[tuple[int, int, list[tuple[int, int]]]] = []
        rows: list[tuple[int, list[int]]] = []
        length, width = len(seen[0]), len(seen)
        for index, start in enumerate(self._first):
            drift = [sizes[index] - start for sizes in seen]
            vector = eliminate([*drift, *[int(index == other) for other in range(length)]], rows)
            pivot = next((at for at in range(width) if vector[at]), None)
            if pivot is None:
                terms = [(other, -vector[width + other]) for other in self.free if vector[width + other]]
                self._rules.append((index, vector[width + index], terms))
            else:
                self.free.append(index)
                rows.append((pivot, vector))

    @property
    def coordinates(self) -> int:
        """How many sizes vary on their own."""
        return len(self.free)

    def place(self, points: Iterable[Point]) -> list[Placed]:
        """Return the points that keep the rules, with their places."""
        return [(place, point) for point in points if (place := self.read(point.sizes)) is not None]

    def read(self, sizes: Place) -> Place | None:
        """Return the sizes that vary on their own; None where another one breaks its rule."""
        first = self._first
        if len(sizes) != len(first):
            return None
        drift = [size - start for size, start in zip(sizes, first, strict=True)]
        for index, scale, terms in self._rules:
            if scale * drift[index] != sum([factor * drift[other] for other, factor in terms]):
                return None
        return tuple([sizes[index] for index in self.free])


@lru_cache(maxsize=32)
def ladder(coordinates: int) -> tuple[tuple[Exponents, ...], ...]:
    """Return the sets of monomials that are tried, small ones first, each monomial by its exponents.

    One coordinate: degrees up to 3. Two: up to squares times cubes, and total degrees up to 3. Three: up to all
    products with squares, and a linear one times quadrics of the others. Four: quadrics, or all products. More than
    that: linear ones, as far as there is room.
    """
    if coordinates > 4:
        ones = [tuple([int(at == other) for other in range(coordinates)]) for at in range(coordinates)]
        constant = (tuple([0] * coordinates),)
        return (constant, (*constant, *ones)) if coordinates < MAX_MONOMIALS else (constant,)
    every = list(itertools.product(range(_HIGHEST + 1), repeat=coordinates))
    sets = [[e for e in every if sum(e) <= top] for top in range(_HIGHEST + 1)]
    sets += [[e for e in every if all(map(le, e, tops))] for tops in every if 0 not in tops]
    if coordinates > 2:
        sets.append([e for e in every if max(e) < 2 or sum(e) == 2 == max(e)])
        sets += [[e for e in every if e[at] < 2 and sum(e) - e[at] <= 2] for at in range(coordinates)]
    kept = dict.fromkeys(tuple(tried) for tried in sets if len(tried) <= MAX_MONOMIALS)
    return tuple(sorted(kept, key=len))


class _Hull(NamedTuple):
    """Counts that vouch for what lies between them: their places, and the step of the grid that they are on.

    Between is meant in every coordinate: some count is no larger in any, and some is no smaller in any. Where code
    asks for sizes or their products ("longer than 512"), all that lies between two counts answers as they do, where
    both answer alike. The convex hull has no such law: 8 by 16 and 1 by 512 are small, 4 by 256 between them is not.
    Places off the grid (all counted lengths were even, this one is odd) are outside, too: some are rounded up.
    """

    places: list[Place]
    steps: list[int]

    @classmethod
    def of(cls, places: list[Place]) -> "_Hull":
        columns = zip(*places, strict=True)
        return cls(places, [math.gcd(*[at - column[0] for at in column]) for column in columns])

    def has(self, place: Place) -> bool:
        for at, start, step in zip(place, self.places[0], self.steps, strict=True):
            if at != start and (not step or (at - start) % step):
                return False
        return any(all(map(le, low, place)) for low in self.places) and any(
            all(map(ge, high, place)) for high in self.places
        )


class Said(NamedTuple):
    """What a polynomial says of a place: each value once, and `which` of them each figure is; None for one not whole.

    What two of one polynomial hold as `which` is the same object.
    """

    values: list[int | None]
    which: list[int]

    @property
    def figures(self) -> list[int | None]:
        """All figures in order."""
        return [self.values[at] for at in self.which]


class Piece:
    """One polynomial: counts that determine it, its base, and counts that agree with it, its proofs.

    What it says of a place is a weighted sum of the base; where the base leaves some of it open, it speaks only of
    places where that does not matter. A sum is trusted where enough proofs rest on all the counts that it rests on,
    and perhaps on more. So a batch of 8 is proven by batches of 8, whatever else was seen, and these and batches of 3
    together say nothing of a batch of 5.
    """

    def __init__(self, coordinates: int, rung: int, *, proofs: int = PROOFS) -> None:
        """Start with no count, on one rung of the ladder; trust sums from so many proofs on."""
        self.rung = rung
        self.coordinates = coordinates
        self.proofs = proofs
        self._monomials = [
            [(at, power) for at, power in enumerate(exponents) if power] for exponents in ladder(coordinates)[rung]
        ]
        self._base: list[Placed] = []
        self._rows: list[tuple[int, list[int]]] = []
        self._proofs: list[tuple[int, Place, Point]] = []
        self._forget()

    def _forget(self) -> None:
        """Drop what is computed from base and proofs."""
        self._hulls: dict[int, _Hull | None] = {}
        self._solved: tuple[int, list[int], list[list[int]], list[tuple[int, list[int]]]] | None = None
        self._profiles: list[tuple[tuple[int, ...], bool]] = []
        self._which: list[int] = []

    @property
    def members(self) -> list[Placed]:
        """All counts that are in it."""
        return [*self._base, *[(place, point) for _, place, point in self._proofs]]

    @property
    def is_proven(self) -> bool:
        """Whether there are places that it may be trusted about."""
        return any(self._hull(mask) is not None for mask, _, _ in self._proofs)

    def span(self, axis: int) -> tuple[int, int]:
        """Return the least and the largest value of one coordinate."""
        values = [place[axis] for place, _ in self.members]
        return min(values), max(values)

    def add(self, place: Place, point: Point) -> bool:
        """Take a count; False, and nothing is changed, where it contradicts those that are there."""
        weighed = self._weigh(place)
        if weighed is None:
            self._extend_base(place, point)
        elif not self._says(weighed, point):
            return False
        else:
            self._proofs.append((_mask(weighed[0]), place, point))
            self._hulls.clear()
        return True

    def agrees(self, place: Place, point: Point) -> bool:
        """Say whether it speaks of this place, trusted or not, and says this."""
        weighed = self._weigh(place)
        return weighed is not None and self._says(weighed, point)

    def _says(self, weighed: tuple[list[int], int], point: Point) -> bool:
        weights, scale = weighed
        digest = sum([weight * base.digest for weight, (_, base) in zip(weights, self._base, strict=True)])
        return digest == scale * point.digest and self._evaluate(weights, scale).figures == point.figures

    def foretell(self, place: Place) -> list[int | None] | None:
        """Return the figures at a place, None for each that is not whole; None where nothing vouches for them."""
        said = self.say(place)
        return said.figures if said is not None else None

    def say(self, place: Place) -> Said | None:
        """Return what `foretell` does, equal figures computed once."""
        weighed = self._weigh(place)
        if weighed is None or not self._vouches(weighed, place):
            return None
        return self._evaluate(*weighed)

    def covers(self, place: Place) -> bool:
        """Say whether figures are foretold there, at a fraction of what it takes to foretell them."""
        weighed = self._weigh(place)
        return weighed is not None and self._vouches(weighed, place)

    def _vouches(self, weighed: tuple[list[int], int], place: Place) -> bool:
        hull = self._hull(_mask(weighed[0]))
        return hull is not None and hull.has(place)

    def drop_dispensable(self) -> Point | None:
        """Let go of a proof that enough others make up for, one inside of their hull if there is one."""
        spare = None
        for at, (mask, place, _) in enumerate(self._proofs):
            others = [other for other in self._proofs if other[0] & mask == mask and other[1] != place]
            if len(others) < max(self.proofs, COUNTS):
                continue
            spare = at if spare is None else spare
            if _Hull.of([other for _, other, _ in others]).has(place):
                spare = at
                break
        if spare is None:
            return None
        self._hulls.clear()
        return self._proofs.pop(spare)[2]

    def _hull(self, mask: int) -> _Hull | None:
        """Return the counts that vouch for a sum over the base counts in the mask, if there are enough proofs."""
        if mask not in self._hulls:
            proofs = [place for others, place, _ in self._proofs if others & mask == mask]
            places = [*proofs, *[place for at, (place, _) in enumerate(self._base) if mask >> at & 1]]
            is_enough = len(proofs) >= self.proofs and len(places) >= COUNTS
            self._hulls[mask] = _Hull.of(places) if is_enough else None
        return self._hulls[mask]

    def _values(self, place: Place) -> list[int]:
        return [math.prod([place[at] ** power for at, power in factors]) for factors in self._monomials]

    def _extend_base(self, place: Place, point: Point) -> None:
        """Keep the rows reduced: each is zero at the pivots of all others, and tells which counts it is a sum of."""
        size, width = len(self._base), len(self._monomials)
        rows = [(pivot, [*row, 0]) for pivot, row in self._rows]
        row = eliminate([*self._values(place), *[0] * size, 1], rows)
        own = next(at for at in range(width) if row[at])
        self._rows = [(pivot, eliminate(other, [(own, row)])) for pivot, other in rows] + [(own, row)]
        self._base.append((place, point))
        self._forget()

    def _solve(self) -> tuple[int, list[int], list[list[int]], list[tuple[int, list[int]]]]:
        """Return denominator, pivots, the factors of each base count at these, and what the other monomials must be."""
        width = len(self._monomials)
        scale = math.lcm(*[row[pivot] for pivot, row in self._rows])
        rows = [[value * (scale // row[pivot]) for value in row] for pivot, row in self._rows]
        common = math.gcd(scale, *itertools.chain(*rows))
        columns = [[value // common for value in column] for column in zip(*rows, strict=True)]
        pivots = [pivot for pivot, _ in self._rows]
        others = [(at, columns[at]) for at in range(width) if at not in pivots]
        return scale // common, pivots, columns[width:], others

    def _weigh(self, place: Place) -> tuple[list[int], int] | None:
        """Return by which weights the counts of the base add up to this place, over a denominator; None if by none."""
        if not self._base:
            return None
        if self._solved is None:
            self._solved = self._solve()
        scale, pivots, columns, others = self._solved
        values = self._values(place)
        hits = [values[pivot] for pivot in pivots]
        for at, column in others:
            if scale * values[at] != sum(map(mul, hits, column)):
                return None
        return [sum(map(mul, hits, column)) for column in columns], scale

    def _evaluate(self, weights: list[int], scale: int) -> Said:
        """Compute all figures; those whose counts in the base are the same, once."""
        if len(self._which) != len(self._base[0][1].figures):
            known: dict[tuple[int, ...], int] = {}
            columns = zip(*[point.figures for _, point in self._base], strict=True)
            self._which = [known.setdefault(column, len(known)) for column in columns]
            self._profiles = [(column, len(set(column)) == 1) for column in known]
        said: list[int | None] = []
        for profile, is_constant in self._profiles:
            if is_constant:
                said.append(profile[0])  # weights add up to one
            else:
                whole, rest = divmod(sum(map(mul, weights, profile)), scale)
                said.append(None if rest else whole)
        return Said(said, self._which)


def _mask(weights: Sequence[int]) -> int:
    """Return which weights are not zero, one bit for each."""
    return sum([1 << at for at, weight in enumerate(weights) if weight])


def fit(
    placed: Sequence[Placed], coordinates: int, *, start: int = 0, proofs: int = PROOFS, must_be_proven: bool = False
) -> Piece | None:
    """Return the smallest polynomial that agrees with all counts, from one rung of the ladder on; None if none does."""
    for rung in range(start, len(ladder(coordinates))):
        piece = Piece(coordinates, rung, proofs=proofs)
        if all(piece.add(place, point) for place, point in placed) and (piece.is_proven or not must_be_proven):
            return piece
    return None


def climb(piece: Piece, one: Placed) -> Piece | None:
    """Return a larger polynomial for the same counts and one more; what is proven is not given up for it."""
    counts = [one, *piece.members]  # the newest first: what does not fit shows soon
    start, proofs = piece.rung + 1, piece.proofs
    return fit(counts, piece.coordinates, start=start, proofs=proofs, must_be_proven=piece.is_proven)
