"""What several ranks tell of one device, added up once."""

import pytest

from flopmeter.errors import MalformedError
from flopmeter.holders import KILLED, LEFT, TWICE, Holders
from flopmeter.usage import DeviceUsage, Usage

SECOND = 1_000_000_000


def told(seconds, *, uuid="GPU-1", **fields):
    device = DeviceUsage(uuid=uuid, name="X", held_ns=seconds * SECOND, energy_mj=seconds * 100, **fields)
    return Usage((device,), ("a note",))


def at(second):
    return f"2026-11-27T{10 + second // 3600}:{second // 60 % 60:02}:{second % 60:02}.000Z"


def added(*records, set_back_s=0, restarted_s=0):
    """Add records of (rank, begun, ended, usage); from the second rank on, clocks are set back or start anew."""
    holders = Holders()
    for rank, begun, ended, usage in records:
        wall, machine = (set_back_s, restarted_s) if rank else (0, 0)
        dates = at(begun - wall), at(ended - wall)
        span = (begun - machine) * SECOND, (ended - machine) * SECOND
        holders.add(rank, usage, dates=dates, machine_ns=span)
    return holders.usage()


def left(seconds):
    return Usage((DeviceUsage(uuid="GPU-1", name="unknown", held_ns=0, left_ns=seconds * SECOND),))


def test_records_of_one_rank_are_added():
    (device,) = added((0, 0, 10, told(10)), (0, 10, 20, told(10))).devices
    assert (device.held_ns, device.energy_mj, device.note) == (20 * SECOND, 2000, "")


def test_devices_of_several_ranks_are_several():
    usage = added((0, 0, 10, told(10)), (1, 0, 10, told(10, uuid="GPU-2")))
    assert usage.total("held_ns") == 20 * SECOND
    assert usage.notes == ("a note",)


def test_a_rank_that_takes_over_goes_on():
    """Else a device whose first reader was killed is one that did half."""
    (device,) = added((0, 0, 300, told(300)), (1, 280, 600, told(298))).devices
    assert (device.held_ns, device.basis("energy_mj")) == (598 * SECOND, "measured")


def test_a_device_that_two_ranks_told_of_at_once_counts_once():
    """Else two containers on one device are two devices' time, and twice its energy."""
    records = [(rank, start, start + 60, told(60)) for start in range(0, 600, 60) for rank in (0, 1)]
    (device,) = added(*records).devices
    assert (device.held_ns, device.energy_mj) == (600 * SECOND, 60_000)
    assert TWICE in device.note


def test_what_only_the_other_rank_saw_is_not_seen():
    (device,) = added((0, 0, 600, told(600)), (1, 300, 1200, told(900))).devices
    assert (device.held_ns, device.unseen_ns) == (900 * SECOND, 300 * SECOND)
    assert device.basis("energy_mj") == "partial"


def test_lives_of_one_rank_are_never_at_once():
    """A clock that was set back between two lives makes them look so."""
    (device,) = added((0, 0, 300, told(300)), (0, 0, 300, told(300))).devices
    assert device.held_ns == 600 * SECOND


@pytest.mark.parametrize("clocks", [{"set_back_s": 100}, {"restarted_s": 100}])
def test_a_clock_that_is_set_back_or_starts_anew_makes_nobody_overlap(clocks):
    """Else a rank that goes on after a correction of the clock loses what it did."""
    (device,) = added((0, 200, 300, told(100)), (1, 300, 400, told(100)), **clocks).devices
    assert (device.held_ns, device.basis("energy_mj")) == (200 * SECOND, "measured")


def test_even_short_readers_beside_a_long_one_are_seen():
    """Else sixty ranks with a second each make a minute of one."""
    records = [(0, 0, 3600, told(3600)), *((rank, 0, 2, told(2)) for rank in range(1, 30))]
    (device,) = added(*records).devices
    assert (device.held_ns, device.basis("energy_mj")) == (3600 * SECOND, "partial")


def test_what_was_left_to_a_rank_that_read_it_all_is_nothing_more():
    (device,) = added((0, 0, 60, told(60)), (1, 0, 60, left(59))).devices
    assert (device.held_ns, device.unseen_ns, device.left_ns, device.name) == (60 * SECOND, 0, 0, "X")
    assert device.basis("energy_mj") == "measured"


def test_what_was_left_to_a_rank_that_read_less_is_not_seen():
    """Else a rank that is stopped, or has closed its meter, makes the others' work impossible."""
    (device,) = added((0, 0, 10, told(3)), (1, 0, 10, left(8) + told(2))).devices
    assert (device.held_ns, device.unseen_ns) == (5 * SECOND, 5 * SECOND)
    assert LEFT in device.note
    (alone,) = added((1, 0, 10, left(8))).devices
    assert (alone.known_held_ns, alone.unseen_ns) == (None, 8 * SECOND)


def test_a_life_that_broke_off_is_said_of_its_devices():
    """Else what a killed process measured looks like all that its devices did."""
    holders = Holders()
    holders.add(0, told(10), dates=(at(0), at(10)), machine_ns=(0, 10 * SECOND))
    holders.add(1, told(10, uuid="GPU-2"), dates=(at(0), at(10)), machine_ns=(0, 10 * SECOND))
    holders.break_off(0)
    assert [device.note for device in holders.usage().devices] == [KILLED, ""]


def test_what_is_no_date_is_said():
    with pytest.raises(MalformedError, match="'yesterday' is no date"):
        Holders().add(0, told(1), dates=("yesterday", at(1)), machine_ns=(0, SECOND))
