"""Regions of interest and deformable convolution: what torchvision's own operators cost.

A value between pixels is four products and three adds for each channel, its coordinates and weights once for all
channels. Pooling by maximum compares, and the coordinates of its regions are addresses.
Not here: sampling grids (`sampling`), and what torchvision writes out in torch's own operators.
"""

from collections.abc import Callable

from flopmeter.formulas.call import OpCall, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# K regions, C channels, P·Q bins, S samples along a bin; N images, O channels out, T offset groups, W taps, Y places

BETWEEN = 7
"""One value between four pixels: four products, three adds."""
WEIGHTS = 10
"""The weights of one place: its distance to a pixel in both dimensions, 1 less these, four products; two adds for
where an offset puts it."""


def count_roi_align(call: OpCall) -> Cost:
    """Cost of averaging samples inside the bins of regions.

    Shapes: x (N, C, H, W), regions (K, 5) → (K, C, P, Q), with S·S samples in a bin.
    Counts: 14·K for corners, sizes and bins; for each of P rows (Q columns) of bins 2·K, for each of their samples 3·K
        and for its place along a bin S and S·K; four products for the weights of each sample; 7 for its value in each
        channel (pointwise); the mean over the samples of each bin (reduction).
    Ignores: bounds and index arithmetic.
    Source: docs/spec/fm-1.md#region; `_roi_align` in torchvision, which writes it out.

    Raises:
        FormulaError: the number of samples follows from the size of each region, which only values would tell.

    Example:
        >>> call = OpCall.of("torchvision::roi_align", (1, 2, 8, 8), (3, 5), 0.5, 2, 2, 2, True, out=[(3, 2, 2, 2)])
        >>> count_roi_align(call).flop
        1114
    """
    places, samples = _align(call, at=3)
    size = call.out[0].size
    return Cost.of(
        Part(kind="pointwise", flop=places + BETWEEN * samples * size), Part(kind="reduction", flop=samples * size)
    )


def count_roi_align_backward(call: OpCall) -> Cost:
    """Cost of the gradient of averaging samples inside the bins of regions.

    Shapes: dy (K, C, P, Q) with n elements, regions (K, 5) → (N, C, H, W).
    Counts: coordinates and weights as the forward; n divisions, 4·S·S·n products, 4·S·S·n adds (scatter).
    Ignores: bounds and index arithmetic.
    Source: docs/spec/fm-1.md#region.

    Raises:
        FormulaError: the number of samples follows from the size of each region.

    Example:
        >>> call = OpCall.of("torchvision::_roi_align_backward", (3, 2, 2, 2), (3, 5), 0.5, 2, 2, 1, 2, 8, 8, 2, True)
        >>> count_roi_align_backward(call).flop
        1138
    """
    position_sensitive = "ps_roi" in call.op
    places, samples = _align(call, at=4 if position_sensitive else 3, ratio=6 if position_sensitive else 9)
    size = call.tensor(0).size
    return Cost.of(
        Part(kind="pointwise", flop=places + size + 4 * samples * size), Part(kind="scatter", flop=4 * samples * size)
    )


def count_roi_pool(call: OpCall) -> int:  # noqa: ARG001  # every formula takes the call
    """Cost of the maximum in each bin of regions.

    Shapes: x (N, C, H, W), regions (K, 5) → (K, C, P, Q).
    Counts: nothing: it compares.
    Ignores: the coordinates of the bins, which are addresses.
    Source: docs/spec/fm-1.md#region.

    Example:
        >>> count_roi_pool(OpCall.of("torchvision::roi_pool", (1, 2, 8, 8), (3, 5), 0.5, 2, 2))
        0
    """
    return 0


def count_roi_pool_backward(call: OpCall) -> int:
    """Cost of the gradient of the maximum in each bin of regions.

    Shapes: dy (K, C, P, Q) → (N, C, H, W).
    Counts: one add for each element of dy.
    Ignores: that the first add into a place adds to zero.
    Source: docs/spec/fm-1.md#region.

    Example:
        >>> count_roi_pool_backward(OpCall.of("torchvision::_roi_pool_backward", (3, 2, 2, 2), (3, 5)))
        24
    """
    return call.tensor(0).size


def count_suppression(call: OpCall) -> int:
    """Cost of leaving out boxes that overlap better ones.

    Shapes: n boxes (n, 4), scores (n,) → the boxes that stay.
    Counts: 3·n for areas; 6 for each of n·(n − 1)/2 pairs: two sides, their product, the union 2, the ratio.
    Ignores: sorting and compares, and pairs that are not looked at because one was left out before.
    Source: docs/spec/fm-1.md#region.

    Example:
        >>> count_suppression(OpCall.of("torchvision::nms", (4, 4), (4,), 0.5))
        48
    """
    boxes = call.tensor(0).shape[0]
    return 3 * boxes + 3 * boxes * (boxes - 1)


def count_deformable(call: OpCall) -> Cost:
    """Cost of a convolution that reads each tap where an offset puts it.

    Shapes: x (N, C, H, W), w (O, C/G, …W), offsets (N, 2·T·W, …Y), mask (N, T·W, …Y), bias (O,) → (N, O, …Y).
    Counts: 2·N·O·(C/G)·W·Y products; pointwise 10·N·T·W·Y for places and weights, 7·N·C·W·Y for values between
        pixels, N·C·W·Y for a mask, N·O·Y for the bias.
    Ignores: bounds.
    Source: docs/spec/fm-1.md#region.

    Raises:
        FormulaError: sizes that do not fit.

    Example:
        >>> call = OpCall.of("torchvision::deform_conv2d", (1, 2, 4, 4), (3, 2, 2, 2), (1, 8, 3, 3), (1, 4, 3, 3),
        ...                  (3,), 1, 1, 0, 0, 1, 1, 1, 1, True, out=[(1, 3, 3, 3)])
        >>> count_deformable(call).flop
        1395
    """
    products, places, columns = _deformed(call, at=0)
    has_mask = call.arg(13) is True
    return Cost.of(
        Part(kind="convolution", flop=products),
        Part(kind="pointwise", flop=WEIGHTS * places + (BETWEEN + has_mask) * columns + call.out[0].size),
    )


def count_deformable_backward(call: OpCall) -> Cost:
    """Cost of the gradients of a deformable convolution, all of which its kernel computes.

    Shapes: dy (N, O, …Y), then the arguments of the forward → dx, dw, doffsets, dmask, dbias.
    Counts: products of the forward for the gradient of the read values and again for dw; pointwise, with c = N·C·W·Y
        read values: places and values again as the forward, 4·c products for dx, 14·c for the offsets (5 for a slope,
        1 to multiply, 1 to add up, in two dimensions), with a mask 3·c; 4·c adds for dx (scatter); N·O·Y − O adds for
        dbias (reduction).
    Ignores: bounds.
    Source: docs/spec/fm-1.md#region.

    Raises:
        FormulaError: sizes that do not fit.

    Example:
        >>> call = OpCall.of("torchvision::_deform_conv2d_backward", (1, 3, 3, 3), (1, 2, 4, 4), (3, 2, 2, 2),
        ...                  (1, 8, 3, 3), (1, 4, 3, 3), (3,), 1, 1, 0, 0, 1, 1, 1, 1, True)
        >>> count_deformable_backward(call).flop
        3624
    """
    products, places, columns = _deformed(call, at=1)
    has_mask = call.arg(14) is True
    gradient = call.tensor(0)
    again = WEIGHTS * places + (BETWEEN + has_mask) * columns
    return Cost.of(
        Part(kind="convolution", flop=2 * products),
        Part(kind="pointwise", flop=again + (4 + 14 + 3 * has_mask) * columns),
        Part(kind="scatter", flop=4 * columns),
        Part(kind="reduction", flop=max(gradient.size - gradient.shape[1], 0)),
    )


def _align(call: OpCall, *, at: int, ratio: int = 5) -> tuple[int, int]:
    """Return the operations for coordinates and weights, and the samples in a bin."""
    regions = call.tensor(1).shape[0]
    rows, columns, samples = parse_sizes((call.arg(at), call.arg(at + 1), call.arg(ratio)))
    if samples <= 0:
        call.refuse("the samples in a bin follow from the size of each region")
    lines = rows + columns
    places = 14 * regions + 2 * samples + 2 * regions * samples + 2 * regions * lines + 3 * regions * lines * samples
    return places + 4 * regions * rows * columns * samples**2, samples**2


def _deformed(call: OpCall, *, at: int) -> tuple[int, int, int]:
    """Return the products of the convolution, the places that are read, and the values read there in all channels."""
    data, weight, offset = (call.tensor(at + index).shape for index in range(3))
    groups, offset_groups = parse_sizes((call.arg(at + 11), call.arg(at + 12)))
    taps = weight[2] * weight[3]
    if data[1] != weight[1] * groups or offset[0] != data[0] or offset[1] != 2 * offset_groups * taps:
        call.refuse(f"x {data}, weight {weight} and offsets {offset} do not fit")
    positions = data[0] * offset[2] * offset[3]
    return 2 * positions * weight[0] * weight[1] * taps, positions * offset_groups * taps, positions * data[1] * taps


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    "torchvision::roi_align": ("pointwise", count_roi_align),
    "torchvision::ps_roi_align": ("pointwise", count_roi_align),
    "torchvision::_roi_align_backward": ("pointwise", count_roi_align_backward),
    "torchvision::_ps_roi_align_backward": ("pointwise", count_roi_align_backward),
    "torchvision::roi_pool": ("other", count_roi_pool),
    "torchvision::_roi_pool_backward": ("scatter", count_roi_pool_backward),
    "torchvision::nms": ("pointwise", count_suppression),
    "torchvision::deform_conv2d": ("convolution", count_deformable),
    "torchvision::_deform_conv2d_backward": ("convolution", count_deformable_backward),
}
