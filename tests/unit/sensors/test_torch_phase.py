"""Phases are read from torch's own state: forward, backward, recompute, optimizer, inference, other."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from flopmeter.sensors.shadows import rows_of
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker


@pytest.fixture
def phase():
    return PhaseTracker()


class Ask(torch.autograd.Function):
    """A custom function that asks for the phase in its forward and in its backward."""

    @staticmethod
    def forward(ctx, x, phase, answers):
        ctx.phase, ctx.answers = phase, answers
        ctx.save_for_backward(x)
        answers.append(phase.now())
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        _ = ctx.saved_tensors
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
    assert not phase.forwards


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
        with torch.no_grad():
            answers.append(phase.now())  # routing of experts, statistics: it is computed again all the same
        return x.sin()

    phase.enter_forward()
    out = checkpoint(part, torch.ones(2, requires_grad=True), use_reentrant=reentrant)
    phase.leave_forward()
    out.sum().backward()
    assert answers == ["forward", "forward", "recompute", "recompute"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_custom_function_inside_a_checkpoint_is_recompute_and_its_backward_is_backward(phase, reentrant):
    """If this failed, fused losses and norms in checkpointed layers would be in the wrong column."""
    answers: list[str] = []
    out = checkpoint(Ask.apply, torch.ones(2, requires_grad=True), phase, answers, use_reentrant=reentrant)
    out.sum().backward()
    assert answers == ["forward", "recompute", "backward"]


class AskWithGradients(Ask):
    """It turns gradients on in its backward, as those do that call other code for it."""

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            return Ask.backward(ctx, gradient)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_that_are_on_do_not_make_a_backward_recompute(phase, reentrant):
    answers: list[str] = []
    out = checkpoint(AskWithGradients.apply, torch.ones(2, requires_grad=True), phase, answers, use_reentrant=reentrant)
    out.sum().backward()
    assert answers == ["forward", "recompute", "backward"]


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("outer", [True, False])
def test_a_checkpoint_inside_a_checkpoint_is_recompute_each_time(phase, outer, inner):
    """If this failed, one of the two times that a nested part is computed again would be backward."""
    answers: list[str] = []

    def part(x):
        answers.append(phase.now())
        return x.sin()

    def whole(x):
        return checkpoint(part, x, use_reentrant=inner).cos()

    phase.enter_forward()
    out = checkpoint(whole, torch.ones(2, requires_grad=True), use_reentrant=outer)
    phase.leave_forward()
    out.sum().backward()
    assert answers == ["forward", "recompute", "recompute"]


def phases_of(work) -> dict[str, dict[str, int]]:
    """How often each of a few operators ran, and in which phase."""
    recorder = OpRecorder(PhaseTracker().now, pytest.fail)
    with recorder:
        work()
    names = {"aten::mm": "mm", "aten::tanh": "tanh"}
    found: dict[str, dict[str, int]] = {name: {} for name in names.values()}
    for row in rows_of(recorder.take()):
        if row.call.op in names:
            times = found[names[row.call.op]]
            times[row.phase] = times.get(row.phase, 0) + row.calls
    return found


def save_products(_ctx, op, *_args, **_kwargs):
    return CheckpointPolicy.MUST_SAVE if op == torch.ops.aten.mm.default else CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize("chosen", [save_products, [torch.ops.aten.mm.default]], ids=["policy", "list"])
def test_a_selective_checkpoint_computes_again_what_it_did_not_keep(chosen):
    """If this failed, products that were kept would be counted twice, or those done again not at all."""
    x, w = torch.ones(3, 4, requires_grad=True), torch.ones(4, 4, requires_grad=True)

    def train(**options):
        checkpoint(lambda x: torch.tanh(x @ w).sin(), x, use_reentrant=False, **options).sum().backward()

    contexts = functools.partial(create_selective_checkpoint_contexts, chosen)
    assert phases_of(train) == {
        "mm": {"forward": 1, "recompute": 1, "backward": 2},
        "tanh": {"forward": 1, "recompute": 1},
    }
    assert phases_of(lambda: train(context_fn=contexts)) == {
        "mm": {"forward": 1, "backward": 2},
        "tanh": {"forward": 1, "recompute": 1},
    }


@pytest.mark.parametrize("is_checkpointed", [True, False])
def test_a_gradient_of_a_gradient_is_backward(is_checkpointed):
    """If this failed, a gradient penalty would be billed as recomputation, which no formula of 6ND expects."""
    x, w = torch.ones(3, 4, requires_grad=True), torch.ones(4, 4, requires_grad=True)

    def part(x):
        return torch.tanh(x @ w)

    def train():
        out = checkpoint(part, x, use_reentrant=False) if is_checkpointed else part(x)
        (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        gradient.pow(2).sum().backward()

    found = phases_of(train)
    again = found["mm"].pop("recompute", 0)
    assert (again > 0) is is_checkpointed
    assert found["mm"] == {"forward": 1, "backward": 5}, "one of the first backward, four of the second"


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
        assert torch._C._current_graph_task_id() != -1
        raise ValueError

    out.register_hook(refuse)
    with pytest.raises(ValueError):
        out.sum().backward()
    assert torch._C._current_graph_task_id() == -1
    assert phase.now() == "forward"


def test_forwards_that_an_interrupt_cut_off_are_forgotten(phase):
    phase.enter_forward()
    phase.enter_forward()
    phase.leave_forwards()
    assert not phase.forwards
    phase.leave_forward()
    assert not phase.forwards
