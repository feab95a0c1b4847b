"""The census of launches: what belongs to no operator is listed, and a program's own profiler comes first.

Nothing here ran on a GPU: what a device would tell is written down by hand, in the form that torch's events have.
"""

import inspect
import itertools
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd.profiler import profile

from flopmeter import Meter
from flopmeter.sensors import census
from flopmeter.sensors.budget import Budget
from flopmeter.sensors.census import Census, list_unowned, name_kernel
from flopmeter.sensors.launches import launched
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker

CPU, CUDA = (getattr(torch._C._autograd.DeviceType, name) for name in ("CPU", "CUDA"))
METERED, ENGINE, STRANGER = 11, 12, 13


@dataclass(frozen=True)
class Event:
    """What torch's events tell; only what is asked."""

    label: str
    start: int = 0
    end: int = 0
    thread: int = METERED
    number: int = 0
    linked: int = 0
    kind: int = 0
    device: object = field(default=CPU, repr=False)

    def name(self):
        return self.label

    def start_ns(self):
        return self.start

    def duration_ns(self):
        return self.end - self.start

    def device_resource_id(self):
        return self.thread

    def correlation_id(self):
        return self.number

    def linked_correlation_id(self):
        return self.linked

    def scope(self):
        return self.kind

    def device_type(self):
        return self.device

    def is_user_annotation(self):
        return self.kind == 7


KNOWN = Event("flopmeter::noted", 0, 1, number=1)
RUNS = Event("autograd::engine::evaluate_function: FBackward", 100, 200, thread=ENGINE, number=2)


def launch(at, name="void mine<float>(int)", *, thread=METERED, linked=0, by="cudaLaunchKernel", number=900):
    """A call of the driver's, and what the device ran for it, later and on a stream."""
    return (
        Event(by, at, at + 2, thread=thread, number=number, linked=linked),
        Event(name, at + 500, at + 600, thread=7, number=number, linked=linked, device=CUDA),
    )


def found(*events, met=()):
    return list_unowned([KNOWN, RUNS, *events], frozenset(met))


def test_a_kernel_that_no_record_holds_is_listed_once_for_each_launch():
    """If this failed, a kernel of a library that nobody knows would cost nothing."""
    assert found(*launch(50), *launch(60, number=901)) == {("cuda::mine", False): 2}


def test_a_kernel_of_an_operator_is_not_listed():
    """Else each operator would stand in the list of what is not counted."""
    assert found(Event("aten::mm", 40, 60, number=3), *launch(50, linked=3)) == {}


@pytest.mark.parametrize("linked", [0, 3, 4])
def test_an_operator_around_the_innermost_record_counts(linked):
    """Else a kernel within a label, or a library's own record, inside of an operator would be listed."""
    outer, inner = Event("aten::linear", 40, 80, number=3), Event("a label", 45, 70, number=4, kind=7)
    assert found(outer, inner, *launch(50, linked=linked)) == {}


def test_the_link_counts_where_clocks_of_device_and_host_disagree():
    assert found(Event("aten::mm", 40, 45, number=3), *launch(50, linked=3)) == {}


def test_an_operator_that_has_ended_or_runs_elsewhere_owns_nothing():
    """If this failed, one operator would hide all kernels that come after it."""
    events = (Event("aten::mm", 40, 45, number=3), Event("aten::mm", 40, 90, thread=ENGINE, number=4))
    assert found(*events, *launch(50)) == {("cuda::mine", False): 1}


@pytest.mark.parametrize(
    "record",
    [
        Event("aten::mm", 40, 60, number=3, kind=7),  # a label that somebody called so
        Event("FusedLinear", 40, 60, number=3),  # a custom autograd function
        Event("torch::autograd::CppNode<Mine>", 40, 60, number=3),
        Event("Optimizer.step#Mine.step", 40, 60, number=3, kind=7),
    ],
)
def test_a_record_that_is_no_operator_owns_nothing(record):
    """If this failed, whatever runs in a custom function, or under a label, would be taken as counted."""
    assert found(record, *launch(50, linked=3)) == {("cuda::mine", False): 1}


def test_an_operator_of_a_library_owns_its_kernels_if_the_hook_was_asked_for_it():
    """Torch runs one that was registered for no device without asking any mode: nobody counted it."""
    record = Event("torch_scatter::segment_csr", 40, 60, number=3)
    assert found(record, *launch(50, linked=3), met=["torch_scatter::segment_csr"]) == {}
    assert found(record, *launch(50, linked=3), met=["aten::mm"]) == {("cuda::mine", False): 1}


def test_what_the_engine_runs_beside_operators_is_backward():
    inside = launch(150, thread=ENGINE, linked=2)
    assert found(*inside) == {("cuda::mine", True): 1}
    operator = Event("aten::mm", 140, 160, thread=ENGINE, number=3)
    assert found(operator, *inside) == {}


def test_a_compiled_region_owns_its_kernels():
    """Else each kernel of Inductor's would be listed beside the graph that it was counted from."""
    region = Event("## Call CompiledFxGraph fabc ##", 40, 60, number=3, kind=7)
    assert found(region, *launch(50, "triton_poi_fused_0", by="cuLaunchKernel")) == {}


def test_torch_labels_its_regions_as_is_expected():
    """If this failed, this version of torch would have the kernels of all compiled code listed."""
    output_code = pytest.importorskip("torch._inductor.output_code")
    assert 'f"## Call CompiledFxGraph ' in inspect.getsource(output_code)


def test_a_launch_that_another_sensor_notes_is_not_listed_twice():
    assert found(Event(census.NOTED, 40, 60, number=3), *launch(50, by="cuLaunchKernelEx")) == {}


@pytest.mark.parametrize("by", ["cudaMemcpyAsync", "cudaMemsetAsync", "cudaGraphLaunch", "cudaDeviceSynchronize"])
def test_copies_and_replays_of_graphs_are_not_listed(by):
    assert found(*launch(50, by=by)) == {}


def test_a_label_that_torch_draws_on_the_device_too_is_no_kernel():
    """Its number is of another row than those of launches, and may be the same."""
    label = Event("Optimizer.step#AdamW.step", 500, 600, thread=7, number=900, kind=7, device=CUDA)
    assert found(label, *launch(50)) == {("cuda::mine", False): 1}


def test_collectives_are_not_listed():
    assert found(*launch(50, "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)")) == {}


@pytest.mark.parametrize("by", ["cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "hipModuleLaunchKernel"])
def test_all_ways_to_launch_a_kernel_are_known(by):
    assert found(*launch(50, by=by)) == {("cuda::mine", False): 1}


def test_what_cannot_be_judged_is_left_out():
    """Else kernels of before the census, and those of threads that torch's profiler does not see, would be listed."""
    _, kernel = launch(50)
    assert found(kernel) == {}
    assert found(*launch(50, thread=STRANGER)) == {}


def test_many_names_become_one():
    events = [event for index in range(census.MAX_NAMES + 5) for event in launch(50, f"k{index}", number=900 + index)]
    listed = found(*events)
    assert len(listed) == census.MAX_NAMES + 1
    assert listed[census.OTHERS, False] == 5


@pytest.mark.parametrize(
    ("told", "listed"),
    [
        ("void at::native::vectorized_elementwise_kernel<4, F>(int, F)", "at.native.vectorized_elementwise_kernel"),
        ("void (anonymous namespace)::softmax<float>(float*)", "softmax"),
        ("triton_poi_fused_0", "triton_poi_fused_0"),
        ("my kernel", "my_kernel"),
        ("k" * 200, "k" * census.MAX_LENGTH),
        ("", "kernel"),
    ],
)
def test_a_kernel_is_listed_without_what_it_was_given(told, listed):
    """Else a run would list one kernel under as many names as it has types, and a ledger would hold pages of them."""
    assert name_kernel(told) == f"cuda::{listed}"


class Results:
    def __init__(self, events):
        self._events = events

    def events(self):
        return self._events


class StandIn:
    """In place of torch's profiler: it says what it is told to."""

    def __init__(self, events=(), *, fails=""):
        self.kineto_results, self.fails, self.use_device = Results(events), fails, "cuda"
        self.entered = self.left = 0

    def __enter__(self):
        self.entered += 1
        if self.fails == "enter":
            raise RuntimeError("no CUPTI here")
        return self

    def __exit__(self, *_):
        self.left += 1
        if self.fails == "exit":
            raise RuntimeError("no CUPTI here")


class Sink:
    def __init__(self):
        self.lost, self.errors = [], []

    def passage_lost(self, *, reason, ns):
        self.lost.append((reason, ns))

    def sensor_failed(self, error, *, ns=None):
        self.errors.append((str(error), ns))


@pytest.fixture
def usable(monkeypatch):
    """As if a device were in use, and nothing captured."""
    monkeypatch.setattr(census, "_is_usable", lambda: True)


class Taken:
    """A census with all that it needs; what it has noted at the end of a passage."""

    def __init__(self, *profilers):
        self.sink, self.phase = Sink(), PhaseTracker()
        self.census = Census(self.sink, self.phase.now, Budget(0.01, itertools.count().__next__))
        self.made = iter(profilers)
        self.census._make = lambda: next(self.made)
        self.census.start()

    def passage(self, situation=("forward", 1)):
        recorder = OpRecorder(self.phase.now, pytest.fail)
        self.census.begin(situation)
        self.census.end(situation, recorder)
        return {key[:2]: times for key, times in recorder.take().items()}


@pytest.fixture
def taken(usable):
    """Make one that is stopped at the end."""
    made = []

    def make(*profilers):
        made.append(Taken(*profilers))
        return made[-1]

    yield make
    for one in made:
        one.census.stop()


def test_what_was_found_is_noted_in_later_passages_of_the_situation_too(taken):
    """If this failed, tables would differ by whether a census was on, and replayed passages would lack the row."""
    one = taken(StandIn([KNOWN, *launch(50)]), StandIn([KNOWN]))
    row = {("cuda::mine", "forward"): 1}
    assert [one.passage(), one.passage(), one.passage(("optimizer", 2)), one.passage()] == [row, row, {}, row]


def test_a_situation_is_looked_at_again_after_some_minutes(taken, monkeypatch):
    """If this failed, a kernel that comes into use later would never be listed."""
    one = taken(StandIn([KNOWN]), StandIn([KNOWN, *launch(50)]))
    assert one.passage() == {}
    monkeypatch.setattr(census, "EVERY_NS", 0)
    assert one.passage() == {("cuda::mine", "forward"): 1}


def test_without_room_in_the_budget_there_is_no_census(taken, monkeypatch):
    monkeypatch.setattr(Budget, "can_afford", lambda self, calls: False)
    assert taken().passage() == {}


def test_launches_that_others_note_are_marked_only_meanwhile(taken):
    """If this failed, Triton's launches would be listed twice, or each would be slower for good."""
    profiler, plain = profile(use_kineto=True), launched.span
    one = taken(profiler)
    one.census.begin(("forward", 1))
    with launched.span():
        torch.ones(2)
    one.census.end(("forward", 1), OpRecorder(one.phase.now, pytest.fail))
    assert launched.span is plain
    first, marked, *within, last = profiler.kineto_results.events()
    assert (first.name(), marked.name(), marked.scope()) == (census.NOTED, census.NOTED, 0)
    assert last.name() == census.LAST
    assert within
    assert all(marked.start_ns() <= event.start_ns() <= marked.end_ns() for event in within)


@pytest.mark.parametrize("fails", ["enter", "exit"])
def test_a_failure_is_said_once_and_there_is_no_census_any_more(taken, fails):
    """If this failed, a run beside another user of CUPTI would be disturbed in each step, or go silent about it."""
    one = taken(StandIn([KNOWN, *launch(50)], fails=fails))
    assert [one.passage(), one.passage(("forward", 2))] == [{}, {}]
    assert one.sink.errors == [("no CUPTI here", 0)]


def test_a_profiler_that_cannot_end_with_the_device_is_ended_without(taken):
    """If this failed, an error of the program's own on the device would leave torch's profiler on for good."""

    class Device(StandIn):
        def __exit__(self, *_):
            super().__exit__()
            if self.use_device is not None:
                raise RuntimeError("an illegal memory access was encountered")

    profiler = Device([KNOWN])
    one = taken(profiler)
    assert (one.passage(), profiler.left, profiler.use_device) == ({}, 2, None)
    assert launched.span is nullcontext


def test_a_passage_that_never_ended_tells_nothing_of_the_next(taken):
    """Else what ran in one that was interrupted would be listed in another."""
    one = taken(StandIn([KNOWN, *launch(50)]), StandIn([KNOWN]))
    one.census.begin(("forward", 1))
    assert one.passage(("optimizer", 2)) == {}


def test_where_names_of_torch_are_missing_there_is_no_census(taken, monkeypatch):
    monkeypatch.delattr(torch.autograd.profiler, "_is_profiler_enabled")
    one = taken()
    assert (one.passage(), len(one.sink.errors)) == ({}, 1)


def test_a_profiler_that_runs_is_left_alone(taken):
    """If this failed, our census would end a program's own profile, or fail within it."""
    one = taken()
    with profile(use_kineto=True) as theirs:
        torch.ones(2) + 1
        assert one.passage() == {}
    assert "aten::add" in [event.name() for event in theirs.kineto_results.events()]
    assert one.sink.errors == []


def test_a_profiler_that_starts_meanwhile_comes_first(taken):
    """Torch refuses a second profiler: the program's own would raise, because of us."""
    ours = profile(use_kineto=True)
    one = taken(ours)
    one.census.begin(("forward", 1))
    assert torch.autograd.profiler._is_profiler_enabled
    with profile(use_kineto=True) as theirs:
        torch.ones(2) + 1
    assert "aten::add" in [event.name() for event in theirs.kineto_results.events()]
    assert (one.passage(), one.sink.lost) == ({}, [(census.YIELDED, 0)])


def test_during_a_capture_nobody_waits_for_the_device(taken, monkeypatch):
    """If this failed, the end of a census would end a capture of the program's."""
    profiler = StandIn([KNOWN])
    one = taken(profiler)
    one.census.begin(("forward", 1))
    monkeypatch.setattr(census, "_is_usable", lambda: False)
    one.census.end(("forward", 1), OpRecorder(one.phase.now, pytest.fail))
    assert profiler.use_device is None


def test_one_that_saw_no_kernel_at_all_says_so(taken):
    """If this failed, an empty list would look like a clean bill where CUPTI was never heard."""
    blind, seeing = taken(StandIn([KNOWN])), taken(StandIn([KNOWN, *launch(50)]))
    for one in (blind, seeing):
        one.passage()
        one.census.stop()
    assert (blind.sink.lost, seeing.sink.lost) == ([(census.BLIND, 0)], [])


def train(run_dir, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Meter(run_dir, model=model, **options) as meter:
        for _ in range(6):
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
    return meter.account(), [parameter.detach().clone() for parameter in model.parameters()]


def test_a_metered_run_lists_what_its_census_finds_in_replayed_passages_too(tmp_path, usable, monkeypatch):
    """If this failed, one launch would be listed where the run made thousands."""
    monkeypatch.setattr(census, "_make_profiler", lambda: StandIn([KNOWN, *launch(50)]))
    account, _ = train(tmp_path / "census", census=True)
    (row,) = account.tally.uncounted
    assert row.op == "cuda::mine"
    assert row.calls >= 12  # each forward with its backward, each step of the optimizer
    assert account.interval[1] is None or account.interval[1] > account.flop


def test_what_was_booked_before_its_kernels_were_found_is_in_doubt(tmp_path, usable, monkeypatch):
    """If this failed, passages of before the first find would stay exact, as if they had run no such kernel."""
    found = iter([[KNOWN]] * 12)
    monkeypatch.setattr(census, "EVERY_NS", 0)
    monkeypatch.setattr(census, "_make_profiler", lambda: StandIn(next(found, [KNOWN, *launch(50)])))
    model = nn.Linear(4, 2)
    with Meter(tmp_path / "run", model=model, census=True, exact=True) as meter:
        for _ in range(12):
            model(torch.ones(3, 4)).sum().backward()
            meter.step()
    account = meter.account()
    assert [row.op for row in account.tally.uncounted] == ["cuda::mine"]
    assert account.misses > 0


def test_a_real_profiler_changes_no_bit_and_no_count(tmp_path, usable, monkeypatch):
    """If this failed, to look would be to change what is looked at."""
    monkeypatch.setattr(census, "_make_profiler", lambda: profile(use_kineto=True))
    (plain, bits), (looked, again) = train(tmp_path / "plain"), train(tmp_path / "census", census=True)
    assert all(map(torch.equal, bits, again))
    assert (looked.tally.contraction_flop, looked.tally.uncounted) == (plain.tally.contraction_flop, ())
    assert [gap.detail for gap in looked.gaps] == [census.BLIND]


def test_a_label_around_an_optimizer_step_straddles_no_session(tmp_path, usable, monkeypatch):
    """If this failed, the label's end would be written to memory that is free by then, which ends the process."""
    names = []

    class Told(profile):
        def __exit__(self, *args):
            super().__exit__(*args)
            names.append({event.name() for event in self.kineto_results.events()})

    monkeypatch.setattr(census, "_make_profiler", lambda: Told(use_kineto=True))
    train(tmp_path / "census", census=True)
    assert len(names) >= 2  # a forward with its backward, and a step of the optimizer
    assert all(census.LAST in told for told in names)
    assert any("aten::addmm" in told for told in names)
    assert [name for told in names for name in told if name.startswith("Optimizer.step")] == []


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], False),
        ([Event("aten::mm", 40, 60)], False),
        ([Event("aten::mm", 40, 700), Event("cudaLaunchKernel", 40, 700)], True),
        ([Event("cudaLaunchKernel", 40, 700), Event("kernel", 40, 700, device=CUDA)], False),  # these are no records
        ([Event("aten::mm", 40, 700, thread=ENGINE)], True),
    ],
)
def test_a_record_that_outlives_its_census_is_found(records, expected):
    last = Event(census.LAST, 600, 601)
    assert census.has_straddled([KNOWN, *records, last]) is expected
    assert census.has_straddled([KNOWN, *records]) is False


def test_a_record_without_an_end_is_found_in_the_tree():
    """Torch 2.9 tells of it nowhere else."""
    ended = SimpleNamespace(start_time_ns=5, end_time_ns=6, children=[])
    open_one = SimpleNamespace(start_time_ns=5, end_time_ns=-(2**63), children=[ended])
    around = SimpleNamespace(start_time_ns=1, end_time_ns=9, children=[ended, open_one])
    assert census.has_unfinished([ended, around])
    assert not census.has_unfinished([ended, ended])


def test_after_a_record_that_straddles_there_is_no_census_any_more(tmp_path, usable, monkeypatch):
    """If this failed, the next census would have the record's end written where the last one's memory was."""
    monkeypatch.setattr(census, "_make_profiler", lambda: profile(use_kineto=True))
    sink, phase = Sink(), PhaseTracker()
    one = Census(sink, phase.now, Budget(0.01, itertools.count().__next__))
    one.start()
    recorder = OpRecorder(phase.now, pytest.fail)
    one.begin(("forward", 1))
    record = torch._C._profiler._RecordFunctionFast("straddles")
    record.__enter__()
    one.end(("forward", 1), recorder)
    one.begin(("forward", 2))
    assert not torch._C._autograd._profiler_enabled()
    record.__exit__(None, None, None)
    one.stop()
    assert sink.lost == [(census.STRADDLED, 0)]


def test_nobody_profiles_who_was_not_asked_to(tmp_path, usable, monkeypatch):
    """If this failed, CUPTI would be taken from programs that never heard of the census."""
    monkeypatch.setattr(census, "_make_profiler", lambda: pytest.fail("nobody asked for a census"))
    before = torch.autograd.profiler._prepare_profiler
    account, _ = train(tmp_path / "run")
    assert account.gaps == ()
    assert torch.autograd.profiler._prepare_profiler is before


def test_all_is_put_back(tmp_path, usable, monkeypatch):
    monkeypatch.setattr(census, "_make_profiler", lambda: StandIn([KNOWN, *launch(50)]))
    before = torch.autograd.profiler._prepare_profiler, torch.autograd.profiler._enable_profiler, launched.span
    train(tmp_path / "run", census=True)
    after = torch.autograd.profiler._prepare_profiler, torch.autograd.profiler._enable_profiler, launched.span
    assert after == before
