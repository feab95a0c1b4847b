"""What CUDA makes of CUDA_VISIBLE_DEVICES beside what we make of it, and who is on a device. Skipped without a GPU.

Not run on a GPU yet. With one device the lists of several say little: run it where there are more, and some MIG.
"""

import json
import os
import subprocess
import sys

import pynvml
import pytest
import torch

from flopmeter.sensors.processes import read_numbers, read_sharing
from flopmeter.sensors.visible import Inventory, find_held, parse_visible, read_inventory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# `{0}` is the UUID of the first device that NVML lists, `{last}` that of the last one.
VALUES = [
    *(None, "", "0", " 0", "+0", "00", "0x0", "0gpu", "0.5", "-1", "none", "0,-1", "0,,0", "0,0", "0,00", "0,1", "1,0"),
    *("64", "64,0", "0,64", "{0}", "{last}", "{last},{0}", "{0},{0}", "{0},0", "0,{0}", "{short}", "{upper}", "GPU-"),
    *(" {0}", "{0}0", "GPU-dddd", "MIG-dddd", "{0},MIG-dddd"),
]
ASK_CUDA = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps([str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]))
"""


@pytest.fixture
def inventory():
    pynvml.nvmlInit()
    yield read_inventory(pynvml)
    pynvml.nvmlShutdown()


def name_of(bare, inventory: Inventory):
    """Return what NVML calls a device that CUDA gives as bare UUID: of a slice it may be that of its card."""
    plain = bare.removeprefix("GPU-").removeprefix("MIG-")
    if any(mig.uuid == f"MIG-{plain}" for device in inventory.devices for mig in device.migs):
        return f"MIG-{plain}"
    cut = [device.migs[0].uuid for device in inventory.devices if device.uuid == f"GPU-{plain}" and device.migs]
    return cut[0] if cut else f"GPU-{plain}"


def what_cuda_shows(value, order, inventory: Inventory):
    environment = {name: words for name, words in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"CUDA_DEVICE_ORDER": order} | ({} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK_CUDA],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    held = json.loads(done.stdout)
    return tuple(name_of(bare, inventory) for bare in held)


@pytest.mark.parametrize("order", ["FASTEST_FIRST", "PCI_BUS_ID"])
@pytest.mark.parametrize("template", VALUES)
def test_cuda_shows_the_devices_that_we_say_it_does(inventory, findings, template, order):
    """Else the rules that everybody copies from everybody are wrong, and energy is read from the wrong device."""
    uuids = [device.uuid for device in inventory.devices]
    names = {"last": uuids[-1], "short": uuids[0][:12], "upper": f"GPU-{uuids[0][4:].upper()}"}
    value = template and template.format(*uuids, **names)
    ours = parse_visible(value, inventory.devices, order=order).uuids
    theirs = what_cuda_shows(value, order, inventory)
    findings.setdefault("visible", {})[f"{order} {template}"] = {"ours": ours, "cuda": theirs}
    if ours is not None:  # else we say that we do not know
        assert tuple(theirs) == ours


def test_the_device_in_use_is_held_and_we_are_on_it(inventory, findings):
    block = torch.zeros(1 << 20, device="cuda")
    held = find_held()
    named = [name_of(bare, inventory) for bare in held]
    pci_ids = [device.bus_id for device in inventory.devices]
    sharing = read_sharing(pynvml, pynvml.nvmlDeviceGetHandleByUUID(named[0]))
    numbers = read_numbers()
    findings["held"] = {"torch": held, "nvml": named, "buses": pci_ids}
    findings["sharing"] = {
        "others": sharing.others,
        "is_ours_listed": sharing.is_ours_listed,
        "note": sharing.note,
        "is_outermost": numbers.is_outermost,
        "pids": len(numbers.pids),
    }
    assert set(named) <= {one.uuid for device in inventory.devices for one in (device, *device.migs)}
    assert block.is_cuda
    if numbers.is_outermost:
        assert sharing.is_ours_listed
