"""Activation functions and their gradients: a fixed number of operations per element, that of a reference form.

Where a form chooses between two branches, both are counted, as a device computes both. Relu and its kind compare and
cost nothing. One elementary function (exp, tanh, erf, sigmoid) is one operation.
Not here: softmax (`normalization`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.rates import GELU, GELU_TANH, SILU, SILU_BACKWARD, SOFTPLUS

# n elements of the first output

RATES = {
    "aten::silu": SILU,
    "aten::silu_backward": SILU_BACKWARD,
    "aten::sigmoid_backward": 3,
    "aten::tanh_backward": 3,
    "aten::logit_backward": 3,
    "aten::softplus": SOFTPLUS,
    "aten::softplus_backward": 6,
    "aten::mish": 6,
    "aten::mish_backward": 12,
    "aten::elu": 4,
    "aten::celu": 3,
    "aten::selu": 3,
    "aten::elu_backward": 6,
    "aten::leaky_relu": 1,
    "aten::leaky_relu_backward": 1,
    "aten::_prelu_kernel": 1,
    "aten::_prelu_kernel_backward": 2,
    "aten::rrelu_with_noise": 1,
    "aten::rrelu_with_noise_functional": 1,
    "aten::rrelu_with_noise_backward": 1,
    "aten::hardsigmoid": 2,
    "aten::hardsigmoid_backward": 1,
    "aten::hardswish": 3,
    "aten::hardswish_backward": 3,
    "aten::softshrink": 1,
    "aten::glu": 2,
    "aten::glu_backward": 3,
    "aten::glu_jvp": 6,
    "aten::log_sigmoid_forward": 5,
    "aten::log_sigmoid_backward": 8,
}
"""Operations per element; docs/spec/fm-1.md#activation writes each form out."""


def count_activation(call: OpCall) -> int:
    """Cost of an activation or its gradient.

    Shapes: x with n elements → the same (a gated unit: n is that of its output).
    Counts: `RATES` operations for each of n elements.
    Ignores: compares, and which branch an element takes.
    Source: docs/spec/fm-1.md#activation; the decompositions in torch.

    Example:
        >>> count_activation(OpCall.of("aten::silu", (2, 3), out=[(2, 3)]))
        12
    """
    op = call.op if call.op in RATES else call.op.removesuffix("_")
    return RATES[op] * call.out[0].size


def count_gelu(call: OpCall) -> int:
    """Cost of a gelu.

    Shapes: x with n elements → the same.
    Counts: 5·n for 0.5·x·(1 + erf(x·√½)); 9·n for 0.5·x·(1 + tanh(β·(x + κ·x³))).
    Ignores: how erf and tanh are approximated.
    Source: docs/spec/fm-1.md#activation.

    Example:
        >>> count_gelu(OpCall.of("aten::gelu", (2, 3), out=[(2, 3)]))
        30
        >>> count_gelu(OpCall.of("aten::gelu", (2, 3), approximate="tanh", out=[(2, 3)]))
        54
    """
    return (GELU_TANH if call.option("approximate") == "tanh" else GELU) * call.out[0].size


def count_gelu_backward(call: OpCall) -> int:
    """Cost of the gradient of a gelu.

    Shapes: dy, x with n elements → the same.
    Counts: 11·n: cdf 4, pdf 4, dy·(cdf + x·pdf) 3; in the tanh form 18·n.
    Ignores: how erf, exp and tanh are approximated.
    Source: docs/spec/fm-1.md#activation; the decomposition in torch.

    Example:
        >>> count_gelu_backward(OpCall.of("aten::gelu_backward", (2, 3), (2, 3), out=[(2, 3)]))
        66
    """
    return (18 if call.option("approximate") == "tanh" else 11) * call.out[0].size


def count_glu_backward_tangent(call: OpCall) -> int:
    """Cost of the tangent of a gated unit's gradient, where derivatives are taken forward through a backward.

    Shapes: dx, dy with m elements, x, and the tangents of dy and x → the tangent of dx.
    Counts: 15·m, with tangents i, j, k of a, z, dy: s = σ(z), g = a·s, u = j − j·s, 4; v = k·s + dx·u, 3;
        v·(a − g) + dx·(i − i·s − g·u), 8.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#activation.

    Example:
        >>> count_glu_backward_tangent(OpCall.of("aten::glu_backward_jvp", (2, 6), (2, 3), (2, 6), (2, 3), (2, 6), 1))
        90
    """
    return 15 * call.tensor(1).size


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(RATES, ("pointwise", count_activation)),
    "aten::gelu": ("pointwise", count_gelu),
    "aten::gelu_backward": ("pointwise", count_gelu_backward),
    "aten::glu_backward_jvp": ("pointwise", count_glu_backward_tangent),
}
