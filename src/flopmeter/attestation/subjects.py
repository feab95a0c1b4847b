"""Subjects: the files that a statement is about, read and hashed; a directory stands for each file in it.

Not here: whether a ledger or a statement knows them.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from flopmeter import wire
from flopmeter.attestation.statement import Subject
from flopmeter.ledger.chain import refuse_special


def hash_subjects(paths: Iterable[Path | str]) -> tuple[Subject, ...]:
    """Read every file, and every file of every directory, and return names and SHA-256 digests.

    A file is named by its file name, a file of a directory by its place in it, the directory's name included: as a
    meter names what it records.

    Raises:
        OSError: a path cannot be read, is no regular file, or a directory holds no file.
    """
    return tuple(
        Subject(name=wire.print_path(Path(name)), sha256=wire.digest_file(file))
        for path in paths
        for name, file in _files(Path(path))
    )


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    path = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow a link and change the name
    if not path.is_dir():
        refuse_special(path)
        yield path.name, path
        return
    found = sorted(Path(folder) / name for folder, _, names in os.walk(path, onerror=_fail) for name in names)
    if not found:
        raise FileNotFoundError(2, "no file in this directory", str(path))
    for file in found:
        refuse_special(file)
        yield file.relative_to(path.parent).as_posix(), file


def _fail(error: OSError) -> None:
    raise error
