"""Draws: which passages are counted by chance, the same on every rank of a run and at no cost to its own randomness.

Not here: how often (`budget.py`).
"""

from collections.abc import Sequence

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Draws:
    """One number for each passage, from the run's seed, its step and which passage of that it is.

    Drawn with a chance of 1 in n is what lies in the lowest nth of all numbers: so who draws one in 64 draws among
    those that others draw who draw one in 32, and on no rank a step waits for another rank's audit alone.
    """

    __slots__ = ("_drawn", "_number", "_seed", "_state", "_step", "at", "step")

    def __init__(self, seed: int) -> None:
        """Start before the first passage of step 0; whoever counts these sets `step`, and `at`, from 1 in each step."""
        self._seed = seed & _MASK
        self.step = self.at = 0
        self._step = self._drawn = -1
        self._state = self._number = 0

    def is_drawn(self, one_in: int) -> bool:
        """Say whether this passage is drawn with a chance of 1 in `one_in`; never where that is 0."""
        if one_in <= 1:
            return one_in == 1
        if self._step != self.step:
            self._step, self._drawn = self.step, -1
            self._state = mix(self._seed ^ mix(self.step))
        if self._drawn != self.at:
            self._drawn = self.at
            self._number = mix((self._state + self.at * _GOLDEN) & _MASK) | 1
        return self._number * one_in <= _MASK

    def find_step(self, begin: int, number: int, turns: Sequence[int], rates: Sequence[int]) -> int:
        """Return the first of so many steps in which one of these passages is drawn, or the one after the last.

        Where none of them has a chance that is a step which no run reaches.
        `turns` say which passages of a step, `rates` with a chance of 1 in how many each.
        """
        wanted = [(turn * _GOLDEN, one_in) for turn, one_in in zip(turns, rates, strict=True) if one_in]
        if not wanted:
            return _MASK
        for step in range(begin, begin + number):
            state = mix(self._seed ^ mix(step))
            for offset, one_in in wanted:
                if (mix((state + offset) & _MASK) | 1) * one_in <= _MASK:
                    return step
        return begin + number


def mix(value: int) -> int:
    """Return 64 bits that look like nothing of the value.

    Source: SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195), its output function.
    """
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
