"""Ready-made machines: each is what its name says, seen through pynvml."""

import pynvml
import pytest

from flopmeter.testing import fake_clusters
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.testing.fake_truth import counter_mj, energy_mj, seen_ns, throttled_ns

HOUR_NS = 3_600 * 10**9


def test_eight_h100s_have_eight_identities_in_the_order_of_their_buses():
    machine = fake_clusters.eight_h100s()
    for part in ("uuid", "serial", "bus_id", "minor", "module_id"):
        assert len({getattr(device, part) for device in machine.devices}) == 8
    assert [device.bus_id for device in machine.devices] == sorted(device.bus_id for device in machine.devices)
    assert [device.minor for device in machine.devices] != list(range(8))
    other = fake_clusters.eight_h100s(host="node-1")
    assert {device.uuid for device in machine.devices}.isdisjoint(device.uuid for device in other.devices)


def test_a_bad_hour_is_recovered_by_reading_once_a_second():
    """Else the bar of the issue cannot be met by anybody: a plain reader must get every millijoule that is there."""
    machine = fake_clusters.bad_hour()
    read = dict.fromkeys(range(8), 0)
    seconds = dict.fromkeys(range(8), 0)
    with FakeNvml(machine) as fake:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(8)]
        last = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
        for _ in range(3600):
            fake.advance(1)
            for index, handle in enumerate(handles):
                try:
                    now = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                except pynvml.NVMLError_GpuIsLost:
                    continue
                read[index] += now - last[index] if now >= last[index] else now
                seconds[index] += 1
                last[index] = now
    for index, device in enumerate(machine.devices):
        until = seen_ns(machine, index, 0, HOUR_NS)
        if index == 3:  # its last reading was a second before the loss
            assert (seconds[index], until) == (1799, 1800 * 10**9)
            assert read[index] == energy_mj(device, 0, 1799 * 10**9)
        else:
            # The counter of device 5 restarts just then: what it took in the second before is lost with it.
            lost = energy_mj(device, 1199 * 10**9, 1200 * 10**9) if index == 5 else 0
            assert seconds[index] == 3600
            assert read[index] == energy_mj(device, 0, HOUR_NS) - lost
    assert throttled_ns(machine.devices[6], 0x20, 0, HOUR_NS) == 900 * 10**9
    assert counter_mj(machine.devices[5], 1200 * 10**9) == 0


def test_cuda_counts_the_fastest_first_and_nvml_by_bus():
    """Else a sampler that maps devices by index passes, and measures the wrong card."""
    machine = fake_clusters.two_kinds()
    by_nvml = [device.uuid for device in machine.devices]
    assert fake_clusters.cuda_order(machine) == by_nvml[::-1]
    with FakeNvml(machine):
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]
        assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles] == by_nvml
        assert not pynvml.nvmlGpmQueryDeviceSupport(handles[0]).isSupportedDevice
        assert pynvml.nvmlGpmQueryDeviceSupport(handles[1]).isSupportedDevice


def test_an_old_driver_lacks_what_came_later():
    from dataclasses import replace

    machine = replace(fake_clusters.eight_h100s(), driver=fake_clusters.OLD_DRIVER)
    with FakeNvml(machine):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) == 0


def test_a_sliced_device_has_gaps_between_its_slices():
    with FakeNvml(fake_clusters.sliced_h100()):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        found = []
        for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                found.append((slot, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)))
            except pynvml.NVMLError_NotFound:
                continue
        assert [slot for slot, _ in found] == [0, 3]
        assert [pynvml.nvmlDeviceGetAttributes(mig).multiprocessorCount for _, mig in found] == [60, 16]
