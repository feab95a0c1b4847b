"""Variant: one cost that a place was seen to have, what waits to be booked at it, and what its device handed out.

Not here: which passages are counted (`replay.py`).
"""

from dataclasses import dataclass, field
from operator import le

from flopmeter.sensors.kinship import Waiting
from flopmeter.step import Table


@dataclass(slots=True)
class Variant:
    """One cost that a place was seen to have, under one witness.

    It is confirmed once a second count agreed, and relied on where a passage was booked at it before.
    Units: `least` and `most` FLOP of the cheapest and the dearest count.
    """

    table: Table
    least: int
    most: int
    is_confirmed: bool = False
    is_relied_on: bool = False
    waiting: Waiting = field(default_factory=Waiting)
    counted_marks: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()

    def note_marks(self, marks: tuple[int, ...]) -> None:
        """Take the marks of a count. The next passage that is not counted shows what they are without a mode."""
        if marks != self.counted_marks:
            self.counted_marks, self.marks = marks, ()

    def vouches_for(self, marks: tuple[int, ...]) -> bool:
        """Say whether a passage that was not counted can be this one, by its marks.

        Torch sums gradients that meet in place where no mode is on, so it never allocates more than in the count.
        """
        if not self.counted_marks:
            return True
        if not self.marks and len(marks) == len(self.counted_marks) and all(map(le, marks, self.counted_marks)):
            self.marks = marks
        is_same = marks == self.marks
        if not is_same:
            self.marks = ()
        return is_same
