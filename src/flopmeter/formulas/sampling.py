"""Reading images between their pixels: interpolation to another size, sampling grids, and padding's gradients.

What is computed once for a place (its coordinates, its weights) is counted once for a place; the weighted sums are
counted for every channel. Nearest neighbours are copies (`movement`); their gradients are adds.
Not here: regions of interest and deformable convolution (`region`).
"""

import math
from collections.abc import Callable
from fractions import Fraction

from flopmeter.formulas.call import OpCall, TensorSpec, parse_sizes
from flopmeter.formulas.cost import Cost, Part

# n elements of the output (backward: of dy), d dimensions, Y places along one of them, g points of a grid

BILINEAR, NEAREST, BICUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2

FILTERS = {"bilinear": (2, 2), "bicubic": (4, 12), "lanczos": (6, 4)}
"""Antialiasing filters: their width in pixels, and operations for one weight: 1 − |x|; |x| and both branches of the
cubic, 5 and 6; sinc(x)·sinc(x/3)."""

CUBIC = 25
"""Operations for the four weights of a cubic at t: t + 1, 1 − t, 2 − t, its near branch twice, 5, its far one twice,
6."""
CUBIC_SLOPES = 18
"""Operations for the slopes of these weights: −1 − t, −t, 1 − t, 2 − t, then 4, 3, 3 and 4."""
REFLECTED = 8
"""Operations to reflect a coordinate: subtract, absolute value, remainder 3, divide, add, subtract."""


def count_interpolation(call: OpCall) -> int:
    """Cost of linear or cubic interpolation to another size.

    Shapes: x (N, C, …X), sizes …Y → (N, C, …Y), n elements, d dimensions.
    Counts: for each place along each dimension 4 with free corners, 2 with aligned ones (its coordinate, its distance
        to a pixel), and 25 for the weights of a cubic; linear 3·n·(2ᵈ − 1), one lerp after the other; cubic 35·n, four
        sums of four products and one more.
    Ignores: index arithmetic and bounds.
    Source: docs/spec/fm-1.md#sampling; the decompositions in torch.

    Example:
        >>> count_interpolation(OpCall.of("aten::upsample_linear1d", (1, 2, 3), [6], False, out=[(1, 2, 6)]))
        60
    """
    result = call.out[0]
    return _places(call, result) + _interpolated(call, result)


def count_interpolation_backward(call: OpCall) -> Cost:
    """Cost of the gradient of linear or cubic interpolation.

    Shapes: dy (N, C, …Y) with n elements, d dimensions → (N, C, …X).
    Counts: coordinates and weights as the forward; linear 2·n·(2ᵈ − 1), a product and a subtraction for each lerp, and
        2ᵈ·n adds (scatter); cubic 20·n, four products and four for each of them, and 16·n adds (scatter).
    Ignores: index arithmetic and bounds.
    Source: docs/spec/fm-1.md#sampling.

    Example:
        >>> call = OpCall.of("aten::upsample_linear1d_backward", (1, 2, 6), [6], [1, 2, 3], False)
        >>> count_interpolation_backward(call).flop
        72
    """
    gradient = call.tensor(0)
    corners = 1 << (len(gradient.shape) - 2)
    products, adds = (20, 16) if "bicubic" in call.op else (2 * (corners - 1), corners)
    return Cost.of(
        Part(kind="pointwise", flop=_places(call, gradient) + products * gradient.size),
        Part(kind="scatter", flop=adds * gradient.size),
    )


def count_antialiased(call: OpCall) -> Cost:
    """Cost of interpolation with an antialiasing filter, forward or backward.

    Shapes: x (N, C, H, W) → (N, C, Y, Z), along the width first; backward dy (N, C, Y, Z) → (N, C, H, W).
    Counts: T taps of all places along a dimension, by the ratio of the sizes: Y + (5 + f)·T for weights of f
        operations each; 2·N·C·(H·T of the width + Z·T of the height) for the weighted sums, whose adds are scatter in
        the backward.
    Ignores: a scale factor that is not the ratio of the sizes, index arithmetic.
    Source: docs/spec/fm-1.md#sampling.

    Example:
        >>> call = OpCall.of("aten::_upsample_bilinear2d_aa", (1, 1, 4, 4), [2, 2], False, out=[(1, 1, 2, 2)])
        >>> count_antialiased(call).flop
        160
    """
    is_backward = call.op.endswith("_backward")
    small = call.tensor(0).shape if is_backward else call.out[0].shape
    data = parse_sizes(call.arg(2)) if is_backward else call.tensor(0).shape
    if len(data) != 4 or len(small) != 4 or data[:2] != small[:2]:
        call.refuse(f"images of {list(data)} and {list(small)} do not fit")
    width, per_weight = next(value for name, value in FILTERS.items() if name in call.op)
    aligned = call.arg(3 if is_backward else 2) is True
    taps = [_taps(inputs, outputs, width, aligned=aligned) for inputs, outputs in zip(data[2:], small[2:], strict=True)]
    weights = sum(small[2:]) + (5 + per_weight) * sum(taps) if math.prod(small) else 0
    terms = data[0] * data[1] * (data[2] * taps[1] + small[3] * taps[0])
    if is_backward:
        return Cost.of(Part(kind="pointwise", flop=weights + terms), Part(kind="scatter", flop=terms))
    return Cost.of(Part(kind="pointwise", flop=weights + 2 * terms))


def count_grid_sample(call: OpCall) -> int:
    """Cost of reading an image at the points of a grid.

    Shapes: x (N, C, …X), grid (N, …Y, d) of g points in d dimensions → (N, C, …Y) with n elements.
    Counts: for each coordinate 2 to scale it and 8 where points outside are reflected; linear in two dimensions
        14·g + 7·n, in three 43·g + 15·n; nearest no more; cubic, with each of its 32 coordinates reflected on its own,
        (2 + 16 + 5·25)·g + 35·n.
    Ignores: bounds, and masks of points outside, which torch's decomposition multiplies with.
    Source: docs/spec/fm-1.md#sampling; the decomposition in torch, each coordinate once for all channels.

    Raises:
        FormulaError: a mode that is not known, or shapes that do not fit.

    Example:
        >>> call = OpCall.of("aten::grid_sampler_2d", (1, 3, 4, 4), (1, 2, 2, 2), 0, 0, False, out=[(1, 3, 2, 2)])
        >>> count_grid_sample(call)
        156
    """
    points, size = _grid(call, call.tensor(0), call.tensor(1))
    data = call.tensor(0)
    return _points(call, points, data, cubics=5) + _sampled(call, len(data.shape) - 2) * size


def count_grid_sample_backward(call: OpCall) -> Cost:
    """Cost of the gradients of reading an image at the points of a grid.

    Shapes: dy (N, C, …Y) with n elements, x, grid of g points in d dimensions → dx, dgrid as the output mask asks.
    Counts: coordinates and weights as the forward; for dx a product for each pixel that was read and the adds
        (scatter), two products in a cubic, whose weights are made once: 2·25·g; for dgrid 24·n in two dimensions, 96·n
        in three, 128·n in a cubic and 2·18·g for its slopes, and d·g for the scale. Nearest: n adds for dx, nothing
        for dgrid.
    Ignores: bounds.
    Source: docs/spec/fm-1.md#sampling.

    Raises:
        FormulaError: a mode that is not known, or shapes that do not fit.

    Example:
        >>> call = OpCall.of("aten::grid_sampler_2d_backward", (1, 3, 2, 2), (1, 3, 4, 4), (1, 2, 2, 2), 0, 0, False,
        ...                  [True, True])
        >>> count_grid_sample_backward(call).flop
        464
    """
    cudnn = call.op == "aten::cudnn_grid_sampler_backward"
    data, grid = (call.tensor(0), call.tensor(1)) if cudnn else (call.tensor(1), call.tensor(2))
    points, size = _grid(call, data, grid)
    mask = call.arg(6, (True, True))
    if not isinstance(mask, tuple) or len(mask) != 2:
        call.refuse(f"the output mask is {mask}, not two flags")
    dimensions, mode = len(data.shape) - 2, _mode(call)
    corners = 1 << dimensions
    # For each element of dy: products and adds for dx, all steps for dgrid; for each point: slopes and scale.
    products, adds, steps, slopes = {
        BILINEAR: (corners, corners, dimensions * (dimensions + 1) * corners, dimensions),
        NEAREST: (0, 1, 0, 0),
        BICUBIC: (32, 16, 128, 2 * CUBIC_SLOPES + 2),
    }[mode]
    flop = _points(call, points, data, cubics=2)
    flop += products * size if mask[0] is True else 0
    flop += steps * size + slopes * points if mask[1] is True else 0
    return Cost.of(Part(kind="pointwise", flop=flop), Part(kind="scatter", flop=adds * size if mask[0] is True else 0))


def count_affine_grid(call: OpCall) -> int:
    """Cost of a grid of points under an affine map.

    Shapes: theta (N, d, d + 1), a size with g points in all → (N, …Y, d).
    Counts: g·d·(2·d + 1): d + 1 products and d adds for each coordinate.
    Ignores: the regular grid, which is filled in (torch's decomposition puts it together with adds).
    Source: docs/spec/fm-1.md#sampling; the decomposition in torch.

    Example:
        >>> count_affine_grid(OpCall.of("aten::affine_grid_generator", (1, 2, 3), [1, 3, 4, 5], True))
        200
    """
    dimensions, points = _affine(call)
    return points * dimensions * (2 * dimensions + 1)


def count_affine_grid_backward(call: OpCall) -> Cost:
    """Cost of the gradient of an affine map from that of its grid.

    Shapes: dgrid (N, …Y, d) of g points → (N, d, d + 1).
    Counts: g·d·(d + 1) products (pointwise), and the adds of a sum over the points of each image (reduction).
    Ignores: the regular grid, which is filled in.
    Source: docs/spec/fm-1.md#sampling.

    Example:
        >>> call = OpCall.of("aten::cudnn_affine_grid_generator_backward", (1, 4, 5, 2), 1, 3, 4, 5)
        >>> count_affine_grid_backward(call).flop
        234
    """
    shape = call.tensor(0).shape
    dimensions, points = shape[-1], math.prod(shape[:-1])
    entries = dimensions * (dimensions + 1)
    return Cost.of(
        Part(kind="pointwise", flop=points * entries),
        Part(kind="reduction", flop=max(points - shape[0], 0) * entries),
    )


def count_brought_in(call: OpCall) -> int:
    """Cost of operators that add every element of their first argument into a tensor of zeros.

    Shapes: dy with n elements, or columns that overlap, and arguments that say where its elements go.
    Counts: n adds.
    Ignores: that the first add into a place adds to zero; torch's decomposition of reflected padding adds zeros too.
    Source: docs/spec/fm-1.md#sampling.

    Example:
        >>> count_brought_in(OpCall.of("aten::reflection_pad1d_backward", (2, 3, 9), (2, 3, 5), [2, 2]))
        54
    """
    return call.tensor(0).size


def _places(call: OpCall, result: TensorSpec) -> int:
    """Coordinates of every place along every dimension, and the weights of a cubic."""
    aligned = call.arg(3 if call.op.endswith("_backward") else 2) is True
    rate = (2 if aligned else 4) + (CUBIC if "bicubic" in call.op else 0)
    return rate * sum(result.shape[2:]) if result.size else 0


def _interpolated(call: OpCall, result: TensorSpec) -> int:
    rate = 35 if "bicubic" in call.op else 3 * ((1 << (len(result.shape) - 2)) - 1)
    return rate * result.size


def _taps(inputs: int, outputs: int, width: int, *, aligned: bool) -> int:
    """Pixels that all places along a dimension look at, cut at the edges."""
    if not inputs or not outputs:
        return 0
    ratio = Fraction(inputs, outputs)
    if aligned:
        ratio = Fraction(inputs - 1, outputs - 1) if outputs > 1 else Fraction(0)
    reach = max(ratio, Fraction(1)) * width / 2
    half = Fraction(1, 2)
    ends = [_sum_cut(outputs, ratio, half * (ratio + 1) + side, cap=inputs) for side in (-reach, reach)]
    return ends[1] - ends[0]


def _sum_cut(count: int, step: Fraction, first: Fraction, *, cap: int) -> int:
    """Return the sum of `first`, `first + step`, … over `count` terms, each rounded down and cut to 0 … `cap`."""
    if not step:
        return count * min(max(math.floor(first), 0), cap)
    begin, end = (min(max(math.ceil((bound - first) / step), 0), count) for bound in (0, cap))
    unit = math.lcm(step.denominator, first.denominator)
    start = first + begin * step
    return _sum_floors(end - begin, int(step * unit), int(start * unit), unit) + cap * (count - end)


def _sum_floors(count: int, step: int, first: int, unit: int) -> int:
    """Return the sum of ⌊`first / unit`⌋, ⌊`(first + step) / unit`⌋, … over `count` terms, none below 0.

    Whole parts are taken out; the points that are left under a line are counted from its other side, as Euclid would.
    """
    (whole, step), (base, first) = divmod(step, unit), divmod(first, unit)
    total = count * (count - 1) // 2 * whole + count * base
    top, rest = divmod(step * count + first, unit)
    return total + (_sum_floors(top, unit, rest, step) if top else 0)


def _grid(call: OpCall, data: TensorSpec, grid: TensorSpec) -> tuple[int, int]:
    """Return the points of the grid, and the elements that are read at them."""
    dimensions = len(data.shape) - 2
    if dimensions not in {2, 3} or len(grid.shape) != dimensions + 2 or grid.shape[-1] != dimensions:
        call.refuse(f"an image {data} cannot be read on a grid {grid}")
    if grid.shape[0] != data.shape[0]:
        call.refuse(f"there are {data.shape[0]} images and {grid.shape[0]} grids")
    points = math.prod(grid.shape[:-1])
    return points, points * data.shape[1]


def _mode(call: OpCall) -> int:
    if call.op.startswith("aten::cudnn"):
        return BILINEAR
    mode = call.arg(3 if call.op.endswith("_backward") else 2)
    if not isinstance(mode, int) or mode not in {BILINEAR, NEAREST, BICUBIC} or (mode == BICUBIC and "3d" in call.op):
        call.refuse(f"interpolation mode {mode} is not known")
    return mode


def _points(call: OpCall, points: int, data: TensorSpec, *, cubics: int) -> int:
    """Coordinates of all points and the weights of the pixels around them."""
    dimensions, mode = len(data.shape) - 2, _mode(call)
    coordinates = dimensions * points
    at = 3 if not call.op.endswith("_backward") else 4
    cudnn = call.op.startswith("aten::cudnn")
    padding, aligned = (ZEROS, True) if cudnn else (call.arg(at), call.arg(at + 1) is True)
    if padding not in {ZEROS, BORDER, REFLECTION}:
        call.refuse(f"padding mode {padding} is not known")
    # A dimension of one pixel has no room to reflect in where its corners are aligned.
    reflecting = sum(1 for size in data.shape[2:] if not (aligned and size == 1)) if padding == REFLECTION else 0
    reflected = REFLECTED * points * reflecting
    if mode == NEAREST:
        return 2 * coordinates + reflected
    if mode == BICUBIC:
        return 2 * coordinates + 16 * reflected + (2 + 16 + cubics * CUBIC) * points
    # A weight for each pixel: the distances along all dimensions, and their product.
    return 2 * coordinates + reflected + (dimensions + (1 << dimensions) * (2 * dimensions - 1)) * points


def _sampled(call: OpCall, dimensions: int) -> int:
    mode = _mode(call)
    if mode == NEAREST:
        return 0
    return 35 if mode == BICUBIC else (2 << dimensions) - 1


def _affine(call: OpCall) -> tuple[int, int]:
    if call.op == "aten::cudnn_affine_grid_generator":
        batch, _, *sizes = parse_sizes(call.args[1:5])
    else:
        batch, _, *sizes = parse_sizes(call.arg(1))
    theta = call.tensor(0)
    dimensions = len(sizes)
    if theta.shape != (batch, dimensions, dimensions + 1):
        call.refuse(f"{theta} is no affine map of {dimensions} dimensions for {batch} images")
    return dimensions, math.prod((batch, *sizes))


FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{
        f"aten::upsample_{name}": ("pointwise", count_interpolation)
        for name in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d")
    },
    **{
        f"aten::upsample_{name}_backward": ("pointwise", count_interpolation_backward)
        for name in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d")
    },
    **{f"aten::_upsample_{name}2d_aa": ("pointwise", count_antialiased) for name in FILTERS},
    **{f"aten::_upsample_{name}2d_aa_backward": ("pointwise", count_antialiased) for name in FILTERS},
    "aten::grid_sampler_2d": ("pointwise", count_grid_sample),
    "aten::grid_sampler_3d": ("pointwise", count_grid_sample),
    "aten::_grid_sampler_2d_cpu_fallback": ("pointwise", count_grid_sample),
    "aten::cudnn_grid_sampler": ("pointwise", count_grid_sample),
    "aten::grid_sampler_2d_backward": ("pointwise", count_grid_sample_backward),
    "aten::grid_sampler_3d_backward": ("pointwise", count_grid_sample_backward),
    "aten::_grid_sampler_2d_cpu_fallback_backward": ("pointwise", count_grid_sample_backward),
    "aten::cudnn_grid_sampler_backward": ("pointwise", count_grid_sample_backward),
    "aten::affine_grid_generator": ("pointwise", count_affine_grid),
    "aten::cudnn_affine_grid_generator": ("pointwise", count_affine_grid),
    "aten::cudnn_affine_grid_generator_backward": ("pointwise", count_affine_grid_backward),
    **{
        f"aten::{kind}{size}d_backward": ("scatter", count_brought_in)
        for kind in ("reflection_pad", "replication_pad", "upsample_nearest", "_upsample_nearest_exact")
        for size in (1, 2, 3)
    },
    "aten::col2im": ("scatter", count_brought_in),
}
