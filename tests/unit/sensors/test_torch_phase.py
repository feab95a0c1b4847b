"""Phases are read from torch's own state: forward, backward, recompute, optimizer, inference, other."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from flopmeter.sensors.torch_phase import PhaseTracker, is_in_backward


@pytest.fixture
def phase():
    return PhaseTracker()


class Ask(torch.autograd.Function):
    """A custom function that asks for the phase in its forward and in its backward."""

    @staticmethod
    def forward(ctx, x, phase, answers):
        ctx.phase, ctx.answers = phase, answers
        answers.append(phase.now())
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.answers.append(ctx.phase.now())
        return gradient, None, None


def test_outside_of_everything(phase):
    assert phase.now() == "forward"
    with torch.no_grad():
        assert phase.now() == "other"
    with torch.inference_mode():
        assert phase.now() == "other"


def test_a_watched_forward_is_inference_when_it_began_without_gradients(phase):
    with torch.no_grad():
        phase.enter_forward()
        assert phase.now() == "inference"
        phase.leave_forward()
        assert phase.now() == "other"


def test_a_part_without_gradients_belongs_to_its_forward(phase):
    phase.enter_forward()
    with torch.no_grad():
        assert phase.now() == "forward"
        phase.enter_forward()
        assert phase.now() == "inference", "a watched model called without gradients inside another's forward"
        phase.leave_forward()
        assert phase.now() == "forward"
    phase.leave_forward()
    assert phase.forward_depth == 0


@pytest.mark.parametrize("inside", [True, False])
def test_a_custom_function_runs_forward_and_backward(phase, inside):
    """Torch turns gradients off inside a custom function: compiled code and fused losses would all be `inference`."""
    answers: list[str] = []
    x = torch.ones(2, requires_grad=True)
    if inside:
        phase.enter_forward()
    out = Ask.apply(x, phase, answers)
    if inside:
        phase.leave_forward()
    out.sum().backward()
    assert answers == ["forward", "backward"]


def test_a_custom_function_without_gradients_inside_a_watched_forward_is_inference(phase):
    answers: list[str] = []
    with torch.no_grad():
        phase.enter_forward()
        Ask.apply(torch.ones(2), phase, answers)
        phase.leave_forward()
    assert answers == ["inference"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_that_computes_again_is_recompute(phase, reentrant):
    answers: list[str] = []

    def part(x):
        answers.append(phase.now())
        return x.sin()

    checkpoint(part, torch.ones(2, requires_grad=True), use_reentrant=reentrant).sum().backward()
    assert answers == ["forward", "recompute"]


def test_double_backward_is_backward_and_not_recompute(phase):
    answers: list[str] = []
    x = torch.ones(2, requires_grad=True)
    out = x.pow(3)
    out.register_hook(lambda _gradient: answers.append(phase.now()))
    (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    gradient.register_hook(lambda _gradient: answers.append(phase.now()))
    gradient.sum().backward()
    assert set(answers) == {"backward"}
    assert len(answers) >= 2


def test_an_optimizer_steps_and_its_closure_trains(phase):
    phase.enter_optimizer()
    answers = []
    with torch.no_grad():
        answers.append(phase.now())
    x = torch.ones(2, requires_grad=True)
    out = x * 2
    answers.append(phase.now())
    out.register_hook(lambda _gradient: answers.append(phase.now()))
    out.sum().backward()
    with torch.no_grad():
        answers.append(phase.now())
        phase.enter_forward()
        answers.append(phase.now())
        phase.leave_forward()
    phase.leave_optimizer()
    assert answers == ["optimizer", "forward", "backward", "optimizer", "inference"]
    with torch.no_grad():
        assert phase.now() == "other"


def test_an_optimizer_inside_the_backward_is_optimizer(phase):
    answers = []
    layer = nn.Linear(2, 2)

    def step_at_once(_parameter):
        answers.append(phase.now())
        phase.enter_optimizer()
        answers.append(phase.now())
        phase.leave_optimizer()

    layer.weight.register_post_accumulate_grad_hook(step_at_once)
    layer(torch.ones(1, 2)).sum().backward()
    assert answers == ["backward", "optimizer"]


def test_a_backward_that_failed_leaves_no_trace(phase):
    x = torch.ones(2, requires_grad=True)
    out = x * 2

    def refuse(_gradient):
        assert is_in_backward()
        raise ValueError

    out.register_hook(refuse)
    with pytest.raises(ValueError):
        out.sum().backward()
    assert not is_in_backward()
    assert phase.now() == "forward"


def test_forwards_that_an_interrupt_cut_off_are_forgotten(phase):
    phase.enter_forward()
    phase.enter_forward()
    phase.leave_forwards()
    assert phase.forward_depth == 0
    phase.leave_forward()
    assert phase.forward_depth == 0
