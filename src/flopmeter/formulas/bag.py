"""Bags of embeddings: rows of a table that are looked up and added up at once, forward and backward.

Looking rows up is copying and costs nothing; every row that is brought in costs one add per element, as everywhere in
`embedding`. A bag by maximum compares.
Not here: embeddings without bags (`embedding`).
"""

from collections.abc import Callable

from flopmeter.formulas.call import Arg, OpCall, is_exactly
from flopmeter.formulas.cost import Cost, Part

# N indices, B bags, D elements per row, V rows of the table

SUM, MEAN, MAX = 0, 1, 2


def count_bags(call: OpCall) -> Cost:
    """Cost of adding up the rows of each bag.

    Shapes: table (V, D), N indices, offsets, a weight for each index optional → (B, D).
    Counts: N·D adds (scatter); pointwise N·D for weights, B·D divisions for means; 0 for maxima.
    Ignores: rows of the padding index, which only values would tell, and that the first add adds to zero.
    Source: docs/spec/fm-1.md#bag.

    Raises:
        FormulaError: a mode that is not known.

    Example:
        >>> count_bags(OpCall.of("aten::_embedding_bag", (10, 4), (6,), (2,), False, 1, out=[(2, 4)])).flop
        32
    """
    mode = _mode(call, call.arg(4, SUM))
    if mode == MAX:
        return Cost.of(Part(kind="scatter"))
    brought = call.tensor(1).size * call.tensor(0).shape[1]
    weights = brought if call.arg(6) is not None else 0
    means = call.out[0].size if mode == MEAN else 0
    return Cost.of(Part(kind="scatter", flop=brought), Part(kind="pointwise", flop=weights + means))


def count_bags_backward(call: OpCall) -> Cost:
    """Cost of the gradient of a table whose rows were added up in bags.

    Shapes: dy (B, D), N indices, where they belong → (V, D), or the rows alone where the gradient is sparse.
    Counts: B·D divisions for means, N·D for weights, N·D where the gradient is scaled by frequency (pointwise); N·D
        adds (scatter), B·D for maxima, none where the gradient is sparse.
    Ignores: rows of the padding index, and that the first add into a row adds to zero.
    Source: docs/spec/fm-1.md#bag.

    Raises:
        FormulaError: a mode that is not known.

    Example:
        >>> call = OpCall.of("aten::_embedding_bag_dense_backward", (2, 4), (6,), (6,), (2,), (2, 4), 10, False, 1)
        >>> count_bags_backward(call).flop
        32
    """
    dense = call.op == "aten::_embedding_bag_dense_backward"
    by_frequency, how, weights = (6, 7, 8) if dense else (7, 8, 10)
    mode = _mode(call, call.arg(how))
    gradient, brought = call.tensor(0).size, call.tensor(1).size * call.tensor(0).shape[1]
    steps = gradient if mode == MEAN else 0
    steps += brought * ((call.arg(weights) is not None) + (call.arg(by_frequency) is True))
    adds = gradient if mode == MAX else brought
    if not dense and call.arg(9) is True:
        adds = 0
    return Cost.of(Part(kind="scatter", flop=adds), Part(kind="pointwise", flop=steps))


def count_bag_weights_backward(call: OpCall) -> Cost:
    """Cost of the gradient of the weights of indices: an inner product of two rows for each.

    Shapes: dy (B, D), table (V, D), N indices → (N,).
    Counts: N·D products (pointwise), N·(D − 1) adds (reduction).
    Ignores: rows of the padding index.
    Source: docs/spec/fm-1.md#bag.

    Example:
        >>> op = "aten::_embedding_bag_per_sample_weights_backward"
        >>> count_bag_weights_backward(OpCall.of(op, (2, 4), (10, 4), (6,), (2,), (6,), 0)).flop
        42
    """
    indices, width = call.tensor(2).size, call.tensor(0).shape[1]
    return Cost.of(
        Part(kind="pointwise", flop=indices * width), Part(kind="reduction", flop=indices * max(width - 1, 0))
    )


def count_rows_bounded(call: OpCall) -> Cost:
    """Cost of scaling down the looked-up rows of a table that are longer than allowed.

    Shapes: table (V, D), N indices → the table.
    Counts: for each of min(N, V) rows its norm (order 2: 2·D; 1: 2·D − 1; 0: D − 1; ∞: D; another: 3·D), then 2 for
        the factor and D to scale (pointwise).
    Ignores: how many different rows there are and which are too long, which only values would tell.
    Source: docs/spec/fm-1.md#bag.

    Example:
        >>> count_rows_bounded(OpCall.of("aten::embedding_renorm_", (10, 4), (6,), 1.0, 2.0)).flop
        84
    """
    rows, width = call.tensor(0).shape
    touched = min(call.tensor(1).size, rows) if width else 0
    return Cost.of(
        Part(kind="reduction", flop=touched * _norm(width, call.arg(3))),
        Part(kind="pointwise", flop=touched * (2 + width)),
    )


def _norm(width: int, order: Arg) -> int:
    if is_exactly(order, 2):
        return 2 * width
    if is_exactly(order, 1):
        return 2 * width - 1
    if is_exactly(order, 0):
        return width - 1
    return width if order in {"inf", "-inf"} else 3 * width


def _mode(call: OpCall, mode: Arg) -> int:
    if isinstance(mode, int) and mode in {SUM, MEAN, MAX}:
        return mode
    return call.refuse(f"mode {mode} is not known")


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "aten::_embedding_bag": ("scatter", count_bags),
    "aten::_embedding_bag_forward_only": ("scatter", count_bags),
    "aten::_embedding_bag_backward": ("scatter", count_bags_backward),
    "aten::_embedding_bag_dense_backward": ("scatter", count_bags_backward),
    "aten::_embedding_bag_per_sample_weights_backward": ("pointwise", count_bag_weights_backward),
    "aten::embedding_renorm": ("reduction", count_rows_bounded),
}
