"""How often a place may ask to be counted."""

from flopmeter.sensors.place import COUNTS_IN_VAIN, MAX_OWED, OWED_IN, Place


def test_what_is_owed_is_the_most_that_was_asked_for():
    place = Place("me", is_trusted=True, owed=2)
    place.owe(4)
    place.owe(1)
    assert place.owed == 4


def test_a_place_of_which_values_decide_and_that_asked_too_often_asks_no_more():
    """Else one that varies without end has each rank of a job count in steps of its own."""
    place = Place("me", is_trusted=False, owed=0, owed_counts=MAX_OWED)
    place.owe(4)
    assert (place.owed, place.is_worn_out) == (0, True)


def test_what_witnesses_tell_apart_is_counted_as_far_as_the_budget_goes():
    """Layers that are dropped at random are thousands of programs, and each is known once it was counted."""
    place = Place("me", is_trusted=True, owed=0, owed_counts=MAX_OWED)
    place.owe(4)
    assert place.owed == 4


def test_what_went_well_for_long_may_ask_again():
    """Else a long run whose program changes now and then is not counted after the last change."""
    place = Place("me", is_trusted=False, owed=0, owed_counts=MAX_OWED, uncounted=OWED_IN)
    place.owe(4)
    assert (place.owed, place.is_worn_out) == (4, False)


def test_after_each_miss_it_asks_for_twice_as_many_and_at_last_seldom():
    place, asked = Place("me", is_trusted=True, owed=0), []
    for _ in range(100):
        place.owed = 0
        place.miss()
        asked.append(place.owed)
    assert asked[:8] == [4, 8, 16, 32, MAX_OWED, 0, 0, COUNTS_IN_VAIN]
    assert sum(asked[8:]) == 3 * COUNTS_IN_VAIN


def test_a_place_that_is_always_missed_asks_in_no_time_however_often():
    """Else a long run of passages that are all unlike is slower with each of them."""
    place = Place("me", is_trusted=True, owed=0, missed=10**9)
    place.miss()
    assert place.owed == 0
