"""What only an NVIDIA GPU can settle of conventions: fused attention under torch's counter, and MFU with a real device.

Not run on a GPU by its authors yet: a result file here is the proof that it was.
"""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from flopmeter.account import Account
from flopmeter.conventions.presets import PRESETS
from flopmeter.conventions.translation import Given
from flopmeter.ledger.merge import read_run
from flopmeter.meter import Meter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.mix, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        parts = self.mix(x).unflatten(2, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


def translate(folder, name):
    ledger = read_run(folder)
    return PRESETS[name](Given.of(Account.of(ledger), ledger))


def test_fused_causal_attention_counts_in_full_as_torchs_counter_has_it(tmp_path, findings):
    """On a CPU the counter has no formula for attention: its squares show on a GPU alone."""

    def train(end_step):
        model = Attention(64, 2).cuda().bfloat16()
        for _ in range(3):
            model(torch.randn(2, 128, 64, device="cuda", dtype=torch.bfloat16)).sum().backward()
            end_step()

    with Meter(tmp_path / "run", exact=True) as meter:
        train(meter.step)
    with FlopCounterMode(display=False) as counter:
        train(lambda: None)
    found = translate(tmp_path / "run", "flop-counter")
    findings["flop-counter"] = {"ours": str(found.ours), "said": str(found.flop), "it": counter.get_total_flops()}
    assert found.flop == counter.get_total_flops()
    assert any(line.term == "pairs that a mask skips" and line.flop > 0 for line in found.bridge)


def test_utilisation_is_a_share_or_the_device_is_not_in_the_table(tmp_path, findings):
    """A utilisation above one is impossible: a peak, a time or a count would be wrong."""
    model = nn.Linear(4096, 4096, bias=False).cuda().bfloat16()
    data = torch.randn(8192, 4096, device="cuda", dtype=torch.bfloat16)
    with Meter(tmp_path / "run", model=model) as meter:
        until = time.monotonic() + 6  # NVML is read once a second
        while time.monotonic() < until:
            model(data).sum().backward()
            torch.cuda.synchronize()
            meter.step()
    found = translate(tmp_path / "run", "mfu")
    findings["mfu"] = {"fraction": found.fraction, "inputs": dict(found.inputs), "missing": list(found.missing)}
    if found.flop is None:
        assert all("no peak is known" in missing for missing in found.missing)
    else:
        assert 0 < found.fraction <= 1
