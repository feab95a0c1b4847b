"""`flopmeter verify FILE… --key PUB…`: does it hold? Loads no torch; opens no network connection.

Not here: the checks (`attestation/verifier.py`). This file reads what they need.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flopmeter import wire
from flopmeter.attestation.keys import PublicKey
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.statement import Statement
from flopmeter.attestation.subjects import hash_subjects
from flopmeter.attestation.verifier import Check, Verified, verify
from flopmeter.cli.output import CANNOT_TELL, DONE, NO, build_parser, print_json, print_text
from flopmeter.cli.peaks import add_peaks_option, read_table
from flopmeter.errors import LedgerError, LedgerMissingError
from flopmeter.ledger.chain import refuse_special
from flopmeter.ledger.evidence import GpuReport, read_reports
from flopmeter.ledger.merge import RunLedger, read_run
from flopmeter.regimes.regime import catalogue
from flopmeter.units import print_flop

_CODES = {"yes": DONE, "no": NO, "cannot-tell": CANNOT_TELL}
_SIGNS = {"yes": "✓", "no": "✗", "cannot-tell": "?"}


def run(argv: Sequence[str]) -> int:
    """Check, print every check, and answer with the exit code: 0 yes, 1 no, 3 cannot tell."""
    parser = build_parser(
        "verify",
        "Check an attestation: form, signature, arithmetic, and what you bring.\nExit: 0 yes, 1 no, 3 cannot tell.",
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="attestation; several are one statement by several signers"
    )
    parser.add_argument(
        "--key",
        metavar="PUB",
        action="append",
        required=True,
        help="public key that you trust; with several, each may sign",
    )
    parser.add_argument("--ledger", metavar="RUN", help="run directory, to compute every figure again")
    parser.add_argument(
        "--subject", metavar="PATH", action="append", help="weight file, or directory of them, that it should be about"
    )
    add_peaks_option(parser)
    args = parser.parse_args(argv)
    verified = check(args)
    if args.json:
        print_json(verified.to_wire())
    else:
        _print(verified)
    return _CODES[verified.verdict]


def check(args: argparse.Namespace) -> Verified:
    """Read keys, files, ledger and subjects, and verify."""
    keys = tuple(PublicKey.from_pem(_read(path), where=path) for path in args.key)
    verified = verify(
        [_read(path) for path in args.files],
        Policy(keys),
        ledger=None if args.ledger is None else _read_ledger(args.ledger),
        subjects=None if args.subject is None else hash_subjects(args.subject),
        reports=None if args.ledger is None else _read_reports(args.ledger),
        table=read_table(args.peaks),
    )
    limits = None if verified.statement is None else check_limits(verified.statement)
    return verified if limits is None else replace(verified, checks=(*verified.checks, limits))


def check_limits(statement: Statement) -> Check | None:
    """Return a no where a threshold bears the id of a regime of the catalogue and another number; else None."""
    known = {regime.id: regime.threshold for regime in catalogue()}
    wrong = []
    for item in wire.parse_list(statement.predicate["thresholds"]):
        threshold = wire.parse_object(item)
        name, number = wire.parse_text(threshold["id"]), wire.parse_count(threshold["flop"])
        if known.get(name, number) != number:
            wrong.append(f"{name} is stated as {print_flop(number)}, the catalogue has {print_flop(known[name])}")
    return Check(name="catalogue", verdict="no", detail="; ".join(wrong), is_required=True) if wrong else None


def _read(path: str) -> bytes:
    refuse_special(Path(path))
    return Path(path).read_bytes()


def _read_ledger(path: str) -> "RunLedger | LedgerError":
    """A ledger that does not hold together is an answer; one that is not there is a mistake of whoever asks."""
    try:
        return read_run(path)
    except LedgerMissingError:
        raise
    except LedgerError as error:
        return error


def _read_reports(path: str) -> "tuple[GpuReport, ...] | LedgerError":
    try:
        return read_reports(path)
    except LedgerError as error:
        return error


def _notes(statement: Statement) -> list[str]:
    """Return what a statement says of its devices as a whole, where it has any: such as that they are a script."""
    usage = statement.part("usage")
    return [wire.parse_text(note) for note in wire.parse_list(usage["notes"])] if usage["devices"] else []


def _print(verified: Verified) -> None:
    for item in verified.checks:
        sign = _SIGNS[item.verdict] if item.is_required or item.verdict != "cannot-tell" else "–"
        print_text(f"{sign} {item.name:<18} {item.detail}")
    for note in () if verified.statement is None else _notes(verified.statement):
        print_text(f"– {'devices':<18} {note}")
    flop = None if verified.statement is None else verified.statement.flop
    words = {
        "yes": f"yes: {print_flop(flop)}, {verified.assurance}",
        "no": "no: do not rely on this attestation",
        "cannot-tell": "cannot tell: the question could not be answered",
    }
    print_text(f"verdict: {words[verified.verdict]}")
