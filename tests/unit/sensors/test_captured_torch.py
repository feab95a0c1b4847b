"""CUDA graphs, in torch's own Python: its class, its context and what makes graphs of callables; no device below it."""

import contextlib
import importlib.util
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

ONE = 2 * 4 * 8 * 8
x, w = torch.ones(4, 8), torch.ones(8, 8)


class Below:
    """What torch's class of graphs is built on, without a device behind it."""

    _has_graph_exec = True  # since torch 2.14, as are the calls that a capture ends with

    def __new__(cls, keep_graph=False):
        return super().__new__(cls)

    def capture_begin(self, pool=None, capture_error_mode="global"):
        self.replays = 0

    def capture_end(self):
        pass

    capture_end_pre = capture_end_post = instantiate = reset = capture_end

    def replay(self):
        self.replays += 1

    def pool(self):
        return (0, 0)


@pytest.fixture
def torchs_own(monkeypatch):
    """Load the installed torch's own file of graphs once more, on top of that."""
    monkeypatch.setattr(torch._C, "_CUDAGraph", Below)
    spec = importlib.util.spec_from_file_location("torch.cuda.graphs_of_a_test", torch.cuda.graphs.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "graphs", module)
    for name in ("CUDAGraph", "graph", "make_graphed_callables"):
        monkeypatch.setattr(torch.cuda, name, getattr(module, name))
    for name in ("synchronize", "empty_cache", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    return module


def test_torchs_own_class_and_its_own_users_are_heard(metered, torchs_own):
    """The stand-in has the methods that we think torch has; these are torch's, with its context and its callables."""

    def program(meter):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x @ w
        for _ in range(4):
            graph.replay()
        assert graph.replays == 4
        model = nn.Linear(8, 8)
        meter.watch(model)
        torch.cuda.make_graphed_callables(model, (x,), num_warmup_iters=1)
        for _ in range(5):
            model(x).sum().backward()

    account = metered(program, exact=True)
    assert account.tally.select(phase="backward").contraction_flop == (1 + 5) * ONE
    assert account.tally.contraction_flop == (4 + 2 * (1 + 5)) * ONE
    assert not account.gaps
    assert not account.tally.uncounted
