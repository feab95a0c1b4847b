"""What a custom autograd function owes: gradients of its products that nobody was seen to compute."""

import pytest
import torch
from functorch.compile import aot_function, nop
from linears import Fused, Whole
from torch import nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker

BOOK = FormulaBook.standard()


def raise_error(error):
    raise error


def owed(work):
    recorder = OpRecorder(PhaseTracker().now, raise_error, BOOK)
    with recorder:
        work()
    return {
        (key[0].rpartition(".")[2], tuple(key[4][0][0])): times
        for key, times in recorder.take().items()
        if isinstance(key[0], str)
    }


class Dark(Fused):
    """Neither gradient is seen."""

    @staticmethod
    def backward(ctx, gradient):
        return None, None


class MainGradient(Whole):
    """The weight's gradient goes elsewhere, by an operator."""

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        weight.main_grad.addmm_(gradient.t(), x)
        return gradient @ weight, None


class InPieces(MainGradient):
    """The same, in pieces of the batch."""

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        for part, rows in zip(gradient.split(2), x.split(2), strict=True):
            weight.main_grad.addmm_(part.t(), rows)
        return gradient @ weight, None


class GradientsInForward(Function):
    """As fused losses do: gradients are computed in the forward, and scaled in the backward."""

    @staticmethod
    def forward(ctx, x, weight):
        logits = x @ weight.t()
        gradient = logits.softmax(-1)
        ctx.save_for_backward(gradient @ weight, gradient.t() @ x)
        return logits.logsumexp(-1).mean()

    @staticmethod
    def backward(ctx, gradient):
        one, two = ctx.saved_tensors
        return one * gradient, two * gradient


class StraightThrough(Function):
    """A product that only decides; its inputs get the gradient as it comes."""

    @staticmethod
    def forward(ctx, x, codes):
        return codes[(x @ codes.t()).argmax(-1)]

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Recomputing(Function):
    """A checkpoint by hand: the backward runs the forward again, with autograd."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, gradient):
        x, weight = (one.detach().requires_grad_() for one in ctx.saved_tensors)
        with torch.enable_grad():
            out = x @ weight.t()
        out.backward(gradient)
        return x.grad, None


class SetUpLater(Function):
    """The newer way to write one: its forward has no context."""

    @staticmethod
    def forward(x, weight):
        return x @ weight.t()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    backward = Fused.backward


class Casting(Fused):
    """It casts what it is given, as autocast does inside of a function."""

    @staticmethod
    def forward(ctx, x, weight):
        return Fused.forward(ctx, x.to(torch.bfloat16), weight.to(torch.bfloat16))

    @staticmethod
    def backward(ctx, gradient):
        return Fused.backward(ctx, gradient)[0].float(), None


class Mixed(Fused):
    forward = staticmethod(torch.amp.custom_fwd(Fused.forward, device_type="cpu"))
    backward = staticmethod(torch.amp.custom_bwd(Fused.backward, device_type="cpu"))


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def weight_of(*shape):
    weight = leaf(*shape)
    weight.main_grad = torch.zeros(*shape)
    return weight


@pytest.mark.parametrize("kind", [Fused, SetUpLater, Casting])
@pytest.mark.parametrize("rows", [4, 5, 3, 6])
def test_a_weight_gradient_that_nobody_saw_is_owed(kind, rows):
    """If this failed, a kernel that accumulates it past the dispatcher would be free. Whatever sizes are alike."""

    def work():
        kind.apply(leaf(rows, 5) * 2, leaf(3, 5)).sum().backward()

    assert owed(work) == {(kind.__name__, (5, 3)): 1}


def test_it_is_owed_under_autocast():
    """If this failed, mixed precision would hide it: the weight that is multiplied is a copy."""

    def work():
        with torch.autocast("cpu", torch.bfloat16):
            out = Mixed.apply(leaf(6, 5) * 2, leaf(3, 5)).float()
        out.sum().backward()

    assert owed(work) == {("Mixed", (5, 3)): 1}


def test_a_square_layer_owes_as_much():
    def work():
        x = leaf(4, 4) * 2
        for _ in range(3):
            x = Fused.apply(x, leaf(4, 4))
        x.sum().backward()

    assert owed(work) == {("Fused", (4, 4)): 3}


def test_both_gradients_are_owed_where_none_was_seen():
    def work():
        Dark.apply(leaf(6, 5) * 2, leaf(3, 5)).sum().backward()

    assert owed(work) == {("Dark", (6, 5)): 1, ("Dark", (5, 3)): 1}


def test_it_is_owed_by_batches_too():
    def work():
        Fused.apply(leaf(2, 6, 5) * 2, leaf(3, 5)).sum().backward()

    assert owed(work) == {("Fused", (5, 3)): 1}


def test_it_is_owed_again_when_a_graph_runs_again():
    def work():
        loss = Fused.apply(leaf(6, 5) * 2, leaf(3, 5)).sum()
        loss.backward(retain_graph=True)
        loss.backward()

    assert owed(work) == {("Fused", (5, 3)): 2}


def test_it_is_owed_inside_of_a_checkpoint():
    def work():
        weight = leaf(3, 5)
        for kind in (True, False):
            checkpoint(lambda x: Fused.apply(x, weight).sin(), leaf(6, 5) * 2, use_reentrant=kind).sum().backward()

    assert owed(work) == {("Fused", (5, 3)): 2}


def partial_backward():
    x = leaf(6, 5)
    torch.autograd.grad(Fused.apply(x * 2, leaf(3, 5)).sum(), [x])


def frozen():
    Fused.apply(leaf(6, 5) * 2, torch.randn(3, 5)).sum().backward()


def frozen_view():
    weight = leaf(5, 3)
    with torch.no_grad():
        turned = weight.t()
    Fused.apply(leaf(6, 5) * 2, turned).sum().backward()


def left_for_later():
    """A schedule that computes weight gradients after all others."""
    x, weight = leaf(6, 5), leaf(3, 5)
    Fused.apply(x * 2, weight).sum().backward()
    with torch.no_grad():
        torch.ones(3, 6) @ x


def second_order():
    x, weight = leaf(6, 5), leaf(3, 5)
    (gradient,) = torch.autograd.grad(Whole.apply(x, weight).pow(2).sum(), x, create_graph=True)
    gradient.pow(2).sum().backward()


def in_checkpoint():
    weight, fixed = leaf(5, 5), torch.randn(5, 5)

    def layer(x):
        with torch.no_grad():
            scores = x @ fixed
        return (x @ weight + x.detach() @ weight) * scores

    for kind in (True, False):
        checkpoint(layer, leaf(5, 5) * 2, use_reentrant=kind).sum().backward()


def beside_functions():
    """Products without gradients that run after a function's forward are not its own."""
    x, weight = leaf(6, 5), leaf(3, 5)
    out = Whole.apply(x, weight)
    with torch.no_grad():
        torch.randn(6, 5) @ weight.t()
        x @ torch.randn(5, 3)
    out.sum().backward()


def traced_with_a_teacher():
    """A graph that torch traced holds the teacher's product, too, and has no gradient for its weight."""

    def loss(x, weight, teacher):
        with torch.no_grad():
            target = x @ teacher
        return (x @ weight - target).square().sum()

    aot_function(loss, nop)(leaf(6, 5), leaf(5, 3), leaf(5, 3)).backward()


FREE = {
    "traced": traced_with_a_teacher,
    "all seen": lambda: Whole.apply(leaf(6, 5) * 2, leaf(3, 5)).sum().backward(),
    "elsewhere": lambda: MainGradient.apply(leaf(6, 5) * 2, weight_of(3, 5)).sum().backward(),
    "elsewhere, square": lambda: MainGradient.apply(leaf(5, 5) * 2, weight_of(5, 5)).sum().backward(),
    "in pieces": lambda: InPieces.apply(leaf(6, 5) * 2, weight_of(3, 5)).sum().backward(),
    "in the forward": lambda: GradientsInForward.apply(leaf(6, 5) * 2, leaf(3, 5)).backward(),
    "straight through": lambda: StraightThrough.apply(leaf(6, 5) * 2, torch.randn(3, 5)).sum().backward(),
    "by autograd inside": lambda: Recomputing.apply(leaf(6, 5) * 2, leaf(3, 5)).sum().backward(),
    "no backward": lambda: Fused.apply(leaf(6, 5), leaf(3, 5)).sum(),
    "no gradients": lambda: torch.no_grad()(Fused.apply)(leaf(6, 5), leaf(3, 5)),
    "inference": lambda: torch.inference_mode()(Fused.apply)(torch.randn(6, 5), torch.randn(3, 5)),
    "first layer": lambda: Whole.apply(torch.randn(6, 5), leaf(3, 5)).sum().backward(),
    "partial": partial_backward,
    "frozen": frozen,
    "frozen view": frozen_view,
    "left for later": left_for_later,
    "second order": second_order,
    "checkpoint": in_checkpoint,
    "beside": beside_functions,
    "layers of torch": lambda: (
        functional.scaled_dot_product_attention(*[nn.Linear(8, 8)(torch.randn(1, 2, 4, 8))] * 3).sum().backward()
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_who_owes_nothing_is_not_listed(name):
    """If this failed, the list would cry wolf, and nobody would read it."""
    assert owed(FREE[name]) == {}


def test_hooks_on_a_graph_go_with_the_passage():
    """If this failed, a graph that is kept would call a meter that is gone."""
    recorder = OpRecorder(PhaseTracker().now, raise_error, BOOK)
    with recorder:
        out = Fused.apply(leaf(6, 5) * 2, leaf(3, 5))
        loss = out.sum()
        recorder.take()
        loss.backward()
    assert not recorder.unseen.is_alert
    assert not [key for key in recorder.take() if isinstance(key[0], str)]
