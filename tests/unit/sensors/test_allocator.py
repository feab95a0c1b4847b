"""The allocator's counters, on a scripted allocator: what is read, and when nothing can be told."""

import pytest
import torch

from flopmeter.sensors import allocator as allocators
from flopmeter.sensors.allocator import could_be_same, device_marks, devices_in_use, marks_between


class ScriptedAllocator:
    """Stands for torch.cuda's: two devices, counters that a test moves."""

    def __init__(self) -> None:
        self.counted = {0: [0, 0], 1: [0, 0]}
        self.current, self.reads = 0, 0
        self.backend = "native"
        self.without: tuple[str, ...] = ()

    def allocate(self, size: int, *, device: int = 0) -> None:
        self.counted[device][0] += 1
        self.counted[device][1] += size

    def stats(self, index: int) -> dict[str, object]:
        self.reads += 1
        if self.backend == "pluggable":
            raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats.")
        number, size = self.counted[index]
        content = {
            "allocation": {"all": {"current": 3, "peak": 9, "allocated": number, "freed": number - 3}},
            "requested_bytes": {"all": {"current": 5, "peak": 9, "allocated": size, "freed": size - 5}},
            "num_ooms": 0,
        }
        return {name: value for name, value in content.items() if name not in self.without}


@pytest.fixture(params=["private", "public"])
def allocator(request, monkeypatch):
    """A scripted allocator, read by torch's private name and, as in a build without it, by the public one."""
    scripted = ScriptedAllocator()
    monkeypatch.setattr(allocators, "_read", scripted.stats if request.param == "private" else None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: scripted.backend)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: scripted.current)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", scripted.stats)
    return scripted


def test_without_cuda_there_are_no_marks_and_cuda_is_not_initialised(monkeypatch):
    """Else metering a CPU run takes a context, and hundreds of megabytes, on a GPU that someone else wanted."""

    def refuse(*_args):
        raise AssertionError("asked a device")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    for name in ("current_device", "get_allocator_backend", "memory_stats_as_nested_dict", "device_count"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    assert device_marks() == device_marks((0,)) == devices_in_use() == ()


def test_marks_are_allocations_and_bytes_asked_for(allocator):
    allocator.allocate(1)
    before = device_marks()
    allocator.allocate(100)
    allocator.allocate(20)
    assert marks_between(before, device_marks()) == (2, 120)


def test_five_and_fifty_iterations_leave_different_marks(allocator):
    """Else work under no_grad, outside of any module, is replayed as what it was the last time."""
    allocator.allocate(1)

    def iterate(times: int) -> tuple[int, ...]:
        before = device_marks()
        for _ in range(times):
            allocator.allocate(64)
        return marks_between(before, device_marks())

    assert iterate(5) == iterate(5)
    assert iterate(5) != iterate(50)


def test_it_is_the_current_device_unless_others_are_named(allocator):
    allocator.allocate(7, device=1)
    allocator.allocate(3)
    assert device_marks() == (1, 3)
    allocator.current = 1
    assert device_marks() == (1, 7)
    assert device_marks((0, 1)) == (1, 3, 1, 7)
    assert devices_in_use() == (0, 1)


@pytest.mark.parametrize("backend", ["cudaMallocAsync", "pluggable"])
def test_an_allocator_that_does_not_count_is_not_asked(allocator, backend):
    """Zeros that never change would vouch for every passage; an exception at every boundary would cost more than it."""
    allocator.backend = backend
    assert device_marks() == ()
    assert allocator.reads == 0


def test_a_device_that_was_not_used_is_not_in_use(allocator):
    allocator.allocate(7, device=1)
    assert devices_in_use() == (1,)


def test_an_allocator_that_raises_gives_no_marks(allocator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    allocator.backend = "pluggable"
    assert device_marks() == ()
    assert devices_in_use() == ()


@pytest.mark.usefixtures("allocator")
def test_counters_that_never_moved_are_no_marks():
    """With caching switched off they stay at zero for ever, and would vouch for whatever runs."""
    assert device_marks() == devices_in_use() == ()


@pytest.mark.parametrize("name", ["allocation", "requested_bytes"])
def test_a_build_without_one_of_the_counters_gives_no_marks(allocator, name):
    allocator.allocate(1)
    allocator.without = (name,)
    assert device_marks() == ()


def test_counters_that_were_reset_in_between_say_nothing():
    """Somebody who profiles resets them: a negative difference is no witness, and zero would be a false one."""
    assert marks_between((10, 1000), (2, 200)) == ()


@pytest.mark.parametrize(("before", "after"), [((), (1, 2)), ((1, 2), ()), ((), ()), ((1, 2), (1, 2, 3, 4))])
def test_what_was_not_read_twice_says_nothing(before, after):
    assert marks_between(before, after) == ()


def test_no_allocation_is_a_mark_too():
    assert marks_between((5, 50), (5, 50)) == (0, 0)


@pytest.mark.parametrize(
    ("counted", "uncounted", "is_possible"),
    [
        ((204, 14753292), (196, 14229004), True),  # as measured: eight gradients met, 65,536 bytes each
        ((204, 14753292), (204, 14753292), True),
        ((204, 14753292), (248, 18456076), False),  # with checkpointing
        ((204, 14753292), (196, 18456076), False),
        ((204, 14753292), (), False),
        ((), (), False),
    ],
)
def test_an_uncounted_passage_allocates_as_much_as_the_counted_one_or_less(counted, uncounted, is_possible):
    """Else no replay would ever be vouched for on a GPU: torch saves allocations where no mode is on."""
    assert could_be_same(counted, uncounted) is is_possible


@pytest.mark.parametrize("name", ["is_initialized", "get_allocator_backend", "memory_stats_as_nested_dict"])
def test_torch_still_has_what_is_read(name):
    """These names are public; a torch without one of them would turn the witness off without a word."""
    assert callable(getattr(torch.cuda, name))
