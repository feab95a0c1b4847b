"""Readings of a device's counters, and what it spent between two of them.

Counters lose nothing between readings, however far apart; but they restart, freeze and jump, and what they say then is
no figure: it is missing for that time, with a note. Pure arithmetic, no NVML.
Not here: how a device is read (`device.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flopmeter.units import NS_PER_S
from flopmeter.usage import DeviceUsage

PJ_PER_MJ = 10**9
"""A milliwatt for a nanosecond is a picojoule."""
MHZ_NS_PER_CYCLE = 1000
SUSPECT = (6, 5)
"""More than this share of the enforced power limit, over a second or longer, is no energy that a device can draw."""
UNTOLD_MW = 10_000_000
"""What no device draws, where the limit is not told: 10 kW."""
NEAR_NS = 5 * NS_PER_S
"""What is read at one time stands for no longer than that: after a hole only counters know what was in it."""
HOLE = "readings lay so far apart that only counters tell what was between"
RESET = "the energy counter went backwards (driver reloaded or device reset)"
STUCK = "the energy counter stood still while the device drew power, and may have from just after the reading before"
IMPOSSIBLE = "the energy counter rose by more than the power limit allows"
SILENT = "the device did not answer for a while"
CAUSES = {
    1 << 2: "power cap",
    1 << 3: "hardware slowdown",
    1 << 4: "sync boost",
    1 << 5: "thermal",
    1 << 6: "hardware thermal",
    1 << 7: "power brake",
}
"""Why a clock is held down, by the bits of nvml.h; those of idling and of clocks that somebody set are none."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Cycles in which each pipe was active, mean over the SMs, since the activity before; `ns` is how long that is.

    `elapsed` are all cycles of that time, where the device counted them itself: then a hole takes nothing away.
    """

    pipes: Mapping[str, int]
    ns: int
    elapsed: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device said at one time; None and a note where it did not.

    Units: `at_ns` nanoseconds of the sampler's clock, `energy_mj` millijoules since the driver was loaded, `power_mw`
    milliwatts, `busy_percent` of the last second or less, `sm_mhz` megahertz, `slowed_ns` nanoseconds by reason since
    the driver was loaded; where those are not told, `reasons` are the bits that hold now; `faults` counts by name,
    since the reading before.
    """

    at_ns: int
    has_answered: bool = True
    energy_mj: int | None = None
    power_mw: int | None = None
    busy_percent: int | None = None
    sm_mhz: int | None = None
    limit_mw: int | None = None
    slowed_ns: Mapping[str, int] = field(default_factory=dict)
    reasons: int | None = None
    activity: Activity | None = None
    faults: Mapping[str, int] = field(default_factory=dict)
    notes: frozenset[str] = frozenset()


class Spending:
    """Turns the readings of one device into what it spent from each to the next.

    Units: nanoseconds of the sampler's clock. At `free_ns` it was last seen not to be held, None where nobody looked;
    at `found_ns` it was found to be.
    """

    def __init__(self, uuid: str, *, free_ns: int | None = None, found_ns: int | None = None) -> None:
        """Start without a reading."""
        self.uuid = uuid
        self.name = "unknown"
        self._free_ns = free_ns
        self._found_ns = found_ns
        self._before: Reading | None = None
        self._is_stuck = False
        self._rest_pj = 0

    def take(self, reading: Reading) -> DeviceUsage | None:
        """Return what was spent since the reading before: nothing for that one again, before a first one an edge."""
        before = self._before
        if before is reading:  # nothing new was told
            return None
        if before is not None and reading.at_ns < before.at_ns:  # it hung, and was given up for that long
            reading = replace(reading, at_ns=before.at_ns, has_answered=False)
        self._before = reading
        if before is None:
            return self._begin(reading)
        ns = max(0, reading.at_ns - before.at_ns)
        if not (before.has_answered and reading.has_answered):
            self._is_stuck = False
            return replace(self.unseen(ns, reading.notes), faults=reading.faults)
        notes = set(reading.notes)
        missing: dict[str, int] = {}
        energy_mj = self._energy(before, reading, ns, notes)
        activity = reading.activity
        is_counted = activity is not None and activity.elapsed is not None
        if is_near := ns <= NEAR_NS:
            sm_cycles = _cycles(before.sm_mhz, reading.sm_mhz, ns)
        else:
            sm_cycles, activity = None, activity if is_counted else None  # shares are worth no more than the clock
            notes.add(HOLE)
        if activity is not None and is_counted and activity.ns == ns:
            sm_cycles = activity.elapsed
        if activity is not None and activity.ns < ns:
            missing["pipes"] = ns - activity.ns
        return DeviceUsage(
            uuid=self.uuid,
            name=self.name,
            held_ns=ns,
            busy_ns=None if reading.busy_percent is None or not is_near else ns * reading.busy_percent // 100,
            energy_mj=energy_mj,
            power_mj=self._integrate(reading.power_mw, ns) if is_near else None,
            sm_cycles=sm_cycles,
            pipes=None if activity is None else activity.pipes,
            throttled=_slowed(before, reading, ns),
            least_mw=reading.power_mw,
            missing=missing,
            faults=reading.faults,
            note="; ".join(sorted(notes)),
        )

    def miss(self, at_ns: int, note: str) -> DeviceUsage | None:
        """Return what is over at a time until which nothing could be read, though it was tried.

        Units: nanoseconds of the sampler's clock.
        """
        return self.take(Reading(at_ns, has_answered=False, notes=frozenset({note})))

    def leave(self, at_ns: int) -> DeviceUsage | None:
        """Return the stretch since the last reading, of a device that was found free at `at_ns`.

        Units: nanoseconds of the sampler's clock.
        """
        before, self._before = self._before, None
        return None if before is None else self.edge(at_ns - before.at_ns)

    def _begin(self, reading: Reading) -> DeviceUsage | None:
        if self._free_ns is None:
            return None
        if reading.has_answered or self._found_ns is None:
            return self.edge(reading.at_ns - self._free_ns)
        return self.edge(self._found_ns - self._free_ns) + self.unseen(
            max(0, reading.at_ns - self._found_ns), reading.notes
        )

    def unseen(self, ns: int, notes: frozenset[str] = frozenset()) -> DeviceUsage:
        """Return a stretch of which nothing is known but its length.

        Units: nanoseconds.
        """
        return DeviceUsage(
            uuid=self.uuid, name=self.name, held_ns=0, unseen_ns=ns, note="; ".join(sorted(notes or {SILENT}))
        )

    def edge(self, ns: int) -> DeviceUsage:
        """Return a stretch at whose one end the device was held, and at the other not.

        Units: nanoseconds.
        """
        return DeviceUsage(uuid=self.uuid, name=self.name, held_ns=0, edge_ns=max(0, ns))

    def _energy(self, before: Reading, reading: Reading, ns: int, notes: set[str]) -> int | None:
        if before.energy_mj is None or reading.energy_mj is None:
            return None
        spent, was_stuck = reading.energy_mj - before.energy_mj, self._is_stuck
        is_long = ns >= NS_PER_S * 9 // 10
        self._is_stuck = spent == 0 and reading.power_mw != 0 and (is_long or was_stuck)
        if spent < 0:
            notes.add(RESET)
            return None
        if self._is_stuck or was_stuck:  # when it moves again, it may make up for the time or not
            notes.add(STUCK)
            return None
        most, least = SUSPECT
        limit_mw = max(before.limit_mw or 0, reading.limit_mw or 0) or UNTOLD_MW  # it may have been changed in between
        if spent * PJ_PER_MJ * least > limit_mw * (ns if is_long else ns + NS_PER_S) * most:
            notes.add(IMPOSSIBLE)
            return None
        return spent

    def _integrate(self, power_mw: int | None, ns: int) -> int | None:
        """Take a reading for the mean since the one before, as NVML's readings are over the last second."""
        if power_mw is None:
            return None
        whole, self._rest_pj = divmod(power_mw * ns + self._rest_pj, PJ_PER_MJ)
        return whole


def _cycles(then_mhz: int | None, now_mhz: int | None, ns: int) -> int | None:
    if then_mhz is None or now_mhz is None:
        return None
    return (then_mhz + now_mhz) * ns // (2 * MHZ_NS_PER_CYCLE)


def _slowed(before: Reading, reading: Reading, ns: int) -> dict[str, int] | None:
    """Return for how long the clock was held down, by reason: by the counters, or else by what is said now."""
    if not reading.slowed_ns:
        if reading.reasons is None or ns > NEAR_NS:
            return None
        return {name: ns for bit, name in CAUSES.items() if reading.reasons & bit}
    if set(reading.slowed_ns) != set(before.slowed_ns):
        return None  # a reason that was not told would look like none
    found = {}
    for name, now_ns in reading.slowed_ns.items():
        if now_ns < before.slowed_ns[name]:
            return None
        if now_ns - before.slowed_ns[name] > ns + NS_PER_S:  # longer than there was time
            return None
        if now_ns > before.slowed_ns[name]:
            found[name] = now_ns - before.slowed_ns[name]
    return found
