"""What the fake NVML library answers about pipes, slices, events, fabric and confidential computing."""

import ctypes
import hashlib
import math
import threading
from dataclasses import replace

import pynvml
import pytest

from flopmeter.testing.fake_clusters import eight_h100s, h100, lost_halfway, sliced_h100
from flopmeter.testing.fake_devices import FakeDevice, FakeDriver, Series
from flopmeter.testing.fake_nvml import FakeNvml

CONFIDENTIAL = FakeDriver(cc_environment=2, cc_feature=1)


# ── GPM ──


def gpm(handle, fake, seconds, metrics):
    first = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
    fake.advance(seconds)
    second = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
    get = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=len(metrics), sample1=first, sample2=second)
    for metric, asked in zip(get.metrics, metrics, strict=False):
        metric.metricId = asked
    get.metrics[len(metrics)].value = 12345.0
    pynvml.nvmlGpmMetricsGet(get)
    assert get.metrics[len(metrics)].value == 12345.0, "written past numMetrics"
    for sample in (first, second):
        pynvml.nvmlGpmSampleFree(sample)
    return [(get.metrics[i].nvmlReturn, get.metrics[i].value) for i in range(len(metrics))]


def test_gpm_is_a_mean_over_the_interval(enter):
    fake, handle = enter()
    assert pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice == 1
    fake.move_to(1740 - 30)
    assert gpm(handle, fake, 60, [7, 100])[0] == (0, pytest.approx(44 * 1755 / (1755 + 1980)))


def test_two_samples_too_close_are_not_a_number(enter):
    fake, handle = enter()
    ((code, value),) = gpm(handle, fake, 0.05, [7])
    assert code == 0
    assert math.isnan(value)


@pytest.mark.parametrize(("convention", "times"), [("mean", 1), ("sum", 132)])
@pytest.mark.parametrize("is_difference", [False, True])
def test_raw_cycles_come_in_every_form_that_they_might_have(enter, convention, times, is_difference):
    """Nobody documented it: a meter has to find out on the device."""
    device = replace(h100(), sm_clock=1000, gpm={5: 25}, gpm_cycles=convention, gpm_is_difference=is_difference)
    fake, handle = enter(device)
    fake.move_to(100)
    answers = gpm(handle, fake, 10, [248, 250, 252])
    seconds = 10 if is_difference else 110
    assert answers[:2] == [(0, seconds * 1e9 * times), (0, seconds * 0.25e9 * times)]
    assert answers[2][0] == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_raw_cycles_are_absent_on_older_drivers(enter):
    fake, handle = enter()
    assert gpm(handle, fake, 1, [248])[0][0] == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_gpm_refuses_other_versions_and_samples_never_taken(enter, code_of):
    _, handle = enter()
    taken = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
    blank = pynvml.nvmlGpmSampleAlloc()
    for version, first, second, code in ((2, taken, taken, 25), (1, blank, taken, 2), (1, taken, blank, 2)):
        get = pynvml.c_nvmlGpmMetricsGet_t(version=version, numMetrics=1, sample1=first, sample2=second)
        assert code_of(lambda get=get: pynvml.nvmlGpmMetricsGet(get)) == code


# ── MIG ──


def test_a_slice_has_a_name_memory_and_gpm_and_its_parent_the_power(code_of):
    with FakeNvml(sliced_h100()) as fake:
        pynvml.nvmlInit()
        parent = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert pynvml.nvmlDeviceGetMigMode(parent) == [1, 1]
        mig = pynvml.nvmlDeviceGetHandleByUUID("MIG-3f5c1c1e-0f0a-5a7b-9c52-2f6f1c7a0002")
        assert pynvml.nvmlDeviceIsMigDeviceHandle(mig).value == 1
        assert pynvml.nvmlDeviceGetName(mig) == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
        assert (pynvml.nvmlDeviceGetGpuInstanceId(mig), pynvml.nvmlDeviceGetComputeInstanceId(mig)) == (9, 0)
        assert pynvml.nvmlDeviceGetMemoryInfo(mig).total == 10 * 2**30
        back = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
        assert pynvml.nvmlDeviceGetUUID(back) == pynvml.nvmlDeviceGetUUID(parent)
        for call in (
            pynvml.nvmlDeviceGetPowerUsage,
            pynvml.nvmlDeviceGetTotalEnergyConsumption,
            pynvml.nvmlDeviceGetUtilizationRates,
            pynvml.nvmlDeviceGetNumGpuCores,
        ):
            assert code_of(lambda call=call: call(mig)) == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert code_of(lambda: pynvml.nvmlDeviceGetUtilizationRates(parent)) == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert code_of(lambda: pynvml.nvmlDeviceGetAttributes(parent)) == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert code_of(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(parent)) == pynvml.NVML_ERROR_NO_PERMISSION
        assert pynvml.nvmlDeviceGetPowerUsage(parent) == 640_000
        first = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, 0)
        assert gpm(first, fake, 1, [5]) == [(0, 30)]
        sample = pynvml.nvmlGpmSampleAlloc()
        assert code_of(lambda: pynvml.nvmlGpmMigSampleGet(parent, 9, sample)) == 0
        assert code_of(lambda: pynvml.nvmlGpmMigSampleGet(parent, 5, sample)) == pynvml.NVML_ERROR_NOT_FOUND


# ── events ──


def test_xid_errors_come_once_and_only_from_after_registration(enter, code_of):
    fake, handle = enter(replace(h100(), xid={1: 31, 5: 48, 6: 79}, recovery_action=Series.steps({0: 0, 7: 1})))
    fake.move_to(2)
    assert pynvml.nvmlDeviceGetSupportedEventTypes(handle) == 0x800A
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle, 0x8008, events)
    assert code_of(lambda: pynvml.nvmlEventSetWait_v2(events, 0)) == pynvml.NVML_ERROR_TIMEOUT
    fake.move_to(10)
    got = [pynvml.nvmlEventSetWait_v2(events, 0) for _ in range(3)]
    assert [(event.eventType, event.eventData) for event in got] == [(8, 48), (8, 79), (0x8000, 1)]
    assert pynvml.nvmlDeviceGetUUID(got[0].device) == pynvml.nvmlDeviceGetUUID(handle)
    assert code_of(lambda: pynvml.nvmlEventSetWait_v2(events, 1)) == pynvml.NVML_ERROR_TIMEOUT
    pynvml.nvmlEventSetFree(events)


def test_two_kinds_of_events_of_one_moment_both_come(enter, code_of):
    """Else a test of one hides what is made of the other."""
    fake, handle = enter(replace(h100(), xid={5: 48}, ecc_uncorrected=Series.steps({0: 0, 5: 1})))
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle, 0xA, events)
    fake.move_to(5)
    assert {pynvml.nvmlEventSetWait_v2(events, 0).eventType for _ in range(2)} == {0x2, 0x8}
    assert code_of(lambda: pynvml.nvmlEventSetWait_v2(events, 0)) == pynvml.NVML_ERROR_TIMEOUT


def test_a_device_may_have_no_events(enter, code_of):
    _, handle = enter(replace(h100(), has_events=False))
    assert code_of(lambda: pynvml.nvmlDeviceGetSupportedEventTypes(handle)) == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_one_lost_device_spoils_the_wait_for_all(code_of):
    """Else a sampler reads GPU_IS_LOST for ever and never learns of the others' errors."""
    machine = lost_halfway(eight_h100s(), index=3, after_s=5)
    with FakeNvml(machine) as fake:
        pynvml.nvmlInit()
        events = pynvml.nvmlEventSetCreate()
        for index in range(8):
            pynvml.nvmlDeviceRegisterEvents(pynvml.nvmlDeviceGetHandleByIndex(index), 8, events)
        fake.advance(5)
        assert pynvml.nvmlEventSetWait_v2(events, 0).eventData == 79
        assert code_of(lambda: pynvml.nvmlEventSetWait_v2(events, 0)) == pynvml.NVML_ERROR_GPU_IS_LOST


def test_whoever_waits_is_woken(enter):
    fake, handle = enter(replace(h100(), xid={5: 79}))
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    got = []
    wait = threading.Thread(target=lambda: got.append(pynvml.nvmlEventSetWait_v2(events, 5000).eventData))
    wait.start()
    fake.move_to(5)
    wait.join(5)
    assert got == [79]


# ── fabric and confidential computing ──


@pytest.mark.parametrize("version", [2, 3])
def test_devices_say_which_fabric_they_share(enter, version, code_of):
    _, handle = enter(replace(h100(), fabric_clique=6))
    info = getattr(pynvml, f"c_nvmlGpuFabricInfo_v{version}_t")()
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    assert bytes(info.clusterUuid).hex() == h100().fabric_cluster
    assert (info.state, info.cliqueId, info.status) == (pynvml.NVML_GPU_FABRIC_STATE_COMPLETED, 6, 0)
    old = pynvml.c_nvmlGpuFabricInfo_t()
    pynvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(old))
    assert (old.cliqueId, old.state) == (6, 3)
    info.version = 17
    assert code_of(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))) == 25


def test_a_device_without_a_fabric_says_so(enter, code_of):
    _, handle = enter(FakeDevice(uuid="GPU-1"))
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    assert code_of(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))) == 3


def test_confidential_computing_answers_with_the_nonce_it_was_given(enter):
    _, handle = enter(driver=replace(CONFIDENTIAL, cc_dev_tools=1, cc_multi_gpu=2))
    state = pynvml.nvmlSystemGetConfComputeState()
    assert (state.environment, state.ccFeature, state.devToolsMode) == (2, 1, 1)
    settings = pynvml.c_nvmlSystemConfComputeSettings_v1_t()
    assert pynvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings)) == 0
    assert (settings.ccFeature, settings.multiGpuMode) == (1, 2)
    assert pynvml.nvmlSystemGetConfComputeGpusReadyState() == 1
    nonce = hashlib.sha256(b"head of a ledger").digest()
    report = pynvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
    signed = bytes(report.attestationReport[: report.attestationReportSize])
    assert signed[4:36] == nonce == bytes(report.nonce)
    assert h100().uuid.encode() in signed
    certificate = pynvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
    assert bytes(certificate.certChain[: certificate.certChainSize]).startswith(b"fake certificate of GPU-")
    assert certificate.attestationCertChainSize > 0


def test_a_report_may_answer_another_nonce(enter):
    """Else whoever does not compare it is never found out."""
    _, handle = enter(driver=replace(CONFIDENTIAL, cc_forgets_nonce=True))
    report = pynvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, bytes(32))
    assert bytes(report.attestationReport[4:36]) != bytes(32)


def test_without_confidential_computing_there_is_no_report(enter, code_of):
    _, handle = enter()
    assert code_of(pynvml.nvmlSystemGetConfComputeState) == 3
    settings = pynvml.c_nvmlSystemConfComputeSettings_v1_t()
    assert pynvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings)) == 3
    assert code_of(lambda: pynvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, bytes(32))) == 3
    assert code_of(lambda: pynvml.nvmlDeviceGetConfComputeGpuCertificate(handle)) == 3
