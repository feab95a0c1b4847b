"""Pooling: averages of windows, and the gradients of averages and maxima.

A maximum compares and costs nothing (`movement`); its gradient adds each element of dy into one place.
Not here: other sums and means (`reduction`).
"""

import math
from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec, parse_sizes
from flopmeter.formulas.cost import Cost, Part

ADAPTIVE = (
    *("aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d", "aten::adaptive_avg_pool3d"),
    *("aten::_adaptive_avg_pool2d", "aten::_adaptive_avg_pool3d", "aten::mkldnn_adaptive_avg_pool2d"),
)
ADAPTIVE_BACKWARD = (
    *("aten::_adaptive_avg_pool2d_backward", "aten::_adaptive_avg_pool3d_backward"),
    *("aten::adaptive_avg_pool3d_backward", "aten::mkldnn_adaptive_avg_pool2d_backward"),
)
MAXIMA_BACKWARD = (
    *("aten::max_pool2d_backward", "aten::max_pool2d_with_indices_backward", "aten::max_pool3d_with_indices_backward"),
    *("aten::adaptive_max_pool2d_backward", "aten::adaptive_max_pool3d_backward"),
    *("aten::fractional_max_pool2d_backward", "aten::fractional_max_pool3d_backward"),
    *("aten::mkldnn_max_pool2d_backward", "aten::mkldnn_max_pool3d_backward"),
)

# m elements of the output, W elements of a window, X input and Y output positions along a dimension


def count_average_pool(call: OpCall) -> int:
    """Cost of average pooling.

    Shapes: x (…, X), windows of W → m elements.
    Counts: m·W: W − 1 adds and a division for each.
    Ignores: windows cut short at an edge.
    Source: docs/spec/fm-1.md#pooling.

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
    Source: docs/spec/fm-1.md#pooling.

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
    Source: docs/spec/fm-1.md#pooling.

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
    Source: docs/spec/fm-1.md#pooling.

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


def count_maxima_backward(call: OpCall) -> int:
    """Cost of the gradient of pooling by maximum.

    Shapes: dy, and arguments that say where its elements go → dx.
    Counts: numel(dy) adds.
    Ignores: that the first add into a place adds to zero, and finding the maxima again (compares).
    Source: docs/spec/fm-1.md#pooling.

    Example:
        >>> count_maxima_backward(OpCall.of("aten::max_pool2d_with_indices_backward", (1, 3, 2, 2), (1, 3, 4, 4)))
        12
    """
    return call.tensor(0).size


def _window(call: OpCall, place: int) -> int:
    dimensions = next(size for size in (1, 2, 3) if f"{size}d" in call.op)
    sizes = parse_sizes(call.arg(place))
    return sizes[0] ** dimensions if len(sizes) == 1 else math.prod(sizes)


def _adaptive(data: TensorSpec, result: TensorSpec) -> int:
    """Inputs of all windows: per dimension X, and one more for each border between windows that cuts an input."""
    return math.prod(
        inputs + outputs - math.gcd(inputs, outputs) if outputs else 0
        for inputs, outputs in zip(data.shape, result.shape, strict=True)
    )


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"aten::avg_pool{size}d": ("reduction", count_average_pool) for size in (1, 2, 3)},
    **{f"aten::avg_pool{size}d_backward": ("reduction", count_average_pool_backward) for size in (2, 3)},
    **dict.fromkeys(ADAPTIVE, ("reduction", count_adaptive_pool)),
    **dict.fromkeys(ADAPTIVE_BACKWARD, ("reduction", count_adaptive_pool_backward)),
    **dict.fromkeys(MAXIMA_BACKWARD, ("scatter", count_maxima_backward)),
}
