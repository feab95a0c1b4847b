"""Losses, counted by hand."""

import pytest

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.loss import BACKWARD_RATES, FORMULAS, RATES

X, N = (2, 3), 6
SCALAR = OpCall.of("", ()).args[0]
NONE, MEAN, SUM = 0, 1, 2
ADDS = {NONE: 0, MEAN: N, SUM: N - 1}


def parts_of(op, *args):
    found = FORMULAS[f"aten::{op}"][1](OpCall.of(f"aten::{op}", *args))
    if isinstance(found, Cost):
        return {kind: sum(p.flop for p in found.parts if p.kind == kind) for kind in {p.kind for p in found.parts}}
    return {"pointwise": found}


@pytest.mark.parametrize("reduction", [NONE, MEAN, SUM])
@pytest.mark.parametrize(
    ("op", "each"), [("mse_loss", 2), ("huber_loss", 6), ("smooth_l1_loss", 6), ("soft_margin_loss", 4)]
)
def test_a_loss_is_pointwise_and_then_a_reduction(op, each, reduction):
    """Else losses without a reduction cost as much as those with one."""
    found = parts_of(op, X, X, reduction)
    assert found["pointwise"] == each * N
    assert found.get("reduction", 0) == ADDS[reduction]


def test_a_loss_takes_the_mean_unless_told_otherwise():
    assert parts_of("mse_loss", X, X) == parts_of("mse_loss", X, X, MEAN)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("mse_loss_backward", (SCALAR, X, X, MEAN), 3 * N),
        ("huber_loss_backward", (SCALAR, X, X, MEAN), 3 * N + 4),
        ("huber_loss_backward", (X, X, X, NONE), 7 * N),
        ("smooth_l1_loss_backward", (SCALAR, X, X, MEAN), 5 * N + 1),
        ("soft_margin_loss_backward", (SCALAR, X, X, MEAN), 6 * N),
        ("soft_margin_loss_backward", (SCALAR, X, X, SUM), 5 * N),
        ("binary_cross_entropy_backward", (SCALAR, X, X), 6 * N),
        ("binary_cross_entropy_backward", (SCALAR, X, X, X, SUM), 6 * N),
        ("binary_cross_entropy_backward", (X, X, X, None, NONE), 5 * N),
    ],
)
def test_gradients_of_losses(op, args, expected):
    assert parts_of(op, *args) == {"pointwise": expected}


def test_binary_cross_entropy():
    assert parts_of("binary_cross_entropy", X, X) == {"pointwise": 7 * N, "reduction": N}
    assert parts_of("binary_cross_entropy", X, X, X, NONE) == {"pointwise": 8 * N}
    op = "binary_cross_entropy_with_logits"
    assert parts_of(op, X, X, X, None, NONE) == {"pointwise": 9 * N}
    assert parts_of(op, X, X) == {"pointwise": 8 * N, "reduction": N}
    assert parts_of(op, X, X, X, (3,), SUM) == {"pointwise": (8 + 1 + 3) * N + 3, "reduction": N - 1}


@pytest.mark.parametrize("op", ["nll_loss_forward", "nll_loss2d_forward"])
def test_class_losses_look_at_one_number_per_target(op):
    """Else a large vocabulary makes the loss look expensive."""
    shapes = ((4, 10, 2, 2), (4, 2, 2)) if "2d" in op else ((16, 10), (16,))
    assert parts_of(op, *shapes, None, MEAN, -100) == {"pointwise": 16, "reduction": 16}
    assert parts_of(op, *shapes, None, SUM, -100) == {"pointwise": 16, "reduction": 15}
    assert parts_of(op, *shapes, None, NONE, -100) == {"pointwise": 16}
    assert parts_of(op, *shapes, (10,), MEAN, -100) == {"pointwise": 32, "reduction": 16 + 15}
    assert parts_of(op, *shapes, (10,), NONE, -100) == {"pointwise": 32}


@pytest.mark.parametrize("op", ["nll_loss_backward", "nll_loss2d_backward"])
def test_gradients_of_class_losses(op):
    shapes = (SCALAR, (16, 10), (16,))
    assert parts_of(op, *shapes, None, MEAN, -100, SCALAR) == {"pointwise": 17}
    assert parts_of(op, *shapes, (10,), MEAN, -100, SCALAR) == {"pointwise": 33}
    assert parts_of(op, *shapes, None, SUM, -100, SCALAR) == {"pointwise": 16}


def test_every_loss_with_a_rate_has_a_gradient():
    assert {f"{op}_backward" for op in RATES} == set(BACKWARD_RATES)
