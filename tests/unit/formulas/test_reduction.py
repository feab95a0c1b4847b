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


@pytest.mark.parametrize(("order", "roots"), [(2, 2), (1, 0), (0, 0), (3, 2)])
def test_a_power_sum_takes_no_root(order, roots):
    """Else gradient norms, shared among ranks, cost roots that nobody takes."""
    rooted = flop_of("linalg_vector_norm", X, order, [1], out=[(2,)])
    assert flop_of("linalg__powsum", X, order, [1], out=[(2,)]) == rooted - roots


def test_a_distance_subtracts_first():
    assert flop_of("dist", X, (5,), 2) == N + (N + (N - 1) + 1)
    assert flop_of("dist", (2, 1), (1, 5), 1) == N + (N + N - 1)
    assert flop_of("dist", X, X) == N + 2 * N
    assert flop_of("native_norm", X, 2, out=[()]) == 2 * N


@pytest.mark.parametrize(("dim", "slices"), [(0, 2), (1, 5), (-1, 5)])
def test_slices_that_are_too_long_are_scaled_down(dim, slices):
    """Else max-norm constraints are free."""
    norms = N + (N - slices) + slices
    factors = slices + slices + slices
    assert flop_of("renorm", X, 2, dim, 0.5) == norms + factors + N
    assert flop_of("renorm", (0, 5), 2, 0, 0.5) == 0


@pytest.mark.parametrize("dim", [None, 2, -3])
def test_slices_along_no_dimension_are_refused(dim):
    with pytest.raises(FormulaError):
        flop_of("renorm", X, 2, dim, 0.5)


@pytest.mark.parametrize(
    ("how", "forward", "started", "backward"),
    [
        ("sum", 30 - 10, 30, 0),
        ("mean", 30 - 10 + 10, 30 + 10, 10),
        ("prod", 30 - 10, 30, 10 + 30),
        ("max", 0, 0, 10),
        ("min", 0, 0, 10),
    ],
)
def test_segments_are_reduced_one_by_one(how, forward, started, backward):
    """Else pooling over segments of a packed batch is free."""
    rows, results = (6, 5), [(2, 5)]
    assert flop_of("segment_reduce", rows, how, lengths=(2,), out=results) == forward
    assert flop_of("segment_reduce", rows, how, lengths=(2,), initial=0, out=results) == started
    assert flop_of("_segment_reduce_backward", (2, 5), (2, 5), rows, how, lengths=(2,)) == backward


def test_a_reduction_of_segments_that_is_not_known_is_refused():
    with pytest.raises(FormulaError):
        flop_of("segment_reduce", (6, 5), "median", lengths=(2,), out=[(2, 5)])
    with pytest.raises(FormulaError):
        flop_of("_segment_reduce_backward", (2, 5), (2, 5), (6, 5), "median")


def test_folding_bits_is_arithmetic_on_integers():
    """Else a checksum of weights counts as training."""
    (part,) = FORMULAS["aten::hash_tensor"][1](OpCall.of("aten::hash_tensor", X, [1], out=[(2,)])).parts
    assert (part.flop, part.precision) == (8, "uint64")
