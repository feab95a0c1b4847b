"""Pipe activity on a fake NVML library, by counts of cycles and by percentages. What a driver says is for tests/gpu."""

from dataclasses import replace

import pynvml
import pytest

from flopmeter.sensors import cycles, gpm
from flopmeter.sensors.nvml import NvmlSampler
from flopmeter.testing import fake_truth
from flopmeter.testing.fake_clusters import bad_hour, h100, sliced_h100
from flopmeter.testing.fake_devices import FakeMachine, Fault, Series
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.usage import Usage

SECOND = 1_000_000_000
PIPES = {number: name for number, name in gpm.CYCLES.items() if name != cycles.ELAPSED}


def sampled(machine, *, seconds=12, uuids=None, from_s=7200, skipped=()):
    """Sample once a second, but at the seconds in `skipped`; the driver was loaded at 0, the sampling begins later."""
    with FakeNvml(machine) as fake:
        fake.move_to(from_s)
        held = uuids or [device.uuid for device in machine.devices]
        sampler = NvmlSampler(lambda: held, clock_ns=fake.clock_ns)
        total = Usage()
        for second in range(seconds + 1):
            if second not in skipped:
                sampler.sample()
                total += sampler.read()
            fake.advance(1)
        sampler.stop()
        total += sampler.read()
        sampler._release()
        return total, fake.calls()


def one(*faults, **fields):
    return FakeMachine((replace(h100(), **fields),), faults=faults)


def counted(machine, index, number, from_ns, to_ns):
    """What is true, as a mean over the SMs."""
    device = machine.devices[index]
    whole = fake_truth.cycles_between(device, number, from_ns, to_ns)
    return whole / device.sms if device.gpm_cycles == "sum" else whole


FORMS = [("mean", False), ("sum", False), ("mean", True), ("sum", True)]


@pytest.mark.parametrize(("convention", "is_difference"), FORMS)
def test_cycles_are_those_of_the_counters_by_every_convention(convention, is_difference):
    """Clock and activity change between readings: the mean of both ends would miss it, a counter does not."""
    changing = Series.steps({0: 1755, 7203.3: 1200, 7203.8: 1980})
    machine = one(
        sm_clock=changing,
        gpm={**h100().gpm, 5: Series.steps({0: 44, 7205.2: 90, 7205.9: 10})},
        gpm_cycles=convention,
        gpm_is_difference=is_difference,
    )
    usage, _ = sampled(machine)
    (device,) = usage.devices
    span = (7201 * SECOND, 7212 * SECOND)  # in the first second the counter has no reading before
    begun = (7200 * SECOND, 7201 * SECOND)
    for number, name in PIPES.items():
        first = 1755 * 1_000_000 * fake_truth.gpm_mean(machine.devices[0], fake_truth.CYCLES_OF[number], *begun) / 100
        assert abs(device.pipes[name] - first - counted(machine, 0, number, *span)) <= (12 if is_difference else 2)
    assert abs(device.sm_cycles - 1755 * 1_000_000 - counted(machine, 0, 248, *span)) <= (12 if is_difference else 2)
    assert cycles.COUNTED[convention == "mean"] in device.note
    assert device.basis("pipes") == device.basis("sm_cycles") == "measured"


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_a_bad_hour_of_eight_devices_is_recovered_to_the_cycle(convention):
    """To two cycles a stretch without a hole: each end is rounded down, and the first second is from percentages."""
    machine = bad_hour()
    devices = [replace(device, gpm_cycles=convention) for device in machine.devices]
    machine = replace(machine, devices=tuple(devices))
    usage, _ = sampled(machine, seconds=3600, from_s=0)
    found = {device.uuid: device for device in usage.devices}
    for index, device in enumerate(machine.devices):
        ours = found[device.uuid]
        seen_ns = ours.held_ns
        whole = {name: counted(machine, index, number, 0, seen_ns) for number, name in PIPES.items()}
        elapsed = counted(machine, index, 248, 0, seen_ns)
        if index == 5:  # its counters restarted between two readings, which nobody can divide
            assert ours.missing["pipes"] == SECOND
            assert cycles.RESET in ours.note
            at_s = next(second for second in (1199, 1200, 1201) if _is_without(machine, second, ours, whole))
            assert at_s in {1199, 1200}
            continue
        assert (ours.basis("pipes") == "measured") == (index != 3)
        assert ours.lacks("pipes") == 0
        assert {name: abs(ours.pipes[name] - cycles_) <= 2 for name, cycles_ in whole.items()} == dict.fromkeys(
            whole, True
        )
        assert abs(ours.sm_cycles - elapsed) <= 2


def _is_without(machine, second, ours, whole):
    lost = counted(machine, 5, 250, second * SECOND, (second + 1) * SECOND)
    return abs(ours.pipes["tensor"] - whole["tensor"] + lost) <= 4


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_a_hole_takes_nothing_away_from_what_the_device_counted(convention):
    """Else a process that was stopped for a minute has a minute of unknown pipes, which the device knows."""
    usage, _ = sampled(one(gpm_cycles=convention), seconds=80, skipped=range(10, 70))
    (device,) = usage.devices
    assert (device.basis("pipes"), device.basis("sm_cycles")) == ("measured", "measured")
    assert device.basis("busy_ns") == "partial"
    assert device.pipes["tensor"] == pytest.approx(80 * 0.46 * 1740e6, abs=3)
    by_percent, _ = sampled(one(), seconds=80, skipped=range(10, 70))
    assert by_percent.devices[0].basis("pipes") == "partial"


def test_a_slice_counts_its_own_sms():
    machine = sliced_h100()
    machine = replace(machine, devices=(replace(machine.devices[0], gpm_cycles="sum"),))
    uuid = machine.devices[0].migs[0].uuid
    usage, _ = sampled(machine, uuids=[uuid])
    (device,) = usage.devices
    assert cycles.COUNTED[False] in device.note
    assert device.pipes["tensor"] == pytest.approx(12 * 0.30 * 1740e6, abs=3)


def test_pipes_without_a_counter_come_from_their_percentages():
    faults = [Fault(f"metric:{number}", code=pynvml.NVML_ERROR_NOT_SUPPORTED) for number in (257, 258, 259, 260)]
    usage, _ = sampled(one(*faults, gpm_cycles="mean"))
    (device,) = usage.devices
    assert set(device.pipes) == set(gpm.PIPES.values())
    assert device.pipes["integer"] == pytest.approx(12 * 0.11 * 1740e6, abs=20)
    assert device.basis("pipes") == "measured"


def test_without_percentages_the_counters_do():
    faults = [Fault(f"metric:{number}", is_nan=True) for number in gpm.PIPES]
    usage, _ = sampled(one(*faults, gpm_cycles="mean"))
    (device,) = usage.devices
    assert device.missing["pipes"] == SECOND, "the first second, of which counters say nothing"
    assert device.pipes["tensor"] == pytest.approx(11 * 0.46 * 1740e6, abs=3)


def test_a_driver_without_counters_is_asked_for_them_a_few_times_only():
    usage, calls = sampled(one(), seconds=40)
    assert calls["nvmlGpmMetricsGet"] == 40 + gpm.TRIES
    assert usage.devices[0].note == ""


def test_where_percentages_and_counters_disagree_it_is_said_and_the_percentages_stand(monkeypatch):
    """Made by a driver whose counts of one pipe are those of another: what a count is nobody documents."""
    monkeypatch.setattr(gpm, "CYCLES", gpm.CYCLES | {257: "fp64", 258: "integer"})
    usage, _ = sampled(one(gpm_cycles="mean"))
    (device,) = usage.devices
    assert cycles.DISAGREE in device.note
    assert device.pipes["fp64"] == 0
    assert device.pipes["integer"] == pytest.approx(12 * 0.11 * 1740e6, abs=20)


@pytest.mark.parametrize(
    ("target", "is_nan"), [("metric:248", True), ("metric:250", True), ("nvmlGpmSampleGet", False)]
)
def test_what_is_not_told_for_a_while_is_not_counted_twice_and_not_missed_unsaid(target, is_nan):
    code = 0 if is_nan else pynvml.NVML_ERROR_NO_PERMISSION
    fault = Fault(target, code=code, is_nan=is_nan, from_s=7204.5, until_s=7208.5)
    (device,) = sampled(one(fault, gpm_cycles="mean"))[0].devices
    per_second = 0.46 * 1740e6
    known_ns = 12 * SECOND - device.lacks("pipes")
    assert device.pipes["tensor"] == pytest.approx(per_second * known_ns / SECOND, abs=12)
    assert (device.lacks("pipes") > 0) == (target == "nvmlGpmSampleGet")


@pytest.mark.parametrize("convention", ["mean", "sum"])
@pytest.mark.parametrize(
    "site", ["nvmlGpmMetricsGet", "nvmlDeviceGetNumGpuCores", "nvmlDeviceGetAttributes_v2", "metric:248", "metric:250"]
)
def test_whatever_a_call_answers_no_figure_differs_without_a_word(convention, site):
    """With one call of each second for percentages and one for cycles, either may be the one that fails."""
    whole = sampled(one(gpm_cycles=convention))[0].devices[0]
    for code in (2, 3, 4, 15, 999):
        for from_call, calls in ((1, 0), (3, 2), (4, 1), (7, 0)):
            fault = Fault(site, code=code, from_call=from_call, calls=calls)
            (device,) = sampled(one(fault, gpm_cycles=convention))[0].devices
            assert device.held_ns == whole.held_ns
            if device.basis("pipes") == "measured":
                for name, figure in device.pipes.items():
                    assert abs(figure - whole.pipes[name]) <= 24, (site, code, name)
            assert device.basis("sm_cycles") == "measured"
