"""Fused attention, counted by hand and by going through every pair."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.attention import BACKWARD, FORMULAS, FORWARD, count_pairs
from flopmeter.formulas.call import AnyNumber, OpCall

CPU = "aten::_scaled_dot_product_flash_attention_for_cpu"
ANY = AnyNumber()


def cost_of(op, *args, **options):
    return FORMULAS[op][1](OpCall.of(op, *args, **options))


def by_kind(cost):
    return {(part.kind, part.phase): (part.flop, part.masked_flop) for part in cost.parts}


@pytest.mark.parametrize("queries", [0, 1, 2, 5])
@pytest.mark.parametrize("keys", [0, 1, 3, 5, 8])
@pytest.mark.parametrize(("causal", "bottom_right"), [(False, False), (True, False), (True, True)])
def test_pairs_are_those_that_a_mask_leaves(queries, keys, causal, bottom_right):
    """Else causal attention is counted twice over, or half."""
    shift = keys - queries if bottom_right else 0
    kept = [[not causal or j <= i + shift for j in range(keys)] for i in range(queries)]
    expected = sum(map(sum, kept)), sum(any(row) for row in kept)
    assert count_pairs(queries=queries, keys=keys, causal=causal, bottom_right=bottom_right) == expected


def test_a_square_causal_mask_leaves_half_and_the_diagonal():
    assert count_pairs(queries=1024, keys=1024, causal=True) == (1024 * 1025 // 2, 1024)


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


def test_the_kernels_below_sdpa_keep_heads_third_and_align_masks_bottom_right():
    """Else a kernel called directly is counted with heads and length swapped."""
    q, k = (1, 4, 2, 8), (1, 6, 2, 8)
    flash = cost_of("aten::_flash_attention_forward", q, k, k, None, None, 4, 6, 0.0, True, False)
    assert by_kind(flash)["attention", None][0] == 2 * 2 * (3 + 4 + 5 + 6) * 16
    op = "aten::_efficient_attention_forward"
    left, right, none = (cost_of(op, q, k, k, *[None] * 5, 0.0, mask) for mask in (1, 2, 0))
    assert by_kind(left)["attention", None][0] == 2 * 2 * (1 + 2 + 3 + 4) * 16
    assert right == flash
    assert by_kind(none)["attention", None] == (2 * 2 * 24 * 16, 0)


def test_their_backward_finds_its_arguments():
    q, lse = (1, 4, 2, 8), (1, 2, 4)
    flash = cost_of("aten::_flash_attention_backward", q, q, q, q, q, lse, None, None, 4, 4, 0.0, True)
    efficient = cost_of(
        *("aten::_efficient_attention_backward", q, q, q, q, None, q, None, None, 4, 4, lse, 0.0, None, None, 1, False)
    )
    assert flash == efficient
    assert by_kind(flash)["attention", None] == (4 * 2 * 10 * 16, 4 * 2 * 6 * 16)


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


LOWER = {
    "aten::_flash_attention_forward": (3, 4, 7, 8),
    "aten::_flash_attention_backward": (6, 7, 10, 11),
    "aten::_efficient_attention_forward": (4, 5, 8, 9),
    "aten::_efficient_attention_backward": (6, 7, 11, 14),
}


def lower_call(op, *, dropout=0.0, packed=()):
    """Call a kernel below SDPA: four tokens, two heads, no mask."""
    *_, dropout_at, causal_at = LOWER[op]
    args = [None] * (causal_at + 1)
    tensors = 6 if op.endswith("backward") else 3
    bias = {"aten::_efficient_attention_backward": 4}.get(op)
    for place in range(tensors if bias is None else tensors + 1):
        args[place] = (1, 4, 2, 8) if place != bias else None
    for place in LOWER[op][:2]:
        args[place] = (3,) if place in packed else None
    args[dropout_at], args[causal_at] = dropout, False
    return cost_of(op, *args)


@pytest.mark.parametrize("op", LOWER)
def test_the_kernels_below_sdpa_find_their_dropout_and_their_packed_lengths(op):
    """Else dropout is free there, or packed sequences are counted as one long one."""
    per_pair = 2 if op.endswith("forward") else 4
    assert lower_call(op, dropout=ANY).flop - lower_call(op).flop == per_pair * 2 * 16
    for place in LOWER[op][:2]:
        with pytest.raises(FormulaError, match="packed"):
            lower_call(op, packed=(place,))


def test_packed_sequences_and_windows_are_left_uncounted_rather_than_guessed():
    """Else packed batches count pairs between sequences that never meet."""
    q = (1, 4, 2, 8)
    op = "aten::_flash_attention_forward"
    with pytest.raises(FormulaError, match="packed"):
        cost_of(op, q, q, q, (3,), (3,), 4, 4, 0.0, True, False)
    with pytest.raises(FormulaError, match="window"):
        cost_of(op, q, q, q, None, None, 4, 4, 0.0, True, False, window_size_left=2)


def test_every_sdpa_kernel_has_a_forward_and_a_backward():
    assert {f"{op}_backward" for op in FORWARD} == set(BACKWARD)
