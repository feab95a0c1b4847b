"""One file, line by line."""

import pytest

from flopmeter import wire
from flopmeter.errors import LedgerBrokenError, LedgerMissingError, LedgerUnreadableError
from flopmeter.ledger.chain import find_last, read_segment
from flopmeter.testing.ledgers import recorded_ledger


@pytest.fixture
def path(tmp_path):
    return recorded_ledger(tmp_path / "run") / "ledger" / "0-0.jsonl"


def test_a_whole_file_is_read(path):
    segment = read_segment(path)
    assert [entry.seq for entry in segment.entries] == list(range(len(segment.entries)))
    assert (segment.rank, segment.number, segment.is_closed, segment.torn) == (0, 0, True, None)
    assert segment.head == segment.entries[-1].digest
    assert segment.header.kind == "header"


def test_a_line_that_was_being_written_is_torn_and_no_error(path):
    """Else every killed run would be unreadable."""
    path.write_bytes(path.read_bytes() + b'{"at":"20')
    segment = read_segment(path)
    assert segment.torn is not None
    assert segment.torn.to_wire() == {"bytes": "9", "sha256": wire.digest(b'{"at":"20')}


def test_a_last_line_without_its_newline_is_torn(path):
    path.write_bytes(path.read_bytes()[:-1])
    segment = read_segment(path)
    assert segment.torn is not None
    assert not segment.is_closed


def test_a_last_newline_that_became_another_byte_is_a_change(path):
    """Else one flipped bit would turn an acknowledged line into a torn one."""
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(LedgerBrokenError, match="newline"):
        read_segment(path)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:3] + lines[4:],
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        lambda lines: [*lines[:3], lines[3], *lines[3:]],
        lambda lines: lines[1:],
    ],
)
def test_a_line_dropped_moved_or_doubled_is_found(path, change):
    """Else what does not suit could be left out."""
    path.write_bytes(b"".join(change(lines_of(path))))
    with pytest.raises((LedgerBrokenError, LedgerUnreadableError)):
        read_segment(path)


def test_the_place_of_the_break_is_named(path):
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(LedgerBrokenError, match=r"0-0\.jsonl:4"):
        read_segment(path)


@pytest.mark.parametrize("data", [b"", b"{", b"\n", b"nonsense\n", b"\x00" * 50])
def test_what_is_no_ledger_is_unreadable(path, data):
    path.write_bytes(data)
    with pytest.raises(LedgerUnreadableError):
        read_segment(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(LedgerMissingError):
        read_segment(tmp_path / "none")
    with pytest.raises(LedgerMissingError):
        find_last(tmp_path / "none", kind="steps")


def test_the_last_entry_of_a_kind_is_found_from_the_end(path):
    found = find_last(path, kind="steps")
    assert found is not None
    assert found.body["first"] == "2"
    assert find_last(path, kind="device") is None
    assert find_last(path, kind="close", tail_bytes=900) is not None
