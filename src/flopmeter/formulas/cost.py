"""Cost: the parts of one operator call.

A fused operator does work of several kinds: attention is products, a softmax and a scaling. Each is a part.
Not here: formulas, and how often a call ran.
"""

from dataclasses import dataclass
from typing import Self

from flopmeter.tally import KINDS, PHASES

MAX_FLOP = 10**40
"""More than any call on tensors of fewer than 2^63 elements costs; sums of less than this can always be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Work of one kind within a call.

    Units: `flop` and `masked_flop` in operations (a multiply-add is two). `phase` is None where the work belongs to
    the phase in which the call was made; fused attention's backward recomputes, and says so here. `precision` is None
    where the work is done in the precision of the call; a product of 8-bit numbers that is scaled in fp32 has parts of
    both. `basis` is `declared` where nobody counts and somebody says so.
    """

    kind: str
    flop: int = 0
    masked_flop: int = 0
    phase: str | None = None
    precision: str | None = None
    basis: str = "counted"

    def __post_init__(self) -> None:
        """Refuse what is no count, a negative one, and a kind or phase that the contract does not know."""
        for name, value in (("flop", self.flop), ("masked_flop", self.masked_flop)):
            if type(value) is not int:
                msg = f"{name} of kind {self.kind} is {value!r}, not a whole number"
                raise TypeError(msg)
            if not 0 <= value < MAX_FLOP:
                msg = f"{name} of kind {self.kind} is {value}, which is negative or more than any call can do"
                raise ValueError(msg)
        if self.kind not in KINDS:
            msg = f"kind is {self.kind!r}, not one of {', '.join(KINDS)}"
            raise ValueError(msg)
        if self.phase is not None and self.phase not in PHASES:
            msg = f"phase is {self.phase!r}, not one of {', '.join(PHASES)}"
            raise ValueError(msg)
        if self.basis not in ("counted", "declared"):
            msg = f"basis is {self.basis!r}: a cost is counted or declared"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Cost:
    """The parts of one call; no parts means that the call does no arithmetic, which is a statement, not a gap."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, *parts: Part) -> Self:
        """Keep the parts that do something, the first one always."""
        return cls(tuple(part for index, part in enumerate(parts) if index == 0 or part.flop or part.masked_flop))

    @property
    def flop(self) -> int:
        """Work of all parts.

        Counts: every operation of every part, `masked_flop` left out.
        Units: operations.
        """
        return sum(part.flop for part in self.parts)
