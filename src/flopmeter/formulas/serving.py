"""Kernels of inference engines (vLLM, SGLang), which reinforcement learning runs between its steps.

They write into a tensor that is given, so shapes are read from there. Each costs what the plain operators cost that it
stands for; choosing a scale is counted with the quantizing.
Not here: attention whose lengths stand nowhere in the call (`vllm::unified_attention`), which stays uncounted.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec, derive_precision
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.pairs import Work, price_forward, product_precision
from flopmeter.formulas.rates import GELU, GELU_TANH, QUICK_GELU, SILU, count_nothing

# n elements, m rows, C scales; a product is (M, K) by (K, N) → m elements

GATES = {
    **dict.fromkeys(("_C::silu_and_mul", "_C::mul_and_silu", "sgl_kernel::silu_and_mul"), SILU + 1),
    **dict.fromkeys(("_C::gelu_and_mul", "sgl_kernel::gelu_and_mul"), GELU + 1),
    **dict.fromkeys(("_C::gelu_tanh_and_mul", "sgl_kernel::gelu_tanh_and_mul"), GELU_TANH + 1),
    "_C::fatrelu_and_mul": 1,
    "_C::swigluoai_and_mul": 5,
    "_C::silu_and_mul_quant": SILU + 2,
    "_C::gelu_new": GELU_TANH,
    "_C::gelu_fast": GELU_TANH,
    "_C::gelu_quick": QUICK_GELU,
    "_C::relu_squared": 1,
}
"""Operations for each element of the result: the gate 1, a static scale 1."""

STATIC = {"_C::static_scaled_fp8_quant": None, "_C::static_scaled_int8_quant": 3}
"""Quantizing with a scale that is there, and where a zero point may stand."""

DYNAMIC = {
    "_C::dynamic_scaled_fp8_quant": (1, 2, None),
    "_C::dynamic_per_token_scaled_fp8_quant": (1, 2, None),
    "_C::dynamic_scaled_int8_quant": (1, 2, 3),
    "_C::per_token_group_fp8_quant": (0, 2, None),
    "_C::per_token_group_quant_int8": (0, 2, None),
    "sgl_kernel::sgl_per_token_group_quant_fp8": (0, 2, None),
    "sgl_kernel::sgl_per_token_group_quant_int8": (0, 2, None),
    "sgl_kernel::sgl_per_token_quant_fp8": (0, 2, None),
}
"""Quantizing with scales that are chosen: where the input, the scales and a zero point stand."""

NORMS = {
    "_C::rms_norm": (1, None, 2),
    "_C::fused_add_rms_norm": (0, 1, 2),
    "_C::rms_norm_static_fp8_quant": (1, None, 2),
    "_C::fused_add_rms_norm_static_fp8_quant": (1, 2, 3),
    "_C::rms_norm_dynamic_per_token_quant": (1, 6, 2),
    "sgl_kernel::rmsnorm": (1, None, 2),
    "sgl_kernel::fused_add_rmsnorm": (0, 1, 2),
    "sgl_kernel::gemma_rmsnorm": (1, None, 2),
    "sgl_kernel::gemma_fused_add_rmsnorm": (0, 1, 2),
}
"""Where the input, what is added to it before, and the weight stand."""

ROTARY = {
    "_C::rotary_embedding": (1, 2, 4),
    "sgl_kernel::apply_rope_pos_ids_cos_sin_cache": (0, 1, 4),
}
"""Where queries, keys and the table of cosines and sines stand."""

PLAIN = {
    "_C::dsv3_fused_a_gemm": (1, 2),
    "_C::fp32_router_gemm": (1, 2),
    "sgl_kernel::dsv3_fused_a_gemm": (1, 2),
    "sgl_kernel::dsv3_router_gemm": (1, 2),
}
SCALED = {
    "_C::cutlass_scaled_mm": (1, 5),
    "sgl_kernel::fp8_scaled_mm": (0, 5),
    "sgl_kernel::int8_scaled_mm": (0, 5),
    "sgl_kernel::fp8_blockwise_scaled_mm": (0, None),
}
"""Where the first operand and a bias stand; then come the second, and the scales of both."""

PACKED = {
    "_C::awq_gemm": (3, None),
    "_C::gptq_gemm": (2, None),
    "_C::marlin_gemm": (7, 3),
    "_C::machete_mm": (5, None),
    "sgl_kernel::gptq_gemm": (2, None),
    "sgl_kernel::gptq_marlin_gemm": (5, None),
}
"""Products with packed weights: where zero points and a bias stand."""

GATING = {"_moe_C::topk_softmax": (0, 3, 4), "sgl_kernel::topk_softmax": (0, 2, 3)}
PAGED = {"_C::paged_attention_v1": (1, 7), "_C::paged_attention_v2": (4, 10)}
"""Where queries and the lengths of all sequences stand."""

NOTHING = (
    *("_C::awq_marlin_repack", "_C::gptq_marlin_repack", "_C::gptq_shuffle", "_C::machete_prepack_B"),
    *("_C::top_k_per_row_prefill", "_C::top_k_per_row_decode", "_C::persistent_topk", "_C::weak_ref_tensor"),
    *("_C::get_cuda_view_from_cpu_tensor", "_C_cache_ops::swap_blocks", "_C_cache_ops::copy_blocks"),
    *("_C_cache_ops::cp_gather_cache", "_moe_C::moe_align_block_size", "_moe_C::batched_moe_align_block_size"),
    *("_moe_C::moe_permute", "_moe_C::shuffle_rows", "sgl_kernel::moe_align_block_size", "sgl_kernel::shuffle_rows"),
    *("sgl_kernel::gptq_shuffle", "sgl_kernel::gptq_marlin_repack", "sgl_kernel::awq_marlin_repack"),
    *("vllm::all_reduce", "vllm::all_gather", "vllm::reduce_scatter"),
)
"""Moving, sorting, packing, collectives."""


def count_gate(call: OpCall) -> int:
    """Cost of an activation, mostly times the other half of its input.

    Shapes: result with n elements, input with n or 2·n.
    Counts: n times its rate in `GATES`.
    Ignores: compares.
    Source: docs/spec/fm-1.md#serving.

    Example:
        >>> count_gate(OpCall.of("_C::silu_and_mul", (2, 8), (2, 16)))
        48
    """
    return GATES[call.op] * call.tensor(0).size


def count_quantizing(call: OpCall) -> int:
    """Cost of quantizing to 8 bits.

    Shapes: input with n elements, C scales.
    Counts: with a scale that is there n, and n more for a zero point; else 2·n for absolute values and the products,
        and 2·C for the scales and their inverses.
    Ignores: maxima, rounding, clamping; the inverse of a scale that is there.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: zero points are chosen as well.

    Example:
        >>> count_quantizing(OpCall.of("_C::dynamic_per_token_scaled_fp8_quant", (2, 16), (2, 16), (2, 1), None))
        68
    """
    if call.op in STATIC:
        zero = STATIC[call.op]
        return call.tensor(1).size * (1 + (zero is not None and call.arg(zero) is not None))
    place, scales, zero = DYNAMIC[call.op]
    if zero is not None and call.arg(zero) is not None:
        call.refuse("zero points that are chosen are not known")
    return 2 * call.tensor(place).size + 2 * call.tensor(scales).size


def count_norm(call: OpCall) -> Cost:
    """Cost of a root mean square norm, of what is added before it and of quantizing after it.

    Shapes: input with n elements in m rows, residual as the input, weight (K,).
    Counts: normalization 3·n + 2·m, n with a weight and K more where 1 is added to it; pointwise n for a residual, n
        for a static scale, 2·n + 2·m for scales that are chosen for each row.
    Ignores: maxima and rounding.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: the weight is not as wide as a row.

    Example:
        >>> count_norm(OpCall.of("_C::fused_add_rms_norm", (2, 8), (2, 8), (8,), 1e-6)).flop
        84
    """
    place, residual, weight_at = NORMS[call.op]
    x, weight = call.tensor(place), call.arg(weight_at)
    if isinstance(weight, TensorSpec) and weight.shape != x.shape[-1:]:
        call.refuse(f"{weight} is no weight for {x}")
    rows = x.size // max(x.shape[-1], 1)
    norm = 3 * x.size + 2 * rows + x.size * (weight is not None)
    if "gemma" in call.op and isinstance(weight, TensorSpec):
        norm += weight.size
    more = x.size * (residual is not None and call.arg(residual) is not None)
    if "static" in call.op:
        more += x.size
    if "dynamic" in call.op:
        more += 2 * x.size + 2 * rows
    return Cost.of(Part(kind="normalization", flop=norm), Part(kind="pointwise", flop=more))


def count_rotary(call: OpCall) -> int:
    """Cost of rotating queries and keys.

    Shapes: queries, keys with heads of W, of which R = the width of the table are rotated.
    Counts: 3 for each element that is rotated, `x·cos ± y·sin`.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: heads have no known width.

    Example:
        >>> count_rotary(OpCall.of("_C::rotary_embedding", (5,), (5, 64), (5, 16), 16, (2048, 16), True))
        1200
    """
    query, key, table = ROTARY[call.op]
    width = call.tensor(table).shape[-1]
    head = call.arg(3) if call.op == "_C::rotary_embedding" else call.tensor(query).shape[-1]
    if not isinstance(head, int) or head < width:
        call.refuse(f"heads of {head} with a table of {width}")
    other = call.arg(key)
    elements = call.tensor(query).size + (other.size if isinstance(other, TensorSpec) else 0)
    return 3 * elements * width // head


def count_product(call: OpCall) -> int:
    """Cost of a product into a tensor that is given.

    Shapes: result (M, N), a (M, K), b with K·N elements.
    Counts: 2·M·N·K.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_product(OpCall.of("_C::fp32_router_gemm", (4, 6), (4, 8), (6, 8)))
        384
    """
    one, two = (call.tensor(place) for place in PLAIN[call.op])
    return _multiply(call, one, two, call.tensor(0))


def count_scaled_product(call: OpCall) -> Cost:
    """Cost of a product of scaled operands.

    Shapes: a (M, K), b (K, N), scales of the whole, of rows and columns, or of blocks of K; bias (N,) optional.
    Counts: matmul 2·M·N·K in the precision of the operands; in fp32, 2·M·N for each block of K and M·N for the bias.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> a, b = TensorSpec((4, 256), "fp8_e4m3"), TensorSpec((256, 6), "fp8_e4m3")
        >>> op = "_C::cutlass_scaled_mm"
        >>> [part.flop for part in count_scaled_product(OpCall.of(op, (4, 6), a, b, (4, 2), (2, 1), None)).parts]
        [12288, 96]
    """
    place, bias = SCALED[call.op]
    one, two, scales = call.tensor(place), call.tensor(place + 1), call.tensor(place + 2)
    result = call.tensor(0) if place else call.out[0]
    products = _multiply(call, one, two, result)
    blocks = scales.shape[-1] if len(scales.shape) == 2 and scales.size != one.shape[0] else 1
    each = 2 * blocks + (bias is not None and call.arg(bias) is not None)
    return Cost.of(
        Part(kind="matmul", flop=products, precision=derive_precision((one, two))),
        Part(kind="pointwise", flop=each * result.size, precision="fp32"),
    )


def count_packed_product(call: OpCall) -> Cost:
    """Cost of a product with weights that are packed integers.

    Shapes: x (M, K), packed weights → (M, N).
    Counts: matmul 2·M·N·K in the precision of x; pointwise N·K for the scales, N·K for zero points, M·N for a bias.
    Ignores: unpacking.
    Source: docs/spec/fm-1.md#serving.

    Example:
        >>> args = (4, 64), TensorSpec((64, 2), "int32"), (1, 16), TensorSpec((1, 2), "int32"), 8
        >>> count_packed_product(OpCall.of("_C::awq_gemm", *args, out=[(4, 16)])).flop
        10240
    """
    zeros, bias = PACKED[call.op]
    x, result = call.tensor(0), call.out[0]
    inner, width = x.shape[-1], result.shape[-1]
    has_zeros = isinstance(call.arg(zeros), TensorSpec) and call.tensor(zeros).size > 0
    has_bias = bias is not None and call.arg(bias) is not None
    return Cost.of(
        Part(kind="matmul", flop=2 * result.size * inner, precision=x.dtype),
        Part(kind="pointwise", flop=width * inner * (1 + has_zeros) + result.size * has_bias, precision=x.dtype),
    )


def count_gating(call: OpCall) -> Cost:
    """Cost of choosing experts by softmax.

    Shapes: weights (T, k), logits (T, E).
    Counts: normalization 4·T·E − T, as a softmax; T·(2·k − 1) to make the chosen add up to one.
    Ignores: choosing.
    Source: docs/spec/fm-1.md#serving.

    Example:
        >>> count_gating(OpCall.of("sgl_kernel::topk_softmax", (5, 2), (5, 2), (5, 8), True)).flop
        170
    """
    weights_at, logits_at, again_at = GATING[call.op]
    weights, logits = call.tensor(weights_at), call.tensor(logits_at)
    rows, again = logits.shape[0], call.arg(again_at) is True
    return Cost.of(Part(kind="normalization", flop=4 * logits.size - rows + again * rows * (2 * weights.shape[-1] - 1)))


def count_expert_sum(call: OpCall) -> int:
    """Cost of adding up what the experts of a token give.

    Shapes: (T, k, H) → (T, H).
    Counts: T·(k − 1)·H.
    Source: docs/spec/fm-1.md#serving.

    Example:
        >>> count_expert_sum(OpCall.of("_moe_C::moe_sum", (5, 2, 8), (5, 8)))
        40
    """
    return max(0, call.tensor(0).size - call.tensor(1).size)


def count_caching(call: OpCall) -> int:
    """Cost of writing keys and values into a cache.

    Shapes: keys and values with n elements together.
    Counts: nothing where the cache keeps them as they are, else n to scale them.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: the type of the cache is not known.

    Example:
        >>> cache = (10, 16, 2, 8)
        >>> op = "_C_cache_ops::reshape_and_cache_flash"
        >>> count_caching(OpCall.of(op, (5, 2, 8), (5, 2, 8), cache, cache, (5,), "fp8", (1,), (1,)))
        160
    """
    kind = next((arg for arg in call.args if isinstance(arg, str)), None)
    if kind is None:
        call.refuse("no type of the cache")
    return 0 if kind == "auto" else call.tensor(0).size + call.tensor(1).size


def count_paged_attention(call: OpCall) -> Cost:
    """Cost of attention of one new token for each sequence over its cached ones.

    Shapes: q (B, H, D), lengths (B,) → as q.
    Counts: as attention forward over H·Σ length pairs.
    Source: docs/spec/fm-1.md#serving.

    Raises:
        FormulaError: the lengths are not known.

    Example:
        >>> lengths = TensorSpec((2,), "int32", values=(3, 5))
        >>> cache = (10, 2, 8, 16, 8)
        >>> call = OpCall.of("_C::paged_attention_v1", (2, 4, 8), (2, 4, 8), cache, cache, 2, 0.3, (2, 1), lengths)
        >>> count_paged_attention(call).parts[0].flop
        1024
    """
    query_at, lengths_at = PAGED[call.op]
    query, lengths = call.tensor(query_at), call.tensor(lengths_at)
    if lengths.values is None or len(query.shape) != 3 or len(lengths.values) != query.shape[0]:
        call.refuse(f"{query} with lengths {lengths}")
    _, heads, width = query.shape
    pairs = heads * sum(lengths.values)
    rows = heads * sum(length > 0 for length in lengths.values)
    work = Work(
        pairs=pairs, skipped=0, rows=rows, qk_width=width, v_width=width, precision=product_precision(call, query)
    )
    return price_forward(work)


def _multiply(call: OpCall, one: TensorSpec, two: TensorSpec, result: TensorSpec) -> int:
    inner = one.shape[-1] if one.shape else 0
    if two.size != inner * result.shape[-1] or result.size * inner != one.size * result.shape[-1]:
        call.refuse(f"{one} and {two} do not give {result}")
    return 2 * result.size * inner


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(GATES, ("pointwise", count_gate)),
    **dict.fromkeys((*STATIC, *DYNAMIC), ("pointwise", count_quantizing)),
    **dict.fromkeys(NORMS, ("normalization", count_norm)),
    **dict.fromkeys(ROTARY, ("pointwise", count_rotary)),
    **dict.fromkeys(PLAIN, ("matmul", count_product)),
    **dict.fromkeys(SCALED, ("matmul", count_scaled_product)),
    **dict.fromkeys(PACKED, ("matmul", count_packed_product)),
    **dict.fromkeys(GATING, ("normalization", count_gating)),
    "_moe_C::moe_sum": ("reduction", count_expert_sum),
    "_C_cache_ops::reshape_and_cache": ("pointwise", count_caching),
    "_C_cache_ops::reshape_and_cache_flash": ("pointwise", count_caching),
    "_C_cache_ops::concat_and_cache_mla": ("pointwise", count_caching),
    **dict.fromkeys(PAGED, ("attention", count_paged_attention)),
    **dict.fromkeys(NOTHING, ("other", count_nothing)),
}
READS: dict[str, tuple[int, ...]] = {op: (lengths,) for op, (_, lengths) in PAGED.items()}
