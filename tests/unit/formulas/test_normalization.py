"""Softmax and norms, added up step by step."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.normalization import FORMULAS

N, M, W = 2 * 3 * 5, 2 * 3, 5
X, STATISTICS = (2, 3, 5), (2, 3, 1)
IMAGE, C = (2, 4, 3), (4,)


def flop_of(op, *args):
    return FORMULAS[f"aten::{op}"][1](OpCall.of(f"aten::{op}", *args))


@pytest.mark.parametrize(("dim", "rows"), [(-1, 6), (2, 6), (0, 15), (1, 10)])
def test_a_softmax_subtracts_exponentiates_adds_up_and_divides(dim, rows):
    """Else attention written out costs other than fused attention."""
    assert flop_of("_softmax", X, dim, False) == N + N + (N - rows) + N
    assert flop_of("_safe_softmax", X, dim) == 4 * N - rows
    assert flop_of("_log_softmax", X, dim, False) == N + N + (N - rows) + rows + N
    assert flop_of("_softmax_backward_data", X, X, dim, None) == N + (N - rows) + N + N
    assert flop_of("_log_softmax_backward_data", X, X, dim, None) == N + (N - rows) + N + N


@pytest.mark.parametrize(("dim", "rows"), [((), 6), ((None,), 6), ((0,), 15), ((1,), 10)])
def test_a_masked_softmax_counts_every_place(dim, rows):
    assert flop_of("_masked_softmax", X, X, *dim) == N + N + (N - rows) + N
    assert flop_of("_masked_softmax_backward", X, X, X, *dim) == N + (N - rows) + N + N


def test_a_softmax_over_nothing_or_over_one_number():
    assert flop_of("_softmax", (0, 5), -1, False) == 0
    assert flop_of("_softmax", (3, 0), -1, False) == 0
    assert flop_of("_softmax", (), 0, False) == 3


@pytest.mark.parametrize(("weight", "bias"), [(None, None), ((5,), None), ((5,), (5,))])
def test_a_layer_norm(weight, bias):
    mean, variance, deviation, apply = N, N + N + N, M + M, N + N
    affine = N * ((weight is not None) + (bias is not None))
    assert flop_of("native_layer_norm", X, [5], weight, bias, 1e-5) == mean + variance + deviation + apply + affine


def test_a_layer_norm_over_two_dimensions_has_fewer_statistics():
    assert flop_of("native_layer_norm", X, [3, 5], None, None, 1e-5) == 6 * N + 2 * 2


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([True, True, True], 2 * N + (9 * N - M) + (2 * N - W) + (N - W)),
        ([True, False, False], 2 * N + (9 * N - M)),
        ([False, True, False], 2 * N + (2 * N - W)),
        ([False, False, True], N - W),
        ([False, False, False], 0),
    ],
)
def test_gradients_of_a_layer_norm_cost_only_where_they_are_asked_for(mask, expected):
    """Else a frozen norm costs as much as a trained one."""
    call = ("native_layer_norm_backward", X, X, [5], STATISTICS, STATISTICS, (5,), (5,), mask)
    assert flop_of(*call) == expected


def test_gradients_of_a_layer_norm_without_a_weight():
    call = ("native_layer_norm_backward", X, X, [5], STATISTICS, STATISTICS, None, None, [True, True, True])
    assert flop_of(*call) == 2 * N + 8 * N - M


def test_an_rms_norm():
    assert flop_of("_fused_rms_norm", X, [5], (5,), None) == N + N + M + M + N + N
    assert flop_of("_fused_rms_norm", X, [5], None, None) == 3 * N + 2 * M
    both = ("_fused_rms_norm_backward", X, X, [5], STATISTICS, (5,), [True, True])
    assert flop_of(*both) == N + (7 * N - M) + (2 * N - W)
    assert flop_of("_fused_rms_norm_backward", X, X, [5], STATISTICS, (5,), [False, True]) == N + 2 * N - W
    assert flop_of("_fused_rms_norm_backward", X, X, [5], STATISTICS, None, [True, False]) == N + 6 * N - M


def test_a_group_norm():
    n, p, m = 24, 8, 4
    assert flop_of("native_group_norm", IMAGE, None, None, 2, 4, 3, 2, 1e-5) == 6 * n + 2 * m
    assert flop_of("native_group_norm", IMAGE, C, C, 2, 4, 3, 2, 1e-5) == 8 * n + 2 * m
    call = ("native_group_norm_backward", IMAGE, IMAGE, (2, 2), (2, 2), C, 2, 4, 3, 2)
    sums = n + (n - p) + (n - p)
    gradient = 4 * n + 2 * (p - m) + 3 * p + 6 * m + 5 * m
    assert flop_of(*call, [True, True, True]) == sums + gradient + (4 * p - 4) + (p - 4)
    assert flop_of(*call, [True, False, False]) == sums + gradient
    assert flop_of(*call, [False, True, False]) == sums + (4 * p - 4)
    assert flop_of(*call, [False, False, True]) == sums + (p - 4)
    assert flop_of(*call, [False, False, False]) == 0


def test_a_batch_norm_in_training_also_moves_its_statistics():
    n, c = 24, 4
    affine, mean, variance = 2 * n, 3 * c, 4 * c
    for op in ("native_batch_norm", "_native_batch_norm_legit"):
        assert flop_of(op, IMAGE, C, C, C, C, True, 0.1, 1e-5) == 6 * n + 2 * c + mean + variance + affine
        assert flop_of(op, IMAGE, None, None, None, None, True, 0.1, 1e-5) == 6 * n + 2 * c
        assert flop_of(op, IMAGE, C, C, C, C, False, 0.1, 1e-5) == 2 * n + 3 * c + affine
    assert flop_of("native_batch_norm", IMAGE, None, None, C, None, True, 0.1, 1e-5) == 6 * n + 2 * c + mean
    assert flop_of("native_batch_norm", IMAGE, None, None, None, C, True, 0.1, 1e-5) == 6 * n + 2 * c + variance
    assert flop_of("_batch_norm_with_update", IMAGE, C, C, C, C, 0.1, 1e-5) == 6 * n + 2 * c + 7 * c + affine


def test_a_batch_norm_without_statistics_keeps_its_flag_where_they_would_stand():
    """Else the overload without running statistics is priced as an evaluation."""
    assert flop_of("_native_batch_norm_legit", IMAGE, C, C, True, 0.1, 1e-5) == 6 * 24 + 2 * 4 + 2 * 24


def test_a_batch_norm_in_evaluation():
    for op in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update"):
        assert flop_of(op, IMAGE, C, C, C, C, 0.1, 1e-5) == 2 * 24 + 3 * 4 + 2 * 24


@pytest.mark.parametrize(
    ("training", "mask", "expected"),
    [
        (True, [True, True, True], (24 - 4) + (72 - 4) + (5 * 24 + 5 * 4) + 4),
        (True, [False, True, True], (24 - 4) + (72 - 4) + 4),
        (False, [True, False, False], 24 + 3 * 4),
        (False, [True, True, True], (24 - 4) + (72 - 4) + (24 + 3 * 4) + 4),
        (True, [False, False, False], 0),
    ],
)
def test_gradients_of_a_batch_norm_cost_only_where_they_are_asked_for(training, mask, expected):
    """Else a batch norm in evaluation, which moves no statistics, costs a training one's gradients."""
    call = ("native_batch_norm_backward", IMAGE, IMAGE, C, C, C, C, C, training, 1e-5, mask)
    assert flop_of(*call) == expected


@pytest.mark.parametrize("library", ["cudnn", "miopen"])
def test_a_vendors_library_costs_what_torch_costs(library):
    """Else the same model differs by the device that runs it."""
    forward = (IMAGE, C, C, C, C, True, 0.1, 1e-5)
    assert flop_of(f"{library}_batch_norm", *forward) == flop_of("native_batch_norm", *forward)
    backward = (IMAGE, IMAGE, C, C, C, C, C)
    expected = flop_of("native_batch_norm_backward", *backward, True, 1e-5, [True, True, True])
    assert flop_of(f"{library}_batch_norm_backward", *backward, 1e-5) == expected
    without = flop_of("native_batch_norm_backward", IMAGE, IMAGE, None, C, C, C, C, True, 1e-5, [True, True, True])
    assert flop_of(f"{library}_batch_norm_backward", IMAGE, IMAGE, None, C, C, C, C, 1e-5) == without == expected - 4


def test_a_functional_batch_norm_is_always_training():
    arguments = (IMAGE, C, C, C, C, 0.1, 1e-5)
    expected = flop_of("_batch_norm_with_update", *arguments)
    assert flop_of("_batch_norm_with_update_functional", *arguments) == expected


def test_a_softmax_into_a_given_tensor_has_another_name():
    assert flop_of("softmax", X, -1) == flop_of("_softmax", X, -1, False)
    assert flop_of("log_softmax", X, -1) == flop_of("_log_softmax", X, -1, False)


def test_arguments_that_are_not_where_they_should_be_are_refused():
    """Else another overload gets a figure that means nothing."""
    with pytest.raises(FormulaError):
        flop_of("_softmax", X, None, False)
    with pytest.raises(FormulaError):
        flop_of("native_layer_norm_backward", X, X, [5], STATISTICS, STATISTICS, (5,), (5,))
    with pytest.raises(FormulaError):
        flop_of("native_batch_norm", IMAGE, C, C, C, C)
