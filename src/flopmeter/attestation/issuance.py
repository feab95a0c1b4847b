"""From a run directory to a signed attestation in a file: read, state, sign, write in one go.

Used by `flopmeter attest` and, from a worker thread, by a meter that warns of a threshold; loads no torch.
Not here: whether an attestation holds (`verifier.py`).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from flopmeter.account import Account
from flopmeter.attestation.arithmetic import check_arithmetic
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.signers.signer import Signer
from flopmeter.attestation.statement import Statement, Subject, Threshold
from flopmeter.errors import MismatchError, SigningError
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
) -> Attestation:
    """Sign what the ledger of a run holds now, write it to `out`, and return it.

    `live` means that the ledger is still being written: the statement is then as of its last record. Status and
    reason are derived from the ledger where they are not given. Sequence number and predecessor are those that the
    ledger records. `out` appears whole or not at all.

    Raises:
        LedgerError: the ledger is missing, broken or unreadable; nothing is signed.
        MismatchError: a subject that the ledger never saw, and `allow_unrecorded` was not said; or a reason that
            the figures do not bear out.
        SigningError: the signer failed, or the file cannot be written.
    """
    ledger = read_run(run_dir)
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
    )
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
    closed = {segment.rank: segment.is_closed for segment in ledger.segments}
    return "finished" if all(closed.values()) else "interrupted"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and durable once this returns.

    Raises:
        SigningError: it cannot be written.
    """
    unnamed = path.parent / f".{path.name}.{os.getpid()}.new"
    try:
        try:
            with unnamed.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            unnamed.replace(path)
        except OSError:
            unnamed.unlink(missing_ok=True)
            raise
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
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
