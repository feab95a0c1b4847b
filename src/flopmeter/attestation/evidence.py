"""Evidence: what a statement says of reports that devices signed over its ledger, and whether the reports bear it out.

What is checked: that a report is the one that was stated, and that its nonce is SHA-256 of a head of this ledger. What
is not: whether an NVIDIA device signed it; that is for NVIDIA's verifier. No torch, no NVML.
Not here: the reports themselves (`ledger/evidence.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.statement import Statement
from flopmeter.errors import CannotVerifyError, LedgerError, MismatchError, UnsupportedError
from flopmeter.ledger.evidence import GpuReport, nonce_of

TYPE = "nvidia-gpu-report"


def check_evidence(
    statement: Statement, reports: "Sequence[GpuReport] | LedgerError | None", account: Account | None = None
) -> str:
    """Return in words that every report that the statement names is here and answers a head of its ledger.

    `account` is that of the ledger, where one was brought: it alone says which card a slice is of.

    Raises:
        MismatchError: one answers another nonce, or a head that is none of this ledger, is not the one stated, stands
            there twice, or is of a device that the run did not have.
        CannotVerifyError: one was not brought, or was brought and is not stated; or whether the run had the device
            cannot be told.
    """
    stated = read_evidence(statement)
    strangers = _find_strangers(stated, statement, account)
    if isinstance(reports, LedgerError):
        raise reports
    _check_reports(stated, reports or ())
    refuse_unstated(statement, reports or ())
    if strangers:
        msg = f"{strangers[0][:40]} signed and is not in usage.devices: only the ledger says whose card it is"
        raise CannotVerifyError(msg)
    return (
        f"{len(stated)} reports of devices answer the head of their ledger; "
        "whether NVIDIA's devices signed them is for NVIDIA's verifier"
    )


def read_evidence(statement: Statement) -> list[Mapping[str, wire.Wire]]:
    """Return what a statement says of reports, once it is known to agree with its heads and to be no report twice.

    Raises:
        MismatchError: it does not, or is.
        CannotVerifyError: it is of another form, or of a type that this version does not know.
    """
    stated = [wire.parse_object(item, name="evidence") for item in wire.parse_list(statement.predicate["evidence"])]
    if not stated:
        msg = "evidence names no report: a statement without any has no such field"
        raise MismatchError(msg)
    heads = {(head.file, head.digest) for head in statement.heads}
    for item in stated:
        _check_item(item, heads)
    _refuse_twice(stated)
    kinds = sorted({wire.parse_text(item.get("type"), name="type") for item in stated} - {TYPE})
    if kinds:
        msg = f"evidence is of type {kinds[0][:40]!r}, this version knows {TYPE!r}"
        raise UnsupportedError(msg)
    return stated


def refuse_unstated(statement: Statement, reports: Iterable[GpuReport]) -> None:
    """Refuse to overlook a report that lies beside the ledger, answers its head, and is not stated.

    It is no lie: devices answer after the last line, and a statement may be made meanwhile.

    Raises:
        CannotVerifyError: there is one.
    """
    items = [wire.parse_object(item) for item in wire.parse_list(statement.predicate.get("evidence", []))]
    stated = {(item.get("device"), item.get("file")) for item in items}
    here = describe_evidence(reports, ((head.file, head.digest) for head in statement.heads))
    unstated = [item for item in here if (item["device"], item["file"]) not in stated]
    if unstated:
        msg = (
            f"{len(unstated)} of {len(here)} reports beside the ledger that answer its head are not stated: "
            "they were left out, or came later"
        )
        raise CannotVerifyError(msg)


def _check_item(item: Mapping[str, wire.Wire], heads: AbstractSet[tuple[str, str]]) -> None:
    wire.parse_text(item.get("device"), name="device")
    file, head = wire.parse_text(item.get("file"), name="file"), wire.parse_digest(item.get("head"), name="head")
    if (file, head) not in heads:
        msg = f"evidence names head {head[:12]}… of {file}, which ledger.heads does not"
        raise MismatchError(msg)
    if item.get("nonce") != nonce_of(head).hex():
        msg = f"evidence of {file} has the nonce {str(item.get('nonce'))[:12]}…, which does not follow from its head"
        raise MismatchError(msg)
    wire.parse_digest(item.get("sha256"), name="sha256")


def _refuse_twice(stated: Sequence[Mapping[str, wire.Wire]]) -> None:
    """All devices are given the same nonce: so one report would do for as many as somebody likes."""
    devices = Counter((str(item["device"]).casefold(), item["file"]) for item in stated)
    digests = Counter(item["sha256"] for item in stated)
    for item in stated:
        if devices[str(item["device"]).casefold(), item["file"]] > 1:
            msg = f"evidence has a report of {str(item['device'])[:40]} over {str(item['file'])[:40]} more than once"
            raise MismatchError(msg)
        if digests[item["sha256"]] > 1:
            msg = f"evidence has report {str(item['sha256'])[:12]}… {digests[item['sha256']]} times"
            raise MismatchError(msg)


def _find_strangers(
    stated: Sequence[Mapping[str, wire.Wire]], statement: Statement, account: Account | None
) -> list[str]:
    """Return devices that signed and are not known to be of the run; with the ledger that is a no.

    A device of which nothing was measured, because the run was too short, has a line in the ledger all the same.
    """
    listed = wire.parse_list(statement.part("usage")["devices"])
    known = {wire.parse_text(wire.parse_object(device)["uuid"]) for device in listed}
    if account is not None:
        known |= {*account.devices, *(says["mig_parent"] for says in account.devices.values() if "mig_parent" in says)}
    strangers = [name for item in stated if (name := str(item["device"])) not in known]
    if strangers and account is not None:
        msg = f"evidence names {strangers[0][:40]}, which is no device of the ledger, and no card of a slice in it"
        raise MismatchError(msg)
    return strangers


def _check_reports(stated: Sequence[Mapping[str, wire.Wire]], reports: Sequence[GpuReport]) -> None:
    brought = {(report.device, report.file): report for report in reports}
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


def describe_evidence(reports: Iterable[GpuReport], heads: Iterable[tuple[str, str]]) -> list[dict[str, wire.Wire]]:
    """Return what a statement says of the reports that answer one of these heads; of others, nothing."""
    known = set(heads)
    return [
        {
            "type": TYPE,
            "device": report.device,
            "file": report.file,
            "head": report.head,
            "nonce": report.nonce.hex(),
            "sha256": report.digest,
        }
        for report in sorted(reports, key=lambda report: (report.file, report.device))
        if report.is_of_head and (report.file, report.head) in known
    ]
