"""Model: the size of a model, as 6ND wants it.

Not here: where it is taken from (`sensors/model.py`).
"""

from dataclasses import dataclass
from typing import Self

from flopmeter import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model's size, which 6ND needs.

    Units: parameters; logical ones (a tied weight once, a sharded one whole).
    """

    parameters: int
    trainable: int
    embedding: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {
            "parameters": wire.print_count(self.parameters),
            "trainable": wire.print_count(self.trainable),
            "embedding": wire.print_count(self.embedding),
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="model")
        return cls(
            **{name: wire.parse_count(fields.get(name), name=name) for name in ("parameters", "trainable", "embedding")}
        )
