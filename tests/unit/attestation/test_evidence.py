"""Reports that devices signed: what a statement says of them, and when a verifier says no."""

import shutil
from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.evidence import describe_evidence
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.statement import Statement
from flopmeter.attestation.verifier import verify
from flopmeter.errors import LedgerUnreadableError
from flopmeter.ledger.evidence import GpuReport, nonce_of, read_reports
from flopmeter.ledger.merge import read_run
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage

DEVICES = ("GPU-1", "GPU-2")


def report_over(head, *, device="GPU-1"):
    data = bytes(4) + nonce_of(head.digest) + f"signed by {device}".encode()
    return GpuReport(device=device, file=head.file, head=head.digest, report=data)


@pytest.fixture
def signed(attested):
    """An attested run on whose head two devices signed: one that was measured, and the card of a slice."""
    shutil.rmtree(attested.run)
    usage = Usage.of(DeviceUsage(uuid=uuid, name="x", held_ns=1) for uuid in ("GPU-1", "MIG-2"))
    with ScriptedSegment(attested.run) as segment:
        segment.note("self-test", {"passed": True, "torch": "none", "answers": []})
        segment.note("device", {"uuid": "GPU-1", "name": "x"})
        segment.note("device", {"uuid": "MIG-2", "name": "x MIG 1g.10gb", "mig_parent": "GPU-2"})
        segment.note("device", {"uuid": "GPU-3", "name": "too short to be measured"})
        segment.run(product_table(), usage=usage)
        segment.end()
    (head,) = read_run(attested.run).heads
    for device in DEVICES:
        report_over(head, device=device).write(attested.run)
    issue(attested.run, throwaway_signer(), out=attested.file, live=False)
    return attested


def evidence_of(attested, data=None, reports=()):
    reports = reports if reports != () else read_reports(attested.run)
    verified = verify(data or attested.data, attested.policy, reports=reports, ledger=read_run(attested.run))
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
            "sha256": wire.digest(report_over(head, device=device).report),
        }
        for device in DEVICES
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

    for reports in ((), None):
        verified, check = evidence_of(signed, data=forge(signed.data, change), reports=reports)
        assert (verified.verdict, check.verdict) == ("cannot-tell", "cannot-tell")


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


def state_as(*items):
    """Have a statement say so of its evidence; each is the change of one of its two items."""

    def change(value):
        evidence = value["predicate"]["evidence"]
        value["predicate"]["evidence"] = [{**evidence[index], **changes} for index, changes in items]

    return change


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ((), "names no report"),
        (((0, {}),) * 8, "a report of GPU-1 over 0-0.jsonl more than once"),
        (((0, {}), (0, {"device": "gpu-1", "sha256": "1" * 64})), "a report of GPU-1 over 0-0.jsonl more than once"),
        (tuple((0, {"device": f"GPU-{number}"}) for number in range(8)), "8 times"),
        (((0, {"device": "GPU-9"}),), "GPU-9, which is no device of the ledger"),
    ],
)
def test_one_report_is_not_several_and_none_is_not_some(signed, forge, items, words):
    """All devices are given the same nonce: what one signed would do for a whole cluster."""
    for reports in ((), None):
        verified, check = evidence_of(signed, data=forge(signed.data, state_as(*items)), reports=reports)
        assert (verified.verdict, check.verdict) == ("no", "no")
        assert words in check.detail


def test_a_report_of_a_kind_that_is_not_known_cannot_be_told(signed, forge):
    data = forge(signed.data, state_as((0, {"type": "blessed"}), (1, {})))
    for reports in ((), None):
        verified, check = evidence_of(signed, data=data, reports=reports)
        assert (verified.verdict, check.verdict) == ("cannot-tell", "cannot-tell")
        assert "'blessed'" in check.detail


def test_whether_a_card_is_that_of_a_slice_only_the_ledger_says(signed):
    verified = verify(signed.data, signed.policy, reports=read_reports(signed.run))
    check = next(check for check in verified.checks if check.name == "evidence")
    assert (verified.verdict, check.verdict) == ("cannot-tell", "cannot-tell")
    assert "GPU-2 signed and is not in usage.devices" in check.detail


def test_a_device_that_signed_and_was_held_too_shortly_to_be_measured_is_one_of_the_run(signed):
    """An honest run of a moment has no device time, and its devices sign all the same."""
    (head,) = read_run(signed.run).heads
    report_over(head, device="GPU-3").write(signed.run)
    issue(signed.run, throwaway_signer(), out=signed.file, live=False)
    assert evidence_of(signed)[0].verdict == "yes"


def test_the_same_device_signs_over_every_file_of_a_ledger(tmp_path):
    """Each life of a process ends with a report of its own."""
    for _ in range(2):
        with ScriptedSegment(tmp_path / "run") as segment:
            segment.note("device", {"uuid": "GPU-1", "name": "x"})
            segment.end()
    signer, heads = throwaway_signer(), read_run(tmp_path / "run").heads
    for head in heads:
        report_over(head).write(tmp_path / "run")
    issue(tmp_path / "run", signer, out=tmp_path / "a.json", live=False)
    data, reports = (tmp_path / "a.json").read_bytes(), read_reports(tmp_path / "run")
    verified = verify(data, Policy((signer.public_key,)), reports=reports, ledger=read_run(tmp_path / "run"))
    assert (len(reports), verified.verdict) == (2, "yes")


@pytest.mark.parametrize("kept", [None, 0])
def test_a_report_beside_the_ledger_that_is_not_stated_is_not_passed_over(signed, forge, kept):
    """Else a device that did not bear a run out is left out of what is said of it."""

    def change(value):
        if kept is None:
            del value["predicate"]["evidence"]
        else:
            value["predicate"]["evidence"] = [value["predicate"]["evidence"][kept]]

    verified, check = evidence_of(signed, data=forge(signed.data, change))
    assert (verified.verdict, check.verdict) == ("cannot-tell", "cannot-tell")
    assert f"{1 if kept == 0 else 2} of 2 reports beside the ledger" in check.detail


def test_reports_over_a_later_end_are_no_matter_of_an_earlier_statement(signed):
    """A warning in the middle of a run is not disproved by what devices sign at its end."""
    ledger = read_run(signed.run)
    (segment,) = ledger.segments
    cut = replace(ledger, segments=(replace(segment, entries=segment.entries[:-1]),))
    statement = Statement.about(
        Account.of(cut, live=True), ledger=cut, reason="heartbeat", sequence=0, previous=None, status="running"
    )
    signer = throwaway_signer()
    data = Attestation(
        payload=statement.data, signature=signer.sign(encode_pae(statement.data)), hint=signer.key_id
    ).to_bytes()
    verified = verify(data, signed.policy, ledger=ledger, reports=read_reports(signed.run))
    assert verified.verdict == "yes"
    assert "evidence" not in {check.name for check in verified.checks}
