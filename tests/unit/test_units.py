"""Figures as people read and write them."""

import pytest

from flopmeter.units import parse_flop, print_duration, print_energy, print_flop, print_held, print_ratio


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("1e25", 10**25),
        ("1E25", 10**25),
        ("3.5e22", 35 * 10**21),
        ("1_000_000", 10**6),
        (" 7 FLOP ", 7),
        ("1e25 FLOP", 10**25),
        ("12345678901234567890123456789012345678901234567890", 12345678901234567890123456789012345678901234567890),
        ("1.000", 1),
    ],
)
def test_what_people_write_is_read_exactly(text, value):
    """Else a threshold of 1e25 is 10000000000000000905969664, and a run may pass it unnoticed."""
    assert parse_flop(text) == value


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.5", "1e-3", "nan", "inf", "-inf", "sNaN", "1e60", "1e999999999", "0x10", "1e"]
)
def test_what_is_no_count_is_refused(text):
    """Else a plan of `nan` FLOP is below every threshold."""
    with pytest.raises(ValueError, match="FLOP"):
        parse_flop(text)


def test_whatever_is_read_can_also_travel():
    assert len(str(parse_flop("9" * 60))) == 60


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOP"),
        (9_999, "9999 FLOP"),
        (10_000, "1.00e+04 FLOP"),
        (12_345, "1.23e+04 FLOP"),
        (99_999, "1.00e+05 FLOP"),
        (12_350, "1.24e+04 FLOP"),
        (12_450, "1.24e+04 FLOP"),
        (10**25, "1.00e+25 FLOP"),
        (None, "unknown"),
    ],
)
def test_a_count_is_rounded_half_to_even(value, text):
    assert print_flop(value) == text


def test_a_count_has_as_many_digits_as_are_asked_for():
    assert print_flop(123_456_789, digits=5) == "1.2346e+08 FLOP"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (1_500_000_000, "1.5 s"),
        (119_000_000_000, "119 s"),
        (120_000_000_000, "2.0 min"),
        (7_199_000_000_000, "120.0 min"),
        (7_200_000_000_000, "2.0 h"),
        (None, "unknown"),
    ],
)
def test_a_duration_has_a_unit_that_fits(value, text):
    assert print_duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 J"),
        (1_500, "1.5 J"),
        (999_900, "999.9 J"),
        (179_000_000, "179 kJ"),
        (359_000_000, "359 kJ"),
        (360_000_000, "0.1 kWh"),
        (None, "unknown"),
    ],
)
def test_an_energy_has_a_unit_that_fits(value, text):
    assert print_energy(value) == text


def test_the_time_of_devices_is_told_from_time_on_a_clock():
    """Else eight devices over five minutes read as a run of forty."""
    told = [print_held(seconds * 1_000_000_000) for seconds in (2, 2238, 57_600)]
    assert told == ["2 device-seconds", "37.3 device-minutes", "16.0 GPU-hours"]


def test_a_ratio_is_a_percentage():
    assert print_ratio(0.1234) == "12.3 %"
    assert print_ratio(None) == "unknown"
