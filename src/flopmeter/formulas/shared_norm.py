"""Batch norm whose statistics several ranks share, step by step, and weights kept as direction and length.

Everything here is kind `normalization`. What the ranks send each other is a collective and costs nothing.
Not here: batch norm in one operator (`normalization`).
"""

from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import Arg, OpCall
from flopmeter.formulas.cost import Cost

# n elements of x (N, C, …), C channels, R ranks; v a weight of n elements in m rows

MERGE = 11
"""One rank's statistics merged into the others' for one channel: variance from the inverse deviation 4, difference of
the means 1, its square with the counts 4, the mean 2."""


def count_statistics(call: OpCall) -> int:
    """Cost of mean and inverse deviation of each channel.

    Shapes: x with n elements (N, C, …) → mean (C,), inverse deviation (C,).
    Counts: 4·n + 2·C: mean n, variance 3·n, add eps C, inverse root C.
    Ignores: casts.
    Source: docs/spec/fm-1.md#shared_norm.

    Example:
        >>> count_statistics(OpCall.of("aten::batch_norm_stats", (2, 4, 3), 1e-5))
        104
    """
    data = call.tensor(0)
    return 4 * data.size + 2 * data.shape[1] if data.size else 0


def count_statistics_moved(call: OpCall) -> int:
    """Cost of mean and variance of each channel, and of moving the running ones towards them.

    Shapes: x with n elements (N, C, …), running mean and variance (C,) optional → mean (C,), variance (C,).
    Counts: 4·n (mean n, variance 3·n), 3·C for a running mean, 4·C for a running variance.
    Ignores: casts.
    Source: docs/spec/fm-1.md#shared_norm.

    Example:
        >>> count_statistics_moved(OpCall.of("aten::batch_norm_update_stats", (2, 4, 3), (4,), (4,), 0.1))
        124
    """
    data = call.tensor(0)
    return 4 * data.size + _moved(call, data.shape[1], 1, 2) if data.size else 0


def count_standardized(call: OpCall) -> int:
    """Cost of subtracting a mean and multiplying with an inverse deviation, weight and bias after it.

    Shapes: x with n elements (N, C, …), weight and bias (C,) optional, statistics (C,) → y.
    Counts: 2·n, n each for weight and bias.
    Ignores: casts.
    Source: docs/spec/fm-1.md#shared_norm.

    Example:
        >>> c = (4,)
        >>> count_standardized(OpCall.of("aten::batch_norm_elemt", (2, 4, 3), c, c, c, c, 1e-5))
        96
    """
    return call.tensor(0).size * (2 + (call.arg(1) is not None) + (call.arg(2) is not None))


def count_merged_statistics(call: OpCall) -> int:
    """Cost of one mean and inverse deviation from those of all ranks, and of moving the running ones.

    Shapes: x, means (R, C), inverse deviations (R, C), running mean and variance (C,) optional → (C,), (C,).
    Counts: 11·R·C to merge, 3·C for the inverse deviation (divide, add eps, inverse root), 3·C for a running mean,
        4·C for a running variance.
    Ignores: counts of elements, which are the same for all channels.
    Source: docs/spec/fm-1.md#shared_norm; the kernel in torch.

    Raises:
        FormulaError: means that are not those of ranks and channels.

    Example:
        >>> call = OpCall.of("aten::batch_norm_gather_stats", (2, 4, 3), (8, 4), (8, 4), (4,), (4,), 0.1, 1e-5, 6)
        >>> count_merged_statistics(call)
        392
    """
    means = call.tensor(1)
    if len(means.shape) != 2:
        msg = f"{means} are no means of ranks and channels"
        raise FormulaError(msg, where=call.op)
    channels = means.shape[1]
    return MERGE * means.size + 3 * channels + _moved(call, channels, 3, 4) if means.size else 0


def count_sums_backward(call: OpCall) -> int:
    """Cost of the sums that the gradient of a shared batch norm needs from every rank.

    Shapes: dy, x with n elements (N, C, …), statistics (C,) → Σ dy, Σ dy·(x − mean), dw, db as the flags ask.
    Counts: Σ dy n − C where dx or db is asked; Σ dy·(x − mean) 3·n − C where dx or dw is asked; dw C.
    Ignores: casts.
    Source: docs/spec/fm-1.md#shared_norm.

    Example:
        >>> c = (4,)
        >>> call = OpCall.of("aten::batch_norm_backward_reduce", (2, 4, 3), (2, 4, 3), c, c, c, True, True, True)
        >>> count_sums_backward(call)
        92
    """
    data = call.tensor(1)
    size, channels = data.size, data.shape[1]
    into_x, into_weight, into_bias = (call.arg(place) is True for place in (5, 6, 7))
    if not size:
        return 0
    flop = size - channels if into_x or into_bias else 0
    flop += 3 * size - channels if into_x or into_weight else 0
    return flop + (channels if into_weight else 0)


def count_elements_backward(call: OpCall) -> int:
    """Cost of the gradient of a shared batch norm from the sums of all ranks.

    Shapes: dy, x with n elements (N, C, …), statistics, weight optional and sums (C,) → dx.
    Counts: 5·n + 4·C, and C with a weight, as in a batch norm.
    Ignores: counts of elements, casts.
    Source: docs/spec/fm-1.md#shared_norm.

    Example:
        >>> x, c = (2, 4, 3), (4,)
        >>> count_elements_backward(OpCall.of("aten::batch_norm_backward_elemt", x, x, c, c, c, c, c, c))
        140
    """
    data = call.tensor(1)
    channels = data.shape[1]
    return 5 * data.size + (4 + (call.arg(4) is not None)) * channels if data.size else 0


def count_weight_norm(call: OpCall) -> int:
    """Cost of a weight from its direction and its length.

    Shapes: v with n elements in m rows along a dimension, g (m) → w, the lengths of v.
    Counts: 3·n + m: squares n, sums n − m, roots m, g divided by the length m, times v n.
    Ignores: casts.
    Source: docs/spec/fm-1.md#shared_norm; the decomposition in torch.

    Example:
        >>> count_weight_norm(OpCall.of("aten::_weight_norm_interface", (4, 5, 6), (4, 1, 1), 0))
        364
    """
    data = call.tensor(0)
    return 3 * data.size + _rows(call, data.shape, call.arg(2, 0)) if data.size else 0


def count_weight_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of a weight kept as direction and length.

    Shapes: dw, v with n elements in m rows along a dimension, g (m), the lengths of v (m) → dv, dg.
    Counts: 5·n + 3·m: dw·v n, sums n − m, g over the length m, its square m, the sums over it m, times v n, subtract
        n, multiply n; the sums over the length m.
    Ignores: casts.
    Source: docs/spec/fm-1.md#shared_norm; `_weight_norm_differentiable_backward` in torch.

    Example:
        >>> rows = (4, 1, 1)
        >>> count_weight_norm_backward(
        ...     OpCall.of("aten::_weight_norm_interface_backward", (4, 5, 6), (4, 5, 6), rows, rows, 0))
        612
    """
    data = call.tensor(1)
    return 5 * data.size + 3 * _rows(call, data.shape, call.arg(4)) if data.size else 0


def _moved(call: OpCall, channels: int, mean: int, variance: int) -> int:
    return channels * (3 * (call.arg(mean) is not None) + 4 * (call.arg(variance) is not None))


def _rows(call: OpCall, shape: tuple[int, ...], place: Arg) -> int:
    if not isinstance(place, int) or not 0 <= place < len(shape):
        msg = f"{place} is no dimension of {list(shape)}"
        raise FormulaError(msg, where=call.op)
    return shape[place]


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::batch_norm_stats": ("normalization", count_statistics),
    "aten::batch_norm_update_stats": ("normalization", count_statistics_moved),
    "aten::batch_norm_elemt": ("normalization", count_standardized),
    "aten::batch_norm_gather_stats": ("normalization", count_merged_statistics),
    "aten::batch_norm_gather_stats_with_counts": ("normalization", count_merged_statistics),
    "aten::batch_norm_backward_reduce": ("normalization", count_sums_backward),
    "aten::batch_norm_backward_elemt": ("normalization", count_elements_backward),
    "aten::_weight_norm_interface": ("normalization", count_weight_norm),
    "aten::_weight_norm_interface_backward": ("normalization", count_weight_norm_backward),
}
