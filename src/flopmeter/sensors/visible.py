"""Which NVIDIA devices this process may use, by UUID: from torch where it is loaded, else from the environment.

Devices are told by UUID alone, because CUDA need not count them as NVML does. `CUDA_VISIBLE_DEVICES` is read as
NVIDIA documents it and as nvitop and torch read it; none of it has been compared with libcuda on a GPU yet.
What cannot be known without CUDA is None and says why. Initialises nothing. Not here: what the devices did (`nvml.py`).
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flopmeter.sensors.guard import words_of

HELD = "FLOPMETER_DEVICES"
VISIBLE = "visible"
VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
UNORDERED = f"unlike devices: CUDA counts them fastest first unless {ORDER}={BY_BUS}"
REMEDY = f"set {ORDER}={BY_BUS} or name UUIDs"

# As C's strtol: blanks, a sign, and whatever follows the digits is let be.
_NUMBER = re.compile(r"\s*([+-]?[0-9]+)")


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A MIG compute instance: a part of a device that CUDA takes for a device."""

    uuid: str
    gi: int
    ci: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDevice:
    """A whole device as NVML tells of it; `part` is the same for devices that are alike, `migs` in NVML's order."""

    uuid: str
    bus_id: str
    part: str
    is_mig: bool = False
    migs: tuple[MigInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """What NVML lists to this process. Where devices are missing from it that CUDA may have, numbers mean nothing."""

    devices: tuple[ListedDevice, ...] = ()
    is_complete: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Visible:
    """The devices that this process may use.

    `uuids` are NVML's (`GPU-…`, `MIG-…`) in CUDA's order; None where that cannot be known, and `note` says why.
    """

    uuids: tuple[str, ...] | None
    note: str = ""


Pick = tuple[ListedDevice, MigInstance | None]


def find_visible(inventory: Inventory, *, environment: Mapping[str, str] = os.environ) -> Visible:
    """Return the devices that this process may use by its environment, whether it does or not."""
    found = parse_visible(
        environment.get(VARIABLE),
        inventory.devices,
        order=environment.get(ORDER, ""),
        is_complete=inventory.is_complete,
    )
    return Visible(found.uuids, _joined(inventory.note, found.note))


def find_held() -> tuple[str, ...] | None:
    """Return the UUIDs of the devices that this process holds, as torch writes them; None where there is no torch.

    Held is where torch has reserved memory. A context alone does not make a device ours where others have memory:
    eight ranks that each touch the first device would all claim it. With the caching allocator off nothing is ever
    reserved, and then the contexts are all there is to go by.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):  # the latter while somebody else is still loading it
        return None
    if torch.version.cuda is None or not torch.cuda.is_initialized():
        return ()
    indices = range(torch.cuda.device_count())
    held = [index for index in indices if torch.cuda.memory_reserved(index) > 0]
    held = held or [index for index in indices if torch._C._cuda_hasPrimaryContext(index)]  # noqa: SLF001
    return tuple([str(torch.cuda.get_device_properties(index).uuid) for index in held])


def find_held_uuids() -> list[str]:
    """Return the UUIDs, as NVML writes them, of the devices that this process holds.

    Where `FLOPMETER_DEVICES` names them, with commas between, torch is not asked: for programs whose work on devices
    does not go through torch. If it says `visible`, that is all there is: they are those that CUDA shows.
    """
    named = os.environ.get(HELD, "")
    if named.strip():
        return [name.strip() for name in named.split(",") if name.strip()]
    return [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in find_held() or ()]


def has_queued_work() -> bool:
    """Say whether torch's current stream on a device has not come to its end; asks, and waits for nothing.

    Is not: what other streams have. Read in torch's sources, not tried on a GPU.
    """
    torch = sys.modules.get("torch")
    if not find_held() or torch is None or torch.cuda.is_current_stream_capturing():  # to ask would end the capture
        return False
    indices = [index for index in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(index) > 0]
    return any(not torch.cuda.current_stream(index).query() for index in indices)


def find_namer() -> str:
    """Return who says which devices are held: torch, or a variable of the environment, used or not."""
    named = os.environ.get(HELD, "").strip()
    if not named:
        return "torch"
    return VARIABLE if [name.strip() for name in named.split(",") if name.strip()] == [VISIBLE] else HELD


def parse_visible(
    value: str | None, devices: Sequence[ListedDevice], *, order: str = "", is_complete: bool = True
) -> Visible:
    """Return the devices that CUDA shows where `CUDA_VISIBLE_DEVICES` is `value` (None: unset).

    The list ends before the first entry that names no device, or that is not of the kind of the first (number or
    UUID); a device named twice leaves none. Numbers can be told where devices are alike or counted by bus (`order`),
    or where all of them are taken: their order is then a guess, which the note says.
    """
    counted = sorted(devices, key=lambda device: device.bus_id)
    is_ordered = order == BY_BUS or len({device.part for device in counted}) <= 1
    if value is None:
        chosen: list[Pick] = [(device, None) for device in counted]
        by_number, note = True, ""
    else:
        chosen, by_number, note = _parse_entries(value, counted)
    if not is_complete and (by_number or ((value or "").strip() and note)):
        return Visible(None, _joined(note, "but NVML cannot tell of all devices: which ones these are is not known"))
    if not by_number or is_ordered:
        return _as_cuda_shows(chosen, note)
    if len(chosen) not in {0, len(counted)}:
        return Visible(None, f"{UNORDERED}: numbers cannot be mapped without CUDA ({REMEDY})")
    if sum(bool(device.migs) for device, _ in chosen) > 1:
        return Visible(None, f"{UNORDERED}: which MIG instance comes first cannot be told without CUDA ({REMEDY})")
    return _as_cuda_shows(chosen, _joined(note, f"{UNORDERED}: their order is not known ({REMEDY})" if chosen else ""))


def _parse_entries(value: str, devices: Sequence[ListedDevice]) -> tuple[list[Pick], bool, str]:
    """Return what the entries name, whether by number, and why the list ends early or is empty."""
    if not value.strip():
        return [], False, f"{VARIABLE} is empty: no device"
    chosen: list[Pick] = []
    by_number = _NUMBER.match(value) is not None
    for place, entry in enumerate(value.split(","), 1):
        pick = _by_number(entry, devices) if by_number else _by_uuid(entry.strip(), devices)
        if pick is None:
            return chosen, by_number, f"{VARIABLE} ends before its entry {place}, {entry!r}, which names no device"
        if pick in chosen:
            return [], by_number, f"{VARIABLE} names a device twice: CUDA shows none then"
        chosen.append(pick)
    return chosen, by_number, ""


def _by_number(entry: str, devices: Sequence[ListedDevice]) -> Pick | None:
    found = _NUMBER.match(entry)
    number = int(found[1]) if found else -1
    return (devices[number], None) if 0 <= number < len(devices) else None


def _by_uuid(entry: str, devices: Sequence[ListedDevice]) -> Pick | None:
    if entry.startswith("MIG-"):
        names = {
            name: (device, mig)
            for device in devices
            for mig in device.migs
            for name in (mig.uuid, f"MIG-{device.uuid}/{mig.gi}/{mig.ci}")
        }
        return names.get(entry)
    if not entry.startswith("GPU-"):
        return None
    fitting = [device for device in devices if device.uuid.startswith(entry)]
    return (fitting[0], None) if len(fitting) == 1 else None


def _as_cuda_shows(chosen: Sequence[Pick], note: str) -> Visible:
    """Return the devices that CUDA makes of these: as soon as a MIG instance is among them, the first one alone.

    That is NVIDIA's word for the drivers of today, and that later ones may show more. A device in MIG mode counts as
    its first instance, and not at all while it has none.
    """
    instances = [mig for _, mig in chosen if mig] or [device.migs[0] for device, _ in chosen if device.migs]
    if instances:
        is_cut = len(chosen) > 1 or len(instances) > 1 or (chosen[0][1] is None and len(chosen[0][0].migs) > 1)
        return Visible(
            (instances[0].uuid,),
            _joined(
                note, "CUDA shows a process one MIG instance, the first, and no device beside it" if is_cut else ""
            ),
        )
    bare = [device.uuid for device, _ in chosen if device.is_mig]
    notes = [f"{uuid} is in MIG mode and has no instance: CUDA cannot use it" for uuid in bare]
    return Visible(tuple([device.uuid for device, _ in chosen if not device.is_mig]), _joined(note, *notes))


def read_inventory(library: Any, *, nodes: Path = Path("/dev")) -> Inventory:
    """Return the devices that NVML, initialised, lists to this process; `library` is pynvml.

    NVML leaves out what a container was not given, and refuses what cgroups keep away: CUDA has neither. A device
    without its `/dev/nvidia…` is not CUDA's, either, unless there are no such files at all.
    """
    try:
        count = library.nvmlDeviceGetCount()
    except library.NVMLError as error:
        return Inventory(is_complete=False, note=f"devices cannot be counted: {words_of(error)}")
    minors = {int(path.name[6:]) for path in nodes.glob("nvidia*") if path.name[6:].isdigit()}
    devices, notes, is_complete = [], [], True
    for index in range(count):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            device = _read_device(library, handle)
        except library.NVMLError as error:
            if error.value != library.NVML_ERROR_NO_PERMISSION:
                is_complete = False
                notes.append(f"device {index} of NVML cannot be told of: {words_of(error)}")
            continue
        minor = _ask(library, library.nvmlDeviceGetMinorNumber, handle)
        if minors and minor is not None and minor not in minors:
            notes.append(f"{device.uuid} has no file nvidia{minor} here: CUDA cannot use it")
            continue
        devices.append(device)
    return Inventory(tuple(devices), is_complete, _joined(*notes))


def _read_device(library: Any, handle: Any) -> ListedDevice:
    pci = library.nvmlDeviceGetPciInfo(handle)
    mode = _ask(library, library.nvmlDeviceGetMigMode, handle)
    is_mig = bool(mode) and mode[0] == library.NVML_DEVICE_MIG_ENABLE
    return ListedDevice(
        uuid=_text(library.nvmlDeviceGetUUID(handle)),
        bus_id=_text(pci.busId),
        part=f"{pci.pciDeviceId:08x} {_text(library.nvmlDeviceGetName(handle))}",
        is_mig=is_mig,
        migs=tuple(_read_migs(library, handle)) if is_mig else (),
    )


def _read_migs(library: Any, handle: Any) -> Iterator[MigInstance]:
    for slot in range(_ask(library, library.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        mig = _ask(library, library.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if mig is None:
            continue  # gaps between instances are usual
        uuid = _ask(library, library.nvmlDeviceGetUUID, mig)
        gi = _ask(library, library.nvmlDeviceGetGpuInstanceId, mig)
        ci = _ask(library, library.nvmlDeviceGetComputeInstanceId, mig)
        if uuid is not None:
            # Without its numbers an instance can still be named by its own UUID.
            yield MigInstance(_text(uuid), -1 if gi is None else gi, -1 if ci is None else ci)


def _ask(library: Any, call: Any, *args: Any) -> Any:
    """Return what a call says, or None where NVML cannot tell."""
    try:
        return call(*args)
    except library.NVMLError:
        return None


def _text(said: str | bytes) -> str:
    return said.decode() if isinstance(said, bytes) else said


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))
