"""Whole layers of the fast path, put together from their parts."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.fast_path import FORMULAS

B, T, D, H, F = 2, 5, 8, 4, 12
N, WIDTH = B * T, D // H
ROWS, PAIRS = B * H * T, B * H * T * T


def parts_of(op, *args):
    cost = FORMULAS[op][1](OpCall.of(op, *args))
    return {part.kind: part.flop for part in cost.parts if part.flop} if isinstance(cost, Cost) else cost


def linear(rows, takes, gives):
    return 2 * rows * takes * gives


def attention_args(*, x=(B, T, D), mask=None, weights=(False,)):
    return ([x, x, x] if isinstance(x, tuple) else [x] * 3) + [D, H, (3 * D, D), (3 * D,), (D, D), (D,), mask, *weights]


def layer_args(*, x=(B, T, D), gelu=False, before=False, mask=None):
    projections, norms = [(3 * D, D), (3 * D,), (D, D), (D,)], [(D,)] * 4
    return [x, D, H, *projections, gelu, before, 1e-5, *norms, (F, D), (F,), (D, F), (D,), mask]


ATTENTION = {
    "matmul": linear(N, D, 3 * D) + linear(N, D, D),
    "attention": 2 * (2 * PAIRS * WIDTH),
    "pointwise": N * 3 * D + N * D + PAIRS,  # two biases, the scale of the scores
    "normalization": PAIRS + PAIRS + (PAIRS - ROWS) + PAIRS,
}


def test_attention_is_two_projections_and_attention():
    """Else a model in evaluation looks cheaper than its layers: this operator was uncounted."""
    assert parts_of("aten::_native_multi_head_attention", *attention_args()) == ATTENTION


def test_a_mask_is_added_and_leaves_nothing_out():
    masked = parts_of("aten::_native_multi_head_attention", *attention_args(mask=(B, T)))
    assert masked == {**ATTENTION, "pointwise": ATTENTION["pointwise"] + PAIRS}


@pytest.mark.parametrize(("weights", "averaged"), [((), PAIRS), ((True, True), PAIRS), ((True, False), 0)])
def test_weights_that_are_asked_for_are_averaged_over_the_heads(weights, averaged):
    """With weights asked for, torch scales the queries, which are fewer than the scores."""
    found = parts_of("aten::_native_multi_head_attention", *attention_args(weights=weights))
    expected = {**ATTENTION, "pointwise": N * 3 * D + N * D + N * D}
    assert found == (expected | {"reduction": averaged} if averaged else expected)


NORM = N * D + 3 * N * D + 2 * N + 2 * N * D + 2 * N * D  # mean, variance, deviation, x̂, weight and bias
LAYER = {
    "matmul": ATTENTION["matmul"] + linear(N, D, F) + linear(N, F, D),
    "attention": ATTENTION["attention"],
    "pointwise": ATTENTION["pointwise"] + N * F + N * D + 2 * N * D,  # two more biases, two residuals
    "normalization": ATTENTION["normalization"] + 2 * NORM,
}


@pytest.mark.parametrize("before", [True, False])
def test_an_encoder_layer_is_attention_and_a_feed_forward_part(before):
    op = "aten::_transformer_encoder_layer_fwd"
    assert parts_of(op, *layer_args(before=before)) == LAYER
    gelu = parts_of(op, *layer_args(before=before, gelu=True))
    assert gelu == {**LAYER, "pointwise": LAYER["pointwise"] + 5 * N * F}
    masked = parts_of(op, *layer_args(before=before, mask=(B, T)))
    assert masked == {**LAYER, "pointwise": LAYER["pointwise"] + PAIRS}


@pytest.mark.parametrize("lengths", [(5,), (1, 4, 2), (3, 3)])
def test_nested_sequences_cost_what_each_costs_alone(lengths):
    """Else padding is counted that is not there."""
    for name, args in (
        ("_native_multi_head_attention", attention_args),
        ("_transformer_encoder_layer_fwd", layer_args),
    ):
        alone = [parts_of(f"aten::{name}", *args(x=(1, length, D))) for length in lengths]
        total = {kind: sum(one[kind] for one in alone) for kind in alone[0]}
        assert parts_of(f"nested::aten.{name}", *args(x=[(length, D) for length in lengths])) == total


def test_bias_and_scale_of_the_queries():
    assert parts_of("aten::_transform_bias_rescale_qkv", (B, T, 3 * D), (3 * D,), H) == 3 * N * D + N * D


@pytest.mark.parametrize("op", ["_nested_tensor_from_mask", "_nested_from_padded", "to_padded_tensor"])
def test_nesting_copies(op):
    assert parts_of(f"nested::aten.{op}", [(3, D), (5, D)], 0.0) == {}


def change(args, place, value):
    return [*args[:place], value, *args[place + 1 :]]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (1, (B, T + 1, D)),  # other keys
        (2, [(T, D)] * (B + 1)),  # other values
        (3, D + 1),
        (4, 3),  # heads that do not divide the width
        (4, 0),
        (5, (2 * D, D)),
        (8, (D + 1,)),
        (0, (T, D)),
    ],
)
def test_attention_of_shapes_that_do_not_fit_is_refused(place, value):
    with pytest.raises((FormulaError, ValueError)):  # the book makes one of both
        parts_of("aten::_native_multi_head_attention", *change(attention_args(), place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, []), (0, [(3, D), (3, D + 1)]), (0, [(D,)]), (2, 3), (3, (2 * D, D)), (14, (F, D + 1)), (17, (D + 1,))],
)
def test_a_layer_of_shapes_that_do_not_fit_is_refused(place, value):
    with pytest.raises(FormulaError):
        parts_of("aten::_transformer_encoder_layer_fwd", *change(layer_args(), place, value))


def test_a_bias_that_does_not_fit_is_refused():
    for bias in ((D,), (3 * D, 1)):
        with pytest.raises(FormulaError):
            parts_of("aten::_transform_bias_rescale_qkv", (B, T, 3 * D), bias, H)


def test_a_batch_of_any_size_costs_what_it_multiplies_to():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it."""
    op = "aten::_native_multi_head_attention"
    one, many = (parts_of(op, *attention_args(x=(batch, T, D))) for batch in (1, 10**18))
    assert many == {kind: 10**18 * flop for kind, flop in one.items()}
