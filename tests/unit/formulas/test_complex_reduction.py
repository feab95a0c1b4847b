"""Sums, norms, scans and scatters of complex numbers, added up step by step."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.complex import RATES
from flopmeter.formulas.complex_reduction import FORMULAS, LOG_ADD_EXP
from flopmeter.formulas.cost import Cost

ANY, BOOK = AnyNumber(), FormulaBook.standard()
X, N, M = (3, 5), 15, 3
ROWS, ALL = [(3,)], [()]
ADD, MULTIPLY = 2, 6


def parts_of(op, *args, **options):
    found = FORMULAS[f"complex::aten.{op}"][1](OpCall.of(f"aten::{op}", *args, dtype="complex64", **options))
    if isinstance(found, Cost):
        return {part.kind: part.flop for part in found.parts if part.flop}
    return {FORMULAS[f"complex::aten.{op}"][0]: found}


def flop_of(op, *args, **options):
    return sum(parts_of(op, *args, **options).values())


def test_sums_products_and_means():
    assert flop_of("sum", X, [1], out=ROWS) == ADD * (N - M)
    assert flop_of("sum", X, out=ALL) == ADD * (N - 1)
    assert flop_of("prod", X, 1, out=ROWS) == MULTIPLY * (N - M)
    divisions = 2 * M
    assert flop_of("mean", X, [1], out=ROWS) == ADD * (N - M) + divisions
    assert flop_of("sum", (0, 5), out=ALL) == flop_of("mean", (0, 5), out=ALL) == 0


def test_a_variance_is_that_of_both_parts():
    one_part, added, roots = N + N + N + N, M, M
    for op in ("var", "var_mean"):
        assert flop_of(op, X, [1], out=ROWS) == 2 * one_part + added
    for op in ("std", "std_mean"):
        assert flop_of(op, X, [1], out=ROWS) == 2 * one_part + added + roots
    assert flop_of("std", (0, 5), out=ALL) == 0


@pytest.mark.parametrize("op", ["linalg_vector_norm", "norm"])
def test_a_norm_is_that_of_moduli(op):
    moduli, sums = 4 * N, N - M
    squares, roots = N, M
    for order in (2, 2.0, None, 3, ANY):
        assert flop_of(op, X, order, [1], out=ROWS) == moduli + squares + sums + roots
    assert flop_of(op, X, 1, [1], out=ROWS) == moduli + sums
    assert flop_of(op, X, 0, [1], out=ROWS) == sums
    for order in ("inf", "-inf", float("inf")):
        assert flop_of(op, X, order, [1], out=ROWS) == moduli
    assert flop_of(op, (0, 5), 2, out=ALL) == 0


def test_norms_of_a_list_and_sums_of_powers_without_roots():
    assert flop_of("_foreach_norm", [X, (4,)], 2) == 6 * N + 6 * 4
    assert flop_of("_foreach_powsum", [X, (4,)], 2) == (6 * N - 1) + (6 * 4 - 1)
    assert flop_of("_foreach_powsum", [X], 1) == 4 * N + N - 1
    assert flop_of("linalg__powsum", X, 2, [1], out=ROWS) == 6 * N - M


def test_distances_and_rows_held_to_a_length():
    assert flop_of("dist", X, (5,), 2) == ADD * N + 6 * N
    assert flop_of("dist", X, X, 1) == ADD * N + 4 * N + (N - 1)
    moduli, squares, sums, roots = 4 * N, N, N - 3, 3
    factors, scaled = 3 + 3 + 3, MULTIPLY * N
    assert parts_of("renorm", X, 2, 0, 1.0) == {
        "reduction": moduli + squares + sums + roots,
        "pointwise": factors + scaled,
    }
    assert flop_of("renorm", (0, 5), 2, 1, 1.0) == 0


def test_logarithms_of_sums():
    subtracted, exponentials, sums, logarithms, added = 2 * N, 5 * N, ADD * (N - M), 6 * M, 2 * M
    found = flop_of("logsumexp", X, [1], out=ROWS)
    assert found == subtracted + exponentials + sums + logarithms + added
    assert flop_of("logsumexp", (0, 5), [1], out=[(0,)]) == 0


def test_scans_do_one_step_for_each_element_but_the_first():
    assert RATES["logaddexp"] == LOG_ADD_EXP
    assert flop_of("cumsum", X, 1) == ADD * (N - 3)
    assert flop_of("cumprod", X, -2) == MULTIPLY * (N - 5)
    assert flop_of("logcumsumexp", X, 0) == flop_of("_logcumsumexp", X, 0) == 16 * (N - 5)
    assert flop_of("cumsum", (), 0) == flop_of("cumsum", (0, 5), 1) == 0


def test_a_trace_adds_a_diagonal():
    assert flop_of("trace", X) == ADD * 2
    assert flop_of("trace", (0, 5)) == 0


def test_scatters_add_both_parts_of_what_is_brought_in():
    assert flop_of("scatter_add", (10, 4), 0, (3, 4), (5, 4)) == ADD * 12
    assert flop_of("put", (10,), (3,), (3,), True) == ADD * 3
    assert flop_of("put", (10,), (3,), (3,)) == 0
    assert flop_of("unfold_backward", (3, 4), [6], 0, 4, 1) == ADD * 12
    assert flop_of("col2im", (2, 8, 9), [4, 4]) == ADD * 144
    assert flop_of("reflection_pad2d_backward", (2, 6, 6), (2, 4, 4), [1, 1, 1, 1]) == ADD * 72
    assert flop_of("scatter", (9,), 0, (3,), (3,)) == 0
    assert flop_of("scatter", (9,), 0, (3,), (3,), reduce="add") == ADD * 3
    assert flop_of("scatter", (9,), 0, (3,), (3,), reduce="multiply") == MULTIPLY * 3


def test_a_scaled_index_add_multiplies_what_it_brings_in():
    assert parts_of("index_add", (10, 4), 0, (3,), (3, 4)) == {"scatter": ADD * 12}
    assert parts_of("index_add", (10, 4), 0, (3,), (3, 4), alpha=ANY) == {
        "scatter": ADD * 12,
        "pointwise": MULTIPLY * 12,
    }


@pytest.mark.parametrize("op", ["index_put", "_index_put_impl", "_unsafe_index_put"])
def test_an_index_put_adds_the_whole_region(op):
    assert flop_of(op, (10, 4), [(3,)], (4,), True) == ADD * 12
    assert flop_of(op, (10, 4, 6), [None, (3, 1), (5,)], (3, 5), True) == ADD * 10 * 15
    assert flop_of(op, (10, 4), [(3,)], (3, 4)) == 0
    assert flop_of(op, (10, 4), [TensorSpec((10,), "bool")], (7, 4), True) == ADD * 28


def test_a_masked_put_adds_the_whole_region():
    found = flop_of("_unsafe_masked_index_put_accumulate", (5, 5), TensorSpec((7, 7), "bool"), [(7, 1), (1, 7)], (7, 7))
    assert found == ADD * 49


@pytest.mark.parametrize(
    "call",
    [
        OpCall.of("aten::cumsum", X, dtype="complex64"),
        OpCall.of("aten::cumsum", X, 2, dtype="complex64"),
        OpCall.of("aten::renorm", X, 2, -3, 1.0, dtype="complex64"),
        OpCall.of("aten::sum", dtype="complex64", out=ALL),
        OpCall.of("aten::sum", X, dtype="complex64"),
        OpCall.of("aten::index_put", X, [(3,)], None, True, dtype="complex64"),
    ],
)
def test_calls_that_do_not_fit_are_refused(call):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        BOOK.cost(call)
