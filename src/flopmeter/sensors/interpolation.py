"""What a passage costs as a function of the sizes of its inputs: learned from counts, proven by more, dropped if wrong.

The cost of one fixed program is, piece by piece, a polynomial in its sizes with rational coefficients. A `Family`
takes counted passages of one program and foretells others between them. Exact integers; no torch, no random numbers.
Not here: the algebra and when it is trusted (`polynomial.py`), programs that change with their sizes (`pieces.py`),
which passages are one family, what becomes of a figure. Sizes that code rounds up are not learned, and stay counted.
"""

import itertools
from collections.abc import Sequence
from operator import add
from typing import TypeAlias, TypeVar

from flopmeter.sensors.pieces import Pieces
from flopmeter.sensors.polynomial import Point, Said
from flopmeter.tally import Cell, OpCount, Tally, Uncounted

MAX_POINTS = 64
MAX_MISSES = 3
MAX_SETBACKS = 16
FAILED_CUT = 4
FIRST_CUT = 16
MAX_BRANCHES = 16
MAX_KEPT = 64

Sizes: TypeAlias = tuple[int, ...]
_Key = TypeVar("_Key")
_ABSENT = (0, 0, 0, 0, 0)


class Foretold:
    """What a passage costs that was not counted, and the witness that it must show to be of this family.

    Sums of these are cheap, and only the sum's `tally` has to be made; the basis in it is that of the counts.
    """

    __slots__ = ("_layout", "_values", "_which")

    def __init__(self, layout: "_Layout", values: Sequence[int], which: Sequence[int]) -> None:
        """Take the values that figures are, each once, and `which` each is in the order of the family's layout."""
        self._layout = layout
        self._values = values
        self._which = which

    def __add__(self, other: object) -> "Foretold":
        """Return the sum of two of one family."""
        if not isinstance(other, Foretold) or other._layout is not self._layout:
            return NotImplemented
        if other._which is self._which:
            return Foretold(self._layout, list(map(add, self._values, other._values)), self._which)
        sums = [one + two for one, two in itertools.zip_longest(self.figures, other.figures, fillvalue=0)]
        return Foretold(self._layout, sums, range(len(sums)))

    def __mul__(self, times: int) -> "Foretold":
        """Return the sum of so many like this."""
        return Foretold(self._layout, [value * times for value in self._values], self._which)

    @property
    def figures(self) -> tuple[int, ...]:
        """All figures."""
        return tuple(map(self._values.__getitem__, self._which))

    @property
    def flop(self) -> int:
        """Floating-point operations.

        Units: FLOP.
        Is not: anything of uncounted operators.
        """
        return self._layout.flop(self._values, self._which)

    @property
    def tally(self) -> Tally:
        """The counts, made anew at each reading."""
        return self._layout.tally(self.figures)

    @property
    def witness(self) -> tuple[int, ...]:
        """The numbers that were learned beside the tally."""
        return self._layout.witness(self._values, self._which)


class Family:
    """Passages of one program, told apart by sizes alone: same module, same settings, witnesses of the same form.

    Sizes of 0 and 1 are not like others (nothing is copied, shapes are broadcast): which sizes are so small tells
    branches apart, and each is learned on its own.
    A contradicted figure is never silent: `learn` says so, and of that branch all counts but the newest are
    forgotten. After `MAX_MISSES` of these the family foretells nothing any more.
    """

    def __init__(self) -> None:
        """Start with nothing known."""
        self.misses = 0
        self._layout = _Layout()
        self._branches: dict[tuple[int, ...], _Branch] = {}
        self._kept: dict[Sizes, Foretold | None] = {}

    @property
    def is_proven(self) -> bool:
        """Whether some sizes, if not any, can be foretold."""
        return any(branch.is_proven for branch in self._branches.values())

    @property
    def is_closed(self) -> bool:
        """Whether it missed so often that it foretells nothing any more."""
        return self.misses >= MAX_MISSES

    def wants(self, sizes: Sizes) -> bool:
        """Say whether counting a passage of these sizes would help: it cannot be foretold, and more can be learned."""
        branch = self._branches.get(_small(sizes))
        has_room = len(self._branches) < MAX_BRANCHES if branch is None else not branch.is_closed
        return has_room and not self.is_closed and self.predict(sizes) is None

    def covers(self, sizes: Sizes) -> bool:
        """Say, at a fraction of what `predict` takes, whether these sizes are proven and inside the hull.

        Until `predict` was asked, that the figures are whole and not negative is not looked at.
        """
        if sizes in self._kept:
            return self._kept[sizes] is not None
        branch = self._branches.get(_small(sizes))
        return branch is not None and branch.covers(sizes)

    def predict(self, sizes: Sizes) -> Foretold | None:
        """Return what a passage of these sizes costs; None unless proven, inside the hull, whole and not negative."""
        if sizes not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            branch = self._branches.get(_small(sizes))
            said = branch.say(sizes) if branch is not None else None
            self._kept[sizes] = None if said is None else self._layout.accept(said)
        return self._kept[sizes]

    def learn(self, sizes: Sizes, tally: Tally, witness: tuple[int, ...] = ()) -> bool:
        """Take a counted passage; False where it contradicts what is proven, so that earlier figures are in doubt.

        A count of sizes that are foretold already is compared, and not kept.
        """
        small = _small(sizes)
        if self.is_closed or (small not in self._branches and len(self._branches) >= MAX_BRANCHES):
            return True
        branch = self._branches.setdefault(small, _Branch())
        is_news, is_right = branch.learn(Point(sizes, self._layout.read(tally, witness)))
        if is_news:
            self._kept.clear()
        self.misses += not is_right
        if self.misses >= MAX_MISSES:
            self._branches.clear()
        return is_right


def _small(sizes: Sizes) -> tuple[int, ...]:
    """Return which sizes are 0 and 1, and how many sizes there are."""
    return tuple([size if size in {0, 1} else 2 for size in sizes])


class _Branch:
    """What is learned of sizes of which the same are 0 or 1.

    A count outside of the hull that does not agree is no miss: it begins a piece of its own beyond the others, or is
    set aside, and the hull never grows around it. While nothing is proven, counts that make no polynomial are
    gathered, and cut into pieces when there are more of them; where that fails the older half is forgotten. After
    some of these setbacks nothing more is learned; what is proven by then stays.
    """

    def __init__(self) -> None:
        self._setbacks = 0
        self._points: dict[Sizes, Point] = {}
        self._pieces: Pieces | None = None
        self._aside: set[Sizes] = set()  # of `_points`: those that no piece holds
        self._cut_at = FIRST_CUT

    @property
    def is_proven(self) -> bool:
        """Whether some sizes can be foretold."""
        return self._pieces is not None and self._pieces.is_proven

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is learned."""
        return self._setbacks >= MAX_SETBACKS

    def foretell(self, sizes: Sizes) -> list[int | None] | None:
        """Return the figures that are foretold, None for each that is not whole; None where nothing is foretold."""
        said = self.say(sizes)
        return said.figures if said is not None else None

    def say(self, sizes: Sizes) -> Said | None:
        """Return what `foretell` does, equal figures computed once."""
        return self._pieces.say(sizes) if self._pieces is not None else None

    def covers(self, sizes: Sizes) -> bool:
        """Say whether figures are foretold, whole or not."""
        return self._pieces is not None and self._pieces.covers(sizes)

    def learn(self, point: Point) -> tuple[bool, bool]:
        """Take a count; say whether anything changed, and whether what was proven stands."""
        for known in self._points.values():
            known.figures += [0] * (len(point.figures) - len(known.figures))
        expected, earlier = self.foretell(point.sizes), self._points.get(point.sizes)
        if expected not in (None, point.figures) or (earlier is not None and earlier.figures != point.figures):
            return True, self._start_over(point)
        if expected is not None or earlier is not None or self.is_closed:
            return False, True
        return True, self._take(point)

    def _start_over(self, point: Point) -> bool:
        """Keep the newest count alone; False if anything was proven.

        Nothing was where sizes alone do not tell two counts apart: a warm-up, or work that values decide.
        """
        was_proven = self.is_proven
        self._setbacks += not was_proven
        self._keep([point])
        return not was_proven

    def _keep(self, points: Sequence[Point]) -> None:
        """Start with these counts, on one polynomial if there is one."""
        self._points = {point.sizes: point for point in points}
        self._pieces = Pieces.through(points)
        self._aside = set() if self._pieces is not None else set(self._points)
        self._cut_at = max(FIRST_CUT, len(points) * 3 // 2)

    def _take(self, point: Point) -> bool:
        """Keep a count that is news; False if it puts what is proven in doubt."""
        if len(self._points) >= MAX_POINTS and not self._make_room():
            self._setbacks += 1
            return True
        self._points[point.sizes] = point
        if len(self._points) == 1:
            self._keep([point])
        elif self._pieces is None:
            self._aside.add(point.sizes)
        elif self._pieces.is_proven:
            left = self._pieces.admit(point)
            self._setbacks += bool(left)
            self._aside.update([other.sizes for other in left])
        elif not self._pieces.extend(point):
            if self._pieces.is_one:
                self._keep(list(self._points.values()))
            else:
                self._aside.add(point.sizes)
        if self._aside and not self.is_proven and len(self._points) >= min(self._cut_at, MAX_POINTS):
            self._cut()
        return self._look_around(point)

    def _look_around(self, point: Point) -> bool:
        """Start over if the hull grew around a count that disagrees: no threshold explains that."""
        for sizes in sorted(self._aside):
            said = self.foretell(sizes)
            if said is not None:
                if said != self._points[sizes].figures:
                    return self._start_over(point)
                self._aside.remove(sizes)
        return True

    def _cut(self) -> None:
        """Lay pieces through all counts; keep the newer half where that takes too many."""
        points = list(self._points.values())
        self._pieces = Pieces.cut(points)
        if self._pieces is None:
            self._setbacks += FAILED_CUT
            self._keep(points[len(points) // 2 :])
        else:
            self._aside = set()
            self._cut_at = len(points) * 3 // 2

    def _make_room(self) -> bool:
        """Let go of a count that others make up for."""
        point = self._pieces.drop_dispensable() if self._pieces is not None else None
        return point is not None and self._points.pop(point.sizes) is point


class _Layout:
    """Where figures stand in one list: for each entry of tally and witness whether it is there, then its figures."""

    def __init__(self) -> None:
        self._cells: dict[Cell, int] = {}
        self._ops: dict[str, int] = {}
        self._numbers: dict[int, int] = {}
        self._width = 0
        self._entries: list[tuple[int, int]] = []  # where each begins, and how many figures it has

    def read(self, tally: Tally, witness: tuple[int, ...]) -> list[int]:
        """Return the figures, with room for entries that were not there before."""
        entries: list[tuple[int, tuple[int, ...]]] = []
        for count in tally.counts:
            at = self._place(self._cells, count.cell, 5)
            entries.append((at, (1, count.calls, count.flop, count.int_op, count.masked_flop)))
        entries += [(self._place(self._ops, seen.op, 3), (1, seen.calls, seen.elements)) for seen in tally.uncounted]
        entries += [(self._place(self._numbers, index, 2), (1, value)) for index, value in enumerate(witness)]
        figures = [0] * self._width
        for start, values in entries:
            for at, value in enumerate(values, start):
                figures[at] += value
        return figures

    def _place(self, places: dict[_Key, int], key: _Key, width: int) -> int:
        if key not in places:
            places[key] = self._width
            self._entries.append((self._width, width))
            self._width += width
        return places[key]

    def accept(self, said: Said) -> Foretold | None:
        """Return these figures as foretold; None where no passage can have them."""
        values, which = said
        if None in values:
            return None
        whole: list[int] = values  # type: ignore[assignment] # none of them is None
        if min(whole, default=0) < 0:
            return None
        for at, width in self._entries:
            if at >= len(which):
                break  # what came after the fit has no place in it
            if whole[which[at]] != 1 and any(whole[each] for each in which[at : at + width]):
                return None
        return Foretold(self, whole, which)

    def flop(self, values: Sequence[int], which: Sequence[int]) -> int:
        """Sum up the floating-point operations.

        Units: FLOP.
        """
        return sum([values[which[at + 2]] for at in self._cells.values() if at < len(which)])

    def tally(self, figures: tuple[int, ...]) -> Tally:
        """Return the entries that are there, in the order of any tally."""
        counts, unknown = [], []
        for (op, kind, phase, purpose, precision, basis), at in sorted(self._cells.items()):
            is_there, calls, flop, int_op, masked_flop = figures[at : at + 5] or _ABSENT
            if is_there:
                count = OpCount(
                    op=op,
                    kind=kind,
                    phase=phase,
                    purpose=purpose,
                    precision=precision,
                    basis=basis,
                    calls=calls,
                    flop=flop,
                    int_op=int_op,
                    masked_flop=masked_flop,
                )
                counts.append(count)
        for op, at in sorted(self._ops.items()):
            is_there, calls, elements = figures[at : at + 3] or _ABSENT[:3]
            if is_there:
                unknown.append(Uncounted(op=op, calls=calls, elements=elements))
        return Tally(tuple(counts), tuple(unknown))

    def witness(self, values: Sequence[int], which: Sequence[int]) -> tuple[int, ...]:
        """Return the numbers that are there, in their order."""
        places = [at for _, at in sorted(self._numbers.items()) if at < len(which)]
        return tuple([values[which[at + 1]] for at in places if values[which[at]]])
