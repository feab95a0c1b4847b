"""The sampler on a fake NVML library, through the real bindings. What a real driver says is for tests/gpu."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pynvml
import pytest

from flopmeter.sensors import driver, nvml
from flopmeter.sensors.device import SHARED, WHICH_SLICE
from flopmeter.sensors.nvml import NO_DEVICE, NvmlSampler
from flopmeter.testing import fake_truth
from flopmeter.testing.fake_clusters import bad_hour, h100, sliced_h100
from flopmeter.testing.fake_devices import FakeDriver, FakeMachine, FakeProcess, Fault, Series
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.usage import FIGURES, Usage

SECOND = 1_000_000_000


def sampled(machine, *, seconds=6, uuids=None, period_s=1):
    """Sample a machine for so many seconds of its own clock; return the usage, the sampler and its calls."""
    with FakeNvml(machine) as fake:
        held = uuids if uuids is not None else [device.uuid for device in machine.devices]
        sampler = NvmlSampler(lambda: held, clock_ns=fake.clock_ns)
        total = Usage()
        for _ in range(int(seconds / period_s)):
            sampler.sample()
            total += sampler.read()
            fake.advance(period_s)
        sampler.sample()
        sampler.stop()
        total += sampler.read()
        sampler._release()
        return total, sampler, fake.calls()


def answering(*answers):
    """Return a look for devices that says these one after the other; for None it fails, as a broken torch does."""
    said = iter(answers)

    def find():
        found = next(said)
        if found is None:
            raise RuntimeError("CUDA error")
        return found

    return find


def one(**fields):
    return FakeMachine((replace(h100(), **fields),))


def test_a_bad_hour_of_eight_devices_is_recovered_to_the_millijoule_and_the_second():
    """One is lost halfway, one's counter restarts, one is held down: what is known is exact, the rest is named."""
    machine, hour_ns = bad_hour(), 3600 * SECOND
    usage, _, _ = sampled(machine, seconds=3600)
    found = {device.uuid: device for device in usage.devices}
    assert len(found) == 8
    for index, device in enumerate(machine.devices):
        ours = found[device.uuid]
        seen_ns = fake_truth.seen_ns(machine, index, 0, hour_ns)
        assert ours.held_ns + ours.unseen_ns == hour_ns
        assert seen_ns - SECOND <= ours.held_ns <= seen_ns
        assert ours.power_mj == fake_truth.energy_mj(device, 0, ours.held_ns)
        if ours.basis("energy_mj") == "measured":
            assert ours.energy_mj == fake_truth.energy_mj(device, 0, hour_ns)
    lost, restarted, slowed = (found[machine.devices[index].uuid] for index in (3, 5, 6))
    assert (lost.basis("energy_mj"), lost.unseen_ns) == ("partial", hour_ns - lost.held_ns)
    assert lost.energy_mj == fake_truth.energy_mj(machine.devices[3], 0, lost.held_ns)
    assert lost.note == "the device did not answer: GPU is lost; the driver reported Xid 79"
    assert [device.faults for device in found.values() if device.faults] == [{"Xid 79": 1}]
    assert restarted.missing == {"energy_mj": SECOND}
    restarted_at_s = 1200
    known = [(0, restarted_at_s * SECOND), ((restarted_at_s + 1) * SECOND, hour_ns)]
    around = [((restarted_at_s - 1) * SECOND, restarted_at_s * SECOND)]
    device = machine.devices[5]
    whole = fake_truth.energy_mj(device, 0, hour_ns)
    assert restarted.energy_mj in {
        whole - fake_truth.energy_mj(device, *span) for span in [(known[0][1], known[1][0]), *around]
    }  # the second in which it restarted
    assert slowed.throttled == {"power cap": 900 * SECOND, "thermal": 900 * SECOND}
    assert usage.total("energy_mj") is None, "no total where a part is unknown"


def test_a_script_says_so_and_nothing_else_does(monkeypatch):
    """Else eight H100s that nobody has stand in a signed attestation."""
    usage, _, _ = sampled(one())
    assert usage.notes == (driver.SCRIPTED,)
    monkeypatch.setattr(driver, "MARK", "a_symbol_that_no_library_has")
    usage, _, _ = sampled(one())
    assert usage.total("held_ns") == 6 * SECOND
    assert usage.notes == ()


def test_activity_is_cycles_of_the_measured_clock():
    machine = one(gpm={5: Series.steps({0: 50, 30: 20}), 7: 40}, sm_clock=1500)
    usage, sampler, _ = sampled(machine, seconds=60)
    (device,) = usage.devices
    assert device.sm_cycles == 60 * 1_500_000_000
    mean = fake_truth.gpm_mean(machine.devices[0], 5, 0, 60 * SECOND)
    assert device.pipes["tensor"] == pytest.approx(float(mean) / 100 * device.sm_cycles, rel=1e-9)
    assert device.pipes["hmma"] == pytest.approx(0.4 * device.sm_cycles, rel=1e-9)
    assert device.basis("pipes") == "measured"
    (fields,) = sampler.identities().values()
    assert fields["name"] == "NVIDIA H100 80GB HBM3"
    assert fields["pci"] == "0x233010de"


def test_a_second_read_does_not_count_twice():
    with FakeNvml(one()) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], clock_ns=fake.clock_ns)
        sampler.sample()
        fake.advance(1)
        sampler.sample()
        assert sampler.read().total("held_ns") == SECOND
        assert sampler.read().devices == ()


def test_a_counter_that_stands_still_under_load_is_missing_energy():
    """Else an hour of a stuck counter is an hour at no watts."""
    usage, _, _ = sampled(one(frozen_s=((10, 20),)), seconds=40)
    (device,) = usage.devices
    assert device.basis("energy_mj") == "partial"
    assert 9 * SECOND <= device.missing["energy_mj"] <= 12 * SECOND
    assert "stood still" in device.note
    assert device.power_mj == fake_truth.energy_mj(h100(), 0, 40 * SECOND)


def test_a_counter_that_jumps_is_not_believed():
    usage, _, _ = sampled(one(energy_offset=Series.steps({0: 0, 10: 10**9})), seconds=20)
    (device,) = usage.devices
    assert device.energy_mj < 10**9
    assert "more than the power limit" in device.note


def test_a_device_that_comes_back_goes_on_and_the_hole_is_a_gap():
    fault = Fault("*", code=pynvml.NVML_ERROR_UNKNOWN, from_s=10, until_s=30)
    usage, _, _ = sampled(FakeMachine((h100(),), faults=(fault,)), seconds=60)
    (device,) = usage.devices
    assert device.held_ns + device.unseen_ns == 60 * SECOND
    assert 20 * SECOND <= device.unseen_ns <= 45 * SECOND, "looked for again every ten seconds"
    assert "did not answer" in device.note
    assert device.basis("energy_mj") == "partial"


CODES = [*range(1, 30), 999]
SITES = sorted(
    {
        *("nvmlInitWithFlags", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"),
        *("nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetMigMode", "nvmlDeviceGetComputeRunningProcesses_v3"),
        *("nvmlDeviceGetSupportedEventTypes", "nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"),
        *("nvmlDeviceGetGpuFabricInfoV", "nvmlSystemGetConfComputeSettings", "nvmlSystemGetConfComputeState"),
        "nvmlEventSetFree",
        *("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetUtilizationRates"),
        *("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlGpmQueryDeviceSupport"),
        *("nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlGpmSampleFree", "nvmlShutdown"),
        *("nvmlDeviceGetName", "nvmlDeviceGetSerial", "nvmlDeviceGetBoardPartNumber", "nvmlDeviceGetPciInfo_v3"),
        *("nvmlDeviceGetVbiosVersion", "nvmlDeviceGetCudaComputeCapability", "nvmlSystemGetDriverVersion"),
        *("nvmlSystemGetCudaDriverVersion", "field:83", "field:185", "field:74", "field:269", "field:144", "metric:5"),
    }
)


def test_the_sweep_knows_every_call_of_the_sampler():
    """Else a new call is one that nobody has seen fail."""
    old = FakeDriver(missing=("nvmlDeviceGetFieldValues",))
    made = sampled(one())[2] | sampled(FakeMachine((h100(),), driver=old))[2]
    assert set(made) <= set(SITES)
    assert {site for site in SITES if site.startswith("nvml")} <= set(made)


@pytest.mark.parametrize("site", SITES)
def test_whatever_a_call_answers_the_sampling_goes_on_and_says_what_was_lost(site):
    """A figure that differs from an undisturbed run's without a word is one that somebody signs."""
    clean, _, _ = sampled(one())
    (whole,) = clean.devices
    for code in CODES:
        for from_call, calls in ((1, 0), (3, 2)):
            fault = Fault(site, code=code, from_call=from_call, calls=calls)
            usage, _, _ = sampled(FakeMachine((h100(),), faults=(fault,)))
            if not usage.devices:
                assert usage.notes
                continue
            (device,) = usage.devices
            assert device.held_ns + device.unseen_ns == whole.held_ns, (site, code)
            if device.pipes and device.basis("pipes") == "measured":  # one that was never told is not there
                assert {name: whole.pipes[name] for name in device.pipes} == device.pipes
            for figure in (figure for figure in FIGURES if figure != "pipes"):
                if getattr(device, figure) != getattr(whole, figure):
                    assert device.basis(figure) != "measured", (site, code, figure)
                    assert device.note, (site, code, figure)


def test_a_slice_has_its_own_activity_and_the_energy_of_its_card():
    machine = sliced_h100()
    slices = [mig.uuid for mig in machine.devices[0].migs]
    usage, sampler, _ = sampled(machine, uuids=slices[:1])
    (device,) = usage.devices
    assert device.uuid == slices[0]
    assert (device.busy_ns, device.energy_mj, device.power_mj) == (None, None, None)
    assert device.pipes["tensor"] > 0
    fields = sampler.identities()[slices[0]]
    assert fields["mig_parent"] == machine.devices[0].uuid
    assert int(fields["sms"]) == machine.devices[0].migs[0].sms
    assert "whole card" in device.note


def test_a_call_that_comes_back_late_is_a_gap_once():
    """Else the time in which nobody knew is told twice: while it hung, and when it came back."""
    fault = Fault("nvmlDeviceGetClockInfo", hangs=True, from_call=3, calls=1)
    with FakeNvml(FakeMachine((h100(),), faults=(fault,)), speed=1) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], period_s=0.05, watchdog_s=0.1, clock_ns=fake.clock_ns)
        sampler.start()
        time.sleep(0.5)
        hung = sampler.read()
        assert any("does not come back" in note for note in hung.notes)
        fake.release()
        time.sleep(0.4)
        sampler.stop()
        (device,) = (hung + sampler.read()).devices
        told_ns = device.held_ns + device.unseen_ns + device.edge_ns
        assert 0.3 * SECOND < device.unseen_ns < 0.9 * SECOND
        assert device.held_ns > 0.1 * SECOND
        assert told_ns == pytest.approx(fake.clock_ns(), abs=0.4 * SECOND)


def test_a_device_that_others_use_too_is_noted_and_nothing_is_divided():
    """Else the energy of eight jobs is signed as one's, without a word."""
    alone, _, _ = sampled(one(), seconds=4)
    crowd = tuple(FakeProcess(pid=pid) for pid in (7, 8, 9))
    usage, _, calls = sampled(one(processes=crowd), seconds=90)
    (device,) = usage.devices
    assert SHARED not in alone.devices[0].note
    assert SHARED in device.note
    assert device.basis("energy_mj") == "measured"
    assert calls["nvmlDeviceGetComputeRunningProcesses_v3"] == 4  # twice, each with a question for the size


def test_of_one_run_one_process_reads_a_device_and_another_takes_over(tmp_path, monkeypatch):
    """Else a device that eight ranks hold is billed eight times."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    claim = f"""import time
from flopmeter.sensors.claims import DeviceClaims
print(DeviceClaims("of-both").take("{h100().uuid}"), flush=True)
time.sleep(60)"""
    held = [h100().uuid]
    with FakeNvml(one()) as fake:
        with subprocess.Popen([sys.executable, "-c", claim], stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout.readline() == "True\n"
            sampler = NvmlSampler(lambda: held, run="of-both", clock_ns=fake.clock_ns)
            stranger = NvmlSampler(lambda: held, run="another", clock_ns=fake.clock_ns)
            for _ in range(3):
                sampler.sample()
                stranger.sample()
                fake.advance(1)
            (left,) = sampler.read().devices
            assert (left.held_ns, left.left_ns, left.unseen_ns) == (0, 2 * SECOND, 0)
            assert stranger.read().total("held_ns") == 2 * SECOND
            owner.kill()
            owner.wait()
        for _ in range(3):
            sampler.sample()
            fake.advance(1)
        (device,) = sampler.read().devices
        assert (device.held_ns, device.edge_ns) == (2 * SECOND, SECOND)


def test_whoever_has_stopped_reads_nothing_and_lets_others_read(tmp_path, monkeypatch):
    """Else a meter that was closed in a notebook keeps its devices from the run that goes on elsewhere."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    claim = f"from flopmeter.sensors.claims import DeviceClaims; print(DeviceClaims('run').take('{h100().uuid}'))"
    with FakeNvml(one(), speed=1) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], run="run", period_s=0.05, clock_ns=fake.clock_ns)
        sampler.start()
        time.sleep(0.2)
        command = [sys.executable, "-c", claim]
        held = subprocess.run(command, capture_output=True, text=True, check=True)
        sampler.stop()
        free = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (held.stdout, free.stdout) == ("False\n", "True\n")


@pytest.mark.parametrize("queued", [True, False])
def test_work_that_is_still_queued_at_the_end_is_said(monkeypatch, queued):
    """Else physics calls a short run impossible whose device worked on after the meter was closed."""
    monkeypatch.setattr(nvml, "has_queued_work", lambda: queued)
    sampler = NvmlSampler(list, period_s=0.01)
    sampler.start()
    sampler.stop()
    assert (nvml.QUEUED in sampler.read().notes) is queued


def test_a_signal_that_stops_the_meter_while_it_is_read_waits_for_nobody():
    """Else only SIGKILL ends a run whose handler of SIGTERM closes its meter."""
    sampler = NvmlSampler(list, period_s=0.01)
    sampler.start()
    with sampler._lock:  # as in the middle of `read`
        sampler.stop()
        assert sampler.read().devices == ()


def test_a_look_for_devices_that_fails_at_first_says_nothing_of_what_is_held():
    """Else ten minutes in which nobody could tell are ten in which the device was free."""
    with FakeNvml(one()) as fake:
        sampler = NvmlSampler(answering(None, None, [h100().uuid], [h100().uuid]), clock_ns=fake.clock_ns)
        sampler._sampled_ns = fake.clock_ns()  # as `start` does
        for seconds in (300, 300, 10, 0):
            sampler.sample()
            fake.advance(seconds)
        (device,) = sampler.read().devices
        assert (device.held_ns, device.edge_ns) == (10 * SECOND, 600 * SECOND)


def test_visible_devices_are_looked_for_until_they_are_known(monkeypatch):
    monkeypatch.setenv("FLOPMETER_DEVICES", "visible")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fault = Fault("nvmlDeviceGetCount*", code=pynvml.NVML_ERROR_UNKNOWN, calls=1)
    with FakeNvml(FakeMachine((h100(),), faults=(fault,))) as fake:
        sampler = NvmlSampler(clock_ns=fake.clock_ns)
        for _ in range(20):
            sampler.sample()
            fake.advance(1)
        (device,) = sampler.read().devices
        assert 5 * SECOND < device.held_ns < 12 * SECOND


def test_a_look_for_devices_that_hangs_has_a_name():
    release = threading.Event()

    def find():
        release.wait(10)
        return []

    sampler = NvmlSampler(find, period_s=0.01, watchdog_s=0.05)
    sampler.start()
    time.sleep(0.3)
    notes = sampler.read().notes
    release.set()
    sampler.stop()
    assert any("which devices are held" in note for note in notes)


def test_all_that_cuda_shows_can_be_asked_for(monkeypatch):
    """For programs whose work on devices does not go through torch."""
    monkeypatch.setenv("FLOPMETER_DEVICES", "visible")
    machine = bad_hour()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    with FakeNvml(machine) as fake:
        sampler = NvmlSampler(clock_ns=fake.clock_ns)
        for _ in range(3):
            sampler.sample()
            fake.advance(1)
        by_bus = sorted(machine.devices, key=lambda device: device.bus_id)
        found = {device.uuid for device in sampler.read().devices}
        assert found == {by_bus[2].uuid, by_bus[0].uuid}


def test_visible_devices_without_a_driver_are_none(monkeypatch):
    monkeypatch.setenv("FLOPMETER_DEVICES", "visible")
    fault = Fault("nvmlInitWithFlags", code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    with FakeNvml(FakeMachine((h100(),), faults=(fault,))) as fake:
        sampler = NvmlSampler(clock_ns=fake.clock_ns)
        sampler.sample()
        sampler.stop()
        assert sampler.read().notes == ("no NVIDIA driver: Driver Not Loaded",)


def test_the_card_of_the_only_slice_stands_for_that_slice():
    """Where CUDA gives the card's UUID for its slice, the card's energy would be signed as the slice's."""
    machine = sliced_h100()
    card = machine.devices[0]
    only = replace(card, migs=card.migs[:1])
    usage, sampler, _ = sampled(FakeMachine((only,)), uuids=[card.uuid])
    (device,) = usage.devices
    assert (device.energy_mj, device.busy_ns) == (None, None)
    assert device.pipes["tensor"] > 0
    assert int(sampler.identities()[card.uuid]["sms"]) == card.migs[0].sms


def test_of_a_card_that_is_cut_into_several_slices_none_is_taken():
    machine = sliced_h100()
    card = machine.devices[0]
    usage, sampler, _ = sampled(machine, uuids=[card.uuid])
    (device,) = usage.devices
    assert (device.energy_mj, device.busy_ns, device.pipes) == (None, None, None)
    assert WHICH_SLICE in device.note
    fields = sampler.identities()[card.uuid]
    assert "pci" not in fields, "else the card's peak would be the slice's"
    assert "MIG" in fields["name"]


def test_a_slice_whose_card_cannot_be_found_at_first_is_no_card():
    machine = sliced_h100()
    slices = [mig.uuid for mig in machine.devices[0].migs]
    fault = Fault("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", code=pynvml.NVML_ERROR_UNKNOWN, calls=2)
    usage, sampler, calls = sampled(FakeMachine(machine.devices, faults=(fault,)), uuids=slices[:1])
    (device,) = usage.devices
    assert (device.energy_mj, device.busy_ns) == (None, None)
    assert sampler.identities()[slices[0]]["mig_parent"] == machine.devices[0].uuid
    assert calls["nvmlDeviceGetDeviceHandleFromMigDeviceHandle"] == 3, "it is looked for until it is found"


def test_energy_that_is_told_late_belongs_to_the_time_when_it_was():
    """Else a call that takes half a second gives a shorter stretch the energy of that half second, too."""
    old = FakeDriver(missing=("nvmlDeviceGetFieldValues",))
    slow = Fault("nvmlDeviceGetTotalEnergyConsumption", sleep_s=0.5, from_call=2, calls=1)
    with FakeNvml(FakeMachine((h100(),), driver=old, faults=(slow,)), speed=1) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], clock_ns=fake.clock_ns)
        sampler.sample()
        time.sleep(0.2)
        sampler.sample()
        (device,) = sampler.read().devices
        sampler._release()
    assert device.held_ns > 0.6 * SECOND
    assert device.energy_mj == pytest.approx(fake_truth.energy_mj(h100(), 0, device.held_ns), rel=0.25)


def test_the_power_limit_is_asked_again():
    """It can be raised at any time, and what is drawn then would be called impossible."""
    _, _, calls = sampled(one(), seconds=90)
    assert 3 <= calls["nvmlDeviceGetEnforcedPowerLimit"] <= 5


def test_no_driver_is_said_and_is_not_zero():
    fault = Fault("nvmlInitWithFlags", code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    usage, _, _ = sampled(FakeMachine((h100(),), faults=(fault,)), uuids=[])
    assert usage.devices == ()
    assert usage.notes == ("no NVIDIA driver: Driver Not Loaded",)
    assert usage.total("held_ns") is None


def test_a_driver_without_a_device_of_ours_is_said_and_let_go():
    usage, _, calls = sampled(one(), uuids=[], seconds=nvml.IDLE_SAMPLES + 5)
    assert (usage.devices, usage.notes) == ((), (NO_DEVICE,))
    assert (calls["nvmlInitWithFlags"], calls["nvmlShutdown"]) == (1, 1)


def test_the_thread_takes_a_last_sample_and_shuts_the_library_down():
    with FakeNvml(one(), speed=1) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], period_s=0.2, clock_ns=fake.clock_ns)
        sampler.start()
        time.sleep(0.5)
        sampler.stop()
        sampler.stop()
        (device,) = sampler.read().devices
        assert device.held_ns > SECOND // 2
        assert device.basis("pipes") == "measured"
        assert fake.calls()["nvmlShutdown"] == 1
    assert all(thread.name != "flopmeter-nvml" for thread in threading.enumerate())


@pytest.mark.parametrize("site", ["nvmlInitWithFlags", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetClockInfo"])
def test_a_driver_that_hangs_delays_neither_start_nor_read_and_stop_no_longer_than_it_must(monkeypatch, site):
    """A wedged GPU must not freeze the training that the meter watches."""
    monkeypatch.setattr("flopmeter.sensors.nvml.JOIN_S", 0.2)
    fault = Fault(site, hangs=True, from_call=2 if site.endswith("Info") else 1)
    with FakeNvml(FakeMachine((h100(),), faults=(fault,)), speed=1) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], period_s=0.05, watchdog_s=0.1, clock_ns=fake.clock_ns)
        begun = time.monotonic()
        sampler.start()
        sampler.read()
        assert time.monotonic() - begun < 1
        time.sleep(0.4)
        before = sampler.read()
        notes = before.notes
        assert sum(device.unseen_ns for device in before.devices) > 0.1 * SECOND, "it is a gap while it hangs, too"
        sampler.stop()
        assert time.monotonic() - begun < 2
        usage = sampler.read()
        assert any("does not come back" in note for note in notes)
        assert any("did not come back" in note for note in usage.notes)
        (device,) = (before + usage).devices
        assert device.held_ns + device.unseen_ns + device.edge_ns > 0.3 * SECOND
        assert device.unseen_ns > 0.2 * SECOND
        fake.release()
        sampler_thread = [thread for thread in threading.enumerate() if thread.name == "flopmeter-nvml"]
        for thread in sampler_thread:
            thread.join(5)


def test_whatever_else_fails_is_a_word():
    """Else the thread dies, its traceback lands in the middle of the training's output, and the figures just stop."""

    def crash():
        raise RuntimeError("CUDA error: device-side assert triggered")

    sampler = NvmlSampler(crash, period_s=0.001)
    sampler.start()
    time.sleep(0.2)
    assert any("device-side assert" in note for note in sampler.read().notes)
    sampler.stop()


def test_devices_that_cannot_be_told_for_a_while_are_those_of_before_and_not_seen():
    """Else a torch that fails once ends the sampling, and two seconds pass for the whole of a run."""
    with FakeNvml(one()) as fake:
        sampler = NvmlSampler(
            answering([h100().uuid], [h100().uuid], None, [h100().uuid], [h100().uuid]), clock_ns=fake.clock_ns
        )
        for _ in range(5):
            sampler.sample()
            fake.advance(1)
        (device,) = sampler.read().devices
        assert (device.held_ns, device.unseen_ns) == (2 * SECOND, 2 * SECOND)


def test_the_edges_of_holding_are_told_apart():
    """Else what runs between two samples has no time at all, and physics calls it impossible."""
    with FakeNvml(one()) as fake:
        held = []
        sampler = NvmlSampler(lambda: held, clock_ns=fake.clock_ns)
        for now_held in ([], [h100().uuid], [h100().uuid], []):
            held[:] = now_held
            sampler.sample()
            fake.advance(1)
        (device,) = sampler.read().devices
        assert (device.held_ns, device.edge_ns, device.unseen_ns) == (SECOND, 2 * SECOND, 0)


def test_without_room_for_a_thread_nothing_is_sampled_and_that_is_said(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sampler = NvmlSampler(list)
    sampler.start()
    sampler.stop()
    assert sampler.read().notes == ("devices are not sampled: can't start new thread",)


def test_a_forked_child_reads_nothing_and_waits_for_no_lock():
    sampler = NvmlSampler(list)
    sampler._pid = os.getpid() + 1
    sampler._lock.acquire()
    assert sampler.read().notes == (nvml.FORKED,)
    assert sampler.identities() == {}


def test_a_forked_child_does_not_wait_for_a_thread_that_it_has_not():
    sampler = NvmlSampler(list, period_s=0.001)
    sampler.start()
    sampler._pid = os.getpid() + 1
    sampler.stop()
    sampler._halt.set()


@pytest.mark.parametrize(
    ("fields", "faults", "why"),
    [
        ({"has_gpm": False}, (), "this device has no counters of pipe activity (Hopper and newer do)"),
        ({}, (Fault("nvmlGpm*", code=4),), "pipe activity could not be read: Insufficient Permissions"),
    ],
)
def test_a_device_without_pipe_activity_says_why(fields, faults, why):
    """Else a figure is unknown, and nobody knows whether a right or a newer card would help."""
    usage, _, _ = sampled(replace(one(**fields), faults=faults))
    (device,) = usage.devices
    assert (device.pipes, device.note) == (None, why)


def test_a_device_that_is_not_there_is_told_from_one_that_does_not_answer():
    usage, _, _ = sampled(one(), uuids=["GPU-nowhere"])
    (device,) = usage.devices
    assert device.note == "the driver lists no device with this UUID here"
    assert (device.known_held_ns, device.unseen_ns, usage.total("held_ns")) == (None, 6 * SECOND, None)
