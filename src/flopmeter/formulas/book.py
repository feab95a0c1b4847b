"""FormulaBook: operator name → formula, as a value with a digest.

A book never changes; `with_formula` returns another one. Its digest stands in every ledger header.
Not here: the formulas themselves, one family per file beside this one.
"""

import functools
import inspect
import logging
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import FunctionType, ModuleType
from typing import Any, Self, TypeAlias, cast

from flopmeter import wire
from flopmeter.errors import FormulaError
from flopmeter.formulas.call import COMPLEX, OpCall, is_integer
from flopmeter.formulas.cost import Cost, Part
from flopmeter.tally import CONTRACTIONS, KINDS, PHASES, OpCount, Tally, Uncounted

Formula: TypeAlias = Callable[[OpCall], "int | Cost"]
Place: TypeAlias = "int | str | tuple[int | str, ...]"

_log = logging.getLogger("flopmeter")

CONVENTION = "fm-1"
FAMILIES = (
    "matmul",
    "bilinear",
    "attention",
    "convolution",
    "compiled",
    "embedding",
    "bag",
    "normalization",
    "shared_norm",
    "pointwise",
    "activation",
    "loss",
    "class_loss",
    "reduction",
    "pooling",
    "optimizer",
    "movement",
    "scaled",
    "quantized",
    "weight_only",
    "quantization",
    "bitsandbytes",
    "torchao",
    "sparse",
    "semi_structured",
    "packed",
    "flex",
    "recurrent",
    "fast_path",
    "spectral",
    "linalg",
    "eigen",
    "complex",
    "complex_reduction",
    "sampling",
    "region",
    "distance",
    "scan",
    "graph",
    "prims",
    "serving",
    "jagged",
    "neighborhood",
    "library",
    "extension",
)
"""The files beside this one that hold a `FORMULAS` table: operator name → (kind, formula).

Where the integers inside a tensor decide the cost, the file holds a `READS` table too: operator name → the arguments,
by position, keyword or path into a list, whose values its formula reads.
"""
SHARED = ("book", "call", "cost", "lapack", "pairs", "rates")
"""The other files beside this one; a digest covers them all."""
INDEX = "index.txt"
"""Which family prices an operator, one a line: a run imports the families of the operators that it meets, no others."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a book: the kind that an int cost belongs to, the formula, and the arguments whose values it reads."""

    kind: str
    formula: Formula
    reads: frozenset[Place] = frozenset()

    @property
    def name(self) -> str:
        """Where the formula is written down."""
        named = self.formula if hasattr(self.formula, "__qualname__") else type(self.formula)
        return f"{named.__module__}.{named.__qualname__}"


class Shelf(Mapping[str, Entry]):
    """The rows of a book, by operator; a family is imported when one of its operators is first asked for.

    `brought` are rows that somebody gave, over those of the families; `index` says which family prices an operator, and
    `sources` what the digest of each file was. A family whose file has become another one meanwhile (an upgrade under a
    program that runs) is not imported, because the book's digest is not about it: its operators then have no row.
    """

    def __init__(self, brought: Mapping[str, Entry], index: str = "", sources: Mapping[str, str] | None = None) -> None:
        """Import nothing yet."""
        self.brought = brought
        self._index = index
        self._sources = sources or {}
        self._families: dict[str, ModuleType | None] = {}
        self._rows: dict[str, Entry | None] = dict(brought)

    def __getitem__(self, op: str) -> Entry:
        if op not in self._rows:
            self._rows[op] = self._look_up(op)
        row = self._rows[op]
        if row is None:
            raise KeyError(op)
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*(line.split()[0] for line in self._index.splitlines()), *self.brought]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def with_row(self, op: str, row: Entry) -> "Shelf":
        """Return these rows with one more, or another one."""
        return Shelf({**self.brought, op: row}, self._index, self._sources)

    def _look_up(self, op: str) -> Entry | None:
        # In the text, because a table of two thousand operators costs more time and room than a run's few searches.
        _, _, rest = f"\n{self._index}".partition(f"\n{op} ")
        family = rest.partition("\n")[0]
        if not family:
            return None
        if family not in self._families:
            self._families[family] = self._import(family)
        module = self._families[family]
        if module is None:
            return None
        kind, formula = module.FORMULAS[op]
        return Entry(kind, formula, frozenset(getattr(module, "READS", {}).get(op, ())))

    def _import(self, family: str) -> ModuleType | None:
        try:
            if wire.digest(_read(f"{family}.py")) != self._sources[family]:
                msg = "the file has changed since this book was opened"
                raise ImportError(msg)
            return import_module(f"flopmeter.formulas.{family}")
        except (ImportError, OSError) as error:
            _log.error("operators of formulas/%s.py are left uncounted: %s", family, error)
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormulaBook:
    """Which formula prices which operator; a value.

    `entries` is keyed by `namespace::op` without overload. An in-place operator (`aten::add_`) costs what its
    out-of-place twin costs unless it has an entry of its own. A call with a complex operand or result is looked up
    under `complex::aten.op` first, one with a sparse tensor under `sparse::aten.op`, one with both under
    `sparse_complex::aten.op`.
    """

    entries: Mapping[str, Entry]
    digest: str

    def __post_init__(self) -> None:
        """Put rows that came in another mapping on a shelf, all of them as rows that somebody brought."""
        if not isinstance(self.entries, Shelf):
            object.__setattr__(self, "entries", Shelf(self.entries))

    @property
    def _shelf(self) -> Shelf:
        return cast("Shelf", self.entries)

    @classmethod
    def standard(cls) -> Self:
        """Return the book of convention fm-1, all families."""
        for name in SHARED:
            import_module(f"flopmeter.formulas.{name}")  # so that no family imports another one later than its digest
        sources = {name: wire.digest(_read(f"{name}.py")) for name in (*FAMILIES, *SHARED)}
        index = _read(INDEX)
        parts: dict[str, wire.Wire] = {"convention": CONVENTION, "index": wire.digest(index), "sources": sources}
        return cls(entries=Shelf({}, index.decode("ascii"), sources), digest=wire.digest(wire.encode(parts)))

    @classmethod
    def installed(cls) -> "FormulaBook":
        """Return the standard book with the formulas of installed packages over it.

        A package brings them by an entry point of the group `flopmeter.formulas` that names a table `FORMULAS`, as
        `with_table` takes it. One that cannot be loaded is left out and logged.
        """
        book: FormulaBook = cls.standard()
        for point in sorted(entry_points(group="flopmeter.formulas"), key=lambda point: (point.name, point.value)):
            try:
                book = book.with_table(point.load())
            except (Exception, SystemExit):  # noqa: BLE001  # a package of somebody's must not stop a run
                _log.exception("the formulas of entry point %s cannot be used", point.name)
        return book

    def with_table(self, table: "Mapping[str, tuple[Any, ...]]") -> "FormulaBook":
        """Return a book with the formulas of a table: operator name → (kind, formula), or (kind, formula, reads).

        Raises:
            ValueError: as for `with_formula`; TypeError where it is no such table.
        """
        book = self
        for op, (kind, formula, *reads) in sorted(dict(table).items()):
            book = book.with_formula(op, formula, kind=kind, reads=reads[0] if reads else ())
        return book

    def with_formula(self, op: str, formula: Formula, *, kind: str, reads: Iterable[Place] = ()) -> "FormulaBook":
        """Return a book in which `op` has this formula; its digest tells it from the standard book.

        `reads` names the arguments, by position, keyword or path into a list such as `(4, 0)`, whose integers the
        formula wants to see: they come as `TensorSpec.values` where the host can have them without waiting for a
        device, else as None.

        Raises:
            ValueError: a kind outside the contract's list, or a name that is not `namespace::op`.
        """
        if kind not in KINDS:
            msg = f"kind is {kind!r}, not one of {', '.join(KINDS)}"
            raise ValueError(msg)
        if op.count("::") != 1:
            msg = f"{op!r} is not of the form namespace::op"
            raise ValueError(msg)
        row = Entry(kind, formula, frozenset(reads))
        return FormulaBook(
            entries=self._shelf.with_row(op, row), digest=_digest(op, row, [self.digest, _source(formula)])
        )

    def find(self, op: str) -> Entry | None:
        """Return the row of an operator, or of its out-of-place twin; None where the book has neither."""
        entry = self.entries.get(op)
        if entry is None and op.endswith("_") and not op.endswith("__"):
            entry = self.entries.get(op[:-1])
        return entry

    @property
    def foreign(self) -> dict[str, str]:
        """Operators whose formula is not flopmeter's own, and where theirs is written down."""
        own = "flopmeter.formulas."
        brought = sorted(self._shelf.brought.items())
        return {op: entry.name for op, entry in brought if not entry.name.startswith(own)}

    def reads(self, op: str) -> frozenset[Place]:
        """Return the arguments of an operator whose integers its formula reads."""
        entry = self.find(op)
        return entry.reads if entry else frozenset()

    def cost(self, call: OpCall) -> Cost | None:
        """Return what a call costs, or None where the book cannot say.

        Counts: what the operator's formula counts.
        Source: docs/spec/fm-1.md.

        Complex and sparse operands without a formula of their own are left uncounted rather than priced as real and
        dense ones.

        Raises:
            FormulaError: the formula refused the shapes.
        """
        entry, is_complete = self._entry(call)
        if entry is None:
            return None
        try:
            found = entry.formula(call)
            cost = found if isinstance(found, Cost) else Cost.of(Part(kind=entry.kind, flop=found))
        except (Exception, SystemExit) as error:  # a formula is anybody's: its failure costs this call, nothing else
            msg = f"{entry.name} failed on {call.to_wire()}: {type(error).__name__}: {error}"
            raise FormulaError(msg, where=call.op) from error
        return cost if is_complete or not cost.flop else None

    def _entry(self, call: OpCall) -> tuple[Entry | None, bool]:
        """Return the row that prices a call, and whether it may price it at more than nothing.

        A shape tells neither what complex numbers cost nor how little of itself a sparse tensor keeps.
        """
        special = ["sparse"] if any(spec.stored is not None for spec in (*call.tensors, *call.out)) else []
        special += ["complex"] if call.precision in COMPLEX else []
        if not special:
            return self.find(call.op), True
        own = self.find(f"{'_'.join(special)}::{call.op.replace('::', '.')}")
        return own or self.find(call.op), own is not None

    def count(self, call: OpCall, *, calls: int, phase: str) -> Tally:
        """Return the tally of a call that was made `calls` times in a phase.

        A call without formula, or whose formula refused, is in `uncounted`; it is never zero.
        """
        if phase not in PHASES:
            msg = f"phase is {phase!r}, not one of {', '.join(PHASES)}"
            raise ValueError(msg)
        try:
            cost = self.cost(call)
        except FormulaError:
            cost = None
        if cost is None:
            return Tally(uncounted=(Uncounted(op=call.op, calls=calls, elements=calls * call.out_size),))
        entry, _ = self._entry(call)
        parts = cost.parts or (Part(kind=entry.kind if entry else "other"),)
        return Tally.of(
            _count_part(part, call, phase=phase, times=calls, is_first=index == 0) for index, part in enumerate(parts)
        )


def _count_part(part: Part, call: OpCall, *, phase: str, times: int, is_first: bool) -> OpCount:
    precision = part.precision or call.precision
    if precision == "tf32" and part.kind not in CONTRACTIONS:
        precision = "fp32"  # products alone are done in it
    operations = part.flop * times
    return OpCount(
        op=call.op,
        kind=part.kind,
        phase=part.phase or phase,
        precision=precision,
        basis=part.basis,
        calls=times if is_first else 0,
        flop=0 if is_integer(precision) else operations,
        int_op=operations if is_integer(precision) else 0,
        masked_flop=part.masked_flop * times,
    )


def _digest(op: str, row: Entry, sources: list[str]) -> str:
    words: dict[str, wire.Wire] = {op: [row.kind, row.name, *sorted(map(str, row.reads))]}
    return wire.digest(wire.encode({"convention": CONVENTION, "entries": words, "sources": sources}))


def _read(name: str) -> bytes:
    """Return a file of this folder, with the ends of line that it has in its repository."""
    return (pkgutil.get_data(__package__, name) or b"").replace(b"\r\n", b"\n")


def _source(formula: Formula) -> str:
    """Digest a formula that someone brought: its source or byte code, and what it holds on to, functions included."""
    held: list[object] = []
    inner: object = formula
    while isinstance(inner, functools.partial):
        held += [*inner.args, *inner.keywords.values()]
        inner = inner.func
    code = getattr(inner, "__code__", None)
    if code is None:
        held += getattr(inner, "__dict__", {}).values()
        inner = type(inner)
    held += [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    held += getattr(inner, "__defaults__", None) or ()
    held += (getattr(inner, "__kwdefaults__", None) or {}).values()
    try:
        source = inspect.getsource(inner)  # type: ignore[arg-type]  # what is no source is answered by TypeError
    except (OSError, TypeError):
        source = repr((code.co_code, code.co_consts)) if code else repr(inner)
    plain = [repr(value) for value in held if isinstance(value, (bool, int, float, str, type(None)))]
    inside = [_source(value) for value in held if isinstance(value, FunctionType)]
    return wire.digest("\n".join([source, *plain, *inside]).encode())
