"""The table, the dispatch, and what a user sees when something is wrong."""

import subprocess
import sys

import pytest

from flopmeter.cli import main as door
from flopmeter.cli.main import COMMANDS, main
from flopmeter.errors import LedgerBrokenError


def test_the_table_holds_strings_alone():
    """Else one command loads all of them."""
    assert all(isinstance(word, str) for row in COMMANDS.values() for word in row)


def test_without_a_command_the_table_is_shown(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(name in said.err for name in COMMANDS)


def test_help_shows_every_command(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert all(summary in said for _, summary in COMMANDS.values())


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        main(["attset"])
    assert left.value.code == 2
    assert "attset" in capsys.readouterr().err


def test_the_version_is_one_line(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flopmeter ")


@pytest.fixture
def broken(monkeypatch):
    """Make the command `verify` raise what it is told to."""

    def make(error):
        class Command:
            @staticmethod
            def run(argv):
                raise error

        monkeypatch.setattr(door, "import_module", lambda name: Command)

    return make


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LedgerBrokenError("changed", where="0-0.jsonl:3", hint="ask"), 1, "flopmeter: 0-0.jsonl:3: changed (ask)\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "flopmeter: x: No such file or directory\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_sentence_and_a_code(broken, capsys, error, code, said):
    """Else a user reads a traceback where a sentence would do."""
    broken(error)
    assert main(["verify"]) == code
    assert capsys.readouterr().err == said


def test_a_fault_of_ours_is_a_sentence_too_and_never_a_yes(broken, capsys):
    broken(ZeroDivisionError("oh"))
    assert main(["verify"]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a fault in flopmeter itself, ZeroDivisionError: oh" in said


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "flopmeter", "--version"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0
