"""Settings: what a user says is checked before anything runs, and the header of a ledger says what was meant."""

import math

import pytest

from flopmeter.formulas.book import CONVENTION, FormulaBook
from flopmeter.settings import MAX_COUNT, Settings, check_count, check_purpose


def settings(**changes):
    return Settings.of(**({"exact": False, "overhead_budget": 0.01, "strict": False, "interval_s": 5.0} | changes))


def header(**changes):
    said = {"purpose": "pretraining", "world": 2, "torch_version": "2.13.0", "has_cuda": False}
    return settings(**changes).header(FormulaBook.standard(), **said)


@pytest.mark.parametrize("share", [-0.01, math.inf, math.nan])
def test_a_budget_that_is_no_share_of_time_is_refused(share):
    """If this failed, a slip of the pen would count everything, or nothing, and look like a choice."""
    with pytest.raises(ValueError, match="overhead budget"):
        settings(overhead_budget=share)


def test_a_budget_of_nothing_is_a_choice():
    assert settings(overhead_budget=0).overhead_budget == 0


def test_an_interval_is_kept_in_nanoseconds():
    assert settings(interval_s=0.5).interval_ns == 500_000_000


def test_a_header_names_book_convention_and_what_was_chosen():
    """If this failed, an auditor could not know by which formulas and how sparingly a run was counted."""
    said = header(exact=True, overhead_budget=0.05)
    assert (said["book"], said["convention"]) == (FormulaBook.standard().digest, CONVENTION)
    assert (said["exact"], said["overhead_budget"]) == (True, "0.05")
    assert (said["purpose"], said["world"], said["versions"]["torch"]) == ("pretraining", "2", "2.13.0")


def test_a_header_says_that_launches_were_looked_at_only_where_they_were():
    """If this failed, a run without foreign kernels in its list could not be told from one that nobody looked at."""
    assert header(census=True)["census"] is True
    assert "census" not in header()


def test_where_devices_may_come_in_no_ceiling_is_promised():
    """If this failed, a gap on a GPU would be bounded by what the processor can do: far too low."""
    book = FormulaBook.standard()
    said = {"purpose": "undeclared", "world": 1, "torch_version": "2.13.0"}
    assert settings().header(book, has_cuda=True, **said)["ceiling_flop_per_s"] is None
    assert int(settings().header(book, has_cuda=False, **said)["ceiling_flop_per_s"]) > 0


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (MAX_COUNT, ValueError), (1.5, TypeError)])
def test_tokens_are_whole_and_not_negative(value, error):
    """If this failed, 6ND would stand beside a number of tokens that nobody can have trained."""
    with pytest.raises(error):
        check_count(value)


def test_a_number_and_a_purpose_come_back_as_they_are():
    assert check_count(512) == 512
    assert check_purpose("evaluation") == "evaluation"


def test_a_purpose_that_is_none_is_refused_with_the_list():
    with pytest.raises(ValueError, match="undeclared, pretraining"):
        check_purpose("fun")
