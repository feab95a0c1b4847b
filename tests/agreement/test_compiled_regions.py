"""Compiled code costs what eager code does, and what it computes again: backends, sizes, caches, each in its process.

What Inductor takes apart is compared in sum: a fused operator costs what its decomposition does. In the backward it
leaves out what nobody asks for, and does some of it otherwise (docs/explanation/counting.md, section *Compiled code*).
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from flopmeter.meter import Meter
from flopmeter.sensors.compiled import GUARDS_SEE_MODES, RECOMPILED

pytestmark = [
    pytest.mark.skipif(GUARDS_SEE_MODES, reason=RECOMPILED),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the compiler's own deprecations
    pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler"),
]
SIZES = (12, 12, 9, 17)
PROGRAM = """
import json, sys, tempfile, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from torch._dynamo.utils import counters
from flopmeter import Meter

backend, dynamic, exact, sizes = json.loads(sys.argv[1])
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(16, 48), nn.LayerNorm(16), nn.Linear(16, 16)

    def attend(self, x):
        q, k, v = self.one(self.norm(x)).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4).chunk(3)
        out = nn.functional.scaled_dot_product_attention(q[0], k[0], v[0], is_causal=True)
        return out.transpose(1, 2).reshape(x.shape)

    def forward(self, x):
        x = torch.utils.checkpoint.checkpoint(self.attend, x, use_reentrant=False)
        torch._dynamo.graph_break()
        return self.two(x).relu()


def run(called, model, metered):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(meter):
        for size in sizes:
            called(torch.randn(3, size, 16)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if meter is not None:
                meter.step()

    if not metered:
        train(None)
        return None
    with tempfile.TemporaryDirectory() as folder:
        with Meter(folder, model=called, exact=exact) as meter:
            train(meter)
        return meter.account()


def fresh():
    torch.manual_seed(0)
    return Net()


def frames():
    return dict(counters["frames"]) | {"recompiles": len(counters["recompiles"])}


def bits(model):
    return [parameter.detach().view(torch.int32).sum().item() for parameter in model.parameters()]


found = {}
if backend == "eager":
    model = fresh()
    account = run(model, model, True)
else:
    model = fresh()
    run(torch.compile(model, backend=backend, dynamic=dynamic), model, False)
    found["unmetered"] = [frames(), bits(model)]
    torch._dynamo.reset()
    counters.clear()
    model = fresh()
    account = run(torch.compile(model, backend=backend, dynamic=dynamic), model, True)
    found["metered"] = [frames(), bits(model)]
    found["hits"] = counters["inductor"]["fxgraph_cache_hit"]
tally = account.tally
phases = "forward", "backward", "recompute", "optimizer"
found["products"] = {phase: tally.select(phase=phase).contraction_flop for phase in phases}
found["flop"] = {phase: tally.select(phase=phase).flop for phase in phases}
found["rest"] = [len(tally.uncounted), len(account.gaps)]
print(json.dumps(found))
"""


def run(backend, *, dynamic, cache, exact=True):
    told = json.dumps([backend, dynamic, exact, SIZES])
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, told], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def eager(tmp_path_factory):
    return run("eager", dynamic=None, cache=tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_compiled_is_eager_and_what_is_computed_again(tmp_path, eager, backend, dynamic):
    """The bar that peers miss: where the cache is warm no pass of the compiler runs, and their figure is nothing.

    The first process finds the cache cold, or as a run without a meter left it; the second finds it warm.
    """
    for cache in ("cold", "warm"):
        found = run(backend, dynamic=dynamic, cache=tmp_path)
        assert found["metered"] == found["unmetered"], f"{cache}: frames compiled, and bits learned"
        assert found["products"] == eager["products"], cache
        assert found["rest"] == [0, 0], cache
        for phase in ("forward", "recompute", "optimizer"):
            assert found["flop"][phase] == eager["flop"][phase], cache
        assert found["flop"]["backward"] == pytest.approx(eager["flop"]["backward"], rel=0.01)
        if backend == "inductor":
            assert found["hits"] > 0, cache


def compiled_and_eager(tmp_path, work):
    """Account of a function that is compiled by Inductor, and of the same one as it is."""
    accounts = []
    for name, called in (("compiled", torch.compile(work)), ("eager", work)):
        with torch.no_grad(), Meter(tmp_path / name, exact=True) as meter:
            called()
        accounts.append(meter.account())
    return accounts


def test_attention_with_a_block_mask_costs_in_a_region_what_it_costs_outside(tmp_path):
    """Its blocks are integers inside of tensors: sizes alone would count the whole square, or nothing."""
    causal = create_block_mask(lambda _b, _h, query, key: query >= key, None, None, 256, 256, device="cpu")
    x = torch.randn(1, 2, 256, 16)
    compiled, eager = compiled_and_eager(tmp_path, lambda: flex_attention(x, x, x, block_mask=causal))
    assert compiled.tally.contraction_flop == eager.tally.contraction_flop > 0
    assert not compiled.tally.uncounted


def test_a_branch_in_a_region_is_listed(tmp_path):
    """Which of the two runs is decided on the device: to count either would be a guess."""
    x = torch.ones(8, 8)
    branches = (lambda y: (y @ y).sin()), (lambda y: y @ y)
    compiled, eager = compiled_and_eager(tmp_path, lambda: torch.cond(x.sum() > 0, *branches, (x,)))
    assert [seen.op for seen in compiled.tally.uncounted] == ["higher_order::cond"]
    assert eager.tally.contraction_flop == 2 * 8 * 8 * 8
