"""Eigenvalues, singular values, and what torch makes of them in one operator: pseudo-inverses, exponentials, roots.

All of it is nominal: these algorithms iterate until values say stop, so that no shape gives an exact count. The counts
are those of Golub and Van Loan, Matrix Computations, for each matrix of a batch; on complex numbers four times those.
Not here: factorizations with an exact count (`linalg`); ranks, norms and conditions, which call the operators below.
"""

from collections.abc import Callable

from flopmeter.formulas import lapack
from flopmeter.formulas.call import COMPLEX, OpCall
from flopmeter.formulas.cost import Cost, Part
from flopmeter.formulas.lapack import matrices_of, price, squares_of

# B batch, m rows, n columns, k the smaller of both


def count_symmetric_eigen(call: OpCall) -> Cost:
    """Cost of the eigenvalues of symmetric or Hermitian matrices, with or without vectors.

    Shapes: a (B…, n, n) → (B…, n), (B…, n, n).
    Counts: nominal 9·n³ with vectors, ⌊4·n³/3⌋ without.
    Ignores: how often an eigenvalue is iterated; algorithms that divide and conquer.
    Source: docs/spec/fm-1.md#eigen; Golub and Van Loan, symmetric QR.

    Example:
        >>> count_symmetric_eigen(OpCall.of("aten::_linalg_eigh", (5, 3, 3))).flop
        1215
    """
    batch, n = squares_of(call, call.tensor(0))
    has_vectors = call.op != "aten::linalg_eigvalsh" and call.arg(2) is not False
    return _nominal(call, batch * (9 * n**3 if has_vectors else 4 * n**3 // 3))


def count_eigen(call: OpCall) -> Cost:
    """Cost of the eigenvalues of any square matrices, with or without vectors.

    Shapes: a (B…, n, n) → complex (B…, n), (B…, n, n).
    Counts: nominal ⌊79·n³/3⌋ with vectors: Hessenberg form and QR iterations 25·n³, vectors of the triangular factor
        n³/3, multiplied back n³; 10·n³ without. In the precision of a.
    Ignores: how often an eigenvalue is iterated; scaling.
    Source: docs/spec/fm-1.md#eigen; Golub and Van Loan, the QR algorithm.

    Example:
        >>> count_eigen(OpCall.of("aten::linalg_eig", (3, 3))).flop
        711
    """
    batch, n = squares_of(call, call.tensor(0))
    return _nominal(call, batch * (79 * n**3 // 3 if call.op == "aten::linalg_eig" else 10 * n**3))


def count_singular(call: OpCall) -> Cost:
    """Cost of singular values, with or without vectors.

    Shapes: a (B…, m, n) → U (m, k), S (k), Vᵀ (k, n); full: U (m, m), Vᵀ (n, n).
    Counts: nominal, for m ≥ n, else of the transpose: 6·m·n² + 20·n³ with thin matrices of vectors, 4·m²·n + 22·n³
        with full ones, 2·m·n² + 2·n³ for values alone.
    Ignores: how often a value is iterated; drivers that do other work.
    Source: docs/spec/fm-1.md#eigen; Golub and Van Loan, R-SVD.

    Example:
        >>> count_singular(OpCall.of("aten::_linalg_svd", (3, 2))).flop
        232
    """
    batch, m, n = matrices_of(call, call.tensor(0))
    vectors = "full" if call.option("full_matrices", call.arg(1)) is True else "thin"
    if call.op == "aten::linalg_svdvals" or call.arg(2) is False:
        vectors = "no"
    return _nominal(call, batch * lapack.nominal_svd(m, n, vectors=vectors))


def count_pseudo_inverse(call: OpCall) -> Cost:
    """Cost of a pseudo-inverse.

    Shapes: a (B…, m, n) → (B…, n, m).
    Counts: nominal the thin SVD, or 9·n³ for the eigenvalues of a Hermitian matrix; pointwise the tolerance 1, k
        reciprocals, n·k multiplies of the vectors, k absolute values where it is Hermitian; 2·n·k·m products.
    Ignores: compares.
    Source: docs/spec/fm-1.md#eigen; torch's own form.

    Example:
        >>> call = OpCall.of("aten::linalg_pinv", (3, 2))
        >>> [(part.kind, part.flop) for part in count_pseudo_inverse(call).parts]
        [('linalg', 232), ('pointwise', 7), ('matmul', 24)]
    """
    data = call.tensor(0)
    batch, m, n = matrices_of(call, data)
    k = min(m, n)
    is_hermitian = True in {call.option("hermitian"), call.arg(2)}
    if is_hermitian:
        squares_of(call, data)
    factor = 9 * n**3 if is_hermitian else lapack.nominal_svd(m, n, vectors="thin")
    values = (1 + k + k * is_hermitian if k else 0) + price(data, lapack.Work(n * k, 0))
    product = price(data, lapack.Work(n * k * m, n * k * m))
    return Cost.of(
        *_nominal(call, batch * factor).parts,
        Part(kind="pointwise", flop=batch * values, precision=data.dtype),
        Part(kind="matmul", flop=batch * product, precision=data.dtype),
    )


def count_exponential(call: OpCall) -> Cost:
    """Cost of the exponential of square matrices.

    Shapes: a (B…, n, n) → (B…, n, n).
    Counts: nominal 10·n³: the five products of torch's polynomial of degree 18. A matrix of one number is one
        exponential, 5 operations where it is complex.
    Ignores: lower degrees for small norms and squarings for large ones, which only values would tell; sums.
    Source: docs/spec/fm-1.md#eigen; Bader, Blanes and Casas, as torch has it.

    Example:
        >>> count_exponential(OpCall.of("aten::linalg_matrix_exp", (5, 3, 3))).flop
        1350
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    if n == 1:
        return Cost.of(Part(kind="linalg", flop=batch * (5 if data.dtype in COMPLEX else 1)))
    return _nominal(call, batch * 10 * n**3)


def count_root(call: OpCall) -> Cost:
    """Cost of the square root of symmetric or Hermitian matrices.

    Shapes: a (B…, n, n) → (B…, n, n).
    Counts: nominal 9·n³ for eigenvalues with vectors; pointwise n roots, n² multiplies of the vectors, and n² adds and
        multiplies for the mean with the transpose; 2·n³ products.
    Ignores: compares.
    Source: docs/spec/fm-1.md#eigen; torch's own form.

    Example:
        >>> call = OpCall.of("aten::linalg_matrix_sqrth", (3, 3))
        >>> [(part.kind, part.flop) for part in count_root(call).parts]
        [('linalg', 243), ('pointwise', 30), ('matmul', 54)]
    """
    data = call.tensor(0)
    batch, n = squares_of(call, data)
    return Cost.of(
        *_nominal(call, batch * 9 * n**3).parts,
        Part(kind="pointwise", flop=batch * (n + price(data, lapack.Work(2 * n * n, n * n))), precision=data.dtype),
        Part(kind="matmul", flop=batch * price(data, lapack.Work(n**3, n**3)), precision=data.dtype),
    )


def count_polar(call: OpCall) -> Cost:
    """Cost of a polar decomposition into a matrix of orthonormal columns and a symmetric or Hermitian one.

    Shapes: a (B…, m, n), m ≥ n → U (B…, m, n), H (B…, n, n).
    Counts: nominal the thin SVD; pointwise n² multiplies of the vectors, and n² adds and multiplies for the mean with
        the transpose; 2·n³ + 2·m·n² products.
    Ignores: that torch iterates instead on a GPU with a library for it.
    Source: docs/spec/fm-1.md#eigen; torch's own form.

    Example:
        >>> call = OpCall.of("aten::linalg_polar", (3, 2))
        >>> [(part.kind, part.flop) for part in count_polar(call).parts]
        [('linalg', 232), ('pointwise', 12), ('matmul', 40)]
    """
    data = call.tensor(0)
    batch, m, n = matrices_of(call, data)
    multiplies = n**3 + m * n * n
    return Cost.of(
        *_nominal(call, batch * lapack.nominal_svd(m, n, vectors="thin")).parts,
        Part(kind="pointwise", flop=batch * price(data, lapack.Work(2 * n * n, n * n)), precision=data.dtype),
        Part(kind="matmul", flop=batch * price(data, lapack.Work(multiplies, multiplies)), precision=data.dtype),
    )


def _nominal(call: OpCall, flop: int) -> Cost:
    """Return a count as a cost in the precision of the matrix: its results or tolerances may have another."""
    dtype = call.tensor(0).dtype
    return Cost.of(Part(kind="linalg", flop=4 * flop if dtype in COMPLEX else flop, precision=dtype))


_FORMULAS: dict[str, Callable[[OpCall], int | Cost]] = {
    "_linalg_eigh": count_symmetric_eigen,
    "linalg_eigvalsh": count_symmetric_eigen,
    "linalg_eig": count_eigen,
    "_linalg_eigvals": count_eigen,
    "linalg_eigvals": count_eigen,
    "_linalg_svd": count_singular,
    "linalg_svdvals": count_singular,
    "linalg_pinv": count_pseudo_inverse,
    "linalg_matrix_exp": count_exponential,
    "linalg_matrix_sqrth": count_root,
    "linalg_polar": count_polar,
}
FORMULAS: dict[str, tuple[str, Callable[[OpCall], int | Cost]]] = {
    **{f"aten::{name}": ("linalg", formula) for name, formula in _FORMULAS.items()},
    **{f"complex::aten.{name}": ("linalg", formula) for name, formula in _FORMULAS.items()},
    "prims::svd": ("linalg", count_singular),
    "complex::prims.svd": ("linalg", count_singular),
}
"""A real and a complex matrix have one formula; the eigenvalues of a real matrix are complex."""
