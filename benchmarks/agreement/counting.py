"""Ours and torch's counts of one run, operator by operator, and why they differ where they do."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import COMPLEX, Arg, OpCall, TensorSpec, is_integer
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.tally import CONTRACTIONS

REAL = {"complex32": "fp16", "complex64": "fp32", "complex128": "fp64"}
REASONS = {
    "groups": "they multiply the weight gradient of a convolution by its groups",
    "complex": "they count a product of complex numbers as one of real numbers",
    "sparse": "they count a sparse operand as a dense one",
    "integer": "they count integer products as FLOP",
    "masked": "they count pairs that the kernel was told to skip",
}


@dataclass(slots=True)
class Ours:
    """What our book says of a run: products by operator, and sums over everything.

    `products` holds floating-point, integer and masked products together, because no other counter tells them apart.
    """

    products: Counter[str] = field(default_factory=Counter)
    theirs: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, set[str]] = field(default_factory=dict)
    flop: int = 0
    masked: int = 0
    integer: int = 0
    optimizer: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)


@contextmanager
def phases() -> Iterator[PhaseTracker]:
    """Follow the optimizers' steps, so that their operations stand apart."""
    tracker = PhaseTracker()
    hooks = (
        register_optimizer_step_pre_hook(lambda *_: tracker.enter_optimizer()),
        register_optimizer_step_post_hook(lambda *_: tracker.leave_optimizer()),
    )
    try:
        yield tracker
    finally:
        for hook in hooks:
            hook.remove()


def count_ours(work: Callable[[], object], book: FormulaBook) -> Ours:
    """Run something under our recorder and price it."""
    failures: list[Exception] = []
    with phases() as tracker:
        recorder = OpRecorder(tracker.now, failures.append, book)
        with recorder:
            work()
    if failures:
        raise failures[0]
    ours = Ours()
    for row in rows_of(recorder.take()):
        add(ours, row.call, row.calls, row.phase, book)
    return ours


def add(ours: Ours, call: OpCall, calls: int, phase: str, book: FormulaBook) -> None:
    """Add a call that was made so many times, and what torch's counter should say of it."""
    try:
        cost = book.cost(call)
    except FormulaError:
        cost = None
    if cost is None:
        ours.uncounted[call.op] += calls
        return
    products = masked = 0
    for part in cost.parts:
        whole = is_integer(part.precision or call.precision)
        if part.kind in CONTRACTIONS:
            products += part.flop
            masked += part.masked_flop
            ours.integer += part.flop * calls if whole else 0
        ours.flop += 0 if whole else part.flop * calls
        ours.optimizer += part.flop * calls if phase == "optimizer" and not whole else 0
    ours.masked += masked * calls
    if not products + masked:
        return
    ours.products[call.op] += (products + masked) * calls
    if call.op in known_to_torch():
        said, reason = expect(call, products + masked, book)
        ours.theirs[call.op] += said * calls
        if reason or masked:
            ours.reasons.setdefault(call.op, set()).add(reason or "masked")
        if is_integer(call.precision):
            ours.reasons.setdefault(call.op, set()).add("integer")


def known_to_torch() -> frozenset[str]:
    """Return the operators for which torch's counter has a formula, by our names."""
    return frozenset(name_of(packet) for packet in flop_registry)


def name_of(packet: Any) -> str:
    """Return our name of what torch's counter files its figures under."""
    if isinstance(packet, torch._ops.OpOverloadPacket):  # noqa: SLF001 # what the registry's keys are
        return str(packet._qualified_op_name)  # noqa: SLF001
    return f"higher_order::{packet.name()}" if hasattr(packet, "name") else str(packet)


def expect(call: OpCall, products: int, book: FormulaBook) -> tuple[int, str]:
    """Return what torch's counter says of a call where we say `products`, and why it is not the same."""
    if any(spec.dtype in COMPLEX for spec in (*call.tensors, *call.out)):
        real = as_dense(call, REAL)
        cost = book.cost(real)
        said = sum(part.flop for part in cost.parts if part.kind in CONTRACTIONS) if cost else 0
        return expect(real, said, book)[0], "complex"
    if any(spec.stored is not None for spec in call.tensors):
        first, second = call.tensors[-2:]
        return 2 * prod(first.shape) * second.shape[-1], "sparse"
    if call.op == "aten::convolution_backward":
        mask, groups = call.arg(10), call.arg(9)
        if isinstance(mask, tuple) and isinstance(groups, int) and groups > 1 and mask[1]:
            return products + (groups - 1) * weight_gradient(call), "groups"
    return products, ""


def weight_gradient(call: OpCall) -> int:
    """Return the products of a convolution's weight gradient: each weight meets each place of each example once.

    The places are those of the side that the weight is moved over: of the output, or of a transposed one's input.
    """
    dy, x, weight = (call.tensor(index) for index in range(3))
    places = x.shape[2:] if call.arg(7) is True else dy.shape[2:]
    return 2 * weight.size * x.shape[0] * prod(places)


def as_dense(arg: Any, names: dict[str, str]) -> Any:
    """Return a call, or an argument, with other dtypes in it."""
    if isinstance(arg, TensorSpec):
        return replace(arg, dtype=names.get(arg.dtype, arg.dtype))
    if isinstance(arg, OpCall):
        options: tuple[tuple[str, Arg], ...] = tuple((name, as_dense(value, names)) for name, value in arg.options)
        return OpCall(op=arg.op, args=as_dense(arg.args, names), options=options, out=as_dense(arg.out, names))
    return tuple(as_dense(item, names) for item in arg) if isinstance(arg, tuple) else arg


def count_theirs(work: Callable[[], object]) -> Counter[str]:
    """Run something under torch's counter; its figures by operator, under our names."""
    with FlopCounterMode(display=False) as mode:
        work()
    return Counter({name_of(packet): count for packet, count in mode.get_flop_counts().get("Global", {}).items()})


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run beside torch's counter.

    `equal` are the operators that agree to the last product; `explained` those that differ by exactly what a known
    reason says (operator → ours, theirs, reasons); `missed` what torch's counter has no formula for; `unexplained` the
    rest, and `not_ours` what our book could not price and they could.
    """

    equal: dict[str, int]
    explained: dict[str, tuple[int, int, tuple[str, ...]]]
    missed: dict[str, int]
    unexplained: dict[str, tuple[int, int]]
    not_ours: dict[str, int]


def compare(ours: Ours, theirs: Counter[str]) -> Comparison:
    """Set both counts of a run side by side."""
    known = known_to_torch()
    found = Comparison({}, {}, {}, {}, {})
    for op in sorted({*ours.products, *theirs}):
        mine, other = ours.products[op], theirs[op]
        if op in ours.uncounted:  # some of its calls at least: nothing to compare
            found.not_ours[op] = other
        elif op not in known:
            found.missed[op] = mine
        elif mine == other:
            found.equal[op] = mine
        elif ours.theirs[op] == other and op in ours.reasons:
            found.explained[op] = (mine, other, tuple(sorted(ours.reasons[op])))
        else:
            found.unexplained[op] = (mine, other)
    return found
