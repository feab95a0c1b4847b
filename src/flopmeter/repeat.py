"""Repeat: the part of a passage's work that other ranks do as well, or may do.

Not here: how a rank knows (`sensors/repeats.py`), what follows for the run (`logical.py`).
"""

from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.errors import MalformedError
from flopmeter.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Work of one passage that every rank along the axes `over` does alike, and those along `unsure` perhaps.

    What a passage does besides is one rank's alone: no other has the same operands, or the same part of them.
    """

    over: tuple[str, ...]
    unsure: tuple[str, ...]
    tally: Tally

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {"over": list(self.over), "unsure": list(self.unsure), "tally": self.tally.to_wire()}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the repeat that these fields hold; MalformedError where they hold none."""
        fields = wire.parse_object(value, name="repeat")
        over, unsure = (
            tuple(wire.parse_text(item, name=name) for item in wire.parse_list(fields.get(name), name=name))
            for name in ("over", "unsure")
        )
        if set(over) & set(unsure) or not (over or unsure):
            raise MalformedError("a repeat is over at least one axis, surely or perhaps, and not both over one")
        return cls(over=over, unsure=unsure, tally=Tally.from_wire(fields.get("tally")))


def check_repeats(repeats: tuple[Repeat, ...], whole: Tally) -> None:
    """Refuse repeats that are more than the whole that they are parts of.

    Raises:
        MalformedError: they are.
    """
    most = {count.cell: count for count in whole.counts}
    for count in Tally.of(count for repeat in repeats for count in repeat.tally.counts).counts:
        found = most.get(count.cell)
        if found is None or count.flop > found.flop or count.int_op > found.int_op:
            msg = f"more of {count.op} is repeated than there is"
            raise MalformedError(msg)
