"""Kernels that Triton launches by itself, on a GPU: they are listed as uncounted, and ordinary training lists nothing.

Read, not run: written without a GPU. Skipped without an NVIDIA GPU or without Triton.
"""

import pytest
import torch
from linears import Fused
from torch import nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from flopmeter.meter import Meter

triton = pytest.importorskip("triton")
language = triton.language

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

STEPS = 6


@triton.jit
def copy_kernel(given, out, size, BLOCK: language.constexpr):
    at = language.program_id(0) * BLOCK + language.arange(0, BLOCK)
    language.store(out + at, language.load(given + at, mask=at < size), mask=at < size)


def launch(given):
    out = torch.empty_like(given)
    copy_kernel[(triton.cdiv(given.numel(), 256),)](given, out, given.numel(), BLOCK=256)
    return out


class Copy(Function):
    @staticmethod
    def forward(ctx, x):
        return launch(x)

    @staticmethod
    def backward(ctx, gradient):
        return launch(gradient.contiguous())


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(64, 96), nn.Parameter(torch.randn(32, 96))

    def forward(self, x):
        return Fused.apply(Copy.apply(self.first(x)), self.weight)


class Ordinary(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)
        self.lstm = nn.LSTM(64, 64, batch_first=True)

    def forward(self, x):
        x = checkpoint(lambda x: functional.dropout(self.first(x), 0.1), x, use_reentrant=False)
        split = self.lstm(x)[0].unflatten(-1, (2, 32)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(split, split, split, is_causal=True)
        return self.last(attended.transpose(1, 2).flatten(2))


def listed(run_dir, model, make, **options):
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with Meter(run_dir, model=model, optimizer=optimizer, **options) as meter:
        for _ in range(STEPS):
            with torch.autocast("cuda", torch.bfloat16, enabled=isinstance(model, Ordinary)):
                loss = model(make()).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
    return {seen.op.rpartition(".")[2]: (seen.calls, seen.elements) for seen in meter.account().tally.uncounted}


@pytest.mark.parametrize("options", [{"exact": True}, {}], ids=["counted", "replayed"])
def test_kernels_that_python_launches_are_listed(tmp_path, findings, options):
    """If this failed, layers by Triton would cost nothing on the device that they are written for."""
    found = listed(tmp_path / "run", Odd().cuda(), lambda: torch.randn(16, 64, device="cuda"), **options)
    findings[f"unseen kernels, {'counted' if options else 'replayed'}"] = {
        name: list(one) for name, one in found.items()
    }
    assert found == {"launch": (2 * STEPS, 2 * STEPS * 16 * 96), "Fused": (STEPS, STEPS * 32 * 96)}


def test_ordinary_training_lists_nothing(tmp_path, findings):
    """If this failed, the list would cry wolf on cuDNN, fused attention or a fused optimizer."""
    found = listed(tmp_path / "run", Ordinary().cuda(), lambda: torch.randn(4, 16, 64, device="cuda"), exact=True)
    findings["unseen kernels, ordinary training"] = found
    assert found == {}
