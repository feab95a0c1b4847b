"""flopmeter attest."""

import json

import pytest

from flopmeter.attestation.envelope import Attestation
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage


def test_a_run_is_attested_and_the_claim_summed_up(call, lab):
    done = call("attest", "run", "--key", "key", "--subject", "checkpoint", "--out", "a.json", "--json")
    assert done.code == 0
    issued = Attestation.from_bytes((lab / "a.json").read_bytes())
    assert done.json["id"] == issued.id
    assert (done.json["status"], done.json["reason"], done.json["sequence"]) == ("finished", "run-end", "0")
    assert [subject["name"] for subject in done.json["subjects"]] == ["checkpoint/model.bin"]


def test_the_same_in_words(call, lab):
    done = call("attest", "run", "--key", "key", "--out", "a.json", "--issuer", "A Lab")
    assert done.code == 0
    assert "630 FLOP of a run that is finished" in done.out
    predicate = json.loads(Attestation.from_bytes((lab / "a.json").read_bytes()).payload)["predicate"]
    assert predicate["issuer"] == {"name": "A Lab", "role": "trainer"}


def test_a_stranger_among_the_subjects_is_a_no_unless_said_aloud(call, lab):
    (lab / "other.bin").write_bytes(b"other")
    words = ("attest", "run", "--key", "key", "--subject", "other.bin", "--out", "a.json")
    done = call(*words)
    assert done.code == 1
    assert "never saw other.bin" in done.err
    assert not (lab / "a.json").exists()
    assert call(*words, "--allow-unrecorded-subject").code == 0
    verified = call("verify", "a.json", "--key", "key.pub", "--ledger", "run", "--subject", "other.bin", "--json")
    assert verified.code == 0
    assert {c["name"]: c["verdict"] for c in verified.json["checks"]}["recorded-subjects"] == "cannot-tell"


def test_a_broken_ledger_is_a_no(call, lab):
    path = lab / "run" / "ledger" / "0-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b"pretraining", b"evaluations"))
    done = call("attest", "run", "--key", "key", "--out", "a.json")
    assert (done.code, done.out) == (1, "")
    assert "0-0.jsonl" in done.err
    assert not (lab / "a.json").exists()


def test_a_run_that_is_being_written_is_running(call, lab):
    """Else a live run would be attested as one that broke off, with a gap that is none."""
    with ScriptedSegment(lab / "live") as segment:
        segment.run(product_table())
        segment.file.sync()
        done = call("attest", "live", "--key", "key", "--out", "a.json", "--json")
    assert (done.json["status"], done.json["reason"]) == ("running", "heartbeat")
    assert call("verify", "a.json", "--key", "key.pub", "--ledger", "live").code == 0
    done = call("attest", "live", "--key", "key", "--out", "a.json", "--json")
    assert done.json["status"] == "interrupted"
    assert call("verify", "a.json", "--key", "key.pub", "--ledger", "live").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("attest", "run", "--out", "a.json"),
        ("attest", "run", "--key", "key"),
        ("attest", "run", "--key", "missing", "--out", "a.json"),
        ("attest", "run", "--key", "key.pub", "--out", "a.json"),
        ("attest", "run", "--key", "pkcs11:token", "--out", "a.json"),
        ("attest", "nowhere", "--key", "key", "--out", "a.json"),
        ("attest", "run", "--key", "key", "--out", "nowhere/a.json"),
        ("attest", "run", "--key", "key", "--out", "a.json", "--subject", "missing.bin"),
    ],
)
def test_wrong_usage_is_told_apart_from_a_no(call, lab, words):
    done = call(*words)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert not (lab / "a.json").exists()


def test_a_key_that_others_can_read_is_warned_of(call, lab, caplog):
    """Else a key lies open for years and nobody is told."""
    (lab / "key").chmod(0o644)
    assert call("attest", "run", "--key", "key", "--out", "a.json").code == 0
    assert "chmod 600 key" in caplog.text


@pytest.mark.parametrize(
    "out", ["key", "key.pub", "checkpoint/model.bin", "run/ledger/0-0.jsonl", "checkpoint", "link"]
)
def test_what_an_attestation_is_made_of_is_never_overwritten(call, lab, out):
    """Else one wrong word costs the key, the weights or the ledger, and says that all went well."""
    (lab / "link").symlink_to("nowhere")
    before = {path: path.read_bytes() for path in sorted(lab.rglob("*")) if path.is_file()}
    done = call("attest", "run", "--key", "file:key", "--subject", "checkpoint", "--out", out)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "name a new file" in done.err
    assert before == {path: path.read_bytes() for path in sorted(lab.rglob("*")) if path.is_file()}
    assert (lab / "link").is_symlink()


def test_an_attestation_is_made_again_in_its_place(call, lab):
    """Else a script that attests every night fails on its second."""
    for _ in range(2):
        assert call("attest", "run", "--key", "key", "--subject", "checkpoint", "--out", "a.json").code == 0


def test_it_says_what_the_statement_has_no_figure_of(call, tmp_path):
    """Else whoever signs takes half a device's energy for all of it."""
    seen = {"uuid": "GPU-1", "name": "x", "held_ns": 3_600 * 10**9, "busy_ns": 1, "energy_mj": 5}
    whole = DeviceUsage(**seen)
    lost = DeviceUsage(
        **{**seen, "uuid": "GPU-2"}, unseen_ns=10**9, note="GPU is lost", missing={"energy_mj": 2 * 10**9}
    )
    for name, devices, notes, said in (
        ("a", (whole,), (), []),
        (
            "b",
            (whole, lost),
            (),
            ["GPU-2: energy for 2 s, whatever it did in 1 s, between nothing and what nobody knows (GPU is lost)"],
        ),
        ("c", (), (), ["device time and energy: no device was measured"]),
        ("d", (), ("no NVIDIA driver: x",), ["device time and energy: no NVIDIA driver: x"]),
    ):
        with ScriptedSegment(tmp_path / name) as segment:
            segment.run(product_table(), usage=Usage(devices, notes))
            segment.end()
        call("keygen", f"{name}.key")
        done = call("attest", name, "--key", f"{name}.key", "--out", f"{name}.json", "--json")
        assert done.json["unmeasured"] == said
        done = call("attest", name, "--key", f"{name}.key", "--out", f"{name}.json")
        assert [line.removeprefix("without  ") for line in done.out.splitlines() if line.startswith("without")] == said
