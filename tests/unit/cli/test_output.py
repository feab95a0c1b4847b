"""Exit codes and printed lines."""

import json

import pytest

from flopmeter.cli.output import build_parser, find_exit_code, print_failure, print_json, print_text
from flopmeter.errors import (
    CannotVerifyError,
    FlopmeterError,
    LedgerBrokenError,
    LedgerLockedError,
    LedgerMissingError,
    LedgerUnreadableError,
    MalformedError,
    MismatchError,
    MissingExtraError,
    SigningError,
    UnknownRegimeError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (MismatchError, 1),
        (LedgerBrokenError, 1),
        (LedgerMissingError, 2),
        (LedgerLockedError, 2),
        (SigningError, 2),
        (UnknownRegimeError, 2),
        (MissingExtraError, 2),
        (FlopmeterError, 2),
        (CannotVerifyError, 3),
        (MalformedError, 3),
        (LedgerUnreadableError, 3),
    ],
)
def test_a_no_a_mistake_and_a_cannot_tell_have_codes_of_their_own(kind, code):
    """Else a script takes a file that could not be read for one that was refused."""
    assert find_exit_code(kind("x")) == code


def test_foreign_errors_are_mistakes_or_faults_and_never_zero():
    assert find_exit_code(PermissionError(13, "denied")) == 2
    assert find_exit_code(ValueError("x")) == 3


def test_what_a_file_says_cannot_move_the_cursor(capsys):
    """Else an attestation could paint a yes over a no."""
    print_text("a\x1b[2Jb\rc\nd é")
    print_failure(FlopmeterError("x\ny\x07"))
    said = capsys.readouterr()
    assert said.out == "a\\x1b[2Jb\\rc\\nd é\n"
    assert said.err == "flopmeter: x\\ny\\x07\n"


def test_json_is_one_object(capsys):
    print_json({"flop": "1", "parts": ["é"]})
    assert json.loads(capsys.readouterr().out) == {"flop": "1", "parts": ["é"]}


def test_a_word_cut_short_is_not_an_option():
    """Else a later option changes what an old script means."""
    with pytest.raises(SystemExit):
        build_parser("x", "y").parse_args(["--js"])
