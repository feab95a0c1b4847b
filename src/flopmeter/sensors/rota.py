"""Rota: looks at many things in turn, a few at a time, and tells when one of them is no longer what it was.

To look at every module and parameter of a model at each step costs as much as the whole budget: after a step none of
them is in the processor's caches. A change is seen after one round at the latest, and what was booked meanwhile is
known to be in doubt. Not here: what is looked at (`situation.py`), what is in doubt (`replay.py`).
"""

from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Any, TypeAlias

Reader: TypeAlias = Callable[[], Sequence[Any]]
"""Reads one thing: always as many values, cheap, and without an operator of torch's."""

MAX_VALUES = 8
MAX_STATES = 4096
LEAST_LOOKS = 16
_PLAIN = frozenset({bool, int, str, type(None)})


class Rota:
    """The state of many things as one small number: `state` is equal when everything looks the same again.

    A value that has been more than `MAX_VALUES` things (a counter) is looked at no more; `is_blind` tells of that.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        """Look at everything once."""
        self._readers = list(readers)
        self._last = [tuple(read()) for read in self._readers]
        self._plain: list[tuple[Hashable, ...]] = [tuple(map(plain, values)) for values in self._last]
        self._seen: dict[tuple[int, int], set[Hashable]] = {}
        self._states: dict[Hashable, int] = {}
        self._at = 0
        self._is_round = False
        self.is_blind = False
        self.state = self._find_state()

    @property
    def is_current(self) -> bool:
        """Whether the last look was at everything, so that nothing before it is in doubt."""
        return self._is_round

    def look(self, number: int = 0) -> bool:
        """Look at the next few things, or at all where `number` is 0; say whether something is new.

        Where something is, everything is looked at.
        """
        count = len(self._readers)
        self._is_round = not 0 < number < count
        if self._is_round:
            return self._look(0, count)
        end = self._at + number
        is_new = self._look(self._at, min(end, count)) or (end > count and self._look(0, end - count))
        self._at = end % count
        if is_new:
            self._look(0, count)
        return is_new

    def _look(self, begin: int, end: int) -> bool:
        is_new = False
        for index in range(begin, end):
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
            elif old != new or type(old) is not type(new):
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
        return self._states.setdefault(key, hash(key))


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
    return type(value) if getattr(value, "__hash__", None) is None or hasattr(value, "__dict__") else value
