"""How commands speak: text for people or one JSON object, errors in one sentence, exit codes.

Not here: what is said.
"""

import argparse
import io
import json
import sys
from collections.abc import Mapping

from flopmeter.errors import (
    CannotVerifyError,
    FlopmeterError,
    LedgerBrokenError,
    LedgerTornError,
    LedgerUnreadableError,
    MeterError,
    VerificationError,
)

DONE, NO, WRONG_USAGE, CANNOT_TELL = 0, 1, 2, 3


def build_parser(command: str, summary: str, *, epilog: str = "", takes_json: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a command, `--json` included."""
    parser = argparse.ArgumentParser(
        prog=f"flopmeter {command}".strip(),
        description=summary,
        epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if takes_json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def accept_any_text() -> None:
    """Let a terminal or a file that lacks a character have its escape, so that no good answer fails in printing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_text(line: str) -> None:
    """Print one line for people; what a file says cannot move their cursor."""
    print(_harmless(line))


def print_failure(error: BaseException) -> int:
    """Say in one sentence what went wrong, on standard error, and return the exit code for it."""
    if isinstance(error, FlopmeterError):
        sentence = str(error)
    elif isinstance(error, OSError):
        sentence = ": ".join(str(part) for part in (error.filename, error.strerror) if part) or type(error).__name__
    else:
        sentence = (
            f"a fault in flopmeter itself, {type(error).__name__}: {error} (python -X dev -m flopmeter shows where)"
        )
    print(f"flopmeter: {_harmless(sentence)}", file=sys.stderr)
    return find_exit_code(error)


def find_exit_code(error: BaseException) -> int:
    """Return 1 for a no, 3 where the question could not be answered, else 2."""
    if isinstance(error, (VerificationError, LedgerBrokenError, MeterError)):
        return NO
    if isinstance(error, (CannotVerifyError, LedgerUnreadableError, LedgerTornError)):
        return CANNOT_TELL
    return WRONG_USAGE if isinstance(error, (FlopmeterError, OSError)) else CANNOT_TELL


def _harmless(text: str) -> str:
    """Show characters that would not print, line breaks included, as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
