"""Graph operators, counted edge by edge."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.graph import FORMULAS, NOTHING, SPLINE_PLACES


def cost_of(op, *args, **options):
    found = FORMULAS[f"pyg::{op}"][1](OpCall.of(f"pyg::{op}", *args, **options))
    return found if isinstance(found, int) else {part.kind: part.flop for part in found.parts}


@pytest.mark.parametrize(("edges", "inner", "outer", "groups"), [(10, 4, 8, 3), (1, 1, 1, 1), (7, 2, 3, 9)])
def test_each_row_is_multiplied_with_the_weights_of_its_segment(edges, inner, outer, groups):
    expected = 0
    for _row in range(edges):
        for _out in range(outer):
            expected += 2 * inner
    assert cost_of("segment_matmul", (edges, inner), (groups + 1,), (groups, inner, outer)) == expected


def test_a_list_of_products_is_their_sum():
    assert cost_of("grouped_matmul", [(2, 3), (5, 4)], [(3, 6), (4, 1)]) == 2 * (2 * 3 * 6) + 2 * (5 * 4 * 1)
    assert cost_of("grouped_matmul", [], []) == 0


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_sparse_product_multiplies_where_there_are_edges(batch):
    """Without values the neighbours are added up, and one of them comes for nothing."""
    b = 3 if batch else 1
    x, out = (*batch, 4, 8), [(*batch, 5, 8)]
    assert cost_of("spmm_sum", (6,), (20,), (20,), x, out=out) == {"matmul": 2 * 20 * 8 * b}
    assert cost_of("spmm_sum", (6,), (20,), None, x, out=out) == {"matmul": 0, "reduction": (20 - 5) * 8 * b}


def test_sums_and_means_by_index_and_by_segment():
    rows, channels, groups = 10, 4, 3
    source, out = (rows, channels), [(groups, channels)]
    n, m = rows * channels, groups * channels
    assert cost_of("scatter_sum", source, source, 0, out=out) == n
    assert cost_of("scatter_mul", source, source, 0, out=out) == n
    assert cost_of("scatter_mean", source, source, 0, out=out) == {"scatter": n, "pointwise": m}
    assert cost_of("segment_sum_csr", source, (groups + 1,), out=out) == n - m
    assert cost_of("segment_sum_csr", source, (groups + 1,), (groups, channels), out=out) == n
    assert cost_of("segment_sum_coo", source, (rows,), None, groups, out=out) == n - m
    assert cost_of("segment_mean_csr", source, (groups + 1,), out=out) == {"reduction": n - m, "pointwise": m}


def test_more_segments_than_rows_cost_nothing_rather_than_less():
    assert cost_of("segment_sum_csr", (2, 4), (6,), out=[(5, 4)]) == 0


@pytest.mark.parametrize("op", ["softmax_csr", "softmax_csr_backward"])
@pytest.mark.parametrize(("shape", "dim"), [((10, 4), 0), ((4, 10), 1), ((4, 10), -1)])
def test_a_softmax_over_segments(op, shape, dim):
    steps = {"subtract": 40, "exp": 40, "sums": 40 - 3 * 4, "divide": 40}
    given = [shape] if op == "softmax_csr" else [shape, shape]
    assert cost_of(op, *given, (4,), dim) == sum(steps.values())


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_one_operation_between_picked_rows(name):
    assert cost_of("sampled_op", (4, 8), (5, 8), (20,), (20,), name, out=[(20, 8)]) == 160


def test_a_spline_convolution_and_its_gradients():
    e, i, o, s, w = 10, 4, 8, 9, 25
    x, weight, basis, dy = (e, i), (w, i, o), (e, s), (e, o)
    through_weights = sum(2 * i * o for _edge in range(e) for _basis in range(s))
    times_basis, over_bases = e * s * o, 2 * e * s * o
    assert cost_of("spline_weighting", x, weight, basis, basis) == {"matmul": through_weights + over_bases}
    gradient = {"matmul": through_weights, "pointwise": times_basis}
    assert cost_of("spline_weighting_backward_x", dy, weight, basis, basis) == gradient
    assert cost_of("spline_weighting_backward_weight", dy, x, basis, basis, w) == gradient
    assert cost_of("spline_weighting_backward_basis", dy, x, weight, basis) == {"matmul": through_weights + over_bases}


def test_what_picks_and_compares_costs_nothing():
    for name in NOTHING:
        assert cost_of(name, (10, 4), (4,), out=[(10, 4)]) == {}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("segment_matmul", ((10, 4), (4,), (3, 5, 8))),
        ("segment_matmul", ((10,), (4,), (3, 4, 8))),
        ("grouped_matmul", ([(2, 3)], [(4, 6)])),
        ("spmm_sum", ((6,), (20,), (20,), (4,))),
        ("softmax_csr", ((10, 4), (4,), 2)),
        ("sampled_op", ((4, 8), (5, 8), (20,), (20,), "pow")),
        ("spline_weighting", ((9, 4), (25, 4, 8), (10, 9), (10, 9))),
        ("spline_weighting_backward_x", ((10, 7), (25, 4, 8), (10, 9), (10, 9))),
    ],
)
def test_what_does_not_fit_is_refused(op, args):
    with pytest.raises(FormulaError):
        cost_of(op, *args)


def test_every_operator_has_a_place():
    assert {"pyg::spline_weighting"} < set(SPLINE_PLACES) < set(FORMULAS)
