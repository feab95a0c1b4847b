"""The driver as a whole: why it cannot be opened, and what it tells when somebody looks (`flopmeter doctor`).

Not here: a run's devices (`nvml.py`), one device (`device.py`).
"""

import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from flopmeter.sensors.device import BINDING_FAILURES, Device
from flopmeter.sensors.guard import words_of
from flopmeter.sensors.visible import VISIBLE, find_held_uuids, find_visible, read_inventory

LIMIT_S = 10.0
ABSENT, NO_PERMISSION, MISMATCH = (9, 12), 4, 18
"""Codes of nvml.h: driver not loaded, library not found; no permission; library and kernel module differ."""
MARK = "fake_is_scripted"
"""A symbol that the fake library has, and NVIDIA's has not."""
SCRIPTED = "the devices are a script (flopmeter.testing): nothing of them was measured"


def is_scripted(library: Any) -> bool:
    """Say whether what an initialised pynvml has loaded is the fake library."""
    return getattr(getattr(library, "nvmlLib", None), MARK, None) is not None


def read_quietly(library: Any, read: Callable[[], Any]) -> Any:
    """Return what a call says, or None where NVML cannot tell."""
    try:
        return read()
    except (library.NVMLError, *BINDING_FAILURES):
        return None


def explain_refusal(error: Exception) -> str:
    """Say why a driver could not be opened: that it fails, or refuses, does not mean that there is none."""
    words = words_of(error).rstrip(".")
    code = getattr(error, "value", None)
    if code in ABSENT:
        return f"no NVIDIA driver: {words}"
    if code == MISMATCH:
        return f"the NVIDIA driver's library and its kernel module are of different versions: {words}"
    return f"the NVIDIA driver {'refuses' if code == NO_PERMISSION else 'does not answer'}: {words}"


def probe_driver(
    find_uuids: Callable[[], Sequence[str]] = find_held_uuids, *, limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """Return driver version, devices as NVML names them with what each does not tell, and a note on what is missing.

    Besides those that the driver lists, devices that the environment names are looked for. `visible` is what CUDA shows
    to this process by the environment, None where that cannot be known. A driver that hangs is left to a daemon.
    """
    note = f"NVML does not come back within {limit_s:g} s"
    found: dict[str, Any] = {"driver": None, "devices": [], "visible": None, "note": note}
    thread = threading.Thread(target=lambda: found.update(_probe_driver(find_uuids)), daemon=True)
    thread.start()
    thread.join(limit_s)
    return dict(found)


def _probe_driver(find_uuids: Callable[[], Sequence[str]]) -> dict[str, Any]:
    try:
        library = import_module("pynvml")
    except ImportError as error:
        return {"note": f"nvidia-ml-py is not installed: {words_of(error)}"}
    try:
        library.nvmlInit()
    except (library.NVMLError, *BINDING_FAILURES) as error:
        return {"note": explain_refusal(error)}
    try:
        driver = _text(read_quietly(library, library.nvmlSystemGetDriverVersion))
        listed, note = _list_devices(library)
        named = [uuid for uuid in find_uuids() if uuid not in {VISIBLE, *listed}]
        seen = find_visible(read_inventory(library))
        return {
            "driver": driver or None,
            "devices": [_probe(library, uuid, driver) for uuid in (*listed, *named)],
            "visible": None if seen.uuids is None else list(seen.uuids),
            "note": "; ".join(filter(None, dict.fromkeys((note, seen.note)))),
        }
    except (library.NVMLError, RuntimeError, *BINDING_FAILURES) as error:
        return {"note": f"NVML does not answer: {words_of(error)}"}
    finally:
        read_quietly(library, library.nvmlShutdown)


def _list_devices(library: Any) -> tuple[list[str], str]:
    """Return the UUIDs of the devices that can be asked, and why others cannot."""
    uuids, notes = [], []
    for index in range(library.nvmlDeviceGetCount()):
        try:
            uuids.append(_text(library.nvmlDeviceGetUUID(library.nvmlDeviceGetHandleByIndex(index))))
        except (library.NVMLError, *BINDING_FAILURES) as error:
            notes.append(f"device {index} does not answer: {words_of(error)}")
    return uuids, "; ".join(notes)


def _probe(library: Any, uuid: str, driver: str) -> dict[str, Any]:
    device = Device(library, uuid, driver=driver, note_call=lambda _: None)
    reading = device.read(time.monotonic_ns)
    name = device.identify().get("name", "unknown") if reading.has_answered else "unknown"
    device.release()
    return {"name": name, "uuid": uuid, "notes": sorted(reading.notes)}


def _text(said: Any) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said or "")
