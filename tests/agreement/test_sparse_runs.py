"""Sparse calls as torch runs them on a CPU, counted by hand from the entries that are stored."""

import warnings

import pytest
import torch
from torch import nn

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
M, K, N = 5, 6, 3
PLACES = [(0, 0), (0, 2), (1, 0), (1, 4), (2, 2), (4, 4), (4, 5)]
STORED, COLUMNS = len(PLACES), len({column for _, column in PLACES})
LAYOUTS = [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc]

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* support is in beta state", "ignore:.*torch.sparse")


def record(work):
    return price_rows(record_calls(work, book=BOOK), BOOK)


def kinds_of(work):
    return {kind: part.flop for kind, part in record(work).by("kind").items() if part.flop}


def matrix(layout):
    dense = torch.zeros(M, K)
    for row, column in PLACES:
        dense[row, column] = 1 + row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dense.to_sparse(layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_product_costs_what_its_entries_cost(layout):
    """Else the form in which a matrix is stored decides what a graph network costs."""
    sparse, dense, left = matrix(layout), torch.rand(K, N), torch.rand(N, M)
    product = 2 * STORED * N
    assert kinds_of(lambda: sparse @ dense) == {"matmul": product}
    assert kinds_of(lambda: torch.sparse.mm(sparse, dense)) == {"matmul": product}
    assert kinds_of(lambda: left @ sparse) == {"matmul": product}
    assert kinds_of(lambda: sparse @ dense[:, 0]) == {"matmul": 2 * STORED}
    biased = kinds_of(lambda: torch.addmm(torch.rand(M, N), sparse, dense, beta=0.3))
    assert biased == {"matmul": product, "pointwise": 2 * M * N}


def test_blocks_are_stored_whole():
    """Else what a block-sparse kernel multiplies counts as if it skipped the zeros in a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = matrix(torch.sparse_coo).to_dense()[:4].to_sparse_bsr((2, 2))
    kept = blocks.values().numel()
    assert kept > STORED
    assert kinds_of(lambda: blocks @ torch.rand(K, N)) == {"matmul": 2 * kept * N}


def test_the_gradients_of_a_product_are_counted_as_torch_makes_them():
    """CSR: the gradient of the sparse operand is sampled at its entries. COO: torch makes all of it, and selects."""
    for layout, for_sparse in ((torch.sparse_csr, 2 * STORED * N), (torch.sparse_coo, 2 * M * K * N)):
        sparse, dense = matrix(layout).requires_grad_(), torch.rand(K, N, requires_grad=True)
        out = torch.sparse.mm(sparse, dense)
        assert kinds_of(lambda out=out: out.backward(torch.rand(M, N)))["matmul"] == for_sparse + 2 * STORED * N


def test_messages_cost_what_gathering_and_adding_them_costs():
    """Else a graph network written with sparse products and one written with gathers differ by more than the adds."""
    graph, data = matrix(torch.sparse_csr).requires_grad_(), torch.rand(K, N, requires_grad=True)
    for reduce, forward in (("sum", 0), ("mean", M * N)):
        out = []
        tally = record(lambda out=out, reduce=reduce: out.append(torch.sparse.mm(graph, data, reduce)))
        assert (tally.contraction_flop, tally.flop) == (2 * STORED * N, 2 * STORED * N + forward)
        backward = record(lambda out=out: out[0].backward(torch.rand(M, N)))
        assert backward.contraction_flop == 2 * 2 * STORED * N


def test_functions_touch_what_is_stored():
    sparse = matrix(torch.sparse_coo)
    assert kinds_of(sparse.neg) == {"pointwise": STORED}
    assert kinds_of(lambda: sparse * 0.3) == {"pointwise": STORED}
    assert kinds_of(lambda: sparse * torch.rand(M, K)) == {"pointwise": STORED}
    assert kinds_of(lambda: torch.rand(M, K) + sparse) == {"pointwise": STORED}
    assert kinds_of(lambda: torch.sparse.sum(sparse)) == {"reduction": STORED - 1}
    assert kinds_of(lambda: torch.sparse.softmax(sparse, 1)) == {"normalization": 4 * STORED}
    assert kinds_of(lambda: torch.sparse.sum(sparse, 0)) == {"reduction": STORED - COLUMNS}


def test_an_embedding_with_sparse_gradients_costs_rows_and_not_its_table():
    """Else a table of a million words costs as much as if each was in every batch."""
    words, width, batch = 50, 4, torch.tensor([1, 2, 2, 5])
    table = nn.Embedding(words, width, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    table(batch).sum().backward()
    found = kinds_of(optimizer.step)
    rows = 3 * width
    # Two of four rows are the same one. Moments: subtract, factor, add; square; root, eps, divide, factor; three adds
    # into dense tensors. The step counter is no tensor.
    assert found["reduction"] == width
    assert found["pointwise"] == rows * (1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1)
    sgd = torch.optim.SGD(table.parameters(), lr=0.1)
    assert kinds_of(sgd.step) == {"pointwise": 2 * 4 * width}


@pytest.mark.parametrize(("mode", "expected"), [("sum", {}), ("mean", {"pointwise": 4 * 3 + 2})])
def test_bags_with_sparse_gradients_add_nothing_up(mode, expected):
    bag = nn.EmbeddingBag(10, 3, sparse=True, mode=mode)
    out = bag(torch.tensor([1, 2, 2, 5]), torch.tensor([0, 2]))
    assert kinds_of(lambda: out.backward(torch.rand(2, 3))) == expected
