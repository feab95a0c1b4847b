"""flopmeter verify."""

import pytest


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
