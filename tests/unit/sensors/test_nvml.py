"""NVML through a fake library: scripted answers, no driver, no GPU. What a real driver says is for tests/gpu."""

import os
import threading

import pytest

from flopmeter.sensors.nvml import NO_DEVICE, NvmlSampler, find_cuda_uuids

SECOND = 1_000_000_000


class FakeError(Exception):
    """Stands for pynvml.NVMLError."""


class FakeNvml:
    """A scripted fake of pynvml: `energy` is a list of readings or errors, the last one repeated."""

    NVMLError = FakeError

    def __init__(self, *, energy=(0,), init=None, name="Fake GPU"):
        self.energy, self.init, self.name = list(energy), init, name
        self.shut = 0

    def nvmlInit(self):
        if self.init:
            raise self.init

    def nvmlShutdown(self):
        self.shut += 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle):
        reading = self.energy.pop(0) if len(self.energy) > 1 else self.energy[0]
        if isinstance(reading, Exception):
            raise reading
        return reading

    def nvmlDeviceGetName(self, _handle):
        return self.name

    def nvmlDeviceGetSerial(self, _handle):
        raise FakeError("Not Supported")

    def nvmlDeviceGetPciInfo(self, _handle):
        raise FakeError("Not Supported")

    def nvmlSystemGetDriverVersion(self):
        return b"999.1"


class Clock:
    """A clock that moves on by one second at each look."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += SECOND
        return self.now


def sampled(library, *, uuids=("GPU-fake",), samples: int = 3):
    """Take some samples on this thread, without waiting."""
    sampler = NvmlSampler(lambda: list(uuids), library=library, clock_ns=Clock())
    opened = sampler._open()
    if opened is not None:
        for _ in range(samples):
            sampler._sample(opened)
    return sampler


def test_held_time_and_energy_are_differences_between_readings():
    usage = sampled(FakeNvml(energy=[1000, 1400, 1900])).read()
    (device,) = usage.devices
    assert (device.uuid, device.name) == ("GPU-fake", "Fake GPU")
    assert (device.held_ns, device.energy_mj) == (2 * SECOND, 900)
    assert device.busy_ns is None
    assert usage.notes == ()


def test_a_second_read_does_not_count_twice():
    sampler = sampled(FakeNvml(energy=[0, 500]))
    assert sampler.read().total("energy_mj") == 500
    assert sampler.read().devices == ()


def test_energy_that_goes_backwards_is_missing_and_said():
    """A driver reload resets the counter: a negative or wrapped energy in a signed claim would be absurd."""
    usage = sampled(FakeNvml(energy=[1000, 1500, 20])).read()
    (device,) = usage.devices
    assert device.energy_mj is None
    assert "backwards" in device.note
    assert device.held_ns == 2 * SECOND


def test_a_device_lost_in_the_middle_is_missing_energy_and_no_crash():
    usage = sampled(FakeNvml(energy=[1000, 1500, FakeError("GPU is lost")]), samples=4).read()
    (device,) = usage.devices
    assert device.energy_mj is None
    assert "GPU is lost" in device.note


def test_energy_before_and_after_a_failed_reading_is_not_bridged():
    """The difference across a hole could be another process's life of the counter."""
    sampler = sampled(FakeNvml(energy=[1000, FakeError("timeout"), 9000, 9100]), samples=4)
    (device,) = sampler.read().devices
    assert device.energy_mj is None


def test_no_driver_is_said_and_is_not_zero():
    usage = sampled(FakeNvml(init=FakeError("Driver Not Loaded"))).read()
    assert usage.devices == ()
    assert usage.notes == ("no NVIDIA driver: Driver Not Loaded",)
    assert usage.total("held_ns") is None


def test_a_driver_without_a_device_of_ours_is_said():
    usage = sampled(FakeNvml(), uuids=()).read()
    assert (usage.devices, usage.notes) == ((), (NO_DEVICE,))


def test_a_device_says_who_it_is_as_far_as_it_can():
    sampler = sampled(FakeNvml())
    assert sampler.identities() == {"GPU-fake": {"name": "Fake GPU", "driver": "999.1"}}


def test_two_devices_are_kept_apart():
    usage = sampled(FakeNvml(energy=[10, 20, 15, 40, 30, 60]), uuids=("GPU-a", "GPU-b")).read()
    assert {device.uuid: device.energy_mj for device in usage.devices} == {"GPU-a": 20, "GPU-b": 40}


def test_the_thread_takes_a_last_sample_and_shuts_the_library_down():
    library = FakeNvml(energy=[100, 350])
    sampler = NvmlSampler(lambda: ["GPU-fake"], library=library, period_s=0.001)
    sampler.start()
    while not sampler.identities():
        pass
    sampler.stop()
    sampler.stop()
    assert sampler.read().total("energy_mj") == 250
    assert library.shut == 1
    assert all(thread.name != "flopmeter-nvml" for thread in threading.enumerate())


def test_a_driver_that_hangs_delays_neither_start_nor_read(monkeypatch):
    """A wedged GPU must not freeze the training that the meter watches."""
    monkeypatch.setattr("flopmeter.sensors.nvml.JOIN_S", 0.05)
    release = threading.Event()
    library = FakeNvml()
    library.nvmlInit = release.wait
    sampler = NvmlSampler(lambda: ["GPU-fake"], library=library, period_s=0.001)
    sampler.start()
    assert sampler.read().notes == ("NVML has not answered yet",)
    sampler.stop()
    release.set()


def test_whatever_else_fails_ends_the_sampling_with_a_word():
    """Else the thread dies, its traceback lands in the middle of the training's output, and the figures just stop."""

    def crash():
        raise RuntimeError("CUDA error: device-side assert triggered")

    sampler = NvmlSampler(crash, library=FakeNvml(), period_s=0.001)
    sampler.start()
    sampler._thread.join(5)
    assert any("device-side assert" in note for note in sampler.read().notes)
    sampler.stop()


def test_a_forked_child_does_not_wait_for_a_thread_that_it_has_not():
    sampler = NvmlSampler(list, library=FakeNvml(), period_s=0.001)
    sampler.start()
    sampler._pid = os.getpid() + 1
    sampler.stop()
    sampler._halt.set()


def test_without_cuda_no_device_is_held():
    pytest.importorskip("torch")
    assert find_cuda_uuids() == []
