"""Attention with a block mask: `flex_attention`.

The block mask says which blocks of keys each block of queries looks at; that is what is counted. What the caller's
`score_mod` and `mask_mod` do inside a block is code that a formula does not see.
Not here: other attention (`attention.py`, `packed.py`), what a pair costs (`pairs.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flopmeter.formulas.call import Arg, OpCall, TensorSpec
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.pairs import Work, is_scaled_by, price_backward, price_forward, product_precision

# B batch, H query heads, J key heads, S query length, T key length, D head width of Q and K, E head width of V
# P pairs in the blocks that are looked at, F all pairs (B·H·S·T), R query rows in such blocks

NO_MASK = 1 << 30
"""The block size by which torch says that there is no mask: one block for all."""
_FORWARD_MASK, _BACKWARD_MASK = 4, 9
_PARTIAL, _FULL = (2, 3), (4, 5)
"""Where a block mask keeps, for the blocks to compare and for those to take whole, how many there are and which."""


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The blocks of keys that each block of queries looks at: how many of one kind, and which where that is known."""

    counts: tuple[int, ...]
    indices: tuple[int, ...] | None
    room: int


def count_flex(call: OpCall) -> Cost:
    """Cost of `flex_attention`, forward.

    Shapes: q (B, H, S, D), k (B, J, T, D), v (B, J, T, E) → (B, H, S, E); J divides H; keys may have a batch of 1.
    Counts: as `count_attention`, where P are the pairs in the blocks that the mask names, those that are compared and
        those that are taken whole, each cut to S and T; F − P are masked. Without a mask P = F.
    Ignores: what `count_attention` ignores; the arithmetic of `score_mod` and of `mask_mod`, which no shape tells;
        that `mask_mod` drops pairs inside a block.
    Source: docs/spec/fm-1.md#flex; the block mask is `BlockMask.as_tuple` of torch 2.9 to 2.15. Products and masked
        products together agree with torch `flex_attention_forward_flop`.

    Raises:
        FormulaError: a block mask whose values are not known, or that does not fit the shapes.

    Example:
        >>> number = TensorSpec((1, 1, 2), "int32", values=(1, 2))
        >>> which = TensorSpec((1, 1, 2, 2), "int32", values=(0, 1, 0, 1))
        >>> q, mask = (1, 2, 4, 8), [4, 4, number, which, None, None, *[None] * 4, 2, 2, None]
        >>> call = OpCall.of("higher_order::flex_attention", q, q, q, None, mask, 0.5)
        >>> [(part.kind, part.flop, part.masked_flop) for part in count_flex(call).parts]
        [('attention', 768, 256), ('pointwise', 24, 0), ('normalization', 88, 0)]
    """
    return price_forward(_read(call, _FORWARD_MASK))


def count_flex_backward(call: OpCall) -> Cost:
    """Cost of `flex_attention_backward`.

    Shapes: those of the forward.
    Counts: as `count_attention_backward` over the pairs of `count_flex`; reduction T·(D + E)·(B·H − numel(k)/(T·D)) to
        add up what shares a key head, or a batch of keys.
    Ignores: what `count_flex` ignores; the gradients of `score_mod` and of what it captured, that of the log-sum-exp.
    Source: docs/spec/fm-1.md#flex; products of both phases, masked ones included, agree with torch
        `flex_attention_backward_flop`.

    Raises:
        FormulaError: a block mask whose values are not known, or that does not fit the shapes.

    Example:
        >>> q, one, lse = (1, 2, 4, 8), TensorSpec((1, 1, 1), "int32"), (1, 2, 4)
        >>> mask = [1, 1, one, one, *[None] * 6, 1 << 30, 1 << 30, None]
        >>> call = OpCall.of("higher_order::flex_attention_backward", q, q, q, q, lse, q, None, None, None, mask, 0.5)
        >>> count_flex_backward(call).parts[0].flop
        2048
    """
    return price_backward(_read(call, _BACKWARD_MASK))


def _read(call: OpCall, mask_at: int) -> Work:
    operands = [call.tensor(place) for place in range(3)]
    query, key, value = (spec.shape for spec in operands)
    if not len(query) == len(key) == len(value) == 4:
        call.refuse(f"query, key and value have {len(query)}, {len(key)} and {len(value)} dimensions, not 4")
    batch, heads, queries, width = query
    key_batch, key_heads, keys, _ = key
    if key[3] != width or key[:3] != value[:3] or key_batch not in {1, batch} or heads % max(key_heads, 1):
        call.refuse(f"query {query}, key {key} and value {value} do not fit")
    pairs, rows = _count_blocks(call, call.arg(mask_at), query, keys)
    return Work(
        pairs=pairs,
        skipped=batch * heads * queries * keys - pairs,
        rows=rows,
        qk_width=width,
        v_width=value[3],
        shared=keys * (width + value[3]) * (batch * heads - key_batch * key_heads),
        is_scaled=is_scaled_by(call.arg(mask_at + 1)),
        precision=product_precision(call, *operands),
    )


def _count_blocks(call: OpCall, mask: Arg, query: Sequence[int], keys: int) -> tuple[int, int]:
    """Count the pairs in the blocks that a mask names, and the query rows in them, over all batches and heads."""
    batch, heads, queries, _ = query
    if not isinstance(mask, tuple) or len(mask) < 9:
        call.refuse(f"{mask} is no block mask")
    numbers, block_q, block_k = mask[_PARTIAL[0]], mask[-3], mask[-2]
    if not isinstance(numbers, TensorSpec) or not isinstance(block_q, int) or not isinstance(block_k, int):
        call.refuse(f"blocks {numbers} of {block_q} queries and {block_k} keys")
    if block_q == block_k == NO_MASK and numbers.values is None:
        return batch * heads * queries * keys, batch * heads * queries * bool(keys)
    *outer, in_row = (1, 1, *numbers.shape)[-3:]
    if batch % max(outer[0], 1) or heads % max(outer[1], 1) or min(block_q, block_k) < 1 or in_row * block_q < queries:
        call.refuse(f"blocks {numbers} of {block_q} queries and {block_k} keys for {query} and {keys} keys")
    kinds = [blocks for place in (_PARTIAL, _FULL) if (blocks := _blocks(call, mask, place, numbers.size)) is not None]
    pairs = rows = 0
    for row in range(numbers.size):
        height = max(0, min(block_q, queries - row % in_row * block_q))
        width = _width(call, kinds, row, block_k, keys)
        pairs += height * width
        rows += height * bool(width)
    times = batch * heads // max(1, outer[0] * outer[1])
    return pairs * times, rows * times


def _blocks(call: OpCall, mask: Sequence[Arg], place: tuple[int, int], rows: int) -> _Blocks | None:
    numbers, indices = (mask[index] for index in place)
    if numbers is None:
        return None
    if not isinstance(numbers, TensorSpec) or numbers.values is None or not isinstance(indices, TensorSpec):
        call.refuse("the values of a block mask are not known")
    room = indices.shape[-1] if indices.shape else 0
    if numbers.size != rows or indices.size != rows * room or not all(0 <= count <= room for count in numbers.values):
        call.refuse(f"{numbers.shape} numbers of blocks among {indices.shape}")
    return _Blocks(numbers.values, indices.values, room)


def _width(call: OpCall, kinds: Sequence[_Blocks], row: int, block: int, keys: int) -> int:
    """Return how many keys a row of blocks looks at."""
    there_are = -(-keys // block)
    count = sum(blocks.counts[row] for blocks in kinds)
    if count >= there_are:
        return keys if count == there_are else call.refuse(f"{count} blocks of {block} among {keys} keys")
    found = [_width_of(blocks, row, block, keys) for blocks in kinds]
    if None in found:
        call.refuse("which blocks are looked at is not known, and the last one is not a whole one")
    return sum(width or 0 for width in found)


def _width_of(blocks: _Blocks, row: int, block: int, keys: int) -> int | None:
    """Return how many keys the blocks of one kind have together, None where that depends on which they are."""
    count = blocks.counts[row]
    if blocks.indices is None:
        return count * block if keys % block == 0 or not count else None
    places = blocks.indices[row * blocks.room : row * blocks.room + count]
    return sum(max(0, min(block, keys - place * block)) for place in places)


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "higher_order::flex_attention": ("attention", count_flex),
    "higher_order::flex_attention_backward": ("attention", count_flex_backward),
}
READS: dict[str, tuple[tuple[int, int], ...]] = {
    op: tuple((mask, place) for place in (*_PARTIAL, *_FULL))
    for op, mask in zip(FORMULAS, (_FORWARD_MASK, _BACKWARD_MASK), strict=True)
}
