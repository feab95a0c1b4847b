"""OpCount and Tally: what was counted, and what was seen but not counted.

Values only; exact integers; nothing here knows torch, formulas or files.
Not here: intervals (`account`), because how sure a sum is depends on how its parts came about.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from flopmeter import wire
from flopmeter.errors import MalformedError

PHASES = ("forward", "backward", "recompute", "optimizer", "inference", "other")
PURPOSES = (
    "undeclared",
    "pretraining",
    "finetuning",
    "rl-update",
    "rl-rollout",
    "data-generation",
    "teacher-inference",
    "reward-training",
    "evaluation",
    "experiment",
)
KINDS = (
    "matmul",
    "attention",
    "convolution",
    "recurrent",
    "fft",
    "linalg",
    "normalization",
    "pointwise",
    "reduction",
    "scatter",
    "other",
)
CONTRACTIONS = frozenset({"matmul", "attention", "convolution", "recurrent"})
BASES = ("counted", "replayed", "interpolated", "sampled", "modelled", "declared")
DIMENSIONS = ("op", "kind", "phase", "purpose", "precision", "basis")

Cell = tuple[str, str, str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCount:
    """What one kind of operator call cost.

    Units: `flop` and `int_op` are operations (a multiply-add is two); `masked_flop` is the FLOP of attention
    products for pairs that a mask skipped, and is not part of `flop`.
    """

    op: str
    kind: str
    phase: str
    purpose: str = "undeclared"
    precision: str
    basis: str = "counted"
    calls: int
    flop: int = 0
    int_op: int = 0
    masked_flop: int = 0

    def __post_init__(self) -> None:
        """Refuse a dimension that the contract does not know, and a negative count."""
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("phase", self.phase, PHASES),
            ("purpose", self.purpose, PURPOSES),
            ("basis", self.basis, BASES),
        ):
            if value not in known:
                msg = f"{name} is {value!r}, not one of {', '.join(known)}"
                raise ValueError(msg)
        if min(self.calls, self.flop, self.int_op, self.masked_flop) < 0:
            msg = f"a count of {self.op} is negative"
            raise ValueError(msg)

    @property
    def cell(self) -> Cell:
        """Where this count belongs in a Tally."""
        return (self.op, self.kind, self.phase, self.purpose, self.precision, self.basis)

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {
            "op": self.op,
            "kind": self.kind,
            "phase": self.phase,
            "purpose": self.purpose,
            "precision": self.precision,
            "basis": self.basis,
            "calls": wire.print_count(self.calls),
            "flop": wire.print_count(self.flop),
            "int_op": wire.print_count(self.int_op),
            "masked_flop": wire.print_count(self.masked_flop),
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the count that these fields hold.

        Raises:
            MalformedError: a field is missing, of the wrong type, or outside the contract's lists.
        """
        fields = wire.parse_object(value, name="op count")
        op, kind, phase, purpose, precision, basis = (
            wire.parse_text(fields.get(name), name=name) for name in DIMENSIONS
        )
        calls, flop, int_op, masked_flop = (
            wire.parse_count(fields.get(name), name=name) for name in ("calls", "flop", "int_op", "masked_flop")
        )
        try:
            return cls(
                op=op,
                kind=kind,
                phase=phase,
                purpose=purpose,
                precision=precision,
                basis=basis,
                calls=calls,
                flop=flop,
                int_op=int_op,
                masked_flop=masked_flop,
            )
        except ValueError as error:
            raise MalformedError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Uncounted:
    """Calls of one operator that was seen and had no formula.

    Units: `elements` are output elements, summed over the calls.
    """

    op: str
    calls: int
    elements: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {"op": self.op, "calls": wire.print_count(self.calls), "elements": wire.print_count(self.elements)}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="uncounted")
        return cls(
            op=wire.parse_text(fields.get("op"), name="op"),
            calls=wire.parse_count(fields.get("calls"), name="calls"),
            elements=wire.parse_count(fields.get("elements"), name="elements"),
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """An exact sum of OpCounts, uncounted calls included. `Tally()` is nothing.

    Laws: `+` is associative and commutative, `Tally()` its identity, and `tally * n` is `tally` added n times.
    """

    counts: tuple[OpCount, ...] = ()
    uncounted: tuple[Uncounted, ...] = ()

    @classmethod
    def of(cls, counts: Iterable[OpCount], uncounted: Iterable[Uncounted] = ()) -> Self:
        """Sum counts that may share cells, and uncounted calls that may share operators."""
        cells: dict[Cell, OpCount] = {}
        for count in counts:
            held = cells.get(count.cell)
            cells[count.cell] = count if held is None else _added(held, count)
        unknown: dict[str, Uncounted] = {}
        for seen in uncounted:
            before = unknown.get(seen.op)
            unknown[seen.op] = (
                seen
                if before is None
                else Uncounted(op=seen.op, calls=before.calls + seen.calls, elements=before.elements + seen.elements)
            )
        return cls(
            tuple(cells[cell] for cell in sorted(cells)),
            tuple(unknown[op] for op in sorted(unknown)),
        )

    def __add__(self, other: object) -> "Tally":
        """Return the sum of two tallies."""
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally.of((*self.counts, *other.counts), (*self.uncounted, *other.uncounted))

    def __mul__(self, times: object) -> "Tally":
        """Return this tally added `times` times."""
        if not isinstance(times, int) or isinstance(times, bool) or times < 0:
            return NotImplemented
        if times == 0:
            return Tally()
        return Tally(
            tuple(
                replace(
                    count,
                    calls=count.calls * times,
                    flop=count.flop * times,
                    int_op=count.int_op * times,
                    masked_flop=count.masked_flop * times,
                )
                for count in self.counts
            ),
            tuple(Uncounted(op=u.op, calls=u.calls * times, elements=u.elements * times) for u in self.uncounted),
        )

    @property
    def flop(self) -> int:
        """Floating-point operations.

        Units: FLOP; a multiply-add is two.
        Is not: anything of `uncounted`, nor the pairs that a mask skipped.
        """
        return sum(count.flop for count in self.counts)

    @property
    def int_op(self) -> int:
        """Integer operations of tensor arithmetic.

        Units: operations.
        Is not: address arithmetic or indexing.
        """
        return sum(count.int_op for count in self.counts)

    @property
    def masked_flop(self) -> int:
        """Attention products for pairs that a mask skipped.

        Units: FLOP, not part of `flop`.
        """
        return sum(count.masked_flop for count in self.counts)

    @property
    def contraction_flop(self) -> int:
        """Products only: kinds matmul, attention, convolution and recurrent.

        Units: FLOP. Comparable with counters that know products alone; with those that count causal attention in
        full, compare `contraction_flop + masked_flop`.
        """
        return sum(count.flop for count in self.counts if count.kind in CONTRACTIONS)

    @property
    def calls(self) -> int:
        """Operator calls that had a formula.

        Units: calls; a call whose cost has parts of two kinds counts once, in the cell of its first part.
        """
        return sum(count.calls for count in self.counts)

    def coverage(self) -> float | None:
        """Share of operator calls that had a formula; None where nothing was called."""
        missed = sum(seen.calls for seen in self.uncounted)
        total = self.calls + missed
        return self.calls / total if total else None

    def by(self, dimension: str) -> dict[str, "Tally"]:
        """Split the counted part along one dimension, such as `phase`; values in the order of the contract."""
        if dimension not in DIMENSIONS:
            msg = f"{dimension!r} is no dimension of a tally; there are {', '.join(DIMENSIONS)}"
            raise ValueError(msg)
        groups: dict[str, list[OpCount]] = {}
        for count in self.counts:
            groups.setdefault(getattr(count, dimension), []).append(count)
        return {value: Tally(tuple(groups[value])) for value in sorted(groups)}

    def select(self, **wanted: str) -> "Tally":
        """Return the counts whose dimensions have these values, such as `select(kind="matmul", precision="bf16")`."""
        for name in wanted:
            if name not in DIMENSIONS:
                msg = f"{name!r} is no dimension of a tally; there are {', '.join(DIMENSIONS)}"
                raise ValueError(msg)
        return Tally(tuple(c for c in self.counts if all(getattr(c, name) == value for name, value in wanted.items())))

    def labelled(self, *, purpose: str, basis: str) -> "Tally":
        """Return the same counts under another purpose and basis: a passage's table knows neither.

        What somebody declared stays so, however often it ran.
        """
        return Tally.of(
            (
                replace(count, purpose=purpose, basis="declared" if count.basis == "declared" else basis)
                for count in self.counts
            ),
            self.uncounted,
        )

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the tally as it travels."""
        return {
            "counts": [count.to_wire() for count in self.counts],
            "uncounted": [seen.to_wire() for seen in self.uncounted],
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the tally that this object holds; MalformedError where it holds none."""
        fields: Mapping[str, wire.Wire] = wire.parse_object(value, name="tally")
        return cls.of(
            (OpCount.from_wire(item) for item in wire.parse_list(fields.get("counts"), name="counts")),
            (Uncounted.from_wire(item) for item in wire.parse_list(fields.get("uncounted"), name="uncounted")),
        )


def _added(one: OpCount, two: OpCount) -> OpCount:
    return replace(
        one,
        calls=one.calls + two.calls,
        flop=one.flop + two.flop,
        int_op=one.int_op + two.int_op,
        masked_flop=one.masked_flop + two.masked_flop,
    )
