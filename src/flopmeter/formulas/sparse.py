"""Calls with a sparse tensor (COO, CSR, CSC, BSR, BSC), by the entries that it stores.

They are looked up as `sparse::aten.op`. What a tensor does not store is no product, masked or not.
Not here: 2:4 sparsity, whose operands are dense tensors to torch (`semi_structured`), operators on the values of a
sparse tensor, which are ordinary calls, and solvers.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import count_nothing

# M rows, K inner size, N columns; s(x) entries that x stores, all of its elements where it is dense

UNARY = (
    *("abs", "angle", "asin", "asinh", "atan", "atanh", "deg2rad", "erf", "erfinv", "expm1", "frac", "log1p", "neg"),
    *("rad2deg", "sin", "sinh", "sqrt", "tan", "tanh"),
)
"""Elementary functions that keep zero, so that torch applies them to the stored entries alone."""

LAYOUT = (
    *("sparse_mask", "_sparse_mask_projection", "_sparse_coo_tensor_with_dims"),
    *("_sparse_coo_tensor_with_dims_and_tensors", "_sparse_compressed_tensor_with_dims", "sparse_compressed_tensor"),
    *("_to_sparse_csr", "_to_sparse_csc", "_to_sparse_bsr", "_to_sparse_bsc", "_spdiags", "_sparse_sum_backward"),
    *("_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo", "_validate_compressed_sparse_indices"),
    *("sparse_dim", "dense_dim", "sparse_coo_tensor", "copy_sparse_to_sparse", "sparse_resize"),
    *("sparse_resize_and_clear", "resize_as_sparse"),
)
"""Operators that make, select from or store sparse tensors."""


def count_sparse_mm(call: OpCall) -> int:
    """Cost of a product with a sparse operand.

    Shapes: a (M, K), b (K, N) → (M, N); or a batch of them; or b (K,) → (M,).
    Counts: 2·s(a)·N where a is sparse, 2·M·s(b) where b is, and where both are, the smallest of these two and
        2·s(a)·s(b): the most that so many entries can meet.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#sparse.

    Raises:
        FormulaError: the sizes differ, or nothing is sparse.

    Example:
        >>> a = TensorSpec((4, 6), stored=5)
        >>> count_sparse_mm(OpCall.of("sparse::aten.mm", a, (6, 3)))
        30
    """
    return _products(call, call.tensor(0), call.tensor(1))


def count_sparse_addmm(call: OpCall) -> Cost:
    """Cost of beta·c + alpha·(a @ b) with a sparse operand.

    Shapes: c broadcasts to (M, N), a (M, K), b (K, N) → (M, N), which stores all of it or some.
    Counts: the products of `count_sparse_mm`; pointwise one add for each entry that is stored (of c where c is sparse,
        else of the result) unless beta is 0, s(c) where beta is neither 0 nor 1, s(result) where alpha is not 1.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#sparse.

    Raises:
        FormulaError: the sizes differ, or neither a nor b is sparse.

    Example:
        >>> a = TensorSpec((4, 6), stored=5)
        >>> count_sparse_addmm(OpCall.of("sparse::aten.addmm", (3,), a, (6, 3), out=[(4, 3)])).flop
        42
    """
    old, (result,) = call.tensor(0), call.out
    beta, alpha = call.option("beta", 1), call.option("alpha", 1)
    extra = 0
    if not is_exactly(beta, 0):
        extra += _kept(old if old.stored is not None else result)
        extra += 0 if is_exactly(beta, 1) else _kept(old)
    if not is_exactly(alpha, 1):
        extra += _kept(result)
    flop = _products(call, call.tensor(1), call.tensor(2))
    return Cost.of(Part(kind="matmul", flop=flop), Part(kind="pointwise", flop=extra))


def count_sampled_addmm(call: OpCall) -> Cost:
    """Cost of beta·c + alpha·(a @ b) at the entries that a sparse c stores.

    Shapes: c (M, N) sparse, a (…, M, K), b (…, K, N) → (M, N) with the entries of c.
    Counts: 2·s(c)·K products; pointwise s(c) unless beta is 0, s(c) where beta is neither 0 nor 1, s(c) where alpha is
        not 1.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#sparse.

    Raises:
        FormulaError: the sizes differ, or c is dense.

    Example:
        >>> c = TensorSpec((4, 6), stored=5)
        >>> count_sampled_addmm(OpCall.of("sparse::aten.sparse_sampled_addmm", c, (4, 3), (3, 6), beta=0)).flop
        30
    """
    old, one, two = call.tensor(0), call.tensor(1), call.tensor(2)
    if old.stored is None or one.shape[-1] != two.shape[-2] or old.shape[-2:] != (one.shape[-2], two.shape[-1]):
        call.refuse(f"{one} and {two} cannot be multiplied at the entries of {old}")
    beta, alpha = call.option("beta", 1), call.option("alpha", 1)
    factors = (not is_exactly(beta, 0)) + (not is_exactly(beta, 0) and not is_exactly(beta, 1))
    return Cost.of(
        Part(kind="matmul", flop=2 * old.stored * one.shape[-1]),
        Part(kind="pointwise", flop=old.stored * (factors + (not is_exactly(alpha, 1)))),
    )


def count_reduced_mm(call: OpCall) -> Cost:
    """Cost of a product whose terms are summed, averaged, or compared, as message passing on graphs needs it.

    Shapes: a (M, K) sparse, b (K, N) → (M, N).
    Counts: 2·s(a)·N products, and for the mean M·N pointwise; for amax and amin s(a)·N pointwise alone.
    Ignores: compares, and counting the entries of a row.
    Source: docs/spec/fm-1.md#sparse.

    Raises:
        FormulaError: the sizes differ, or the reduction is not known.

    Example:
        >>> call = OpCall.of("sparse::aten._sparse_mm_reduce_impl", TensorSpec((4, 6), stored=5), (6, 3), "mean")
        >>> count_reduced_mm(call).flop
        42
    """
    one, two = call.tensor(0), call.tensor(1)
    flop, reduce = _products(call, one, two), _reduction(call, 2)
    if reduce in ("amax", "amin"):
        return Cost.of(Part(kind="pointwise", flop=flop // 2))
    mean = one.shape[0] * two.shape[1] if reduce == "mean" else 0
    return Cost.of(Part(kind="matmul", flop=flop), Part(kind="pointwise", flop=mean))


def count_reduced_mm_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a product whose terms were summed, averaged or compared.

    Shapes: a (M, K) sparse, dy (M, N), b (K, N) → da with the entries of a, db (K, N), as the output mask asks.
    Counts: for each gradient 2·s(a)·N products, and for the mean s(a) pointwise; after amax and amin one product
        (pointwise) and one add (scatter) for each element of dy.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#sparse; torch's SpmmReduceKernel.

    Raises:
        FormulaError: the sizes differ, the reduction is not known, or the output mask is missing.

    Example:
        >>> a, op = TensorSpec((4, 6), stored=5), "sparse::aten._sparse_mm_reduce_impl_backward"
        >>> count_reduced_mm_backward(OpCall.of(op, a, (4, 3), (6, 3), "sum", (0,), [True, True])).flop
        60
    """
    one, grad, two, reduce = call.tensor(0), call.tensor(1), call.tensor(2), _reduction(call, 3)
    mask = call.arg(5)
    if not isinstance(mask, tuple) or len(mask) != 2 or grad.shape != (*one.shape[:1], *two.shape[1:]):
        call.refuse(f"{grad} is no gradient of {one} times {two}, or {mask} no output mask")
    asked = (mask[0] is True) + (mask[1] is True)
    if reduce in ("amax", "amin"):
        each = grad.size * asked
        return Cost.of(Part(kind="pointwise", flop=each), Part(kind="scatter", flop=each))
    mean = _kept(one) * asked if reduce == "mean" else 0
    return Cost.of(Part(kind="matmul", flop=_products(call, one, two) * asked), Part(kind="pointwise", flop=mean))


def count_each_entry(call: OpCall) -> int:
    """Cost of an elementary function of a sparse tensor.

    Shapes: x → the same entries.
    Counts: s(x).
    Ignores: what is not stored, of which the function is zero.
    Source: docs/spec/fm-1.md#sparse.

    Example:
        >>> count_each_entry(OpCall.of("sparse::aten.neg", TensorSpec((4, 6), stored=5)))
        5
    """
    return _kept(call.tensor(0))


def count_sparse_pow(call: OpCall) -> int:
    """Cost of the power of a sparse tensor, its entries alone.

    Shapes: x → the same entries.
    Counts: s(x); nothing for the exponent 1, 2·s(x) for 3.
    Ignores: what is not stored.
    Source: docs/spec/fm-1.md#sparse.

    Example:
        >>> count_sparse_pow(OpCall.of("sparse::aten.pow", TensorSpec((4, 6), stored=5), 2))
        5
    """
    exponent = call.arg(1)
    return _kept(call.tensor(0)) * (0 if is_exactly(exponent, 1) else 2 if is_exactly(exponent, 3) else 1)


def count_sparse_mul(call: OpCall) -> int:
    """Cost of multiplying or dividing a sparse tensor by a number or a tensor, element by element.

    Shapes: x, y → entries that both store.
    Counts: s(x), or s(y) where y stores fewer: the most that can meet.
    Ignores: what is not stored.
    Source: docs/spec/fm-1.md#sparse.

    Example:
        >>> count_sparse_mul(OpCall.of("sparse::aten.mul", TensorSpec((4, 6), stored=5), (4, 6)))
        5
    """
    return min(spec.stored for spec in call.tensors if spec.stored is not None)


def count_sparse_add(call: OpCall) -> int:
    """Cost of adding or subtracting a sparse tensor.

    Shapes: x + alpha·y, one of them sparse or both.
    Counts: s(x), or s(y) where y stores fewer: the most that can meet; s(y) where alpha is not 1.
    Ignores: that torch may put the entries of both one after another and leave adding them to `_coalesce`.
    Source: docs/spec/fm-1.md#sparse.

    Example:
        >>> count_sparse_add(OpCall.of("sparse::aten.add", (4, 6), TensorSpec((4, 6), stored=5), alpha=0.5))
        10
    """
    one, two = call.tensor(0), call.tensor(1)
    return min(_kept(one), _kept(two)) + (0 if is_exactly(call.option("alpha", 1), 1) else _kept(two))


def count_sparse_sum(call: OpCall) -> int:
    """Cost of adding up entries: a sum over some dimensions, or over entries with the same index.

    Shapes: x → result.
    Counts: s(x) − s(result).
    Ignores: nothing; 0 where the result has more elements than x stores.
    Source: docs/spec/fm-1.md#sparse.

    Example:
        >>> x, y = TensorSpec((4, 6), stored=5), TensorSpec((4, 6), stored=3)
        >>> count_sparse_sum(OpCall(op="sparse::aten._coalesce", args=(x,), out=(y,)))
        2
    """
    (result,) = call.out
    return max(_kept(call.tensor(0)) - _kept(result), 0)


def count_sparse_norm(call: OpCall) -> int:
    """Cost of the norm of a sparse tensor, of order 2.

    Shapes: x → a number.
    Counts: 2·s(x): square, sum, root.
    Ignores: what is not stored.
    Source: docs/spec/fm-1.md#sparse.

    Raises:
        FormulaError: another order.

    Example:
        >>> count_sparse_norm(OpCall.of("sparse::aten.norm", TensorSpec((4, 6), stored=5), 2))
        10
    """
    order = call.arg(1, 2)
    if order is not None and not is_exactly(order, 2):
        call.refuse(f"order {order} is not 2")
    return 2 * _kept(call.tensor(0))


def count_sparse_softmax(call: OpCall) -> int:
    """Cost of a softmax or a logarithm of one over the stored entries of each row, or of its gradient.

    Shapes: x, or dy and y → the same entries.
    Counts: 4·s(x), as the dense form with one add for each entry: how many rows store none is not known.
    Ignores: the row maximum.
    Source: docs/spec/fm-1.md#sparse.

    Example:
        >>> count_sparse_softmax(OpCall.of("sparse::aten._sparse_softmax", TensorSpec((4, 6), stored=5), 1, False))
        20
    """
    return 4 * _kept(call.tensor(0))


def count_sparse_bag_backward(call: OpCall) -> int:
    """Cost of the sparse gradient of pooled embeddings: a row for each index, which nothing adds up yet.

    Shapes: dy (B, D), indices (L,), offsets, …, bag sizes (B,) → the gradient of the table, L·D entries.
    Counts: L·D for weights of samples; for the mean B reciprocals of the sizes and L·D.
    Ignores: copies.
    Source: docs/spec/fm-1.md#sparse.

    Raises:
        FormulaError: another pooling than sum and mean.

    Example:
        >>> op, ints = "sparse::aten._embedding_bag_backward", (7,)
        >>> count_sparse_bag_backward(OpCall.of(op, (2, 3), ints, (2,), ints, (2,), (2,), 10, False, 1, True, None))
        23
    """
    rows = call.tensor(1).size * call.tensor(0).shape[-1]
    mode, weights = call.arg(8), call.arg(10)
    if not isinstance(mode, int) or mode not in (0, 1):
        call.refuse(f"pooling {mode} has no sparse gradient")
    return rows * (weights is not None) + (rows + call.tensor(4).size) * mode


def _products(call: OpCall, one: TensorSpec, two: TensorSpec) -> int:
    """Return what the entries of a product cost, two operations for each that meet, the most that can."""
    columns = two.shape[-1] if len(two.shape) > 1 else 1
    inner = two.shape[-2] if len(two.shape) > 1 else two.size
    fits = len(one.shape) > 1 and one.shape[-1] == inner and (len(two.shape) < 3 or one.shape[:-2] == two.shape[:-2])
    if not fits or (one.stored is None and two.stored is None):
        call.refuse(f"{one} and {two} cannot be multiplied, or neither is sparse")
    bounds = [one.stored * columns] if one.stored is not None else []
    bounds += [one.shape[-2] * two.stored] if two.stored is not None else []
    bounds += [one.stored * two.stored] if one.stored is not None and two.stored is not None else []
    return 2 * min(bounds)


def _kept(spec: TensorSpec) -> int:
    return spec.size if spec.stored is None else spec.stored


def _reduction(call: OpCall, index: int) -> str:
    reduce = call.arg(index)
    if not isinstance(reduce, str) or reduce not in ("sum", "mean", "amax", "amin"):
        call.refuse(f"reduction {reduce} is not known")
    return reduce


_OWN: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "_sparse_sparse_matmul", "hspmm"), ("matmul", count_sparse_mm)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "_sparse_addmm", "sspaddmm"), ("matmul", count_sparse_addmm)),
    "sparse_sampled_addmm": ("matmul", count_sampled_addmm),
    "_sparse_mm_reduce_impl": ("matmul", count_reduced_mm),
    "_sparse_mm_reduce_impl_backward": ("matmul", count_reduced_mm_backward),
    **dict.fromkeys(UNARY, ("pointwise", count_each_entry)),
    "pow": ("pointwise", count_sparse_pow),
    "mul": ("pointwise", count_sparse_mul),
    "div": ("pointwise", count_sparse_mul),
    "add": ("pointwise", count_sparse_add),
    "sub": ("pointwise", count_sparse_add),
    **dict.fromkeys(
        ("sum", "_sparse_sum", "_sparse_csr_sum", "_sparse_csr_prod", "_coalesce"), ("reduction", count_sparse_sum)
    ),
    "norm": ("reduction", count_sparse_norm),
    **dict.fromkeys(
        (
            *("_sparse_softmax", "_sparse_log_softmax", "_sparse_softmax_backward_data"),
            "_sparse_log_softmax_backward_data",
        ),
        ("normalization", count_sparse_softmax),
    ),
    "_embedding_bag_backward": ("pointwise", count_sparse_bag_backward),
}
FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"aten::{name}": ("other", count_nothing) for name in LAYOUT},
    **{f"sparse::aten.{name}": entry for name, entry in _OWN.items()},
}
