"""Graph operators of libraries: products in groups, sums over edges, softmax over neighbours.

Edges and segments are counted by the shapes of what they bring in: a segment without an element and an edge that lies
beyond the last segment count like the others.
Not here: torch's own sparse products (`sparse`) and segment sums (`reduction`); operators that torch takes apart before
the hook sees them (`docs/reference/libraries.md`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import count_nothing

# n elements of the input, m of the output; E edges, C channels; S spline bases to an edge, I and O channels in and out

NOTHING = (
    "dist_neighbor_sample",
    "edge_sample",
    "gather_coo",
    "gather_csr",
    "graclus_cluster",
    "hetero_neighbor_sample",
    "hetero_relabel_neighborhood",
    "hetero_subgraph",
    "index_sort",
    "merge_sampler_outputs",
    "neighbor_sample",
    "random_walk",
    "relabel_neighborhood",
    "scatter_max",
    "scatter_min",
    "segment_max_coo",
    "segment_max_csr",
    "segment_min_coo",
    "segment_min_csr",
    "subgraph",
)
"""Sampling, sorting, gathering and comparing of pyg-lib."""


SPLINE_PLACES: dict[str, tuple[int | None, int | None, int | None]] = {
    "pyg::spline_weighting": (0, 1, None),
    "pyg::spline_weighting_backward_x": (None, 1, 0),
    "pyg::spline_weighting_backward_weight": (1, None, 0),
    "pyg::spline_weighting_backward_basis": (1, 2, 0),
}
"""Where x, the weights and the gradient stand."""


def count_segment_matmul(call: OpCall) -> int:
    """Cost of one product for each segment of rows.

    Shapes: x (E, I), pointers (G + 1,), weights (G, I, O) → (E, O).
    Counts: 2·E·I·O.
    Ignores: where the segments end.
    Source: docs/spec/fm-1.md#graph.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_segment_matmul(OpCall.of("pyg::segment_matmul", (10, 4), (4,), (3, 4, 8)))
        640
    """
    x, weight = call.tensor(0).shape, call.tensor(2).shape
    if len(x) != 2 or len(weight) != 3 or x[1] != weight[1]:
        call.refuse(f"x {x} and weights {weight} do not fit")
    return 2 * x[0] * weight[1] * weight[2]


def count_grouped_matmul(call: OpCall) -> int:
    """Cost of a list of products.

    Shapes: a_i (M_i, K_i), b_i (K_i, N_i) → (M_i, N_i).
    Counts: Σ 2·M_i·K_i·N_i.
    Source: docs/spec/fm-1.md#graph.

    Raises:
        FormulaError: the lists or the shapes in them do not fit.

    Example:
        >>> count_grouped_matmul(OpCall.of("pyg::grouped_matmul", [(2, 3), (5, 4)], [(3, 6), (4, 1)]))
        112
    """
    pairs = [(a.shape, b.shape) for a, b in zip(call.tensor_list(0), call.tensor_list(1), strict=True)]
    for a, b in pairs:
        if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
            call.refuse(f"{a} and {b} do not fit")
    return sum(2 * a[0] * a[1] * b[1] for a, b in pairs)


def count_spmm(call: OpCall) -> Cost:
    """Cost of a sparse matrix times a dense one, for each row the sum over its edges.

    Shapes: row pointers (M + 1,), columns (E,), values (E,) optional, x (…, N, C) → (…, M, C).
    Counts: matmul 2·E·C with values; without them the sums alone, reduction E·C − M·C.
    Ignores: rows without an edge.
    Source: docs/spec/fm-1.md#graph.

    Raises:
        FormulaError: x is no (…, N, C).

    Example:
        >>> count_spmm(OpCall.of("pyg::spmm_sum", (5,), (20,), (20,), (4, 8), out=[(4, 8)])).parts[0]
        Part(kind='matmul', flop=320, masked_flop=0, phase=None, precision=None, basis='counted')
    """
    edges, x, out = call.tensor(1).size, call.tensor(3).shape, call.out_size
    if len(x) < 2:
        call.refuse(f"x {x} has no channels")
    brought = edges * call.tensor(3).size // max(x[-2], 1)
    if call.arg(2) is None:
        return Cost.of(Part(kind="matmul"), Part(kind="reduction", flop=max(0, brought - out)))
    return Cost.of(Part(kind="matmul", flop=2 * brought))


def count_scatter(call: OpCall) -> int:
    """Cost of a sum or product by index.

    Shapes: source with n elements, index (broadcast to it) → any.
    Counts: n.
    Source: docs/spec/fm-1.md#graph.

    Example:
        >>> count_scatter(OpCall.of("pyg::scatter_sum", (10, 4), (10, 4), 0))
        40
    """
    return call.tensor(0).size


def count_scatter_mean(call: OpCall) -> Cost:
    """Cost of a mean by index.

    Shapes: source with n elements, index (broadcast to it) → m elements.
    Counts: scatter n; pointwise m to divide.
    Ignores: counting the elements.
    Source: docs/spec/fm-1.md#graph.

    Example:
        >>> count_scatter_mean(OpCall.of("pyg::scatter_mean", (10, 4), (10, 4), 0, out=[(3, 4)])).flop
        52
    """
    return Cost.of(Part(kind="scatter", flop=call.tensor(0).size), Part(kind="pointwise", flop=call.out_size))


def count_segment_sum(call: OpCall) -> int:
    """Cost of the sum of each segment.

    Shapes: source with n elements → m elements.
    Counts: n − m; n where the sums go on top of a tensor that is given.
    Source: docs/spec/fm-1.md#graph.

    Example:
        >>> count_segment_sum(OpCall.of("pyg::segment_sum_csr", (10, 4), (4,), out=[(3, 4)]))
        28
    """
    size = call.tensor(0).size
    return size if call.arg(2) is not None else max(0, size - call.out_size)


def count_segment_mean(call: OpCall) -> Cost:
    """Cost of the mean of each segment.

    Shapes: source with n elements → m elements.
    Counts: reduction n − m, pointwise m to divide.
    Ignores: counting the elements.
    Source: docs/spec/fm-1.md#graph.

    Example:
        >>> count_segment_mean(OpCall.of("pyg::segment_mean_csr", (10, 4), (4,), out=[(3, 4)])).flop
        40
    """
    return Cost.of(
        Part(kind="reduction", flop=count_segment_sum(call)),
        Part(kind="pointwise", flop=call.out_size),
    )


def count_segment_softmax(call: OpCall) -> int:
    """Cost of a softmax over each segment, and of its gradient.

    Shapes: source with n elements, pointers (G + 1,) along one dimension → as the source.
    Counts: 4·n − m with m sums, one to a segment and channel: subtract the maximum, exp, sum, divide. As much for the
        gradient: dy·y, sum, times y, subtract.
    Source: docs/spec/fm-1.md#graph.

    Raises:
        FormulaError: the source has no such dimension.

    Example:
        >>> count_segment_softmax(OpCall.of("pyg::softmax_csr", (10, 4), (4,), 0))
        148
    """
    is_backward = call.op.endswith("_backward")
    x, pointers, dim = call.tensor(0), call.tensor(1 + is_backward), call.arg(2 + is_backward, 0)
    if not isinstance(dim, int) or not -len(x.shape) <= dim < len(x.shape):
        call.refuse(f"{x.shape} has no dimension {dim}")
    sums = (pointers.size - 1) * x.size // max(x.shape[dim], 1)
    return max(0, 4 * x.size - sums)


def count_sampled(call: OpCall) -> int:
    """Cost of one operation between rows that are picked by index.

    Shapes: left (A, C), right (B, C) → m elements.
    Counts: m for add, sub, mul or div.
    Source: docs/spec/fm-1.md#graph.

    Raises:
        FormulaError: another operation.

    Example:
        >>> count_sampled(OpCall.of("pyg::sampled_op", (4, 8), (5, 8), (20,), (20,), "add", out=[(20, 8)]))
        160
    """
    if call.arg(4) not in {"add", "sub", "mul", "div"}:
        call.refuse(f"operation {call.arg(4)} is not known")
    return call.out_size


def count_spline_weighting(call: OpCall) -> Cost:
    """Cost of a spline convolution's products over edges, and of its gradients.

    Shapes: x (E, I), weights (W, I, O), basis and index (E, S), dy (E, O) → (E, O).
    Counts: matmul 2·E·S·I·O for `W x` at each edge and basis, or its gradients; 2·E·S·O more for the sum over bases, or
        for the product with dy that is the gradient of the basis. Pointwise E·S·O for `dy·basis` in the gradients of x
        and of the weights.
    Source: docs/spec/fm-1.md#graph.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> call = OpCall.of("pyg::spline_weighting", (10, 4), (25, 4, 8), (10, 9), (10, 9))
        >>> count_spline_weighting(call).flop
        7200
    """
    x_at, weight_at, dy_at = SPLINE_PLACES[call.op]
    edges, bases = call.tensor(3).shape
    x, dy = (None if place is None else call.tensor(place).shape for place in (x_at, dy_at))
    weight = None if weight_at is None else call.tensor(weight_at).shape
    width_in, width_out = weight[1:] if weight else ((x or ())[-1], (dy or ())[-1])
    if x not in {None, (edges, width_in)} or dy not in {None, (edges, width_out)}:
        call.refuse(f"x {x}, weights {weight} and the gradient {dy} do not fit {edges} edges")
    inner, outer = 2 * edges * bases * width_in * width_out, edges * bases * width_out
    is_over_bases = call.op in {"pyg::spline_weighting", "pyg::spline_weighting_backward_basis"}
    return Cost.of(
        Part(kind="matmul", flop=inner + 2 * outer * is_over_bases),
        Part(kind="pointwise", flop=0 if is_over_bases else outer),
    )


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "pyg::segment_matmul": ("matmul", count_segment_matmul),
    "pyg::grouped_matmul": ("matmul", count_grouped_matmul),
    "pyg::spmm_sum": ("matmul", count_spmm),
    "pyg::scatter_sum": ("scatter", count_scatter),
    "pyg::scatter_mul": ("scatter", count_scatter),
    "pyg::scatter_mean": ("scatter", count_scatter_mean),
    "pyg::segment_sum_csr": ("reduction", count_segment_sum),
    "pyg::segment_sum_coo": ("reduction", count_segment_sum),
    "pyg::segment_mean_csr": ("reduction", count_segment_mean),
    "pyg::segment_mean_coo": ("reduction", count_segment_mean),
    "pyg::softmax_csr": ("normalization", count_segment_softmax),
    "pyg::softmax_csr_backward": ("normalization", count_segment_softmax),
    "pyg::sampled_op": ("pointwise", count_sampled),
    **dict.fromkeys(SPLINE_PLACES, ("matmul", count_spline_weighting)),
    **{f"pyg::{name}": ("other", count_nothing) for name in NOTHING},
}
