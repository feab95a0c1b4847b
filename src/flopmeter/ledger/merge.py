"""Many ranks and segments in, one run out.

Files only, no talk between ranks. Not here: sums (`account.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flopmeter import wire
from flopmeter.errors import LedgerBrokenError, LedgerMissingError, LedgerUnreadableError, MalformedError
from flopmeter.ledger.chain import Segment, read_segment
from flopmeter.ledger.entry import RUN_FILE, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far one ledger file reached: the number of its lines and the digest of the last."""

    file: str
    entries: int
    digest: str

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel."""
        return {"file": self.file, "entries": wire.print_count(self.entries), "head": self.digest}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> "Head":
        """Return the head that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="head")
        return cls(
            file=wire.parse_text(fields.get("file"), name="file"),
            entries=wire.parse_count(fields.get("entries"), name="entries"),
            digest=wire.parse_digest(fields.get("head"), name="head"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLedger:
    """All segments of a run, by rank and then by life of the process; checked."""

    path: Path
    run: str
    segments: tuple[Segment, ...]

    @property
    def heads(self) -> tuple[Head, ...]:
        """The head of every file, in order."""
        return tuple(Head(file=s.path.name, entries=len(s.entries), digest=s.head) for s in self.segments)

    @property
    def head(self) -> str:
        """One digest over all heads: changes when any line of any file does."""
        return join_heads(self.heads)

    def cut_at(self, heads: tuple[Head, ...]) -> "RunLedger":
        """Return the ledger as it was when these were its heads; later lines and files are left out.

        Raises:
            LedgerBrokenError: a file that they name is not here, is shorter, or has another line at its head.
        """
        files = {segment.path.name: segment for segment in self.segments}
        cut = []
        for head in heads:
            segment = files.get(head.file)
            found = (
                segment.entries[head.entries - 1].digest if segment and 0 < head.entries <= len(segment.entries) else ""
            )
            if segment is None or found != head.digest:
                here = found[:12] or "not here"
                msg = f"line {head.entries} of {head.file} is {here}, {head.digest[:12]}… was expected"
                raise LedgerBrokenError(msg, where=str(self.path))
            whole = head.entries == len(segment.entries)
            cut.append(replace(segment, entries=segment.entries[: head.entries], torn=segment.torn if whole else None))
        return replace(self, segments=tuple(cut))

    def entries(self) -> Iterator[tuple[Segment, Entry]]:
        """Walk every entry of every segment, in order."""
        for segment in self.segments:
            for entry in segment.entries:
                yield segment, entry


def join_heads(heads: tuple[Head, ...]) -> str:
    """Return the digest that stands for several heads."""
    return wire.digest(wire.encode([head.to_wire() for head in heads]))


def read_run(run_dir: Path | str) -> RunLedger:
    """Read and check every ledger file of a run directory.

    Raises:
        LedgerMissingError: no such directory, or no ledger in it.
        LedgerUnreadableError: a line is no entry of this format.
        LedgerBrokenError: a chain is broken, files are of two runs, or a segment does not go on where the one before
            it ended.
    """
    path = Path(run_dir)
    folder = path / "ledger"
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        msg = "no ledger here"
        raise LedgerMissingError(
            msg,
            where=str(path),
            hint="name the directory that was given to Meter; its ledger/ appears when metering starts",
        )
    segments = sorted((_read(file) for file in files), key=lambda segment: (segment.rank, segment.number))
    runs = sorted({segment.run for segment in segments})
    if len(runs) > 1:
        msg = f"these files belong to {len(runs)} runs: {', '.join(run[:8] for run in runs)}"
        raise LedgerBrokenError(msg, where=str(folder))
    _check_run_file(folder / RUN_FILE, runs[0])
    for before, after in zip([None, *segments], segments, strict=False):
        _check_link(before if before is not None and before.rank == after.rank else None, after)
    return RunLedger(path=path, run=runs[0], segments=tuple(segments))


def _check_run_file(path: Path, run: str) -> None:
    """Check the file by which the ranks of a new run agreed on its id; a copy of the ledger may lack it."""
    try:
        agreed = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"cannot be read: {error.strerror}"
        raise LedgerMissingError(msg, where=str(path)) from error
    if agreed != f"{run}\n".encode():
        msg = f"it does not hold the id of the run ({run[:8]}…): it was changed"
        raise LedgerBrokenError(msg, where=str(path))


def _read(file: Path) -> Segment:
    segment = read_segment(file)
    try:
        expected = f"{segment.rank}-{segment.number}.jsonl"
        wire.parse_text(segment.run, name="run")
    except MalformedError as error:
        raise LedgerUnreadableError(error.what, where=str(file)) from error
    if file.name != expected:
        msg = f"its header says it is {expected}: it was renamed"
        raise LedgerBrokenError(msg, where=str(file))
    return segment


def _check_link(before: Segment | None, after: Segment) -> None:
    """Check that a segment names the head, and the torn bytes, of the one before it."""
    claimed = after.header.body.get("continues")
    where = str(after.path)
    if before is None:
        if after.number != 0 or claimed is not None:
            msg = f"segment {after.number} goes on from one that is not here"
            raise LedgerBrokenError(msg, where=where)
        return
    actual = continues(before)
    if after.number != before.number + 1 or claimed != actual:
        msg = f"it does not go on where {before.path.name} ends ({before.head[:12]}…): one was cut or changed"
        raise LedgerBrokenError(msg, where=where)


def continues(before: Segment) -> dict[str, wire.Wire]:
    """Return what the next segment's header says of the one before it."""
    return {
        "file": before.path.name,
        "entries": wire.print_count(len(before.entries)),
        "head": before.head,
        "closed": before.is_closed,
        "torn": None if before.torn is None else before.torn.to_wire(),
    }
