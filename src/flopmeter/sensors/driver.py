"""The driver as a whole: why it cannot be opened, and what it tells when somebody looks (`flopmeter doctor`).

Whoever looks asks the source that a run would have here: NVML, or DCGM's exporter where the environment names one.

Not here: a run's devices (`nvml.py`), one device (`device.py`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from flopmeter.sensors.dcgm import SOURCE, DcgmExporter, find_exporter
from flopmeter.sensors.device import BINDING_FAILURES, Device
from flopmeter.sensors.gpm import LEAST_NS
from flopmeter.sensors.guard import words_of
from flopmeter.sensors.visible import VISIBLE, find_held_uuids, find_visible, read_inventory
from flopmeter.units import NS_PER_S

LIMIT_S = 10.0
ABSENT, NO_PERMISSION, MISMATCH = (9, 12), 4, 18
"""Codes of nvml.h: driver not loaded, library not found; no permission; library and kernel module differ."""
TOLD = ("energy", "power", "pipe activity")
"""What is said of each device, whether it tells it."""
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
    """Return driver version, devices with what each tells and what it does not, and a note on what is missing.

    Besides those that the driver lists, devices that the environment names are looked for. `visible` is what CUDA shows
    to this process by the environment, None where that cannot be known, and `visible_note` says why. A driver that
    hangs is left to a daemon.
    """
    note = f"NVML does not come back within {limit_s:g} s"
    found: dict[str, Any] = {"driver": None, "devices": [], "visible": None, "visible_note": "", "note": note}
    thread = threading.Thread(target=lambda: found.update(_probe(find_uuids)), daemon=True)
    thread.start()
    thread.join(limit_s)
    return dict(found)


def _probe(find_uuids: Callable[[], Sequence[str]]) -> dict[str, Any]:
    exporter = find_exporter(lambda: False)
    if exporter is not None:
        return _probe_exporter(exporter, find_uuids())
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
        listed, silent = _list_devices(library)
        inventory = read_inventory(library)
        seen = find_visible(inventory)
        cut = {card.uuid: [part.uuid for part in card.migs] for card in inventory.devices if card.is_mig}
        order = [uuid for card in listed for uuid in (card, *cut.get(card, ()))]
        order += [uuid for uuid in find_uuids() if uuid not in {VISIBLE, *order}]
        cards = {uuid: _describe_card(library, uuid, len(cut[uuid])) for uuid in order if uuid in cut}
        answers = _ask_devices(library, [uuid for uuid in order if uuid not in cards], driver)
        return {
            "driver": driver or None,
            "devices": [*((cards | answers)[uuid] for uuid in order), *silent],
            "visible": None if seen.uuids is None else list(seen.uuids),
            "visible_note": seen.note,
            "note": SCRIPTED if is_scripted(library) else "",
        }
    except (library.NVMLError, RuntimeError, *BINDING_FAILURES) as error:
        return {"note": f"NVML does not answer: {words_of(error)}"}
    finally:
        read_quietly(library, library.nvmlShutdown)


def _list_devices(library: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the UUIDs of the devices that can be asked, and the others with the reason."""
    uuids, silent = [], []
    for index in range(library.nvmlDeviceGetCount()):
        try:
            uuids.append(_text(library.nvmlDeviceGetUUID(library.nvmlDeviceGetHandleByIndex(index))))
        except (library.NVMLError, *BINDING_FAILURES) as error:
            silent.append(_describe("", {"name": f"number {index} of the driver's list"}, [_does_not(error)]))
    return uuids, silent


def _describe_card(library: Any, uuid: str, slices: int) -> dict[str, Any]:
    name = read_quietly(library, lambda: library.nvmlDeviceGetName(library.nvmlDeviceGetHandleByUUID(uuid)))
    return _describe(uuid, {"name": _text(name) or "unknown"}, [f"cut into {slices} slice{'' if slices == 1 else 's'}"])


def _ask_devices(library: Any, uuids: Sequence[str], driver: str) -> dict[str, dict[str, Any]]:
    """Return what each device tells; asked twice, because the activity of pipes is that between two readings."""
    devices = [Device(library, uuid, driver=driver, note_call=lambda _: None) for uuid in uuids]
    for device in devices:
        device.read(time.monotonic_ns)
    time.sleep(LEAST_NS / NS_PER_S if devices else 0)
    found = {}
    for device in devices:
        reading = device.read(time.monotonic_ns)
        known = (reading.energy_mj, reading.power_mw, reading.activity)
        tells = {name: said is not None for name, said in zip(TOLD, known, strict=True)}
        identity = device.identify() if reading.has_answered else {}
        found[device.uuid] = _describe(device.uuid, identity, reading.notes, tells if reading.has_answered else {})
        device.release()
    return found


def _probe_exporter(exporter: DcgmExporter, named: Sequence[str]) -> dict[str, Any]:
    """Return what an exporter shows at once; how often that changes, only a run sees."""
    listed, why = exporter.list_devices()
    devices = []
    for uuid in dict.fromkeys([*listed, *(uuid for uuid in named if uuid != VISIBLE)]):
        device = exporter.make_device(exporter, uuid, driver="", note_call=lambda _: None)
        reading = device.read(time.monotonic_ns)
        tells = dict(zip(TOLD, device.tells(), strict=True)) if reading.has_answered else {}
        devices.append(_describe(uuid, device.identify() if tells else {}, reading.notes, tells))
    seen = find_visible(read_inventory(exporter))
    return {
        "driver": next((one["identity"]["driver"] for one in devices if "driver" in one["identity"]), None),
        "devices": devices,
        "visible_note": seen.note,
        "note": f"{why or f'{SOURCE} ({exporter.where})'}; busy time, power and pipes need an interval of 5 s or less",
    }


def _describe(
    uuid: str, identity: Mapping[str, str], notes: Iterable[str], tells: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    return {
        "name": identity.get("name", "unknown"),
        "uuid": uuid,
        "identity": dict(identity),
        "tells": dict(tells or {}),
        "notes": sorted(notes),
    }


def _does_not(error: Exception) -> str:
    return f"does not answer: {words_of(error)}"


def _text(said: Any) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said or "")
