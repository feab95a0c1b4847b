"""Fourier transforms: a logarithm by counting digits, and radix 2 added up by hand."""

from fractions import Fraction

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.spectral import FORMULAS, log2_thousandths

NONE, ROOT, FULL = 0, 1, 2


def parts_of(op, *args, **options):
    found = FORMULAS[op][1](OpCall.of(op.replace("complex::aten.", "aten::"), *args, **options))
    assert isinstance(found, Cost)
    return {part.kind: part.flop for part in found.parts}


def halve(points):
    """Operations of a radix-2 transform: two of half the size, then a product and two adds for each pair."""
    return 0 if points == 1 else 2 * halve(points // 2) + points // 2 * (6 + 2 + 2)


@pytest.mark.parametrize("power", range(11))
def test_a_transform_of_a_power_of_two_costs_what_radix_two_costs(power):
    """Else the convention is one of our own where everybody has the same."""
    points = 2**power
    found = parts_of("complex::aten._fft_c2c", (3, points), [1], NONE, True, dtype="complex64")
    assert found == {"fft": 3 * halve(points)}


@pytest.mark.parametrize("points", [1, 2, 3, 5, 6, 7, 12, 100, 1000, 4095, 4097, 999983])
def test_the_logarithm_is_the_largest_power_that_fits(points):
    """Else two implementations differ by one operation somewhere, and a signature with them."""
    found = log2_thousandths(points)
    low, high = 2**found, 2 ** (found + 1)
    product = 1
    for _ in range(1000):
        product *= points
    assert low <= product < high


@pytest.mark.parametrize(("points", "expected"), [(3, 1584), (5, 2321), (6, 2584), (10, 3321), (4096, 12000)])
def test_logarithms_that_everybody_knows(points, expected):
    assert log2_thousandths(points) == expected


@pytest.mark.parametrize("points", [0, -1, 2**63])
def test_what_is_no_size_has_no_logarithm(points):
    """Else a strange ledger keeps a verifier busy for hours."""
    with pytest.raises(FormulaError):
        log2_thousandths(points)


def test_several_dimensions_are_one_transform_of_all_their_points():
    """Else a transform of a plane costs other than rows and columns one after the other."""
    found = parts_of("complex::aten._fft_c2c", (3, 4, 8), [1, 2], NONE, True, dtype="complex64")
    rows, columns = 3 * 4 * halve(8), 3 * 8 * halve(4)
    assert found == {"fft": rows + columns}
    backwards = parts_of("complex::aten._fft_c2c", (3, 4, 8), [-1, -2], NONE, False, dtype="complex64")
    assert backwards == found


def test_an_odd_length_is_rounded_down_once():
    found = parts_of("complex::aten._fft_c2c", (7, 12), [1], NONE, True, dtype="complex64")
    assert found == {"fft": int(Fraction(5 * 7 * 12 * 3584, 1000))}


@pytest.mark.parametrize(("norm", "scaled"), [(NONE, 0), (ROOT, 2 * 24), (FULL, 2 * 24)])
def test_a_normalization_multiplies_both_halves_of_each_number(norm, scaled):
    found = parts_of("complex::aten._fft_c2c", (3, 8), [1], norm, True, dtype="complex64")
    assert found == {"fft": 3 * halve(8)} | ({"pointwise": scaled} if scaled else {})


def test_a_real_transform_is_half_a_complex_one():
    """Else audio models cost twice what their library does."""
    half = parts_of("complex::aten._fft_r2c", (3, 8), [1], NONE, True, out=[(3, 5)])
    assert half == {"fft": 3 * halve(8) // 2}
    whole = parts_of("complex::aten._fft_r2c", (3, 8), [1], ROOT, False, out=[(3, 8)])
    assert whole == {"fft": 3 * halve(8) // 2, "pointwise": 2 * 24}
    one_sided = parts_of("complex::aten._fft_r2c", (3, 8), [1], FULL, True, out=[(3, 5)])
    assert one_sided == {"fft": 3 * halve(8) // 2, "pointwise": 2 * 15}
    back = parts_of("complex::aten._fft_c2r", (3, 5), [1], FULL, 8, dtype="complex64", out=[(3, 8)])
    assert back == {"fft": 3 * halve(8) // 2, "pointwise": 24}


def test_a_primitive_names_its_dimensions_and_never_normalizes():
    found = FORMULAS["complex::prims.fft_c2c"][1](
        OpCall.of("prims::fft_c2c", (3, 8), dim=[1], forward=True, dtype="complex64")
    )
    assert found.flop == 3 * halve(8)


def test_a_transform_of_nothing_or_of_single_points_costs_nothing():
    assert parts_of("complex::aten._fft_c2c", (0, 8), [1], FULL, True, dtype="complex64") == {"fft": 0}
    assert parts_of("complex::aten._fft_c2c", (5, 1), [1], FULL, True, dtype="complex64") == {"fft": 0}
    assert parts_of("complex::aten._fft_c2c", (5, 4), [], FULL, True, dtype="complex64") == {"fft": 0}


@pytest.mark.parametrize(
    ("op", "steps"),
    [
        ("bartlett_window", ["scale", "negate", "add"]),
        ("hann_window", ["scale", "cos", "scale", "add"]),
        ("hamming_window", ["scale", "cos", "scale", "add"]),
        (
            "blackman_window",
            ["scale", "four", "cos", "weight", "two", "cos", "weight", "subtract", "add"],
        ),
        ("kaiser_window", ["scale", "shift", "square", "subtract", "root", "scale", "bessel", "divide"]),
    ],
)
def test_a_window_is_added_up_step_by_step(op, steps):
    op = f"aten::{op}"
    formula = FORMULAS[op][1]
    assert formula(OpCall.of(op, 8, out=[(8,)])) == 9 * len(steps)
    assert formula(OpCall.of(op, 8, True, out=[(8,)])) == 9 * len(steps)
    assert formula(OpCall.of(op, 8, False, out=[(8,)])) == 8 * len(steps)
    assert formula(OpCall.of(op, 1, out=[(1,)])) == 0
    assert formula(OpCall.of(op, 0, out=[(0,)])) == 0


def test_frequencies_are_scaled():
    assert FORMULAS["aten::fft_fftfreq"][1](OpCall.of("aten::fft_fftfreq", 8, out=[(8,)])) == 8
    assert FORMULAS["aten::fft_rfftfreq"][1](OpCall.of("aten::fft_rfftfreq", 8, out=[(5,)])) == 5


@pytest.mark.parametrize("args", [((3, 8), None, NONE, True), ((3, 8), [5], NONE, True), ((3, 8),), ()])
def test_arguments_that_do_not_fit_are_refused(args):
    """Else a call that was read wrongly gets a figure all the same."""
    call = OpCall.of("aten::_fft_c2c", *args, dtype="complex64", precision="complex64")
    with pytest.raises(FormulaError):
        FormulaBook.standard().cost(call)
