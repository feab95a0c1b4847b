"""What a device spent between two readings, where its counters may restart, freeze, jump or be silent."""

import pytest

from flopmeter.sensors.reading import HOLE, IMPOSSIBLE, RESET, SILENT, STUCK, Activity, Reading, Spending

SECOND = 1_000_000_000


def spent(*readings):
    """Return what was spent from each reading to the next."""
    spending = Spending("GPU-1")
    assert spending.take(readings[0]) is None
    return [spending.take(reading) for reading in readings[1:]]


def at(second, **fields):
    return Reading(second * SECOND, **fields)


def test_a_first_reading_says_nothing():
    spending = Spending("GPU-1")
    assert spending.take(at(3, energy_mj=5)) is None
    assert spending.leave(4 * SECOND).edge_ns == SECOND
    assert spending.leave(5 * SECOND) is None


def test_the_same_reading_again_says_nothing_and_ends_nothing():
    """Else time passes for a source that shows its last figures until it has new ones."""
    spending, shown = Spending("GPU-1"), at(3, energy_mj=5)
    assert [spending.take(shown) for _ in range(3)] == [None] * 3
    assert spending.take(at(5, energy_mj=9)).energy_mj == 4


def test_energy_is_the_difference_whatever_lies_between():
    (one,) = spent(at(0, energy_mj=100), at(3600, energy_mj=2_000_100, power_mw=600, limit_mw=700_000))
    assert (one.held_ns, one.energy_mj) == (3600 * SECOND, 2_000_000)


def test_what_was_read_at_one_time_is_not_stretched_over_a_hole():
    """Else a minute in which the process was stopped is a minute at full load, because the next second was."""
    later = at(60, energy_mj=5, power_mw=9000, busy_percent=100, sm_mhz=1000, reasons=4, limit_mw=700_000)
    (one,) = spent(at(0, energy_mj=0, sm_mhz=1000), later)
    assert (one.energy_mj, one.busy_ns, one.power_mj, one.sm_cycles, one.throttled) == (5, None, None, None, None)
    assert one.note == HOLE


def test_an_edge_is_neither_held_nor_unseen():
    edge = Spending("GPU-1").edge(SECOND)
    assert (edge.held_ns, edge.unseen_ns, edge.edge_ns) == (0, 0, SECOND)
    (known,) = spent(at(0, energy_mj=0), at(1, energy_mj=5))
    assert (known + edge).basis("energy_mj") == "measured"


def test_a_first_reading_ends_the_time_since_the_device_was_last_seen_free():
    found = Spending("GPU-1", free_ns=SECOND, found_ns=2 * SECOND).take(at(3))
    assert (found.held_ns, found.unseen_ns, found.edge_ns) == (0, 0, 2 * SECOND)


def test_a_first_reading_that_fails_is_a_gap_since_the_device_was_found():
    """Else a driver that hangs in the very first call leaves no gap at all."""
    found = Spending("GPU-1", free_ns=SECOND, found_ns=2 * SECOND).miss(7 * SECOND, "it hangs")
    assert (found.held_ns, found.unseen_ns, found.edge_ns, found.note) == (0, 5 * SECOND, SECOND, "it hangs")


def test_a_reading_that_comes_back_after_it_was_given_up_is_not_told_twice():
    spending = Spending("GPU-1")
    spending.take(at(0))
    given_up, late, after = spending.miss(9 * SECOND, "it hangs"), spending.take(at(1)), spending.take(at(10))
    assert [one.unseen_ns for one in (given_up, late, after)] == [9 * SECOND, 0, SECOND]
    assert sum(one.held_ns for one in (given_up, late, after)) == 0


def test_a_limit_that_was_changed_in_between_is_the_higher_one():
    (lowered,) = spent(at(0, energy_mj=0, limit_mw=700), at(1, energy_mj=800, limit_mw=300))
    assert lowered.energy_mj == 800


def test_a_counter_that_restarts_is_missing_for_that_stretch_only():
    before, reset, after = spent(at(0, energy_mj=10), at(1, energy_mj=20), at(2, energy_mj=3), at(3, energy_mj=9))
    assert (before.energy_mj, reset.energy_mj, after.energy_mj) == (10, None, 6)
    assert reset.note == RESET
    whole = before + reset + after
    assert (whole.energy_mj, whole.lacks("energy_mj")) == (16, SECOND)


def test_a_counter_that_stands_still_is_missing_until_it_has_moved_once():
    """When it moves again, it may have made up for the time or not: nobody knows which."""
    readings = [at(second, energy_mj=mj, power_mw=500) for second, mj in enumerate([0, 1, 1, 1, 4, 5])]
    found = spent(*readings)
    assert [one.energy_mj for one in found] == [1, None, None, None, 1]
    assert found[1].note == STUCK


def test_no_energy_at_no_power_or_in_no_time_is_none_spent():
    (one,) = spent(at(0, energy_mj=5), at(1, energy_mj=5, power_mw=0))
    assert one.energy_mj == 0
    (short,) = spent(Reading(0, energy_mj=5), Reading(SECOND // 100, energy_mj=5, power_mw=500))
    assert short.energy_mj == 0, "counters move every 20 to 100 ms"


@pytest.mark.parametrize(("mj", "is_known"), [(840, True), (841, False)])
def test_more_than_the_power_limit_allows_is_no_energy(mj, is_known):
    (one,) = spent(at(0, energy_mj=0), at(1, energy_mj=mj, limit_mw=700))
    assert (one.energy_mj is not None) is is_known
    assert (one.note == IMPOSSIBLE) is not is_known


@pytest.mark.parametrize(
    ("mj", "ms", "is_known"), [(11_000_000, 1000, True), (13_000_000, 1000, False), (10**15, 100, False)]
)
def test_without_a_limit_or_in_a_moment_a_jump_is_no_energy_either(mj, ms, is_known):
    readings = Reading(0, energy_mj=0), Reading(ms * SECOND // 1000, energy_mj=mj)
    (one,) = spent(*readings)
    assert (one.energy_mj is not None) is is_known


def test_a_clock_is_held_down_for_no_longer_than_there_was_time():
    (jumped,) = spent(at(0, slowed_ns={"thermal": 0}), at(1, slowed_ns={"thermal": 10**18}))
    assert jumped.throttled is None


def test_silence_is_not_held_time():
    """Else a lost device is one that did nothing for an hour."""
    gap, back, known = spent(at(0, energy_mj=0), at(5, has_answered=False), at(9, energy_mj=50), at(10, energy_mj=60))
    assert [(one.held_ns, one.unseen_ns) for one in (gap, back, known)] == [
        (0, 5 * SECOND), (0, 4 * SECOND), (SECOND, 0)
    ]  # fmt: skip
    assert gap.note == SILENT
    assert (gap.energy_mj, back.energy_mj, known.energy_mj) == (None, None, 10)


def test_power_loses_nothing_to_rounding():
    """Else ten thousand short stretches each lose up to a millijoule."""
    readings = [Reading(index * 1_234_567, power_mw=333) for index in range(1001)]
    assert sum(one.power_mj for one in spent(*readings)) == 333 * 1_234_567 * 1000 // 10**9


def test_clocks_are_cycles_of_the_mean_of_both_ends():
    (one,) = spent(at(0, sm_mhz=1000), at(2, sm_mhz=2000))
    assert one.sm_cycles == 3 * 10**9
    (unknown,) = spent(at(0, sm_mhz=1000), at(2))
    assert unknown.sm_cycles is None


def test_activity_of_a_part_of_the_time_says_so():
    (one,) = spent(at(0), at(4, activity=Activity({"tensor": 7}, 3 * SECOND)))
    assert (one.pipes, one.lacks("pipes")) == ({"tensor": 7}, SECOND)


def test_cycles_that_the_device_counted_itself_are_known_over_a_hole_and_better_than_the_clock():
    counted = Activity({"tensor": 7}, 60 * SECOND, elapsed=90)
    (one,) = spent(at(0, sm_mhz=1000), at(60, sm_mhz=1000, activity=counted))
    assert (one.pipes, one.sm_cycles, one.note) == ({"tensor": 7}, 90, HOLE)
    (near,) = spent(at(0, sm_mhz=1000), at(1, sm_mhz=1000, activity=Activity({"tensor": 7}, SECOND, elapsed=90)))
    assert near.sm_cycles == 90
    (less,) = spent(at(0, sm_mhz=1000), at(2, sm_mhz=1000, activity=Activity({"tensor": 7}, SECOND, elapsed=90)))
    assert less.sm_cycles == 2 * 10**9


def test_throttling_is_told_by_counters_or_by_what_holds_now():
    (counted,) = spent(at(0, slowed_ns={"thermal": 5, "power cap": 1}), at(1, slowed_ns={"thermal": 9, "power cap": 1}))
    assert counted.throttled == {"thermal": 4}
    (restarted,) = spent(at(0, slowed_ns={"thermal": 5}), at(1, slowed_ns={"thermal": 2}))
    assert restarted.throttled is None
    (said,) = spent(at(0), at(1, reasons=0x4 | 0x1))
    assert said.throttled == {"power cap": SECOND}
    (one_lost,) = spent(at(0, slowed_ns={"thermal": 5, "power cap": 1}), at(1, slowed_ns={"thermal": 5}))
    assert one_lost.throttled is None
    (neither,) = spent(at(0), at(1))
    assert neither.throttled is None
