"""The probes of `test_nvml.py` on a scripted device: that they would say on a real one what it shows.

These run anywhere. What they say here is the script's, not a device's.
"""

import time
from dataclasses import replace

import nvml_probes as probes
import pynvml
import pytest

from flopmeter.testing.fake_clusters import h100
from flopmeter.testing.fake_devices import FakeDriver, FakeMachine, Fault, Series
from flopmeter.testing.fake_nvml import FakeNvml


def on_script(probe, *faults, driver=None, **fields):
    """Run a probe on one scripted device that was switched on two hours ago."""
    device = replace(h100(), **fields)
    with FakeNvml(FakeMachine((device,), driver=driver or FakeDriver(), faults=faults)) as fake:
        fake.move_to(7200)
        pynvml.nvmlInit()
        try:
            return probe(probes.Bench(pynvml, device.uuid, fake.clock_ns, fake.advance), fake)
        finally:
            pynvml.nvmlShutdown()


def test_the_step_of_the_energy_counter_is_found():
    found = on_script(lambda bench, _: probes.find_step(bench), power=500_000, energy_refresh_ns=50_000_000)
    assert found == {"changes": 40, "median_ms": 50.0, "median_mj": 25_000}


def test_a_counter_that_differs_from_the_power_readings_is_seen():
    ramp = Series.steps({0: 0, **{7200 + second: 1_000_000 * second for second in range(60)}})
    found = on_script(lambda bench, _: probes.compare_energy(bench, seconds=30, every_s=0.5), power=500_000)
    assert found["counter_to_integral"] == pytest.approx(1)
    assert found["counter_j"] == pytest.approx(15_000)
    wrong = on_script(
        lambda bench, _: probes.compare_energy(bench, seconds=30, every_s=0.5), power=500_000, energy_offset=ramp
    )
    assert wrong["counter_to_integral"] == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    ("convention", "is_difference", "name"),
    [
        ("mean", False, "total, mean"),
        ("sum", False, "total, sum"),
        ("mean", True, "difference, mean"),
        ("sum", True, "difference, sum"),
    ],
)
def test_the_convention_of_the_counters_is_named(convention, is_difference, name):
    found = on_script(
        lambda bench, _: probes.watch_gpm(bench, seconds=5), gpm_cycles=convention, gpm_is_difference=is_difference
    )
    assert max(found["conventions"], key=found["conventions"].get) == name
    assert found["conventions"][name] >= 4
    assert found["sms"] == 132
    assert found["went backwards"] == []
    tensor = found["shares"]["tensor"]
    assert tensor["percentage"] == pytest.approx(46)
    assert tensor["as differences" if is_difference else "as totals"] == pytest.approx(46, rel=1e-6)


def test_what_an_ordinary_user_is_refused_after_a_while_is_counted():
    fault = Fault("nvmlGpmSampleGet", code=pynvml.NVML_ERROR_NO_PERMISSION, from_s=7203.5)
    found = on_script(lambda bench, _: probes.watch_gpm(bench, seconds=9), fault)
    assert (found["codes"]["SampleGet 0"], found["codes"]["SampleGet 4"]) == (4, 6)
    assert on_script(lambda bench, _: probes.watch_gpm(bench, seconds=9), has_gpm=False) == {
        "supported": False,
        "said": None,
    }


def test_counters_that_restart_are_seen():
    found = on_script(lambda bench, _: probes.watch_gpm(bench, seconds=9), gpm_cycles="mean", resets_s=(7204.5,))
    assert "248" in found["went backwards"]


@pytest.mark.parametrize("convention", [None, "mean", "sum"])
def test_the_rate_of_known_work_is_what_it_took_of_the_pipes(convention):
    """46 % of 1740 MHz for three seconds on 132 SMs, at 4096 FLOP a cycle."""
    flop = round(0.46 * 1740e6 * 3 * 132 * 4096)
    found = on_script(
        lambda bench, fake: probes.measure_rate(bench, flop=flop, sms=132, work=lambda: fake.advance(3)),
        gpm_cycles=convention,
    )
    assert found["flop_per_tensor_cycle_and_sm"] == pytest.approx(4096, rel=1e-6)
    assert found["is_counted"] == (convention is not None)


def test_without_permission_there_is_no_rate_and_why_is_kept():
    fault = Fault("nvmlGpmSampleGet", code=pynvml.NVML_ERROR_NO_PERMISSION)
    found = on_script(
        lambda bench, fake: probes.measure_rate(bench, flop=1, sms=132, work=lambda: fake.advance(3)), fault
    )
    assert found["pipes"] is None
    assert "Insufficient Permissions" in found["failures"]


def test_fields_are_read_with_the_driver_that_numbers_them():
    found = on_script(lambda bench, _: probes.read_fields(bench))
    assert found["driver"] == FakeDriver().driver
    assert found["fields"]["83: energy"]["code"] == 0
    assert found["fields"]["83: energy"]["value"] > 0
    assert found["fields"]["185: power, mean"]["value"] == 650_000


def test_each_call_of_a_reading_is_timed():
    found = on_script(lambda bench, _: probes.time_reads(bench, reads=5, cpu_ns=time.process_time_ns))
    assert found["cpu_median_us"] > 0
    assert {"fields", "SM clock", "utilisation"} <= set(found["calls_median_us"])


def test_health_is_asked_for_and_a_refusal_is_a_code():
    found = on_script(lambda bench, _: probes.read_health(bench))
    assert (found["has Xid"], found["Xid"], found["ECC mode"]) == (True, "registered", [1, 1])
    fault = Fault("nvmlDeviceRegisterEvents", code=pynvml.NVML_ERROR_NO_PERMISSION)
    assert on_script(lambda bench, _: probes.read_health(bench), fault)["Xid"] == {"code": 4}
