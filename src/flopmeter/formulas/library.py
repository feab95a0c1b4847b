"""Kernels of training libraries: Transformer Engine, Unsloth, QuACK; collectives of TorchRec and DeepSpeed.

Each costs what the plain operators cost that it stands for.
Not here: kernels of theirs that torch's dispatcher never sees (`docs/reference/libraries.md`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import GELU, GELU_TANH, QUICK_GELU, SILU, count_nothing

# n elements, m rows, K width of a row; products (M, K) by (K, N); T tokens, R rows after permuting, H their width

ACTIVATIONS = {
    "relu": 0,
    "relu_sq": 1,
    "tanh": 1,
    "silu": SILU,
    "quick_gelu": QUICK_GELU,
    "gelu_erf": GELU,
    "gelu_tanh_approx": GELU_TANH,
}
GATES = {"glu": 2, "swiglu": SILU + 1, "reglu": 1, "geglu": GELU_TANH + 1, "swiglu_oai": 5}
"""Operations for each element of the result, by QuACK's names."""

SOFTMAX = {
    f"te_softmax::{name}_{way}": (causal, masked)
    for name, causal, masked in (
        ("scaled_softmax", False, False),
        ("scaled_masked_softmax", False, True),
        ("scaled_upper_triang_masked_softmax", True, False),
        ("scaled_aligned_causal_masked_softmax", True, False),
    )
    for way in ("fwd", "bwd")
}
"""Whether it is causal, and whether a mask is given."""

PRODUCTS = {
    "quack::gemm": (None, 2, 3, None),
    "quack::gemm_add": (None, 3, 4, 2),
    "quack::gemm_out": (2, 3, 4, None),
    "quack::gemm_add_out": (3, 4, 5, 2),
}
"""Where the result, a bias, the factor of the product and what is added stand; its factor comes next."""

ACTIVATED = {"quack::gemm_act_out": (ACTIVATIONS, 15), "quack::gemm_gated_out": (GATES, 16)}
"""What follows the product, and where its factor stands."""

GROUPED = {f"unsloth_zoo::grouped_mm_{maker}{way}": bool(way) for maker in ("fp16", "triton") for way in ("", "_wgrad")}
"""Whether it is the gradient of the weights."""

NOTHING = (
    *("te_moe::permute_index_map", "te_moe::permute_mask_map_fwd", "te_moe::chunk_sort_fwd", "te_moe::chunk_sort_bwd"),
    *("te_moe::unpermute_mask_map_bwd_no_probs", "te_kv_cache::copy_to_kv_cache", "te_kv_cache::convert_bshd_to_thd"),
    *("te_kv_cache::convert_thd_to_bshd", "te_attention::convert_thd_to_bshd", "te_attention::convert_bshd_to_thd"),
    *("te_attention::fa_prepare_fwd", "te_attention::fa_prepare_bwd"),
    *("torchrec::all_gather_into_tensor", "torchrec::reduce_scatter_tensor", "torchrec::_split_1d_cat_2d"),
    *("torchrec::_split_1d_cat_2d_backward_impl", "torchrec::triton_permute_multi_embedding"),
    *("deepspeed::dim_zero_all_to_all", "deepspeed::inference_all_reduce", "autosp::all_gather_sequence"),
    *("autosp::all_to_all", "autosp::reduce_scatter_sequence", "autotp::copy_to_tp_region"),
    *("autotp::gather_from_tp_region", "autotp::reduce_from_tp_region", "dc::allgather_param", "dc::wait_allgather"),
    *("dc::release_param", "dc::reduce_grad", "dc::free_tensors", "dc::offload_tensor", "dc::reload_tensor"),
    *("dc::wait_offload", "dc::wait_reload", "dc::offload_parameter", "dc::reload_parameter", "dc::end_backward"),
)
"""Permuting, copying, collectives."""


def count_softmax(call: OpCall) -> Cost:
    """Cost of Transformer Engine's softmax with a scale, and of its gradient.

    Shapes: scores (…, S, T) with m rows → as the scores.
    Counts: over the pairs P that are kept, all of them or, causal, those of a mask that ends bottom right:
        normalization 4·P − m; pointwise P for the scale.
    Ignores: masks that are given: they choose, and nothing is added; maxima.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> count_softmax(OpCall.of("te_softmax::scaled_softmax_fwd", (2, 4, 4), 0.5)).flop
        152
        >>> count_softmax(OpCall.of("te_softmax::scaled_upper_triang_masked_softmax_fwd", (2, 4, 4), 0.5)).flop
        92
    """
    causal, _ = SOFTMAX[call.op]
    scores = call.tensor(0)
    queries, keys = scores.shape[-2:]
    batch = scores.size // max(queries * keys, 1)
    rows = min(queries, keys) if causal else queries * bool(keys)
    # From the last row, which looks at all keys, each row before it looks at one less.
    pairs = rows * keys - (rows * (rows - 1) // 2 if causal else 0)
    pairs, rows = batch * pairs, batch * rows
    factor = call.arg(2 if call.op.endswith("_bwd") or "scaled_masked" in call.op else 1)
    return Cost.of(
        Part(kind="normalization", flop=max(0, 4 * pairs - rows)),
        Part(kind="pointwise", flop=pairs * (not is_exactly(factor, 1))),
    )


def count_unpermute(call: OpCall) -> Cost:
    """Cost of bringing the rows of experts back to their tokens, each times its probability, and adding them up.

    Shapes: rows (R, H), probabilities optional → (T, H).
    Counts: pointwise R·H with probabilities; reduction (R − T)·H.
    Ignores: tokens without an expert.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> args = (10, 8), (10,), (5, 2), 5, 2
        >>> count_unpermute(OpCall.of("te_moe::unpermute_index_map_fwd", *args, out=[(5, 8)])).flop
        120
    """
    rows, has_probs = call.tensor(0).size, call.op.endswith("_fwd") and call.arg(2) is not None
    return Cost.of(
        Part(kind="reduction", flop=max(0, rows - call.out[0].size)),
        Part(kind="pointwise", flop=rows * (has_probs and call.tensor(2).size > 0)),
    )


def count_unpermute_backward(call: OpCall) -> Cost:
    """Cost of the gradients of rows and of probabilities.

    Shapes: dy (T, H), rows (R, H) of the forward → their gradients (R, H) and those of R probabilities.
    Counts: pointwise R·H for `dy·p` and R·H for `dy·row`; reduction R·H − R.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> args = (5, 8), (10, 8), (10,), (5, 2)
        >>> count_unpermute_backward(OpCall.of("te_moe::unpermute_index_map_bwd", *args)).flop
        230
    """
    rows = call.tensor(1 if call.op == "te_moe::unpermute_index_map_bwd" else 2)
    return Cost.of(
        Part(kind="pointwise", flop=2 * rows.size),
        Part(kind="reduction", flop=rows.size - rows.shape[0]),
    )


def count_rms_norm(call: OpCall) -> int:
    """Cost of Unsloth's root mean square norm.

    Shapes: x with n elements in m rows, weight (K,).
    Counts: 4·n + 2·m, and K to add 1 to the weight where the model is a Gemma.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> count_rms_norm(OpCall.of("unsloth::rms_layernorm", (2, 8), (8,), 1e-6, True))
        76
    """
    x, weight = call.tensor(0), call.tensor(1)
    return 4 * x.size + 2 * (x.size // max(weight.size, 1)) + weight.size * (call.arg(3) is True)


def count_rms_norm_backward(call: OpCall) -> int:
    """Cost of the gradients of Unsloth's root mean square norm.

    Shapes: dy and x with n elements in m rows, weight (K,).
    Counts: 8·n − m, and 2·n − K for the gradient of the weight: as `aten::_fused_rms_norm_backward`; K for a Gemma.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> args = (2, 8), (2, 8), (8,), (2,), 1e-6, False, False
        >>> count_rms_norm_backward(OpCall.of("unsloth::rms_layernorm_backward", *args))
        126
    """
    x, weight = call.tensor(1), call.tensor(2)
    trained = call.arg(6) is True
    rows = x.size // max(weight.size, 1)
    return 8 * x.size - rows + trained * (2 * x.size - weight.size) + weight.size * (call.arg(5) is True)


def count_rotary(call: OpCall) -> int:
    """Cost of rotating queries, or queries and keys, there or back.

    Shapes: queries with n elements, keys optional, cosines and sines.
    Counts: 3·n: `x·cos ± y·sin`.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> count_rotary(OpCall.of("unsloth::rope_embedding", (1, 5, 4, 8), (5, 8), (5, 8), False))
        480
    """
    keys = call.tensor(1).size if call.op == "unsloth::rope_embedding_qk" else 0
    return 3 * (call.tensor(0).size + keys)


def count_norm_and_rotary(call: OpCall) -> Cost:
    """Cost of normalizing queries and keys, head by head, and rotating them.

    Shapes: queries and keys with n elements together in m heads, weights (D,) each.
    Counts: normalization 4·n + 2·m, pointwise 3·n.
    Source: docs/spec/fm-1.md#library.

    Example:
        >>> args = (1, 5, 4, 8), (1, 5, 2, 8), (8,), (8,), (5, 8), (5, 8), (5,), 1e-6, 1e-6, False
        >>> count_norm_and_rotary(OpCall.of("unsloth::qk_norm_rope", *args)).flop
        1740
    """
    size = call.tensor(0).size + call.tensor(1).size
    heads = size // max(call.tensor(2).size, 1)
    return Cost.of(Part(kind="normalization", flop=4 * size + 2 * heads), Part(kind="pointwise", flop=3 * size))


def count_addmm(call: OpCall) -> Cost:
    """Cost of adding a product to a matrix in place.

    Shapes: out (M, N), a (M, K), b (K, N).
    Counts: matmul 2·M·N·K; pointwise M·N to add unless beta is 0, M·N each for factors that are not 1.
    Source: docs/spec/fm-1.md#library.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_addmm(OpCall.of("unsloth::addmm_", (2, 5), (2, 3), (3, 5), 1.0, 1.0)).flop
        70
    """
    out, a, b = (call.tensor(place) for place in range(3))
    if len(a.shape) != 2 or out.shape != (a.shape[0], b.shape[-1]) or a.shape[1] != b.shape[0]:
        call.refuse(f"{a} and {b} do not give {out}")
    alpha, beta = call.arg(3), call.arg(4)
    added = 0 if is_exactly(beta, 0) else 1 + (not is_exactly(beta, 1))
    return _price(2 * out.size * a.shape[1], (added + (not is_exactly(alpha, 1))) * out.size)


def count_grouped(call: OpCall) -> int:
    """Cost of a product for each group of rows, or of the gradients of its weights.

    Shapes: x (M, K), weights (G, K, N), offsets; or x (M, K), dy (M, N), offsets.
    Counts: 2·M·K·N.
    Ignores: where groups end.
    Source: docs/spec/fm-1.md#library.

    Raises:
        FormulaError: the shapes do not fit.

    Example:
        >>> count_grouped(OpCall.of("unsloth_zoo::grouped_mm_triton", (10, 4), (3, 4, 8), (3,)))
        640
    """
    x, other = call.tensor(0).shape, call.tensor(1).shape
    fits = other[:1] == x[:1] if GROUPED[call.op] else len(other) == 3 and other[1] == x[1]
    if len(x) != 2 or not fits:
        call.refuse(f"{x} and {other} do not fit")
    return 2 * x[0] * x[1] * other[-1]


def count_product(call: OpCall) -> Cost:
    """Cost of QuACK's product with what follows it.

    Shapes: a (…, M, K), b (…, K, N), bias (…, N) optional, c as the result optional → (…, M, N); rows of all groups one
        behind the other with b (G, K, N).
    Counts: matmul 2·numel(a)·N; pointwise, for each element of the result, 1 for a bias, 1 for a factor that is not 1,
        1 to add c and 1 for its factor.
    Source: docs/spec/fm-1.md#library.

    Raises:
        FormulaError: operands with scales of their own, rows that are gathered, or groups along K.

    Example:
        >>> count_product(OpCall.of("quack::gemm_add", (4, 8), (8, 6), (4, 6), None, 1.0, 1.0, out=[(4, 6)])).flop
        408
    """
    result_at, bias, factor, other = PRODUCTS[call.op]
    result = call.out[0] if result_at is None else call.tensor(result_at)
    products = _multiply(call, result)
    each = _factor(call, factor, factor + (1 if other is None else 2)) + (call.arg(bias) is not None)
    if other is not None:
        each += 1 + _factor(call, factor + 1, factor + 3)
    return _price(products, each * result.size)


def count_activated_product(call: OpCall) -> Cost:
    """Cost of QuACK's product with an activation, or a gate, after it.

    Shapes: a (…, M, K), b (…, K, N), c and bias optional → before (…, M, N) optional, after (…, M, N) or (…, M, N/2).
    Counts: matmul 2·numel(a)·N; pointwise, for each element before, 1 each for c, a bias and a factor; for each after,
        `ACTIVATIONS` or `GATES`.
    Source: docs/spec/fm-1.md#library.

    Raises:
        FormulaError: operands with scales of their own, rows that are gathered, or an activation that is not known.

    Example:
        >>> args = (4, 8), (8, 12), None, (4, 6), None, None, "swiglu"
        >>> count_activated_product(OpCall.of("quack::gemm_gated_out", *args)).flop
        840
    """
    after, name = call.tensor(3), call.arg(6)
    rates, factor = ACTIVATED[call.op]
    rate = 0 if name is None and rates is ACTIVATIONS else rates.get(str(name).removesuffix("-tanh"))
    if rate is None:
        call.refuse(f"activation {name} is not known")
    width = call.tensor(1).shape[-1]
    before = TensorSpec((*after.shape[:-1], width), after.dtype)
    products = _multiply(call, before)
    each = (call.arg(4) is not None) + (call.arg(5) is not None) + _factor(call, factor, factor + 1)
    return _price(products, each * before.size + rate * after.size)


def _multiply(call: OpCall, result: TensorSpec) -> int:
    a, b = call.tensor(0), call.tensor(1)
    names = [arg.removesuffix("-tanh") for arg in call.args[4:] if isinstance(arg, str)]
    if (
        not {*ACTIVATIONS, *GATES}.issuperset(names)
        or not a.shape
        or b.shape[-2] != a.shape[-1]
        or result.size * a.shape[-1] != a.size * b.shape[-1]
    ):
        call.refuse(f"{a} and {b} do not give {result}")
    return 2 * result.size * a.shape[-1]


def _factor(call: OpCall, number: int, tensor: int) -> int:
    """Say whether a factor costs a product: a number that is not 1, or a number in a tensor."""
    return int(not is_exactly(call.arg(number, 1.0), 1) or call.arg(tensor) is not None)


def _price(products: int, besides: int) -> Cost:
    return Cost.of(Part(kind="matmul", flop=products), Part(kind="pointwise", flop=besides))


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(SOFTMAX, ("normalization", count_softmax)),
    "te_moe::unpermute_index_map_fwd": ("reduction", count_unpermute),
    "te_moe::unpermute_mask_map_fwd": ("reduction", count_unpermute),
    "te_moe::permute_index_map_bwd": ("reduction", count_unpermute),
    "te_moe::permute_mask_map_bwd": ("reduction", count_unpermute),
    "te_moe::unpermute_index_map_bwd": ("pointwise", count_unpermute_backward),
    "te_moe::unpermute_mask_map_bwd_with_probs": ("pointwise", count_unpermute_backward),
    "unsloth::rms_layernorm": ("normalization", count_rms_norm),
    "unsloth::rms_layernorm_backward": ("normalization", count_rms_norm_backward),
    "unsloth::rope_embedding": ("pointwise", count_rotary),
    "unsloth::rope_embedding_qk": ("pointwise", count_rotary),
    "unsloth::qk_norm_rope": ("normalization", count_norm_and_rotary),
    "unsloth::addmm_": ("matmul", count_addmm),
    **dict.fromkeys(GROUPED, ("matmul", count_grouped)),
    **dict.fromkeys(PRODUCTS, ("matmul", count_product)),
    **dict.fromkeys(ACTIVATED, ("matmul", count_activated_product)),
    **dict.fromkeys(NOTHING, ("other", count_nothing)),
}
