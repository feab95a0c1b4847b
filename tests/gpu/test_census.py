"""The census of launches on a device: a kernel that only CUPTI sees is listed, and ordinary training lists nothing.

Read, not run: written without a GPU, and never run on one yet. Skipped without an NVIDIA GPU.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from flopmeter.meter import Meter
from flopmeter.sensors import census

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

STEPS = 6
SOURCE = """
extern "C" __global__ void double_in_place(float* x, int n) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < n) x[at] *= 2;
}
"""


class Ordinary(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(64, 64), nn.Linear(64, 64), nn.LayerNorm(64)
        self.lstm = nn.LSTM(64, 64, batch_first=True)

    def forward(self, x):
        x = checkpoint(lambda x: functional.dropout(self.first(x), 0.1), x, use_reentrant=False)
        split = self.lstm(self.norm(x))[0].unflatten(-1, (2, 32)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(split, split, split, is_causal=True)
        return self.last(attended.transpose(1, 2).flatten(2))


class WithKernel(Ordinary):
    """Changes memory that an operator has filled: nothing but the launch tells of it."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def forward(self, x):
        out = super().forward(x)
        with torch.no_grad():
            copy = out * 1
            self.kernel(((copy.numel() + 63) // 64, 1, 1), (64, 1, 1), [copy, copy.numel()])
        return out + copy


def listed(run_dir, findings, model, **options):
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    # a budget that never stands in the way: the start of CUPTI takes longer than these few steps
    with Meter(run_dir, model=model, census=True, overhead_budget=100, **options) as meter:
        for _ in range(STEPS):
            model(torch.randn(4, 16, 64, device="cuda")).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            meter.step()
    account = meter.account()
    found = {seen.op: seen.calls for seen in account.tally.uncounted}
    findings[f"census, {type(model).__name__}, {options}"] = {
        "uncounted": {name: str(calls) for name, calls in found.items()},
        "gaps": [gap.detail for gap in account.gaps],
    }
    assert census.BLIND not in [gap.detail for gap in account.gaps]
    return found


@pytest.mark.parametrize("options", [{"exact": True}, {}], ids=["counted", "replayed"])
def test_a_kernel_that_leaves_no_trace_is_listed(tmp_path, findings, options):
    """If this failed, a kernel that works in place past the dispatcher would still cost nothing."""
    kernel = torch.cuda._compile_kernel(SOURCE, "double_in_place")
    assert listed(tmp_path / "run", findings, WithKernel(kernel), **options) == {"cuda::double_in_place": STEPS}


def test_a_kernel_of_the_jiterator_is_listed(tmp_path, findings):
    """It asks no dispatcher either, and is compiled while it runs."""
    twice = torch.cuda.jiterator._create_jit_fn("template <typename T> T twice(T x) { return x + x; }")

    class Jitted(Ordinary):
        def forward(self, x):
            return super().forward(x) + twice(x)

    found = listed(tmp_path / "run", findings, Jitted(), exact=True)
    assert sum(calls for name, calls in found.items() if name.startswith("cuda::")) == STEPS


def test_ordinary_training_lists_nothing(tmp_path, findings):
    """If this failed, the list would cry wolf on cuDNN, fused attention, a fused optimizer, or memory that is moved."""
    assert listed(tmp_path / "run", findings, Ordinary(), exact=True) == {}


def test_compiled_training_lists_nothing(tmp_path, findings):
    """If this failed, Inductor's kernels would be listed beside the graph that they were counted from."""
    pytest.importorskip("triton")
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).cuda()
    model.compile()
    assert listed(tmp_path / "run", findings, model) == {}
