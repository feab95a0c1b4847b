"""Arithmetic that treats every element alike: add, multiply, exp, pow, lerp, and the same over lists of tensors.

An elementary function (a square root, an exponential, a sine) is one operation; what is made of several elementary
ones costs their sum. The cost is that of the elements that come out, after broadcasting.
Not here: activations (`activation`), losses (`loss`), compares and copies (`movement`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import AnyNumber, Arg, OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost

# n elements of the output; for a list of tensors, of all of them together

ELEMENTARY = (
    *("mul", "multiply", "div", "divide", "true_divide", "floor_divide", "neg", "negative", "abs", "absolute"),
    *("reciprocal", "square", "sqrt", "rsqrt", "frac", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "atan2"),
    *("sigmoid", "erf", "erfc", "erfinv", "lgamma", "digamma", "polygamma", "mvlgamma", "i0", "sinc", "deg2rad"),
    *("rad2deg", "special_i0e", "special_i1", "special_i1e", "special_entr", "special_erfcx", "special_ndtri"),
    *("special_log_ndtr", "special_zeta", "igamma", "igammac", "angle", "gcd", "lcm"),
    *("special_airy_ai", "special_bessel_j0", "special_bessel_j1", "special_bessel_y0", "special_bessel_y1"),
    *("special_modified_bessel_i0", "special_modified_bessel_i1", "special_modified_bessel_k0"),
    *("special_modified_bessel_k1", "special_scaled_modified_bessel_k0", "special_scaled_modified_bessel_k1"),
    *("special_spherical_bessel_j0", "special_chebyshev_polynomial_t", "special_chebyshev_polynomial_u"),
    *("special_chebyshev_polynomial_v", "special_chebyshev_polynomial_w", "special_hermite_polynomial_h"),
    *("special_hermite_polynomial_he", "special_laguerre_polynomial_l", "special_legendre_polynomial_p"),
    *("special_shifted_chebyshev_polynomial_t", "special_shifted_chebyshev_polynomial_u"),
    *("special_shifted_chebyshev_polynomial_v", "special_shifted_chebyshev_polynomial_w"),
    *("_standard_gamma_grad", "_dirichlet_grad"),
)
"""Operators of one operation per element."""

COMPOSED = {
    "remainder": 3,
    "fmod": 3,
    "hypot": 4,
    "logaddexp": 6,
    "logaddexp2": 6,
    "xlogy": 2,
    "special_xlog1py": 2,
    "logit": 3,
    "lerp": 3,
    "outer": 1,
    "ldexp": 2,
    "_conj_physical": 1,
    "native_dropout_backward": 2,
    "_fused_dropout": 2,
    "_masked_scale": 2,
}
"""Operators of several: remainder x − ⌊x/y⌋·y, hypot √(x² + y²), logaddexp max + log1p(exp(−|x − y|)), lerp
x + w·(y − x), dropout x·mask·scale, its gradient dy·mask·scale."""

BITWISE = (
    *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "bitwise_left_shift", "bitwise_right_shift"),
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__ilshift__", "__irshift__"),
)

RATES = {**{f"aten::{name}": 1 for name in ELEMENTARY}, **{f"aten::{name}": rate for name, rate in COMPOSED.items()}}

IN_LISTS = (
    *("mul", "div", "neg", "abs", "reciprocal", "sqrt", "rsqrt", "frac", "exp", "expm1", "log", "log2", "log10"),
    *("log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "sigmoid", "erf", "erfc"),
    *("lgamma", "lerp"),
)
"""Operators that come in a form for lists of tensors, `aten::_foreach_…`."""


def count_elements(call: OpCall) -> int:
    """Cost of an operator that does the same to every element.

    Shapes: operands that broadcast → n elements.
    Counts: `RATES` operations for each of n elements.
    Ignores: rounding to integers (a cast), and how a function is approximated.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_elements(OpCall.of("aten::mul", (2, 3), (3,), out=[(2, 3)]))
        6
        >>> count_elements(OpCall.of("aten::lerp_", (2, 3), (2, 3), 0.5, out=[(2, 3)]))
        18
    """
    return RATES[_stem(call.op)] * call.out[0].size


def count_sum_of_two(call: OpCall) -> int:
    """Cost of x + alpha·y or x − alpha·y.

    Shapes: operands that broadcast → n elements.
    Counts: n adds, n multiplies where alpha is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_sum_of_two(OpCall.of("aten::add", (2, 3), (3,), out=[(2, 3)]))
        6
        >>> count_sum_of_two(OpCall.of("aten::sub", (2, 3), (3,), alpha=0.5, out=[(2, 3)]))
        12
    """
    alpha = call.option("alpha", call.arg(2, 1))
    return (1 if is_exactly(alpha, 1) else 2) * call.out[0].size


def count_multiply_add(call: OpCall) -> int:
    """Cost of x + value·y·z or x + value·y/z.

    Shapes: operands that broadcast → n elements.
    Counts: 2·n, and n where value is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_multiply_add(OpCall.of("aten::addcmul", (2, 3), (2, 3), (2, 3), out=[(2, 3)]))
        12
        >>> count_multiply_add(OpCall.of("aten::addcdiv", (2, 3), (2, 3), (2, 3), value=-0.5, out=[(2, 3)]))
        18
    """
    value = call.option("value", call.arg(3, 1))
    return (2 if is_exactly(value, 1) else 3) * call.out[0].size


def count_outer_sum(call: OpCall) -> int:
    """Cost of beta·c + alpha·x yᵀ.

    Shapes: c broadcasts to (M, N), x (M,), y (N,) → (M, N).
    Counts: M·N products; M·N adds unless beta is 0; numel(c) where beta is neither 0 nor 1; M·N where alpha is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_outer_sum(OpCall.of("aten::addr", (2, 3), (2,), (3,)))
        12
    """
    size = call.tensor(1).size * call.tensor(2).size
    beta, alpha = call.option("beta", 1), call.option("alpha", 1)
    flop = size if is_exactly(alpha, 1) else 2 * size
    if not is_exactly(beta, 0):
        flop += size + (0 if is_exactly(beta, 1) else call.tensor(0).size)
    return flop


def count_power(call: OpCall) -> int:
    """Cost of raising to a power.

    Shapes: base and exponent broadcast → n elements.
    Counts: n; nothing for the exponents 0 and 1, 2·n for 3 (two products).
    Ignores: how other powers are computed.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_power(OpCall.of("aten::pow", (2, 3), 2, out=[(2, 3)]))
        6
        >>> count_power(OpCall.of("aten::pow", (2, 3), 3, out=[(2, 3)]))
        12
    """
    return _power_rate(call.arg(1)) * call.out[0].size


def count_bits(call: OpCall) -> int:
    """Cost of bitwise operations and shifts on integers; on booleans they are logic and free.

    Shapes: operands that broadcast → n elements.
    Counts: n integer operations, 0 for booleans.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_bits(OpCall.of("aten::bitwise_and", (2, 3), (3,), dtype="int64", out=[(2, 3)]))
        6
    """
    return 0 if call.precision == "bool" else call.out[0].size


def count_dropout(call: OpCall) -> int:
    """Cost of dropout: x·mask·scale while training.

    Shapes: x with n elements → y, mask.
    Counts: 2·n, nothing outside training or where no element is dropped.
    Ignores: random numbers.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_dropout(OpCall.of("aten::native_dropout", (2, 3), 0.5, True))
        12
    """
    return 0 if call.arg(2) is False or is_exactly(call.arg(1), 0) else 2 * call.tensor(0).size


def count_list(call: OpCall) -> int:
    """Cost of an operator applied to each tensor of a list.

    Shapes: lists of tensors, n elements in all → the same.
    Counts: what the operator costs on one tensor, summed over the list.
    Ignores: what the operator ignores.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_list(OpCall.of("aten::_foreach_lerp_", [(2, 3), (4,)], [(2, 3), (4,)], 0.5))
        30
    """
    return RATES[_single(call.op)] * sum(_list_sizes(call))


def count_list_sum_of_two(call: OpCall) -> int:
    """Cost of x + alpha·y or x − alpha·y over a list.

    Shapes: lists of tensors, n elements in all; y may be a number, a list of numbers or one tensor.
    Counts: n adds, n multiplies where alpha is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_list_sum_of_two(OpCall.of("aten::_foreach_add_", [(2, 3), (4,)], [(2, 3), (4,)], alpha=-0.5))
        20
    """
    return (1 if is_exactly(call.option("alpha", 1), 1) else 2) * sum(_list_sizes(call))


def count_list_multiply_add(call: OpCall) -> int:
    """Cost of x + value·y·z or x + value·y/z over a list.

    Shapes: lists of tensors, n elements in all; one value, or one per tensor.
    Counts: 2·n, and the elements of each tensor whose value is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> same = [(2, 3), (4,)]
        >>> count_list_multiply_add(OpCall.of("aten::_foreach_addcdiv_", same, same, same, [0.5, 1.0]))
        26
    """
    sizes = _list_sizes(call)
    values = call.option("scalars", call.option("value", call.arg(3, 1)))
    return sum(
        size * (2 if is_exactly(value, 1) else 3) for size, value in zip(sizes, _each(values, sizes), strict=True)
    )


def count_list_power(call: OpCall) -> int:
    """Cost of raising each tensor of a list to a power.

    Shapes: a list of tensors, n elements in all; one exponent, one per tensor, or one base for many exponents.
    Counts: as `pow`, summed over the list.
    Ignores: what `pow` ignores.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_list_power(OpCall.of("aten::_foreach_pow", [(2, 3), (4,)], [2.0, 3.0], out=[(2, 3), (4,)]))
        14
    """
    sizes = _list_sizes(call)
    return sum(size * _power_rate(value) for size, value in zip(sizes, _each(call.arg(1), sizes), strict=True))


def count_unscale(call: OpCall) -> int:
    """Cost of taking the loss scale off gradients while looking for infinities.

    Shapes: a list of gradients, n elements in all, a flag and the inverse scale.
    Counts: n multiplies.
    Ignores: compares.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> op = "aten::_amp_foreach_non_finite_check_and_unscale_"
        >>> count_unscale(OpCall.of(op, [(2, 3), (4,)], OpCall.of("", ()).args[0], OpCall.of("", ()).args[0]))
        10
    """
    return sum(_list_sizes(call))


def count_scale_update(call: OpCall) -> int:
    """Cost of adjusting the loss scale.

    Shapes: one scale, one counter, one flag.
    Counts: numel(scale): one multiply, by the growth or by the backoff factor.
    Ignores: that steps between adjustments multiply nothing, which only values would tell.
    Source: docs/spec/fm-1.md#pointwise.

    Example:
        >>> count_scale_update(OpCall.of("aten::_amp_update_scale_", (1,), (1,), (1,), 2.0, 0.5, 2000))
        1
    """
    return call.tensor(0).size


def _stem(op: str) -> str:
    return op if op in RATES else op.removesuffix("_")


def _single(op: str) -> str:
    return _stem(op.replace("_foreach_", "", 1))


def _list_sizes(call: OpCall) -> tuple[int, ...]:
    specs = call.out or call.tensor_list(0)
    return tuple(spec.size for spec in specs)


def _each(values: Arg, sizes: tuple[int, ...]) -> tuple[Arg, ...]:
    if isinstance(values, tuple):
        return values
    if isinstance(values, TensorSpec):
        return (AnyNumber(),) * len(sizes)
    return (values,) * len(sizes)


def _power_rate(exponent: Arg) -> int:
    if is_exactly(exponent, 0) or is_exactly(exponent, 1):
        return 0
    return 2 if is_exactly(exponent, 3) else 1


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(RATES, ("pointwise", count_elements)),
    **{f"aten::{name}": ("pointwise", count_bits) for name in BITWISE},
    **{f"aten::_foreach_{name}": ("pointwise", count_list) for name in IN_LISTS},
    "aten::add": ("pointwise", count_sum_of_two),
    "aten::sub": ("pointwise", count_sum_of_two),
    "aten::rsub": ("pointwise", count_sum_of_two),
    "aten::_add_relu": ("pointwise", count_sum_of_two),
    "aten::addcmul": ("pointwise", count_multiply_add),
    "aten::addcdiv": ("pointwise", count_multiply_add),
    "aten::addr": ("pointwise", count_outer_sum),
    "aten::pow": ("pointwise", count_power),
    "aten::float_power": ("pointwise", count_power),
    "aten::native_dropout": ("pointwise", count_dropout),
    "aten::_foreach_add": ("pointwise", count_list_sum_of_two),
    "aten::_foreach_sub": ("pointwise", count_list_sum_of_two),
    "aten::_foreach_addcmul": ("pointwise", count_list_multiply_add),
    "aten::_foreach_addcdiv": ("pointwise", count_list_multiply_add),
    "aten::_foreach_pow": ("pointwise", count_list_power),
    "aten::_amp_foreach_non_finite_check_and_unscale": ("pointwise", count_unscale),
    "aten::_amp_update_scale": ("pointwise", count_scale_update),
}
