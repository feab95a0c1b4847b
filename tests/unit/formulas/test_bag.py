"""Bags of embeddings, row by row."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.bag import FORMULAS, MAX, MEAN, SUM
from flopmeter.formulas.call import AnyNumber, OpCall

TABLE, INDICES, OFFSETS, D = (10, 4), (6,), (2,), 4
ROWS = sum(D for _ in range(6))


def parts_of(op, *args, out=()):
    name = f"aten::{op}"
    return {part.kind: part.flop for part in FORMULAS[name][1](OpCall.of(name, *args, out=out)).parts}


@pytest.mark.parametrize("op", ["_embedding_bag", "_embedding_bag_forward_only"])
@pytest.mark.parametrize("weights", [None, (6,)])
def test_every_row_that_is_brought_in_is_added(op, weights):
    """Else the tables of recommenders, most of their work, are free."""
    products = ROWS if weights else 0
    for mode, means in [(SUM, 0), (MEAN, 2 * D)]:
        found = parts_of(op, TABLE, INDICES, OFFSETS, False, mode, False, weights, out=[(2, 4), (0,)])
        assert found == {"scatter": ROWS} | ({"pointwise": products + means} if products + means else {})
    assert parts_of(op, TABLE, INDICES, OFFSETS, False, MAX, False, out=[(2, 4)]) == {"scatter": 0}
    assert parts_of(op, TABLE, INDICES, OFFSETS, out=[(2, 4)]) == {"scatter": ROWS}


@pytest.mark.parametrize(
    ("by_frequency", "mode", "weights", "adds", "steps"),
    [
        (False, SUM, None, ROWS, 0),
        (True, SUM, None, ROWS, ROWS),
        (False, MEAN, None, ROWS, 8),
        (True, MEAN, (6,), ROWS, 8 + ROWS + ROWS),
        (False, MAX, None, 8, 0),
    ],
)
def test_gradients_go_back_to_the_rows(by_frequency, mode, weights, adds, steps):
    expected = {"scatter": adds} | ({"pointwise": steps} if steps else {})
    dy = (2, 4)
    dense = (dy, INDICES, (6,), (2,), dy, 10, by_frequency, mode, weights)
    assert parts_of("_embedding_bag_dense_backward", *dense) == expected
    whole = (dy, INDICES, OFFSETS, (6,), (2,), dy, 10, by_frequency, mode, False, weights)
    assert parts_of("_embedding_bag_backward", *whole) == expected
    sparse = (dy, INDICES, OFFSETS, (6,), (2,), dy, 10, by_frequency, mode, True, weights)
    assert parts_of("_embedding_bag_backward", *sparse) == expected | {"scatter": 0}


def test_the_gradient_of_a_weight_is_an_inner_product():
    found = parts_of("_embedding_bag_per_sample_weights_backward", (2, 4), TABLE, INDICES, OFFSETS, (6,), SUM)
    assert found == {"pointwise": 6 * 4, "reduction": 6 * 3}


@pytest.mark.parametrize(
    ("order", "norm"),
    [(2.0, 4 + 3 + 1), (1.0, 4 + 3), (0.0, 3), ("inf", 4), (AnyNumber(), 4 + 4 + 3 + 1)],
)
def test_rows_that_are_too_long_are_scaled_down(order, norm):
    found = parts_of("embedding_renorm", TABLE, INDICES, 1.0, order)
    assert found == {"reduction": 6 * norm, "pointwise": 6 * (1 + 1 + 4)}


def test_there_are_no_more_rows_than_the_table_has():
    assert parts_of("embedding_renorm", (3, 4), (100,), 1.0, 2.0) == {"reduction": 3 * 8, "pointwise": 3 * 6}


@pytest.mark.parametrize("mode", [3, None, "sum"])
def test_a_mode_that_is_not_known_is_refused(mode):
    with pytest.raises(FormulaError):
        parts_of("_embedding_bag", TABLE, INDICES, OFFSETS, False, mode, out=[(2, 4)])
