"""Hardware: what the devices could have done and did, N·L·H·U of measured parts: devices, time, peak, activity.

A share of the peak that somebody assumes is named as assumed, with who does. Not here: how anything was read
(`sensors`), peaks (`devices`), and whether the count can be true (`attestation/plausibility.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Self

from flopmeter import wire
from flopmeter.devices.peaks import (
    Identity,
    beside_flop_per_s,
    bound_capability,
    find_columns,
    find_fastest,
    flop_per_cycle,
    identify,
    most_flop_per_s,
    print_device_id,
)
from flopmeter.devices.table import MHZ, TENSOR, Part, PeakTable
from flopmeter.estimate.estimate import Estimate
from flopmeter.units import NS_PER_S
from flopmeter.usage import DeviceUsage

METHOD = "hardware"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycles:
    """Clock cycles of one SM, on average over the SMs, within a part of the time.

    From a share and a clock: share × MHz × ns / 1000, rounded up. `covered_ns` is the time that was looked at.
    """

    cycles: int
    covered_ns: int

    def __post_init__(self) -> None:
        """Refuse what no clock counts."""
        if self.cycles < 0 or self.covered_ns < 0:
            msg = f"{self.cycles} cycles in {self.covered_ns} ns"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """What was measured of one device, or of one slice of it; None is what was not.

    `device_id` and `name` are those of the whole device, as `devices.peaks.identify` takes them. `clock` are cycles of
    the SM clock, `tensor` those of them in which a tensor pipe was active, without those of integer products where
    they are known apart. `slice_sms` are the SMs of a MIG slice. `sms`, `capability` and `max_clock_mhz` are NVML's
    word, for a device that the table does not have.

    Units: `may_have_held_ns` nanoseconds in which the run may have held it: those that it did, those in which the
    device did not answer, and the edges.
    """

    uuid: str
    name: str = ""
    device_id: str = ""
    may_have_held_ns: int | None = None
    clock: Cycles | None = None
    tensor: Cycles | None = None
    slice_sms: int | None = None
    sms: int | None = None
    capability: str = ""
    max_clock_mhz: int | None = None

    @classmethod
    def of(cls, device: DeviceUsage, says: Mapping[str, str]) -> Self:
        """Return what was measured of a device that `says` of itself what its ledger has."""
        held_ns = device.held_ns or 0
        tensor = None if device.pipes is None else device.pipes.get("tensor")
        if tensor is not None and device.pipes is not None:
            tensor = max(0, tensor - device.pipes.get("imma", 0))
        return cls(
            uuid=device.uuid,
            name=says.get("parent_name", "" if device.name == "unknown" else device.name),
            device_id="" if (pci := _number(says.get("pci", ""), 16)) is None else print_device_id(pci),
            may_have_held_ns=None if device.held_ns is None else held_ns + device.unseen_ns + device.edge_ns,
            clock=_cycles(device.sm_cycles, max(0, held_ns - device.lacks("sm_cycles"))),
            tensor=_cycles(tensor, max(0, held_ns - device.lacks("pipes"))),
            slice_sms=_number(says.get("sms", ""), 10),
            capability=says.get("capability", ""),
        )

    def identify(self, table: PeakTable | None = None) -> Identity:
        """Say which part it is, or is a slice of."""
        return identify(device_id=self.device_id, name=self.name, table=table)

    def most_flop_per_s(self, table: PeakTable | None = None) -> int | None:
        """Return what no program makes it exceed (`devices.peaks.most_flop_per_s`), of a slice by its SMs."""
        part = self.identify(table).part
        return None if part is None else self.share_of(part, most_flop_per_s(part, clock_mhz=self.max_clock_mhz))

    def beside_flop_per_s(self, table: PeakTable | None = None) -> int | None:
        """Return what its pipes beside those of tensors do at most (`devices.peaks.beside_flop_per_s`), likewise."""
        part = self.identify(table).part
        return None if part is None else self.share_of(part, beside_flop_per_s(part, clock_mhz=self.max_clock_mhz))

    def share_of(self, part: Part, rate: int | None) -> int | None:
        """Return of the rate of a whole part that of this slice, rounded up."""
        if rate is None or self.slice_sms is None or not part.sms:
            return rate
        return ceil(Fraction(rate * min(self.slice_sms, part.sms), part.sms))


def _number(text: str, base: int) -> int | None:
    """Return the number that a device gave; None where what stands there is none."""
    try:
        number = int(text, base)
    except ValueError:
        return None
    return number if 0 < number < 2**32 else None


def _cycles(cycles: int | None, covered_ns: int) -> Cycles | None:
    return None if cycles is None else Cycles(cycles=cycles, covered_ns=covered_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A share of the peak that nobody measured, and who assumes it."""

    share: Fraction
    who: str

    def __post_init__(self) -> None:
        """An assumption without a name behind it is a guess of ours."""
        if not 0 <= self.share <= 1 or not self.who.strip():
            msg = f"a share of {self.share}, assumed by {self.who!r}; it lies between 0 and 1, and somebody assumes it"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the devices did at most, and where activity is known, about how much; None where a device does not tell.

    `ceiling_flop`: time × stated peak. `at_clock_flop`: the same at the clock that was measured.
    `tensor_lower_flop` and `tensor_upper_flop`: all tensor cycles at the slowest and at the fastest precision in
    question; time in which nobody looked is 0 in the one and full in the other. `bound_lower_flop` and
    `bound_upper_flop`: in place of a ceiling where a device is not in the table, by what its capability leaves open.
    `assumed_flop`: the ceiling times a share that `assumed_by` assumes.

    Units: FLOP; what is an upper figure is rounded up, what is a lower one down.
    Basis: `measured` time, clock and activity times stated peaks; tensor cycles are full products only as far as
        kernels fill them.
    """

    ceiling_flop: int | None = None
    at_clock_flop: int | None = None
    tensor_lower_flop: int | None = None
    tensor_upper_flop: int | None = None
    bound_lower_flop: int | None = None
    bound_upper_flop: int | None = None
    assumed_flop: int | None = None
    assumed_by: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def estimate(self) -> Estimate:
        """Return it as one figure beside the others: with an interval where activity is known, else with an upper end.

        It has a figure of its own only where somebody assumes one, or the interval is a point.
        """
        notes = list(self.notes)
        lower, upper, flop = None, None, self.assumed_flop
        asked = self.inputs.get("precisions", "any").split()
        within = "any precision" if asked == ["any"] else " and ".join(asked)
        if self.tensor_lower_flop is not None and self.tensor_upper_flop is not None:
            lower, upper = self.tensor_lower_flop, self.tensor_upper_flop
            flop = lower if lower == upper and flop is None else flop
            notes.insert(
                0,
                f"by stated rates in {within}: all tensor cycles at the lowest and the highest; other pipes left out",
            )
        elif self.at_clock_flop is not None:
            upper = self.at_clock_flop
            notes.insert(0, f"by stated peaks in {within}: device time × peak at the measured clock")
        elif self.ceiling_flop is not None:
            upper = self.ceiling_flop
            notes.insert(0, f"by stated peaks in {within}: device time × peak; higher clocks are not in it")
        elif self.bound_upper_flop is not None:
            upper = self.bound_upper_flop
        if self.assumed_flop is not None:
            notes.insert(0, f"utilisation assumed by {self.assumed_by}, not measured")
        figures = {
            "ceiling_flop": self.ceiling_flop,
            "at_clock_flop": self.at_clock_flop,
            "tensor_lower_flop": self.tensor_lower_flop,
            "tensor_upper_flop": self.tensor_upper_flop,
            "bound_lower_flop": self.bound_lower_flop,
            "bound_upper_flop": self.bound_upper_flop,
        }
        known = {name: str(value) for name, value in figures.items() if value is not None}
        inputs = {**self.inputs, **known}
        return Estimate(method=METHOD, flop=flop, lower=lower, upper=upper, inputs=inputs, note="; ".join(notes))

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the figures as reports carry them."""
        return self.estimate.to_wire()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shares:
    """What one device adds to each figure."""

    ceiling: Fraction | None = None
    at_clock: Fraction | None = None
    tensor_lower: Fraction | None = None
    tensor_upper: Fraction | None = None
    bound: tuple[Fraction, Fraction] | None = None


def estimate_hardware(
    devices: Sequence[DeviceTime],
    *,
    precisions: Iterable[str] = (),
    assumption: Assumption | None = None,
    table: PeakTable | None = None,
) -> Hardware:
    """Return what these devices did at most, and where activity is known, about how much.

    `precisions` are those that the run declares or was seen to use; without any, all that a part has are in question.
    A device without peak, or a precision without one, leaves the sum unknown: never another card's figure.
    """
    table = table or PeakTable.standard()
    asked = tuple(dict.fromkeys(precisions))
    notes: list[str] = []
    shares = [_measure(device, asked, table, notes) for device in devices]
    if not devices:
        notes.append("no device time was measured")
    notes += [f"with peaks of {file.name}, {file.sha256[:12]}…" for file in table.files]
    ceiling = _add(shares, lambda one: one.ceiling)
    bounded = ceiling is None and all(one.bound for one in shares)
    held_ns = [device.may_have_held_ns for device in devices]
    inputs = {
        "devices": str(len(devices)),
        "precisions": " ".join(asked) or "any",
        **({} if not devices or None in held_ns else {"may_have_held_ns": str(sum(ns or 0 for ns in held_ns))}),
        **({"peaks": "; ".join(file.words for file in table.files)} if table.files else {}),
        **({} if assumption is None else {"utilisation": f"{assumption.share}, assumed by {assumption.who}"}),
    }
    return Hardware(
        ceiling_flop=_up(ceiling),
        at_clock_flop=_up(_add(shares, lambda one: one.at_clock)),
        tensor_lower_flop=_down(_add(shares, lambda one: one.tensor_lower)),
        tensor_upper_flop=_up(_add(shares, lambda one: one.tensor_upper)),
        bound_lower_flop=_down(_add(shares, lambda one: one.bound and one.bound[0])) if bounded else None,
        bound_upper_flop=_up(_add(shares, lambda one: one.bound and one.bound[1])) if bounded else None,
        assumed_flop=None if assumption is None or ceiling is None else floor(ceiling * assumption.share),
        assumed_by="" if assumption is None or ceiling is None else assumption.who,
        inputs=inputs,
        notes=tuple(dict.fromkeys(notes)),
    )


def _measure(device: DeviceTime, asked: tuple[str, ...], table: PeakTable, notes: list[str]) -> _Shares:
    if device.may_have_held_ns is None:
        notes.append(f"time of {device.name or device.uuid} is unknown, not zero")
        return _Shares()
    if not device.name and not device.device_id:
        notes.append(f"{device.uuid[:12]} did not say which part it is, so its peak is unknown")
        return _Shares()
    held = Fraction(device.may_have_held_ns, NS_PER_S)
    identity = device.identify(table)
    part = identity.part
    if part is None:
        notes.append(identity.words)
        return _bound(device, held, asked, table, notes) if identity.status == "unknown" else _Shares()
    fastest = _find_fastest(part, asked)
    if fastest is None:
        precisions = " or ".join(asked) if asked else "any precision"
        notes.append(f"no peak is known of {part.part} in {precisions}: {part.note or 'its row has no such figure'}")
        return _Shares() if part.dense else _bound(device, held, asked, table, notes)
    return _multiply(device, part, fastest, tensor=_tensor_columns(part, asked), notes=notes)


def _multiply(device: DeviceTime, part: Part, fastest: str, *, tensor: tuple[str, ...], notes: list[str]) -> _Shares:
    held = Fraction(device.may_have_held_ns or 0, NS_PER_S)
    cycle = flop_per_cycle(part, fastest, slice_sms=device.slice_sms)
    clock = part.clock_for(fastest)
    if device.slice_sms is not None:
        if cycle is None or clock is None:
            notes.append(f"no peak is known of a slice of {part.part}: the rate of its SMs is unknown")
            return _Shares()
        peak = cycle * clock * MHZ
    else:
        peak = Fraction(part.dense[fastest])
    # Where nobody looked, the clock may have been the highest there is.
    unseen = (
        peak if cycle is None else cycle * MHZ * max(clock or 0, part.max_clock_mhz or 0, device.max_clock_mhz or 0)
    )
    at_clock = lower = upper = None
    if device.clock is not None and cycle is not None:
        at_clock = cycle * device.clock.cycles + unseen * _uncovered(device.clock, held)
    if device.tensor is not None and device.clock is not None and device.tensor.cycles > device.clock.cycles:
        notes.append(f"{part.part} had more tensor cycles than cycles of its clock; neither was changed")
    if device.tensor is not None and tensor:
        rates = [flop_per_cycle(part, column, slice_sms=device.slice_sms) for column in tensor]
        known = [rate for rate in rates if rate is not None]
        if len(known) == len(rates):
            lower = min(known) * device.tensor.cycles
            upper = max(known) * device.tensor.cycles + unseen * _uncovered(device.tensor, held)
    ceiling = held * peak
    return _Shares(ceiling=ceiling, at_clock=at_clock, tensor_lower=lower, tensor_upper=upper, bound=(ceiling, ceiling))


def _uncovered(cycles: Cycles, held: Fraction) -> Fraction:
    return max(held - Fraction(cycles.covered_ns, NS_PER_S), Fraction(0))


def _bound(device: DeviceTime, held: Fraction, asked: tuple[str, ...], table: PeakTable, notes: list[str]) -> _Shares:
    """Return what the capability of a device without figures leaves open, where SMs and clock are known."""
    sms = device.slice_sms or device.sms
    if not device.capability or sms is None or device.max_clock_mhz is None:
        return _Shares()
    clock = device.max_clock_mhz
    bound = bound_capability(device.capability, sms=sms, clock_mhz=clock, precisions=asked, table=table)
    if bound is None:
        return _Shares()
    notes.append(bound.words)
    return _Shares(bound=(held * bound.lower_flop_per_s, held * bound.upper_flop_per_s))


def _find_fastest(part: Part, asked: tuple[str, ...]) -> str | None:
    """Return the figure that is the ceiling; None where a precision has none, because it might be the fastest."""
    columns = [find_fastest(part, one) for one in asked] if asked else [name for name in part.dense if name != "int8"]
    known = [column for column in columns if column is not None]
    return max(known, key=lambda column: part.dense[column]) if known and len(known) == len(columns) else None


def runs_on_tensor(part: Part, precisions: Iterable[str]) -> bool:
    """Say whether products in one of these precisions may have run on the tensor pipes of a part."""
    asked = tuple(precisions)
    return bool(asked) and bool(_tensor_columns(part, asked))


def _tensor_columns(part: Part, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the figures of the tensor pipes at which their cycles may have run."""
    if not asked:
        return tuple(name for name in part.dense if name in TENSOR and name != "int8")
    found = [column for one in asked for column in (*(find_columns(part, one) or ()), find_fastest(part, one))]
    return tuple(dict.fromkeys(column for column in found if column in TENSOR))


def _add(shares: list[_Shares], pick: Callable[[_Shares], Fraction | None]) -> Fraction | None:
    picked = [pick(one) for one in shares]
    known = [value for value in picked if value is not None]
    return sum(known, Fraction(0)) if picked and len(known) == len(picked) else None


def _up(value: Fraction | None) -> int | None:
    return None if value is None else ceil(value)


def _down(value: Fraction | None) -> int | None:
    return None if value is None else floor(value)
