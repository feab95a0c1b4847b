"""Primitive operators: what an element costs, and that nothing is forgotten."""

import pytest

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.prims import FORMULAS, NOTHING, RATES


def cost_of(op, *args, **options):
    return FORMULAS[f"prims::{op}"][1](OpCall.of(f"prims::{op}", *args, **options))


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(("shape", "size"), [((4, 5), 20), ((), 1), ((0, 3), 0)])
def test_each_element_costs_its_rate(name, shape, size):
    steps = {"fma": ["multiply", "add"], "hypot": ["square", "square", "add", "root"]}
    steps |= {rest: ["divide", "multiply", "subtract"] for rest in ("fmod", "remainder")}
    assert cost_of(name, shape, shape, out=[shape]) == len(steps.get(name, ["itself"])) * size


@pytest.mark.parametrize("name", ["sum", "prod", "xor_sum"])
def test_a_sum_of_n_takes_n_less_one(name):
    rows = [3 - 1 for _row in range(4)]
    assert cost_of(name, (4, 3), [1], out=[(4,)]) == sum(rows)
    assert cost_of(name, (0, 3), [0], out=[(3,)]) == 0


def test_a_variance_takes_four_passes():
    assert cost_of("var", (4, 3), [1], out=[(4,)]) == sum(
        {"mean": 12, "subtract": 12, "square": 12, "of it": 12}.values()
    )


def test_the_sums_of_a_softmax():
    assert cost_of("prepare_softmax_online", (4, 3), 1, out=[(4, 1), (4, 1)]) == 12 + 12 + 4 * (3 - 1)


def test_what_moves_and_compares_costs_nothing():
    assert {cost_of(name, (4, 3), out=[(4, 3)]).flop for name in NOTHING} == {0}


def test_logic_on_booleans_is_free():
    assert cost_of("bitwise_xor", (4, 3), (4, 3), dtype="bool", out=[(4, 3)]) == 0
    assert cost_of("bitwise_xor", (4, 3), (4, 3), dtype="int32", out=[(4, 3)]) == 12
    assert cost_of("xor_sum", (4, 3), [1], dtype="bool", out=[(4,)]) == 0
