"""Cost: the parts of one operator call.

A fused operator does work of several kinds: attention is products, a softmax and a scaling. Each is a part.
Not here: formulas, and how often a call ran.
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Work of one kind within a call.

    Units: `flop` and `masked_flop` in operations (a multiply-add is two). `phase` is None where the work belongs to
    the phase in which the call was made; fused attention's backward recomputes, and says so here.
    """

    kind: str
    flop: int = 0
    masked_flop: int = 0
    phase: str | None = None

    def __post_init__(self) -> None:
        """Refuse a negative count."""
        if self.flop < 0 or self.masked_flop < 0:
            msg = f"a cost of kind {self.kind} is negative"
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
