"""Arithmetic per element, counted by hand."""

import pytest

from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.pointwise import BITWISE, COMPOSED, ELEMENTARY, FORMULAS, IN_LISTS

ANY = AnyNumber()
SCALAR = OpCall.of("", ()).args[0]
X = (2, 3)
LISTS = [(2, 3), (4,)]


def flop_of(op, *args, out=(X,), dtype="fp32", **options):
    name = f"aten::{op}"
    found = FORMULAS.get(name) or FORMULAS[name.removesuffix("_")]
    return found[1](OpCall.of(name, *args, out=out, dtype=dtype, **options))


@pytest.mark.parametrize("op", ["add", "mul", "div", "exp", "sqrt", "neg", "add_", "mul_", "sigmoid_"])
def test_an_elementary_operation_costs_one_per_element_in_place_or_not(op):
    """Else the in-place form of the same arithmetic has another figure."""
    assert flop_of(op, X) == 6


@pytest.mark.parametrize("op", [*ELEMENTARY, *COMPOSED])
def test_every_rate_applies_to_what_comes_out(op):
    assert flop_of(op, X) == 6 * (1 if op in ELEMENTARY else COMPOSED[op])
    assert flop_of(op, X, out=[(0, 3)]) == 0


def test_broadcasting_costs_by_the_result():
    """Else a bias that is spread over a batch costs as if it were added once."""
    assert flop_of("add", (2, 1), (1, 3)) == 6
    assert flop_of("mul", (3,), SCALAR, out=[(3,)]) == 3


@pytest.mark.parametrize("op", ["add", "sub", "rsub", "add_", "sub_"])
@pytest.mark.parametrize(("alpha", "rate"), [(1, 1), (1.0, 1), (True, 1), (-1, 2), (0, 2), (0.5, 2), (ANY, 2)])
def test_a_factor_other_than_one_costs_a_multiply(op, alpha, rate):
    """Else `param.add_(grad, alpha=-lr)`, all of SGD, costs half."""
    assert flop_of(op, X, X, alpha=alpha) == 6 * rate
    assert flop_of(op, X, 2, alpha) == 6 * rate


def test_a_sum_below_a_relu_costs_what_the_sum_costs():
    assert flop_of("_add_relu_", X, X) == 6
    assert flop_of("_add_relu", X, X, alpha=0.5) == 12


@pytest.mark.parametrize("op", ["addcmul", "addcdiv"])
def test_a_fused_multiply_add_has_its_factor_too(op):
    assert flop_of(op, X, X, X) == 12
    assert flop_of(op, X, X, X, value=1) == 12
    assert flop_of(op, X, X, X, value=ANY) == 18


@pytest.mark.parametrize(("exponent", "rate"), [(0, 0), (1, 0), (2, 1), (3, 2), (0.5, 1), (-0.5, 1), (-1, 1), (ANY, 1)])
def test_a_power_costs_by_its_exponent(exponent, rate):
    """Else squares, which every RMS norm has, cost like general powers, or cubes like squares."""
    assert flop_of("pow", X, exponent) == 6 * rate
    assert flop_of("_foreach_pow_", LISTS, exponent, out=()) == 10 * rate


def test_a_power_with_tensors_for_exponents():
    assert flop_of("pow", ANY, X) == 6
    assert flop_of("_foreach_pow", LISTS, [0.5, 3.0], out=LISTS) == 6 + 8


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 12), ({"beta": 0}, 6), ({"beta": ANY}, 12 + 6), ({"alpha": ANY}, 18), ({"beta": 0, "alpha": 2}, 12)],
)
def test_an_outer_product_is_pointwise(options, expected):
    assert flop_of("addr", X, (2,), (3,), **options) == expected


@pytest.mark.parametrize("op", BITWISE)
def test_bits_of_integers_count_and_logic_does_not(op):
    """Else attention masks are arithmetic."""
    assert flop_of(op, X, X, dtype="int32") == 6
    assert flop_of(op, X, X, dtype="bool") == 0


def test_dropout_multiplies_by_mask_and_scale_while_training():
    assert flop_of("native_dropout", X, ANY, True) == 12
    assert flop_of("native_dropout", X, ANY, None) == 12
    assert flop_of("native_dropout", X, ANY, False) == 0
    assert flop_of("native_dropout", X, 0.0, True) == 0
    assert flop_of("native_dropout_backward", X, X, ANY) == 12


@pytest.mark.parametrize("name", IN_LISTS)
def test_a_list_costs_what_its_tensors_cost(name):
    """Else `foreach=True` changes an optimizer's figure."""
    one = sum(flop_of(name, shape, out=[shape]) for shape in LISTS)
    assert flop_of(f"_foreach_{name}", LISTS, out=LISTS) == one
    assert flop_of(f"_foreach_{name}_", LISTS, out=()) == one


@pytest.mark.parametrize("op", ["_foreach_add", "_foreach_sub_"])
def test_sums_over_lists(op):
    assert flop_of(op, LISTS, LISTS, out=()) == 10
    assert flop_of(op, LISTS, LISTS, out=(), alpha=1) == 10
    assert flop_of(op, LISTS, LISTS, out=(), alpha=ANY) == 20
    assert flop_of(op, LISTS, ANY, out=()) == 10


@pytest.mark.parametrize("op", ["_foreach_addcmul_", "_foreach_addcdiv"])
def test_multiply_adds_over_lists_look_at_each_factor(op):
    """Else Adam's last step costs other than in a loop."""
    assert flop_of(op, LISTS, LISTS, LISTS, out=()) == 20
    assert flop_of(op, LISTS, LISTS, LISTS, ANY, out=()) == 30
    assert flop_of(op, LISTS, LISTS, LISTS, [1.0, ANY], out=()) == 12 + 12
    assert flop_of(op, LISTS, LISTS, LISTS, (2,), out=()) == 30


def test_loss_scaling_multiplies_each_gradient_once():
    assert flop_of("_amp_foreach_non_finite_check_and_unscale_", LISTS, SCALAR, SCALAR, out=()) == 10
    assert flop_of("_amp_update_scale_", SCALAR, SCALAR, SCALAR, ANY, ANY, 2000, out=()) == 1
