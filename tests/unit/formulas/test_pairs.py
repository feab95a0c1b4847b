"""Pairs counted one by one, and the price of attention added up step by step."""

import pytest

from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.cost import Part
from flopmeter.formulas.pairs import (
    Work,
    count_pairs,
    is_scaled_by,
    price_backward,
    price_forward,
    product_precision,
)


def go_through(*, queries, keys, left, right, bottom_right):
    """Ask each pair whether it is in the band."""
    shift = keys - queries if bottom_right else 0
    kept = [
        [(left is None or j >= i + shift - left) and (right is None or j <= i + shift + right) for j in range(keys)]
        for i in range(queries)
    ]
    return sum(map(sum, kept)), sum(any(row) for row in kept)


@pytest.mark.parametrize("queries", [0, 1, 2, 5])
@pytest.mark.parametrize("keys", [0, 1, 3, 5, 8])
@pytest.mark.parametrize("left", [None, 0, 1, 3, 20])
@pytest.mark.parametrize("right", [None, 0, 2, 20])
@pytest.mark.parametrize("bottom_right", [False, True])
def test_pairs_are_those_that_a_band_leaves(queries, keys, left, right, bottom_right):
    """Else causal attention is counted twice over, or a sliding window as if it were the whole."""
    asked = {"queries": queries, "keys": keys, "left": left, "right": right, "bottom_right": bottom_right}
    assert count_pairs(**asked) == go_through(**asked)


def test_a_square_causal_mask_leaves_half_and_the_diagonal():
    assert count_pairs(queries=1024, keys=1024, right=0) == (1024 * 1025 // 2, 1024)


def test_a_sliding_window_grows_with_the_length_and_not_with_its_square():
    pairs, rows = count_pairs(queries=1_000_000, keys=1_000_000, left=4095, right=0)
    assert pairs == 1_000_000 * 4096 - 4096 * 4095 // 2
    assert rows == 1_000_000


def test_a_decoded_token_sees_the_whole_cache_or_its_window():
    assert count_pairs(queries=1, keys=100, right=0, bottom_right=True) == (100, 1)
    assert count_pairs(queries=1, keys=100, left=9, right=0, bottom_right=True) == (10, 1)


P, F, R, D, E = 20, 32, 8, 6, 4


def by_kind(cost):
    return {(part.kind, part.phase): (part.flop, part.masked_flop) for part in cost.parts}


def work(**more):
    return Work(**({"pairs": P, "skipped": F - P, "rows": R, "qk_width": D, "v_width": E} | more))


def test_a_forward_is_two_products_a_scale_and_a_softmax():
    products = (2 * P * D + 2 * P * E, 2 * (F - P) * D + 2 * (F - P) * E)
    softmax = P + P + (P - R) + P
    assert by_kind(price_forward(work())) == {
        ("attention", None): products,
        ("pointwise", None): (P, 0),
        ("normalization", None): (softmax, 0),
    }


def test_a_backward_is_four_products_and_one_again():
    found = by_kind(price_backward(work(shared=7)))
    each = {"dV": E, "dP": E, "dQ": D, "dK": D}
    assert found["attention", None] == (sum(2 * P * width for width in each.values()), 2 * (F - P) * 2 * (D + E))
    assert found["attention", "recompute"] == (2 * P * D, 2 * (F - P) * D)
    assert found["pointwise", None] == found["pointwise", "recompute"] == (P, 0)
    assert found["normalization", None] == (P + (P - R) + P + P, 0)
    assert found["normalization", "recompute"] == (P + P, 0)
    assert found["reduction", None] == (7, 0)


@pytest.mark.parametrize(
    ("more", "forward", "backward"),
    [
        ({"is_scaled": False}, 0, 0),
        ({}, 1, 1),
        ({"bias": 1}, 1 + 1, 1),
        ({"bias": 2}, 1 + 2, 1),
        ({"has_dropout": True}, 1 + 2, 1 + 2),
        # Divide by the cap, tanh, multiply; back: multiply, the gradient of tanh (square, subtract, multiply), divide.
        ({"has_softcap": True}, 1 + 3, 1 + 1 + 3 + 1),
    ],
)
def test_what_each_score_takes_besides_its_products(more, forward, backward):
    """Else a model with a softcap or ALiBi costs what one without costs."""
    assert by_kind(price_forward(work(**more))).get(("pointwise", None), (0, 0))[0] == forward * P
    found = by_kind(price_backward(work(**more)))
    assert found.get(("pointwise", None), (0, 0))[0] == backward * P
    assert found.get(("pointwise", "recompute"), (0, 0))[0] == forward * P


def test_what_belongs_to_no_pair_is_counted_once():
    assert price_forward(work(besides=11)).flop - price_forward(work()).flop == 11


def test_a_scale_of_one_is_no_product():
    """Else attention without scaling costs a product more fused than written out."""
    assert not is_scaled_by(1.0)
    assert is_scaled_by(None)
    assert is_scaled_by(AnyNumber())
    assert is_scaled_by(0.5)


def test_products_are_in_the_precision_of_their_operands_whatever_comes_along():
    """Else the backward of a bf16 model is written down in fp32, because its log-sum-exp is."""
    half, single = TensorSpec((1, 2, 4, 8), "bf16"), TensorSpec((1, 2, 4))
    call = OpCall(op="mylib::attn", args=(half, half, half, single))
    assert call.precision == "fp32"
    assert product_precision(call, half, half, half) == "bf16"
    assert product_precision(OpCall(op="mylib::attn", args=(half,) * 3), half, half, half) is None
    parts = price_forward(work(precision="bf16")).parts
    assert parts[0] == Part(kind="attention", flop=2 * P * 10, masked_flop=2 * (F - P) * 10, precision="bf16")
    assert {part.precision for part in parts[1:]} == {None}
