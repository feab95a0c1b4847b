"""A rank of any world, in a process of its own: torch's fake process group, which computes and sends nothing."""

import multiprocessing
import tempfile
import traceback
import warnings
from pathlib import Path

import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from flopmeter.ledger.merge import read_run
from flopmeter.meter import Meter
from flopmeter.sums import Sums


def apart(program, *args):
    """Return what a function returns in a forked process; where that fails or dies, say how.

    Raises:
        RuntimeError: with what that process had to say.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_tell, args=(theirs, program, args))
    process.start()
    theirs.close()
    try:
        found, failure = ours.recv()
    except EOFError:
        found, failure = None, "it died"
    finally:
        process.join(60)
    if failure:
        msg = f"{failure}\nexit code {process.exitcode}"
        raise RuntimeError(msg)
    return found


def _tell(parent, program, args):
    try:
        told = program(*args), ""
    except BaseException:  # noqa: BLE001  # whatever it is, the parent is to say it
        told = None, traceback.format_exc()
    parent.send(told)


def as_rank(program, *, rank=0, world=4):
    """Return what a function returns on one rank of a fake world; see `apart`."""
    return apart(_run, program, rank, world)


def _run(program, rank, world):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    return program()


def meter(program, *models):
    """Run a program with the meter on this rank; return its sums, to be asked for shares and coordinates."""
    folder = Path(tempfile.mkdtemp())
    with Meter(folder, model=list(models), exact=True, strict=True) as running:
        with running.purpose("experiment"):
            program()
        failed = running._sensor._books.recorder.repeats
        failed = failed.failed if failed is not None else ""
    assert failed == "", failed
    sums = Sums()
    for segment in read_run(folder).segments:
        sums.add_segment(segment, None, live=False)
    assert not sums.gaps, sums.gaps
    return sums
