"""Factorizations, solves, inverses, determinants and least squares of dense matrices.

Counts are exact where LAPACK counts exactly (`lapack.py`), for each matrix of a batch, rectangular where it is. One
formula prices real and complex matrices: a complex multiply is 6 operations, a complex add 2.
Not here: eigenvalues and singular values (`eigen`), and gradients, powers, ranks and norms of matrices, which call
products and the operators below.
"""

from collections.abc import Callable

from flopmeter.errors import FormulaError
from flopmeter.formulas import lapack
from flopmeter.formulas.call import COMPLEX, OpCall
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.lapack import matrices_of, price, squares_of

# B batch, m rows, n columns, k the smaller of both or the reflectors of a Q, s right-hand sides


def count_cholesky(call: OpCall) -> int:
    """Cost of a Cholesky factorization.

    Shapes: a (B…, n, n) → L or U.
    Counts: POTRF for each matrix.
    Ignores: checks, clearing the other half.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_cholesky(OpCall.of("aten::linalg_cholesky_ex", (5, 3, 3)))
        70
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    return batch * price(data, lapack.factor_cholesky(n))


def count_cholesky_solve(call: OpCall) -> int:
    """Cost of solving with a Cholesky factor.

    Shapes: b (B…, n, s), L (B…, n, n) → x (B…, n, s).
    Counts: POTRS for each right-hand side.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_cholesky_solve(OpCall.of("aten::cholesky_solve", (3, 2), (3, 3), out=[(3, 2)]))
        36
    """
    data = call.tensor(1)
    _, n = squares_of(call, data)
    return _columns(call, n) * price(data, lapack.solve_cholesky(n))


def count_cholesky_inverse(call: OpCall) -> int:
    """Cost of an inverse from a Cholesky factor.

    Shapes: L (B…, n, n) → (B…, n, n).
    Counts: POTRI for each matrix.
    Ignores: that a library may solve for the unit matrix instead.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_cholesky_inverse(OpCall.of("aten::cholesky_inverse", (3, 3)))
        25
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    return batch * price(data, lapack.invert_cholesky(n))


def count_lu(call: OpCall) -> int:
    """Cost of an LU factorization, with or without exchanging rows.

    Shapes: a (B…, m, n) → L and U, in one matrix or apart.
    Counts: GETRF for each matrix.
    Ignores: choosing the row (compares), exchanging and unpacking (copies).
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_lu(OpCall.of("aten::linalg_lu_factor_ex", (3, 3)))
        13
    """
    data = call.tensor(0)
    batch, m, n = matrices_of(call, data)
    return batch * price(data, lapack.factor_lu(m, n))


def count_lu_unpack(call: OpCall) -> int:  # noqa: ARG001  # every formula takes the call
    """Cost of taking L, U and the permutation out of a factorization.

    Shapes: LU (B…, m, n), pivots → P, L, U.
    Counts: nothing.
    Ignores: copies.
    Source: docs/spec/fm-1.md#linalg.

    Example:
        >>> count_lu_unpack(OpCall.of("aten::lu_unpack", (3, 3), (3,)))
        0
    """
    return 0


def count_factored_solve(call: OpCall) -> int:
    """Cost of solving with an LU or an LDL factorization.

    Shapes: LU or LD (B…, n, n), pivots, b (B…, n, s) → x (B…, n, s); from the right as well.
    Counts: GETRS or SYTRS for each right-hand side.
    Ignores: exchanging rows.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_factored_solve(OpCall.of("aten::linalg_lu_solve", (3, 3), (3,), (3, 2), out=[(3, 2)]))
        30
    """
    data = call.tensor(0)
    _, n = squares_of(call, data)
    return _columns(call, n) * price(data, lapack.solve_full(n))


def count_solve(call: OpCall) -> int:
    """Cost of a linear system: an LU factorization, and a solve with it.

    Shapes: a (B…, n, n), b (B…, n, s) or (B…, n) → x, LU, pivots, info.
    Counts: GETRF for each matrix, GETRS for each right-hand side.
    Ignores: choosing and exchanging rows.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_solve(OpCall.of("aten::_linalg_solve_ex", (3, 3), (3, 2), out=[(3, 2), (3, 3)]))
        43
    """
    return count_lu(call) + count_factored_solve(call)


def count_inverse(call: OpCall) -> int:
    """Cost of an inverse: an LU factorization, and the inverse from it.

    Shapes: a (B…, n, n) → (B…, n, n).
    Counts: GETRF and GETRI for each matrix.
    Ignores: that a library may solve for the unit matrix instead.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_inverse(OpCall.of("aten::linalg_inv_ex", (3, 3)))
        45
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    return batch * price(data, lapack.factor_lu(n, n), lapack.invert_lu(n))


def count_triangular_solve(call: OpCall) -> int:
    """Cost of solving with a triangular matrix.

    Shapes: a (B…, n, n), b (B…, n, s) → x (B…, n, s), from the right as well; `triangular_solve` takes b first.
    Counts: TRTRS for each right-hand side, without its n divisions where the diagonal is 1.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_triangular_solve(OpCall.of("aten::linalg_solve_triangular", (3, 3), (3, 2), upper=True, out=[(3, 2)]))
        18
    """
    takes_b_first = call.op == "aten::triangular_solve"
    data = call.tensor(1 if takes_b_first else 0)
    _, n = squares_of(call, data)
    is_unit = call.arg(4) if takes_b_first else call.option("unitriangular")
    return _columns(call, n) * price(data, lapack.solve_triangular(n, is_unit=is_unit is True))


def count_qr(call: OpCall) -> int:
    """Cost of a QR factorization.

    Shapes: a (B…, m, n) → Q (m, k), R (k, n) reduced; Q (m, m), R (m, n) complete; R alone.
    Counts: GEQRF, and ORGQR for the k or m columns of Q where it is asked for, for each matrix.
    Ignores: clearing the other half of R.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Raises:
        FormulaError: a mode that is none of the three.

    Example:
        >>> count_qr(OpCall.of("aten::linalg_qr", (3, 2), "r")), count_qr(OpCall.of("aten::linalg_qr", (3, 2)))
        (38, 56)
    """
    data, mode = call.tensor(0), call.arg(1, "reduced")
    batch, m, n = matrices_of(call, data)
    if mode == "r":
        return batch * price(data, lapack.factor_qr(m, n))
    if mode not in {"reduced", "complete"}:
        msg = f"mode is {mode}, not reduced, complete or r"
        raise FormulaError(msg, where=call.op)
    k = min(m, n)
    return batch * price(data, lapack.factor_qr(m, n), lapack.form_q(m, k if mode == "reduced" else m, k))


def count_reflectors(call: OpCall) -> int:
    """Cost of the reflectors of a QR factorization.

    Shapes: a (B…, m, n) → R and reflectors in one matrix, and their factors.
    Counts: GEQRF for each matrix.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_reflectors(OpCall.of("aten::geqrf", (3, 2)))
        38
    """
    data = call.tensor(0)
    batch, m, n = matrices_of(call, data)
    return batch * price(data, lapack.factor_qr(m, n))


def count_orthogonal(call: OpCall) -> int:
    """Cost of forming the columns of Q from reflectors.

    Shapes: reflectors (B…, m, n), factors (B…, k) → Q (B…, m, n).
    Counts: ORGQR for each matrix.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_orthogonal(OpCall.of("aten::linalg_householder_product", (3, 2), (2,)))
        18
    """
    data = call.tensor(0)
    batch, m, n = matrices_of(call, data)
    return batch * price(data, lapack.form_q(m, n, call.tensor(1).shape[-1]))


def count_orthogonal_product(call: OpCall) -> int:
    """Cost of multiplying by Q as reflectors, from the left or from the right, transposed or not.

    Shapes: reflectors, factors (B…, k), c (B…, m, n) → (B…, m, n).
    Counts: ORMQR for each matrix.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_orthogonal_product(OpCall.of("aten::ormqr", (3, 2), (2,), (3, 4)))
        88
    """
    data = call.tensor(2)
    batch, m, n = matrices_of(call, data)
    is_left = call.arg(3, default=True) is True
    return batch * price(data, lapack.multiply_q(m, n, call.tensor(1).shape[-1], is_left=is_left))


def count_symmetric_factor(call: OpCall) -> int:
    """Cost of an LDL factorization of a symmetric or Hermitian matrix.

    Shapes: a (B…, n, n) → LD, pivots.
    Counts: SYTRF for each matrix.
    Ignores: choosing the row, exchanging.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA.

    Example:
        >>> count_symmetric_factor(OpCall.of("aten::linalg_ldl_factor_ex", (3, 3)))
        23
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    return batch * price(data, lapack.factor_symmetric(n))


def count_determinant(call: OpCall) -> int:
    """Cost of a determinant: an LU factorization, the product of its diagonal, the sign.

    Shapes: a (B…, n, n) → (B…), LU, pivots.
    Counts: GETRF and n multiplies for each matrix.
    Ignores: counting the exchanges.
    Source: docs/spec/fm-1.md#linalg; torch's own form.

    Example:
        >>> count_determinant(OpCall.of("aten::_linalg_det", (3, 3)))
        16
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    return batch * price(data, lapack.factor_lu(n, n), lapack.Work(n, 0))


def count_log_determinant(call: OpCall) -> int:
    """Cost of the sign and the logarithm of a determinant.

    Shapes: a (B…, n, n) → (B…) twice, LU, pivots.
    Counts: GETRF for each matrix; its diagonal's absolute values n, their logarithms n, n − 1 adds; n multiplies of
        signs. Where it is complex: absolute values 4·n, logarithms n, n − 1 adds; signs 6·n, n complex multiplies.
    Ignores: counting the exchanges, real signs (compares).
    Source: docs/spec/fm-1.md#linalg; torch's own form.

    Example:
        >>> count_log_determinant(OpCall.of("aten::_linalg_slogdet", (3, 3)))
        24
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    logarithm = max(n - 1, 0) + (5 * n + 6 * n if data.dtype in COMPLEX else 2 * n)
    return batch * (price(data, lapack.factor_lu(n, n), lapack.Work(n, 0)) + logarithm)


def count_least_squares(call: OpCall) -> int:
    """Cost of a least-squares solution.

    Shapes: a (B…, m, n), b (B…, m, s) → x (B…, n, s), residuals, rank, singular values.
    Counts: with M, N the larger and the smaller of m, n: GEQRF(M, N), and for each right-hand side ORMQR(M, 1, N) and
        TRTRS(N). The drivers gelsd and gelss: nominal, the thin SVD, and for each right-hand side N·(M + N + 1)
        multiplies and N·(M + N) adds. Where residuals come out, M − N multiplies and M − N − 1 adds for each.
    Ignores: exchanging columns, ranks (compares), that some ranks are smaller.
    Source: docs/spec/fm-1.md#linalg; LAPACK DOPLA; Golub and Van Loan.

    Raises:
        FormulaError: a driver that is none of LAPACK's.

    Example:
        >>> count_least_squares(OpCall.of("aten::linalg_lstsq", (3, 2), (3, 1), out=[(2, 1), (0,)]))
        64
    """
    data, driver = call.tensor(0), call.option("driver")
    batch, m, n = matrices_of(call, data)
    larger, smaller = max(m, n), min(m, n)
    sides = _columns(call, n)
    rest = larger - smaller if len(call.out) > 1 and call.out[1].size else 0
    residual = lapack.Work(rest, max(rest - 1, 0))
    if driver in {"gelsd", "gelss"}:
        terms = smaller * (larger + smaller)
        each = lapack.Work(terms + smaller, terms)
        factor = lapack.nominal_svd(m, n, vectors="thin") * (4 if data.dtype in COMPLEX else 1)
        return batch * factor + sides * price(data, each, residual)
    if driver not in {None, "gels", "gelsy"}:
        msg = f"driver is {driver}, none of LAPACK's"
        raise FormulaError(msg, where=call.op)
    solve = (lapack.multiply_q(larger, 1, smaller), lapack.solve_triangular(smaller))
    return batch * price(data, lapack.factor_qr(larger, smaller)) + sides * price(data, *solve, residual)


def count_cross(call: OpCall) -> Cost:
    """Cost of a cross product.

    Shapes: vectors of three, broadcast → n elements.
    Counts: two multiplies and an add for each element (pointwise); 14 operations where it is complex.
    Ignores: nothing.
    Source: docs/spec/fm-1.md#linalg; torch's decomposition.

    Example:
        >>> count_cross(OpCall.of("aten::linalg_cross", (5, 3), (5, 3), out=[(5, 3)])).flop
        45
    """
    result = call.out[0]
    return Cost.of(Part(kind="pointwise", flop=result.size * price(result, lapack.Work(2, 1))))


def _columns(call: OpCall, n: int) -> int:
    """Return the right-hand sides that were solved for, of all matrices together."""
    size = call.out[0].size
    if size and (not n or size % n):
        msg = f"{call.out[0]} holds no solutions of {n} unknowns"
        raise FormulaError(msg, where=call.op)
    return size // n if size else 0


_FORMULAS: dict[str, Callable[[OpCall], int | Cost]] = {
    "cholesky": count_cholesky,
    "linalg_cholesky_ex": count_cholesky,
    "cholesky_solve": count_cholesky_solve,
    "_cholesky_solve_helper": count_cholesky_solve,
    "cholesky_inverse": count_cholesky_inverse,
    "linalg_lu": count_lu,
    "linalg_lu_factor_ex": count_lu,
    "linalg_lu_solve": count_factored_solve,
    "linalg_ldl_factor_ex": count_symmetric_factor,
    "linalg_ldl_solve": count_factored_solve,
    "_linalg_solve_ex": count_solve,
    "linalg_inv_ex": count_inverse,
    "linalg_solve_triangular": count_triangular_solve,
    "triangular_solve": count_triangular_solve,
    "linalg_qr": count_qr,
    "geqrf": count_reflectors,
    "linalg_householder_product": count_orthogonal,
    "ormqr": count_orthogonal_product,
    "_linalg_det": count_determinant,
    "_linalg_slogdet": count_log_determinant,
    "linalg_lstsq": count_least_squares,
}
FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"aten::{name}": ("linalg", formula) for name, formula in _FORMULAS.items()},
    **{f"complex::aten.{name}": ("linalg", formula) for name, formula in _FORMULAS.items()},
    "aten::lu_unpack": ("linalg", count_lu_unpack),
    "aten::linalg_cross": ("pointwise", count_cross),
    "complex::aten.linalg_cross": ("pointwise", count_cross),
}
"""A real and a complex matrix have one formula."""
