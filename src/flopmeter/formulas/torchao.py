"""Operators of torchao: products in fp8, MX and small integers, and the casting of whole tensors to such formats.

By name and schema of torchao 0.18. What that package writes in torch's own operators is counted as those.
Not here: sparse weights of torchao in 2:4 form (`semi_structured`), Hadamard transforms and attention in 8 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flopmeter.formulas.call import OpCall, TensorSpec, is_integer
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import count_nothing, price_pointwise

# M rows, K inner size, N columns, b elements of K that share a scale, n elements, C scales


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where a product's schema keeps what decides its cost.

    `block` are the elements of K that share a scale, None where all of them do; `extras` are arguments (a bias, a scale
    of the result) that touch each output once.
    """

    second: int = 1
    block: int | None = None
    is_transposed: bool = False
    is_scaled: bool = True
    extras: tuple[int, ...] = ()


SCALED = {
    "torchao::blockwise_scaled_mm": _Places(block=128),
    "torchao::triton_fp8_gemm_1x128_128x128": _Places(block=128),
    "torchao::triton_fp8_gemm_1x128_128x1": _Places(block=128),
    "torchao::mx_fp8_bf16": _Places(block=32),
    "torchao::scaled_int8_mm": _Places(),
    "torchao::swizzle_mm": _Places(is_scaled=False),
    "torchao::swizzle_scaled_mm": _Places(extras=(6, 7)),
    "ao::blockwise_fp8_gemm": _Places(second=2, block=128, is_transposed=True),
}

CASTING: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **dict.fromkeys(
        (
            *(f"torchao::triton_fp8_blockwise_act_quant_{what}" for what in ("lhs", "rhs", "transposed_lhs")),
            "torchao::triton_fp8_blockwise_act_quant_k_grouped_deepgemm",
            *(f"torchao::triton_fp8_blockwise_weight_quant_{what}" for what in ("rhs", "transposed_rhs")),
            *(f"torchao::triton_fp8_blockwise_weight_quant_grouped_{what}" for what in ("rhs", "transposed_rhs")),
            "torchao::triton_fp8_blockwise_weight_quant_grouped_rhs_deepgemm",
            "torchao::triton_fp8_blockwise_weight_quant_grouped_transposed_rhs_deepgemm",
            *("torchao::triton_fp8_rowwise_2d_scale_and_cast", "torchao::triton_fp8_colwise_3d_scale_and_cast"),
            *("torchao::triton_fp8_rowwise_transpose_rhs", "torchao::triton_fp8_rowwise_transpose_rhs_fused"),
            *("torchao::triton_fp8_per_group_rowwise_scales", "torchao::triton_fp8_per_group_colwise_scales"),
            *("torchao::triton_to_mxfp8_dim0", "torchao::triton_to_mxfp8_dim1"),
            *(f"torchao::mxfp8_quantize_{what}_cutedsl" for what in ("2d_1x32", "2d_32x1", "3d")),
            *(f"torchao::mxfp8_quantize_{what}_flydsl" for what in ("2d_1x32", "2d_32x1", "3d")),
        ),
        ((0,), (1,)),
    ),
    "torchao::triton_fp8_per_group_colwise_scales_dual": ((0, 2), (1, 3)),
    "torchao::mxfp8_quantize": ((0, 1), (2, 3)),
}
"""Which outputs of what casts hold elements, and which hold scales."""

MOVING = (
    *("torchao::triton_mx_block_rearrange", "torchao::triton_mx_block_rearrange_2d_K_groups"),
    *("torchao::triton_mx_block_rearrange_2d_M_groups", "torchao::triton_mx_block_rearrange_per_group_3d"),
    *("torchao::mx_block_rearrange_2d_M_groups", "torchao::fused_pad_token_groups"),
    *("torchao::fused_unpad_token_groups", "torchao::da8w4_linear_prepack_cpu"),
    *("torchao::float8_linear_prepack_cpu", "blocksparse::bsr_to_dense"),
)
"""Storing scales, weights or groups of rows as a kernel wants them; arithmetic is on offsets alone."""


def count_scaled_product(call: OpCall) -> Cost:
    """Cost of a product of scaled operands.

    Shapes: a (M, K), b (K, N) or (N, K), their scales → (M, N).
    Counts: 2·M·N·K products in the precision of the operands; pointwise in fp32 2·M·N for each block of K that has a
        scale of its own, M·N for a bias and M·N for a scale of the result.
    Ignores: adding up the blocks, which the products hold, and casts.
    Source: docs/spec/fm-1.md#torchao; torchao 0.18, blockwise_fp8_training/kernels.py, int8_mm.py, ops.py.

    Raises:
        FormulaError: the sizes differ.

    Example:
        >>> e4 = "fp8_e4m3"
        >>> args = TensorSpec((4, 256), e4), TensorSpec((256, 8), e4), TensorSpec((4, 2)), TensorSpec((2, 1))
        >>> count_scaled_product(OpCall.of("torchao::triton_fp8_gemm_1x128_128x128", *args)).flop
        16512
    """
    places = SCALED[call.op]
    one, two = call.tensor(0), call.tensor(places.second)
    if len(one.shape) != 2 or len(two.shape) != 2 or one.shape[1] != two.shape[places.is_transposed]:
        call.refuse(f"{one} and {two} cannot be multiplied")
    inner, outputs = one.shape[1], one.shape[0] * two.shape[not places.is_transposed]
    blocks = (-(-inner // places.block) if places.block else 1) if places.is_scaled else 0
    each = 2 * blocks + sum(call.arg(index) is not None for index in places.extras)
    precision = "mxfp8" if call.op == "torchao::mx_fp8_bf16" else _precision(one, two)
    return Cost.of(
        Part(kind="matmul", flop=2 * outputs * inner, precision=precision),
        Part(kind="pointwise", flop=each * outputs, precision="fp32"),
    )


def count_cpu_linear(call: OpCall) -> Cost:
    """Cost of a linear layer of an input in 8 bits with a packed weight in fp8 or in 4 bits.

    Shapes: x (…, K) and its scales, w packed and its scales, bias → (…, N).
    Counts: 2·R·N·K products in fp8 or int8; pointwise in fp32 2·R·N for each group of K that has a scale of its own,
        R·N more for the scale of the row where x is in integers, R·N for a bias.
    Ignores: unpacking, corrections for zero points beyond one subtraction for each sum.
    Source: docs/spec/fm-1.md#torchao; torchao 0.18, ops.py.

    Raises:
        FormulaError: rows or scales that do not fit.

    Example:
        >>> x, w = TensorSpec((2, 64), "fp8_e4m3"), TensorSpec((16, 64), "fp8_e4m3")
        >>> call = OpCall.of("torchao::float8_linear_cpu", x, (2, 1), w, (16, 1), None, None, out=[(2, 16)])
        >>> count_cpu_linear(call).flop
        4160
    """
    given, (result,) = call.tensor(0), call.out
    is_whole = call.op == "torchao::da8w4_linear_cpu"
    scales, columns = call.tensor(4 if is_whole else 3), result.shape[-1]
    if given.shape[:-1] != result.shape[:-1] or not columns or scales.size % columns:
        call.refuse(f"{given}, {scales} and {result} do not fit")
    each = 2 * (scales.size // columns) + is_whole + (call.arg(7 if is_whole else 4) is not None)
    return Cost.of(
        Part(
            kind="matmul",
            flop=2 * result.size * given.shape[-1],
            precision="int8" if is_whole else _precision(given, call.tensor(2)),
        ),
        Part(kind="pointwise", flop=result.size * each, precision="fp32"),
    )


def count_blocks_product(call: OpCall) -> Cost:
    """Cost of a product with a weight of which blocks are stored.

    Shapes: places and values of the blocks, x (K, N) → (M, N) or its transpose.
    Counts: 2·(elements of the blocks)·N products; with integers 2·M·N pointwise in fp32 for the scales of both.
    Ignores: what is not stored.
    Source: docs/spec/fm-1.md#torchao; torchao 0.18, sparsity/blocksparse.py.

    Example:
        >>> call = OpCall.of("blocksparse::addmm", (8, 5), (3,), (2,), (2, 4, 4), 8, 8, None)
        >>> count_blocks_product(call).flop
        320
    """
    if call.op == "blocksparse::addmm":
        values, given = call.tensor(3), call.tensor(0)
        return Cost.of(Part(kind="matmul", flop=2 * values.size * given.shape[1], precision=given.dtype))
    values, given, rows = call.tensor(2), call.tensor(3), call.tensor(4).shape[-1]
    return Cost.of(
        Part(kind="matmul", flop=2 * values.size * given.shape[-1], precision=values.dtype),
        Part(kind="pointwise", flop=2 * rows * given.shape[-1], precision="fp32"),
    )


def count_cast(call: OpCall) -> Cost:
    """Cost of casting a tensor to a format with scales, which are found on the way.

    Shapes: x of n elements → elements, C scales, once or along two dimensions.
    Counts: pointwise for each element its absolute value and a factor, and for each scale 2: the largest value by that
        of the format, and its inverse. Scales that pad a layout count.
    Ignores: maxima, rounding of scales to powers of two.
    Source: docs/spec/fm-1.md#torchao; torchao 0.18, blockwise_fp8_training/kernels.py, mx_formats/kernels.py.

    Raises:
        FormulaError: outputs are missing.

    Example:
        >>> out = [(4, 256), (4, 2)]
        >>> count_cast(OpCall.of("torchao::triton_fp8_blockwise_act_quant_lhs", (4, 256), out=out)).flop
        2064
    """
    elements, scales = CASTING[call.op]
    size = sum(call.out[index].size for index in elements)
    return price_pointwise(2 * size + 2 * sum(call.out[index].size for index in scales))


def count_factor(call: OpCall) -> Cost:
    """Cost of scaling a tensor in fp8 or to it, with scales that are given.

    Shapes: x of n elements, C scales → n elements.
    Counts: pointwise n; from MX, C more for the scales, which are exponents.
    Ignores: clamping, casts.
    Source: docs/spec/fm-1.md#torchao; torchao 0.18, quant_primitives.py, mx_formats/kernels.py.

    Example:
        >>> count_factor(OpCall.of("torchao::quantize_affine_float8_non_decomposed", (4, 8), (4, 1))).flop
        32
    """
    exponents = call.tensor(1).size if "mxfp8" in call.op else 0
    return price_pointwise(call.tensor(0).size + exponents)


def _precision(one: TensorSpec, two: TensorSpec) -> str:
    if is_integer(one.dtype):
        return "int8"
    return one.dtype if one.dtype == two.dtype else f"{one.dtype}*{two.dtype}"


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(SCALED, ("matmul", count_scaled_product)),
    "torchao::float8_linear_cpu": ("matmul", count_cpu_linear),
    "torchao::da8w4_linear_cpu": ("matmul", count_cpu_linear),
    "blocksparse::addmm": ("matmul", count_blocks_product),
    "blocksparse::int_addmm": ("matmul", count_blocks_product),
    **dict.fromkeys(CASTING, ("pointwise", count_cast)),
    "torchao::quantize_affine_float8_non_decomposed": ("pointwise", count_factor),
    "torchao::dequantize_affine_float8_non_decomposed": ("pointwise", count_factor),
    "torchao::triton_mxfp8_dequant_dim0": ("pointwise", count_factor),
    **dict.fromkeys(MOVING, ("other", count_nothing)),
}
