"""`flopmeter verify FILE… --key PUB…`: does it hold? Loads no torch; opens no network connection.

Not here: the checks (`attestation/verifier.py`). This file reads what they need.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from flopmeter.attestation.keys import PublicKey
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.subjects import hash_subjects
from flopmeter.attestation.verifier import Verified, verify
from flopmeter.cli.output import CANNOT_TELL, DONE, NO, build_parser, print_json, print_text
from flopmeter.errors import LedgerError, LedgerMissingError
from flopmeter.ledger.merge import RunLedger, read_run
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
    args = parser.parse_args(argv)
    verified = check(args)
    if args.json:
        print_json(verified.to_wire())
    else:
        _print(verified)
    return _CODES[verified.verdict]


def check(args: argparse.Namespace) -> Verified:
    """Read keys, files, ledger and subjects, and verify."""
    keys = tuple(PublicKey.from_pem(Path(path).read_bytes(), where=path) for path in args.key)
    return verify(
        [Path(path).read_bytes() for path in args.files],
        Policy(keys),
        ledger=None if args.ledger is None else _read_ledger(args.ledger),
        subjects=None if args.subject is None else hash_subjects(args.subject),
    )


def _read_ledger(path: str) -> "RunLedger | LedgerError":
    """A ledger that does not hold together is an answer; one that is not there is a mistake of whoever asks."""
    try:
        return read_run(path)
    except LedgerMissingError:
        raise
    except LedgerError as error:
        return error


def _print(verified: Verified) -> None:
    for item in verified.checks:
        sign = _SIGNS[item.verdict] if item.is_required or item.verdict != "cannot-tell" else "–"
        print_text(f"{sign} {item.name:<18} {item.detail}")
    flop = None if verified.statement is None else verified.statement.flop
    words = {
        "yes": f"yes: {print_flop(flop)}, {verified.assurance}",
        "no": "no: do not rely on this attestation",
        "cannot-tell": "cannot tell: the question could not be answered",
    }
    print_text(f"verdict: {words[verified.verdict]}")
