"""`flopmeter report RUN`: what was used, the estimates side by side, findings, gaps; or the run as another tool has it.

Not here: figures (`account.py`, `conventions`), words (`report/`).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from flopmeter.account import Account
from flopmeter.cli.output import CANNOT_TELL, DONE, WRONG_USAGE, build_parser, print_failure, print_json
from flopmeter.cli.peaks import add_peaks_option, read_table
from flopmeter.conventions.presets import PRESETS
from flopmeter.conventions.translation import Given
from flopmeter.devices.table import PeakTable
from flopmeter.errors import MalformedError
from flopmeter.ledger.file import is_being_written
from flopmeter.ledger.merge import RunLedger, read_run
from flopmeter.model import pick_sizes
from flopmeter.regimes.regime import Finding, catalogue, find

LENGTH = "seq_length"
MAX_LENGTH = 10**12
WANTED = "--config wants the config.json of the model"


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
    parser.add_argument(
        "--as",
        dest="convention",
        metavar="NAME",
        choices=PRESETS,
        help=f"the figure that another tool would print instead, and the bridge from ours: {', '.join(PRESETS)};"
        " exit 3 where it cannot be told",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"for --as: the model's config.json, where the run does not know its sizes; {LENGTH} may stand in it",
    )
    add_peaks_option(parser)
    args = parser.parse_args(argv)
    if args.config is not None and args.convention is None:
        parser.error("--config is for --as")
    table = read_table(args.peaks)
    live = is_being_written(args.run)
    ledger = read_run(args.run)
    account = Account.of(ledger, live=live)
    name = Path(args.run).resolve().name
    if args.convention is not None:
        given = {"convention": args.convention, "config": args.config, "name": name, "as_json": args.json}
        return translate(account, ledger, table=table, **given)
    findings = assess(account, args.regime)
    if args.json:
        from flopmeter.report.summary import summarize

        print_json(summarize(account, name=name, findings=[finding.to_wire() for finding in findings], table=table))
        return DONE
    from rich.console import Console

    from flopmeter.report.terminal import print_account

    print_account(account, Console(), name=name, findings=findings, table=table)
    return DONE


def assess(account: Account, names: Sequence[str]) -> list[Finding]:
    """Return the findings of the named regimes, or of all that are in force or in use."""
    today = datetime.now(UTC).date()
    regimes = [find(name) for name in names] or [regime for regime in catalogue() if regime.is_live(today)]
    return [regime.assess(account, on=today) for regime in regimes]


def translate(
    account: Account,
    ledger: RunLedger,
    *,
    convention: str,
    config: str | None,
    name: str,
    as_json: bool,
    table: PeakTable | None = None,
) -> int:
    """Print the run as another tool would, and return the exit code."""
    try:
        told = None if config is None else read_config(Path(config))
        sequence = None if told is None else read_length(told, where=config or "")
    except MalformedError as error:
        print_failure(error)
        return WRONG_USAGE
    sizes = None if told is None else pick_sizes(told)
    translation = PRESETS[convention](Given.of(account, ledger, config=sizes, sequence=sequence, table=table))
    if as_json:
        print_json({"run": name, **translation.to_wire()})
    else:
        from rich.console import Console

        from flopmeter.report.translation import print_translation

        print_translation(translation, Console(), name=name)
    return CANNOT_TELL if translation.flop is None else DONE


def read_length(told: Mapping[str, object], *, where: str) -> int | None:
    """Return the length of a sequence that a configuration names; None where it names none.

    Units: tokens.

    Raises:
        MalformedError: what it names is no length.
    """
    length = told.get(LENGTH)
    if length is not None and (type(length) is not int or not 0 < length < MAX_LENGTH):
        msg = f'"{LENGTH}" is {json.dumps(length)[:40]}, and no whole number of tokens'
        raise MalformedError(msg, where=where, hint="write it without quotes, or leave it out")
    return length


def read_config(path: Path) -> Mapping[str, object]:
    """Return the fields of a model's configuration file.

    Raises:
        MalformedError: it holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}", where=str(path), hint=WANTED) from error
    if not isinstance(value, dict):
        raise MalformedError(f"{type(value).__name__}, not an object", where=str(path), hint=WANTED)
    return value
