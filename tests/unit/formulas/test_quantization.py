"""Quantizing, counted in named steps for each element and each scale."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.quantization import CHOOSING, FORMULAS, NOTHING, RATES

BOOK = FormulaBook.standard()
ANY = AnyNumber()
X, N = (4, 6), 24

QUANTIZE = ["multiply by the inverse", "add the zero point"]
DEQUANTIZE = ["subtract the zero point", "multiply by the scale"]
BOTH = QUANTIZE + DEQUANTIZE
CHOOSE = ["max − min", "divide by the range", "min / scale", "low − that"]
CHOOSE_SYMMETRIC = ["−min", "divide by the range"]
AVERAGES = 2 * ["new − old", "times the constant", "add"]
INVERSE = ["1 / scale"]


def steps(*groups):
    """Add up named steps, each group as often as it is done."""
    return sum(times * len(names) for times, names in groups)


def parts_of(op, *args, out=(), **options):
    call = OpCall.of(op, *args, **options)
    call = OpCall(op=op, args=call.args, options=call.options, out=tuple(out))
    return {(part.kind, part.precision): part.flop for part in FORMULAS[op][1](call).parts}


def flag(*values):
    return TensorSpec((1,), "int64", values=values or None)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("aten::quantize_per_tensor", [X, ANY, 3, None], steps((N, QUANTIZE))),
        ("aten::quantize_per_tensor", [X, (), (), None], steps((N, QUANTIZE))),
        ("aten::quantize_per_tensor", [[X, (5,)], (2,), (2,), None], steps((N + 5, QUANTIZE))),
        ("aten::quantize_per_tensor_dynamic", [X, None, False], steps((N, QUANTIZE), (1, CHOOSE))),
        ("aten::quantize_per_channel", [X, (4,), (4,), 0, None], steps((N, QUANTIZE), (4, INVERSE))),
        ("quantized_decomposed::quantize_per_token", [X, (4, 1), (4, 1), 0, 255], steps((N, QUANTIZE), (4, INVERSE))),
        (
            "quantized_decomposed::quantize_per_channel_group",
            [X, (4, 2), (4, 2), 0, 15],
            steps((N, QUANTIZE), (8, INVERSE)),
        ),
        ("aten::fake_quantize_per_tensor_affine_cachemask", [X, ANY, 3, 0, 255], steps((N, BOTH))),
        (
            "aten::fake_quantize_per_channel_affine_cachemask",
            [X, (4,), (4,), 0, 0, 255],
            steps((N, BOTH), (4, INVERSE)),
        ),
        ("aten::_fake_quantize_learnable_per_tensor_affine", [X, (1,), (1,), 0, 255], steps((N, BOTH))),
        ("aten::fake_quantize_per_tensor_affine_cachemask_backward", [X, X], N),
    ],
)
def test_each_element_and_each_scale_costs_its_steps(op, args, expected):
    """Else training under quantization costs what training without it costs."""
    assert parts_of(op, *args) == {("pointwise", "fp32"): expected}


def test_what_quantizes_is_priced_by_what_it_quantizes():
    """Else the type of a zero point or of what comes out decides what kind of arithmetic it was."""
    x, zero = TensorSpec(X, "bf16"), TensorSpec((4,), "int64")
    assert parts_of("aten::fake_quantize_per_channel_affine_cachemask", x, (4,), zero, 0, 0, 255) == {
        ("pointwise", "bf16"): 4 * N + 4
    }
    q = TensorSpec(X, "quint8")
    call = OpCall(op="aten::dequantize", args=(q,), out=(TensorSpec(X),))
    tally = BOOK.count(call, calls=1, phase="forward")
    assert (tally.flop, tally.int_op) == (2 * N, 0)


def test_back_is_a_difference_and_a_product():
    q, out = TensorSpec(X, "int8"), [TensorSpec(X)]
    name = "quantized_decomposed::dequantize_per"
    twice = {("pointwise", "fp32"): steps((N, DEQUANTIZE))}
    assert parts_of(f"{name}_tensor", q, ANY, 3, 0, 255, out=out) == twice
    assert parts_of(f"{name}_channel", q, (4,), (4,), 0, 0, 255, out=out) == twice
    assert parts_of(f"{name}_channel", q, (4,), None, 0, 0, 255, out=out) == {("pointwise", "fp32"): N}
    assert parts_of("aten::dequantize", [TensorSpec(X, "qint8")], out=out) == twice
    assert parts_of("aten::dequantize", X, out=out) == {("pointwise", "fp32"): 0}


@pytest.mark.parametrize(
    ("name", "scales", "expected"),
    [
        ("choose_qparams", (1,), steps((1, CHOOSE))),
        ("choose_qparams_symmetric", (1,), steps((1, CHOOSE_SYMMETRIC))),
        ("choose_qparams_per_token", (4, 1), steps((N, ["absolute value"]), (4, ["divide"]))),
    ],
)
def test_choosing_a_scale_costs_its_steps(name, scales, expected):
    out = [TensorSpec(scales), TensorSpec(scales)]
    assert parts_of(f"quantized_decomposed::{name}", X, out=out) == {("pointwise", "fp32"): expected}


@pytest.mark.parametrize(
    ("observe", "quantize", "expected"),
    [
        (flag(1), flag(1), steps((3, AVERAGES), (3, CHOOSE), (N, BOTH))),
        (flag(0), flag(1), steps((3, CHOOSE), (N, BOTH))),
        (flag(1), flag(0), steps((3, AVERAGES))),
        (flag(0), flag(0), 0),
        (flag(), flag(), steps((3, AVERAGES), (3, CHOOSE), (N, BOTH))),
    ],
)
def test_flags_say_whether_a_tensor_is_observed_and_quantized(observe, quantize, expected):
    """Else the epochs before quantization starts cost as much as those after."""
    args = [X, observe, quantize, (3,), (3,), (3,), (3,), ANY, 0, 255, -1]
    assert parts_of("aten::_fused_moving_avg_obs_fq_helper", *args) == {("pointwise", "fp32"): expected}


def test_rows_with_their_own_symmetric_scales():
    args = [X, flag(1), flag(1), (4,), (4,), (4,), (4,), ANY, -127, 127, 0, True, True]
    expected = steps((4, AVERAGES), (4, CHOOSE_SYMMETRIC), (4, INVERSE), (N, BOTH))
    assert parts_of("aten::fused_moving_avg_obs_fake_quant", *args) == {("pointwise", "fp32"): expected}


def test_a_flag_in_a_tensor_switches_quantizing_off():
    op = "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams"
    for switch, expected in ((flag(1), 4 * N), (flag(0), 0), (flag(), 4 * N)):
        assert parts_of(op, X, (1,), (1,), switch, 0, 255) == {("pointwise", "fp32"): expected}


LEARN = {
    "again": QUANTIZE + DEQUANTIZE,
    "dx": ["dy · mask"],
    "outside": ["dy · −1", "· scale", "dy · bound"],
    "inside": ["x̂ − x", "· dy", "· inverse"],
}


@pytest.mark.parametrize(
    ("channels", "scales", "factor", "more"),
    [
        (False, (1,), 1.0, 0),
        (False, (1,), ANY, 3 * N),
        (True, (4,), 1.0, 4 * 3),
        (True, (4,), ANY, 3 * N + 4 * 3),
    ],
)
def test_the_gradients_of_a_learned_scale_cost_both_branches(channels, scales, factor, more):
    op = f"aten::_fake_quantize_learnable_per_{'channel' if channels else 'tensor'}_affine_backward"
    args = [X, X, scales, scales, *([0] if channels else []), 0, 255, factor]
    assert parts_of(op, *args) == {
        ("pointwise", "fp32"): steps(*((N, names) for names in LEARN.values())) + more,
        ("reduction", "fp32"): 2 * (N - scales[0]),
    }


def test_a_gradient_of_another_shape_is_refused():
    op = "aten::_fake_quantize_learnable_per_tensor_affine_backward"
    with pytest.raises(FormulaError, match="gradient"):
        parts_of(op, (4, 5), X, (1,), (1,), 0, 255, 1.0)


@pytest.mark.parametrize("op", NOTHING)
def test_asking_for_a_scale_costs_nothing(op):
    assert BOOK.cost(OpCall.of(op, TensorSpec(X, "quint8"))).flop == 0


def test_every_rate_has_a_formula():
    assert {*RATES, *CHOOSING, *NOTHING} <= set(FORMULAS)


@pytest.mark.parametrize(
    "op", ["aten::quantize_per_tensor", "aten::dequantize", "quantized_decomposed::choose_qparams"]
)
def test_without_a_tensor_there_is_no_figure(op):
    with pytest.raises(FormulaError, match=op):
        BOOK.cost(OpCall.of(op, 3, out=[(2,)]))
