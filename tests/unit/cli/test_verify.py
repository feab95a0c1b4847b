"""flopmeter verify."""

import json
import os
from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.signers.file import FileSigner
from flopmeter.ledger.evidence import GpuReport, nonce_of
from flopmeter.ledger.merge import read_run
from flopmeter.regimes.regime import find
from flopmeter.testing.ledgers import ScriptedSegment


@pytest.fixture
def attested(call, lab):
    assert call("attest", "run", "--key", "key", "--subject", "checkpoint", "--out", "a.json").code == 0
    return lab


def test_an_honest_attestation_is_a_yes(call, attested):
    done = call("verify", "a.json", "--key", "key.pub", "--ledger", "run", "--subject", "checkpoint", "--json")
    assert done.code == 0
    assert set(done.json) == {"verdict", "assurance", "checks", "flop"}
    assert (done.json["verdict"], done.json["assurance"], done.json["flop"]) == ("yes", "self-declared", "630")
    assert {check["verdict"] for check in done.json["checks"]} == {"yes"}


def test_the_same_in_words(call, attested):
    done = call("verify", "a.json", "--key", "key.pub")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "verdict: yes: 630 FLOP, self-declared"
    assert "– ledger" in done.out


def test_a_changed_subject_is_a_no(call, attested):
    (attested / "checkpoint" / "model.bin").write_bytes(b"weighty")
    done = call("verify", "a.json", "--key", "key.pub", "--subject", "checkpoint")
    assert done.code == 1
    assert "✗ subject" in done.out
    assert "verdict: no" in done.out


def test_what_devices_signed_is_looked_at_with_the_ledger(call, lab):
    with ScriptedSegment(lab / "signed") as segment:
        segment.note("self-test", {"passed": True, "torch": "none", "answers": []})
        segment.note("device", {"uuid": "GPU-1", "name": "a card"})
        segment.end()
    (head,) = read_run(lab / "signed").heads
    report = GpuReport(device="GPU-1", file=head.file, head=head.digest, report=bytes(4) + nonce_of(head.digest))
    path = report.write(lab / "signed")
    assert call("attest", "signed", "--key", "key", "--out", "a.json").code == 0
    asked = ("verify", "a.json", "--key", "key.pub")
    done = call(*asked, "--ledger", "signed")
    assert (done.code, "✓ evidence" in done.out) == (0, True)
    done = call(*asked)
    assert (done.code, "– evidence" in done.out) == (0, True)
    replace(report, report=report.report + b"!").write(lab / "signed")
    assert call(*asked, "--ledger", "signed").code == 1
    path.write_text("nonsense")
    done = call(*asked, "--ledger", "signed")
    assert (done.code, "? evidence" in done.out) == (3, True)
    done = call("attest", "signed", "--key", "key", "--out", "b.json")
    assert done.code != 0
    assert "no report of a device" in done.err
    path.unlink()
    done = call(*asked, "--ledger", "signed")
    assert (done.code, "– evidence" in done.out) == (0, True)


def test_a_stranger_beside_the_subjects_is_a_no(call, attested):
    """Else a file could be smuggled into an attested checkpoint."""
    (attested / "checkpoint" / "extra.bin").write_bytes(b"extra")
    assert call("verify", "a.json", "--key", "key.pub", "--subject", "checkpoint").code == 1


def test_somebody_else_s_key_is_a_no(call, attested):
    call("keygen", "other")
    assert call("verify", "a.json", "--key", "other.pub").code == 1
    assert call("verify", "a.json", "--key", "other.pub", "--key", "key.pub").code == 0


def test_what_is_no_attestation_cannot_be_told(call, attested):
    done = call("verify", "key.pub", "--key", "key.pub", "--json")
    assert done.code == 3
    assert done.json["verdict"] == "cannot-tell"
    assert (done.json["assurance"], done.json["flop"]) == (None, None)


def test_a_ledger_that_no_longer_reads_as_ours_cannot_be_told(call, attested):
    (attested / "run" / "ledger" / "0-0.jsonl").write_bytes(b"nonsense\n")
    assert call("verify", "a.json", "--key", "key.pub", "--ledger", "run").code == 3


def test_a_changed_ledger_is_a_no(call, attested):
    path = attested / "run" / "ledger" / "0-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b"pretraining", b"evaluations"))
    assert call("verify", "a.json", "--key", "key.pub", "--ledger", "run").code == 1


@pytest.mark.parametrize(
    "words",
    [
        ("verify",),
        ("verify", "a.json"),
        ("verify", "missing.json", "--key", "key.pub"),
        ("verify", "a.json", "--key", "missing.pub"),
        ("verify", "a.json", "--key", "a.json"),
        ("verify", "a.json", "--key", "key"),
        ("verify", "a.json", "--key", "key.pub", "--ledger", "nowhere"),
        ("verify", "a.json", "--key", "key.pub", "--subject", "missing.bin"),
        ("verify", "checkpoint", "--key", "key.pub"),
    ],
)
def test_wrong_usage_is_told_apart_from_a_no(call, attested, words):
    """Else a script takes a typing error for a forged attestation."""
    done = call(*words)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err


def state_limit(folder, name, number):
    """Put a threshold that is far away into the statement, and sign it again."""
    value = json.loads(Attestation.from_bytes((folder / "a.json").read_bytes()).payload)
    rule = {"counts": "all", "figure": "flop", "nearPercent": "50"}
    limit = {"id": name, "flop": str(number), "basis": "stage", "relation": "below", "rule": rule}
    value["predicate"]["thresholds"] = [limit]
    payload, signer = wire.encode(value), FileSigner.from_file(folder / "key")
    signed = Attestation(payload=payload, signature=signer.sign(encode_pae(payload)), hint=signer.key_id)
    (folder / "a.json").write_bytes(signed.to_bytes())


@pytest.mark.parametrize(("name", "factor", "code"), [("us.ca.sb53", 1, 0), ("us.ca.sb53", 10, 1), ("made.up", 1, 0)])
def test_a_law_s_number_is_the_one_of_the_catalogue(call, attested, name, factor, code):
    """Else a signer stays below a law by stating another number under its name."""
    state_limit(attested, name, find("us.ca.sb53").threshold * factor)
    done = call("verify", "a.json", "--key", "key.pub", "--json")
    assert done.code == code
    refuted = {check["name"] for check in done.json["checks"] if check["verdict"] == "no"}
    assert refuted == ({"catalogue"} if code else set())


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "pipe", "--key", "key.pub"),
        ("verify", "/dev/null", "--key", "key.pub"),
        ("verify", "a.json", "--key", "pipe"),
        ("verify", "a.json", "--key", "key.pub", "--subject", "pipe"),
        ("verify", "a.json", "--key", "key.pub", "--subject", "pipes"),
        ("verify", "a.json", "--key", "key.pub", "--ledger", "odd"),
        ("attest", "run", "--key", "pipe", "--out", "b.json"),
        ("attest", "run", "--key", "key", "--subject", "pipe", "--out", "b.json"),
        ("report", "odd"),
        ("recount", "odd"),
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(call, attested, words):
    """Else a pipe in a folder of checkpoints stops whoever verifies it for ever."""
    (attested / "odd" / "ledger").mkdir(parents=True)
    (attested / "pipes").mkdir()
    for path in ("pipe", "pipes/pipe", "odd/ledger/0-0.jsonl"):
        os.mkfifo(attested / path)
    done = call(*words)
    assert done.code == 2
    assert "no regular file" in done.err
