"""A kernel that is called past the dispatcher is listed as uncounted, never taken for nothing: pybind11 builds one.

It is used as the weight gradient of a custom autograd function, as a whole layer, and without any gradient.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest
import torch
from linears import Whole
from torch import nn
from torch.autograd import Function

from flopmeter.regimes.regime import find

SOURCE = Path(__file__).with_name("pybind_kernels.cpp")
STEPS = 8


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A module of pybind11, built here."""
    compiler = shutil.which("c++")
    headers = [sysconfig.get_path("include"), str(Path(torch.__file__).parent / "include")]
    if compiler is None or not Path(headers[0], "Python.h").exists():
        if os.environ.get("CI") == "true":
            pytest.fail("no C++ compiler, or no headers of Python")
        pytest.skip("no C++ compiler, or no headers of Python")
    out = tmp_path_factory.mktemp("kernels") / "flopmeter_test_kernels.so"
    includes = [f"-I{path}" for path in headers]
    shared = ["-shared", "-fPIC", *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
    subprocess.run([compiler, "-std=c++17", "-O1", *shared, *includes, str(SOURCE), "-o", str(out)], check=True)
    spec = util.spec_from_file_location("flopmeter_test_kernels", out)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fused_linear(kernels):
    """A linear layer as Megatron's: the weight's gradient goes to `main_grad` by a kernel, and autograd gets none."""

    class FusedLinear(Whole):
        @staticmethod
        def backward(ctx, gradient):
            x, weight = ctx.saved_tensors
            gradient = gradient.contiguous()
            kernels.accumulate(
                *(one.data_ptr() for one in (gradient, x, weight.main_grad)), len(x), weight.shape[0], x.shape[1]
            )
            return gradient @ weight, None

    class Layer(nn.Module):
        def __init__(self, width, out):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(out, width))
            self.weight.main_grad = torch.zeros(out, width)

        def forward(self, x):
            return FusedLinear.apply(x, self.weight)

    return Layer


@pytest.fixture
def swish(kernels):
    """An activation whose forward and backward are kernels; another one for use without gradients."""

    class Swish(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            out = torch.empty_like(x)
            kernels.swish(x.data_ptr(), out.data_ptr(), x.numel())
            return out

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            gradient, out = gradient.contiguous(), torch.empty_like(x)
            kernels.swish_backward(x.data_ptr(), gradient.data_ptr(), out.data_ptr(), x.numel())
            return out

    return Swish


def plain_swish(kernels):
    def fast_swish(x):
        out = torch.empty(x.shape)
        kernels.swish(x.data_ptr(), out.data_ptr(), x.numel())
        return out

    return fast_swish


def listed(account):
    """What is uncounted, by the last word of its name: calls and elements."""
    return {
        (seen.op.partition("::")[0], seen.op.rpartition(".")[2]): (seen.calls, seen.elements)
        for seen in account.tally.uncounted
    }


def both_ways(metered, program):
    """Run a program counted throughout, and replayed; both must list the same."""
    exact, ours = metered(program, exact=True), metered(program)
    assert set(exact.passages) == {"counted"}
    assert set(ours.passages) > {"counted"}, "the program must give replay a chance"
    assert not exact.gaps
    assert not ours.gaps
    assert listed(ours) == listed(exact)
    for account in (exact, ours):
        assert account.upper is not None
        assert account.upper > account.flop
        regime = replace(find("us.ca.sb53"), threshold=2 * account.flop)
        assert regime.assess(account).verdict == "cannot-tell"
    return listed(exact)


def train(model, *, main_grads=False):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def program(meter):
        meter.watch(model, optimizer)
        for _ in range(STEPS):
            model(torch.randn(6, 4)).square().mean().backward()
            if main_grads:
                for parameter in model.parameters():
                    if hasattr(parameter, "main_grad"):
                        parameter.grad = parameter.main_grad.clone()
                        parameter.main_grad.zero_()
            optimizer.step()
            optimizer.zero_grad()
            meter.step()

    return program


def test_a_weight_gradient_by_a_kernel_is_owed(metered, fused_linear):
    """If this failed, a run of Megatron's would be metered at two thirds of its products, and say so nowhere."""
    model = nn.Sequential(nn.Linear(4, 8), fused_linear(8, 3))
    found = both_ways(metered, train(model, main_grads=True))
    assert found == {("owed", "FusedLinear"): (STEPS, STEPS * 3 * 8)}


def test_the_gradient_is_owed_where_both_are_of_one_size(metered, fused_linear):
    """If this failed, the input's gradient would stand for the weight's wherever a batch is as long as a layer wide."""
    model = nn.Sequential(nn.Linear(4, 6), fused_linear(6, 6))
    found = both_ways(metered, train(model, main_grads=True))
    assert found == {("owed", "FusedLinear"): (STEPS, STEPS * 6 * 6)}


def test_a_layer_by_kernels_is_listed_forward_and_backward(metered, swish):
    """If this failed, a fused layer would cost nothing."""

    class Layer(nn.Module):
        def forward(self, x):
            return swish.apply(x)

    model = nn.Sequential(nn.Linear(4, 8), Layer(), nn.Linear(8, 3))
    found = both_ways(metered, train(model))
    assert found == {("unseen", "forward"): (STEPS, STEPS * 48), ("unseen", "backward"): (STEPS, STEPS * 48)}


def test_a_kernel_without_gradients_is_listed(metered, kernels):
    """If this failed, what generates with kernels of its own would be metered at what is left."""
    fast_swish = plain_swish(kernels)

    class Layer(nn.Module):
        def forward(self, x):
            return fast_swish(x)

    inner = nn.Sequential(nn.Linear(4, 8), Layer(), nn.Linear(8, 3))
    last = nn.Sequential(nn.Linear(4, 8), Layer())

    @torch.no_grad()
    def program(meter, model):
        meter.watch(model)
        for _ in range(60):
            model(torch.randn(6, 4)).argmax()
            meter.step()

    for model in (inner, last):  # read by the model itself, and by whoever called it
        found = both_ways(metered, lambda meter, model=model: program(meter, model))
        assert found == {("unseen", "fast_swish"): (60, 60 * 48)}
