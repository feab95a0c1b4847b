"""What metering may cost, driven by a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmeter.sensors.budget import CALL_NS, COUNT_NS, GRACE_NS, MAX_ONE_IN, Budget

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def unhurried():
    """Here the budget is what is tested."""


@given(st.floats(0, 1), st.integers(0, 10**6), st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**7))
def test_rates_are_powers_of_two_or_none(share, calls, usual_ns, elapsed, spent):
    """Else the draws of two ranks are not nested, and each waits for the other's audits."""
    clock = Clock()
    budget = Budget(share, clock)
    clock.now += elapsed
    budget.hook_ns = spent
    one_in = budget.one_in(calls=calls, usual_ns=usual_ns)
    assert 0 <= one_in <= MAX_ONE_IN
    assert one_in & (one_in - 1) == 0


@pytest.mark.parametrize("calls", [1, 40, 1000])
def test_audits_take_half_of_what_is_left(clock, calls):
    """With more, the sum over many sorts of passages goes beyond the budget; with much less, the bound is loose."""
    budget = Budget(0.01, clock)
    clock.now += 100 * SECOND
    usual_ns = calls * 5_000
    one_in = budget.one_in(calls=calls, usual_ns=usual_ns)
    each = (calls * CALL_NS + COUNT_NS) / one_in / usual_ns
    assert 0.0025 < each <= 0.005


def test_what_costs_next_to_nothing_to_count_is_always_counted(clock):
    assert Budget(0.01, clock).one_in(calls=0, usual_ns=200 * COUNT_NS) == 1


def test_a_passage_without_calls_costs_something_to_count_all_the_same(clock):
    """The mode goes on and off: for a passage of a microsecond that is a hundred times its length."""
    assert Budget(0.01, clock).one_in(calls=0, usual_ns=1000) > 1000


def test_where_nothing_is_left_nothing_is_drawn(clock):
    """The budget is a promise."""
    budget = Budget(0.01, clock)
    clock.now += SECOND
    budget.hook_ns = SECOND // 100
    assert budget.one_in(calls=10, usual_ns=10**6) == 0
    assert Budget(0, clock).one_in(calls=10, usual_ns=10**6) == 0


def test_a_rate_that_is_nearly_never_is_never(clock):
    assert Budget(0.01, clock).one_in(calls=10**9, usual_ns=1) == 0


def test_what_was_spent_counts_what_the_hooks_took_and_what_calls_took_longer(clock):
    budget = Budget(0.01, clock)
    budget.hook_ns = 7
    budget.spend(calls=3)
    assert budget.spent_ns == 7 + 3 * CALL_NS


def test_counts_that_nobody_asked_chance_for_end_when_grace_is_used_up_until_it_is_saved_up_again(clock):
    """The whole run stays within the budget, not only what comes after its first counts."""
    budget = Budget(0.01, clock)
    budget.hook_ns = GRACE_NS // 2
    assert budget.can_afford(100)
    budget.hook_ns = GRACE_NS
    assert not budget.can_afford(100)
    clock.now += 29 * SECOND
    assert not budget.can_afford(100)
    clock.now += 2 * SECOND
    assert budget.can_afford(100)


def test_a_passage_however_dear_is_counted_a_few_times(clock):
    """Else it is never known."""
    budget, calls = Budget(0.01, clock), GRACE_NS // CALL_NS
    found = []
    for _ in range(6):
        found.append(budget.can_afford(calls))
        budget.spend(calls=calls * found[-1])
    assert found == [True] * 4 + [False] * 2


def test_what_counting_adds_to_a_call_is_learned(clock):
    budget = Budget(0.01, clock)
    for _ in range(60):
        budget.compare(calls=100, counted_ns=1_500_000, usual_ns=1_000_000)
    assert budget.call_ns == 5_000
    for _ in range(60):
        budget.compare(calls=100, counted_ns=4_000_000, usual_ns=1_000_000)
    assert budget.call_ns == pytest.approx(30_000, rel=0.01)


def test_what_is_learned_of_a_call_is_within_reason(clock):
    """One passage that waited for a disk must not end all counting, nor one that came out faster allow all of it."""
    budget = Budget(0.01, clock)
    budget.compare(calls=16, counted_ns=SECOND, usual_ns=1)
    assert budget.call_ns == 200_000
    other = Budget(0.01, clock)
    other.compare(calls=16, counted_ns=1, usual_ns=SECOND)
    assert other.call_ns == 2_000


def test_passages_of_few_calls_teach_nothing(clock):
    budget = Budget(0.01, clock)
    budget.compare(calls=15, counted_ns=SECOND, usual_ns=1)
    assert budget.call_ns == CALL_NS


def test_without_counting_a_passage_is_shorter_but_not_nothing(clock):
    budget = Budget(0.01, clock)
    assert budget.without(10, 1_000_000) == 1_000_000 - 10 * CALL_NS
    assert budget.without(10_000, 1_000_000) == 125_000


def test_the_hooks_are_weighed_over_the_time_since_they_last_were(clock):
    """A start that took long must not make the meter stingy for good."""
    budget = Budget(0.04, clock)
    assert budget.is_ample
    clock.now += SECOND
    budget.hook_ns += SECOND // 100
    budget.weigh_hooks(clock.now)
    assert not budget.is_ample
    budget.weigh_hooks(clock.now)
    assert not budget.is_ample, "no time has passed: nothing is said anew"
    clock.now += SECOND
    budget.hook_ns += SECOND // 101
    budget.weigh_hooks(clock.now)
    assert not budget.is_ample, "cheap because they look at little: to look at much would be too dear again"
    clock.now += SECOND
    budget.hook_ns += SECOND // 601
    budget.weigh_hooks(clock.now)
    assert budget.is_ample
