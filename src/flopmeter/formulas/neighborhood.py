"""Neighborhood attention (NATTEN): each query looks at a window around it, in one, two or three dimensions.

How many keys a query sees follows from the window alone, dimension by dimension; near an edge a window is moved, not
cut, unless it is causal.
Not here: what a pair costs (`pairs.py`), other attention (`attention`, `packed`, `flex`).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from flopmeter.formulas.call import Arg, OpCall, TensorSpec, parse_sizes
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.pairs import Work, count_pairs, is_scaled_by, price_backward, price_forward, product_precision
from flopmeter.formulas.rates import count_nothing

# B batch, H query heads, J key heads, D head width of Q and K, E head width of V; n tokens of a layout


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where a schema keeps its arguments after query, key and value."""

    window: int
    layout: int | None = None
    extra: int | None = None
    is_backward: bool = False
    folds_dilation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """Where an operator without a window keeps its arguments."""

    causal: int
    offsets: int
    is_backward: bool = False


WINDOWED = {
    f"natten::{maker}na{dims}d_{way}": places
    for dims in (1, 2, 3)
    for maker, way, places in (
        ("", "forward", _Places(window=3)),
        ("", "backward", _Places(window=6, is_backward=True)),
        ("hopper_", "forward", _Places(window=3, layout=10, folds_dilation=True)),
        ("hopper_", "backward", _Places(window=6, layout=13, folds_dilation=True, is_backward=True)),
        ("blackwell_", "forward", _Places(window=3, layout=10, folds_dilation=True)),
        ("blackwell_", "backward", _Places(window=6, layout=13, folds_dilation=True, is_backward=True)),
        ("reference_", "forward", _Places(window=3, layout=8, extra=9)),
        ("reference_", "backward", _Places(window=6, layout=11, extra=12, is_backward=True)),
    )
}
WHOLE = {
    "natten::fmha_forward": _Whole(causal=3, offsets=7),
    "natten::fmha_backward": _Whole(causal=6, offsets=12, is_backward=True),
    "natten::hopper_fmha_forward": _Whole(causal=3, offsets=8),
    "natten::hopper_fmha_backward": _Whole(causal=6, offsets=10, is_backward=True),
    "natten::blackwell_fmha_forward": _Whole(causal=3, offsets=8),
    "natten::blackwell_fmha_backward": _Whole(causal=6, offsets=10, is_backward=True),
}
MOVED = tuple(f"natten::token_{way}_{dims}d" for way in ("permute", "unpermute") for dims in (1, 2, 3))
"""Bringing tokens into the order of tiles, and back."""


def count_neighborhood(call: OpCall) -> Cost:
    """Cost of neighborhood attention, forward or backward.

    Shapes: q (B, …, H, D), k (B, …, J, D), v (B, …, J, E) with the layout between; or flat, with dilation in the batch
        and the layout beside it.
    Counts: as attention over B·H·Π P pairs, P for each dimension as `count_window`; keys that all queries see besides
        add their number for each query. Masked: the other pairs of the layout.
    Ignores: padding of tiles.
    Source: docs/spec/fm-1.md#neighborhood.

    Raises:
        FormulaError: the shapes or the window do not fit.

    Example:
        >>> q = (2, 8, 8, 4, 16)
        >>> call = OpCall.of("natten::na2d_forward", q, q, q, [3, 3], [1, 1], [1, 1], [False, False], 0.25, [8], [8])
        >>> count_neighborhood(call).parts[0].flop == 2 * 4 * 64 * 9 * 2 * 32
        True
    """
    places = WINDOWED[call.op]
    query, key, value = (call.tensor(place).shape for place in range(3))
    window = [_read_sizes(call, places.window + offset) for offset in range(3)]
    causal = _read_flags(call, places.window + 3)
    flat = places.layout is not None
    layout = _read_sizes(call, places.layout) if places.layout is not None else query[1:-2]
    if not len(layout) == len(causal) == len(window[0]) == len(window[1]) == len(window[2]):
        call.refuse(f"layout {layout}, window {window} and causal flags {causal}")
    if len(query) != len(key) or len(query) != (4 if flat else len(layout) + 3) or query[-1] != key[-1]:
        call.refuse(f"query {query} and key {key} with layout {layout}")
    if key[:-1] != value[:-1] or query[-2] % max(key[-2], 1):
        call.refuse(f"key {key} and value {value} for query {query}")
    batch = query[0] // math.prod(window[2]) if places.folds_dilation else query[0]
    tokens, extra = math.prod(layout), 0 if places.extra is None else _read_sizes(call, places.extra)[0]
    kept = math.prod(
        count_window(length=length, size=size, stride=stride, dilation=dilation, causal=flag)
        for length, size, stride, dilation, flag in zip(layout, *window, causal, strict=True)
    )
    heads = batch * query[-2]
    work = Work(
        pairs=heads * (kept + tokens * extra),
        skipped=heads * (tokens * tokens - kept),
        rows=heads * tokens,
        qk_width=query[-1],
        v_width=value[-1],
        shared=batch * (tokens + extra) * (query[-1] + value[-1]) * (query[-2] - key[-2]),
        is_scaled=is_scaled_by(call.arg(places.window + 4)),
        precision=product_precision(call, call.tensor(0), call.tensor(1), call.tensor(2)),
    )
    return price_backward(work) if places.is_backward else price_forward(work)


def count_whole(call: OpCall) -> Cost:
    """Cost of NATTEN's attention without a window, forward or backward.

    Shapes: q (B, S, H, D), k (B, T, J, D), v (B, T, J, E); packed, B is 1 and offsets say where sequences begin.
    Counts: as attention; causal pairs where S and T are equal.
    Ignores: what attention ignores.
    Source: docs/spec/fm-1.md#neighborhood.

    Raises:
        FormulaError: the shapes do not fit, offsets are not known, or causal with other lengths than equal ones.

    Example:
        >>> q = (1, 4, 2, 8)
        >>> call = OpCall.of("natten::fmha_forward", q, q, q, True, 0.35, 64, 64, None, None, 0, 0)
        >>> count_whole(call).flop
        732
    """
    places = WHOLE[call.op]
    query, key, value = (call.tensor(place).shape for place in range(3))
    if not len(query) == len(key) == len(value) == 4 or query[3] != key[3] or key[:3] != value[:3]:
        call.refuse(f"query {query}, key {key} and value {value} do not fit")
    if query[0] != key[0] or query[2] % max(key[2], 1):
        call.refuse(f"query {query} and key {key} do not fit")
    causal = call.arg(places.causal) is True
    lengths = Counter(_read_lengths(call, places.offsets)) or Counter({(query[1], key[1]): query[0]})
    found = [(*_count_sequence(call, *one, causal=causal), times) for one, times in lengths.items()]
    pairs = query[2] * sum(one * times for one, _, times in found)
    rows = query[2] * sum(row * times for _, row, times in found)
    work = Work(
        pairs=pairs,
        skipped=query[2] * sum(queries * keys * times for (queries, keys), times in lengths.items()) - pairs,
        rows=rows,
        qk_width=query[3],
        v_width=value[3],
        shared=sum(keys * times for (_, keys), times in lengths.items()) * (query[3] + value[3]) * (query[2] - key[2]),
        is_scaled=is_scaled_by(call.arg(places.causal + 1)),
        precision=product_precision(call, call.tensor(0), call.tensor(1), call.tensor(2)),
    )
    return price_backward(work) if places.is_backward else price_forward(work)


def count_window(*, length: int, size: int, stride: int, dilation: int, causal: bool) -> int:
    """Count the pairs of one dimension.

    Counts: `length·size`: a window at an edge is moved. A causal one ends at its query i and begins `size − 1` before
        the last query of its stride group, the first token at most: of those, what lies up to i. Dilation makes as many
        independent dimensions of every so-manieth token.
    Source: docs/spec/fm-1.md#neighborhood.

    Raises:
        ValueError: the window is wider than the dimension, or not positive.

    Example:
        >>> count_window(length=8, size=3, stride=1, dilation=1, causal=False)
        24
        >>> count_window(length=8, size=3, stride=1, dilation=1, causal=True)
        21
    """
    if min(size, stride, dilation) < 1 or size * dilation > length:
        msg = f"a window of {size} with stride {stride} and dilation {dilation} over {length}"
        raise ValueError(msg)
    if not causal:
        return length * size
    each, longer = divmod(length, dilation)
    return longer * _count_causal(each + 1, size, stride) + (dilation - longer) * _count_causal(each, size, stride)


def _count_causal(length: int, size: int, stride: int) -> int:
    """Sum over stride groups: first those that a window covers from the first token on, whole ones, what is left."""
    first = size // stride
    whole = (length // stride - first) * _count_last(stride, size)
    return first * stride * (first * stride + 1) // 2 + whole + _count_last(length % stride, size)


def _count_last(rows: int, size: int) -> int:
    """Sum `size`, `size − 1`, … over the queries of a group from its last one, down to 0."""
    seen = min(rows, size)
    return seen * size - seen * (seen - 1) // 2


def _count_sequence(call: OpCall, queries: int, keys: int, *, causal: bool) -> tuple[int, int]:
    if causal and queries != keys:
        call.refuse(f"causal with {queries} queries and {keys} keys")
    return count_pairs(queries=queries, keys=keys, right=0 if causal else None)


def _read_lengths(call: OpCall, place: int) -> list[tuple[int, int]] | None:
    offsets = [call.arg(place), call.arg(place + 1)]
    if offsets == [None, None]:
        return None
    known = [one.values for one in offsets if isinstance(one, TensorSpec) and one.values is not None]
    if len(known) != 2:
        call.refuse("packed sequences whose offsets are not known")
    query_ends, key_ends = ([end - begin for begin, end in pairwise(one)] for one in known)
    return list(zip(query_ends, key_ends, strict=True))


def _read_sizes(call: OpCall, place: int) -> tuple[int, ...]:
    return parse_sizes(call.arg(place))


def _read_flags(call: OpCall, place: int) -> Sequence[bool]:
    found: Arg = call.arg(place)
    if not isinstance(found, tuple) or not all(isinstance(one, bool) for one in found):
        call.refuse(f"argument {place} is {found}, not a causal flag for each dimension")
    return [one is True for one in found]


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **dict.fromkeys(WINDOWED, ("attention", count_neighborhood)),
    **dict.fromkeys(WHOLE, ("attention", count_whole)),
    **dict.fromkeys(MOVED, ("other", count_nothing)),
}
READS: dict[str, tuple[int, ...]] = {op: (places.offsets, places.offsets + 1) for op, places in WHOLE.items()}
