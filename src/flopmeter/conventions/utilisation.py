"""MFU and HFU: what part of what the devices could have done went into the model, from counts and device time.

Not here: peaks (`devices/peaks.toml`), device time (`usage.py`), and MFU by a formula over sizes (`per_token.py`).
"""

from flopmeter.account import Account
from flopmeter.conventions.translation import REASONS, Given, Line, Tool, Translation, describe_doubts, reason_of
from flopmeter.devices.peaks import Peak, find_peak
from flopmeter.devices.table import PeakTable
from flopmeter.errors import UnknownDeviceError
from flopmeter.ledger.merge import RunLedger
from flopmeter.step import Steps
from flopmeter.tally import CONTRACTIONS, OpCount
from flopmeter.units import NS_PER_S, print_duration, print_ratio

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
    peaks, missing = _find_peaks(account, precision, given.table)
    if peaks:
        missing += _find_unmeasured(given.ledger)
    if missing:
        return Translation.unknown(tool, account, missing)
    could = sum(
        (device.held_ns or 0) * peak.flop_per_s for device, peak in zip(account.usage.devices, peaks, strict=True)
    )
    held_ns = account.usage.total("held_ns") or 0
    share = sum(count.flop for count in inside if count.precision == precision) / numerator
    inputs = {
        "numerator_flop": str(numerator),
        "denominator_flop": str(could // NS_PER_S),
        "precision": f"{precision}, in which {print_ratio(share)} of the numerator ran",
        "peaks": "; ".join(
            sorted({f"{peak.device}: {peak.flop_per_s:,} FLOP/s dense ({peak.source})" for peak in peaks})
        ),
        **({"peaks_from": "; ".join(file.words for file in given.table.files)} if given.table else {}),
        "time": f"{print_duration(held_ns)} held by {len(peaks)} {'device' if len(peaks) == 1 else 'devices'} together",
    }
    return Translation(
        tool=tool,
        ours=account.flop,
        flop=numerator,
        bridge=_bridge(account, wanted),
        inputs=inputs,
        fraction=numerator * NS_PER_S / could,
        notes=(TIME, *describe_doubts(account)),
    )


def _is_in(count: OpCount, wanted: frozenset[str]) -> bool:
    return count.kind in CONTRACTIONS and reason_of(count) in wanted


def _find_precision(counts: list[OpCount]) -> str:
    """Return the precision of most of it."""
    sums: dict[str, int] = {}
    for count in counts:
        sums[count.precision] = sums.get(count.precision, 0) + count.flop
    return max(sums, key=lambda name: (sums[name], name)) if any(sums.values()) else ""


def _find_peaks(account: Account, precision: str, table: PeakTable | None) -> tuple[list[Peak], list[str]]:
    """Return the peak of each device, and what is missing for a denominator."""
    devices = account.usage.devices
    if not precision:
        return [], ["products: none were counted in forward and backward"]
    if not devices:
        return [], [f"device time: {'; '.join(account.usage.notes) or 'none was measured'}"]
    peaks, missing = [], []
    for device in devices:
        if not device.held_ns:
            missing.append(f"device time of {device.name} {device.uuid[:12]}: {device.note or 'none was measured'}")
        try:
            peaks.append(find_peak(device.name, precision, table=table))
        except UnknownDeviceError as error:
            missing.append(str(error))
    return peaks, list(dict.fromkeys(missing))


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
