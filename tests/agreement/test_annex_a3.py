"""The worked examples of Annex A.3 of the Commission's guidelines on general-purpose AI models, C(2025) 5045."""

from fractions import Fraction

import pytest

from flopmeter.estimate.six_nd import estimate_six_nd
from flopmeter.regimes.regime import find
from flopmeter.units import parse_flop, print_flop

# name, parameters, tokens, as printed
BY_TOKENS = [
    ("A", "3.8e9", "3.3e12", "7.5e22"),
    ("C", "0.6e9", "36e12", "1.3e23"),
    ("E", "1.7e9", "36e12", "3.7e23"),
]


@pytest.mark.parametrize(("name", "parameters", "tokens", "printed"), BY_TOKENS)
def test_six_nd_gives_the_printed_figure(name, parameters, tokens, printed):
    """Else our estimate is not the one that the guidelines describe."""
    estimate = estimate_six_nd(parameters=parse_flop(parameters), tokens=parse_flop(tokens))
    assert estimate.flop == 6 * parse_flop(parameters) * parse_flop(tokens)
    assert print_flop(estimate.flop, digits=2) == f"{printed.replace('e', 'e+')} FLOP"


def test_six_nd_is_exact_before_it_is_rounded():
    exact = {"A": 7524 * 10**19, "C": 1296 * 10**20, "E": 3672 * 10**20}
    for name, parameters, tokens, _ in BY_TOKENS:
        assert estimate_six_nd(parameters=parse_flop(parameters), tokens=parse_flop(tokens)).flop == exact[name], name


@pytest.mark.parametrize(("name", "is_passed"), [("A", False), ("C", True), ("E", True)])
def test_the_indicator_is_passed_by_the_models_that_exceed_it(name, is_passed):
    """Else the number in our catalogue is not the one that the examples are about."""
    (row,) = (row for row in BY_TOKENS if row[0] == name)
    estimate = estimate_six_nd(parameters=parse_flop(row[1]), tokens=parse_flop(row[2]))
    assert find("eu.gpai.indicator").is_passed_by(estimate.flop) is is_passed


def test_the_diffusion_model_passes_the_indicator_by_its_device_hours():
    """Model B: 200,000 device-hours of 300 TFLOP/s at 50 %; printed as 1e23, to one figure."""
    flop = 200_000 * 3600 * 300 * 10**12 * Fraction("0.5")
    assert flop == 108 * 10**21
    assert print_flop(int(flop), digits=1) == "1e+23 FLOP"
    assert find("eu.gpai.indicator").is_passed_by(int(flop))


def test_the_two_numbers_of_the_guidelines_are_not_confused():
    """One third is the line for who modifies a model, 30 % the error of an estimate; tools have mixed them up."""
    assert Fraction(find("eu.gpai.indicator").allowed_error) == Fraction(3, 10)
    assert Fraction(find("eu.gpai.systemic").allowed_error) != Fraction(1, 3)
