"""Memory that is read though no operator wrote it: what is listed, and above all what is not."""

import ctypes
import threading
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker

BOOK = FormulaBook.standard()


def raise_error(error):
    raise error


def new_recorder():
    return OpRecorder(PhaseTracker().now, raise_error, BOOK)


def notes(recorder):
    """Names and output shapes of what is listed without having been called."""
    found = Counter()
    for key, times in recorder.take().items():
        if isinstance(key[0], str):
            found[key[0], tuple(key[4][0][0])] += times
    return found


def found(work):
    recorder = new_recorder()
    with recorder:
        work()
    assert not recorder.unseen.is_alert
    return notes(recorder)


def kernel(*shape):
    """Ask for memory and fill it past the dispatcher, as a kernel does that is called through pybind."""
    out = torch.empty(*shape)
    ctypes.memset(out.data_ptr(), 0, out.numel() * out.element_size())
    return out


NAME = f"unseen::{__name__}.kernel"


@pytest.mark.parametrize(
    "read",
    [
        lambda out: out + 1,
        lambda out: out.mul_(2),
        lambda out: torch.cat([torch.ones(2, 3), out]),
        lambda out: torch.ops.aten.copy(torch.ones(2, 3), out),
        lambda out: out.t().reshape(-1).sum(),
        lambda out: torch.ones(3).copy_(out[0]),
        lambda out: out.to(torch.float64) * 2,
        lambda out: functional.dropout(out, 0.5),
        lambda out: torch._foreach_add([out], 1.0),
        lambda out: out.clone().relu(),
        lambda out: out.sum().item(),
    ],
)
def test_what_a_kernel_wrote_is_listed_when_an_operator_reads_it(read):
    """If this failed, a kernel that bypasses the dispatcher would cost nothing."""
    assert found(lambda: read(kernel(2, 3))) == {(NAME, (2, 3)): 1}


def test_it_is_listed_once_and_each_kernel_for_itself():
    """Else the list would tell how often results were used, not how often a kernel ran."""

    def work():
        out = kernel(2, 3)
        (out + out + kernel(2, 3)).sum()
        (out * 2).sum()

    assert found(work) == {(NAME, (2, 3)): 2}


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return kernel(*x.shape)

    @staticmethod
    def backward(ctx, gradient):
        return kernel(*gradient.shape)


def test_a_layer_of_kernels_is_listed_in_both_directions():
    def work():
        x = torch.ones(4, requires_grad=True)
        Swish.apply(x * 2).sum().backward()

    assert found(work) == {(NAME, (4,)): 2}


def fill_in_thread(out):
    thread = threading.Thread(target=lambda: out.fill_(1.0))
    thread.start()
    thread.join()


def write_parts():
    out = torch.empty(4, 3)
    out[0] = 1.0
    out[torch.tensor([1, 2])] = torch.ones(2, 3)
    return out.sum()


def into_slices():
    out = torch.empty(4, 3)
    for row in range(4):
        out[row].copy_(torch.ones(3))
    return out @ out.t()


def with_thread():
    out = torch.empty(3)
    fill_in_thread(out)
    return out + 1


def reuse():
    for _ in range(64):
        torch.empty(1000)
        torch.tensor([1.0, 2.0]) + 1
        torch.ones(1000) * 2


@torch.inference_mode()
def in_inference():
    return torch.empty(3).fill_(2.0) + 1


def momentum():
    layer = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)
    layer(torch.ones(3)).backward()
    optimizer.step()


def packed():
    parts = [torch.ones(3, 4), torch.ones(2, 4)]
    out, _ = nn.LSTM(4, 4)(nn.utils.rnn.pack_sequence(parts))
    out, lengths = nn.utils.rnn.pad_packed_sequence(out)
    return out.sum() + lengths.sum()


def written_anew():
    """What a tracer makes of writing into memory: an operator that is given the blank tensor, and makes a whole one."""

    def work(x):
        whole, parts, places = torch.empty_like(x).copy_(x), torch.empty(4, 3), torch.empty(2, 3)
        parts[:2], parts[2] = x, 1.0
        parts[3].fill_(2.0)
        places[torch.tensor([0, 1])] = x
        return whole.sum() + parts.sum() + places.sum() + torch.empty(3).zero_().sum()

    torch.func.functionalize(work)(torch.ones(2, 3))


ORDINARY = {
    "written anew": written_anew,
    "templates": lambda: [torch.zeros_like(torch.empty(3)) + 1, torch.empty(3).new_ones(2) + 1],
    "nothing in it": lambda: torch.cat([torch.empty(0), torch.ones(2)]).sum(),
    "parts": write_parts,
    "slices": into_slices,
    "out": lambda: torch.mm(torch.ones(2, 2), torch.ones(2, 2), out=torch.empty(2, 2)) + 1,
    "zeroed": lambda: torch.empty(3).zero_() + 1,
    "drawn": lambda: torch.empty(3).normal_() + torch.empty(3).bernoulli_(0.5) + torch.empty(3).exponential_(),
    "gumbel": lambda: functional.gumbel_softmax(torch.ones(2, 3), hard=True).sum(),
    "dropout": lambda: functional.dropout(torch.ones(8, requires_grad=True), 0.5).sum().backward(),
    "momentum": momentum,
    "packed": packed,
    "initialized": lambda: nn.Sequential(nn.Linear(3, 3), nn.Conv2d(1, 1, 3), nn.LSTM(3, 3))[0](torch.ones(3)),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 3)) + 1,
    "moved": lambda: torch.empty(3).to(torch.float64).fill_(1.0) + 1,
    "parameter": lambda: nn.Parameter(torch.empty(3)).data.fill_(1.0) + 1,
    "scattered": lambda: torch.empty(4).scatter_(0, torch.arange(4), torch.ones(4)) + 1,
    "thread": with_thread,
    "reused memory": reuse,
    "never read": lambda: (torch.empty(3), torch.ones(3) + 1),
    "inference": in_inference,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_use_of_blank_memory_lists_nothing(name):
    """If this failed, the list would cry wolf, and nobody would read it."""
    recorder = new_recorder()
    with recorder:
        ORDINARY[name]()
    assert notes(recorder) == {}


def test_what_a_forward_returns_counts_as_read():
    """Else the last layer of a model that generates would be seen by nobody: who reads it is outside."""
    recorder = new_recorder()
    with recorder:
        recorder.unseen.returned({"logits": [kernel(2, 3)], "loss": None})
    assert notes(recorder) == {(NAME, (2, 3)): 1}


def test_a_gradient_that_is_left_at_a_parameter_counts_as_read():
    """Else a kernel's gradient that autograd hands straight to a parameter would be missed."""
    layer = nn.Linear(3, 1, bias=False)
    recorder = new_recorder()
    with recorder:
        layer.weight.grad = kernel(1, 3)
        recorder.unseen.look_at_gradients(layer)
        recorder.unseen.look_at_gradients(type("Owner", (), {"module": layer})())
    assert notes(recorder) == {(NAME, (1, 3)): 1}


def test_what_is_listed_by_other_means_is_not_listed_again():
    recorder = new_recorder()
    with recorder:
        out = kernel(2, 3)
        recorder.note_opaque("triton::kernel", [out])
        out + 1
    assert notes(recorder) == {("triton::kernel", (2, 3)): 1}


def test_nothing_is_kept_from_one_passage_to_the_next():
    """Else what is listed would depend on which passages happen to be counted."""
    recorder = new_recorder()
    with recorder:
        out = kernel(2, 3)
        assert notes(recorder) == {}
        out + 1
    assert notes(recorder) == {}
    assert not recorder.unseen.is_alert
