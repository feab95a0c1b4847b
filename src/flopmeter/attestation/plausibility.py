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
from flopmeter.devices.peaks import bound_cpu, find_columns
from flopmeter.devices.table import MHZ, Part, PeakTable
from flopmeter.estimate.hardware import DeviceTime, estimate_hardware, runs_on_tensor
from flopmeter.reconciliation import device_times, precisions_of
from flopmeter.tally import CONTRACTIONS
from flopmeter.units import NS_PER_S, print_duration, print_energy, print_flop, print_held
from flopmeter.usage import DeviceUsage

VERDICTS = ("yes", "no", "cannot-tell")
KINDS = ("matmul", "attention", "recurrent")
"""Kinds of a tally whose FLOP are compared; see the module's docstring."""
UNLIKE = Fraction(1, 20)
"""The share by which energy from a device's counter and from its power readings may differ and still be one figure."""
MAX_NAMED = 3
TILE_WASTE = 64
"""How much more than asked for a tensor pipe may do: for one row in a tile of 64, the least height on Hopper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausibility:
    """One question to physics, its answer, the numbers it stands on, and one sentence; `why` there is no answer."""

    name: str
    verdict: str
    detail: str
    why: str = ""
    numbers: Mapping[str, str] = field(default_factory=dict)

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return it as reports carry it."""
        return {"name": self.name, "verdict": self.verdict, "detail": self.detail, "numbers": dict(self.numbers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one device can do, and what it was given; None is what nobody knows.

    Units: `may_have_held_ns` nanoseconds, of which `edge_ns` are edges, in which nobody measured energy.
    `stated_flop_per_s` is its maker's peak in the fastest precision that was used, `stated_in` those precisions, and
    `most_flop_per_s` what no program makes it exceed (`devices.peaks.most_flop_per_s`). `energy_mj` millijoules, and
    `energy_why` why there are none. `floor_mw` is the least power that the device drew in any instant of that time, in
    milliwatts, and `floor_source` who says so: a datasheet has no such figure, a sampler sees the lowest that it saw.
    """

    uuid: str
    may_have_held_ns: int | None = None
    edge_ns: int = 0
    stated_flop_per_s: int | None = None
    stated_in: str = ""
    most_flop_per_s: int | None = None
    energy_mj: int | None = None
    energy_why: str = ""
    floor_mw: int | None = None
    floor_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What the devices themselves saw, all of them together.

    Units: FLOP. `least_flop` are all cycles of the tensor pipes at the slowest precision that was counted, where none
    of those runs on them (`is_foreign`) at the slowest there is; `most_flop` at the fastest there is. `beside_flop` is
    the most that all other pipes and the host could have done in that time, and the tensor pipes at clocks above those
    that were read. `why` and `why_beside` say why they are unknown.
    """

    least_flop: int | None = None
    most_flop: int | None = None
    beside_flop: int | None = None
    is_foreign: bool = False
    why: str = ""
    why_beside: str = ""


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
    host = account.usage.host
    host_flop = 0 if host is None or host.cpu_ns is None else bound_host(host.cpu_ns)
    activity = _find_activity(devices, precisions, host_flop=host_flop, table=table)
    answers = [
        check_ceiling(products, limits, host_flop=host_flop),
        check_energy(products, limits, host_flop=host_flop),
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
    why = "a part of the run was not sampled, not yet, or is a gap"
    return replace(answer, verdict="cannot-tell", detail=f"cannot tell: {why}; else {answer.detail}", why=why)


def _cannot_tell(name: str, numbers: Mapping[str, str], why: str, *, about: str = "") -> Plausibility:
    detail = f"cannot tell: {about}; {why}" if about else f"cannot tell: {why}"
    return Plausibility(name=name, verdict="cannot-tell", detail=detail, numbers=numbers, why=why)


def _limit(time: DeviceTime, usage: DeviceUsage, precisions: Sequence[str], table: PeakTable | None) -> Limit:
    part = time.identify(table).part
    rates = [] if part is None else [_stated(part, precision) for precision in precisions]
    known = [rate for rate in rates if rate is not None]
    stated = None if part is None or not known or len(known) < len(rates) else time.share_of(part, max(known))
    energy_mj, energy_why = _agreed_energy(usage)
    return Limit(
        uuid=time.uuid,
        may_have_held_ns=time.may_have_held_ns,
        edge_ns=usage.edge_ns,
        stated_flop_per_s=stated,
        stated_in=" and ".join(precisions),
        most_flop_per_s=time.most_flop_per_s(table),
        energy_mj=energy_mj,
        energy_why=energy_why,
        floor_mw=usage.least_mw,
        floor_source="the lowest that was read",
    )


def _agreed_energy(usage: DeviceUsage) -> tuple[int | None, str]:
    """Return the energy, if counter and power readings agree: a counter that lags makes an honest run impossible."""
    whose = f"the energy of {usage.uuid[:12]}"
    energy_mj, power_mj = usage.energy_mj, usage.power_mj
    if energy_mj is None or power_mj is None:
        what = whose if energy_mj is None else f"the power of {usage.uuid[:12]}, to hold its energy against,"
        return None, f"{what} was not measured"
    for figure, words in (("energy_mj", whose), ("power_mj", f"the power of {usage.uuid[:12]}")):
        if usage.basis(figure) != "measured":
            return None, f"{words} was not measured for {print_duration(usage.lacks(figure) + usage.unseen_ns)}"
    if abs(energy_mj - power_mj) > UNLIKE * power_mj:
        ways = f"{print_energy(energy_mj)} by its counter, {print_energy(power_mj)} by its power readings"
        return None, f"{whose} is told in two ways: {ways}"
    return energy_mj, ""


def _find_activity(
    devices: Sequence[DeviceTime], precisions: Sequence[str], *, host_flop: int, table: PeakTable | None
) -> Activity:
    parts = [device.identify(table).part for device in devices]
    is_foreign = not any(part is not None and runs_on_tensor(part, precisions) for part in parts)
    least = [_least_tensor(device, precisions, table) for device in devices]
    widest = [estimate_hardware([device], table=table).tensor_upper_flop for device in devices]
    beside = [_most_beside(device, most, table) for device, most in zip(devices, widest, strict=True)]
    silent = [device.uuid for device in devices if device.tensor is None]
    whys = [f"no pipe activity of {_name(silent)} was measured"] if silent else []
    unrated = [
        (device.name or device.uuid[:12]) if part is None else part.part
        for device, part, most in zip(devices, parts, widest, strict=True)
        if device.tensor is not None and most is None
    ]
    whys += [f"no rate of the tensor pipes of {', '.join(dict.fromkeys(unrated))} is known"] if unrated else []
    unbound = [device.uuid for device, rate in zip(devices, beside, strict=True) if rate is None]
    others = _total(beside)
    return Activity(
        least_flop=_total(least),
        most_flop=_total(widest),
        beside_flop=None if others is None else others + host_flop,
        is_foreign=is_foreign,
        why="; ".join(whys),
        why_beside=f"what other pipes of {_name(unbound)} could add is unknown" if unbound else "",
    )


def _least_tensor(device: DeviceTime, precisions: Sequence[str], table: PeakTable | None) -> int | None:
    """Return what the tensor pipes did at least; at the slowest of all rates where none that was counted is known."""
    found = estimate_hardware([device], precisions=precisions, table=table).tensor_lower_flop
    return estimate_hardware([device], table=table).tensor_lower_flop if found is None else found


def _most_beside(device: DeviceTime, tensor_flop: int | None, table: PeakTable | None) -> int | None:
    """Return what a device could have done beside these cycles of its tensor pipes, at its highest clock all the time.

    The clock is read now and then: where cycles are a share of it, the tensor pipes had more of them at a higher one.
    """
    part, rate = device.identify(table).part, device.beside_flop_per_s(table)
    if part is None or rate is None or tensor_flop is None or device.may_have_held_ns is None or device.clock is None:
        return None
    highest_mhz = max(mhz for mhz in (part.max_clock_mhz, device.max_clock_mhz, part.clock_mhz, 0) if mhz is not None)
    most_cycles = Fraction(highest_mhz * MHZ * device.clock.covered_ns, NS_PER_S)
    faster = max(Fraction(0), most_cycles / device.clock.cycles - 1) if device.clock.cycles else Fraction(0)
    return ceil(Fraction(device.may_have_held_ns * rate, NS_PER_S) + tensor_flop * faster)


def _total(values: Sequence[int | None]) -> int | None:
    return None if not values or None in values else sum(value or 0 for value in values)


def _name(uuids: Sequence[str]) -> str:
    named = ", ".join(uuid[:12] for uuid in uuids[:MAX_NAMED])
    return named if len(uuids) <= MAX_NAMED else f"{named} and {len(uuids) - MAX_NAMED} more"


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
    unknown = [limit.uuid for limit in limits if limit.may_have_held_ns is None]
    if not limits or unknown:
        why = "no device time was measured" if not limits else f"the time of {_name(unknown)} is unknown"
        return _cannot_tell(name, numbers, why)
    time = print_held(sum(limit.may_have_held_ns or 0 for limit in limits))
    counted = f"{print_flop(product_flop)} of products in {time}"
    if most is not None and product_flop > most:
        detail = f"impossible: {counted}, which no program could do in less than {_times(product_flop, most)} that time"
        return Plausibility(name=name, verdict="no", detail=detail, numbers=numbers)
    within = ", ".join(dict.fromkeys(f" in {limit.stated_in}" for limit in limits if limit.stated_in))
    if stated is not None and product_flop <= stated:
        detail = f"possible: {counted}; {print_flop(_floor(stated))} by stated peaks{within}"
        return Plausibility(name=name, verdict="yes", detail=detail, numbers=numbers)
    if most is not None:
        above = (
            ""
            if stated is None
            else f"above stated peaks{within}, {print_flop(_floor(stated))}, as high clocks allow; "
        )
        detail = f"possible: {counted}; {above}{print_flop(_floor(most))} with every pipe full at the highest clock"
        return Plausibility(name=name, verdict="yes", detail=detail, numbers=numbers)
    unrated = [limit.uuid for limit in limits if limit.most_flop_per_s is None]
    why = (
        f"no peak of {_name(unrated)} is known"
        if stated is None
        else f"that is above stated peaks{within}, {print_flop(_floor(stated))}, and how high clocks go is unknown"
    )
    return _cannot_tell(name, numbers, why, about=counted)


def check_energy(product_flop: int, limits: Sequence[Limit], *, host_flop: int = 0) -> Plausibility:
    """Say whether the devices could have done these products with the energy that they drew.

    A device that does F operations is on for at least F ÷ its most, and draws at least its least power meanwhile: more
    than most ÷ least power per joule is impossible. In edges it may have done all that it can, and `host_flop` is what
    the host's processors could have done beside. Without a known least power there is no bound, and `cannot-tell`.

    A cross-check: no power is below the lowest that was read, so energy lasts for the time held or longer at that, and
    the bound is no lower than that of `check_ceiling`, unless energy and time contradict each other.
    """
    name = "energy"
    drawn = _total([limit.energy_mj for limit in limits])
    parts = [_most_by_energy(limit) for limit in limits]
    known = [part for part in parts if part is not None]
    most = sum(known, Fraction(host_flop)) if limits and len(known) == len(parts) else None
    numbers = _numbers(counted_flop=product_flop, energy_mj=drawn, most_flop=_floor(most))
    if drawn is None:
        lacking = [limit for limit in limits if limit.energy_mj is None]
        whys = [limit.energy_why or f"the energy of {limit.uuid[:12]} is unknown" for limit in lacking[:MAX_NAMED]]
        more = [f"and of {len(lacking) - MAX_NAMED} devices more"] if len(lacking) > MAX_NAMED else []
        return _cannot_tell(name, numbers, "; ".join([*whys, *more]) or "no device was measured")
    counted = f"{print_flop(product_flop)} of products with {print_energy(drawn)}"
    if most is None:
        lacking = [limit for limit, part in zip(limits, parts, strict=True) if part is None]
        what = f"the least power of {_name([limit.uuid for limit in lacking])}, or the most it can do"
        return _cannot_tell(name, numbers, f"{what}, is unknown, so nothing bounds FLOP per joule", about=counted)
    sources = "; ".join(dict.fromkeys(limit.floor_source or "nobody named" for limit in limits))
    lasts = print_held(sum((limit.energy_mj or 0) * NS_PER_S // (limit.floor_mw or 1) for limit in limits))
    bound = (
        f"which lasts for {lasts} at the least power of each device ({sources}); no program does more than"
        f" {print_flop(_floor(most))} in that, edges and host included"
    )
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
        return _cannot_tell(name, numbers, activity.why or "no pipe activity was measured")
    did = f"{print_flop(activity.most_flop)} by all tensor cycles at their fastest rate"
    if product_flop <= activity.most_flop:
        return Plausibility(name=name, verdict="yes", detail=f"possible: {counted}; {did}", numbers=numbers)
    if most is None:
        why = activity.why_beside or "what other pipes could add is unknown"
        return _cannot_tell(name, numbers, why, about=f"{counted}, above {did}")
    with_others = f"{print_flop(most)} with all other pipes full, and the host"
    if product_flop <= most:
        return Plausibility(name=name, verdict="yes", detail=f"possible: {counted}; {with_others}", numbers=numbers)
    detail = f"impossible: {counted}, and no more than {with_others}"
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
        return _cannot_tell(name, numbers, activity.why or "no pipe activity was measured")
    saw = f"the tensor pipes did at least {print_flop(least)}, and {print_flop(contraction_flop)} were counted"
    foreign = "nothing that was counted runs on tensor pipes" if activity.is_foreign and contraction_flop else ""
    if least <= contraction_flop and not (foreign and least):
        return Plausibility(name=name, verdict="yes", detail=f"possible: {saw}", numbers=numbers)
    if least <= waste * contraction_flop:
        tiles = f"tiles that are not full may do {waste} times over, or something ran unmetered"
        pieced = f"{foreign}: kernels made it of pieces that do, or something ran unmetered"
        return _cannot_tell(name, numbers, pieced if foreign else tiles, about=saw)
    less = f"and {foreign}" if foreign else f"less than one part in {waste}"
    detail = f"impossible: {saw}, {less}: something ran unmetered, here or beside this run"
    return Plausibility(name=name, verdict="no", detail=detail, numbers=numbers)


def _sum_time(limits: Sequence[Limit], rates: Sequence[int | None]) -> Fraction | None:
    if not limits:
        return None
    total = Fraction(0)
    for limit, rate in zip(limits, rates, strict=True):
        if rate is None or limit.may_have_held_ns is None:
            return None
        total += Fraction(limit.may_have_held_ns * rate, NS_PER_S)
    return total


def _most_by_energy(limit: Limit) -> Fraction | None:
    if limit.energy_mj is None or not limit.floor_mw or limit.most_flop_per_s is None:
        return None
    # mJ ÷ mW are seconds.
    lasts_s = Fraction(limit.energy_mj, limit.floor_mw) + Fraction(limit.edge_ns, NS_PER_S)
    return lasts_s * limit.most_flop_per_s


def _times(value: int, bound: Fraction) -> str:
    return f"{float(value / bound):.3g} times" if bound else "any multiple of"


def _floor(value: Fraction | None) -> int | None:
    return None if value is None else value.numerator // value.denominator


def _numbers(**values: int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
