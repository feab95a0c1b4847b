"""Who shares a device, by the fake library's lists; what a container's PIDs are like was read, not tried on a GPU."""

import os
from dataclasses import replace

import pynvml
import pytest

from flopmeter.sensors.processes import OUTERMOST, Numbers, Sharing, read_numbers, read_sharing
from flopmeter.testing.fake_clusters import h100, sliced_h100
from flopmeter.testing.fake_devices import FakeMachine, FakeProcess, Fault
from flopmeter.testing.fake_nvml import FakeNvml

OURS = 4242
ON_THE_MACHINE = Numbers(frozenset({OURS}), is_outermost=True)
IN_A_CONTAINER = Numbers(frozenset({OURS}), is_outermost=False)


@pytest.fixture
def seen():
    """What is found on a device that has processes with these numbers."""

    def look(*pids, numbers=ON_THE_MACHINE, faults=(), kind="compute"):
        device = replace(h100(), processes=tuple(FakeProcess(pid=pid, kind=kind) for pid in pids))
        with FakeNvml(FakeMachine((device,), faults=faults)):
            pynvml.nvmlInit()
            return read_sharing(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0), numbers)

    return look


def test_a_device_of_ours_alone_has_no_others(seen):
    assert seen(OURS) == Sharing(0, is_ours_listed=True)


def test_others_are_counted_once_each(seen):
    """Else a device that eight jobs share is signed as if its energy had gone into one."""
    assert seen(OURS, 7, 8, 8) == Sharing(2, is_ours_listed=True, least=2)


def test_a_list_without_us_is_noted(seen):
    found = seen(7)
    assert (found.others, found.is_ours_listed, found.least) == (1, False, 0)
    assert "not in the driver's list" in found.note


@pytest.mark.parametrize("pids", [(), (OURS,), (645400, 645401)])
def test_inside_of_a_container_nobody_is_taken_for_anybody(seen, pids):
    """Our number in there is somebody else's out here: a stranger would be taken for us, or we for a stranger."""
    found = seen(*pids, numbers=IN_A_CONTAINER)
    assert found.others is None
    assert found.least == max(0, len(pids) - 1)
    assert found.is_ours_listed is (OURS in pids)
    assert f"{len(pids)} processes are listed" in found.note


def test_graphics_is_no_company(seen):
    assert seen(7, kind="graphics").others == 0


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 2**32 - 1])
def test_numbers_that_no_process_can_have_are_not_counted(seen, pid):
    """Drivers of R535 and some bindings disagreed about the list, and showed memory sizes as processes."""
    found = seen(OURS, pid)
    assert (found.others, found.is_ours_listed) == (None, None)
    assert "makes no sense" in found.note


@pytest.mark.parametrize(
    "code",
    [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND],
)
def test_a_list_that_cannot_be_had_is_unknown_and_not_empty(seen, code):
    """Else nobody is said to share a device that nobody could look at."""
    found = seen(OURS, faults=(Fault("nvmlDeviceGetComputeRunningProcesses_v3", code),))
    assert (found.others, found.is_ours_listed) == (None, None)
    assert "are not known" in found.note


def test_an_instance_has_a_list_of_its_own():
    (device,) = sliced_h100().devices
    mine, other = device.migs
    mine = replace(mine, processes=(FakeProcess(pid=OURS, gi=1, ci=0), FakeProcess(pid=7, gi=1, ci=0)))
    with FakeNvml(FakeMachine((replace(device, migs=(mine, other)),))):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(mine.uuid)
        assert read_sharing(pynvml, handle, ON_THE_MACHINE) == Sharing(1, is_ours_listed=True, least=1)


@pytest.fixture
def proc(tmp_path):
    """A /proc of our own with these numbers in this namespace."""

    def make(words, namespace=OUTERMOST):
        (tmp_path / "self" / "ns").mkdir(parents=True)
        (tmp_path / "self" / "status").write_text(f"Name:\tpython\n{words}\nThreads:\t1\n")
        (tmp_path / "self" / "ns" / "pid").symlink_to(namespace)
        return tmp_path

    return make


def test_the_machines_own_namespace_is_known_by_its_number(proc):
    assert read_numbers(proc("NSpid:\t4242")) == Numbers(frozenset({4242, os.getpid()}), is_outermost=True)


def test_a_process_in_nested_namespaces_has_several_numbers(proc):
    numbers = read_numbers(proc("NSpid:\t4242\t7", namespace="pid:[4026532611]"))
    assert numbers == Numbers(frozenset({4242, 7, os.getpid()}), is_outermost=False)


def test_without_proc_nothing_is_trusted(tmp_path):
    assert read_numbers(tmp_path) == Numbers(frozenset({os.getpid()}), is_outermost=False)


def test_a_kernel_that_says_nothing_of_namespaces_is_no_trouble(proc):
    assert read_numbers(proc("Uid:\t0")).pids == {os.getpid()}


def test_we_are_asked_for_where_nobody_says_who_we_are():
    device = replace(h100(), processes=(FakeProcess(pid=os.getpid()),))
    with FakeNvml(FakeMachine((device,))):
        pynvml.nvmlInit()
        assert read_sharing(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)).is_ours_listed
