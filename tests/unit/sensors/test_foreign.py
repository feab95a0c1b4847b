"""Operators of somebody else's: what they call is counted, they themselves stay uncounted, and nothing else changes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from flopmeter import FormulaBook, Meter
from flopmeter.account import Account
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder

BOOK = FormulaBook.standard()
MM = 2 * 4 * 4 * 4


@torch.library.custom_op("flopmeter_test::product", mutates_args=())
def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, w)


@torch.library.custom_op("flopmeter_test::layer", mutates_args=())
def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.ops.flopmeter_test.product(x, w).relu() + torch.einsum("ij,jk->ik", x, w)


@torch.library.custom_op("flopmeter_test::double", mutates_args=("x",))
def double(x: torch.Tensor) -> None:
    x.mul_(2)


@torch.library.custom_op("flopmeter_test::fail", mutates_args=())
def fail(x: torch.Tensor) -> torch.Tensor:
    raise LookupError("inside")


@layer.register_fake
def _(x, w):
    return x.new_empty(x.shape[0], w.shape[0])


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dy):
    x, w = ctx.saved_tensors
    return dy @ w, dy.t() @ x


layer.register_autograd(_gradients, setup_context=_keep)


def leaves():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 4, generator=generator).requires_grad_() for _ in range(2)]


def train():
    x, w = leaves()
    out = torch.ops.flopmeter_test.layer(x, w)
    out.sum().backward()
    return [out.detach(), x.grad, w.grad]


def note(program, book=BOOK):
    failures: list[Exception] = []
    recorder = OpRecorder(lambda: "forward", failures.append, book)
    with recorder:
        out = program()
    assert not failures
    assert not recorder.is_on
    return out, {row.call.op: row.calls for row in rows_of(recorder.take())}


def test_what_it_calls_is_counted_and_it_stays_uncounted(tmp_path):
    """If this failed, a layer that hides behind a name of its own would be for nothing, or done twice."""
    plain = train()
    with Meter(tmp_path):
        metered = train()
    account = Account.of(tmp_path)
    assert not account.gaps
    assert all(torch.equal(one, other) for one, other in zip(plain, metered, strict=True))
    assert {seen.op: seen.calls for seen in account.tally.uncounted} == {
        "flopmeter_test::layer": 1,
        "flopmeter_test::product": 1,
    }
    assert account.tally.contraction_flop == (1 + 1) * MM + 2 * MM  # the layer's two products, and two gradients


def test_an_operator_with_a_formula_is_one_call():
    """If this failed, what is priced whole would be counted inside once more."""
    book = BOOK.with_formula("flopmeter_test::layer", lambda _: 7, kind="other")
    _, calls = note(train, book)
    assert calls["flopmeter_test::layer"] == 1
    assert "flopmeter_test::product" not in calls
    assert calls["aten::mm"] == 2  # the gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_inference", [False, True])
def test_the_same_bits_under_autocast_and_without_gradients(dtype, is_inference):
    x, w = (leaf.detach() for leaf in leaves())
    with torch.inference_mode(is_inference), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        plain = torch.ops.flopmeter_test.layer(x, w)
        out, calls = note(lambda: torch.ops.flopmeter_test.layer(x, w))
    assert out.dtype == plain.dtype
    assert torch.equal(out, plain)
    assert calls["flopmeter_test::layer"] == 1
    assert {"aten::bmm", "aten::mm"} & set(calls)


def test_a_change_in_place_is_seen_by_autograd():
    x = torch.ones(4)
    before = x._version
    _, calls = note(lambda: torch.ops.flopmeter_test.double(x))
    assert x._version == before + 1
    assert x.tolist() == [2.0] * 4
    assert calls == {"aten::mul_": 1, "flopmeter_test::double": 1}


def test_an_error_inside_is_the_users():
    recorder = OpRecorder(lambda: "forward", lambda _: None, BOOK)
    with recorder, pytest.raises(LookupError, match="inside"):
        torch.ops.flopmeter_test.fail(torch.ones(2))
    assert not recorder.is_on


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_below", [False, True])
def test_a_mode_of_the_users_sees_what_it_saw_before(is_below):
    x, w = (leaf.detach() for leaf in leaves())
    recorder = OpRecorder(lambda: "forward", lambda _: None, BOOK)
    alone = Watch()
    with alone:
        torch.ops.flopmeter_test.layer(x, w)
    watch = Watch()
    first, second = (watch, recorder) if is_below else (recorder, watch)
    with first, second:
        torch.ops.flopmeter_test.layer(x, w)
    assert watch.seen == alone.seen == ["flopmeter_test::layer"]
    assert "flopmeter_test::layer" in {row.call.op for row in rows_of(recorder.take())}


def test_fake_and_sparse_tensors_go_their_own_way():
    x, w = (leaf.detach() for leaf in leaves())
    with FakeTensorMode() as mode:
        fakes = mode.from_tensor(x), mode.from_tensor(w)
        out, calls = note(lambda: torch.ops.flopmeter_test.layer(*fakes))
    assert out.shape == (4, 4)
    assert calls == {}
    with pytest.raises((RuntimeError, NotImplementedError)):
        note(lambda: torch.ops.flopmeter_test.layer(x.to_sparse(), w))
