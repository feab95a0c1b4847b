"""What several families count alike: written out step by step."""

import pytest

from flopmeter.formulas import rates
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.cost import Cost

SIGMOID = ["sigmoid"]
STEPS = {
    "CHOOSE": ["max − min", "divide by the range", "min / scale", "low − that"],
    "CHOOSE_SYMMETRIC": ["−min", "divide by the range"],
    "QUANTIZE": ["multiply by the inverse", "add the zero point"],
    "DEQUANTIZE": ["subtract the zero point", "multiply by the scale"],
    "SILU": [*SIGMOID, "times x"],
    "SILU_BACKWARD": [*SIGMOID, "1 − s", "times x", "add 1", "times s", "times dy"],
    "SOFTPLUS": ["times β", "exp", "log1p", "divide by β"],
    "GELU": ["half of x", "x·√½", "erf", "add 1", "product"],
    "GELU_TANH": ["x·x", "times x", "times κ", "add x", "times β", "tanh", "add 1", "half of x", "product"],
    "QUICK_GELU": ["1.702·x", *SIGMOID, "times x"],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_rate_is_that_of_its_steps(name):
    """Else it is wrong in every family at once."""
    assert getattr(rates, name) == len(STEPS[name])


def test_the_same_activation_costs_the_same_under_any_name():
    assert rates.ONEDNN["swish"] == rates.CUTLASS["silu"] == rates.SILU
    assert rates.ONEDNN["gelu"] == rates.GELU
    assert all(rates.ONEDNN[name] == rate for name, rate in rates.CUTLASS.items() if name in rates.ONEDNN)


@pytest.mark.parametrize("given", [(), (3, 4), (TensorSpec((2,), "int64"), AnyNumber(), None)])
def test_nothing_is_nothing_whatever_is_given(given):
    assert rates.count_nothing(OpCall.of("mylib::move", *given)) == Cost()


def test_what_costs_nothing_is_of_no_kind_that_works():
    """Else a table says that a copy is a product."""
    rows = FormulaBook.standard().entries.values()
    assert {row.kind for row in rows if row.formula is rates.count_nothing} == {"other"}


def test_parts_have_the_precision_they_are_done_in():
    (part,) = rates.price_pointwise(7).parts
    assert (part.kind, part.flop, part.precision) == ("pointwise", 7, "fp32")
    assert rates.price_pointwise(7, "bf16").parts[0].precision == "bf16"
    product, scaling = rates.price_int8_product(60, scaling=12).parts
    assert (product.kind, product.flop, product.precision) == ("matmul", 60, "int8")
    assert (scaling.kind, scaling.flop, scaling.precision) == ("pointwise", 12, "fp32")
    assert len(rates.price_int8_product(60, scaling=0).parts) == 1
