"""Fused attention on batches of sequences of one length, forward and backward: the kernels of torch's own SDPA.

All kernels cost what one reference decomposition costs: S = (Q Kᵀ)·scale (+ mask), P = softmax(S), dropout, O = P V,
over the pairs that the kernel was told to look at. Products are kind `attention`, the softmax is `normalization`, the
rest `pointwise`. Which pairs a mask skipped is `masked_flop`, products only.
Not here: packed sequences, windows and caches (`packed.py`), block masks (`flex.py`), and attention written out in
matrix products, which computes the full square and is counted so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec, is_exactly
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.pairs import Work, count_pairs, is_scaled_by, price_backward, price_forward, product_precision

# B batch, H query heads, J key heads, S query length, T key length, D head width of Q and K, E head width of V
# P unmasked pairs over all batches and query heads, F all pairs (B·H·S·T), R query rows with at least one pair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where an operator's schema keeps its arguments; `bias` None means the keyword `attn_mask`.

    `bottom_right` is where the causal diagonal ends; `descale` is where the overload for quantized operands keeps its
    three scales; `has_flat` allows operands without a batch.
    """

    query: int
    dropout: int
    causal: int
    bias: int | None = None
    bottom_right: bool = False
    descale: int | None = None
    has_flat: bool = False


FORWARD = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _Places(query=0, dropout=3, causal=4),
    "aten::_scaled_dot_product_flash_attention": _Places(query=0, dropout=3, causal=4, bottom_right=True, descale=3),
    "aten::_scaled_dot_product_efficient_attention": _Places(query=0, dropout=5, causal=6, bias=3),
    "aten::_scaled_dot_product_cudnn_attention": _Places(query=0, dropout=5, causal=6, bias=3),
    "aten::_scaled_dot_product_fused_attention_overrideable": _Places(
        query=0, dropout=4, causal=5, bias=3, has_flat=True
    ),
    "aten::_scaled_dot_product_attention_math_for_mps": _Places(query=0, dropout=4, causal=5, bias=3, has_flat=True),
}
BACKWARD = {
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _Places(query=1, dropout=6, causal=7),
    "aten::_scaled_dot_product_flash_attention_backward": _Places(query=1, dropout=10, causal=11, bottom_right=True),
    "aten::_scaled_dot_product_efficient_attention_backward": _Places(query=1, dropout=9, causal=11, bias=4),
    "aten::_scaled_dot_product_cudnn_attention_backward": _Places(query=1, dropout=13, causal=14, bias=8),
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": _Places(
        query=1, dropout=12, causal=13, bias=4, has_flat=True
    ),
}
_DROPOUT_MASK = 6
"""Where the Metal kernel keeps a dropout mask of the caller's: a form of its own that nobody dispatches."""


def count_attention(call: OpCall) -> Cost:
    """Cost of a fused attention forward.

    Shapes: q (B, H, S, D), k (B, J, T, D), v (B, J, T, E) → (B, H, S, E); J divides H.
    Counts: attention 2·P·(D + E), with 2·(F − P)·(D + E) masked; pointwise P for a scale other than 1, P for an
        additive mask, 2·P for dropout, and for quantized operands one product with each scale of q and k and
        B·H·S·E with those of v; normalization 4·P − R (subtract, exp, sum, divide). P is the full square, or under
        `is_causal` Σ min(i + 1, T) over the query rows i, aligned top left, where the table says so bottom right;
        an explicit mask counts the full square. Products are in the precision of q, k and v.
    Ignores: the row maximum (compares), the log-sum-exp kept for backward, random numbers, rescaling between tiles,
        pairs that a kernel computes only because they lie in a tile.
    Source: docs/spec/fm-1.md#attention; products and masked products together agree with torch `sdpa_flop`.

    Raises:
        FormulaError: the shapes do not fit, or the arguments are not those of a known overload.

    Example:
        >>> q = (1, 2, 4, 8)
        >>> call = OpCall.of("aten::_scaled_dot_product_flash_attention_for_cpu", q, q, q, 0.0, True)
        >>> [(part.kind, part.flop, part.masked_flop) for part in count_attention(call).parts]
        [('attention', 640, 384), ('pointwise', 20, 0), ('normalization', 72, 0)]
    """
    places = FORWARD[call.op]
    if call.op.endswith("_for_mps") and call.arg(_DROPOUT_MASK) is not None:
        call.refuse("a dropout mask of the caller's")
    if places.descale is None or not isinstance(call.arg(places.descale, 0.0), TensorSpec | None):
        return price_forward(_read(call, places))
    scales = [call.arg(places.descale + offset) for offset in range(3)]
    work = _read(call, replace(places, dropout=places.dropout + 3, causal=places.causal + 3))
    query, value = call.tensor(0), call.tensor(2)
    besides = sum(scale.size for scale in scales[:2] if isinstance(scale, TensorSpec))
    besides += (scales[2] is not None) * math.prod(query.shape[:3]) * value.shape[3]
    return price_forward(replace(work, besides=besides))


def count_attention_backward(call: OpCall) -> Cost:
    """Cost of a fused attention backward, which computes the scores a second time.

    Shapes: those of the forward, and dO (B, H, S, E) → dQ, dK, dV.
    Counts: attention 2·P·(2·D + 2·E) for dV, dP, dQ, dK; normalization 4·P − R; pointwise P for a scale other than 1,
        2·P for dropout; reduction B·T·(D + E)·(H − J) to add up the query heads that share a key head. In phase
        `recompute`: attention 2·P·D for the scores, pointwise P for their scale, P for a mask, 2·P for dropout,
        normalization 2·P (subtract the log-sum-exp, exp). Masked: the products of the F − P other pairs, in both
        phases. Products are in the precision of q, k and v, not in that of the log-sum-exp.
    Ignores: what the forward ignores, and the gradient of a mask.
    Source: docs/spec/fm-1.md#attention; products of both phases, masked ones included, agree with torch
        `sdpa_backward_flop`.

    Raises:
        FormulaError: the shapes do not fit, or the arguments are not those of a known overload.

    Example:
        >>> q, lse = (1, 2, 4, 8), (1, 2, 4)
        >>> op = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
        >>> call = OpCall.of(op, q, q, q, q, q, lse, 0.0, True)
        >>> [(part.kind, part.phase, part.flop) for part in count_attention_backward(call).parts][:2]
        [('attention', None, 1280), ('attention', 'recompute', 320)]
    """
    return price_backward(_read(call, BACKWARD[call.op]))


def _read(call: OpCall, places: _Places) -> Work:
    operands = [call.tensor(places.query + offset) for offset in range(3)]
    query, key, value = (_shape(call, spec, has_flat=places.has_flat) for spec in operands)
    batch, heads, queries, width = query
    key_heads, keys = key[1:3]
    same_keys = key[:3] == value[:3] and batch == key[0]
    if width != key[3] or not same_keys or heads % max(key_heads, 1):
        call.refuse(f"query {query}, key {key} and value {value} do not fit")
    pairs, rows = count_pairs(
        queries=queries,
        keys=keys,
        right=0 if _read_flag(call, places.causal) else None,
        bottom_right=places.bottom_right,
    )
    bias = call.option("attn_mask") if places.bias is None else call.arg(places.bias)
    return Work(
        pairs=batch * heads * pairs,
        skipped=batch * heads * (queries * keys - pairs),
        rows=batch * heads * rows,
        qk_width=width,
        v_width=value[3],
        shared=batch * keys * (width + value[3]) * (heads - key_heads),
        is_scaled=is_scaled_by(call.option("scale")),
        bias=bias is not None,
        has_dropout=_has_dropout(call, places.dropout),
        precision=product_precision(call, *operands),
    )


def _shape(call: OpCall, spec: TensorSpec, *, has_flat: bool) -> tuple[int, ...]:
    shape = (1, *spec.shape) if has_flat and len(spec.shape) == 3 else spec.shape
    if len(shape) != 4:
        call.refuse(f"an operand has {len(shape)} dimensions, not 4")
    return shape


def _read_flag(call: OpCall, index: int) -> bool:
    flag = call.arg(index, default=False)
    if not isinstance(flag, int):
        call.refuse(f"argument {index} is {flag}, not the causal flag of a known overload")
    return bool(flag)


def _has_dropout(call: OpCall, index: int) -> bool:
    dropout = call.arg(index, 0.0)
    if not isinstance(dropout, (AnyNumber, int, float)) or isinstance(dropout, bool):
        call.refuse(f"argument {index} is {dropout}, not the dropout of a known overload")
    return not is_exactly(dropout, 0)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(FORWARD, ("attention", count_attention)),
    **dict.fromkeys(BACKWARD, ("attention", count_attention_backward)),
}
