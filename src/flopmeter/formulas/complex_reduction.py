"""Sums, means, variances, norms, scans and scatters of complex numbers, in operations on real ones.

An add is 2 operations, a multiply 6, a modulus 4; adding n numbers takes n − 1 adds.
Not here: what is done to every element alike, and products (`complex`).
"""

import math
from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import Arg, OpCall, TensorSpec, broadcast_size, is_exactly
from flopmeter.formulas.cost import Cost, Part

# n elements of the input, m of the first output

ADD, MULTIPLY, MODULUS = 2, 6, 4
LOG_ADD_EXP = 16
"""As `complex::aten.logaddexp`: subtract 2, exp 5, log1p 7, add 2."""

SUMS = {"sum": ADD, "prod": MULTIPLY}
SCANS = {"cumsum": ADD, "cumprod": MULTIPLY, "logcumsumexp": LOG_ADD_EXP, "_logcumsumexp": LOG_ADD_EXP}
SPREADS = {"var": 0, "var_mean": 0, "std": 1, "std_mean": 1}
SCATTERS = {
    "scatter_add": 2,
    "put": 1,
    "unfold_backward": 0,
    "col2im": 0,
    **{f"{kind}_pad{d}d_backward": 0 for kind in ("reflection", "replication") for d in (1, 2, 3)},
}
"""The argument whose elements are added up, two adds for each."""

INDEXED = {"index_put": 1, "_index_put_impl": 1, "_unsafe_index_put": 1, "_unsafe_masked_index_put_accumulate": 2}
"""Where an operator keeps its indices; the values follow them."""


def count_sum(call: OpCall) -> int:
    """Cost of adding or multiplying complex numbers up.

    Shapes: n elements → m.
    Counts: 2·(n − m) for a sum, 6·(n − m) for a product.
    Ignores: the order.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_sum(OpCall.of("aten::sum", (2, 5), [1], dtype="complex64", out=[(2,)]))
        16
    """
    return SUMS[_name(call)] * max(call.tensor(0).size - call.out[0].size, 0)


def count_mean(call: OpCall) -> int:
    """Cost of a mean.

    Shapes: n elements → m.
    Counts: 2·(n − m) adds and 2·m divisions by a count: 2·n.
    Ignores: the order.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_mean(OpCall.of("aten::mean", (2, 5), [1], dtype="complex64", out=[(2,)]))
        20
    """
    return 2 * call.tensor(0).size


def count_spread(call: OpCall) -> int:
    """Cost of a variance or a standard deviation, with or without the mean.

    Shapes: n elements → m real ones.
    Counts: that of the real parts and that of the imaginary ones 4·n each, m adds; m square roots for a deviation.
    Ignores: that one pass could do.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_spread(OpCall.of("aten::std", (2, 5), [1], dtype="complex64", out=[(2,)]))
        84
    """
    size = call.tensor(0).size
    return 8 * size + (1 + SPREADS[_name(call)]) * call.out[0].size if size else 0


def count_norm(call: OpCall) -> int:
    """Cost of the length of vectors, or of Σ|z|ᵖ alone.

    Shapes: n elements → m real ones; or a list of tensors → one number each.
    Counts: moduli 4·n but for order 0, then: orders 0 and 1 n − m adds; infinity nothing; 2 or another n powers,
        n − m adds, and m roots but for Σ|z|ᵖ.
    Ignores: compares.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_norm(OpCall.of("aten::linalg_vector_norm", (2, 5), 2, [1], dtype="complex64", out=[(2,)]))
        60
    """
    order = call.arg(1, 2)
    is_rooted = "powsum" not in call.op
    if "_foreach_" in call.op:
        return sum(_norm(spec.size, 1, order, is_rooted=is_rooted) for spec in call.tensor_list(0))
    return _norm(call.tensor(0).size, call.out[0].size, order, is_rooted=is_rooted)


def count_logsumexp(call: OpCall) -> int:
    """Cost of log Σ exp.

    Shapes: n elements → m.
    Counts: 9·n + 6·m: subtract the largest real part 2·n, exp 5·n, sum 2·(n − m), log 6·m, add it back 2·m.
    Ignores: the maximum (compares).
    Source: docs/spec/fm-1.md#complex_reduction; torch's decomposition.

    Example:
        >>> count_logsumexp(OpCall.of("aten::logsumexp", (2, 5), [1], dtype="complex64", out=[(2,)]))
        102
    """
    size = call.tensor(0).size
    return 9 * size + 6 * call.out[0].size if size else 0


def count_scan(call: OpCall) -> int:
    """Cost of running sums, products or log-sums along a dimension.

    Shapes: n elements in m rows → the same.
    Counts: 2·(n − m), 6·(n − m) or 16·(n − m).
    Ignores: that a parallel scan does more.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_scan(OpCall.of("aten::cumsum", (2, 5), 1, dtype="complex64"))
        16
    """
    shape, place = call.tensor(0).shape, _place(call, 1)
    size = math.prod(shape)
    return SCANS[_name(call)] * (size - size // (shape[place] if shape else 1)) if size else 0


def count_trace(call: OpCall) -> int:
    """Cost of adding up a diagonal.

    Shapes: (M, N) → ().
    Counts: 2·(min(M, N) − 1).
    Ignores: nothing.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_trace(OpCall.of("aten::trace", (3, 5), dtype="complex64"))
        4
    """
    return ADD * max(min(call.tensor(0).shape) - 1, 0)


def count_distance(call: OpCall) -> int:
    """Cost of the length of a difference.

    Shapes: x, y broadcast to n elements → one real number.
    Counts: 2·n to subtract, and the norm of n elements.
    Ignores: compares.
    Source: docs/spec/fm-1.md#complex_reduction; torch's decomposition.

    Example:
        >>> count_distance(OpCall.of("aten::dist", (2, 5), (5,), dtype="complex64"))
        80
    """
    size = broadcast_size(call.tensor(0), call.tensor(1))
    return ADD * size + _norm(size, 1, call.arg(2, 2), is_rooted=True)


def count_rows_renormed(call: OpCall) -> Cost:
    """Cost of scaling down slices that are longer than allowed.

    Shapes: z with n elements, m slices along a dimension → the same.
    Counts: the norm of each slice; pointwise 3·m for the factor (add eps, reciprocal, multiply) and 6·n to scale.
    Ignores: which slices are too long, which only values would tell: all are scaled.
    Source: docs/spec/fm-1.md#complex_reduction; torch's decomposition.

    Example:
        >>> count_rows_renormed(OpCall.of("aten::renorm", (4, 5), 2, 0, 0.5, dtype="complex64")).flop
        252
    """
    data = call.tensor(0)
    slices = data.shape[_place(call, 2)]
    return Cost.of(
        Part(kind="reduction", flop=_norm(data.size, slices, call.arg(1), is_rooted=True)),
        Part(kind="pointwise", flop=3 * slices + MULTIPLY * data.size if data.size else 0),
    )


def count_scatter(call: OpCall) -> int:
    """Cost of adding complex numbers into places.

    Shapes: x, index, source; or dy, and arguments that say where its elements go.
    Counts: 2 for each element that is brought in: of the index, or of dy; for `put` only where it accumulates.
    Ignores: that the first add into a place may add to zero.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_scatter(OpCall.of("aten::scatter_add", (10, 4), 0, (3, 4), (5, 4), dtype="complex64"))
        24
    """
    name = _name(call)
    is_adding = name != "put" or call.arg(3) is True
    return ADD * call.tensor(SCATTERS[name]).size if is_adding else 0


def count_reduced_scatter(call: OpCall) -> int:
    """Cost of `scatter`: a copy, or with `reduce` an add or a multiply for each element of the index.

    Shapes: x (V…), index (N…), source or a number → (V…).
    Counts: 2·numel(index) where `reduce` is add, 6·numel(index) where it is multiply, else 0.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_reduced_scatter(OpCall.of("aten::scatter", (9,), 0, (3,), (3,), reduce="multiply", dtype="complex64"))
        18
    """
    how = call.option("reduce")
    return {"add": ADD, "multiply": MULTIPLY}.get(how if isinstance(how, str) else "", 0) * call.tensor(2).size


def count_index_add(call: OpCall) -> Cost:
    """Cost of adding the rows of a source into a tensor.

    Shapes: x (V, D), index (N,), source (N, D) → (V, D).
    Counts: 2·N·D; pointwise 6·N·D where alpha is not 1.
    Ignores: that the first add into a row may add to zero.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_index_add(OpCall.of("aten::index_add", (10, 4), 0, (3,), (3, 4), dtype="complex64")).flop
        24
    """
    size = call.tensor(3).size
    is_plain = is_exactly(call.option("alpha", call.arg(4, 1)), 1)
    return Cost.of(
        Part(kind="scatter", flop=ADD * size), Part(kind="pointwise", flop=0 if is_plain else MULTIPLY * size)
    )


def count_index_put(call: OpCall) -> int:
    """Cost of writing, or with `accumulate` adding, values at indexed places.

    Shapes: x (V…), a list of index tensors (some absent), values that broadcast to the indexed region → (V…).
    Counts: two operations for each element of the region, as for real numbers one; without `accumulate` 0.
    Ignores: that the first add into a place may add to zero, and places that a mask leaves out.
    Source: docs/spec/fm-1.md#complex_reduction.

    Example:
        >>> count_index_put(OpCall.of("aten::index_put", (10, 4), [(3,)], (3, 4), True, dtype="complex64"))
        24
    """
    place = INDEXED[_name(call)]
    if place == 1 and call.arg(3) is not True:
        return 0
    data, indices, values = call.tensor(0), call.arg(place), call.tensor(place + 1)
    found = indices if isinstance(indices, tuple) else ()
    present = [index for index in found if isinstance(index, TensorSpec)]
    if any(index.dtype in {"bool", "uint8"} for index in present):
        return ADD * values.size
    free = [size for d, size in enumerate(data.shape) if d >= len(found) or not isinstance(found[d], TensorSpec)]
    return ADD * broadcast_size(*present) * math.prod(free)


def _name(call: OpCall) -> str:
    return call.op.removeprefix("aten::").removesuffix("_")


def _place(call: OpCall, argument: int) -> int:
    shape, place = call.tensor(0).shape, call.arg(argument)
    if not isinstance(place, int) or not -max(len(shape), 1) <= place < max(len(shape), 1):
        msg = f"argument {argument} is {place}, not a dimension of {list(shape)}"
        raise FormulaError(msg, where=call.op)
    return place


def _norm(size: int, results: int, order: Arg, *, is_rooted: bool) -> int:
    if not size:
        return 0
    sums = max(size - results, 0)
    if is_exactly(order, 0):
        return sums
    if is_exactly(order, 1):
        return MODULUS * size + sums
    if order in {"inf", "-inf"} or is_exactly(order, math.inf) or is_exactly(order, -math.inf):
        return MODULUS * size
    return (MODULUS + 1) * size + sums + (results if is_rooted else 0)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"complex::aten.{name}": ("reduction", count_sum) for name in SUMS},
    "complex::aten.mean": ("reduction", count_mean),
    **{f"complex::aten.{name}": ("reduction", count_spread) for name in SPREADS},
    **{
        f"complex::aten.{name}": ("reduction", count_norm)
        for name in ("linalg_vector_norm", "norm", "linalg__powsum", "_foreach_norm", "_foreach_powsum")
    },
    "complex::aten.logsumexp": ("reduction", count_logsumexp),
    **{f"complex::aten.{name}": ("reduction", count_scan) for name in SCANS},
    "complex::aten.trace": ("reduction", count_trace),
    "complex::aten.dist": ("reduction", count_distance),
    "complex::aten.renorm": ("reduction", count_rows_renormed),
    **{f"complex::aten.{name}": ("scatter", count_scatter) for name in SCATTERS},
    "complex::aten.scatter": ("scatter", count_reduced_scatter),
    "complex::aten.index_add": ("scatter", count_index_add),
    **{f"complex::aten.{name}": ("scatter", count_index_put) for name in INDEXED},
}
