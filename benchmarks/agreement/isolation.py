"""Run something in a process of its own, forked, so that what it patches, leaks or breaks is gone with it."""

import contextlib
import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

FORK = multiprocessing.get_context("fork")


class Failed(Exception):  # noqa: N818 # an outcome that is written down, not an error of ours
    """What ended a run that was to be measured."""


def reason_of(error: BaseException) -> str:
    """Return an exception's type and the beginning of what it says, without anybody's paths and addresses."""
    text = " ".join(str(error).split())
    text = re.sub(r"(?<!\w)/[\w./-]+", "…", text)
    text = re.sub(r"0x[0-9a-f]+|-?\d+\.\d{3,}", "…", text)
    return f"{type(error).__name__}: {text[:100]}".rstrip(": ")


def answer(work: Callable[[], Any], pipe: Connection) -> None:
    """Do the work in this process and send what came out."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        pipe.send((True, work()))
    except BaseException as error:  # noqa: BLE001 # whatever ends it is the outcome
        pipe.send((False, reason_of(error)))
    pipe.close()
    os._exit(0)  # no handlers of libraries that were imported


def isolated(work: Callable[[], Any], *, seconds: float) -> Any:
    """Return what some work returns in a process of its own.

    Raises:
        Failed: it raised, died, or took longer than it may.
    """
    ours, theirs = FORK.Pipe(duplex=False)
    sys.stdout.flush()
    process = FORK.Process(target=answer, args=(work, theirs))
    process.start()
    theirs.close()
    outcome = (False, f"took more than {seconds:g} s")
    if ours.poll(seconds):
        with contextlib.suppress(EOFError):
            outcome = (False, "died")
            outcome = ours.recv()
    process.kill()
    process.join()
    good, value = outcome
    if not good:
        raise Failed(value)
    return value
