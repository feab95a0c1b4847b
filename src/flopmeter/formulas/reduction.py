"""Sums, means, variances, norms and scans.

Adding n numbers takes n − 1 adds. Maxima and minima compare and cost nothing.
Not here: softmax and the like (`normalization`), pooling (`pooling`), and adding by index (`embedding`).
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import Arg, OpCall, broadcast_size, is_exactly
from flopmeter.formulas.cost import Cost, Part

# n elements in, m elements out


def count_sum(call: OpCall) -> int:
    """Cost of adding (or multiplying) up.

    Shapes: n elements → m.
    Counts: n − m.
    Ignores: the order of the sum, missing values that are skipped.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_sum(OpCall.of("aten::sum", (2, 5), [1], out=[(2,)]))
        8
    """
    return _adds(call.tensor(0).size, call.out[0].size)


def count_mean(call: OpCall) -> int:
    """Cost of a mean.

    Shapes: n elements → m.
    Counts: n − m adds and m divisions: n.
    Ignores: the order of the sum.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_mean(OpCall.of("aten::mean", (2, 5), [1], out=[(2,)]))
        10
    """
    return call.tensor(0).size


def count_variance(call: OpCall) -> int:
    """Cost of a variance or a standard deviation, with or without the mean.

    Shapes: n elements → m (twice where the mean is given too).
    Counts: 4·n: mean n, subtract n, square n, sum n − m, divide m; m square roots for a deviation.
    Ignores: that one pass could do.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_variance(OpCall.of("aten::var", (2, 5), [1], out=[(2,)]))
        40
        >>> count_variance(OpCall.of("aten::std_mean", (2, 5), [1], out=[(2,), (2,)]))
        42
    """
    size = call.tensor(0).size
    roots = call.out[0].size if call.op.startswith("aten::std") and size else 0
    return 4 * size + roots


def count_norm(call: OpCall) -> int:
    """Cost of the length of vectors.

    Shapes: n elements → m.
    Counts: order 2: squares n, sum n − m, root m; order 1: absolute value n, sum n − m; order 0: sum n − m;
        infinity: absolute value n; another order: absolute value n, power n, sum n − m, root m.
    Ignores: compares.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_norm(OpCall.of("aten::linalg_vector_norm", (2, 5), 2, [1], out=[(2,)]))
        20
    """
    return _norm(call.tensor(0).size, call.out[0].size, call.arg(1, 2))


def count_list_norm(call: OpCall) -> int:
    """Cost of the length of each tensor of a list, as gradient clipping asks for it.

    Shapes: a list of tensors → one number each.
    Counts: as `linalg_vector_norm`, for each tensor.
    Ignores: compares.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_list_norm(OpCall.of("aten::_foreach_norm", [(2, 5), (4,)], 2))
        28
    """
    return sum(_norm(spec.size, 1, call.arg(1, 2)) for spec in call.tensor_list(0))


def count_power_sum(call: OpCall) -> int:
    """Cost of Σ|x|ᵖ of each tensor of a list.

    Shapes: a list of tensors, n elements in all → one number each.
    Counts: per tensor the norm of that order without its root.
    Ignores: compares.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_power_sum(OpCall.of("aten::_foreach_powsum", [(2, 5), (4,)], 2))
        26
    """
    return sum(_unrooted(spec.size, 1, call.arg(1, 2)) for spec in call.tensor_list(0))


def count_one_power_sum(call: OpCall) -> int:
    """Cost of Σ|x|ᵖ.

    Shapes: n elements → m.
    Counts: the norm of that order without its m roots.
    Ignores: compares.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_one_power_sum(OpCall.of("aten::linalg__powsum", (2, 5), 2, [1], out=[(2,)]))
        18
    """
    return _unrooted(call.tensor(0).size, call.out[0].size, call.arg(1, 2))


def count_logsumexp(call: OpCall) -> int:
    """Cost of log Σ exp.

    Shapes: n elements → m.
    Counts: 3·n + m: subtract the maximum n, exp n, sum n − m, log m, add the maximum m.
    Ignores: the maximum (compares).
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_logsumexp(OpCall.of("aten::logsumexp", (2, 5), [1], out=[(2,)]))
        32
    """
    size = call.tensor(0).size
    return 3 * size + call.out[0].size if size else 0


def count_scan(call: OpCall) -> int:
    """Cost of running sums or products along a dimension.

    Shapes: n elements in m rows → the same.
    Counts: n − m; a running log Σ exp 6·(n − m), one log-add-exp for each.
    Ignores: that a parallel scan does more.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_scan(OpCall.of("aten::cumsum", (2, 5), 1))
        8
    """
    shape = call.tensor(0).shape
    place = call.arg(1)
    if not isinstance(place, int):
        msg = f"argument 1 is {place}, not a dimension"
        raise FormulaError(msg, where=call.op)
    size = math.prod(shape)
    length = shape[place] if shape else 1
    steps = size - size // length if size else 0
    return (6 if call.op.endswith("logcumsumexp") else 1) * steps


def count_trace(call: OpCall) -> int:
    """Cost of adding up a diagonal.

    Shapes: (M, N) → ().
    Counts: min(M, N) − 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_trace(OpCall.of("aten::trace", (3, 5)))
        2
    """
    return max(min(call.tensor(0).shape) - 1, 0)


def count_distance(call: OpCall) -> int:
    """Cost of the length of a difference.

    Shapes: x and y broadcast to n elements → ().
    Counts: n to subtract, and the norm of that order.
    Ignores: compares.
    Source: docs/spec/fm-1.md#reduction; the decomposition in torch.

    Example:
        >>> count_distance(OpCall.of("aten::dist", (2, 5), (5,), 2))
        30
    """
    size = broadcast_size(call.tensor(0), call.tensor(1))
    return size + _norm(size, 1, call.arg(2, 2))


def count_rows_renormed(call: OpCall) -> Cost:
    """Cost of scaling down slices that are longer than allowed.

    Shapes: x with n elements, m slices along a dimension → the same.
    Counts: the norm of each slice; pointwise 3·m for the factor (add eps, reciprocal, multiply) and n to scale.
    Ignores: which slices are too long, which only values would tell: all are scaled.
    Source: docs/spec/fm-1.md#reduction; the decomposition in torch.

    Example:
        >>> count_rows_renormed(OpCall.of("aten::renorm", (4, 5), 2, 0, 0.5)).flop
        72
    """
    data, place = call.tensor(0), call.arg(2)
    if not isinstance(place, int) or not -len(data.shape) <= place < len(data.shape):
        msg = f"argument 2 is {place}, not a dimension of {data}"
        raise FormulaError(msg, where=call.op)
    slices = data.shape[place]
    return Cost.of(
        Part(kind="reduction", flop=_norm(data.size, slices, call.arg(1))),
        Part(kind="pointwise", flop=3 * slices + data.size if data.size else 0),
    )


def count_segments(call: OpCall) -> Cost:
    """Cost of reducing segments of rows.

    Shapes: n elements, their rows shared out among segments → m.
    Counts: n − m for sums, means and products, m more where they start from a value; pointwise m divisions for means;
        0 for maxima and minima.
    Ignores: compares, and empty segments, which only values would tell.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_segments(OpCall.of("aten::segment_reduce", (6, 5), "mean", lengths=(2,), out=[(2, 5)])).flop
        30
    """
    how, size, results = call.arg(1), call.tensor(0).size, call.out[0].size
    if how in {"max", "min"}:
        return Cost.of(Part(kind="reduction"))
    if how not in {"sum", "mean", "prod"}:
        msg = f"a reduction {how!r} is not known"
        raise FormulaError(msg, where=call.op)
    start = results if call.option("initial") is not None else 0
    return Cost.of(
        Part(kind="reduction", flop=_adds(size, results) + start),
        Part(kind="pointwise", flop=results if how == "mean" else 0),
    )


def count_segments_backward(call: OpCall) -> int:
    """Cost of the gradient of reducing segments of rows.

    Shapes: dy with m elements, y, x with n elements → dx.
    Counts: m divisions for means, for maxima and minima (by how many there are); m products y·dy and n divisions by x
        for products; 0 for sums, whose gradient is copied.
    Ignores: compares, counting, and factors of zero, whose gradient takes another way.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_segments_backward(OpCall.of("aten::_segment_reduce_backward", (2, 5), (2, 5), (6, 5), "prod"))
        40
    """
    how, results = call.arg(3), call.tensor(0).size
    if how not in {"sum", "mean", "prod", "max", "min"}:
        msg = f"a reduction {how!r} is not known"
        raise FormulaError(msg, where=call.op)
    if how == "sum":
        return 0
    return results + (call.tensor(2).size if how == "prod" else 0)


def count_hash(call: OpCall) -> Cost:
    """Cost of folding the bits of all elements together.

    Shapes: n elements → m.
    Counts: n − m integer operations, whatever the elements are.
    Ignores: that their bits are taken for integers.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_hash(OpCall.of("aten::hash_tensor", (2, 5), [1], out=[(2,)])).flop
        8
    """
    flop = _adds(call.tensor(0).size, call.out[0].size)
    return Cost.of(Part(kind="reduction", flop=flop, precision="uint64"))


def _adds(size: int, results: int) -> int:
    return max(size - results, 0)


def _norm(size: int, results: int, order: Arg) -> int:
    if order is None or is_exactly(order, 2):
        return size + _adds(size, results) + results if size else 0
    if is_exactly(order, 0):
        return _adds(size, results)
    if is_exactly(order, 1):
        return size + _adds(size, results)
    if order in {"inf", "-inf"} or is_exactly(order, math.inf) or is_exactly(order, -math.inf):
        return size
    return 2 * size + _adds(size, results) + results if size else 0


def _unrooted(size: int, results: int, order: Arg) -> int:
    rooted = 0 if is_exactly(order, 0) or is_exactly(order, 1) else results
    return max(_norm(size, results, order) - rooted, 0)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::sum": ("reduction", count_sum),
    "aten::nansum": ("reduction", count_sum),
    "aten::prod": ("reduction", count_sum),
    "aten::mean": ("reduction", count_mean),
    "aten::var": ("reduction", count_variance),
    "aten::std": ("reduction", count_variance),
    "aten::var_mean": ("reduction", count_variance),
    "aten::std_mean": ("reduction", count_variance),
    "aten::linalg_vector_norm": ("reduction", count_norm),
    "aten::norm": ("reduction", count_norm),
    "aten::native_norm": ("reduction", count_norm),
    "aten::dist": ("reduction", count_distance),
    "aten::renorm": ("reduction", count_rows_renormed),
    "aten::segment_reduce": ("reduction", count_segments),
    "aten::_segment_reduce_backward": ("reduction", count_segments_backward),
    "aten::hash_tensor": ("reduction", count_hash),
    "aten::_foreach_norm": ("reduction", count_list_norm),
    "aten::_foreach_powsum": ("reduction", count_power_sum),
    "aten::linalg__powsum": ("reduction", count_one_power_sum),
    "aten::logsumexp": ("reduction", count_logsumexp),
    "aten::cumsum": ("reduction", count_scan),
    "aten::cumprod": ("reduction", count_scan),
    "aten::logcumsumexp": ("reduction", count_scan),
    "aten::_logcumsumexp": ("reduction", count_scan),
    "aten::trace": ("reduction", count_trace),
}
