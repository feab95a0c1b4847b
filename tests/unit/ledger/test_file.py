"""One writer, one file; kill it anywhere."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flopmeter.errors import LedgerBrokenError, LedgerError, LedgerLockedError
from flopmeter.ledger.chain import read_segment
from flopmeter.ledger.file import LedgerFile, is_being_written
from flopmeter.ledger.merge import read_run


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def opened(run, **more):
    return LedgerFile(run, header={"book": "x"}, **more)


def test_lines_are_sealed_one_to_the_other(run):
    ledger = opened(run)
    ledger.append("close", {})
    assert (ledger.entries, ledger.is_open) == (2, True)
    ledger.close()
    segment = read_segment(ledger.path)
    assert [entry.kind for entry in segment.entries] == ["header", "close"]
    assert segment.head == ledger.head


def test_the_next_life_is_a_new_file_that_names_the_one_before(run):
    """Else a restart could hide what ran before it."""
    first = opened(run)
    first.close()
    second = opened(run)
    second.close()
    assert (second.run, second.path.name) == (first.run, "0-1.jsonl")
    body = read_segment(second.path).header.body
    assert body["continues"] == {"file": "0-0.jsonl", "entries": "1", "head": first.head, "closed": False, "torn": None}


def test_a_second_writer_is_kept_out(run):
    """Else two processes would write one chain, and break it."""
    first = opened(run)
    with pytest.raises(LedgerLockedError):
        opened(run)
    first.close()
    opened(run).close()


def test_another_rank_may_write_beside(run):
    first, second = opened(run), opened(run, rank=1)
    first.close()
    second.close()
    assert [head.file for head in read_run(run).heads] == ["0-0.jsonl", "1-0.jsonl"]


def test_it_can_be_asked_whether_a_ledger_is_being_written(run):
    assert not is_being_written(run)
    ledger = opened(run)
    assert is_being_written(run)
    ledger.close()
    assert not is_being_written(run)


def test_asking_keeps_no_writer_out(run):
    """Else a look at a directory could stop a training run from starting."""
    opened(run).close()
    asker = os.open(run / "ledger" / "0.lock", os.O_RDONLY)
    fcntl.flock(asker, fcntl.LOCK_SH)
    done = threading.Timer(0.05, os.close, [asker])
    done.start()
    opened(run).close()
    done.join()


def test_a_forked_child_does_not_hold_the_lock(run):
    """Else a DataLoader worker that outlives the trainer locks the run for good."""
    ledger = opened(run)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        ledger.close()
        opened(run).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_closed_file_takes_no_line_and_closes_twice(run):
    ledger = opened(run)
    ledger.close()
    ledger.close()
    ledger.sync()
    with pytest.raises(LedgerError, match="closed"):
        ledger.append("close", {})


def test_nothing_is_appended_to_a_broken_ledger(run):
    """Else a tampered past would get an honest future."""
    ledger = opened(run)
    ledger.append("close", {})
    ledger.close()
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b'"book":"x"', b'"book":"y"'))
    with pytest.raises(LedgerBrokenError):
        opened(run)
    assert [path.name for path in (run / "ledger").glob("*.jsonl")] == ["0-0.jsonl"]


def test_a_line_that_the_disk_refused_is_taken_back(run, monkeypatch):
    """Else a full disk leaves half a line in the middle of the chain."""
    ledger = opened(run)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(LedgerError, match="could not be written"):
        ledger.append("close", {})
    monkeypatch.undo()
    ledger.append("close", {"reason": "end"})
    ledger.close()
    assert [entry.kind for entry in read_segment(ledger.path).entries] == ["header", "close"]


def test_a_file_that_could_not_be_made_durable_is_given_up(run, monkeypatch):
    """Else the kernel's lie that the pages are clean becomes ours."""
    ledger = opened(run)

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(LedgerError, match="durable"):
        ledger.sync()
    assert not ledger.is_open
    with pytest.raises(LedgerError, match="closed"):
        ledger.append("close", {})
    ledger.close()


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "run").write_bytes(b"a file")
    with pytest.raises(LedgerError):
        opened(tmp_path / "run")


WRITER = """
import sys
from flopmeter.ledger.file import LedgerFile
ledger = LedgerFile(sys.argv[1], header={"book": "x"})
number = 0
while True:
    ledger.append("gap", {"reason": "x", "detail": "y" * 500, "ns": str(number), "ceiling_flop_per_s": None})
    ledger.sync()
    number += 1
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_loses_nothing_that_was_acknowledged(run):
    """Else a crash could lower the count; and each life must be able to go on from the one before."""
    for life in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(run)], stdout=subprocess.PIPE)
        time.sleep(0.25 + 0.07 * life)
        process.kill()
        said = process.communicate(timeout=60)[0].split()
        acknowledged = int(said[-1]) if said else 0
        segments = read_run(run).segments if acknowledged else ()
        if acknowledged:
            assert len(segments[-1].entries) - 1 >= acknowledged
    assert len(read_run(run).segments) >= 2
