"""Threads that start while a passage is counted, and what is left of us after it."""

import sys
import threading

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.threads import OUTLIVED, ThreadWatch
from flopmeter.sensors.torch_ops import OpRecorder


@pytest.fixture
def latecomers():
    return []


@pytest.fixture
def watch(latecomers):
    """A watch that is started, and stopped whatever happens."""

    def make():
        return OpRecorder(lambda: "forward", raise_error, FormulaBook.standard())

    def raise_error(error):
        raise error

    found = ThreadWatch(make, lambda: latecomers.append(1))
    found.start()
    yield found
    found.stop()


def multiply():
    torch.mm(torch.ones(2, 3), torch.ones(3, 4))


def run(work=multiply):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def products(calls):
    return sum(times for key, times in calls.items() if "op='aten.mm'" in str(key))


def test_a_thread_that_starts_while_a_passage_is_counted_is_counted_with_it(watch):
    """If this failed, a model that runs its branches in threads would be metered at a fraction."""
    calls = {}
    watch.follow()
    run()
    run()
    assert watch.gather(calls).is_done
    assert products(calls) == 2


def test_what_threads_run_is_added_to_what_was_counted_already(watch):
    first, second = {}, {}
    watch.follow()
    run()
    watch.gather(first)
    second.update(first)
    watch.follow()
    run()
    watch.gather(second)
    assert products(second) == 2 * products(first)


def test_a_thread_that_starts_between_counted_passages_is_left_alone(watch):
    """If this failed, every thread of a program would be slowed down for nothing."""
    calls, depths = {}, []

    def look():
        depths.append(torch._C._len_torch_dispatch_stack())
        multiply()

    run(look)
    watch.gather(calls)
    assert (depths, calls) == ([0], {})


def test_a_thread_that_runs_on_is_told_and_its_later_work_is_heard_of(watch, latecomers):
    """If this failed, work that nobody counted would be missing without a word."""
    begun, go_on = threading.Event(), threading.Event()

    def work():
        multiply()
        begun.set()
        go_on.wait(10)
        multiply()
        multiply()

    calls = {}
    watch.follow()
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    assert not watch.gather(calls).is_done
    assert products(calls) == 1
    go_on.set()
    thread.join()
    assert latecomers, OUTLIVED
    assert watch.gather(calls).is_done
    assert products(calls) == 1


def test_a_thread_that_ends_leaves_no_mode_behind(watch, monkeypatch):
    """If this failed, torch would let go of it when Python may be gone, and abort a process that ends just then."""
    depths = []

    def look_after(recorder):
        switch_off(recorder)
        depths.append((threading.get_ident(), torch._C._len_torch_dispatch_stack()))

    switch_off = OpRecorder.switch_off
    monkeypatch.setattr(OpRecorder, "switch_off", look_after)
    threads = []
    watch.follow()
    run(lambda: threads.append((threading.get_ident(), torch._C._len_torch_dispatch_stack())))
    assert threads[0][1] == 1
    assert depths == [(threads[0][0], 0)]
    watch.gather({})


def test_a_thread_that_runs_no_operator_is_no_latecomer(watch, latecomers):
    """If this failed, a progress bar's thread would make a gap of every run."""
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(10)

    watch.follow()
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    assert watch.gather({}).is_done
    go_on.set()
    thread.join()
    assert latecomers == []


def test_a_profile_function_of_the_users_is_called_as_before():
    """If this failed, a profiler that follows threads would go blind beside the meter."""
    events = []

    def mine(frame, event, _arg):
        events.append((frame.f_code.co_name, event))

    threading.setprofile(mine)
    watch = ThreadWatch(lambda: OpRecorder(lambda: "forward", lambda error: None, FormulaBook.standard()), lambda: None)
    try:
        watch.start()
        watch.follow()
        run()
        calls = {}
        watch.gather(calls)
        watch.stop()
        assert threading.getprofile() is mine
    finally:
        threading.setprofile(None)
    assert ("multiply", "call") in events
    assert products(calls) == 1


def test_somebody_who_came_after_us_is_not_thrown_out(watch):
    """If this failed, stopping the meter would switch off a profiler that was started meanwhile."""

    def theirs(_frame, _event, _arg):
        return None

    threading.setprofile(theirs)
    try:
        watch.stop()
        assert threading.getprofile() is theirs
    finally:
        threading.setprofile(None)


def test_nothing_is_left_after_stop(watch):
    """If this failed, threads that start after training would still carry something of ours."""
    watch.stop()
    assert threading.getprofile() is None
    profiles = []
    run(lambda: profiles.append(sys.getprofile()))
    assert profiles == [None]


def test_in_a_thread_that_is_counted_nothing_of_ours_profiles_it(watch):
    """If this failed, each call of a Python function in it would cost one of ours."""
    profiles = []
    watch.follow()
    run(lambda: profiles.append(sys.getprofile()))
    watch.gather({})
    assert profiles == [None]
