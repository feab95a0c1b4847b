"""Place: what is known of one situation at one place in a step. Choice: what was decided of a passage before it ran.

Also the passages that are guesses. Not here: how it is decided (`replay.py`), what passages have in common that differ
in sizes alone (`kinship.py`).
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from flopmeter.sensors.kinship import MAX_OWED, OWED_IN, Booking, Kinship, Waiting
from flopmeter.sensors.variant import Variant
from flopmeter.step import Table

ENOUGH = 16
"""So many passages that were not counted say how long they take."""
COUNTS_AFTER_A_MISS, HUNTS, COUNTS_IN_VAIN = 4, 5, 16
"""How many passages are counted after a miss: twice as many each time, so often; then so many now and then."""


@dataclass(slots=True)
class Place:
    """What is known of one situation at one place in a step.

    Units: `calls` operator calls of a count, the mean of all but the last: else a dear one would be drawn for less
    often, and what the others are booked at for longer; `last_calls` and `last_ns` are of the last count. `usual_ns` is
    the mean duration when it is not counted. `missed` says how many passages had a witness that no two counts vouch
    for, since one of those was found.
    """

    owner: Hashable
    is_trusted: bool
    owed: int
    variants: dict[Hashable, Variant] = field(default_factory=dict)
    last: Variant | None = None
    calls: int = 0
    counts: int = 0
    counted_calls: int = 0
    last_calls: int = 0
    last_ns: int = 0
    usual_ns: int = 0
    uncounted: int = 0
    strange_marks: int = 0
    booked_at: int = -1
    one_in: int = 0
    owed_counts: int = 0
    missed: int = 0

    def take_uncounted(self, times: int, *, usual_ns: int) -> bool:
        """Take so many passages that were not counted; say whether by now it is known how long these take."""
        before, self.uncounted, self.usual_ns = self.uncounted, self.uncounted + times, usual_ns
        return before < ENOUGH <= self.uncounted

    @property
    def is_worn_out(self) -> bool:
        """Whether nothing vouches for it, and it was counted so often for what it owed that chance has to do."""
        return not self.is_trusted and self.owed_counts >= MAX_OWED + self.uncounted // OWED_IN

    @property
    def is_asked_for(self) -> bool:
        """Whether the next one should be counted, whatever chance says: it is where the budget allows."""
        return self.owed > 0

    def owe(self, counts: int) -> None:
        """Have so many of the next ones counted, unless chance has to do."""
        if not self.is_worn_out:
            self.owed = max(self.owed, counts)

    def miss(self) -> None:
        """Take a passage whose witness no two counts vouch for: have the next ones counted, each time twice as many.

        What comes every tenth step (a penalty, a second loss) falls between four counts each time. After `HUNTS` in
        vain it is left to chance, but for some after each doubling of the misses: else one that is always new has all
        counts, and audits have none.
        """
        self.missed += 1
        is_doubled = self.missed & (self.missed - 1) == 0
        if self.missed <= HUNTS:
            self.owe(COUNTS_AFTER_A_MISS << (self.missed - 1))
        elif is_doubled:
            self.owe(COUNTS_IN_VAIN)


class Choice(NamedTuple):
    """What was decided of a passage before it ran.

    `is_drawn`: chance had it counted, where a figure was ready or counts have led to none.
    """

    situation: tuple[Hashable, ...]
    given: Hashable
    at: int
    is_trusted: bool
    is_counted: bool
    is_drawn: bool = False
    place: Place | None = None
    kin: Kinship | None = None
    sizes: tuple[int, ...] = ()


class Guesses:
    """Passages that will be booked as guesses, all of one table together, and the `places` of which some are."""

    def __init__(self) -> None:
        """Start with none."""
        self.places: dict[int, Place] = {}
        self._by_table: dict[str, tuple[Table, Waiting]] = {}

    def add(self, table: Table, ns: int, place: Place | None = None) -> None:
        """Take one of so many nanoseconds that is guessed to be what this table is."""
        self._by_table.setdefault(table.name, (table, Waiting()))[1].add(ns, 0)
        if place is not None:
            self.places[id(place)] = place

    def bookings(self) -> Iterator[Booking]:
        """Return them."""
        for table, waiting in self._by_table.values():
            yield Booking("modelled", waiting.times, waiting.ns, table=table)
