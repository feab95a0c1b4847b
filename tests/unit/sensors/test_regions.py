"""Calls of compiled regions: a stand-in takes the place of Inductor's code; the agreement tests have the real one."""

import dataclasses
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flopmeter.meter import Meter
from flopmeter.sensors.compiled import GUARDS_SEE_MODES, RECOMPILED
from flopmeter.sensors.launches import NODES
from flopmeter.sensors.regions import REGION, region_watch
from flopmeter.sensors.situation import count_nodes

pytestmark = pytest.mark.skipif(GUARDS_SEE_MODES, reason=RECOMPILED)

FORWARD = """class Repro(torch.nn.Module):
    def forward(self, primals_1, primals_2):
        mm = torch.ops.aten.mm.default(primals_1, primals_2)
        sin = torch.ops.aten.sin.default(mm)
        return (sin, primals_1, primals_2, mm)

def load_args(reader):
"""
BACKWARD = """class Repro(torch.nn.Module):
    def forward(self, primals_1, primals_2, mm, tangents_1):
        sin = torch.ops.aten.sin.default(mm)
        mul = torch.ops.aten.mul.Tensor(tangents_1, sin)
        return (mul, None)

def load_args(reader):
"""


@dataclasses.dataclass
class Code:
    """What there is of Inductor's own `CompiledFxGraph`; `work` is the code."""

    runnable_graph_str: str
    work: object
    inductor_post_grad_graph_str: str = ""
    fx_kwargs: dict = dataclasses.field(default_factory=dict)
    mutated_input_idxs: tuple = ()

    def __call__(self, inputs):
        return self.work(*inputs)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._inductor.output_code", SimpleNamespace(CompiledFxGraph=Code))


def forward(a, b):
    mm = torch.mm(a, b)
    return mm.sin(), a, b, mm


def times_itself(x):
    return (x * x,)


X = torch.ones(2, 2)


def test_a_region_costs_what_its_graph_calls_once(tmp_path):
    """Its products come to the dispatcher, too: counted as well they would be twice in the figure."""
    code = Code(FORWARD, forward)
    with Meter(tmp_path) as meter, torch.no_grad():
        code([X, X])
        torch.mm(X, X)
    account = meter.account()
    assert account.tally.select(kind="matmul").calls == 2
    assert account.flop == 2 * 16 + 4
    assert account.interval == (account.flop, account.flop)


def test_what_a_backward_computes_again_is_recompute(tmp_path):
    code, back = Code(FORWARD, forward), Code(BACKWARD, lambda *_: (X, None), fx_kwargs={"is_backward": True})

    class Compiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return code([x, x])[0]

        @staticmethod
        def backward(ctx, _gradient):
            return back([X, X, X, X])[0]

    with Meter(tmp_path) as meter:
        Compiled.apply(X.clone().requires_grad_()).sum().backward()
    tally = meter.account().tally
    assert tally.select(phase="forward").contraction_flop == 16
    assert tally.select(phase="recompute").flop == 4
    assert tally.select(phase="backward").flop == 4


def test_each_of_two_meters_counts_a_region(tmp_path):
    """Else one of them has the products alone, which the dispatcher tells it, and takes that for all."""
    with Meter(tmp_path / "one") as one, Meter(tmp_path / "two") as two, torch.no_grad():
        Code(FORWARD, forward)([X, X])
    assert (one.account().flop, two.account().flop) == (16 + 4, 16 + 4)


def test_a_region_that_writes_into_parameters_is_an_optimizers(tmp_path):
    """Else the update of a compiled optimizer would be inference of nobody."""
    text = FORWARD.replace("(sin, primals_1, primals_2, mm)", "(sin,)")
    code = Code(text, lambda a, _b: (a,), mutated_input_idxs=(0,))
    with Meter(tmp_path) as meter, torch.no_grad():
        code([nn.Parameter(X), X])
    assert meter.account().tally.select(phase="optimizer").flop == 16 + 4


def test_a_graph_that_cannot_be_read_is_listed(tmp_path):
    """Uncounted, never zero; and never a failure of the run."""
    code = Code("Repro is not generated due to existence of BackwardState in graph input", times_itself)
    with Meter(tmp_path) as meter:
        assert torch.equal(code([X])[0], X)
    account = meter.account()
    assert [(seen.op, seen.calls, seen.elements) for seen in account.tally.uncounted] == [(REGION, 1, 4)]
    assert account.flop == 0


def test_what_the_code_raises_is_the_users(tmp_path):
    """Half of its work may have run by then: what came to the dispatcher counts, the rest is listed."""

    def fail(a, b):
        torch.mm(a, b)
        msg = "no"
        raise ValueError(msg)

    with Meter(tmp_path) as meter:
        with pytest.raises(ValueError, match="no"):
            Code(FORWARD, fail)([X, X])
        torch.mm(X, X)
    account = meter.account()
    assert account.flop == 2 * 16
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [(REGION, 1)]
    assert not account.gaps


def test_a_call_that_is_not_counted_leaves_a_mark(tmp_path):
    """Code compiled anew makes as many autograd nodes as the old one: only its mark tells them apart."""
    one, other = Code(FORWARD, times_itself), Code(FORWARD, times_itself)
    with Meter(tmp_path):
        begun = count_nodes()
        one([X])
        first = count_nodes() - begun
        one([X])
        assert count_nodes() - begun == 2 * first
        other([X])
        assert count_nodes() - begun - 2 * first not in {0, first}
        assert not first & NODES, "no autograd node was made"
        before = count_nodes()
        thread = threading.Thread(target=one, args=([X],))
        thread.start()
        thread.join()
        assert count_nodes() - before == first, "on a GPU the engine runs backwards on threads of its own"


def test_the_code_is_called_as_before_when_nobody_meters(tmp_path):
    plain = Code.__call__
    with Meter(tmp_path / "one"):
        with Meter(tmp_path / "two"):
            assert Code.__call__ is not plain
        assert Code.__call__ is not plain
    assert Code.__call__ is plain


def test_without_what_it_takes_nothing_is_stepped_into(tmp_path, monkeypatch):
    """On a torch that keeps no texts, regions are listed as those of any other backend."""

    @dataclasses.dataclass
    class Other:
        source_code: str = ""

    module = SimpleNamespace(CompiledFxGraph=Other)
    monkeypatch.setitem(sys.modules, "torch._inductor.output_code", module)
    with Meter(tmp_path):
        assert Other.__call__ is not region_watch.plain
        assert not region_watch.is_seen
