"""Device time, energy and identity from NVML, through nvidia-ml-py; what cannot be read is missing, never zero.

A daemon thread reads at 1 Hz, so that a slow or hanging driver cannot delay a step. Written from NVIDIA's
documentation and tried with a scripted library only: not yet run on a GPU (tests/gpu holds the check).
Not here: peaks (`devices`), pipe activity, clocks and throttling, which the issue on hardware evidence brings.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from flopmeter.sensors.guard import guarded
from flopmeter.usage import DeviceUsage, Usage

PERIOD_S = 1.0
JOIN_S = 2.0
NO_DEVICE = "no CUDA device was used by this process"


class NvmlSampler:
    """Samples the devices that this process holds.

    `find_uuids` returns the UUIDs (`GPU-…`) of devices that the process has memory on, empty while there are none.
    """

    def __init__(
        self,
        find_uuids: Callable[[], Sequence[str]],
        *,
        library: Any = None,
        period_s: float = PERIOD_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Prepare; nothing is loaded before `start`."""
        self._find_uuids = find_uuids
        self._library = library
        self._period_s = period_s
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._status = "NVML has not answered yet"
        self._has_ended = False
        self._pending: list[DeviceUsage] = []
        self._last: dict[str, tuple[int, int | None]] = {}
        self._names: dict[str, str] = {}
        self._identity: dict[str, dict[str, str]] = {}
        self._pid = 0

    def start(self) -> None:
        """Start the thread; the driver is looked for there, because looking can take long."""
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._sample_until_halt, name="flopmeter-nvml", daemon=True)
        self._thread.start()

    def read(self) -> Usage:
        """Return what was spent since the last read.

        Units: those of `DeviceUsage`.
        Basis: `measured` for held time and energy; `busy_ns` is missing in this version.
        Is not: energy of the host, or the share of other processes on a shared device.
        """
        with self._lock:
            pending, self._pending = self._pending, []
            return Usage.of(pending, () if self._names and not self._has_ended else (self._status,))

    def identities(self) -> dict[str, dict[str, str]]:
        """Return what each device says it is, by UUID: name, serial, PCI id, driver, where NVML tells."""
        with self._lock:
            return {uuid: dict(fields) for uuid, fields in self._identity.items()}

    def stop(self) -> None:
        """Take a last sample and join; twice is fine. A thread that hangs in the driver is left behind, as a daemon."""
        if self._thread is not None and self._pid == os.getpid():
            self._halt.set()
            self._thread.join(JOIN_S)
        self._thread = None

    def on_failure(self, error: Exception) -> None:
        """Say why no more is measured; what was measured before stands."""
        self._say(f"sampling ended: {type(error).__name__}: {_words(error)}")
        self._has_ended = True

    @guarded
    def _sample_until_halt(self) -> None:
        library = self._open()
        if library is None:
            return
        try:
            while not self._halt.wait(self._period_s):
                self._sample(library)
            self._sample(library)
        finally:
            _quiet(library, library.nvmlShutdown)

    def _open(self) -> Any:
        library = self._library
        if library is None:
            try:
                library = import_module("pynvml")
            except ImportError as error:
                self._say(f"nvidia-ml-py is not installed: {error}")
                return None
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            self._say(f"no NVIDIA driver: {_words(error)}")
            return None
        self._say(NO_DEVICE)
        return library

    def _sample(self, library: Any) -> None:
        for uuid in self._find_uuids():
            now = self._clock_ns()
            energy, note = None, ""
            try:
                handle = library.nvmlDeviceGetHandleByUUID(uuid)
                if uuid not in self._names:
                    self._identify(library, handle, uuid)
                energy = int(library.nvmlDeviceGetTotalEnergyConsumption(handle))
            except library.NVMLError as error:
                note = f"energy could not be read: {_words(error)}"
            self._add(uuid, now, energy, note)

    def _add(self, uuid: str, now_ns: int, energy_mj: int | None, note: str) -> None:
        before = self._last.get(uuid)
        self._last[uuid] = (now_ns, energy_mj)
        if before is None:
            with self._lock:
                self._names.setdefault(uuid, "unknown")
            return
        then_ns, then_mj = before
        spent = None if energy_mj is None or then_mj is None else energy_mj - then_mj
        if spent is not None and spent < 0:
            spent, note = None, "the energy counter went backwards (driver reloaded or device reset)"
        usage = DeviceUsage(
            uuid=uuid,
            name=self._names.get(uuid, "unknown"),
            held_ns=now_ns - then_ns,
            busy_ns=None,
            energy_mj=spent,
            note=note,
        )
        with self._lock:
            self._pending.append(usage)

    def _identify(self, library: Any, handle: Any, uuid: str) -> None:
        fields = {}
        for name, read in (
            ("name", lambda: library.nvmlDeviceGetName(handle)),
            ("serial", lambda: library.nvmlDeviceGetSerial(handle)),
            ("pci", lambda: f"{library.nvmlDeviceGetPciInfo(handle).pciDeviceId:#010x}"),
            ("driver", library.nvmlSystemGetDriverVersion),
        ):
            found = _quiet(library, read)
            if found is not None:
                fields[name] = found.decode() if isinstance(found, bytes) else str(found)
        with self._lock:
            self._names[uuid] = fields.get("name", "unknown")
            self._identity[uuid] = fields

    def _say(self, status: str) -> None:
        with self._lock:
            self._status = status


def probe_driver() -> dict[str, Any]:
    """Return driver version and devices as NVML names them, or a note that says why there are none."""
    try:
        import pynvml
    except ImportError as error:
        return {"driver": None, "devices": [], "note": f"nvidia-ml-py is not installed: {error}"}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"driver": None, "devices": [], "note": f"no NVIDIA driver: {_words(error)}"}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        devices = [{"name": pynvml.nvmlDeviceGetName(h), "uuid": pynvml.nvmlDeviceGetUUID(h)} for h in handles]
        return {"driver": pynvml.nvmlSystemGetDriverVersion(), "devices": devices, "note": ""}
    except pynvml.NVMLError as error:
        return {"driver": None, "devices": [], "note": f"NVML does not answer: {_words(error)}"}
    finally:
        _quiet(pynvml, pynvml.nvmlShutdown)


def find_cuda_uuids() -> list[str]:
    """Return the UUIDs of the CUDA devices on which this process has reserved memory; initialises nothing."""
    import torch  # so that the sampler itself can be tried without torch

    if not torch.cuda.is_initialized():
        return []
    held = [index for index in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(index) > 0]
    return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in held]


def _quiet(library: Any, read: Callable[[], Any]) -> Any:
    """Return what a call says, or None where NVML cannot tell."""
    try:
        return read()
    except library.NVMLError:
        return None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
