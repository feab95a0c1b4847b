"""Evidence: what a statement says of reports that devices signed over its ledger, and whether the reports bear it out.

What is checked: that a report is the one that was stated, and that its nonce is SHA-256 of a head of this ledger. What
is not: whether an NVIDIA device signed it; that is for NVIDIA's verifier. No torch, no NVML.
Not here: the reports themselves (`ledger/evidence.py`).
"""

from collections.abc import Iterable, Sequence

from flopmeter import wire
from flopmeter.attestation.statement import Statement
from flopmeter.errors import CannotVerifyError, LedgerError, MismatchError
from flopmeter.ledger.evidence import GpuReport, nonce_of


def check_evidence(statement: Statement, reports: "Sequence[GpuReport] | LedgerError | None") -> str:
    """Return in words that every report that the statement names is here and answers a head of its ledger.

    Raises:
        MismatchError: one answers another nonce, or a head that is none of this ledger, or is not the one stated.
        CannotVerifyError: one was not brought.
    """
    stated = [wire.parse_object(item, name="evidence") for item in wire.parse_list(statement.predicate["evidence"])]
    heads = {(head.file, head.digest) for head in statement.heads}
    for item in stated:
        wire.parse_text(item.get("device"), name="device")
        file, head = wire.parse_text(item.get("file"), name="file"), wire.parse_digest(item.get("head"), name="head")
        if (file, head) not in heads:
            msg = f"evidence names head {head[:12]}… of {file}, which ledger.heads does not"
            raise MismatchError(msg)
        if item.get("nonce") != nonce_of(head).hex():
            msg = (
                f"evidence of {file} has the nonce {str(item.get('nonce'))[:12]}…, which does not follow from its head"
            )
            raise MismatchError(msg)
        wire.parse_digest(item.get("sha256"), name="sha256")
    if isinstance(reports, LedgerError):
        raise reports
    brought = {(report.device, report.file): report for report in reports or ()}
    missing = [item for item in stated if (item["device"], item["file"]) not in brought]
    if missing:
        msg = f"{len(missing)} of {len(stated)} reports that devices signed were not brought"
        raise CannotVerifyError(msg)
    for item in stated:
        report = brought[str(item["device"]), str(item["file"])]
        if report.digest != item["sha256"]:
            msg = f"the report of {report.device} in {report.name} is not the one that was stated"
            raise MismatchError(msg)
        if report.nonce != nonce_of(str(item["head"])):
            msg = f"the report of {report.device} answers another nonce than the head of {report.file} gives"
            raise MismatchError(msg)
    return (
        f"{len(stated)} reports of devices answer the head of their ledger; "
        "whether NVIDIA's devices signed them is for NVIDIA's verifier"
    )


def describe_evidence(reports: Iterable[GpuReport], heads: Iterable[tuple[str, str]]) -> list[wire.Wire]:
    """Return what a statement says of the reports that answer one of these heads; of others, nothing."""
    known = set(heads)
    return [
        {
            "type": "nvidia-gpu-report",
            "device": report.device,
            "file": report.file,
            "head": report.head,
            "nonce": report.nonce.hex(),
            "sha256": report.digest,
        }
        for report in sorted(reports, key=lambda report: (report.file, report.device))
        if report.is_of_head and (report.file, report.head) in known
    ]
