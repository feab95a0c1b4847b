"""Distances between all rows of two matrices, or of one, and their gradients.

A distance of order p is the norm of a difference; the Euclidean one of many rows goes by way of products, as torch
computes it. Distances of pairs (`pairwise_distance`, cosine similarity) are made of other operators.
Not here: the distance of two whole tensors (`reduction`).
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import Arg, OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part

# B batch, R and S rows, K width of a row, P pairs of rows

MANY_ROWS = 25
"""With more rows than this, and order 2, torch goes by way of products unless it is told otherwise."""


def count_by_products(call: OpCall) -> Cost:
    """Cost of Euclidean distances by way of products: √(x·x − 2·x·y + y·y).

    Shapes: x (B…, R, K), y (B…, S, K) → (B…, R, S).
    Counts: 2·B·R·S·(K + 2) products, of rows with their squared lengths and with 1; pointwise squares B·(R + S)·K,
        −2·x B·R·K, roots B·R·S; adds of the squares B·(R + S)·(K − 1) (reduction).
    Ignores: the bound on what is rooted (compares).
    Source: docs/spec/fm-1.md#distance; torch's decomposition.

    Raises:
        FormulaError: the rows have other widths or batches.

    Example:
        >>> count_by_products(OpCall.of("aten::_euclidean_dist", (2, 3), (5, 3), out=[(2, 5)])).flop
        151
    """
    one, two = call.tensor(0), call.tensor(1)
    batch, rows, others, width = _sizes(call, one, two)
    if not batch * rows * others * width:
        return Cost.of(Part(kind="matmul"))
    squares = batch * (rows + others) * width
    return Cost.of(
        Part(kind="matmul", flop=2 * batch * rows * others * (width + 2)),
        Part(kind="pointwise", flop=squares + batch * rows * width + batch * rows * others),
        Part(kind="reduction", flop=squares - batch * (rows + others)),
    )


def count_distances(call: OpCall) -> Cost:
    """Cost of the distances between all rows of two matrices.

    Shapes: x (B…, R, K), y (B…, S, K), batches broadcast, P = B·R·S pairs → (B…, R, S).
    Counts: P·K to subtract (pointwise), and the norm of P rows (reduction): order 2: 2·P·K; 1: 2·P·K − P; 0: P·K − P;
        infinity P·K; another 3·P·K. As `_euclidean_dist` where torch goes that way: order 2, and a mode that asks for
        it or leaves it open with more than 25 rows on a side.
    Ignores: compares.
    Source: docs/spec/fm-1.md#distance.

    Raises:
        FormulaError: the rows have other widths or batches.

    Example:
        >>> count_distances(OpCall.of("aten::_cdist_forward", (2, 3), (5, 3), 2.0, None, out=[(2, 5)])).flop
        90
    """
    one, two, order, mode = call.tensor(0), call.tensor(1), call.arg(2), call.arg(3)
    batch, rows, others, width = _sizes(call, one, two)
    is_open = mode is None or is_exactly(mode, 0)
    if is_exactly(order, 2) and (is_exactly(mode, 1) or (is_open and max(rows, others) > MANY_ROWS)):
        return count_by_products(call)
    return _lengths(batch * rows * others, width, order)


def count_own_distances(call: OpCall) -> Cost:
    """Cost of the distances between all rows of one matrix.

    Shapes: x (R, K), P = R·(R − 1)/2 pairs → (P,).
    Counts: as `_cdist_forward` without products.
    Ignores: compares.
    Source: docs/spec/fm-1.md#distance.

    Example:
        >>> count_own_distances(OpCall.of("aten::_pdist_forward", (4, 3), out=[(6,)])).flop
        54
    """
    rows, width = _matrix(call, call.tensor(0))
    return _lengths(rows * (rows - 1) // 2, width, call.arg(1, 2))


def count_distances_backward(call: OpCall) -> Cost:
    """Cost of the gradient of the distances between all rows of two matrices, for the first of them.

    Shapes: dy (B…, R, S), x (B…, R, K), y (B…, S, K), P = B·R·S pairs → dx (B…, R, K).
    Counts: for each of P·K elements the difference and its share (pointwise): order 2 `dy·(x − y)/d` 2; 1 `dy·sign` 1;
        infinity `|x − y| = d`, `dy·sign` 2; another `|x − y|ᵖ⁻²·(x − y)·dy / dᵖ⁻¹` 6; P·K − B·R·K adds over the rows
        of y (reduction). Order 0 has no gradient and costs nothing.
    Ignores: signs and other compares.
    Source: docs/spec/fm-1.md#distance; torch's kernels.

    Raises:
        FormulaError: the rows have other widths or batches.

    Example:
        >>> call = OpCall.of("aten::_cdist_backward", (2, 5), (2, 3), (5, 3), 2.0, (2, 5), out=[(2, 3)])
        >>> count_distances_backward(call).flop
        114
    """
    batch, rows, others, width = _sizes(call, call.tensor(1), call.tensor(2))
    elements, order = batch * rows * others * width, call.arg(3)
    return _shares(elements, order, adds=elements - batch * rows * width)


def count_own_distances_backward(call: OpCall) -> Cost:
    """Cost of the gradient of the distances between all rows of one matrix.

    Shapes: dy (P,), x (R, K), P = R·(R − 1)/2 pairs → dx (R, K).
    Counts: as `_cdist_backward` for each of P·K elements; each share is brought into two rows, 2·P·K − R·K adds.
    Ignores: signs and other compares.
    Source: docs/spec/fm-1.md#distance; torch's kernels.

    Example:
        >>> call = OpCall.of("aten::_pdist_backward", (6,), (4, 3), 2.0, (6,), out=[(4, 3)])
        >>> count_own_distances_backward(call).flop
        78
    """
    rows, width = _matrix(call, call.tensor(1))
    elements = rows * (rows - 1) // 2 * width
    return _shares(elements, call.arg(2), adds=max(2 * elements - rows * width, 0))


def _matrix(call: OpCall, spec: TensorSpec) -> tuple[int, int]:
    if len(spec.shape) != 2:
        msg = f"{spec} is no matrix"
        raise FormulaError(msg, where=call.op)
    return spec.shape[0], spec.shape[1]


def _sizes(call: OpCall, one: TensorSpec, two: TensorSpec) -> tuple[int, int, int, int]:
    """Return the batch after broadcasting, the rows of both, and their width."""
    outer = (one.shape[:-2], two.shape[:-2])
    rank = max(map(len, outer))
    pairs = list(zip(*((1,) * (rank - len(shape)) + shape for shape in outer), strict=True))
    fits = min(len(one.shape), len(two.shape)) > 1 and one.shape[-1] == two.shape[-1]
    if not fits or any(1 not in sizes and sizes[0] != sizes[1] for sizes in pairs):
        msg = f"{one} and {two} have no rows to compare"
        raise FormulaError(msg, where=call.op)
    batch = math.prod(next((size for size in sizes if size != 1), 1) for sizes in pairs)
    return batch, one.shape[-2], two.shape[-2], one.shape[-1]


def _lengths(pairs: int, width: int, order: Arg) -> Cost:
    """Return the cost of a difference and its norm for each pair of rows."""
    size = pairs * width
    if is_exactly(order, 2):
        norm = 2 * size
    elif is_exactly(order, 1) or is_exactly(order, 0):
        norm = (2 if is_exactly(order, 1) else 1) * size - min(pairs, size)
    else:
        norm = size if order == "inf" or is_exactly(order, math.inf) else 3 * size
    return Cost.of(Part(kind="pointwise", flop=size), Part(kind="reduction", flop=norm))


def _shares(elements: int, order: Arg, *, adds: int) -> Cost:
    """Return the cost of what each pair of rows brings to the gradient of one, and of adding that up."""
    if is_exactly(order, 0):
        return Cost.of(Part(kind="pointwise"))
    if is_exactly(order, 1):
        rate = 1
    else:
        rate = 2 if is_exactly(order, 2) or order == "inf" or is_exactly(order, math.inf) else 6
    return Cost.of(
        Part(kind="pointwise", flop=(1 + rate) * elements), Part(kind="reduction", flop=adds if elements else 0)
    )


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_euclidean_dist": ("matmul", count_by_products),
    "aten::_cdist_forward": ("pointwise", count_distances),
    "aten::_cdist_backward": ("pointwise", count_distances_backward),
    "aten::_pdist_forward": ("pointwise", count_own_distances),
    "aten::_pdist_backward": ("pointwise", count_own_distances_backward),
}
