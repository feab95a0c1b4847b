"""CUDA graphs: what is captured does not run, and each replay adds it.

There is no device here: a stand-in for the graph has the methods of torch's, and what is captured runs, unlike there.
"""

import threading
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from flopmeter import Meter  # noqa: E402
from flopmeter.sensors.captured import UNKNOWN  # noqa: E402
from flopmeter.sensors.launches import covered  # noqa: E402

ONE = 2 * 4 * 8 * 8
"""What a product of (4, 8) by (8, 8) costs."""


class StandIn:
    """The methods of torch.cuda.CUDAGraph, with nothing behind them."""

    fails = False

    def capture_begin(self, pool=None, capture_error_mode="global"):
        self.is_captured = False

    def capture_end(self):
        if self.fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.is_captured = True

    def replay(self):
        assert self.is_captured

    def reset(self):
        self.is_captured = False


@contextmanager
def capturing(graph, **_options):
    graph.capture_begin()
    try:
        yield
    finally:
        graph.capture_end()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    kind = type("CUDAGraph", (), dict(vars(StandIn)))
    for owner in (torch.cuda, torch.cuda.graphs):
        monkeypatch.setattr(owner, "CUDAGraph", kind)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    # Torch's hooks are called by its own class alone, which `test_captured_torch.py` tests.
    monkeypatch.delattr(torch.cuda.graphs, "register_graph_replay_end_hook", raising=False)
    before = dict(vars(kind)), torch.cuda.make_graphed_callables
    yield kind
    assert (dict(vars(kind)), torch.cuda.make_graphed_callables) == before, "torch is as it was"


def capture(work):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


x, w = torch.ones(4, 8), torch.ones(8, 8)


def products(account, phase=None):
    tally = account.tally if phase is None else account.tally.select(phase=phase)
    return tally.contraction_flop


def test_a_capture_is_no_run_and_each_replay_is_one(metered):
    """Else a run with graphs is counted once, at the capture, however long it trains."""

    def program(meter):
        x @ w
        graph = capture(lambda: x @ w)
        for _ in range(10):
            graph.replay()

    for options in ({}, {"exact": True}):
        account = metered(program, **options)
        assert products(account) == 11 * ONE
        assert not account.gaps
        assert not account.tally.uncounted


def test_a_capture_in_a_passage_that_is_not_counted_is_noted(metered):
    """A graph is captured once: if nobody counts just then, every replay of it would stay unknown."""
    model = nn.Linear(8, 8)

    def program(meter):
        graph = None
        for step in range(60):
            model(x).sum().backward()
            if step == 30:
                graph = capture(lambda: x @ w)
            if graph is not None:
                graph.replay()
            meter.step()

    account = metered(program, model=model)
    assert account.passages.get("replayed") or account.passages.get("sampled")
    assert not account.tally.uncounted
    assert products(metered(program, model=model, exact=True)) == 60 * 2 * ONE + 30 * ONE
    assert account.lower <= 150 * ONE <= (account.upper or 150 * ONE)


class Graphed(nn.Module):
    """Replays a graph in its forward, as often as it is told."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.graph, self.times = [None], [1]

    def forward(self, x):
        for _ in range(self.times[0]):
            self.graph[0].replay()
        return self.inner(x)


@pytest.mark.parametrize("changes", [False, True])
def test_replays_in_a_passage_that_is_replayed_are_in_its_figure(replayed_truly, changes):
    """The number of replays is in the witness: a forward with three of them is not taken for one with two."""

    def program(meter):
        model = Graphed()
        meter.watch(model)
        model.graph[0] = capture(lambda: x @ w)
        for step in range(64):
            model.times[0] = 3 if changes and step % 2 else 2
            model(x).sum().backward()
            meter.step()

    account = replayed_truly(program)
    own = 64 * 2 * ONE
    assert products(account) == own + (64 * 2 + 32 * changes) * ONE


def test_another_graph_is_another_witness(replayed_truly):
    """Two graphs cost something else each: how often one is replayed says nothing of the other."""

    def program(meter):
        model = Graphed()
        meter.watch(model)
        graphs = [capture(lambda: x @ w), capture(lambda: x @ w @ w)]
        for step in range(64):
            model.graph[0] = graphs[step % 2]
            model(x).sum().backward()
            meter.step()

    account = replayed_truly(program)
    assert products(account) == 64 * 2 * ONE + 32 * 3 * ONE


def test_a_graph_that_was_captured_before_is_uncounted_with_its_replays(metered):
    graph = capture(lambda: x @ w)

    def program(meter):
        for _ in range(5):
            graph.replay()

    account = metered(program, exact=True)
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [(UNKNOWN, 5)]
    assert products(account) == 0


def test_a_meter_that_starts_later_does_not_know_the_graphs_of_another(metered):
    graphs = []

    def first(meter):
        graphs.append(capture(lambda: x @ w))

    def second(meter):
        graphs[0].replay()

    metered(first, exact=True)
    assert [seen.op for seen in metered(second, exact=True).tally.uncounted] == [UNKNOWN]


def test_a_graph_that_is_captured_again_holds_the_new_calls(metered):
    def program(meter):
        graph = capture(lambda: x @ w)
        graph.replay()
        graph.reset()
        with torch.cuda.graph(graph):
            x @ w @ w
        graph.replay()

    assert products(metered(program, exact=True)) == 3 * ONE


def test_a_capture_that_fails_holds_nothing_and_ends(metered, stand_in):
    """Torch raises at the end of such a capture; what was captured never runs."""

    def program(meter):
        graph = torch.cuda.CUDAGraph()
        stand_in.fails = True
        with pytest.raises(RuntimeError, match="during capture"), torch.cuda.graph(graph):
            x @ w
        stand_in.fails = False
        x @ w
        with pytest.raises(ValueError, match="own"), torch.cuda.graph(graph):
            raise ValueError("own")
        graph.replay()

    account = metered(program, exact=True)
    assert products(account) == ONE
    assert not account.gaps
    assert not account.tally.uncounted, "the second capture ended in order, and holds nothing"


def test_a_capture_on_another_thread_is_known(metered):
    def program(meter):
        graphs = []
        thread = threading.Thread(target=lambda: graphs.append(capture(lambda: x @ w)))
        thread.start()
        thread.join()
        graphs[0].replay()

    assert products(metered(program, exact=True)) == ONE


def test_a_capture_that_never_ends_leaves_nothing_behind(metered):
    def program(meter):
        torch.cuda.CUDAGraph().capture_begin()
        x @ w

    account = metered(program, exact=True)
    assert products(account) == 0
    assert torch._C._len_torch_dispatch_stack() == 0


def test_what_is_counted_as_a_whole_is_not_counted_again(metered):
    """Inductor's own graphs: the compiled region around them is counted at each call."""

    def program(meter):
        with covered():
            graph = capture(lambda: None)
            graph.replay()
        with covered():
            graph.replay()

    account = metered(program, exact=True)
    assert products(account) == 0
    assert not account.tally.uncounted


def test_a_whole_step_in_a_graph_has_its_phases_and_begins_no_passage(metered):
    """Hooks run at the capture, where nothing runs: a step that never was would be counted, and in one phase."""

    def program(meter):
        model = nn.Linear(8, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        meter.watch(model)

        def step():
            model(x).sum().backward()
            optimizer.step()

        graph = capture(step)
        for _ in range(10):
            graph.replay()
            meter.step()

    account = metered(program, exact=True)
    assert account.steps == 10
    assert (products(account, "forward"), products(account, "backward")) == (10 * ONE, 10 * ONE)
    assert account.tally.select(phase="optimizer").flop == 10 * 2 * (8 * 8 + 8)
    assert not account.gaps
    one = metered(lambda meter: None, exact=True)
    assert sum(account.passages.values()) <= sum(one.passages.values()) + 1


@pytest.fixture
def graphs_without_device(monkeypatch):
    """What else torch asks of a device when it makes graphs of a module."""

    @contextmanager
    def stream(_stream):
        yield

    for name, value in (("synchronize", lambda: None), ("stream", stream), ("Stream", object)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: 0)


@pytest.mark.usefixtures("graphs_without_device")
def test_graphs_of_a_module_are_made_and_replayed_forward_and_backward(metered):
    """Torch refuses modules with hooks: without us the program would run. Phases are those of the replays."""

    def program(meter):
        model = nn.Linear(8, 8)
        meter.watch(model)
        hooks = dict(model._forward_pre_hooks)
        graphed = torch.cuda.make_graphed_callables(model, (x,), num_warmup_iters=3)
        assert graphed is model
        assert dict(model._forward_pre_hooks) == hooks
        for _ in range(10):
            model(x).sum().backward()
            meter.step()
        with torch.no_grad():
            model(x)

    account = metered(program, exact=True)
    assert products(account, "forward") == (3 + 10) * ONE
    assert products(account, "backward") == (3 + 10) * ONE
    assert products(account, "inference") == ONE
    assert not account.gaps


@pytest.mark.usefixtures("graphs_without_device")
def test_somebody_elses_hooks_are_refused_as_ever(metered):
    def program(meter):
        model = nn.Linear(8, 8)
        meter.watch(model)
        model.register_forward_hook(lambda *_: None)
        with pytest.raises(AssertionError, match="must not have hooks"):
            torch.cuda.make_graphed_callables(model, (x,))
        assert len(model._forward_pre_hooks) == 1

    metered(program, exact=True)


def test_torchs_hooks_are_used_where_it_has_them(metered, monkeypatch, stand_in):
    """From torch 2.14 on a graph may be replayed in other ways than by its method; torch tells of all of them."""
    hooks = {}

    class Handle:
        def __init__(self, hook):
            hooks[id(self)] = hook

        def remove(self):
            hooks.pop(id(self), None)

    monkeypatch.setattr(torch.cuda.graphs, "register_graph_replay_end_hook", Handle, raising=False)
    before = stand_in.replay

    def program(meter):
        assert torch.cuda.CUDAGraph.replay is before
        graph = capture(lambda: x @ w)
        for _ in range(3):
            for hook in hooks.values():
                hook(graph)

    assert products(metered(program, exact=True)) == 3 * ONE
    assert hooks == {}


def test_a_capture_that_is_ended_in_two_calls_is_known(metered, stand_in):
    """Torch 2.14 has them; `capture_end` is made of them."""

    def capture_end(graph):
        graph.capture_end_pre()
        graph.capture_end_post()

    before = stand_in.capture_end
    stand_in.capture_end_pre, stand_in.capture_end_post = before, lambda _graph: None
    stand_in.capture_end = capture_end

    def program(meter):
        capture(lambda: x @ w).replay()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        x @ w
        graph.capture_end_pre()
        x @ w
        graph.capture_end_post()
        graph.replay()

    try:
        assert products(metered(program, exact=True)) == 3 * ONE
    finally:
        del stand_in.capture_end_pre, stand_in.capture_end_post
        stand_in.capture_end = before


@pytest.mark.parametrize("mode", [True, False])
def test_a_capture_in_a_block_of_inference_mode_leaves_torch_as_it_was(metered, mode):
    """A mode that comes or goes in such a block leaves torch with its key and without it: no operator runs any more."""

    def program(meter):
        model = nn.Linear(8, 8)
        meter.watch(model)
        for _ in range(40):
            with torch.inference_mode(mode=mode):
                graph = capture(lambda: x @ w)
                model(x)
                graph.replay()
            model(x).sum().backward()
            meter.step()
        assert torch.equal(x + x, 2 * x)

    account = metered(program, strict=True)
    exact = metered(program, exact=True, strict=True)
    assert products(exact) == 40 * 4 * ONE
    assert account.lower <= exact.flop
    assert account.upper is None or account.upper >= exact.flop


def test_a_failure_of_ours_never_reaches_the_run(metered, monkeypatch):
    from flopmeter.sensors import captured

    def fail(*_args):
        raise ValueError("ours")

    monkeypatch.setattr(captured, "_calls_of", fail)

    def program(meter):
        graph = capture(lambda: x @ w)
        graph.replay()

    account = metered(program, exact=True)
    assert any("ours" in gap.detail for gap in account.gaps)


def test_two_meters_one_inside_the_other_put_everything_back(tmp_path):
    with Meter(tmp_path / "a"):
        with Meter(tmp_path / "b"):
            capture(lambda: x @ w).replay()
        capture(lambda: x @ w).replay()
