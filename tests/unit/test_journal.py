"""Journal: what is written, and what becomes of it when it cannot be."""

from pathlib import Path

import pytest

from flopmeter.account import Account
from flopmeter.errors import LedgerLockedError
from flopmeter.journal import Circumstances, Journal
from flopmeter.ledger.file import LedgerFile
from flopmeter.testing.ledgers import product_table
from flopmeter.usage import Usage

HEADER = {"book": "made-up", "convention": "fm-1"}
NOTHING: Circumstances = {"usage": Usage(), "own_ns": 0, "ceiling": 1000}


def run(journal: Journal, times: int = 1) -> None:
    for _ in range(times):
        journal.recording.add(product_table(), purpose="undeclared", basis="counted", ns=10)
        journal.recording.add_tokens(tokens=4, samples=1)
        journal.recording.finish_step()


def test_everything_is_written_and_closed(tmp_path: Path) -> None:
    """If this failed, a run that went well would leave a ledger that does not say so."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal, 3)
    journal.note_device("GPU-1", {"name": "made-up"})
    journal.note_device("GPU-1", {"name": "made-up"})
    journal.note_gap("failure", "a fault", ns=5, ceiling=1000)
    journal.close(reason="end", **NOTHING)
    account = Account.of(tmp_path)
    assert (account.steps, account.tokens, account.flop) == (3, 12, 180)
    assert [gap.detail for gap in account.gaps] == ["a fault"]
    kinds = [entry.kind for segment in LedgerFile(tmp_path, header=HEADER).former.segments for entry in segment.entries]
    assert kinds.count("device") == 1
    assert kinds[-1] == "close"


def test_what_a_locked_ledger_refuses_is_kept_and_written_later(tmp_path: Path) -> None:
    """If this failed, work done while the ledger could not be opened would be lost."""
    other = LedgerFile(tmp_path, header=HEADER)
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    journal.flush(**NOTHING)
    other.append("close", {"reason": "end"})
    other.close()
    run(journal)
    journal.close(reason="end", **NOTHING)
    assert Account.of(tmp_path).flop == 120


def test_strict_mode_says_so_at_once(tmp_path: Path) -> None:
    """If this failed, whoever asked for strictness would train without a record."""
    other = LedgerFile(tmp_path, header=HEADER)
    with pytest.raises(LedgerLockedError):
        Journal(tmp_path, rank=0, header=HEADER, strict=True).open()
    other.close()


def test_what_can_never_be_written_is_said_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, a run without any record would end without a word."""
    other = LedgerFile(tmp_path, header=HEADER)
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    journal.close(reason="end", **NOTHING)
    other.close()
    assert "is lost" in caplog.text
    assert caplog.text.count("nothing is recorded until") == 1


def test_a_forked_child_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a DataLoader worker could close or double its parent's run."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    with monkeypatch.context() as child:
        child.setattr("os.getpid", lambda: -1)
        journal.flush(**NOTHING)
        journal.close(reason="end", **NOTHING)
    assert Account.of(tmp_path, live=True).flop == 0
    journal.close(reason="end", **NOTHING)
    assert Account.of(tmp_path).flop == 60
