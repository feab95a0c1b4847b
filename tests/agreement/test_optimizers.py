"""One optimizer step costs the same as a loop, over lists, and fused; clipping and loss scaling likewise."""

import pytest
import torch
from torch import nn

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.torch_ops import OpRecorder, rows_of
from flopmeter.tally import Tally

BOOK = FormulaBook.standard()
SHAPES = ((5, 3), (7,), (2, 2, 2))
SIZE = 15 + 7 + 8


def parameters():
    made = [nn.Parameter(torch.rand(shape)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.rand_like(parameter)
    return made


def record(work):
    failures = []
    recorder = OpRecorder(lambda: "optimizer", failures.append)
    with recorder:
        work()
    assert failures == []
    tally = Tally()
    for row in rows_of(recorder.take()):
        tally += BOOK.count(row.call, calls=row.calls, phase=row.phase)
    return tally


def count_step(kind, *, steps=2, **options):
    """Count the last of some steps: the first one may find no momentum yet."""
    optimizer = kind(parameters(), **options)
    for _ in range(steps - 1):
        optimizer.step()
    tally = record(optimizer.step)
    assert tally.uncounted == ()
    return tally.flop


ADAM = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.0},
    {"weight_decay": 1.0},
    {"amsgrad": True},
    {"maximize": True},
    {"betas": (0.0, 0.99)},
    {"betas": (0.5, 0.0)},
    {"lr": 0.5, "amsgrad": True, "maximize": True, "weight_decay": 0.5},
]
SGD = [
    {},
    {"momentum": 0.9},
    {"momentum": 1.0, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.9, "dampening": 1.0},
    {"weight_decay": 1.0, "maximize": True},
    {"lr": 1.0},
]
STEPS = [
    *((torch.optim.AdamW, options) for options in ADAM),
    *((torch.optim.Adam, options) for options in ADAM),
    *((torch.optim.SGD, options) for options in SGD),
    (torch.optim.Adagrad, {}),
    (torch.optim.Adagrad, {"weight_decay": 0.1, "maximize": True, "lr_decay": 0.1}),
]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("kind", "options"), STEPS, ids=str)
def test_loop_lists_and_fused_kernel_cost_the_same(kind, options, steps):
    """Else switching on `fused=True` changes a run's figure without changing its work."""
    options = {"lr": 0.01, **options}
    loop = count_step(kind, steps=steps, foreach=False, fused=False, **options)
    assert count_step(kind, steps=steps, foreach=True, **options) == loop
    assert count_step(kind, steps=steps, fused=True, **options) == loop
    assert loop > 0


def test_a_plain_adamw_step_costs_fourteen_operations_per_element():
    """Decay 1, first moment 3, second moment 1 + 3, root, division, eps, update 3; one more per tensor for its step."""
    assert count_step(torch.optim.AdamW, fused=True, lr=0.01) == 14 * SIZE + len(SHAPES)


@pytest.mark.parametrize(
    "kind", ["RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop", "Adafactor", "Muon"]
)
def test_no_operator_of_another_optimizer_is_uncounted(kind):
    """Else a run with that optimizer has work nobody counted."""
    made = parameters()[:1]
    optimizer = getattr(torch.optim, kind)(made)
    assert record(optimizer.step).uncounted == ()
    assert record(optimizer.step).flop > 0


@pytest.mark.parametrize("foreach", [False, True])
def test_clipping_by_norm_costs_two_operations_per_element_and_one_to_scale(foreach):
    """Else clipping is free, or counted by how it is written."""
    made = parameters()
    tally = record(lambda: nn.utils.clip_grad_norm_(made, 1.0, foreach=foreach))
    assert tally.uncounted == ()
    # Squares and sums with their root: 2·n for each tensor, 2·3 for the norm of the three norms; then max/(norm + eps)
    # as add, reciprocal and product; then n to scale.
    assert tally.flop == 2 * SIZE + 2 * len(SHAPES) + 3 + SIZE


def test_clipping_by_value_compares_and_is_free():
    """Else compares count as arithmetic in one place and not in another."""
    made = parameters()
    tally = record(lambda: nn.utils.clip_grad_value_(made, 0.5))
    assert (tally.flop, tally.uncounted) == (0, ())


def test_unscaling_gradients_costs_one_operation_per_element():
    """Else mixed precision has hidden work."""
    made = parameters()
    optimizer = torch.optim.SGD(made, lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    tally = record(lambda: scaler.unscale_(optimizer))
    assert tally.uncounted == ()
    ours = {count.op: count.flop for count in tally.counts}
    assert ours["aten::_amp_foreach_non_finite_check_and_unscale_"] == SIZE
