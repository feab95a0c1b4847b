"""One ledger file being written: append, flush, lock, and go on after a crash in a new file.

A line is acknowledged once `sync` has returned. Files of former lives are never touched again.
Not here: what is written (`step.py`), reading (`chain.py`, `merge.py`).
"""

import errno
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flopmeter import wire
from flopmeter.errors import LedgerError, LedgerLockedError, LedgerMissingError
from flopmeter.ledger.entry import FORMAT, GENESIS, RUN_FILE, Entry

if TYPE_CHECKING:
    from flopmeter.ledger.merge import RunLedger


class LedgerFile:
    """The one writer of `RUN/ledger/<rank>-<segment>.jsonl`.

    Opening makes a new segment: the first of a run, or the next life of one. A lock on `<rank>.lock` keeps a second
    writer out; the kernel drops it when this process dies, and forked children (DataLoader workers) do not hold it.
    """

    def __init__(
        self,
        run_dir: Path | str,
        *,
        rank: int = 0,
        header: Mapping[str, wire.Wire],
        now: Callable[[], str] | None = None,
    ) -> None:
        """Lock, read what is there, and write the header of a new segment.

        Raises:
            LedgerLockedError: someone else is writing.
            LedgerBrokenError: what is there does not hold together; nothing is appended to it.
            LedgerError: the directory or file cannot be made.
        """
        self._now = now or utc_now
        self._folder = Path(run_dir) / "ledger"
        self._fd = -1
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(self._folder / f"{rank}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            msg = f"the ledger's directory cannot be written: {error.strerror}"
            raise LedgerError(msg, where=str(self._folder)) from error
        try:
            _lock(self._lock_fd)
        except OSError as error:
            os.close(self._lock_fd)
            msg = f"another process, or another Meter of this one, is writing rank {rank} of this run"
            raise LedgerLockedError(
                msg, where=str(self._folder), hint="wait for it to end, or use another directory"
            ) from error
        _release_in_forks(self)
        try:
            self._open(Path(run_dir), rank, header)
        except BaseException:
            self.close()
            raise

    def _open(self, run_dir: Path, rank: int, header: Mapping[str, wire.Wire]) -> None:
        self.segment, before = 0, None
        former = _read_former(run_dir) if any(self._folder.glob("*.jsonl")) else None
        self.run = former.run if former is not None else _agree_on_run(self._folder)
        if former is not None:
            own = [segment for segment in former.segments if segment.rank == rank]
            if own:
                from flopmeter.ledger.merge import continues

                self.segment, before = own[-1].number + 1, continues(own[-1])
        self.former = former
        self.path = self._folder / f"{rank}-{self.segment}.jsonl"
        unnamed = self.path.with_suffix(".new")  # gets its name once the header is durable: no reader meets half of one
        self._at = (0, GENESIS, 0)
        body = {
            **header,
            "format": FORMAT,
            "run": self.run,
            "rank": wire.print_count(rank),
            "segment": wire.print_count(self.segment),
            "continues": before,
        }
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(unnamed, flags, 0o644)
            self.append("header", body)
            self.sync()
            unnamed.rename(self.path)
            sync_folder(self._folder)
        except OSError as error:
            msg = f"cannot be made: {error.strerror}"
            raise LedgerError(msg, where=str(self.path)) from error

    @property
    def entries(self) -> int:
        """Lines written to this segment."""
        return self._at[0]

    @property
    def head(self) -> str:
        """Digest of the last line written."""
        return self._at[1]

    @property
    def is_open(self) -> bool:
        """Say whether this process may still append."""
        return self._fd >= 0

    def append(self, kind: str, body: Mapping[str, wire.Wire]) -> Entry:
        """Write one line; it is acknowledged by the next `sync`.

        Raises:
            LedgerError: the file is closed, or the disk refused; a part that was written is taken back.
        """
        if self._fd < 0:
            msg = "closed"
            raise LedgerError(msg, where=str(self.path))
        seq, prev, size = self._at
        entry = Entry(kind=kind, seq=seq, prev=prev, at=self._now(), body=body)
        line = entry.to_line()
        try:
            if os.fstat(self._fd).st_size != size:
                os.ftruncate(self._fd, size)  # a line whose writing was interrupted, Ctrl-C say, before it was noted
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._fd, size)
            msg = f"line {seq + 1} could not be written: {error.strerror}"
            raise LedgerError(msg, where=str(self.path), hint="free some space; the meter tries again") from error
        self._at = (seq + 1, entry.digest, size + len(line))  # one assignment: an interrupt finds it done or undone
        return entry

    def sync(self) -> None:
        """Make every line durable.

        Raises:
            LedgerError: the disk refused. The kernel may since believe the pages clean, so this file is given up:
                nothing is appended to it again.
        """
        if self._fd < 0:
            return
        try:
            os.fdatasync(self._fd)
            if os.fstat(self._fd).st_nlink == 0:
                raise OSError(errno.ENOENT, "the file was deleted while it was written")
        except OSError as error:
            self._give_up()
            msg = f"could not be made durable: {error.strerror}"
            raise LedgerError(msg, where=str(self.path), hint="a new segment is needed") from error

    def close(self) -> None:
        """Let go of file and lock; twice is fine."""
        self._give_up()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _give_up(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _read_former(run_dir: Path) -> "RunLedger | None":
    from flopmeter.ledger.merge import read_run  # for runs that go on

    try:
        return read_run(run_dir)
    except LedgerMissingError:
        return None


def is_being_written(run_dir: Path | str) -> bool:
    """Say whether a process holds the lock of any rank of this run: its ledger is then still growing."""
    for lock in sorted((Path(run_dir) / "ledger").glob("*.lock")):
        try:
            descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not ours to read: nothing is known of it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def utc_now() -> str:
    """Return the date, UTC, to the millisecond, in the form of RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lock(descriptor: int) -> None:
    """Take the lock; try again for a moment, for someone may just be asking whether it is taken."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _agree_on_run(folder: Path) -> str:
    """Return the id of a new run: the first rank to come makes it up, the others read it, and nobody talks.

    Raises:
        LedgerError: it can be neither written nor read.
    """
    name, own = folder / RUN_FILE, os.urandom(16).hex()
    draft = folder / f"{RUN_FILE}.{own}.new"
    try:
        draft.write_text(f"{own}\n", encoding="ascii")
        try:
            os.link(draft, name)
        except FileExistsError:
            return name.read_text(encoding="ascii").strip()
        finally:
            draft.unlink()
    except (OSError, ValueError) as error:
        msg = f"the id of the run cannot be written: {error}"
        raise LedgerError(msg, where=str(folder)) from error
    return own


def _release_in_forks(ledger: LedgerFile) -> None:
    """Close a child's copies of the descriptors: a flock lives as long as any copy of its descriptor."""
    reference = weakref.ref(ledger)

    def close_in_child() -> None:
        held = reference()
        if held is not None:
            held.close()

    os.register_at_fork(after_in_child=close_in_child)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and durable once this returns.

    Raises:
        OSError: it cannot be written.
    """
    unnamed = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with unnamed.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        unnamed.replace(path)
    except OSError:
        unnamed.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
