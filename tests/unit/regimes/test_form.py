"""A regime's file is read strictly, because it states law."""

import pytest

from flopmeter.regimes.form import parse_form

GOOD = """
id = "demo.small"
title = "A made-up regime"
jurisdiction = "nowhere"
threshold = "1000"
operator = ">"
unit = "floating-point operations"
counts = ["all-floating-point"]
obligation = "none"
source = "made up"
as_of = 2026-11-22
status = "in use"
"""


def test_a_file_without_the_keys_that_may_be_absent_is_read():
    form, conditions = parse_form(GOOD)
    assert form["threshold"] == 1000
    assert form["in_force_from"] is None
    assert form["plan_counts"] is False
    assert form["deadline"] == ""
    assert conditions == ()


def test_conditions_are_read():
    _, conditions = parse_form(GOOD + '[[conditions]]\nid = "cost"\ntext = "It cost much."\n')
    assert conditions == (("cost", "It cost much."),)


def test_a_float_is_refused_because_it_is_another_number():
    """Else the EU's threshold is 905,969,664 operations higher than the law's."""
    assert int(1e25) == 10000000000000000905969664
    with pytest.raises(ValueError, match=r"^threshold is the bare number 1e25, not .* with all its digits$"):
        parse_form(GOOD.replace('"1000"', "1e25"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"1000"', "1000", "threshold is the bare number 1000"),
        ('"1000"', "inf", "threshold is the bare number inf"),
        ('"1000"', '"1e25"', "threshold is '1e25'"),
        ('"1000"', '"1_000"', "threshold is '1_000'"),
        ('"1000"', '"0"', "threshold is '0'"),
        ('"1000"', '"-5"', "threshold is '-5'"),
        ('"1000"', "true", "threshold is True"),
        ('"1000"', f'"{"9" * 61}"', "threshold is"),
        ('title = "A made-up regime"', "", "title is missing"),
        ('"A made-up regime"', '"  "', "title is '  '"),
        ('"A made-up regime"', "7", "title is the bare number 7"),
        ('["all-floating-point"]', '"all-floating-point"', "counts is 'all-floating-point'"),
        ('["all-floating-point"]', "[]", "counts is"),
        ('["all-floating-point"]', "[1.5]", "counts is .the bare number 1.5"),
        ("2026-11-22", '"2026-11-22"', "as_of is '2026-11-22'"),
        ("2026-11-22", "2026-11-22T10:00:00", "as_of is datetime"),
        ('"in use"', '"in use"\nallowed_error = 0.30', "allowed_error is the bare number 0.30"),
        ('"in use"', '"in use"\nplan_counts = "yes"', "plan_counts is 'yes'"),
        ('"in use"', '"in use"\nthreshhold = "1"', "threshhold is no key of a regime; there are id, title"),
        ('"in use"', '"in use"\nconditions = "none"', "conditions is 'none'"),
        ('"in use"', '"in use"\nconditions = ["none"]', "conditions is 'none'"),
        ('"in use"', '"in use"\n[[conditions]]\nid = "cost"', "conditions.text is missing"),
        ('"in use"', '"in use"\n[[conditions]]\nid = "cost"\ntext = ""', "conditions.text is ''"),
        ('"in use"', '"in use"\n[[conditions]]\nid = "a"\ntext = "b"\nc = "d"', "conditions.c is no key"),
        ('id = "demo.small"', "id =", "Invalid value"),
        ('id = "demo.small"', "id = " + "[" * 5000, "nested too deep"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_key(old, new, message):
    """Else a misspelt key or a rounded number changes a legal answer without a word."""
    assert old in GOOD
    with pytest.raises(ValueError, match=message):
        parse_form(GOOD.replace(old, new))
