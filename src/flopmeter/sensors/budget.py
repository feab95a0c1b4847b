"""Budget: what metering may cost, what it has cost, and how often work may be counted for that.

Time is the caller's, in nanoseconds, so that a test can drive it by hand. Not here: which passages are counted for it
(`replay.py`).
"""

from collections.abc import Callable

CALL_NS = 20_000
"""What counting adds to one operator call, until it was measured: a Python dispatch and our note of it."""
COUNT_NS = 100_000
"""What counting adds to a passage however few calls it has: the mode goes on and off, and what it heard is priced."""
HOOK_NS = 10_000
"""What a hook is held to take beside what is measured in it: torch's call of it, and finding torch's own code again
where ours was. An estimate, rounded down: by `benchmarks/overhead/step.py` as of 39513ee a launch-bound run of steps of
12.08 ms took 1.61 % longer, which is 194 µs a step, of which our clock saw 139 (0.0038 of the three lots); the other 55
went with four hooks and two gradients that are heard of.
"""
GRACE_NS = 300_000_000
"""What may be spent before there is anything to show for it: the first counts of a run. It is saved up later."""
MAX_ONE_IN = 1 << 20
_LEAST_CALLS = 16
_PART_TO_LOOK_LESS, _PART_TO_LOOK_AGAIN = 4, 24
_LEAST_CALL_NS, _MOST_CALL_NS = 2_000, 200_000


class Budget:
    """A share of the wall time of a run.

    Units: nanoseconds throughout. `hook_ns` is what the hooks took as measured, and for each of them `HOOK_NS`;
    `spent_ns` is that and what counting added to operator calls as estimated: their number times what a call was seen
    to take longer in counted passages than in replayed ones.
    """

    def __init__(self, share: float, clock: Callable[[], int]) -> None:
        """Allow `share` of the time from now on; 0 allows no audit at all."""
        self._share = share
        self._clock = clock
        self._started_ns = clock()
        self._counted_calls = self._counts = 0
        self._extra_ns = self._extra_calls = 0.0
        self.call_ns = CALL_NS
        self.is_ample = True  # whether the hooks themselves leave enough of it
        self._weighed = (self._started_ns, 0)
        self.hook_ns = 0

    @property
    def spent_ns(self) -> int:
        """What metering has taken so far.

        Units: nanoseconds.
        Basis: measured in our own code, estimated for torch's path to it.
        """
        return self.hook_ns + self._counted_calls * self.call_ns

    def weigh_hooks(self, now: int) -> None:
        """Say anew whether hooks are cheap enough to look at much: they took less than a quarter of the budget.

        Once they were too dear they look at little, which is several times cheaper; so they have to take that much less
        before they look at much again.
        """
        since, before = self._weighed
        if now > since:
            part = _PART_TO_LOOK_LESS if self.is_ample else _PART_TO_LOOK_AGAIN
            self.is_ample = self.hook_ns - before < self._share * (now - since) / part
            self._weighed = (now, self.hook_ns)

    def spend(self, *, calls: int) -> None:
        """Note that a passage of so many calls was counted."""
        self._counted_calls += calls
        self._counts += 1

    @property
    def usual_calls(self) -> int:
        """How many calls a passage had that was counted, on the average."""
        return self._counted_calls // max(1, self._counts)

    def compare(self, *, calls: int, counted_ns: int, usual_ns: int) -> None:
        """Learn from a passage that was counted, and is usually not, what counting adds to a call."""
        if calls < _LEAST_CALLS:
            return
        self._extra_ns = self._extra_ns * 7 / 8 + max(0, counted_ns - usual_ns)
        self._extra_calls = self._extra_calls * 7 / 8 + calls
        seen = int(self._extra_ns / self._extra_calls)
        self.call_ns = min(max(seen, _LEAST_CALL_NS), _MOST_CALL_NS)

    def without(self, calls: int, ns: int) -> int:
        """Return how long a passage that was counted would have taken without; an estimate, of at least an eighth.

        Units: nanoseconds.
        """
        return max(ns - calls * self.call_ns, ns // 8)

    def _cost(self, calls: int) -> int:
        return calls * self.call_ns + COUNT_NS

    def can_afford(self, calls: int) -> bool:
        """Say whether counting a passage of about so many calls, that nobody asked to be counted at random, fits.

        However dear it is, it does until all that was spent comes to four counts of it.
        """
        cost = self._cost(calls)
        allowed = max(self._share * (self._clock() - self._started_ns), GRACE_NS, 4 * cost)
        return self.spent_ns + cost <= allowed

    def one_in(self, *, calls: int, usual_ns: int) -> int:
        """Return in how many passages one may be counted at random; a power of two, 0 for none.

        Half of what the budget leaves goes here, to each passage in proportion to its own duration: so the whole
        stays within it however many sorts of passages there are. Powers of two make the draws of ranks that can
        afford different rates nested: who counts less often counts among the same.
        """
        free = self._share - self.spent_ns / max(1, self._clock() - self._started_ns)
        allowed = free / 2 * usual_ns
        cost = self._cost(calls)
        if free <= self._share / 16:
            return 0
        if cost <= allowed:
            return 1
        one_in = 1
        while one_in * allowed < cost:
            one_in *= 2
            if one_in > MAX_ONE_IN:
                return 0
        return one_in
