"""Factorizations and solves: batches, sides, shapes and complex matrices, put together from their steps."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas import lapack
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.linalg import FORMULAS

N, S, B = 4, 3, 10  # order, right-hand sides, matrices
SQUARE, TALL, WIDE = (2, 5, N, N), (2, 5, 6, N), (2, 5, N, 6)
RIGHT = (2, 5, N, S)
LU = lapack.factor_lu(N, N)


def flop_of(op, *args, **options):
    found = FORMULAS[f"aten::{op}"][1](OpCall.of(f"aten::{op}", *args, **options))
    return found.flop if isinstance(found, Cost) else found


def real(*works):
    return sum(work.multiplies + work.adds for work in works)


def compl(*works):
    return sum(6 * work.multiplies + 2 * work.adds for work in works)


def test_an_elimination_of_order_two_is_one_division_and_one_multiply_add():
    assert flop_of("linalg_lu_factor_ex", (2, 2)) == 3
    assert flop_of("linalg_lu_factor_ex", (3, 3)) == 2 + 2 * 4 + 1 + 2
    assert flop_of("linalg_lu_factor_ex", (2, 2), dtype="complex64") == 6 + 6 + 2


@pytest.mark.parametrize(
    ("op", "work"),
    [
        ("cholesky", [lapack.factor_cholesky(N)]),
        ("linalg_cholesky_ex", [lapack.factor_cholesky(N)]),
        ("cholesky_inverse", [lapack.invert_cholesky(N)]),
        ("linalg_lu", [LU]),
        ("linalg_lu_factor_ex", [LU]),
        ("linalg_inv_ex", [LU, lapack.invert_lu(N)]),
        ("linalg_ldl_factor_ex", [lapack.factor_symmetric(N)]),
        ("_linalg_det", [LU, lapack.Work(N, 0)]),
        ("geqrf", [lapack.factor_qr(N, N)]),
    ],
)
def test_what_is_done_to_a_matrix_is_done_to_each_of_a_batch(op, work):
    """Else a batch of preconditioners costs what one of them costs."""
    assert flop_of(op, SQUARE) == B * real(*work)
    assert flop_of(op, SQUARE, dtype="complex128") == B * compl(*work)
    assert flop_of(op, (0, N, N)) == 0
    assert flop_of(op, (3, 0, 0)) == 0


@pytest.mark.parametrize(
    ("op", "args", "work"),
    [
        ("cholesky_solve", (RIGHT, SQUARE), lapack.solve_cholesky(N)),
        ("_cholesky_solve_helper", (RIGHT, SQUARE, True), lapack.solve_cholesky(N)),
        ("linalg_lu_solve", (SQUARE, (2, 5, N), RIGHT), lapack.solve_full(N)),
        ("linalg_ldl_solve", (SQUARE, (2, 5, N), RIGHT), lapack.solve_full(N)),
        ("linalg_solve_triangular", (SQUARE, RIGHT), lapack.solve_triangular(N)),
        ("triangular_solve", (RIGHT, SQUARE), lapack.solve_triangular(N)),
        ("triangular_solve", (RIGHT, SQUARE, True, True, True), lapack.solve_triangular(N, is_unit=True)),
    ],
)
def test_a_solve_costs_its_right_hand_sides(op, args, work):
    assert flop_of(op, *args, out=[RIGHT]) == B * S * real(work)
    assert flop_of(op, *args, dtype="complex64", out=[RIGHT]) == B * S * compl(work)


def test_a_solve_counts_the_matrices_that_it_was_broadcast_to():
    assert flop_of("linalg_lu_solve", (N, N), (N,), (7, N, S), out=[(7, N, S)]) == 7 * S * real(lapack.solve_full(N))


def test_a_solve_from_the_right_has_its_unknowns_in_rows():
    """Else the columns of the unknown are taken for its right-hand sides."""
    found = flop_of("linalg_solve_triangular", (N, N), (S, N), upper=True, left=False, out=[(S, N)])
    assert found == S * real(lapack.solve_triangular(N))


def test_a_diagonal_of_ones_saves_a_division_for_each_unknown():
    call = ("linalg_solve_triangular", (N, N), (N, S))
    plain = flop_of(*call, upper=True, out=[(N, S)])
    assert plain - flop_of(*call, upper=True, unitriangular=True, out=[(N, S)]) == N * S


def test_a_system_is_factored_and_solved():
    solve = B * S * real(lapack.solve_full(N))
    assert flop_of("_linalg_solve_ex", SQUARE, RIGHT, out=[RIGHT, SQUARE]) == B * real(LU) + solve
    vectors = B * real(LU) + B * real(lapack.solve_full(N))
    assert flop_of("_linalg_solve_ex", SQUARE, (2, 5, N), out=[(2, 5, N), SQUARE]) == vectors


@pytest.mark.parametrize(("shape", "m", "n"), [(TALL, 6, N), (WIDE, N, 6), (SQUARE, N, N)])
def test_a_qr_forms_as_much_of_q_as_is_asked_for(shape, m, n):
    """Else a complete Q costs what a thin one costs, and R alone as much as both."""
    k = min(m, n)
    reflectors = lapack.factor_qr(m, n)
    assert flop_of("linalg_qr", shape, "r") == B * real(reflectors) == flop_of("geqrf", shape)
    assert flop_of("linalg_qr", shape) == B * real(reflectors, lapack.form_q(m, k, k))
    assert flop_of("linalg_qr", shape, "reduced") == flop_of("linalg_qr", shape)
    assert flop_of("linalg_qr", shape, "complete") == B * real(reflectors, lapack.form_q(m, m, k))


def test_reflectors_are_formed_or_multiplied():
    assert flop_of("linalg_householder_product", TALL, (2, 5, 3)) == B * real(lapack.form_q(6, N, 3))
    left = flop_of("ormqr", (6, N), (3,), (6, 7))
    assert left == real(lapack.multiply_q(6, 7, 3)) == flop_of("ormqr", (6, N), (3,), (6, 7), True, True)
    assert flop_of("ormqr", (6, N), (3,), (7, 6), False) == real(lapack.multiply_q(7, 6, 3, is_left=False))


def test_determinants_multiply_a_diagonal_or_add_its_logarithms():
    sign = N
    moduli, logarithms, total = N, N, N - 1
    assert flop_of("_linalg_slogdet", SQUARE) == B * (real(LU) + sign + moduli + logarithms + total)
    turns, sign = 6 * N, 6 * N
    moduli = 4 * N
    assert flop_of("_linalg_slogdet", SQUARE, dtype="complex64") == B * (
        compl(LU) + turns + sign + moduli + logarithms + total
    )
    assert flop_of("_linalg_slogdet", (3, 0, 0)) == 0


def test_least_squares_are_solved_by_reflectors():
    solve = [lapack.multiply_q(6, 1, N), lapack.solve_triangular(N)]
    expected = real(lapack.factor_qr(6, N)) + S * real(*solve)
    for options in ({}, {"driver": "gels"}, {"driver": "gelsy"}):
        assert flop_of("linalg_lstsq", (6, N), (6, S), out=[(N, S), (0,)], **options) == expected
    assert flop_of("linalg_lstsq", (N, 6), (N, S), out=[(6, S), (0,)]) == expected
    squares, sums = 2, 1
    with_residuals = flop_of("linalg_lstsq", (6, N), (6, S), AnyNumber(), driver="gels", out=[(N, S), (S,)])
    assert with_residuals == expected + S * (squares + sums)


def test_least_squares_by_singular_values_are_nominal():
    factor = 6 * 6 * N**2 + 20 * N**3
    turned, scaled, turned_back = 2 * 6 * N, N, 2 * N * N
    found = flop_of("linalg_lstsq", (6, N), (6, S), driver="gelsd", out=[(N, S), (0,)])
    assert found == factor + S * (turned + scaled + turned_back)


def test_a_cross_product_is_two_products_and_a_difference():
    assert flop_of("linalg_cross", (5, 3), (5, 3), out=[(5, 3)]) == 15 * 3
    assert flop_of("linalg_cross", (5, 3), (5, 3), dtype="complex64", out=[(5, 3)]) == 15 * (6 + 6 + 2)


def test_unpacking_a_factorization_copies():
    assert flop_of("lu_unpack", (6, N), (N,)) == 0


@pytest.mark.parametrize(
    "call",
    [
        OpCall.of("aten::linalg_cholesky_ex", (3, 4)),
        OpCall.of("aten::linalg_inv_ex", (3,)),
        OpCall.of("aten::linalg_lu_solve", (4, 4), (4,), (3, 2), out=[(3, 2)]),
        OpCall.of("aten::linalg_lu_solve", (4, 4), (4,), (4, 2)),
        OpCall.of("aten::linalg_qr", (4, 4), "economic"),
        OpCall.of("aten::linalg_lstsq", (4, 4), (4, 2), driver="svd", out=[(4, 2)]),
        OpCall.of("aten::linalg_solve_triangular", (0, 0), (3, 2), out=[(3, 2)]),
        OpCall.of("aten::ormqr", (4, 4)),
    ],
)
def test_calls_that_do_not_fit_are_refused(call):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        FormulaBook.standard().cost(call)
