"""Faults that a driver reports, on a fake NVML library. What a real driver reports is for a GPU to tell."""

import json
from dataclasses import replace

import pynvml
import pytest

from flopmeter.sensors import faults
from flopmeter.sensors.nvml import NvmlSampler
from flopmeter.testing.fake_clusters import eight_h100s, h100, lost_halfway, sliced_h100
from flopmeter.testing.fake_devices import FakeDriver, FakeMachine, Fault, Series
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.usage import DeviceUsage, Usage


def heard(machine, *, seconds=10, uuids=None):
    """Return what each stretch of a second said of each device, and the calls that were made."""
    with FakeNvml(machine) as fake:
        held = uuids or [device.uuid for device in machine.devices]
        sampler = NvmlSampler(lambda: held, clock_ns=fake.clock_ns)
        stretches = []
        for _ in range(seconds + 1):
            sampler.sample()
            stretches.append({device.uuid: device for device in sampler.read().devices})
            fake.advance(1)
        sampler._release()
        return stretches, fake.calls()


def of_one(device, **kwargs):
    stretches, _ = heard(FakeMachine((device,)), **kwargs)
    return [stretch[device.uuid] for stretch in stretches if stretch]


def test_an_xid_is_counted_where_it_came_and_named_once():
    """Else nobody can tell a run that a broken card slowed from one that did less."""
    stretches = of_one(replace(h100(), xid={2.2: 31, 2.5: 31, 2.7: 48, 6: 31}))
    assert [(at, dict(usage.faults)) for at, usage in enumerate(stretches) if usage.faults] == [
        (2, {"Xid 31": 2, "Xid 48": 1}),
        (5, {"Xid 31": 1}),
    ]
    whole = Usage.of(stretches).devices[0]
    assert whole.faults == {"Xid 31": 3, "Xid 48": 1}
    assert whole.note == "the driver reported Xid 31; the driver reported Xid 48"


def test_what_was_reported_travels_and_comes_back():
    fresh = DeviceUsage(uuid="GPU-1", name="a", held_ns=1)
    assert "faults" not in fresh.to_wire(), "ledgers of before say nothing of faults"
    told = replace(fresh, faults={"Xid 79": 2})
    assert DeviceUsage.from_wire(json.loads(json.dumps(told.to_wire()))) == told
    assert DeviceUsage.from_wire(fresh.to_wire()).faults == {}


def test_the_xid_of_a_device_that_falls_off_the_bus_is_heard_and_others_stay_heard():
    """The one that matters most comes as the device goes."""
    machine = lost_halfway(eight_h100s(), index=3, after_s=4)
    first = machine.devices[0]
    machine = replace(machine, devices=(replace(first, xid={7: 13}), *machine.devices[1:]))
    stretches, _ = heard(machine)
    usage = Usage.of(device for stretch in stretches for device in stretch.values())
    assert {device.uuid: dict(device.faults) for device in usage.devices if device.faults} == {
        machine.devices[3].uuid: {"Xid 79": 1},
        first.uuid: {"Xid 13": 1},
    }


def test_a_slice_hears_its_own_faults_and_those_of_the_whole_card():
    """Else a neighbour's broken program is in the records of a run that had nothing to do with it."""
    (card,) = sliced_h100().devices
    ours, theirs = (mig.uuid for mig in card.migs)
    for gi, hearers in ((9, {theirs}), (faults.EVERY_INSTANCE, {ours, theirs})):
        machine = FakeMachine((replace(card, xid={3: 31}, xid_gi=gi),))
        stretches, _ = heard(machine, uuids=[ours, theirs])
        usage = Usage.of(device for stretch in stretches for device in stretch.values())
        assert {device.uuid for device in usage.devices if device.faults} == hearers


@pytest.mark.parametrize(
    "machine",
    [
        FakeMachine((replace(h100(), has_events=False),)),
        FakeMachine((h100(),), driver=FakeDriver(missing=("nvmlDeviceGetSupportedEventTypes",))),
        FakeMachine((h100(),), driver=FakeDriver(missing=("nvmlEventSetCreate",))),
    ],
    ids=["no events", "old driver", "no sets"],
)
def test_without_events_one_note_is_the_most(machine):
    """Cards for desktops and virtual machines have none: a warning a second would be noise."""
    stretches, calls = heard(machine)
    notes = {device.note for stretch in stretches for device in stretch.values()}
    assert notes <= {"", faults.REFUSED}
    assert calls.get("nvmlEventSetWait_v2", 0) == 0


def test_without_permission_it_is_said_once_and_not_tried_each_second():
    fault = Fault("nvmlDeviceRegisterEvents", code=pynvml.NVML_ERROR_NO_PERMISSION)
    stretches, calls = heard(FakeMachine((h100(),), faults=(fault,)))
    assert {device.note for stretch in stretches for device in stretch.values()} == {faults.REFUSED}
    assert calls["nvmlDeviceRegisterEvents"] == calls["nvmlEventSetCreate"] == calls["nvmlEventSetFree"] == 1


def test_a_storm_is_taken_in_parts_and_its_numbers_are_bounded():
    """Else one bad driver holds up every reading and fills the ledger."""
    storm = {2 + index / 1000: 1000 + index for index in range(100)}
    stretches = of_one(replace(h100(), xid=storm), seconds=12)
    assert all(sum(usage.faults.values()) <= faults.BURST for usage in stretches)
    whole = Usage.of(stretches).devices[0]
    assert sum(whole.faults.values()) == 100
    assert len(whole.faults) == faults.MOST_NUMBERS + 1
    assert whole.faults[faults.OTHER_XIDS] == 100 - faults.MOST_NUMBERS


def test_errors_of_memory_are_counted_and_noted():
    device = replace(
        h100(),
        ecc_uncorrected=Series.steps({0: 5, 3: 7}),
        remapping_pending=Series.steps({0: 0, 3: 1}),
        remapping_failed=Series.steps({0: 0, 35: 1}),
        recovery_action=Series.steps({0: 0, 6: 5}),
    )
    whole = Usage.of(of_one(device, seconds=65)).devices[0]
    assert whole.faults == {"uncorrected ECC": 2, "double-bit ECC": 1}
    assert whole.note.split("; ") == [
        "memory errors that could not be corrected occurred",
        "rows of its memory are to be replaced at the next reset",
        "rows of its memory could not be replaced",
        "the driver asks for a recovery of the IMEX domain",
        "the driver reported double-bit ECC",
    ]


def test_what_an_undisturbed_device_says_is_no_note():
    assert {usage.note for usage in of_one(h100())} == {""}


def test_events_are_given_back_and_heard_anew_after_the_driver_was_lost():
    """A handle of before a loss is stale, and so is every set that it is in."""
    lost = Fault("*", code=pynvml.NVML_ERROR_UNKNOWN, from_s=3, until_s=16)
    device = replace(h100(), xid={30: 31})
    stretches, calls = heard(FakeMachine((device,), faults=(lost,)), seconds=35)
    assert Usage.of(stretch[device.uuid] for stretch in stretches if stretch).devices[0].faults == {"Xid 31": 1}
    assert calls["nvmlEventSetCreate"] >= 2
    assert calls["nvmlEventSetFree"] == calls["nvmlEventSetCreate"]


def test_a_wait_that_hangs_has_a_name():
    with FakeNvml(FakeMachine((h100(),), faults=(Fault("nvmlEventSetWait_v2", sleep_s=0.05),))) as fake:
        called = []
        sampler = NvmlSampler(lambda: [h100().uuid], clock_ns=fake.clock_ns)
        note, sampler._note_call = sampler._note_call, lambda what: (called.append(what), note(what))
        sampler.sample()
        sampler.sample()
        sampler._release()
    assert "Xid errors" in called
