"""Interpolation and sampling grids, counted place by place and pixel by pixel."""

import itertools
import math

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.sampling import CUBIC, CUBIC_SLOPES, FILTERS, FORMULAS, REFLECTED


def parts_of(op, *args, out=()):
    name = f"aten::{op}"
    found = FORMULAS[name][1](OpCall.of(name, *args, out=out))
    return {part.kind: part.flop for part in found.parts} if isinstance(found, Cost) else {FORMULAS[name][0]: found}


def total(op, *args, out=()):
    return sum(parts_of(op, *args, out=out).values())


def test_the_weights_of_a_cubic_step_by_step():
    """Else the constants of the table and the polynomials that it names part ways."""
    places = len(["t + 1", "1 - t", "2 - t"])
    near = len(["a + 2 times u", "minus a + 3", "times u", "times u", "plus 1"])
    far = len(["a times u", "minus 5a", "times u", "plus 8a", "times u", "minus 4a"])
    assert places + 2 * near + 2 * far == CUBIC
    slopes = len(["-1 - t", "-t", "1 - t", "2 - t"]) + 4 + 3 + 3 + 4
    assert slopes == CUBIC_SLOPES
    remainder = len(["divide", "multiply", "subtract"])
    assert len(["subtract", "abs", "divide", "add", "subtract"]) + remainder == REFLECTED
    assert FILTERS == {"bilinear": (2, 1 + 1), "bicubic": (4, 1 + 5 + 6), "lanczos": (6, 1 + 1 + 1 + 1)}


LINEAR = {"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_trilinear3d": 3}


@pytest.mark.parametrize("op", LINEAR)
@pytest.mark.parametrize(("aligned", "each"), [(False, 1 + 1 + 1 + 1), (True, 1 + 1)])
def test_linear_interpolation_is_one_lerp_after_the_other(op, aligned, each):
    """Else enlarging images, which half of all segmentation models do, is free."""
    dimensions = LINEAR[op]
    sizes = (6, 5, 4)[:dimensions]
    result = (2, 3, *sizes)
    places = sum(each for size in sizes for _ in range(size))
    lerps, pixels = 0, 2**dimensions
    while pixels > 1:
        pixels //= 2
        lerps += pixels
    assert total(op, (2, 3, *(3,) * dimensions), list(sizes), aligned, out=[result]) == places + 3 * lerps * math.prod(
        result
    )
    call = (f"{op}_backward", result, list(sizes), [2, 3, *(3,) * dimensions], aligned)
    products = places + 2 * lerps * math.prod(result)
    assert parts_of(*call) == {"pointwise": products, "scatter": 2**dimensions * math.prod(result)}


def test_a_cubic_adds_up_sixteen_pixels():
    size = 2 * 3 * 6 * 5
    places = (4 + CUBIC) * 11
    five_sums_of_four = 5 * (4 + 3)
    assert (
        total("upsample_bicubic2d", (2, 3, 3, 3), [6, 5], False, out=[(2, 3, 6, 5)])
        == places + five_sums_of_four * size
    )
    found = parts_of("upsample_bicubic2d_backward", (2, 3, 6, 5), [6, 5], [2, 3, 3, 3], True)
    assert found == {"pointwise": (2 + CUBIC) * 11 + (4 + 16) * size, "scatter": 16 * size}


def test_nothing_is_interpolated_for_nothing():
    assert total("upsample_bilinear2d", (0, 3, 4, 4), [8, 8], False, out=[(0, 3, 8, 8)]) == 0
    assert total("_upsample_bilinear2d_aa", (0, 3, 4, 4), [8, 8], False, out=[(0, 3, 8, 8)]) == 0


def look_at(inputs, outputs, width, *, aligned):
    """Count pixel by pixel what the places of a dimension look at, in the arithmetic of the kernel."""
    scale = (inputs - 1) / (outputs - 1) if aligned and outputs > 1 else 0.0 if aligned else inputs / outputs
    reach = width / 2 * max(scale, 1.0)
    taps = 0
    for place in range(outputs):
        center = scale * (place + 0.5)
        taps += sum(1 for pixel in range(inputs) if int(center - reach + 0.5) <= pixel < int(center + reach + 0.5))
    return taps


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("height", "width", "to"), [(8, 9, (4, 3)), (5, 4, (7, 8)), (7, 3, (1, 3)), (12, 5, (5, 2))])
def test_antialiasing_looks_at_every_pixel_within_reach(name, aligned, height, width, to):
    """Else shrinking an image by ten costs what shrinking it by two costs."""
    taps = [
        look_at(before, after, FILTERS[name][0], aligned=aligned)
        for before, after in zip((height, width), to, strict=True)
    ]
    weights = 2 * sum(to) + sum(taps) * (3 + FILTERS[name][1] + 1) + sum(taps) - sum(to)
    terms = 2 * 3 * height * taps[1] + 2 * 3 * to[1] * taps[0]
    op = f"_upsample_{name}2d_aa"
    assert total(op, (2, 3, height, width), list(to), aligned, out=[(2, 3, *to)]) == weights + 2 * terms
    found = parts_of(f"{op}_backward", (2, 3, *to), list(to), [2, 3, height, width], aligned)
    assert found == {"pointwise": weights + terms, "scatter": terms}


X2, GRID2, OUT2, G, N = (2, 3, 4, 5), (2, 6, 7, 2), (2, 3, 6, 7), 2 * 42, 2 * 3 * 42


def linear_points(dimensions):
    scale = 2 * dimensions
    next_pixel = dimensions
    weights = sum(dimensions + dimensions - 1 for _ in itertools.product((0, 1), repeat=dimensions))
    return scale + next_pixel + weights


@pytest.mark.parametrize(("padding", "extra"), [(0, 0), (1, 0), (2, 2 * REFLECTED)])
def test_a_point_between_four_pixels(padding, extra):
    """Else warping images is free, or its coordinates are counted for every channel."""
    value = 4 + 3
    found = total("grid_sampler_2d", X2, GRID2, 0, padding, False, out=[OUT2])
    assert found == (linear_points(2) + extra) * G + value * N
    assert total("_grid_sampler_2d_cpu_fallback", X2, GRID2, 0, padding, False, out=[OUT2]) == found


def test_a_point_between_eight_pixels():
    x, grid, out = (2, 3, 4, 5, 6), (2, 2, 3, 4, 3), (2, 3, 2, 3, 4)
    points, size = 2 * 24, 2 * 3 * 24
    assert total("grid_sampler_3d", x, grid, 0, 0, True, out=[out]) == linear_points(3) * points + (8 + 7) * size
    assert total("grid_sampler_3d", x, grid, 1, 0, True, out=[out]) == 6 * points
    found = parts_of("grid_sampler_3d_backward", out, x, grid, 0, 2, False, [True, True])
    into_x, into_grid = 8 * size, 8 * 3 * (3 + 1) * size + 3 * points
    assert found == {"pointwise": (linear_points(3) + 3 * REFLECTED) * points + into_x + into_grid, "scatter": 8 * size}


def test_a_cubic_around_a_point():
    fractions, neighbours = 2, 12 + 4
    once = 4 + fractions + neighbours + 5 * CUBIC
    assert total("grid_sampler_2d", X2, GRID2, 2, 0, False, out=[OUT2]) == once * G + 35 * N
    reflected = once + 16 * 2 * REFLECTED
    assert total("grid_sampler_2d", X2, GRID2, 2, 2, False, out=[OUT2]) == reflected * G + 35 * N
    found = parts_of("grid_sampler_2d_backward", OUT2, X2, GRID2, 2, 0, False, [True, True])
    weights = 4 + fractions + neighbours + 2 * CUBIC + 2 * CUBIC_SLOPES + 2
    assert found == {"pointwise": weights * G + (16 * 2 + 16 * 2 * 4) * N, "scatter": 16 * N}


def test_the_nearest_pixel_is_a_copy_and_its_gradient_an_add():
    assert total("grid_sampler_2d", X2, GRID2, 1, 0, False, out=[OUT2]) == 4 * G
    found = parts_of("grid_sampler_2d_backward", OUT2, X2, GRID2, 1, 0, False, [True, True])
    assert found == {"pointwise": 4 * G, "scatter": N}


@pytest.mark.parametrize("mask", list(itertools.product([False, True], repeat=2)))
def test_gradients_of_a_grid_are_counted_where_they_are_asked_for(mask):
    """Else a frozen image, or a fixed grid, costs as much as a trained one."""
    found = parts_of("grid_sampler_2d_backward", OUT2, X2, GRID2, 0, 0, False, list(mask))
    into_x, into_grid = 4 * N * mask[0], (4 * 2 * 3 * N + 2 * G) * mask[1]
    expected = {"pointwise": linear_points(2) * G + into_x + into_grid}
    assert found == expected | ({"scatter": 4 * N} if mask[0] else {})


def test_cudnn_samples_as_torch_does_with_its_defaults():
    """Else the same model differs by the library that runs it."""
    assert total("cudnn_grid_sampler", X2, GRID2, out=[OUT2]) == total(
        "grid_sampler_2d", X2, GRID2, 0, 0, True, out=[OUT2]
    )
    found = parts_of("cudnn_grid_sampler_backward", X2, GRID2, OUT2)
    assert found == parts_of("grid_sampler_2d_backward", OUT2, X2, GRID2, 0, 0, True, [True, True])
    fallback = parts_of("_grid_sampler_2d_cpu_fallback_backward", OUT2, X2, GRID2, 0, 0, True)
    assert fallback == found


def test_one_pixel_leaves_no_room_to_reflect_in():
    wide = total("grid_sampler_2d", (2, 3, 1, 5), GRID2, 0, 2, True, out=[OUT2])
    assert wide == (linear_points(2) + REFLECTED) * G + 7 * N


def test_an_affine_grid_multiplies_every_point():
    """Else spatial transformers lose their grids."""
    point = 2 * (3 + 2)
    assert total("affine_grid_generator", (2, 2, 3), [2, 3, 4, 5], False) == 2 * 20 * point
    assert total("affine_grid_generator", (2, 3, 4), [2, 3, 4, 5, 6], True) == 2 * 120 * 3 * (4 + 3)
    assert total("cudnn_affine_grid_generator", (2, 2, 3), 2, 3, 4, 5) == 2 * 20 * point
    found = parts_of("cudnn_affine_grid_generator_backward", (2, 4, 5, 2), 2, 3, 4, 5)
    assert found == {"pointwise": 2 * 20 * 6, "reduction": 2 * 19 * 6}


@pytest.mark.parametrize(
    ("op", "gradient"),
    [
        ("reflection_pad1d_backward", (2, 3, 9)),
        ("replication_pad3d_backward", (2, 3, 4, 4, 4)),
        ("upsample_nearest2d_backward", (2, 3, 8, 8)),
        ("_upsample_nearest_exact1d_backward", (2, 3, 8)),
        ("col2im", (2, 12, 9)),
    ],
)
def test_gradients_of_copies_add_each_element_once(op, gradient):
    assert parts_of(op, gradient) == {"scatter": math.prod(gradient)}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("grid_sampler_2d", (X2, GRID2, 3, 0, False)),
        ("grid_sampler_2d", (X2, GRID2, None, 0, False)),
        ("grid_sampler_2d", (X2, GRID2, 0, 3, False)),
        ("grid_sampler_2d", (X2, (2, 6, 7, 3), 0, 0, False)),
        ("grid_sampler_2d", (X2, (1, 6, 7, 2), 0, 0, False)),
        ("grid_sampler_2d", ((2, 3, 4), (2, 6, 1), 0, 0, False)),
        ("grid_sampler_3d", ((2, 3, 4, 5, 6), (2, 2, 3, 4, 3), 2, 0, False)),
        ("grid_sampler_2d_backward", (OUT2, X2, GRID2, 0, 0, False, None)),
        ("affine_grid_generator", ((2, 2, 3), [3, 3, 4, 5], False)),
        ("affine_grid_generator", ((2, 2, 4), [2, 3, 4, 5], False)),
        ("_upsample_bilinear2d_aa_backward", ((2, 3, 4, 4), [4, 4], [2, 4, 8, 8], False)),
    ],
)
def test_what_does_not_fit_is_refused(op, args):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        parts_of(op, *args)


def test_a_size_that_no_image_has_costs_no_time():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it.

    Of two rows made many, the outer half of the places sees one row and the inner half two; a column made of two sees
    both.
    """
    places = 10**15
    taps = [places // 2 + 2 * (places // 2), 2]
    weights = places + 1 + (5 + FILTERS["bilinear"][1]) * sum(taps)
    found = total("_upsample_bilinear2d_aa", (1, 1, 2, 2), [places, 1], False, out=[(1, 1, places, 1)])
    assert found == weights + 2 * (2 * taps[1] + taps[0])
