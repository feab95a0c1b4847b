"""Torch's `FlopCounterMode` around the whole run: products of the operators it has a formula for, in its own way.

Its figures were compared with our products call by call over hundreds of models (`docs/reference/agreement.md`);
they are worked out here from the calls that the ledger keeps. Not here: torch; the counter is not run.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from flopmeter.conventions.translation import Given, Line, Tool, Translation, describe_doubts
from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import COMPLEX, Arg, OpCall, TensorSpec
from flopmeter.ledger.chain import Segment
from flopmeter.ledger.merge import RunLedger
from flopmeter.step import Steps, Table
from flopmeter.tally import CONTRACTIONS, Tally

_BACKENDS = tuple(
    f"aten::_scaled_dot_product_{backend}_attention{way}"
    for backend in ("cudnn", "efficient", "flash")
    for way in ("", "_backward")
)
KNOWN: Mapping[tuple[int, int], tuple[str, ...]] = {
    (2, 9): (
        *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm"),
        *("aten::convolution", "aten::_convolution", "aten::cudnn_convolution", "aten::_slow_conv2d_forward"),
        "aten::convolution_backward",
        *_BACKENDS,
        *("aten::_flash_attention_forward", "aten::_flash_attention_backward"),
        *("aten::_efficient_attention_forward", "aten::_efficient_attention_backward"),
    ),
    (2, 10): ("aten::convolution_overrideable",),
    (2, 12): ("torch_attn::_varlen_attn", "torch_attn::_varlen_attn_out", "torch_attn::_varlen_attn_backward"),
    (2, 15): tuple(f"aten::_scaled_dot_product_flash_attention_for_cpu{way}" for way in ("", "_backward")),
}
"""The operators that it has a formula for, by the release of torch that brought them; those of 2.9 may be older.
Read in the files of 2.9.1 to 2.14.1; what 2.15 added shows in docs/reference/agreement.md."""
NEWEST = (2, 15)
STOPS_AT = frozenset({"higher_order::flex_attention", "higher_order::flex_attention_backward"})

GROUPS, COMPLEX_NUMBERS, SPARSE, INSIDE = (
    "groups of convolutions",
    "complex numbers",
    "sparse operands",
    "inside others",
)
WHYS = {
    GROUPS: "the weight gradient is multiplied by the groups",
    COMPLEX_NUMBERS: "a product of them counts as one of real numbers",
    SPARSE: "they count as dense ones",
    INSIDE: "what a library's operator runs is not seen",
}
_REAL = {"complex32": "fp16", "complex64": "fp32", "complex128": "fp64"}


@dataclass(slots=True)
class _Calls:
    """What calls say and a tally does not: how much more or less its figure is than our products, by reason.

    `odd` are the operators with such calls; `unkept` are products whose calls the ledger does not keep.

    Units: FLOP.
    """

    known: frozenset[str]
    book: FormulaBook = field(default_factory=FormulaBook.standard)
    more: Counter[str] = field(default_factory=Counter)
    odd: set[str] = field(default_factory=set)
    unkept: Counter[str] = field(default_factory=Counter)

    def add(self, segment: Segment) -> None:
        """Take what ran in a segment; its records were checked when the account was made."""
        tables: dict[str, Table] = {}
        for entry in segment.entries:
            if entry.kind == "table":
                table = Table.from_wire(entry.body)
                tables[table.name] = table
            elif entry.kind == "steps":
                for ran in Steps.from_wire(entry.body).ran:
                    if ran.table is None:
                        self._add_unkept(ran.tally or Tally(), 1)
                    else:
                        self._add_table(tables[ran.table], ran.times)

    def _add_table(self, table: Table, times: int) -> None:
        self._add_unkept(table.beyond, times)
        for row in table.rows:
            if row.call.op in self.known:
                reason, more = (INSIDE, -_count(self.book, row.call)) if row.inside else _compare(self.book, row.call)
                if more:
                    self.odd.add(row.call.op)
                    self.more[reason] += more * row.calls * times

    def _add_unkept(self, tally: Tally, times: int) -> None:
        for count in tally.counts:
            if count.op in self.known and count.kind in CONTRACTIONS:
                self.unkept[count.op] += (count.flop + count.masked_flop + count.int_op) * times

    def undecided(self) -> list[str]:
        """Return the operators whose calls are not all kept, and may have been such as it counts otherwise."""
        may_differ = self.odd | {"aten::convolution_backward"}
        return sorted(op for op, flop in self.unkept.items() if flop and op in may_differ)


def translate_flop_counter(given: Given) -> Translation:
    """Return what `FlopCounterMode` would print of the whole run, zeros included."""
    account = given.account
    release, said = _find_release(given.ledger)
    tool = Tool(
        name="flop-counter",
        figure="get_total_flops() of torch's FlopCounterMode, around the whole run",
        source=f"pytorch/pytorch, torch/utils/flop_counter.py, {said}",
    )
    calls = _Calls(frozenset(op for since, ops in KNOWN.items() if since <= release for op in ops))
    for segment in given.ledger.segments:
        calls.add(segment)
    missing = _find_missing(given, calls)
    if missing:
        return Translation.unknown(tool, account, missing)
    bridge = tuple(line for line in _bridge(account.tally, calls, said) if line.flop)
    notes = (
        [f"not kept call by call, taken for plain products: {', '.join(sorted(calls.unkept))}"] if calls.unkept else []
    )
    if account.ranks > 1:
        notes.append(f"it prints a figure for each process; this is the sum over {account.ranks} ranks")
    if any(place.names("model") for place in account.coordinates.values()):
        notes.append("of a DTensor it counts the whole on each rank; this figure has the parts that ran")
    return Translation(
        tool=tool,
        ours=account.flop,
        flop=account.flop + sum(line.flop for line in bridge),
        bridge=bridge,
        notes=(*notes, *describe_doubts(account)),
    )


def _bridge(tally: Tally, calls: _Calls, said: str) -> Iterator[Line]:
    """Go from ours to theirs: what is no product, products it has no formula for, and what it counts otherwise."""
    for kind, part in tally.by("kind").items():
        if kind not in CONTRACTIONS:
            yield Line(term=kind, flop=-part.flop, why="it counts products alone")
    masked = integer = 0
    for op, part in tally.by("op").items():
        products = [count for count in part.counts if count.kind in CONTRACTIONS]
        if op in calls.known:
            masked += sum(count.masked_flop for count in products)
            integer += sum(count.int_op for count in products)
        else:
            flop = sum(count.flop for count in products)
            yield Line(term=op, flop=-flop, why=f"no formula in {said}: zero, and nothing says so")
    yield Line(term="pairs that a mask skips", flop=masked, why="it counts attention in full")
    yield Line(term="products of integers", flop=integer, why="it counts them as FLOP")
    for reason, flop in sorted(calls.more.items()):
        yield Line(term=reason, flop=flop, why=WHYS[reason])


def _find_missing(given: Given, calls: _Calls) -> list[str]:
    tally = given.account.tally
    missing = []
    if any(tally.select(op=op).calls for op in STOPS_AT):
        missing.append("a figure of it: it stops at flex_attention with an error")
    missing += [
        f"what {seen.op} costs: it has a formula, and ours refused these calls"
        for seen in tally.uncounted
        if seen.op in calls.known
    ]
    missing += [
        f"whether {op} is registered with torch: its formula here is {name}, from where is not recorded"
        for op, name in given.account.foreign_formulas.items()
        if tally.select(op=op).flop
    ]
    missing += [
        f"some calls of {op}: they were interpolated, or found no room in the ledger; Meter(exact=True) keeps more"
        for op in calls.undecided()
    ]
    return missing


def _find_release(ledger: RunLedger) -> tuple[tuple[int, int], str]:
    """Return the release of torch that ran last, and how to call it; the newest known where the ledger is silent."""
    versions = ledger.segments[-1].header.body.get("versions")
    text = versions.get("torch") if isinstance(versions, Mapping) else None
    found = re.match(r"(\d+)\.(\d+)", text) if isinstance(text, str) else None
    if found is None:
        return NEWEST, f"torch {NEWEST[0]}.{NEWEST[1]} (the ledger names none)"
    release = (int(found[1]), int(found[2]))
    if release > NEWEST:
        return NEWEST, f"torch {NEWEST[0]}.{NEWEST[1]} (that of {release[0]}.{release[1]} was not read)"
    return max(release, min(KNOWN)), f"torch {release[0]}.{release[1]}"


def _compare(book: FormulaBook, call: OpCall) -> tuple[str, int]:
    """Return how much more it says of a call than our products are, masked and whole ones among them, and why."""
    if any(spec.dtype in COMPLEX for spec in (*call.tensors, *call.out)):
        return COMPLEX_NUMBERS, _count(book, _as_real(call)) - _count(book, call)
    if any(spec.stored is not None for spec in call.tensors):
        first, second = call.tensors[-2:]
        return SPARSE, 2 * first.size * second.shape[-1] - _count(book, call)
    if call.op == "aten::convolution_backward":
        mask, groups = call.arg(10), call.arg(9)
        if isinstance(mask, tuple) and isinstance(groups, int) and groups > 1 and mask[1]:
            return GROUPS, (groups - 1) * _count_weight_gradient(call)
    return "", 0


def _count_weight_gradient(call: OpCall) -> int:
    """Return the products of a convolution's weight gradient: each weight meets each place of each example once.

    The places are those of the side that the weight is moved over: of the output, or of a transposed one's input.
    """
    dy, x, weight = (call.tensor(index) for index in range(3))
    places = x.shape[2:] if call.arg(7) is True else dy.shape[2:]
    return 2 * weight.size * x.shape[0] * prod(places)


def _count(book: FormulaBook, call: OpCall) -> int:
    try:
        cost = book.cost(call)
    except FormulaError:
        return 0  # it is among the uncounted, and so is said to be missing
    parts = () if cost is None else cost.parts
    return sum(part.flop + part.masked_flop for part in parts if part.kind in CONTRACTIONS)


def _as_real(call: OpCall) -> OpCall:
    options = tuple((name, _with_real(value)) for name, value in call.options)
    args, out = (
        tuple(map(_with_real, call.args)),
        tuple(replace(spec, dtype=_REAL.get(spec.dtype, spec.dtype)) for spec in call.out),
    )
    return OpCall(op=call.op, args=args, options=options, out=out)


def _with_real(arg: Arg) -> Arg:
    if isinstance(arg, TensorSpec):
        return replace(arg, dtype=_REAL.get(arg.dtype, arg.dtype))
    return tuple(map(_with_real, arg)) if isinstance(arg, tuple) else arg
