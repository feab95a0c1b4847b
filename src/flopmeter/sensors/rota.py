"""Rota: looks at many things in turn, a few at a time, and tells when one of them is no longer what it was.

To look at every module and parameter of a model at each step costs as much as the whole budget: after a step none of
them is in the processor's caches. A change is seen after one round at the latest, and what was booked meanwhile is
known to be in doubt. Not here: what is looked at (`situation.py`), what is in doubt (`replay.py`).
"""

import enum
import itertools
from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Any, NamedTuple, TypeAlias

Reader: TypeAlias = Callable[[], Sequence[Any]]
"""Reads one thing: always as many values, cheap, and without an operator of torch's."""


class Change(NamedTuple):
    """Something is new: since now, or, where `doubted_since` is a time, since then at the earliest."""

    doubted_since: int | None


MAX_VALUES = 8
MAX_STATES = 4096
MAX_NEW, NEW_IN = 64, 16
"""From so many states on, more than one new state in so many looks, on the average of all looks, is too often."""
_PLAIN = frozenset({bool, int, str, type(None)})


class Rota:
    """The state of many things as one number: `state` is equal when everything looks the same again.

    The first `always` things are looked at each time; so when one of those changes is known, and what else is new then
    is taken to have come with it (`eval()` switches every part). With the others it may have been since the last round
    but one: `doubted_since` is when that began, by the caller's clock.
    A value that has been more than `MAX_VALUES` things (a counter) is looked at no more, nor is anything but the first
    `always` things once all together are something new too often; `is_blind` tells of that.
    """

    def __init__(self, readers: Sequence[Reader], *, always: int = 0, now: int = 0) -> None:
        """Look at everything once, which is `now`."""
        self._readers = list(readers)
        self._always = min(always, len(self._readers))
        self._last = [tuple(read()) for read in self._readers]
        self._plain: list[tuple[Hashable, ...]] = [tuple(map(plain, values)) for values in self._last]
        self._seen: dict[tuple[int, int], set[Hashable]] = {}
        self._states: dict[Hashable, int] = {}
        self._numbers = itertools.count()
        self._at = self._always
        self._round_began = now
        self._looks = 0
        self._is_whole = True  # that the last look was at everything
        self.doubted_since = now
        self.is_blind = False
        self.state = self._find_state()

    def look(self, now: int, number: int = 0) -> Change | None:
        """Look at the next few things, or at all where `number` is 0; say whether something is new, and since when.

        Where something is, everything is looked at.
        """
        self._looks += 1
        count, since, was_whole = len(self._readers), self.doubted_since, self._is_whole
        is_certain = self._look(0, self._always)
        is_new = False
        is_whole = not 0 < number < count - self._always
        if not (is_certain or is_whole):
            end = self._at + number
            is_new = self._look(self._at, min(end, count))
            if end >= count:
                self.doubted_since, self._round_began = self._round_began, now
                end += self._always - count
                is_new = self._look(self._always, end) or is_new
            self._at = end
        self._is_whole = is_certain or is_new or is_whole
        if self._is_whole:
            is_new = self._look(self._always, count) or is_new
            self.doubted_since = self._round_began = now  # all of it was seen now: nothing before is in doubt any more
        if not (is_certain or is_new):
            return None
        return Change(doubted_since=None if is_certain or (was_whole and is_whole) else since)

    def _look(self, begin: int, end: int) -> bool:
        is_new = False
        for index in range(begin, min(end, len(self._readers))):
            values = self._readers[index]()
            if not all(map(is_, values, self._last[index])):
                is_new |= self._take(index, tuple(values))
        if is_new:
            self.state = self._find_state()
        return is_new

    def _take(self, index: int, values: tuple[Any, ...]) -> bool:
        """Keep new values; say whether they are new to anybody who compares what can change a cost."""
        before, self._last[index] = self._plain[index], values
        now = list(map(plain, values))
        for place, (old, new) in enumerate(zip(before, now, strict=True)):
            if old is _VARIES:
                now[place] = _VARIES
            elif old != new:
                seen = self._seen.setdefault((index, place), {old})
                seen.add(new)
                if len(seen) > MAX_VALUES:
                    now[place], self.is_blind = _VARIES, True
        self._plain[index] = tuple(now)
        return self._plain[index] != before

    def _find_state(self) -> int:
        if len(self._states) >= MAX_STATES:
            self._states.clear()
        key = tuple(self._plain)
        known = self._states.get(key)
        if known is None:
            known = self._states[key] = next(self._numbers)
            if known >= MAX_NEW and known * NEW_IN > self._looks:
                self._look_at_less()
        return known

    def _look_at_less(self) -> None:
        self.is_blind = True
        for kept in (self._readers, self._last, self._plain):
            del kept[self._always :]


_VARIES = object()


def plain(value: Any) -> Hashable:
    """Return what of a value can change a cost and can be kept: numbers other than 0 and 1 are any number."""
    if type(value) in _PLAIN:
        return value  # type: ignore[no-any-return]
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else float
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    shape = getattr(value, "shape", None)
    if shape is not None:
        return (type(value).__name__, tuple(shape))
    if isinstance(value, Hashable) and (isinstance(value, enum.Enum) or not hasattr(value, "__dict__")):
        return value
    return type(value).__qualname__
