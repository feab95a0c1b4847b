"""Sums and what is made of them, counted by hand."""

import math

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.reduction import FORMULAS

X, N = (2, 5), 10


def flop_of(op, *args, out=(), **options):
    name = f"aten::{op}"
    found = FORMULAS[name][1](OpCall.of(name, *args, out=out, **options))
    return found.flop if isinstance(found, Cost) else found


@pytest.mark.parametrize("op", ["sum", "nansum", "prod"])
@pytest.mark.parametrize(("out", "expected"), [((), 9), ((2,), 8), ((2, 1), 8), ((2, 5), 0)])
def test_a_sum_of_n_numbers_has_one_add_less(op, out, expected):
    """Else sums over one number, which broadcasting makes often, cost something."""
    assert flop_of(op, X, out=[out]) == expected


def test_nothing_adds_up_to_nothing():
    assert flop_of("sum", (0, 5), out=[()]) == 0
    assert flop_of("mean", (0,), out=[()]) == 0
    assert flop_of("var", (0,), out=[()]) == 0
    assert flop_of("linalg_vector_norm", (0,), 2, out=[()]) == 0
    assert flop_of("logsumexp", (0, 5), [0], out=[(5,)]) == 0


def test_a_mean_divides_once_per_result():
    assert flop_of("mean", X, [1], out=[(2,)]) == 8 + 2


@pytest.mark.parametrize(("op", "roots"), [("var", 0), ("var_mean", 0), ("std", 2), ("std_mean", 2)])
def test_a_variance_takes_the_mean_first(op, roots):
    mean, deviations, squares, mean_again = N, N, N, N
    assert flop_of(op, X, [1], out=[(2,), (2,)]) == mean + deviations + squares + mean_again + roots


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (2, N + 8 + 2),
        (2.0, N + 8 + 2),
        (None, N + 8 + 2),
        (1, N + 8),
        (0, 8),
        ("inf", N),
        (math.inf, N),
        (-math.inf, N),
        (AnyNumber(), N + N + 8 + 2),
        (3, N + N + 8 + 2),
    ],
)
def test_a_norm_costs_by_its_order(order, expected):
    """Else clipping by the largest gradient costs as much as by their length."""
    assert flop_of("linalg_vector_norm", X, order, [1], out=[(2,)]) == expected
    assert flop_of("norm", X, order, [1], out=[(2,)]) == expected


def test_a_norm_is_of_order_two_unless_told_otherwise():
    assert flop_of("linalg_vector_norm", X, out=[()]) == N + 9 + 1


def test_norms_of_a_list_cost_what_each_costs():
    assert flop_of("_foreach_norm", [X, (4,)], 2) == 20 + 8
    assert flop_of("_foreach_norm", [X, (4,)]) == 28
    assert flop_of("_foreach_norm", [X, (4,)], 1) == 19 + 7
    assert flop_of("_foreach_powsum", [X, (4,)], 2) == 26
    assert flop_of("_foreach_powsum", [X, (4,)], 1) == 26
    assert flop_of("_foreach_powsum", [X, (0,)], AnyNumber()) == 10 + 10 + 9


def test_a_log_sum_exp():
    assert flop_of("logsumexp", X, [1], out=[(2,)]) == N + N + 8 + 2 + 2


@pytest.mark.parametrize(("dim", "steps"), [(0, 5), (1, 8), (-1, 8)])
def test_running_sums_start_from_the_first_number(dim, steps):
    assert flop_of("cumsum", X, dim) == steps
    assert flop_of("cumprod", X, dim) == steps
    assert flop_of("logcumsumexp", X, dim) == 6 * steps


def test_running_sums_of_one_number_and_of_none():
    assert flop_of("cumsum", (), 0) == 0
    assert flop_of("cumsum", (0, 3), 1) == 0


def test_a_running_sum_without_a_dimension_is_refused():
    with pytest.raises(FormulaError):
        flop_of("cumsum", X)


def test_a_trace_adds_the_diagonal():
    assert flop_of("trace", (3, 5)) == 2
    assert flop_of("trace", (0, 5)) == 0


def test_average_pooling_adds_its_window_and_divides():
    """Else pooling is free, or its gradient is."""
    assert flop_of("avg_pool2d", (2, 3, 4, 4), [2], out=[(2, 3, 2, 2)]) == 24 * 4
    assert flop_of("avg_pool2d", (2, 3, 4, 4), [2, 1], out=[(2, 3, 2, 4)]) == 48 * 2
    assert flop_of("avg_pool3d", (1, 1, 4, 4, 4), [2], out=[(1, 1, 2, 2, 2)]) == 8 * 8
    assert flop_of("avg_pool2d_backward", (2, 3, 2, 2), (2, 3, 4, 4), [2, 2], [2, 2]) == 24 + 24 * 4


def inputs_of_windows(inputs, outputs):
    return sum(len(range(i * inputs // outputs, -(-(i + 1) * inputs // outputs))) for i in range(outputs))


@pytest.mark.parametrize("inputs", range(13))
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 6, 7, 12, 13])
def test_windows_are_as_large_as_torch_makes_them(inputs, outputs):
    found = flop_of("_adaptive_avg_pool2d", (1, 1, inputs, 1), [outputs, 1], out=[(1, 1, outputs, 1)])
    assert found == (inputs_of_windows(inputs, outputs) if inputs else 0)


def test_windows_of_a_given_number_of_results_may_overlap():
    """Else pooling 5 numbers into 3 counts each number once, though two windows share some."""
    inputs = inputs_of_windows(5, 3)
    assert inputs == 7
    assert flop_of("_adaptive_avg_pool2d", (1, 2, 5, 4), [3, 2], out=[(1, 2, 3, 2)]) == 2 * inputs * 4
    found = flop_of("_adaptive_avg_pool2d_backward", (1, 2, 3, 2), (1, 2, 5, 4))
    assert found == 12 + 2 * inputs * 4
    assert flop_of("_adaptive_avg_pool3d", (1, 1, 4, 4, 4), [1, 1, 1], out=[(1, 1, 1, 1, 1)]) == 64
