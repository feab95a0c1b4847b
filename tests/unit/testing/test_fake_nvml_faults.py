"""Faults of the fake NVML library: any code at any call, slow and hanging calls, a device lost, a driver gone."""

import threading
import time
from dataclasses import replace

import pynvml
import pytest

from flopmeter.testing.fake_clusters import eight_h100s, lost_halfway
from flopmeter.testing.fake_devices import FakeDevice, FakeDriver, FakeMachine, Fault
from flopmeter.testing.fake_nvml import FakeNvml

DEVICE = FakeDevice(uuid="GPU-1", gpm={5: 50})
CODES = sorted(
    value
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int) and value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
)


def machine(*faults, devices=2):
    named = tuple(replace(DEVICE, uuid=f"GPU-{index}") for index in range(devices))
    return FakeMachine(named, faults=faults)


@pytest.mark.parametrize("code", CODES)
def test_any_code_comes_from_any_call(code, code_of):
    """Else a return code that the driver has is one that nobody ever handled."""
    with FakeNvml(machine(Fault("nvmlDeviceGetPowerUsage", code))):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert code_of(lambda: pynvml.nvmlDeviceGetPowerUsage(handle)) == code
        assert code_of(lambda: pynvml.nvmlDeviceGetClockInfo(handle, 1)) == 0


@pytest.mark.parametrize("code", [9, 18, 999])
def test_init_itself_fails(code, code_of):
    with FakeNvml(machine(Fault("nvmlInitWithFlags", code, calls=2))):
        assert [code_of(pynvml.nvmlInit) for _ in range(3)] == [code, code, 0]


def test_a_fault_has_its_calls_its_device_and_its_time(code_of):
    fault = Fault("nvmlDeviceGetPowerUsage", 4, device=1, from_call=3, calls=2, from_s=10, until_s=20)
    with FakeNvml(machine(fault)) as fake:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]

        def codes(index, times=6):
            return [code_of(lambda: pynvml.nvmlDeviceGetPowerUsage(handles[index])) for _ in range(times)]

        assert codes(1) == [0] * 6
        fake.advance(10)
        assert codes(0) == [0] * 6
        assert codes(1) == [0, 0, 4, 4, 0, 0]
        fake.rewrite(machine(replace(fault, from_call=1, calls=0)))
        pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        handles[1] = pynvml.nvmlDeviceGetHandleByIndex(1)
        assert codes(1) == [4] * 6
        fake.advance(10)
        assert codes(1) == [0] * 6


def test_permission_is_withdrawn_after_some_calls_and_stays_so_over_a_restart(code_of):
    """A container that may read GPM for minutes and then may not: starting anew does not cure it."""
    with FakeNvml(machine(Fault("nvmlGpmSampleGet", 4, from_call=4))):

        def three_codes():
            pynvml.nvmlInit()
            handle, sample = pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.nvmlGpmSampleAlloc()
            codes = [code_of(lambda: pynvml.nvmlGpmSampleGet(handle, sample)) for _ in range(3)]
            pynvml.nvmlShutdown()
            return codes

        assert [three_codes(), three_codes()] == [[0, 0, 0], [4, 4, 4]]


def test_a_lost_device_is_lost_to_every_call_and_to_no_other_device(code_of):
    with FakeNvml(lost_halfway(eight_h100s(), index=3)) as fake:
        pynvml.nvmlInit()
        uuids = [device.uuid for device in fake.machine.devices]
        handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        fake.advance(1800)
        lost = [
            lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handles[3]),
            lambda: pynvml.nvmlDeviceGetFieldValues(handles[3], [83]),
            lambda: pynvml.nvmlDeviceGetName(handles[3]),
            lambda: pynvml.nvmlGpmSampleGet(handles[3], pynvml.nvmlGpmSampleAlloc()),
            lambda: pynvml.nvmlDeviceGetHandleByUUID(uuids[3]),
            lambda: pynvml.nvmlDeviceGetHandleByIndex(3),
        ]
        assert [code_of(call) for call in lost] == [pynvml.NVML_ERROR_GPU_IS_LOST] * len(lost)
        assert pynvml.nvmlDeviceGetCount() == 8
        alive = [code_of(lambda h=handle: pynvml.nvmlDeviceGetPowerUsage(h)) for handle in handles]
        assert alive == [0, 0, 0, 15, 0, 0, 0, 0]


@pytest.mark.parametrize(("stops", "expected"), [(False, [0, 15, 0, 0]), (True, [0, 15, 15, 15])])
def test_a_search_by_uuid_may_stop_at_a_lost_device(code_of, stops, expected):
    """NVIDIA's header: GPU_IS_LOST if any device has fallen off the bus. Else one loss blinds a sampler to the rest."""
    lost = machine(Fault("*", 15, device=1), devices=4)
    with FakeNvml(replace(lost, driver=FakeDriver(search_stops_at_lost=stops))):
        pynvml.nvmlInit()
        codes = [code_of(lambda uuid=f"GPU-{index}": pynvml.nvmlDeviceGetHandleByUUID(uuid)) for index in range(4)]
        assert codes == expected


def test_everything_may_say_unknown_error_and_come_back(code_of):
    """A container after `systemctl daemon-reload` on its host; here it is cured at last."""
    with FakeNvml(machine(Fault("*", 999, from_s=5, until_s=9))) as fake:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        fake.advance(5)
        calls = [lambda: pynvml.nvmlDeviceGetPowerUsage(handle), pynvml.nvmlDeviceGetCount, pynvml.nvmlInit]
        assert [code_of(call) for call in calls] == [999, 999, 999]
        assert str(pynvml.NVMLError(999)) == "Unknown Error"
        fake.advance(4)
        assert [code_of(call) for call in calls] == [0, 0, 0]


def test_a_slow_call_takes_its_time():
    with FakeNvml(machine(Fault("nvmlDeviceGetPowerUsage", sleep_s=0.05, calls=1))):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        started = time.monotonic()
        pynvml.nvmlDeviceGetPowerUsage(handle)
        between = time.monotonic()
        pynvml.nvmlDeviceGetPowerUsage(handle)
        assert between - started >= 0.05 > time.monotonic() - between


@pytest.mark.parametrize("code", [0, 15])
def test_a_hanging_call_hangs_until_it_is_let_go(code, code_of):
    got = []
    with FakeNvml(machine(Fault("nvmlDeviceGetPowerUsage", code, hangs=True, calls=1))) as fake:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        ask = threading.Thread(target=lambda: got.append(code_of(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))))
        ask.start()
        ask.join(0.1)
        assert ask.is_alive()
        assert pynvml.nvmlDeviceGetClockInfo(handle, 1) == 1755  # others go on meanwhile
        fake.release()
        ask.join(5)
    assert got == [code]


def test_leaving_lets_hanging_calls_go(code_of):
    """Else a thread of one test hangs into the next, or crashes in a library that was taken from under it."""
    got = []
    with FakeNvml(machine(Fault("nvmlInitWithFlags", hangs=True))):
        ask = threading.Thread(target=lambda: got.append(code_of(pynvml.nvmlInit)))
        ask.start()
        ask.join(0.05)
    ask.join(5)
    assert got == [pynvml.NVML_ERROR_UNINITIALIZED]


def test_a_field_and_a_metric_fail_alone():
    """The call succeeds although one of its figures does not."""
    faults = (Fault("field:83", 3), Fault("metric:5", is_nan=True), Fault("metric:2", 4, device=1))
    devices = tuple(replace(DEVICE, uuid=f"GPU-{index}", gpm={2: 10, 5: 50, 7: 40}) for index in range(2))
    with FakeNvml(FakeMachine(devices, faults=faults)) as fake:
        pynvml.nvmlInit()
        for index, expected in ((0, [0, 0, 0]), (1, [4, 0, 0])):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            values = pynvml.nvmlDeviceGetFieldValues(handle, [83, 186])
            assert [value.nvmlReturn for value in values] == [3, 0]
            first = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
            fake.advance(1)
            second = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
            get = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=3, sample1=first, sample2=second)
            for metric, asked in zip(get.metrics, (2, 5, 7), strict=False):
                metric.metricId = asked
            pynvml.nvmlGpmMetricsGet(get)
            assert [get.metrics[i].nvmlReturn for i in range(3)] == expected
            assert get.metrics[1].value != get.metrics[1].value
            assert get.metrics[2].value == 40
