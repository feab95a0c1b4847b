"""Products in 2:4 form, counted on small shapes: two of four elements take part."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.semi_structured import FORMULAS, PRUNING

ANY = AnyNumber()


def parts_of(op, *args, dtype="bf16", **options):
    cost = FORMULAS[op][1](OpCall.of(op, *args, dtype=dtype, **options))
    return {(part.kind, part.precision): (part.flop, part.masked_flop) for part in cost.parts}


def half(rows, inner, columns):
    """Walk over the inner size in steps of four: two products are made, two are left out."""
    made = sum(2 * 2 for _ in range(rows) for _ in range(columns) for _ in range(0, inner, 4))
    return made, made


HALF = {("matmul", "bf16"): half(4, 16, 5)}


def with_extra(each):
    return {**HALF, ("pointwise", "bf16"): (each, 0)} if each else HALF


def test_half_of_the_products_are_made_and_half_are_left_out():
    """Else 2:4 sparsity counts as dense, or what it leaves out is seen nowhere."""
    assert parts_of("aten::_sparse_semi_structured_mm", (4, 8), (4, 1), (16, 5)) == HALF


@pytest.mark.parametrize(
    ("options", "extra"),
    [({}, 20), ({"beta": 0}, 0), ({"beta": ANY}, 20 + 4), ({"alpha": ANY}, 20 + 20), ({"beta": 0.0, "alpha": 2}, 20)],
)
def test_a_bias_is_added_to_each_column(options, extra):
    found = parts_of("aten::_sparse_semi_structured_addmm", (4,), (4, 8), (4, 1), (16, 5), **options)
    assert found == with_extra(extra)


@pytest.mark.parametrize(
    ("options", "each"),
    [({}, 0), ({"bias": (4,)}, 1), ({"bias": (4,), "activation": "relu"}, 1), ({"activation": "silu"}, 2)],
)
def test_a_linear_layer_adds_its_bias_and_applies_its_activation(options, each):
    found = parts_of("aten::_sparse_semi_structured_linear", (5, 16), (4, 8), (4, 1), **options)
    assert found == with_extra(20 * each)


def test_a_library_keeps_elements_and_places_together():
    op = "aten::_cslt_sparse_mm"
    assert parts_of(op, (4, 9), (16, 5)) == HALF
    assert parts_of(op, (4, 9), (16, 5), (4,)) == with_extra(20)
    assert parts_of(op, (4, 9), (16, 5), (4,), ()) == with_extra(40)
    assert parts_of(op, (4, 9), (16, 5), None, (), dtype="fp8_e4m3") == {
        ("matmul", "fp8_e4m3"): half(4, 16, 5),
        ("pointwise", "fp32"): (20, 0),
    }


def test_padding_is_no_part_of_a_product():
    """Else a batch of one costs what the smallest batch that a kernel takes costs."""
    op = "semi_structured::cutlass_mm"
    assert parts_of(op, (5, 16), (4, 8), (4, 1), None, 4, 16, 16, True) == HALF
    assert parts_of(op, (16, 5), (4, 8), (4, 1), (4,), 4, 16, 16, False) == with_extra(20)
    op = "semi_structured::cusparselt_mm"
    assert parts_of(op, (5, 16), (4, 9), None, 4, 16, 16, True, 0, True) == HALF
    assert parts_of(op, (16, 5), (4, 9), (4,), 4, 16, 16, False, 0) == with_extra(20)
    op = "float8_sparse::fp8_sparse_mm"
    assert parts_of(op, (5, 16), (4, 9), (4,), (), 4, 16, dtype="fp8_e4m3") == {
        ("matmul", "fp8_e4m3"): half(4, 16, 5),
        ("pointwise", "fp32"): (20 + 20, 0),
    }


def test_integers_are_multiplied_as_integers():
    """Else the type of what says where elements stand decides what the product is."""
    kept, places, dense = TensorSpec((4, 8), "int8"), TensorSpec((4, 1), "int32"), TensorSpec((16, 5), "int8")
    assert parts_of("aten::_sparse_semi_structured_mm", kept, places, dense) == {("matmul", "int8"): half(4, 16, 5)}


def test_rows_scaled_in_fp8():
    op = "torchao::rowwise_scaled_linear_sparse_cutlass_f8f8"
    x, w, meta = TensorSpec((5, 16), "fp8_e5m2"), TensorSpec((4, 8), "fp8_e4m3"), TensorSpec((4, 2), "uint8")
    assert parts_of(op, x, TensorSpec((5,)), w, meta, TensorSpec((4,)), TensorSpec((4,))) == {
        ("matmul", "fp8_e5m2*fp8_e4m3"): half(4, 16, 5),
        ("pointwise", "fp32"): (20 + 20 + 20, 0),
    }


@pytest.mark.parametrize("op", PRUNING)
def test_choosing_what_is_kept_costs_nothing(op):
    assert FORMULAS[op][1](OpCall.of(op, (4, 16))).flop == 0


@pytest.mark.parametrize(
    ("op", "args", "options"),
    [
        ("aten::_sparse_semi_structured_mm", [(4, 8), (4, 1), (8, 5)], {}),
        ("aten::_sparse_semi_structured_addmm", [(4,), (4, 8), (4, 1), (8, 5)], {}),
        ("aten::_sparse_semi_structured_linear", [(5, 16), (4, 16), (4, 1)], {}),
        ("aten::_sparse_semi_structured_linear", [(5, 16), (4, 8), (4, 1)], {"activation": "gelu"}),
        ("semi_structured::cutlass_mm", [(5, 16, 1), (4, 8), (4, 1), None, 4, 16, 16, True], {}),
        ("semi_structured::cutlass_mm", [(5, 16), (4, 8), (4, 1), None, None, 16, 16, True], {}),
        ("torchao::rowwise_scaled_linear_sparse_cutlass_f8f8", [(5, 16), (5,), (4, 16), (4, 2), (4,)], {}),
    ],
)
def test_what_does_not_fit_is_refused(op, args, options):
    with pytest.raises(FormulaError, match=op):
        FORMULAS[op][1](OpCall.of(op, *args, **options))
