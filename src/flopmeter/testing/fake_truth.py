"""What is true of a scripted machine, worked out from the script alone: what a meter should have found.

Exact, and written apart from the C library, so that a slip in one of them shows as a difference. Not here: what a
driver would answer in the end (steps of the counter, faults), but for `counter_mj`.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from flopmeter.testing.fake_devices import FakeDevice, FakeMachine, Figure, Series, nanoseconds
from flopmeter.units import NS_PER_S

GPU_IS_LOST = 15
# Metrics that are percentages of cycles, so that each instant weighs as much as its clock.
PIPES = {*range(2, 10), 11, 12, 13}
# Raw counters of cycles, and the percentage that each goes by; 248 counts every cycle.
CYCLES_OF = {249: 2, 250: 5, 251: 8, 252: 7, 253: 9, 254: 6, 257: 4, 258: 11, 259: 12, 260: 13}


def energy_mj(device: FakeDevice, from_ns: int, to_ns: int) -> int:
    """Return the energy that the device took between two times, whatever its counter showed.

    Units: whole millijoules, rounded down.
    """
    return _integral(device.power, from_ns, to_ns) // NS_PER_S


def counter_mj(device: FakeDevice, at_ns: int) -> int:
    """Return what the energy counter shows: in steps, stuck where it is frozen, restarted by resets.

    Units: millijoules since the counter last restarted.
    """
    resets = [nanoseconds(second) for second in device.resets_s if nanoseconds(second) <= at_ns]
    since = max(resets, default=0)
    for start, end in device.frozen_s:
        if nanoseconds(start) <= at_ns < nanoseconds(end):
            at_ns = nanoseconds(start)
    shown = at_ns // device.energy_refresh_ns * device.energy_refresh_ns
    reading = 0 if resets else device.energy_base_mj
    if device.energy_offset is not None:
        reading += int(Series.of(device.energy_offset).at(shown))
    return reading + (energy_mj(device, since, shown) if shown > since else 0)


def mean_power_mw(device: FakeDevice, from_ns: int, to_ns: int) -> Fraction:
    """Return the mean power between two times.

    Units: milliwatts.
    """
    return _integral(device.power, from_ns, to_ns) / (to_ns - from_ns)


def gpm_mean(device: FakeDevice, metric: int, from_ns: int, to_ns: int) -> Fraction:
    """Return the mean of a GPM metric: over cycles for what pipes do, over time for the rest.

    Units: those of the metric, percent for pipes.
    """
    figure = device.gpm[metric]
    if metric not in PIPES:
        return _integral(figure, from_ns, to_ns) / (to_ns - from_ns)
    clock = _series(device.sm_clock)
    whole = sum(span * Fraction(clock.at(at)) for at, span in _pieces((clock,), from_ns, to_ns))
    return _product(figure, clock, from_ns, to_ns) / whole


def cycles_between(device: FakeDevice, counter: int, from_ns: int, to_ns: int) -> Fraction:
    """Return how far a raw counter of cycles goes between two times without a reset.

    Units: cycles, as a mean over SMs or as their sum, as the device counts.
    """
    clock = _series(device.sm_clock)
    share = device.gpm[CYCLES_OF[counter]] if counter in CYCLES_OF else 100
    cycles = _product(share, clock, from_ns, to_ns) / 100 / 1000
    return cycles * device.sms if device.gpm_cycles == "sum" else cycles


def throttled_ns(device: FakeDevice, reasons: int, from_ns: int, to_ns: int) -> int:
    """Return how long any of these clock event reasons held.

    Units: nanoseconds.
    """
    seen = _series(device.reasons)
    return sum(span for at, span in _pieces((seen,), from_ns, to_ns) if int(seen.at(at)) & reasons)


def seen_ns(machine: FakeMachine, index: int, from_ns: int, to_ns: int) -> int:
    """Return how long a device could be read before it was lost, by a fault at every call.

    Units: nanoseconds.
    """
    losses = [
        nanoseconds(fault.from_s)
        for fault in machine.faults
        if fault.target == "*" and fault.code == GPU_IS_LOST and fault.device in {index, None}
    ]
    return max(0, min([to_ns, *losses]) - from_ns)


def _series(figure: Figure | None) -> Series:
    if figure is None:
        raise ValueError("the device does not have this figure")
    return Series.of(figure)


def _pieces(series: tuple[Series, ...], from_ns: int, to_ns: int) -> Iterator[tuple[int, int]]:
    """Cut an interval where any series changes: starts and lengths."""
    inner = {at for one in series for at, _ in one.points if from_ns < at < to_ns}
    edges = [from_ns, *sorted(inner), to_ns]
    yield from ((at, until - at) for at, until in pairwise(edges))


def _integral(figure: Figure | None, from_ns: int, to_ns: int) -> Fraction:
    return _product(figure, Series.of(1), from_ns, to_ns)


def _product(a: Figure | None, b: Figure | None, from_ns: int, to_ns: int) -> Fraction:
    one, other = _series(a), _series(b)
    pieces = _pieces((one, other), from_ns, to_ns)
    return sum((span * Fraction(one.at(at)) * Fraction(other.at(at)) for at, span in pieces), Fraction())
