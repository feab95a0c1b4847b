"""The dispatch hook: what it notes, and that it comes and goes between the user's own modes."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, TensorSpec
from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker
from flopmeter.tally import Tally

# B batch, H heads, S length, D width, C channels


def failing(error):
    raise error


@pytest.fixture
def recorder():
    return OpRecorder(PhaseTracker().now, failing)


def tally_of(recorder) -> Tally:
    book = FormulaBook.standard()
    total = Tally()
    for row in rows_of(recorder.take()):
        total += book.count(row.call, calls=row.calls, phase=row.phase)
    return total


def stack() -> list[object]:
    return [torch._C._get_dispatch_stack_at(index) for index in range(torch._C._len_torch_dispatch_stack())]


def test_a_linear_layer_by_hand(recorder):
    layer = nn.Linear(5, 7)
    with recorder:
        layer(torch.ones(3, 5)).sum().backward()
    tally = tally_of(recorder)
    assert tally.select(phase="forward").contraction_flop == 2 * 3 * 5 * 7
    assert tally.select(phase="backward").contraction_flop == 2 * 7 * 3 * 5
    assert tally.select(phase="forward", kind="pointwise").flop == 3 * 7, "the bias, once per output"
    assert not tally.uncounted


def test_convolution_and_its_gradients_by_hand(recorder):
    layer = nn.Conv2d(2, 3, kernel_size=3, bias=False)
    with recorder:
        layer(torch.ones(1, 2, 6, 6, requires_grad=True)).sum().backward()
    tally = tally_of(recorder)
    forward = 2 * 3 * 2 * 9 * 16  # out channels, in channels, kernel, 4×4 places
    assert tally.select(phase="forward").contraction_flop == forward
    assert tally.select(phase="backward").contraction_flop == 2 * forward


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_on_a_cpu_is_not_free(recorder, is_causal):
    """`FlopCounterMode` prints 0 for the fused kernel of a CPU: every language model would be billed without it."""
    B, H, S, D = 2, 2, 6, 8
    q = torch.ones(B, H, S, D, requires_grad=True)
    with recorder, FlopCounterMode(display=False) as theirs:
        functional.scaled_dot_product_attention(q, q, q, is_causal=is_causal).sum().backward()
    tally = tally_of(recorder)
    pairs = B * H * (S * (S + 1) // 2 if is_causal else S * S)
    assert theirs.get_total_flops() == 0
    assert tally.select(phase="forward").contraction_flop == 2 * 2 * pairs * D
    assert tally.select(phase="backward").contraction_flop == 4 * 2 * pairs * D
    assert tally.select(phase="recompute").contraction_flop == 2 * pairs * D
    assert (tally.masked_flop > 0) is is_causal


def test_products_agree_with_torchs_own_counter(recorder):
    """Else one of the two is wrong about the part that dominates every training."""
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Conv1d(4, 4, 2), nn.Flatten(), nn.Linear(16, 2))
    with recorder, FlopCounterMode(display=False) as theirs:
        (model(torch.ones(3, 4, 6)) @ torch.ones(2, 2)).sum().backward()
        torch.baddbmm(torch.ones(2, 3, 5), torch.ones(2, 3, 4), torch.ones(2, 4, 5))
    assert tally_of(recorder).contraction_flop == theirs.get_total_flops() > 0


def test_what_has_no_formula_is_listed_with_its_elements(recorder):
    with torch.library._scoped_library("flopmeter_test", "FRAGMENT") as library:
        library.define("halve(Tensor x) -> (Tensor, Tensor)")
        library.impl("halve", lambda x: (x[:2].clone(), x[2:].clone()), "CPU")
        with recorder:
            torch.ops.flopmeter_test.halve(torch.ones(3, 5))
            torch.ops.flopmeter_test.halve(torch.ones(4, 5))
    unknown = {seen.op: (seen.calls, seen.elements) for seen in tally_of(recorder).uncounted}
    assert unknown == {"flopmeter_test::halve": (2, 15 + 20)}


def test_an_operator_of_a_library_of_the_users_own_is_seen(recorder):
    with torch.library._scoped_library("flopmeter_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x.clone(), "CPU")
        with recorder:
            torch.ops.flopmeter_test.twice(torch.ones(3, 5))
    tally = tally_of(recorder)
    assert [(seen.op, seen.calls, seen.elements) for seen in tally.uncounted] == [("flopmeter_test::twice", 1, 15)]


def test_views_profiler_marks_and_meta_tensors_are_no_work(recorder):
    with recorder, torch.profiler.record_function("mine"):
        torch.ones(2, 3, device="meta") @ torch.ones(3, 2, device="meta")
    assert recorder.take() == {}
    x = torch.ones(2, 3)
    with recorder:
        x.view(6).reshape(3, 2).t().unsqueeze(0).expand(4, 2, 3)
    assert recorder.take() == {}


def test_a_step_size_makes_no_new_row_and_an_exponent_does():
    """Else every optimizer step is a table of its own, and the ledger grows with the learning rate schedule."""
    recorder = OpRecorder(PhaseTracker().now, failing)
    x = torch.ones(3)
    with recorder:
        for rate in (0.1, 0.01, float("nan"), float("nan")):
            x.mul(rate)
        x.pow(2)
        x.pow(3)
    calls = recorder.take()
    assert len(calls) == 3
    rows = rows_of(calls)
    times = [row for row in rows if row.call.op == "aten::mul"]
    assert [(row.calls, row.call.args[1]) for row in times] == [(4, AnyNumber())]
    assert sorted(row.call.args[1] for row in rows if row.call.op == "aten::pow") == [2, 3]


def test_rows_hold_shapes_precisions_and_sizes():
    recorder = OpRecorder(PhaseTracker().now, failing)
    with recorder, torch.no_grad():
        torch.ones(2, 3, dtype=torch.bfloat16).sum(1, keepdim=True)
    rows = {row.call.op: row for row in rows_of(recorder.take())}
    call = rows["aten::sum"].call
    assert call.args == (TensorSpec((2, 3), "bf16"), (1,), True)
    assert call.out == (TensorSpec((2, 1), "bf16"),)
    assert (call.precision, rows["aten::sum"].phase) == ("bf16", "other")


def test_the_order_of_calls_does_not_change_the_rows(recorder):
    x, y = torch.ones(2, 2), torch.ones(3, 3)
    with recorder:
        x @ x
        y @ y
    first = rows_of(recorder.take())
    with recorder:
        y @ y
        x @ x
    assert rows_of(recorder.take()) == first


class Own(TorchDispatchMode):
    """A mode of the user's that counts what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", ["ours inside", "ours outside", "ours leaves first", "ours comes second"])
def test_the_users_modes_come_and_go_in_any_order(recorder, order):
    """Else metering breaks whoever profiles, counts or fakes with a dispatch mode."""
    own = Own()
    x = torch.ones(2, 3)
    if order == "ours inside":
        with own:
            recorder.switch_on()
            x @ x.T
            recorder.switch_off()
    elif order == "ours outside":
        recorder.switch_on()
        with own:
            x @ x.T
        recorder.switch_off()
    elif order == "ours leaves first":
        recorder.switch_on()
        with own:
            x @ x.T
            recorder.switch_off()
    else:
        with own:
            recorder.switch_on()
            x @ x.T
        assert recorder.is_on
        recorder.switch_off()
    assert own.seen >= 1
    assert tally_of(recorder).contraction_flop == 2 * 2 * 3 * 2
    assert not recorder.is_on
    assert stack() == []


def test_it_goes_below_the_users_modes_and_leaves_them_in_their_order(recorder):
    one, two = Own(), Own()
    with one, two:
        recorder.switch_on()
        assert stack() == [recorder, one, two]
        recorder.switch_off()
        assert stack() == [one, two]
    assert stack() == []


def test_switching_off_what_is_not_on_changes_nothing(recorder):
    with Own() as own:
        recorder.switch_off()
        assert stack() == [own]


def test_torchs_own_counter_gives_the_same_beside_us(recorder):
    x = torch.ones(4, 4, requires_grad=True)
    with FlopCounterMode(display=False) as alone:
        (x @ x).sum().backward()
    recorder.switch_on()
    with FlopCounterMode(display=False) as beside:
        (x @ x).sum().backward()
    recorder.switch_off()
    assert beside.get_flop_counts() == alone.get_flop_counts()


def test_an_operator_that_raises_is_the_users_affair(recorder):
    with recorder, pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert all(row.call.op != "aten::mm" for row in rows_of(recorder.take()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=["the short way", "the long way"])
def test_a_call_that_cannot_be_noted_reaches_the_meter_and_not_the_run(dtype):
    heard = []
    recorder = OpRecorder(lambda: 1 / 0, heard.append)
    with recorder:
        out = torch.ones(2, dtype=dtype) + 1
    assert out.tolist() == [2, 2]
    assert [type(error) for error in heard] == [ZeroDivisionError] * 2
    assert recorder.take() == {}


def test_what_is_set_aside_comes_back_with_what_was_kept(recorder):
    """What a compiled region hands to the dispatcher is left out, what was noted before it must not be."""
    with recorder:
        torch.ones(2) + 1
        before = recorder.set_aside()
        torch.ones(3) * 2
        torch.ones(3).sin()
        seen = recorder.seen
        recorder.resume(before, lambda key: key[0] is torch.ops.aten.sin.default)
        assert recorder.seen > seen, "all that came by was work of ours"
    counts = tally_of(recorder).by("op")
    assert {"aten::add", "aten::sin"} <= counts.keys()
    assert "aten::mul" not in counts


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float64, "fp64"), (torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.int8, "int8")],
)
def test_precisions_have_the_contracts_names(recorder, dtype, name):
    with recorder:
        torch.ones(2, dtype=dtype) + torch.ones(2, dtype=dtype)
    tally = tally_of(recorder)
    assert "aten::add" in tally.select(precision=name).by("op")
    assert (tally.int_op, tally.flop) == ((2, 0) if name == "int8" else (0, 2))


def test_how_many_calls_were_noted_is_known_at_any_time(recorder):
    """If this failed, the meter could not know what counting costs before the passage has ended."""
    x = torch.ones(3)
    with recorder:
        for _ in range(5):
            x.mul(2.0)
        assert recorder.seen == 5
        torch.ones(3, dtype=torch.complex64)  # the long way
        assert recorder.seen > 5
    before = recorder.seen
    assert sum(recorder.take().values()) == before
    assert recorder.seen == 0


def test_calls_that_are_alike_are_kept_once(recorder):
    """If this failed, a passage of a million calls would keep a million of them."""
    x = torch.ones(3)
    with recorder:
        for _ in range(1000):
            x.mul(2.0)
    assert len(recorder._short) == 1
    assert recorder.seen == 1000
    assert list(recorder.take().values()) == [1000]


def test_an_operand_that_changes_its_shape_comes_out_as_it_is_then(recorder):
    """If this failed, what an operator returned would be written down as it was before it ran."""
    x = torch.ones(2, 3)
    with recorder:
        x.resize_(4, 5)
        x.mul_(2.0)
        x.squeeze_().t_()
    outs = {row.call.op: row.call.out[0].shape for row in rows_of(recorder.take())}
    assert outs == {"aten::resize_": (4, 5), "aten::mul_": (4, 5), "aten::squeeze_": (4, 5), "aten::t_": (5, 4)}


def test_time_in_our_own_code_is_told(recorder):
    x = torch.ones(3)
    with recorder:
        begun = time.perf_counter_ns()
        for _ in range(500):
            x.mul(2.0)
        whole = time.perf_counter_ns() - begun
    recorder.take()
    assert 0 < recorder.own_ns < whole


def test_an_operator_that_we_fail_to_look_up_runs_and_is_told_of_each_time(monkeypatch):
    """If this failed, a bug of ours would end a training, or hide the work of one operator for good."""
    heard = []
    recorder = OpRecorder(PhaseTracker().now, heard.append)
    monkeypatch.setattr("flopmeter.sensors.operators.decides_shapes", lambda _func: 1 / 0)
    x = torch.ones(2)
    with recorder:
        outs = [x + 1, x + 1]
    assert [out.tolist() for out in outs] == [[2, 2]] * 2
    assert [type(error) for error in heard] == [ZeroDivisionError] * 2
