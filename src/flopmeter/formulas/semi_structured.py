"""Products with an operand in 2:4 form, which stores two of each four elements and where they stand.

Half of the products of the dense operand's size are made, the other half is `masked_flop`. A compressed operand has a
shape of its own; the inner size is read from the dense one. Columns that a kernel pads do not count.
Not here: tensors that say of themselves that they are sparse (`sparse`), and pruning, which selects.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly, is_integer
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import CUTLASS, count_nothing

# M rows of the sparse operand, K inner size before it was compressed, N columns of the dense one

PRUNING = (
    *("aten::_to_sparse_semi_structured", "aten::_cslt_compress", "aten::_sparse_semi_structured_tile"),
    *("aten::_sparse_semi_structured_apply", "aten::_sparse_semi_structured_apply_dense"),
    "torchao::to_sparse_semi_structured_cutlass_sm9x_f8",
)
"""Choosing two of each four elements by comparing magnitudes, and storing them."""


def count_half_mm(call: OpCall) -> Cost:
    """Cost of a product of a matrix in 2:4 form, beta·c + alpha·(a @ b) where there is a c.

    Shapes: a (M, K/2) and where its elements stand, b (K, N), c (M,) added to each column → (M, N).
    Counts: M·N·K products and as many masked; pointwise M·N for c unless beta is 0, M where beta is neither 0 nor 1,
        M·N where alpha is not 1.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#semi_structured.

    Raises:
        FormulaError: the sizes do not fit.

    Example:
        >>> call = OpCall.of("aten::_sparse_semi_structured_mm", (4, 8), (4, 1), (16, 5))
        >>> [(part.flop, part.masked_flop) for part in count_half_mm(call).parts]
        [(320, 320)]
    """
    has_bias = call.op.endswith("addmm")
    kept, dense = call.tensor(1 if has_bias else 0), call.tensor(3 if has_bias else 2)
    rows, inner, columns = kept.shape[0], dense.shape[0], dense.shape[1]
    if 2 * kept.shape[1] != inner:
        call.refuse(f"{kept} does not store half of {rows} rows of {inner}")
    beta, alpha = call.option("beta", 1), call.option("alpha", 1)
    extra = 0
    if has_bias and not is_exactly(beta, 0):
        extra += rows * columns + (0 if is_exactly(beta, 1) else call.tensor(0).size)
    if has_bias and not is_exactly(alpha, 1):
        extra += rows * columns
    return _price(dense, rows * columns * inner, extra=extra)


def count_half_linear(call: OpCall) -> Cost:
    """Cost of a linear layer whose weight is in 2:4 form.

    Shapes: x (N, K), w (M, K/2) and where its elements stand, c (M,) → (N, M).
    Counts: M·N·K products and as many masked; pointwise M·N for the bias, 2·M·N for silu.
    Ignores: compares: relu is free.
    Source: docs/spec/fm-1.md#semi_structured.

    Raises:
        FormulaError: the sizes do not fit, or the activation is not known.

    Example:
        >>> call = OpCall.of("aten::_sparse_semi_structured_linear", (5, 16), (4, 8), (4, 1), activation="silu")
        >>> count_half_linear(call).flop
        360
    """
    dense, kept, activation = call.tensor(0), call.tensor(1), call.option("activation")
    rows, inner = kept.shape[0], dense.shape[-1]
    if 2 * kept.shape[1] != inner or not (activation is None or isinstance(activation, str)):
        call.refuse(f"{kept} does not store half of {rows} rows of {inner}")
    if activation not in CUTLASS:
        call.refuse(f"activation {activation} is not known")
    outputs = rows * dense.size // inner if inner else 0
    each = CUTLASS[activation] + (call.option("bias") is not None)
    return _price(dense, outputs * inner, extra=outputs * each)


def count_library_half_mm(call: OpCall) -> Cost:
    """Cost of a product of a matrix in 2:4 form by a vendor's library, which keeps elements and places together.

    Shapes: a, M rows of any length, b (K, N), c (M,), a factor → (M, N) or (N, M).
    Counts: M·N·K products and as many masked; pointwise M·N for c and M·N for the factor.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#semi_structured; shapes as torch's `meta__cslt_sparse_mm`.

    Raises:
        FormulaError: the dense operand is no matrix.

    Example:
        >>> count_library_half_mm(OpCall.of("aten::_cslt_sparse_mm", (4, 9), (16, 5), (4,))).flop
        340
    """
    rows, dense = call.tensor(0).shape[0], call.tensor(1)
    inner, columns = dense.shape
    each = (call.arg(2) is not None) + (call.arg(3) is not None)
    return _price(dense, rows * columns * inner, extra=rows * columns * each)


def count_padded_half_mm(call: OpCall) -> Cost:
    """Cost of a product of a matrix in 2:4 form, before the dense operand is padded to what the kernel asks for.

    Shapes: the dense operand b (K, N), or (N, K) where it is to be transposed, a in a form of its own with M rows, c
        (M,) → (M, N) or (N, M).
    Counts: M·N·K products and as many masked; pointwise M·N for c; for fp8 M·N for the factor.
    Ignores: columns that are padded.
    Source: docs/spec/fm-1.md#semi_structured; `semi_structured.py` in torch 2.13, `fp8_sparse_mm` in torchao 0.18.

    Raises:
        FormulaError: the dense operand is no matrix, or M is no number.

    Example:
        >>> call = OpCall.of("semi_structured::cutlass_mm", (5, 16), (4, 8), (4, 1), (4,), 4, 16, 16, True)
        >>> count_padded_half_mm(call).flop
        340
    """
    places = PADDED[call.op]
    dense, rows = call.tensor(0), call.arg(places["rows"])
    transposed = "transposed" not in places or call.arg(places["transposed"]) is True
    if len(dense.shape) != 2 or not isinstance(rows, int):
        call.refuse(f"{dense} is no matrix, or {rows} no number of rows")
    columns, inner = dense.shape if transposed else dense.shape[::-1]
    each = (call.arg(places["bias"]) is not None) + ("factor" in places)
    return _price(dense, rows * columns * inner, extra=rows * columns * each)


def count_scaled_half_linear(call: OpCall) -> Cost:
    """Cost of a linear layer in fp8 with a scale for each row of input and weight, the weight in 2:4 form.

    Shapes: x (…, K), its scales, w (M, K/2), where its elements stand, its scales, c (M,) → (…, M).
    Counts: M·N·K products and as many masked for N rows of x; pointwise in fp32 2·M·N for the scales and M·N for c.
    Ignores: the cast of the result.
    Source: docs/spec/fm-1.md#semi_structured; `rowwise_scaled_linear_sparse_cutlass_f8f8` in torchao 0.18, ops.py.

    Raises:
        FormulaError: the sizes do not fit.

    Example:
        >>> op = "torchao::rowwise_scaled_linear_sparse_cutlass_f8f8"
        >>> count_scaled_half_linear(OpCall.of(op, (5, 16), (5,), (4, 8), (4, 2), (4,), dtype="fp8_e4m3")).flop
        360
    """
    dense, kept = call.tensor(0), call.tensor(2)
    rows, inner = kept.shape[0], dense.shape[-1]
    if 2 * kept.shape[1] != inner:
        call.refuse(f"{kept} does not store half of {rows} rows of {inner}")
    outputs = rows * dense.size // inner if inner else 0
    other = dense.dtype if dense.dtype == kept.dtype else f"{dense.dtype}*{kept.dtype}"
    return _price(dense, outputs * inner, extra=outputs * (2 + (call.arg(5) is not None)), precision=other)


def _price(dense: TensorSpec, products: int, *, extra: int, precision: str | None = None) -> Cost:
    """Return half of the products, the other half masked; what follows an 8-bit product is done in fp32."""
    narrow = is_integer(dense.dtype) or dense.dtype.startswith("fp8")
    return Cost.of(
        Part(kind="matmul", flop=products, masked_flop=products, precision=precision or dense.dtype),
        Part(kind="pointwise", flop=extra, precision="fp32" if narrow else dense.dtype),
    )


PADDED: dict[str, dict[str, int]] = {
    "semi_structured::cutlass_mm": {"bias": 3, "rows": 4, "transposed": 7},
    "semi_structured::cusparselt_mm": {"bias": 2, "rows": 3, "transposed": 8},
    "float8_sparse::fp8_sparse_mm": {"bias": 2, "factor": 3, "rows": 4},
}
"""Where the schemas of padded products keep their arguments; without a flag the dense operand is transposed."""

FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(PRUNING, ("other", count_nothing)),
    "aten::_sparse_semi_structured_mm": ("matmul", count_half_mm),
    "aten::_sparse_semi_structured_addmm": ("matmul", count_half_mm),
    "aten::_sparse_semi_structured_linear": ("matmul", count_half_linear),
    "aten::_cslt_sparse_mm": ("matmul", count_library_half_mm),
    **dict.fromkeys(PADDED, ("matmul", count_padded_half_mm)),
    "torchao::rowwise_scaled_linear_sparse_cutlass_f8f8": ("matmul", count_scaled_half_linear),
}
