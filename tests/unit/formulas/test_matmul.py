"""Matrix products, counted by hand on small shapes."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.matmul import FORMULAS

ANY = AnyNumber()


def parts_of(op, *args, **options):
    found = FORMULAS[op][1](OpCall.of(op, *args, **options))
    if isinstance(found, Cost):
        return {part.kind: part.flop for part in found.parts}
    return {FORMULAS[op][0]: found}


@pytest.mark.parametrize(
    ("op", "shapes", "expected"),
    [
        ("aten::mm", [(2, 3), (3, 5)], 2 * 2 * 3 * 5),
        ("aten::mm", [(1, 1), (1, 1)], 2),
        ("aten::mm", [(4, 0), (0, 5)], 0),
        ("aten::_int_mm", [(32, 16), (16, 8)], 2 * 32 * 16 * 8),
        ("aten::bmm", [(4, 2, 3), (4, 3, 5)], 4 * 60),
        ("aten::bmm", [(0, 2, 3), (0, 3, 5)], 0),
        ("aten::mv", [(2, 3), (3,)], 2 * 2 * 3),
        ("aten::dot", [(7,), (7,)], 14),
        ("aten::vdot", [(7,), (7,)], 14),
    ],
)
def test_a_product_costs_two_operations_per_term(op, shapes, expected):
    """Else every figure is off by the factor between a multiply-add and an operation."""
    assert parts_of(op, *shapes) == {"matmul": expected}


@pytest.mark.parametrize(
    ("options", "bias"),
    [
        ({}, 10),
        ({"beta": 0}, 0),
        ({"beta": 0.0, "alpha": 2}, 10),
        ({"beta": ANY}, 10 + 5),
        ({"alpha": ANY}, 10 + 10),
        ({"beta": 0.5, "alpha": -1}, 10 + 5 + 10),
        ({"beta": True}, 10),
    ],
)
def test_a_bias_is_pointwise_and_its_factors_cost_a_multiply_each(options, bias):
    """Else `contraction_flop` holds more than products, or a scaled update is counted as an unscaled one."""
    parts = parts_of("aten::addmm", (5,), (2, 3), (3, 5), **options)
    assert parts.pop("matmul") == 60
    assert parts == ({"pointwise": bias} if bias else {})


def test_a_bias_is_added_even_where_the_inner_size_is_zero():
    """Else the empty product hides the add that is really done."""
    assert parts_of("aten::addmm", (5,), (2, 0), (0, 5)) == {"matmul": 0, "pointwise": 10}


def test_fused_forms_with_batches_and_vectors():
    assert parts_of("aten::addmv", (2,), (2, 3), (3,)) == {"matmul": 12, "pointwise": 2}
    assert parts_of("aten::baddbmm", (4, 1, 5), (4, 2, 3), (4, 3, 5), beta=0.5) == {
        "matmul": 240,
        "pointwise": 40 + 20,
    }
    assert parts_of("aten::addbmm", (2, 5), (4, 2, 3), (4, 3, 5)) == {
        "matmul": 240,
        "pointwise": 10,
        "reduction": 3 * 10,
    }


def test_a_linear_layer_that_is_kept_whole_costs_its_product_and_its_bias():
    assert parts_of("aten::linear", (2, 4, 3), (5, 3), (5,)) == {"matmul": 2 * 8 * 3 * 5, "pointwise": 40}
    assert parts_of("aten::linear", (2, 4, 3), (5, 3)) == {"matmul": 240}
    assert parts_of("aten::linear", (4, 3), (3,)) == {"matmul": 24}


def test_an_activation_fused_to_a_product_is_counted_only_where_it_does_arithmetic():
    """Else relu, a compare, is arithmetic here and nowhere else."""
    op = "aten::_addmm_activation"
    assert parts_of(op, (5,), (2, 3), (3, 5)) == {"matmul": 60, "pointwise": 10}
    found = FORMULAS[op][1](OpCall.of(op, (5,), (2, 3), (3, 5), use_gelu=True))
    assert found.flop == 60 + 10 + 9 * 10


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("aten::mm", [(2, 3), (4, 5)]),
        ("aten::mm", [(2, 3, 1), (3, 5)]),
        ("aten::bmm", [(4, 2, 3), (5, 3, 5)]),
        ("aten::bmm", [(4, 2, 3), (4, 2, 5)]),
        ("aten::mv", [(2, 3), (2,)]),
        ("aten::dot", [(2,), (3,)]),
        ("aten::addmm", [(5,), (2, 3), (4, 5)]),
        ("aten::linear", [(2, 3), (5, 4)]),
        ("aten::mm", [(2, 3)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op, shapes):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError, match=op):
        FORMULAS[op][1](OpCall.of(op, *shapes))


def test_a_list_of_products():
    """Else Muon, which multiplies its momenta as lists, has work nobody counted."""
    op = "aten::_foreach_mm"
    assert parts_of(op, [(2, 3), (1, 4)], [(3, 5), (4, 2)]) == {"matmul": 2 * 2 * 3 * 5 + 2 * 1 * 4 * 2}
    with pytest.raises(FormulaError):
        parts_of(op, [(2, 3)], [(4, 5)])
    with pytest.raises(ValueError, match="zip"):
        parts_of(op, [(2, 3), (2, 3)], [(3, 5)])


@pytest.mark.parametrize("op", ["aten::linear_backward", "aten::mkldnn_linear_backward"])
@pytest.mark.parametrize(
    ("mask", "products", "adds"),
    [([True, True, True], 2, 8 * 5 - 5), ([False, True, False], 1, 0), ([False, False, True], 0, 35)],
)
def test_gradients_of_a_whole_linear_layer_are_counted_where_they_are_asked_for(op, mask, products, adds):
    expected = {"matmul": products * 2 * 8 * 3 * 5} | ({"reduction": adds} if adds else {})
    assert parts_of(op, (2, 4, 3), (2, 4, 5), (5, 3), mask) == expected


def test_gradients_of_a_linear_layer_one_at_a_time():
    found = parts_of("aten::mkldnn_linear_backward_input", [2, 4, 3], (2, 4, 5), (5, 3))
    assert found == {"matmul": 2 * 8 * 3 * 5}
    for bias, adds in [(True, {"reduction": 35}), (False, {})]:
        found = parts_of("aten::mkldnn_linear_backward_weights", (2, 4, 5), (2, 4, 3), (5, 3), bias)
        assert found == {"matmul": 240} | adds


def test_gradients_of_a_whole_product_of_stacks():
    op, dy = "aten::matmul_backward", (4, 2, 5)
    assert parts_of(op, dy, (4, 2, 3), (4, 3, 5), [True, True]) == {"matmul": 2 * (2 * 4 * 2 * 3 * 5)}
    # the second operand is one matrix for all: its gradient folds four into one
    assert parts_of(op, dy, (4, 2, 3), (3, 5), [True, True]) == {"matmul": 480, "reduction": 3 * 3 * 5}
    assert parts_of(op, dy, (4, 2, 3), (3, 5), [True, False]) == {"matmul": 240}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("aten::linear_backward", ((2, 3), (2, 5), (5, 3), None)),
        ("aten::linear_backward", ((2, 3), (2, 4), (5, 3), [True, True, True])),
        ("aten::mkldnn_linear_backward_input", ([2, 4], (2, 5), (5, 3))),
        ("aten::matmul_backward", ((4, 2), (4, 2, 3), (3,), [True, True])),
        ("aten::matmul_backward", ((4, 2, 6), (4, 2, 3), (3, 5), [True, True])),
        ("aten::matmul_backward", ((4, 2, 5), (4, 2, 3), (3, 5), None)),
    ],
)
def test_gradients_that_do_not_fit_are_refused(op, args):
    with pytest.raises(FormulaError):
        parts_of(op, *args)


def test_a_linear_combination_of_matrices():
    op = "aten::_compute_linear_combination"
    assert parts_of(op, (3, 2, 2), (5, 3)) == {"matmul": sum(2 for _ in range(5 * 4 * 3))}
    with pytest.raises(FormulaError):
        parts_of(op, (3, 2, 2), (5, 4))
