"""Fused attention, counted by hand."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.attention import BACKWARD, FORMULAS, FORWARD
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec

CPU = "aten::_scaled_dot_product_flash_attention_for_cpu"
ANY = AnyNumber()


def cost_of(op, *args, **options):
    return FORMULAS[op][1](OpCall.of(op, *args, **options))


def by_kind(cost):
    return {(part.kind, part.phase): (part.flop, part.masked_flop) for part in cost.parts}


def test_products_are_attention_the_scale_is_pointwise_and_the_softmax_is_normalization():
    """Else `contraction_flop` is no longer products only."""
    b, h, s, t, d, e = 2, 3, 4, 5, 8, 6
    cost = cost_of(CPU, (b, h, s, d), (b, h, t, d), (b, h, t, e))
    pairs, rows = b * h * s * t, b * h * s
    assert by_kind(cost) == {
        ("attention", None): (2 * pairs * (d + e), 0),
        ("pointwise", None): (pairs, 0),
        ("normalization", None): (4 * pairs - rows, 0),
    }


def test_pairs_that_a_causal_mask_skips_stand_apart_and_are_products_only():
    """Else causal attention cannot be compared with counters that count it in full."""
    q = (1, 2, 4, 8)
    cost = cost_of(CPU, q, q, q, 0.0, True)
    kept, skipped = 2 * 10, 2 * 6
    assert by_kind(cost)["attention", None] == (2 * kept * 16, 2 * skipped * 16)
    assert sum(part.masked_flop for part in cost.parts) == 2 * skipped * 16


def test_an_explicit_mask_is_added_and_skips_nothing():
    """Else a mask whose values nobody looked at makes attention cheaper."""
    q = (1, 2, 4, 8)
    plain, masked = cost_of(CPU, q, q, q), cost_of(CPU, q, q, q, attn_mask=(4, 4))
    assert masked.flop - plain.flop == 2 * 16
    assert all(part.masked_flop == 0 for part in masked.parts)


@pytest.mark.parametrize(("dropout", "extra"), [(0.0, 0), (0, 0), (0.5, 2), (ANY, 2)])
def test_dropout_costs_two_operations_per_pair(dropout, extra):
    q = (1, 2, 4, 8)
    assert cost_of(CPU, q, q, q, dropout).flop - cost_of(CPU, q, q, q).flop == extra * 2 * 16


def test_key_heads_cost_nothing_of_their_own():
    """Else grouped-query attention looks cheaper than it is: each query head multiplies all its keys."""
    full = cost_of(CPU, (1, 8, 4, 16), (1, 8, 4, 16), (1, 8, 4, 16))
    grouped = cost_of(CPU, (1, 8, 4, 16), (1, 2, 4, 16), (1, 2, 4, 16))
    assert grouped == full


def test_decoding_one_token_costs_one_row():
    assert by_kind(cost_of(CPU, (1, 8, 1, 16), (1, 8, 100, 16), (1, 8, 100, 16)))["attention", None][0] == 2 * 800 * 32


def test_backward_has_four_products_and_recomputes_the_scores():
    """Else model and hardware utilisation cannot be told apart from one measurement."""
    b, h, s, t, d, e = 2, 3, 4, 5, 8, 6
    q, k, v, o = (b, h, s, d), (b, h, t, d), (b, h, t, e), (b, h, s, e)
    cost = cost_of(f"{CPU}_backward", o, q, k, v, o, (b, h, s), 0.0, False)
    pairs, rows = b * h * s * t, b * h * s
    assert by_kind(cost) == {
        ("attention", None): (2 * pairs * (2 * d + 2 * e), 0),
        ("attention", "recompute"): (2 * pairs * d, 0),
        ("pointwise", None): (pairs, 0),
        ("pointwise", "recompute"): (pairs, 0),
        ("normalization", None): (4 * pairs - rows, 0),
        ("normalization", "recompute"): (2 * pairs, 0),
    }


def test_backward_with_mask_dropout_and_shared_keys():
    q, k = (1, 4, 6, 8), (1, 2, 6, 8)
    pairs = 4 * 36
    cost = cost_of(f"{CPU}_backward", q, q, k, k, q, (1, 4, 6), ANY, False, attn_mask=(6, 6))
    found = by_kind(cost)
    assert found["pointwise", None][0] == 3 * pairs
    assert found["pointwise", "recompute"][0] == 4 * pairs
    assert found["reduction", None][0] == 1 * 6 * 16 * (4 - 2)


def test_a_causal_backward_skips_in_both_phases():
    q = (1, 1, 4, 8)
    found = by_kind(cost_of(f"{CPU}_backward", q, q, q, q, q, (1, 1, 4), 0.0, True))
    assert found["attention", None] == (4 * 10 * 16, 4 * 6 * 16)
    assert found["attention", "recompute"] == (2 * 10 * 8, 2 * 6 * 8)


def test_heads_of_values_may_be_narrower_than_those_of_keys():
    """Else latent attention (192 wide keys, 128 wide values) is counted as if both were alike."""
    b, h, s = 2, 16, 8
    cost = cost_of("aten::_scaled_dot_product_cudnn_attention", (b, h, s, 192), (b, h, s, 192), (b, h, s, 128), None)
    assert by_kind(cost)["attention", None] == (2 * b * h * s * s * 192 + 2 * b * h * s * s * 128, 0)


@pytest.mark.parametrize("key_heads", [8, 4, 2, 1])
def test_gradients_of_shared_keys_are_added_up(key_heads):
    """Else grouped and multi-query attention lose the sums over the heads that share a key head."""
    q, k = (2, 8, 3, 16), (2, key_heads, 5, 16)
    cost = cost_of(f"{CPU}_backward", q, q, k, k, q, (2, 8, 3), 0.0, False)
    adds = 2 * 5 * (16 + 16) * key_heads * (8 // key_heads - 1)
    assert by_kind(cost).get(("reduction", None), (0, 0)) == (adds, 0)


def test_the_diagonal_of_the_flash_kernel_ends_bottom_right_and_that_of_the_others_top_left():
    """Else decoding with a cache is counted as one pair for each token."""
    q, k = (1, 2, 4, 8), (1, 2, 6, 8)
    flash = cost_of("aten::_scaled_dot_product_flash_attention", q, k, k, 0.0, True)
    assert by_kind(flash)["attention", None] == (2 * 2 * (3 + 4 + 5 + 6) * 16, 2 * 2 * (3 + 2 + 1) * 16)
    for op, args in (
        (CPU, (0.0, True)),
        ("aten::_scaled_dot_product_efficient_attention", (None, True, 0.0, True)),
        ("aten::_scaled_dot_product_cudnn_attention", (None, True, 0.0, True)),
        ("aten::_scaled_dot_product_fused_attention_overrideable", (None, 0.0, True)),
        ("aten::_scaled_dot_product_attention_math_for_mps", (None, 0.0, True)),
    ):
        assert by_kind(cost_of(op, q, k, k, *args))["attention", None][0] == 2 * 2 * (1 + 2 + 3 + 4) * 16
    lse = (1, 2, 4)
    back = cost_of(
        "aten::_scaled_dot_product_flash_attention_backward", q, q, k, k, q, lse, None, None, 4, 6, 0.0, True
    )
    assert by_kind(back)["attention", "recompute"][0] == 2 * 2 * 18 * 8


def test_a_scale_of_exactly_one_is_free():
    """Else T5, which scales its weights instead, pays for a product that nobody does."""
    q = (1, 2, 4, 8)
    assert cost_of(CPU, q, q, q).flop - cost_of(CPU, q, q, q, scale=1.0).flop == 2 * 16
    both = [cost_of(f"{CPU}_backward", q, q, q, q, q, (1, 2, 4), scale=scale).flop for scale in (ANY, 1.0)]
    assert both[0] - both[1] == 2 * (2 * 16)


def test_the_backward_of_a_half_precision_model_multiplies_in_half_precision():
    """Else half of a bf16 run is written down in fp32, because the log-sum-exp is kept in it."""
    half, lse = TensorSpec((1, 2, 4, 8), "bf16"), TensorSpec((1, 2, 4))
    cost = cost_of(f"{CPU}_backward", half, half, half, half, half, lse, 0.0, False)
    assert {part.precision for part in cost.parts if part.kind == "attention"} == {"bf16"}
    forward = cost_of(CPU, half, half, half, attn_mask=TensorSpec((4, 4)))
    assert {part.precision for part in forward.parts if part.kind == "attention"} == {"bf16"}


QUANTIZED = "aten::_scaled_dot_product_flash_attention"


def test_quantized_operands_are_scaled_back():
    """Else the overload for fp8, with scales where dropout stands elsewhere, is taken for the plain one."""
    b, h, j, s, d, e = 2, 4, 2, 3, 16, 8
    query, key, value = (TensorSpec(shape, "fp8_e4m3") for shape in ((b, h, s, d), (b, j, s, d), (b, j, s, e)))
    factor = TensorSpec((b, j))
    plain = cost_of(QUANTIZED, query, key, value, None, None, None, 0.0, True)
    scaled = cost_of(QUANTIZED, query, key, value, factor, factor, factor, 0.0, True, False)
    assert scaled.flop - plain.flop == b * j + b * j + b * h * s * e
    assert by_kind(plain)["attention", None] == (2 * b * h * 6 * (d + e), 2 * b * h * 3 * (d + e))
    assert scaled.parts[0].precision == "fp8_e4m3"
    dropped = cost_of(QUANTIZED, query, key, value, None, None, None, ANY, True)
    assert dropped.flop - plain.flop == 2 * b * h * 6


def test_operands_without_a_batch_are_a_batch_of_one_where_the_kernel_takes_them():
    op = "aten::_scaled_dot_product_fused_attention_overrideable"
    assert cost_of(op, (2, 4, 8), (2, 4, 8), (2, 4, 8)) == cost_of(op, (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8))


def test_a_dropout_mask_of_the_callers_is_refused():
    q, op = (1, 2, 4, 8), "aten::_scaled_dot_product_attention_math_for_mps"
    assert cost_of(op, q, q, q, (4, 4)).flop - cost_of(op, q, q, q).flop == 2 * 16
    with pytest.raises(FormulaError, match="dropout mask"):
        cost_of(op, q, q, q, None, 0.0, False, (4, 4))


@pytest.mark.parametrize(
    ("args", "options", "word"),
    [
        (((1, 2, 4), (1, 2, 4), (1, 2, 4)), {}, "dimensions"),
        (((1, 2, 4, 8), (1, 2, 4, 6), (1, 2, 4, 8)), {}, "do not fit"),
        (((1, 3, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), {}, "do not fit"),
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 5, 8)), {}, "do not fit"),
        (((2, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), {}, "do not fit"),
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), (1,), (1,)), {}, "overload"),
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), 0.0, "yes"), {}, "overload"),
    ],
)
def test_a_call_that_is_not_understood_is_refused(args, options, word):
    """Else a new overload is priced as the old one, and nobody is told."""
    with pytest.raises(FormulaError, match=word):
        cost_of(CPU, *args, **options)


def test_every_sdpa_kernel_has_a_forward_and_a_backward():
    """The Metal kernel has none: with gradients torch takes its attention apart there."""
    assert {f"{op}_backward" for op in FORWARD if not op.endswith("_for_mps")} == set(BACKWARD)
