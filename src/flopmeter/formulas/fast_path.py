"""Whole layers in one operator, as evaluation runs them: multi-head attention and the transformer encoder layer.

They cost what the same layer costs on the slow path, where torch runs its parts one by one. Products with weights are
kind `matmul`, those of queries, keys and values `attention`, softmax and norms `normalization`, the rest `pointwise`.
A nested tensor comes as the list of its tensors: rows that are not there cost nothing.
Not here: nested tensors outside of these layers, and kernels that torch names but does not ship (`_triton_…`).
"""

from collections.abc import Callable
from typing import TypeAlias

from flopmeter.formulas.call import OpCall, TensorSpec, is_exactly, parse_sizes
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.rates import GELU, count_nothing

# N rows of all sequences together, D width, H heads, F inner width of the feed-forward part
# P pairs of all heads: H·Σ length² over the sequences, masked or not; R query rows of all heads: H·N

Lengths: TypeAlias = tuple[tuple[int, int], ...]
"""Lengths of sequences, each with how many there are of it one after the other."""

LAYER_NORM, STATISTICS = 8, 2
"""Operations of a layer norm with weight and bias per element and per row, as everywhere in fm-1."""


def count_attention_layer(call: OpCall) -> Cost:
    """Cost of multi-head self-attention with its projections, forward.

    Shapes: x (B, T, D) three times, w_qkv (3·D, D), w_out (D, D), both biases → (B, T, D), weights (B, T, T) if asked.
    Counts: matmul 8·N·D²; attention 4·P·D/H; pointwise 4·N·D for biases, P for a mask, and for the scale P, or N·D
        where weights are asked for; normalization 4·P − R; reduction P where they are averaged over the heads.
    Ignores: what a mask leaves out: the full square counts.
    Source: docs/spec/fm-1.md#fast_path.

    Raises:
        FormulaError: keys or values of another shape than the queries, or weights that do not fit.

    Example:
        >>> x, w, b = (2, 4, 8), (24, 8), (24,)
        >>> call = OpCall.of("aten::_native_multi_head_attention", x, x, x, 8, 2, w, b, (8, 8), (8,), None, False)
        >>> [(part.kind, part.flop) for part in count_attention_layer(call).parts]
        [('matmul', 4096), ('attention', 1024), ('pointwise', 320), ('normalization', 240)]
    """
    lengths, width = _sequences(call, 0)
    if any(_sequences(call, place) != (lengths, width) for place in (1, 2)):
        call.refuse("queries, keys and values have other shapes")
    _fit(call, (5, 6), width, 3 * width)
    _fit(call, (7, 8), width, width)
    wants_weights = call.arg(10, default=True) is True
    averages = wants_weights and call.arg(11, default=True) is True
    pairs, rows, per_head = _pairs(call, lengths, heads=4, width=width)
    size = _rows(lengths) * width
    return Cost.of(
        Part(kind="matmul", flop=8 * size * width),
        Part(kind="attention", flop=4 * pairs * per_head),
        Part(kind="pointwise", flop=4 * size + (size if wants_weights else pairs) + pairs * call.count_given(9)),
        Part(kind="normalization", flop=4 * pairs - rows),
        Part(kind="reduction", flop=pairs * averages),
    )


def count_encoder_layer(call: OpCall) -> Cost:
    """Cost of a transformer encoder layer, forward: attention, two residuals, two norms, the feed-forward part.

    Shapes: x (B, T, D), w_qkv (3·D, D), w_out (D, D), w_up (F, D), w_down (D, F), all biases, two norms → (B, T, D).
    Counts: matmul 8·N·D² + 4·N·D·F; attention 4·P·D/H; pointwise 5·N·D + N·F for biases, P for the scale, P for a
        mask, 2·N·D for residuals, 5·N·F with gelu; normalization 4·P − R, and 2·(8·N·D + 2·N) for both norms.
    Ignores: what a mask leaves out; that a GPU takes the other form of gelu than the layer was asked for.
    Source: docs/spec/fm-1.md#fast_path.

    Raises:
        FormulaError: weights that do not fit.

    Example:
        >>> x, d, f = (2, 4, 8), (8,), (16,)
        >>> call = OpCall.of("aten::_transformer_encoder_layer_fwd", x, 8, 2, (24, 8), (24,), (8, 8), d, True, False,
        ...                  1e-5, d, d, d, d, (16, 8), f, (8, 16), d)
        >>> [(part.kind, part.flop) for part in count_encoder_layer(call).parts]
        [('matmul', 8192), ('attention', 1024), ('pointwise', 1280), ('normalization', 1296)]
    """
    lengths, width = _sequences(call, 0)
    inner = call.tensor(15).size
    for weight, takes, gives in ((3, width, 3 * width), (5, width, width), (14, width, inner), (16, inner, width)):
        _fit(call, (weight, weight + 1), takes, gives)
    pairs, rows, per_head = _pairs(call, lengths, heads=2, width=width)
    total = _rows(lengths)
    size, hidden = total * width, total * inner
    has_gelu = call.arg(7) is True
    pointwise = 5 * size + hidden + pairs * (1 + call.count_given(18)) + 2 * size + GELU * hidden * has_gelu
    return Cost.of(
        Part(kind="matmul", flop=8 * size * width + 4 * size * inner),
        Part(kind="attention", flop=4 * pairs * per_head),
        Part(kind="pointwise", flop=pointwise),
        Part(kind="normalization", flop=4 * pairs - rows + 2 * (LAYER_NORM * size + STATISTICS * total)),
    )


def count_rescale(call: OpCall) -> int:
    """Cost of adding the bias to queries, keys and values, and scaling the queries.

    Shapes: projections (B, T, 3·D), bias (3·D,) → three of (B, H, T, D/H).
    Counts: 3·N·D adds, N·D multiplies.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#fast_path.

    Raises:
        FormulaError: a bias of another width.

    Example:
        >>> count_rescale(OpCall.of("aten::_transform_bias_rescale_qkv", (2, 4, 24), (24,), 2))
        256
    """
    size, width = call.tensor(0).size, call.tensor(0).shape[-1]
    if call.tensor(1).shape != (width,) or width % 3:
        call.refuse(f"bias {call.tensor(1).shape} does not fit projections {call.tensor(0).shape}")
    return size + size // 3


def _sequences(call: OpCall, place: int) -> tuple[Lengths, int]:
    """Return the lengths of the sequences and their width, of a batch or of a list of sequences."""
    value = call.arg(place)
    if isinstance(value, TensorSpec):
        (batch, length, width) = value.shape
        return ((length, batch),), width
    shapes = [sequence.shape for sequence in call.tensor_list(place)]
    widths = {shape[1:] for shape in shapes}
    if len(widths) != 1 or len(shapes[0]) != 2:
        call.refuse(f"sequences of shapes {shapes}")
    return tuple((shape[0], 1) for shape in shapes), shapes[0][1]


def _rows(lengths: Lengths) -> int:
    return sum(length * times for length, times in lengths)


def _pairs(call: OpCall, lengths: Lengths, *, heads: int, width: int) -> tuple[int, int, int]:
    """Return the pairs and the query rows of all heads, and the width of one."""
    (count,) = parse_sizes(call.arg(heads))
    if count < 1 or width % count or not is_exactly(call.arg(heads - 1), width):
        call.refuse(f"{count} heads do not divide width {width}")
    squares = sum(length * length * times for length, times in lengths)
    return count * squares, count * _rows(lengths), width // count


def _fit(call: OpCall, places: tuple[int, int], takes: int, gives: int) -> None:
    weight, bias = (call.tensor(place).shape for place in places)
    if weight != (gives, takes) or bias != (gives,):
        call.refuse(f"weight {weight} and bias {bias} do not take {takes} and give {gives}")


WHOLE = {
    "_native_multi_head_attention": ("matmul", count_attention_layer),
    "_transformer_encoder_layer_fwd": ("matmul", count_encoder_layer),
}
REPACKING = ("_nested_tensor_from_mask", "_nested_from_padded", "to_padded_tensor")
"""Making a nested tensor of a padded one, or the other way round."""

FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"aten::{name}": row for name, row in WHOLE.items()},
    **{f"nested::aten.{name}": row for name, row in WHOLE.items()},
    "aten::_transform_bias_rescale_qkv": ("pointwise", count_rescale),
    **dict.fromkeys([f"nested::aten.{name}" for name in REPACKING], ("other", count_nothing)),
}
