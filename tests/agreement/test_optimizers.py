"""One optimizer step costs the same as a loop, over lists, and fused; clipping and loss scaling likewise."""

import pytest
import torch
from torch import nn

from flopmeter.formulas.book import FormulaBook
from flopmeter.tally import Tally
from flopmeter.testing.calls import record_calls

BOOK = FormulaBook.standard()
SHAPES = ((5, 3), (7,), (2, 2, 2))
SIZE = 15 + 7 + 8


def parameters():
    made = [nn.Parameter(torch.rand(shape)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.rand_like(parameter)
    return made


def record(work):
    rows = record_calls(work, phase="optimizer")
    tally = Tally()
    for row in rows:
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


IN_LISTS = [
    *((torch.optim.RMSprop, options) for options in ({}, {"momentum": 0.9}, {"centered": True, "weight_decay": 0.1})),
    *((kind, {}) for kind in (torch.optim.Adadelta, torch.optim.Adamax, torch.optim.NAdam, torch.optim.Adafactor)),
    *((kind, {"weight_decay": 0.1, "maximize": True}) for kind in (torch.optim.Adadelta, torch.optim.Adamax)),
    (torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (torch.optim.Adafactor, {"weight_decay": 0.1, "maximize": True}),
    (torch.optim.Rprop, {}),
]


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(("kind", "options"), IN_LISTS, ids=str)
def test_optimizers_without_a_fused_kernel_cost_the_same_as_a_loop_and_over_lists(kind, options, steps):
    """Else torch's choice of `foreach`, which depends on the device, moves a run's figure."""
    loop = count_step(kind, steps=steps, foreach=False, **options)
    assert count_step(kind, steps=steps, foreach=True, **options) == loop


SCALARS = len(SHAPES)
DIFFERENT = [
    # Over lists an update computes both of its forms, 7 operations; the loop takes one, 4 at first and 10 once it is
    # rectified.
    (torch.optim.RAdam, {}, 1, 3 * SIZE),
    (torch.optim.RAdam, {}, 7, -3 * SIZE),
    # Over lists the gradient takes the decay in (2), factors are tensors (3, not 2 + 1), and the average always moves
    # (3), by factors that are made on the device (5 each); in the loop they are numbers, and the average is a copy at
    # first.
    (torch.optim.ASGD, {}, 2, 5 * SIZE + 5 * SCALARS),
    (torch.optim.ASGD, {"t0": 0}, 7, 2 * SIZE + 5 * SCALARS),
    # Over lists the product of two gradients is negated too.
    (torch.optim.Rprop, {"maximize": True}, 2, SIZE),
]


@pytest.mark.parametrize(("kind", "options", "steps", "more"), DIFFERENT, ids=str)
def test_where_torch_computes_something_else_over_lists_the_figure_says_so(kind, options, steps, more):
    """These forms differ in torch itself, operator by operator; the count follows what was asked for."""
    loop = count_step(kind, steps=steps, foreach=False, **options)
    assert count_step(kind, steps=steps, foreach=True, **options) == loop + more


def test_a_plain_rmsprop_step_costs_nine_operations_per_element():
    """Second moment 1 + 3, root, eps, update 3; one more per tensor for its step."""
    assert count_step(torch.optim.RMSprop) == 9 * SIZE + SCALARS


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (4, 6), (5, 5)])
def test_a_muon_step_is_five_rounds_of_three_products(rows, columns):
    """Else the one optimizer whose own products are no rounding error is counted like the others."""
    short, long = sorted((rows, columns))
    size, steps = rows * columns, 5
    gram = 2 * short * short * long
    # b·a + c·(a @ a), then x·p + q @ x: a product, its sum and the factors that are not 1
    square = 2 * short**3 + 3 * short * short
    update = 2 * short * short * long + 2 * size
    norm, scaled, decayed = 2 * size, size, size
    momentum, nesterov, applied = 3 * size, 3 * size, 2 * size
    made = [nn.Parameter(torch.rand(rows, columns))]
    made[0].grad = torch.rand(rows, columns)
    optimizer = torch.optim.Muon(made)
    optimizer.step()
    tally = record(optimizer.step)
    assert tally.uncounted == ()
    expected = momentum + nesterov + norm + scaled + steps * (gram + square + update) + decayed + applied
    assert tally.flop == expected
    assert tally.contraction_flop == steps * (2 * gram + 2 * short**3)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_search_over_several_evaluations_leaves_no_gap(search):
    made = parameters()
    optimizer = torch.optim.LBFGS(made, max_iter=4, line_search_fn=search)

    def evaluate():
        optimizer.zero_grad()
        loss = sum((parameter**2).sum() for parameter in made)
        loss.backward()
        return loss

    tally = record(lambda: optimizer.step(evaluate))
    assert tally.uncounted == ()
    assert tally.flop > 0


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
