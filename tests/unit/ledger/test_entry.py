"""One line, sealed to the line before."""

import json
from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError, MalformedError
from flopmeter.ledger.entry import GENESIS, KINDS, Entry

ENTRY = Entry(kind="gap", seq=3, prev=GENESIS, at="2026-01-01T00:00:00.000Z", body={"reason": "x", "ns": None})


def test_a_line_reads_back_as_the_entry():
    line = ENTRY.to_line()
    assert line.endswith(b"\n")
    assert Entry.from_line(line[:-1], where="x") == ENTRY


def test_the_digest_covers_every_field_but_itself():
    """Else a date, a kind or a place in the file could be changed unseen."""
    others = (
        replace(ENTRY, kind="close"),
        replace(ENTRY, seq=4),
        replace(ENTRY, prev="1" * 64),
        replace(ENTRY, at="2027-01-01T00:00:00.000Z"),
        replace(ENTRY, body={}),
    )
    assert len({ENTRY.digest, *(other.digest for other in others)}) == 6


def test_the_digest_can_be_computed_from_the_specification_alone():
    """Else no second implementation could check a ledger."""
    fields = json.loads(ENTRY.to_line())
    sealed = fields.pop("sha256")
    assert wire.digest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()) == sealed


@pytest.mark.parametrize("kind", ["", "step", "Header"])
def test_an_unknown_kind_cannot_be_made(kind):
    assert kind not in KINDS
    with pytest.raises(MalformedError):
        replace(ENTRY, kind=kind)


def altered(change) -> bytes:
    fields = json.loads(ENTRY.to_line())
    change(fields)
    return wire.encode(fields)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"nonsense",
        b"\xff",
        ENTRY.to_line(),
        b" " + ENTRY.to_line()[:-1],
        json.dumps(json.loads(ENTRY.to_line())).encode(),
        altered(lambda f: f.pop("at")),
        altered(lambda f: f.update(note="x")),
        altered(lambda f: f.update(seq="-1")),
        altered(lambda f: f.update(seq="03")),
        altered(lambda f: f.update(prev="x")),
        altered(lambda f: f.update(body="x")),
        altered(lambda f: f.update(kind="step")),
        altered(lambda f: f.update(sha256="x")),
    ],
)
def test_what_is_no_entry_is_unreadable(line):
    with pytest.raises(LedgerUnreadableError, match=r"0-0\.jsonl:1"):
        Entry.from_line(line, where="0-0.jsonl:1")


@pytest.mark.parametrize(
    "change", [lambda f: f.update(at="2027-01-01T00:00:00.000Z"), lambda f: f.update(sha256="0" * 64)]
)
def test_an_entry_that_was_changed_is_broken_and_not_merely_unreadable(change):
    """Else tampering and a foreign format would look the same."""
    with pytest.raises(LedgerBrokenError):
        Entry.from_line(altered(change), where="x")
