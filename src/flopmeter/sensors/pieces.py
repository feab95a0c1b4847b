"""Polynomials side by side: counts cut where a program changes with its sizes, and counts that come later find a place.

Not here: one polynomial (`polynomial.py`), what is trusted and forgotten (`interpolation.py`).
"""

from collections.abc import Sequence
from typing import Self

from flopmeter.sensors.polynomial import PROOFS, Frame, Piece, Place, Placed, Point, Said, climb, fit

MAX_PIECES = 3


class Pieces:
    """Up to `MAX_PIECES` polynomials, in order along one coordinate, their axis; most programs have one."""

    def __init__(self, frame: Frame, pieces: list[Piece], axis: int) -> None:
        """Take them as they are."""
        self._frame = frame
        self._pieces = pieces
        self._axis = axis

    @classmethod
    def through(cls, points: Sequence[Point]) -> Self | None:
        """Return one polynomial through all points; None if there is none."""
        frame = Frame([point.sizes for point in points])
        one = fit(frame.place(points), frame.coordinates)
        return cls(frame, [one], 0) if one is not None else None

    @classmethod
    def cut(cls, points: Sequence[Point]) -> Self | None:
        """Return the fewest polynomials that all points lie on, side by side; None where that takes too many."""
        frame = Frame([point.sizes for point in points])
        placed = frame.place(points)
        ways = [(_cut(placed, frame.coordinates, axis), axis) for axis in range(frame.coordinates)]
        ways = [way for way in ways if way[0]]
        return cls(frame, *min(ways, key=lambda way: len(way[0]))) if ways else None

    @property
    def is_proven(self) -> bool:
        """Whether some places can be foretold."""
        return any(piece.is_proven for piece in self._pieces)

    @property
    def is_one(self) -> bool:
        """Whether there is one piece."""
        return len(self._pieces) == 1

    def foretell(self, sizes: Place) -> list[int | None] | None:
        """Return the figures that one piece, and one alone, answers for; None for each that is not whole."""
        said = self.say(sizes)
        return said.figures if said is not None else None

    def say(self, sizes: Place) -> Said | None:
        """Return what `foretell` does, equal figures computed once."""
        place = self._frame.read(sizes)
        if place is None:
            return None
        claims = [said for piece in self._pieces if (said := piece.say(place)) is not None]
        return claims[0] if len(claims) == 1 else None

    def covers(self, sizes: Place) -> bool:
        """Say whether one piece, and one alone, answers for these sizes."""
        place = self._frame.read(sizes)
        return place is not None and sum([piece.covers(place) for piece in self._pieces]) == 1

    def extend(self, point: Point) -> bool:
        """Take a point that plainly belongs to a piece; False, and nothing is changed, where it belongs to none."""
        place = self._frame.read(point.sizes)
        if place is None:
            return False
        near, is_within = self._near(place)
        return any((is_within or piece.agrees(place, point)) and piece.add(place, point) for piece in near)

    def admit(self, point: Point) -> list[Point]:
        """Find a place for a point without giving up what is proven; return the points that have none.

        These are the newcomer itself, or those of a piece that is not proven and disagrees with it.
        """
        if self._frame.read(point.sizes) is None and not self._widen(point):
            return [point]
        if self.extend(point):
            return []
        ((place, _),) = self._frame.place([point])
        near, is_within = self._near(place)
        for piece in near:
            if is_within or not piece.is_proven:
                grown = piece if piece.add(place, point) else climb(piece, (place, point))
                if grown is not None:
                    self._pieces[self._pieces.index(piece)] = grown
                    return []
        return self._begin(place, point, [piece for piece in near if not piece.is_proven])

    def drop_dispensable(self) -> Point | None:
        """Let go of a point that others make up for."""
        return next((point for piece in self._pieces if (point := piece.drop_dispensable()) is not None), None)

    def _near(self, place: Place) -> tuple[list[Piece], bool]:
        """Return the pieces that a place may belong to, and whether it lies within the one, or there is no other."""
        if len(self._pieces) == 1:
            return self._pieces[:], True
        spans = [(piece, *piece.span(self._axis)) for piece in self._pieces]
        at = place[self._axis]
        within = [piece for piece, low, high in spans if low <= at <= high]
        if within:
            return within, len(within) == 1
        below = [piece for piece, _, high in spans if high < at]
        above = [piece for piece, low, _ in spans if at < low]
        return [*below[-1:], *above[:1]], False

    def _widen(self, point: Point) -> bool:
        """Take more coordinates, for sizes that break a rule; False if that would cost something proven."""
        members = [[member for _, member in piece.members] for piece in self._pieces]
        frame = Frame([*[member.sizes for part in members for member in part], point.sizes])
        if not set(self._frame.free) <= set(frame.free):
            return False  # a count that told two sizes apart is no longer kept
        pieces = []
        for piece, part in zip(self._pieces, members, strict=True):
            again = fit(frame.place(part), frame.coordinates, proofs=piece.proofs, must_be_proven=piece.is_proven)
            if again is None:
                return False
            pieces.append(again)
        self._axis = frame.free.index(self._frame.free[self._axis]) if self._frame.free else 0
        self._frame, self._pieces = frame, pieces
        return True

    def _begin(self, place: Place, point: Point, doubtful: list[Piece]) -> list[Point]:
        """Begin a piece beyond the others, or in the place of a doubtful one; return the points left over."""
        axes = range(len(place)) if len(self._pieces) == 1 else [self._axis]
        spans = {axis: [piece.span(axis) for piece in self._pieces] for axis in axes}
        free = [axis for axis in axes if not any(low <= place[axis] <= high for low, high in spans[axis])]
        left: list[Point] = []
        if doubtful:
            left = [member for _, member in doubtful[0].members]
            self._pieces.remove(doubtful[0])
        elif not free or len(self._pieces) >= MAX_PIECES:
            return [point]
        else:
            self._axis = free[0]
        new = Piece(self._frame.coordinates, 0, proofs=2 * PROOFS)
        new.add(place, point)
        self._pieces = sorted([*self._pieces, new], key=lambda piece: piece.span(self._axis))
        return left


def _cut(placed: Sequence[Placed], coordinates: int, axis: int) -> list[Piece]:
    """Return pieces along one coordinate, each as long as a polynomial goes; empty if more than `MAX_PIECES`.

    They need twice the proofs, because where to cut was chosen by looking.
    """
    pieces: list[Piece] = []
    for place, point in sorted(placed, key=lambda item: item[0][axis]):
        if pieces and pieces[-1].add(place, point):
            continue
        grown = climb(pieces[-1], (place, point)) if pieces else None
        if grown is not None:
            pieces[-1] = grown
        elif len(pieces) == MAX_PIECES:
            return []
        else:
            pieces.append(Piece(coordinates, 0, proofs=2 * PROOFS))
            pieces[-1].add(place, point)
    return pieces
