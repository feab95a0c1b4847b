"""The fake NVML library through the real pynvml: how it is built, entered, reached from children, and its clock."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from flopmeter.errors import SensorError
from flopmeter.testing import fake_nvml
from flopmeter.testing.fake_clusters import eight_h100s
from flopmeter.testing.fake_devices import FakeDevice, FakeDriver, FakeMachine, Fault, Series
from flopmeter.testing.fake_nvml import FakeNvml, compile_library

ONE = FakeMachine((FakeDevice(uuid="GPU-1", power=Series.steps({0: 500_000, 10: 100_000})),))


def first_handle():
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByIndex(0)


# ── built ──


def test_a_library_is_compiled_once(tmp_path, monkeypatch):
    library = compile_library(cache=tmp_path)
    assert library.name == "libnvidia-ml.so.1"
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: pytest.fail("compiled again"))
    assert compile_library(cache=tmp_path) == library


def test_other_source_is_another_library(tmp_path, monkeypatch):
    """Else whoever changes the fake goes on testing with the old one."""
    before = compile_library(cache=tmp_path)
    sources = tmp_path / "nvml"
    sources.mkdir()
    for source in fake_nvml.SOURCES.iterdir():
        (sources / source.name).write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(fake_nvml, "SOURCES", sources)
    assert compile_library(cache=tmp_path) != before


def test_two_processes_may_compile_at_once(tmp_path):
    """Else ranks that start together load half a file."""
    code = (
        "import ctypes, sys, pathlib; from flopmeter.testing.fake_nvml import compile_library;"
        "ctypes.CDLL(str(compile_library(cache=pathlib.Path(sys.argv[1]))))"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert [path.name for path in tmp_path.glob("*/*")] == ["libnvidia-ml.so.1"]


def test_no_compiler_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SensorError, match=r"^no C compiler was found for the fake NVML library \(install gcc"):
        compile_library(cache=tmp_path)


def test_a_compiler_that_fails_says_what_it_said(tmp_path, monkeypatch):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(SensorError, match="did not compile: out of order"):
        compile_library(cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "flopmeter").write_text("a file in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SensorError, match=r"cannot be kept: .* \(set XDG_CACHE_HOME\)$"):
        compile_library()


def test_the_source_compiles_without_a_warning(tmp_path):
    units = sorted(str(path) for path in fake_nvml.SOURCES.glob("*.c"))
    strict = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-warning-option"]
    done = subprocess.run(
        ["cc", *fake_nvml.FLAGS, *strict, "-o", str(tmp_path / "x.so"), *units, "-lm", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_a_missing_symbol_is_missing(tmp_path):
    """Else an old driver looks like a new one that refuses."""
    library = ctypes.CDLL(str(compile_library(["nvmlGpmSampleGet"])))
    assert not hasattr(library, "nvmlGpmSampleGet")
    assert hasattr(library, "nvmlGpmSampleAlloc")
    driver = FakeDriver(missing=("nvmlGpmSampleGet", "nvmlDeviceGetSerial"))
    with FakeNvml(replace(ONE, driver=driver)):
        handle = first_handle()
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            pynvml.nvmlDeviceGetSerial(handle)
        assert pynvml.nvmlDeviceGetUUID(handle) == "GPU-1"


def test_a_function_that_never_was_cannot_be_missing_or_fail():
    """Else a slip in a name makes a test pass for nothing."""
    with pytest.raises(ValueError, match="never had nvmlDeviceGetEnergy"):
        compile_library(["nvmlDeviceGetEnergy"])
    with pytest.raises(ValueError, match="never had fake_is_scripted"):
        compile_library(["fake_is_scripted"])  # without it a script would pass for a driver
    fake = FakeNvml(replace(ONE, faults=(Fault("nvmlDeviceGetComputeRunningProcesses", 999),)))
    with pytest.raises(ValueError, match="no function nvmlDeviceGetComputeRunningProcesses"):
        fake.__enter__()
    assert fake_nvml.SCRIPT_VARIABLE not in os.environ


@pytest.mark.parametrize(
    "name",
    [
        "c_nvmlFieldValue_t",
        "c_nvmlValue_t",
        "c_nvmlSample_t",
        "c_nvmlUtilization_t",
        "c_nvmlProcessUtilizationSample_t",
        "c_nvmlProcessUtilizationInfo_v1_t",
        "c_nvmlProcessesUtilizationInfo_v1_t",
        "c_nvmlProcessInfo_v2_t",
        "c_nvmlProcessInfo_v3_t",
        "c_nvmlMemory_t",
        "c_nvmlMemory_v2_t",
        "nvmlPciInfo_t",
        "c_nvmlDeviceAttributes",
        "c_nvmlGpmMetric_t",
        "c_nvmlGpmSupport_t",
        "c_nvmlEventData_t",
        "c_nvmlGpuFabricInfo_t",
        "c_nvmlGpuFabricInfo_v2_t",
        "c_nvmlGpuFabricInfo_v3_t",
        "c_nvmlConfComputeSystemState_t",
        "c_nvmlSystemConfComputeSettings_v1_t",
        "c_nvmlConfComputeGpuAttestationReport_t",
        "c_nvmlConfComputeGpuCertificate_t",
        "c_nvmlPdi_t",
        "c_nvmlPlatformInfo_v2_t",
    ],
)
def test_a_struct_is_as_long_as_that_of_the_bindings(name):
    """Else the fake writes past what it was given."""
    library = ctypes.CDLL(str(compile_library()))
    assert library.fake_sizeof(name.encode()) == ctypes.sizeof(getattr(pynvml, name))


def test_gpm_metrics_begin_where_those_of_the_bindings_do():
    library = ctypes.CDLL(str(compile_library()))
    assert library.fake_sizeof(b"c_nvmlGpmMetricsGet_t") == pynvml.c_nvmlGpmMetricsGet_t.metrics.offset
    assert library.fake_sizeof(b"nonsense") == -1


# ── entered ──


def test_pynvml_is_as_before_when_it_is_left():
    """Else every later test sees devices that are not there."""
    before = (pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache), pynvml._nvmlLib_refcount)
    with FakeNvml(ONE) as fake:
        handle = first_handle()
        folder = fake.folder
        assert folder.is_dir()
    assert (pynvml.nvmlLib, pynvml._nvmlGetFunctionPointer_cache, pynvml._nvmlLib_refcount) == before
    assert fake_nvml.SCRIPT_VARIABLE not in os.environ
    assert not folder.exists()
    if pynvml.nvmlLib is None:
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetUUID(handle)


def test_one_machine_follows_another_and_one_stands_inside_another():
    with FakeNvml(ONE):
        assert pynvml.nvmlDeviceGetUUID(first_handle()) == "GPU-1"
        with FakeNvml(eight_h100s()):
            pynvml.nvmlInit()
            assert pynvml.nvmlDeviceGetCount() == 8
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 1


def test_a_library_without_a_script_has_no_driver(tmp_path, monkeypatch):
    library = ctypes.CDLL(str(compile_library()))
    library.fake_reset()
    monkeypatch.delenv(fake_nvml.SCRIPT_VARIABLE, raising=False)
    assert library.nvmlInitWithFlags(0) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    monkeypatch.setenv(fake_nvml.SCRIPT_VARIABLE, str(tmp_path / "nowhere"))
    assert library.nvmlInitWithFlags(0) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED


def test_init_counts_and_the_last_shutdown_ends_it():
    with FakeNvml(ONE):
        handle = first_handle()
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
        assert pynvml.nvmlDeviceGetUUID(handle) == "GPU-1"
        pynvml.nvmlShutdown()
        for call in (lambda: pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetCount):
            with pytest.raises(pynvml.NVMLError_Uninitialized):
                call()


def test_handles_die_with_the_library():
    """Else a sampler that keeps its handles over a restart passes here and crashes on a machine."""
    with FakeNvml(ONE):
        handle = first_handle()
        pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetPowerUsage(handle)
        assert pynvml.nvmlDeviceGetPowerUsage(pynvml.nvmlDeviceGetHandleByUUID("GPU-1")) == 500_000


def test_a_script_that_was_rewritten_is_seen_at_the_next_init():
    with FakeNvml(ONE) as fake:
        handle = first_handle()
        fake.rewrite(eight_h100s())
        assert pynvml.nvmlDeviceGetCount() == 1
        assert pynvml.nvmlDeviceGetUUID(handle) == "GPU-1"
        pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 8


# ── reached from children ──

ASK = """
import sys, pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
print(pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
"""


def test_a_child_process_sees_the_same_machine_at_the_same_time():
    """Else ranks under a launcher each live in a world of their own."""
    with FakeNvml(ONE) as fake:
        fake.advance(20)
        expected = pynvml.nvmlDeviceGetTotalEnergyConsumption(first_handle())
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            env=os.environ | fake.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["GPU-1", str(expected)]
        assert fake.calls()["nvmlDeviceGetTotalEnergyConsumption"] == 2


def test_after_a_fork_calls_fail_until_the_child_initialises_itself():
    """Else a sampler that lives on in a child passes here."""
    with FakeNvml(ONE):
        handle = first_handle()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            said = []
            for call in (lambda: pynvml.nvmlDeviceGetPowerUsage(handle), pynvml.nvmlShutdown):
                try:
                    call()
                    said.append(0)
                except pynvml.NVMLError as error:
                    said.append(error.value)
            said.append(pynvml.nvmlDeviceGetPowerUsage(first_handle()))
            os.write(writer, repr(said).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100) == b"[999, 999, 500000]"
        assert pynvml.nvmlDeviceGetPowerUsage(handle) == 500_000
        os.close(reader)
        os.close(writer)


# ── its clock ──


def test_an_hour_passes_at_once():
    with FakeNvml(ONE) as fake:
        handle = first_handle()
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        fake.advance(3600)
        assert fake.clock_ns() == 3600 * 10**9
        assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before == 10 * 500_000 + 3590 * 100_000
        fake.move_to(1)
        assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before == 500_000


def test_a_clock_may_run_many_times_as_fast():
    machine = FakeMachine((FakeDevice(uuid="GPU-1", power=1_000_000),))
    with FakeNvml(machine, speed=1000) as fake:
        handle = first_handle()
        before, started = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), fake.clock_ns()
        time.sleep(0.05)
        spent, passed = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before, fake.clock_ns() - started
        assert passed >= 50 * 10**9
        assert spent * 1000 == pytest.approx(passed, rel=0.2)


def test_stamps_have_today_s_date():
    with FakeNvml(ONE) as fake:
        fake.advance(5)
        (value,) = pynvml.nvmlDeviceGetFieldValues(first_handle(), [83])
        assert value.timestamp / 1e6 == pytest.approx(time.time() + 5, abs=60)


def test_calls_are_counted():
    """Else nobody can say what a sampler costs the driver."""
    with FakeNvml(ONE) as fake:
        handle = first_handle()
        threads = [
            threading.Thread(target=lambda: [pynvml.nvmlDeviceGetPowerUsage(handle) for _ in range(500)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counted = fake.calls()
        assert counted["nvmlDeviceGetPowerUsage"] == 2000
        assert counted["nvmlInitWithFlags"] == 1
        assert "nvmlDeviceGetTotalEnergyConsumption" not in counted


def test_the_sources_ship():
    """Else the fake works in a checkout and not where the package is installed."""
    assert (Path(fake_nvml.__file__).parent / "nvml" / "fake.h").is_file()
