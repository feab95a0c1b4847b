"""Laws of findings: what is not known can only make an answer less sure, and nobody's word makes it surer."""

from collections import Counter
from dataclasses import replace
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from flopmeter.account import Account
from flopmeter.monitor import LEVELS, Monitor
from flopmeter.regimes.regime import OPERATORS, UNITS, Regime
from flopmeter.regimes.rules import RULES
from flopmeter.tally import BASES, PHASES, PURPOSES, OpCount, Tally, Uncounted
from flopmeter.usage import Usage

FLOP = st.integers(0, 2000)

op_counts = st.builds(
    OpCount,
    op=st.just("aten::mm"),
    kind=st.just("matmul"),
    phase=st.sampled_from(PHASES),
    purpose=st.sampled_from(PURPOSES),
    precision=st.just("bf16"),
    basis=st.sampled_from(BASES),
    calls=st.just(1),
    flop=FLOP,
    int_op=FLOP,
)
tallies = st.lists(op_counts, max_size=6).map(Tally.of)
missed = st.builds(Uncounted, op=st.just("mylib::attn"), calls=st.integers(1, 9), elements=FLOP)


def account_of(tally: Tally, slack: int | None, percent: int) -> Account:
    """Make an account in which so much of what was not counted may not have run."""
    unsure = Counter()
    for count in tally.counts:
        if count.basis != "counted":
            unsure[count.phase, count.purpose] += count.flop * percent // 100
    return Account(
        run="by-hand",
        ranks=1,
        steps=1,
        tokens=1,
        samples=0,
        tally=tally,
        usage=Usage(),
        lower=tally.flop - sum(unsure.values()),
        upper=None if slack is None else tally.flop + slack,
        gaps=(),
        model=None,
        passages={},
        unsure=unsure,
        unsure_passages=0,
        audits=0,
        misses=0,
        own_ns=0,
        metered_ns=0,
    )


PERCENT = st.integers(0, 100)
accounts = st.builds(account_of, tallies, st.none() | FLOP, PERCENT)


@st.composite
def regimes(draw) -> Regime:
    unit = draw(st.sampled_from(sorted(UNITS)))
    fitting = [rule.name for rule in RULES.values() if rule.counts_int_op is UNITS[unit]]
    return Regime(
        id="demo.small",
        title="A made-up regime",
        jurisdiction="nowhere",
        threshold=draw(st.integers(1, 5000)),
        operator=draw(st.sampled_from(OPERATORS)),
        unit=unit,
        counts=tuple(draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2, unique=True))),
        obligation="none",
        source="made up",
        as_of=date(2026, 11, 22),
        status="in use",
    )


plans = st.none() | st.integers(0, 9000)


@given(regimes(), accounts, missed, st.none() | FLOP, plans)
def test_an_uncounted_call_never_makes_an_answer_surer(regime, account, uncounted, more, plan_flop):
    """Else leaving a formula out of the book is a way to get below a threshold."""
    upper = None if account.upper is None or more is None else account.upper + more
    after = replace(account, tally=account.tally + Tally((), (uncounted,)), upper=upper)
    before = regime.assess(account, plan_flop=plan_flop).verdict
    assert regime.assess(after, plan_flop=plan_flop).verdict in {
        before,
        "above" if before == "above" else "cannot-tell",
    }


@given(regimes(), accounts, op_counts, PERCENT, plans)
def test_more_work_never_takes_a_run_back_from_above(regime, account, work, percent, plan_flop):
    """Else a run can train its way out of a law, or evaluate, where nobody audits, until nothing is sure."""
    upper = None if account.upper is None else account.upper + work.flop
    missing = 0 if work.basis == "counted" else work.flop * percent // 100
    unsure = Counter(account.unsure)
    unsure[work.phase, work.purpose] += missing
    after = replace(
        account,
        tally=account.tally + Tally.of([work]),
        lower=account.lower + work.flop - missing,
        upper=upper,
        unsure=unsure,
    )
    if regime.assess(account, plan_flop=plan_flop).verdict == "above":
        assert regime.assess(after, plan_flop=plan_flop).verdict == "above"


@given(regimes(), accounts)
def test_a_figure_lies_in_its_interval_and_leaves_nothing_unsaid(regime, account):
    """Else a report shows a figure outside what it says is known, or work vanishes between two lines."""
    finding = regime.assess(account)
    assert 0 <= finding.lower <= finding.flop
    assert finding.upper is None or finding.flop <= finding.upper
    executed = account.flop + (account.int_op if regime.counts_int_op else 0)
    assert finding.gross_flop == executed
    assert finding.flop + sum(exclusion.flop for exclusion in finding.exclusions) == executed


@given(regimes(), accounts, st.sampled_from(PURPOSES))
def test_a_claim_never_lowers_the_upper_end(regime, account, purpose):
    """Else calling everything an evaluation turns `cannot-tell` into `below`."""
    unsure = Counter()
    for (phase, _), flop in account.unsure.items():
        unsure[phase, purpose] += flop
    counts = [replace(count, purpose=purpose) for count in account.tally.counts]
    claimed = replace(account, tally=Tally.of(counts), unsure=unsure)
    before, after = regime.assess(account), regime.assess(claimed)
    assert after.upper == before.upper
    if before.verdict == "cannot-tell":
        assert after.verdict in {"cannot-tell", "above"}


@given(regimes(), accounts)
def test_a_verdict_below_holds_wherever_the_truth_lies(regime, account):
    finding = regime.assess(account)
    if finding.verdict in {"below", "near"}:
        assert finding.upper is not None
        assert not regime.is_passed_by(finding.upper)


@given(regimes(), st.lists(FLOP, max_size=8), st.integers(0, 8))
def test_wherever_a_run_is_cut_the_same_levels_are_warned_of_once(regime, amounts, cut):
    """Else a restart repeats warnings or loses them."""
    totals = [sum(amounts[: n + 1]) for n in range(len(amounts))]
    whole = Monitor([regime])
    expected = [(w.regime, w.percent) for total in totals for w in whole.observe(flop=total)]
    first = Monitor([regime])
    found = [(w.regime, w.percent) for total in totals[:cut] for w in first.observe(flop=total)]
    again = Monitor([regime], already=found)
    found += [(w.regime, w.percent) for total in totals[cut:] for w in again.observe(flop=total)]
    assert found == expected
    assert [percent for _, percent in found] == list(LEVELS[: len(found)])


@given(regimes(), accounts)
def test_a_finding_above_never_comes_without_its_warning(regime, account):
    """Else a run ends above a threshold that nobody was warned of."""
    warned = Monitor([regime]).observe(flop=account.flop, int_op=account.int_op)
    if regime.assess(account).verdict == "above":
        assert [warning.percent for warning in warned] == list(LEVELS)
