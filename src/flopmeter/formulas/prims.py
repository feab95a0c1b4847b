"""Torch's primitive operators, into which graphs are taken apart; run one by one, they cost what `aten`'s namesakes do.

Not here: `prims` that only convert or count up (`movement`), and those on complex numbers, which have no formula.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.rates import count_nothing

RATES = {
    **dict.fromkeys(
        (
            *("abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0", "bessel_i0e"),
            *("bessel_i1", "bessel_i1e", "bessel_j0", "bessel_j1", "bitwise_and", "bitwise_not", "bitwise_or"),
            *("bitwise_xor", "cbrt", "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "erfcx", "exp", "exp2"),
            *("expm1", "gcd", "igamma", "igammac", "lgamma", "log", "log10", "log1p", "log2", "mul", "ndtri", "neg"),
            *("pow", "reciprocal", "rsqrt", "shift_left", "shift_right_arithmetic", "sin", "sinh"),
            *("spherical_bessel_j0", "sqrt", "sub", "tan", "tanh", "zeta"),
        ),
        1,
    ),
    "fma": 2,
    "fmod": 3,
    "remainder": 3,
    "hypot": 4,
}
"""Operations for each element of the output."""

NOTHING = (
    *("_low_memory_max_pool_offsets_to_indices", "_low_memory_max_pool_with_offsets", "_make_token", "_sink_tokens"),
    *("amax", "amin", "as_strided", "as_strided_scatter", "broadcast_in_dim", "cat", "ceil", "clone", "collapse"),
    *("collapse_view", "conj", "copy_strided", "copy_to", "device_put", "empty", "empty_permuted", "empty_strided"),
    *("eq", "fill", "floor", "fmax", "fmin", "frexp", "full", "full_like", "ge", "gt", "imag"),
    *("inductor_cvt_e8m0_rceil", "inductor_force_stride_order", "inductor_lookup_seed", "inductor_rand_eager_offset"),
    *("inductor_rand_eager_offsets", "inductor_randint", "inductor_random", "inductor_seed", "inductor_seeds"),
    *("isfinite", "item", "le", "lt", "maximum", "maximum_value", "minimum", "minimum_value", "ne", "nextafter"),
    *("normal", "real", "reshape", "resize", "rev", "round", "scalar_tensor", "sign", "signbit", "split_dim"),
    *("squeeze", "transpose", "trunc", "uniform", "view_of", "view_of_dtype", "where"),
)
"""Views, copies, fills, compares, roundings and random numbers."""


def count_elements(call: OpCall) -> int:
    """Cost of an operator that does the same for each element.

    Shapes: operands of one shape → n elements.
    Counts: n times its rate in `RATES`; bitwise operations on booleans are logic and cost nothing.
    Ignores: casts.
    Source: docs/spec/fm-1.md#prims.

    Example:
        >>> count_elements(OpCall.of("prims::fma", (2, 3), (2, 3), (2, 3), out=[(2, 3)]))
        12
    """
    if call.precision == "bool" and call.op.startswith("prims::bitwise_"):
        return 0
    return RATES[call.op.removeprefix("prims::")] * call.out_size


def count_sum(call: OpCall) -> int:
    """Cost of a sum, a product or an exclusive or along dimensions.

    Shapes: x with n elements → m elements.
    Counts: n − m; an exclusive or of booleans is logic and costs nothing.
    Source: docs/spec/fm-1.md#prims.

    Example:
        >>> count_sum(OpCall.of("prims::sum", (2, 3), (1,), out=[(2,)]))
        4
    """
    if call.precision == "bool" and call.op == "prims::xor_sum":
        return 0
    return max(0, call.tensor(0).size - call.out_size)


def count_variance(call: OpCall) -> int:
    """Cost of a variance along dimensions.

    Shapes: x with n elements → m elements.
    Counts: 4·n: mean n, subtract n, square n, mean n.
    Source: docs/spec/fm-1.md#prims.

    Example:
        >>> count_variance(OpCall.of("prims::var", (2, 3), (1,), out=[(2,)]))
        24
    """
    return 4 * call.tensor(0).size


def count_softmax_sums(call: OpCall) -> int:
    """Cost of the maximum and the sum that a softmax needs.

    Shapes: x with n elements → maximum and sum, m elements each.
    Counts: 3·n − m: subtract the maximum n, exp n, sum n − m.
    Ignores: the maximum itself (compares), and rescaling on the way.
    Source: docs/spec/fm-1.md#prims.

    Example:
        >>> count_softmax_sums(OpCall.of("prims::prepare_softmax_online", (2, 3), 1, out=[(2, 1), (2, 1)]))
        16
    """
    return 3 * call.tensor(0).size - call.out[0].size


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"prims::{name}": ("pointwise", count_elements) for name in RATES},
    "prims::sum": ("reduction", count_sum),
    "prims::prod": ("reduction", count_sum),
    "prims::xor_sum": ("reduction", count_sum),
    "prims::var": ("reduction", count_variance),
    "prims::prepare_softmax_online": ("normalization", count_softmax_sums),
    **{f"prims::{name}": ("other", count_nothing) for name in NOTHING},
}
