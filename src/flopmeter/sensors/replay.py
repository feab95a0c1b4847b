"""Which passages are counted, and what the others are booked at: replayed, sampled, interpolated, or a guess.

Pure bookkeeping over situations, witnesses and tables; no torch, so that a test can drive it by hand.
A passage is counted until a second count agrees, then replayed; one that nothing vouches for is sampled: booked as the
last one of its sort that was counted. Of both, some are drawn by chance and counted after all. A new size of a known
program is interpolated once its family is proven. A passage whose witness was never seen with a count is none of
these: it is booked as a guess, and the next ones like it are counted.
Not here: what metering may cost (`budget.py`), what a family knows (`interpolation.py`), what follows for the
interval (`bounds.py`).
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any

from flopmeter.sensors.budget import Budget
from flopmeter.sensors.draws import Draws
from flopmeter.sensors.kinship import ONE_IN_UNAFFORDABLE, Booking, Kinship, Seen, Verdict, Waiting, split_sizes
from flopmeter.sensors.place import ENOUGH, Choice, Guesses, Place
from flopmeter.sensors.variant import Variant
from flopmeter.step import Chance, Table

MAX_SITUATIONS = 4096
MAX_PLACES = 64
"""From here on the passages of a step share a place: one that never ends (an evaluation) would else never replay."""
MAX_KINSHIPS = 256
MAX_BY_CHANCE = 64
MAX_ROWS = 50_000
FIRST_COUNTS = 2
FIRST_SAMPLES, FIRST_SAMPLED_CALLS, FIRST_EMPTY = 32, 2000, 4
"""How many passages that nothing vouches for are counted before they are sampled: as long as that is cheap, and fewer
where they did nothing at all."""
MAX_STRANGE_MARKS = 8
FIRST_OWNERS = 64
"""So many models and optimizers of which nothing is known are counted once, whatever the budget says."""


class ReplayPlan:
    """Decides at a passage's start, and books it at its end.

    A passage's `at` is which of its step it is: the last micro-batch of several runs into the optimizer, the others
    do not.
    """

    def __init__(self, *, budget: Budget, draws: Draws, exact: bool = False) -> None:
        """Start with nothing known; `exact` counts everything."""
        self._budget = budget
        self._draws = draws
        self._exact = exact
        self._known: OrderedDict[Hashable, dict[int, Place]] = OrderedDict()
        self._kin: OrderedDict[Hashable, Kinship] = OrderedDict()
        self._by_chance: dict[Hashable, tuple[Hashable, Kinship, tuple[int, ...]]] = {}  # met since the last count
        self._dirty: list[tuple[Place, Variant]] = []
        self._rows = self._families = self._met = 0
        self._one_in = 0  # the chance that the passage had to be counted that is open now
        self._evicted: list[Booking] = []
        self._guesses = Guesses()
        self._last: OrderedDict[tuple[Hashable, ...], Table] = OrderedDict()  # counted, by kind and owner

    def pass_by(self, situation: tuple[Hashable, ...], given: Hashable, at: int) -> Place | None:
        """Return what is known of a passage that starts now, where that is enough not to count it."""
        key = (situation, given)
        places = self._known.get(key) if not self._exact else None
        place = places.get(min(at, MAX_PLACES)) if places is not None else None
        if place is None or place.owed > 0 or self._draws.is_drawn(place.one_in):
            return None
        self._known.move_to_end(key)
        self._one_in = place.one_in
        return place

    def is_known(self, situation: tuple[Hashable, ...], given: Hashable) -> bool:
        """Say whether a passage of this situation was counted before."""
        return (situation, given) in self._known

    def wait(self, place: Place, seen: tuple[Hashable, ...], ns: int, marks: tuple[int, ...]) -> Variant | None:
        """Keep a passage until it is booked, where its witness vouches for it; return what vouches."""
        variant = place.variants.get(seen)
        if variant is None or not variant.is_confirmed or (marks and not self._has_usual_marks(place, variant, marks)):
            return None
        self._take_uncounted(place, 1, place.usual_ns + ((ns - place.usual_ns) >> 3))
        waiting = variant.waiting
        if not waiting.times:
            self._dirty.append((place, variant))
            waiting.one_in = self._one_in
        if waiting.one_in != self._one_in:
            waiting.add(ns, self._one_in)
            return variant
        waiting.times += 1
        waiting.ns += ns
        waiting.longest_ns = max(waiting.longest_ns, ns)
        return variant

    def find_known(self, choice: Choice) -> Place | Kinship | None:
        """Return place or kinship of a passage that was not counted, if its owner ever was counted; else None."""
        if choice.is_counted or choice.situation[:2] not in self._last:
            return None
        return choice.place or choice.kin

    def is_due(self, known: Place | Kinship) -> bool:
        """Say whether the next passage like these should be counted, and can be by now."""
        return known.is_asked_for and self._budget.can_afford(known.calls)

    def wait_for(self, place: Place, variant: Variant, more: Waiting, *, usual_ns: int) -> None:
        """Keep passages that a lap found to be as expected, until they are booked.

        Units: `usual_ns` their mean duration in nanoseconds.
        """
        if not variant.waiting.times:
            self._dirty.append((place, variant))
        variant.waiting.join(more)
        self._take_uncounted(place, more.times, usual_ns)

    def _take_uncounted(self, place: Place, times: int, usual_ns: int) -> None:
        if place.take_uncounted(times, usual_ns=usual_ns):
            self._budget.compare(calls=place.last_calls, counted_ns=place.last_ns, usual_ns=usual_ns)

    def reopen(self, one_in: int) -> None:
        """Take it that a passage is open that had this chance to be counted."""
        self._one_in = one_in

    def _has_usual_marks(self, place: Place, variant: Variant, marks: tuple[int, ...]) -> bool:
        if place.strange_marks >= MAX_STRANGE_MARKS or variant.vouches_for(marks):
            return True
        place.strange_marks += 1
        place.owe(FIRST_COUNTS)
        if place.strange_marks == MAX_STRANGE_MARKS:
            place.is_trusted = False  # somebody else allocates meanwhile, at times of their own
        return False

    def begin(self, situation: tuple[Hashable, ...], given: Hashable, at: int, *, is_trusted: bool) -> Choice:
        """Decide whether the passage that starts now is counted. The owner of a situation is its second entry."""
        at = min(at, MAX_PLACES)
        place = self._known.get((situation, given), {}).get(at)
        self._one_in = 0
        if self._exact:
            return Choice(situation, given, at, is_trusted, True, place=place)  # noqa: FBT003
        if place is None:
            return self._begin_unknown(situation, given, at, is_trusted)
        if place.owed > 0:
            is_counted = self._is_affordable(place.calls)
            return Choice(situation, given, at, is_trusted, is_counted, place=place)
        is_drawn = self._draws.is_drawn(place.one_in)
        return Choice(situation, given, at, is_trusted, is_drawn, is_drawn and place.one_in > 1, place=place)

    def _begin_unknown(self, situation: tuple[Hashable, ...], given: Hashable, at: int, is_trusted: bool) -> Choice:  # noqa: FBT001
        key, kin, sizes = self._by_chance.get((situation, given, at), (None, None, ()))
        if kin is not None:
            self._kin.move_to_end(key)
            return self._begin_by_chance(situation, given, at, is_trusted, kin, sizes)
        frame, sizes = split_sizes(given)
        key = (situation, frame, at)
        kin = self._kin.get(key)
        if kin is None:
            kin = Kinship(str(self._families), owner=situation[1] if len(situation) > 1 else None)
            self._families += 1
            self._kin[key] = kin
            if len(self._kin) > MAX_KINSHIPS:
                _, old = self._kin.popitem(last=False)
                self._by_chance.clear()  # nothing may wait with one that is gone
                self._evicted.extend(old.settle(0, is_last=True))
                old.is_gone = True
            is_new = situation[:2] not in self._last and self._met < FIRST_OWNERS
            self._met += is_new
            is_counted = is_new or self._is_affordable(self._budget.usual_calls)
            kin.is_asked_for = not is_counted
            return Choice(situation, given, at, is_trusted, is_counted, kin=kin, sizes=sizes)
        self._kin.move_to_end(key)
        if kin.can_foretell(sizes) or kin.is_worn_out:
            if len(self._by_chance) >= MAX_BY_CHANCE:
                self._by_chance.clear()
            self._by_chance[situation, given, at] = key, kin, sizes
            return self._begin_by_chance(situation, given, at, is_trusted, kin, sizes)
        is_counted = self._is_affordable(kin.calls)
        kin.is_asked_for = not is_counted
        return Choice(situation, given, at, is_trusted, is_counted, kin=kin, sizes=sizes)

    def _begin_by_chance(self, *passage: Any) -> Choice:
        situation, given, at, is_trusted, kin, sizes = passage
        one_in = self._one_in = kin.one_in
        is_drawn = self._draws.is_drawn(one_in)
        return Choice(situation, given, at, is_trusted, is_drawn, is_drawn and one_in > 1, kin=kin, sizes=sizes)

    def _is_affordable(self, calls: int) -> bool:
        return self._budget.can_afford(calls) or self._draws.is_drawn(ONE_IN_UNAFFORDABLE)

    def end_counted(
        self,
        choice: Choice,
        witness: Seen,
        table: Table,
        *,
        calls: int,
        ns: int,
        is_fixed: bool,
        marks: tuple[int, ...] = (),
    ) -> Verdict | None:
        """Take in a passage that was counted; say what an audit found, where it was one or came to the same.

        `is_fixed` says that nothing but the situation decided its cost; values inside tensors did not.
        """
        verdict: Verdict | None = None
        self._last[choice.situation[:2]] = table
        if len(self._last) > MAX_KINSHIPS:
            self._last.popitem(last=False)
        if choice.kin is not None:
            self._by_chance.clear()
            choice.kin.usual_ns = choice.kin.usual_ns or self._budget.without(calls, ns)
            verdict = choice.kin.learn(
                choice.sizes, witness, table, calls=calls, is_fixed=is_fixed, is_drawn=choice.is_drawn
            )
            self._rate(choice.kin)
            if verdict is not None or choice.kin.can_foretell(choice.sizes):
                return verdict
        place = self._find_place(choice)
        was_trusted = place.is_trusted
        place.owed_counts += place.owed > 0
        self._weigh(place, calls, ns)
        verdict = self._compare(place, choice, witness, table)
        place.is_trusted &= is_fixed and choice.is_trusted
        variant = place.last = place.variants[witness]
        variant.note_marks(marks)
        if not place.is_trusted:
            variant.is_confirmed = True
            place.owed += FIRST_SAMPLES - FIRST_COUNTS if was_trusted else 0
            is_dear = place.counted_calls - calls > FIRST_SAMPLED_CALLS  # all but the last, which was likely a dear one
            if is_dear or (place.counts >= FIRST_EMPTY and not place.counted_calls):
                place.owed = 0
        if place.is_worn_out:
            place.owed = 0
        if place.owed <= 0:
            self._rate(place)
        self._make_room()
        return verdict

    def _weigh(self, place: Place, calls: int, ns: int) -> None:
        """Learn what it takes to count passages like these."""
        if place.uncounted >= ENOUGH:
            self._budget.compare(calls=calls, counted_ns=ns, usual_ns=place.usual_ns)
        place.calls = place.counted_calls // place.counts if place.counts else calls
        place.counts += 1
        place.counted_calls += calls
        place.last_calls, place.last_ns = calls, ns
        place.usual_ns = place.usual_ns or self._budget.without(calls, ns)

    def _compare(self, place: Place, choice: Choice, witness: Seen, table: Table) -> Verdict | None:
        """Hold a count against what was booked, or would have been, under its witness."""
        variant = place.variants.get(witness)
        if variant is None:
            verdict = self._judge_elsewhere(choice, witness, table) if choice.is_drawn else None
            place.variants[witness] = Variant(table, table.tally.flop, table.tally.flop)
            self._rows += table.size + 1
            place.owed = max(place.owed - 1, 1)
            return verdict
        if variant.table.work != table.work:
            return self._take_change(place, variant, table, choice)
        if not variant.is_confirmed:
            variant.is_confirmed, place.missed = True, 0
        place.owed -= 1
        return Verdict() if choice.is_drawn else None

    def _judge_elsewhere(self, choice: Choice, witness: Seen, table: Table) -> Verdict | None:
        """Another place would have vouched for a passage that was drawn: say whether rightly."""
        variant = self._find_elsewhere(choice, witness)
        if variant is None:
            return None
        is_miss = variant.table.work != table.work
        return Verdict(is_miss=is_miss, booked=variant.table.name if is_miss else None)

    def _take_change(self, place: Place, variant: Variant, table: Table, choice: Choice) -> Verdict | None:
        """Another cost under the same witness. Before it is confirmed that is a warm-up (a cache filled once)."""
        flop, booked = table.tally.flop, variant.table.name
        was_trusted = place.is_trusted and variant.is_confirmed
        is_outside = not variant.least <= flop <= variant.most
        self._rows += table.size - variant.table.size
        if variant.waiting.times:
            self._evicted.append(self._book(place, variant))  # what ran before is booked at what was known then
        variant.table = table
        if not variant.is_confirmed and place.is_trusted:
            variant.least = variant.most = flop
            place.owed = max(place.owed - 1, 1)
            return Verdict(is_miss=True, booked=booked) if variant.is_relied_on else None
        variant.least, variant.most = min(variant.least, flop), max(variant.most, flop)
        place.is_trusted = False
        place.owed -= 1
        if was_trusted:
            return Verdict(is_miss=True, booked=booked)
        return Verdict(is_miss=is_outside) if choice.is_drawn else None

    def end_uncounted(self, choice: Choice, witness: Seen, ns: int, *, marks: tuple[int, ...] = ()) -> None:
        """Keep a passage that was not counted until it is booked (`settle`).

        `marks` are what its device handed out meanwhile, empty where nobody tells. Another place of the same situation
        may vouch for a witness, if all of them agree (a last, shorter accumulation).

        Raises:
            LookupError: nothing is known that it could be.
        """
        place = choice.place
        if place is None:
            self._wait_among_kin(choice, witness, ns)
            return
        own = place.variants.get(witness)
        variant = own if own is not None and own.is_confirmed else self._find_elsewhere(choice, witness)
        likeliest = variant or own or place.last
        if likeliest is None:
            raise LookupError
        if variant is None or (marks and variant.marks != marks):
            self._guesses.add(likeliest.table, ns, place)
            self._take_uncounted(place, 1, place.usual_ns + ((ns - place.usual_ns) >> 3))
            if variant is None:
                place.miss()
            return
        if not variant.is_confirmed:
            variant.is_relied_on = True
            place.owe(FIRST_COUNTS)
        if not variant.waiting.times:
            self._dirty.append((place, variant))
        variant.waiting.add(ns, self._one_in)

    def _wait_among_kin(self, choice: Choice, witness: Seen, ns: int) -> None:
        kin, table = choice.kin, self._last.get(choice.situation[:2])
        if kin is not None and kin.counts and not kin.is_gone and kin.wait(choice.sizes, witness, ns, self._one_in):
            return
        if table is None:
            raise LookupError
        self._guesses.add(table, ns)

    def _find_elsewhere(self, choice: Choice, witness: Seen) -> Variant | None:
        places = self._known.get((choice.situation, choice.given), {})
        found = [place.variants[witness] for place in places.values() if witness in place.variants and place.is_trusted]
        return found[0] if found and len({variant.table.work for variant in found}) == 1 else None

    def booked_since(self, owner: Hashable, since: int) -> Iterator[tuple[str | None, str | None]]:
        """Name the tables at which passages of this owner were booked since then, and the families."""
        for places in self._known.values():
            for place in places.values():
                if place.owner == owner and place.booked_at >= since:
                    yield from [(one.table.name, None) for one in place.variants.values() if one.is_confirmed]
        yield from [(None, kin.name) for kin in self._kin.values() if kin.owner == owner and kin.booked_at >= since]

    def settle(self, now: int, *, doubted: Hashable = None, is_last: bool = False) -> Iterator[Booking]:
        """Hand over what ran and is not booked yet. What belongs to a `doubted` owner is a guess: it has changed.

        `is_last`: what is not known by now will not be.
        """
        evicted, self._evicted = self._evicted, []
        yield from evicted
        guesses, self._guesses = self._guesses, Guesses()
        yield from guesses.bookings()
        for place in guesses.places.values():
            self._rate(place)
        dirty, self._dirty = self._dirty, []
        for place, variant in dirty:
            if variant.waiting.times:
                place.booked_at = now
                yield self._book(place, variant, is_doubted=doubted is not None and place.owner == doubted)
        for kin in self._kin.values():
            yield from kin.settle(now, is_last=is_last, is_doubted=doubted is not None and kin.owner == doubted)
            self._rate(kin)

    def _book(self, place: Place, variant: Variant, *, is_doubted: bool = False) -> Booking:
        waiting, variant.waiting = variant.waiting, Waiting()
        one_in = waiting.one_in
        self._rate(place)
        if is_doubted:
            return Booking("modelled", waiting.times, waiting.ns, table=variant.table)
        if place.is_trusted:
            chance = Chance(one_in=one_in, longest_ns=waiting.longest_ns)
            return Booking("replayed", waiting.times, waiting.ns, table=variant.table, chance=chance)
        chance = Chance(
            one_in=one_in,
            longest_ns=waiting.longest_ns,
            lower=variant.least * waiting.times,
            upper=variant.most * waiting.times,
        )
        return Booking("sampled", waiting.times, waiting.ns, table=variant.table, chance=chance)

    def _rate(self, one: Place | Kinship) -> None:
        """Say anew how often passages like these are drawn; what waits keeps the chance it had (`Waiting.add`)."""
        one.one_in = self._budget.one_in(calls=one.calls, usual_ns=one.usual_ns)

    def _find_place(self, choice: Choice) -> Place:
        """Return the place that a count belongs to; it may have been made, or have had to make room, since it began."""
        places = self._known.setdefault((choice.situation, choice.given), {})
        if choice.at not in places:
            if choice.kin is not None:
                choice.kin.placed.add(choice.sizes)
            owner = choice.situation[1] if len(choice.situation) > 1 else None
            owed = FIRST_COUNTS if choice.is_trusted else FIRST_SAMPLES
            places[choice.at] = Place(owner, choice.is_trusted, owed)
        return places[choice.at]

    def _make_room(self) -> None:
        while self._known and (len(self._known) > MAX_SITUATIONS or self._rows > MAX_ROWS):
            _, places = self._known.popitem(last=False)
            for place in places.values():
                for variant in place.variants.values():
                    self._rows -= variant.table.size + 1
                    if variant.waiting.times:
                        self._evicted.append(self._book(place, variant))
