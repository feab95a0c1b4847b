"""`--peaks FILE`: rows of a user's own over the table of peaks, for the commands that ask what a device can do.

Not here: what such a file may say (`devices/table.py`).
"""

import argparse
from pathlib import Path

from flopmeter.cli.output import WRONG_USAGE, print_failure
from flopmeter.devices.table import PeakTable
from flopmeter.errors import MalformedError
from flopmeter.ledger.chain import refuse_special


def add_peaks_option(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--peaks`."""
    parser.add_argument(
        "--peaks",
        metavar="FILE",
        help="TOML file with peaks of devices that the table lacks; name and digest stand beside what is made of it",
    )


def read_table(path: str | None) -> PeakTable | None:
    """Return the table with the rows of a file, or None where none was named.

    Raises:
        SystemExit: the file cannot be used; one sentence has said why, and the code is that of wrong usage.
    """
    if path is None:
        return None
    refuse_special(Path(path))
    try:
        return PeakTable.standard().with_file(path)
    except MalformedError as error:
        print_failure(error)
        raise SystemExit(WRONG_USAGE) from None
