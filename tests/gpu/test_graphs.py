"""CUDA graphs on a device: captured once, counted at each replay, and captured as without a meter.

Not run on a GPU by its authors yet: a result file here is the proof that it was. Skipped without an NVIDIA GPU.
"""

import pytest
import torch
from torch import nn

from flopmeter.account import Account
from flopmeter.meter import Meter
from flopmeter.sensors.captured import UNKNOWN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ROWS, WIDTH = 16, 64
ONE = 2 * ROWS * WIDTH * WIDTH


def make_input() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, device="cuda")


def warm_up(work) -> None:
    """Do it once on a stream of its own, as torch asks: libraries are set up before the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def capture(work) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


@pytest.mark.parametrize("options", [{"exact": True}, {}], ids=["counted", "replayed"])
def test_a_capture_runs_nothing_and_ten_replays_run_ten_times(tmp_path, findings, options):
    """Else a run with graphs is counted once, at the capture, or the capture as well."""
    x, w, out = make_input(), torch.randn(WIDTH, WIDTH, device="cuda"), torch.zeros(ROWS, WIDTH, device="cuda")
    torch.cuda.synchronize()
    with Meter(tmp_path, **options):
        warm_up(lambda: torch.mm(x, w))
        graph = capture(lambda: out.add_(torch.mm(x, w)))
        torch.cuda.synchronize()
        assert not out.any(), "what is captured does not run"
        for _ in range(10):
            graph.replay()
    account = Account.of(tmp_path)
    findings[f"ten replays, {options}"] = str(account.tally.contraction_flop)
    assert torch.allclose(out, 10 * (x @ w), rtol=1e-2, atol=1e-2)
    assert account.tally.contraction_flop == 11 * ONE
    assert not account.gaps
    assert not account.tally.uncounted


def test_a_graph_from_before_is_listed(tmp_path, findings):
    x, w = make_input(), torch.randn(WIDTH, WIDTH, device="cuda")
    warm_up(lambda: torch.mm(x, w))
    graph = capture(lambda: torch.mm(x, w))
    with Meter(tmp_path, exact=True):
        for _ in range(5):
            graph.replay()
    seen = {one.op: one.calls for one in Account.of(tmp_path).tally.uncounted}
    findings["a graph from before"] = {op: str(calls) for op, calls in seen.items()}
    assert seen == {UNKNOWN: 5}


@pytest.mark.parametrize("options", [{"exact": True}, {}], ids=["counted", "replayed"])
def test_graphed_callables_count_forward_and_backward(tmp_path, findings, options):
    """Backward graphs are replayed on a thread of autograd's; torch makes graphs of no module that has hooks."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Meter(tmp_path, model=model, **options) as meter:
        model = torch.cuda.make_graphed_callables(model, (make_input().requires_grad_(),))
        for _ in range(20):
            model(make_input().requires_grad_()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
    account = Account.of(tmp_path)
    by_phase = {phase: part.contraction_flop for phase, part in account.tally.by("phase").items()}
    findings[f"graphed callables, {options}"] = {phase: str(flop) for phase, flop in by_phase.items()}
    steps = 20 + 3  # three to warm up
    if options:
        assert by_phase["forward"] == steps * 2 * ONE
        assert by_phase["backward"] == steps * 4 * ONE
    assert account.lower <= steps * 6 * ONE
    assert account.upper is None or account.upper >= steps * 6 * ONE
    assert not account.tally.uncounted


def test_a_whole_step_in_a_graph_has_its_phases(tmp_path, findings):
    model = nn.Linear(WIDTH, WIDTH).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), capturable=True)
    x = make_input()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()

    with Meter(tmp_path, model=model, exact=True) as meter:
        warm_up(step)
        graph = capture(step)
        for _ in range(10):
            graph.replay()
            meter.step()
    tally = Account.of(tmp_path).tally
    findings["a whole step"] = {phase: str(part.flop) for phase, part in tally.by("phase").items()}
    assert tally.select(phase="forward").contraction_flop == 11 * ONE
    assert tally.select(phase="backward").contraction_flop == 11 * ONE
    assert tally.select(phase="optimizer").flop > 0


def test_a_capture_that_fails_is_as_it_was_and_holds_nothing(tmp_path):
    x = make_input()
    with Meter(tmp_path, exact=True):
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError), torch.cuda.graph(graph):
            x.sum().item()  # waits for the device, which no capture allows
        torch.cuda.synchronize()
        torch.mm(x, x.t())
    account = Account.of(tmp_path)
    assert account.tally.contraction_flop == 2 * ROWS * ROWS * WIDTH
    assert not account.gaps


def test_graphs_of_compiled_code_are_not_counted_twice(tmp_path, findings):
    """Inductor records and replays graphs of its own, around a region whose every call is seen already."""

    def train(run_dir, mode):
        torch.manual_seed(0)
        torch.compiler.reset()
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)).cuda()
        compiled = model if mode is None else torch.compile(model, mode=mode)
        with Meter(run_dir, model=compiled, exact=True) as meter:
            for _ in range(12):
                compiled(make_input()).square().mean().backward()
                meter.step()
        return Account.of(run_dir)

    eager, graphs = train(tmp_path / "eager", None), train(tmp_path / "graphs", "reduce-overhead")
    findings["reduce-overhead"] = {
        "eager": str(eager.tally.contraction_flop),
        "graphs": str(graphs.tally.contraction_flop),
        "uncounted": {one.op: str(one.calls) for one in graphs.tally.uncounted},
    }
    assert UNKNOWN not in {one.op for one in graphs.tally.uncounted}
    assert graphs.tally.contraction_flop <= eager.tally.contraction_flop


def test_replays_have_the_bits_that_they_have_without_a_meter(tmp_path):
    def run(meter: Meter | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(WIDTH, WIDTH).cuda()
        if meter is not None:
            meter.watch(model)
        x = make_input()
        warm_up(lambda: model(x))
        out = []
        graph = capture(lambda: out.append(model(x)))
        for _ in range(5):
            graph.replay()
        torch.cuda.synchronize()
        return out[0].detach().clone()

    plain = run()
    with Meter(tmp_path) as meter:
        assert torch.equal(run(meter), plain)
