"""Query-key pairs: how many a mask leaves, and what attention over them costs.

The families of attention count their pairs each in its own way, and price them here in one.
Not here: where an operator keeps its arguments (`attention.py`, `packed.py`, `flex.py`).
"""

from dataclasses import dataclass

from flopmeter.formulas.call import Arg, OpCall, TensorSpec, derive_precision, is_exactly
from flopmeter.formulas.cost import Cost, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One call of attention, reduced to the numbers that decide its cost.

    `pairs`, `skipped` and `rows` are over all sequences and query heads: pairs that are looked at, pairs that the
    shapes would allow as well, query rows with at least one pair. `shared` are the adds that bring together the
    gradients of query heads that share a key head, `bias` the operations that each score takes after its scale,
    `besides` those that belong to no pair. `precision` is that of the products, None where it is the call's.
    """

    pairs: int
    skipped: int
    rows: int
    qk_width: int
    v_width: int
    shared: int = 0
    is_scaled: bool = True
    bias: int = 0
    has_dropout: bool = False
    has_softcap: bool = False
    besides: int = 0
    precision: str | None = None


def count_pairs(
    *, queries: int, keys: int, left: int | None = None, right: int | None = None, bottom_right: bool = False
) -> tuple[int, int]:
    """Count the query-key pairs of one head that a band leaves, and the query rows that keep at least one.

    Counts: the pairs of row i with the keys i + s − left … i + s + right that there are; s is 0, or keys − queries
        where the diagonal ends bottom right. None is no bound; causal is right = 0.
    Ignores: masks given as tensors.
    Source: docs/spec/fm-1.md#attention.

    Example:
        >>> count_pairs(queries=4, keys=4, right=0)
        (10, 4)
        >>> count_pairs(queries=4, keys=2, right=0, bottom_right=True)
        (3, 2)
        >>> count_pairs(queries=4, keys=4, left=1, right=0)
        (7, 4)
    """
    shift = keys - queries if bottom_right else 0
    # Row i keeps the keys below one bound and from the other on; both grow by one from row to row.
    below = queries * keys if right is None else _sum_cut(shift + right + 1, queries, keys)
    before = 0 if left is None else _sum_cut(shift - left, queries, keys)
    first = 0 if right is None else max(0, -shift - right)
    end = queries if left is None else min(queries, keys - shift + left)
    return below - before, max(0, end - first) if keys else 0


def price_forward(work: Work) -> Cost:
    """Price a forward.

    Counts: attention 2·P·(D + E); pointwise on each pair the scale, the bias, 3 for a softcap (divide, tanh, multiply),
        2 for dropout (mask, scale); normalization 4·P − R (subtract, exp, sum, divide).
    Source: docs/spec/fm-1.md#attention.
    """
    width = work.qk_width + work.v_width
    each = work.is_scaled + work.bias + 3 * work.has_softcap + 2 * work.has_dropout
    return Cost.of(
        _products(work, 2 * width),
        Part(kind="pointwise", flop=each * work.pairs + work.besides),
        Part(kind="normalization", flop=4 * work.pairs - work.rows),
    )


def price_backward(work: Work) -> Cost:
    """Price a backward, which computes the scores a second time.

    Counts: attention 4·P·(D + E) for dV, dP, dQ, dK; pointwise on each pair the scale, 5 for a softcap (multiply, the
        gradient of tanh, divide), 2 for dropout; normalization 4·P − R; the sums over shared heads. In phase
        `recompute`: attention 2·P·D, the pointwise part of the forward, normalization 2·P.
    Source: docs/spec/fm-1.md#attention.
    """
    width = work.qk_width + work.v_width
    each = work.is_scaled + 5 * work.has_softcap + 2 * work.has_dropout
    again = work.is_scaled + work.bias + 3 * work.has_softcap + 2 * work.has_dropout
    return Cost.of(
        _products(work, 4 * width),
        _products(work, 2 * work.qk_width, phase="recompute"),
        Part(kind="pointwise", flop=each * work.pairs),
        Part(kind="pointwise", flop=again * work.pairs, phase="recompute"),
        Part(kind="normalization", flop=4 * work.pairs - work.rows),
        Part(kind="normalization", flop=2 * work.pairs, phase="recompute"),
        Part(kind="reduction", flop=work.shared),
    )


def product_precision(call: OpCall, *operands: TensorSpec) -> str | None:
    """Return the precision of products of these operands, None where it is the call's.

    Log-sum-exps, biases and scales of quantized operands come along in fp32, and no product is done in it for that.
    """
    own = derive_precision(operands)
    return None if own == derive_precision(call.tensors) else own


def is_scaled_by(scale: Arg) -> bool:
    """Say whether scaling costs a product for each pair: it does unless the factor is exactly 1."""
    return not is_exactly(scale, 1)


def _products(work: Work, each: int, phase: str | None = None) -> Part:
    return Part(
        kind="attention",
        flop=each * work.pairs,
        masked_flop=each * work.skipped,
        phase=phase,
        precision=work.precision,
    )


def _sum_cut(first: int, count: int, cap: int) -> int:
    """Return the sum of `first`, `first + 1`, … over `count` terms, each cut to 0 … `cap`."""
    return _sum_below(first + count, cap) - _sum_below(first, cap)


def _sum_below(end: int, cap: int) -> int:
    """Return the sum of all whole numbers below `end`, those above `cap` cut to it."""
    growing = min(max(end, 0), cap + 1)
    return growing * (growing - 1) // 2 + max(0, end - cap - 1) * cap
