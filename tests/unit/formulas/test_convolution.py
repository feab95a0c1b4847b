"""Convolutions, counted by hand and by going through every tap."""

import itertools

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.convolution import ADDED, BIAS, FORMULAS, TRANSPOSED

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


def go_through(x, w, y, *, groups=1, transposed=False):
    """Count multiply-adds one by one: for each image, each result, each channel of its group and each tap."""
    source, target = (y, x) if transposed else (x, y)
    per_group_in, per_group_out = source[1] // groups, target[1] // groups
    found = 0
    for _ in range(x[0]):
        for channel in range(target[1]):
            group = channel // per_group_out
            places = itertools.product(*map(range, target[2:]))
            partners = range(group * per_group_in, (group + 1) * per_group_in)
            taps = list(itertools.product(*map(range, w[2:])))
            found += sum(2 for _ in places for _ in partners for _ in taps)
    return found


SHAPES = [
    # x, w, y, groups, transposed; the sizes of y follow from stride, padding and dilation
    ((2, 3, 7), (4, 3, 3), (2, 4, 5), 1, False),
    ((2, 3, 7), (4, 3, 3), (2, 4, 3), 1, False),  # stride 2
    ((1, 4, 6, 5), (6, 2, 3, 2), (1, 6, 6, 6), 2, False),  # padding 1
    ((1, 4, 7, 7), (4, 1, 3, 3), (1, 4, 3, 3), 4, False),  # dilation 2, depthwise
    ((1, 4, 7, 7), (8, 1, 3, 3), (1, 8, 5, 5), 4, False),  # depthwise, two results each
    ((1, 2, 4, 4, 4), (3, 2, 2, 2, 2), (1, 3, 3, 3, 3), 1, False),
    ((2, 4, 5), (4, 3, 3), (2, 3, 11), 1, True),  # stride 2
    ((2, 4, 5), (4, 3, 3), (2, 6, 7), 2, True),
    ((1, 6, 3, 4), (6, 1, 2, 2), (1, 3, 4, 5), 3, True),
]


@pytest.mark.parametrize(("x", "w", "y", "groups", "transposed"), SHAPES)
def test_every_tap_is_one_multiply_add(x, w, y, groups, transposed):
    """Else stride, dilation or groups change the figure in another way than the work."""
    expected = go_through(x, w, y, groups=groups, transposed=transposed)
    assert forward(x, w, y, groups=groups, transposed=transposed) == {"convolution": expected}
    found = backward(x, w, y, [True, True, False], groups=groups, transposed=transposed)
    assert found == {"convolution": 2 * expected}


X, W, Y, B = (2, 4, 9, 9), (6, 2, 3, 3), (2, 6, 7, 7), (6,)
TWO = [1, 1]
PRODUCTS = 2 * 2 * 6 * 49 * 2 * 9
CALLS = {
    "cudnn_convolution": (X, W, TWO, TWO, TWO, 2, False, False, True),
    "cudnn_convolution_relu": (X, W, B, TWO, TWO, TWO, 2),
    "cudnn_convolution_add_relu": (X, W, Y, None, B, TWO, TWO, TWO, 2),
    "miopen_convolution": (X, W, B, TWO, TWO, TWO, 2, False, False),
    "miopen_convolution_relu": (X, W, B, TWO, TWO, TWO, 2),
    "miopen_convolution_add_relu": (X, W, Y, 1.0, B, TWO, TWO, TWO, 2),
    "mkldnn_convolution": (X, W, B, TWO, TWO, TWO, 2),
    "_mps_convolution": (X, W, B, TWO, TWO, TWO, 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_backend_costs_the_same(name):
    """Else a run on another vendor's device has another figure for the same work."""
    op = f"aten::{name}"
    found = {part.kind: part.flop for part in FORMULAS[op][1](OpCall.of(op, *CALLS[name], out=[Y])).parts}
    passes = (op in BIAS) + (op in ADDED)
    assert found == {"convolution": PRODUCTS, **({"pointwise": passes * 2 * 6 * 49} if passes else {})}


def flop_of(name, *args, out):
    op = f"aten::{name}"
    return {part.kind: part.flop for part in FORMULAS[op][1](OpCall.of(op, *args, out=[out])).parts}


def test_a_tensor_that_is_added_costs_a_factor_unless_it_is_one():
    """Else a residual that is scaled inside the kernel is free."""
    rest = (None, TWO, TWO, TWO, 2)
    for alpha, passes in [(None, 1), (1, 1), (1.0, 1), (0.5, 2), (AnyNumber(), 2)]:
        found = flop_of("cudnn_convolution_add_relu", X, W, Y, alpha, *rest, out=Y)
        assert found == {"convolution": PRODUCTS, "pointwise": passes * 2 * 6 * 49}


def test_transposed_operators_need_no_flag():
    """Else an upsampling layer is priced by the wrong side."""
    x, w, y = (2, 6, 5, 5), (6, 2, 3, 3), (2, 4, 7, 7)
    expected = go_through(x, w, y, groups=2, transposed=True)
    arguments = {
        "cudnn_convolution_transpose": (TWO, [0, 0], TWO, TWO, 2, False, False, True),
        "miopen_convolution_transpose": (None, TWO, [0, 0], TWO, TWO, 2, False, False),
        "_mps_convolution_transpose": (TWO, [0, 0], TWO, TWO, 2),
    }
    for name, rest in arguments.items():
        assert flop_of(name, x, w, *rest, out=y) == {"convolution": expected}
    single = go_through((2, 6, 5, 5), (6, 4, 3, 3), (2, 4, 7, 7), transposed=True)
    found = flop_of("slow_conv_transpose2d", (2, 6, 5, 5), (6, 4, 3, 3), [3, 3], (4,), TWO, out=(2, 4, 7, 7))
    assert found == {"convolution": single, "pointwise": 2 * 4 * 49}
    found = flop_of("slow_conv_transpose3d", (6, 5, 5, 5), (6, 4, 3, 3, 3), [3, 3, 3], None, out=(4, 7, 7, 7))
    assert found == {"convolution": 2 * 6 * 125 * 4 * 27}
    assert all(op in FORMULAS for op in TRANSPOSED)


def test_operators_without_groups_have_one_or_as_many_as_channels():
    """Else depthwise layers cost what dense ones cost, or are refused."""
    dense = go_through((2, 4, 9, 9), (6, 4, 3, 3), (2, 6, 7, 7))
    for name in ("_slow_conv2d_forward", "slow_conv_dilated2d"):
        found = flop_of(name, (2, 4, 9, 9), (6, 4, 3, 3), [3, 3], (6,), TWO, [0, 0], out=(2, 6, 7, 7))
        assert found == {"convolution": dense, "pointwise": 2 * 6 * 49}
    assert flop_of("_nnpack_spatial_convolution", (2, 4, 9, 9), (6, 4, 3, 3), None, TWO, out=(2, 6, 7, 7)) == {
        "convolution": dense
    }
    for name in ("slow_conv3d_forward", "slow_conv_dilated3d"):
        found = flop_of(name, (1, 2, 4, 4, 4), (3, 2, 2, 2, 2), [2, 2, 2], None, out=(1, 3, 3, 3, 3))
        assert found == {"convolution": 2 * 3 * 27 * 2 * 8}
    depthwise = go_through((1, 4, 7, 7), (8, 1, 3, 3), (1, 8, 5, 5), groups=4)
    found = flop_of("_conv_depthwise2d", (1, 4, 7, 7), (8, 1, 3, 3), [3, 3], (8,), TWO, out=(1, 8, 5, 5))
    assert found == {"convolution": depthwise, "pointwise": 200}
    found = flop_of("conv_depthwise3d", (1, 4, 5, 5, 5), (4, 1, 3, 3, 3), [3, 3, 3], None, out=(1, 4, 3, 3, 3))
    assert found == {"convolution": 2 * 4 * 27 * 27}
    found = flop_of(
        "miopen_depthwise_convolution", (1, 4, 7, 7), (8, 1, 3, 3), None, TWO, TWO, TWO, 4, out=(1, 8, 5, 5)
    )
    assert found == {"convolution": depthwise}


def test_backwards_of_other_backends():
    """Else training on them costs its forward alone."""

    def parts(name, *args):
        op = f"aten::{name}"
        return {part.kind: part.flop for part in FORMULAS[op][1](OpCall.of(op, *args)).parts}

    dense = go_through((2, 4, 9, 9), (6, 4, 3, 3), (2, 6, 7, 7))
    found = parts("_slow_conv2d_backward", (2, 6, 7, 7), (2, 4, 9, 9), (6, 4, 3, 3), [3, 3], TWO, TWO, [True] * 3)
    assert found == {"convolution": 2 * dense, "reduction": 2 * 6 * 49 - 6}
    found = parts("mps_convolution_backward", X, Y, W, TWO, TWO, TWO, 2, [False, True, True])
    assert found == {"convolution": PRODUCTS, "reduction": 2 * 6 * 49 - 6}
    x, w, y = (2, 6, 5, 5), (6, 2, 3, 3), (2, 4, 7, 7)
    found = parts("mps_convolution_transpose_backward", x, y, w, TWO, [0, 0], TWO, TWO, 2, [True, True])
    assert found == {"convolution": 2 * go_through(x, w, y, groups=2, transposed=True)}


def test_a_convolution_over_time_has_channels_last():
    """Else its channels are taken for its batch."""
    # 3 places, 2 sequences, 6 results of 4 channels and 3 taps each; one add each for the bias
    found = flop_of("conv_tbc", (5, 2, 4), (3, 4, 6), (6,), 0, out=(3, 2, 6))
    assert found == {"convolution": sum(2 for _ in range(3 * 2 * 6 * 4 * 3)), "pointwise": 36}
    with pytest.raises(FormulaError):
        flop_of("conv_tbc", (5, 2, 4), (3, 5, 6), (6,), 0, out=(3, 2, 6))


def test_a_call_without_its_mask_its_output_or_with_other_ranks_is_refused():
    with pytest.raises(FormulaError):
        backward((2, 4, 10), (6, 4, 3), (2, 6, 8), None)
    with pytest.raises(FormulaError):
        FORMULAS[FORWARD][1](OpCall.of(FORWARD, X, W))
    with pytest.raises(FormulaError):
        forward((2, 4, 10), (6, 4, 3, 3), (2, 6, 8))
