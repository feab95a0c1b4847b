"""What lies between two readings of a device's counts of cycles, by whatever convention it keeps them."""

import pytest

from flopmeter.sensors.cycles import (
    COUNTED,
    DISAGREE,
    ELAPSED,
    RESET,
    STILL,
    TOO_MANY,
    UNCLEAR,
    CycleCounter,
    make_activity,
)

SECOND = 1_000_000_000
SMS = 132
CLOCK = (1000, 1000)
PER_SECOND = 1000 * 1_000_000


def readings(per_second, *, sms=1, since_boot_s=50_000, is_total=True, seconds=6, tensor_percent=40):
    """Return what a device says each second: totals since boot, or what was added."""
    whole = per_second * sms
    for second in range(seconds):
        elapsed = whole * (since_boot_s + second if is_total else 1)
        yield {ELAPSED: float(elapsed), "tensor": float(elapsed * tensor_percent // 100)}


def taken(counter, said, clocks=CLOCK, ns=SECOND):
    return [counter.take(one, clocks, ns) for one in said]


@pytest.mark.parametrize("is_total", [True, False])
@pytest.mark.parametrize("sms", [1, SMS])
def test_the_convention_is_found_out_by_the_clock(sms, is_total):
    """Else a device that sums over its SMs is one that did 132 times its peak."""
    counter = CycleCounter(lambda: SMS)
    first, *later = taken(counter, readings(PER_SECOND, sms=sms, is_total=is_total))
    assert first is None
    assert later == [{ELAPSED: PER_SECOND, "tensor": PER_SECOND * 40 // 100}] * 5
    assert counter.notes == {COUNTED[sms == 1]}


def test_without_the_number_of_sms_a_sum_is_not_used():
    counter = CycleCounter(lambda: None)
    assert taken(counter, readings(PER_SECOND, sms=SMS)) == [None] * 6
    assert counter.notes == {UNCLEAR}


@pytest.mark.parametrize("times", [2, 8, 66, 200])
def test_what_fits_no_convention_is_not_used(times):
    """A sum over clusters of SMs, or something that nobody has thought of, must not become a figure."""
    counter = CycleCounter(lambda: SMS)
    assert taken(counter, readings(PER_SECOND, sms=times)) == [None] * 6
    assert counter.notes == {UNCLEAR}


def test_a_total_that_might_be_a_difference_waits_for_the_next_reading():
    """A second after the driver was loaded the two look the same; taken wrongly, hours are counted each second."""
    counter = CycleCounter(lambda: SMS)
    found = taken(counter, readings(PER_SECOND, since_boot_s=0))
    assert [one is None for one in found] == [True, True, False, False, False, False]


@pytest.mark.parametrize("clocks", [(1000, 1200), (None, 1000), (1000, None), (0, 0)])
def test_nothing_is_concluded_from_a_clock_that_moves_or_is_not_known(clocks):
    counter = CycleCounter(lambda: SMS)
    assert taken(counter, readings(PER_SECOND), clocks) == [None] * 6
    assert taken(counter, readings(PER_SECOND, since_boot_s=50_006))[-1] is not None, "a later reading decides"
    assert taken(counter, readings(PER_SECOND, since_boot_s=50_012), clocks)[-1] is not None, "and it stays decided"


def test_idle_cycles_that_are_not_counted_decide_nothing():
    counter = CycleCounter(lambda: SMS)
    assert taken(counter, readings(PER_SECOND // 10)) == [None] * 6
    assert counter.notes == {UNCLEAR}


def decided(value=5e13):
    counter = CycleCounter(lambda: SMS)
    for step in range(2):
        counter.take({ELAPSED: value + step * PER_SECOND, "tensor": value / 2}, CLOCK, SECOND)
    return counter, value + PER_SECOND


def test_a_jump_is_no_cycles_after_the_convention_is_known_either():
    """Else one bad count is a year of full load."""
    counter, value = decided()
    assert counter.take({ELAPSED: value + 1e16, "tensor": value / 2}, CLOCK, SECOND) is None
    assert counter.notes == {UNCLEAR}
    again = counter.take({ELAPSED: value + 1e16 + PER_SECOND, "tensor": value / 2}, CLOCK, SECOND)
    assert again[ELAPSED] == PER_SECOND


def test_counters_that_go_backwards_are_unknown_for_that_stretch_only():
    """Else a reset is a huge number, or a negative one that ends the sum."""
    counter, _ = decided()
    assert counter.take({ELAPSED: 5.0, "tensor": 1.0}, CLOCK, SECOND) == {}
    assert counter.notes == {RESET}
    assert counter.take({ELAPSED: 5.0 + PER_SECOND, "tensor": 2.0}, CLOCK, SECOND) == {ELAPSED: PER_SECOND, "tensor": 1}


def test_counters_that_stand_still_are_not_used_until_they_have_moved_once():
    counter, value = decided()
    steps = [0, 3 * PER_SECOND, 4 * PER_SECOND]
    found = [counter.take({ELAPSED: value + step, "tensor": 0.0 + value / 2}, CLOCK, SECOND) for step in steps]
    assert found == [None, None, {ELAPSED: PER_SECOND, "tensor": 0}]
    counter.take({ELAPSED: value + 4 * PER_SECOND}, CLOCK, SECOND)
    assert counter.notes == {STILL}


CYCLES = {ELAPSED: 1000, "tensor": 400, "fp64": 7}


def activity(shares, cycles=CYCLES, clocks=CLOCK, ns=SECOND):
    notes = set()
    return make_activity(shares, cycles, clocks, ns, notes), notes


def test_more_active_cycles_than_there_were_are_none():
    found, notes = activity({}, CYCLES | {"tensor": 1011})
    assert (found.pipes, notes) == ({"fp64": 7}, {TOO_MANY})


def test_a_count_that_is_not_what_its_percentage_says_gives_way_to_it():
    """A counter of each of four tensor cores would call a quarter of the peak all of it."""
    found, notes = activity({"tensor": 40.0, "fp64": 0.7})
    assert (found.pipes, found.elapsed, notes) == ({"tensor": 400, "fp64": 7}, 1000, set())
    for count in (4 * 400, 100):
        found, notes = activity({"tensor": 40.0}, CYCLES | {"tensor": count})
        assert (found.pipes, notes) == ({"tensor": 400, "fp64": 7}, {DISAGREE})
    found, notes = activity({"fp64": 0.2})
    assert (found.pipes["fp64"], notes) == (2, {DISAGREE})


def test_a_pipe_without_a_counter_has_its_share_of_the_counted_cycles_and_without_any_that_of_the_clock():
    assert activity({"fp16": 50.0})[0].pipes == {"tensor": 400, "fp64": 7, "fp16": 500}
    found, _ = activity({"fp16": 50.0}, None)
    assert (found.pipes, found.elapsed) == ({"fp16": PER_SECOND // 2}, None)
    assert activity({"fp16": 50.0}, None, (None, 1000))[0] is None
    assert activity({}, None)[0] is None
    assert activity({"fp16": 50.0}, {})[0] is None, "the counters said what cannot be"


def test_a_pipe_that_is_not_told_at_both_ends_is_left_out():
    counter, value = decided()
    assert counter.take({ELAPSED: value + PER_SECOND, "fp64": 7.0}, CLOCK, SECOND) == {ELAPSED: PER_SECOND}
    assert counter.take({"tensor": 7.0}, CLOCK, SECOND) is None, "without all cycles there is no share"


def test_what_was_forgotten_is_followed_by_nothing():
    """Else a hole's cycles are added to a stretch that begins after it."""
    counter, value = decided()
    counter.forget()
    assert counter.take({ELAPSED: value + 60 * PER_SECOND, "tensor": value}, CLOCK, SECOND) is None
    assert counter.take({ELAPSED: value + 61 * PER_SECOND, "tensor": value}, CLOCK, SECOND) is not None


def test_a_sum_loses_nothing_to_division_over_many_readings():
    """Rounded each second, a month of sums would be short by millions of cycles for each pipe."""
    counter, whole = CycleCounter(lambda: SMS), 0
    for second in range(1001):
        elapsed = float((50_000 + second) * PER_SECOND * SMS)
        cycles = counter.take({ELAPSED: elapsed, "tensor": 131.0 * second}, CLOCK, SECOND)
        whole += cycles["tensor"] if cycles else 0
    assert abs(whole - 131 * 1000 // SMS) <= 1
