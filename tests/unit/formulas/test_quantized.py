"""Products of small integers, counted term by term with the steps that put scales on and off."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.quantized import FORMULAS, FUNCTIONS, PACKING

BOOK = FormulaBook.standard()
ANY = AnyNumber()
R, K, N = 2, 32, 8
CHOOSE = ["max − min", "divide by the range", "min / scale", "low − that"]
QUANTIZE = ["factor", "zero point"]
DEQUANTIZE = ["offset", "scales"]
BIAS = ["bias"]


def steps(*groups):
    """Add up named steps, each group as often as it is done."""
    return sum(times * len(names) for times, names in groups)


def terms(rows, columns, inner):
    return sum(2 for _ in range(rows) for _ in range(columns) for _ in range(inner))


def int8(*shape):
    return TensorSpec(shape, "int8")


def packed(*shape):
    return TensorSpec(shape, "quint8")


def parts_of(op, *args, out=()):
    cost = FORMULAS[op][1](OpCall(op=op, args=OpCall.of(op, *args).args, out=tuple(out)))
    return {(part.kind, part.precision): part.flop for part in cost.parts}


PRODUCT = {("matmul", "int8"): terms(R, N, K)}


@pytest.mark.parametrize(
    ("name", "more"), [("linear", []), ("linear_relu", []), ("linear_tanh", ["tanh"]), ("linear_leaky_relu", ["slope"])]
)
def test_a_packed_layer_is_as_large_as_its_input_and_its_output(name, more):
    """Else a layer whose weight shows no shape costs nothing."""
    found = parts_of(f"quantized::{name}", packed(R, K), None, ANY, 0, out=[packed(R, N)])
    assert found == {**PRODUCT, ("pointwise", "fp32"): steps((R * N, DEQUANTIZE + BIAS + more + QUANTIZE))}


def test_integers_are_counted_as_integers():
    """Else an 8-bit product is a FLOP."""
    call = OpCall(op="quantized::linear", args=(packed(R, K), None), out=(packed(R, N),))
    tally = BOOK.count(call, calls=1, phase="forward")
    assert (tally.int_op, tally.flop) == (terms(R, N, K), 5 * R * N)


def test_a_dynamic_layer_quantizes_its_input():
    found = parts_of("quantized::linear_dynamic", (3, R, K), None, out=[TensorSpec((3, R, N))])
    expected = steps((1, CHOOSE), (3 * R * K, QUANTIZE), (3 * R * N, DEQUANTIZE + BIAS))
    assert found == {("matmul", "int8"): 3 * terms(R, N, K), ("pointwise", "fp32"): expected}
    half = parts_of("quantized::linear_relu_dynamic_fp16", (R, K), None, out=[TensorSpec((R, N))])
    assert half == {("matmul", "fp32"): terms(R, N, K), ("pointwise", "fp32"): R * N}


def test_two_quantized_tensors():
    product = parts_of("quantized::matmul", packed(3, R, K), packed(3, K, N), ANY, 0)
    assert product == {
        ("matmul", "int8"): 3 * terms(R, N, K),
        ("pointwise", "fp32"): steps((3 * R * N, DEQUANTIZE + QUANTIZE)),
    }
    total = steps((R * K, 2 * DEQUANTIZE + ["add"] + QUANTIZE))
    assert parts_of("quantized::add_relu", packed(R, K), packed(R, K), ANY, 0, out=[packed(R, K)]) == {
        ("pointwise", "fp32"): total
    }
    args = [packed(R, K), ANY, 0, packed(R, K), ANY, 0, ANY, 0]
    assert parts_of("onednn::qmul", *args, out=[packed(R, K)]) == {("pointwise", "fp32"): total}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_computed_between_two_scales(name):
    found = parts_of(f"quantized::{name}", packed(R, K), ANY, 0, out=[packed(R, K)])
    assert found == {("pointwise", "fp32"): R * K * (2 + FUNCTIONS[name] + 2)}


def test_a_batch_norm_has_one_cost_under_both_of_its_names():
    assert parts_of("aten::quantized_batch_norm", packed(R, K), out=[packed(R, K)]) == {
        ("pointwise", "fp32"): R * K * 6
    }


def test_rows_of_a_table_are_dequantized_and_added_up():
    """Else a table in 8 bits is read for nothing."""
    assert parts_of("quantized::embedding_4bit", None, (7,), out=[TensorSpec((7, 3))]) == {
        ("pointwise", "fp32"): steps((7 * 3, DEQUANTIZE))
    }
    args = [None, (7,), (2,), False, 0, False]
    plain = {("pointwise", "fp32"): steps((7 * 3, DEQUANTIZE)), ("reduction", "fp32"): 5 * 3}
    assert parts_of("quantized::embedding_bag_byte", *args, None, out=[TensorSpec((2, 3))]) == plain
    weighted = parts_of("quantized::embedding_bag_byte_rowwise_offsets", *args, (7,), out=[TensorSpec((2, 3))])
    assert weighted["pointwise", "fp32"] == steps((7 * 3, [*DEQUANTIZE, "weight"]))


def fused(*follows, bias=None, other=None, out="uint8", x="uint8"):
    args = [TensorSpec((R, K), x), ANY, 0, int8(K, N), (N,), (N,)]
    args += [bias] if other is None else [other, bias]
    return parts_of("onednn::qlinear_pointwise", *args, ANY, 0, None, *follows, out=[TensorSpec((R, N), out)])


@pytest.mark.parametrize(
    ("follows", "options", "names"),
    [
        (["none", [], ""], {}, DEQUANTIZE + QUANTIZE),
        (["relu", [], ""], {"bias": (N,)}, DEQUANTIZE + BIAS + QUANTIZE),
        (["swish", [], ""], {"out": "fp32"}, [*DEQUANTIZE, "sigmoid", "product"]),
        (["gelu", [], "none"], {"out": "bf16"}, DEQUANTIZE + 5 * ["gelu"]),
        (["gelu", [], "tanh"], {"out": "bf16"}, DEQUANTIZE + 9 * ["gelu"]),
        ([ANY, 0, "add", 1, "relu", [], ""], {"other": (R, N), "out": "fp32"}, [*DEQUANTIZE, "add"]),
        (
            [ANY, 0, "sum", ANY, "gelu", [], "tanh"],
            {"other": TensorSpec((R, N), "uint8"), "bias": (N,)},
            [*DEQUANTIZE, *BIAS, "factor", *DEQUANTIZE, "add", *(9 * ["gelu"]), *QUANTIZE],
        ),
    ],
)
def test_what_follows_a_product_in_its_kernel_is_counted(follows, options, names):
    """Else the same model costs less once a compiler has fused it."""
    assert fused(*follows, **options) == {**PRODUCT, ("pointwise", "fp32"): steps((R * N, names))}


def test_a_fused_product_of_eight_bit_numbers_has_their_precision():
    assert ("matmul", "fp8_e4m3") in fused("none", [], "", x="fp8_e4m3", out="fp32")


def test_a_fused_convolution():
    x, w, y = TensorSpec((2, 4, 7, 7), "uint8"), int8(6, 2, 3, 3), TensorSpec((2, 6, 7, 7), "uint8")
    args = [x, ANY, 0, w, (6,), (6,), (6,), [1, 1], [1, 1], [1, 1], 2, ANY, 0, None, "hardswish", [], ""]
    outputs = 2 * 6 * 7 * 7
    expected = {
        ("convolution", "int8"): terms(outputs, 1, 2 * 3 * 3),
        ("pointwise", "fp32"): steps((outputs, DEQUANTIZE + BIAS + 3 * ["hardswish"] + QUANTIZE)),
    }
    for op in ("onednn::qconv_pointwise", "onednn::qconv2d_pointwise"):
        assert parts_of(op, *args, out=[y]) == expected
    binary = [*args[:6], y, (6,), *args[7:14], ANY, 0, "sum", None, None, [], ""]
    found = parts_of("onednn::qconv2d_pointwise", *binary, out=[y])
    assert found["pointwise", "fp32"] == steps((outputs, [*DEQUANTIZE, *BIAS, *DEQUANTIZE, "add", *QUANTIZE]))


@pytest.mark.parametrize("op", PACKING)
def test_packing_costs_nothing(op):
    assert FORMULAS[op][1](OpCall.of(op, packed(R, K))).flop == 0


@pytest.mark.parametrize(
    ("op", "args", "out"),
    [
        ("quantized::linear", [packed(R, K)], [packed(R + 1, N)]),
        ("quantized::matmul", [packed(R, K), packed(R, K)], []),
        ("quantized::add", [packed(R, K), ANY, 0], [packed(R, K)]),
        ("quantized::add", [packed(R, K), packed(R, K, 2), ANY, 0], [packed(R, K)]),
        ("onednn::qlinear_pointwise", [packed(R, K), ANY, 0, int8(K + 1, N)], [packed(R, N)]),
        ("onednn::qconv_pointwise", [packed(1, 5, 7), ANY, 0, int8(6, 2, 3)], [packed(1, 6, 7)]),
    ],
)
def test_what_does_not_fit_is_refused(op, args, out):
    """Else a packed weight that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError, match=op):
        parts_of(op, *args, out=out)


@pytest.mark.parametrize("follows", [["softmax", [], ""], [ANY, 0, "div", 1, "relu", [], ""], [None, 0, 1]])
def test_what_follows_and_is_not_known_is_refused(follows):
    with pytest.raises(FormulaError, match="not known"):
        fused(*follows, other=None if follows[0] == "softmax" else (R, N))


@pytest.mark.parametrize("op", ["quantized::conv2d", "quantized::conv_transpose1d"])
def test_a_packed_convolution_is_left_uncounted(op):
    """Nothing tells the size of its kernel: any figure would be a guess."""
    assert BOOK.cost(OpCall(op=op, args=(packed(1, 3, 8, 8),), out=(packed(1, 4, 6, 6),))) is None
