"""Sums, means, variances, norms, scans and average pooling.

Adding n numbers takes n − 1 adds. Maxima and minima compare and cost nothing.
Not here: softmax and the like (`normalization`), and adding by index (`embedding`).
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import Arg, OpCall, TensorSpec, is_exactly, parse_sizes
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
    order = call.arg(1, 2)
    rooted = 0 if is_exactly(order, 0) or is_exactly(order, 1) else 1
    return sum(max(_norm(spec.size, 1, order) - rooted, 0) for spec in call.tensor_list(0))


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


def count_average_pool(call: OpCall) -> int:
    """Cost of average pooling.

    Shapes: x (…, X), windows of W → m elements.
    Counts: m·W: W − 1 adds and a division for each.
    Ignores: windows cut short at an edge.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_average_pool(OpCall.of("aten::avg_pool2d", (1, 1, 4, 4), [2, 2], [2, 2], out=[(1, 1, 2, 2)]))
        16
    """
    return call.out[0].size * _window(call, 1)


def count_average_pool_backward(call: OpCall) -> Cost:
    """Cost of the gradient of average pooling.

    Shapes: dy with m elements, x, windows of W → dx.
    Counts: m divisions (reduction) and m·W adds into dx (scatter).
    Ignores: windows cut short at an edge, and that the first add into a place adds to zero.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> call = OpCall.of("aten::avg_pool2d_backward", (1, 1, 2, 2), (1, 1, 4, 4), [2, 2], [2, 2], [0, 0])
        >>> count_average_pool_backward(call).flop
        20
    """
    size = call.tensor(0).size
    return Cost.of(Part(kind="reduction", flop=size), Part(kind="scatter", flop=size * _window(call, 2)))


def count_adaptive_pool(call: OpCall) -> int:
    """Cost of average pooling to a given size.

    Shapes: x (…, X), → (…, Y); output i takes inputs ⌊i·X/Y⌋ to ⌈(i + 1)·X/Y⌉.
    Counts: the inputs of all windows, W − 1 adds and a division for each window of W.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> count_adaptive_pool(OpCall.of("aten::_adaptive_avg_pool2d", (1, 1, 4, 4), [2, 2], out=[(1, 1, 2, 2)]))
        16
    """
    return _adaptive(call.tensor(0), call.out[0])


def count_adaptive_pool_backward(call: OpCall) -> Cost:
    """Cost of the gradient of average pooling to a given size.

    Shapes: dy (…, Y), x (…, X) → dx.
    Counts: one division for each element of dy (reduction), one add for each input of each window (scatter).
    Ignores: that the first add into a place adds to zero.
    Source: docs/spec/fm-1.md#reduction.

    Example:
        >>> call = OpCall.of("aten::_adaptive_avg_pool2d_backward", (1, 1, 2, 2), (1, 1, 4, 4))
        >>> count_adaptive_pool_backward(call).flop
        20
    """
    gradient, data = call.tensor(0), call.tensor(1)
    return Cost.of(
        Part(kind="reduction", flop=gradient.size),
        Part(kind="scatter", flop=_adaptive(data, gradient)),
    )


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


def _window(call: OpCall, place: int) -> int:
    dimensions = 3 if "3d" in call.op else 2
    sizes = parse_sizes(call.arg(place))
    return sizes[0] ** dimensions if len(sizes) == 1 else math.prod(sizes)


def _adaptive(data: TensorSpec, result: TensorSpec) -> int:
    """Inputs of all windows: per dimension X, and one more for each border between windows that cuts an input."""
    return math.prod(
        inputs + outputs - math.gcd(inputs, outputs) if outputs else 0
        for inputs, outputs in zip(data.shape, result.shape, strict=True)
    )


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
    "aten::_foreach_norm": ("reduction", count_list_norm),
    "aten::_foreach_powsum": ("reduction", count_power_sum),
    "aten::logsumexp": ("reduction", count_logsumexp),
    "aten::cumsum": ("reduction", count_scan),
    "aten::cumprod": ("reduction", count_scan),
    "aten::logcumsumexp": ("reduction", count_scan),
    "aten::_logcumsumexp": ("reduction", count_scan),
    "aten::trace": ("reduction", count_trace),
    "aten::avg_pool2d": ("reduction", count_average_pool),
    "aten::avg_pool3d": ("reduction", count_average_pool),
    "aten::avg_pool2d_backward": ("reduction", count_average_pool_backward),
    "aten::avg_pool3d_backward": ("reduction", count_average_pool_backward),
    "aten::_adaptive_avg_pool2d": ("reduction", count_adaptive_pool),
    "aten::_adaptive_avg_pool3d": ("reduction", count_adaptive_pool),
    "aten::_adaptive_avg_pool2d_backward": ("reduction", count_adaptive_pool_backward),
    "aten::_adaptive_avg_pool3d_backward": ("reduction", count_adaptive_pool_backward),
}
