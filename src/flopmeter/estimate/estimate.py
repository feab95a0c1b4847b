"""Estimate: a figure, its interval, its method and its inputs.

Not here: how each method comes to its figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flopmeter import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a method says a run cost; every figure is None where the method cannot say.

    Units: FLOP. `lower` and `upper` are what the method itself bounds, not an error that a law allows.
    """

    method: str
    flop: int | None
    lower: int | None = None
    upper: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the estimate as reports and attestations carry it."""
        return {
            "method": self.method,
            "flop": wire.print_known(self.flop),
            "lower": wire.print_known(self.lower),
            "upper": wire.print_known(self.upper),
            "inputs": dict(self.inputs),
            "note": self.note,
        }
