"""What each function of the fake NVML library answers through pynvml, documented pitfalls included."""

import ctypes
from dataclasses import replace

import pynvml
import pytest

from flopmeter.testing.fake_clusters import eight_h100s, h100
from flopmeter.testing.fake_devices import FakeDevice, FakeDriver, FakeProcess, Series
from flopmeter.testing.fake_nvml import FakeNvml

# ── identity ──


def test_a_device_says_who_it_is(enter):
    _, handle = enter(replace(h100(2), pdi=0x1122334455667788, chassis_serial="1820000000001", slot=7))
    device = h100(2)
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA H100 80GB HBM3"
    assert pynvml.nvmlDeviceGetUUID(handle) == device.uuid
    assert pynvml.nvmlDeviceGetSerial(handle) == "1650523000002"
    assert pynvml.nvmlDeviceGetBoardPartNumber(handle) == "692-2G520-0200-000"
    assert pynvml.nvmlDeviceGetVbiosVersion(handle) == "96.00.74.00.01"
    assert pynvml.nvmlDeviceGetInforomImageVersion(handle) == "G520.0200.00.05"
    assert pynvml.nvmlDeviceGetMinorNumber(handle) == 0
    assert pynvml.nvmlDeviceGetModuleId(handle) == 3
    assert pynvml.nvmlDeviceGetBoardId(handle) == 0x5200
    assert pynvml.nvmlDeviceGetMultiGpuBoard(handle) == 0
    assert pynvml.nvmlDeviceGetBrand(handle) == pynvml.NVML_BRAND_NVIDIA
    assert pynvml.nvmlDeviceGetArchitecture(handle) == pynvml.NVML_DEVICE_ARCH_HOPPER
    assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == (9, 0)
    assert pynvml.nvmlDeviceGetNumGpuCores(handle) == 132 * 128
    assert pynvml.nvmlDeviceGetPdi(handle) == 0x1122334455667788
    assert (pynvml.nvmlDeviceGetPersistenceMode(handle), pynvml.nvmlDeviceGetComputeMode(handle)) == (1, 0)
    assert pynvml.nvmlDeviceGetIndex(handle) == 0
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    assert (pci.pciDeviceId, pci.pciSubSystemId, pci.bus) == (0x233010DE, 0x16C110DE, 0x52)
    assert (pci.busId, pci.busIdLegacy) == ("00000000:52:00.0", "0000:52:00.0")
    platform = pynvml.c_nvmlPlatformInfo_v2_t()
    pynvml.nvmlDeviceGetPlatformInfo(handle, ctypes.byref(platform))
    assert (platform.chassisSerialNumber, ord(platform.slotNumber)) == ("1820000000001", 7)


def test_the_machine_says_its_versions(enter):
    enter(driver=FakeDriver(driver="595.45.04", nvml="13.595.45.04", cuda=13020))
    assert pynvml.nvmlSystemGetDriverVersion() == "595.45.04"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.595.45.04"
    assert pynvml.nvmlSystemGetCudaDriverVersion() == pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13020
    library = pynvml.nvmlLib
    library.nvmlErrorString.restype = ctypes.c_char_p
    assert library.nvmlErrorString(26) == b"API has been deprecated"
    assert library.nvmlErrorString(12345) == b"Unknown Error"


def test_devices_are_found_by_whole_uuid_serial_and_bus(code_of):
    machine = eight_h100s()
    wanted = machine.devices[5]
    with FakeNvml(machine):
        pynvml.nvmlInit()
        for handle in (
            pynvml.nvmlDeviceGetHandleByUUID(wanted.uuid),
            pynvml.nvmlDeviceGetHandleBySerial(wanted.serial),
            pynvml.nvmlDeviceGetHandleByPciBusId(wanted.bus_id),
            pynvml.nvmlDeviceGetHandleByPciBusId("0000:c3:00.0"),
        ):
            assert pynvml.nvmlDeviceGetIndex(handle) == 5
        assert code_of(lambda: pynvml.nvmlDeviceGetHandleByUUID(wanted.uuid[:12])) == pynvml.NVML_ERROR_NOT_FOUND
        assert code_of(lambda: pynvml.nvmlDeviceGetHandleByIndex(8)) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_what_a_device_does_not_have_is_not_supported(enter, code_of):
    """A GeForce has no serial, a vGPU no energy counter, unified memory no memory figure."""
    _, handle = enter(FakeDevice(uuid="GPU-1", serial=None, has_energy=False, memory_used=None, has_gpm=False))
    for call in (
        pynvml.nvmlDeviceGetSerial,
        pynvml.nvmlDeviceGetTotalEnergyConsumption,
        pynvml.nvmlDeviceGetMemoryInfo,
        lambda h: pynvml.nvmlGpmSampleGet(h, pynvml.nvmlGpmSampleAlloc()),
        pynvml.nvmlDeviceGetPdi,
    ):
        assert code_of(lambda call=call: call(handle)) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert [value.nvmlReturn for value in pynvml.nvmlDeviceGetFieldValues(handle, [83, 191])] == [3, 3]


# ── power, load, clocks ──


def test_power_is_a_mean_where_the_part_says_so_and_of_this_instant_where_not(enter):
    power = Series.steps({0: 100_000, 10: 500_000})
    fake, handle = enter(replace(h100(), power=power))
    fake.move_to(10.25)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 200_000
    mean, instant = pynvml.nvmlDeviceGetFieldValues(handle, [185, 186])
    assert (mean.value.uiVal, instant.value.uiVal) == (200_000, 500_000)
    fake, handle = enter(replace(h100(), power=power, power_window_ns=0))
    fake.move_to(10.25)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 500_000


def test_short_windows_give_no_energy(enter):
    """The counter refreshes in steps: whoever divides by a short interval divides nothing by it."""
    fake, handle = enter(replace(h100(), power=1_000_000, energy_refresh_ns=100_000_000))
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    fake.advance(0.099)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == before
    fake.advance(0.001)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == before + 100_000


def test_power_has_limits_and_scopes(enter):
    _, handle = enter(replace(h100(), module_power=900_000, memory_power=None))
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 700_000
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) == [200_000, 700_000]
    module, memory = pynvml.nvmlDeviceGetFieldValues(handle, [(186, 1), (186, 2)])
    assert (module.nvmlReturn, module.value.uiVal) == (0, 900_000)
    assert memory.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_load_and_clocks_follow_the_script(enter, code_of):
    fake, handle = enter()
    seen = []
    for second in (0, 1800, 3000):
        fake.move_to(second)
        seen.append((pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, pynvml.nvmlDeviceGetClockInfo(handle, 1)))
    assert seen == [(100, 1755), (0, 1980), (100, 1740)]
    assert [pynvml.nvmlDeviceGetMaxClockInfo(handle, kind) for kind in range(4)] == [1980, 1980, 2619, 1545]
    assert code_of(lambda: pynvml.nvmlDeviceGetClockInfo(handle, 4)) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert pynvml.nvmlDeviceGetTemperature(handle, 0) == 60
    assert pynvml.nvmlDeviceGetPerformanceState(handle) == 0


def test_throttling_is_seen_under_both_names(enter):
    fake, handle = enter(replace(h100(), reasons=Series.steps({0: 1, 5: 0x10000024})))
    fake.advance(7)
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 0x10000024
    assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) == 0x10000024
    assert pynvml.nvmlDeviceGetSupportedClocksEventReasons(handle) == 0x1FF


@pytest.mark.parametrize(
    ("driver", "at_251", "at_269"),
    [
        ("570.124.06", (3, None), (2, None)),
        ("575.51.03", (0, 2 * 10**9), (2, None)),
        ("580.65.06", (0, 2 * 10**9), (2, None)),
        ("580.82.07", (0, 0), (0, 2 * 10**9)),
        ("595.45.04", (0, 0), (0, 2 * 10**9)),
    ],
)
def test_a_field_s_number_means_something_else_on_another_driver(enter, driver, at_251, at_269):
    """Else a sampler that asks by the wrong number gets a zero, and reports that nothing was throttled."""
    fake, handle = enter(replace(h100(), reasons=0x20), FakeDriver(driver=driver))
    fake.advance(2)
    for value, (code, ns) in zip(pynvml.nvmlDeviceGetFieldValues(handle, [251, 269]), (at_251, at_269), strict=True):
        assert value.nvmlReturn == code
        if ns is not None:
            is_wide = value.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            assert (value.value.ullVal if is_wide else value.value.uiVal) == ns


def test_a_field_must_be_read_by_its_type_and_only_if_it_succeeded(enter):
    """Else nonsense of a failed field, or of the wrong member, goes into a ledger."""
    _, handle = enter(replace(h100(), recovery_action=2, more_series={"field.94": Series.of(17)}))
    action, replays, unknown, none = pynvml.nvmlDeviceGetFieldValues(handle, [230, 94, 100, 100_000])
    assert (action.valueType, action.value.uiVal) == (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 2)
    assert action.value.ullVal != 2
    assert replays.value.ullVal == 17
    assert (unknown.nvmlReturn, none.nvmlReturn) == (3, 2)
    assert unknown.value.ullVal != 0


# ── memory and errors ──


def test_the_first_version_of_memory_counts_what_is_reserved_as_used(enter):
    _, handle = enter(replace(h100(), memory_used=10, memory_reserved=5, memory_total=100))
    first = pynvml.nvmlDeviceGetMemoryInfo(handle)
    second = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    assert (first.used, first.free, first.total) == (15, 85, 100)
    assert (second.used, second.reserved, second.free) == (10, 5, 85)
    with pytest.raises(pynvml.NVMLError, match="version mismatch"):
        pynvml.nvmlDeviceGetMemoryInfo(handle, version=1)


def test_volatile_errors_restart_and_aggregate_ones_do_not(enter):
    errors = Series.steps({0: 3, 5: 10})
    fake, handle = enter(replace(h100(), ecc_uncorrected=errors, remapped_rows=errors, resets_s=(7,)))
    assert pynvml.nvmlDeviceGetEccMode(handle) == [1, 1]
    seen = []
    for second in (0, 6, 8):
        fake.move_to(second)
        seen.append([pynvml.nvmlDeviceGetTotalEccErrors(handle, 1, counter) for counter in (0, 1)])
    assert seen == [[3, 3], [10, 10], [0, 10]]
    assert [value.value.ullVal for value in pynvml.nvmlDeviceGetFieldValues(handle, [3, 4, 5, 6])] == [0, 0, 0, 10]
    assert pynvml.nvmlDeviceGetTotalEccErrors(handle, 0, 0) == 0
    assert pynvml.nvmlDeviceGetRemappedRows(handle) == (10, 0, 0, 0)


# ── processes and samples ──


def test_processes_come_and_go_with_the_hosts_numbers(enter):
    processes = (
        FakeProcess(pid=4_000_001, used_bytes=None),
        FakeProcess(pid=4_000_002, from_s=5, until_s=9),
        FakeProcess(pid=7, kind="graphics"),
        FakeProcess(pid=8, kind="mps"),
    )
    fake, handle = enter(replace(h100(), processes=processes))
    listed = []
    for second in (0, 5, 9):
        fake.move_to(second)
        listed.append([(one.pid, one.usedGpuMemory) for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)])
    assert listed == [[(4_000_001, None)], [(4_000_001, None), (4_000_002, 2**30)], [(4_000_001, None)]]
    assert [one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)] == [4_000_001]
    assert [one.pid for one in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)] == [7]
    assert [one.pid for one in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)] == [8]


def test_the_size_of_a_list_is_asked_first(enter):
    _, handle = enter(replace(h100(), processes=tuple(FakeProcess(pid=pid) for pid in (1, 2, 3))))
    ask = pynvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3
    count = ctypes.c_uint(0)
    assert (ask(handle, ctypes.byref(count), None), count.value) == (pynvml.NVML_ERROR_INSUFFICIENT_SIZE, 3)
    count, room = ctypes.c_uint(2), (pynvml.c_nvmlProcessInfo_v3_t * 3)()
    assert (ask(handle, ctypes.byref(count), room), count.value) == (pynvml.NVML_ERROR_INSUFFICIENT_SIZE, 3)
    assert room[2].pid == 0
    _, handle = enter(replace(h100(), processes=()))
    count = ctypes.c_uint(0)
    assert (ask(handle, ctypes.byref(count), None), count.value) == (0, 0)


def test_process_utilisation_has_stamps_and_may_be_empty(enter, code_of):
    fake, handle = enter()
    for ask in (pynvml.nvmlDeviceGetProcessUtilization, pynvml.nvmlDeviceGetProcessesUtilizationInfo):
        (sample,) = ask(handle, 0)
        assert (sample.pid, sample.smUtil, sample.memUtil) == (700_000, 90, 40)
        assert code_of(lambda ask=ask, at=sample.timeStamp: ask(handle, at)) == pynvml.NVML_ERROR_NOT_FOUND
        fake.advance(1)
        assert ask(handle, sample.timeStamp)[0].timeStamp == sample.timeStamp + 1_000_000


def test_some_drivers_say_success_to_an_empty_list_and_the_bindings_raise_it(enter):
    _, handle = enter(replace(h100(), processes=()), FakeDriver(empty_is_success=True))
    with pytest.raises(pynvml.NVMLError) as raised:
        pynvml.nvmlDeviceGetProcessUtilization(handle, 0)
    assert raised.value.value == 0


def test_samples_are_buffered_and_read_once(enter, code_of):
    fake, handle = enter(replace(h100(), power=Series.steps({0: 1000, 5: 2000})))
    fake.move_to(5.05)
    kind, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
    assert kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert [sample.sampleValue.uiVal for sample in samples] == [1000] * 50 + [2000]
    last = samples[-1].timeStamp
    assert code_of(lambda: pynvml.nvmlDeviceGetSamples(handle, 0, last)) == pynvml.NVML_ERROR_NOT_FOUND
    fake.advance(60)
    assert len(pynvml.nvmlDeviceGetSamples(handle, 0, last)[1]) == 120
    assert code_of(lambda: pynvml.nvmlDeviceGetSamples(handle, 3, 0)) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert pynvml.nvmlDeviceGetAccountingMode(handle) == 0
