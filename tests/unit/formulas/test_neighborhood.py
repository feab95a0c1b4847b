"""Neighborhood attention, counted by going through every query and every key."""

import math
from itertools import product

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.neighborhood import FORMULAS, MOVED, READS, WHOLE, WINDOWED, count_window


def cost_of(op, *args):
    cost = FORMULAS[op][1](OpCall.of(op, *args))
    return {(part.kind, part.phase): (part.flop, part.masked_flop) for part in cost.parts}


def windows(length, size, stride, dilation, causal):
    """Return for each query the keys that it sees, as NATTEN's masks define it."""
    seen = [set() for _ in range(length)]
    for first in range(dilation):
        group = list(range(first, length, dilation))
        n, left = len(group), size // 2
        right = size // 2 + (size % 2) - 1
        for index in range(n):
            begin_of_stride = index // stride * stride
            if causal:
                leader = min(begin_of_stride + stride - 1, n - 1)
                start, end = max(leader - size + 1, 0), index + 1
            else:
                leader = min(begin_of_stride + stride // 2, n - 1)
                start = max(leader - left, 0) + (leader + right >= n) * (n - right - leader - 1)
                end = start + size
            seen[group[index]] = {group[key] for key in range(start, end)}
    return seen


@pytest.mark.parametrize("length", [8, 9, 13])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_a_window_leaves_the_keys_that_the_masks_leave(length, size, stride, dilation, causal):
    seen = windows(length, size, stride, dilation, causal)
    expected = sum(map(len, seen))
    assert count_window(length=length, size=size, stride=stride, dilation=dilation, causal=causal) == expected


def check(cost, *, pairs, all_pairs, rows, widths, backward):
    d, e = widths
    products = (4 if backward else 2) * (d + e)
    assert cost["attention", None] == (pairs * products, (all_pairs - pairs) * products)
    assert cost["pointwise", None] == (pairs, 0)
    assert cost["normalization", None] == (4 * pairs - rows, 0)
    assert (("attention", "recompute") in cost) is backward


@pytest.mark.parametrize("layout", [(9,), (8, 9), (4, 8, 9)])
@pytest.mark.parametrize("causal_at", [None, 0])
def test_pairs_multiply_over_the_dimensions(layout, causal_at):
    batch, heads, d, e = 2, 4, 16, 8
    dims = len(layout)
    causal = [index == causal_at for index in range(dims)]
    pairs_of = [windows(length, 3, 1, 1, flag) for length, flag in zip(layout, causal, strict=True)]
    kept = sum(
        math.prod(len(seen[index]) for seen, index in zip(pairs_of, place, strict=True))
        for place in product(*map(range, layout))
    )
    q, v = (batch, *layout, heads, d), (batch, *layout, heads, e)
    window = [3] * dims, [1] * dims, [1] * dims, causal, 0.25, [8] * dims, [8] * dims
    size = batch * heads
    facts = {"pairs": size * kept, "all_pairs": size * math.prod(layout) ** 2, "rows": size * math.prod(layout)}
    check(cost_of(f"natten::na{dims}d_forward", q, q, v, *window), **facts, widths=(d, e), backward=False)
    backward = cost_of(f"natten::na{dims}d_backward", q, q, v, v, v, q[:-1], *window, None, False, False)
    check(backward, **facts, widths=(d, e), backward=True)


@pytest.mark.parametrize("maker", ["hopper", "blackwell"])
def test_flat_tokens_with_dilation_in_the_batch_are_the_same_pairs(maker):
    """Kernels for newer devices take tokens in the order of tiles, padded, one group of dilation after the other."""
    layout, window = (8, 12), ([3, 3], [1, 1], [2, 2], [False, True], 0.25)
    plain = cost_of("natten::na2d_forward", *[(2, *layout, 4, 16)] * 3, *window, [8, 8], [8, 8])
    flat = (2 * 4, 64, 4, 16)
    tiled = cost_of(
        f"natten::{maker}_na2d_forward", flat, flat, flat, *window, [8, 8], [8, 8], list(layout), [8, 8], [8, 8], 0
    )
    assert tiled == plain


def test_keys_that_all_queries_see():
    q, k = (2, 9, 4, 16), (2, 12, 4, 16)
    cost = cost_of("natten::reference_na1d_forward", q, k, k, [3], [1], [1], [False], 0.25, [9], 3)
    pairs = 2 * 4 * 9 * (3 + 3)
    assert cost["attention", None][0] == pairs * 2 * 32


def test_heads_that_share_keys_add_up_their_gradients():
    q, k = (2, 9, 4, 16), (2, 9, 2, 16)
    cost = cost_of("natten::na1d_backward", q, k, k, q, q, q[:-1], [3], [1], [1], [False], 0.25, [8], [8], None, False)
    assert cost["reduction", None] == (2 * 9 * 32 * (4 - 2), 0)


@pytest.mark.parametrize("op", WHOLE)
def test_attention_without_a_window(op):
    places = WHOLE[op]
    q, k = (2, 5, 4, 16), (2, 7, 4, 16)
    between = (q, q, q[:-1]) if places.is_backward else ()
    fill = [8] * (places.offsets - places.causal - 2)
    cost = cost_of(op, q, k, k, *between, False, 0.25, *fill, None, None, 0, 0)
    check(cost, pairs=2 * 4 * 35, all_pairs=2 * 4 * 35, rows=2 * 4 * 5, widths=(16, 16), backward=places.is_backward)
    packed = TensorSpec((3,), "int32", values=(0, 3, 10))
    one = (1, 10, 4, 16)
    between = (one, one, one[:-1]) if places.is_backward else ()
    cost = cost_of(op, one, one, one, *between, True, 0.25, *fill, packed, packed, 7, 7)
    facts = {"pairs": 4 * (6 + 28), "all_pairs": 4 * (9 + 49), "rows": 4 * 10}
    check(cost, **facts, widths=(16, 16), backward=places.is_backward)
    assert READS[op] == (places.offsets, places.offsets + 1)
    unknown = TensorSpec((3,), "int32")
    with pytest.raises(FormulaError):
        cost_of(op, one, one, one, *between, True, 0.25, *fill, unknown, unknown, 7, 7)
    with pytest.raises(FormulaError):
        cost_of(op, q, k, k, *((q, q, q[:-1]) if places.is_backward else ()), True, 0.25, *fill, None, None, 0, 0)


def test_moving_tokens_costs_nothing():
    assert {FORMULAS[op][1](OpCall.of(op, (2, 8, 4, 16), [4], [1], True)).flop for op in MOVED} == {0}


Q = (2, 9, 4, 16)


@pytest.mark.parametrize(
    "args",
    [
        (Q, Q, Q, [10], [1], [1], [False], 0.25),
        (Q, Q, Q, [5], [1], [2], [False], 0.25),
        (Q, Q, Q, [3], [1], [1], [False, False], 0.25),
        (Q, Q, Q, [3], [1], [1], False, 0.25),
        (Q, (2, 9, 3, 16), (2, 9, 3, 16), [3], [1], [1], [False], 0.25),
        (Q, Q, (2, 8, 4, 16), [3], [1], [1], [False], 0.25),
        ((2, 9, 9, 4, 16), Q, Q, [3], [1], [1], [False], 0.25),
    ],
)
def test_what_does_not_fit_is_refused(args):
    with pytest.raises((FormulaError, ValueError)):
        cost_of("natten::na1d_forward", *args)


def test_all_makers_and_dimensions_are_there():
    assert len(WINDOWED) == 3 * 4 * 2


def test_any_size_costs_no_time():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it."""
    q, rest = (4, 2, 8), (True, 0.35, 64, 64, None, None, 0, 0)
    one, many = (cost_of("natten::fmha_forward", *[(b, *q)] * 3, *rest) for b in (1, 10**30))
    assert many == {key: tuple(10**30 * flop for flop in flops) for key, flops in one.items()}
    # The first query sees itself, each later one the one before it too.
    assert count_window(length=10**39, size=2, stride=1, dilation=1, causal=True) == 2 * 10**39 - 1
    dilated = count_window(length=10**39, size=2, stride=1, dilation=10**30, causal=True)
    assert dilated == 2 * 10**39 - 10**30
