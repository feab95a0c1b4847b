"""Arithmetic on complex numbers, in operations on real ones: an add is 2, a multiply 6, a division 11.

A call with a complex operand or result is looked up here, as `complex::aten.…`. Real operands are promoted, as torch
does it: a real tensor or a scalar beside a complex one is multiplied as a complex number. What is made of several
operations costs their sum; docs/spec/fm-1.md#complex writes each form out, most of them torch's own.
Not here: sums, norms and scatters (`complex_reduction`), and the complex rows of transforms (`spectral`) and of
factorizations (`linalg`, `eigen`). Convolutions of complex numbers are made of real ones.
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, Arg, OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost, Part

# n elements of the output; for a list of tensors, of all of them together

ADD, MULTIPLY, DIVIDE = 2, 6, 11
MODULUS, LOGARITHM = 4, 6

RATES = {
    "neg": 2,
    "conj_physical": 1,
    "_conj_physical": 1,
    "abs": MODULUS,
    "angle": 1,
    "sgn": 6,
    "polar": 4,
    "mul": MULTIPLY,
    "div": DIVIDE,
    "reciprocal": 6,
    "exp": 5,
    "exp2": 7,
    "expm1": 6,
    "log": LOGARITHM,
    "log1p": 7,
    "log2": 8,
    "log10": 8,
    "sqrt": 11,
    "rsqrt": 11,
    "sinh": 6,
    "cosh": 6,
    "tanh": 9,
    "sin": 8,
    "cos": 7,
    "tan": 11,
    "asinh": 27,
    "acosh": 27,
    "atanh": 23,
    "asin": 29,
    "acos": 30,
    "atan": 25,
    "sigmoid": 15,
    "silu": 21,
    "sinc": 21,
    "lerp": 10,
    "ldexp": 23,
    "logaddexp": 16,
    "sigmoid_backward": 15,
    "tanh_backward": 15,
}
"""Operations per element; docs/spec/fm-1.md#complex writes each form out."""

IN_LISTS = (
    *("abs", "acos", "asin", "atan", "cos", "cosh", "div", "exp", "expm1", "lerp", "log", "log10", "log1p", "log2"),
    *("mul", "neg", "reciprocal", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh"),
)
POWERS = {0: 0, 1: 0, 2: MULTIPLY, 3: 2 * MULTIPLY, 0.5: RATES["sqrt"], -0.5: RATES["rsqrt"], -1: RATES["reciprocal"]}
POWER = LOGARITHM + MULTIPLY + RATES["exp"]
"""Any other power: exp(w·log z)."""

PRODUCTS = {
    "mm": 0,
    "bmm": 0,
    "mv": 0,
    "dot": 0,
    "vdot": 0,
    "_foreach_mm": 0,
    "addmm": 1,
    "addmv": 1,
    "baddbmm": 1,
    "addbmm": 1,
}
"""Products, and where an operator keeps the first of the two that it multiplies."""


def count_elements(call: OpCall) -> int:
    """Cost of an operator that does the same to every complex number.

    Shapes: operands that broadcast → n elements; or lists of tensors, n elements in all.
    Counts: `RATES` operations for each of n elements.
    Ignores: how a function is approximated, and that a real operand is a complex one whose other half is 0.
    Source: docs/spec/fm-1.md#complex.

    Example:
        >>> count_elements(OpCall.of("aten::mul", (2, 3), (3,), dtype="complex64", out=[(2, 3)]))
        36
    """
    return RATES[_name(call)] * sum(_sizes(call))


def count_sum_of_two(call: OpCall) -> int:
    """Cost of x + alpha·y or x − alpha·y.

    Shapes: operands that broadcast → n elements; or lists of tensors, n elements in all.
    Counts: 2·n, and 6·n where alpha is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#complex.

    Example:
        >>> count_sum_of_two(OpCall.of("aten::add", (2, 3), (3,), alpha=0.5, dtype="complex64", out=[(2, 3)]))
        48
    """
    positional = 1 if _is_list(call) else call.arg(2, 1)
    alpha = call.option("alpha", positional)
    return (ADD + (0 if is_exactly(alpha, 1) else MULTIPLY)) * sum(_sizes(call))


def count_multiply_add(call: OpCall) -> int:
    """Cost of x + value·y·z or x + value·y/z.

    Shapes: operands that broadcast → n elements; or lists of tensors with one value or one for each.
    Counts: 8·n, with a division 13·n; 6 for each element of a tensor whose value is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#complex.

    Example:
        >>> z = (2, 3)
        >>> count_multiply_add(OpCall.of("aten::addcdiv", z, z, z, value=-0.5, dtype="complex64", out=[z]))
        114
    """
    rate = ADD + (DIVIDE if "addcdiv" in call.op else MULTIPLY)
    sizes, values = _sizes(call), call.option("scalars", call.option("value", call.arg(3, 1)))
    each = _each(values, len(sizes))
    return sum(
        size * (rate + (0 if is_exactly(value, 1) else MULTIPLY)) for size, value in zip(sizes, each, strict=True)
    )


def count_outer_sum(call: OpCall) -> int:
    """Cost of beta·c + alpha·x yᵀ.

    Shapes: c broadcasts to (M, N), x (M,), y (N,) → (M, N).
    Counts: 6·M·N; 2·M·N unless beta is 0; 6·numel(c) where beta is neither 0 nor 1; 6·M·N where alpha is not 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#complex.

    Example:
        >>> count_outer_sum(OpCall.of("aten::addr", (2, 3), (2,), (3,), dtype="complex64"))
        48
    """
    size = call.tensor(1).size * call.tensor(2).size
    return MULTIPLY * size + _bias(call, size)


def count_power(call: OpCall) -> int:
    """Cost of raising to a power.

    Shapes: base and exponent broadcast → n elements; or a list of tensors, with one exponent or one for each.
    Counts: nothing for the exponents 0 and 1, 6·n for 2, 12·n for 3, a root 11·n for ½ and −½, a reciprocal 6·n for
        −1; else exp(w·log z), 17·n.
    Ignores: how other powers are computed.
    Source: docs/spec/fm-1.md#complex.

    Example:
        >>> count_power(OpCall.of("aten::pow", (2, 3), 2, dtype="complex64", out=[(2, 3)]))
        36
    """
    sizes, exponents = _sizes(call), call.arg(1)
    each = _each(exponents, len(sizes)) if _is_list(call) else (exponents,)
    return sum(size * _power_rate(exponent) for size, exponent in zip(sizes, each, strict=True))


def count_product(call: OpCall) -> Cost:
    """Cost of products of complex matrices and vectors, added to others or not.

    Shapes: a (B, M, K), b (B, K, N), either of them a matrix or a vector; or lists of a (M, K) and b (K, N); c
        broadcasts to the result, which has s elements (that of `addbmm` is summed over the batch).
    Counts: 8·B·M·N·K products, a multiply and an add for each term; pointwise 2·s for adding c unless beta is 0,
        6·numel(c) where beta is neither 0 nor 1, 6·s where alpha is not 1; 2·(B − 1)·s adds (reduction) for `addbmm`.
    Ignores: that the first term of each sum needs no add, conjugates.
    Source: docs/spec/fm-1.md#complex.

    Raises:
        FormulaError: the sizes do not fit.

    Example:
        >>> count_product(OpCall.of("aten::addmm", (5,), (2, 3), (3, 5), dtype="complex64")).flop
        260
    """
    name = _name(call)
    place = PRODUCTS[name]
    if _is_list(call):
        pairs = zip(call.tensor_list(0), call.tensor_list(1), strict=True)
        return Cost.of(Part(kind="matmul", flop=sum(_product(call, one, two) for one, two in pairs)))
    one, two = call.tensor(place), call.tensor(place + 1)
    products = Part(kind="matmul", flop=_product(call, one, two))
    if not place:
        return Cost.of(products)
    size = one.size // one.shape[-1] if one.shape[-1] else math.prod(one.shape[:-1])
    size *= two.shape[-1] if len(two.shape) > 1 else 1
    batch = one.shape[0] if name == "addbmm" else 1
    size //= max(batch, 1)
    return Cost.of(
        products,
        Part(kind="pointwise", flop=_bias(call, size)),
        Part(kind="reduction", flop=ADD * max(batch - 1, 0) * size),
    )


def _name(call: OpCall) -> str:
    name = call.op.partition("::")[2].removesuffix("_")
    return name if name in PRODUCTS else name.removeprefix("_foreach_")


def _is_list(call: OpCall) -> bool:
    return call.op.startswith("aten::_foreach_")


def _sizes(call: OpCall) -> tuple[int, ...]:
    if _is_list(call):
        return tuple(spec.size for spec in call.out or call.tensor_list(0))
    return (call.out[0].size,)


def _each(values: Arg, length: int) -> tuple[Arg, ...]:
    if isinstance(values, tuple):
        return values
    return (AnyNumber() if isinstance(values, TensorSpec) else values,) * length


def _power_rate(exponent: Arg) -> int:
    return next((rate for known, rate in POWERS.items() if is_exactly(exponent, known)), POWER)


def _product(call: OpCall, one: TensorSpec, two: TensorSpec) -> int:
    ranks = (len(one.shape), len(two.shape))
    inner = two.shape[-2] if ranks[1] > 1 else two.size
    fits = ranks in {(1, 1), (2, 1), (2, 2), (3, 3)} and one.shape[-1] == inner
    if not fits or (ranks == (3, 3) and one.shape[0] != two.shape[0]):
        msg = f"{one} and {two} cannot be multiplied"
        raise FormulaError(msg, where=call.op)
    return (MULTIPLY + ADD) * one.size * (two.shape[-1] if ranks[1] > 1 else 1)


def _bias(call: OpCall, size: int) -> int:
    beta, alpha = call.option("beta", 1), call.option("alpha", 1)
    flop = 0 if is_exactly(alpha, 1) else MULTIPLY * size
    if is_exactly(beta, 0):
        return flop
    return flop + ADD * size + (0 if is_exactly(beta, 1) else MULTIPLY * call.tensor(0).size)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"complex::aten.{name}": ("pointwise", count_elements) for name in RATES},
    **{f"complex::aten._foreach_{name}": ("pointwise", count_elements) for name in IN_LISTS},
    **{
        f"complex::aten.{name}": ("pointwise", count_sum_of_two)
        for name in ("add", "sub", "rsub", "_foreach_add", "_foreach_sub")
    },
    **{
        f"complex::aten.{name}": ("pointwise", count_multiply_add)
        for name in ("addcmul", "addcdiv", "_foreach_addcmul", "_foreach_addcdiv")
    },
    "complex::prims.conj_physical": ("pointwise", count_elements),
    "complex::aten.addr": ("pointwise", count_outer_sum),
    "complex::aten.pow": ("pointwise", count_power),
    "complex::aten._foreach_pow": ("pointwise", count_power),
    **{f"complex::aten.{name}": ("matmul", count_product) for name in PRODUCTS},
}
