"""Primitive operators cost what their namesakes in `aten` cost, and every one of torch's has a row or a reason."""

import pytest
import torch
import torch._inductor.inductor_prims  # registers more of them
import torch._prims

from flopmeter.formulas import prims
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall

BOOK = FormulaBook.standard()
OTHER_NAMES = {
    "bessel_i0": "i0",
    "bessel_i0e": "special_i0e",
    "bessel_i1": "special_i1",
    "bessel_i1e": "special_i1e",
    "bessel_j0": "special_bessel_j0",
    "bessel_j1": "special_bessel_j1",
    "erf_inv": "erfinv",
    "erfcx": "special_erfcx",
    "ndtri": "special_ndtri",
    "shift_left": "bitwise_left_shift",
    "shift_right_arithmetic": "bitwise_right_shift",
    "spherical_bessel_j0": "special_spherical_bessel_j0",
    "zeta": "special_zeta",
}
OF_THEIR_OWN = {"cbrt", "fma"}

NOT_PRICED = {
    "_unsafe_index_put_": "inside compiled code alone",
    "conj_physical": "complex numbers alone",
    "fft_c2c": "complex numbers alone",
    "fft_c2r": "complex numbers alone",
    "fft_r2c": "complex numbers alone",
    "svd": "its own name is `aten::_linalg_svd` wherever it runs",
}


@pytest.mark.parametrize("name", sorted(set(prims.RATES) - OF_THEIR_OWN))
def test_a_namesake_costs_the_same(name):
    """Else one program costs more after it has been taken apart."""
    shape = (4, 5)
    call = (shape, shape), [shape]
    ours = BOOK.cost(OpCall.of(f"prims::{name}", *call[0], out=call[1]))
    theirs = BOOK.cost(OpCall.of(f"aten::{OTHER_NAMES.get(name, name)}", *call[0], out=call[1]))
    assert ours.flop == theirs.flop


@pytest.mark.parametrize(("name", "like"), [("sum", "sum"), ("prod", "prod"), ("var", "var")])
def test_a_sum_costs_the_same(name, like):
    ours = BOOK.cost(OpCall.of(f"prims::{name}", (4, 3), [1], out=[(4,)]))
    assert ours.flop == BOOK.cost(OpCall.of(f"aten::{like}", (4, 3), [1], out=[(4,)])).flop


def test_every_primitive_has_a_row_or_a_reason():
    """A new torch that adds one fails here, by name."""
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    ours = {name.removeprefix("prims::") for name in names if name.startswith("prims::")}
    assert {name for name in ours if BOOK.find(f"prims::{name}") is None} <= set(NOT_PRICED)
