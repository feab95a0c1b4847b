"""What is true of a script, against arithmetic by hand and against the C library, which was written apart."""

import random
from fractions import Fraction

import pynvml
import pytest

from flopmeter.testing.fake_devices import FakeDevice, FakeMachine, Fault, Series, nanoseconds
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.testing.fake_truth import (
    counter_mj,
    cycles_between,
    energy_mj,
    gpm_mean,
    mean_power_mw,
    seen_ns,
    throttled_ns,
)

S = 1_000_000_000


def test_energy_is_power_times_time():
    device = FakeDevice(uuid="GPU-1", power=Series.steps({0: 700_000, 10: 100_000}))
    assert energy_mj(device, 0, 20 * S) == 8_000_000
    assert energy_mj(device, 10 * S, 10 * S + 15_000) == 1
    assert mean_power_mw(device, 0, 20 * S) == 400_000


def test_a_counter_has_steps_sticks_and_restarts():
    device = FakeDevice(
        uuid="GPU-1",
        power=1_000_000,
        energy_refresh_ns=100_000_000,
        energy_base_mj=5,
        frozen_s=((2, 4),),
        resets_s=(10,),
        energy_offset=Series.steps({0: 0, 20: 10**12}),
    )
    shown = {0: 5, 1.05: 1_000_005, 1.1: 1_100_005, 3.9: 2_000_005, 4: 4_000_005, 9.99: 9_900_005, 10: 0, 11: 10**6}
    assert {seconds: counter_mj(device, nanoseconds(seconds)) for seconds in shown} == shown
    assert counter_mj(device, 20 * S) == 10**12 + 10_000_000


def test_pipes_are_weighed_by_the_clock():
    """Else a moving clock makes the reference as wrong as what it checks."""
    device = FakeDevice(
        uuid="GPU-1",
        sm_clock=Series.steps({0: 1000, 1: 3000}),
        gpm={5: Series.steps({0: 100, 1: 20}), 10: Series.steps({0: 100, 1: 20})},
        gpm_cycles="mean",
    )
    assert gpm_mean(device, 5, 0, 2 * S) == 40
    assert gpm_mean(device, 10, 0, 2 * S) == 60
    assert cycles_between(device, 248, 0, 2 * S) == 4 * 10**9
    assert cycles_between(device, 250, 0, 2 * S) == Fraction(16 * 10**8)


def test_throttling_and_loss_have_their_times():
    device = FakeDevice(uuid="GPU-1", reasons=Series.steps({0: 0, 2: 0x24, 3: 0x4, 7: 0}))
    machine = FakeMachine((device, device), faults=(Fault("*", 15, device=1, from_s=5),))
    assert (throttled_ns(device, 0x4, 0, 10 * S), throttled_ns(device, 0x20, 0, 10 * S)) == (5 * S, S)
    assert [seen_ns(machine, index, 0, 10 * S) for index in (0, 1)] == [10 * S, 5 * S]
    assert seen_ns(machine, 1, 6 * S, 10 * S) == 0


def test_what_a_device_lacks_has_no_truth():
    with pytest.raises(ValueError, match="does not have"):
        energy_mj(FakeDevice(uuid="GPU-1", power=None), 0, 1)


def scripted(rng: random.Random) -> FakeDevice:
    """A device whose figures change at many odd moments."""

    def steps(low: int, high: int) -> Series:
        return Series(
            ((0, low), *sorted((rng.randrange(60 * S), rng.randint(low, high)) for _ in range(rng.randrange(40))))
        )

    return FakeDevice(
        uuid="GPU-1",
        power=steps(50_000, 1_000_000),
        sm_clock=steps(200, 2000),
        gpm={metric: steps(0, 100) for metric in (2, 5, 10)},
        gpm_cycles=rng.choice(["mean", "sum"]),
        gpm_refresh_ns=1,
        reasons=steps(0, 0x1FF),
        energy_refresh_ns=rng.choice([1, 10_000_000, 100_000_000]),
        resets_s=tuple(rng.sample(range(60), rng.randrange(3))),
        frozen_s=tuple((at, at + 3) for at in rng.sample(range(0, 60, 5), rng.randrange(3))),
        energy_offset=rng.choice([None, 10**9]),
    )


@pytest.mark.parametrize("seed", range(20))
def test_library_and_truth_agree_on_any_script(seed):
    """Else one of the two has a slip, and a sampler that is right fails, or one that is wrong passes."""
    rng = random.Random(seed)
    device = scripted(rng)
    with FakeNvml(FakeMachine((device,))) as fake:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        begin = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
        at = 0
        for now in sorted(rng.randrange(1, 60 * S) for _ in range(10)):
            fake.advance(Fraction(now - at, S))
            at = now
            assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == counter_mj(device, now)
            if now > S:
                assert pynvml.nvmlDeviceGetPowerUsage(handle) == mean_power_mw(device, now - S, now).__floor__()
            since = max((r * S for r in device.resets_s if r * S <= now), default=0)
            (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [74])
            assert field.value.ullVal == throttled_ns(device, 0x4, since, now)
            end = pynvml.nvmlGpmSampleGet(handle, pynvml.nvmlGpmSampleAlloc())
            get = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=4, sample1=begin, sample2=end)
            for metric, asked in zip(get.metrics, (5, 10, 248, 250), strict=False):
                metric.metricId = asked
            pynvml.nvmlGpmMetricsGet(get)
            values = [get.metrics[i].value for i in range(4)]
            assert values[:2] == pytest.approx([gpm_mean(device, 5, 0, now), gpm_mean(device, 10, 0, now)])
            assert values[2:] == [cycles_between(device, counter, since, now).__floor__() for counter in (248, 250)]
