"""Operators that compiled CPU code calls: the plain operator, and what follows it."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.compiled import FORMULAS
from flopmeter.formulas.rates import ONEDNN

LINEAR, CONVOLUTION = "mkldnn::_linear_pointwise", "mkldnn::_convolution_pointwise"
X, W, Y = (2, 4, 9, 9), (6, 2, 3, 3), (2, 6, 7, 7)
TAPS, SIZE = 2 * 9, 2 * 6 * 49
ONE = [1, 1]


def parts_of(op, *args, out=()):
    found = FORMULAS[op][1](OpCall.of(op, *args, out=out))
    return found if isinstance(found, int) else {part.kind: part.flop for part in found.parts if part.flop}


def test_what_the_table_of_activations_says():
    """Each written out: silu multiplies and takes a sigmoid, hardswish adds 3, divides by 6 and multiplies."""
    sigmoid, tanh, erf = 1, 1, 1
    assert {
        "none": 0,
        "relu": 0,
        "hardtanh": 0,
        "sigmoid": sigmoid,
        "tanh": tanh,
        "leaky_relu": 1,
        "hardsigmoid": 1 + 1,
        "swish": sigmoid + 1,
        "hardswish": 1 + 1 + 1,
        "gelu": 1 + 1 + erf + 1 + 1,
    } == ONEDNN


@pytest.mark.parametrize("name", ONEDNN)
def test_an_activation_follows_a_linear_layer(name):
    """Else a compiled layer costs less than the same layer apart."""
    expected = {"matmul": 2 * 3 * 4 * 5 * 6, "pointwise": (1 + ONEDNN[name]) * 60}
    assert parts_of(LINEAR, (3, 4, 6), (5, 6), (5,), name, [], "", out=[(3, 4, 5)]) == expected


def test_gelu_comes_in_two_forms():
    assert parts_of(LINEAR, (4, 6), (5, 6), None, "gelu", [], "tanh", out=[(4, 5)])["pointwise"] == 9 * 20
    assert parts_of(LINEAR, (4, 6), (5, 6), None, "gelu", [], "none", out=[(4, 5)])["pointwise"] == 5 * 20


def test_another_tensor_follows_a_linear_layer():
    expected = {"matmul": 2 * 4 * 5 * 6, "pointwise": 20 + 20}
    assert parts_of(LINEAR, (4, 6), (4, 5), (5, 6), (5,), "add", out=[(4, 5)]) == expected
    assert parts_of(LINEAR, (4, 6), (4, 5), (5, 6), None, "mul", out=[(4, 5)])["pointwise"] == 20


def test_a_packed_weight_stands_beside_the_one_that_is_counted():
    expected = {"matmul": 2 * 4 * 5 * 6, "pointwise": 20}
    assert parts_of("mkl::_mkl_linear", (4, 6), (1234,), (5, 6), (5,), 4, out=[(4, 5)]) == expected
    assert parts_of("mkl::_mkl_linear", (4, 6), (1234,), (5, 6), None, 4, out=[(4, 5)]) == {"matmul": 240}


def test_an_activation_follows_a_convolution():
    found = parts_of(CONVOLUTION, X, W, (6,), [0, 0], ONE, ONE, 2, "hardswish", [], "", out=[Y])
    assert found == {"convolution": 2 * SIZE * TAPS, "pointwise": (1 + 3) * SIZE}
    found = parts_of(CONVOLUTION, X, W, None, [0, 0], ONE, ONE, 2, "none", [], "", out=[Y])
    assert found == {"convolution": 2 * SIZE * TAPS}


@pytest.mark.parametrize(("alpha", "passes"), [(None, 1), (1, 1), (0.5, 2), (AnyNumber(), 2)])
def test_another_tensor_follows_a_convolution_in_place_or_not(alpha, passes):
    """Else the in-place form, whose first tensor is the other one, is priced by the wrong shape."""
    rest = (W, (6,), [0, 0], ONE, ONE, 2, "add", alpha, "swish", [], "")
    expected = {"convolution": 2 * SIZE * TAPS, "pointwise": (1 + passes + 2) * SIZE}
    assert parts_of(CONVOLUTION, X, Y, *rest, out=[Y]) == expected
    assert parts_of(f"{CONVOLUTION}_", Y, X, *rest, out=[Y]) == expected
    plain = (W, None, [0, 0], ONE, ONE, 2, "add", alpha, None, [], None)
    assert parts_of(CONVOLUTION, X, Y, *plain, out=[Y])["pointwise"] == passes * SIZE


def test_a_transposed_convolution_counts_by_its_input():
    x, w, y = (2, 6, 5, 5), (6, 2, 3, 3), (2, 4, 7, 7)
    op = "mkldnn::_convolution_transpose_pointwise"
    found = parts_of(op, x, w, (4,), [0, 0], [0, 0], ONE, ONE, 2, "sigmoid", [], "", out=[y])
    assert found == {"convolution": 2 * (2 * 6 * 25) * 2 * 9, "pointwise": 2 * (2 * 4 * 49)}


def test_the_sum_of_two_products():
    found = parts_of("inductor::_mm_plus_mm", (2, 3), (3, 5), (2, 4), (4, 5))
    assert found == {"matmul": 2 * 2 * 5 * 3 + 2 * 2 * 5 * 4, "pointwise": 10}


def test_products_below_a_collective():
    """Else tensor parallelism, once it is compiled, loses its products."""
    op = "symm_mem::fused_all_gather_matmul"
    out = [(8, 3), (8, 5), (8, 2)]  # four ranks with two rows each
    assert parts_of(op, (2, 3), [(3, 5), (3, 2)], 0, "0", out=out) == 2 * 8 * 3 * 5 + 2 * 8 * 3 * 2
    assert parts_of(op, (2, 3), [(3, 5)], 0, "0", out=[(8, 5)]) == 2 * 8 * 3 * 5
    with pytest.raises(FormulaError):
        parts_of(op, (2, 3), [(4, 5)], 0, "0", out=[(8, 5)])
    for name in ("fused_matmul_reduce_scatter", "_async_input_mm"):
        assert parts_of(f"symm_mem::{name}", (4, 2, 3), (3, 5)) == 2 * 8 * 3 * 5
        with pytest.raises(FormulaError):
            parts_of(f"symm_mem::{name}", (4, 2, 3), (4, 5))


def fp8(*shape):
    return TensorSpec(shape, "fp8_e4m3")


@pytest.mark.parametrize(("bias", "scale", "more"), [(None, None, 0), ((6,), None, 1), ((6,), (1,), 2)])
def test_scaled_products_that_travel_keep_their_precision_and_the_scales_have_theirs(bias, scale, more):
    bias, scale = bias and TensorSpec(bias), scale and TensorSpec(scale)
    gathered = OpCall.of(
        *("symm_mem::fused_all_gather_scaled_matmul", fp8(4, 8), (fp8(8, 6),), (4, 1), [(1, 6)], 0, "0", (bias,)),
        *((scale,), (None,), (False,)),
        out=[(16, 8), (16, 6)],
    )
    scattered = OpCall.of(
        *("symm_mem::fused_scaled_matmul_reduce_scatter", fp8(16, 8), fp8(8, 6), (16, 1), (1, 6), "sum", 0, 0, "0"),
        *(None, bias, scale),
        out=[(4, 6)],
    )
    for call in (gathered, scattered):
        products, scaling = FORMULAS[call.op][1](call).parts
        assert (products.kind, products.precision, products.flop) == ("matmul", "fp8_e4m3", 2 * 16 * 8 * 6)
        assert (scaling.kind, scaling.precision, scaling.flop) == ("pointwise", "fp32", (2 + more) * 16 * 6)


def test_a_gradient_is_added_where_there_is_one():
    op = "inductor::accumulate_grad_"
    assert parts_of(op, (2, 3), (2, 3), (2, 3)) == 6
    assert parts_of(op, (2, 3), None, (2, 3)) == 0
    assert parts_of(op, (2, 3), (2, 3), None) == 0


@pytest.mark.parametrize(
    ("op", "args", "out"),
    [
        (LINEAR, ((4, 6), (5, 6), None, "elu", [], ""), (4, 5)),
        (LINEAR, ((4, 6), (5, 7), None, "relu", [], ""), (4, 5)),
        (LINEAR, ((4, 6), (5, 6), None, "relu", [], ""), (5, 5)),
        (LINEAR, ((4, 6), (4, 5), (5, 6), None, "max"), (4, 5)),
        (CONVOLUTION, (X, W, None, [0, 0], ONE, ONE, 1, "relu", [], ""), Y),
        (CONVOLUTION, (X, W, None, [0, 0], ONE, ONE, 2, 7, [], ""), Y),
        (CONVOLUTION, (X, W, None, [0, 0], ONE, ONE, None, "relu", [], ""), Y),
        (CONVOLUTION, ((2, 4), (6, 4), None, [0], [1], [1], 1, "relu", [], ""), (2, 6)),
        ("inductor::_mm_plus_mm", ((2, 3), (3, 5), (2, 4), (4, 6)), (2, 5)),
    ],
)
def test_what_does_not_fit_is_refused(op, args, out):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        parts_of(op, *args, out=[out])


def test_a_convolution_of_no_channels():
    assert parts_of(CONVOLUTION, X, (0, 4, 3, 3), None, [0, 0], ONE, ONE, 1, "relu", [], "", out=[(2, 0, 7, 7)]) == {}
