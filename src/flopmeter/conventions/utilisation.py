"""MFU and HFU: what part of what the devices could have done went into the model, from counts and device time.

Not here: peaks (`devices/peaks.toml`), device time (`usage.py`), and MFU by a formula over sizes (`per_token.py`).
"""

from flopmeter.account import Account
from flopmeter.conventions.translation import REASONS, Given, Line, Tool, Translation, describe_doubts, reason_of
from flopmeter.devices.peaks import Peak, find_peak
from flopmeter.devices.table import PeakTable
from flopmeter.errors import UnknownDeviceError
from flopmeter.estimate.hardware import DeviceTime
from flopmeter.ledger.merge import RunLedger
from flopmeter.step import Steps
from flopmeter.tally import CONTRACTIONS, OpCount
from flopmeter.units import NS_PER_S, print_duration, print_held, print_ratio
from flopmeter.usage import DeviceUsage

_NUMERATOR = "products of forward and backward as they were counted, masked pairs left out"
_DENOMINATOR = "dense peak × time that the run held the devices (NVML)"
MFU = Tool(
    name="mfu",
    figure=f"model FLOP utilisation: {_NUMERATOR}, over {_DENOMINATOR}",
    source="Chowdhery et al. 2022, PaLM, arXiv 2204.02311, Appendix B, with counted products instead of its formula",
)
HFU = Tool(
    name="hfu",
    figure=f"hardware FLOP utilisation: {_NUMERATOR}, and those of recomputation, over {_DENOMINATOR}",
    source=MFU.source,
)
TIME = (
    "all time that the run held the devices counts, start, evaluation and saving too; a tool that looks at training"
    " steps alone divides by less"
)


def translate_mfu(given: Given) -> Translation:
    """Return model FLOP utilisation: products of forward and backward over what the devices could have done."""
    return _translate(given, MFU, frozenset({"attention", "weights"}))


def translate_hfu(given: Given) -> Translation:
    """Return hardware FLOP utilisation: as MFU, with products that were computed a second time."""
    return _translate(given, HFU, frozenset({"attention", "weights", "recompute"}))


def _translate(given: Given, tool: Tool, wanted: frozenset[str]) -> Translation:
    account = given.account
    inside = [count for count in account.tally.counts if _is_in(count, wanted)]
    numerator = sum(count.flop for count in inside)
    precision = _find_precision(inside)
    held = [(device, DeviceTime.of(device, account.devices.get(device.uuid, {}))) for device in account.usage.devices]
    peaks, missing = _find_peaks(account, held, precision, given.table)
    if not missing:
        missing = [*_find_unseen(tool, held, peaks, numerator), *_find_unmeasured(given.ledger)]
    if missing:
        return Translation.unknown(tool, account, missing)
    rates = [peak.flop_per_s for peak in peaks]
    could = sum((device.held_ns or 0) * rate for (device, _), rate in zip(held, rates, strict=True))
    may = sum((time.may_have_held_ns or 0) * rate for (_, time), rate in zip(held, rates, strict=True))
    held_ns = sum(device.held_ns or 0 for device, _ in held)
    notes = [TIME] if may == could else [TIME, _describe_edges(tool, numerator, could, may)]
    share = sum(count.flop for count in inside if count.precision == precision) / numerator
    inputs = {
        "numerator_flop": str(numerator),
        "denominator_flop": str(could // NS_PER_S),
        "precision": f"{precision}, in which {print_ratio(share)} of the numerator ran",
        "peaks": "; ".join(
            sorted({f"{peak.device}: {peak.flop_per_s:,} FLOP/s dense ({peak.source})" for peak in peaks})
        ),
        **({"peaks_from": "; ".join(file.words for file in given.table.files)} if given.table else {}),
        "time": f"{print_held(held_ns)} of {len(peaks)} {'device' if len(peaks) == 1 else 'devices'}",
    }
    return Translation(
        tool=tool,
        ours=account.flop,
        flop=numerator,
        bridge=_bridge(account, wanted),
        inputs=inputs,
        fraction=numerator * NS_PER_S / could,
        notes=(*notes, *describe_doubts(account)),
    )


def _is_in(count: OpCount, wanted: frozenset[str]) -> bool:
    return count.kind in CONTRACTIONS and reason_of(count) in wanted


def _find_precision(counts: list[OpCount]) -> str:
    """Return the precision of most of it."""
    sums: dict[str, int] = {}
    for count in counts:
        sums[count.precision] = sums.get(count.precision, 0) + count.flop
    return max(sums, key=lambda name: (sums[name], name)) if any(sums.values()) else ""


def _find_peaks(
    account: Account, held: list[tuple[DeviceUsage, DeviceTime]], precision: str, table: PeakTable | None
) -> tuple[list[Peak], list[str]]:
    """Return the peak of each device, by id and name, and what is missing for a denominator."""
    if not precision:
        return [], ["products: none were counted in forward and backward"]
    if not held:
        return [], [f"device time: {'; '.join(account.usage.notes) or 'none was measured'}"]
    peaks, missing = [], []
    for device, time in held:
        short = device.uuid[:12]
        if not device.known_held_ns:
            missing.append(f"device time of {device.name} {short}: {device.note or 'none was measured'}")
        if not time.name and not time.device_id:
            missing.append(f"which part {short} is: it never answered")
        elif time.slice_sms is not None:
            missing.append(f"a peak of {device.name} {short}: it is a slice, and makers state those of whole devices")
        else:
            try:
                peaks.append(find_peak(time.name, precision, device_id=time.device_id, table=table))
            except UnknownDeviceError as error:
                missing.append(str(error))
    return peaks, list(dict.fromkeys(missing))


def _find_unseen(
    tool: Tool, held: list[tuple[DeviceUsage, DeviceTime]], peaks: list[Peak], numerator: int
) -> list[str]:
    """Say which devices were not seen for how long, and what the ratio lies between if they were held meanwhile."""
    unseen = [f"{device.uuid[:12]} for {print_duration(device.unseen_ns)}" for device, _ in held if device.unseen_ns]
    if not unseen:
        return []
    least = sum((device.held_ns or 0) * peak.flop_per_s for (device, _), peak in zip(held, peaks, strict=True))
    most = sum((time.may_have_held_ns or 0) * peak.flop_per_s for (_, time), peak in zip(held, peaks, strict=True))
    between = f"{tool.name.upper()} lies between {_ratio(numerator, most)} and {_ratio(numerator, least)}"
    return [f"device time: not seen were {', '.join(unseen)}; {between}, with that time and without it"]


def _describe_edges(tool: Tool, numerator: int, could: int, may: int) -> str:
    between = f"{_ratio(numerator, may)} and {_ratio(numerator, could)}"
    return f"when a device was taken and let go is known to a sample: {tool.name.upper()} lies between {between}"


def _ratio(numerator: int, could: int) -> str:
    return print_ratio(numerator * NS_PER_S / could)


def _find_unmeasured(ledger: RunLedger) -> list[str]:
    """Say which ranks worked in a life in which no device was measured: their work has no share in the denominator."""
    ranks = []
    for segment in ledger.segments:
        records = [Steps.from_wire(entry.body) for entry in segment.entries if entry.kind == "steps"]
        if any(record.ran for record in records) and not any(record.usage.devices for record in records):
            ranks.append(segment.rank)
    some = ", ".join(map(str, list(dict.fromkeys(ranks))[:8]))
    return [f"device time of what ran on rank {some}: none was measured there"] if ranks else []


def _bridge(account: Account, wanted: frozenset[str]) -> tuple[Line, ...]:
    """Leave out what is no product of the wanted sorts, by reason."""
    sums: dict[str, int] = {}
    for count in account.tally.counts:
        if not _is_in(count, wanted):
            reason = reason_of(count)
            sums[reason] = sums.get(reason, 0) - count.flop
    whys = {"recompute": "what is no product of it" if "recompute" in wanted else "computed a second time"}
    return tuple(
        Line(term=words, flop=sums[reason], why=whys.get(reason, "no work of the model's training, or no product"))
        for reason, words in REASONS.items()
        if sums.get(reason)
    )
