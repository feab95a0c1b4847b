"""Kinship: passages of one program that differ in sizes alone, and what those that wait are booked at.

Not here: how a cost is foretold from sizes (`interpolation.py`), which passages are counted (`replay.py`).
"""

from collections.abc import Hashable, Iterator, Mapping
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flopmeter.step import Chance, Table
from flopmeter.tally import Tally

if TYPE_CHECKING:
    from flopmeter.sensors.interpolation import Family, Foretold

MAX_WAITING = 2048
MAX_FAMILIES = 32
MAX_TABLES = 32
"""So many counts are remembered for guesses: what is not foretold is booked at the cost of the nearest sizes."""
ONE_IN_UNAFFORDABLE = 1024
"""Of passages that should be counted and that the budget does not allow, one in so many is counted all the same."""
MAX_OWED, OWED_IN = 64, 1024
"""What values decide and was counted so often, and once in so many passages since, is counted by chance from then on:
on each rank it is something else, and all would wait for the counts of each."""


class Seen(Hashable, Protocol):
    """A witness: what must be equal for two passages to be of one program, and what may grow with their sizes."""

    @property
    def sort(self) -> Hashable:
        """The first of these."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The second."""


class Waiting:
    """Passages of one cost that ran and are not booked yet; `one_in` is the chance that each had to be counted."""

    __slots__ = ("longest_ns", "ns", "one_in", "times")

    def __init__(self) -> None:
        """Start with none."""
        self.times = self.ns = self.longest_ns = self.one_in = 0

    def add(self, ns: int, one_in: int) -> None:
        """Take one more, that had this chance; together they have the smallest, and none where one had none."""
        if not self.times:
            self.one_in = one_in
        elif one_in != self.one_in:
            self.one_in = max(one_in, self.one_in) if one_in and self.one_in else 0
        self.times += 1
        self.ns += ns
        self.longest_ns = max(self.longest_ns, ns)

    def join(self, other: "Waiting") -> None:
        """Take all of others."""
        longest_ns = max(self.longest_ns, other.longest_ns)
        self.add(other.ns, other.one_in)
        self.times += other.times - 1
        self.longest_ns = longest_ns


class Booking(NamedTuple):
    """What passages are booked at: the table of each, or, without one, the tally of all of them together."""

    basis: str
    times: int
    ns: int
    table: Table | None = None
    tally: Tally | None = None
    most_flop: int | None = None
    family: str | None = None
    chance: Chance | None = None


class Verdict(NamedTuple):
    """What an audit found; of a miss, the table or the family that others were booked at."""

    is_miss: bool = False
    booked: str | None = None
    family: str | None = None


class Kinship:
    """One frame of situations, and the families that were met in it, told apart by the sort of their witness.

    Units: `calls` operator calls of the last count, `usual_ns` the mean duration when it is not counted; `counts` are
    the passages that were counted without being drawn, `interpolated` those that were booked so.
    """

    def __init__(self, name: str, *, owner: Hashable) -> None:
        """Start with nothing counted."""
        self.name = name
        self.owner = owner
        self.calls = self.usual_ns = self.one_in = self.counts = self.interpolated = 0
        self.is_asked_for = False  # that one should be counted, and was not because the budget did not allow it
        self.is_gone = False  # that nobody settles it any more
        self.booked_at = -1
        self.placed: set[tuple[int, ...]] = set()  # sizes that have a place of their own
        self._families: dict[Hashable, Family] = {}
        self._first: tuple[tuple[int, ...], Seen, Table] | None = None
        self._sort: Hashable = None
        self._tables: dict[tuple[int, ...], Table] = {}  # of the last counts; never empty once there was one
        self._waiting: dict[tuple[tuple[int, ...], Hashable, tuple[int, ...]], Waiting] = {}
        self._is_led_by_values = False

    @property
    def is_worn_out(self) -> bool:
        """Whether values decide, and passages were counted so often that chance has to do."""
        return self._is_led_by_values and self.counts >= MAX_OWED + self.interpolated // OWED_IN

    def can_foretell(self, sizes: tuple[int, ...]) -> bool:
        """Say whether these sizes lie within what is proven of the sort that was counted last.

        Whether the figures are whole shows when they are computed (`settle`).
        """
        family = self._families.get(self._sort)
        return family is not None and not self._is_led_by_values and family.covers(sizes)

    def _foretell(self, sizes: tuple[int, ...], sort: Hashable) -> "Foretold | None":
        family = self._families.get(sort)
        return None if family is None or self._is_led_by_values else family.predict(sizes)

    def learn(
        self, sizes: tuple[int, ...], witness: Seen, table: Table, *, calls: int, is_fixed: bool, is_drawn: bool
    ) -> Verdict | None:
        """Take in a passage that was counted; say what an audit found, where it was one or came to the same."""
        was_foretold = self._foretell(sizes, witness.sort) is not None
        self.calls, self._sort = calls, witness.sort
        self._tables.pop(sizes, None)
        self._tables[sizes] = table
        if len(self._tables) > MAX_TABLES:
            del self._tables[next(iter(self._tables))]
        self._is_led_by_values |= not is_fixed
        self.counts += not is_drawn
        self.is_asked_for = False
        if self._is_led_by_values:
            return Verdict(is_miss=True, family=self.name) if is_drawn and was_foretold else None
        if self._first is None:
            self._first = (sizes, witness, table)
            return None
        if len(self._families) >= MAX_FAMILIES and witness.sort not in self._families:
            return None  # nothing but its sizes should tell them apart, and much else does
        if self._find_family(witness).learn(sizes, table.tally, witness.numbers):
            return Verdict() if is_drawn and was_foretold else None
        return Verdict(is_miss=True, family=self.name)

    def guess(self, sizes: tuple[int, ...]) -> Table | None:
        """Return the table of the count whose sizes were nearest to these; None before the first."""

        def distance(counted: tuple[int, ...]) -> int:
            return sum(map(abs, map(sub, counted, sizes)))

        return self._tables[min(self._tables, key=distance)] if self._tables else None

    def _find_family(self, witness: Seen) -> "Family":
        """Return the family of this sort; the first count is learned when it is no longer alone."""
        from flopmeter.sensors.interpolation import Family  # most runs have one size, and no use for it

        if not self._families and self._first is not None:
            first_sizes, first, table = self._first
            self._families[first.sort] = Family()
            self._families[first.sort].learn(first_sizes, table.tally, first.numbers)
        return self._families.setdefault(witness.sort, Family())

    def wait(self, sizes: tuple[int, ...], witness: Seen, ns: int, one_in: int) -> bool:
        """Keep a passage that was not counted until it is booked; False where there is no room.

        `one_in` is the chance that it had to be counted, 0 where nobody asked chance.
        """
        self.usual_ns += (ns - self.usual_ns) >> 3
        key = (sizes, witness.sort, witness.numbers)
        waiting = self._waiting.get(key)
        if waiting is None:
            if len(self._waiting) >= MAX_WAITING:
                return False
            waiting = self._waiting[key] = Waiting()
        waiting.add(ns, one_in)
        return True

    def settle(self, now: int, *, is_last: bool, is_doubted: bool = False) -> Iterator[Booking]:
        """Hand over what waits and is foretold by now, as one; `is_last`, the rest too, as a guess."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        sums: dict[Hashable, Foretold] = {}
        whole, most = Waiting(), 0
        for key, item in waiting.items():
            sizes, sort, numbers = key
            foretold = None if is_doubted else self._foretell(sizes, sort)
            if foretold is not None and foretold.witness == numbers:
                all_of_them = foretold * item.times
                sums[sort] = sums[sort] + all_of_them if sort in sums else all_of_them
                most = max(most, foretold.flop)
                whole.join(item)
            elif is_last or is_doubted or foretold is not None:
                yield Booking("modelled", item.times, item.ns, table=self.guess(sizes))
            else:
                self._waiting[key] = item
        self.interpolated += whole.times
        if whole.times:
            self.booked_at = now
            tallies = [foretold.tally for foretold in sums.values()]
            tally = Tally.of(
                (count for tally in tallies for count in tally.counts),
                (seen for tally in tallies for seen in tally.uncounted),
            )
            yield Booking(
                "interpolated",
                whole.times,
                whole.ns,
                tally=tally,
                most_flop=most,
                family=self.name,
                chance=Chance(one_in=whole.one_in, longest_ns=whole.longest_ns),
            )


def split_sizes(given: Any) -> tuple[Any, tuple[int, ...]]:
    """Return a fingerprint without its whole numbers, and these in order: the frame that passages of one family share.

    Example:
        >>> split_sizes(((2, 16), "mask", True, 3))
        (((None, None), 'mask', True, None), (2, 16, 3))
    """
    sizes: list[int] = []
    frame = _strip(given, sizes)
    return frame, tuple(sizes)


def _strip(value: Any, sizes: list[int]) -> Any:
    if type(value) is int:
        sizes.append(value)
        return None
    if isinstance(value, tuple):
        return tuple([_strip(item, sizes) for item in value])
    if isinstance(value, Mapping):
        return tuple([(key, _strip(item, sizes)) for key, item in value.items()])
    return value
