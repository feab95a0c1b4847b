"""Threads of one process that take turns: the same objects, the same memory, one with the meter and two without.

Processes of their own differ by several percent for no reason but where their memory lies. So the variants share one
process, one model and one optimizer; each runs on its own thread while the others sleep, and a meter meters only the
thread that started it. Hooks hang on modules and optimizers, which all threads share: they are taken out of torch's
tables, outside the clock, while a variant without a meter has its turn. A turn is some steps, as in a run: at the
first one after others' the meter finds its code in no cache and, as clocks go on, what it does twice a second due.
Not here: the programs (`models.py`), what is made of the times (`ratios.py`).
"""

import compileall
import gc
import os
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as torch_modules
from torch.optim import optimizer as torch_optimizers

import flopmeter
from flopmeter import Account, Meter

METERED = "metered"
STEPS_AT_A_TIME = 5
LANES = ("plain", "control", METERED)
BUDGET = 0.01

Work = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What the steps of one round took.

    Units: nanoseconds; `start_ns` and `close_ns` are the meter's own start and end, which no turn holds.
    """

    steps: dict[str, list[int]]
    start_ns: int
    close_ns: int
    passages: dict[str, int]
    own_fraction: float | None


class Lane:
    """A thread that does its work at each turn, some steps of it, and sleeps between."""

    def __init__(self, around: Callable[[], AbstractContextManager[Work]]) -> None:
        """Enter, on the thread, what is around the work; return when that is done."""
        self.times: list[int] = []
        self._around = around
        self._asked: queue.SimpleQueue[Sequence[int] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def turn(self, numbers: Sequence[int]) -> None:
        """Let the lane do these steps of its work."""
        self._asked.put(numbers)
        self._wait()

    def close(self) -> None:
        """Leave what is around the work."""
        self._asked.put(None)
        self._wait()
        self._thread.join()

    def _wait(self) -> None:
        error = self._done.get()
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            torch.set_num_threads(1)
            with self._around() as work:
                self._done.put(None)
                while (numbers := self._asked.get()) is not None:
                    for number in numbers:
                        begun = time.perf_counter_ns()
                        work(number)
                        self.times.append(time.perf_counter_ns() - begun)
                    self._done.put(None)
            self._done.put(None)
        except BaseException as error:  # noqa: BLE001 # it is raised where the turn was asked for
            self._done.put(error)


class Hooks:
    """What hangs in torch's tables of hooks; can be taken out and put back, in order."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Find the tables that hold something now; here that is the meter's alone."""
        self._tables = [table for table in hook_tables(model, optimizer) if table]
        self._kept: list[list[tuple[Any, Any]]] = []

    def take_out(self) -> None:
        """Leave the tables empty."""
        self._kept = [list(table.items()) for table in self._tables]
        for table in self._tables:
            table.clear()

    def put_back(self) -> None:
        """Fill them again."""
        for table, items in zip(self._tables, self._kept, strict=True):
            table.update(items)


def hook_tables(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[dict[Any, Any]]:
    """Find each dictionary in which torch keeps hooks: its own, the modules', the parameters', the optimizer's."""
    holders = [vars(torch_modules), vars(torch_optimizers), vars(optimizer), *map(vars, model.modules())]
    for holder in holders:
        yield from (value for name, value in holder.items() if "_hooks" in name and isinstance(value, dict))
    for parameter in model.parameters():
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            table = getattr(parameter, name, None)
            if isinstance(table, dict):
                yield table


@dataclass(slots=True, kw_only=True)
class Program:
    """What takes turns: a model, its optimizer, and the work of one step; `tokens` is what the meter is told.

    Units: `start_ns`, `close_ns` nanoseconds that the meter took before the first step and after the last.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    work: Work
    tokens: int
    budget: float = BUDGET
    start_ns: int = field(default=0, init=False)
    close_ns: int = field(default=0, init=False)
    account: Account | None = field(default=None, init=False)

    @contextmanager
    def unmetered(self) -> Iterator[Work]:
        """Do the work as it is."""
        yield self.work

    @contextmanager
    def metered(self) -> Iterator[Work]:
        """Do the work with a meter around it all that is told of each step.

        The meter may spend a share of wall time, in which the other lanes have their turns too: theirs is not its.
        """
        with tempfile.TemporaryDirectory(prefix="flopmeter-overhead-") as folder:
            begun = time.perf_counter_ns()
            with Meter(Path(folder) / "run", model=self.model, overhead_budget=self.budget / len(LANES)) as meter:

                def step(number: int) -> None:
                    self.work(number)
                    meter.step(tokens=self.tokens)

                self.start_ns = time.perf_counter_ns() - begun
                yield step
                begun = time.perf_counter_ns()
            self.close_ns = time.perf_counter_ns() - begun
            self.account = Account.of(Path(folder) / "run")


def take_turns(program: Program, *, steps: int, at_a_time: int = STEPS_AT_A_TIME, seed: int = 0) -> Times:
    """Let each variant make this many steps, some at a time, in an order drawn anew for each turn."""
    gc.collect()
    lanes = {name: Lane(program.metered if name == METERED else program.unmetered) for name in LANES}
    hooks = Hooks(program.model, program.optimizer)
    order, draws = [METERED, *(name for name in LANES if name != METERED)], random.Random(seed)  # noqa: S311 # no secret
    for first in range(0, steps, at_a_time):
        for name in order:
            hooks.take_out()  # the same is done before each turn, so that no lane finds warmer caches
            if name == METERED:
                hooks.put_back()
            lanes[name].turn(range(first, min(first + at_a_time, steps)))
            if name != METERED:
                hooks.put_back()
        draws.shuffle(order)
    for lane in lanes.values():
        lane.close()
    account = program.account
    return Times(
        steps={name: lane.times for name, lane in lanes.items()},
        start_ns=program.start_ns,
        close_ns=program.close_ns,
        passages=dict(account.passages) if account else {},
        own_fraction=account.overhead_fraction if account else None,
    )


def settle() -> None:
    """Keep this process on one core, and torch on one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def in_fresh_process(work: Callable[..., Any], *args: Any) -> Any:
    """Return what a function of a module returns in a process of its own, started anew; one heap for all threads.

    Files of byte code are warm, as they are from the second start of an installed package on.
    """
    compileall.compile_dir(Path(flopmeter.__file__).parent, quiet=1)
    os.environ["MALLOC_ARENA_MAX"] = os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle) as pool:
        return pool.submit(work, *args).result()


def join_rounds(rounds: Sequence[Times], *, warm: int) -> dict[str, list[int]]:
    """Return the times of all rounds as one, each without its first steps."""
    return {name: [ns for one in rounds for ns in one.steps[name][warm:]] for name in LANES}
