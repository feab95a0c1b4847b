"""Devices as a site's dcgm-exporter tells of them, in place of NVML, where `FLOPMETER_DCGM` has its address.

One HTTP request a sample, for all devices. The exporter collects at an interval of its own, by default 30 s, and shows
the same figures until the next one, without their time: so figures count from one change of them to the next, as they
are seen, and what lies before the first change and after the last is held time of which nothing is known. Activity of
pipes, busy time and power need an interval of 5 s or less; energy and counts of cycles do not.

Names and units: `etc/default-counters.csv` and `etc/dcp-metrics-included.csv` of NVIDIA/dcgm-exporter, and
`dcgmlib/dcgm_fields.h` of NVIDIA/DCGM, of which versions 4.6 and newer have other names for the same fields. Left out,
because one name has had two units: `DCGM_FI_DEV_*_VIOLATION` (documented as µs, in fact ns: dcgm-exporter pull request
589) and `DCGM_FI_DEV_GPU_UTIL_RATIO` (percent as field 203, a ratio as field 1613). Tried with a scripted exporter
only. Not here: when devices are read (`nvml.py`), what lies between two readings (`reading.py`).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from math import isfinite
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from flopmeter.errors import SensorError
from flopmeter.sensors.cycles import ELAPSED, MOST_PERCENT, CycleCounter, make_activity
from flopmeter.sensors.guard import words_of
from flopmeter.sensors.identity import bounded
from flopmeter.sensors.reading import NEAR_NS, Activity, Reading
from flopmeter.units import NS_PER_S

VARIABLE = "FLOPMETER_DCGM"
TIMEOUT_S = 1.5
"""Less than the sampler is waited for at the end of a run."""
MOST_BYTES = 8 * 2**20
"""Eight devices take less than 0.1 MiB."""
STALE_NS = 120 * NS_PER_S
"""Figures that have not changed for so long, four of the exporter's intervals, are nobody's reading."""
SLOW_NS = 5 * NS_PER_S
FAR_NS = 10 * NS_PER_S
"""When figures changed is known to a second: over less than ten, energy is not held against the power limit."""
SOURCE = "read from DCGM's exporter, not from NVML"
STALE = "DCGM's exporter has shown the same figures for minutes"
BEHIND = "DCGM's exporter shows figures of before: those of the run's first and last moments are not known"
RARE = "DCGM's exporter collects too rarely for busy time, power and pipes: its interval has to be 5 s or less"
UNLISTED = "DCGM's exporter does not list this device"
SLICE = "DCGM's exporter does not know slices by their UUID: name it MIG-<UUID of its card>/<GPU instance>/<other>"
OF_CARD = "DCGM tells energy, power and utilisation of the whole card, not of this slice of it"
ENERGY, POWER, BUSY, CLOCK, LIMIT = "energy_mj", "power_w", "busy_percent", "sm_mhz", "limit_w"
REASONS, XID = "reasons", "xid"
FIGURES: dict[str, tuple[str, float]] = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": (ENERGY, 2.0**62),
    "DCGM_FI_DEV_POWER_USAGE": (POWER, 1e5),
    "DCGM_FI_DEV_BOARD_POWER_WATTS": (POWER, 1e5),
    "DCGM_FI_DEV_GPU_UTIL": (BUSY, 100),
    "DCGM_FI_DEV_SM_CLOCK": (CLOCK, 1e5),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": (LIMIT, 1e5),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": (REASONS, 2.0**31),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": (REASONS, 2.0**31),
    "DCGM_FI_DEV_XID_ERRORS": (XID, 1e4),
    "DCGM_FI_DEV_XID_ERROR": (XID, 1e4),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature", 1e3),  # as a sign of life
}
"""What is read: under which name, and from where on it is what DCGM gives for what it does not know."""
SLOWED = {
    "SW_POWER_CAP": "power cap",
    "SYNC_BOOST": "sync boost",
    "SW_THERM_SLOWDOWN": "thermal",
    "HW_THERM_SLOWDOWN": "hardware thermal",
    "HW_POWER_BRAKE_SLOWDOWN": "power brake",
}
RATIOS = {
    "tensor": ("PIPE_TENSOR_ACTIVE", "TENSOR_UTIL_RATIO"),
    "hmma": ("PIPE_TENSOR_HMMA_ACTIVE", "HMMA_UTIL_RATIO"),
    "imma": ("PIPE_TENSOR_IMMA_ACTIVE", "IMMA_UTIL_RATIO"),
    "integer": ("PIPE_INT_ACTIVE", "INT_UTIL_RATIO"),
    "fp64": ("PIPE_FP64_ACTIVE", "FP64_UTIL_RATIO"),
    "fp32": ("PIPE_FP32_ACTIVE", "FP32_UTIL_RATIO"),
    "fp16": ("PIPE_FP16_ACTIVE", "FP16_UTIL_RATIO"),
}
"""Shares of cycles, 0 to 1, as means over the exporter's interval; its comments have called them percent."""
COUNTS = {
    ELAPSED: "SM_CYCLES_ELAPSED",
    "tensor": "MMA_CYCLES_ACTIVE",
    "hmma": "HMMA_CYCLES_ACTIVE",
    "dmma": "DMMA_CYCLES_ACTIVE",
    "imma": "IMMA_CYCLES_ACTIVE",
    "integer": "INT_CYCLES_ACTIVE",
    "fp64": "FP64_CYCLES_ACTIVE",
    "fp32": "FP32_CYCLES_ACTIVE",
    "fp16": "FP16_CYCLES_ACTIVE",
}
FIGURES |= {f"DCGM_FI_DEV_CLOCKS_EVENT_REASON_{part}_NS": (f"slowed {name}", 2.0**62) for part, name in SLOWED.items()}
FIGURES |= {
    f"DCGM_FI_PROF_{part}": (f"share {name}", MOST_PERCENT / 100) for name, parts in RATIOS.items() for part in parts
}
FIGURES |= {f"DCGM_FI_PROF_{part}_TOTAL": (f"count {name}", 2.0**62) for name, part in COUNTS.items()}
IDENTITY = {
    "modelName": "name",
    "GPU_I_PROFILE": "profile",
    "DCGM_FI_DRIVER_VERSION": "driver",
    "DCGM_FI_DEV_SERIAL": "serial",
    "DCGM_FI_DEV_VBIOS_VERSION": "vbios",
}
_LABEL = re.compile(r'\s*(\w+)="((?:[^"\\]|\\.)*)"\s*,?')
MOST_LINE = 8192
"""No line of an exporter's is as long; each costs no more than its length."""
_SLICE = re.compile(r"MIG-(GPU-[^/]+)/(\d+)/\d+")

Key = tuple[str, str]
"""The UUID of a card, and the number of a GPU instance of it, empty for a whole card."""
Figures = Mapping[str, float]


def find_exporter(is_last: Callable[[], bool]) -> "DcgmExporter | None":
    """Return the exporter that the environment names; None where it names none."""
    address = os.environ.get(VARIABLE, "").strip()
    return DcgmExporter(address, is_last=is_last) if address else None


class DcgmExporter:
    """Stands for pynvml before the sampler, with what it asks of a library as a whole.

    `is_last` says whether the run is at its end, so that no later change of the figures will be seen.
    """

    NVMLError = SensorError  # what the sampler catches

    def __init__(
        self, address: str, *, is_last: Callable[[], bool] = lambda: False, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Prepare; nothing is asked yet."""
        self.is_last = is_last
        self._address = address
        self._timeout_s = timeout_s
        self.where, self._is_http = _name_place(address)
        http, client = import_module("urllib.request"), import_module("http.client")  # heavy, and seldom used
        self._failures = (OSError, ValueError, client.HTTPException)
        # Nothing but HTTP from where the address says: no proxy, which is for the world outside, and no redirection.
        self._opener = http.OpenerDirector()
        for part in ("HTTPHandler", "HTTPSHandler", "HTTPDefaultErrorHandler", "HTTPErrorProcessor"):
            self._opener.add_handler(getattr(http, part)())
        self._served: set[str] | None = None
        self._devices: dict[Key, tuple[dict[str, str], dict[str, float]]] = {}
        self._dates: dict[str, tuple[Figures, int]] = {}  # outlives devices that are let go and made anew
        self._why = ""

    def nvmlInit(self) -> None:  # noqa: N802
        """Do nothing: whether there is an exporter, each reading shows."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Do nothing."""

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """Return nothing: what depends on it, DCGM sees to."""
        return ""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Refuse: an exporter tells of a node's devices, not of this process's."""
        raise SensorError(
            "DCGM's exporter does not tell which devices CUDA shows",
            hint="with DCGM's exporter, name devices by UUID in FLOPMETER_DEVICES",
        )

    def make_device(self, _: Any, uuid: str, *, driver: str, note_call: Callable[[str], None]) -> "DcgmDevice":
        """Return one of its devices; whether it lists it, each reading shows."""
        del driver
        return DcgmDevice(self, uuid, note_call=note_call)

    def look_up(self, uuid: str) -> tuple[Mapping[str, str], Figures] | str:
        """Return labels and figures of a device, from one request for all that are asked for in turn; else why not."""
        if self._served is None or uuid in self._served:
            self._served = set()
            self._devices, self._why = {}, ""
            try:
                self._devices = _parse(self._fetch())
            except self._failures as error:
                cause = getattr(error, "reason", None)  # what urllib wraps
                words = words_of(cause if isinstance(cause, Exception) else error)
                words = f"HTTP Error {error.code}" if hasattr(error, "code") else words  # reasons may be any text
                self._why = f"DCGM's exporter ({self.where}) did not answer: {words}"
            else:
                if not self._devices:
                    self._why = f"DCGM's exporter ({self.where}) answered without metrics of a device"
        self._served.add(uuid)
        if self._why:
            return self._why
        part = _SLICE.fullmatch(uuid)
        found = self._devices.get((part[1], part[2]) if part else (uuid, ""))
        if found is not None:
            return found
        return SLICE if uuid.startswith("MIG-") and not part else UNLISTED

    def list_devices(self) -> tuple[list[str], str]:
        """Return all that it lists, as `look_up` takes it, or why it lists nothing; from the request of this turn."""
        self.look_up("")
        return [f"MIG-{card}/{part}/0" if part else card for card, part in self._devices], self._why

    def date(self, uuid: str, figures: Figures, now_ns: int) -> int:
        """Return since when a device has shown these figures, now included.

        Units: nanoseconds of the sampler's clock.
        """
        known = self._dates.get(uuid)
        if known is None or known[0] != figures:
            known = self._dates[uuid] = (figures, now_ns)
        return known[1]

    def _fetch(self) -> str:
        if not self._is_http:
            raise ValueError(f"{VARIABLE} is no address of the form http://host:9400/metrics")
        until_s = monotonic() + self._timeout_s
        with self._opener.open(self._address, timeout=self._timeout_s) as answer:
            body = b""
            while piece := answer.read1(2**16):
                body += piece
                if len(body) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES // 2**20} MiB")
                if monotonic() > until_s:
                    raise TimeoutError("timed out")
            if answer.length:
                raise ValueError("the answer breaks off")
        return body.decode(errors="replace").rpartition("\n")[0]  # half a number is another number


def _name_place(address: str) -> tuple[str, bool]:
    """Return what of an address may be shown (the rest may be a secret), and whether it is one of HTTP."""
    try:
        parts = urlsplit(address)
        is_http = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        is_http &= "@" not in parts.netloc  # `http.client` takes a password for a port, and says it
    except ValueError:  # no address, or a port that is none
        return "?", False
    return f"{parts.hostname or '?'}{parts.path}", is_http


def _parse(text: str) -> dict[Key, tuple[dict[str, str], dict[str, float]]]:
    """Return labels and figures by device; a figure that is told in two ways is not told."""
    found: dict[Key, tuple[dict[str, str], dict[str, float]]] = {}
    unlike: set[tuple[Key, str]] = set()
    for figure, labels, value in _figures_of(text):
        key = (labels.get("UUID") or labels.get("uuid", ""), labels.get("GPU_I_ID", ""))
        figures = found.setdefault(key, (labels, {}))[1]
        if figures.setdefault(figure, value) != value:
            unlike.add((key, figure))
    for key, figure in unlike:
        del found[key][1][figure]
    return {key: said for key, said in found.items() if key[0]}


def _figures_of(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    known: dict[str, dict[str, str]] = {}  # metrics of one device mostly have the same labels
    for line in text.splitlines():
        name, brace, rest = line.partition("{")
        if not brace or name not in FIGURES or len(line) > MOST_LINE:
            continue
        figure, most = FIGURES[name]
        labels, brace, said = rest.rpartition("}")
        try:
            value = float(said.split()[0])
        except (ValueError, IndexError):  # such as `ERROR - FAILED TO CONVERT TO STRING`
            continue
        if brace and isfinite(value) and 0 <= value <= most:
            if labels not in known:
                known[labels] = dict(_labels_of(labels))
            yield figure, known[labels], value


def _labels_of(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while label := _LABEL.match(text, at):
        yield label[1], label[2]
        at = label.end()


class DcgmDevice:
    """One device of the exporter, in the shape of `device.Device`."""

    def __init__(self, exporter: DcgmExporter, uuid: str, *, note_call: Callable[[str], None]) -> None:
        """Prepare; nothing is asked yet."""
        self.uuid = uuid
        self._exporter = exporter
        self._note_call = note_call
        self._labels: Mapping[str, str] = {}
        # SMs are not among what an exporter tells, so that counts which are sums cannot be told from anything else.
        self._counter = CycleCounter(lambda: None)
        self._figures: Figures = {}
        self._shown: Reading | None = None  # what was made of these figures
        self._changed_ns: int | None = None  # when one change was followed by another
        self._is_broken = False  # whether an answer was missed since then
        self._xid: int | None = None
        self.is_identified = False  # until it has been asked who it is

    def identify(self) -> dict[str, str]:
        """Return what the exporter's labels say of the device, and who says so."""
        self.is_identified = True
        said = {name: bounded(self._labels[label]) for label, name in IDENTITY.items() if self._labels.get(label)}
        return {**said, "source": f"DCGM's exporter ({self._exporter.where})"}

    def has_company(self) -> bool:
        """Say that no other process is known of: exporters tell of none."""
        return False

    def read(self, clock_ns: Callable[[], int]) -> Reading:
        """Return the figures where they have changed; else the very reading of before, for which no time passes."""
        asked_ns = clock_ns()
        self._note_call("DCGM's exporter")
        try:
            found = self._exporter.look_up(self.uuid)
        finally:
            self._note_call("")
        now = clock_ns()
        if now - asked_ns > SLOW_NS:
            self.release()  # meanwhile others may have taken the time for a gap
        shown, is_last = self._shown, self._exporter.is_last()
        if isinstance(found, str):
            if shown is None or is_last or now - shown.at_ns >= STALE_NS:
                self.release()
                return Reading(now, has_answered=False, notes=frozenset({found}))
            self._is_broken = True
            return shown
        self._labels, figures = found
        if now - self._exporter.date(self.uuid, figures, now) >= STALE_NS:
            return Reading(now, has_answered=False, notes=frozenset({STALE}))
        if shown is None:  # how old these figures are nobody knows
            self._figures = figures
            self._shown = Reading(now)
            return self._shown
        if figures != self._figures:
            self._shown = self._tell(figures, now)
            self._figures, self._changed_ns, self._is_broken = figures, now, False
            return self._shown
        if is_last:
            return Reading(now, notes=frozenset({SOURCE, BEHIND}))
        return shown

    def tells(self) -> tuple[bool, bool, bool]:
        """Say whether energy, power and activity of pipes were among the last figures."""
        figures, is_whole = self._figures, "/" not in self.uuid
        pipes = any(name.startswith(("share ", "count ")) for name in figures)
        return is_whole and ENERGY in figures, is_whole and POWER in figures, pipes

    def release(self) -> None:
        """Forget what was read: the next figures follow nothing."""
        self.is_identified = False
        self._figures, self._shown, self._changed_ns = {}, None, None
        self._counter.forget()

    def _tell(self, figures: Figures, now: int) -> Reading:
        notes = {SOURCE}
        ns = None if self._changed_ns is None else now - self._changed_ns
        if ns is None or ns > NEAR_NS:
            notes.add(BEHIND if ns is None else RARE)
        activity = self._look_at_pipes(figures, ns, notes)
        is_slice = "/" in self.uuid
        if is_slice:
            notes.add(OF_CARD)
        faults = self._look_at_xid(figures)
        notes.update(f"the driver reported {name}" for name in faults)
        whole = {} if is_slice else figures
        is_far = ns is not None and ns >= FAR_NS
        return Reading(
            now,
            energy_mj=_whole(whole.get(ENERGY)),
            power_mw=_whole(whole.get(POWER), 1000),
            busy_percent=_whole(whole.get(BUSY)),
            sm_mhz=_whole(figures.get(CLOCK)),
            limit_mw=_whole(whole.get(LIMIT), 1000) if is_far else None,
            slowed_ns={name: int(value) for name, value in _under("slowed", figures)},
            reasons=_whole(figures.get(REASONS)),
            activity=activity,
            faults=faults,
            notes=frozenset(notes),
        )

    def _look_at_pipes(self, figures: Figures, ns: int | None, notes: set[str]) -> Activity | None:
        """Return what the pipes did since the change before, of which figures are means or differences."""
        clocks_mhz = (_whole(self._figures.get(CLOCK)), _whole(figures.get(CLOCK)))
        counts = dict(_under("count", figures))
        cycles = self._counter.take(counts, clocks_mhz, ns or 0) if ELAPSED in counts else None
        notes |= self._counter.notes
        if ns is None:
            return None
        shares = {name: 100 * share for name, share in _under("share", figures)}
        if self._is_broken:  # they are of the last interval alone
            shares = {}
        return make_activity(shares, cycles, clocks_mhz, ns, notes)

    def _look_at_xid(self, figures: Figures) -> dict[str, int]:
        """Return an Xid that was not the last one before: DCGM's gauge of it is never cleared."""
        last = _whole(figures.get(XID))
        is_new = bool(last) and self._xid is not None and last != self._xid
        self._xid = self._xid if last is None else last
        return {f"Xid {last}": 1} if is_new else {}


def _whole(value: float | None, times: int = 1) -> int | None:
    return None if value is None else round(value * times)


def _under(kind: str, figures: Figures) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        first, _, rest = name.partition(" ")
        if first == kind:
            yield rest, value
