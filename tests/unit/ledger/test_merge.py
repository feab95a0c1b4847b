"""Many files, one run."""

import shutil

import pytest

from flopmeter.errors import LedgerBrokenError, LedgerMissingError, LedgerUnreadableError, MalformedError
from flopmeter.ledger.merge import Head, join_heads, read_run
from flopmeter.testing.ledgers import recorded_ledger


@pytest.fixture
def run(tmp_path):
    return recorded_ledger(tmp_path / "run", ranks=2, lives=2)


def folder(run):
    return run / "ledger"


def test_segments_come_by_rank_and_then_by_life(run):
    assert [head.file for head in read_run(run).heads] == ["0-0.jsonl", "0-1.jsonl", "1-0.jsonl", "1-1.jsonl"]


def test_lives_are_ordered_as_numbers(tmp_path):
    """Else the eleventh life would follow the first."""
    run = recorded_ledger(tmp_path / "run", lives=11)
    assert [segment.number for segment in read_run(run).segments] == list(range(11))


def test_every_entry_is_walked(run):
    ledger = read_run(run)
    assert sum(1 for _ in ledger.entries()) == sum(head.entries for head in ledger.heads)


def test_the_head_stands_for_all_files(run):
    """Else a line of one rank could change while the head stays."""
    before = read_run(run).head
    shutil.rmtree(run)
    assert read_run(recorded_ledger(run, ranks=2, lives=2)).head != before


@pytest.mark.parametrize("name", ["0-0.jsonl", "1-0.jsonl"])
def test_a_life_left_out_is_found(run, name):
    """Else the work of a life could be dropped from the sum."""
    (folder(run) / name).unlink()
    with pytest.raises(LedgerBrokenError):
        read_run(run)


def test_a_life_cut_after_the_next_began_is_found(run):
    path = folder(run) / "0-0.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(LedgerBrokenError, match="one was cut or changed"):
        read_run(run)


def test_a_file_under_another_name_is_found(run):
    (folder(run) / "1-1.jsonl").rename(folder(run) / "1-2.jsonl")
    with pytest.raises(LedgerBrokenError, match="renamed"):
        read_run(run)


def test_files_of_two_runs_are_found(run, tmp_path):
    other = recorded_ledger(tmp_path / "other")
    shutil.copy(folder(other) / "0-0.jsonl", folder(run) / "0-9.jsonl")
    with pytest.raises(LedgerBrokenError):
        read_run(run)


def test_a_stray_file_is_unreadable_and_not_ignored(run):
    (folder(run) / "stray.jsonl").write_bytes(b"nonsense\n")
    with pytest.raises(LedgerUnreadableError):
        read_run(run)


def test_no_ledger_is_missing(tmp_path):
    with pytest.raises(LedgerMissingError):
        read_run(tmp_path)


def test_the_past_can_be_cut_out_of_the_present(run):
    """Else an attestation could not be checked once the run went on."""
    ledger = read_run(run)
    first = ledger.segments[0]
    heads = (Head(file="0-0.jsonl", entries=3, digest=first.entries[2].digest),)
    cut = ledger.cut_at(heads)
    assert cut.heads == heads
    assert ledger.cut_at(ledger.heads) == ledger


@pytest.mark.parametrize(
    "head",
    [
        Head(file="9-9.jsonl", entries=1, digest="0" * 64),
        Head(file="0-0.jsonl", entries=1, digest="0" * 64),
        Head(file="0-0.jsonl", entries=0, digest="0" * 64),
        Head(file="0-0.jsonl", entries=10**50, digest="0" * 64),
    ],
)
def test_a_head_that_never_was_is_refused(run, head):
    with pytest.raises(LedgerBrokenError):
        read_run(run).cut_at((head,))


def test_a_head_travels():
    head = Head(file="0-0.jsonl", entries=3, digest="a" * 64)
    assert Head.from_wire(head.to_wire()) == head
    assert join_heads((head,)) != join_heads(())
    with pytest.raises(MalformedError):
        Head.from_wire({"file": "x"})
