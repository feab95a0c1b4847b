"""Devices that sign the head of a ledger, on a fake NVML library, which signs nothing and echoes the nonce."""

import logging
import threading
import time
from dataclasses import replace

import pynvml
import pytest
import torch

from flopmeter.attestation.issuance import issue
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.verifier import verify
from flopmeter.ledger.evidence import FOLDER, nonce_of, read_reports
from flopmeter.ledger.merge import read_run
from flopmeter.meter import Meter
from flopmeter.sensors.confidential import LIMIT_S, sign_head
from flopmeter.sensors.nvml import JOIN_S, WATCHDOG_S
from flopmeter.testing.fake_clusters import eight_h100s, h100, sliced_h100
from flopmeter.testing.fake_devices import FakeDriver, FakeMachine, Fault
from flopmeter.testing.fake_nvml import FakeNvml
from flopmeter.testing.keys import throwaway_signer

CONFIDENTIAL = FakeDriver(cc_environment=2, cc_feature=1)
HEAD = "ab" * 32
ON = {"cc": "on"}


def signed(folder, machine, *, identities=None, limit_s=LIMIT_S):
    """Have the devices of a machine sign; return the reports that are then there, and the calls that were made."""
    ledger = folder / "ledger" / "0-0.jsonl"
    ledger.parent.mkdir(exist_ok=True)
    with FakeNvml(machine) as fake:
        said = identities if identities is not None else {device.uuid: ON for device in machine.devices}
        sign_head(ledger, HEAD, said, limit_s=limit_s)
        calls = fake.calls()
    return read_reports(folder), calls


def test_every_device_signs_the_head_and_its_certificates_are_kept(tmp_path):
    reports, calls = signed(tmp_path, replace(eight_h100s(), driver=CONFIDENTIAL))
    assert [one.device for one in reports] == sorted(device.uuid for device in eight_h100s().devices)
    for one in reports:
        assert (one.file, one.head, one.why) == ("0-0.jsonl", HEAD, "")
        assert one.nonce == nonce_of(HEAD)
        assert one.device.encode() in one.report
        assert one.certificates == f"fake certificate of {one.device}".encode()
        assert one.attestation_certificates == f"fake attestation chain of {one.device}".encode()
    assert calls["nvmlShutdown"] == calls["nvmlInitWithFlags"] == 1


def test_where_confidential_computing_is_off_or_unknown_nothing_is_asked_or_written(tmp_path):
    for fields in ({}, {"cc": "off"}, {"cc": "unknown (7)"}):
        reports, calls = signed(tmp_path, FakeMachine((h100(),)), identities={h100().uuid: fields})
        assert (reports, calls) == ((), {})
    assert not (tmp_path / FOLDER).exists()


def test_two_slices_of_a_card_have_it_sign_once(tmp_path):
    machine = replace(sliced_h100(), driver=CONFIDENTIAL)
    (card,) = machine.devices
    slices = {mig.uuid: {**ON, "mig_parent": card.uuid} for mig in card.migs}
    reports, calls = signed(tmp_path, machine, identities=slices)
    assert [one.device for one in reports] == [card.uuid]
    assert calls["nvmlDeviceGetConfComputeGpuAttestationReport"] == 1


@pytest.mark.parametrize("code", [*range(1, 30), 999])
@pytest.mark.parametrize(
    "site",
    [
        "nvmlInitWithFlags",
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceGetConfComputeGpuAttestationReport",
        "nvmlDeviceGetConfComputeGpuCertificate",
        "nvmlShutdown",
    ],
)
def test_whatever_fails_is_written_in_the_place_of_the_report_and_raises_nothing(tmp_path, caplog, site, code):
    """A training that is over must not end in an error for the sake of a report."""
    reports, _ = signed(tmp_path, FakeMachine((h100(),), driver=CONFIDENTIAL, faults=(Fault(site, code=code),)))
    (one,) = reports
    assert bool(one.why) == (site != "nvmlShutdown")
    assert bool(one.report) == (site in {"nvmlDeviceGetConfComputeGpuCertificate", "nvmlShutdown"})
    assert any("did not sign" in record.message for record in caplog.records) == bool(one.why)


def test_one_device_that_fails_keeps_no_other_from_signing(tmp_path):
    fault = Fault("*", code=pynvml.NVML_ERROR_GPU_IS_LOST, device=3)
    reports, _ = signed(tmp_path, replace(eight_h100s(), driver=CONFIDENTIAL, faults=(fault,)))
    lost = eight_h100s().devices[3].uuid
    assert {one.device: one.why for one in reports if one.why} == {lost: "the device: GPU is lost"}


def test_a_report_for_another_nonce_is_kept_and_said_to_be_none(tmp_path):
    reports, _ = signed(tmp_path, FakeMachine((h100(),), driver=replace(CONFIDENTIAL, cc_forgets_nonce=True)))
    (one,) = reports
    assert "another nonce" in one.why
    assert not one.is_of_head


def test_a_driver_that_hangs_is_left_behind_in_time_and_what_others_signed_is_kept(tmp_path):
    """A wedged driver must not keep a finished training from ending."""
    machine = replace(eight_h100s(), driver=CONFIDENTIAL)
    last = max(range(8), key=lambda index: machine.devices[index].uuid)
    fault = Fault("nvmlDeviceGetConfComputeGpuAttestationReport", hangs=True, device=last)
    begun = time.monotonic()
    reports, _ = signed(tmp_path, replace(machine, faults=(fault,)), limit_s=0.5)
    assert time.monotonic() - begun < 5
    assert {one.device: one.why for one in reports if one.why} == {
        machine.devices[last].uuid: "NVML did not come back from reading its report"
    }
    for thread in threading.enumerate():
        if thread.name == "flopmeter-reports":
            assert thread.daemon
            thread.join(5)


def test_a_run_whose_driver_hangs_ends_no_later_than_a_hanging_call_is_named():
    assert JOIN_S + LIMIT_S <= WATCHDOG_S


def test_without_room_for_a_thread_that_is_the_reason(tmp_path, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reports, _ = signed(tmp_path, FakeMachine((h100(),), driver=CONFIDENTIAL))
    assert [one.why for one in reports] == ["can't start new thread"]


def test_what_nobody_foresaw_is_a_reason_too_and_keeps_no_other_from_signing(tmp_path, monkeypatch):
    """Else a thread dies with a traceback, and its devices are said not to have been asked."""
    find, calls = pynvml.nvmlDeviceGetHandleByUUID, []

    def stumble(uuid):
        calls.append(uuid)
        if len(calls) == 1:
            raise KeyError("structure")
        return find(uuid)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", stumble)
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    reports, _ = signed(tmp_path, replace(eight_h100s(), driver=CONFIDENTIAL))
    assert [one.why for one in reports] == ["the device: 'structure'", *[""] * 7]
    assert raised == []


def test_a_name_that_is_no_text_is_written_down_all_the_same(tmp_path):
    reports, _ = signed(tmp_path, FakeMachine((h100(),), driver=CONFIDENTIAL), identities={"GPU-\ud800": ON})
    (one,) = reports
    assert one.device == "GPU-\\ud800"
    assert one.why.startswith("the device: ")


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("a file")
    with caplog.at_level(logging.WARNING), FakeNvml(FakeMachine((h100(),), driver=CONFIDENTIAL)):
        (tmp_path / "ledger").mkdir()
        sign_head(tmp_path / "ledger" / "0-0.jsonl", HEAD, {h100().uuid: ON})
    assert any("cannot be written" in record.message for record in caplog.records)


def test_a_metered_run_ends_with_a_report_over_its_last_line_and_the_statement_names_it(tmp_path, monkeypatch):
    """From the devices to the verifier, once more for the life after: each has its own report."""
    monkeypatch.setenv("FLOPMETER_DEVICES", h100().uuid)
    run, model, signer = tmp_path / "run", torch.nn.Linear(2, 2), throwaway_signer()
    with FakeNvml(FakeMachine((h100(),), driver=CONFIDENTIAL), speed=1):
        for _ in range(2):
            with Meter(run, model=model) as meter:
                model(torch.ones(1, 2))
                meter.step()
                time.sleep(0.3)
    ledger = read_run(run)
    reports = read_reports(run)
    assert [(one.file, one.head) for one in reports] == [(head.file, head.digest) for head in ledger.heads]
    assert all(one.is_of_head and not one.why for one in reports)
    issue(run, signer, out=tmp_path / "a.json", live=False)
    data, policy = (tmp_path / "a.json").read_bytes(), Policy((signer.public_key,))
    verified = verify(data, policy, ledger=ledger, reports=reports)
    assert verified.verdict == "yes"
    assert verified.assurance == "self-declared", "nobody checked NVIDIA's signature"
    assert verified.checks[-1].name == "evidence"
    assert verified.checks[-1].detail.startswith("2 reports")
