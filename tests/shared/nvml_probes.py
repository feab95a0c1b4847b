"""What only a device can settle about NVML, asked of whatever library is loaded: a real one, or the scripted one.

Each probe returns plain values for a result file and concludes nothing that it did not see. `wait(seconds)` lets time
pass: under load on a device, at once on a script. Without torch: `tests/gpu/test_nvml.py` brings the load.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan
from statistics import median
from typing import Any

from flopmeter.sensors import gpm
from flopmeter.sensors.cycles import NEAR_PERCENT
from flopmeter.sensors.device import DeviceReader
from flopmeter.sensors.gpm import PipeReader

SECOND = 1_000_000_000
PERCENTAGES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
COUNTERS = (248, 249, 250, 251, 252, 253, 254, 257, 258, 259, 260)
FIELDS = {
    4: "uncorrected ECC",
    74: "power cap",
    75: "thermal (old)",
    76: "sync boost",
    83: "energy",
    144: "rows pending",
    145: "rows failed",
    185: "power, mean",
    186: "power, now",
    191: "energy (new)",
    230: "recovery action",
    **{number: f"renumbered {number}" for number in (251, 252, 253, 269, 270, 271)},
}

MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Where in its union a field's value is, by type."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A device of a library, a clock in nanoseconds, and a way to let time pass."""

    library: Any
    uuid: str
    clock_ns: Callable[[], int]
    wait: Callable[[float], None]

    @property
    def handle(self) -> Any:
        return self.library.nvmlDeviceGetHandleByUUID(self.uuid)


def ask(library: Any, call: Callable[[], Any]) -> Any:
    """Return what a call says, or the code with which it fails."""
    try:
        return call()
    except library.NVMLError as error:
        return {"code": error.value}


def read_fields(bench: Bench) -> dict[str, Any]:
    """Return code, type and value of each field whose number matters, and the driver that numbers them."""
    library = bench.library
    values = library.nvmlDeviceGetFieldValues(bench.handle, list(FIELDS))
    return {
        "driver": str(library.nvmlSystemGetDriverVersion()),
        "fields": {
            f"{number}: {FIELDS[number]}": {
                "code": value.nvmlReturn,
                "type": value.valueType,
                "value": getattr(value.value, MEMBERS[value.valueType]) if value.nvmlReturn == 0 else None,
            }
            for number, value in zip(FIELDS, values, strict=True)
        },
    }


def find_step(bench: Bench, *, seconds: float = 2, every_s: float = 0.002) -> dict[str, Any]:
    """Return how often the energy counter moves, and by how much."""
    library, handle = bench.library, bench.handle
    changes, last = [], library.nvmlDeviceGetTotalEnergyConsumption(handle)
    begun = bench.clock_ns()
    while bench.clock_ns() - begun < seconds * SECOND:
        bench.wait(every_s)
        now = library.nvmlDeviceGetTotalEnergyConsumption(handle)
        if now != last:
            changes.append((bench.clock_ns(), now - last))
            last = now
    gaps = [after - before for (before, _), (after, _) in pairwise(changes)]
    return {
        "changes": len(changes),
        "median_ms": median(gaps) / 1e6 if gaps else None,
        "median_mj": median(step for _, step in changes) if changes else None,
    }


def compare_energy(bench: Bench, *, seconds: float, every_s: float = 0.1) -> dict[str, Any]:
    """Return the counter's energy beside the power readings, integrated by trapezoids, over the same time."""
    library, handle = bench.library, bench.handle
    begun_mj, begun_ns = library.nvmlDeviceGetTotalEnergyConsumption(handle), bench.clock_ns()
    watts, last_ns, integral = library.nvmlDeviceGetPowerUsage(handle) / 1000, begun_ns, 0.0
    while bench.clock_ns() - begun_ns < seconds * SECOND:
        bench.wait(every_s)
        now_ns, now_watts = bench.clock_ns(), library.nvmlDeviceGetPowerUsage(handle) / 1000
        integral += (watts + now_watts) / 2 * (now_ns - last_ns) / SECOND
        watts, last_ns = now_watts, now_ns
    counted = (library.nvmlDeviceGetTotalEnergyConsumption(handle) - begun_mj) / 1000
    return {
        "seconds": (last_ns - begun_ns) / SECOND,
        "counter_j": counted,
        "integral_j": integral,
        "counter_to_integral": counted / integral if integral else None,
    }


def watch_gpm(bench: Bench, *, seconds: int, numbers: Sequence[int] = (*PERCENTAGES, *COUNTERS)) -> dict[str, Any]:
    """Return what GPM gives to this user each second, and how its counters run beside the clock.

    `conventions` are those that fit the elapsed cycles of a second within a quarter: `total` or `difference`, and
    `mean` or `sum`. One of them in every second settles it.
    """
    library, handle = bench.library, bench.handle
    support = ask(library, lambda: library.nvmlGpmQueryDeviceSupport(handle))
    if isinstance(support, dict) or not support.isSupportedDevice:
        return {"supported": False, "said": support if isinstance(support, dict) else None}
    samples = [library.nvmlGpmSampleAlloc(), library.nvmlGpmSampleAlloc()]
    cores = ask(library, lambda: library.nvmlDeviceGetNumGpuCores(handle))
    sms = cores // gpm.LANES if isinstance(cores, int) else None
    codes: dict[str, int] = {}
    answers: dict[int, list[Any]] = {number: [] for number in numbers}
    conventions: dict[str, int] = {}
    elapsed = None
    taken_ns = None
    for second in range(seconds + 1):
        code = _code(library, lambda: library.nvmlGpmSampleGet(handle, samples[1]))
        codes[f"SampleGet {code}"] = codes.get(f"SampleGet {code}", 0) + 1
        now_ns, mhz = bench.clock_ns(), ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, 1))
        if second and not code and taken_ns is not None:
            told = _metrics(library, samples, numbers)
            for number, (said, value) in told.items():
                answers[number].append(None if said else "NaN" if isnan(value) else value)
                codes[f"{number}: {said}"] = codes.get(f"{number}: {said}", 0) + 1
            now = told.get(248, (None, None))[1] if told.get(248, (None,))[0] == 0 else None
            if now is not None and isinstance(mhz, int):
                expected = mhz * (now_ns - taken_ns) / 1000
                for name in name_conventions(elapsed, now, expected, sms):
                    conventions[name] = conventions.get(name, 0) + 1
            elapsed = now
        samples.reverse()
        taken_ns = None if code else now_ns
        bench.wait(1)
    for sample in samples:
        library.nvmlGpmSampleFree(sample)
    return {
        "supported": True,
        "codes": codes,
        "sms": sms,
        "conventions": conventions,
        "last": {str(number): told[-1] for number, told in answers.items() if told},
        "shares": compare_shares(answers),
        "went backwards": [
            str(number)
            for number in COUNTERS
            if any(later < former for former, later in _pairs(answers.get(number, ())))
        ],
    }


def compare_shares(answers: Mapping[int, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each pipe, the last percentage beside what its counter and the elapsed cycles make of it.

    What a count of a pipe is, this tells: a quotient of four may be four tensor cores in an SM.
    """
    percentages = {name: number for number, name in gpm.PIPES.items()}
    found: dict[str, dict[str, Any]] = {}
    for number, name in gpm.CYCLES.items():
        told, elapsed = answers.get(number, ()), answers.get(248, ())
        if name not in percentages or len(told) < 2 or len(elapsed) != len(told):
            continue
        (before, now), (former, latter) = told[-2:], elapsed[-2:]
        if not all(isinstance(value, float) for value in (before, now, former, latter)):
            continue
        said = answers.get(percentages[name], ())
        found[name] = {
            "percentage": said[-1] if said else None,
            "as totals": 100 * (now - before) / (latter - former) if latter != former else None,
            "as differences": 100 * now / latter if latter else None,
        }
    return found


def name_conventions(before: float | None, now: float, expected: float, sms: int | None) -> list[str]:
    """Return every convention by which counts of elapsed cycles are what the clock says."""
    found = []
    for kind, count in (("total", None if before is None else now - before), ("difference", now)):
        for form, times in (("mean", 1), ("sum", sms)):
            if count is not None and times and abs(count - times * expected) <= times * expected * NEAR_PERCENT / 100:
                found.append(f"{kind}, {form}")
    return found


def measure_rate(bench: Bench, *, flop: int, sms: int, work: Callable[[], None]) -> dict[str, Any]:
    """Return what a known amount of work takes of the tensor pipes, by our own reader: FLOP per cycle and SM.

    `work` does `flop` operations and comes back when they are done.
    """
    failures: list[str] = []

    def tell(_what: str, read: Callable[[], Any], **_: Any) -> Any:
        try:
            return read()
        except bench.library.NVMLError as error:
            failures.append(str(error))
            return None

    reader = PipeReader(bench.library, bench.handle, tell)

    def clock() -> int:
        return int(bench.library.nvmlDeviceGetClockInfo(bench.handle, bench.library.NVML_CLOCK_SM))

    # A first stretch under the same load: by it the reader finds out how the device counts, and the clock settles.
    reader.read(clock(), bench.clock_ns())
    work()
    reader.read(clock(), bench.clock_ns())
    work()
    activity = reader.read(clock(), bench.clock_ns())
    notes = sorted(reader.notes)
    reader.release()
    if activity is None or not activity.pipes.get("tensor"):
        return {"failures": failures, "notes": notes, "pipes": None if activity is None else dict(activity.pipes)}
    tensor = activity.pipes["tensor"]
    return {
        "flop": flop,
        "seconds": activity.ns / SECOND,
        "flop_per_s": flop * SECOND / activity.ns,
        "pipes": dict(activity.pipes),
        "is_counted": activity.elapsed is not None,
        "elapsed": activity.elapsed,
        "flop_per_tensor_cycle_and_sm": flop / (tensor * sms),
        "notes": notes,
        "failures": failures,
    }


def time_reads(bench: Bench, *, reads: int = 50, cpu_ns: Callable[[], int]) -> dict[str, Any]:
    """Return what a reading of one device takes, and each of its calls, in microseconds."""
    library = bench.library
    calls: dict[str, list[int]] = {}
    now = "", 0

    def note(what: str) -> None:
        nonlocal now
        if now[0]:
            calls.setdefault(now[0], []).append(bench.clock_ns() - now[1])
        now = what, bench.clock_ns()

    device = DeviceReader(library, bench.uuid, driver=str(library.nvmlSystemGetDriverVersion()), note_call=note)
    whole, used = [], []
    device.read(bench.clock_ns)
    calls.clear()
    for _ in range(reads):
        bench.wait(0.2)
        begun, spent = bench.clock_ns(), cpu_ns()
        device.read(bench.clock_ns)
        whole.append(bench.clock_ns() - begun)
        used.append(cpu_ns() - spent)
    device.release()
    return {
        "median_us": median(whole) / 1000,
        "most_us": max(whole) / 1000,
        "cpu_median_us": median(used) / 1000,
        "calls_median_us": {name: median(times) / 1000 for name, times in sorted(calls.items())},
    }


def read_health(bench: Bench) -> dict[str, Any]:
    """Return whether this user is told of Xid events and memory errors."""
    library, handle = bench.library, bench.handle
    types = ask(library, lambda: library.nvmlDeviceGetSupportedEventTypes(handle))

    def register() -> str:
        events = library.nvmlEventSetCreate()
        try:
            library.nvmlDeviceRegisterEvents(handle, library.nvmlEventTypeXidCriticalError, events)
        finally:
            library.nvmlEventSetFree(events)
        return "registered"

    return {
        "event types": types,
        "has Xid": bool(types & library.nvmlEventTypeXidCriticalError) if isinstance(types, int) else None,
        "Xid": ask(library, register),
        "ECC mode": ask(library, lambda: [int(mode) for mode in library.nvmlDeviceGetEccMode(handle)]),
        "uncorrected": ask(library, lambda: int(library.nvmlDeviceGetTotalEccErrors(handle, 1, 0))),
        "remapped rows": ask(library, lambda: [int(row) for row in library.nvmlDeviceGetRemappedRows(handle)]),
    }


def _code(library: Any, call: Callable[[], Any]) -> int:
    said = ask(library, call)
    return int(said["code"]) if isinstance(said, dict) else 0


def _metrics(library: Any, samples: Sequence[Any], numbers: Sequence[int]) -> dict[int, tuple[int, float]]:
    get = library.c_nvmlGpmMetricsGet_t()
    get.version, get.numMetrics = library.NVML_GPM_METRICS_GET_VERSION, len(numbers)
    get.sample1, get.sample2 = samples
    for place, number in enumerate(numbers):
        get.metrics[place].metricId = number
    code = _code(library, lambda: library.nvmlGpmMetricsGet(get))
    if code:
        return dict.fromkeys(numbers, (code, 0.0))
    return {number: (get.metrics[at].nvmlReturn, get.metrics[at].value) for at, number in enumerate(numbers)}


def _pairs(values: Sequence[Any]) -> list[tuple[float, float]]:
    return list(pairwise([value for value in values if isinstance(value, float)]))
