"""What several ranks tell of one device, added up once."""

import pytest

from flopmeter.errors import MalformedError
from flopmeter.holders import TWICE, Holders
from flopmeter.usage import DeviceUsage, Usage

SECOND = 1_000_000_000


def told(seconds, *, uuid="GPU-1", **fields):
    device = DeviceUsage(uuid=uuid, name="X", held_ns=seconds * SECOND, energy_mj=seconds * 100, **fields)
    return Usage((device,), ("a note",))


def at(second):
    return f"2026-11-27T10:{second // 60:02}:{second % 60:02}.000Z"


def added(*records):
    """Add records of (rank, begun, ended, usage)."""
    holders = Holders()
    for rank, begun, ended, usage in records:
        holders.add(rank, usage, begun=at(begun), ended=at(ended))
    return holders.usage()


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


def test_what_is_no_date_is_said():
    with pytest.raises(MalformedError, match="'yesterday' is no date"):
        Holders().add(0, told(1), begun="yesterday", ended=at(1))
