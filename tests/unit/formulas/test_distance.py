"""Distances between rows, pair by pair and step by step."""

import itertools

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.distance import FORMULAS

R, S, K = 4, 5, 3
ORDERS = [0, 1, 2.0, 3, AnyNumber(), 0.5, "inf"]


def parts_of(op, *args, **options):
    found = FORMULAS[f"aten::{op}"][1](OpCall.of(f"aten::{op}", *args, **options))
    return {part.kind: part.flop for part in found.parts if part.flop}


def length(order):
    """Operations of one distance: differences, and the norm of them."""
    differences, sums = K, K - 1
    if order == 0:
        return differences, sums
    if order == 1:
        return differences, K + sums
    if order == "inf":
        return differences, K
    if order == 2:
        return differences, K + sums + 1
    return differences, K + K + sums + 1


def share(order):
    """Operations of what one element of one pair brings to a gradient, its difference included."""
    return {0: 0, 1: 1 + 1, 2: 1 + 2, "inf": 1 + 2}.get(order if isinstance(order, (int, float, str)) else 3, 1 + 6)


@pytest.mark.parametrize("order", ORDERS)
def test_a_distance_is_the_norm_of_a_difference(order):
    pairs = list(itertools.product(range(R), range(S)))
    differences, norm = length(order)
    expected = {"pointwise": differences * len(pairs), "reduction": norm * len(pairs)}
    assert parts_of("_cdist_forward", (R, K), (S, K), order, None) == expected
    assert parts_of("_cdist_forward", (R, K), (S, K), order, 2) == expected
    own = list(itertools.combinations(range(R), 2))
    assert parts_of("_pdist_forward", (R, K), order) == {
        "pointwise": differences * len(own),
        "reduction": norm * len(own),
    }


def test_an_order_that_is_left_out_is_two():
    assert parts_of("_pdist_forward", (R, K)) == parts_of("_pdist_forward", (R, K), 2.0)


def test_batches_are_broadcast():
    six = parts_of("_cdist_forward", (2, 1, R, K), (3, S, K), 2.0, None)
    assert six == {kind: 6 * flop for kind, flop in parts_of("_cdist_forward", (R, K), (S, K), 2.0, None).items()}


def by_products(rows, others):
    squares, sums = (rows + others) * K, (rows + others) * (K - 1)
    doubled, roots = rows * K, rows * others
    terms = rows * others * (K + 1 + 1)
    return {"matmul": 2 * terms, "pointwise": squares + doubled + roots, "reduction": sums}


def test_many_rows_go_by_way_of_products():
    """Else the distances that nearest-neighbour losses take look as if no product were in them."""
    assert parts_of("_euclidean_dist", (R, K), (S, K)) == by_products(R, S)
    assert parts_of("_euclidean_dist", (2, R, K), (2, S, K)) == {
        kind: 2 * flop for kind, flop in by_products(R, S).items()
    }
    assert parts_of("_cdist_forward", (R, K), (S, K), 2.0, 1) == by_products(R, S)
    assert parts_of("_cdist_forward", (26, K), (S, K), 2.0, None) == by_products(26, S)
    assert parts_of("_cdist_forward", (R, K), (26, K), 2.0, 0) == by_products(R, 26)
    assert "matmul" not in parts_of("_cdist_forward", (25, K), (25, K), 2.0, None)
    assert "matmul" not in parts_of("_cdist_forward", (26, K), (S, K), 2.0, 2)
    assert "matmul" not in parts_of("_cdist_forward", (26, K), (S, K), 1.0, 1)


@pytest.mark.parametrize("order", ORDERS)
def test_a_gradient_brings_together_what_each_pair_brings(order):
    elements = R * S * K
    expected = {"pointwise": share(order) * elements, "reduction": R * K * (S - 1)} if order != 0 else {}
    assert parts_of("_cdist_backward", (R, S), (R, K), (S, K), order, (R, S)) == expected
    own = R * (R - 1) // 2 * K
    expected = {"pointwise": share(order) * own, "reduction": R * K * (R - 2)} if order != 0 else {}
    assert parts_of("_pdist_backward", (6,), (R, K), order, (6,)) == expected


def test_nothing_to_compare_costs_nothing():
    for shapes in [((0, K), (S, K)), ((R, 0), (S, 0)), ((0, R, K), (0, S, K))]:
        assert parts_of("_cdist_forward", *shapes, 2.0, 1) == {}
        assert parts_of("_cdist_forward", *shapes, 1.0, None) == {}
        assert parts_of("_cdist_backward", (R, S), *shapes, 2.0, (R, S)) == {}
    assert parts_of("_pdist_forward", (1, K)) == parts_of("_pdist_forward", (0, K)) == {}
    assert parts_of("_pdist_backward", (0,), (1, K), 2.0, (0,)) == {}


@pytest.mark.parametrize(
    "call",
    [
        OpCall.of("aten::_cdist_forward", (R, K), (S, 4), 2.0, None),
        OpCall.of("aten::_cdist_forward", (K,), (S, K), 2.0, None),
        OpCall.of("aten::_cdist_forward", (2, R, K), (3, S, K), 2.0, None),
        OpCall.of("aten::_euclidean_dist", (R, K), (S, 4)),
        OpCall.of("aten::_pdist_forward", (2, R, K)),
        OpCall.of("aten::_cdist_backward", (R, S), (R, K)),
        OpCall.of("aten::_pdist_backward", (6,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        FormulaBook.standard().cost(call)
