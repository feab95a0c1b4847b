"""Jagged tensors, counted row by row."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.jagged import FORMULAS, NOTHING, RATES

LENGTHS = (3, 0, 7)
L, B = sum(LENGTHS), len(LENGTHS)


def cost_of(op, *args, **options):
    found = FORMULAS[f"fbgemm::{op}"][1](OpCall.of(f"fbgemm::{op}", *args, **options))
    return found if isinstance(found, int) else {part.kind: part.flop for part in found.parts}


def over_rows(each):
    return sum(each for length in LENGTHS for _row in range(length))


def test_each_row_meets_the_matrix_of_its_example():
    expected = over_rows(2 * 4 * 8)
    for op in ("jagged_dense_bmm", "jagged_dense_bmm_forward"):
        assert cost_of(op, (L, 4), (B + 1,), (B, 4, 8), 7) == expected
    assert cost_of("sll_jagged_dense_bmm", (L, 4), (B, 4, 8), (B + 1,), 7, False) == expected


def test_rows_meet_rows():
    """The result is (B, M, N): each pair of columns is a sum over the rows of an example."""
    expected = over_rows(2 * 4 * 8)
    for op in ("jagged_jagged_bmm", "jagged_jagged_bmm_forward"):
        assert cost_of(op, (L, 4), (L, 8), (B + 1,), 7) == expected


def test_a_vector_weighs_the_rows_of_its_example():
    heads, width = 2, 4
    v, values = (B * heads, 7), (L, heads * width)
    assert cost_of("batched_dense_vec_jagged_2d_mul_forward", v, values, (B + 1,)) == over_rows(heads * 2 * width)
    both = cost_of("batched_dense_vec_jagged_2d_mul_backward", (B * heads, width), v, values, (B + 1,))
    assert both == over_rows(heads * 2 * width) * len(["of the vector", "of the rows"])


@pytest.mark.parametrize("op", RATES)
def test_only_rows_that_are_there_are_added_or_multiplied(op):
    dense = [(B, 7, 4)] * (2 if "dense_dense" in op else 1)
    assert cost_of(op, (L, 4), [(B + 1,)], *dense) == over_rows(4) * len(dense)
    assert cost_of("jagged_dense_elementwise_mul_backward", (L, 4), [(B + 1,)], (B, 7, 4), (L, 4)) == over_rows(8)


def test_a_softmax_over_the_rows_of_each_example():
    steps = {"subtract": L * 4, "exp": L * 4, "sums": L * 4 - B * 4, "divide": L * 4}
    assert cost_of("jagged_softmax_forward", (L, 4), (B + 1,), 7) == sum(steps.values())
    assert cost_of("jagged_softmax_backward", (L, 4), (L, 4), (B + 1,), 7) == sum(steps.values())


def test_sums():
    assert cost_of("segment_sum_csr", 2, (B + 1,), (2 * L,), out=[(B,)]) == 2 * L - B
    assert cost_of("asynchronous_exclusive_cumsum", (10,), dtype="int64", out=[(10,)]) == 9
    assert cost_of("asynchronous_complete_cumsum", (0,), dtype="int64", out=[(1,)]) == 0


def test_a_linear_layer_for_each_of_a_batch_in_the_middle():
    found = cost_of("permute102_baddbmm_permute102", (3, 6), (5, 3, 4), (3, 4, 6))
    assert found == {"matmul": sum(2 * 4 for _ in range(5 * 3 * 6)), "pointwise": 5 * 3 * 6}


def test_what_only_moves_costs_nothing():
    assert all(cost_of(op, (L, 4), (B + 1,)) == {} for op in NOTHING)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("jagged_dense_bmm_forward", ((L, 5), (B + 1,), (B, 4, 8), 7)),
        ("jagged_jagged_bmm_forward", ((L, 4), (L + 1, 8), (B + 1,), 7)),
        ("jagged_softmax_forward", ((L,), (B + 1,), 7)),
        ("permute102_baddbmm_permute102", ((3, 6), (5, 2, 4), (3, 4, 6))),
    ],
)
def test_what_does_not_fit_is_refused(op, args):
    with pytest.raises(FormulaError):
        cost_of(op, *args)
