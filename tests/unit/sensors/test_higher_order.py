"""Operators that call others: what runs inside is counted, once; results, gradients and compilers stay as they were."""

import warnings

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.cond import cond_op
from torch._higher_order_ops.effects import with_effects
from torch._higher_order_ops.foreach_map import foreach_map
from torch._higher_order_ops.hints_wrap import hints_wrapper
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.out_dtype import out_dtype
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.strict_mode import strict_mode
from torch._higher_order_ops.while_loop import while_loop
from torch._higher_order_ops.wrap import wrap
from torch._ops import HigherOrderOperator
from torch._prims.rng_prims import run_and_save_rng_state, run_with_rng_state
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from versions import since_2_10

from flopmeter import Meter
from flopmeter.sensors.compiled import CompileWatch
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder

pytestmark = since_2_10("torch compiles for these operators, or runs them once more")

SQUARE = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
MM = 2 * 4 * 4 * 4


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        yield
    torch._dynamo.reset()


def leaves() -> tuple[torch.Tensor, torch.Tensor]:
    return SQUARE.clone().requires_grad_(), SQUARE.t().contiguous().requires_grad_()


def run(program):
    """Return what a program gives, with the gradients of both leaves."""
    torch.manual_seed(0)
    x, w = leaves()
    out = program(x, w)
    if out.requires_grad:
        out.sum().backward()
    return [out.detach(), *[leaf.grad for leaf in (x, w) if leaf.grad is not None]]


def note(program) -> tuple[list[torch.Tensor], dict[str, int]]:
    """Run a program under the hook alone; return its results, and the calls by operator."""
    failures: list[Exception] = []
    recorder = OpRecorder(lambda: "forward", failures.append)
    with recorder:
        results = run(program)
    assert not failures
    assert not recorder.is_on
    calls: dict[str, int] = {}
    for row in rows_of(recorder.take()):
        calls[row.call.op] = calls.get(row.call.op, 0) + row.calls
    return results, calls


def both_branches(*, is_first: bool):
    def program(x, w):
        return torch.cond(torch.tensor(is_first), lambda x, w: (x @ w).sin(), lambda x, w: x + w, (x, w))

    return program


def cumulate(x, w):
    return scan(lambda carry, row: (carry + row, (carry @ w) * row), torch.zeros(4), x, dim=0)[1]


def loop(x, w):
    with torch.no_grad():
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ w), (torch.tensor(0), x))[1]


def nested(x, w):
    def inner(x, w):
        return torch.cond(x.sum() > -1e9, lambda x, w: x @ w, lambda x, w: x * w, (x, w))

    return torch.cond(torch.tensor(True), inner, lambda x, w: x - w, (x, w))


def saved_draw(x, w):
    state, first = run_and_save_rng_state(torch.ops.aten.bernoulli.p, x.detach(), 0.5)
    return first + run_with_rng_state(state, torch.ops.aten.bernoulli.p, x.detach(), 0.5)


# Where there are gradients, torch runs what is inside once more in backward, before their own operators.
PROGRAMS = {
    "cond, true": (both_branches(is_first=True), {"aten::mm": 1 + 3, "aten::sin": 1 + 1, "aten::cos": 1}),
    "cond, false": (both_branches(is_first=False), {"aten::add": 1 + 1, "aten::mm": 0}),
    "cond in cond": (nested, {"aten::mm": 1 + 1 + 1 + 2, "aten::mul": 0, "aten::sub": 0}),
    "while_loop": (loop, {"aten::mm": 3, "aten::lt": 4, "aten::add": 3}),
    "map": (lambda x, w: torch_map(lambda row, w: row.sin(), x, w), {"aten::sin": 4 + 4, "aten::cos": 4}),
    "scan": (cumulate, {"aten::mm": 4 + 8, "aten::mul": 4 + 8}),
    "associative_scan": (
        lambda x, w: associative_scan(lambda a, b: a * b, x.detach(), 0, combine_mode="generic"),
        {"aten::mul": 4},
    ),
    "strict_mode": (lambda x, w: strict_mode(lambda x, w: (x @ w,), (x.detach(), w.detach()))[0], {"aten::mm": 1}),
    "hints_wrapper": (
        lambda x, w: hints_wrapper(lambda x: (x @ x,), (x.detach(),), {}, hints={"kept": True})[0],
        {"aten::mm": 1},
    ),
    "foreach_map": (lambda x, w: foreach_map(torch.add, [x.detach()], [w.detach()])[0], {"aten::add": 1}),
    "out_dtype": (
        lambda x, w: out_dtype(torch.ops.aten.mm.default, torch.int32, *[(3 * x.detach()).to(torch.int8)] * 2),
        {"aten::mm": 1},
    ),
    "with_effects": (
        lambda x, w: with_effects(torch.empty(0), torch.ops.aten.mm.default, x.detach(), w.detach())[1],
        {"aten::mm": 1},
    ),
    "rng state": (saved_draw, {"aten::bernoulli": 2, "aten::add": 1}),
    # These two call what they are given while the hook is on anyway.
    "wrap": (lambda x, w: wrap(lambda x, w: x @ w, x, w), {"aten::mm": 1 + 2}),
    "checkpoint": (
        lambda x, w: checkpoint(lambda x, w: (x @ w).sin(), x, w, use_reentrant=False),
        {"aten::mm": 1 + 1 + 2, "aten::cos": 1},
    ),
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_what_runs_inside_is_counted_and_nothing_else(name):
    """If this failed, a loop would be for nothing, or the branch that did not run would be charged."""
    program, expected = PROGRAMS[name]
    plain = run(program)
    results, calls = note(program)
    assert {op: calls.get(op, 0) for op in expected} == expected
    assert not any(op.startswith("higher_order::") for op in calls)
    assert len(plain) == len(results)
    assert all(torch.equal(one, other) for one, other in zip(plain, results, strict=True))


def test_a_region_that_is_compiled_once_is_counted_each_time():
    """`nested_compile_region` becomes an operator once something compiles around it."""
    region = torch.compiler.nested_compile_region(lambda x, w: (x @ w).sin())

    def program(x, w):
        return torch.compile(lambda x, w: region(x, w) + region(x, w), backend="aot_eager")(x, w)

    plain = run(program)
    torch._dynamo.reset()
    results, calls = note(program)
    assert calls["aten::mm"] == 2 + 4
    assert not any(op.startswith("higher_order::") for op in calls)
    assert all(torch.equal(one, other) for one, other in zip(plain, results, strict=True))


def test_composite_operators_are_taken_apart_inside(metered):
    """Inside, torch has left autograd behind and hands `linear` and `einsum` over whole."""
    layer = nn.Linear(4, 4)

    def apart(x):
        return torch.einsum("ij,jk->ik", layer(x), x)

    def program(meter):
        with torch.no_grad():
            torch.cond(torch.tensor(True), apart, lambda x: x.sin(), (SQUARE,))

    account = metered(program, strict=True, exact=True)
    assert account.tally.uncounted == ()
    assert account.tally.contraction_flop == 2 * MM
    assert {count.op for count in account.tally.counts if count.flop} == {"aten::addmm", "aten::bmm"}


class Opaque(HigherOrderOperator):
    def __call__(self, *args):
        return super().__call__(*args)


def test_what_cannot_be_seen_is_listed_by_name(metered):
    """If this failed, a kernel that no formula knows would be nothing instead of a gap."""
    opaque = Opaque("opaque_of_a_test")
    opaque.py_impl(torch._C.DispatchKey.CompositeExplicitAutograd)(lambda function, x: function(x))
    opaque.fallthrough(torch._C.DispatchKey.AutogradCPU)
    account = metered(lambda _: opaque(torch.sin, SQUARE))
    (seen,) = account.tally.uncounted
    assert (seen.op, seen.calls, seen.elements) == ("higher_order::opaque_of_a_test", 1, 16)
    assert account.tally.flop == 0


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 4))

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.large, self.small, (x,))


def train(meter):
    model = Branching()
    meter.watch(model)
    for step in range(6):
        model(torch.full((2, 4), 1.0 if step in {1, 4} else -1.0)).sum().backward()
        meter.step()


def test_a_passage_whose_branch_values_decide_is_never_replayed(metered):
    """If this failed, the cheap branch would be billed for the dear one: nothing else tells them apart."""
    replayed, exact = metered(train), metered(train, exact=True)
    assert not exact.gaps
    assert replayed.tally.flop == exact.tally.flop
    small, large = 2 * 2 * 4 * 4, 2 * 2 * (4 * 32 + 32 * 4)
    # Forward once; backward torch runs the branch again and then its weight gradients, the input wants none.
    assert exact.tally.select(kind="matmul").select(phase="forward").flop == 4 * small + 2 * large


def test_an_operator_that_torch_compiles_for_is_no_gap():
    """Torch compiles around `torch.cond` to look at its branches, and then runs what is inside one by one."""
    heard = []
    watch = CompileWatch(lambda: heard.append(1))
    watch.look()
    try:
        torch.cond(torch.tensor(True), torch.sin, torch.cos, (SQUARE,))
        assert heard == []
        torch.compile(torch.sin, backend="eager")(SQUARE)
        torch.compile(lambda x: x.sin(), backend="eager")(SQUARE)
        assert heard
    finally:
        watch.stop()


def program_of_branches(x):
    return cond_op(x.sum() > 0, lambda x: (x @ x,), lambda x: (x @ x.t(),), (x,))[0]


def test_a_tracer_finds_the_operator_whole():
    """If this failed, a graph made while the meter is on would hold our wrappers."""
    recorder = OpRecorder(lambda: "forward", lambda _: None)
    plain = make_fx(program_of_branches, tracing_mode="symbolic")(SQUARE)
    with recorder:
        traced = make_fx(program_of_branches, tracing_mode="symbolic")(SQUARE)
    assert traced.print_readable(print_output=False) == plain.print_readable(print_output=False)
    assert rows_of(recorder.take()) == ()


def test_fake_tensors_are_no_work():
    recorder = OpRecorder(lambda: "forward", lambda _: None)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(SQUARE)
        with recorder:
            out = cond_op(True, lambda x: (x @ x,), lambda x: (x @ x.t(),), (fake,))[0]
    assert out.shape == (4, 4)
    assert rows_of(recorder.take()) == ()


def test_an_error_inside_is_the_users_and_leaves_the_hook_as_it_was(tmp_path):
    """If this failed, an exception in a branch would leave a mode behind for good."""

    def fail(x):
        raise LookupError("inside")

    recorder = OpRecorder(lambda: "forward", lambda _: None)
    with recorder, pytest.raises(LookupError, match="inside"):
        cond_op(True, fail, fail, (SQUARE,))
    assert not recorder.is_on
    with Meter(tmp_path, strict=True):
        SQUARE.sin()
