"""How busy each pipe of a device was between two readings, from NVML's GPM (Hopper and newer).

The percentages are of cycles, over the time between two samples; a moving clock makes them cycles only together with
the clock that was measured. Which precision a tensor pipe worked in, they do not tell. Tried with a scripted library
only. Not here: what cycles are worth (`estimate/hardware.py`), the raw cycle counters of driver R595 and newer.
"""

from collections.abc import Callable
from typing import Any

from flopmeter.sensors.guard import words_of
from flopmeter.sensors.reading import MHZ_NS_PER_CYCLE, Activity

PIPES = {5: "tensor", 7: "hmma", 8: "dmma", 9: "imma", 4: "integer", 11: "fp64", 12: "fp32", 13: "fp16"}
"""Metrics by their number in nvml.h; `tensor` is any tensor pipe, `hmma` 16 and 8 bits, `dmma` fp64, `imma` int8."""
MOST_PERCENT = 101
"""More than all cycles is no share of them; a little more is rounding."""
OLDER = "this device has no counters of pipe activity (Hopper and newer do)"
LEAST_NS = 150_000_000
"""Samples closer than 100 ms hold the same figures (nvml.h); with some room."""


class PipeReader:
    """Takes a sample at each reading, and reads what lies between the last two."""

    def __init__(self, library: Any, handle: Any, ask: Callable[..., Any]) -> None:
        """Prepare; `ask` makes a call and returns None where it fails, having noted that.

        `refusal` says why there is no activity at all, empty while there may be some.
        """
        self._library = library
        self._handle = handle
        self._ask = ask
        self.refusal = ""
        self._is_supported: bool | None = None
        self._spare: list[Any] = []
        self._told: set[str] = set()
        self._metrics: Any = None
        self._slots: list[tuple[str, Any]] = []
        self._last: tuple[Any, int, int | None] | None = None

    def read(self, clock_mhz: int | None, at_ns: int) -> Activity | None:
        """Return the activity since the last sample; None where there is none, or it is too early for one."""
        library, ask = self._library, self._ask
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
        shares = self._compare(then, sample)
        self._spare.append(then)
        if not shares or clock_mhz is None or then_mhz is None:
            return None
        ns = at_ns - then_ns
        twice = (clock_mhz + then_mhz) * ns  # MHz × ns of both ends of the stretch
        parts = 2 * MHZ_NS_PER_CYCLE * 100
        pipes = {}
        for name, share in shares.items():
            above, below = share.as_integer_ratio()
            pipes[name] = above * twice // (below * parts)
        return Activity(pipes, ns)

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

    def _compare(self, then: Any, now: Any) -> dict[str, float]:
        """Return what was told of each pipe between two samples, in percent of the cycles."""
        library = self._library
        if self._metrics is None:  # kept: its array has room for every metric there is
            metrics = self._metrics = library.c_nvmlGpmMetricsGet_t()
            metrics.version, metrics.numMetrics = library.NVML_GPM_METRICS_GET_VERSION, len(PIPES)
            for place, number in enumerate(PIPES):
                metrics.metrics[place].metricId = number
            self._slots = [(name, metrics.metrics[place]) for place, name in enumerate(PIPES.values())]
        metrics = self._metrics
        metrics.sample1, metrics.sample2 = then, now
        if self._ask("pipe activity", lambda: library.nvmlGpmMetricsGet(metrics)) is None:
            return {}
        found = {}
        for name, metric in self._slots:
            if metric.nvmlReturn == 0 and 0 <= (value := metric.value) <= MOST_PERCENT:  # NaN is neither
                found[name] = value
        if len(found) < len(self._told):
            return {}  # a sum over times when one was not told would be too little
        self._told |= set(found)
        return found if len(found) == len(self._told) else {}
