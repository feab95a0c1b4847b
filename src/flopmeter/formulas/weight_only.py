"""Products with a weight that is stored in small integers, of an input that is not.

The weight is turned back into numbers, and the product is one of these, in the precision of the input; where the kernel
quantizes the rows of the input instead, it is one of integers.
Not here: layers whose input comes quantized, or whose packed weight shows no shape (`quantized`), and the formats of
libraries.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import CHOOSE, CUTLASS, DEQUANTIZE, QUANTIZE, count_nothing, price_int8_product

# R rows of x, K inner size, N columns, g elements of K that share a scale

PACKING = (
    *("aten::_convert_weight_to_int4pack", "aten::_convert_weight_to_int4pack_for_cpu"),
    "aten::_dyn_quant_pack_4bit_weight",
)
"""Storing a quantized weight as a kernel wants it, by shifts and masks."""


def count_int8_weight(call: OpCall) -> Cost:
    """Cost of a product with a weight in 8-bit integers and a scale for each of its rows.

    Shapes: x (R, K), w (N, K), scales (N,) → (R, N).
    Counts: 2·R·N·K products in the precision of x; pointwise R·N, each output times a scale.
    Ignores: the cast of the weight.
    Source: docs/spec/fm-1.md#weight_only; the form that torch's inductor replaces, fx_passes/quantization.py.

    Raises:
        FormulaError: the sizes do not fit.

    Example:
        >>> w = TensorSpec((5, 3), "int8")
        >>> count_int8_weight(OpCall.of("aten::_weight_int8pack_mm", (2, 3), w, (5,))).flop
        70
    """
    given, weight, scales = call.tensor(0), call.tensor(1), call.tensor(2)
    if len(given.shape) != 2 or weight.shape != (scales.size, given.shape[1]):
        call.refuse(f"{given}, {weight} and {scales} do not fit")
    outputs = given.shape[0] * scales.size
    return _float_product(given, outputs, outputs)


def count_mixed(call: OpCall) -> Cost:
    """Cost of a linear layer whose weight is in integers, in one kernel with its bias and its activation.

    Shapes: x (…, K), w in 8 bits or packed in 4, scales (N,) → (…, N).
    Counts: 2·K products for each output, in the precision of x; pointwise 1 for its scale, 1 for a bias, 2 for
        silu.
    Ignores: the cast of the weight, compares.
    Source: docs/spec/fm-1.md#weight_only.

    Raises:
        FormulaError: the sizes do not fit, or the activation is not known.

    Example:
        >>> call = OpCall.of("aten::_mixed_dtypes_linear", (2, 3), (5, 3), (5,), bias=(5,), out=[(2, 5)])
        >>> count_mixed(call).flop
        80
    """
    given, scales, result = call.tensor(0), call.tensor(2), call.out[0]
    name = call.option("activation")
    known = name is None or isinstance(name, str)
    if result.shape != (*given.shape[:-1], scales.size) or not known or name not in CUTLASS:
        call.refuse(f"{given} and {scales} do not give {result} with {name}")
    each = 1 + (call.option("bias") is not None) + CUTLASS[name]
    return _float_product(given, result.size, result.size * each)


def count_int4_weight(call: OpCall) -> Cost:
    """Cost of a product with a packed weight in 4-bit integers and a scale and a zero point for each group of them.

    Shapes: x (R, K), w packed, g, scales and zeros (K/g, N, 2) or (K/g, N) each → (R, N).
    Counts: 2·R·N·K products in the precision of x; pointwise 2·N·K, each element of the weight times its scale, plus
        its zero point.
    Ignores: unpacking.
    Source: docs/spec/fm-1.md#weight_only; the form of torch's tests, `q·s + z`.

    Raises:
        FormulaError: the sizes do not fit, or the packed weight has not N·K elements.

    Example:
        >>> packed = TensorSpec((8, 16), "uint8")
        >>> count_int4_weight(OpCall.of("aten::_weight_int4pack_mm_for_cpu", (2, 32), packed, 16, (2, 8, 2))).flop
        1536
    """
    given, weight, scales = call.tensor(0), call.tensor(1), call.tensor(3)
    if len(given.shape) != 2 or len(scales.shape) < 2:
        call.refuse(f"{given} and {scales} do not fit")
    rows, inner = given.shape
    columns, in_one = scales.shape[1], {"uint8": 2, "int32": 8}.get(weight.dtype, 0)
    if weight.size * in_one != columns * inner or inner % max(scales.shape[0], 1):
        call.refuse(f"{weight} does not hold {columns} rows of {inner} in groups of {scales}")
    return _float_product(given, rows * columns, 2 * columns * inner)


def count_dynamic_int4(call: OpCall) -> Cost:
    """Cost of a product of rows that are quantized here with a packed weight in 4-bit integers.

    Shapes: x (R, K), w packed, g, K, N → (R, N).
    Counts: 2·R·N·K products in int8; pointwise 4·R to choose the scales of the rows, 2·R·K to quantize them, 2·R·N for
        each group of K, R·N for the scale of the row, R·N for the bias unless the packed size shows that there is none.
    Ignores: minima and maxima, the corrections for zero points beyond one subtraction.
    Source: docs/spec/fm-1.md#weight_only; torch's `ref_dyn_quant_matmul_4bit_groupwise_kernel`.

    Raises:
        FormulaError: the sizes do not fit.

    Example:
        >>> call = OpCall.of("aten::_dyn_quant_matmul_4bit", (2, 64), (544,), 32, 64, 16)
        >>> [part.flop for part in count_dynamic_int4(call).parts]
        [4096, 424]
    """
    given, packed = call.tensor(0), call.tensor(1)
    group, inner, columns = call.arg(2), call.arg(3), call.arg(4)
    if not (isinstance(group, int) and isinstance(inner, int) and isinstance(columns, int) and group > 0):
        call.refuse("sizes are missing")
    if len(given.shape) != 2 or given.shape[1] != inner or inner % group:
        call.refuse(f"{given} has no {inner} columns in groups of {group}")
    rows, groups = given.shape[0], inner // group
    bias = packed.size != columns * inner // 2 + columns * groups
    extra = rows * (CHOOSE + QUANTIZE * inner) + rows * columns * (DEQUANTIZE * groups + 1 + bias)
    return price_int8_product(2 * rows * columns * inner, scaling=extra)


def _float_product(given: TensorSpec, outputs: int, extra: int) -> Cost:
    return Cost.of(
        Part(kind="matmul", flop=2 * outputs * given.shape[-1], precision=given.dtype),
        Part(kind="pointwise", flop=extra, precision=given.dtype),
    )


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_weight_int8pack_mm": ("matmul", count_int8_weight),
    "aten::_mixed_dtypes_linear": ("matmul", count_mixed),
    **dict.fromkeys(
        (
            *("aten::_weight_int4pack_mm", "aten::_weight_int4pack_mm_for_cpu"),
            *("aten::_weight_int4pack_mm_with_scales_and_zeros", "quantized::int4mm_packed_weight_cpu"),
        ),
        ("matmul", count_int4_weight),
    ),
    "aten::_dyn_quant_matmul_4bit": ("matmul", count_dynamic_int4),
    **dict.fromkeys(PACKING, ("other", count_nothing)),
}
