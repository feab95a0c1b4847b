"""Fused optimizer steps, added up from the operators of torch's loop."""

import pytest

from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.optimizer import FORMULAS

ANY = AnyNumber()
LISTS, N = [(2, 3), (4,)], 10
STEPS = [(1,), (1,)]
PLAIN = {"weight_decay": 0.0, "maximize": False}


def flop_of(op, **options):
    lists = {"sgd": 3, "adagrad": 3}.get(op, 4)
    args = [LISTS] * lists if op == "sgd" else [*[LISTS] * lists, [], STEPS]
    call = OpCall.of(f"aten::_fused_{op}_", *args, **options)
    return FORMULAS[f"aten::_fused_{op}"][1](call)


LERP, SCALE, SQUARE, ROOT, DIVIDE, EPS, UPDATE = 3, 1, 3, 1, 1, 1, 3
ADAM = LERP + SCALE + SQUARE + ROOT + DIVIDE + EPS + UPDATE


@pytest.mark.parametrize(
    ("options", "adam", "adamw"),
    [
        ({}, ADAM, ADAM),
        ({"weight_decay": ANY}, ADAM + 2, ADAM + 1),
        ({"weight_decay": 1.0}, ADAM + 1, ADAM + 1),
        ({"maximize": True}, ADAM + 1, ADAM + 1),
        ({"amsgrad": True}, ADAM, ADAM),
        ({"grad_scale": (1,)}, ADAM + 1, ADAM + 1),
        ({"beta2": 0.0}, ADAM - 1, ADAM - 1),
        ({"lr": (1,)}, ADAM, ADAM),
    ],
)
def test_adam_costs_its_loop(options, adam, adamw):
    """Else the fused kernel, which most people use, has another figure than the loop it replaces."""
    given = {**PLAIN, "beta2": ANY, "lr": ANY, "amsgrad": False, **options}
    assert flop_of("adam", **given) == adam * N
    assert flop_of("adamw", **given) == adamw * N


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 2),
        ({"weight_decay": ANY}, 4),
        ({"weight_decay": 1.0}, 3),
        ({"momentum": ANY}, 2 + 2),
        ({"momentum": ANY, "is_first_step": True}, 2),
        ({"momentum": ANY, "dampening": ANY}, 2 + 3),
        ({"momentum": ANY, "nesterov": True}, 2 + 2 + 2),
        ({"momentum": 1.0, "nesterov": True}, 2 + 2 + 1),
        ({"momentum": ANY, "nesterov": True, "is_first_step": True}, 2 + 2),
        ({"maximize": True}, 3),
        ({"grad_scale": (1,)}, 3),
    ],
)
def test_sgd_costs_its_loop(options, rate):
    """Else momentum is free."""
    plain = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "is_first_step": False}
    assert flop_of("sgd", **PLAIN, **plain) == 2 * N
    assert flop_of("sgd", **{**PLAIN, **plain, **options}) == rate * N


def test_adagrad_costs_its_loop():
    squares, root, eps, update = 2, 1, 1, 3
    assert flop_of("adagrad", **PLAIN) == (squares + root + eps + update) * N
    assert flop_of("adagrad", **{**PLAIN, "weight_decay": ANY, "maximize": True}) == (7 + 2 + 1) * N
