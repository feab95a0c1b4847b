"""A rota finds what changed, and says no more than it knows of when: driven by hand, no torch."""

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmeter.sensors.rota import MAX_NEW, MAX_STATES, MAX_VALUES, NEW_IN, Change, Rota, plain


class Mode(enum.StrEnum):
    FAST = "fast"
    SLOW = "slow"


class Thing:
    def __init__(self, shape=None) -> None:
        if shape is not None:
            self.shape = shape


def rota_over(things: list, *, always: int = 0) -> Rota:
    return Rota([lambda index=index: (things[index],) for index in range(len(things))], always=always)


def test_what_is_looked_at_each_time_is_certain():
    things = [0] * 10
    rota = rota_over(things, always=2)
    for now in range(1, 8):
        assert rota.look(now, 2) is None
    things[1] = 5
    assert rota.look(8, 2) == Change(doubted_since=None)


def test_what_is_new_beside_what_is_looked_at_each_time_came_with_it():
    """`eval()` switches every part: to doubt what was booked before at each evaluation would leave little sure."""
    things = [0] * 10
    rota = rota_over(things, always=1)
    rota.look(1, 2)
    things[:] = [1] * 10
    assert rota.look(2, 2) == Change(doubted_since=None)
    assert rota.look(3, 2) is None


def test_other_changes_are_seen_within_one_round_and_doubted_since_the_last_but_one():
    things = [0] * 10
    rota = rota_over(things)
    for now in range(1, 16):  # five looks a round: they end at 5, 10 and 15
        assert rota.look(now, 2) is None
    things[1] = 5
    assert rota.look(16, 2) == Change(doubted_since=10)


def test_a_look_at_everything_does_not_take_doubts_away_that_it_found():
    """At a step's record everything is looked at: a change found there may be as old as one found in turn."""
    things = [0] * 10
    rota = rota_over(things)
    for now in range(1, 13):
        rota.look(now, 2)
    things[1] = 5
    assert rota.look(13) == Change(doubted_since=5)
    things[1] = 6
    assert rota.look(14) == Change(doubted_since=None), "all was seen at 13"
    things[:] = [7] * 10
    assert rota.look(15, 2) == Change(doubted_since=14), "there may have been passages without a look in between"


def test_few_things_are_all_looked_at_each_time():
    things = [0] * 3
    rota = rota_over(things)
    things[2] = 1
    assert rota.look(1, 5) == Change(doubted_since=None)


LOOKS = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(0, 8), max_size=1)),
    min_size=1,
    max_size=60,
)


@given(st.integers(1, 9), LOOKS)
def test_no_change_is_older_than_it_is_said_to_be(number, looks):
    """Else figures that are wrong are booked as sure. A change comes after a look, and holds from then on."""
    things, changed, value = [0] * number, {}, 1
    rota = rota_over(things)
    last = 0
    for now, (count, touched) in enumerate(looks, 1):
        change = rota.look(now, count)
        if change is not None:
            assert changed
            since = last if change.doubted_since is None else change.doubted_since
            assert since <= min(changed.values())
            changed = {}
        elif count == 0 or count >= number:
            assert not changed
        for index in touched:
            if index < number and value <= MAX_VALUES - 1:
                things[index] = value
                value += 1
                changed.setdefault(index, now)
        last = now


def test_equal_states_are_told_by_equal_numbers():
    """A model put back is the one that was counted."""
    things = [False] * 4
    rota = rota_over(things)
    first = rota.state
    things[3] = True
    rota.look(1)
    assert rota.state != first
    things[3] = False
    rota.look(2)
    assert rota.state == first


def test_a_counter_is_looked_at_no_more_and_that_is_told():
    things = [0, "a"]
    rota = rota_over(things)
    for value in range(1, MAX_VALUES):
        things[0] = value
        assert rota.look(value) is not None
        assert not rota.is_blind
    things[0] = MAX_VALUES
    assert rota.look(50) is not None
    assert rota.is_blind
    state = rota.state
    things[0] = 1000
    assert rota.look(51) is None
    assert rota.state == state
    things[1] = "b"
    assert rota.look(52) is not None, "the others still are"


def test_values_that_come_back_are_no_counter():
    things = [0]
    rota = rota_over(things)
    for turn in range(1, 100):
        things[0] = turn % MAX_VALUES
        assert rota.look(turn) is not None
    assert not rota.is_blind


def test_the_table_of_states_is_bounded_and_no_number_is_given_twice():
    """A number given twice would replay one model as another."""
    things = [0] * 16
    rota = rota_over(things)
    numbers = {rota.state}
    for turn in range(1, MAX_STATES + 50):
        things[:] = [bool(turn >> bit & 1) for bit in range(16)]
        for _ in range(NEW_IN + 1):  # not too often
            rota.look(turn)
        numbers.add(rota.state)
    assert len(numbers) == MAX_STATES + 50
    assert len(rota._states) <= MAX_STATES


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((True, False), (3, 4), ("a", "b"), (None, "None"), (0.0, 0.5), (0.5, 1.0), ((1, 2), (1, 3))),
        *((Mode.FAST, Mode.SLOW), (Thing((2, 3)), Thing((2, 4))), (Thing(), "Thing()")),
    ],
)
def test_values_that_can_change_a_cost_are_told_apart(one, other):
    assert plain(one) == plain(one)
    assert plain(one) != plain(other)
    hash(plain(one))


@pytest.mark.parametrize(("one", "other"), [(0.3, 0.4), ((0.3,), (0.4,)), (Thing(), Thing()), ([1], [2])])
def test_rates_and_objects_are_not(one, other):
    """A learning rate is new at each step and changes no cost; of an object nothing may be kept."""
    assert plain(one) == plain(other)


def test_what_is_new_too_often_is_looked_at_no_more():
    """Each state would be a situation of its own: gradients that are there or not as tokens choose their experts."""
    things = [0] * 12
    rota = rota_over(things, always=1)
    for now in range(1, 200):
        things[1:] = [now >> bit & 1 for bit in range(11)]
        rota.look(now)
    assert rota.is_blind
    state = rota.state
    things[1:] = [1] * 11
    assert rota.look(200) is None
    assert rota.state == state
    things[0] = 5
    assert rota.look(201) == Change(doubted_since=None), "what is looked at each time still is"
    assert rota.state != state


def test_many_states_over_a_long_time_are_told_apart():
    """A model that is thawed layer by layer has as many, and each is what it is."""
    things = [0] * (2 * MAX_NEW)
    rota = rota_over(things)
    for index in range(2 * MAX_NEW):
        things[index] = 1
        for _ in range(2 * NEW_IN):
            rota.look(index)
    assert not rota.is_blind
    assert rota.state >= 2 * MAX_NEW
