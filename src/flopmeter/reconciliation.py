"""Reconciliation: counted against modelled against the hardware's ceiling, and why they differ.

Not here: how each came about (`account`, `estimate`).
"""

from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.devices.table import PeakTable
from flopmeter.estimate.estimate import Estimate
from flopmeter.estimate.hardware import DeviceTime, estimate_hardware
from flopmeter.tally import CONTRACTIONS, OpCount
from flopmeter.units import NS_PER_S, print_duration, print_flop


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One reason why the counted figure differs from 6ND.

    Units: FLOP; negative where 6ND has more.
    """

    name: str
    flop: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the term as reports carry it; the sign stands before the digits."""
        return {"name": self.name, "flop": str(self.flop)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The three estimates side by side; `terms` add up to counted minus 6ND exactly, empty where 6ND is unknown."""

    counted: Estimate
    modelled: Estimate
    hardware: Estimate
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, account: Account, *, table: PeakTable | None = None) -> Self:
        """Compare what was counted with 6ND and with the devices, whose peaks are those of `table`."""
        counted = Estimate(
            method="counted",
            flop=account.flop,
            lower=account.lower,
            upper=account.upper,
            inputs={"books": " ".join(book[:12] for book in account.books)},
        )
        hardware = _hardware(account, table)
        modelled = account.estimate
        terms = () if modelled.flop is None else _explain(account, modelled.flop)
        return cls(counted=counted, modelled=modelled, hardware=hardware, terms=terms)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """All three, in the order of the contract."""
        return (self.counted, self.modelled, self.hardware)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """A device that did not answer for a while: a gap between nothing and all that it can do.

    It is none in the count: what the hook counted is counted, and the interval of the count is no wider for it.

    Units: `ns` nanoseconds; `most_flop_per_s` what no program makes it exceed, None where that is unknown.
    """

    uuid: str
    ns: int
    most_flop_per_s: int | None

    @property
    def most_flop(self) -> int | None:
        """Return what it may have done in that time at most.

        Units: FLOP.
        """
        return None if self.most_flop_per_s is None else -(-self.ns * self.most_flop_per_s // NS_PER_S)

    @property
    def words(self) -> str:
        """Name it, for how long, and between what."""
        most = "what nobody knows, its peak being unknown" if self.most_flop is None else print_flop(self.most_flop)
        return f"{self.uuid[:12]} for {print_duration(self.ns)}, between nothing and {most}"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return it as reports carry it."""
        return {
            "uuid": self.uuid,
            "ns": wire.print_count(self.ns),
            "most_flop_per_s": wire.print_known(self.most_flop_per_s),
            "most_flop": wire.print_known(self.most_flop),
        }


def unseen_devices(account: Account, *, table: PeakTable | None = None) -> tuple[Unseen, ...]:
    """Return the devices that were not seen for a part of the time in which the run may have held them."""
    return tuple(
        Unseen(uuid=device.uuid, ns=device.unseen_ns, most_flop_per_s=time.most_flop_per_s(table))
        for device, time in zip(account.usage.devices, device_times(account), strict=True)
        if device.unseen_ns
    )


def device_times(account: Account) -> tuple[DeviceTime, ...]:
    """Return what was measured of each device, as the hardware's figure takes it; time not seen and edges are held."""
    return tuple(DeviceTime.of(device, account.devices.get(device.uuid, {})) for device in account.usage.devices)


def precisions_of(account: Account) -> tuple[str, ...]:
    """Return the floating-point precisions of the products that were counted."""
    products = (count for count in account.tally.counts if count.kind in CONTRACTIONS and count.flop)
    return tuple(sorted({count.precision for count in products if not count.precision.startswith(("int", "uint"))}))


def _hardware(account: Account, table: PeakTable | None) -> Estimate:
    if not account.usage.devices:
        note = "; ".join(account.usage.notes) or "no device time was measured"
        return Estimate(method="hardware", flop=None, note=note)
    return estimate_hardware(device_times(account), precisions=precisions_of(account), table=table).estimate


def _explain(account: Account, six_nd_flop: int) -> tuple[Term, ...]:
    """Sort every counted operation into one reason; what is left are weight products against 6ND."""
    names = {
        "evaluation": "evaluation and inference (6ND counts training alone)",
        "recompute": "recomputation",
        "optimizer": "optimizer",
        "attention": "attention products (grow with the context, 6ND has none)",
        "elementwise": "norms, softmax, activations, sums, scatter",
    }
    sums = dict.fromkeys(names, 0)
    left = -six_nd_flop
    for count in account.tally.counts:
        reason = _reason(count)
        if reason is None:
            left += count.flop
        else:
            sums[reason] += count.flop
    terms = [Term(name=names[reason], flop=flop) for reason, flop in sums.items() if flop]
    weights = "weight products against 6ND (embedding look-ups cost nothing, tied or shared weights work twice)"
    return (*terms, Term(name=weights, flop=left))


def _reason(count: OpCount) -> str | None:
    if count.phase == "inference" or count.purpose == "evaluation":
        return "evaluation"
    if count.phase in ("recompute", "optimizer"):
        return count.phase
    if count.kind == "attention":
        return "attention"
    return None if count.kind in CONTRACTIONS else "elementwise"
