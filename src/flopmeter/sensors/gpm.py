"""How busy each pipe of a device was between two readings, from NVML's GPM (Hopper and newer).

From driver R595 on GPM has raw counters of cycles; where the device keeps them they are what is told, because they
are totals and lose nothing between readings. Else, and for pipes without a counter, it is the percentages: of cycles,
over the time between two samples, so that with a moving clock they are cycles only together with the clock that was
measured. Which precision a tensor pipe worked in, neither tells. What the pipes of `DFMA` (6 and 254) are is not
documented: left out. Tried with a scripted library only.
Not here: by which convention counters count (`cycles.py`), what cycles are worth (`estimate/hardware.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from flopmeter.sensors.cycles import ELAPSED, MOST_PERCENT, CycleCounter, make_activity
from flopmeter.sensors.guard import words_of
from flopmeter.sensors.reading import Activity

PIPES = {5: "tensor", 7: "hmma", 8: "dmma", 9: "imma", 4: "integer", 11: "fp64", 12: "fp32", 13: "fp16"}
"""Metrics by their number in nvml.h; `tensor` is any tensor pipe, `hmma` 16 and 8 bits, `dmma` fp64, `imma` int8."""
CYCLES = {
    248: ELAPSED,
    250: "tensor",
    252: "hmma",
    251: "dmma",
    253: "imma",
    257: "integer",
    258: "fp64",
    259: "fp32",
    260: "fp16",
}
"""The same as counts of cycles. Source: nvidia-ml-py 13.595; nvml.h says FP64 of 259 and 260, whose names say else."""
OLDER = "this device has no counters of pipe activity (Hopper and newer do)"
LEAST_NS = 150_000_000
"""Samples closer than 100 ms hold the same figures (nvml.h); with some room."""
TRIES = 5
"""How often counters are asked for before it is believed that the driver has none."""
LANES = 128
"""CUDA cores of an SM on Hopper and Blackwell: NVML counts those of the device."""
INFINITE = 2.0**62
"""No count of cycles gets there in centuries."""


class PipeReader:
    """Takes a sample at each reading, and reads what lies between the last two; `notes` are those of the last one."""

    def __init__(self, library: Any, handle: Any, ask: Callable[..., Any]) -> None:
        """Prepare; `ask` makes a call and returns None where it fails, having noted that.

        `refusal` says why there is no activity at all, empty while there may be some.
        """
        self.notes: set[str] = set()
        self._library = library
        self._handle = handle
        self._ask = ask
        self.refusal = ""
        self._is_supported: bool | None = None
        self._spare: list[Any] = []
        self._told: set[str] = set()
        self._questions: dict[str, tuple[Any, list[tuple[str, Any]]]] = {}
        self._counter = CycleCounter(self._count_sms)
        self._tries_left = TRIES
        self._last: tuple[Any, int, int | None] | None = None

    def read(self, clock_mhz: int | None, at_ns: int) -> Activity | None:
        """Return the activity since the last sample; None where there is none, or it is too early for one."""
        library, ask, self.notes = self._library, self._ask, set()
        if self._is_supported is None:
            self._is_supported = self._query()
        if not self._is_supported or (self._last is not None and at_ns - self._last[1] < LEAST_NS):
            return None
        sample = self._spare.pop() if self._spare else ask("GPM", library.nvmlGpmSampleAlloc)
        if sample is None:
            return None
        if ask("pipe activity", lambda: library.nvmlGpmSampleGet(self._handle, sample)) is None:
            self._spare.append(sample)
            self._forget()
            return None
        before, self._last = self._last, (sample, at_ns, clock_mhz)
        if before is None:
            return None
        then, then_ns, then_mhz = before
        activity = self._compare(then, sample, (then_mhz, clock_mhz), at_ns - then_ns)
        self._spare.append(then)
        if activity is None or len(activity.pipes) < len(self._told):
            return None  # a sum over times when one was not told would be too little
        self._told |= set(activity.pipes)
        return activity if len(activity.pipes) == len(self._told) else None

    def _query(self) -> bool:
        """Ask once whether there is activity to read, and keep the reason where there is none."""

        def ask_support() -> Any:
            try:
                return self._library.nvmlGpmQueryDeviceSupport(self._handle)
            except self._library.NVMLError as error:
                self.refusal = f"pipe activity could not be read: {words_of(error)}"
                raise

        support = self._ask("GPM", ask_support, is_noted=False)
        is_supported = bool(support is not None and support.isSupportedDevice)
        if not is_supported:
            self.refusal = self.refusal or OLDER
        return is_supported

    def release(self) -> None:
        """Give the samples back to the driver."""
        self._forget()
        for sample in self._spare:
            self._ask("GPM", lambda sample=sample: self._library.nvmlGpmSampleFree(sample), is_noted=False)
        self._spare.clear()

    def _forget(self) -> None:
        if self._last is not None:
            self._spare.append(self._last[0])
        self._last = None
        self._counter.forget()

    def _compare(self, then: Any, now: Any, clocks_mhz: tuple[int | None, int | None], ns: int) -> Activity | None:
        """Return the cycles of each pipe between two samples, by its counter or else by its share."""
        shares = self._question("shares", PIPES, then, now, is_noted=True)
        shares = {name: share for name, share in shares.items() if share <= MOST_PERCENT}
        cycles = self._count(then, now, clocks_mhz, ns)
        return make_activity(shares, cycles, clocks_mhz, ns, self.notes)

    def _count(self, then: Any, now: Any, clocks_mhz: tuple[int | None, int | None], ns: int) -> dict[str, int] | None:
        """Return what was counted between two samples, with the cycles that elapsed; None where nothing can be told.

        Counters are asked for apart: a driver that does not know their numbers may refuse the question as a whole.
        """
        said = self._question("cycles", CYCLES, then, now, is_noted=False) if self._tries_left else {}
        if ELAPSED not in said:
            self._tries_left -= bool(self._tries_left)
            self._counter.forget()
            return None
        self._tries_left = TRIES
        cycles = self._counter.take(said, clocks_mhz, ns)
        self.notes |= self._counter.notes
        return cycles

    def _count_sms(self) -> int | None:
        """Return the SMs of a slice, or of a whole device by its cores."""
        library, handle = self._library, self._handle
        slice_ = self._ask("SMs", lambda: library.nvmlDeviceGetAttributes_v2(handle), is_noted=False)
        if slice_ is not None:
            return int(slice_.multiprocessorCount)
        cores = self._ask("SMs", lambda: library.nvmlDeviceGetNumGpuCores(handle), is_noted=False)
        return None if cores is None else int(cores) // LANES

    def _question(
        self, what: str, numbers: Mapping[int, str], then: Any, now: Any, *, is_noted: bool
    ) -> dict[str, float]:
        """Return what the driver tells of these metrics between two samples."""
        library = self._library
        if what not in self._questions:  # kept: its array has room for every metric there is
            metrics = library.c_nvmlGpmMetricsGet_t()
            metrics.version, metrics.numMetrics = library.NVML_GPM_METRICS_GET_VERSION, len(numbers)
            for place, number in enumerate(numbers):
                metrics.metrics[place].metricId = number
            self._questions[what] = metrics, [(name, metrics.metrics[at]) for at, name in enumerate(numbers.values())]
        metrics, slots = self._questions[what]
        metrics.sample1, metrics.sample2 = then, now
        if self._ask("pipe activity", lambda: library.nvmlGpmMetricsGet(metrics), is_noted=is_noted) is None:
            return {}
        # By the descriptors: pynvml's own way to a member of a structure takes as long as all the rest.
        kind = type(slots[0][1])
        code_of, value_of = kind.nvmlReturn.__get__, kind.value.__get__
        told = {name: value_of(metric) for name, metric in slots if code_of(metric) == 0}
        return {name: value for name, value in told.items() if 0 <= value < INFINITE}  # NaN is not, either
