"""What a driver tells when somebody looks, and why it cannot be opened; by the fake library."""

import pynvml
import pytest

from flopmeter.sensors.device import OF_CARD
from flopmeter.sensors.driver import explain_refusal, probe_driver
from flopmeter.testing.fake_clusters import h100, sliced_h100
from flopmeter.testing.fake_devices import FakeMachine, Fault
from flopmeter.testing.fake_nvml import FakeNvml

TWO = (h100(0), h100(1))
POWER = ("nvmlDeviceGetPowerUsage", "field:185")


def probed(machine, find_uuids=list):
    with FakeNvml(machine):
        return probe_driver(find_uuids)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "no NVIDIA driver"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "refuses"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not answer"),
    ],
)
def test_a_driver_that_refuses_is_not_one_that_is_not_there(code, words):
    """Else somebody installs a driver where a permission is missing."""
    assert words in explain_refusal(pynvml.NVMLError(code))
    assert explain_refusal(OSError("a symbol")) == "the NVIDIA driver does not answer: a symbol"


def test_a_device_that_is_kept_away_hides_no_other():
    """A card that cgroups keep away is no reason to hide the others."""
    fault = Fault("nvmlDevice*", pynvml.NVML_ERROR_NO_PERMISSION, device=0)
    found = probed(FakeMachine(TWO, faults=(fault,)))
    ours, kept = found["devices"]
    assert (ours["uuid"], ours["tells"]["energy"]) == (h100(1).uuid, True)
    assert (kept["name"], kept["uuid"], kept["tells"]) == ("number 0 of the driver's list", "", {})
    assert kept["notes"] == ["does not answer: Insufficient Permissions"]


def test_a_lost_device_is_listed_and_its_reason_told_once():
    """Else whoever counts lines has seven devices, and finds the eighth among words about the driver."""
    found = probed(FakeMachine(TWO, faults=(Fault("nvmlDevice*", pynvml.NVML_ERROR_GPU_IS_LOST, device=1),)))
    assert len(found["devices"]) == 2
    assert found["devices"][1]["notes"] == ["does not answer: GPU is lost"]
    assert "lost" not in found["note"]
    assert found["visible"] is None
    assert "device 1" in found["visible_note"]


def test_every_device_is_asked_and_says_what_it_refuses():
    faults = tuple(Fault(target, code=pynvml.NVML_ERROR_NO_PERMISSION) for target in POWER)
    with FakeNvml(FakeMachine((h100(),), faults=faults)) as fake:
        found = probe_driver(lambda: [h100().uuid, "GPU-nowhere"])
        assert fake.calls()["nvmlShutdown"] == 1
    ours, stranger = found["devices"]
    assert (ours["name"], ours["notes"]) == (h100().name, ["power could not be read: Insufficient Permissions"])
    assert ours["tells"] == {"energy": True, "power": False, "pipe activity": False}, "the clock stands still"
    assert stranger["tells"] == {}
    assert (stranger["name"], stranger["notes"]) == ("unknown", ["the driver lists no device with this UUID here"])


def test_a_driver_that_hangs_hangs_nobody():
    with FakeNvml(FakeMachine(TWO, faults=(Fault("nvmlInit*", hangs=True),))) as fake:
        found = probe_driver(list, limit_s=0.2)
        fake.release()
    assert (found["driver"], found["devices"], found["visible"]) == (None, [], None)
    assert found["note"] == "NVML does not come back within 0.2 s"


def test_a_device_that_is_named_and_not_there_is_said():
    found = probed(FakeMachine(TWO), lambda: ["GPU-elsewhere"])
    assert found["devices"][-1]["notes"] == ["the driver lists no device with this UUID here"]


@pytest.mark.parametrize(
    ("variable", "visible", "words"),
    [
        (None, [h100(0).uuid, h100(1).uuid], ""),
        ("1", [h100(1).uuid], ""),
        ("1,7", [h100(1).uuid], "names no device"),
        ("", [], "is empty"),
    ],
)
def test_what_cuda_shows_to_this_process_is_told(monkeypatch, variable, visible, words):
    """Else a variable that hides a device looks like a broken driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    found = probed(FakeMachine(TWO))
    assert found["visible"] == visible
    assert words in found["visible_note"]
    assert len(found["devices"]) == 2


def test_of_a_card_in_slices_the_first_is_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = sliced_h100()
    assert probed(machine)["visible"] == [machine.devices[0].migs[0].uuid]


def test_a_card_in_slices_is_no_fault_and_its_slices_are_asked():
    """Else a site that cuts its cards reads of slices that are not known, though nobody has used one yet."""
    machine = sliced_h100()
    card, *slices = probed(machine)["devices"]
    assert (card["uuid"], card["tells"]) == (machine.devices[0].uuid, {})
    assert card["notes"] == [f"cut into {len(slices)} slices"]
    assert [part["uuid"] for part in slices] == [part.uuid for part in machine.devices[0].migs]
    assert [part["notes"] for part in slices] == [[OF_CARD]] * len(slices)
