"""Which processes share a device with this one, as far as the driver's list of processes can be read from here.

Noted, never blamed: nothing is divided by what is found. Not here: which devices are ours (`visible.py`).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTERMOST = "pid:[4026531836]"
"""The PID namespace of the machine itself: the kernel gives it a fixed number (`PROC_PID_INIT_INO`)."""
MAX_PID = 2**22
"""The most that Linux allows. Drivers of R535 had lists which some bindings read at the wrong offsets."""
NAMESPACE = "a PID namespace, whose numbers the driver need not know"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who else is on a device. `others` counts processes, this one left out; None: unknown, and `note` says why.

    `least` is how many there are whoever they are: all that are listed but one.

    `is_ours_listed` says whether a process with our number is in the list; inside of a PID namespace that may be
    somebody else with the same number outside, so nothing is made of it there.
    """

    others: int | None
    is_ours_listed: bool | None
    note: str = ""
    least: int = 0


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers by which this process is known, and whether those of the machine itself are among them."""

    pids: frozenset[int]
    is_outermost: bool


def read_numbers(proc: Path = Path("/proc")) -> Numbers:
    """Return the numbers of this process, and whether it lives in the machine's own PID namespace.

    There are several numbers where the `/proc` of an outer namespace is mounted into a container.
    """
    pids = {os.getpid()}
    try:
        status = (proc / "self" / "status").read_text(encoding="utf-8", errors="replace")
        is_outermost = str((proc / "self" / "ns" / "pid").readlink()) == OUTERMOST
    except OSError:
        return Numbers(frozenset(pids), is_outermost=False)
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            pids.update(map(int, line.split()[1:]))
    return Numbers(frozenset(pids), is_outermost)


def read_sharing(library: Any, handle: Any, numbers: Numbers | None = None) -> Sharing:
    """Return who else runs compute work on a device; `library` is pynvml, the most expensive call it has.

    Is not: the share of each, nor graphics. Under MPS the driver lists its server in the place of its clients. Other
    processes of the same training are others, too.
    """
    ours = numbers or read_numbers()
    try:
        listed = {int(one.pid) for one in library.nvmlDeviceGetComputeRunningProcesses_v3(handle)}
    except library.NVMLError as error:
        return Sharing(None, None, f"the processes on the device are not known: {' '.join(str(error).split())}")
    if any(not 0 < pid <= MAX_PID for pid in listed):
        return Sharing(None, None, "the driver's list of processes makes no sense to this nvidia-ml-py")
    is_listed, least = bool(listed & ours.pids), max(0, len(listed) - 1)
    if not ours.is_outermost:
        return Sharing(None, is_listed, f"{len(listed)} processes are listed, seen from inside of {NAMESPACE}", least)
    note = "" if is_listed else "this process is not in the driver's list"
    return Sharing(len(listed - ours.pids), is_listed, note, least)
