"""Reports that devices signed: what a statement says of them, and when a verifier says no."""

from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.evidence import describe_evidence
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.statement import Statement
from flopmeter.attestation.verifier import verify
from flopmeter.errors import LedgerUnreadableError
from flopmeter.ledger.evidence import GpuReport, nonce_of, read_reports
from flopmeter.ledger.merge import read_run
from flopmeter.testing.keys import throwaway_signer


def report_over(head, *, device="GPU-1"):
    return GpuReport(device=device, file=head.file, head=head.digest, report=bytes(4) + nonce_of(head.digest) + b"rest")


@pytest.fixture
def signed(attested):
    """An attested run on whose head two devices signed."""
    (head,) = read_run(attested.run).heads
    for device in ("GPU-1", "GPU-2"):
        report_over(head, device=device).write(attested.run)
    issue(attested.run, throwaway_signer(), out=attested.file, live=False)
    return attested


def evidence_of(attested, data=None, reports=()):
    reports = reports if reports != () else read_reports(attested.run)
    verified = verify(data or attested.data, attested.policy, reports=reports)
    return verified, next(check for check in verified.checks if check.name == "evidence")


def test_a_statement_names_the_digest_of_each_report(signed):
    predicate = Statement.from_bytes(Attestation.from_bytes(signed.data).payload).predicate
    (head,) = read_run(signed.run).heads
    assert predicate["evidence"] == [
        {
            "type": "nvidia-gpu-report",
            "device": device,
            "file": "0-0.jsonl",
            "head": head.digest,
            "nonce": nonce_of(head.digest).hex(),
            "sha256": wire.digest(report_over(head).report),
        }
        for device in ("GPU-1", "GPU-2")
    ]


def test_a_run_without_reports_is_stated_as_before(attested):
    """Else every attestation changes its bytes because some machines have confidential computing."""
    predicate = Statement.from_bytes(Attestation.from_bytes(attested.data).payload).predicate
    assert "evidence" not in predicate
    assert "evidence" not in {check.name for check in verify(attested.data, attested.policy).checks}


def test_reports_that_answer_the_head_hold_and_no_more_is_claimed_than_was_checked(signed):
    verified, check = evidence_of(signed)
    assert (verified.verdict, check.verdict) == ("yes", "yes")
    assert "for NVIDIA's verifier" in check.detail
    assert verified.assurance == "self-declared"


def test_reports_that_were_not_brought_are_listed_and_do_not_decide(signed):
    for reports in (None, []):
        verified, check = evidence_of(signed, reports=reports)
        assert (verified.verdict, check.verdict) == ("yes", "cannot-tell")


def test_one_of_two_that_is_missing_is_noticed(signed):
    verified, check = evidence_of(signed, reports=read_reports(signed.run)[:1])
    assert (verified.verdict, check.verdict) == ("cannot-tell", "cannot-tell")
    assert "1 of 2" in check.detail


def test_a_report_that_was_exchanged_is_a_no(signed):
    first, second = read_reports(signed.run)
    verified, check = evidence_of(signed, reports=[replace(first, report=first.report + b"!"), second])
    assert (verified.verdict, check.verdict) == ("no", "no")
    assert "not the one that was stated" in check.detail


def other_nonce(value):
    value["predicate"]["evidence"][0]["nonce"] = "00" * 32


def other_head(value):
    value["predicate"]["evidence"][0]["head"] = "11" * 32
    value["predicate"]["evidence"][0]["nonce"] = nonce_of("11" * 32).hex()


@pytest.mark.parametrize("change", [other_nonce, other_head])
def test_evidence_that_does_not_follow_from_the_ledger_is_a_no_even_where_no_report_is_brought(signed, forge, change):
    """A report over another run's head is a genuine report of nothing."""
    verified, check = evidence_of(signed, data=forge(signed.data, change), reports=None)
    assert (verified.verdict, check.verdict) == ("no", "no")


def test_a_genuine_report_with_another_nonce_is_a_no_though_its_digest_is_stated(signed, forge):
    first, second = read_reports(signed.run)
    stale = replace(first, report=bytes(36) + b"rest")

    def change(value):
        value["predicate"]["evidence"][0]["sha256"] = stale.digest

    verified, check = evidence_of(signed, data=forge(signed.data, change), reports=[stale, second])
    assert (verified.verdict, check.verdict) == ("no", "no")
    assert "another nonce" in check.detail


@pytest.mark.parametrize("value", [None, "x", [[]], [{}], [{"file": [], "device": {}}]])
def test_evidence_of_another_form_cannot_be_told(signed, forge, value):
    def change(statement):
        statement["predicate"]["evidence"] = value

    _, check = evidence_of(signed, data=forge(signed.data, change))
    assert check.verdict == "cannot-tell"


def test_a_folder_that_cannot_be_read_cannot_be_told(signed):
    verified, check = evidence_of(signed, reports=LedgerUnreadableError("no report", where="x"))
    assert (verified.verdict, check.verdict) == ("cannot-tell", "cannot-tell")


def test_what_failed_or_is_of_another_ledger_is_not_stated(signed):
    (head,) = read_run(signed.run).heads
    good = report_over(head)
    bad = [
        replace(good, report=b"", why="Not Supported"),
        replace(good, report=bytes(40)),
        report_over(replace(head, digest="22" * 32)),
        report_over(replace(head, file="1-0.jsonl")),
    ]
    assert len(describe_evidence([good, *bad], [(head.file, head.digest)])) == 1
