"""Regimes, the verdicts of findings, and how regimes are found."""

from datetime import date
from pathlib import Path

import pytest

from flopmeter import wire
from flopmeter.errors import UnknownRegimeError
from flopmeter.regimes.regime import VERDICTS, catalogue, find

OWN = """
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

[[conditions]]
id = "fun"
text = "It was fun."
"""


@pytest.mark.parametrize(
    ("flop", "upper", "plan_flop", "verdict"),
    [
        (1001, 1001, None, "above"),
        (1001, None, 5000, "above"),
        (1000, None, 5000, "cannot-tell"),
        (10, 1001, None, "cannot-tell"),
        (10, None, None, "cannot-tell"),
        (900, 1000, 1001, "will-exceed"),
        (900, 1000, 1000, "near"),
        (501, 501, None, "near"),
        (500, 500, None, "below"),
        (0, 0, 0, "below"),
    ],
)
def test_the_strongest_verdict_that_applies_is_given(*, work, account_of, regime_of, flop, upper, plan_flop, verdict):
    """Else someone is told to sleep well while the line is behind them, or within what is not known."""
    finding = regime_of(1000).assess(account_of(work(flop), upper=upper), plan_flop=plan_flop)
    assert finding.verdict == verdict
    assert verdict in VERDICTS


@pytest.mark.parametrize(("operator", "verdict"), [(">", "near"), (">=", "above")])
def test_the_number_itself_passes_only_where_the_law_says_at_least(work, account_of, regime_of, operator, verdict):
    """Else Korea's duty starts one operation late, or Europe's one early."""
    assert regime_of(1000, operator=operator).assess(account_of(work(1000))).verdict == verdict


@pytest.mark.parametrize(("operator", "below", "at"), [(">", False, False), (">=", False, True)])
def test_thresholds_of_law_are_compared_to_the_last_operation(regime_of, operator, below, at):
    """Else a float comes in somewhere, and 10^25 is met nearly a billion operations late."""
    regime = regime_of(10**25, operator=operator)
    assert regime.is_passed_by(10**25 - 1) is below
    assert regime.is_passed_by(10**25) is at
    assert regime.is_passed_by(10**25 + 1) is True
    assert regime.is_passed_by(10**25 // 2 + 1, percent=50) is True


@pytest.mark.parametrize(
    ("flop", "upper", "conditions", "plan_counts", "status", "duty"),
    [
        (1001, 1001, (), False, "in use", "yes"),
        (1001, 1001, ("cost",), False, "in use", "unknown"),
        (10, None, (), False, "in use", "unknown"),
        (900, 900, (), False, "in use", "no"),
        (900, 900, (), True, "in use", "yes"),
        (900, 900, ("cost",), True, "in use", "unknown"),
        (10, 10, ("cost",), False, "in use", "no"),
        (1001, 1001, (), False, "never in force", "no"),
    ],
)
def test_number_and_conditions_together_give_the_duty(
    *, work, account_of, regime_of, flop, upper, conditions, plan_counts, status, duty
):
    """Else a number alone is taken for an obligation, or an obligation is missed for an unanswered question."""
    regime = regime_of(1000, conditions=conditions, plan_counts=plan_counts, status=status)
    plan_flop = 2000 if flop == 900 else None
    assert regime.assess(account_of(work(flop), upper=upper), plan_flop=plan_flop).duty == duty


def test_a_near_figure_obliges_to_nothing(work, account_of, regime_of):
    assert regime_of(1000).assess(account_of(work(900))).duty == "no"


def test_further_rules_are_other_readings_and_widen_the_interval(work, account_of, regime_of):
    account = account_of(work(100), work(40, phase="recompute"), work(7, purpose="evaluation"))
    finding = regime_of(1000, counts=("cumulative", "all-floating-point")).assess(account)
    assert (finding.flop, finding.lower, finding.upper) == (100, 100, 147)
    unbounded = regime_of(1000, counts=("cumulative", "all-floating-point")).assess(account_of(work(1), upper=None))
    assert unbounded.upper is None


def test_a_finding_travels_as_the_contract_says(work, account_of, regime_of):
    """Else programs that read the reports break."""
    regime = regime_of(1000, conditions=("cost",), counts=("cumulative",), allowed_error="0.30", deadline="soon")
    account = account_of(work(600), work(50, phase="recompute"), work(9, purpose="evaluation"))
    found = regime.assess(account).to_wire()
    assert wire.decode(wire.encode(found)) == {
        "regime": "demo.small",
        "verdict": "near",
        "flop": "600",
        "lower": "600",
        "upper": "609",
        "threshold": "1000",
        "operator": ">",
        "gross_flop": "659",
        "exclusions": [
            {"what": "recompute", "basis": "phase", "flop": "50"},
            {"what": "evaluation", "basis": "purpose", "flop": "9"},
        ],
        "conditions": [{"id": "cost", "text": "cost", "answer": "unknown"}],
        "duty": "no",
        "obligation": "none",
        "deadline": "soon",
        "source": "made up",
        "status": "in use",
        "allowed_error": "0.30",
    }


def test_an_unbounded_finding_travels_as_null(work, account_of, regime_of):
    found = regime_of().assess(account_of(work(1), upper=None)).to_wire()
    assert (found["upper"], found["deadline"], found["allowed_error"]) == (None, None, None)


def test_the_error_that_a_law_allows_never_enters_the_interval(work, account_of):
    """Else a figure 1 % below 10^25 is called above it, or the other way round, on no ground in the text."""
    regime = find("eu.gpai.systemic")
    finding = regime.assess(account_of(work(99 * 10**23)))
    assert regime.allowed_error == "0.30"
    assert (finding.lower, finding.upper, finding.verdict) == (99 * 10**23, 99 * 10**23, "near")


def test_recomputation_does_not_make_a_model_one_of_systemic_risk(work, account_of):
    """Else activation checkpointing alone triggers a notification to the Commission."""
    account = account_of(work(9 * 10**24), work(3 * 10**24, phase="recompute"))
    assert find("eu.gpai.systemic").assess(account).verdict == "near"
    assert find("eu.gpai.systemic").assess(account).gross_flop == 12 * 10**24


def test_a_message_is_one_sentence_for_people(work, account_of, regime_of):
    regime = regime_of(1000)
    assert regime.assess(account_of(work(10))).message == "demo.small: below (10 FLOP; the line is > 1000 FLOP)"
    assert regime.assess(account_of(work(10), upper=None)).message.endswith("nothing bounds what was not counted")
    assert regime.assess(account_of(work(10), upper=2000)).message.endswith("may come to 2000 FLOP")


@pytest.mark.parametrize(
    ("day", "status"),
    [
        (date(2023, 10, 29), "not yet in force"),
        (date(2023, 10, 30), "in force"),
        (date(2025, 1, 19), "in force"),
        (date(2025, 1, 20), "no longer in force"),
        (None, "no longer in force"),
    ],
)
def test_a_status_depends_on_the_day(day, status):
    """Else a law is applied before it begins or after it was revoked."""
    assert find("us.eo14110.model").status_on(day) == status


def test_a_law_that_was_never_in_force_never_is(work, account_of):
    regime = find("us.ca.sb1047")
    assert regime.is_live(date(2026, 11, 22)) is False
    assert regime.assess(account_of(work(10**27)), on=date(2026, 11, 22)).duty == "no"


def test_guidance_is_in_use_from_its_day_on():
    regime = find("eu.gpai.indicator")
    assert regime.status_on(date(2025, 8, 1)) == "not yet in force"
    assert regime.status_on(date(2025, 8, 2)) == "in use"
    assert regime.is_live(date(2026, 11, 22)) is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Demo Small"}, "id is 'Demo Small'"),
        ({"threshold": 0}, "threshold is 0"),
        ({"operator": "<"}, "operator is '<', not one of >, >="),
        ({"unit": "PF-days"}, "unit is 'PF-days'"),
        ({"status": "maybe"}, "status is 'maybe'"),
        ({"confidence": "high"}, "confidence is 'high'"),
        ({"allowed_error": "30 %"}, "allowed_error is '30 %'"),
        ({"conditions": ("a", "a")}, "conditions have an id twice"),
        ({"counts": ()}, "counts names no rule"),
        ({"counts": ("everything",)}, "counts names the rule 'everything'; there are training"),
        ({"counts": ("floating-point-and-integer",)}, "does not count the unit 'floating-point operations'"),
        ({"unit": "computational operations"}, "does not count the unit 'computational operations'"),
        ({"status": "in force"}, "in_force_from is missing"),
        ({"status": "never in force", "in_force_from": date(2025, 1, 1)}, "status is 'never in force'"),
        ({"in_force_from": date(2025, 1, 2), "in_force_until": date(2025, 1, 2)}, "in_force_until is 2025-01-02"),
        ({"in_force_from": date(2027, 1, 1)}, "by its dates it was 'not yet in force' on 2026-11-22"),
        ({"in_force_from": date(2024, 1, 1), "in_force_until": date(2025, 1, 1)}, "by its dates it was 'no longer"),
    ],
)
def test_a_regime_that_contradicts_itself_is_refused(regime_of, changes, message):
    """Else a file says two things, and the program picks one."""
    with pytest.raises(ValueError, match=message):
        regime_of(**changes)


def test_a_changed_fact_changes_the_digest(regime_of):
    """Else two parties with different laws cannot see why their findings differ."""
    assert regime_of(1000).digest == regime_of(1000).digest
    assert len({regime_of(1000).digest, regime_of(1001).digest, regime_of(operator=">=").digest}) == 3


def test_the_catalogue_is_in_order_and_each_file_is_named_after_its_id():
    """Else `--regime ID` finds another law than the one it prints."""
    ids = [regime.id for regime in catalogue()]
    assert ids == sorted(set(ids))
    assert [find(name).id for name in ids] == ids
    assert {"eu.gpai.indicator", "eu.gpai.systemic", "us.ca.sb53", "kr.safety"} <= set(ids)


def test_an_unknown_id_is_refused_with_those_there_are():
    with pytest.raises(UnknownRegimeError, match=r"no regime has the id 'eu\.gpai' \(there are eu\.gpai\.indicator, "):
        find("eu.gpai")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_to_ones_own_file_is_a_regime(tmp_path, kind):
    (tmp_path / "own.toml").write_text(OWN, encoding="utf-8")
    regime = find(kind(tmp_path / "own.toml"))
    assert (regime.id, regime.threshold, regime.conditions[0].id) == ("demo.small", 1000, "fun")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnknownRegimeError, match=r"none\.toml: the regime cannot be read: No such file"):
        find(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [('"1000"', "1e25", "threshold is the bare number 1e25"), ('">"', '"<"', "operator is '<'"), ("id", "\xff", "")],
)
def test_a_bad_file_is_refused_by_file_and_key(tmp_path, old, new, message):
    """Else a user hunts for a mistake that the program has already seen."""
    path = tmp_path / "own.toml"
    path.write_bytes(OWN.replace(old, new, 1).encode("latin-1"))
    with pytest.raises(UnknownRegimeError, match=rf"own\.toml: .*{message}") as caught:
        find(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)
