"""A figure with its interval, or none."""

from flopmeter.estimate.estimate import Estimate


def test_an_estimate_travels_with_digits_and_nulls():
    """Else unknown would arrive as zero, or a large figure as a float."""
    estimate = Estimate(method="hardware", flop=10**25, upper=None, inputs={"n": "1"}, note="x")
    assert estimate.to_wire() == {
        "method": "hardware",
        "flop": "10000000000000000000000000",
        "lower": None,
        "upper": None,
        "inputs": {"n": "1"},
        "note": "x",
    }
