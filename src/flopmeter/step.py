"""Step and Steps: one optimizer update on one rank, and consecutive ones as a ledger keeps them.

A step is a list of passages that ran; a passage's cost stands once in a table, and a step says which table ran how
often. Not here: how passages are told apart (`sensors/passage.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from flopmeter import wire
from flopmeter.errors import MalformedError
from flopmeter.formulas.call import OpCall
from flopmeter.repeat import Repeat, check_repeats
from flopmeter.tally import BASES, PHASES, PURPOSES, Tally
from flopmeter.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operator call of a passage, in one phase, and how often it was made.

    `inside` are the operators without a formula that the call was part of, outermost first: once one of them has a
    formula, this row is in its price.
    """

    call: OpCall
    phase: str
    calls: int
    inside: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the row as ledgers keep it."""
        inside: dict[str, wire.Wire] = {"inside": list(self.inside)} if self.inside else {}
        return {**self.call.to_wire(), "phase": self.phase, "calls": wire.print_count(self.calls), **inside}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the row that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="row")
        return cls(
            call=OpCall.from_wire(fields),
            phase=_known(fields.get("phase"), PHASES, "phase"),
            calls=wire.parse_count(fields.get("calls"), name="calls"),
            inside=tuple(
                wire.parse_text(item, name="inside")
                for item in wire.parse_list(fields.get("inside") or [], name="inside")
            ),
        )


@dataclass(frozen=True, slots=True)
class Table:
    """The operator calls of one passage, and what they cost by the book of the ledger's header.

    `rows` can be computed again with any book; `beyond` is the tally of rows past the size limit, which cannot;
    `tally` is the whole, `beyond` included. `work` is the digest of `rows` and `beyond`: what ran.
    `repeated` are the parts of the tally that other ranks do as well, as far as it was known when this was counted;
    where there are any the table's `name` is a digest of them too: two models may run the same calls, and only one of
    them what other ranks run.
    `size` is how much there is to keep: rows, and integers in them. `holds_once` says that values inside of tensors, or
    how much a sparse tensor stored, decided the cost: the same passage may cost something else the next time.
    """

    rows: tuple[Row, ...]
    tally: Tally
    beyond: Tally = field(default_factory=Tally)
    repeated: tuple[Repeat, ...] = ()
    work: str = field(init=False)
    name: str = field(init=False)
    size: int = field(init=False)
    holds_once: bool = field(init=False)

    def __post_init__(self) -> None:
        """Digest what ran, whatever it is said to cost."""
        content: dict[str, wire.Wire] = {
            "rows": [row.to_wire() for row in self.rows],
            "beyond": self.beyond.to_wire(),
        }
        object.__setattr__(self, "work", wire.digest(wire.encode(content)))
        if self.repeated:
            content["repeated"] = [repeat.to_wire() for repeat in self.repeated]
        object.__setattr__(self, "name", wire.digest(wire.encode(content)) if self.repeated else self.work)
        specs = [spec for row in self.rows for spec in (*row.call.tensors, *row.call.out)]
        is_once = any(spec.values is not None or spec.stored is not None for spec in specs)
        object.__setattr__(self, "holds_once", is_once)
        object.__setattr__(self, "size", len(self.rows) + sum(len(spec.values or ()) for spec in specs))

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the table as ledgers keep it, its name included."""
        return {
            "table": self.name,
            "rows": [row.to_wire() for row in self.rows],
            "beyond": self.beyond.to_wire(),
            "tally": self.tally.to_wire(),
            **({"repeated": [repeat.to_wire() for repeat in self.repeated]} if self.repeated else {}),
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the table that this object holds.

        Raises:
            MalformedError: it holds none, or its name is not the digest of its content.
        """
        fields = wire.parse_object(value, name="table")
        table = cls(
            tuple(Row.from_wire(item) for item in wire.parse_list(fields.get("rows"), name="rows")),
            Tally.from_wire(fields.get("tally")),
            Tally.from_wire(fields.get("beyond")),
            tuple(Repeat.from_wire(item) for item in wire.parse_list(fields.get("repeated") or [], name="repeated")),
        )
        check_repeats(table.repeated, table.tally)
        if table.name != fields.get("table"):
            msg = f"table {str(fields.get('table'))[:12]}… is not the digest of its rows ({table.name[:12]}…)"
            raise MalformedError(msg)
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """What is known of passages that were not counted themselves, but stood a chance to be.

    `one_in`: each of them would have been counted with a chance of 1 in so many, drawn before it began; 0 where none
    could be (1 says as little: they would have been). `lower` and `upper` are what the passages of their kind that
    were counted leave them, all together; None where they are what they are booked at, to the operation.

    Units: `longest_ns` is the duration of the longest of them; `lower`, `upper` FLOP.
    """

    one_in: int
    longest_ns: int
    lower: int | None = None
    upper: int | None = None

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {
            "one_in": wire.print_count(self.one_in),
            "longest_ns": wire.print_count(self.longest_ns),
            **({} if self.lower is None else {"lower": wire.print_count(self.lower)}),
            **({} if self.upper is None else {"upper": wire.print_count(self.upper)}),
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="chance")
        if (fields.get("lower") is None) != (fields.get("upper") is None):
            raise MalformedError("a chance has a lower end without an upper one, or an upper one without a lower")
        return cls(
            one_in=wire.parse_count(fields.get("one_in"), name="one_in"),
            longest_ns=wire.parse_count(fields.get("longest_ns"), name="longest_ns"),
            lower=wire.parse_known(fields.get("lower"), name="lower"),
            upper=wire.parse_known(fields.get("upper"), name="upper"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How often passages of one cost ran under one purpose and basis.

    What each cost stands in the `table` of that name. Work that has no table of its own (its size was interpolated,
    or the room for tables is used up) is *loose*: `tally` is the cost of all of it together, and `most_flop` that of
    its dearest passage; `family` says which passages were interpolated as one program.

    Units: `ns` is the duration of all those passages together, from a monotonic clock; it bounds the work of
    passages that were not counted themselves.
    """

    purpose: str
    basis: str
    times: int
    ns: int
    table: str | None = None
    tally: Tally | None = None
    most_flop: int | None = None
    family: str | None = None
    chance: Chance | None = None

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel; those that say nothing stay away."""
        loose = None if self.tally is None else self.tally.to_wire()
        optional: dict[str, wire.Wire] = {
            "table": self.table,
            "tally": loose,
            "most_flop": wire.print_known(self.most_flop),
            "family": self.family,
            "chance": None if self.chance is None else self.chance.to_wire(),
        }
        return {
            "purpose": self.purpose,
            "basis": self.basis,
            "times": wire.print_count(self.times),
            "ns": wire.print_count(self.ns),
            **{name: value for name, value in optional.items() if value is not None},
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="ran")
        table, tally, family, chance = (fields.get(name) for name in ("table", "tally", "family", "chance"))
        ran = cls(
            purpose=_known(fields.get("purpose"), PURPOSES, "purpose"),
            basis=_known(fields.get("basis"), BASES, "basis"),
            times=wire.parse_count(fields.get("times"), name="times"),
            ns=wire.parse_count(fields.get("ns"), name="ns"),
            table=None if table is None else wire.parse_digest(table, name="table"),
            tally=None if tally is None else Tally.from_wire(tally),
            most_flop=wire.parse_known(fields.get("most_flop"), name="most_flop"),
            family=None if family is None else wire.parse_text(family, name="family"),
            chance=None if chance is None else Chance.from_wire(chance),
        )
        ran.check()
        return ran

    def check(self) -> None:
        """Refuse what cannot be true of any passages; what a table decides is `check_ends`.

        Raises:
            MalformedError: one figure contradicts another.
        """
        chance = self.chance
        if (self.table is None) == (self.tally is None):
            raise MalformedError("what ran names a table, or has a tally of its own: one of the two")
        if self.table is not None and (self.family is not None or self.most_flop is not None):
            raise MalformedError("what ran has a table, and a family or a dearest passage, which are of loose work")
        if self.times < 1:
            raise MalformedError("what ran, ran no times")
        if self.tally is not None and self.most_flop is not None and self.most_flop * self.times < self.tally.flop:
            msg = f"{self.times} passages of at most {self.most_flop} FLOP each cannot have cost {self.tally.flop} FLOP"
            raise MalformedError(msg)
        if chance is None:
            return
        if self.basis == "counted":
            raise MalformedError("what was counted has no chance to be")
        if not self.ns <= chance.longest_ns * self.times or chance.longest_ns > self.ns:
            msg = f"{self.times} passages that took {self.ns} ns cannot have had {chance.longest_ns} ns as the longest"
            raise MalformedError(msg)

    def check_ends(self, flop: int) -> None:
        """Refuse a range of costs that does not hold what all of it was booked at.

        Raises:
            MalformedError: it does not.
        """
        lower, upper = (None, None) if self.chance is None else (self.chance.lower, self.chance.upper)
        if lower is not None and upper is not None and not lower <= flop <= upper:
            msg = f"booked at {flop} FLOP, and said to lie between {lower} and {upper}"
            raise MalformedError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Cumulative figures of one segment, so that a record can be checked against those before it.

    Units: operations, tokens, steps.
    """

    flop: int = 0
    int_op: int = 0
    masked_flop: int = 0
    contraction_flop: int = 0
    tokens: int = 0
    steps: int = 0

    @classmethod
    def of(cls, tally: Tally, *, tokens: int = 0, steps: int = 0) -> Self:
        """Return the totals of a tally."""
        return cls(
            flop=tally.flop,
            int_op=tally.int_op,
            masked_flop=tally.masked_flop,
            contraction_flop=tally.contraction_flop,
            tokens=tokens,
            steps=steps,
        )

    def __add__(self, other: object) -> "Totals":
        """Return the sum, figure by figure."""
        if not isinstance(other, Totals):
            return NotImplemented
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in _TOTALS})

    def __mul__(self, times: object) -> "Totals":
        """Return the totals added `times` times."""
        if not isinstance(times, int):
            return NotImplemented
        return Totals(**{name: getattr(self, name) * times for name in _TOTALS})

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {name: wire.print_count(getattr(self, name)) for name in _TOTALS}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="totals")
        return cls(**{name: wire.parse_count(fields.get(name), name=name) for name in _TOTALS})


_TOTALS = ("flop", "int_op", "masked_flop", "contraction_flop", "tokens", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Consecutive steps of one rank, as one ledger record.

    `first` is the index of the first of `count` finished steps (`count` may be 0: work before a step has ended).
    `ran` says what ran, and how often. Of the passages in it, `audits` had a figure ready, were drawn to be counted
    all the same and are among the counted ones; `misses` of them turned out not to be what was ready for them.

    Units: `started_ns` and `ended_ns` from the monotonic clock of this segment; `own_ns` is the time that metering
    took; `ceiling_flop_per_s` is what the devices used could have done at most, None where unknown.
    """

    first: int
    count: int
    tokens: int
    samples: int
    started_ns: int
    ended_ns: int
    own_ns: int
    ran: tuple[Ran, ...]
    usage: Usage
    ceiling_flop_per_s: int | None
    total: Totals
    audits: int = 0
    misses: int = 0

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the record as it travels."""
        counts: Mapping[str, int] = {name: getattr(self, name) for name in _STEPS}
        return {
            **{name: wire.print_count(value) for name, value in counts.items()},
            "ran": [item.to_wire() for item in self.ran],
            "usage": self.usage.to_wire(),
            "ceiling_flop_per_s": None
            if self.ceiling_flop_per_s is None
            else wire.print_count(self.ceiling_flop_per_s),
            "total": self.total.to_wire(),
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the record that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="steps")
        ceiling = fields.get("ceiling_flop_per_s")
        steps = cls(
            **{name: wire.parse_count(fields.get(name), name=name) for name in _STEPS},
            ran=tuple(Ran.from_wire(item) for item in wire.parse_list(fields.get("ran"), name="ran")),
            usage=Usage.from_wire(fields.get("usage")),
            ceiling_flop_per_s=None if ceiling is None else wire.parse_count(ceiling, name="ceiling_flop_per_s"),
            total=Totals.from_wire(fields.get("total")),
        )
        if steps.misses > steps.audits:
            msg = f"{steps.misses} of {steps.audits} audits found something else: more than there were"
            raise MalformedError(msg)
        return steps


_STEPS = ("first", "count", "tokens", "samples", "started_ns", "ended_ns", "own_ns", "audits", "misses")


def _known(value: wire.Wire, known: Iterable[str], name: str) -> str:
    text = wire.parse_text(value, name=name)
    if text not in known:
        msg = f"{name} is {text!r}, not one of {', '.join(known)}"
        raise MalformedError(msg)
    return text
