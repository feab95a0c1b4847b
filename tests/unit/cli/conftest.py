"""Commands as a user calls them."""

import json
from types import SimpleNamespace

import pytest

from flopmeter.cli.main import main
from flopmeter.testing.ledgers import recorded_ledger


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; return its exit code, what it printed and what it said on standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        value = json.loads(said.out) if "--json" in words and said.out else None
        return SimpleNamespace(code=code, out=said.out, err=said.err, json=value)

    return run


@pytest.fixture
def lab(call, tmp_path):
    """A folder with a run, weights that it made, and a key pair."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.bin").write_bytes(b"weights")
    recorded_ledger(tmp_path / "run", weights=[tmp_path / "checkpoint" / "model.bin"])
    assert call("keygen", "key").code == 0
    return tmp_path
