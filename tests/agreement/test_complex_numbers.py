"""Complex arithmetic costs what torch's own way of taking it apart into real numbers costs, where torch has one."""

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

complex_tensor = pytest.importorskip("torch._subclasses.complex_tensor", reason="torch takes no complex numbers apart")

BOOK = FormulaBook.standard()
aten = torch.ops.aten
X = (3, 4, 6)
N = 72


def record(work):
    """Count everything that the work asks torch for, in floating-point numbers; nothing may be left uncounted."""
    with torch.no_grad():
        tally = price_rows(record_calls(work), BOOK)
    return sum(count.flop for count in tally.counts)


def rand(*shape):
    return torch.rand(shape, dtype=torch.complex64) + 0.1


CASES = {
    **{
        name: (getattr(aten, name).default, (rand(*X),))
        for name in (
            *("neg", "_conj_physical", "abs", "angle", "sgn", "reciprocal", "exp", "expm1", "log", "log1p", "sqrt"),
            *("rsqrt", "sinh", "cosh", "tanh", "sin", "cos", "tan", "asinh", "acosh", "atanh", "asin", "acos", "atan"),
            *("sum", "mean"),
        )
    },
    "add": (aten.add.Tensor, (rand(*X), rand(*X))),
    "sub": (aten.sub.Tensor, (rand(*X), rand(*X))),
    "mul": (aten.mul.Tensor, (rand(*X), rand(*X))),
    "mul by a real tensor": (aten.mul.Tensor, (rand(*X), torch.rand(X))),
    "div": (aten.div.Tensor, (rand(*X), rand(*X))),
    "pow": (aten.pow.Tensor_Tensor, (rand(*X), rand(*X))),
    "tanh_backward": (aten.tanh_backward.default, (rand(*X), rand(*X))),
    "var": (aten.var.correction, (rand(*X), [1])),
    "cumsum": (aten.cumsum.default, (rand(*X), 1)),
    "linalg_vector_norm": (aten.linalg_vector_norm.default, (rand(*X), 2, [1])),
    "linalg_vector_norm 3": (aten.linalg_vector_norm.default, (rand(*X), 3, [1])),
    "index_add": (aten.index_add.default, (rand(5, 4), 0, torch.tensor([0, 3]), rand(2, 4))),
    "scatter_add": (aten.scatter_add.default, (rand(5, 4), 0, torch.zeros(3, 4, dtype=torch.int64), rand(3, 4))),
    "mm": (aten.mm.default, (rand(3, 4), rand(4, 5))),
    "bmm": (aten.bmm.default, (rand(2, 3, 4), rand(2, 4, 5))),
    "dot": (aten.dot.default, (rand(7), rand(7))),
}
DIFFERENT = {
    "mm": (2 * 15, "it adds real and imaginary products apart, as if those were no sums of products"),
    "bmm": (2 * 30, "as mm"),
    "dot": (2, "as mm"),
    "linalg_vector_norm 3": (N, "it takes the absolute values of moduli"),
}


def test_polar_numbers_cost_what_their_decomposition_costs():
    radius, angle = torch.rand(X), torch.rand(X)
    apart = torch._decomp.decomposition_table[aten.polar.default]
    assert record(lambda: torch.polar(radius, angle)) == record(lambda: apart(radius, angle)) == 4 * N


@pytest.mark.parametrize("name", CASES)
def test_complex_numbers_cost_what_their_parts_cost(name):
    """Else a model costs one figure in complex numbers and another in pairs of real ones."""
    op, args = CASES[name]
    split = [
        complex_tensor.ComplexTensor.from_interleaved(arg)
        if isinstance(arg, torch.Tensor) and arg.is_complex()
        else arg
        for arg in args
    ]
    more, _ = DIFFERENT.get(name, (0, ""))
    assert record(lambda: op(*args)) + more == record(lambda: op(*split))


def test_gradients_of_complex_numbers_are_counted():
    """Else spectral models are half counted."""
    one, two = (rand(3, 3).requires_grad_() for _ in range(2))
    result = (torch.exp(one @ two) / two).abs().sum()
    with torch.enable_grad():
        assert record(result.backward) > 0


def test_a_convolution_of_complex_numbers_is_made_of_real_ones():
    """Else it has no price."""
    signal, kernel = rand(2, 3, 8), rand(4, 3, 3)
    taps = 2 * 2 * 4 * 3 * 3 * 6
    assert record(lambda: torch.nn.functional.conv1d(signal, kernel)) >= 3 * taps
