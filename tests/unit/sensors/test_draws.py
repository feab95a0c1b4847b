"""Draws: nested, alike on all ranks, as often as is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmeter.sensors.draws import Draws, mix

POSITIONS = 20_000


def drawn(seed: int, one_in: int, *, step: int = 0, positions: int = 500) -> set[int]:
    draws = Draws(seed)
    draws.step = step
    found = set()
    for at in range(1, positions + 1):
        draws.at = at
        if draws.is_drawn(one_in):
            found.add(at)
    return found


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**9), st.integers(0, 8), st.integers(0, 8))
def test_who_draws_less_often_draws_among_the_same(seed, step, one, other):
    """Else ranks that can afford different rates wait for each other's audits."""
    few, many = drawn(seed, 1 << max(one, other), step=step), drawn(seed, 1 << min(one, other), step=step)
    assert few <= many


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_the_same_is_drawn_for_equal_seed_step_and_place(seed, step):
    """Else nobody can say afterwards what had to be drawn."""
    assert drawn(seed, 8, step=step) == drawn(seed, 8, step=step)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([0, 1, 2, 8])), max_size=30))
def test_what_was_asked_before_changes_no_draw(asked):
    """Ranks meet places that others do not, and ask at other rates."""
    draws = Draws(5)
    for draws.step, draws.at, one_in in asked:
        fresh = Draws(5)
        fresh.step, fresh.at = draws.step, draws.at
        assert draws.is_drawn(one_in) == fresh.is_drawn(one_in)


@pytest.mark.parametrize("one_in", [2, 32, 64, 1024])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_draws_come_as_often_as_is_said(seed, one_in):
    """Five standard deviations: the interval counts on the chance that is stated."""
    expected = POSITIONS / one_in
    assert abs(len(drawn(seed, one_in, positions=POSITIONS)) - expected) < 5 * expected**0.5


@pytest.mark.parametrize("one_in", [2, 32])
def test_the_first_passages_of_steps_are_drawn_as_often_as_any(one_in):
    """A run of one passage a step has no others."""
    found = sum(bool(drawn(7, one_in, step=step, positions=1)) for step in range(POSITIONS))
    assert abs(found - POSITIONS / one_in) < 5 * (POSITIONS / one_in) ** 0.5


def test_no_chance_and_certainty_are_not_left_to_chance():
    assert drawn(3, 0) == set()
    assert len(drawn(3, 1)) == 500


def test_other_seeds_and_steps_draw_elsewhere():
    assert len({frozenset(drawn(seed, 8, step=step)) for seed in range(4) for step in range(4)}) == 16


def test_mixing_is_the_output_function_of_splitmix64():
    """First outputs of the reference implementation, seeded with 0: what an auditor's library gives."""
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("rates", [(4, 64, 0), (0, 0, 16), (1, 1, 1), (1 << 20, 0, 1 << 20)])
def test_the_first_step_with_a_drawn_passage_is_the_one_that_a_look_at_each_finds(rates):
    """If this failed, a step that is drawn would go by uncounted wherever steps are alike."""
    draws, turns = Draws(7), (1, 2, 3)

    def is_drawn(step):
        draws.step = step
        for turn, one_in in zip(turns, rates, strict=True):
            draws.at = turn
            if draws.is_drawn(one_in):
                return True
        return False

    for begin in (0, 1, 40, 1000):
        drawn = [step for step in range(begin, begin + 50) if is_drawn(step)]
        assert draws.find_step(begin, 50, turns, rates) == min(drawn, default=begin + 50)


def test_where_nothing_can_be_drawn_no_step_is_ever_found():
    assert Draws(7).find_step(0, 64, (1, 2), (0, 0)) > 1 << 60
