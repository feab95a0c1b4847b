"""Which devices are ours: CUDA_VISIBLE_DEVICES in all its forms, NVML's list from the fake, torch from a stand-in.

What libcuda itself makes of a list was never tried: the rules are NVIDIA's documents', nvitop's and torch's.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pynvml
import pytest

from flopmeter.sensors.visible import (
    ListedDevice,
    MigInstance,
    Visible,
    find_held,
    find_held_uuids,
    find_namer,
    find_visible,
    has_queued_work,
    parse_visible,
    read_inventory,
)
from flopmeter.testing.fake_clusters import eight_h100s, lost_halfway, sliced_h100, two_kinds
from flopmeter.testing.fake_devices import FakeMachine, Fault
from flopmeter.testing.fake_nvml import FakeNvml

A, B, C = (
    "GPU-aaaaaaaa-0000-4000-8000-000000000001",
    "GPU-aaaabbbb-0000-4000-8000-000000000002",
    "GPU-cccccccc-0000-4000-8000-000000000003",
)
M1, M2 = "MIG-11111111-0000-5000-8000-000000000001", "MIG-22222222-0000-5000-8000-000000000002"
HOPPER, TURING = "233010de NVIDIA H100 80GB HBM3", "1eb810de Tesla T4"


def device(uuid, bus, part=HOPPER, **fields):
    return ListedDevice(uuid=uuid, bus_id=f"00000000:{bus:02X}:00.0", part=part, **fields)


ALIKE = (device(A, 1), device(B, 2), device(C, 3))
UNLIKE = (device(A, 1, TURING), device(B, 2), device(C, 3))
SLICED = device(B, 2, is_mig=True, migs=(MigInstance(M1, 1, 0), MigInstance(M2, 9, 0)))
EMPTY_MIG = device(C, 3, is_mig=True)


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("  ", ()),
        ("0", (A,)),
        ("2,0", (C, A)),
        ("0,1,2", (A, B, C)),
        (" 1 , 2", (B, C)),
        ("+1,\t2", (B, C)),
        ("1gpu,2.5", (B, C)),
        ("01", (B,)),
        ("0x1", (A,)),
        ("-1", ()),
        ("0,-1,1", (A,)),
        ("0,3,1", (A,)),
        ("0,,1", (A,)),
        (",0", ()),
        ("0,none", (A,)),
        ("NoDevFiles", ()),
        ("none", ()),
        ("+", ()),
        ("0,0", ()),
        ("0,1,00", ()),
        ("0,9,0", (A,)),
        ("99999999999999999999", ()),
        (A, (A,)),
        (f"{C},{A}", (C, A)),
        ("GPU-c", (C,)),
        ("GPU-aaaaa", (A,)),
        ("GPU-aaaa", ()),
        ("GPU-", ()),
        ("GPU-c,GPU-aaaa,GPU-aaaaa", (C,)),
        ("GPU-c,GPU-cc", ()),
        (f" {C} , {A} ", (C, A)),
        (f"{C},0", (C,)),
        (f"0,{C}", (A,)),
        ("GPU-dddd", ()),
        ("gpu-cccccccc", ()),
        (f"{A}0", ()),
        ("MIG-1", ()),
    ],
)
def test_a_list_shows_the_devices_that_it_names_in_its_order(value, uuids):
    """Else energy of somebody else's device is put into a signed claim, or a rank's own is left out."""
    assert parse_visible(value, ALIKE).uuids == uuids


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "is empty"),
        ("0,7,1", "ends before its entry 2, '7'"),
        ("GPU-aaaa", "entry 1"),
        ("1,1", "twice"),
        ("1,0", ""),
    ],
)
def test_a_list_that_shows_less_than_it_says_is_noted(value, words):
    """Else somebody with a slip in a job script is told that there is no device, and not why."""
    note = parse_visible(value, ALIKE).note
    assert words in note
    assert bool(words) == bool(note)


def test_numbers_follow_the_bus_where_devices_are_alike():
    shuffled = (ALIKE[2], ALIKE[0], ALIKE[1])
    assert parse_visible("0,2", shuffled).uuids == (A, C)
    assert parse_visible(None, shuffled).uuids == (A, B, C)


@pytest.mark.parametrize("value", ["0", "1,2", "0,2,9"])
def test_numbers_of_unlike_devices_are_not_guessed(value):
    """CUDA counts the fastest first and does not say how it knows: a guess puts the T4's energy on the H100's bill."""
    found = parse_visible(value, UNLIKE)
    assert found.uuids is None
    assert "fastest first" in found.note


@pytest.mark.parametrize("order", ["", "FASTEST_FIRST", "pci_bus_id", "nonsense"])
def test_any_other_order_than_by_bus_is_by_speed(order):
    assert parse_visible("0", UNLIKE, order=order).uuids is None
    assert parse_visible("0", UNLIKE, order="PCI_BUS_ID").uuids == (A,)


@pytest.mark.parametrize("value", [None, "2,1,0"])
def test_all_of_unlike_devices_are_known_but_for_their_order(value):
    found = parse_visible(value, UNLIKE)
    assert set(found.uuids) == {A, B, C}
    assert "order is not known" in found.note


@pytest.mark.parametrize("value", [C, "GPU-c", "", "-1", "1,1"])
def test_what_needs_no_number_is_known_of_unlike_devices_too(value):
    assert parse_visible(value, UNLIKE) == parse_visible(value, ALIKE)


@pytest.mark.parametrize(
    ("value", "uuids"), [("0", None), (None, None), (C, (C,)), ("", ()), ("7", None), ("GPU-dddd", None)]
)
def test_numbers_mean_nothing_where_a_device_could_not_be_read(value, uuids):
    """A device that is lost takes its number along, or not: everything behind it may be off by one."""
    assert parse_visible(value, ALIKE, is_complete=False).uuids == uuids


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (M2, (M2,)),
        (f"MIG-{B}/9/0", (M2,)),
        (f"MIG-{B}/9/1", ()),
        (f"MIG-{A}/1/0", ()),
        (f"{M2},{M1}", (M2,)),
        (f"{M1},MIG-{B}/1/0", ()),
        (f"{A},{M2}", (M2,)),
        ("1", (M1,)),
        ("0,1", (M1,)),
        (None, (M1,)),
        (B, (M1,)),
        ("0", (A,)),
        ("MIG-2", ()),
    ],
)
def test_of_mig_instances_cuda_shows_one(value, uuids):
    """Else a process on a seventh of a device is held to have used the whole one."""
    assert parse_visible(value, (ALIKE[0], SLICED)).uuids == uuids


def test_a_device_in_mig_mode_without_an_instance_is_no_device():
    found = parse_visible(None, (ALIKE[0], EMPTY_MIG))
    assert found.uuids == (A,)
    assert "has no instance" in found.note


def test_which_instance_comes_first_is_not_guessed_among_unlike_devices():
    other = device(C, 3, TURING, is_mig=True, migs=(MigInstance("MIG-3", 1, 0),))
    assert parse_visible(None, (SLICED, other)).uuids is None
    assert parse_visible(None, (SLICED, other), order="PCI_BUS_ID").uuids == (M1,)


def test_one_instance_that_is_asked_for_needs_no_note():
    assert parse_visible(M1, (SLICED,)).note == ""
    assert "one MIG instance" in parse_visible("0", (SLICED,)).note


def test_no_device_at_all_is_no_device():
    assert parse_visible(None, ()) == Visible(())
    assert parse_visible("0", ()).uuids == ()


# ── NVML's list, from the fake library ──


@pytest.fixture
def listed(tmp_path):
    """What NVML lists of a fake machine, where these device files exist."""

    def read(machine, *nodes, at_s=0):
        for node in nodes:
            (tmp_path / node).touch()
        with FakeNvml(machine) as fake:
            fake.move_to(at_s)
            pynvml.nvmlInit()
            return read_inventory(pynvml, nodes=tmp_path)

    return read


def test_nvml_lists_devices_as_they_stand_on_the_bus(listed):
    machine = eight_h100s()
    inventory = listed(machine)
    assert [one.uuid for one in inventory.devices] == [one.uuid for one in machine.devices]
    assert {one.part for one in inventory.devices} == {HOPPER}
    assert inventory.devices[0].bus_id == "00000000:1B:00.0"
    assert (inventory.is_complete, inventory.note) == (True, "")


def test_mig_instances_are_found_across_gaps(listed):
    (one,) = listed(sliced_h100()).devices
    assert one.is_mig
    assert [(mig.gi, mig.ci) for mig in one.migs] == [(1, 0), (9, 0)]
    assert [mig.uuid for mig in one.migs] == [mig.uuid for mig in sliced_h100().devices[0].migs]


def test_unlike_devices_are_told_apart(listed):
    devices = listed(two_kinds()).devices
    assert parse_visible("0", devices).uuids is None
    assert parse_visible("0", devices, order="PCI_BUS_ID").uuids == (devices[0].uuid,)


def test_a_lost_device_leaves_the_others_known_by_uuid_only(listed):
    inventory = listed(lost_halfway(eight_h100s()), at_s=1801)
    assert len(inventory.devices) == 7
    assert not inventory.is_complete
    assert "device 3 of NVML" in inventory.note
    last = inventory.devices[-1].uuid
    assert find_visible(inventory, environment={"CUDA_VISIBLE_DEVICES": "7"}).uuids is None
    assert find_visible(inventory, environment={"CUDA_VISIBLE_DEVICES": last}).uuids == (last,)
    assert "device 3 of NVML" in find_visible(inventory, environment={"CUDA_VISIBLE_DEVICES": last}).note


def test_a_device_that_cgroups_keep_away_is_not_cudas_either(listed):
    """Under a batch system NVML counts every device and refuses those of other jobs; CUDA begins at 0 with ours."""
    machine = eight_h100s()
    refused = tuple(Fault("*", pynvml.NVML_ERROR_NO_PERMISSION, device=index) for index in (0, 1, 2))
    inventory = listed(replace(machine, faults=refused))
    assert inventory.is_complete
    assert parse_visible("0", inventory.devices).uuids == (machine.devices[3].uuid,)


def test_a_device_without_its_file_is_not_cudas(listed):
    machine = eight_h100s()  # whose minor numbers do not follow the bus: 2, 3, 0, 1, …
    inventory = listed(machine, "nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm")
    assert [one.uuid for one in inventory.devices] == [machine.devices[1].uuid, machine.devices[2].uuid]
    assert "nvidia7" in inventory.note


def test_without_any_device_file_nvmls_word_stands(listed):
    """Windows' subsystem for Linux has devices and none of these files."""
    assert len(listed(eight_h100s(), "nvidiactl").devices) == 8


def test_nothing_is_known_where_nvml_cannot_count(listed):
    failing = FakeMachine(eight_h100s().devices, faults=(Fault("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_UNKNOWN),))
    inventory = listed(failing)
    assert (inventory.devices, inventory.is_complete) == ((), False)
    assert "Unknown Error" in inventory.note
    assert find_visible(inventory, environment={}).uuids is None


@pytest.mark.parametrize("name", ["nvmlDeviceGetMigMode", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetMaxMigDeviceCount"])
def test_what_only_some_devices_can_tell_is_not_needed(listed, name):
    machine = FakeMachine(eight_h100s().devices, faults=(Fault(name, pynvml.NVML_ERROR_NOT_SUPPORTED),))
    assert len(listed(machine, "nvidia0").devices) == (8 if "Minor" in name else 1)


# ── torch's word ──


def torch_with(monkeypatch, *devices, cuda="13.0", is_initialized=True):
    """Stand in for torch with CUDA: each device is (UUID, reserved bytes, has a context)."""
    ways = SimpleNamespace(
        is_initialized=lambda: is_initialized,
        device_count=lambda: len(devices),
        memory_reserved=lambda index: devices[index][1],
        get_device_properties=lambda index: SimpleNamespace(uuid=devices[index][0]),
    )
    has_context = SimpleNamespace(_cuda_hasPrimaryContext=lambda index: devices[index][2])
    standing = SimpleNamespace(cuda=ways, version=SimpleNamespace(cuda=cuda), _C=has_context)
    monkeypatch.setitem(sys.modules, "torch", standing)


def test_where_torch_is_loaded_devices_with_memory_are_held(monkeypatch):
    torch_with(monkeypatch, (C[4:], 512, True), (A[4:], 0, True))
    assert find_held() == (C[4:],)
    assert find_held_uuids() == [C]


def test_with_the_caching_allocator_off_contexts_tell(monkeypatch):
    """PYTORCH_NO_CUDA_MEMORY_CACHING reserves nothing, ever: the whole run would have used no device."""
    torch_with(monkeypatch, (C[4:], 0, False), (A[4:], 0, True))
    assert find_held() == (A[4:],)


@pytest.mark.parametrize("state", [{"is_initialized": False}, {"cuda": None}])
def test_nothing_is_held_before_cuda_is_in_use(monkeypatch, state):
    torch_with(monkeypatch, (C[4:], 512, True), **state)
    assert find_held_uuids() == []


@pytest.mark.parametrize(
    ("ended", "is_capturing", "is_queued"),
    [((True, True), False, False), ((True, False), False, True), ((), True, False)],
)
def test_work_that_is_still_queued_is_seen_without_waiting(monkeypatch, ended, is_capturing, is_queued):
    """Else a run that is closed while its device works is one that did more than there was time for."""
    torch_with(monkeypatch, (C[4:], 512, True), (A[4:], 512, True))
    ways = sys.modules["torch"].cuda
    ways.is_current_stream_capturing = lambda: is_capturing
    ways.current_stream = lambda index: SimpleNamespace(query=lambda: ended[index])
    assert has_queued_work() is is_queued


def test_without_a_device_nothing_is_queued(monkeypatch):
    torch_with(monkeypatch, (C[4:], 512, True), is_initialized=False)
    assert not has_queued_work()


def test_torch_that_is_still_loading_is_not_asked(monkeypatch):
    """The sampler has a thread of its own, and may look while the first `import torch` is half done."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert find_held() is None


def test_torch_itself_has_what_is_asked_of_it():
    """Else the stand-in above agrees with us and torch does not."""
    torch = pytest.importorskip("torch")
    assert find_held() == ()
    assert hasattr(torch._C, "_cuda_hasPrimaryContext") or torch.version.cuda is None
    names = ("is_initialized", "device_count", "memory_reserved", "get_device_properties", "current_stream")
    for name in (*names, "is_current_stream_capturing"):
        assert callable(getattr(torch.cuda, name))


def test_without_torch_it_is_not_loaded():
    """Else a program without torch gets a gigabyte of it for asking which devices there are."""
    code = """if True:
        import sys
        from flopmeter.sensors.visible import Inventory, find_visible
        print(find_visible(Inventory(), environment={}).uuids, "torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["()", "False"]


# ── beside nvitop, where it is installed (`pip install --no-deps nvitop`) ──

# Left out is where nvitop's own parser, which it falls back to without libcuda, does not go all the way: it takes no
# sign before a number, no part of a UUID, goes by the entry and not by the device where it looks for repetitions, and
# stops at a gap between MIG instances. `MIG-GPU-…/9/0` it leaves to the driver, and the fake one does not take it.
SAID_ALIKE = [
    *(None, "", "0", "7,0", " 1 , 2", "1gpu,2.5", "-1", "0,-1,1", "0,9,1", "0,,1", "none", "0,0", "0,9,0"),
    *("{0}", "{3},{0}", "{3},0", "0,{3}", "{0},{0}", "GPU-dddd", "{0},MIG-1"),
]
ASK_NVITOP = """
import json, subprocess, sys
import nvitop.api.device as nvitop
def refuse(*_args, **_kwargs):
    raise subprocess.SubprocessError  # so that it parses by itself, where it would ask libcuda
nvitop.subprocess.check_output = refuse
values = json.loads(sys.argv[1])
print(json.dumps([nvitop._parse_cuda_visible_devices(value, "uuid") for value in values]))
"""


def sliced_without_gaps():
    (whole,) = sliced_h100().devices
    return FakeMachine((replace(whole, migs=(whole.migs[0], replace(whole.migs[1], slot=1))),))


@pytest.mark.skipif(find_spec("nvitop") is None, reason="nvitop is not installed; it is compared where it is")
@pytest.mark.parametrize("make", [eight_h100s, sliced_without_gaps])
def test_nvitop_reads_the_list_alike(make):
    """Of the peers it alone reads every form: where we differ from it one of us is wrong."""
    machine = make()
    names = [one.uuid for one in machine.devices] * 8
    values = [value and value.format(*names) for value in SAID_ALIKE]
    if machine.devices[0].migs:
        whole, first, second = machine.devices[0].uuid, *(mig.uuid for mig in machine.devices[0].migs)
        values += [first, second, f"{second},{first}", f"{whole},{second}", f"MIG-{whole}/8/0"]
    with FakeNvml(machine) as fake:
        pynvml.nvmlInit()
        devices = read_inventory(pynvml).devices
        done = subprocess.run(
            [sys.executable, "-c", ASK_NVITOP, json.dumps(values)],
            env=os.environ | fake.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    theirs = dict(zip(values, json.loads(done.stdout), strict=True))
    ours = {value: list(parse_visible(value, devices).uuids) for value in values}
    assert ours == theirs


@pytest.mark.parametrize(
    ("named", "who"),
    [
        (None, "torch"),
        (" ", "torch"),
        ("visible", "CUDA_VISIBLE_DEVICES"),
        (" visible, ", "CUDA_VISIBLE_DEVICES"),
        ("GPU-1", "FLOPMETER_DEVICES"),
        ("GPU-1,visible", "FLOPMETER_DEVICES"),
        (" , ", "FLOPMETER_DEVICES"),
    ],
)
def test_who_named_the_devices_is_known(monkeypatch, named, who):
    """Else a ledger cannot tell devices that were used from devices that somebody listed."""
    monkeypatch.delenv("FLOPMETER_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("FLOPMETER_DEVICES", named)
    assert find_namer() == who
