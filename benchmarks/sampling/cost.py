"""What sampling eight devices costs, beside other meters on the same scripted devices.

`python benchmarks/sampling/cost.py` plays eight H100s with the fake NVML library, so no driver's own time is in it:
what is measured is what a meter does around its calls, and how many calls it makes. Others are measured where they are
installed (`pip install nvitop zeus codecarbon`). Each turn takes one sample with each meter, in turn, so that all meet
the same machine; figures are medians over the turns.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from flopmeter.sensors.nvml import PERIOD_S, NvmlSampler
from flopmeter.testing.fake_clusters import eight_h100s
from flopmeter.testing.fake_nvml import FakeNvml

RESULT = Path(__file__).parents[1] / "results" / f"sampling_cpu_{datetime.now(UTC):%Y%m}.json"
LIMIT = 0.001
"""Share of one core that a sampler may take (issue: under 0.1 %)."""


def flopmeter_sampler(fake: FakeNvml) -> Callable[[], object]:
    """Return one sample of ours: everything that it reads at 1 Hz."""
    held = [device.uuid for device in fake.machine.devices]
    sampler = NvmlSampler(lambda: held, clock_ns=fake.clock_ns)

    def sample() -> object:
        sampler.sample()
        return sampler.read()

    return sample


def nvitop_sampler(_: FakeNvml) -> Callable[[], object]:
    """Return one snapshot of all devices."""
    nvitop = import_module("nvitop")
    devices = nvitop.Device.all()
    return lambda: [device.as_snapshot() for device in devices]


def zeus_sampler(_: FakeNvml) -> Callable[[], object]:
    """Return a reading of all energy counters, which is what a window of its monitor begins and ends with."""
    devices = import_module("zeus.device").get_gpus()
    return lambda: [devices.get_total_energy_consumption(index) for index in range(len(devices))]


def codecarbon_sampler(_: FakeNvml) -> Callable[[], object]:
    """Return its reading of all devices."""
    devices = import_module("codecarbon.core.gpu").AllGPUDevices()
    return devices.get_gpu_details


SAMPLERS = {
    "flopmeter": flopmeter_sampler,
    "nvitop": nvitop_sampler,
    "zeus": zeus_sampler,
    "codecarbon": codecarbon_sampler,
}


def measure_counted(turns: int) -> dict[str, object]:
    """Return the same of ours where devices count cycles (drivers from R595 on), which are asked for apart."""
    machine = eight_h100s()
    counting = tuple(replace(device, gpm_cycles="mean") for device in machine.devices)
    took = []
    with FakeNvml(replace(machine, devices=counting)) as fake:
        sample = flopmeter_sampler(fake)
        sample()
        for _ in range(turns):
            fake.advance(PERIOD_S)
            begun = time.thread_time_ns()
            sample()
            took.append(time.thread_time_ns() - begun)
    return _row(took)


def _row(took: Sequence[int]) -> dict[str, object]:
    median_ns = statistics.median(took)
    return {
        "ms_per_sample": round(median_ns / 1e6, 3),
        "share_of_a_core_at_1_hz": round(median_ns / 1e9 / PERIOD_S, 6),
    }


def measure(turns: int) -> dict[str, dict[str, object]]:
    """Return milliseconds of this thread's processor time and calls to NVML, for a sample of each meter."""
    found: dict[str, dict[str, object]] = {}
    with FakeNvml(eight_h100s()) as fake:
        import_module("pynvml").nvmlInit()
        samplers = {}
        for name, make in SAMPLERS.items():
            if name != "flopmeter" and find_spec(name) is None:
                found[name] = {"status": "not installed"}
                continue
            try:
                samplers[name] = make(fake)
                samplers[name]()
            except Exception as error:  # noqa: BLE001  # another's meter may not like the fake: say so
                samplers.pop(name, None)
                found[name] = {"status": f"did not run here: {type(error).__name__}: {error}"}
        costs: dict[str, list[int]] = {name: [] for name in samplers}
        calls: dict[str, list[int]] = {name: [] for name in samplers}
        for _ in range(turns):
            fake.advance(PERIOD_S)
            for name, sample in samplers.items():
                before, begun = sum(fake.calls().values()), time.thread_time_ns()
                sample()
                costs[name].append(time.thread_time_ns() - begun)
                calls[name].append(sum(fake.calls().values()) - before)
    for name, took in costs.items():
        found[name] = {**_row(took), "calls_per_sample": statistics.median_low(calls[name])}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=600, help="samples of each meter")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    found = measure(args.turns)
    share = found["flopmeter"]["share_of_a_core_at_1_hz"]
    result = {
        "command": f"python benchmarks/sampling/cost.py --turns {args.turns}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"CPU, {platform.machine()}; eight scripted H100s, no driver",
        "versions": {name: _version(name) for name in ("flopmeter", "nvidia-ml-py", "nvitop", "zeus", "codecarbon")},
        "bar": {"what": "flopmeter, share of one core at 1 Hz", "at_most": LIMIT, "figure": share},
        "meters": found,
        "flopmeter_where_cycles_are_counted": measure_counted(args.turns),
    }
    for name, row in found.items():
        print(f"{name:<12}{row.get('status') or json.dumps(row)}")
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {args.out.name}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
