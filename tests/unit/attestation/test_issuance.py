"""From a run directory to a file, or to nothing at all."""

import json
import os

import pytest

from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.issuance import issue, sign_statement, write_atomically
from flopmeter.attestation.statement import Statement, Subject, Threshold
from flopmeter.errors import LedgerBrokenError, LedgerMissingError, MismatchError, SigningError
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import recorded_ledger

STRANGER = Subject(name="other.bin", sha256="0" * 64)


@pytest.fixture
def run(tmp_path):
    return recorded_ledger(tmp_path / "run")


def test_the_file_holds_what_is_returned(run, tmp_path):
    issued = issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False)
    assert Attestation.from_bytes((tmp_path / "a.json").read_bytes()) == issued


@pytest.mark.parametrize(
    ("is_closed", "live", "status", "reason"),
    [
        (True, False, "finished", "run-end"),
        (False, False, "interrupted", "heartbeat"),
        (False, True, "running", "heartbeat"),
    ],
)
def test_status_and_reason_follow_from_the_ledger(tmp_path, is_closed, live, status, reason):
    run = recorded_ledger(tmp_path / "run", is_closed=is_closed)
    issued = issue(run, throwaway_signer(), out=tmp_path / "a.json", live=live)
    predicate = json.loads(issued.payload)["predicate"]
    assert (predicate["stage"]["status"], predicate["reason"]) == (status, reason)


def test_a_subject_that_the_ledger_never_saw_is_refused_unless_said_aloud(run, tmp_path):
    """Else weights from elsewhere get a birth certificate."""
    with pytest.raises(MismatchError, match=r"never saw other\.bin"):
        issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False, subjects=[STRANGER])
    assert not (tmp_path / "a.json").exists()
    issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False, subjects=[STRANGER], allow_unrecorded=True)


def test_nothing_is_signed_over_a_broken_ledger(run, tmp_path):
    path = run / "ledger" / "0-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"passed":true', b'"passed":fals', 1).replace(b"fals,", b"null,", 1))
    with pytest.raises(LedgerBrokenError):
        issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False)
    with pytest.raises(LedgerMissingError):
        issue(tmp_path / "nothing", throwaway_signer(), out=tmp_path / "a.json", live=False)
    assert not (tmp_path / "a.json").exists()


def test_a_warning_that_warns_of_nothing_is_not_signed(run, tmp_path):
    """Else we would sign what our own verifier refuses."""
    with pytest.raises(MismatchError, match="threshold-crossed"):
        issue(
            run,
            throwaway_signer(),
            out=tmp_path / "a.json",
            live=False,
            reason="threshold-crossed",
            thresholds=[Threshold(id="far", flop=10**30)],
        )


def test_a_status_against_the_asking_is_a_fault_of_the_caller(run, tmp_path):
    with pytest.raises(ValueError, match="status"):
        issue(run, throwaway_signer(), out=tmp_path / "a.json", live=True, status="finished")


def test_a_signer_that_signs_something_else_is_caught(run, tmp_path):
    """Else a broken HSM is noticed by the auditor, years later."""

    class Broken:
        public_key = throwaway_signer().public_key
        key_id = public_key.key_id

        def sign(self, message):
            return bytes(64)

    good = issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False)
    with pytest.raises(SigningError, match="does not accept"):
        sign_statement(Statement.from_bytes(good.payload), Broken())


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    """Else a full disk leaves half an attestation, or loses the one before."""
    path = tmp_path / "a.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["missing/a.json", "."])
def test_a_place_that_cannot_be_written_is_said(tmp_path, name):
    with pytest.raises(SigningError, match="cannot be written"):
        write_atomically(tmp_path / name, b"data")
    assert list(tmp_path.iterdir()) == []


def lay(kind, path, run):
    """Put something at a path that is no attestation."""
    match kind:
        case "text":
            path.write_bytes(b"mine")
        case "link":
            path.symlink_to(path.with_name("nowhere"))
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "half an attestation":
            issue(run, throwaway_signer(), out=path, live=False)
            path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("kind", ["text", "link", "pipe", "directory", "half an attestation"])
def test_nothing_but_an_attestation_is_replaced(run, tmp_path, kind):
    """Else a slip of the hand costs somebody a private key, or a model."""
    out = tmp_path / "a.json"
    lay(kind, out, run)
    before = sorted((path.name, path.lstat().st_mode, path.lstat().st_size) for path in tmp_path.iterdir())

    class Untouched:
        public_key = throwaway_signer().public_key
        key_id = public_key.key_id

        def sign(self, message):
            pytest.fail("it was signed before the place was looked at")

    with pytest.raises(SigningError, match=r"a\.json.*name a new file"):
        issue(run, Untouched(), out=out, live=False)
    assert before == sorted((path.name, path.lstat().st_mode, path.lstat().st_size) for path in tmp_path.iterdir())


def test_an_earlier_attestation_is_replaced(run, tmp_path):
    """Else a meter that warns of the same level after a restart could not."""
    for _ in range(2):
        issue(run, throwaway_signer(), out=tmp_path / "a.json", live=False)


@pytest.mark.parametrize("place", ["ledger/a.json", "ledger/deep/a.json", "other/a.json"])
def test_a_ledger_is_no_place_for_an_attestation(run, tmp_path, place):
    """Else a file appears among lines that others will check."""
    (run / "ledger" / "deep").mkdir()
    (run / "other").symlink_to(run / "ledger")
    with pytest.raises(SigningError, match="ledger"):
        issue(run, throwaway_signer(), out=run / place, live=False)


def test_a_spared_path_is_refused_even_where_it_would_be_new(run, tmp_path):
    """Else an attestation is found where a public key is looked for."""
    with pytest.raises(SigningError, match="take the place"):
        issue(run, throwaway_signer(), out=tmp_path / "key.pub", live=False, spared=[tmp_path / "key.pub"])
    (tmp_path / "weights").mkdir()
    inside = tmp_path / "weights" / "a.json"
    issue(run, throwaway_signer(), out=inside, live=False)
    with pytest.raises(SigningError, match="take the place"):
        issue(run, throwaway_signer(), out=inside, live=False, spared=[tmp_path / "weights"])


def test_a_ledger_closed_a_moment_ago_is_finished_and_not_running(run, tmp_path):
    """Else what is signed between the last line and the end of its meter is refuted by that line."""
    issued = issue(run, throwaway_signer(), out=tmp_path / "a.json", live=True)
    assert json.loads(issued.payload)["predicate"]["stage"]["status"] == "finished"
