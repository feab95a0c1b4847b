"""Batch norm over ranks and weights in two parts, step by step."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.normalization import FORMULAS as WHOLE
from flopmeter.formulas.shared_norm import FORMULAS, MERGE

X, N, C, R = (2, 4, 3), 24, (4,), 3


def flop_of(op, *args):
    name = f"aten::{op}"
    return FORMULAS[name][1](OpCall.of(name, *args))


def whole(op, *args):
    name = f"aten::{op}"
    return WHOLE[name][1](OpCall.of(name, *args))


def test_statistics_of_one_rank():
    mean, variance, deviation = N, N + N + N, 4 + 4
    assert flop_of("batch_norm_stats", X, 1e-5) == mean + variance + deviation
    assert flop_of("batch_norm_stats", (0, 4, 3), 1e-5) == 0


@pytest.mark.parametrize(("mean", "variance", "moved"), [(None, None, 0), (C, None, 12), (None, C, 16), (C, C, 28)])
def test_running_statistics_move(mean, variance, moved):
    assert flop_of("batch_norm_update_stats", X, mean, variance, 0.1) == 4 * N + moved
    merged = flop_of("batch_norm_gather_stats", X, (R, 4), (R, 4), mean, variance, 0.1, 1e-5, 6)
    assert merged == MERGE * R * 4 + 3 * 4 + moved
    counted = flop_of("batch_norm_gather_stats_with_counts", X, (R, 4), (R, 4), mean, variance, 0.1, 1e-5, (R,))
    assert counted == merged


def test_one_rank_merged_into_the_others_step_by_step():
    variance = len(["1/s", "squared", "minus eps", "times count"])
    difference = len(["m - mean"])
    spread = len(["difference squared", "times counts", "plus variance", "plus sum"])
    mean = len(["difference times share", "plus mean"])
    assert variance + difference + spread + mean == MERGE


def test_the_steps_of_a_shared_batch_norm_add_up_to_a_whole_one():
    """Else switching on SyncBatchNorm on one rank changes the figure by more than the merge of the statistics."""
    steps = flop_of("batch_norm_stats", X, 1e-5) + flop_of("batch_norm_elemt", X, C, C, C, C, 1e-5)
    assert steps == whole("native_batch_norm", X, C, C, None, None, True, 0.1, 1e-5)
    sums = flop_of("batch_norm_backward_reduce", X, X, C, C, C, True, True, True)
    elements = flop_of("batch_norm_backward_elemt", X, X, C, C, C, C, C, (R,))
    mask = [True, True, True]
    assert sums + elements == whole("native_batch_norm_backward", X, X, C, C, C, C, C, True, 1e-5, mask)


@pytest.mark.parametrize(("weight", "bias", "passes"), [(None, None, 2), (C, None, 3), (C, C, 4)])
def test_standardizing_costs_its_weight_and_its_bias(weight, bias, passes):
    assert flop_of("batch_norm_elemt", X, weight, bias, C, C, 1e-5) == passes * N


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((True, False, False), (N - 4) + (3 * N - 4)),
        ((False, True, False), (3 * N - 4) + 4),
        ((False, False, True), N - 4),
        ((False, False, False), 0),
    ],
)
def test_sums_are_counted_where_they_are_asked_for(flags, expected):
    assert flop_of("batch_norm_backward_reduce", X, X, C, C, C, *flags) == expected
    assert flop_of("batch_norm_backward_elemt", X, X, C, C, None, C, C, (R,)) == 5 * N + 4 * 4


@pytest.mark.parametrize(("dim", "rows"), [(0, 4), (1, 5), (2, 6)])
def test_a_weight_in_two_parts(dim, rows):
    """Else weight norm is free, though it touches every weight in every step."""
    v, n = (4, 5, 6), 120
    norm, share, product = n + (n - rows) + rows, rows, n
    assert flop_of("_weight_norm_interface", v, (rows,), dim) == norm + share + product
    sums, over, square, divided = n + (n - rows), rows, rows, rows
    gradient, length = n + n + n, rows
    expected = sums + over + square + divided + gradient + length
    assert flop_of("_weight_norm_interface_backward", v, v, (rows,), (rows,), dim) == expected


def test_what_does_not_fit_is_refused():
    with pytest.raises(FormulaError):
        flop_of("_weight_norm_interface", (4, 5), (4,), 2)
    with pytest.raises(FormulaError):
        flop_of("batch_norm_gather_stats", X, C, C, None, None, 0.1, 1e-5, 6)
