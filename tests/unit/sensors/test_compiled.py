"""A compiled model stays compiled under the meter; what hides from it is listed, never nothing."""

import shutil
import warnings

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import flex_attention

from flopmeter.meter import Meter
from flopmeter.sensors.compiled import (
    GUARDS_SEE_MODES,
    RECOMPILED,
    CompileWatch,
    adopt_compiled,
    is_unadopted,
    release_compiled,
)
from flopmeter.sensors.regions import REGION

pytestmark = pytest.mark.skipif(GUARDS_SEE_MODES, reason=RECOMPILED)
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
BACKENDS = [
    "eager",
    "aot_eager",
    pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler]),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.two(torch.nn.functional.gelu(self.one(x)))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        yield
    torch._dynamo.reset()


def train(model, called, meter=None, steps: int = 5) -> list[float]:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = called(torch.randn(3, 8)).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if meter is not None:
            meter.step()
    return losses


def somebodys(gm, _inputs):
    """Stand for a backend of which nothing is known."""
    return gm.forward


def prepare(way: str, backend):
    """Compile in one of the ways that people do; return frames' counter, what is watched, and what is called."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, counter = Net(), CompileCounterWithBackend(backend) if isinstance(backend, str) else backend
    if way == "wrapped":
        model = torch.compile(model, backend=counter)
        return counter, model, model
    if way == "in place":
        model.compile(backend=counter)
        return counter, model, model
    if way == "a part":
        model.one = torch.compile(model.one, backend=counter)
        return counter, model, model
    return counter, model, torch.compile(model, backend=counter)  # beside the watched one


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["wrapped", "in place", "a part", "beside"])
def test_it_compiles_as_often_and_learns_the_same_with_a_meter(tmp_path, way, backend):
    """A meter that makes a model run eagerly costs its user a factor of two and the meter its welcome."""
    counter, model, called = prepare(way, backend)
    plain, frames = train(model, called), counter.frame_count
    counter, model, called = prepare(way, backend)
    with Meter(tmp_path, model=model) as meter:
        assert train(model, called, meter) == plain
    assert counter.frame_count == frames > 0
    account = meter.account()
    assert account.tally.contraction_flop == 5 * 2 * (2 * 3 * (8 * 16 + 16 * 4)) + 5 * 2 * 3 * 16 * 4
    assert not account.tally.uncounted
    assert not account.gaps


def test_compiled_autograd_runs_under_a_meter_and_its_products_are_counted(tmp_path):
    """Dynamo makes modules of the backward's graph: it must not compile what hears of them, for that raises."""
    _, model, called = prepare("wrapped", "aot_eager")

    def step():
        return torch.compile(lambda: called(torch.ones(3, 8)).sum().backward(), backend="aot_eager")()

    with torch._dynamo.config.patch(compiled_autograd=True), Meter(tmp_path, model=model, exact=True) as meter:
        step()
    account = meter.account()
    assert account.tally.contraction_flop == 2 * (2 * 3 * (8 * 16 + 16 * 4)) + 2 * 3 * 16 * 4
    assert not account.gaps


@pytest.mark.parametrize("way", ["wrapped", "in place", "a part", "beside"])
def test_code_of_an_unknown_backend_is_listed(tmp_path, way):
    """Its kernels may never come to the dispatcher: left out, they would be a silent zero."""
    _, model, called = prepare(way, somebodys)
    with Meter(tmp_path, model=model) as meter:
        train(model, called, meter)
    account = meter.account()
    regions = [seen.calls for seen in account.tally.uncounted if seen.op == REGION]
    if way == "beside":
        assert any("outside of any watched module" in gap.detail for gap in account.gaps)
        assert account.upper is None
    else:
        assert regions == [5], "each run of a region is listed, replayed ones too"
        assert not account.gaps


@pytest.mark.parametrize("way", ["wrapped", "in place", "a part"])
def test_products_that_a_region_hands_to_the_dispatcher_are_counted(tmp_path, way):
    _, model, called = prepare(way, "aot_eager")
    with Meter(tmp_path, model=model) as meter:
        train(model, called, meter)
    tally = meter.account().tally
    forward = 2 * 3 * (8 * 16 + 16 * 4)
    assert tally.select(phase="forward").contraction_flop == 5 * forward
    assert tally.select(phase="backward").contraction_flop == 5 * (forward + 2 * 3 * 16 * 4)
    assert tally.select(phase="inference").calls == 0


def test_a_model_compiled_in_place_after_it_was_watched_is_still_seen(tmp_path):
    _, model, _ = prepare("plain", "aot_eager")
    with Meter(tmp_path, model=model) as meter:
        train(model, model, meter)
        model.compile(backend="aot_eager")
        train(model, model, meter)
    account = meter.account()
    assert not account.tally.uncounted
    assert account.tally.select(phase="forward").contraction_flop == 10 * 2 * 3 * (8 * 16 + 16 * 4)
    assert not account.gaps


def test_a_function_of_an_unknown_backend_outside_of_any_model_is_a_gap(tmp_path):
    """Its kernels may never reach the dispatcher: without this they would be a silent zero."""
    with Meter(tmp_path) as meter:
        torch.compile(lambda x: x.sin() + 1, backend=somebodys)(torch.ones(4))
        torch.compile(lambda x: x.cos() + 1, backend=somebodys)(torch.ones(4))
    account = meter.account()
    assert [gap.ns for gap in account.gaps] == [None], "said once"
    assert account.upper is None


def test_everything_is_put_back_when_the_meter_closes(tmp_path):
    _, model, _ = prepare("in place", "aot_eager")
    called = model._compiled_call_impl
    callbacks = list(torch._dynamo.callback.callback_handler.start_callbacks)
    with Meter(tmp_path, model=model) as meter:
        train(model, model, meter)
        assert model._compiled_call_impl is not called
    assert model._compiled_call_impl is called
    assert torch._dynamo.callback.callback_handler.start_callbacks == callbacks


def test_a_compiled_call_that_raises_still_ends(tmp_path):
    _, model, _ = prepare("in place", somebodys)
    with Meter(tmp_path, model=model) as meter:
        train(model, model, meter)
        with pytest.raises(RuntimeError):
            model(torch.randn(3, 9))
        train(model, model, meter)
    tally = meter.account().tally
    assert tally.select(phase="inference").calls == 0
    assert sum(seen.calls for seen in tally.uncounted if seen.op == REGION) == 11


class Listener:
    def __init__(self):
        self.heard = []

    def region_began(self, module, args, kwargs):
        self.heard.append(("began", args, kwargs))

    def region_ended(self, module, out):
        self.heard.append(("ended", out))


def test_parts_are_adopted_once_and_released():
    model, listener = nn.Sequential(nn.Identity()), Listener()
    model[0]._compiled_call_impl = lambda x: x + 1
    original = model[0]._compiled_call_impl
    assert is_unadopted(model)
    adopt_compiled(listener, model)
    adopted = model[0]._compiled_call_impl
    adopt_compiled(listener, model)
    assert model[0]._compiled_call_impl is adopted
    assert not is_unadopted(model)
    assert model(1) == 2
    assert listener.heard == [("began", (1,), {}), ("ended", 2)]
    release_compiled(model)
    assert model[0]._compiled_call_impl is original


def test_the_watch_catches_up_with_what_was_compiled_before_it_could_hear():
    heard = []
    watch = CompileWatch(lambda: heard.append("compiled"))
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    watch.look()
    watch.look()
    assert heard == ["compiled"]
    torch.compile(lambda x: x + 2, backend="eager")(torch.ones(2))
    assert heard == ["compiled"] * 2
    watch.stop()
    watch.stop()
    torch.compile(lambda x: x + 3, backend="eager")(torch.ones(2))
    assert len(heard) == 2


def test_the_watch_hears_again_after_a_reset():
    """`torch._dynamo.reset` takes all hooks off; what an unknown backend makes after it would be in no record."""
    heard = []
    watch = CompileWatch(lambda: heard.append(watch.is_opaque))
    watch.look()
    torch._dynamo.reset()
    torch.compile(torch.sin, backend=somebodys)(torch.ones(2))
    assert heard == []
    watch.look()
    assert heard == [True]
    torch.compile(torch.cos, backend=somebodys)(torch.ones(2))
    assert heard == [True, True]
    watch.stop()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_attention_with_a_block_mask_is_no_gap_unless_an_unknown_backend_compiles_it(tmp_path, is_compiled):
    """If this failed, a run in which everything was counted would have no upper bound."""
    called = torch.compile(flex_attention, backend=somebodys) if is_compiled else flex_attention
    query = torch.rand(1, 2, 16, 8)
    with Meter(tmp_path) as meter, torch.no_grad():
        called(query, query, query)
        meter.step()
    account = meter.account()
    assert account.tally.select(kind="attention").flop == 2 * 2 * 16 * 16 * (8 + 8)
    assert [gap.reason for gap in account.gaps] == (["passage"] if is_compiled else [])
