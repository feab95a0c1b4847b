"""Usage: what devices spent, where missing is never zero."""

import pytest

from flopmeter import wire
from flopmeter.errors import MalformedError
from flopmeter.usage import DeviceUsage, Usage


def test_a_device_that_never_answered_was_held_for_an_unknown_time():
    """Else a device that refuses every call counts as one that was held for no time."""
    for missing in ({"unseen_ns": 5}, {"edge_ns": 5}):
        never = DeviceUsage(uuid="GPU-1", name="x", held_ns=0, **missing)
        assert (never.known_held_ns, never.basis("held_ns"), Usage.of([never]).total("held_ns")) == (
            None,
            "missing",
            None,
        )
    assert DeviceUsage(uuid="GPU-1", name="x", held_ns=0).known_held_ns == 0


def device(uuid="GPU-1", **fields):
    return DeviceUsage(**{"uuid": uuid, "name": "a device", "held_ns": 10, "busy_ns": 5, "energy_mj": 7, **fields})


def test_stretches_of_one_device_are_added():
    assert device() + device(held_ns=1, busy_ns=2, energy_mj=3) == device(held_ns=11, busy_ns=7, energy_mj=10)


@pytest.mark.parametrize("figure", ["busy_ns", "energy_mj", "power_mj", "sm_cycles"])
def test_a_figure_missing_for_a_while_is_a_part_and_says_for_how_long(figure):
    """Else energy that was not measured for an hour is reported as if that hour had cost nothing."""
    known, unknown = device(**{figure: 5}), device(**{figure: None}, held_ns=3)
    for whole in (known + unknown, unknown + known):
        assert getattr(whole, figure) == 5
        assert whole.lacks(figure) == 3
        assert whole.basis(figure) == "partial"
        assert Usage.of([whole, device("GPU-2", **{figure: 5})]).total(figure) is None
        assert (whole + whole).lacks(figure) == 6
    assert (unknown + unknown).basis(figure) == "missing"
    assert (unknown + unknown).lacks(figure) == 6
    assert known.basis(figure) == "measured"


def test_held_time_that_nobody_knows_stays_unknown():
    assert (device() + device(held_ns=None)).held_ns is None
    assert Usage.of([device(), device("GPU-2", held_ns=None)]).total("held_ns") is None


def test_a_device_that_did_not_answer_has_no_total():
    """Else what ran on a device while its driver was gone is taken for nothing."""
    lost = device() + DeviceUsage(uuid="GPU-1", name="unknown", held_ns=0, unseen_ns=60)
    assert (lost.held_ns, lost.unseen_ns, lost.name, lost.basis("energy_mj")) == (10, 60, "a device", "partial")
    assert Usage.of([lost]).total("energy_mj") is None


def test_named_figures_are_added_name_by_name():
    whole = device(pipes={"tensor": 4}) + device(pipes={"tensor": 1, "fp64": 2}, throttled={"power cap": 9})
    assert whole.pipes == {"tensor": 5, "fp64": 2}
    assert whole.throttled == {"power cap": 9}
    assert whole.lacks("throttled") == 10
    assert DeviceUsage.from_wire(whole.to_wire()) == whole


def test_a_pipe_that_was_told_for_a_part_of_the_time_is_partly_known():
    """Else a pipe that a driver stops telling of is one that did nothing from then on."""
    both = DeviceUsage(uuid="GPU-1", name="X", held_ns=3, pipes={"tensor": 4, "hmma": 1})
    one = DeviceUsage(uuid="GPU-1", name="X", held_ns=5, pipes={"tensor": 7})
    whole = one + both + both
    assert (whole.pipes, whole.basis("pipes"), whole.lacks("pipes")) == ({"tensor": 15, "hmma": 2}, "partial", 5)
    assert (both + both).basis("pipes") == "measured"


def test_the_least_power_is_the_least_of_all_stretches():
    assert (device(least_mw=90) + device(least_mw=70) + device()).least_mw == 70
    assert device().least_mw is None


def test_usage_written_before_there_was_more_is_read():
    old = {"uuid": "GPU-1", "name": "x", "held_ns": "5", "busy_ns": None, "energy_mj": "3", "note": ""}
    assert DeviceUsage.from_wire(old) == DeviceUsage(uuid="GPU-1", name="x", held_ns=5, energy_mj=3)


def test_zero_is_a_measurement():
    assert device(busy_ns=0).basis("busy_ns") == "measured"
    assert Usage.of([device(busy_ns=0)]).total("busy_ns") == 0


def test_totals_run_over_devices_and_no_device_is_no_total():
    """Else a machine without NVIDIA devices reports zero joules."""
    assert Usage.of([device(), device("GPU-2")]).total("energy_mj") == 14
    assert Usage().total("energy_mj") is None


def test_devices_are_not_mixed_up():
    with pytest.raises(ValueError, match="GPU-2"):
        device() + device("GPU-2")
    with pytest.raises(TypeError):
        device() + 1
    with pytest.raises(TypeError):
        Usage() + 1


def test_devices_stand_in_the_order_of_their_ids_and_once():
    usage = Usage.of([device("GPU-2"), device("GPU-1"), device("GPU-2")])
    assert [one.uuid for one in usage.devices] == ["GPU-1", "GPU-2"]
    assert usage.devices[1].held_ns == 20


def test_notes_do_not_pile_up_over_a_long_run():
    """Else a note that comes back each step makes every line of a ledger longer than the one before."""
    total = device(note="a")
    for _ in range(50):
        total = total + device(note="b") + device(note="a") + device()
    assert total.note == "a; b"
    assert Usage.of([], ["x", "y", "x"]).notes == ("x", "y")


def test_usage_survives_the_wire():
    usage = Usage.of([device(busy_ns=None, note="no counter"), device("GPU-2")], ["no NVIDIA driver: it is a laptop"])
    assert Usage.from_wire(wire.decode_canonical(wire.encode(usage.to_wire()))) == usage


@pytest.mark.parametrize("wrong", ["", "-1", "1.5", True, [], "null"])
def test_a_figure_that_is_neither_null_nor_a_count_is_refused(wrong):
    """Else missing and zero become the same on the way."""
    with pytest.raises(MalformedError, match="energy_mj"):
        DeviceUsage.from_wire({**device().to_wire(), "energy_mj": wrong})


@pytest.mark.parametrize(
    "value", [None, {}, {"devices": []}, {"devices": [{}], "notes": []}, {"devices": [], "notes": [None]}]
)
def test_usage_with_a_field_missing_is_refused(value):
    with pytest.raises(MalformedError):
        Usage.from_wire(value)
