"""Kernels that Python calls in C++ extensions, past torch's dispatcher: products of training libraries, fused Adam.

Their calls are written down as `sensors/extensions.py` reads them. A product is kind `matmul` in the precision of its
operands, whatever it adds up in.
Not here: operators of the same libraries that the dispatcher knows (`library.py`, `packed.py`), and functions of theirs
that have no price.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import GELU_TANH

# M rows, K inner size, N columns, T tokens, G groups, n elements of all parameters

WIDTHS = {"flops8": "8-bit", "flops16": "16-bit", "flops32": "32-bit", "flops64": "64-bit", "flops": "unknown"}
"""What a Triton kernel declares its operations as, and the precision that they are counted in: a width says no more."""


def count_weight_gradient(call: OpCall) -> Cost:
    """Cost of a weight gradient that is added to the main gradient in one product.

    Shapes: x (…, K) and dy (…, N) of T tokens, main gradient (N, K).
    Counts: 2·T·N·K products in the precision of x; N·K adds to the main gradient, in its own.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#extension.

    Raises:
        FormulaError: sizes that do not fit.

    Example:
        >>> op = "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp32"
        >>> [part.flop for part in count_weight_gradient(OpCall.of(op, (7, 2, 3), (7, 2, 5), (5, 3), False)).parts]
        [420, 15]
    """
    x, dy, main = call.tensor(0), call.tensor(1), call.tensor(2)
    if not (x.shape and dy.shape) or main.shape != (dy.shape[-1], x.shape[-1]) or x.shape[:-1] != dy.shape[:-1]:
        call.refuse(f"{x}, {dy} and {main} are no weight gradient")
    return _price(2 * x.size * dy.shape[-1], x.dtype, adds=main.size, added_in=main.dtype)


def count_grouped(call: OpCall) -> Cost:
    """Cost of grouped_gemm's products of groups of rows.

    Shapes: a (T, K), b (G, K, N) or, transposed, (G, N, K), c (T, N); or, a transposed, b (T, N), c (G, K, N).
    Counts: 2·T·K·N.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#extension.

    Raises:
        FormulaError: sizes that do not fit.

    Example:
        >>> op = "grouped_gemm_backend::gmm"
        >>> count_grouped(OpCall.of(op, (7, 3), (2, 3, 5), (7, 5), (2,), False, False)).flop
        210
    """
    a, b, c = call.tensor(0), call.tensor(1), call.tensor(2)
    if len(a.shape) != 2:
        call.refuse(f"{a} is no matrix")
    rows, inner = a.shape
    if call.arg(4) is True:
        fits = len(b.shape) == 2 and len(c.shape) == 3 and b.shape[0] == rows and c.shape[1:] == (inner, b.shape[1])
    else:
        sizes = (inner, c.shape[-1]) if call.arg(5) is not True else (c.shape[-1], inner)
        fits = len(b.shape) == 3 and len(c.shape) == 2 and c.shape[0] == rows and b.shape[1:] == sizes
    if not fits:
        call.refuse(f"{a}, {b} and {c} are no products of groups")
    return _price(2 * a.size * c.shape[-1], _join(a.dtype, b.dtype))


def count_deep_gemm(call: OpCall) -> Cost:
    """Cost of a product of DeepGEMM, of whole matrices or of groups that lie one behind the other.

    Shapes: a of M·K elements in either order, b (…), d (…, N); of groups of K, a holds all of them.
    Counts: 2·numel(a)·N products in the precision of the operands; numel(d) adds in that of d where c is given.
    Ignores: scales, which belong to the format; rows between groups that only fill up.
    Source: docs/spec/fm-1.md#extension.

    Raises:
        FormulaError: packed operands, whose size says only half.

    Example:
        >>> count_deep_gemm(OpCall.of("deep_gemm::bf16_gemm_nt", (7, 3), (5, 3), (7, 5), False, dtype="bf16")).flop
        210
    """
    a, b, d = call.tensor(0), call.tensor(1), call.tensor(2)
    if not d.shape or any(spec.dtype.startswith(("int", "uint")) for spec in (a, b)):
        call.refuse(f"{a} and {b} are packed")
    return _price(
        2 * a.size * d.shape[-1], _join(a.dtype, b.dtype), adds=d.size * (call.arg(3) is True), added_in=d.dtype
    )


def count_te_product(call: OpCall) -> Cost:
    """Cost of Transformer Engine's product, whose operands are told as cuBLAS takes them: y = op(B)·op(A).

    Shapes: A (N, K), transposed, else (K, N); B (…, K), else, transposed, (K, M); formats of both → (…, N).
    Counts: 2·M·N·K products; where they are asked for, M·N adds of a bias, or as many sums of its gradient less N, M·N
        adds to what was there, and of a forward 9·M·N for a GELU.
    Ignores: scales, which belong to the format; the gradient of a fused GELU, whose call is refused.
    Source: docs/spec/fm-1.md#extension; shapes as `getGemmOutputShape` in its gemm.cpp.

    Raises:
        FormulaError: sizes that do not fit, or the gradient of a GELU.

    Example:
        >>> op, ways = "transformer_engine_torch::generic_gemm", {"grad": False, "gelu": False, "accumulate": False}
        >>> call = OpCall.of(op, (5, 3), True, (7, 3), False, "", "", bias=True, **ways)
        >>> [part.flop for part in count_te_product(call).parts]
        [210, 35]
    """
    return _count_te(call, [(call.tensor(0), call.tensor(2))])


def count_te_grouped(call: OpCall) -> Cost:
    """Cost of Transformer Engine's products of one group after the other.

    Shapes: lists of A and of B, each pair as `count_te_product` has it.
    Counts: as `count_te_product`, for each pair.
    Ignores: what `count_te_product` ignores.
    Source: docs/spec/fm-1.md#extension.

    Raises:
        FormulaError: as `count_te_product`, or lists of different lengths.

    Example:
        >>> op, ways = "transformer_engine_torch::te_general_grouped_gemm", {"grad": False, "gelu": False}
        >>> call = OpCall.of(op, [(5, 3), (5, 3)], True, [(7, 3), (2, 3)], False, "", "", bias=False, accumulate=False,
        ...                  **ways)
        >>> count_te_grouped(call).flop
        270
    """
    ones, twos = call.tensor_list(0), call.tensor_list(2)
    if len(ones) != len(twos):
        call.refuse(f"{len(ones)} operands meet {len(twos)}")
    return _count_te(call, list(zip(ones, twos, strict=True)))


def count_adam(call: OpCall) -> Cost:
    """Cost of a fused step of Adam over lists of tensors, in the phase `optimizer` whether gradients are on or not.

    Shapes: a list of gradients, n elements in all.
    Counts: 13·n, and for weight decay 2·n where it is added to the gradient (mode 0), n where it scales the parameter.
    Ignores: numbers made on the host, checks for infinities.
    Source: docs/spec/fm-1.md#extension; as `aten::_fused_adam` and `aten::_fused_adamw`.

    Example:
        >>> count_adam(OpCall.of("amp_C::multi_tensor_adam", [(2, 3), (4,)], 1, 0.01)).flop
        140
    """
    decay = 0 if is_exactly(call.arg(2), 0) else 2 if is_exactly(call.arg(1), 0) else 1
    flop = (13 + decay) * sum(spec.size for spec in call.tensor_list(0))
    return Cost.of(Part(kind="pointwise", flop=flop, phase="optimizer"))


def count_declared(call: OpCall) -> Cost:
    """Cost of a Triton kernel as whoever wrote it declares it: nobody counted, so its basis is `declared`.

    Shapes: none; the name of the kernel, and what it declares of a launch.
    Counts: the operations that it declares, in a precision that is a width alone.
    Source: docs/spec/fm-1.md#extension; names as Proton's, the profiler of Triton.

    Example:
        >>> [(part.flop, part.precision, part.basis) for part in count_declared(
        ...     OpCall.of("triton::declared", "add", flops32=8)).parts]
        [(8, '32-bit', 'declared')]
    """
    found = [(WIDTHS[name], value) for name, value in call.options if name in WIDTHS and isinstance(value, int)]
    if not found:
        call.refuse("it declares nothing")
    return Cost.of(*(Part(kind="other", flop=flop, precision=width, basis="declared") for width, flop in found))


def _count_te(call: OpCall, pairs: list[tuple[TensorSpec, TensorSpec]]) -> Cost:
    terms = outputs = columns = 0
    for one, two in pairs:
        rows, inner = _flat(call, two, is_transposed=call.arg(3) is True)
        width, depth = _flat(call, one, is_transposed=call.arg(1) is not True)
        if inner != depth:
            call.refuse(f"{one} and {two} do not meet in one size")
        terms, outputs, columns = terms + rows * inner * width, outputs + rows * width, columns + width
    is_backward = call.option("grad") is True
    has_bias, has_gelu = call.option("bias") is True, call.option("gelu") is True
    if is_backward and has_gelu:
        call.refuse("the gradient of a fused GELU is not written")
    adds = outputs * ((call.option("accumulate") is True) + (has_bias and not is_backward) + GELU_TANH * has_gelu)
    formats = [
        format_ if isinstance(format_, str) and format_ else pairs[0][place].dtype
        for place, format_ in enumerate((call.arg(4), call.arg(5)))
    ]
    cost = _price(2 * terms, _join(*formats), adds=adds)
    sums = Part(kind="reduction", flop=outputs - columns if has_bias and is_backward else 0, precision="fp32")
    return Cost.of(*cost.parts, sums)


def _flat(call: OpCall, spec: TensorSpec, *, is_transposed: bool) -> tuple[int, int]:
    """Return a tensor as a matrix, all sizes but the last as one; turned round where it is transposed."""
    if not spec.shape:
        call.refuse(f"{spec} is no matrix")
    last = spec.shape[-1]
    rows = spec.size // last if last else 0
    return (last, rows) if is_transposed else (rows, last)


def _join(one: str, two: str) -> str:
    return one if one == two else f"{one}*{two}"


def _price(products: int, precision: str, *, adds: int = 0, added_in: str = "fp32") -> Cost:
    return Cost.of(
        Part(kind="matmul", flop=products, precision=precision),
        Part(kind="pointwise", flop=adds, precision=added_in),
    )


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp32": ("matmul", count_weight_gradient),
    "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp16": ("matmul", count_weight_gradient),
    "grouped_gemm_backend::gmm": ("matmul", count_grouped),
    "transformer_engine_torch::generic_gemm": ("matmul", count_te_product),
    "transformer_engine_torch::te_general_grouped_gemm": ("matmul", count_te_grouped),
    "amp_C::multi_tensor_adam": ("pointwise", count_adam),
    "transformer_engine_torch::multi_tensor_adam": ("pointwise", count_adam),
    "triton::declared": ("other", count_declared),
    **{
        f"deep_gemm::{kind}_gemm_{layout}": ("matmul", count_deep_gemm)
        for kind in ("fp8", "bf16", "fp8_fp4", "cublaslt")
        for layout in ("nt", "nn", "tn", "tt")
    },
    **{
        f"deep_gemm::m_grouped_{kind}_gemm_{layout}_contiguous": ("matmul", count_deep_gemm)
        for kind in ("fp8", "bf16", "fp8_fp4")
        for layout in ("nt", "nn")
    },
    "deep_gemm::k_grouped_fp8_gemm_nt_contiguous": ("matmul", count_deep_gemm),
    "deep_gemm::k_grouped_fp8_gemm_tn_contiguous": ("matmul", count_deep_gemm),
    "deep_gemm::k_grouped_bf16_gemm_tn_contiguous": ("matmul", count_deep_gemm),
}
