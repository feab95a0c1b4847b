"""Six operations per parameter and token."""

import pytest

from flopmeter.estimate.six_nd import estimate_six_nd


@pytest.mark.parametrize(
    ("parameters", "tokens", "flop"),
    [(1, 1, 6), (600_000_000, 36 * 10**12, 1296 * 10**20), (10**12, 10**13, 6 * 10**25)],
)
def test_six_nd_is_an_exact_integer(parameters, tokens, flop):
    """Else the figure that laws are read by is off by a float's error."""
    estimate = estimate_six_nd(parameters=parameters, tokens=tokens)
    assert (estimate.flop, estimate.method) == (flop, "6nd")
    assert estimate.inputs == {"parameters": str(parameters), "tokens": str(tokens)}


@pytest.mark.parametrize(
    ("parameters", "tokens", "missing"),
    [(None, 5, "parameters"), (5, None, "tokens"), (0, 5, "parameters"), (None, 0, "parameters and tokens")],
)
def test_what_is_unknown_gives_no_figure(parameters, tokens, missing):
    """Else a run without tokens would cost nothing."""
    estimate = estimate_six_nd(parameters=parameters, tokens=tokens)
    assert estimate.flop is None
    assert estimate.note == f"unknown: {missing}"
