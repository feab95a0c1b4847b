"""The table, the dispatch, and what a user sees when something is wrong."""

import io
import json
import os
import subprocess
import sys

import pytest

from flopmeter.attestation.issuance import issue
from flopmeter.attestation.signers.file import FileSigner, write_key_pair
from flopmeter.cli import main as door
from flopmeter.cli.main import COMMANDS, main
from flopmeter.cli.output import print_json
from flopmeter.errors import LedgerBrokenError
from flopmeter.testing.ledgers import recorded_ledger


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


@pytest.mark.parametrize("words", [["verify", "a.json", "--key", "key.pub"], ["report", "run"], ["doctor", "--json"]])
def test_a_terminal_that_lacks_a_character_still_gets_the_answer(tmp_path, words):
    """Else a true attestation is a failure wherever the language of the machine is C."""
    run = recorded_ledger(tmp_path / "run")
    write_key_pair(tmp_path / "key")
    issue(run, FileSigner.from_file(tmp_path / "key"), out=tmp_path / "a.json", live=False)
    done = subprocess.run(
        [sys.executable, "-m", "flopmeter", *words],
        capture_output=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert done.returncode in (0, 3) if words[0] == "doctor" else done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"flopmeter:" not in done.stderr


def test_json_is_json_whatever_the_terminal_lacks(monkeypatch):
    """Else a name with an accent is written as an escape that no reader of JSON knows."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"name": "Zoë"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue()) == {"name": "Zoë"}
