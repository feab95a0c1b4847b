"""Journal: what is written, and what becomes of it when it cannot be."""

import os
import shutil
from pathlib import Path

import pytest

from flopmeter.account import Account
from flopmeter.errors import LedgerLockedError
from flopmeter.journal import Circumstances, Journal
from flopmeter.ledger.file import LedgerFile
from flopmeter.ledger.merge import read_run
from flopmeter.testing.ledgers import product_table
from flopmeter.usage import DeviceUsage, Usage

HEADER = {"book": "made-up", "convention": "fm-1"}
NOTHING: Circumstances = {"usage": Usage(), "own_ns": 0, "ceiling": 1000}


def run(journal: Journal, times: int = 1) -> None:
    for _ in range(times):
        journal.recording.add(table=product_table(), times=1, purpose="undeclared", basis="counted", ns=10)
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


class InterruptedWrites:
    """`os`, whose n-th write, or what follows it, is met by Ctrl-C after the bytes have reached the file."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        written = os.write(descriptor, data)
        self.count += 1
        if self.count == self.number:
            raise KeyboardInterrupt
        return written


@pytest.mark.parametrize("number", range(2, 9))
def test_ctrl_c_while_a_line_is_written_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """If this failed, one Ctrl-C at a bad moment would make a whole run's ledger worthless."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    interrupted = 0
    monkeypatch.setattr("flopmeter.ledger.file.os", InterruptedWrites(number))
    journal.open()
    for _ in range(4):
        run(journal)
        journal.note("self-test", {"passed": True})
        try:
            journal.flush(**NOTHING)
        except KeyboardInterrupt:
            interrupted += 1
    journal.close(reason="end", **NOTHING)
    account = Account.of(tmp_path)
    assert interrupted == 1
    assert (account.steps, account.flop, account.gaps) == (4, 240, ())
    assert len(account.self_tests) == 4
    assert Journal(tmp_path, rank=0, header=HEADER).open() is None


def test_an_interrupt_between_a_line_and_its_note_writes_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, work would be booked twice and the totals would no longer follow."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)

    def interrupt(_steps: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal.recording, "steps_written", interrupt)
    with pytest.raises(KeyboardInterrupt):
        journal.flush(**NOTHING)
    monkeypatch.undo()
    journal._in_flight = (*journal._in_flight[:2], lambda: journal.recording.steps_written(journal.recording.waiting()))
    run(journal)
    journal.close(reason="end", **NOTHING)
    assert Account.of(tmp_path).flop == 120


def test_a_line_that_cannot_be_encoded_is_a_gap_and_not_the_end(tmp_path: Path) -> None:
    """If this failed, one strange file name would stop a training."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    journal.note("checkpoint", {"files": [{"name": "\udcff", "sha256": "0" * 64}]})
    run(journal)
    journal.flush(**NOTHING)
    journal.close(reason="end", **NOTHING)
    account = Account.of(tmp_path)
    assert account.flop == 60
    assert [(gap.reason, gap.upper_flop) for gap in account.gaps] == [("record", 0)]


def test_what_devices_spent_and_no_line_can_hold_is_a_gap_and_what_ran_is_written(tmp_path: Path) -> None:
    """If this failed, one absurd value of a driver would keep a whole run out of its ledger."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    absurd = Usage.of([DeviceUsage(uuid="GPU-1", name="x", held_ns=1, energy_mj=-5)])
    journal.flush(usage=absurd, own_ns=0, ceiling=1000)
    run(journal)
    journal.close(reason="end", **NOTHING)
    account = Account.of(tmp_path)
    assert (account.steps, account.usage.devices) == (2, ())
    assert any("devices spent" in gap.detail for gap in account.gaps)
    assert account.usage.notes


def test_a_deleted_file_is_noticed_and_another_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, a cleaned-up scratch directory would swallow the rest of a run without a word."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    journal.flush(**NOTHING)
    shutil.rmtree(tmp_path / "ledger")
    run(journal)
    journal.flush(**NOTHING)
    assert "deleted" in caplog.text
    run(journal)
    journal.close(reason="end", **NOTHING)
    assert Account.of(tmp_path).flop == 60


def test_a_signal_handler_in_the_middle_of_a_flush_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a handler that records a checkpoint would tear the record that is being written."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    sync = LedgerFile.sync

    def handler_comes_in(ledger: LedgerFile) -> None:
        journal.note("checkpoint", {"files": []})
        journal.flush(**NOTHING)
        sync(ledger)

    monkeypatch.setattr(LedgerFile, "sync", handler_comes_in)
    journal.flush(**NOTHING)
    monkeypatch.undo()
    journal.close(reason="end", **NOTHING)
    assert Account.of(tmp_path).flop == 60


def test_a_figure_that_proved_wrong_is_written_down(tmp_path: Path) -> None:
    """If this failed, what was booked at it would stay as sure as before."""
    journal = Journal(tmp_path, rank=0, header=HEADER)
    journal.open()
    run(journal)
    journal.note_miss(booked=product_table().name, family=None)
    journal.note_miss(booked=None, family="3")
    journal.close(reason="end", usage=Usage(), own_ns=0, ceiling=None)
    bodies = [entry.body for entry in read_run(tmp_path).segments[0].entries if entry.kind == "miss"]
    assert bodies == [{"booked": product_table().name, "family": None}, {"booked": None, "family": "3"}]


def test_all_ranks_and_lives_of_a_run_draw_alike(tmp_path: Path) -> None:
    """If this failed, every step of a large job would wait for some rank's audit."""
    seeds = set()
    for rank in (0, 1, 1):
        journal = Journal(tmp_path, rank=rank, header=HEADER)
        journal.open()
        seeds.add(journal.seed)
        journal.close(reason="end", usage=Usage(), own_ns=0, ceiling=None)
    assert len(seeds) == 1
