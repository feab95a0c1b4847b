"""The command table and the dispatch: a command is imported when it is called, and not before.

Not here: what a command does, and how it prints (`output.py`).
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from flopmeter.cli.output import WRONG_USAGE, accept_any_text, build_parser, print_failure
from flopmeter.errors import FlopmeterError

COMMANDS = {
    "report": ("flopmeter.cli.report", "what was used, the estimates side by side, findings, gaps"),
    "recount": ("flopmeter.cli.recount", "every figure again from the operator tables"),
    "keygen": ("flopmeter.cli.keygen", "make a key pair: PATH (private) and PATH.pub"),
    "attest": ("flopmeter.cli.attest", "sign an attestation of what the ledgers hold"),
    "verify": ("flopmeter.cli.verify", "check an attestation: form, signature, arithmetic, ledger, subjects"),
    "doctor": ("flopmeter.cli.doctor", "what can be measured here, with a self-test"),
}
"""Name → module with `run(argv) -> int`, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 yes or done, 1 no, 2 wrong usage, 3 cannot tell."""
    words = list(sys.argv[1:] if argv is None else argv)
    accept_any_text()
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `flopmeter report … | head` is no failure worth a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (FlopmeterError, OSError) as error:
        return print_failure(error)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return print_failure(error)


def _dispatch(words: Sequence[str]) -> int:
    if words[:1] == ["--version"]:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"flopmeter {version('flopmeter')}")
        except PackageNotFoundError:
            print("flopmeter (not installed; version unknown)")
        return 0
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    parser = build_parser(
        "",
        "Meter the training compute of PyTorch runs, and sign and verify attestations of it.",
        epilog=f"commands:\n{table}\n\n`flopmeter COMMAND --help` says more.",
        takes_json=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    if not words:
        parser.print_help(sys.stderr)
        return WRONG_USAGE
    name: str = parser.parse_args(words[:1]).command
    code: int = import_module(COMMANDS[name][0]).run(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
