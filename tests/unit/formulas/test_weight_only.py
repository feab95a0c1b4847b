"""Products with a weight in integers, counted term by term with the steps that turn it back into numbers."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.weight_only import FORMULAS, PACKING

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


def parts_of(op, *args):
    cost = FORMULAS[op][1](OpCall.of(op, *args))
    return {(part.kind, part.precision): part.flop for part in cost.parts}


PRODUCT = {("matmul", "int8"): terms(R, N, K)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_weight_in_integers_is_multiplied_as_numbers(dtype):
    """Else adapters over a quantized model look like integer arithmetic."""
    x, scales = TensorSpec((R, K), dtype), TensorSpec((N,), dtype)
    assert parts_of("aten::_weight_int8pack_mm", x, int8(N, K), scales) == {
        ("matmul", dtype): terms(R, N, K),
        ("pointwise", dtype): R * N,
    }
    pairs = [
        ("aten::_weight_int4pack_mm_for_cpu", TensorSpec((N, K // 2), "uint8"), [TensorSpec((2, N, 2), dtype)]),
        ("aten::_weight_int4pack_mm", TensorSpec((N // 8, 1, 32, 1), "int32"), [TensorSpec((2, N, 2), dtype)]),
        (
            "aten::_weight_int4pack_mm_with_scales_and_zeros",
            TensorSpec((N, K // 8), "int32"),
            [TensorSpec((2, N), dtype), int8(2, N)],
        ),
    ]
    for op, weight, scales_and_zeros in pairs:
        assert parts_of(op, x, weight, 16, *scales_and_zeros) == {
            ("matmul", dtype): terms(R, N, K),
            ("pointwise", dtype): steps((N * K, ["scale", "zero point"])),
        }


@pytest.mark.parametrize(("biased", "size"), [(False, N * K // 2 + N * 2), (True, N * K // 2 + N * 2 + N), (True, 999)])
def test_rows_that_are_quantized_on_the_way(biased, size):
    found = parts_of("aten::_dyn_quant_matmul_4bit", (R, K), (size,), 16, K, N)
    rows = steps((R, CHOOSE), (R * K, QUANTIZE), (R * N * 2, DEQUANTIZE), (R * N, ["scale of the row"]))
    assert found == {**PRODUCT, ("pointwise", "fp32"): rows + (steps((R * N, BIAS)) if biased else 0)}


@pytest.mark.parametrize(("activation", "more"), [(None, []), ("none", []), ("relu", []), ("silu", ["sigmoid", "x"])])
@pytest.mark.parametrize("bias", [None, (N,)])
def test_a_linear_layer_of_two_types_multiplies_in_that_of_its_input(activation, more, bias):
    """Else a weight that is packed in four bits, and shows half its columns, halves the figure."""
    op, x, weight = "aten::_mixed_dtypes_linear", TensorSpec((R, 3, K), "bf16"), int8(N, K // 2)
    options = (("activation", activation), ("bias", bias and TensorSpec(bias)))
    call = OpCall(
        op=op, args=(x, weight, TensorSpec((N,), "bf16")), options=options, out=(TensorSpec((R, 3, N), "bf16"),)
    )
    outputs = 3 * R * N
    found = {(part.kind, part.precision): part.flop for part in FORMULAS[op][1](call).parts}
    after = steps((outputs, ["scale"]), (outputs, BIAS if bias else []), (outputs, more))
    assert found == {("matmul", "bf16"): terms(3 * R, N, K), ("pointwise", "bf16"): after}


def test_an_activation_that_is_not_known_is_refused():
    for options, out in [({"activation": "gelu"}, (R, N)), ({}, (R, N + 1))]:
        with pytest.raises(FormulaError):
            FORMULAS["aten::_mixed_dtypes_linear"][1](
                OpCall.of("aten::_mixed_dtypes_linear", (R, K), (N, K), (N,), out=[out], **options)
            )


@pytest.mark.parametrize("op", PACKING)
def test_packing_costs_nothing(op):
    assert FORMULAS[op][1](OpCall.of(op, (N, K))).flop == 0


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("aten::_weight_int8pack_mm", [(R, K), int8(N, K), (N + 1,)]),
        ("aten::_weight_int8pack_mm", [(R, K, 1), int8(N, K), (N,)]),
        ("aten::_weight_int4pack_mm", [(R, K), TensorSpec((N, 1), "int32"), 16, (2, N, 2)]),
        ("aten::_weight_int4pack_mm", [(R, K), int8(N, K), 16, (2, N, 2)]),
        ("aten::_weight_int4pack_mm_for_cpu", [(R, K), TensorSpec((N, K // 2), "uint8"), 16, (3, N, 2)]),
        ("aten::_weight_int4pack_mm_for_cpu", [(R, K), TensorSpec((N, K // 2), "uint8"), 16, (N,)]),
        ("aten::_dyn_quant_matmul_4bit", [(R, K), (9,), 16, K + 1, N]),
        ("aten::_dyn_quant_matmul_4bit", [(R, K), (9,), 5, K, N]),
        ("aten::_dyn_quant_matmul_4bit", [(R, K), (9,), None, K, N]),
    ],
)
def test_what_does_not_fit_is_refused(op, args):
    """Else a packed weight that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError, match=op):
        parts_of(op, *args)
