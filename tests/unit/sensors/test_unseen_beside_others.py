"""Kernels that are told by what they leave, beside work that is noted by other means: nothing is listed twice."""

import sys
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from linears import Whole  # noqa: E402
from torch import nn  # noqa: E402

from flopmeter.meter import Meter  # noqa: E402

ROWS, INNER, COLUMNS = 6, 4, 5


@pytest.fixture
def apex(monkeypatch):
    """Stand in for Apex: a product that nobody sees, added to a gradient that torch knows nothing of."""
    module = ModuleType("fused_weight_gradient_mlp_cuda")

    def wgrad_gemm_accum_fp32(x, dy, main):
        main.numpy()[...] += dy.numpy().T @ x.numpy()

    module.wgrad_gemm_accum_fp32 = wgrad_gemm_accum_fp32
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def function(module):
    class Linear(Whole):
        @staticmethod
        def backward(ctx, dy):
            x, weight = ctx.saved_tensors
            module.wgrad_gemm_accum_fp32(x, dy, weight.main_grad)
            return dy @ weight, None

    return Linear


class Layer(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.weight = nn.Parameter(torch.ones(COLUMNS, INNER))
        self.weight.main_grad = torch.zeros(COLUMNS, INNER)

    def forward(self, x):
        return self.linear.apply(x, self.weight)


@pytest.mark.parametrize("exact", [True, False])
def test_a_weight_gradient_of_a_kernel_known_by_name_is_counted_and_not_owed(tmp_path, apex, exact):
    """Listed beside its count, it would leave the upper end open for work that is in the figure."""
    model = Layer(function(apex))
    x = torch.ones(ROWS, INNER, requires_grad=True)
    with Meter(tmp_path, model=model, exact=exact) as meter:
        for _ in range(5):
            model(x).sum().backward()
            meter.step(tokens=ROWS)
    tally = meter.account().tally
    assert tally.select(kind="matmul").flop == 5 * 3 * 2 * ROWS * INNER * COLUMNS
    assert [seen.op for seen in tally.uncounted] == []


def test_blank_memory_that_a_kernel_known_by_name_writes_is_not_told_again(tmp_path, apex):
    model = Layer(function(apex))
    with Meter(tmp_path, model=model, exact=True) as meter:
        main = torch.empty(COLUMNS, INNER)
        apex.wgrad_gemm_accum_fp32(torch.ones(ROWS, INNER), torch.ones(ROWS, COLUMNS), main)
        main.sum()
    assert [seen.op for seen in meter.account().tally.uncounted] == []
