"""Who a device is, in its own words: names and numbers of the part, its driver, its slice, its fabric, its secrecy.

What is not told is not there. All of it is text that stands in the ledger, and none of it goes into a statement but the
name. Tried with a scripted library only. Not here: when this is asked (`nvml.py`), what it is good for (`devices`).
"""

from collections.abc import Callable, Iterable, Mapping
from ctypes import byref
from typing import Any

MOST_TEXT = 120
"""The longest text that NVML gives has some 80 characters."""
STATES = {1: "not started", 2: "in progress", 3: "completed"}
"""How far a device got in joining its fabric (nvml.h); 0 is that it has none."""
COMPLETED = 3
ENVIRONMENTS = {0: "unavailable", 1: "simulation", 2: "production"}
SEVERAL = {0: "none", 1: "protected PCIe", 2: "NVLE"}
"""How several devices are protected together (nvml.h)."""
IS_ON = {0: "off", 1: "on"}

Ask = Callable[..., Any]


def identify(library: Any, handle: Any, card: Any, ask: Ask, *, is_unknown_slice: bool = False) -> dict[str, str]:
    """Return what a device says it is; `card` is the whole of which `handle` may be a slice.

    Where it is not known which slice of a card is used, what the card can do is no figure of it: its number is left
    out. `ask` makes a call and returns None where it fails.
    """
    asked: dict[str, Callable[[], Any]] = {
        "name": lambda: library.nvmlDeviceGetName(handle),
        "serial": lambda: library.nvmlDeviceGetSerial(card),
        "board": lambda: library.nvmlDeviceGetBoardPartNumber(card),
        "pci": lambda: f"{library.nvmlDeviceGetPciInfo(card).pciDeviceId:#010x}",
        "pci_subsystem": lambda: f"{library.nvmlDeviceGetPciInfo(card).pciSubSystemId:#010x}",
        "vbios": lambda: library.nvmlDeviceGetVbiosVersion(card),
        "capability": lambda: ".".join(map(str, library.nvmlDeviceGetCudaComputeCapability(card))),
        "driver": library.nvmlSystemGetDriverVersion,
        "cuda": lambda: _cuda_version(library.nvmlSystemGetCudaDriverVersion()),
    }
    if is_unknown_slice:
        asked["name"] = lambda: f"{library.nvmlDeviceGetName(handle)} MIG (which slice is not known)"
        del asked["pci"]
    if card is not handle:
        asked["parent_name"] = lambda: library.nvmlDeviceGetName(card)
        asked["mig_parent"] = lambda: library.nvmlDeviceGetUUID(card)
        asked["mig_gi"] = lambda: library.nvmlDeviceGetGpuInstanceId(handle)
        asked["mig_ci"] = lambda: library.nvmlDeviceGetComputeInstanceId(handle)
        asked["sms"] = lambda: library.nvmlDeviceGetAttributes_v2(handle).multiprocessorCount
    found = {}
    for key, read in asked.items():
        said = ask(key, read, is_noted=False)
        if said is not None:
            found[key] = bounded(said)
    if card is not handle and "MIG " in found.get("name", ""):
        found["mig_profile"] = found["name"].rpartition("MIG ")[2]  # such as 3g.40gb
    return found | _read_fabric(library, card, ask) | read_secrecy(library, ask)


def read_secrecy(library: Any, ask: Ask) -> dict[str, str]:
    """Return how this machine stands with confidential computing; nothing where the driver does not say."""

    def read_settings() -> Any:
        settings = library.c_nvmlSystemConfComputeSettings_v1_t()
        code = library.nvmlSystemGetConfComputeSettings(byref(settings))
        if code:  # the bindings hand it on
            raise library.NVMLError(code)
        return settings

    said = ask("confidential computing", read_settings, is_noted=False)
    if said is None:
        said = ask("confidential computing", library.nvmlSystemGetConfComputeState, is_noted=False)
    if said is None:
        return {}
    found = {
        "cc": _word(IS_ON, said.ccFeature),
        "cc_environment": _word(ENVIRONMENTS, said.environment),
        "cc_dev_tools": _word(IS_ON, said.devToolsMode),
    }
    if hasattr(said, "multiGpuMode"):
        found["cc_multi_gpu"] = _word(SEVERAL, said.multiGpuMode)
    return found


def find_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[str]:
    """Return which facts differ, in words that name no value: notes go into statements, and a serial does not."""
    return [f"its {key} is another than before" for key in before if now.get(key, before[key]) != before[key]]


def bounded(said: object) -> str:
    """Return a text that a line, a terminal and a table can hold, whatever a driver says."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text[:MOST_TEXT]
    )[:MOST_TEXT]


def _read_fabric(library: Any, card: Any, ask: Ask) -> dict[str, str]:
    """Return which devices this one shares memory with over NVLink, as far as its fabric manager has told it."""

    def read(version: int) -> Any:
        info = getattr(library, f"c_nvmlGpuFabricInfo_v{version}_t")()
        library.nvmlDeviceGetGpuFabricInfoV(card, byref(info))
        return info

    info = ask("fabric", lambda: read(3), is_noted=False)
    if info is None:
        info = ask("fabric", lambda: read(2), is_noted=False)
    if info is None or not info.state:
        return {}
    found = {"fabric_state": _word(STATES, info.state)}
    if info.status:
        found["fabric_status"] = f"NVML error {info.status}"
    cluster = bytes(info.clusterUuid)
    if info.state == COMPLETED and any(cluster):
        found |= {"fabric_cluster": cluster.hex(), "fabric_clique": str(info.cliqueId)}
    return found


def _word(words: Mapping[int, str], number: int) -> str:
    return words.get(number, f"unknown ({number})")


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
