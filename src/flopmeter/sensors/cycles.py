"""Raw cycle counters of a device: by which convention they count, and what lies between two readings of them.

NVIDIA documents neither whether they are a mean over the SMs or their sum, nor whether GPM gives totals or what was
added between its two samples. Both are found out on the device, from the elapsed cycles against the clock that was
measured: near the clock is a mean, near the clock times the SMs a sum. Until one of them fits, and wherever none does,
the counters say nothing. Tried with a scripted library only. Not here: how they are read (`gpm.py`, `dcgm.py`).

They come as doubles, exact up to 2⁵³: a mean gets there in fifty days, a sum over 132 SMs in ten hours. Beyond that a
reading is off by less than one part in 10¹⁵ of all that was counted since the driver was loaded.
"""

from collections.abc import Callable, Mapping

from flopmeter.sensors.reading import MHZ_NS_PER_CYCLE, Activity
from flopmeter.units import NS_PER_S

ELAPSED = "elapsed"
MOST_PERCENT = 101
"""More than all cycles is no share of them; a little more is rounding."""
NEAR_PERCENT = 25
"""How far elapsed cycles may lie from the clock: samples may be 0.1 s older than they seem, and clocks move."""
STEADY_PERCENT = 10
"""How far clocks at both ends may lie apart where anything is to be concluded from them."""
LEAST_NS = NS_PER_S // 2
TOO_FAST = 4
"""More than so many times the cycles of the clock at the ends of a stretch are no cycles: clocks move, not that far."""
COUNTED = {
    True: "pipes and SM clock are the device's own counts of cycles, kept as a mean over its SMs",
    False: "pipes and SM clock are the device's own counts of cycles, kept as a sum over its SMs and divided",
}
UNCLEAR = "the device's counts of cycles were for a while neither a mean over its SMs nor their sum, and were not used"
RESET = "the device's counts of cycles went backwards (driver reloaded or device reset)"
STILL = "the device's counts of cycles stood still for a while, and were not used"
APART = (0.1, 0.1)
"""How far a pipe's count may lie from its percentage: points, and a part of it. Both are of the very same stretch."""
DISAGREE = "counts of cycles of a pipe were not what its percentage says, which stands"
TOO_MANY = "the device counted more cycles of a pipe than there were"


class CycleCounter:
    """Turns readings of counters into cycles between them, as a mean over the SMs.

    `count_sms` is asked until a convention is found, and returns None where the SMs are not known. `notes` are those
    of the last reading.
    """

    def __init__(self, count_sms: Callable[[], int | None]) -> None:
        """Start without a reading."""
        self.notes: set[str] = set()
        self._count_sms = count_sms
        self._before: dict[str, int] | None = None
        self._convention: tuple[bool, int] | None = None  # whether it gives totals, and by what to divide
        self._is_still = False

    def forget(self) -> None:
        """Let the last reading go: the next one does not follow it. What was found out stays."""
        self._before, self.notes = None, set()

    def take(
        self, said: Mapping[str, float], clocks_mhz: tuple[int | None, int | None], ns: int
    ) -> dict[str, int] | None:
        """Return the cycles of each counter since the reading before, `ELAPSED` among them.

        None where counters cannot tell and something else may; empty where they say what cannot be. Each figure is
        off by less than a cycle, and so is the sum of figures that follow each other, where the device gives totals.

        Units: `said` are counts of cycles, `clocks_mhz` megahertz at the reading before and at this one, `ns`
        nanoseconds between them.
        """
        self.notes = set()
        now = {name: int(value) for name, value in said.items()}
        before, self._before = self._before, now
        if before is None or ELAPSED not in before or ELAPSED not in now:
            return None
        if self._convention is None:
            self._convention = self._find(before[ELAPSED], now[ELAPSED], clocks_mhz, ns)
        if self._convention is None:
            return None
        is_total, sms = self._convention
        # Each reading is divided, and not what lies between two: so nothing is lost to rounding over many.
        cycles = {
            name: count // sms - (before[name] // sms if is_total else 0)
            for name, count in now.items()
            if name in before
        }
        if min(cycles.values()) < 0:
            self.notes = {RESET}
            return {}
        was_still, self._is_still = self._is_still, cycles[ELAPSED] == 0
        if self._is_still or was_still:  # when they move again, they may make up for the time or not
            self.notes = {STILL}
            return None
        most_mhz = max(mhz or 0 for mhz in clocks_mhz)
        if most_mhz and cycles[ELAPSED] * MHZ_NS_PER_CYCLE > TOO_FAST * most_mhz * (ns + LEAST_NS):
            self.notes = {UNCLEAR}
            return None
        self.notes = {COUNTED[sms == 1]}
        return cycles

    def _find(
        self, before: int, now: int, clocks_mhz: tuple[int | None, int | None], ns: int
    ) -> tuple[bool, int] | None:
        """Return the one convention that fits the clock; None where none or more than one does, or the clock moved."""
        then_mhz, now_mhz = clocks_mhz
        if not then_mhz or not now_mhz or ns < LEAST_NS:
            return None
        if 100 * abs(then_mhz - now_mhz) > STEADY_PERCENT * max(then_mhz, now_mhz):
            return None
        expected = (then_mhz + now_mhz) * ns // (2 * MHZ_NS_PER_CYCLE)
        fitting = [(is_total, self._fit(count, expected)) for is_total, count in ((True, now - before), (False, now))]
        found = [(is_total, sms) for is_total, sms in fitting if sms is not None]
        if not found:
            self.notes = {UNCLEAR}
        return found[0] if len(found) == 1 else None

    def _fit(self, count: int, expected: int) -> int | None:
        if _is_near(count, expected):
            return 1
        if count < 2 * expected:
            return None
        sms = self._count_sms()
        return sms if sms and sms > 1 and _is_near(count, sms * expected) else None


def _is_near(count: int, expected: int) -> bool:
    return 100 * abs(count - expected) <= NEAR_PERCENT * expected


def make_activity(
    shares: Mapping[str, float],
    cycles: Mapping[str, int] | None,
    clocks_mhz: tuple[int | None, int | None],
    ns: int,
    notes: set[str],
) -> Activity | None:
    """Return the cycles of each pipe, by its counter or else by its share; None where nothing is known.

    `cycles` are as `CycleCounter.take` returns them: where they are None, shares are worth what the clock is. What one
    count of a pipe is, nobody documents (an SM has four tensor cores); a share is of cycles. So where the two differ
    the share stands, of the cycles that elapsed.

    Units: `shares` percent of the cycles of `ns` nanoseconds, `clocks_mhz` megahertz at both ends of them.
    """
    if cycles is None:
        then_mhz, now_mhz = clocks_mhz
        if not shares or then_mhz is None or now_mhz is None:
            return None
        return Activity(_parts(shares, (then_mhz + now_mhz) * ns, 2 * MHZ_NS_PER_CYCLE), ns)
    if ELAPSED not in cycles:
        return None
    pipes = dict(cycles)
    elapsed = pipes.pop(ELAPSED)
    points, part = APART
    rest = {}
    for name, share in shares.items():
        count = pipes.get(name)
        if count is None or abs(100 * count - share * elapsed) > (points + part * share) * elapsed:
            rest[name] = share
            notes |= {DISAGREE} if count is not None else set()
    for name in [name for name, count in pipes.items() if 100 * count > MOST_PERCENT * elapsed and name not in rest]:
        del pipes[name]
        notes.add(TOO_MANY)
    return Activity(pipes | _parts(rest, elapsed, 1) if rest else pipes, ns, elapsed)


def _parts(shares: Mapping[str, float], whole: int, parts: int) -> dict[str, int]:
    """Return shares in percent of a whole that is counted in parts, rounded down."""
    found = {}
    for name, share in shares.items():
        above, below = share.as_integer_ratio()
        found[name] = above * whole // (below * parts * 100)
    return found
