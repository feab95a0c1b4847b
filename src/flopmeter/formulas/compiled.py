"""Operators that compiled code calls: a product or a convolution with what goes with it, in one kernel.

They cost what the plain operator costs, and beside it what goes with it: the bias, the activation, another tensor. A
collective around a product costs nothing.
Not here: the plain operators (`matmul`, `convolution`), and loops that the compiler writes itself, which call nothing.
"""

from collections.abc import Callable

from flopmeter.formulas.call import Arg, OpCall, TensorSpec, derive_precision, is_exactly
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import GELU_TANH, ONEDNN

# R rows of x, K inner size, N columns, y the output

BINARY = frozenset({"add", "sub", "mul", "div"})
"""What a kernel does with another tensor, one operation per element."""


def count_linear_pointwise(call: OpCall) -> Cost:
    """Cost of a linear layer with what follows it.

    Shapes: x (…, K), w (N, K), bias (N,) optional → (…, N); or x, another tensor like the output, w, bias.
    Counts: 2·R·N·K products; pointwise per element of the output: 1 for a bias, `ONEDNN` for an activation, 1 for
        another tensor.
    Ignores: compares.
    Source: docs/spec/fm-1.md#compiled.

    Raises:
        FormulaError: sizes that do not fit, or a name that is no known activation.

    Example:
        >>> call = OpCall.of("mkldnn::_linear_pointwise", (2, 3), (5, 3), (5,), "swish", [], "", out=[(2, 5)])
        >>> count_linear_pointwise(call).flop
        90
    """
    has_other = not isinstance(call.arg(3), str)
    weight, bias = (2, 3) if has_other else (1, 2)
    rate = int(call.arg(bias) is not None)
    rate += _binary(call, call.arg(4)) if has_other else _unary(call, call.arg(3), call.arg(5))
    return _linear(call, call.tensor(weight), rate)


def count_mkl_linear(call: OpCall) -> Cost:
    """Cost of a linear layer with a weight that was packed for it.

    Shapes: x (…, K), packed weight, weight (N, K), bias (N,) optional → (…, N).
    Counts: 2·R·N·K products; pointwise 1 per element of the output for a bias.
    Ignores: packing.
    Source: docs/spec/fm-1.md#compiled.

    Example:
        >>> call = OpCall.of("mkl::_mkl_linear", (2, 3), (77,), (5, 3), (5,), 2, out=[(2, 5)])
        >>> count_mkl_linear(call).flop
        70
    """
    return _linear(call, call.tensor(2), int(call.arg(3) is not None))


def count_convolution_pointwise(call: OpCall) -> Cost:
    """Cost of a convolution with what follows it, plain or transposed.

    Shapes: x (N, C, …X), w (O, C/G, …W), bias (O,) optional → (N, O, …Y); transposed w (C, O/G, …W); or x, another
        tensor like the output, w, bias (in place: the other tensor first).
    Counts: products as a convolution; pointwise per element of the output: 1 for a bias, `ONEDNN` for an activation,
        1 for another tensor, 1 more where that is scaled by an alpha that is not 1.
    Ignores: what a convolution ignores, and compares.
    Source: docs/spec/fm-1.md#compiled.

    Raises:
        FormulaError: channels that do not fit, or a name that is no known activation.

    Example:
        >>> call = OpCall.of("mkldnn::_convolution_pointwise", (1, 4, 5), (6, 2, 3), None, [0], [1], [1], 2, "relu",
        ...                  [], "", out=[(1, 6, 3)])
        >>> count_convolution_pointwise(call).flop
        216
    """
    transposed = call.op == "mkldnn::_convolution_transpose_pointwise"
    has_other = isinstance(call.arg(2), TensorSpec) and isinstance(call.arg(8), str) and not transposed
    data = call.tensor(1 if call.op.endswith("_") else 0)
    if has_other:
        rate = (call.arg(3) is not None) + _binary(call, call.arg(8), call.arg(9)) + _unary(call, call.arg(10))
        return _convolution(call, data, call.tensor(2), call.arg(7), rate=rate, transposed=False)
    shift = int(transposed)  # the padding of the output stands before the stride
    rate = (call.arg(2) is not None) + _unary(call, call.arg(7 + shift), call.arg(9 + shift))
    return _convolution(call, data, call.tensor(1), call.arg(6 + shift), rate=rate, transposed=transposed)


def count_sum_of_products(call: OpCall) -> Cost:
    """Cost of the sum of two matrix products, a @ b + c @ d.

    Shapes: a (M, K), b (K, N), c (M, L), d (L, N) → (M, N).
    Counts: 2·M·N·K + 2·M·N·L products; pointwise M·N.
    Ignores: that the first term of each sum needs no add.
    Source: docs/spec/fm-1.md#compiled.

    Example:
        >>> count_sum_of_products(OpCall.of("inductor::_mm_plus_mm", (2, 3), (3, 5), (2, 4), (4, 5))).flop
        150
    """
    one, two, three, four = (call.tensor(place).shape for place in range(4))
    flat = all(len(shape) == 2 for shape in (one, two, three, four))
    if not flat or one[1] != two[0] or three[1] != four[0] or (one[0], two[1]) != (three[0], four[1]):
        call.refuse("the matrices do not fit")
    size = one[0] * two[1]
    return Cost.of(Part(kind="matmul", flop=2 * size * (one[1] + three[1])), Part(kind="pointwise", flop=size))


def count_gathered_products(call: OpCall) -> int:
    """Cost of products of a matrix whose rows are gathered from all ranks while they are multiplied.

    Shapes: a (…, K) of this rank, a list of b (K, N) → a of all ranks (or none), a list of (…, N) of all ranks.
    Counts: 2·K for each element of each product.
    Ignores: the gathering.
    Source: docs/spec/fm-1.md#compiled.

    Raises:
        FormulaError: results that do not fit.

    Example:
        >>> call = OpCall.of("symm_mem::fused_all_gather_matmul", (2, 3), [(3, 5)], 0, "0", out=[(8, 3), (8, 5)])
        >>> count_gathered_products(call)
        240
    """
    inner, flop = call.tensor(0).shape[-1], 0
    weights = call.tensor_list(1)
    for weight, result in zip(weights, call.out[-len(weights) :], strict=True):
        if weight.shape != (inner, result.shape[-1]):
            call.refuse(f"{weight} does not give {result} from rows of {inner}")
        flop += 2 * result.size * inner
    return flop


def count_scattered_product(call: OpCall) -> int:
    """Cost of a product whose sum over all ranks is shared out, or whose rows arrive while it runs.

    Shapes: a (…, K), b (K, N).
    Counts: 2·K·N for each row of a.
    Ignores: the adds inside the collective.
    Source: docs/spec/fm-1.md#compiled.

    Raises:
        FormulaError: the inner sizes differ.

    Example:
        >>> count_scattered_product(OpCall.of("symm_mem::fused_matmul_reduce_scatter", (8, 3), (3, 5), "sum", 0, "0"))
        240
    """
    one, two = call.tensor(0), call.tensor(1)
    if len(two.shape) != 2 or not one.shape or one.shape[-1] != two.shape[0]:
        call.refuse(f"{one} and {two} cannot be multiplied")
    return 2 * one.size * two.shape[1]


def count_gathered_scaled(call: OpCall) -> Cost:
    """Cost of products of scaled operands, the rows of one of them gathered from all ranks meanwhile.

    Shapes: a (…, K) of this rank, a list of b (K, N) → a of all ranks, a list of (…, N) of all ranks.
    Counts: 2·K for each element of each product; pointwise 2 for the scales, 1 each for a bias and a scale of the
        result.
    Ignores: the gathering.
    Source: docs/spec/fm-1.md#compiled.

    Raises:
        FormulaError: results that do not fit.

    Example:
        >>> args = (2, 3), [(3, 5)], (2, 1), [(1, 5)], 0, "0", [None], [None], [None], [False]
        >>> op = "symm_mem::fused_all_gather_scaled_matmul"
        >>> count_gathered_scaled(OpCall.of(op, *args, out=[(8, 3), (8, 5)])).flop
        320
    """
    weights = call.tensor_list(1)
    results = call.out[-len(weights) :]
    more = [option for option in (call.arg(6), call.arg(7)) if isinstance(option, tuple)]
    scaling = 2 * sum(result.size for result in results)
    scaling += sum(
        result.size for option in more for given, result in zip(option, results, strict=True) if given is not None
    )
    return _scale((call.tensor(0), *weights), count_gathered_products(call), scaling)


def count_scattered_scaled(call: OpCall) -> Cost:
    """Cost of a product of scaled operands whose sum over all ranks is shared out.

    Shapes: a (…, K), b (K, N).
    Counts: 2·K·N for each row of a; pointwise, for each element of the product, 2 for the scales, 1 each for a bias and
        a scale of the result.
    Ignores: the adds inside the collective.
    Source: docs/spec/fm-1.md#compiled.

    Raises:
        FormulaError: the inner sizes differ.

    Example:
        >>> args = (8, 3), (3, 5), (8, 1), (1, 5), "sum", 0, 0, "0"
        >>> count_scattered_scaled(OpCall.of("symm_mem::fused_scaled_matmul_reduce_scatter", *args)).flop
        320
    """
    one, two = call.tensor(0), call.tensor(1)
    products = count_scattered_product(call)
    each = 2 + (call.arg(9) is not None) + (call.arg(10) is not None)
    return _scale((one, two), products, each * one.size // max(one.shape[-1], 1) * two.shape[1])


def count_gradient_sum(call: OpCall) -> int:
    """Cost of adding a gradient to one that is there already.

    Shapes: the variable, its gradient or none, the new gradient or none, n elements each.
    Counts: n where both are there.
    Ignores: copies.
    Source: docs/spec/fm-1.md#compiled.

    Example:
        >>> count_gradient_sum(OpCall.of("inductor::accumulate_grad_", (2, 3), (2, 3), (2, 3)))
        6
        >>> count_gradient_sum(OpCall.of("inductor::accumulate_grad_", (2, 3), None, (2, 3)))
        0
    """
    return call.tensor(0).size if isinstance(call.arg(1), TensorSpec) and isinstance(call.arg(2), TensorSpec) else 0


def _scale(operands: tuple[TensorSpec, ...], products: int, scaling: int) -> Cost:
    """Products have the precision of their operands, the scales are fp32."""
    return Cost.of(
        Part(kind="matmul", flop=products, precision=derive_precision(operands)),
        Part(kind="pointwise", flop=scaling, precision="fp32"),
    )


def _linear(call: OpCall, weight: TensorSpec, rate: int) -> Cost:
    data, result = call.tensor(0), call.out[0]
    if (
        len(weight.shape) != 2
        or (*data.shape[:-1], weight.shape[0]) != result.shape
        or data.shape[-1] != weight.shape[1]
    ):
        call.refuse(f"x {data} and weight {weight} do not give {result}")
    return Cost.of(
        Part(kind="matmul", flop=2 * result.size * weight.shape[1]), Part(kind="pointwise", flop=rate * result.size)
    )


def _convolution(
    call: OpCall, data: TensorSpec, weight: TensorSpec, groups: Arg, *, rate: int, transposed: bool
) -> Cost:
    result = call.out[0]
    one, other = (data, result) if transposed else (result, data)
    ranks = {len(spec.shape) for spec in (data, weight, result)}
    if not isinstance(groups, int) or len(ranks) != 1 or min(ranks) < 3:
        call.refuse(f"x {data}, weight {weight} and {groups} groups are no convolution")
    if one.shape[1] != weight.shape[0] or other.shape[1] != weight.shape[1] * groups:
        call.refuse(f"x {data} and weight {weight} do not give {result}")
    products = 2 * one.size * (weight.size // weight.shape[0]) if weight.shape[0] else 0
    return Cost.of(Part(kind="convolution", flop=products), Part(kind="pointwise", flop=rate * result.size))


def _unary(call: OpCall, name: Arg, algorithm: Arg = None) -> int:
    if name is None:
        return 0
    if not isinstance(name, str) or name not in ONEDNN:
        call.refuse(f"{name!r} is no activation that is known here")
    return GELU_TANH if name == "gelu" and algorithm == "tanh" else ONEDNN[name]


def _binary(call: OpCall, name: Arg, alpha: Arg = None) -> int:
    if name not in BINARY:
        call.refuse(f"{name!r} is nothing to be done with another tensor")
    return 1 if alpha is None or is_exactly(alpha, 1) else 2


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "mkldnn::_linear_pointwise": ("matmul", count_linear_pointwise),
    "mkl::_mkl_linear": ("matmul", count_mkl_linear),
    "mkldnn::_convolution_pointwise": ("convolution", count_convolution_pointwise),
    "mkldnn::_convolution_pointwise_": ("convolution", count_convolution_pointwise),
    "mkldnn::_convolution_transpose_pointwise": ("convolution", count_convolution_pointwise),
    "inductor::_mm_plus_mm": ("matmul", count_sum_of_products),
    "symm_mem::fused_all_gather_matmul": ("matmul", count_gathered_products),
    "symm_mem::fused_matmul_reduce_scatter": ("matmul", count_scattered_product),
    "symm_mem::_async_input_mm": ("matmul", count_scattered_product),
    "symm_mem::fused_all_gather_scaled_matmul": ("matmul", count_gathered_scaled),
    "symm_mem::fused_scaled_matmul_reduce_scatter": ("matmul", count_scattered_scaled),
    "inductor::accumulate_grad_": ("pointwise", count_gradient_sum),
}
