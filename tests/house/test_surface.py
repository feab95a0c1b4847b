"""What users and scripts rely on: commands and their options. A new one is a decision, a lost one breaks somebody."""

import argparse
import re
from importlib import import_module, util
from pathlib import Path

import pytest

from flopmeter.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md")]

# Arguments by name in capitals (… where several are taken), then options, in alphabetical order.
SURFACE = {
    "attest": "RUN --allow-unrecorded-subject --issuer --json --key --out --peaks --subject",
    "doctor": "--json",
    "keygen": "PATH --json",
    "recount": "RUN --book --json",
    "report": "RUN --as --config --json --peaks --regime",
    "verify": "FILE… --json --key --ledger --peaks --subject",
}


class ParserIsBuiltError(Exception):
    """Stops a command once it knows what it takes."""


def surface_of(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command takes, as its parser says when it is called."""
    built: list[argparse.ArgumentParser] = []

    def stop(parser, *_args, **_kwargs):
        built.append(parser)
        raise ParserIsBuiltError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    with pytest.raises(ParserIsBuiltError):
        import_module(COMMANDS[name][0]).run([])
    taken = []
    for action in built[0]._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        if action.option_strings:
            taken.append("|".join(action.option_strings))
        else:
            many = "…" if action.nargs in {"+", "*", argparse.REMAINDER} else ""
            taken.append(str(action.metavar or action.dest).upper() + many)
    return " ".join(sorted(taken, key=lambda text: (text.startswith("-"), text)))


def test_the_commands_are_those_we_promised():
    assert sorted(COMMANDS) == sorted(SURFACE)


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_a_command_takes_what_it_took_before(name, monkeypatch):
    """Else somebody's script breaks, or a new option slips in that nobody decided on."""
    assert surface_of(name, monkeypatch) == SURFACE[name]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_prints_json_when_asked(name):
    assert "--json" in SURFACE[name].split()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_a_file_and_a_summary(name):
    module, summary = COMMANDS[name]
    assert util.find_spec(module) is not None
    assert summary


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_is_documented(name):
    """Else nobody learns of it but from `--help`."""
    mentioned = re.compile(rf"flopmeter {re.escape(name)}\b")
    assert any(mentioned.search(page.read_text(encoding="utf-8")) for page in PAGES)
