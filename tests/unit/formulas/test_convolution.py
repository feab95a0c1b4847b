"""Convolutions, counted by hand and by going through every tap."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.convolution import FORMULAS

FORWARD, BACKWARD = "aten::convolution", "aten::convolution_backward"


def forward(x, w, y, *, bias=None, groups=1, transposed=False):
    one = [1] * (len(w) - 2)
    call = OpCall.of(FORWARD, x, w, bias, one, one, one, transposed, one, groups, out=[y])
    return {part.kind: part.flop for part in FORMULAS[FORWARD][1](call).parts}


def backward(x, w, y, mask, *, groups=1, transposed=False):
    one = [1] * (len(w) - 2)
    call = OpCall.of(BACKWARD, y, x, w, [w[0]], one, one, one, transposed, one, groups, mask)
    return {part.kind: part.flop for part in FORMULAS[BACKWARD][1](call).parts}


def test_each_output_multiplies_the_taps_of_its_group():
    """Else images cost what they would with another kernel or stride."""
    assert forward((2, 3, 9, 9), (8, 3, 3, 3), (2, 8, 7, 7)) == {"convolution": 2 * 2 * 8 * 49 * 3 * 9}
    assert forward((2, 4, 10), (6, 2, 3), (2, 6, 8), groups=2) == {"convolution": 2 * 2 * 6 * 8 * 2 * 3}
    assert forward((1, 4, 5, 5), (4, 1, 3, 3), (1, 4, 3, 3), groups=4) == {"convolution": 2 * 4 * 9 * 9}
    assert forward((1, 2, 4, 4, 4), (3, 2, 2, 2, 2), (1, 3, 3, 3, 3)) == {"convolution": 2 * 3 * 27 * 2 * 8}


def test_a_transposed_convolution_spreads_each_input_over_its_taps():
    """Else decoders of images cost by their output, which the stride has blown up."""
    found = forward((2, 6, 5), (6, 4, 3), (2, 8, 12), groups=2, transposed=True)
    assert found == {"convolution": 2 * 2 * 6 * 5 * 4 * 3}


def test_a_bias_is_one_add_per_output():
    assert forward((1, 3, 5), (4, 3, 2), (1, 4, 4), bias=(4,))["pointwise"] == 16


def test_an_image_without_a_batch_counts_as_one():
    assert forward((3, 9, 9), (8, 3, 3, 3), (8, 7, 7)) == {"convolution": 2 * 8 * 49 * 27}


@pytest.mark.parametrize(
    ("mask", "products", "adds"),
    [
        ([True, True, True], 2, 2 * 6 * 8 - 6),
        ([False, True, False], 1, 0),
        ([True, False, False], 1, 0),
        ([False, False, True], 0, 2 * 6 * 8 - 6),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_backward_costs_one_forward_per_gradient_that_is_asked_for(mask, products, adds, groups):
    """Else grouped models pay for their weight's gradient as often as they have groups."""
    x, w, y = (2, 4, 10), (6, 4 // groups, 3), (2, 6, 8)
    found = backward(x, w, y, mask, groups=groups)
    assert found["convolution"] == products * forward(x, w, y, groups=groups)["convolution"]
    assert found.get("reduction", 0) == adds


def test_backward_of_a_transposed_convolution():
    found = backward((2, 6, 5), (6, 4, 3), (2, 4, 12), [True, True, False], transposed=True)
    assert found == {"convolution": 2 * (2 * 2 * 6 * 5 * 4 * 3)}


def test_the_overrideable_form_keeps_its_arguments_one_place_earlier():
    op = f"{BACKWARD}_overrideable"
    call = OpCall.of(
        *(op, (2, 6, 8), (2, 4, 10), (6, 2, 3), [1], [1], [1], False, [1], 2, [True, True, True]),
    )
    found = {part.kind: part.flop for part in FORMULAS[op][1](call).parts}
    assert found == backward((2, 4, 10), (6, 2, 3), (2, 6, 8), [True, True, True], groups=2)


def test_without_channels_there_is_nothing_to_do():
    assert forward((2, 3, 9), (0, 3, 3), (2, 0, 7)) == {"convolution": 0}
    assert backward((2, 3, 9), (0, 3, 3), (2, 0, 7), [True, True, True]) == {"convolution": 0}


@pytest.mark.parametrize(
    ("x", "w", "y", "groups"),
    [((2, 4, 10), (6, 3, 3), (2, 6, 8), 1), ((2, 4, 10), (6, 4, 3), (2, 5, 8), 1), ((2, 4), (6, 4), (2, 6), 1)],
)
def test_channels_that_do_not_fit_are_refused(x, w, y, groups):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        forward(x, w, y, groups=groups)
