"""Eigenvalues and singular values: the nominal counts of a textbook, on several shapes."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.eigen import FORMULAS


def parts_of(op, *args, **options):
    found = FORMULAS[f"aten::{op}"][1](OpCall.of(f"aten::{op}", *args, **options))
    return {part.kind: part.flop for part in found.parts}


def flop_of(op, *args, **options):
    return parts_of(op, *args, **options)["linalg"]


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("_linalg_eigh", ((5, 4, 4),), 5 * 9 * 64),
        ("_linalg_eigh", ((5, 4, 4), "U", False), 5 * 85),
        ("_linalg_eigh", ((3, 3), "L", True), 243),
        ("linalg_eigvalsh", ((5, 4, 4), "U"), 5 * 85),
        ("_linalg_eigh", ((3, 3), "L", False), 36),
        ("linalg_eig", ((3, 3),), 25 * 27 + 9 + 27),
        ("linalg_eig", ((4, 4),), 1685),
        ("_linalg_eigvals", ((5, 4, 4),), 5 * 640),
        ("linalg_eigvals", ((5, 4, 4),), 5 * 640),
        ("_linalg_svd", ((5, 6, 4),), 5 * (6 * 6 * 16 + 20 * 64)),
        ("_linalg_svd", ((4, 6),), 6 * 6 * 16 + 20 * 64),
        ("_linalg_svd", ((6, 4), True), 4 * 36 * 4 + 22 * 64),
        ("_linalg_svd", ((6, 4), True, False), 2 * 6 * 16 + 2 * 64),
        ("linalg_svdvals", ((6, 4),), 2 * 6 * 16 + 2 * 64),
        ("linalg_matrix_exp", ((5, 4, 4),), 5 * 5 * 2 * 64),
        ("linalg_matrix_exp", ((5, 1, 1),), 5),
    ],
)
def test_a_nominal_count_depends_on_shapes_and_on_what_is_asked_for(op, args, expected):
    assert parts_of(op, *args) == {"linalg": expected}


def test_a_primitive_svd_names_what_it_asks_for():
    formula = FORMULAS["prims::svd"][1]
    assert formula(OpCall.of("prims::svd", (6, 4), full_matrices=True)).flop == 4 * 36 * 4 + 22 * 64
    assert formula(OpCall.of("prims::svd", (6, 4), full_matrices=False)).flop == 6 * 6 * 16 + 20 * 64


@pytest.mark.parametrize("op", ["_linalg_eigh", "linalg_eig", "_linalg_eigvals", "_linalg_svd", "linalg_svdvals"])
def test_complex_matrices_cost_four_times_as_much(op):
    assert flop_of(op, (5, 4, 4), dtype="complex64") == 4 * flop_of(op, (5, 4, 4))
    assert flop_of(op, (3, 0, 0)) == flop_of(op, (0, 4, 4)) == 0


def test_complex_exponentials():
    assert flop_of("linalg_matrix_exp", (4, 4), dtype="complex64") == 4 * flop_of("linalg_matrix_exp", (4, 4))
    exp, cos, sin, products = 1, 1, 1, 2
    assert flop_of("linalg_matrix_exp", (1, 1), dtype="complex64") == exp + cos + sin + products


def test_eigenvalues_of_a_real_matrix_are_computed_in_real_numbers():
    """Else the precision of what comes out is taken for that of the work."""
    call = OpCall(
        op="aten::linalg_eig",
        args=(TensorSpec((3, 3), "fp64"),),
        out=(TensorSpec((3,), "complex128"), TensorSpec((3, 3), "complex128")),
    )
    assert call.precision == "complex128"
    tally = FormulaBook.standard().count(call, calls=1, phase="forward")
    assert [(row.precision, row.flop) for row in tally.counts] == [("fp64", 711)]


def test_a_pseudo_inverse_is_put_together_from_singular_values():
    tolerance, reciprocals, scaled = 1, 4, 6 * 4
    assert parts_of("linalg_pinv", (5, 4, 6)) == {
        "linalg": 5 * (6 * 6 * 16 + 20 * 64),
        "pointwise": 5 * (tolerance + reciprocals + scaled),
        "matmul": 5 * 2 * 6 * 4 * 4,
    }
    hermitian = {"linalg": 9 * 64, "pointwise": 1 + 4 + 4 + 16, "matmul": 2 * 64}
    assert parts_of("linalg_pinv", (4, 4), hermitian=True) == hermitian
    assert parts_of("linalg_pinv", (4, 4), 0.5, True) == hermitian
    assert parts_of("linalg_pinv", (4, 6), dtype="complex64") == {
        "linalg": 4 * (6 * 6 * 16 + 20 * 64),
        "pointwise": tolerance + reciprocals + 6 * scaled,
        "matmul": 8 * 6 * 4 * 4,
    }


def test_a_root_is_put_together_from_eigenvalues():
    """Else an optimizer that whitens by it looks free."""
    root, scaled, mean = 4, 16, 16 + 16
    assert parts_of("linalg_matrix_sqrth", (5, 4, 4)) == {
        "linalg": 5 * 9 * 64,
        "pointwise": 5 * (root + scaled + mean),
        "matmul": 5 * 2 * 64,
    }
    assert parts_of("linalg_matrix_sqrth", (4, 4), dtype="complex64") == {
        "linalg": 4 * 9 * 64,
        "pointwise": root + 6 * scaled + (2 + 6) * 16,
        "matmul": 8 * 64,
    }


def test_a_polar_decomposition_is_put_together_from_singular_values():
    """Else an optimizer that orthogonalizes by it looks free."""
    scaled, mean = 16, 16 + 16
    assert parts_of("linalg_polar", (5, 6, 4)) == {
        "linalg": 5 * (6 * 6 * 16 + 20 * 64),
        "pointwise": 5 * (scaled + mean),
        "matmul": 5 * (2 * 64 + 2 * 6 * 16),
    }
    assert parts_of("linalg_polar", (6, 4), dtype="complex64") == {
        "linalg": 4 * (6 * 6 * 16 + 20 * 64),
        "pointwise": 6 * scaled + (2 + 6) * 16,
        "matmul": 8 * 64 + 8 * 6 * 16,
    }


def test_tolerances_in_another_precision_do_not_change_that_of_the_work():
    options = {"atol": TensorSpec((), "fp64"), "rtol": TensorSpec((), "fp64")}
    found = FormulaBook.standard().cost(OpCall.of("aten::linalg_pinv", (4, 4), **options))
    assert {part.precision for part in found.parts} == {"fp32"}


@pytest.mark.parametrize(
    "call",
    [
        OpCall.of("aten::_linalg_eigh", (3, 4)),
        OpCall.of("aten::linalg_eig", (3,)),
        OpCall.of("aten::_linalg_svd", (3,)),
        OpCall.of("aten::linalg_pinv", (3, 4), hermitian=True),
        OpCall.of("aten::linalg_matrix_exp", (3, 4)),
        OpCall.of("aten::linalg_matrix_sqrth", (3, 4)),
        OpCall.of("aten::linalg_polar", (3,)),
    ],
)
def test_what_is_no_matrix_is_refused(call):
    with pytest.raises(FormulaError):
        FormulaBook.standard().cost(call)
