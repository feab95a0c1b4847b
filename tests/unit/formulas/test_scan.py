"""Scans and causal convolutions, counted token by token."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.scan import FORMULAS

CONV = "DaoAILab::_causal_conv1d_fwd_cpp"
CONV_BACKWARD = "DaoAILab::_causal_conv1d_bwd_cpp"
UPDATE = "DaoAILab::_causal_conv1d_update_cpp"
DELTA = "unsloth::qwen3_5_gdn_chunk"
DELTA_BACKWARD = "unsloth::qwen3_5_gdn_chunk_bwd"


def cost_of(op, *args):
    return FORMULAS[op][1](OpCall.of(op, *args))


def by_kind(cost):
    return {(part.kind, part.phase): part.flop for part in cost.parts}


def test_a_causal_convolution_multiplies_k_taps_for_each_element():
    """Every channel is a convolution of its own; the bias and silu stand apart."""
    steps = {"multiply-adds": 0, "bias": 0, "silu": 0}
    for _ in range(2 * 8 * 5):  # batch, channels, length
        steps["multiply-adds"] += 4
        steps["bias"] += 1
        steps["silu"] += 2
    x = (2, 8, 5)
    assert by_kind(cost_of(CONV, x, (8, 4), (8,), None, None, x, None, True)) == {
        ("convolution", None): 2 * steps["multiply-adds"],
        ("pointwise", None): steps["bias"] + steps["silu"],
    }
    assert by_kind(cost_of(CONV, x, (8, 4), None, None, None, x, None, False)) == {("convolution", None): 640}


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 1), (3, 8, 2)])
def test_a_step_of_generation_costs_its_tokens(shape):
    tokens = 3 * 8 * (shape[2] if len(shape) == 3 else 1)
    cost = cost_of(UPDATE, shape, (3, 8, 3), (8, 4), None, shape, True, None, None)
    assert by_kind(cost) == {("convolution", None): 2 * 4 * tokens, ("pointwise", None): 2 * tokens}


def test_packed_tokens_are_one_long_row():
    """Serving lays channels first and sequences one behind the other."""
    cost = cost_of("_C::causal_conv1d_fwd", (8, 10), (8, 4), (8,), None, (3,), None, None, False, -1)
    assert by_kind(cost) == {("convolution", None): 2 * 80 * 4, ("pointwise", None): 80}


@pytest.mark.parametrize(("has_bias", "has_silu"), [(False, False), (True, False), (False, True), (True, True)])
def test_gradients_of_a_causal_convolution(has_bias, has_silu):
    x, weight, bias = (2, 8, 5), (8, 4), (8,) if has_bias else None
    cost = cost_of(CONV_BACKWARD, x, weight, bias, x, None, None, None, x, weight, bias, x, has_silu)
    n, products = 80, 2 * 80 * 4
    expected = {("convolution", None): 2 * products}
    if has_silu:
        expected |= {("pointwise", None): 6 * n, ("convolution", "recompute"): products}
    if has_bias:
        expected["reduction", None] = n - 8
    if has_bias and has_silu:
        expected["pointwise", "recompute"] = n
    assert by_kind(cost) == expected


@pytest.mark.parametrize("length", [1, 7])
def test_a_selective_scan_grows_with_tokens_not_with_their_square(length):
    u, a, b = (2, 8, length), (8, 16), (2, 1, 16, length)
    plain = cost_of("_C::selective_scan_fwd", u, u, a, b, b, None, None, None, False, None, None, None, u, -1)
    steps = {"delta·u": 1, "delta·A": 16, "exp": 16, "times h": 16, "times B": 16, "add": 16}
    n = 2 * 8 * length
    assert by_kind(plain) == {("recurrent", None): 2 * 16 * n, ("pointwise", None): sum(steps.values()) * n}
    full = cost_of("_C::selective_scan_fwd", u, u, a, b, b, (8,), u, (8,), True, None, None, None, u, -1)
    more = {"skip": 2, "silu": 2, "gate": 1, "bias": 1, "softplus": 4}
    assert full.flop - plain.flop == sum(more.values()) * n


def test_heads_that_share_queries_are_scanned_each():
    """Else grouped heads look cheaper than they are; their norms are done once."""
    q, v, g = (2, 3, 2, 8), (2, 3, 4, 16), (2, 3, 4)
    cost = cost_of(DELTA, q, q, v, g, g, 1.0)
    tokens, heads, vectors = 6, 24, 12
    state = {"decay": 8 * 16, "exp of the gate": 1, "v − r": 16, "times beta": 16, "scale": 8}
    assert tokens * 4 == heads
    assert by_kind(cost) == {
        ("recurrent", None): heads * 3 * (2 * 8 * 16),
        ("pointwise", None): heads * sum(state.values()),
        ("normalization", None): 2 * vectors * (8 + 7 + 1 + 1 + 8),
    }


def test_gradients_of_shared_heads_are_added_up():
    q, r, v, g = (1, 3, 2, 8), (1, 3, 2), (1, 3, 4, 16), (1, 3, 4)
    cost = cost_of(DELTA_BACKWARD, q, r, q, r, v, g, g, (1, 3, 2, 64), v, 1.0)
    heads, sums = 12, (8 * 16 - 1) + (16 - 1)
    assert by_kind(cost)["reduction", None] == heads * sums + 2 * 3 * 8 * (4 - 2)
    assert by_kind(cost)["recurrent", None] == heads * 6 * (2 * 8 * 16)
    assert by_kind(cost)["recurrent", "recompute"] == heads * 2 * (2 * 8 * 16)


def test_a_recursive_filter_looks_back_at_what_came_out():
    steps = {"multiply-adds": 0, "subtract": 0}
    for _sample in range(2 * 4 * 10):
        steps["multiply-adds"] += 3
        steps["subtract"] += 1
    found = cost_of("torchaudio::_lfilter_core_loop", (2, 4, 10), (4, 3), (2, 4, 12))
    assert by_kind(found) == {("recurrent", None): 2 * steps["multiply-adds"], ("pointwise", None): steps["subtract"]}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (CONV, ((2, 8, 5), (4, 4), None, None, None, (2, 8, 5), None, False)),
        (CONV, ((2, 8, 5), (8, 1, 4), None, None, None, (2, 8, 5), None, False)),
        (CONV, ((2, 8, 5), (8, 4), None, None, None, (2, 8, 5), None)),
        (CONV_BACKWARD, ((2, 8, 5), (8, 4), None, (2, 8, 4), None, None, None, (2,), (2,), None, (2,), False)),
        ("_C::selective_scan_fwd", ((2, 8, 5), (2, 8, 5), (4, 16), (2, 16, 5), (2, 16, 5), None, None, None, False)),
        ("_C::selective_scan_fwd", ((2, 8, 5), (2, 8, 4), (8, 16), (2, 16, 5), (2, 16, 5), None, None, None, False)),
        ("torchaudio::_lfilter_core_loop", ((2, 4, 10), (3, 3), (2, 4, 12))),
        (DELTA, ((1, 4, 3, 8), (1, 4, 3, 8), (1, 4, 4, 8), (1, 4, 4), (1, 4, 4), 1.0)),
        (DELTA, ((1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 4, 8), (1, 4, 2), (1, 4, 4), 1.0)),
        ("wind_backstepping::forward", (*[(1, 4, 2, 8)] * 5, (1, 4, 2, 9), *[(1, 4, 2, 8)] * 3)),
        ("wind_backstepping::forward", tuple((4, 8) for _ in range(9))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op, args):
    """Else a figure is made up: the call is listed as uncounted instead."""
    with pytest.raises(FormulaError):
        cost_of(op, *args)
