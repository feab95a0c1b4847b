"""Operator calls: what is kept of them, and that nothing is lost on the way to a ledger and back."""

import pytest

from flopmeter import wire
from flopmeter.errors import FormulaError, MalformedError
from flopmeter.formulas.call import (
    AnyNumber,
    OpCall,
    TensorSpec,
    broadcast_size,
    derive_precision,
    is_exactly,
    is_integer,
    parse_sizes,
)


def specs(*dtypes):
    return [TensorSpec((2,), dtype) for dtype in dtypes]


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((0,), 0), ((2, 3), 6), ((4, 0, 5), 0)])
def test_a_scalar_has_one_element_and_an_empty_tensor_none(shape, size):
    """Else loss values count as nothing, or empty batches as something."""
    assert TensorSpec(shape).size == size


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["fp32"], "fp32"),
        (["bf16", "int64"], "bf16"),
        (["int64", "bf16"], "bf16"),
        (["bf16", "fp32"], "fp32"),
        (["fp32", "fp64"], "fp64"),
        (["fp8_e5m2", "fp8_e4m3"], "fp8_e5m2*fp8_e4m3"),
        (["fp8_e4m3", "fp8_e4m3"], "fp8_e4m3"),
        (["fp8_e4m3", "bf16"], "bf16"),
        (["complex64", "fp64"], "complex64"),
        (["int32", "int64"], "int64"),
        (["bool", "int8"], "int8"),
        (["bool"], "bool"),
        ([], "none"),
    ],
)
def test_precision_is_that_of_the_arithmetic_not_of_an_index(dtypes, expected):
    """Else an embedding's gradient is integer arithmetic because its indices are integers."""
    assert derive_precision(specs(*dtypes)) == expected


def test_a_call_without_tensors_has_the_precision_of_what_comes_out():
    assert OpCall(op="aten::rand", out=(TensorSpec((2,), "fp16"),)).precision == "fp16"
    assert OpCall(op="aten::rand").precision == "none"


@pytest.mark.parametrize(
    ("operands", "out", "expected"),
    [
        (["int64"], ["fp32"], "fp32"),
        (["bool", "int64"], ["bf16"], "bf16"),
        (["int64"], ["int64"], "int64"),
        (["fp64"], ["int64"], "fp64"),
        (["fp64"], ["fp32"], "fp64"),
        (["int64"], ["complex64"], "complex64"),
        (["complex64"], ["fp32"], "complex64"),
    ],
)
def test_integers_that_come_out_as_floats_are_computed_as_floats(operands, out, expected):
    """Else half the places of a grid, `arange(n) * 0.5`, is integer arithmetic."""
    assert OpCall(op="aten::mul", args=specs(*operands), out=specs(*out)).precision == expected


def test_a_precision_that_the_sensor_gives_stands():
    """Else TF32 is written down as FP32."""
    assert OpCall.of("aten::mm", (2, 3), (3, 5), precision="tf32").precision == "tf32"


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("int8", True), ("uint8", True), ("bool", True), ("quint8", True), ("bf16", False), ("none", False)],
)
def test_integer_arithmetic_is_told_apart(precision, expected):
    assert is_integer(precision) is expected


def test_an_unknown_number_is_no_number_in_particular():
    """Else a learning rate is taken for one, and its multiply is lost."""
    assert is_exactly(1.0, 1)
    assert is_exactly(True, 1)
    assert not is_exactly(AnyNumber(), 1)
    assert not is_exactly("1", 1)
    assert not is_exactly(None, 0)


def test_sizes_are_ints_alone_or_in_a_list():
    assert parse_sizes(8) == (8,)
    assert parse_sizes((2, 3)) == (2, 3)
    for wrong in (None, (2, None), True, (2, 0.5), AnyNumber()):
        with pytest.raises(TypeError):
            parse_sizes(wrong)


def test_tensors_are_found_in_lists_and_options():
    """Else a fused optimizer, whose tensors are all in lists, has no precision."""
    call = OpCall.of("aten::f", [(2,), [(3,)]], 5, dtype="bf16", scale=(4,))
    assert [spec.size for spec in call.tensors] == [2, 3, 4]
    assert call.precision == "bf16"


def test_arguments_are_found_by_place_and_by_name():
    call = OpCall.of("aten::f", (2,), [(3,), (4,)], 7, alpha=2, out=[(2,), (5,)])
    assert call.tensor(0) == TensorSpec((2,))
    assert [spec.size for spec in call.tensor_list(1)] == [3, 4]
    assert (call.arg(2), call.arg(3), call.arg(3, 9)) == (7, None, 9)
    assert (call.option("alpha"), call.option("beta"), call.option("beta", 1)) == (2, None, 1)
    assert call.out_size == 7


@pytest.mark.parametrize("place", [1, 2, 5])
def test_a_missing_tensor_is_refused_with_the_operator_s_name(place):
    """Else a formula's traceback says nothing about where the call came from."""
    call = OpCall.of("aten::f", (2,), [(3,), 4], AnyNumber())
    with pytest.raises(FormulaError, match="aten::f"):
        call.tensor(place)
    with pytest.raises(FormulaError, match="aten::f"):
        call.tensor_list(place)


def test_a_walk_ends_where_a_formula_would_hang():
    """Else one row of a ledger that claims 10³⁹ places takes all time and memory of whoever reads it."""
    call = OpCall.of("aten::f")
    assert list(call.walk(3)) == [0, 1, 2]
    assert list(call.walk(0)) == []
    assert len(call.walk(2**20)) == 2**20
    with pytest.raises(FormulaError, match=r"aten::f: .*too long to walk"):
        call.walk(2**20 + 1)


CALLS = [
    OpCall.of("aten::mm", (2, 3), (3, 5), out=[(2, 5)]),
    OpCall.of("aten::sum", (), None, True, False, out=[()]),
    OpCall.of("aten::add", (0, 3), 2, alpha=AnyNumber(), dtype="int64"),
    OpCall.of("aten::f", [(2,), [1, -2, []], [None, 0.5, -1.0, "a'b", "*", "7", ""]], z=True, a=[(3,)]),
    OpCall.of("aten::gelu", (3,), approximate="tanh", dtype="fp8_e4m3", precision="mxfp8"),
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_call_survives_the_ledger(call):
    """Else `recount` computes other figures than the meter did."""
    data = wire.encode(call.to_wire())
    assert OpCall.from_wire(wire.decode_canonical(data)) == call


@pytest.mark.parametrize(
    "text", ["fp32", "fp32[", "fp32[2,]", "fp32[-1]", "fp32[02]", "FP32[2]", "nan", "1e5", "01", "+1", "", "**", "1 "]
)
def test_an_argument_that_no_meter_writes_is_refused(text):
    """Else an edited ledger is read as something."""
    fields = {**CALLS[0].to_wire(), "args": [text]}
    with pytest.raises(MalformedError):
        OpCall.from_wire(fields)


@pytest.mark.parametrize("shape", ["9223372036854775808", "4294967296,2147483648", "0,9223372036854775808"])
def test_a_tensor_that_no_device_holds_is_refused(shape):
    """Else a ledger claims any size; torch counts elements in 64 bits."""
    for place in ({"args": [f"fp32[{shape}]"]}, {"args": [["1", f"fp32[{shape}]"]]}, {"out": [f"fp32[{shape}]"]}):
        with pytest.raises(MalformedError, match="more elements than"):
            OpCall.from_wire({**CALLS[0].to_wire(), **place})


def test_the_largest_tensor_is_read():
    fields = {**CALLS[0].to_wire(), "args": ["fp32[9223372036854775807]", "fp32[0,4294967296,4294967296]"]}
    assert [spec.size for spec in OpCall.from_wire(fields).tensors] == [2**63 - 1, 0]


@pytest.mark.parametrize(
    "change",
    [{"op": None}, {"args": "x"}, {"options": []}, {"out": ["*"]}, {"out": None}, {"precision": None}, {"args": [{}]}],
)
def test_a_call_with_a_wrong_field_is_refused(change):
    with pytest.raises(MalformedError):
        OpCall.from_wire({**CALLS[0].to_wire(), **change})


@pytest.mark.parametrize(
    ("shapes", "size"),
    [((), 1), (((),), 1), (((2, 1), (3,)), 6), (((4, 1, 3), (2, 1), ()), 24), (((1,), (0,)), 0), (((5, 1), (1, 0)), 0)],
)
def test_a_broadcast_has_as_many_elements_as_its_shape(shapes, size):
    assert broadcast_size(*map(TensorSpec, shapes)) == size


def test_arguments_that_are_none_or_left_out_are_not_given():
    known = OpCall.of("aten::f", (2, 3), None, 0, False)
    assert [known.count_given(place) for place in range(6)] == [1, 0, 1, 1, 0, 0]
    assert known.count_given(0, 1, 2, 9) == 2
