"""Distances and bilinear forms cost what they cost written out in other operators."""

import pytest
import torch
from torch._decomp import decomposition_table
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
X, Y = torch.rand(7, 3), torch.rand(5, 3)


def record(work):
    tally = price_rows(record_calls(work), BOOK)
    return {kind: part.flop for kind, part in tally.by("kind").items() if part.flop}


@pytest.mark.parametrize("order", [0.0, 1.0, 2.0, 2.5, float("inf")])
def test_distances_cost_what_differences_and_their_norms_cost(order):
    """Else a loss over pairs costs more or less by the function that somebody calls."""
    written_out = record(lambda: torch.linalg.vector_norm(X[:, None] - Y[None], order, -1))
    assert record(lambda: torch.cdist(X, Y, p=order)) == written_out
    first, second = torch.triu_indices(7, 7, 1)
    pairs = record(lambda: torch.linalg.vector_norm(X[first] - X[second], order, -1))
    assert record(lambda: torch.pdist(X, p=order)) == pairs


def test_euclidean_distances_by_way_of_products_cost_what_their_decomposition_costs():
    op = torch.ops.aten._euclidean_dist.default
    assert record(lambda: op(X, Y)) == record(lambda: decomposition_table[op](X, Y))
    many = torch.rand(30, 3)
    by_products = record(lambda: torch.cdist(many, Y))
    assert by_products == record(lambda: op(many, Y))
    assert record(lambda: torch.ops.aten._cdist_forward(many, Y, 2.0, None)) == by_products


@pytest.mark.parametrize("mode", ["use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"])
def test_gradients_of_distances_are_counted(mode):
    """Else contrastive losses are half counted."""
    one, two = X.clone().requires_grad_(), Y.clone().requires_grad_()
    result = torch.cdist(one, two, compute_mode=mode).sum()
    assert sum(record(result.backward).values()) > 2 * 35 * 3
    result = torch.pdist(one).sum()
    assert sum(record(result.backward).values()) > 2 * 21 * 3


def test_distances_of_pairs_are_made_of_other_operators():
    one, two = torch.rand(5, 3), torch.rand(5, 3)
    assert sum(record(lambda: functional.pairwise_distance(one, two)).values()) == 15 + 15 + 2 * 15
    assert sum(record(lambda: functional.cosine_similarity(one, two)).values()) == 2 * 2 * 15 + 2 * 15 + 2 * 15 - 5


def test_a_bilinear_layer_and_its_gradients_arrive_as_products_of_three_tensors():
    """Else bilinear layers look free."""
    left, right = torch.rand(2, 3, requires_grad=True), torch.rand(2, 4, requires_grad=True)
    weight, bias = torch.rand(5, 3, 4, requires_grad=True), torch.rand(5, requires_grad=True)
    results = []
    assert record(lambda: results.append(functional.bilinear(left, right, weight, bias))) == {
        "matmul": 2 * 5 * 2 * (3 * 4 + 4),
        "pointwise": 10,
    }
    backward = record(lambda: results[0].backward(torch.ones(2, 5)))
    assert backward["matmul"] == 3 * 2 * 5 * 2 * 3 * 4
    assert backward["pointwise"] == 5 * (2 * 3 * 4 + 2 * 3 + 2 * 4)
    assert backward["reduction"] == 4 * (2 * 3 + 2 * 4) + 5


def test_products_in_other_notations_are_made_of_products_of_two_tensors():
    one, two = torch.rand(5, 4), torch.rand(4, 3)
    expected = {"matmul": 2 * 5 * 4 * 3}
    assert record(lambda: torch.einsum("ij,jk->ik", one, two)) == expected
    assert record(lambda: torch.tensordot(one, two, 1)) == record(lambda: torch.inner(one, two.T)) == expected
    assert record(lambda: torch.linalg.multi_dot([one, two])) == record(lambda: torch.matmul(one, two)) == expected
    with torch.inference_mode():
        assert record(lambda: torch.einsum("ij,jk->ik", one, two)) == expected
