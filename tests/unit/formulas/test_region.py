"""Regions of interest and deformable convolution, counted by hand."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.region import BETWEEN, FORMULAS, WEIGHTS

X = (2, 6, 8, 8)


def parts_of(op, *args, out=()):
    name = f"torchvision::{op}"
    found = FORMULAS[name][1](OpCall.of(name, *args, out=out))
    if not isinstance(found, Cost):
        return {FORMULAS[name][0]: found}
    return {part.kind: part.flop for part in found.parts}


def corners(regions, rows, columns, samples):
    """Go through what torchvision writes out for regions, rows and columns of bins, and samples."""
    found = 0
    for _ in range(regions):
        found += 4 + 4 + 2 + 2 + 2  # scale, offset, sizes, bins, bins over samples
        for bins in (rows, columns):
            found += samples  # a sample's place times its step
            found += 2 * bins  # a bin's place times its size, added to the corner
            found += bins * samples * (1 + 2)  # a sample's place; its distances to both pixels
        found += rows * columns * samples * samples * 4
    return found + 2 * samples  # half a step, for rows and for columns


@pytest.mark.parametrize(("rows", "columns", "samples"), [(7, 7, 2), (2, 3, 1), (1, 1, 4)])
@pytest.mark.parametrize(("op", "extra"), [("roi_align", (True,)), ("ps_roi_align", ())])
def test_every_sample_is_read_between_four_pixels(op, extra, rows, columns, samples):
    """Else the heads of detectors are free."""
    out = (5, 6, rows, columns)
    size = 5 * 6 * rows * columns
    found = parts_of(op, X, (5, 5), 0.25, rows, columns, samples, *extra, out=[out])
    per_bin = samples * samples
    assert found == {
        "pointwise": corners(5, rows, columns, samples) + (4 + 3) * per_bin * size,
        "reduction": (per_bin - 1) * size + size,
    }


def test_gradients_of_samples_go_to_four_pixels():
    size = 5 * 6 * 9
    expected = {"pointwise": corners(5, 3, 3, 2) + size + 4 * 4 * size, "scatter": 4 * 4 * size}
    dy = (5, 6, 3, 3)
    assert parts_of("_roi_align_backward", dy, (5, 5), 0.25, 3, 3, 2, 6, 8, 8, 2, True) == expected
    assert parts_of("_ps_roi_align_backward", dy, (5, 5), dy, 0.25, 3, 3, 2, 2, 54, 8, 8) == expected


def test_samples_that_follow_from_the_regions_are_uncounted():
    """Else a figure is made up that only the values of the regions would tell."""
    with pytest.raises(FormulaError):
        parts_of("roi_align", X, (5, 5), 0.25, 7, 7, -1, True, out=[(5, 6, 7, 7)])
    with pytest.raises(FormulaError):
        parts_of("_roi_align_backward", (5, 6, 3, 3), (5, 5), 0.25, 3, 3, 2, 6, 8, 8, 0, True)


def test_a_maximum_compares_and_its_gradient_adds():
    assert parts_of("roi_pool", X, (5, 5), 0.25, 7, 7) == {"other": 0}
    assert parts_of("_roi_pool_backward", (5, 6, 7, 7), (5, 5)) == {"scatter": 5 * 6 * 49}


def test_boxes_are_compared_in_pairs():
    sides, product, union, ratio = 2, 1, 2, 1
    pairs = sum(1 for one in range(7) for two in range(7) if one < two)
    assert parts_of("nms", (7, 4), (7,), 0.5) == {"pointwise": 7 * 3 + pairs * (sides + product + union + ratio)}
    assert parts_of("nms", (0, 4), (0,), 0.5) == {"pointwise": 0}


W, OFFSETS, MASK, Y = (4, 3, 3, 3), (2, 3 * 2 * 9, 6, 6), (2, 27, 6, 6), (2, 4, 6, 6)


@pytest.mark.parametrize("masked", [True, False])
def test_a_deformable_convolution_reads_between_pixels(masked):
    """Else it costs what a plain one costs."""
    arguments = (X, W, OFFSETS, MASK, (4,), 1, 1, 0, 0, 1, 1, 2, 3, masked)
    places, values = 2 * 3 * 9 * 36, 2 * 6 * 9 * 36
    products = 2 * (2 * 4 * 36) * (3 * 9)
    between = (2 + 2 + 2 + 4) * places + (4 + 3 + masked) * values
    assert (WEIGHTS, BETWEEN) == (2 + 2 + 2 + 4, 4 + 3)
    found = parts_of("deform_conv2d", *arguments, out=[Y])
    assert found == {"convolution": products, "pointwise": between + 2 * 4 * 36}
    slopes = 2 * (5 + 1 + 1)
    assert parts_of("_deform_conv2d_backward", Y, *arguments) == {
        "convolution": 2 * products,
        "pointwise": between + (4 + slopes + 3 * masked) * values,
        "scatter": 4 * values,
        "reduction": 2 * 4 * 36 - 4,
    }


@pytest.mark.parametrize(
    ("x", "w", "offsets"),
    [(X, (4, 2, 3, 3), OFFSETS), (X, W, (2, 2 * 9, 6, 6)), (X, W, (1, 54, 6, 6))],
)
def test_what_does_not_fit_is_refused(x, w, offsets):
    with pytest.raises(FormulaError):
        parts_of("deform_conv2d", x, w, offsets, MASK, (4,), 1, 1, 0, 0, 1, 1, 2, 3, True, out=[Y])
