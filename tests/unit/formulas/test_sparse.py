"""Sparse operands, counted entry by entry on small patterns."""

from itertools import combinations, product

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.sparse import FORMULAS, LAYOUT, UNARY

BOOK = FormulaBook.standard()
ANY = AnyNumber()
ENTRIES = [(0, 1), (2, 3), (3, 0), (3, 5), (1, 1)]  # of a (4, 6) matrix
A = TensorSpec((4, 6), stored=len(ENTRIES))


def parts_of(name, *args, out=(), **options):
    op = f"sparse::aten.{name}"
    call = OpCall(op=op, args=OpCall.of(op, *args).args, options=OpCall.of(op, **options).options, out=tuple(out))
    found = FORMULAS[op][1](call)
    if isinstance(found, Cost):
        return {part.kind: part.flop for part in found.parts}
    return {FORMULAS[op][0]: found}


def meet(left, right, columns):
    """Count a multiply and an add for each entry of one matrix and each that it meets in the other."""
    return sum(2 for _, inner in left for row, column in right if row == inner and column < columns)


def all_of(rows, columns):
    return list(product(range(rows), range(columns)))


@pytest.mark.parametrize("name", ["mm", "_sparse_sparse_matmul", "hspmm"])
def test_an_entry_meets_a_row_of_a_dense_matrix(name):
    """Else a graph of a million nodes costs as if each were the neighbour of each."""
    assert parts_of(name, A, (6, 3)) == {"matmul": meet(ENTRIES, all_of(6, 3), 3)}


def test_a_row_of_a_dense_matrix_meets_the_entries_of_a_sparse_one():
    assert parts_of("mm", (7, 4), A) == {"matmul": meet(all_of(7, 4), ENTRIES, 6)}


@pytest.mark.parametrize(("left", "right"), [(1, 1), (2, 2), (3, 2), (2, 4), (0, 3), (6, 6)])
def test_two_sparse_matrices_cost_the_most_that_their_entries_can_meet(left, right):
    """Else the bound is none, or one that no pattern reaches."""
    patterns = product(combinations(all_of(2, 3), left), combinations(all_of(3, 2), right))
    most = max(meet(one, two, 2) for one, two in patterns)
    found = parts_of("mm", TensorSpec((2, 3), stored=left), TensorSpec((3, 2), stored=right))
    assert found["matmul"] >= most
    assert found == {"matmul": 2 * min(left * 2, 2 * right, left * right)}


def test_batches_and_vectors():
    batch = TensorSpec((2, 4, 6), stored=9)
    assert parts_of("bmm", batch, (2, 6, 3)) == {"matmul": sum(2 for _ in range(9) for _ in range(3))}
    assert parts_of("mv", A, (6,)) == {"matmul": meet(ENTRIES, all_of(6, 1), 1)}


@pytest.mark.parametrize(
    ("options", "extra"),
    [({}, 12), ({"beta": 0}, 0), ({"beta": ANY}, 12 + 3), ({"alpha": ANY}, 12 + 12), ({"beta": 0, "alpha": 2}, 12)],
)
def test_a_bias_is_added_to_each_element_of_a_dense_result(options, extra):
    found = parts_of("addmm", (3,), A, (6, 3), out=[TensorSpec((4, 3))], **options)
    assert found.pop("matmul") == 5 * 3 * 2
    assert found == ({"pointwise": extra} if extra else {})


def test_a_sparse_sum_is_added_at_what_it_stores():
    old, result = TensorSpec((4, 3), stored=4), TensorSpec((4, 3), stored=10)
    found = parts_of("sspaddmm", old, A, (6, 3), out=[result], beta=0.5, alpha=ANY)
    assert found == {"matmul": 30, "pointwise": 4 + 4 + 10}


@pytest.mark.parametrize(
    ("options", "each"), [({}, 1), ({"beta": 0}, 0), ({"beta": ANY}, 2), ({"beta": 0, "alpha": 2}, 1)]
)
def test_products_are_sampled_where_entries_are_stored(options, each):
    """Else attention over the edges of a graph costs the full square."""
    found = parts_of("sparse_sampled_addmm", A, (4, 7), (7, 6), **options)
    assert found.pop("matmul") == sum(2 for _ in ENTRIES for _ in range(7))
    assert found == ({"pointwise": 5 * each} if each else {})


def test_messages_are_summed_averaged_or_compared():
    assert parts_of("_sparse_mm_reduce_impl", A, (6, 3), "sum") == {"matmul": 30}
    assert parts_of("_sparse_mm_reduce_impl", A, (6, 3), "mean") == {"matmul": 30, "pointwise": 4 * 3}
    assert parts_of("_sparse_mm_reduce_impl", A, (6, 3), "amax") == {"pointwise": 15}


@pytest.mark.parametrize(
    ("reduce", "mask", "expected"),
    [
        ("sum", [True, True], {"matmul": 60}),
        ("sum", [False, True], {"matmul": 30}),
        ("mean", [True, True], {"matmul": 60, "pointwise": 10}),
        ("amin", [True, True], {"pointwise": 24, "scatter": 24}),
        ("amax", [True, False], {"pointwise": 12, "scatter": 12}),
        ("mean", [False, False], {"matmul": 0}),
    ],
)
def test_gradients_of_messages_are_counted_where_they_are_asked_for(reduce, mask, expected):
    name = "_sparse_mm_reduce_impl_backward"
    assert parts_of(name, A, (4, 3), (6, 3), reduce, (0,), mask) == expected


@pytest.mark.parametrize("name", UNARY)
def test_a_function_is_applied_to_what_is_stored(name):
    assert parts_of(name, A) == {"pointwise": 5}


def test_powers_of_what_is_stored():
    assert parts_of("pow", A, 2) == {"pointwise": 5}
    assert parts_of("pow", A, 3) == {"pointwise": 10}
    assert parts_of("pow", A, 1) == {"pointwise": 0}


def test_factors_and_sums_touch_what_both_store():
    """Else one step with the gradient of an embedding costs as much as its whole table."""
    fewer = TensorSpec((4, 6), stored=3)
    assert parts_of("mul", A, ANY) == {"pointwise": 5}
    assert parts_of("div", A, ANY) == {"pointwise": 5}
    assert parts_of("mul", (4, 6), A) == {"pointwise": 5}
    assert parts_of("mul", A, fewer) == {"pointwise": 3}
    assert parts_of("add", (4, 6), A) == {"pointwise": 5}
    assert parts_of("add", (4, 6), A, alpha=ANY) == {"pointwise": 5 + 5}
    assert parts_of("sub", A, fewer) == {"pointwise": 3}
    assert parts_of("add", A, fewer, alpha=-1) == {"pointwise": 3 + 3}


def test_entries_are_added_up_until_the_result_is_left():
    assert parts_of("_coalesce", A, out=[TensorSpec((4, 6), stored=2)]) == {"reduction": 3}
    assert parts_of("sum", A, out=[TensorSpec(())]) == {"reduction": 4}
    assert parts_of("_sparse_sum", A, [0], out=[TensorSpec((6,), stored=4)]) == {"reduction": 1}
    assert parts_of("sum", A, [0], out=[TensorSpec((6,))]) == {"reduction": 0}


def test_a_norm_and_a_softmax_of_what_is_stored():
    assert parts_of("norm", A) == {"reduction": 10}
    assert parts_of("norm", A, 2.0, []) == {"reduction": 10}
    assert parts_of("_sparse_softmax", A, 1, False) == {"normalization": 20}
    assert parts_of("_sparse_log_softmax_backward_data", A, A, 1, A) == {"normalization": 20}


@pytest.mark.parametrize(("mode", "weights", "expected"), [(0, None, 0), (1, None, 21 + 2), (0, (7,), 21)])
def test_the_sparse_gradient_of_bags_adds_nothing_up(mode, weights, expected):
    ints = [(7,), (2,), (7,), (2,), (2,)]
    found = parts_of("_embedding_bag_backward", (2, 3), *ints, 10, False, mode, True, weights)
    assert found == {"pointwise": expected}


@pytest.mark.parametrize("name", LAYOUT)
def test_storing_a_tensor_in_another_way_costs_nothing(name):
    call = OpCall(op=f"aten::{name}", args=(A,), out=(A,))
    assert BOOK.cost(call) == Cost()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("mm", [A, (4, 3)]),
        ("mm", [(4, 6), (6, 3)]),
        ("mm", [TensorSpec((6,), stored=2), (6, 3)]),
        ("bmm", [TensorSpec((2, 4, 6), stored=9), (3, 6, 3)]),
        ("mv", [A, (4,)]),
        ("sparse_sampled_addmm", [A, (4, 7), (6, 6)]),
        ("sparse_sampled_addmm", [(4, 6), (4, 7), (7, 6)]),
        ("sparse_sampled_addmm", [A, (4, 7), (7, 5)]),
        ("_sparse_mm_reduce_impl", [A, (6, 3), "prod"]),
        ("_sparse_mm_reduce_impl_backward", [A, (5, 3), (6, 3), "sum", (0,), [True, True]]),
        ("_sparse_mm_reduce_impl_backward", [A, (4, 3), (6, 3), "sum", (0,), None]),
        ("norm", [A, 3]),
        ("_embedding_bag_backward", [(2, 3), (7,), (2,), (7,), (2,), (2,), 10, False, 2, True, None]),
    ],
)
def test_what_does_not_fit_is_refused(name, args):
    with pytest.raises(FormulaError, match=name):
        parts_of(name, *args)


def test_a_sparse_call_is_never_priced_by_its_shape():
    """Else an operator that nobody thought of costs what a dense matrix of the same size costs."""
    assert BOOK.cost(OpCall.of("aten::exp", A, out=[(4, 6)])) is None
    assert BOOK.cost(OpCall(op="aten::exp", args=(TensorSpec((4, 6)),), out=(A,))) is None
    assert BOOK.cost(OpCall.of("aten::mm", TensorSpec((4, 6), "complex64", stored=5), (6, 3))) is None
    assert BOOK.cost(OpCall.of("aten::clone", A)) == Cost()
    assert BOOK.cost(OpCall.of("aten::mm", A, (6, 3))).flop == 30
    assert BOOK.cost(OpCall.of("aten::add_", (4, 6), A)).flop == 5
