"""Who a device says it is, on a fake NVML library. What a real driver says is for a GPU to tell."""

from dataclasses import replace

import pynvml
import pytest

from flopmeter.account import Account
from flopmeter.attestation.predicate import describe
from flopmeter.journal import Journal
from flopmeter.ledger.merge import read_run
from flopmeter.sensors import identity
from flopmeter.sensors.nvml import NvmlSampler
from flopmeter.testing.fake_clusters import FABRIC, OLD_DRIVER, h100, sliced_h100
from flopmeter.testing.fake_devices import FakeDevice, FakeDriver, FakeMachine, Fault
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.testing.ledgers import ScriptedSegment
from flopmeter.usage import Usage


def told(machine, uuid=None):
    """Return what is kept of one device after a reading."""
    held = uuid or machine.devices[0].uuid
    with FakeNvml(machine) as fake:
        sampler = NvmlSampler(lambda: [held], clock_ns=fake.clock_ns)
        sampler.sample()
        return sampler.identities()[held]


def test_a_device_says_all_that_the_issue_lists():
    driver = FakeDriver(cc_environment=2, cc_feature=1, cc_multi_gpu=1)
    fields = told(FakeMachine((replace(h100(), fabric_clique=6),), driver=driver))
    assert fields == {
        "name": "NVIDIA H100 80GB HBM3",
        "serial": "1650523000000",
        "board": "692-2G520-0200-000",
        "pci": "0x233010de",
        "pci_subsystem": "0x16c110de",
        "vbios": "96.00.74.00.01",
        "capability": "9.0",
        "driver": "580.95.05",
        "cuda": "13.0",
        "fabric_state": "completed",
        "fabric_cluster": FABRIC,
        "fabric_clique": "6",
        "cc": "on",
        "cc_environment": "production",
        "cc_dev_tools": "off",
        "cc_multi_gpu": "protected PCIe",
        "named_by": "torch",
    }


def test_a_slice_says_which_part_of_which_card_it_is():
    machine = sliced_h100()
    (card,) = machine.devices
    fields = told(machine, card.migs[1].uuid)
    assert {key: fields[key] for key in ("mig_parent", "mig_gi", "mig_ci", "mig_profile", "sms")} == {
        "mig_parent": card.uuid,
        "mig_gi": "9",
        "mig_ci": "0",
        "mig_profile": "1g.10gb",
        "sms": "16",
    }
    assert fields["fabric_cluster"] == FABRIC


def test_what_is_not_told_is_not_there():
    """Else a card for desktops has the serial `None`, and one without a fabric is in a cluster of zeros."""
    desktop = FakeDevice(uuid="GPU-1", name="NVIDIA GeForce RTX 4090", serial=None, board_part=None, vbios=None)
    known = {"name", "pci", "pci_subsystem", "capability", "driver", "cuda", "named_by"}
    assert set(told(FakeMachine((desktop,)))) == known


@pytest.mark.parametrize("missing", ["cluster of zeros", "in progress"])
def test_a_fabric_that_is_not_joined_yet_has_no_cluster(missing):
    device = replace(h100(), fabric_state=2) if missing == "in progress" else replace(h100(), fabric_cluster="0" * 32)
    fields = told(FakeMachine((device,)))
    assert "fabric_cluster" not in fields
    assert fields["fabric_state"] == ("in progress" if missing == "in progress" else "completed")


def test_an_old_driver_is_asked_as_it_understands():
    fields = told(FakeMachine((h100(),), driver=replace(OLD_DRIVER, cc_environment=1, cc_feature=1, cc_dev_tools=1)))
    assert {key: value for key, value in fields.items() if key.startswith(("cc", "fabric"))} == {
        "cc": "on",
        "cc_environment": "simulation",
        "cc_dev_tools": "on",
    }


def test_whatever_a_driver_says_is_a_short_text_that_prints():
    """A name with a terminal's commands in it would be run by whoever reads the report."""
    assert identity.bounded(b"\x1b[2Jname\xff") == "\\x1b[2Jname\ufffd"
    assert identity.bounded("\x00" * 1000) == "\\x00" * (identity.MOST_TEXT // 4)
    assert identity.bounded("\ud800") == "\\ud800"
    assert told(FakeMachine((replace(h100(), vbios="9\x1b[31m"),)))["vbios"] == "9\\x1b[31m"


def test_another_vbios_or_driver_in_the_middle_is_noted_without_its_value_and_both_are_kept(tmp_path):
    """A driver that was exchanged may read its counters otherwise; a serial in a note would be in every statement."""
    lost = tuple(Fault(name, code=pynvml.NVML_ERROR_UNKNOWN, from_s=3, until_s=16) for name in ("nvmlD*", "nvmlG*"))
    machine = FakeMachine((h100(),), faults=lost)
    changed = replace(h100(), serial="999", vbios="97.00", fabric_cluster=None)
    with FakeNvml(machine) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], clock_ns=fake.clock_ns)
        journal = Journal(tmp_path, rank=0, header={})
        total = Usage()
        for second in range(40):
            if second == 10:
                fake.rewrite(FakeMachine((changed,), driver=FakeDriver(driver="590.10"), faults=lost))
            sampler.sample()
            for uuid, fields in sampler.identities().items():
                journal.note_device(uuid, fields)
            total += sampler.read()
            fake.advance(1)
    (device,) = total.devices
    notes = [note for note in device.note.split("; ") if note.startswith("its")]
    assert notes == [f"its {key} is another than before" for key in ("driver", "serial", "vbios")]
    assert "999" not in device.note
    assert [body["vbios"] for kind, body in journal._events if kind == "device"] == [h100().vbios, "97.00"]
    assert sampler.identities()[device.uuid]["fabric_cluster"] == FABRIC, "what is not told is no change"


def test_a_device_that_stays_the_same_is_asked_once():
    with FakeNvml(FakeMachine((h100(),))) as fake:
        sampler = NvmlSampler(lambda: [h100().uuid], clock_ns=fake.clock_ns)
        for _ in range(5):
            sampler.sample()
            fake.advance(1)
        assert fake.calls()["nvmlDeviceGetSerial"] == 1


def test_serials_and_clusters_stand_in_the_ledger_and_in_no_statement(tmp_path):
    """What names one card of one owner is not for everybody; the statement has the name and the UUID."""
    fields = told(FakeMachine((h100(),), driver=FakeDriver(cc_environment=2, cc_feature=1)))
    with ScriptedSegment(tmp_path) as segment:
        segment.file.append("device", {"uuid": h100().uuid, **fields})
    account = Account.of(tmp_path)
    assert account.devices[h100().uuid] == fields
    stated = repr(describe(account, ledger=read_run(tmp_path), status="finished"))
    for secret in (fields["serial"], FABRIC, fields["vbios"]):
        assert secret not in stated
