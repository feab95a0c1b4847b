"""Pooling, window by window."""

import pytest

from flopmeter.formulas.call import OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.pooling import ADAPTIVE, ADAPTIVE_BACKWARD, FORMULAS, MAXIMA_BACKWARD


def flop_of(op, *args, out=(), **options):
    name = f"aten::{op}"
    found = FORMULAS[name][1](OpCall.of(name, *args, out=out, **options))
    return found.flop if isinstance(found, Cost) else found


def test_average_pooling_adds_its_window_and_divides():
    """Else pooling is free, or its gradient is."""
    assert flop_of("avg_pool2d", (2, 3, 4, 4), [2], out=[(2, 3, 2, 2)]) == 24 * 4
    assert flop_of("avg_pool2d", (2, 3, 4, 4), [2, 1], out=[(2, 3, 2, 4)]) == 48 * 2
    assert flop_of("avg_pool3d", (1, 1, 4, 4, 4), [2], out=[(1, 1, 2, 2, 2)]) == 8 * 8
    assert flop_of("avg_pool2d_backward", (2, 3, 2, 2), (2, 3, 4, 4), [2, 2], [2, 2]) == 24 + 24 * 4


def inputs_of_windows(inputs, outputs):
    return sum(len(range(i * inputs // outputs, -(-(i + 1) * inputs // outputs))) for i in range(outputs))


@pytest.mark.parametrize("inputs", range(13))
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 6, 7, 12, 13])
def test_windows_are_as_large_as_torch_makes_them(inputs, outputs):
    found = flop_of("_adaptive_avg_pool2d", (1, 1, inputs, 1), [outputs, 1], out=[(1, 1, outputs, 1)])
    assert found == (inputs_of_windows(inputs, outputs) if inputs else 0)


def test_windows_of_a_given_number_of_results_may_overlap():
    """Else pooling 5 numbers into 3 counts each number once, though two windows share some."""
    inputs = inputs_of_windows(5, 3)
    assert inputs == 7
    assert flop_of("_adaptive_avg_pool2d", (1, 2, 5, 4), [3, 2], out=[(1, 2, 3, 2)]) == 2 * inputs * 4
    found = flop_of("_adaptive_avg_pool2d_backward", (1, 2, 3, 2), (1, 2, 5, 4))
    assert found == 12 + 2 * inputs * 4
    assert flop_of("_adaptive_avg_pool3d", (1, 1, 4, 4, 4), [1, 1, 1], out=[(1, 1, 1, 1, 1)]) == 64


def test_pooling_in_one_dimension():
    """Else the window of a signal is taken for that of an image."""
    assert flop_of("avg_pool1d", (2, 3, 8), [4], [4], out=[(2, 3, 2)]) == 12 * 4
    assert flop_of("avg_pool1d", (2, 3, 8), [4], out=[(2, 3, 2)]) == 12 * 4


@pytest.mark.parametrize("op", ADAPTIVE)
def test_every_backend_looks_at_the_same_windows(op):
    found = flop_of(op.removeprefix("aten::"), (1, 2, 5, 4), [3, 2], out=[(1, 2, 3, 2)])
    assert found == 2 * inputs_of_windows(5, 3) * inputs_of_windows(4, 2)


@pytest.mark.parametrize("op", ADAPTIVE_BACKWARD)
def test_every_backend_shares_gradients_out_the_same_way(op):
    found = FORMULAS[op][1](OpCall.of(op, (1, 2, 3, 2), (1, 2, 5, 4)))
    assert {part.kind: part.flop for part in found.parts} == {"reduction": 12, "scatter": 2 * 7 * 4}


@pytest.mark.parametrize("op", MAXIMA_BACKWARD)
def test_the_gradient_of_a_maximum_is_one_add_for_each_result(op):
    assert flop_of(op.removeprefix("aten::"), (1, 1, 2, 2), (1, 1, 4, 4), [2, 2]) == 4
