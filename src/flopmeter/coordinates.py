"""Coordinates: where one rank stands in the grid of a distributed run.

Not here: how a process finds out (`sensors/mesh.py`), what follows for a run's figures (`logical.py`, `replicas.py`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.errors import MalformedError

ROLES = ("data", "sequence", "expert", "pipeline", "model")
_WORDS = re.compile(r"[a-z]+")
_PIPELINE = frozenset({"pp", "pipe", "pipeline", "stage", "stages"})
_TENSOR = frozenset({"tp", "tensor"})
_SEQUENCE = frozenset({"cp", "context", "sp", "seq", "sequence", "ulysses"})
_EXPERT = frozenset({"ep", "expert", "experts"})
_DATA = frozenset(
    {"dp", "ddp", "fsdp", "hsdp", "efsdp", "data", "batch", "replica", "replicas", "replicate", "shard", "zero"}
)
ANYWHERE = "*"
"""Stands for all ranks of the run, where the axes that are known do not make up the whole of it."""


def role_of(name: str) -> str:
    """Return what ranks along an axis of this name share: `model` where the name does not tell, which claims least.

    `data`: each rank has other examples (dp, fsdp). `sequence`: each has other parts of sequences (cp). `expert`: each
    has other experts, and other tokens. `pipeline`: each has other layers. `model`: each may have the same input and a
    part of each layer (tp), so that what it runs may be a part of the work or all of it.
    """
    words = set(_WORDS.findall(name.lower().partition("_mod_")[0]))  # torchtitan: dp_shard_mod_ep, what ep leaves of it
    if words & _TENSOR:
        return "model"
    sorts = ((_PIPELINE, "pipeline"), (_SEQUENCE, "sequence"), (_EXPERT, "expert"), (_DATA, "data"))
    return next((role for known, role in sorts if words & known), "model")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Axis:
    """One dimension of the grid: its name, how many ranks it has, and which of them this is.

    Units: `size` ranks; `index` from 0.
    """

    name: str
    size: int
    index: int
    role: str

    def __post_init__(self) -> None:
        """Refuse a place outside of the grid."""
        if self.role not in ROLES or not 0 <= self.index < self.size:
            msg = f"axis {self.name!r}: {self.index} of {self.size}, role {self.role!r}"
            raise ValueError(msg)

    @property
    def shares_examples(self) -> bool:
        """Say whether ranks along it surely train on the same examples: stages, and parts of layers by their name."""
        is_tensor = self.role == "model" and bool(set(_WORDS.findall(self.name.lower())) & _TENSOR)
        return is_tensor or self.role == "pipeline"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {
            "name": self.name,
            "size": wire.print_count(self.size),
            "index": wire.print_count(self.index),
            "role": self.role,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the axis that these fields hold; MalformedError where they hold none."""
        fields = wire.parse_object(value, name="axis")
        name, role = (wire.parse_text(fields.get(field), name=field) for field in ("name", "role"))
        size, index = (wire.parse_count(fields.get(field), name=field) for field in ("size", "index"))
        try:
            return cls(name=name, size=size, index=index, role=role)
        except ValueError as error:
            raise MalformedError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where one rank stands: its axes, each longer than one rank; none where nothing is known of a grid."""

    axes: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a grid with two axes of one name."""
        if len({axis.name for axis in self.axes}) != len(self.axes):
            msg = f"two axes have one name: {', '.join(axis.name for axis in self.axes)}"
            raise ValueError(msg)

    def size(self, names: Iterable[str]) -> int:
        """Return how many ranks these axes have together; an axis that is not here has one.

        Units: ranks.
        """
        wanted, product = set(names), 1
        for axis in self.axes:
            product *= axis.size if axis.name in wanted else 1
        return product

    def names(self, *roles: str) -> frozenset[str]:
        """Return the names of the axes that have one of these roles; of all axes where none is given."""
        return frozenset(axis.name for axis in self.axes if not roles or axis.role in roles)

    def place(self, *roles: str) -> tuple[tuple[str, int, int], ...]:
        """Return name, size and place along each axis of these roles, in an order that all ranks agree on."""
        return tuple(sorted((axis.name, axis.size, axis.index) for axis in self.axes if axis.role in roles))

    def examples(self) -> tuple[tuple[str, int, int], ...]:
        """Return name, size and place along each axis whose ranks may train on other examples; see `place`."""
        return tuple(sorted((axis.name, axis.size, axis.index) for axis in self.axes if not axis.shares_examples))

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {"axes": [axis.to_wire() for axis in self.axes]}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the coordinates that these fields hold; MalformedError where they hold none."""
        fields = wire.parse_object(value, name="coordinates")
        try:
            return cls(tuple(Axis.from_wire(item) for item in wire.parse_list(fields.get("axes"), name="axes")))
        except ValueError as error:
            raise MalformedError(str(error)) from error
