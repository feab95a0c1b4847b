"""Warnings in time, and a clerk that never holds up the training."""

import os
import threading
import time
from datetime import date

import pytest

from flopmeter import wire
from flopmeter.monitor import Clerk, Monitor, ThresholdWarning
from flopmeter.regimes.regime import Regime

PATIENCE_S = 10


def regime_of(threshold=1000, **changes) -> Regime:
    fields = {
        "id": "demo.small",
        "title": "A made-up regime",
        "jurisdiction": "nowhere",
        "threshold": threshold,
        "operator": ">",
        "unit": "floating-point operations",
        "counts": ("all-floating-point",),
        "obligation": "none",
        "source": "made up",
        "as_of": date(2026, 11, 22),
        "status": "in use",
    }
    return Regime(**{**fields, **changes})


def passed(monitor, **totals):
    return [(warning.regime, warning.percent) for warning in monitor.observe(**totals)]


# ── warnings ──


def test_each_level_warns_once_and_in_order():
    """Else a person learns to ignore the warnings, or gets none."""
    monitor = Monitor([regime_of(1000)])
    assert passed(monitor, flop=500) == []
    assert passed(monitor, flop=501) == [("demo.small", 50)]
    assert passed(monitor, flop=799) == []
    assert passed(monitor, flop=960) == [("demo.small", 80), ("demo.small", 95)]
    assert passed(monitor, flop=1000) == []
    assert passed(monitor, flop=1001) == [("demo.small", 100)]
    assert passed(monitor, flop=10**30) == []


def test_a_law_that_says_at_least_warns_at_the_number():
    monitor = Monitor([regime_of(1000, operator=">=")], levels=(100,))
    assert passed(monitor, flop=999) == []
    assert passed(monitor, flop=1000) == [("demo.small", 100)]


def test_what_the_ledger_already_holds_is_not_said_again():
    """Else each restart of a long run signs the same attestation anew."""
    already = (("demo.small", 80), ("demo.small", 50), ("another.run", 100))
    monitor = Monitor([regime_of(1000)], already=already)
    assert passed(monitor, flop=900) == []
    assert passed(monitor, flop=960) == [("demo.small", 95)]


def test_integer_operations_count_where_the_law_counts_them():
    """Else an int8 run passes an American threshold without a warning."""
    american = regime_of(
        id="demo.int", unit="integer or floating-point operations", counts=("floating-point-and-integer",)
    )
    monitor = Monitor([regime_of(1000), american], levels=(100,))
    (warning,) = monitor.observe(flop=800, int_op=300)
    assert (warning.regime, warning.flop) == ("demo.int", 1100)


def test_thresholds_of_law_are_compared_without_a_float():
    monitor = Monitor([regime_of(10**25)], levels=(100,))
    assert passed(monitor, flop=10**25) == []
    assert passed(monitor, flop=10**25 + 1) == [("demo.small", 100)]


def test_a_warning_travels_as_the_account_reads_it():
    """Else a warning is written that no restart finds again."""
    warning = ThresholdWarning(regime="demo.small", percent=80, flop=900, threshold=1000, operator=">")
    travelled = wire.decode(wire.encode(warning.to_wire()))
    assert travelled == {
        "regime": "demo.small",
        "percent": "80",
        "flop": "900",
        "threshold": "1000",
        "operator": ">",
        "message": "demo.small: 900 FLOP so far, past 80 % of the number (> 1000 FLOP), with nothing left out",
    }


def test_the_last_warning_says_that_the_number_itself_is_passed():
    warning = ThresholdWarning(regime="demo.small", percent=100, flop=1001, threshold=1000, operator=">")
    assert "past the number (> 1000 FLOP)" in warning.message


@pytest.mark.parametrize("levels", [(), (0, 50), (80, 50), (50, 50)])
def test_levels_that_do_not_rise_are_refused(levels):
    with pytest.raises(ValueError, match="not percentages that rise"):
        Monitor([regime_of()], levels=levels)


def test_a_regime_watched_twice_is_refused():
    with pytest.raises(ValueError, match="watched twice"):
        Monitor([regime_of(1), regime_of(2)])


# ── the clerk ──


@pytest.fixture(name="clerk")
def _clerk():
    clerk = Clerk()
    yield clerk
    clerk.close(timeout_s=PATIENCE_S)
    assert [thread.name for thread in threading.enumerate() if thread.name == "flopmeter-clerk"] == []


def collect(clerk, count):
    outcomes = []
    deadline = time.monotonic() + PATIENCE_S
    while len(outcomes) < count and time.monotonic() < deadline:
        outcomes += clerk.collect()
        time.sleep(0.001)
    return outcomes


def test_jobs_are_done_in_order_beside_the_training(clerk):
    for number in range(3):
        clerk.submit(lambda number=number: (number, threading.current_thread().name), about=f"job {number}")
    outcomes = collect(clerk, 3)
    assert [(one.about, one.is_done, one.reason) for one in outcomes] == [
        ("job 0", True, ""),
        ("job 1", True, ""),
        ("job 2", True, ""),
    ]
    assert [one.value for one in outcomes] == [(number, "flopmeter-clerk") for number in range(3)]
    assert clerk.collect() == []


class UnprintableError(Exception):
    """A foreign error that fails again when it is printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no token in the slot"), "RuntimeError: no token in the slot"),
        (RuntimeError("two\nlines"), "RuntimeError: two; lines"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (UnprintableError(), "UnprintableError"),
    ],
)
def test_a_job_that_fails_is_an_outcome_and_the_next_is_done(clerk, error, reason):
    """Else a signer without its token ends a training that cost millions, or all later attestations."""

    def fail():
        raise error

    clerk.submit(fail, about="signing")
    clerk.submit(lambda: "signed")
    failed, done = collect(clerk, 2)
    assert (failed.about, failed.is_done, failed.value) == ("signing", False, None)
    assert reason in failed.reason
    assert "\n" not in failed.reason
    assert (done.is_done, done.value) == (True, "signed")


def test_a_job_that_hangs_delays_nobody_and_is_given_up_at_the_end():
    """Else training stands still, or never ends, because a signing service does not answer."""
    clerk, release, has_begun = Clerk(), threading.Event(), threading.Event()

    def hang():
        has_begun.set()
        release.wait(PATIENCE_S)
        return "late"

    started = time.monotonic()
    clerk.submit(hang, about="slow")
    clerk.submit(lambda: "never", about="behind it")
    assert has_begun.wait(PATIENCE_S)
    assert clerk.collect() == []
    clerk.close(timeout_s=0.01)
    assert time.monotonic() - started < PATIENCE_S / 2
    outcomes = clerk.collect()
    assert [(one.about, one.is_done) for one in outcomes] == [("slow", False), ("behind it", False)]
    assert outcomes[0].reason == "not finished 0.01 s after the end of the run"
    release.set()
    clerk.close(timeout_s=PATIENCE_S)
    assert clerk.collect() == [], "what comes late is dropped: it was already reported as given up"


def test_a_hanging_job_gathers_no_endless_queue():
    """Else a run that warns often fills the memory behind a dead signer."""
    clerk, release, has_begun = Clerk(max_waiting=2), threading.Event(), threading.Event()

    def hang():
        has_begun.set()
        release.wait(PATIENCE_S)

    clerk.submit(hang)
    assert has_begun.wait(PATIENCE_S)
    for number in range(4):
        clerk.submit(lambda: None, about=str(number))
    assert [(one.about, one.reason) for one in clerk.collect()] == [
        ("2", "2 jobs already wait for one that does not end"),
        ("3", "2 jobs already wait for one that does not end"),
    ]
    release.set()
    assert [one.is_done for one in collect(clerk, 3)] == [True] * 3
    clerk.close(timeout_s=PATIENCE_S)


def test_closing_waits_for_what_is_under_way():
    """Else the attestation at the end of a short run is lost."""
    clerk = Clerk()
    clerk.submit(lambda: time.sleep(0.05) or "signed")
    clerk.close(timeout_s=PATIENCE_S)
    (outcome,) = clerk.collect()
    assert outcome.value == "signed"


def test_a_closed_clerk_refuses_with_an_outcome_and_may_be_closed_again(clerk):
    clerk.close(timeout_s=0)
    clerk.close(timeout_s=0)
    clerk.submit(lambda: "signed", about="late")
    (outcome,) = clerk.collect()
    assert (outcome.about, outcome.is_done, outcome.reason) == ("late", False, "the run has ended")


def test_no_thread_is_there_before_the_first_job_nor_after_the_last(clerk):
    """Else every metered run carries a thread, and forks of it are warned about, for nothing."""

    def names():
        return [thread.name for thread in threading.enumerate()]

    assert "flopmeter-clerk" not in names()
    for _ in range(2):
        clerk.submit(lambda: None)
        collect(clerk, 1)
        deadline = time.monotonic() + PATIENCE_S
        while "flopmeter-clerk" in names() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert "flopmeter-clerk" not in names()


def test_a_machine_without_threads_left_gives_an_outcome(clerk, monkeypatch):
    def refuse(_thread):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    clerk.submit(lambda: "signed", about="signing")
    (outcome,) = clerk.collect()
    assert (outcome.is_done, outcome.reason) == (False, "can't start new thread")


def test_a_process_that_did_not_make_the_clerk_gets_nothing_from_it(clerk, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(clerk, "_owner", -1)
        clerk.submit(lambda: "signed")
        assert clerk.collect() == []
        clerk.close(timeout_s=0)
    clerk.submit(lambda: "signed here")
    assert [one.value for one in collect(clerk, 1)] == ["signed here"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # threads of other tests' libraries
def test_a_forked_child_leaves_the_clerk_alone(clerk):
    """Else a data loader's worker waits for ever on a lock that its parent's thread held."""
    with clerk._lock:  # as if the thread were in the middle of something
        child = os.fork()
        if child == 0:
            clerk._lock = None  # any use of it fails
            status = 1
            try:
                clerk.submit(lambda: None)
                status = 0 if clerk.collect() == [] else 2
                clerk.close(timeout_s=0)
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
