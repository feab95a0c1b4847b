"""What physics allows: counted products against device time, energy and the activity of the tensor pipes.

`no` means impossible, and is said only of what no program could have done; `yes` means possible, and no more. Not
here: how anything was measured (`sensors`), what it amounts to (`estimate/hardware.py`), and whose word it is.

What is compared are products that kernels compute multiply by multiply: matrix products, attention, recurrent layers.
Convolutions are left out, because kernels compute them in fewer operations (Winograd, FFT), and so is arithmetic of
elements, of which a device may do several nominal operations in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.devices.peaks import bound_cpu, find_columns, identify, most_flop_per_s
from flopmeter.devices.table import Part, PeakTable
from flopmeter.estimate.hardware import DeviceTime, estimate_hardware
from flopmeter.reconciliation import device_times, precisions_of
from flopmeter.tally import CONTRACTIONS
from flopmeter.units import NS_PER_S, print_duration, print_energy, print_flop
from flopmeter.usage import DeviceUsage

VERDICTS = ("yes", "no", "cannot-tell")
KINDS = ("matmul", "attention", "recurrent")
"""Kinds of a tally whose FLOP are compared; see the module's docstring."""
TILE_WASTE = 64
"""How much more than asked for a tensor pipe may do: for one row in a tile of 64, the least height on Hopper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausibility:
    """One question to physics, its answer, the numbers it stands on, and one sentence."""

    name: str
    verdict: str
    detail: str
    numbers: Mapping[str, str] = field(default_factory=dict)

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return it as reports carry it."""
        return {"name": self.name, "verdict": self.verdict, "detail": self.detail, "numbers": dict(self.numbers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one device can do, and what it was given; None is what nobody knows.

    Units: `held_ns` nanoseconds. `stated_flop_per_s` is its maker's peak in the fastest precision that was used, and
    `most_flop_per_s` what no program makes it exceed (`devices.peaks.most_flop_per_s`). `energy_mj` millijoules.
    `floor_mw` is the least power that the device drew in any instant of that time, in milliwatts, and `floor_source`
    who says so: a datasheet has no such figure, a sampler sees the lowest that it saw.
    """

    uuid: str
    held_ns: int | None = None
    stated_flop_per_s: int | None = None
    most_flop_per_s: int | None = None
    energy_mj: int | None = None
    floor_mw: int | None = None
    floor_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What the devices themselves saw, all of them together.

    Units: FLOP. `least_flop` and `most_flop` are all cycles of the tensor pipes at the slowest and at the fastest
    precision (`estimate.hardware.Hardware`, without declared precisions for the latter), `beside_flop` the most that
    all other pipes could have done in that time.
    """

    least_flop: int | None = None
    most_flop: int | None = None
    beside_flop: int | None = None


def check_physics(account: Account, *, table: PeakTable | None = None) -> tuple[Plausibility, ...]:
    """Put all four questions to what one run counted and its devices measured; none where no device was.

    `table` has the peaks, else that which comes with flopmeter. Time in which a device was not seen counts
    as time in which it did all that it can, and what the host's processors could do is added to what devices could.
    """
    devices = device_times(account)
    if not devices:
        return ()
    counts = account.tally.counts
    products = sum(count.flop for count in counts if count.kind in KINDS)
    contractions = sum(count.flop for count in counts if count.kind in CONTRACTIONS)
    precisions = precisions_of(account)
    limits = [
        _limit(time, usage, precisions, table) for time, usage in zip(devices, account.usage.devices, strict=True)
    ]
    seen = estimate_hardware(devices, precisions=precisions, table=table)
    widest = estimate_hardware(devices, table=table)
    activity = Activity(least_flop=seen.tensor_lower_flop, most_flop=widest.tensor_upper_flop)
    host = account.usage.host
    host_flop = 0 if host is None or host.cpu_ns is None else bound_host(host.cpu_ns)
    answers = [
        check_ceiling(products, limits, host_flop=host_flop),
        check_energy(products, limits),
        check_activity(products, activity),
    ]
    if account.usage.notes or account.gaps or account.is_live:
        answers = [without_no(answer) for answer in answers]
    return (*answers, check_unmetered(contractions, activity))


def bound_host(cpu_ns: int) -> int:
    """Return what processors do at most in so many nanoseconds of their time.

    Units: FLOP.
    Basis: a stated bound (`devices.peaks.bound_cpu`) times measured time.
    """
    return ceil(Fraction(cpu_ns * bound_cpu(1), NS_PER_S))


def without_no(answer: Plausibility) -> Plausibility:
    """Take back what was called impossible: devices that were not sampled, or not yet, may have done it."""
    if answer.verdict != "no":
        return answer
    why = f"cannot tell: a part of the run was not sampled, not yet, or is a gap; else {answer.detail}"
    return replace(answer, verdict="cannot-tell", detail=why)


def _limit(time: DeviceTime, usage: DeviceUsage, precisions: Sequence[str], table: PeakTable | None) -> Limit:
    part = identify(device_id=time.device_id, name=time.name, table=table).part
    share = Fraction(1)
    if part is not None and part.sms and time.slice_sms is not None:
        share = Fraction(min(time.slice_sms, part.sms), part.sms)
    rates = [] if part is None else [_stated(part, precision) for precision in precisions]
    return Limit(
        uuid=time.uuid,
        held_ns=time.held_ns,
        stated_flop_per_s=_part_of(
            max(rate for rate in rates if rate is not None) if rates and None not in rates else None, share
        ),
        most_flop_per_s=_part_of(None if part is None else most_flop_per_s(part), share),
        energy_mj=usage.energy_mj if usage.basis("energy_mj") == "measured" else None,
        floor_mw=usage.least_mw if usage.basis("power_mj") == "measured" else None,
        floor_source="the lowest that was read",
    )


def _part_of(rate: int | None, share: Fraction) -> int | None:
    return None if rate is None else ceil(rate * share)


def _stated(part: Part, precision: str) -> int | None:
    columns = find_columns(part, precision)
    return None if columns is None else min(int(part.dense[column]) for column in columns)


def check_ceiling(product_flop: int, limits: Sequence[Limit], *, host_flop: int = 0) -> Plausibility:
    """Say whether the devices could have done these products in the time that they were held.

    `host_flop` is what the host's processors could have done of them beside.
    `no` above every pipe at the highest clock. A datasheet's peak alone can only say `yes`: clocks go above it.
    """
    name = "ceiling"
    stated = _sum_time(limits, [limit.stated_flop_per_s for limit in limits])
    most = _sum_time(limits, [limit.most_flop_per_s for limit in limits])
    if most is not None:
        most += host_flop
    numbers = _numbers(counted_flop=product_flop, stated_flop=_floor(stated), most_flop=_floor(most))
    held_ns = [limit.held_ns for limit in limits]
    if not limits or None in held_ns:
        why = "no device time was measured" if not limits else "the time of a device is unknown"
        return Plausibility(name=name, verdict="cannot-tell", detail=f"cannot tell: {why}", numbers=numbers)
    time = print_duration(sum(ns or 0 for ns in held_ns))
    counted = f"{print_flop(product_flop)} of products in {time} of devices"
    if most is not None and product_flop > most:
        detail = f"impossible: {counted}, which no program could do in less than {_times(product_flop, most)} that time"
        return Plausibility(name=name, verdict="no", detail=detail, numbers=numbers)
    if stated is not None and product_flop <= stated:
        detail = f"possible: {counted}, at most {print_flop(_floor(stated))} by their makers' peaks"
        return Plausibility(name=name, verdict="yes", detail=detail, numbers=numbers)
    if most is not None:
        where = "no peak is stated" if stated is None else "above their makers' peaks, as clocks above the stated allow"
        detail = f"possible: {counted}, at most {print_flop(_floor(most))} at the highest clock; {where}"
        return Plausibility(name=name, verdict="yes", detail=detail, numbers=numbers)
    why = (
        "no peak of a device is known"
        if stated is None
        else f"that is above their makers' peaks, {print_flop(_floor(stated))}, and how high clocks go is unknown"
    )
    return Plausibility(name=name, verdict="cannot-tell", detail=f"cannot tell: {counted}; {why}", numbers=numbers)


def check_energy(product_flop: int, limits: Sequence[Limit]) -> Plausibility:
    """Say whether the devices could have done these products with the energy that they drew.

    A device that does F operations is on for at least F ÷ its most, and draws at least its least power meanwhile: more
    than most ÷ least power per joule is impossible. It is a bound far above what any part does; without a known least
    power there is none, and the answer is `cannot-tell`.
    """
    name = "energy"
    energies = [limit.energy_mj for limit in limits]
    drawn = None if not limits or None in energies else sum(value or 0 for value in energies)
    parts = [_most_by_energy(limit) for limit in limits]
    known = [part for part in parts if part is not None]
    most = sum(known, Fraction(0)) if limits and len(known) == len(parts) else None
    numbers = _numbers(counted_flop=product_flop, energy_mj=drawn, most_flop=_floor(most))
    if drawn is None:
        why = "no device was measured" if not limits else "the energy of a device is unknown"
        return Plausibility(name=name, verdict="cannot-tell", detail=f"cannot tell: {why}", numbers=numbers)
    counted = f"{print_flop(product_flop)} of products with {print_energy(drawn)}"
    if most is None:
        why = "the least power of a device, or the most it can do, is unknown, so nothing bounds FLOP per joule"
        return Plausibility(name=name, verdict="cannot-tell", detail=f"cannot tell: {counted}; {why}", numbers=numbers)
    sources = "; ".join(dict.fromkeys(limit.floor_source or "nobody named" for limit in limits))
    bound = f"at most {print_flop(_floor(most))} at the least power (by {sources})"
    if product_flop > most:
        return Plausibility(name=name, verdict="no", detail=f"impossible: {counted}, {bound}", numbers=numbers)
    return Plausibility(name=name, verdict="yes", detail=f"possible: {counted}, {bound}", numbers=numbers)


def check_activity(product_flop: int, activity: Activity) -> Plausibility:
    """Say whether pipes that were active for so long could have done these products.

    `no` above all tensor cycles at the fastest precision and all other pipes full for all the time.
    """
    name = "tensor-activity"
    most = None
    if activity.most_flop is not None and activity.beside_flop is not None:
        most = activity.most_flop + activity.beside_flop
    numbers = _numbers(counted_flop=product_flop, tensor_most_flop=activity.most_flop, beside_flop=activity.beside_flop)
    counted = f"{print_flop(product_flop)} of products"
    if activity.most_flop is None:
        detail = "cannot tell: no activity of tensor pipes was measured, or no rate of them is known"
        return Plausibility(name=name, verdict="cannot-tell", detail=detail, numbers=numbers)
    if product_flop <= activity.most_flop:
        detail = f"possible: {counted}, tensor pipes did at most {print_flop(activity.most_flop)}"
        return Plausibility(name=name, verdict="yes", detail=detail, numbers=numbers)
    if most is None:
        above = f"above all tensor cycles, {print_flop(activity.most_flop)}"
        detail = f"cannot tell: {counted}, {above}; what other pipes could add is unknown"
        return Plausibility(name=name, verdict="cannot-tell", detail=detail, numbers=numbers)
    if product_flop <= most:
        with_others = f"with all other pipes at most {print_flop(most)}"
        detail = f"possible: {counted}, tensor pipes did at most {print_flop(activity.most_flop)}, {with_others}"
        return Plausibility(name=name, verdict="yes", detail=detail, numbers=numbers)
    detail = f"impossible: {counted}, and all pipes together did at most {print_flop(most)}"
    return Plausibility(name=name, verdict="no", detail=detail, numbers=numbers)


def check_unmetered(contraction_flop: int, activity: Activity, *, waste: int = TILE_WASTE) -> Plausibility:
    """Say whether what was counted can be all that the tensor pipes did.

    `no` where they did over `waste` times as much even at the slowest precision: something ran unmetered, of this run
    or of another on the same devices. Between, it cannot be told from tiles that were not full. Whoever knows that
    kernels fill their tiles may ask with a smaller `waste`. `contraction_flop` has convolutions in it, unlike what the
    other questions take: the tensor pipes do them too. Operators without a formula are unmetered here.
    """
    name = "unmetered"
    numbers = {**_numbers(counted_flop=contraction_flop, tensor_least_flop=activity.least_flop), "waste": str(waste)}
    least = activity.least_flop
    if least is None:
        detail = "cannot tell: no activity of tensor pipes was measured, or no rate of them is known"
        return Plausibility(name=name, verdict="cannot-tell", detail=detail, numbers=numbers)
    saw = f"the tensor pipes did at least {print_flop(least)}, and {print_flop(contraction_flop)} were counted"
    if least <= contraction_flop:
        return Plausibility(name=name, verdict="yes", detail=f"possible: {saw}", numbers=numbers)
    if least <= waste * contraction_flop:
        detail = f"cannot tell: {saw}; tiles that are not full may do {waste} times over, or something ran unmetered"
        return Plausibility(name=name, verdict="cannot-tell", detail=detail, numbers=numbers)
    detail = f"impossible: {saw}, less than one part in {waste}: something ran unmetered, here or beside this run"
    return Plausibility(name=name, verdict="no", detail=detail, numbers=numbers)


def _sum_time(limits: Sequence[Limit], rates: Sequence[int | None]) -> Fraction | None:
    if not limits:
        return None
    total = Fraction(0)
    for limit, rate in zip(limits, rates, strict=True):
        if rate is None or limit.held_ns is None:
            return None
        total += Fraction(limit.held_ns * rate, NS_PER_S)
    return total


def _most_by_energy(limit: Limit) -> Fraction | None:
    if limit.energy_mj is None or not limit.floor_mw or limit.most_flop_per_s is None:
        return None
    # mJ ÷ mW are seconds.
    return Fraction(limit.energy_mj * limit.most_flop_per_s, limit.floor_mw)


def _times(value: int, bound: Fraction) -> str:
    return f"{float(value / bound):.3g} times" if bound else "any multiple of"


def _floor(value: Fraction | None) -> int | None:
    return None if value is None else value.numerator // value.denominator


def _numbers(**values: int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
