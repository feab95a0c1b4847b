"""Matrix products: mm, bmm, mv, dot and their fused forms with a bias.

Products are kind `matmul`; the bias, the scaling by `beta` and `alpha`, and sums over a batch stand beside them in
their own kinds, so that `contraction_flop` is products only.
Not here: attention, convolution, and outer products (one multiply per element: `pointwise`).
"""

import math
from collections.abc import Callable
from typing import NoReturn

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly, parse_sizes
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import GELU_TANH

# B batch, G groups, M rows, K inner size, N columns


def count_mm(call: OpCall) -> int:
    """Cost of one matrix product.

    Shapes: a (M, K), b (K, N) → (M, N).
    Counts: 2·M·N·K, a multiply and an add for each of M·N·K terms.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul; agrees with torch `mm_flop`.

    Raises:
        FormulaError: the inner sizes differ.

    Example:
        >>> count_mm(OpCall.of("aten::mm", (2, 3), (3, 5)))
        60
    """
    return _product(call, call.tensor(0), call.tensor(1))


def count_bmm(call: OpCall) -> int:
    """Cost of a batch of matrix products.

    Shapes: a (B, M, K), b (B, K, N) → (B, M, N).
    Counts: 2·B·M·N·K.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul; agrees with torch `bmm_flop`.

    Example:
        >>> count_bmm(OpCall.of("aten::bmm", (4, 2, 3), (4, 3, 5)))
        240
    """
    return _batched_product(call, call.tensor(0), call.tensor(1))


def count_mv(call: OpCall) -> int:
    """Cost of a matrix times a vector.

    Shapes: a (M, K), x (K,) → (M,).
    Counts: 2·M·K.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_mv(OpCall.of("aten::mv", (2, 3), (3,)))
        12
    """
    return _vector_product(call, call.tensor(0), call.tensor(1))


def count_dot(call: OpCall) -> int:
    """Cost of an inner product of two vectors.

    Shapes: x (K,), y (K,) → ().
    Counts: 2·K.
    Ignores: that the first term needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_dot(OpCall.of("aten::dot", (7,), (7,)))
        14
    """
    one, two = call.tensor(0), call.tensor(1)
    if one.shape != two.shape or len(one.shape) != 1:
        _refuse(call, one, two)
    return 2 * one.size


def count_addmm(call: OpCall) -> Cost:
    """Cost of a matrix product added to a matrix or a bias: beta·c + alpha·(a @ b).

    Shapes: c broadcasts to (M, N), a (M, K), b (K, N) → (M, N).
    Counts: 2·M·N·K products; pointwise M·N for the bias unless beta is 0, numel(c) where beta is neither 0 nor 1,
        M·N where alpha is not 1.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul; its products agree with torch `addmm_flop`.

    Example:
        >>> count_addmm(OpCall.of("aten::addmm", (5,), (2, 3), (3, 5))).flop
        70
    """
    one, two = call.tensor(1), call.tensor(2)
    return _with_bias(call, _product(call, one, two), size=one.shape[0] * two.shape[1])


def count_addmv(call: OpCall) -> Cost:
    """Cost of beta·c + alpha·(a @ x).

    Shapes: c broadcasts to (M,), a (M, K), x (K,) → (M,).
    Counts: 2·M·K products; the bias as for `addmm`.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_addmv(OpCall.of("aten::addmv", (2,), (2, 3), (3,))).flop
        14
    """
    one, two = call.tensor(1), call.tensor(2)
    return _with_bias(call, _vector_product(call, one, two), size=one.shape[0])


def count_baddbmm(call: OpCall) -> Cost:
    """Cost of a batch of products added to a tensor: beta·c + alpha·(a @ b).

    Shapes: c broadcasts to (B, M, N), a (B, M, K), b (B, K, N) → (B, M, N).
    Counts: 2·B·M·N·K products; the bias as for `addmm`, over B·M·N elements.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul; its products agree with torch `baddbmm_flop`.

    Example:
        >>> count_baddbmm(OpCall.of("aten::baddbmm", (4, 2, 5), (4, 2, 3), (4, 3, 5))).flop
        280
    """
    one, two = call.tensor(1), call.tensor(2)
    return _with_bias(call, _batched_product(call, one, two), size=one.shape[0] * one.shape[1] * two.shape[2])


def count_addbmm(call: OpCall) -> Cost:
    """Cost of a batch of products summed over the batch: beta·c + alpha·Σ(a @ b).

    Shapes: c broadcasts to (M, N), a (B, M, K), b (B, K, N) → (M, N).
    Counts: 2·B·M·N·K products, (B − 1)·M·N adds over the batch (reduction), the bias as for `addmm`.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_addbmm(OpCall.of("aten::addbmm", (2, 5), (4, 2, 3), (4, 3, 5))).flop
        280
    """
    one, two = call.tensor(1), call.tensor(2)
    flop = _batched_product(call, one, two)
    batch, rows, columns = one.shape[0], one.shape[1], two.shape[2]
    fused = _with_bias(call, flop, size=rows * columns)
    return Cost.of(*fused.parts, Part(kind="reduction", flop=max(batch - 1, 0) * rows * columns))


def count_addmm_activation(call: OpCall) -> Cost:
    """Cost of `addmm` followed by relu (free) or by gelu in its tanh form.

    Shapes: c broadcasts to (M, N), a (M, K), b (K, N) → (M, N).
    Counts: as `addmm`, and 9·M·N pointwise for gelu.
    Ignores: compares.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_addmm_activation(OpCall.of("aten::_addmm_activation", (5,), (2, 3), (3, 5), use_gelu=True)).flop
        160
    """
    fused = count_addmm(call)
    size = call.tensor(1).shape[0] * call.tensor(2).shape[1]
    gelu = GELU_TANH * size if call.option("use_gelu") is True else 0
    return Cost.of(*fused.parts, Part(kind="pointwise", flop=gelu))


def count_linear(call: OpCall) -> Cost:
    """Cost of a linear layer where a backend keeps it whole: x @ wᵀ + c.

    Shapes: x (…, K), w (N, K), c (N,) → (…, N).
    Counts: 2·(rows of x)·N·K products, one add per output element for the bias.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_linear(OpCall.of("aten::linear", (2, 3), (5, 3), (5,))).flop
        70
    """
    one, two = call.tensor(0), call.tensor(1)
    if not one.shape or not two.shape or one.shape[-1] != two.shape[-1]:
        _refuse(call, one, two)
    columns = two.shape[0] if len(two.shape) > 1 else 1
    inner = two.shape[-1]
    rows = one.size // inner if inner else 0
    bias = rows * columns if call.arg(2) is not None else 0
    return Cost.of(Part(kind="matmul", flop=2 * rows * columns * inner), Part(kind="pointwise", flop=bias))


def count_list_mm(call: OpCall) -> int:
    """Cost of one matrix product for each pair of two lists.

    Shapes: lists of a (M, K) and b (K, N), each pair with sizes of its own → a list of (M, N).
    Counts: 2·M·N·K, summed over the list.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_list_mm(OpCall.of("aten::_foreach_mm", [(2, 3), (1, 4)], [(3, 5), (4, 2)]))
        76
    """
    pairs = zip(call.tensor_list(0), call.tensor_list(1), strict=True)
    return sum(_product(call, one, two) for one, two in pairs)


def count_linear_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a linear layer where a backend keeps it whole.

    Shapes: x (…, K), dy (…, N), w (N, K) → dx, dw, db as the output mask asks.
    Counts: 2·(rows of x)·N·K products for dx and again for dw, (rows − 1)·N adds (reduction) for db.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Raises:
        FormulaError: the sizes do not fit, or the output mask is missing.

    Example:
        >>> call = OpCall.of("aten::linear_backward", (2, 3), (2, 5), (5, 3), [True, True, True])
        >>> count_linear_backward(call).flop
        125
    """
    mask = call.arg(3)
    if not isinstance(mask, tuple) or len(mask) != 3:
        msg = f"the output mask is {mask}, not three flags"
        raise FormulaError(msg, where=call.op)
    flop, adds = _linear_gradients(call, call.tensor(0).shape, call.tensor(1), call.tensor(2))
    return Cost.of(
        Part(kind="matmul", flop=flop * ((mask[0] is True) + (mask[1] is True))),
        Part(kind="reduction", flop=adds if mask[2] is True else 0),
    )


def count_linear_gradient(call: OpCall) -> Cost:
    """Cost of one gradient of a linear layer, of its input or of its weight with the bias.

    Shapes: sizes of x or x itself, dy (…, N), w (N, K), in the order of the operator → dx, or dw and db.
    Counts: 2·(rows of x)·N·K products, (rows − 1)·N adds (reduction) for a bias.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Raises:
        FormulaError: the sizes do not fit.

    Example:
        >>> count_linear_gradient(OpCall.of("aten::mkldnn_linear_backward_weights", (2, 5), (2, 3), (5, 3), True)).flop
        65
    """
    if call.op == "aten::mkldnn_linear_backward_input":
        flop, _ = _linear_gradients(call, parse_sizes(call.arg(0)), call.tensor(1), call.tensor(2))
        return Cost.of(Part(kind="matmul", flop=flop))
    flop, adds = _linear_gradients(call, call.tensor(1).shape, call.tensor(0), call.tensor(2))
    return Cost.of(Part(kind="matmul", flop=flop), Part(kind="reduction", flop=adds if call.arg(3) is True else 0))


def count_matmul_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a product of stacks of matrices where a backend keeps it whole.

    Shapes: dy (…, M, N), a (…, M, K), b (…, K, N) → da, db as the output mask asks.
    Counts: 2·(elements of dy)·K products for each gradient; where an operand was broadcast over a stack, the adds
        (reduction) that fold its gradient back.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Raises:
        FormulaError: an operand is a vector, the sizes do not fit, or the output mask is missing.

    Example:
        >>> call = OpCall.of("aten::matmul_backward", (4, 2, 5), (4, 2, 3), (3, 5), [True, True])
        >>> count_matmul_backward(call).flop
        525
    """
    gradient, one, two, mask = call.tensor(0), call.tensor(1), call.tensor(2), call.arg(3)
    if min(len(one.shape), len(two.shape)) < 2 or one.shape[-1] != two.shape[-2]:
        _refuse(call, one, two)
    if gradient.shape[-2:] != (one.shape[-2], two.shape[-1]) or not isinstance(mask, tuple):
        msg = f"{gradient} is no gradient of {one} times {two}, or {mask} no output mask"
        raise FormulaError(msg, where=call.op)
    inner = one.shape[-1]
    asked = [spec for spec, flag in zip((one, two), mask, strict=True) if flag is True]
    stack = math.prod(gradient.shape[:-2])
    folded = sum(stack * spec.shape[-2] * spec.shape[-1] - spec.size for spec in asked)
    return Cost.of(
        Part(kind="matmul", flop=2 * gradient.size * inner * len(asked)),
        Part(kind="reduction", flop=max(folded, 0)),
    )


def count_combination(call: OpCall) -> int:
    """Cost of linear combinations of the first dimension, as matrix exponentials make them.

    Shapes: x (L, …) with n elements, coefficients (K, L) → (K, …).
    Counts: 2·K·n.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#matmul.

    Example:
        >>> count_combination(OpCall.of("aten::_compute_linear_combination", (3, 2, 2), (5, 3)))
        120
    """
    one, two = call.tensor(0), call.tensor(1)
    if len(two.shape) != 2 or not one.shape or one.shape[0] != two.shape[1]:
        _refuse(call, one, two)
    return 2 * two.shape[0] * one.size


def _linear_gradients(
    call: OpCall, sizes: tuple[int, ...], gradient: TensorSpec, weight: TensorSpec
) -> tuple[int, int]:
    """Return the products of one gradient of a linear layer, and the adds of the bias's."""
    if len(weight.shape) != 2 or gradient.shape != (*sizes[:-1], weight.shape[0]) or sizes[-1] != weight.shape[1]:
        msg = f"x of {list(sizes)}, dy {gradient} and weight {weight} do not fit"
        raise FormulaError(msg, where=call.op)
    return 2 * gradient.size * weight.shape[1], max(gradient.size - weight.shape[0], 0)


def _product(call: OpCall, one: TensorSpec, two: TensorSpec) -> int:
    if len(one.shape) != 2 or len(two.shape) != 2 or one.shape[1] != two.shape[0]:
        _refuse(call, one, two)
    return 2 * one.shape[0] * one.shape[1] * two.shape[1]


def _batched_product(call: OpCall, one: TensorSpec, two: TensorSpec) -> int:
    ranks = len(one.shape) == 3 and len(two.shape) == 3
    if not ranks or one.shape[0] != two.shape[0] or one.shape[2] != two.shape[1]:
        _refuse(call, one, two)
    return 2 * one.size * two.shape[2]


def _vector_product(call: OpCall, one: TensorSpec, two: TensorSpec) -> int:
    if len(one.shape) != 2 or len(two.shape) != 1 or one.shape[1] != two.shape[0]:
        _refuse(call, one, two)
    return 2 * one.size


def _with_bias(call: OpCall, flop: int, *, size: int) -> Cost:
    beta, alpha = call.option("beta", 1), call.option("alpha", 1)
    extra = 0
    if not is_exactly(beta, 0):
        extra += size + (0 if is_exactly(beta, 1) else call.tensor(0).size)
    if not is_exactly(alpha, 1):
        extra += size
    return Cost.of(Part(kind="matmul", flop=flop), Part(kind="pointwise", flop=extra))


def _refuse(call: OpCall, one: TensorSpec, two: TensorSpec) -> NoReturn:
    msg = f"{one} and {two} cannot be multiplied"
    raise FormulaError(msg, where=call.op)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::mm": ("matmul", count_mm),
    "aten::_int_mm": ("matmul", count_mm),
    "aten::bmm": ("matmul", count_bmm),
    "aten::mv": ("matmul", count_mv),
    "aten::dot": ("matmul", count_dot),
    "aten::vdot": ("matmul", count_dot),
    "aten::addmm": ("matmul", count_addmm),
    "aten::addmv": ("matmul", count_addmv),
    "aten::baddbmm": ("matmul", count_baddbmm),
    "aten::addbmm": ("matmul", count_addbmm),
    "aten::_addmm_activation": ("matmul", count_addmm_activation),
    "aten::linear": ("matmul", count_linear),
    "aten::mkldnn_linear": ("matmul", count_linear),
    "aten::linear_backward": ("matmul", count_linear_backward),
    "aten::mkldnn_linear_backward": ("matmul", count_linear_backward),
    "aten::mkldnn_linear_backward_input": ("matmul", count_linear_gradient),
    "aten::mkldnn_linear_backward_weights": ("matmul", count_linear_gradient),
    "aten::matmul_backward": ("matmul", count_matmul_backward),
    "aten::_compute_linear_combination": ("matmul", count_combination),
    "aten::_foreach_mm": ("matmul", count_list_mm),
    "_native::_foreach_mm_native_0": ("matmul", count_list_mm),
}
