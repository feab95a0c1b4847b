"""Reconciliation: counted against modelled against the hardware's ceiling, and why they differ.

Not here: how each came about (`account`, `estimate`).
"""

from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.estimate.estimate import Estimate
from flopmeter.tally import CONTRACTIONS, OpCount


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
    def of(cls, account: Account) -> Self:
        """Compare what was counted with 6ND and with the devices."""
        counted = Estimate(
            method="counted",
            flop=account.flop,
            lower=account.lower,
            upper=account.upper,
            inputs={"books": " ".join(book[:12] for book in account.books)},
        )
        if account.usage.devices:
            note = "device time was measured; no peak of these devices is known to this version"
        else:
            note = "; ".join(account.usage.notes) or "no device time was measured"
        hardware = Estimate(method="hardware", flop=None, note=note)
        modelled = account.estimate
        terms = () if modelled.flop is None else _explain(account, modelled.flop)
        return cls(counted=counted, modelled=modelled, hardware=hardware, terms=terms)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """All three, in the order of the contract."""
        return (self.counted, self.modelled, self.hardware)


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
