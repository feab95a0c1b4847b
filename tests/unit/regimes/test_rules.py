"""What counts under each rule, and on whose word something is left out."""

import pytest

from flopmeter.regimes.rules import (
    RULES,
    Exclusion,
    count_all_floating_point,
    count_cumulative,
    count_floating_point_and_integer,
    count_training,
)
from flopmeter.tally import PURPOSES


def test_training_leaves_out_recomputation_and_passes_without_gradients(work, account_of):
    """Else a run with activation checkpointing looks a third larger than the guidelines count it."""
    account = account_of(
        work(100), work(200, phase="backward"), work(3, phase="optimizer"), work(50, phase="recompute"),
        work(7, phase="inference"), work(1, phase="other"),
    )  # fmt: skip
    figure = count_training(account)
    assert figure.flop == 304
    assert figure.exclusions == (
        Exclusion(what="inference", basis="phase", flop=7),
        Exclusion(what="recompute", basis="phase", flop=50),
    )
    assert figure.gross_flop == account.flop == 361


def test_cumulative_leaves_out_recomputation_and_what_is_claimed_to_be_evaluation(work, account_of):
    account = account_of(
        work(100), work(50, phase="recompute"), work(20, phase="inference", purpose="evaluation"),
        work(5, phase="inference"),
    )  # fmt: skip
    figure = count_cumulative(account)
    assert figure.flop == 105
    assert figure.exclusions == (
        Exclusion(what="recompute", basis="phase", flop=50),
        Exclusion(what="evaluation", basis="purpose", flop=20),
    )


@pytest.mark.parametrize(
    ("purpose", "in_training", "in_cumulative"),
    [
        ("undeclared", True, True),
        ("pretraining", True, True),
        ("finetuning", True, True),
        ("rl-update", True, True),
        ("rl-rollout", False, True),
        ("data-generation", False, True),
        ("teacher-inference", False, True),
        ("reward-training", False, False),
        ("evaluation", False, False),
        ("experiment", False, False),
    ],
)
def test_a_purpose_counts_as_annex_a1_says(work, account_of, purpose, in_training, in_cumulative):
    """Else a developer's rollouts vanish from the figure that the 10^25 test looks at."""
    account = account_of(work(10, purpose=purpose))
    assert count_training(account).flop == (10 if in_training else 0)
    assert count_cumulative(account).flop == (10 if in_cumulative else 0)


def test_every_purpose_was_thought_about():
    """Else a new purpose is counted, or not, by accident."""
    (mark,) = test_a_purpose_counts_as_annex_a1_says.pytestmark
    assert {row[0] for row in mark.args[1]} == set(PURPOSES)


def test_the_american_rule_adds_integer_operations_and_leaves_nothing_out(work, account_of):
    """Else an int8 run weighs nothing under laws that say integer or floating-point."""
    account = account_of(work(100, int_op=40), work(50, phase="recompute"), work(9, purpose="evaluation"))
    figure = count_floating_point_and_integer(account)
    assert (figure.flop, figure.lower, figure.upper, figure.exclusions) == (199, 199, 199, ())


def test_the_european_and_korean_rules_know_no_integer_operations(work, account_of):
    account = account_of(work(100, int_op=40))
    assert [rule.count(account).flop for rule in RULES.values() if not rule.counts_int_op] == [100, 100, 100]


def test_everything_floating_point_counts_whatever_it_was_for(work, account_of):
    account = account_of(work(1), work(2, phase="recompute"), work(4, purpose="experiment"))
    assert count_all_floating_point(account).flop == 7


def test_the_lower_end_leaves_out_what_nobody_audited(work, account_of):
    """Else a replayed figure, which nobody audited, is presented as known."""
    account = account_of(work(10), work(90, basis="replayed"), upper=500)
    figure = count_cumulative(account)
    assert (figure.flop, figure.lower, figure.upper) == (100, 10, 500)


def test_the_lower_end_holds_what_audits_made_sure(work, account_of):
    """Else audits cost time and prove nothing."""
    replayed = work(900, basis="replayed"), work(70, basis="replayed", purpose="evaluation", phase="inference")
    unsure = {("forward", "undeclared"): 30, ("inference", "evaluation"): 70}
    account = account_of(work(10), *replayed, unsure=unsure)
    assert count_all_floating_point(account).lower == account.lower == 880
    assert (count_cumulative(account).flop, count_cumulative(account).lower) == (910, 880)


def test_integer_operations_that_were_not_counted_are_not_sure(work, account_of):
    account = account_of(work(10, int_op=5), work(90, int_op=50, basis="replayed"), unsure={})
    figure = count_floating_point_and_integer(account)
    assert (figure.flop, figure.lower) == (155, 105)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_an_unbounded_account_gives_an_unbounded_figure(rule, work, account_of):
    assert rule.count(account_of(work(10), upper=None)).upper is None


def test_the_upper_end_takes_nobodys_word(work, account_of):
    """Else calling work an evaluation is enough to get below a threshold for sure."""
    account = account_of(work(100), work(50, purpose="evaluation"), work(25, phase="inference"))
    assert count_training(account).flop == 100
    assert count_training(account).upper == 175
    assert count_cumulative(account).upper == 175


def test_recomputation_that_was_seen_and_counted_leaves_the_upper_end_too(work, account_of):
    """Else every run with activation checkpointing near a threshold ends in `cannot-tell`."""
    account = account_of(work(100), work(50, phase="recompute"), work(30, phase="recompute", basis="replayed"))
    figure = count_cumulative(account)
    assert (figure.flop, figure.upper) == (100, 130)


def test_an_exclusion_says_how_much_and_on_whose_word():
    assert Exclusion(what="evaluation", basis="purpose", flop=20).to_wire() == {
        "what": "evaluation",
        "basis": "purpose",
        "flop": "20",
    }


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_a_rule_names_its_source(rule):
    """Else nobody can tell the law from our reading of it."""
    assert "Source:" in rule.count.__doc__
    assert "Counts:" in rule.count.__doc__
