"""Bilinear layers and their gradients: torch's two steps for each slice, taken one element at a time."""

import itertools

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.bilinear import FORMULAS
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall

B, O, I, J = 2, 5, 3, 4  # noqa: E741  # batch, outputs, left and right inputs
LEFT, WEIGHT, RIGHT, GRADIENT = (B, I), (O, I, J), (B, J), (B, O)
# Dimensions of everything: batch, output, left, right; the second is unrolled.
NO_LEFT, NO_WEIGHT, NO_RIGHT, NO_GRADIENT = [1, 3], [0], [1, 2], [2, 3]


def parts_of(*args, dtype="fp32"):
    found = FORMULAS["aten::_trilinear"][1](OpCall.of("aten::_trilinear", *args, dtype=dtype))
    return {part.kind: part.flop for part in found.parts if part.flop}


def walk(*sizes):
    return sum(1 for _ in itertools.product(*map(range, sizes)))


FORWARD = (LEFT, WEIGHT, RIGHT, NO_LEFT, NO_WEIGHT, NO_RIGHT, [2, 3])
GRADIENTS = {
    "left": (GRADIENT, WEIGHT, RIGHT, NO_GRADIENT, NO_WEIGHT, NO_RIGHT, [1, 3]),
    "weight": (LEFT, GRADIENT, RIGHT, NO_LEFT, NO_GRADIENT, NO_RIGHT, [0]),
    "right": (LEFT, WEIGHT, GRADIENT, NO_LEFT, NO_WEIGHT, NO_GRADIENT, [1, 2]),
}


def test_a_layer_is_a_product_with_the_weight_and_one_with_the_other_input():
    assert parts_of(*FORWARD) == {"matmul": 2 * walk(O, B, I, J) + 2 * walk(O, B, J)}


def test_the_gradient_of_the_first_input_scales_the_weight_for_each_output():
    """Else a gradient is taken for three products, and torch adds slices up."""
    assert parts_of(*GRADIENTS["left"]) == {
        "pointwise": walk(O, B, I, J),
        "matmul": 2 * walk(O, B, I, J),
        "reduction": walk(O - 1, B, I),
    }


def test_the_gradient_of_the_weight_is_a_product_over_the_batch():
    assert parts_of(*GRADIENTS["weight"]) == {"pointwise": walk(O, B, I), "matmul": 2 * walk(O, B, I, J)}


def test_the_gradient_of_the_second_input_is_a_product_and_a_scaling():
    assert parts_of(*GRADIENTS["right"]) == {
        "matmul": 2 * walk(O, B, I, J),
        "pointwise": walk(O, B, J),
        "reduction": walk(O - 1, B, J),
    }


def test_complex_numbers_cost_eight_six_and_two():
    real, twice = parts_of(*GRADIENTS["left"]), parts_of(*GRADIENTS["left"], dtype="complex64")
    assert twice == {
        "pointwise": 6 * real["pointwise"],
        "matmul": 4 * real["matmul"],
        "reduction": 2 * real["reduction"],
    }


def test_nothing_costs_nothing():
    assert parts_of((0, I), WEIGHT, (0, J), NO_LEFT, NO_WEIGHT, NO_RIGHT, [2, 3]) == {}
    assert parts_of(LEFT, (0, I, J), RIGHT, NO_LEFT, NO_WEIGHT, NO_RIGHT, [2, 3]) == {}


@pytest.mark.parametrize(
    "args",
    [
        (LEFT, WEIGHT),
        (LEFT, WEIGHT, RIGHT),
        (LEFT, WEIGHT, RIGHT, NO_LEFT, NO_WEIGHT, NO_RIGHT, [2, 9]),
        (LEFT, WEIGHT, RIGHT, NO_LEFT, NO_WEIGHT, [1, 7], [2, 3]),
        (LEFT, WEIGHT, RIGHT, NO_LEFT, NO_WEIGHT, [0, 0], [2, 3]),
        (LEFT, WEIGHT, RIGHT, NO_LEFT, [], NO_RIGHT, [2, 3]),
        (LEFT, WEIGHT, (3, J), NO_LEFT, NO_WEIGHT, NO_RIGHT, [2, 3]),
        (LEFT, GRADIENT, RIGHT, NO_LEFT, NO_GRADIENT, NO_RIGHT, [2]),
        (*FORWARD, 9),
    ],
)
def test_calls_that_do_not_fit_are_refused(args):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        FormulaBook.standard().cost(OpCall.of("aten::_trilinear", *args))
