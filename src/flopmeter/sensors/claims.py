"""Who of a run's processes on a machine reads a device that several of them hold: the one that has its lock.

A lock is a range of bytes in one empty file, which the system takes back when its process ends, however it does; a
forked child has none. Where no file can be locked everybody reads, and `holders.py` finds it out when ledgers are
added up. Not here: which devices are held (`visible.py`).
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

fcntl: Any
try:
    fcntl = import_module("fcntl")
except ImportError:  # not on Windows: there everybody reads
    fcntl = None

_files: dict[tuple[int, Path], tuple[int, tuple[int, int]]] = {}
"""The one descriptor of this process for each file, and which file it is: to close any lets go of all locks in it."""


class DeviceClaims:
    """The devices that this process reads, of those that processes of one run hold; `run` is the same for all of them.

    Nothing is promised across containers that do not share the directory for temporary files.
    """

    def __init__(self, run: str, folder: Path | None = None) -> None:
        """Prepare; no file is opened yet."""
        self._run = run
        self._folder = folder
        self._taken: set[str] = set()

    def take(self, uuid: str) -> bool:
        """Say whether it is for this process to read the device: it was, or nobody else's lock is there."""
        try:
            descriptor = self._open()
            if uuid in self._taken:
                return True
            if descriptor is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._place(uuid))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, no room, a directory that is not ours
            return True
        self._taken.add(uuid)
        return True

    def keep(self, uuids: Iterable[str]) -> None:
        """Let go of all others: another process may hold them longer."""
        for uuid in self._taken.difference(uuids):
            self._taken.discard(uuid)
            with contextlib.suppress(OSError):
                descriptor = self._open()
                if descriptor is not None:
                    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, self._place(uuid))

    def _place(self, uuid: str) -> int:
        return int.from_bytes(sha256(f"{self._run} {uuid}".encode()).digest()[:7], "big")

    def _open(self) -> int | None:
        """Return the descriptor of the file, made where it is not there; None where nothing can be locked."""
        if fcntl is None:
            return None
        folder = self._folder or Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        key = os.getpid(), folder / f"flopmeter-{os.getuid()}.lock"
        if key not in _files or not _is_same(*_files[key]):
            self._taken.clear()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(key[1], flags, 0o600)
            found = os.fstat(descriptor)
            if found.st_uid != os.getuid():
                os.close(descriptor)
                raise PermissionError("somebody else's file")
            _files[key] = descriptor, (found.st_dev, found.st_ino)
        return _files[key][0]


def _is_same(descriptor: int, file: tuple[int, int]) -> bool:
    """Say whether a descriptor still is of that file: a program may close all that it finds, or remove old files."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == file and found.st_nlink > 0
