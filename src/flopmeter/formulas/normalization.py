"""Softmax, layer, RMS, group and batch norm, forward and backward.

Everything inside one of these operators is kind `normalization`, its sums and its scale and shift included.
Not here: norms that measure length (`reduction`).
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import Arg, OpCall, TensorSpec, parse_sizes
from flopmeter.formulas.cost import Cost

ALWAYS_TRAINING = frozenset({"aten::_batch_norm_with_update", "aten::_batch_norm_with_update_functional"})
NEVER_TRAINING = frozenset({"aten::_native_batch_norm_legit_no_training", "aten::_batch_norm_no_update"})

# n elements of x, m statistics (rows, or groups), w elements of the weight, C channels, G groups, N batch


def count_softmax(call: OpCall) -> int:
    """Cost of a softmax along one dimension.

    Shapes: x with n elements in m rows → the same.
    Counts: 4·n − m: subtract the maximum n, exp n, sum n − m, divide n.
    Ignores: the maximum (compares).
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_softmax(OpCall.of("aten::_softmax", (2, 5), -1, False))
        38
    """
    return _along(call, 0, 1, rate=4)


def count_log_softmax(call: OpCall) -> int:
    """Cost of a log-softmax along one dimension.

    Shapes: x with n elements in m rows → the same.
    Counts: 4·n: subtract the maximum n, exp n, sum n − m, log m, subtract n.
    Ignores: the maximum (compares).
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_log_softmax(OpCall.of("aten::_log_softmax", (2, 5), -1, False))
        40
    """
    return 4 * call.tensor(0).size


def count_softmax_backward(call: OpCall) -> int:
    """Cost of the gradient of a softmax or a log-softmax.

    Shapes: dy, y with n elements in m rows → dx.
    Counts: 4·n − m: softmax dy·y n, sum n − m, times y n, subtract n; log-softmax exp n, sum n − m, multiply n,
        subtract n.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_softmax_backward(OpCall.of("aten::_softmax_backward_data", (2, 5), (2, 5), -1, "float32"))
        38
    """
    return _along(call, 0, 2, rate=4)


def count_masked_softmax(call: OpCall) -> int:
    """Cost of a softmax over the places that a mask leaves, or of its gradient.

    Shapes: x (backward: dy and y) with n elements in m rows, a mask → the same.
    Counts: 4·n − m, as a softmax.
    Ignores: places that the mask leaves out, which only values would tell.
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_masked_softmax(OpCall.of("aten::_masked_softmax", (2, 5), (2, 5)))
        38
    """
    place = call.arg(3 if call.op == "aten::_masked_softmax_backward" else 2)
    return _rows_of(call, call.tensor(0).shape, -1 if place is None else place, rate=4)


def count_layer_norm(call: OpCall) -> int:
    """Cost of a layer norm.

    Shapes: x with n elements in m rows, weight and bias optional → y, mean, rstd.
    Counts: 6·n + 2·m (mean n, variance 3·n, add eps m, rsqrt m, subtract n, multiply n), n each for weight and bias.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_layer_norm(OpCall.of("aten::native_layer_norm", (2, 5), [5], (5,), (5,), 1e-5))
        84
    """
    size, rows, _ = _rows(call, 0, 1)
    return _standardize(size, rows) + size * call.count_given(2, 3)


def count_layer_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of a layer norm.

    Shapes: dy, x with n elements in m rows, weight and bias of w → dx, dw, db as the output mask asks.
    Counts: 2·n for x̂ where dx or dw is asked; dx 8·n − m, and n with a weight; dw 2·n − w; db n − w.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization; the decomposition in torch.

    Example:
        >>> stats = (2, 1)
        >>> call = OpCall.of("aten::native_layer_norm_backward", (2, 5), (2, 5), [5], stats, stats, (5,), (5,),
        ...                  [True, True, True])
        >>> count_layer_norm_backward(call)
        128
    """
    size, rows, width = _rows(call, 1, 2)
    mask = _mask(call, 7)
    weight, bias = call.arg(5) is not None, call.arg(6) is not None
    flop = 0
    if size and (mask[0] or (mask[1] and weight)):
        flop += 2 * size
    if size and mask[0]:
        flop += 8 * size - rows + weight * size
    if size and mask[1] and weight:
        flop += 2 * size - width
    if size and mask[2] and bias:
        flop += size - width
    return flop


def count_rms_norm(call: OpCall) -> int:
    """Cost of an RMS norm.

    Shapes: x with n elements in m rows, weight optional → y, rstd.
    Counts: 3·n + 2·m (square n, mean n, add eps m, rsqrt m, multiply n), n for a weight.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_rms_norm(OpCall.of("aten::_fused_rms_norm", (2, 5), [5], (5,), 1e-5))
        44
    """
    size, rows, _ = _rows(call, 0, 1)
    return 3 * size + 2 * rows + size * call.count_given(2)


def count_rms_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of an RMS norm.

    Shapes: dy, x with n elements in m rows, weight of w → dx, dw as the output mask asks.
    Counts: n for x̂ where dx or dw is asked; dx 6·n − m, and n with a weight; dw 2·n − w.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization; the decomposition in torch.

    Example:
        >>> call = OpCall.of("aten::_fused_rms_norm_backward", (2, 5), (2, 5), [5], (2, 1), (5,), [True, True])
        >>> count_rms_norm_backward(call)
        93
    """
    size, rows, width = _rows(call, 1, 2)
    mask, weight = _mask(call, 5), call.arg(4) is not None
    flop = 0
    if size and (mask[0] or (mask[1] and weight)):
        flop += size
    if size and mask[0]:
        flop += 6 * size - rows + weight * size
    if size and mask[1] and weight:
        flop += 2 * size - width
    return flop


def count_group_norm(call: OpCall) -> int:
    """Cost of a group norm.

    Shapes: x with n elements (N, C, …), m = N·G statistics, weight and bias optional → y, mean, rstd.
    Counts: 6·n + 2·m as a layer norm, n each for weight and bias.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization.

    Example:
        >>> count_group_norm(OpCall.of("aten::native_group_norm", (2, 4, 3), (4,), (4,), 2, 4, 3, 2, 1e-5))
        200
    """
    size = call.tensor(0).size
    (batch, groups) = parse_sizes((call.arg(3), call.arg(6)))
    return _standardize(size, batch * groups if size else 0) + size * call.count_given(1, 2)


def count_group_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of a group norm.

    Shapes: dy, x with n elements (N, C, …), p = N·C, m = N·G statistics → dx, dw, db as the output mask asks.
    Counts: Σ dy·x per channel 2·n − p and Σ dy n − p; dx 4·n + 11·m + 2·(p − m), and 3·p with a weight;
        dw 4·p − C; db p − C.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization; the decomposition in torch.

    Example:
        >>> call = OpCall.of("aten::native_group_norm_backward", (2, 4, 3), (2, 4, 3), (2, 2), (2, 2), (4,), 2, 4, 3, 2,
        ...                  [True, True, True])
        >>> count_group_norm_backward(call)
        260
    """
    size = call.tensor(1).size
    (batch, channels, groups) = parse_sizes((call.arg(5), call.arg(6), call.arg(8)))
    mask, weight = _mask(call, 9), call.arg(4) is not None
    if not size or not any(mask):
        return 0
    planes, statistics = batch * channels, batch * groups
    flop = 3 * size - 2 * planes
    if mask[0]:
        flop += 4 * size + 11 * statistics + 2 * (planes - statistics) + 3 * planes * weight
    if mask[1]:
        flop += 4 * planes - channels
    if mask[2]:
        flop += planes - channels
    return flop


def count_batch_norm(call: OpCall) -> int:
    """Cost of a batch norm, training or not.

    Shapes: x with n elements (N, C, …), weight, bias and running statistics of C optional → y and statistics.
    Counts: training 6·n + 2·C, 3·C for a running mean, 4·C for a running variance; otherwise 2·n + 3·C;
        n each for weight and bias.
    Ignores: counting batches.
    Source: docs/spec/fm-1.md#normalization; the decomposition in torch.

    Example:
        >>> c = (4,)
        >>> count_batch_norm(OpCall.of("aten::_native_batch_norm_legit", (2, 4, 3), c, c, c, c, True, 0.1, 1e-5))
        228
    """
    data = call.tensor(0)
    size, channels = data.size, data.shape[1]
    affine = size * call.count_given(1, 2)
    has_statistics = not isinstance(call.arg(3), bool)
    training = call.arg(5) if has_statistics else call.arg(3)
    if call.op in ALWAYS_TRAINING:
        training = True
    if call.op in NEVER_TRAINING:
        training = False
    if not isinstance(training, bool):
        msg = f"cannot tell whether it is training: {training}"
        raise FormulaError(msg, where=call.op)
    if not size:
        return 0
    if not training:
        return 2 * size + 3 * channels + affine
    running = 3 * call.count_given(3) + 4 * call.count_given(4) if has_statistics else 0
    return _standardize(size, channels) + running * channels + affine


def count_batch_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of a batch norm.

    Shapes: dy, x with n elements (N, C, …) → dx, dw, db as the output mask asks.
    Counts: Σ dy n − C where dx in training or db is asked; Σ dy·(x − mean) 3·n − C where dx in training or dw is
        asked; dx in training 5·n + 4·C, and C with a weight; dx otherwise n + 2·C, and C with a weight; dw C.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization; the decomposition in torch.

    Example:
        >>> c = (4,)
        >>> call = OpCall.of("aten::native_batch_norm_backward", (2, 4, 3), (2, 4, 3), c, c, c, c, c, True, 1e-5,
        ...                  [True, True, True])
        >>> count_batch_norm_backward(call)
        232
    """
    weight, training = call.arg(2) is not None, call.arg(7) is True
    return _batch_norm_gradients(call.tensor(1), _mask(call, 9), weight=weight, training=training)


def count_library_batch_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of a batch norm in a vendor's library, which knows no evaluation and no output mask.

    Shapes: x, dy with n elements (N, C, …), weight → dx, dw, db.
    Counts: as the gradients of a batch norm in training, all three.
    Ignores: casts.
    Source: docs/spec/fm-1.md#normalization; the decomposition in torch.

    Example:
        >>> c = (4,)
        >>> call = OpCall.of("aten::cudnn_batch_norm_backward", (2, 4, 3), (2, 4, 3), c, c, c, c, c, 1e-5, (0,))
        >>> count_library_batch_norm_backward(call)
        232
    """
    return _batch_norm_gradients(call.tensor(0), (True, True, True), weight=call.arg(2) is not None, training=True)


def _batch_norm_gradients(data: TensorSpec, mask: tuple[bool, ...], *, weight: bool, training: bool) -> int:
    size, channels = data.size, data.shape[1]
    if not size:
        return 0
    flop = 0
    if mask[2] or (training and mask[0]):
        flop += size - channels
    if mask[1] or (training and mask[0]):
        flop += 3 * size - channels
    if mask[0]:
        flop += (5 * size + 4 * channels if training else size + 2 * channels) + weight * channels
    if mask[1]:
        flop += channels
    return flop


def _standardize(size: int, statistics: int) -> int:
    """Mean n, variance 3·n, add eps m, rsqrt m, subtract n, multiply n."""
    return 6 * size + 2 * statistics


def _along(call: OpCall, data: int, dim: int, *, rate: int) -> int:
    return _rows_of(call, call.tensor(data).shape, call.arg(dim), rate=rate)


def _rows_of(call: OpCall, shape: tuple[int, ...], place: Arg, *, rate: int) -> int:
    if not isinstance(place, int):
        msg = f"{place} is not a dimension"
        raise FormulaError(msg, where=call.op)
    size = math.prod(shape)
    length = shape[place] if shape else 1
    return rate * size - size // length if size else 0


def _rows(call: OpCall, data: int, shape: int) -> tuple[int, int, int]:
    """Return the elements, the rows, and the width of a row."""
    size, width = call.tensor(data).size, math.prod(parse_sizes(call.arg(shape)))
    return size, size // width if width else 0, width


def _mask(call: OpCall, place: int) -> tuple[bool, ...]:
    mask: Arg = call.arg(place)
    if not isinstance(mask, tuple):
        msg = f"argument {place} is {mask}, not an output mask"
        raise FormulaError(msg, where=call.op)
    return tuple(flag is True for flag in mask)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_softmax": ("normalization", count_softmax),
    "aten::softmax": ("normalization", count_softmax),
    "aten::_safe_softmax": ("normalization", count_softmax),
    "aten::_log_softmax": ("normalization", count_log_softmax),
    "aten::log_softmax": ("normalization", count_log_softmax),
    "aten::_masked_softmax": ("normalization", count_masked_softmax),
    "aten::_masked_softmax_backward": ("normalization", count_masked_softmax),
    "aten::_softmax_backward_data": ("normalization", count_softmax_backward),
    "aten::_log_softmax_backward_data": ("normalization", count_softmax_backward),
    "aten::native_layer_norm": ("normalization", count_layer_norm),
    "aten::native_layer_norm_backward": ("normalization", count_layer_norm_backward),
    "aten::_fused_rms_norm": ("normalization", count_rms_norm),
    "aten::_fused_rms_norm_backward": ("normalization", count_rms_norm_backward),
    "aten::native_group_norm": ("normalization", count_group_norm),
    "aten::native_group_norm_backward": ("normalization", count_group_norm_backward),
    "aten::native_batch_norm": ("normalization", count_batch_norm),
    "aten::cudnn_batch_norm": ("normalization", count_batch_norm),
    "aten::miopen_batch_norm": ("normalization", count_batch_norm),
    "aten::_native_batch_norm_legit": ("normalization", count_batch_norm),
    "aten::_native_batch_norm_legit_functional": ("normalization", count_batch_norm),
    "aten::_native_batch_norm_legit_no_training": ("normalization", count_batch_norm),
    "aten::_batch_norm_with_update": ("normalization", count_batch_norm),
    "aten::_batch_norm_with_update_functional": ("normalization", count_batch_norm),
    "aten::_batch_norm_no_update": ("normalization", count_batch_norm),
    "aten::native_batch_norm_backward": ("normalization", count_batch_norm_backward),
    "aten::batch_norm_backward": ("normalization", count_batch_norm_backward),
    "aten::cudnn_batch_norm_backward": ("normalization", count_library_batch_norm_backward),
    "aten::miopen_batch_norm_backward": ("normalization", count_library_batch_norm_backward),
}
