"""Ceilings: which part a device is, and what it could have done at most per second.

Not here: the table (`table.py`, `peaks.toml`), and what a device did. A device or a precision that is not in the table
has no peak, and none is guessed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from flopmeter.devices.table import MHZ, TENSOR, Part, PeakTable
from flopmeter.errors import UnknownDeviceError

CPU_CYCLES_PER_S = 6_000_000_000
CPU_OPERATIONS_PER_CYCLE = 4096
NVIDIA_VENDOR = 0x10DE
PACKED = 4
"""How often the rate of fp32 vector pipes reach in packed half precision at most."""

HOW_TO_ADD = (
    "add a row with its PCI device id, NVML name, figures and their source to a TOML file of your own, as"
    " devices/peaks.toml has them, and name it with --peaks FILE"
)
# What the meter calls a precision → what the table has a figure of, the fastest first.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "fp64": ("fp64_tensor", "fp64"),
    "fp8_e4m3": ("fp8",),
    "fp8_e5m2": ("fp8",),
    "mxfp8": ("fp8",),
    "mxfp4": ("fp4",),
    "nvfp4": ("fp4",),
}
# Where a kernel may accumulate in fp16, which the precision of its operands does not tell.
_FASTER = {"fp16": "fp16_acc16", "fp8": "fp8_acc16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What a device does at most in one precision, without sparsity, as its maker states it.

    Units: `flop_per_s` FLOP/s, dense; integer operations per second of an integer precision.
    """

    device: str
    precision: str
    flop_per_s: int
    source: str
    date: str
    confidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the capability of an unknown device leaves open: the slowest and the fastest known part of that capability.

    A bound, and no peak. It holds as far as parts are known: one of the same capability may be cut below all of them.

    Units: FLOP/s, at the clock that was given.
    """

    lower_flop_per_s: int
    upper_flop_per_s: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which part a device is: `status` is `known`, `inconsistent` or `unknown`, and `words` say why and what to do."""

    status: str
    part: Part | None
    words: str = ""


def bound_cpu(cores: int) -> int:
    """Return a generous ceiling of what CPU cores can do.

    Units: operations per second.
    Counts: cores × 6 GHz × 4,096 operations per cycle, above the int8 rate of AMX
        (one tile product of 16 × 16 × 64 multiply-adds every 16 cycles: 2,048 operations per cycle).
    Basis: a stated bound, above any part sold; not a peak, and not measured.
    Source: convention fm-1, docs/spec/fm-1.md; Intel, Architecture Instruction Set Extensions (AMX).

    Example:
        >>> bound_cpu(2)
        49152000000000
    """
    return cores * CPU_CYCLES_PER_S * CPU_OPERATIONS_PER_CYCLE


def print_device_id(pci_device_id: int) -> str:
    """Return the device part of NVML's `pciDeviceId` as the table has it; empty where it is no device of NVIDIA's.

    Example:
        >>> print_device_id(0x233010DE)
        '2330'
    """
    return f"{pci_device_id >> 16:04X}" if pci_device_id & 0xFFFF == NVIDIA_VENDOR else ""


def identify(*, device_id: str = "", name: str = "", table: PeakTable | None = None) -> Identity:
    """Say which part a device is, by PCI device id (`print_device_id`) with the name that NVML gives as cross-check.

    One of the two is enough where the other is not known. Where they contradict each other, or one of them is not in
    the table, no part is known: a virtual slice of a card has the id of the card and another name.
    """
    table = table or PeakTable.standard()
    by_id = table.find_id(device_id) if device_id else None
    by_name = table.find_name(name) if name else None
    said = " ".join(([f"id {device_id}"] if device_id else []) + ([repr(name)] if name else [])) or "nothing"
    if device_id and name and by_id is not None and name not in by_id.names[device_id]:
        known = " or ".join(map(repr, by_id.names[device_id]))
        words = f"identity inconsistent, peak unknown: id {device_id} is {by_id.part}, which NVML calls {known}"
        return Identity(status="inconsistent", part=None, words=f"{words}; this device says {name!r}")
    part = by_id if device_id else by_name
    if part is not None:
        return Identity(status="known", part=part)
    if by_name is not None:
        ids = ", ".join(by_name.names)
        words = f"no peak is known of {said}: the table has this name under {ids}, and parts of one name differ"
    elif " MIG " in name:
        words = f"no peak is known of {said}: it is a slice; identify the device it is cut from, and give its SMs"
    else:
        words = f"no peak is known of {said}: devices/peaks.toml has no such row"
    return Identity(status="unknown", part=None, words=f"{words}; {HOW_TO_ADD}")


def find_peak(device: str, precision: str, *, device_id: str = "", table: PeakTable | None = None) -> Peak:
    """Return the peak of a device, named as NVML names it, in a precision; of a pair of precisions, the lower peak.

    In fp64 it is that of the tensor pipes where there are such, in all else that of accumulation in fp32.

    Raises:
        UnknownDeviceError: the table has no row of this name, or none of this precision, or id and name contradict.

    Example:
        >>> find_peak("NVIDIA H100 80GB HBM3", "bf16").flop_per_s
        989400000000000
    """
    identity = identify(device_id=device_id, name=device, table=table)
    if identity.part is None:
        raise UnknownDeviceError(identity.words)
    part = identity.part
    if not part.dense:
        msg = f"no peak is known of {device!r}: {part.note or 'its row has no figures'}; {HOW_TO_ADD}"
        raise UnknownDeviceError(msg)
    columns = find_columns(part, precision)
    if columns is None:
        msg = f"no peak is known of {device!r} in {precision}: devices/peaks.toml has {', '.join(part.dense)}"
        raise UnknownDeviceError(msg)
    return Peak(
        device=device or part.part,
        precision=precision,
        flop_per_s=min(part.dense[column] for column in columns),
        source=part.source,
        date=part.date,
        confidence=part.confidence,
    )


def find_columns(part: Part, precision: str) -> tuple[str, ...] | None:
    """Return which figures of a part stand for a precision, one for each of a pair; None where one is unknown.

    `mxfp8` is a figure of its own only where there is hardware for its scales, as in all parts that have fp4.
    """
    found = []
    for name in precision.split("*"):
        column = next((one for one in _COLUMNS.get(name, (name,)) if one in part.dense), None)
        if column is None or (name == "mxfp8" and "fp4" not in part.dense):
            return None
        found.append(column)
    return tuple(found)


def find_fastest(part: Part, precision: str) -> str | None:
    """Return the figure that a part does not exceed in a precision at its stated clock, whatever it accumulates in."""
    columns = find_columns(part, precision)
    if columns is None:
        return None
    slower = min(columns, key=lambda column: part.dense[column])
    faster = _FASTER.get(slower, slower)
    return faster if faster in part.dense else slower


def most_flop_per_s(part: Part, *, clock_mhz: int | None = None) -> int | None:
    """Return what no program makes a part exceed: every pipe full at once, at its highest clock.

    `clock_mhz` is the highest that was seen, where that is above what the table has: cards can be overclocked.

    Units: operations per second; None where SMs, rates or clock are unknown.
    Counts: SMs × clock × (the fastest rate of the tensor pipes, dense, + fp32 + half of that for fp64).
    Basis: a bound, not a peak and not measured; above the datasheet, because clocks go above those it assumes.
    Ignores: algorithms that need fewer operations than the product they compute (Winograd, FFT).
    """
    clock = _highest_clock(part, clock_mhz)
    if clock is None or part.sms is None or "fp32" not in part.per_clock:
        return None
    tensor = max((rate for name, rate in part.per_clock.items() if name in TENSOR), default=0)
    vector = part.per_clock["fp32"]
    fp64 = max(part.per_clock.get("fp64", 0), vector // 2)
    built = part.sms * clock * MHZ * (tensor + vector + fp64)
    # A figure whose rate is unknown may be above what the known rates make.
    return max(built, *part.dense.values())


def beside_flop_per_s(part: Part, *, clock_mhz: int | None = None) -> int | None:
    """Return what no program makes the pipes of a part beside those of tensors exceed, all full at its highest clock.

    Units: operations per second; None where SMs, rates or clock are unknown.
    Counts: SMs × clock × (4 · that of fp32, as of packed half precision, + half of that of fp32 or that of fp64).
    Basis: a bound, as `most_flop_per_s`.
    Source: NVIDIA A100 whitepaper, 78 TFLOPS in fp16 without tensor pipes against 19.5 in fp32; others have less.
    """
    clock = _highest_clock(part, clock_mhz)
    if clock is None or part.sms is None or "fp32" not in part.per_clock:
        return None
    vector = part.per_clock["fp32"]
    return part.sms * clock * MHZ * (PACKED * vector + max(part.per_clock.get("fp64", 0), vector // 2))


def _highest_clock(part: Part, clock_mhz: int | None) -> int | None:
    known = [value for value in (part.max_clock_mhz, clock_mhz) if value is not None]
    return max(*known, part.clock_mhz or 0, *part.clock_mhz_of.values()) if known else None


def bound_capability(
    capability: str,
    *,
    sms: int,
    clock_mhz: int,
    precisions: Iterable[str] = (),
    table: PeakTable | None = None,
) -> Bound | None:
    """Return what a device of this capability may do at this clock, by all parts known of it; None where none is.

    `precisions` narrow it to what was used. See `Bound`: it is no peak.
    """
    table = table or PeakTable.standard()
    sorts = [sort.per_clock for sort in table.rates.values() if sort.capability == capability]
    asked = tuple(precisions)
    rates = [
        rate
        for sort in sorts
        for name, rate in sort.items()
        if not asked or any(name in _spread(part) for precision in asked for part in precision.split("*"))
    ]
    if not rates:
        return None
    lower, upper = (sms * clock_mhz * MHZ * rate for rate in (min(rates), max(rates)))
    what = " or ".join(asked) if asked else "any precision"
    words = f"by compute capability {capability}, {sms} SMs and {clock_mhz} MHz, in {what}: a bound, not a peak"
    return Bound(lower_flop_per_s=lower, upper_flop_per_s=upper, words=words)


def _spread(precision: str) -> tuple[str, ...]:
    columns = _COLUMNS.get(precision, (precision,))
    return (*columns, *(_FASTER[column] for column in columns if column in _FASTER))


def flop_per_cycle(part: Part, column: str, *, slice_sms: int | None = None) -> Fraction | None:
    """Return what a part, or a slice of it, does in one cycle of its SM clock; None where that is unknown.

    Units: operations per cycle of all its SMs together.
    Basis: the stated peak over the clock that it implies; of a slice, its SMs × the rate of one.
    """
    if slice_sms is not None:
        rate = part.per_clock.get(column)
        return None if rate is None else Fraction(slice_sms * rate)
    clock = part.clock_for(column)
    return None if clock is None or column not in part.dense else Fraction(part.dense[column], clock * MHZ)
