"""Operators of bitsandbytes, counted in named steps."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.bitsandbytes import FORMULAS, UPDATES
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec

ANY = AnyNumber()
R, K, N = 2, 64, 8


def steps(*groups):
    """Add up named steps, each group as often as it is done."""
    return sum(times * len(names) for times, names in groups)


def terms(rows, columns, inner):
    return sum(2 for _ in range(rows) for _ in range(columns) for _ in range(inner))


def int8(*shape):
    return TensorSpec(shape, "int8")


def parts_of(name, *args):
    op = f"bitsandbytes::{name}"
    found = {}
    for part in FORMULAS[op][1](OpCall.of(op, *args)).parts:
        key = (part.kind, part.precision)
        found[key] = found.get(key, 0) + part.flop
    return found


SUMS = ["row · column", "· constant", "· sum"]
INTEGERS = {("matmul", "int8"): terms(R, N, K)}


def test_eight_bit_products_are_integer_operations():
    """Else a model in 8 bits looks as if it was computed in fp16."""
    assert parts_of("int8_linear_matmul", int8(R, K), int8(N, K)) == INTEGERS
    assert parts_of("int8_scaled_mm", int8(R, K), int8(N, K), (R,), (N,), (N,)) == {
        **INTEGERS,
        ("pointwise", "fp32"): steps((R * N, [*SUMS, "bias"])),
    }
    assert parts_of("int8_mm_dequant", TensorSpec((R, N), "int32"), (R,), (N,)) == {
        ("pointwise", "fp32"): steps((R * N, SUMS))
    }


def test_outlying_columns_are_multiplied_as_numbers():
    args = [TensorSpec((R, K), "bf16"), int8(R, K), int8(N, K), (R,), (N,)]
    plain = {**INTEGERS, ("pointwise", "fp32"): steps((R * N, SUMS))}
    assert parts_of("int8_mixed_scaled_mm", *args) == plain
    assert parts_of("int8_mixed_scaled_mm", *args, TensorSpec((3,), "int64"), (N,)) == {
        **INTEGERS,
        ("matmul", "bf16"): terms(R, N, 3),
        ("pointwise", "bf16"): steps((R * N, ["add"])),
        ("pointwise", "fp32"): steps((R * N, [*SUMS, "bias"]), (N * 3, ["statistic", "constant"])),
    }


@pytest.mark.parametrize(
    ("name", "threshold", "expected"),
    [
        ("int8_vectorwise_quant", [], steps((R * K, ["absolute", "factor"]), (R, ["127 / largest"]))),
        ("int8_vectorwise_quant", [0.0], steps((R * K, ["absolute", "factor"]), (R, ["127 / largest"]))),
        ("int8_vectorwise_quant", [ANY], steps((R * K, ["absolute", "factor", "absolute"]), (R, ["127 / largest"]))),
        ("int8_double_quant", [0.0], steps((R * K, 2 * ["absolute", "factor"] + ["divide"]), (R, ["127 / largest"]))),
    ],
)
def test_rows_are_scaled_by_their_largest_element(name, threshold, expected):
    assert parts_of(name, (R, K), *threshold) == {("pointwise", "fp32"): expected}


def test_rows_are_turned_back_into_numbers():
    assert parts_of("int8_vectorwise_dequant", int8(R, K), (R,)) == {("pointwise", "fp32"): R * K * 2}


@pytest.mark.parametrize(("name", "args"), [("quantize_4bit", [32, "nf4", None]), ("quantize_blockwise", [(256,), 32])])
@pytest.mark.parametrize(("shape", "blocks"), [((2, 64), 4), ((3, 11), 2), ((0,), 0)])
def test_blocks_are_scaled_by_their_largest_element(name, args, shape, blocks):
    size = shape[0] * (shape[1] if len(shape) > 1 else 1)
    expected = steps((size, ["absolute", "factor"]), (blocks, ["inverse"]))
    assert parts_of(name, shape, *args) == {("pointwise", "fp32"): expected}


def test_codes_are_turned_back_into_numbers():
    """Else a step with a weight in 4 bits costs what one with a plain weight costs."""
    packed = TensorSpec((K * N // 2, 1), "uint8")
    assert parts_of("dequantize_4bit", packed, (16,), 32, "nf4", [N, K], None) == {("pointwise", "fp32"): N * K}
    assert parts_of("dequantize_blockwise", TensorSpec((N, K), "uint8"), (2,), (256,), 256, None) == {
        ("pointwise", "fp32"): N * K
    }


def test_a_weight_in_four_bits_is_multiplied_as_numbers():
    x, packed, scales = TensorSpec((3, R, K), "bf16"), TensorSpec((K * N // 2, 1), "uint8"), TensorSpec((16,))
    products = {("matmul", "bf16"): 3 * terms(R, N, K)}
    assert parts_of("gemv_4bit", x, packed, [N, K], scales, (16,), 32) == {**products, ("pointwise", "fp32"): N * K}
    codes = TensorSpec((16,), "uint8")
    nested = parts_of("gemm_4bit", x, packed, [N, K], (1,), 32, "nf4", (N,), codes, (256,), ())
    assert nested == {
        **products,
        ("pointwise", "fp32"): steps((N * K, ["scale"]), (16, ["scale", "offset"])),
        ("pointwise", "bf16"): 3 * R * N,
    }


ADAM = ["m·β", "g·(1 − β)", "add", "v·β", "g·g", "· (1 − β)", "add", "root", "eps", "divide", "· step", "add"]
BY_HAND = {
    "adam": ADAM,
    "lamb": ADAM,
    "ademamix": 6 * ["average"] + ADAM[3:7] + ["m / c", "a·m", "add", "root", "/ c", "eps", "divide", "· step", "add"],
    "momentum": ["m·β", "add", "· step", "add"],
    "lars": ["m·β", "add", "· step", "add"],
    "lion": ["m·β", "g·(1 − β)", "add", "· step", "add", "m·β", "g·(1 − β)", "add"],
    "rmsprop": ["v·β", "g·g", "· (1 − β)", "add", "root", "eps", "divide", "· step", "add"],
    "adagrad": ["g·g", "add", "root", "eps", "divide", "· step", "add"],
}
STATES = {name: 3 if name == "ademamix" else 2 if name in ("adam", "lamb") else 1 for name in BY_HAND}


def update(name, *, decay=0.0, factor=1.0, step=3, bound=0.0):
    state = (10,)
    args = [name, (10,), (10,), state, None, None, bound, ANY, ANY, ANY, ANY, ANY, ANY, decay, step, ANY, factor]
    return parts_of("optimizer_update_32bit", *args)


@pytest.mark.parametrize("name", UPDATES)
def test_a_step_of_an_optimizer_is_its_steps_for_each_element(name):
    """Else what trains most of the adapters has no optimizer."""
    hand = BY_HAND[name]
    assert update(name) == {("pointwise", None): 10 * len(hand)}
    decays = 2 if name in ("momentum", "lars", "rmsprop", "adagrad") else 1
    assert update(name, decay=ANY, factor=ANY) == {("pointwise", None): 10 * (len(hand) + decays + 1)}
    first = 2 if name in ("momentum", "lars") else 0
    assert update(name, step=1) == {("pointwise", None): 10 * (len(hand) - first)}


@pytest.mark.parametrize("name", UPDATES)
def test_a_bounded_update_costs_its_norm(name):
    has_norm = name in ("adam", "lamb", "momentum", "lars", "rmsprop")
    expected = {("pointwise", None): 10 * len(BY_HAND[name])}
    assert update(name, bound=ANY) == {**expected, **({("reduction", None): 2 * 10} if has_norm else {})}


@pytest.mark.parametrize("name", UPDATES)
def test_states_in_eight_bits_are_turned_into_numbers_and_back(name):
    """Else an 8-bit optimizer costs what one in 32 bits costs."""
    size, blocks, states = 300, 2, STATES[name]
    first = (2, blocks) if name == "ademamix" else (blocks,)
    second = (blocks,) if states > 1 else None
    args = [name, (size,), (size,), None, None, ANY, ANY, ANY, ANY, ANY, 3, ANY, (256,), None, first, second, 0.0, 1.0]
    correction = ["v / c"] if name in ("adam", "lamb") else []
    each = BY_HAND[name] + correction + states * ["scale", "absolute", "factor"]
    expected = steps((size, each), (states * blocks, ["inverse"]))
    assert parts_of("optimizer_update_8bit_blockwise", *args) == {("pointwise", None): expected}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("int8_linear_matmul", [int8(R, K), int8(K, N)]),
        ("int8_scaled_mm", [int8(R, K), int8(N, K, 1), (R,), (N,)]),
        ("int8_mixed_scaled_mm", [(R, K), int8(R, K), int8(N, K + 1), (R,), (N,)]),
        ("quantize_4bit", [(R, K), 0, "nf4", None]),
        ("quantize_blockwise", [(R, K), (256,), None]),
        ("gemm_4bit", [(R, K), (9,), [N, K + 1], (1,), 32, "nf4"]),
        ("gemv_4bit", [(R, K), (9,), [N], (1,), (16,), 32]),
        ("optimizer_update_32bit", ["adafactor", (10,), (10,), (10,)]),
        ("optimizer_update_32bit", ["adam", (10,), (11,), (10,)]),
    ],
)
def test_what_does_not_fit_is_refused(name, args):
    with pytest.raises(FormulaError, match=name):
        parts_of(name, *args)
