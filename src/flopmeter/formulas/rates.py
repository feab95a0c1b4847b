"""What several families count alike: nothing at all, putting scales on and off, activations.

Not here: what one family alone counts, and which operator does what.
"""

from flopmeter.formulas.call import Arg, OpCall
from flopmeter.formulas.cost import Cost, Part

CHOOSE, CHOOSE_SYMMETRIC = 4, 2
"""Choosing a scale and a zero point: (max − min) / range, low − min / scale; symmetric: −min, divide."""
QUANTIZE = DEQUANTIZE = 2
"""Multiply and add; subtract and multiply. A sum of integers is dequantized by its offset and its two scales."""

SILU, SILU_BACKWARD, SOFTPLUS = 2, 6, 4
GELU, GELU_TANH, QUICK_GELU = 5, 9, 3
"""Operations for each element; a gate is one more, the product."""

ONEDNN: dict[Arg, int] = {
    "none": 0,
    "relu": 0,
    "hardtanh": 0,
    "sigmoid": 1,
    "tanh": 1,
    "leaky_relu": 1,
    "hardsigmoid": 2,
    "swish": SILU,
    "hardswish": 3,
    "gelu": GELU,
}
"""Operations for each element of what oneDNN applies to a result; gelu in its tanh form is `GELU_TANH`."""
CUTLASS: dict[Arg, int] = {None: 0, "none": 0, "relu": 0, "silu": SILU}
"""The same of kernels that are built on CUTLASS."""


def count_nothing(_call: OpCall) -> Cost:
    """Cost of an operator that does no arithmetic.

    Shapes: any.
    Counts: nothing.
    Ignores: bytes moved, compares, casts, arithmetic on addresses and offsets, adds inside collectives.
    Source: docs/spec/fm-1.md#rules.

    Example:
        >>> count_nothing(OpCall.of("aten::relu", (2, 3), out=[(2, 3)])).flop
        0
    """
    return Cost()


def price_pointwise(flop: int, precision: str = "fp32") -> Cost:
    """Price operations on elements whose precision is not that of the call.

    Counts: what it is given, all pointwise.
    Source: docs/spec/fm-1.md#rules.

    Example:
        >>> price_pointwise(6).parts[0].precision
        'fp32'
    """
    return Cost.of(Part(kind="pointwise", flop=flop, precision=precision))


def price_int8_product(products: int, *, scaling: int) -> Cost:
    """Price a product of 8-bit integers that is scaled in fp32.

    Counts: what it is given, as `matmul` in int8 and pointwise in fp32.
    Source: docs/spec/fm-1.md#rules.

    Example:
        >>> [(part.kind, part.precision) for part in price_int8_product(12, scaling=6).parts]
        [('matmul', 'int8'), ('pointwise', 'fp32')]
    """
    return Cost.of(
        Part(kind="matmul", flop=products, precision="int8"), Part(kind="pointwise", flop=scaling, precision="fp32")
    )
