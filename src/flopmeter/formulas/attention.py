"""Fused attention, forward and backward.

All kernels cost what one reference decomposition costs: S = (Q Kᵀ)·scale (+ mask), P = softmax(S), dropout, O = P V,
over the pairs that the kernel was told to look at. Products are kind `attention`, the softmax is `normalization`, the
rest `pointwise`. Which pairs a mask skipped is `masked_flop`, products only.
Not here: attention written out in matrix products, which computes the full square and is counted so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, Arg, OpCall, is_exactly
from flopmeter.formulas.cost import Cost, Part

# B batch, H query heads, J key heads, S query length, T key length, D head width of Q and K, E head width of V
# P unmasked pairs over all batches and query heads, F all pairs (B·H·S·T), R query rows with at least one pair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where an operator's schema keeps its arguments; `bias` None means the keyword `attn_mask`."""

    query: int
    dropout: int
    causal: int
    bias: int | None = None
    heads_first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One call, reduced to the numbers that decide its cost."""

    batch: int
    heads: int
    key_heads: int
    keys: int
    qk_width: int
    v_width: int
    pairs: int
    skipped: int
    rows: int
    has_bias: bool
    has_dropout: bool


FORWARD = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _Places(query=0, dropout=3, causal=4),
    "aten::_scaled_dot_product_flash_attention": _Places(query=0, dropout=3, causal=4),
    "aten::_scaled_dot_product_efficient_attention": _Places(query=0, dropout=5, causal=6, bias=3),
    "aten::_scaled_dot_product_cudnn_attention": _Places(query=0, dropout=5, causal=6, bias=3),
    "aten::_scaled_dot_product_fused_attention_overrideable": _Places(query=0, dropout=4, causal=5, bias=3),
}
BACKWARD = {
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _Places(query=1, dropout=6, causal=7),
    "aten::_scaled_dot_product_flash_attention_backward": _Places(query=1, dropout=10, causal=11),
    "aten::_scaled_dot_product_efficient_attention_backward": _Places(query=1, dropout=9, causal=11, bias=4),
    "aten::_scaled_dot_product_cudnn_attention_backward": _Places(query=1, dropout=13, causal=14, bias=8),
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": _Places(query=1, dropout=12, causal=13, bias=4),
}
UNKNOWN_PAIRS = ("window_size", "window_size_left", "window_size_right", "seqused_k", "seqlen_k", "block_table")
"""Options that change which pairs are looked at; a call with one of them is left uncounted for now."""


def count_attention(call: OpCall) -> Cost:
    """Cost of a fused attention forward.

    Shapes: q (B, H, S, D), k (B, J, T, D), v (B, J, T, E) → (B, H, S, E); J divides H.
    Counts: attention 2·P·(D + E), with 2·(F − P)·(D + E) masked; pointwise P for the scale, P for an additive mask,
        2·P for dropout; normalization 4·P − R (subtract, exp, sum, divide). P is the full square, or under
        `is_causal` Σ min(i + 1, T) over the query rows i, aligned top left; an explicit mask counts the full square.
    Ignores: the row maximum (compares), the log-sum-exp kept for backward, random numbers, rescaling between tiles,
        pairs that a kernel computes only because they lie in a tile.
    Source: docs/spec/fm-1.md#attention; products and masked products together agree with torch `sdpa_flop`.

    Raises:
        FormulaError: the shapes do not fit, or the arguments are not those of the plain overload.

    Example:
        >>> q = (1, 2, 4, 8)
        >>> call = OpCall.of("aten::_scaled_dot_product_flash_attention_for_cpu", q, q, q, 0.0, True)
        >>> [(part.kind, part.flop, part.masked_flop) for part in count_attention(call).parts]
        [('attention', 640, 384), ('pointwise', 20, 0), ('normalization', 72, 0)]
    """
    return _price_forward(_read(call, FORWARD[call.op]))


def count_attention_backward(call: OpCall) -> Cost:
    """Cost of a fused attention backward, which computes the scores a second time.

    Shapes: those of the forward, and dO (B, H, S, E) → dQ, dK, dV.
    Counts: attention 2·P·(2·D + 2·E) for dV, dP, dQ, dK; normalization 4·P − R; pointwise P for the scale, 2·P for
        dropout; reduction B·T·(D + E)·(H − J) to add up the query heads that share a key head. In phase `recompute`:
        attention 2·P·D for the scores, pointwise P for their scale, P for a mask, 2·P for dropout, normalization 2·P
        (subtract the log-sum-exp, exp). Masked: the products of the F − P other pairs, in both phases.
    Ignores: what the forward ignores, and the gradient of a mask.
    Source: docs/spec/fm-1.md#attention; products of both phases, masked ones included, agree with torch
        `sdpa_backward_flop`.

    Raises:
        FormulaError: the shapes do not fit, or the arguments are not those of the plain overload.

    Example:
        >>> q, lse = (1, 2, 4, 8), (1, 2, 4)
        >>> op = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
        >>> call = OpCall.of(op, q, q, q, q, q, lse, 0.0, True)
        >>> [(part.kind, part.phase, part.flop) for part in count_attention_backward(call).parts][:2]
        [('attention', None, 1280), ('attention', 'recompute', 320)]
    """
    return _price_backward(_read(call, BACKWARD[call.op]))


def count_flash(call: OpCall) -> Cost:
    """Cost of `_flash_attention_forward`, the kernel below SDPA, on batches of equal length.

    Shapes: q (B, S, H, D), k (B, T, J, D), v (B, T, J, E) → (B, S, H, E).
    Counts: as `count_attention`; causal masks are aligned bottom right, Σ max(0, min(T, i + 1 + T − S)).
    Ignores: what `count_attention` ignores.
    Source: docs/spec/fm-1.md#attention.

    Raises:
        FormulaError: packed sequences or a window, whose pairs the shapes do not tell.

    Example:
        >>> q = (1, 4, 2, 8)
        >>> count_flash(OpCall.of("aten::_flash_attention_forward", q, q, q, None, None, 4, 4, 0.0, True, False)).flop
        732
    """
    _refuse_packed(call, 3, 4)
    return _price_forward(_read(call, _Places(query=0, dropout=7, causal=8, heads_first=False), bottom_right=True))


def count_flash_backward(call: OpCall) -> Cost:
    """Cost of `_flash_attention_backward` on batches of equal length.

    Shapes: as `count_flash`.
    Counts: as `count_attention_backward`, causal masks aligned bottom right.
    Ignores: what `count_attention` ignores.
    Source: docs/spec/fm-1.md#attention.

    Raises:
        FormulaError: packed sequences or a window, whose pairs the shapes do not tell.

    Example:
        >>> q = (1, 4, 2, 8)
        >>> op = "aten::_flash_attention_backward"
        >>> call = OpCall.of(op, q, q, q, q, q, (1, 2, 4), None, None, 4, 4, 0.0, True)
        >>> count_flash_backward(call).flop
        1752
    """
    _refuse_packed(call, 6, 7)
    places = _Places(query=1, dropout=10, causal=11, heads_first=False)
    return _price_backward(_read(call, places, bottom_right=True))


def count_efficient(call: OpCall) -> Cost:
    """Cost of `_efficient_attention_forward`, the kernel below SDPA, on batches of equal length.

    Shapes: q (B, S, H, D), k (B, T, J, D), v (B, T, J, E) → (B, S, H, E).
    Counts: as `count_attention`; `custom_mask_type` 1 is causal top left, 2 causal bottom right.
    Ignores: what `count_attention` ignores.
    Source: docs/spec/fm-1.md#attention.

    Raises:
        FormulaError: packed sequences or a window, whose pairs the shapes do not tell.

    Example:
        >>> q = (1, 4, 2, 8)
        >>> op = "aten::_efficient_attention_forward"
        >>> count_efficient(OpCall.of(op, q, q, q, None, None, None, None, None, 0.0, 1)).flop
        732
    """
    _refuse_packed(call, 4, 5)
    places = _Places(query=0, dropout=8, causal=9, bias=3, heads_first=False)
    return _price_forward(_read(call, places, bottom_right=is_exactly(call.arg(9), 2)))


def count_efficient_backward(call: OpCall) -> Cost:
    """Cost of `_efficient_attention_backward` on batches of equal length.

    Shapes: as `count_efficient`.
    Counts: as `count_attention_backward`, masks as `count_efficient`.
    Ignores: what `count_attention` ignores.
    Source: docs/spec/fm-1.md#attention.

    Raises:
        FormulaError: packed sequences or a window, whose pairs the shapes do not tell.

    Example:
        >>> q = (1, 4, 2, 8)
        >>> op = "aten::_efficient_attention_backward"
        >>> call = OpCall.of(op, q, q, q, q, None, q, None, None, 4, 4, (1, 2, 4), 0.0, None, None, 1, False)
        >>> count_efficient_backward(call).flop
        1752
    """
    _refuse_packed(call, 6, 7)
    places = _Places(query=1, dropout=11, causal=14, bias=4, heads_first=False)
    return _price_backward(_read(call, places, bottom_right=is_exactly(call.arg(14), 2)))


def count_pairs(*, queries: int, keys: int, causal: bool, bottom_right: bool = False) -> tuple[int, int]:
    """Count the query-key pairs of one head that a mask leaves, and the query rows that keep at least one.

    Counts: without a mask queries·keys; causal top left Σ min(i + 1, keys) over the rows i; causal bottom right
        Σ max(0, min(keys, i + 1 + keys − queries)).
    Ignores: masks given as tensors.
    Source: docs/spec/fm-1.md#attention.

    Example:
        >>> count_pairs(queries=4, keys=4, causal=True)
        (10, 4)
        >>> count_pairs(queries=4, keys=2, causal=True, bottom_right=True)
        (3, 2)
    """
    if not causal:
        return queries * keys, queries if keys else 0
    # Row i keeps i + 1 + shift keys, at least none and at most all of them.
    shift = keys - queries if bottom_right else 0
    first = min(max(0, -shift), queries)
    full = min(max(first, keys - 1 - shift), queries)
    growing = full - first
    pairs = growing * (first + 1 + shift) + growing * (growing - 1) // 2 + (queries - full) * keys
    return pairs, queries - first if keys else 0


def _price_forward(work: _Work) -> Cost:
    width = work.qk_width + work.v_width
    pointwise = 1 + work.has_bias + 2 * work.has_dropout
    return Cost.of(
        Part(kind="attention", flop=2 * work.pairs * width, masked_flop=2 * work.skipped * width),
        Part(kind="pointwise", flop=pointwise * work.pairs),
        Part(kind="normalization", flop=4 * work.pairs - work.rows),
    )


def _price_backward(work: _Work) -> Cost:
    width = work.qk_width + work.v_width
    again = 1 + work.has_bias + 2 * work.has_dropout
    shared = work.batch * work.keys * width * (work.heads - work.key_heads)
    return Cost.of(
        Part(kind="attention", flop=4 * work.pairs * width, masked_flop=4 * work.skipped * width),
        Part(
            kind="attention",
            flop=2 * work.pairs * work.qk_width,
            masked_flop=2 * work.skipped * work.qk_width,
            phase="recompute",
        ),
        Part(kind="pointwise", flop=(1 + 2 * work.has_dropout) * work.pairs),
        Part(kind="pointwise", flop=again * work.pairs, phase="recompute"),
        Part(kind="normalization", flop=4 * work.pairs - work.rows),
        Part(kind="normalization", flop=2 * work.pairs, phase="recompute"),
        Part(kind="reduction", flop=shared),
    )


def _read(call: OpCall, places: _Places, *, bottom_right: bool = False) -> _Work:
    query, key, value = (call.tensor(places.query + offset).shape for offset in range(3))
    heads_at, length_at = (1, 2) if places.heads_first else (2, 1)
    if not len(query) == len(key) == len(value) == 4:
        _refuse(call, f"query, key and value have {len(query)}, {len(key)} and {len(value)} dimensions, not 4")
    batch, heads, key_heads = query[0], query[heads_at], key[heads_at]
    same_keys = key[length_at] == value[length_at] and key_heads == value[heads_at]
    if query[3] != key[3] or not same_keys or not batch == key[0] == value[0] or heads % max(key_heads, 1):
        _refuse(call, f"query {query}, key {key} and value {value} do not fit")
    bias = call.option("attn_mask") if places.bias is None else call.arg(places.bias)
    pairs, rows = count_pairs(
        queries=query[length_at],
        keys=key[length_at],
        causal=_read_flag(call, places.causal),
        bottom_right=bottom_right,
    )
    return _Work(
        batch=batch,
        heads=heads,
        key_heads=key_heads,
        keys=key[length_at],
        qk_width=query[3],
        v_width=value[3],
        pairs=batch * heads * pairs,
        skipped=batch * heads * (query[length_at] * key[length_at] - pairs),
        rows=batch * heads * rows,
        has_bias=bias is not None,
        has_dropout=not is_exactly(_read_dropout(call, places.dropout), 0),
    )


def _read_flag(call: OpCall, index: int) -> bool:
    flag = call.arg(index, default=False)
    if not isinstance(flag, int):
        _refuse(call, f"argument {index} is {flag}, not the causal flag of the plain overload")
    return bool(flag)


def _read_dropout(call: OpCall, index: int) -> Arg:
    dropout = call.arg(index, 0.0)
    if not isinstance(dropout, (AnyNumber, int, float)) or isinstance(dropout, bool):
        _refuse(call, f"argument {index} is {dropout}, not the dropout of the plain overload")
    return dropout


def _refuse_packed(call: OpCall, *places: int) -> None:
    if any(call.arg(place) is not None for place in places):
        _refuse(call, "packed sequences: their lengths are values, not shapes")
    if any(call.option(name) is not None for name in UNKNOWN_PAIRS):
        _refuse(call, "a window or lengths per sequence: their pairs are not counted yet")


def _refuse(call: OpCall, what: str) -> NoReturn:
    raise FormulaError(what, where=call.op)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(FORWARD, ("attention", count_attention)),
    **dict.fromkeys(BACKWARD, ("attention", count_attention_backward)),
    "aten::_flash_attention_forward": ("attention", count_flash),
    "aten::_flash_attention_backward": ("attention", count_flash_backward),
    "aten::_efficient_attention_forward": ("attention", count_efficient),
    "aten::_efficient_attention_backward": ("attention", count_efficient_backward),
}
