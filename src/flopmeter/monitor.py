"""Warnings while a run goes on: a watch over thresholds, and a clerk that gets attestations issued beside the training.

Neither can stop or delay the run: the watch compares integers, the clerk works in a thread of its own and turns every
failure into an outcome. Not here: verdicts (`regimes`), how an attestation is made (`attestation`), what is written
into the ledger (`meter`).
"""

import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from flopmeter import wire
from flopmeter.regimes.regime import Regime
from flopmeter.units import print_flop

LEVELS = (50, 80, 95, 100)
MAX_WAITING = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdWarning:
    """A run has passed a share of a regime's number.

    Units: `percent` of `threshold`; `flop` operations of the run so far, as the regime's unit says, before anything is
    left out.
    """

    regime: str
    percent: int
    flop: int
    threshold: int
    operator: str

    @property
    def message(self) -> str:
        """The warning in one sentence, for people."""
        share = "the number" if self.percent == 100 else f"{self.percent} % of the number"
        line = f"{self.operator} {print_flop(self.threshold)}"
        return f"{self.regime}: {print_flop(self.flop)} so far, past {share} ({line}), with nothing left out"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as the ledger's entry of kind `threshold` carries them."""
        return {
            "regime": self.regime,
            "percent": wire.print_count(self.percent),
            "flop": wire.print_count(self.flop),
            "threshold": wire.print_count(self.threshold),
            "operator": self.operator,
            "message": self.message,
        }


class Monitor:
    """Watches the totals of a run against regimes, and says once when a level is passed.

    It compares gross figures: everything executed, and integer operations too where the regime counts them. What a
    regime leaves out (recomputation, evaluation) is left in, so a warning comes early rather than late; the finding
    is the judgement. Work that was not counted cannot warn.

    `already` are the warnings that the ledger holds (`Account.warned`): after a restart, no level at or below the
    highest of them is repeated. A level is passed by the regime's own operator.
    """

    def __init__(
        self, regimes: Sequence[Regime], *, already: Iterable[tuple[str, int]] = (), levels: Sequence[int] = LEVELS
    ) -> None:
        if not levels or min(levels) <= 0 or any(one >= two for one, two in pairwise(levels)):
            msg = f"levels are {tuple(levels)}, not percentages that rise"
            raise ValueError(msg)
        ids = [regime.id for regime in regimes]
        if len(set(ids)) != len(ids):
            msg = f"a regime is watched twice: {', '.join(ids)}"
            raise ValueError(msg)
        self._regimes = tuple(regimes)
        self._levels = tuple(levels)
        self._passed: dict[str, int] = dict.fromkeys(ids, 0)
        for name, percent in already:
            if name in self._passed:
                self._passed[name] = max(self._passed[name], percent)

    def observe(self, *, flop: int, int_op: int = 0) -> tuple[ThresholdWarning, ...]:
        """Return a warning for each level that these totals of the run have newly passed, lowest first.

        Units: operations of the whole run so far, its earlier segments included.
        """
        warnings: list[ThresholdWarning] = []
        for regime in self._regimes:
            gross_flop = flop + int_op if regime.counts_int_op else flop
            for percent in self._levels:
                if percent > self._passed[regime.id] and regime.is_passed_by(gross_flop, percent=percent):
                    self._passed[regime.id] = percent
                    warnings.append(
                        ThresholdWarning(
                            regime=regime.id,
                            percent=percent,
                            flop=gross_flop,
                            threshold=regime.threshold,
                            operator=regime.operator,
                        )
                    )
        return tuple(warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """What became of a job: its value, or the reason why there is none."""

    about: str
    is_done: bool
    value: T | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Task(Generic[T]):
    about: str
    job: Callable[[], T]


class Clerk(Generic[T]):
    """Does jobs one after the other in a thread of its own, so that a slow or failing signer costs training nothing.

    The thread starts with the first job and ends when none is left; a daemon, so that a job that hangs does not keep
    the process alive. No method raises because of a job: failures are outcomes. A job must not touch what the
    training thread changes. In a forked child every method does nothing, because the thread is not there.

    Units: `max_waiting` jobs that have not begun; one more is refused, as an outcome.
    """

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._owner = os.getpid()
        self._lock = threading.RLock()  # a signal handler may come in while the lock is held
        self._waiting: deque[_Task[T]] = deque()
        self._current: _Task[T] | None = None
        self._thread: threading.Thread | None = None
        self._is_working = False
        self._outcomes: list[Outcome[T]] = []
        self._is_closed = False

    def submit(self, job: Callable[[], T], *, about: str = "") -> None:
        """Hand over a job; `about` is how its outcome will be known. Returns at once."""
        if os.getpid() != self._owner:
            return
        task = _Task(about, job)
        with self._lock:
            if self._is_closed:
                self._fail(task, "the run has ended")
            elif len(self._waiting) >= self._max_waiting:
                self._fail(task, f"{self._max_waiting} jobs already wait for one that does not end")
            else:
                self._waiting.append(task)
                if not self._is_working:
                    self._start()

    def collect(self) -> list[Outcome[T]]:
        """Return what was finished since the last call, in the order of finishing. Never waits for a job."""
        if os.getpid() != self._owner:
            return []
        with self._lock:
            outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self, *, timeout_s: float) -> None:
        """Wait for the jobs, at most this long, and give up the rest; `collect` then returns the last outcomes.

        A job that hangs goes on hanging in its daemon thread, and whatever it still returns is dropped. May be called
        twice.
        """
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        with self._lock:
            given_up = [*([self._current] if self._current else []), *self._waiting]
            self._waiting.clear()
            self._current = None
            for task in given_up:
                self._fail(task, f"not finished {timeout_s:g} s after the end of the run")

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="flopmeter-clerk", daemon=True)
        try:
            thread.start()
            self._thread, self._is_working = thread, True
        except RuntimeError as error:  # no more threads, or the interpreter is shutting down
            while self._waiting:
                self._fail(self._waiting.popleft(), str(error))

    def _work(self) -> None:
        while (task := self._next()) is not None:
            outcome = _attempt(task)
            with self._lock:
                if self._current is task:
                    self._current = None
                    self._outcomes.append(outcome)

    def _next(self) -> _Task[T] | None:
        with self._lock:
            if not self._waiting:
                self._is_working = False
                return None
            self._current = self._waiting.popleft()
            return self._current

    def _fail(self, task: _Task[T], reason: str) -> None:
        self._outcomes.append(Outcome(about=task.about, is_done=False, reason=reason))


def _attempt(task: _Task[T]) -> Outcome[T]:
    """Do a job. A boundary: signers are foreign code, and whatever one raises is its failure and not the run's."""
    try:
        return Outcome(about=task.about, is_done=True, value=task.job())
    except BaseException as error:  # noqa: BLE001  # `sys.exit()` in a signer would end the thread without a word
        lines = "".join(traceback.format_exception_only(error)).splitlines()
        return Outcome(about=task.about, is_done=False, reason="; ".join(line.strip() for line in lines))
