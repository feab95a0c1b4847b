"""What torch's linear algebra asks for: every operator is priced, and what is made of others costs what those cost."""

import re
from pathlib import Path

import pytest
import torch
from torch._decomp import decomposition_table
from versions import IS_SINCE_2_14

from flopmeter.formulas import lapack
from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
PAGE = (Path(__file__).parents[2] / "docs" / "spec" / "fm-1.md").read_text(encoding="utf-8")
linalg = torch.linalg


def record(work):
    tally = price_rows(record_calls(work), BOOK)
    return {kind: part.flop for kind, part in tally.by("kind").items() if part.flop}


def definite(*shape, dtype=torch.float64):
    """Return matrices with a Cholesky factor, and with eigenvalues well apart."""
    return torch.diag_embed(torch.arange(1.0, shape[-1] + 1, dtype=dtype)).expand(*shape) + 0.1


def rand(*shape, dtype=torch.float64):
    return torch.rand(shape, dtype=dtype)


A, TALL, B = definite(2, 4, 4), rand(2, 6, 4), rand(2, 4, 3)
WORK = {
    "cholesky": (linalg.cholesky, A),
    "cholesky_solve": (torch.cholesky_solve, B, A),
    "cholesky_inverse": (torch.cholesky_inverse, A),
    "lu": (linalg.lu, TALL),
    "lu_factor": (linalg.lu_factor, TALL),
    "lu_solve": (lambda a, b: linalg.lu_solve(*linalg.lu_factor(a), b), A, B),
    "solve": (linalg.solve, A, B),
    "inv": (linalg.inv, A),
    "tensorinv": (lambda a: linalg.tensorinv(a.reshape(4, 2, 2), ind=1), definite(4, 4)),
    "matrix_power": (lambda a: linalg.matrix_power(a, -3), A),
    "solve_triangular": (lambda a, b: linalg.solve_triangular(a, b, upper=True), A, B),
    "triangular_solve": (torch.triangular_solve, B, A),
    "qr": (linalg.qr, TALL),
    "householder_product": (linalg.householder_product, rand(6, 4), rand(4)),
    "ormqr": (torch.ormqr, rand(6, 4), rand(4), rand(6, 3)),
    "eigh": (linalg.eigh, A),
    "eigvalsh": (linalg.eigvalsh, A),
    "eigvals": (linalg.eigvals, A),
    "svd": (lambda a: linalg.svd(a, full_matrices=False)[1], TALL),
    "svdvals": (linalg.svdvals, TALL),
    "det": (linalg.det, A),
    "slogdet": (linalg.slogdet, A),
    "lstsq": (lambda a, b: linalg.lstsq(a, b)[0], TALL, rand(2, 6, 3)),
    "ldl": (lambda a, b: linalg.ldl_solve(*linalg.ldl_factor(a.detach()), b.detach()), A, B),
    "matrix_exp": (linalg.matrix_exp, A),
    "pinv": (linalg.pinv, TALL),
    "hermitian pinv": (lambda a: linalg.pinv(a, hermitian=True), A),
    "cross": (linalg.cross, rand(5, 3), rand(5, 3)),
    "nuclear norm": (lambda a: linalg.matrix_norm(a, "nuc"), TALL),
    "cond": (linalg.cond, A),
    "matrix_rank": (linalg.matrix_rank, TALL),
}
if IS_SINCE_2_14:
    WORK |= {"polar": (linalg.polar, TALL), "matrix_sqrth": (linalg.matrix_sqrth, A)}
else:  # this one is gone since
    WORK["old cholesky"] = torch.cholesky, A


@pytest.mark.filterwarnings("ignore:torch.(cholesky|triangular_solve) is deprecated")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", WORK)
def test_no_function_of_linear_algebra_goes_uncounted(name, dtype):
    """Else second-order optimizers look free; gradients as well, and as inference takes them apart."""
    function, *args = WORK[name]
    leaves = [arg.to(dtype).clone().requires_grad_() for arg in args]

    def train():
        found = function(*leaves)
        results = [out for out in (found if isinstance(found, tuple) else (found,)) if out.requires_grad]
        if results:
            torch.autograd.backward([out.abs().sum() for out in results])

    assert sum(record(train).values()) > 0
    plain = [leaf.detach() for leaf in leaves]
    with torch.inference_mode():
        assert sum(record(lambda: function(*plain)).values()) > 0


def test_what_is_made_of_other_operators_costs_what_those_cost():
    """Else the price depends on which function of torch somebody calls."""
    assert record(lambda: linalg.solve(A, B)) == record(lambda: linalg.lu_solve(*linalg.lu_factor(A), B))
    assert record(lambda: linalg.lu(TALL)) == record(lambda: linalg.lu_factor(TALL))
    determinant = record(lambda: linalg.det(A))["linalg"]
    product = record(lambda: linalg.lu_factor(A)[0].diagonal(dim1=-2, dim2=-1).prod(-1))
    sign = 2
    assert determinant == product["linalg"] + product["reduction"] + sign


def test_a_pseudo_inverse_costs_what_it_costs_written_out():
    data, tolerance = rand(6, 4, dtype=torch.float32), torch.tensor([0.1])

    def written_out():
        left, values, right = linalg.svd(data, full_matrices=False)
        kept = torch.where(values > tolerance * values[:1], values.reciprocal(), 0)
        return torch.mm(right.mT * kept, left.mT)

    assert record(lambda: linalg.pinv(data)) == record(written_out)


@pytest.mark.skipif(not IS_SINCE_2_14, reason="torch before 2.14 has neither roots nor polar decompositions")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_root_and_a_polar_decomposition_cost_what_they_cost_written_out(dtype):
    data, tall = A.to(dtype), TALL.to(dtype)

    def mean(found):
        return (found + found.mH.resolve_conj()) * 0.5

    def root():
        values, vectors = linalg.eigh(data)
        mean((vectors * values.sqrt().to(dtype).unsqueeze(-2)) @ vectors.mH)

    def polar():
        left, values, right = linalg.svd(tall, full_matrices=False)
        mean(right.mH @ (values.to(dtype).unsqueeze(-1) * right))
        left @ right

    assert record(lambda: linalg.matrix_sqrth(data)) == record(root)
    assert record(lambda: linalg.polar(tall)) == record(polar)


def test_a_cross_product_costs_what_its_decomposition_costs():
    op = torch.ops.aten.linalg_cross.default
    args = (rand(5, 3), rand(5, 3))
    assert record(lambda: op(*args)) == record(lambda: decomposition_table[op](*args)) == {"pointwise": 45}


ROUTINES = {
    "POTRF": lambda m, n, k: lapack.factor_cholesky(n),
    "POTRI": lambda m, n, k: lapack.invert_cholesky(n),
    "POTRS": lambda m, n, k: lapack.solve_cholesky(n),
    "SYTRF": lambda m, n, k: lapack.factor_symmetric(n),
    "SYTRS": lambda m, n, k: lapack.solve_full(n),
    "GETRF": lambda m, n, k: lapack.factor_lu(m, n),
    "GETRI": lambda m, n, k: lapack.invert_lu(n),
    "GETRS": lambda m, n, k: lapack.solve_full(n),
    "TRTRS": lambda m, n, k: lapack.solve_triangular(n),
    "GEQRF m ≥ n": lambda m, n, k: lapack.factor_qr(max(m, n), min(m, n)),
    "GEQRF m < n": lambda m, n, k: lapack.factor_qr(min(m, n), max(m, n) + 1),
    "ORGQR": lapack.form_q,
    "ORMQR left": lapack.multiply_q,
    "ORMQR right": lambda m, n, k: lapack.multiply_q(m, n, k, is_left=False),
}
SIGNS = str.maketrans({"·": "*", "−": "-", "²": "**2", "³": "**3"})


def evaluate(text, **sizes):
    """Return what an expression of the page is worth."""
    expression = text.split(",")[0].translate(SIGNS)
    if expression.startswith("Σ"):
        steps = range(1, min(sizes["m"], sizes["n"]) + 1)
        return sum(eval(expression[1:], {}, {**sizes, "i": step}) for step in steps)  # noqa: S307  # our own page
    return eval(expression, {}, sizes)  # noqa: S307  # our own page


@pytest.mark.parametrize("routine", ROUTINES)
def test_the_polynomials_are_those_of_the_document(routine):
    """Else people implement a convention that is not the one we count by."""
    name, _, case = routine.partition(" ")
    (row,) = [
        re.split(r" {2,}", line)
        for line in PAGE.splitlines()
        if re.match(rf"{name} +{re.escape(case)}", line) and len(re.split(r" {2,}", line)) == 4
    ]
    for m in range(6):
        for n in range(6):
            for k in range(min(m, n) + 1):
                sizes = {"m": m, "n": n}
                if case == "m ≥ n":
                    sizes = {"m": max(m, n), "n": min(m, n)}
                elif case == "m < n":
                    sizes = {"m": min(m, n), "n": max(m, n) + 1}
                assert ROUTINES[routine](m, n, k) == tuple(evaluate(cell, **sizes, k=k) for cell in row[2:])
