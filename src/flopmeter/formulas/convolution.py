"""Convolution in any number of dimensions, plain, grouped, depthwise and transposed, forward and backward.

The nominal algorithm is the direct one: kernels that use Winograd or FFT do fewer multiplications and cost the same
here. Taps that fall on zero padding count. Every backend's own operator costs what `aten::convolution` costs.
Not here: pooling (`reduction`), and the matrix products that 1×1 convolutions are sometimes written as (`matmul`).
"""

from collections.abc import Callable
from typing import NoReturn

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part

# N batch, C channels in, O channels out, G groups, W taps of the kernel, X input positions, Y output positions

GROUPS = {
    "aten::convolution": 8,
    "aten::_convolution": 8,
    "aten::convolution_overrideable": 8,
    "aten::convolution_backward": 9,
    "aten::convolution_backward_overrideable": 8,
    "aten::cudnn_convolution": 5,
    "aten::cudnn_convolution_transpose": 6,
    "aten::cudnn_convolution_relu": 6,
    "aten::cudnn_convolution_add_relu": 8,
    "aten::miopen_convolution": 6,
    "aten::miopen_convolution_transpose": 7,
    "aten::miopen_convolution_relu": 6,
    "aten::miopen_convolution_add_relu": 8,
    "aten::miopen_depthwise_convolution": 6,
    "aten::mkldnn_convolution": 6,
    "aten::_mps_convolution": 6,
    "aten::_mps_convolution_transpose": 6,
    "aten::mps_convolution_backward": 6,
    "aten::mps_convolution_transpose_backward": 7,
}
"""Where an operator keeps its groups; those that are not here have one."""

DEPTHWISE = frozenset({"aten::_conv_depthwise2d", "aten::conv_depthwise3d"})
"""Operators with as many groups as channels come in."""

BIAS = {
    "aten::convolution": 2,
    "aten::_convolution": 2,
    "aten::convolution_overrideable": 2,
    "aten::cudnn_convolution_relu": 2,
    "aten::cudnn_convolution_add_relu": 4,
    "aten::miopen_convolution": 2,
    "aten::miopen_convolution_transpose": 2,
    "aten::miopen_convolution_relu": 2,
    "aten::miopen_convolution_add_relu": 4,
    "aten::miopen_depthwise_convolution": 2,
    "aten::mkldnn_convolution": 2,
    "aten::_mps_convolution": 2,
    "aten::_nnpack_spatial_convolution": 2,
    "aten::_slow_conv2d_forward": 3,
    "aten::slow_conv3d_forward": 3,
    "aten::slow_conv_dilated2d": 3,
    "aten::slow_conv_dilated3d": 3,
    "aten::slow_conv_transpose2d": 3,
    "aten::slow_conv_transpose3d": 3,
    "aten::_conv_depthwise2d": 3,
    "aten::conv_depthwise3d": 3,
}
"""Where an operator keeps its bias; those that are not here have none."""

TRANSPOSED_FLAG = {
    "aten::convolution": 6,
    "aten::_convolution": 6,
    "aten::convolution_overrideable": 6,
    "aten::convolution_backward": 7,
    "aten::convolution_backward_overrideable": 6,
}
TRANSPOSED = frozenset(
    {
        "aten::cudnn_convolution_transpose",
        "aten::miopen_convolution_transpose",
        "aten::_mps_convolution_transpose",
        "aten::mps_convolution_transpose_backward",
        "aten::slow_conv_transpose2d",
        "aten::slow_conv_transpose3d",
    }
)
ADDED = frozenset({"aten::cudnn_convolution_add_relu", "aten::miopen_convolution_add_relu"})
"""Operators that add alpha·z, a tensor like the output, before their relu."""

MASK = {
    "aten::convolution_backward": 10,
    "aten::convolution_backward_overrideable": 9,
    "aten::_slow_conv2d_backward": 6,
    "aten::mps_convolution_backward": 7,
    "aten::mps_convolution_transpose_backward": 8,
}
"""Where a backward keeps the flags that say which gradients are asked for."""

INPUT_FIRST = frozenset({"aten::mps_convolution_backward", "aten::mps_convolution_transpose_backward"})
"""Backwards that take x before dy."""


def count_convolution(call: OpCall) -> Cost:
    """Cost of a convolution, whichever backend does it.

    Shapes: x (N, C, …X), w (O, C/G, …W) → (N, O, …Y); transposed w (C, O/G, …W); the batch may be missing.
    Counts: 2·N·O·(C/G)·W·Y products, transposed 2·N·C·(O/G)·W·X; pointwise N·O·Y where there is a bias, N·O·Y for
        adding a tensor, N·O·Y more where that is scaled by an alpha that is not 1.
    Ignores: that taps on zero padding add nothing, faster algorithms than the direct one, relu (compares).
    Source: docs/spec/fm-1.md#convolution; its products agree with torch `conv_flop`.

    Raises:
        FormulaError: the channels of input and weight do not fit, or there is no output.

    Example:
        >>> call = OpCall.of("aten::convolution", (1, 4, 5), (6, 2, 3), None, [1], [0], [1], False, [0], 2,
        ...                  out=[(1, 6, 3)])
        >>> count_convolution(call).flop
        216
    """
    if len(call.out) != 1:
        msg = f"{len(call.out)} outputs instead of one"
        raise FormulaError(msg, where=call.op)
    result = call.out[0]
    flop = _count_products(call, call.tensor(0), call.tensor(1), result)
    passes = int(call.op in BIAS and call.arg(BIAS[call.op]) is not None)
    if call.op in ADDED:
        alpha = call.arg(3)
        passes += 1 if alpha is None or is_exactly(alpha, 1) else 2
    return Cost.of(Part(kind="convolution", flop=flop), Part(kind="pointwise", flop=passes * result.size))


def count_convolution_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a convolution.

    Shapes: dy (N, O, …Y), x and w as in the forward; the output mask says which of dx, dw, db are asked for.
    Counts: the products of the forward for dx and again for dw, N·O·Y − O adds (reduction) for db.
    Ignores: what the forward ignores.
    Source: docs/spec/fm-1.md#convolution; torch `conv_backward_flop` gives G times as much for a grouped dw.

    Raises:
        FormulaError: the channels do not fit, or the output mask is missing.

    Example:
        >>> call = OpCall.of("aten::convolution_backward", (1, 6, 3), (1, 4, 5), (6, 2, 3), [6], [1], [0], [1], False,
        ...                  [0], 2, [True, True, True])
        >>> count_convolution_backward(call).flop
        444
    """
    mask = call.arg(MASK[call.op])
    if not isinstance(mask, tuple) or len(mask) not in {2, 3}:
        msg = f"the output mask is {mask}, not a flag for each gradient"
        raise FormulaError(msg, where=call.op)
    data, gradient = call.tensor(1), call.tensor(0)
    if call.op in INPUT_FIRST:
        data, gradient = gradient, data
    weight = call.tensor(2)
    flop = _count_products(call, data, weight, gradient)
    channels = gradient.shape[_channels_at(gradient, weight)]
    wants_bias = len(mask) == 3 and mask[2] is True
    return Cost.of(
        Part(kind="convolution", flop=flop * ((mask[0] is True) + (mask[1] is True))),
        Part(kind="reduction", flop=max(gradient.size - channels, 0) if wants_bias else 0),
    )


def count_time_first(call: OpCall) -> Cost:
    """Cost of a convolution over time, with channels last.

    Shapes: x (X, N, C), w (W, C, O), bias (O,) → (Y, N, O).
    Counts: 2·Y·N·O·C·W products; pointwise Y·N·O for the bias, which this operator always has.
    Ignores: that taps on zero padding add nothing.
    Source: docs/spec/fm-1.md#convolution.

    Raises:
        FormulaError: the channels do not fit.

    Example:
        >>> count_time_first(OpCall.of("aten::conv_tbc", (5, 1, 4), (3, 4, 6), (6,), 0, out=[(3, 1, 6)])).flop
        450
    """
    data, weight, result = call.tensor(0), call.tensor(1), call.out[0]
    fits = all(len(spec.shape) == 3 for spec in (data, weight, result))
    if not fits or data.shape[2] != weight.shape[1] or result.shape[2] != weight.shape[2]:
        _refuse(call, data, weight, result, 1)
    taps = weight.shape[0] * weight.shape[1]
    return Cost.of(Part(kind="convolution", flop=2 * result.size * taps), Part(kind="pointwise", flop=result.size))


def _count_products(call: OpCall, data: TensorSpec, weight: TensorSpec, result: TensorSpec) -> int:
    groups = _groups(call, data, weight)
    flag = TRANSPOSED_FLAG.get(call.op)
    transposed = call.op in TRANSPOSED or (flag is not None and call.arg(flag) is True)
    # The side with one weight row per channel: the output of a plain convolution, the input of a transposed one.
    one, other = (data, result) if transposed else (result, data)
    at = _channels_at(data, weight)
    fits = len(data.shape) == len(result.shape) and len(data.shape) - at == len(weight.shape) - 1
    if not fits or one.shape[at] != weight.shape[0] or other.shape[at] != weight.shape[1] * groups:
        _refuse(call, data, weight, result, groups)
    return 2 * one.size * (weight.size // weight.shape[0]) if weight.shape[0] else 0


def _groups(call: OpCall, data: TensorSpec, weight: TensorSpec) -> int:
    groups = call.arg(GROUPS[call.op]) if call.op in GROUPS else 1
    if call.op in DEPTHWISE:
        groups = data.shape[_channels_at(data, weight)]
    if not isinstance(groups, int) or len(weight.shape) < 3:
        msg = f"weight {weight} with groups {groups} is no convolution"
        raise FormulaError(msg, where=call.op)
    return groups


def _channels_at(data: TensorSpec, weight: TensorSpec) -> int:
    """Without a batch the channels come first."""
    return 1 if len(data.shape) == len(weight.shape) else 0


def _refuse(call: OpCall, data: TensorSpec, weight: TensorSpec, result: TensorSpec, groups: int) -> NoReturn:
    msg = f"input {data}, weight {weight} and output {result} with {groups} groups do not fit"
    raise FormulaError(msg, where=call.op)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{op: ("convolution", count_convolution) for op in dict.fromkeys((*GROUPS, *BIAS)) if op not in MASK},
    **dict.fromkeys(MASK, ("convolution", count_convolution_backward)),
    "aten::conv_tbc": ("convolution", count_time_first),
}
