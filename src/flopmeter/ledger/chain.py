"""Walk the lines of one ledger file; say where the chain breaks.

Not here: several files (`merge.py`), writing (`file.py`).
"""

import errno
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flopmeter import wire
from flopmeter.errors import LedgerBrokenError, LedgerMissingError, LedgerUnreadableError
from flopmeter.ledger.entry import FORMAT, GENESIS, Entry


@dataclass(frozen=True, slots=True)
class Torn:
    """Bytes after the last newline: a line that was being written when its process died."""

    size: int
    sha256: str

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {"bytes": wire.print_count(self.size), "sha256": self.sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One ledger file, read and checked: every line follows from the one before."""

    path: Path
    entries: tuple[Entry, ...]
    torn: Torn | None

    @property
    def header(self) -> Entry:
        """The first line."""
        return self.entries[0]

    @property
    def rank(self) -> int:
        """The rank that wrote it."""
        return wire.parse_count(self.header.body.get("rank"), name="rank")

    @property
    def number(self) -> int:
        """Its place among the lives of its rank's process."""
        return wire.parse_count(self.header.body.get("segment"), name="segment")

    @property
    def run(self) -> str:
        """The id of the run that it belongs to."""
        return wire.parse_text(self.header.body.get("run"), name="run")

    @property
    def head(self) -> str:
        """Digest of the last line."""
        return self.entries[-1].digest

    @property
    def is_closed(self) -> bool:
        """Say whether its process ended in order."""
        return self.entries[-1].kind == "close"


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a socket or a device, which would keep a reader waiting for ever.

    Raises:
        OSError: it is one, or is not there at all.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "this is no regular file: copy what it gives into one", str(path))


def read_segment(path: Path) -> Segment:
    """Read one file and check every line.

    Raises:
        LedgerMissingError: no such file, or it cannot be opened.
        LedgerUnreadableError: a line is not an entry, or the first is no header of this format.
        LedgerBrokenError: a digest, a sequence number or a link does not follow, or the last newline was changed.
    """
    try:
        refuse_special(path)
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot be read: {error.strerror}"
        raise LedgerMissingError(msg, where=str(path)) from error
    *lines, rest = data.split(b"\n")
    entries = tuple(_walk(lines, path))
    if rest and _is_whole(rest[:-1]):
        msg = "its last line is whole and ends in another byte than a newline: it was changed, not torn"
        raise LedgerBrokenError(msg, where=str(path))
    if not entries:
        msg = "no complete line in it"
        raise LedgerUnreadableError(msg, where=str(path))
    body = entries[0].body
    if entries[0].kind != "header" or body.get("format") != FORMAT:
        msg = f"the first line is no header of {FORMAT}"
        raise LedgerUnreadableError(msg, where=str(path))
    return Segment(path=path, entries=entries, torn=Torn(len(rest), wire.digest(rest)) if rest else None)


def _is_whole(line: bytes) -> bool:
    try:
        Entry.from_line(line, where="")
    except (LedgerBrokenError, LedgerUnreadableError):
        return False
    return True


def find_last(path: Path, *, kind: str, tail_bytes: int = 262_144) -> Entry | None:
    """Return the last entry of a kind among the last lines of a file that may still grow; None where there is none.

    Cheap, and no proof: only the line itself is checked.

    Raises:
        LedgerMissingError: the file cannot be read.
        LedgerUnreadableError: a line is not an entry.
        LedgerBrokenError: a line was changed.
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - tail_bytes))
            is_whole = file.tell() == 0
            lines = file.read().split(b"\n")[:-1]
    except OSError as error:
        msg = f"cannot be read: {error.strerror}"
        raise LedgerMissingError(msg, where=str(path)) from error
    for line in reversed(lines if is_whole else lines[1:]):
        entry = Entry.from_line(line, where=str(path))
        if entry.kind == kind:
            return entry
    return None


def _walk(lines: list[bytes], path: Path) -> Iterator[Entry]:
    prev = GENESIS
    for number, line in enumerate(lines):
        where = f"{path}:{number + 1}"
        entry = Entry.from_line(line, where=where)
        if entry.seq != number:
            msg = f"the line says it is number {entry.seq}, it stands at {number}: a line was dropped, added or moved"
            raise LedgerBrokenError(msg, where=where)
        if entry.prev != prev:
            msg = f"the line follows {entry.prev[:12]}…, the line before is {prev[:12]}…: the chain is broken"
            raise LedgerBrokenError(msg, where=where)
        prev = entry.digest
        yield entry
