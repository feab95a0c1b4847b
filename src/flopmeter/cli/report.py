"""`flopmeter report RUN`: what was used, the estimates side by side, findings, gaps.

Not here: figures (`account.py`), words (`report/`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flopmeter.account import Account
from flopmeter.cli.output import DONE, build_parser, print_json
from flopmeter.ledger.file import is_being_written
from flopmeter.regimes.regime import Finding, catalogue, find


def run(argv: Sequence[str]) -> int:
    """Add up the ledgers and print."""
    parser = build_parser("report", "What a run used, the three estimates side by side, findings and gaps.")
    parser.add_argument("run", metavar="RUN", help="the directory that was given to Meter")
    parser.add_argument(
        "--regime",
        metavar="ID",
        action="append",
        default=[],
        help="id of the catalogue, or path of a .toml file; by default every regime in force or in use",
    )
    args = parser.parse_args(argv)
    account = Account.of(args.run, live=is_being_written(args.run))
    findings = assess(account, args.regime)
    name = Path(args.run).resolve().name
    if args.json:
        from flopmeter.report.summary import summarize

        print_json(summarize(account, name=name, findings=[finding.to_wire() for finding in findings]))
        return DONE
    from rich.console import Console

    from flopmeter.report.terminal import print_account

    print_account(account, Console(), name=name, findings=findings)
    return DONE


def assess(account: Account, names: Sequence[str]) -> list[Finding]:
    """Return the findings of the named regimes, or of all that are in force or in use."""
    today = datetime.now(UTC).date()
    regimes = [find(name) for name in names] or [regime for regime in catalogue() if regime.is_live(today)]
    return [regime.assess(account, on=today) for regime in regimes]
