"""Operators of bitsandbytes: 8-bit and 4-bit weights under adapters, and optimizers with 8-bit states.

By name and schema of bitsandbytes 0.50 (`_ops.py`); each costs what that package's own form in Python costs
(`backends/cpu/ops.py`, `backends/default/ops.py`), whatever kernel a device has.
Not here: quantizing as torch and other libraries do it.
"""

from collections.abc import Callable
from math import prod

from flopmeter.formulas.call import OpCall, is_exactly, parse_sizes
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import price_pointwise

# R rows of x, K inner size, N columns, n elements, b elements of a block that share a scale

UPDATES: dict[str, tuple[int, int, bool]] = {
    "adam": (12, 2, True),
    "lamb": (12, 2, True),
    "ademamix": (19, 3, False),
    "momentum": (4, 1, True),
    "lars": (4, 1, True),
    "lion": (8, 1, False),
    "rmsprop": (9, 1, True),
    "adagrad": (7, 1, False),
}
"""Operations for each element in 32 bits, states, and whether the update can be scaled by its norm."""

COUPLED = frozenset({"momentum", "lars", "rmsprop", "adagrad"})
"""Optimizers that add the decay to the gradient, a factor and an add, where the others scale the parameter."""


def count_int8_mm(call: OpCall) -> Cost:
    """Cost of a product of 8-bit integers.

    Shapes: a (…, K), b (N, K) → (…, N).
    Counts: 2·R·N·K products in int8.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: the sizes differ.

    Example:
        >>> count_int8_mm(OpCall.of("bitsandbytes::int8_linear_matmul", (2, 3), (5, 3), dtype="int8")).flop
        60
    """
    outputs, inner = _outputs(call, 0, 1)
    return Cost.of(Part(kind="matmul", flop=2 * outputs * inner, precision="int8"))


def count_int8_mm_dequant(call: OpCall) -> Cost:
    """Cost of turning sums of 8-bit products back into numbers.

    Shapes: a (…, N) of sums, statistics of rows and columns, bias → (…, N).
    Counts: pointwise 3 for each output, row times column times a constant times the sum, and 1 for a bias.
    Ignores: casts.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Example:
        >>> count_int8_mm_dequant(OpCall.of("bitsandbytes::int8_mm_dequant", (2, 5), (2,), (5,))).flop
        30
    """
    return price_pointwise(call.tensor(0).size * (3 + (call.arg(4) is not None)))


def count_int8_scaled_mm(call: OpCall) -> Cost:
    """Cost of a product of 8-bit integers that is turned back into numbers.

    Shapes: a (…, K), b (N, K), statistics of rows and columns, bias → (…, N).
    Counts: 2·R·N·K products in int8; pointwise 3·R·N, and R·N for a bias.
    Ignores: casts.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: the sizes differ.

    Example:
        >>> call = OpCall.of("bitsandbytes::int8_scaled_mm", (2, 3), (5, 3), (2,), (5,), (5,), dtype="int8")
        >>> count_int8_scaled_mm(call).flop
        100
    """
    outputs, inner = _outputs(call, 0, 1)
    return Cost.of(
        Part(kind="matmul", flop=2 * outputs * inner, precision="int8"),
        Part(kind="pointwise", flop=outputs * (3 + (call.arg(4) is not None)), precision="fp32"),
    )


def count_int8_mixed_mm(call: OpCall) -> Cost:
    """Cost of a product of 8-bit integers whose outlying columns are multiplied as numbers.

    Shapes: x (…, K), its integers a (…, K), b (N, K), statistics of rows and columns, J outlying columns, bias
        → (…, N).
    Counts: as `count_int8_scaled_mm`; for outlying columns 2·R·N·J products in the precision of x, and pointwise 2·N·J
        to turn those of the weight back into numbers and R·N to add the product.
    Ignores: casts.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: the sizes differ.

    Example:
        >>> call = OpCall.of("bitsandbytes::int8_mixed_scaled_mm", (2, 3), (2, 3), (5, 3), (2,), (5,), (1,))
        >>> count_int8_mixed_mm(call).flop
        130
    """
    outputs, inner = _outputs(call, 1, 2)
    given, columns = call.tensor(0), call.tensor(2).shape[0]
    outliers = call.tensor(5).size if call.arg(5) is not None else 0
    return Cost.of(
        Part(kind="matmul", flop=2 * outputs * inner, precision="int8"),
        Part(
            kind="pointwise",
            flop=outputs * (3 + (call.arg(6) is not None)) + 2 * columns * outliers,
            precision="fp32",
        ),
        Part(kind="matmul", flop=2 * outputs * outliers, precision=given.dtype),
        Part(kind="pointwise", flop=outputs if outliers else 0, precision=given.dtype),
    )


def count_int8_quantize(call: OpCall) -> Cost:
    """Cost of quantizing the rows of a matrix to 8 bits, and its columns too where both are asked for.

    Shapes: x (R, K), threshold → integers, statistics, outlying columns.
    Counts: pointwise for each element its absolute value and a factor, and 1 for each row; 1 more for each element
        where a threshold is given; for columns 3 more for each element.
    Ignores: maxima, compares, rounding.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Example:
        >>> count_int8_quantize(OpCall.of("bitsandbytes::int8_vectorwise_quant", (2, 3), 0.0)).flop
        14
    """
    given = call.tensor(0)
    rows = given.size // given.shape[-1] if given.shape[-1] else 0
    each = 2 + (not is_exactly(call.arg(1, 0), 0)) + (3 if call.op.endswith("double_quant") else 0)
    return price_pointwise(given.size * each + rows)


def count_int8_dequantize(call: OpCall) -> Cost:
    """Cost of turning rows of 8-bit integers back into numbers.

    Shapes: a (R, K), statistics (R,) → (R, K).
    Counts: pointwise 2 for each element, the statistic and a constant.
    Ignores: casts.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Example:
        >>> count_int8_dequantize(OpCall.of("bitsandbytes::int8_vectorwise_dequant", (2, 3), (2,))).flop
        12
    """
    return price_pointwise(2 * call.tensor(0).size)


def count_quantize_blocks(call: OpCall) -> Cost:
    """Cost of quantizing blocks of b elements to the nearest of a few values.

    Shapes: x of n elements, b → codes, the largest absolute value of each block.
    Counts: pointwise 2·n, absolute values and factors, and ⌈n/b⌉ inverses of the largest ones.
    Ignores: maxima, and the search for the nearest value.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: b is missing.

    Example:
        >>> count_quantize_blocks(OpCall.of("bitsandbytes::quantize_4bit", (2, 64), 32, "nf4", None)).flop
        260
    """
    size, block = call.tensor(0).size, call.arg(1 if call.op.endswith("4bit") else 2)
    if not isinstance(block, int) or block < 1:
        call.refuse(f"{block} is no size of a block")
    return price_pointwise(2 * size - (-size // block))


def count_dequantize_blocks(call: OpCall) -> Cost:
    """Cost of turning the codes of blocks back into numbers.

    Shapes: codes of n elements, a scale for each block → n numbers.
    Counts: pointwise n, the value of each code times the scale of its block.
    Ignores: looking the value up, unpacking, casts.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Example:
        >>> call = OpCall.of("bitsandbytes::dequantize_4bit", (64, 1), (4,), 32, "nf4", [4, 32], None)
        >>> count_dequantize_blocks(call).flop
        128
    """
    is_packed = call.op.endswith("4bit")
    return price_pointwise(prod(parse_sizes(call.arg(4))) if is_packed else call.tensor(0).size)


def count_4bit_mm(call: OpCall) -> Cost:
    """Cost of a product with a weight in 4-bit codes.

    Shapes: x (…, K), w packed with its shape (N, K), a scale for each block → (…, N).
    Counts: 2·R·N·K products in the precision of x; pointwise N·K to turn the weight back into numbers, 2 for each scale
        that is itself in codes, R·N for a bias.
    Ignores: looking values up, unpacking, casts.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: the sizes differ.

    Example:
        >>> call = OpCall.of("bitsandbytes::gemm_4bit", (2, 32), (128, 1), [8, 32], (8,), 32, "nf4")
        >>> count_4bit_mm(call).flop
        1280
    """
    given, shape = call.tensor(0), parse_sizes(call.arg(2))
    if len(shape) != 2 or not given.shape or given.shape[-1] != shape[1]:
        call.refuse(f"{given} cannot be multiplied with a weight of {shape}")
    outputs = prod(given.shape[:-1]) * shape[0]
    has_more = call.op.endswith("gemm_4bit")
    scales = 2 * call.tensor(7).size if has_more and call.arg(7) is not None else 0
    return Cost.of(
        Part(kind="matmul", flop=2 * outputs * shape[1], precision=given.dtype),
        Part(kind="pointwise", flop=prod(shape) + scales, precision="fp32"),
        Part(kind="pointwise", flop=outputs if has_more and call.arg(6) is not None else 0, precision=given.dtype),
    )


def count_update(call: OpCall) -> Cost:
    """Cost of an optimizer's step on one parameter with states in 32 bits.

    Shapes: gradient and parameter of n elements, their states.
    Counts: pointwise the rate of `UPDATES` for each element (momentum 2 less at its first step), 1 for a factor of the
        gradient that is not 1, for a decay that is not 0 a factor, and an add where it goes to the gradient; reduction
        2·n for the norm of the update where it is bounded.
    Ignores: numbers that are computed on the host.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: an optimizer that is not known.

    Example:
        >>> args = ("adam", (10,), (10,), (10,), (10,), None, 0.0, 0.0, 0.9, 0.9, 0.0, 0.0, 1e-8, 0.0, 3, 0.1, 1.0)
        >>> count_update(OpCall.of("bitsandbytes::optimizer_update_32bit", *args)).flop
        120
    """
    name, size, each = _read_update(call, step=14, decay=13, factor=16)
    is_bounded = UPDATES[name][2] and not is_exactly(call.arg(6), 0)
    return Cost.of(Part(kind="pointwise", flop=each * size), Part(kind="reduction", flop=2 * size if is_bounded else 0))


def count_update_8bit(call: OpCall) -> Cost:
    """Cost of an optimizer's step on one parameter with states in 8 bits.

    Shapes: gradient and parameter of n elements, their states in blocks of codes.
    Counts: as `count_update` without a norm (adam and lamb: one division more); for each state 1 to turn it back into
        numbers and 2 to quantize it, for each element, and 1 for each block.
    Ignores: maxima, the search for the nearest code, numbers that are computed on the host.
    Source: docs/spec/fm-1.md#bitsandbytes.

    Raises:
        FormulaError: an optimizer that is not known.

    Example:
        >>> numbers = (0.9, 0.9, 0.0, 0.0, 1e-8, 3, 0.1)
        >>> args = ("lion", (300,), (300,), (300,), None, *numbers, (256,), None, (2,), None, 0.0, 1.0)
        >>> count_update_8bit(OpCall.of("bitsandbytes::optimizer_update_8bit_blockwise", *args)).flop
        3302
    """
    name, size, each = _read_update(call, step=10, decay=16, factor=17)
    blocks = sum(call.tensor(index).size for index in (14, 15) if call.arg(index) is not None)
    more = 3 * UPDATES[name][1] + (name in ("adam", "lamb"))
    return Cost.of(Part(kind="pointwise", flop=(each + more) * size + blocks))


def _read_update(call: OpCall, *, step: int, decay: int, factor: int) -> tuple[str, int, int]:
    """Return the optimizer, its elements, and the operations for each of them in 32 bits."""
    name, grad, parameter = call.arg(0), call.tensor(1), call.tensor(2)
    if not isinstance(name, str) or name not in UPDATES or grad.size != parameter.size:
        call.refuse(f"optimizer {name} of {grad} and {parameter} is not known")
    each = UPDATES[name][0] + (not is_exactly(call.arg(factor, 1), 1))
    if name in ("momentum", "lars") and is_exactly(call.arg(step), 1):
        each -= 2
    if not is_exactly(call.arg(decay), 0):
        each += 2 if name in COUPLED else 1
    return name, grad.size, each


def _outputs(call: OpCall, one: int, two: int) -> tuple[int, int]:
    """Return the outputs of a product with a weight (N, K), and K."""
    given, weight = call.tensor(one), call.tensor(two)
    if len(weight.shape) != 2 or not given.shape or given.shape[-1] != weight.shape[1]:
        call.refuse(f"{given} and {weight} cannot be multiplied")
    return prod(given.shape[:-1]) * weight.shape[0], weight.shape[1]


_OWN: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "int8_linear_matmul": ("matmul", count_int8_mm),
    "int8_mm_dequant": ("pointwise", count_int8_mm_dequant),
    "int8_scaled_mm": ("matmul", count_int8_scaled_mm),
    "int8_mixed_scaled_mm": ("matmul", count_int8_mixed_mm),
    "int8_vectorwise_quant": ("pointwise", count_int8_quantize),
    "int8_double_quant": ("pointwise", count_int8_quantize),
    "int8_vectorwise_dequant": ("pointwise", count_int8_dequantize),
    "quantize_4bit": ("pointwise", count_quantize_blocks),
    "quantize_blockwise": ("pointwise", count_quantize_blocks),
    "dequantize_4bit": ("pointwise", count_dequantize_blocks),
    "dequantize_blockwise": ("pointwise", count_dequantize_blocks),
    "gemm_4bit": ("matmul", count_4bit_mm),
    "gemv_4bit": ("matmul", count_4bit_mm),
    "optimizer_update_32bit": ("pointwise", count_update),
    "optimizer_update_8bit_blockwise": ("pointwise", count_update_8bit),
}
FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    f"bitsandbytes::{name}": entry for name, entry in _OWN.items()
}
