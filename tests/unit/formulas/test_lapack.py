"""Operation counts of matrix algorithms: the algorithms run on numbers that count, and LAPACK's own counts."""

from fractions import Fraction

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas import lapack
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.lapack import Work

SIZES = range(7)
THIRD, SIXTH, HALF = Fraction(1, 3), Fraction(1, 6), Fraction(1, 2)


class Counter:
    """Counts as the algorithms below go along."""

    def __init__(self):
        self.multiplies = self.adds = 0

    def multiply_add(self, times=1):
        self.multiplies += times
        self.adds += times

    @property
    def work(self):
        return Work(self.multiplies, self.adds)


def eliminate(m, n):
    """Gaussian elimination, column by column."""
    counter = Counter()
    for column in range(min(m, n)):
        for _ in range(column + 1, m):
            counter.multiplies += 1  # the multiplier, a division
            for _ in range(column + 1, n):
                counter.multiply_add()
    return counter.work


def cholesky(n):
    counter = Counter()
    for column in range(n):
        counter.multiply_add(column)  # the diagonal, less its squares
        counter.multiplies += 1  # its root
        for _ in range(column + 1, n):
            counter.multiply_add(column)
            counter.multiplies += 1  # a division
    return counter.work


def substitute(n, *, is_unit):
    counter = Counter()
    for row in range(n):
        counter.multiply_add(row)
        counter.multiplies += 0 if is_unit else 1
    return counter.work


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_an_lu_factorization_costs_what_elimination_costs(m, n):
    """Else rectangular systems are priced as square ones."""
    assert lapack.factor_lu(m, n) == eliminate(m, n)


@pytest.mark.parametrize("n", SIZES)
def test_a_cholesky_factorization_costs_what_its_loops_cost(n):
    assert lapack.factor_cholesky(n) == cholesky(n)


@pytest.mark.parametrize("n", SIZES)
def test_a_solve_is_a_substitution_or_two(n):
    lower, upper = substitute(n, is_unit=True), substitute(n, is_unit=False)
    assert lapack.solve_triangular(n) == upper
    assert lapack.solve_triangular(n, is_unit=True) == lower
    assert lapack.solve_full(n) == (lower.multiplies + upper.multiplies, lower.adds + upper.adds)
    assert lapack.solve_cholesky(n) == (2 * upper.multiplies, 2 * upper.adds)


@pytest.mark.parametrize("n", SIZES)
def test_inverses_and_symmetric_factors_cost_what_lapack_says(n):
    """The formulas of LAPACK's timing routine, in fractions as they stand there."""
    assert lapack.invert_lu(n) == (
        n * (5 * SIXTH + n * (HALF + n * 2 * THIRD)),
        n * (5 * SIXTH + n * (-3 * HALF + n * 2 * THIRD)),
    )
    assert lapack.invert_cholesky(n) == (
        n * (2 * THIRD + n * (1 + n * THIRD)),
        n * (SIXTH + n * (-HALF + n * THIRD)),
    )
    assert lapack.factor_symmetric(n) == (
        n * (10 * THIRD + n * (HALF + n * SIXTH)),
        n * SIXTH * (-1 + n * n),
    )


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_reflectors_cost_what_lapack_says(m, n):
    if m >= n:
        multiplies = n * ((23 * SIXTH + m + n * HALF) + n * (m - n * THIRD))
        adds = n * (5 * SIXTH + n * (HALF + (m - n * THIRD)))
    else:
        multiplies = m * ((23 * SIXTH + 2 * n - m * HALF) + m * (n - m * THIRD))
        adds = m * (5 * SIXTH + n - m * HALF + m * (n - m * THIRD))
    assert lapack.factor_qr(m, n) == (multiplies, adds)
    for k in range(min(m, n) + 1):
        inner = 2 * m * n + k * (2 * THIRD * k - m - n)
        assert lapack.form_q(m, n, k) == (
            k * (-5 * THIRD + (2 * n - k) + inner),
            k * (THIRD + (n - m) + inner),
        )
    for k in range(m + 1):
        assert lapack.multiply_q(m, n, k) == (k * n * (2 * m + 2 - k), k * n * (2 * m + 1 - k))
    for k in range(n + 1):
        assert lapack.multiply_q(m, n, k, is_left=False) == (
            k * (m * (2 * n - k) + (m + n + (1 - k) * HALF)),
            k * m * (2 * n + 1 - k),
        )


def test_leading_terms_are_the_ones_in_every_textbook():
    """Else a polynomial was copied with a mistake that small sizes do not show."""
    n = 10**6
    for work, expected in [
        (lapack.factor_lu(n, n), 2 * THIRD),
        (lapack.factor_cholesky(n), THIRD),
        (lapack.invert_lu(n), 4 * THIRD),
        (lapack.invert_cholesky(n), 2 * THIRD),
        (lapack.factor_qr(n, n), 4 * THIRD),
        (lapack.form_q(n, n, n), 4 * THIRD),
        (lapack.multiply_q(n, n, n), 2),
        (lapack.factor_symmetric(n), THIRD),
    ]:
        assert round(float(sum(work) / Fraction(n**3)), 4) == round(float(expected), 4)


def test_singular_values_cost_what_the_table_says_whichever_side_is_longer():
    for vectors, expected in [
        ("no", 2 * 5 * 9 + 2 * 27),
        ("thin", 6 * 5 * 9 + 20 * 27),
        ("full", 4 * 25 * 3 + 22 * 27),
    ]:
        assert lapack.nominal_svd(5, 3, vectors=vectors) == lapack.nominal_svd(3, 5, vectors=vectors) == expected
    assert lapack.nominal_svd(4, 4, vectors="thin") == lapack.nominal_svd(4, 4, vectors="full")


def test_complex_work_costs_six_and_two():
    assert lapack.price(TensorSpec((2, 2), "fp64"), Work(3, 2), Work(1, 1)) == 7
    assert lapack.price(TensorSpec((2, 2), "complex64"), Work(3, 2), Work(1, 1)) == 6 * 4 + 2 * 3


def test_what_holds_no_square_matrix_is_refused():
    call = OpCall.of("aten::linalg_inv_ex", (3, 4))
    assert lapack.matrices_of(call, TensorSpec((2, 5, 3, 4))) == (10, 3, 4)
    assert lapack.squares_of(call, TensorSpec((2, 5, 3, 3))) == (10, 3)
    with pytest.raises(FormulaError, match="no square matrix"):
        lapack.squares_of(call, TensorSpec((3, 4)))
    with pytest.raises(FormulaError, match="no matrix"):
        lapack.matrices_of(call, TensorSpec((3,)))
