"""Convolution in any number of dimensions, plain, grouped, depthwise and transposed, forward and backward.

The nominal algorithm is the direct one: kernels that use Winograd or FFT do fewer multiplications and cost the same
here. Taps that fall on zero padding count.
Not here: pooling (`reduction`), and the matrix products that 1×1 convolutions are sometimes written as (`matmul`).
"""

from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.cost import Cost, Part

# N batch, C channels in, O channels out, G groups, W taps of the kernel, X input positions, Y output positions


def count_convolution(call: OpCall) -> Cost:
    """Cost of a convolution.

    Shapes: x (N, C, …X), w (O, C/G, …W) → (N, O, …Y); transposed w (C, O/G, …W).
    Counts: 2·N·O·(C/G)·W·Y products, transposed 2·N·C·(O/G)·W·X; pointwise N·O·Y where there is a bias.
    Ignores: that taps on zero padding add nothing, and faster algorithms than the direct one.
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
    flop = _count_products(call, call.tensor(0), call.tensor(1), call.out[0], transposed=call.arg(6) is True)
    bias = call.out[0].size if call.arg(2) is not None else 0
    return Cost.of(Part(kind="convolution", flop=flop), Part(kind="pointwise", flop=bias))


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
    places = (7, 10) if call.op != "aten::convolution_backward_overrideable" else (6, 9)
    transposed, mask = call.arg(places[0]) is True, call.arg(places[1])
    if not isinstance(mask, tuple) or len(mask) != 3:
        msg = f"the output mask is {mask}, not three flags"
        raise FormulaError(msg, where=call.op)
    gradient = call.tensor(0)
    flop = _count_products(call, call.tensor(1), call.tensor(2), gradient, transposed=transposed)
    channels = gradient.shape[1]
    return Cost.of(
        Part(kind="convolution", flop=flop * ((mask[0] is True) + (mask[1] is True))),
        Part(kind="reduction", flop=max(gradient.size - channels, 0) if mask[2] is True else 0),
    )


def _count_products(call: OpCall, data: TensorSpec, weight: TensorSpec, result: TensorSpec, *, transposed: bool) -> int:
    groups = call.arg({"aten::convolution_backward": 9, "aten::convolution_backward_overrideable": 8}.get(call.op, 8))
    if not isinstance(groups, int) or len(weight.shape) < 3:
        msg = f"weight {weight} with groups {groups} is no convolution"
        raise FormulaError(msg, where=call.op)
    # The side with one weight row per channel: the output of a plain convolution, the input of a transposed one.
    one, other = (data, result) if transposed else (result, data)
    # Without a batch the channels come first.
    at = 1 if len(data.shape) == len(weight.shape) else 0
    if one.shape[at] != weight.shape[0] or other.shape[at] != weight.shape[1] * groups:
        msg = f"input {data}, weight {weight} and output {result} with {groups} groups do not fit"
        raise FormulaError(msg, where=call.op)
    return 2 * one.size * (weight.size // weight.shape[0]) if weight.shape[0] else 0


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::convolution": ("convolution", count_convolution),
    "aten::_convolution": ("convolution", count_convolution),
    "aten::convolution_overrideable": ("convolution", count_convolution),
    "aten::convolution_backward": ("convolution", count_convolution_backward),
    "aten::convolution_backward_overrideable": ("convolution", count_convolution_backward),
}
