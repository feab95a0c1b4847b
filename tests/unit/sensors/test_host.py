"""The host's side: processor time and memory of a process and its children, by real ones and by a scripted psutil."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from flopmeter.host import HostUsage
from flopmeter.sensors.host import FORKED, LATE, UNREADABLE, WALK_NS, HostSampler

SECOND = 1_000_000_000
TICK = SECOND // 100
BUSY = "import time\nwhile time.process_time() < 0.3: pass\n"
BUSY_THEN_IDLE = BUSY + "print(flush=True)\ninput()"


class ScriptedError(Exception):
    """Stands for psutil.Error."""


class GoneError(ScriptedError):
    """Stands for psutil.NoSuchProcess."""


class DeniedError(ScriptedError):
    """Stands for psutil.AccessDenied."""


class ScriptedProcess:
    """A process with times in seconds and memory in bytes, or what it raises instead."""

    def __init__(self, pid, own=0.0, ended=0.0, rss=0, began=1.0):
        self.pid, self.own, self.ended, self.rss, self.began = pid, own, ended, rss, began

    def create_time(self):
        if isinstance(self.began, Exception):
            raise self.began
        return self.began

    def cpu_times(self):
        if isinstance(self.own, Exception):
            raise self.own
        return SimpleNamespace(user=self.own, system=0.0, children_user=self.ended, children_system=0.0)

    def memory_info(self):
        if isinstance(self.rss, Exception):
            raise self.rss
        return SimpleNamespace(rss=self.rss)


class Scripted:
    """A psutil of which a test says which processes there are; each walk is counted and takes `walk_ns`."""

    Error, NoSuchProcess, AccessDenied = ScriptedError, GoneError, DeniedError

    def __init__(self, *children, walk_ns=0):
        self.now_ns = self.walks = 0
        self.walk_ns = walk_ns
        self.own = ScriptedProcess(1, rss=100)
        self.own.children = self.find
        self.children = list(children)
        self.failure = None

    def find(self, *, recursive):
        assert recursive
        self.walks += 1
        self.now_ns += self.walk_ns
        return list(self.children)

    def Process(self):
        if self.failure:
            raise self.failure
        return self.own


@pytest.fixture
def started():
    """A sampler that has taken its first reading of a scripted psutil, whose clock lets it walk at each reading."""

    def start(*children, **options):
        library = Scripted(*children, **options)
        sampler = HostSampler(library=library, clock_ns=lambda: library.now_ns)
        sampler.start()
        return library, sampler

    return start


def after(library, sampler, seconds=10):
    """Take a reading later, and return what it found."""
    library.now_ns += seconds * SECOND
    sampler.sample()
    return sampler.read()


# ── with real processes ──


def start_child():
    """Start a child that works for 0.3 s and then waits; return when it waits."""
    child = subprocess.Popen([sys.executable, "-c", BUSY_THEN_IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    return child


def test_work_of_this_process_and_of_its_children_is_measured():
    """Else data loading, which runs in children, costs nothing."""
    sampler = HostSampler()
    sampler.start()
    child = start_child()
    try:
        before = time.process_time_ns()
        while time.process_time_ns() - before < 100_000_000:
            pass
        sampler._walk_after_ns = 0
        sampler.sample()
        alive = sampler.read()
    finally:
        child.communicate(b"\n")
    sampler.sample()
    ended = sampler.read()
    assert alive.cpu_ns >= SECOND * 4 // 10 - 4 * TICK
    assert alive.peak_bytes > psutil.Process().memory_info().rss // 2
    assert alive.cores == len(os.sched_getaffinity(0))
    assert alive.note == ""
    # Its time came with it while it lived: its end must not bring it again.
    assert ended.cpu_ns < SECOND * 2 // 10


def test_a_child_that_came_and_went_between_readings_is_measured():
    sampler = HostSampler()
    sampler.start()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    sampler.sample()
    assert sampler.read().cpu_ns >= SECOND * 3 // 10 - 2 * TICK


def test_a_child_that_nobody_waits_for_keeps_what_was_seen_of_it():
    """A parent that ignores its children's ends is never told their times; what was read of them stands."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        sampler = HostSampler()
        sampler.start()
        child = start_child()
        sampler._walk_after_ns = 0
        sampler.sample()
        child.communicate(b"\n")
        sampler.sample()
        assert sampler.read().cpu_ns >= SECOND * 3 // 10 - 2 * TICK
    finally:
        signal.signal(signal.SIGCHLD, handler)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_says_so_and_can_start_again():
    """Else it hands out its parent's figures as its own, or waits for a lock that a thread of the parent holds."""
    sampler = HostSampler()
    sampler.start()
    sampler._handover.acquire()
    reader, writer = multiprocessing.Pipe(duplex=False)
    if not (pid := os.fork()):
        try:
            sampler.sample()
            first = sampler.read()
            sampler.start()
            writer.send((first, sampler.read().note))
        finally:
            os._exit(0)
    sampler._handover.release()
    assert reader.poll(20)
    assert reader.recv() == (HostUsage(note=FORKED), "")
    os.waitpid(pid, 0)


def test_without_psutil_it_is_said(monkeypatch):
    """Else an import error ends the training, or its processor time is signed as zero."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    sampler = HostSampler()
    assert sampler.read() == HostUsage(note="the host's usage is not read")
    sampler.start()
    sampler.sample()
    usage = sampler.read()
    assert (usage.cpu_ns, usage.peak_bytes, usage.cores) == (None, None, None)
    assert "psutil does not load" in usage.note


def test_psutil_is_loaded_by_the_start_alone():
    code = """if True:
        import sys
        from flopmeter.sensors.host import HostSampler
        sampler = HostSampler()
        print("psutil" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False"]


# ── with scripted ones ──


def test_only_what_was_used_since_the_start_is_counted(started):
    """Else the hours of a process before it was metered are the meter's."""
    library, sampler = started(ScriptedProcess(2, own=500.0))
    library.own.own = 1000.0
    assert after(library, sampler).cpu_ns == 1000 * SECOND
    assert after(library, sampler).cpu_ns == 0


def test_a_child_that_is_found_late_brings_all_of_its_time(started):
    library, sampler = started()
    library.children.append(ScriptedProcess(2, own=3.0, ended=1.5))
    assert after(library, sampler).cpu_ns == 4.5 * SECOND


def test_a_child_that_ends_brings_what_was_not_seen_and_no_more(started):
    library, sampler = started()
    child = ScriptedProcess(2, own=3.0, ended=1.0)
    library.children.append(child)
    assert after(library, sampler).cpu_ns == 4 * SECOND
    child.own = GoneError()
    library.children.clear()
    library.own.ended = 5.0
    assert after(library, sampler).cpu_ns == SECOND


def test_a_grandchild_and_its_parent_may_end_at_once(started):
    library, sampler = started()
    library.children += [ScriptedProcess(2, own=3.0), ScriptedProcess(3, own=2.0)]
    after(library, sampler)
    library.children.clear()
    library.own.ended = 5.0
    assert after(library, sampler).cpu_ns == 0


def test_one_that_waits_to_be_waited_for_is_not_counted_twice(started):
    """It has times but no memory, and comes back in its parent's times."""
    child = ScriptedProcess(2)
    library, sampler = started(child)
    child.own, child.rss = 3.0, GoneError()
    assert after(library, sampler).cpu_ns == 3 * SECOND
    library.children.clear()
    library.own.ended = 3.0
    assert after(library, sampler).cpu_ns == 0


def test_another_process_with_a_number_that_was_used_before_is_a_new_one(started):
    library, sampler = started(ScriptedProcess(2, own=50.0))
    library.children[0] = ScriptedProcess(2, own=60.0, began=2.0)
    library.own.ended = 51.0
    assert after(library, sampler).cpu_ns == 61 * SECOND


def test_between_walks_another_process_with_a_known_number_is_left_out(started):
    library, sampler = started(ScriptedProcess(2, own=50.0))
    library.children[0].own = 0.5
    library.own.own = 10.0
    assert after(library, sampler, seconds=1).cpu_ns == 10 * SECOND


def test_the_most_memory_of_all_together_is_kept_until_it_is_read(started):
    child = ScriptedProcess(2, rss=50)
    library, sampler = started(child)
    child.rss = 900
    library.now_ns += SECOND
    sampler.sample()
    child.rss = 10
    assert after(library, sampler).peak_bytes == 1000
    assert sampler.read().peak_bytes == 110


def test_a_child_that_cannot_be_read_is_noted(started):
    library, sampler = started(ScriptedProcess(2, own=DeniedError()), ScriptedProcess(3))
    library.children[1].own = 1.0
    usage = after(library, sampler)
    assert (usage.cpu_ns, usage.note) == (SECOND, UNREADABLE)


def test_a_reading_that_fails_is_missing_and_the_next_one_makes_up_for_it(started):
    """Out of file handles, say: training goes on, and so must we."""
    library, sampler = started()
    library.failure = OSError("Too many open files")
    library.own.own = 2.0
    usage = after(library, sampler)
    assert usage.cpu_ns is None
    assert "Too many open files" in usage.note
    library.failure = None
    library.own.own = 3.0
    assert after(library, sampler) == HostUsage(cpu_ns=3 * SECOND, peak_bytes=100, cores=len(os.sched_getaffinity(0)))


def test_a_child_that_ends_during_the_walk_does_not_spoil_the_reading(started):
    library, sampler = started()
    library.children.append(ScriptedProcess(2, began=GoneError()))
    library.own.own = 1.0
    assert after(library, sampler).cpu_ns == SECOND


def test_whatever_else_psutil_raises_stays_with_us(started):
    library, sampler = started()
    library.own.own = ValueError("a line of /proc that nobody expected")
    assert "nobody expected" in after(library, sampler).note


def test_a_first_reading_that_fails_is_said():
    """What was used until the second one is lost, and must not pass for nothing."""
    library = Scripted()
    library.failure = OSError("Too many open files")
    sampler = HostSampler(library=library, clock_ns=lambda: library.now_ns)
    sampler.start()
    library.failure = None
    library.own.own = 5.0
    usage = after(library, sampler)
    assert (usage.cpu_ns, usage.note) == (0, LATE)


def test_all_processes_are_walked_over_rarely(started):
    """A node with thousands of processes takes a tenth of a second to walk over: not each second."""
    library, sampler = started()
    for _ in range(100):
        after(library, sampler, seconds=0.1)
    assert library.walks == 1 + 10 * SECOND // WALK_NS


def test_the_longer_a_walk_takes_the_rarer_it_is(started):
    library, sampler = started(walk_ns=SECOND // 10)
    for _ in range(199):
        after(library, sampler, seconds=1)
    assert library.walks == 2


def test_reading_while_another_thread_samples_loses_nothing(started):
    library, sampler = started()
    total = sampler.read()

    def work():
        for _ in range(300):
            library.own.own += 1.0
            sampler.sample()

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        total += sampler.read()
    thread.join()
    assert (total + sampler.read()).cpu_ns == 300 * SECOND
