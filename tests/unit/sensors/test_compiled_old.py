"""Where Dynamo's guards see the counter, compiled code is a gap: as on torch 2.9, and on any torch made like it."""

import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from flopmeter.meter import Meter
from flopmeter.sensors import compiled


def train(meter=None):
    torch._dynamo.reset()
    torch.manual_seed(0)
    counter, plain = CompileCounterWithBackend("eager"), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    model = torch.compile(plain, backend=counter)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    if meter is not None:
        meter.watch(model)
    for _ in range(5):
        loss = model(torch.ones(3, 8)).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if meter is not None:
            meter.step()
    return losses, counter.frame_count


def test_compiled_code_is_a_gap_and_compiled_no_more_often(tmp_path, monkeypatch):
    """On torch 2.9 a meter that counted compiled code would have it compiled anew at each step."""
    monkeypatch.setattr(compiled, "GUARDS_SEE_MODES", True)
    plain = train()
    with Meter(tmp_path) as meter:
        assert train(meter) == plain
    assert compiled.RECOMPILED in {gap.detail for gap in meter.account().gaps}
