"""Fused collectives: each rank pays for what it multiplies itself."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.symmetric import FORMULAS, NOTHING

GATHER = "symm_mem::fused_all_gather_matmul"
SCATTER = "symm_mem::fused_matmul_reduce_scatter"
GATHER_SCALED = "symm_mem::fused_all_gather_scaled_matmul"
SCATTER_SCALED = "symm_mem::fused_scaled_matmul_reduce_scatter"


def cost_of(op, *args, **options):
    return FORMULAS[op][1](OpCall.of(op, *args, **options))


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("return_a", [True, False])
def test_gathered_rows_are_multiplied_on_every_rank(ranks, return_a):
    """Tensor parallelism multiplies all rows with this rank's columns: that is what this rank did."""
    rows, inner, widths = 4, 8, (6, 2)
    expected = sum(2 * inner * width for _rank in range(ranks) for _row in range(rows) for width in widths)
    results = [(ranks * rows, width) for width in widths]
    out = [(ranks * rows, inner), *results] if return_a else results
    cost = cost_of(GATHER, (rows, inner), [(inner, width) for width in widths], 0, "g", return_A=return_a, out=out)
    assert [(part.kind, part.flop) for part in cost.parts] == [("matmul", expected)]


@pytest.mark.parametrize("leading", [(16,), (2, 8)])
def test_scattered_rows_are_multiplied_before_they_leave(leading):
    cost = cost_of(SCATTER, (*leading, 8), (8, 6), "sum", 0, "g", out=[(4, 6)])
    assert cost.flop == sum(2 * 8 for _row in range(16) for _column in range(6))


def fp8(*shape):
    return TensorSpec(shape, "fp8_e4m3")


@pytest.mark.parametrize(("bias", "scale", "more"), [(None, None, 0), ((6,), None, 1), ((6,), (1,), 2)])
def test_scaled_products_have_their_precision_and_the_scales_have_theirs(bias, scale, more):
    gathered = cost_of(
        *(GATHER_SCALED, fp8(4, 8), (fp8(8, 6),), (4, 1), [(1, 6)], 0, "g", (bias and TensorSpec(bias),)),
        *((scale and TensorSpec(scale),), (None,), (False,)),
        out=[(16, 8), (16, 6)],
    )
    scattered = cost_of(
        *(SCATTER_SCALED, fp8(16, 8), fp8(8, 6), (16, 1), (1, 6), "sum", 0, 0, "g", None, bias, scale), out=[(4, 6)]
    )
    for cost in (gathered, scattered):
        products, scaling = cost.parts
        assert (products.kind, products.precision, products.flop) == ("matmul", "fp8_e4m3", 2 * 16 * 8 * 6)
        assert (scaling.kind, scaling.precision, scaling.flop) == ("pointwise", "fp32", (2 + more) * 16 * 6)


def test_a_product_that_waits_for_its_rows_costs_a_product():
    assert cost_of("symm_mem::_async_input_mm", (16, 8), (8, 6), (4,), 1, out=[(16, 6)]).flop == 2 * 16 * 8 * 6


def test_collectives_cost_nothing():
    assert {cost_of(f"symm_mem::{name}", (4, 8), "sum", "g", out=[(4, 8)]) for name in NOTHING} == {0}


@pytest.mark.parametrize(
    ("op", "args", "out"),
    [
        (GATHER, ((4, 8), [(8, 6), (8, 2)], 0, "g"), [(16, 6)]),
        (GATHER, ((4, 8), [(8, 6)], 0, "g"), [(16, 8), (16, 7)]),
        (SCATTER, ((16, 8), (7, 6), "sum", 0, "g"), [(4, 6)]),
    ],
)
def test_what_does_not_fit_is_refused(op, args, out):
    with pytest.raises(FormulaError):
        cost_of(op, *args, out=out)
