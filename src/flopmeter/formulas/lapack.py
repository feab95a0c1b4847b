"""Operation counts of matrix algorithms, as whole numbers of their sizes.

What has an exact count is given LAPACK's own, as its timing routine DOPLA writes it down: multiplies and adds apart, a
division or a root counted as a multiply. What iterates until values say stop has no such count; for it stand the
nominal ones of Golub and Van Loan, Matrix Computations, chapters 7 and 8.
Not here: which operator does what (`linalg.py`, `eigen.py`).
"""

import math
from typing import NamedTuple

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import COMPLEX, OpCall, TensorSpec

# m rows, n columns, k reflectors or the smaller size, s right-hand sides


class Work(NamedTuple):
    """Multiplies (with divisions and roots) and adds; on complex numbers 6 and 2 operations each."""

    multiplies: int
    adds: int


def factor_cholesky(n: int) -> Work:
    """A = L·Lᵀ (xPOTRF)."""
    return Work(n * (n + 1) * (n + 2) // 6, (n**3 - n) // 6)


def invert_cholesky(n: int) -> Work:
    """A⁻¹ from L (xPOTRI)."""
    return Work(n * (n + 1) * (n + 2) // 3, n * (n - 1) * (2 * n - 1) // 6)


def factor_lu(m: int, n: int) -> Work:
    """A = P·L·U (xGETRF): in column i m − i divisions, then (m − i)·(n − i) multiplies and adds."""
    k = min(m, n)
    adds = k * m * n - (m + n) * k * (k + 1) // 2 + k * (k + 1) * (2 * k + 1) // 6
    return Work(adds + k * m - k * (k + 1) // 2, adds)


def invert_lu(n: int) -> Work:
    """A⁻¹ from L and U (xGETRI)."""
    return Work(n * (4 * n * n + 3 * n + 5) // 6, n * (4 * n * n - 9 * n + 5) // 6)


def factor_symmetric(n: int) -> Work:
    """A = L·D·Lᵀ (xSYTRF)."""
    return Work(n * (n * n + 3 * n + 20) // 6, (n**3 - n) // 6)


def solve_triangular(n: int, *, is_unit: bool = False) -> Work:
    """One right-hand side of a triangular system (xTRTRS); a diagonal of ones saves the divisions."""
    half = n * (n - 1) // 2
    return Work(half if is_unit else half + n, half)


def solve_full(n: int) -> Work:
    """One right-hand side from L and U, or from L, D and L (xGETRS, xSYTRS)."""
    return Work(n * n, n * (n - 1))


def solve_cholesky(n: int) -> Work:
    """One right-hand side from L and its transpose (xPOTRS)."""
    return Work(n * (n + 1), n * (n - 1))


def factor_qr(m: int, n: int) -> Work:
    """Reflectors and R (xGEQRF)."""
    if m >= n:
        inner = 6 * m * n - 2 * n * n + 3 * n
        return Work(n * (inner + 6 * m + 23) // 6, n * (inner + 5) // 6)
    inner = 6 * m * n - 2 * m * m - 3 * m
    return Work(m * (inner + 12 * n + 23) // 6, m * (inner + 6 * n + 5) // 6)


def form_q(m: int, n: int, k: int) -> Work:
    """Form n columns of Q from k reflectors (xORGQR)."""
    inner = 6 * m * n + k * (2 * k - 3 * m - 3 * n)
    return Work(k * (inner + 6 * n - 5 - 3 * k) // 3, k * (inner + 3 * n - 3 * m + 1) // 3)


def multiply_q(m: int, n: int, k: int, *, is_left: bool = True) -> Work:
    """Q as k reflectors times C (m, n), or C times Q (xORMQR)."""
    if is_left:
        return Work(k * n * (2 * m + 2 - k), k * n * (2 * m + 1 - k))
    return Work(k * (m * (2 * n - k) + m + n) - k * (k - 1) // 2, k * m * (2 * n + 1 - k))


def nominal_svd(m: int, n: int, *, vectors: str) -> int:
    """Singular values, and `no`, the `thin` or the `full` matrices of vectors.

    Counts: nominal, for m ≥ n (else of the transpose), the R-SVD of Golub and Van Loan's table: 2·m·n² + 2·n³;
        thin 6·m·n² + 20·n³; full 4·m²·n + 22·n³.
    Source: docs/spec/fm-1.md#eigen.
    """
    m, n = max(m, n), min(m, n)
    if vectors == "thin":
        return 6 * m * n**2 + 20 * n**3
    return 4 * m**2 * n + 22 * n**3 if vectors == "full" else 2 * m * n**2 + 2 * n**3


def matrices_of(call: OpCall, spec: TensorSpec) -> tuple[int, int, int]:
    """Return how many matrices a tensor holds, their rows and their columns.

    Counts: nothing; sizes.
    Source: docs/spec/fm-1.md#linalg.

    Raises:
        FormulaError: it has fewer than two dimensions.
    """
    if len(spec.shape) < 2:
        msg = f"{spec} holds no matrix"
        raise FormulaError(msg, where=call.op)
    return math.prod(spec.shape[:-2]), spec.shape[-2], spec.shape[-1]


def squares_of(call: OpCall, spec: TensorSpec) -> tuple[int, int]:
    """Return how many matrices a tensor holds, and their order.

    Counts: nothing; sizes.
    Source: docs/spec/fm-1.md#linalg.

    Raises:
        FormulaError: they are not square.
    """
    batch, rows, columns = matrices_of(call, spec)
    if rows != columns:
        msg = f"{spec} holds no square matrix"
        raise FormulaError(msg, where=call.op)
    return batch, rows


def price(spec: TensorSpec, *work: Work) -> int:
    """Return what work on matrices of this dtype costs.

    Counts: multiplies and adds; on complex numbers six operations for a multiply, two for an add.
    Source: docs/spec/fm-1.md#linalg.

    Example:
        >>> price(TensorSpec((3, 3)), Work(2, 1)), price(TensorSpec((3, 3), "complex64"), Work(2, 1))
        (3, 14)
    """
    multiplies, adds = sum(part.multiplies for part in work), sum(part.adds for part in work)
    return 6 * multiplies + 2 * adds if spec.dtype in COMPLEX else multiplies + adds
