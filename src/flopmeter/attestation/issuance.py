"""From a run directory to a signed attestation in a file: read, state, sign, write in one go.

Used by `flopmeter attest` and, from a worker thread, by a meter that warns of a threshold; loads no torch.
Not here: whether an attestation holds (`verifier.py`).
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from flopmeter.account import Account
from flopmeter.attestation.arithmetic import check_arithmetic
from flopmeter.attestation.devices import check_usage
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.evidence import describe_evidence
from flopmeter.attestation.physics import refuse_impossible
from flopmeter.attestation.plausibility import check_physics
from flopmeter.attestation.signers.signer import Signer
from flopmeter.attestation.statement import Statement, Subject, Threshold
from flopmeter.devices.table import PeakTable
from flopmeter.errors import CannotVerifyError, MismatchError, SigningError
from flopmeter.ledger.evidence import read_reports
from flopmeter.ledger.file import write_whole
from flopmeter.ledger.merge import RunLedger, read_run


def issue(
    run_dir: Path | str,
    signer: Signer,
    *,
    out: Path | str,
    live: bool,
    reason: str | None = None,
    status: str | None = None,
    subjects: Iterable[Subject] = (),
    allow_unrecorded: bool = False,
    thresholds: Iterable[Threshold] = (),
    issuer: str | None = None,
    spared: Iterable[Path | str] = (),
    table: PeakTable | None = None,
) -> Attestation:
    """Sign what the ledger of a run holds now, write it to `out`, and return it.

    `live` means that the ledger is still being written: the statement is then as of its last record. Status and
    reason are derived from the ledger where they are not given. Sequence number and predecessor are those that the
    ledger records. `out` appears whole or not at all; `spared` are paths
    that it may not be, such as the key and the subjects; `table` has the peaks of devices.

    Raises:
        LedgerError: the ledger, or a report that a device signed over it, is missing, broken or unreadable; nothing is
            signed.
        MismatchError: a subject that the ledger never saw, and `allow_unrecorded` was not said; or a reason that
            the figures do not bear out; or a count that its devices cannot have done.
        SigningError: the signer failed, or the file cannot be written, or something else is there.
    """
    refuse_place(Path(out), run_dir=Path(run_dir), spared=[Path(path) for path in spared])
    ledger = read_run(run_dir)
    if status is None:
        live = live and not _is_over(ledger)  # its meter closed the ledger, and is about to let go of it
    account = Account.of(ledger, live=live)
    named = tuple(subjects)
    if not allow_unrecorded:
        _refuse_strangers(named, account, run_dir)
    status = status or derive_status(ledger, live=live)
    if (status == "running") != live:
        msg = f"status is {status!r}, and a ledger that is {'still' if live else 'no longer'} written was asked for"
        raise ValueError(msg)
    statement = Statement.about(
        account,
        ledger=ledger,
        reason=reason or _derive_reason(status, named),
        subjects=named,
        sequence=len(account.attestations),
        previous=account.attestations[-1] if account.attestations else None,
        issuer=issuer,
        status=status,
        thresholds=thresholds,
        evidence=describe_evidence(read_reports(run_dir), ((head.file, head.digest) for head in account.heads)),
        table=table,
    )
    refuse_impossible(check_physics(account, table=table))
    check_usage(account.usage)
    check_arithmetic(statement)  # what our own verifier would refuse is not signed
    attestation = sign_statement(statement, signer)
    write_atomically(Path(out), attestation.to_bytes())
    return attestation


def sign_statement(statement: Statement, signer: Signer) -> Attestation:
    """Sign a statement's bytes, and check the signature before anyone relies on it.

    Raises:
        SigningError: the signature that came back is not one of this key.
    """
    message = encode_pae(statement.data)
    signature = signer.sign(message)
    if not signer.public_key.accepts(signature, message):
        msg = f"the signer of key {signer.key_id[:12]}… returned a signature that this key does not accept"
        raise SigningError(msg)
    return Attestation(payload=statement.data, signature=signature, hint=signer.key_id)


def derive_status(ledger: RunLedger, *, live: bool) -> str:
    """Return `running`, `finished` where every rank's last life ended in order, or `interrupted`."""
    if live:
        return "running"
    return "finished" if _is_over(ledger) else "interrupted"


def refuse_place(path: Path, *, run_dir: Path, spared: Iterable[Path] = ()) -> None:
    """Refuse to write an attestation over anything but an earlier one.

    Raises:
        SigningError: something that is no attestation lies there, or the place is a ledger's, or spared.
    """
    hint = "name a new file, or an earlier attestation, which is replaced"
    for other in spared:
        if _is_within(path, other):
            msg = f"an attestation may not take the place of {other}, which it is made with or about"
            raise SigningError(msg, where=str(path), hint=hint)
    if os.path.realpath(run_dir / "ledger") in map(str, _resolved(path).parents):
        msg = "this place is the ledger's, and an attestation may not lie in it"
        raise SigningError(msg, where=str(path), hint=hint)
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing is there; whether something can be written shows when it is
    if not stat.S_ISREG(mode):
        msg = "what is there is no regular file, and is not replaced"
        raise SigningError(msg, where=str(path), hint=hint)
    if not _holds_attestation(path):
        msg = "the file that is there is no attestation, and is not overwritten"
        raise SigningError(msg, where=str(path), hint=hint)


def _resolved(path: Path) -> Path:
    """Follow the links of the directories, and not one that the file itself may be."""
    return Path(os.path.realpath(path.parent)) / path.name


def _is_within(path: Path, other: Path) -> bool:
    if other.is_dir():  # a new file beside the weights is no weight file; one that was there was read as one
        return path.exists() and Path(os.path.realpath(other)) in _resolved(path).parents
    try:
        return _resolved(path) in (_resolved(other), Path(os.path.realpath(other))) or path.samefile(other)
    except OSError:
        return False


def _holds_attestation(path: Path) -> bool:
    start = b'{"dsseEnvelope":'  # canonical, so that weights need not be read whole to be told apart
    try:
        with path.open("rb") as file:
            head = file.read(len(start))
            if head != start:
                return False
            Statement.from_bytes(Attestation.from_bytes(head + file.read()).payload)
    except (OSError, CannotVerifyError):
        return False
    return True


def _is_over(ledger: RunLedger) -> bool:
    closed = {segment.rank: segment.is_closed for segment in ledger.segments}
    return all(closed.values())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and durable once this returns.

    Raises:
        SigningError: it cannot be written.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        msg = f"cannot be written: {error.strerror}"
        hint = "" if path.parent.is_dir() else f"make the directory {path.parent} first"
        raise SigningError(msg, where=str(path), hint=hint) from error


def _refuse_strangers(subjects: tuple[Subject, ...], account: Account, run_dir: Path | str) -> None:
    strangers = [subject for subject in subjects if subject.sha256 not in account.subjects]
    if strangers:
        names = ", ".join(f"{subject.name} ({subject.sha256[:12]}…)" for subject in strangers[:3])
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        msg = f"the ledger never saw {names}{more}, so nothing says that this run made it"
        hint = "record it with meter.checkpoint(…), or say --allow-unrecorded-subject, which the statement will show"
        raise MismatchError(msg, where=str(run_dir), hint=hint)


def _derive_reason(status: str, subjects: tuple[Subject, ...]) -> str:
    if status == "finished":
        return "run-end"
    return "checkpoint" if subjects else "heartbeat"
