"""Adding into rows by index: gradients of embeddings, gathers and index operations, and scatter sums.

Looking rows up is copying and costs nothing (`movement`); adding them up is kind `scatter`, one add per element.
Not here: pooling's gradients (`pooling`), sums over bags of rows (`bag`).
"""

import math
from collections.abc import Callable

from flopmeter.formulas.call import Arg, OpCall, TensorSpec, broadcast_size, is_exactly
from flopmeter.formulas.cost import Cost, Part

COUNTS = ("bincount", "histogram", "_histogramdd_from_bin_cts", "_histogramdd_from_bin_tensors")

# N indices, D elements per row, V rows of the table


def count_embedding_backward(call: OpCall) -> int:
    """Cost of the gradient of an embedding table.

    Shapes: dy (N…, D), indices (N…) → (V, D).
    Counts: N·D adds, one per element of dy; N·D divisions where the gradient is scaled by frequency.
    Ignores: that rows of the padding index are skipped, which only values would tell, and that the first add into a
        row adds to zero.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_embedding_backward(OpCall.of("aten::embedding_dense_backward", (2, 3, 4), (2, 3), 10, -1, False))
        24
    """
    size = call.tensor(0).size
    return 2 * size if call.arg(4) is True else size


def count_index_add(call: OpCall) -> Cost:
    """Cost of adding the rows of a source into a tensor.

    Shapes: x (V, D), index (N,), source (N, D) → (V, D).
    Counts: N·D adds; pointwise N·D where alpha is not 1.
    Ignores: that the first add into a row may add to zero.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_index_add(OpCall.of("aten::index_add", (10, 4), 0, (3,), (3, 4))).flop
        12
    """
    size = call.tensor(3).size
    alpha = call.arg(4, call.option("alpha", 1))
    return Cost.of(Part(kind="scatter", flop=size), Part(kind="pointwise", flop=0 if is_exactly(alpha, 1) else size))


def count_scatter_add(call: OpCall) -> int:
    """Cost of adding elements into places that an index of the same shape names.

    Shapes: x (V…), index (N…), source at least as large as index → (V…).
    Counts: one add per element of the index.
    Ignores: that the first add into a place may add to zero.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_scatter_add(OpCall.of("aten::scatter_add", (10, 4), 0, (3, 4), (5, 4)))
        12
    """
    return call.tensor(2).size


def count_scatter(call: OpCall) -> int:
    """Cost of `scatter`: a copy, or with `reduce` an add or a multiply per element of the index.

    Shapes: x (V…), index (N…), source or a number → (V…).
    Counts: numel(index) where `reduce` is add or multiply, else 0.
    Ignores: compares.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_scatter(OpCall.of("aten::scatter", (10, 4), 0, (3, 4), (3, 4)))
        0
        >>> count_scatter(OpCall.of("aten::scatter", (10, 4), 0, (3, 4), (3, 4), reduce="add"))
        12
    """
    return call.tensor(2).size if call.option("reduce") in {"add", "multiply"} else 0


def count_scatter_reduce(call: OpCall) -> Cost:
    """Cost of `scatter_reduce` and `index_reduce`.

    Shapes: x (V…), index, source → (V…).
    Counts: one operation per element that is brought in for sum, prod and mean (`index_reduce`: numel(source),
        `scatter_reduce`: numel(index)), pointwise numel(x) divisions for mean; 0 for amax and amin.
    Ignores: compares, and counting how many elements met.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_scatter_reduce(OpCall.of("aten::scatter_reduce", (10, 4), 0, (3, 4), (3, 4), "sum")).flop
        12
        >>> count_scatter_reduce(OpCall.of("aten::scatter_reduce", (10, 4), 0, (3, 4), (3, 4), "amax")).flop
        0
    """
    how = call.arg(4)
    if how in {"amax", "amin"}:
        return Cost.of(Part(kind="scatter"))
    size = call.tensor(3 if "index_reduce" in call.op else 2).size
    divisions = call.tensor(0).size if how == "mean" else 0
    return Cost.of(Part(kind="scatter", flop=size), Part(kind="pointwise", flop=divisions))


def count_index_put(call: OpCall) -> int:
    """Cost of writing, or with `accumulate` adding, values at indexed places.

    Shapes: x (V…), a list of index tensors (some absent), values that broadcast to the indexed region → (V…).
    Counts: with `accumulate` one add per element of the region: the broadcast index shape times the dimensions that
        have no index; the elements of `values` where an index is a mask. Without it 0.
    Ignores: that the first add into a place may add to zero.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_index_put(OpCall.of("aten::index_put", (10, 4), [(3,)], (3, 4), True))
        12
        >>> count_index_put(OpCall.of("aten::index_put", (10, 4), [(3,)], (3, 4)))
        0
    """
    return _region(call.tensor(0), call.arg(1), call.tensor(2)) if call.arg(3) is True else 0


def count_masked_put(call: OpCall) -> int:
    """Cost of adding values at indexed places where a mask allows it.

    Shapes: x (V…), a mask, a list of index tensors (some absent), values that broadcast to the region → (V…).
    Counts: one add per element of the region.
    Ignores: places that the mask leaves out, at which zero is added.
    Source: docs/spec/fm-1.md#embedding; the decomposition in torch.

    Example:
        >>> op = "aten::_unsafe_masked_index_put_accumulate"
        >>> count_masked_put(OpCall.of(op, (10, 4), (3,), [(3,)], (3, 4)))
        12
    """
    return _region(call.tensor(0), call.arg(2), call.tensor(3))


def count_weighted_counts(call: OpCall) -> Cost:
    """Cost of counting into bins: counting is free, adding weights up is not.

    Shapes: n places, weights (n,) optional → b bins in all, along one dimension or several.
    Counts: n adds where there are weights; for a density b − 1 adds (reduction) and b divisions, and for each
        dimension the widths of its bins and b divisions more (pointwise).
    Ignores: finding the bin of an element, elements outside.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_weighted_counts(OpCall.of("aten::bincount", (9,), (9,), out=[(4,)])).flop
        9
        >>> count_weighted_counts(OpCall.of("aten::bincount", (9,), out=[(4,)])).flop
        0
    """
    weights = call.arg(1) if call.op == "aten::bincount" else call.option("weight")
    adds = Part(kind="scatter", flop=weights.size if isinstance(weights, TensorSpec) else 0)
    if call.option("density") is not True:
        return Cost.of(adds)
    bins = call.out[0]
    return Cost.of(
        adds,
        Part(kind="reduction", flop=max(bins.size - 1, 0)),
        Part(kind="pointwise", flop=bins.size + sum(along + bins.size for along in bins.shape)),
    )


def count_put(call: OpCall) -> int:
    """Cost of `put`: with `accumulate` one add per element of the index, else 0.

    Shapes: x (V…), index (N…), source (N…) → (V…).
    Counts: numel(index) where elements are added up.
    Ignores: copies.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_put(OpCall.of("aten::put", (10,), (3,), (3,), True))
        3
    """
    return call.tensor(1).size if call.arg(3) is True else 0


def count_gradient_adds(call: OpCall) -> int:
    """Cost of gradients that add every element of dy into a zero tensor.

    Shapes: dy, and arguments that say where its elements go.
    Counts: numel(dy) adds.
    Ignores: that the first add into a place adds to zero.
    Source: docs/spec/fm-1.md#embedding.

    Example:
        >>> count_gradient_adds(OpCall.of("aten::unfold_backward", (3, 4), [6], 0, 4, 1))
        12
    """
    return call.tensor(0).size


def _region(data: TensorSpec, indices: Arg, values: TensorSpec) -> int:
    """Elements that are written: the broadcast index shape times the dimensions that have no index."""
    items = indices if isinstance(indices, tuple) else ()
    found = [index if isinstance(index, TensorSpec) else None for index in items]
    present = [index for index in found if index is not None]
    if any(index.dtype in {"bool", "uint8"} for index in present):
        return values.size
    free = [size for place, size in enumerate(data.shape) if place >= len(found) or found[place] is None]
    return broadcast_size(*present) * math.prod(free)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::embedding_dense_backward": ("scatter", count_embedding_backward),
    "aten::index_add": ("scatter", count_index_add),
    "aten::scatter_add": ("scatter", count_scatter_add),
    "aten::scatter": ("scatter", count_scatter),
    "aten::scatter_reduce": ("scatter", count_scatter_reduce),
    "aten::index_reduce": ("scatter", count_scatter_reduce),
    "aten::index_put": ("scatter", count_index_put),
    "aten::_index_put_impl": ("scatter", count_index_put),
    "aten::_unsafe_index_put": ("scatter", count_index_put),
    "aten::_unsafe_masked_index_put_accumulate": ("scatter", count_masked_put),
    **{f"aten::{name}": ("scatter", count_weighted_counts) for name in COUNTS},
    "aten::put": ("scatter", count_put),
    "aten::unfold_backward": ("scatter", count_gradient_adds),
}
