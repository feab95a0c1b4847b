"""Grouped and scaled products as torch runs them on a CPU, against the same work written out in plain operators."""

import pytest
import torch
from torch.nn import functional
from versions import since_2_10

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2
BF16 = torch.bfloat16


def runs_here(op):
    """Say whether this torch has a kernel that a CPU can run."""
    keys = "CPU", "CompositeExplicitAutograd"
    return hasattr(torch.ops.aten, op) and any(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{op}", key) for key in keys
    )


def record(work):
    return price_rows(record_calls(work, book=BOOK), BOOK)


GROUPED = pytest.mark.skipif(not runs_here("_grouped_mm"), reason="this torch has groups on other devices alone")


def ends(*values):
    return torch.tensor(values, dtype=torch.int32)


def bf16(*shape):
    return torch.rand(shape, dtype=BF16).requires_grad_()


def in_loops(one, two, offsets):
    """Multiply the groups one after another."""
    begin, out = 0, []
    for group, end in enumerate(offsets.tolist()):
        if one.dim() == 2 and two.dim() == 3:
            out.append(one[begin:end] @ two[group])
        elif one.dim() == 3:
            out.append(one[group] @ two[:, begin:end])
        else:
            out.append(one[:, begin:end] @ two[begin:end])
        begin = end
    return torch.cat([product.flatten() for product in out])


@GROUPED
@pytest.mark.parametrize(
    ("one", "two", "offsets"),
    [
        ((16, 16), (3, 16, 8), (3, 3, 11)),
        ((3, 8, 16), (16, 24), (8, 8, 16)),
        ((8, 16), (16, 24), (8, 8, 16)),
    ],
)
def test_groups_cost_what_they_cost_one_after_another(one, two, offsets):
    """Else a mixture of experts costs more or less depending on whether a library groups its products."""
    one, two, offsets = bf16(*one), bf16(*two), ends(*offsets)
    grouped = record(lambda: torch._grouped_mm(one, two, offs=offsets))
    with torch.no_grad():
        apart = record(lambda: in_loops(one, two, offsets))
    assert grouped.flop == apart.flop
    whole = 2 * one.shape[-2] * one.shape[-1] * two.shape[-1]
    assert grouped.flop + grouped.masked_flop == whole


@GROUPED
@pytest.mark.parametrize(
    ("one", "two", "offsets"), [((16, 16), (3, 16, 8), (3, 3, 11)), ((3, 8, 16), (16, 24), (8, 8, 16))]
)
def test_the_gradients_of_groups_cost_what_they_cost_one_after_another(one, two, offsets):
    """Else the backward pass of a mixture of experts counts rows that no expert took."""
    one, two, offsets = bf16(*one), bf16(*two), ends(*offsets)
    grouped = torch._grouped_mm(one, two, offs=offsets)
    apart = in_loops(one, two, offsets)
    cost = record(lambda: grouped.backward(torch.rand(grouped.shape, dtype=BF16)))
    products = record(lambda: apart.backward(torch.rand(apart.shape, dtype=BF16))).select(kind="matmul")
    assert cost.select(kind="matmul").flop == products.flop
    assert cost.masked_flop > 0


def test_the_fallback_of_transformers_costs_what_it_runs():
    """Else models of transformers cost nothing where torch has no kernel for their groups."""
    pytest.importorskip("transformers.integrations.moe")
    one, two, offsets = torch.rand(7, 4).requires_grad_(), torch.rand(3, 4, 5).requires_grad_(), ends(2, 2, 6)
    out = torch.ops.transformers.grouped_mm_fallback(one, two, offsets)
    forward = record(lambda: torch.ops.transformers.grouped_mm_fallback(one, two, offsets))
    backward = record(lambda: out.backward(torch.rand(7, 5)))
    assert forward.flop == 2 * 6 * 4 * 5
    assert forward.masked_flop == 2 * 1 * 4 * 5
    assert backward.flop == 2 * forward.flop


def scaled_apart(one, two, left, right, bias):
    scaled = (one.to(torch.float32) @ two.to(torch.float32)) * left * right
    return scaled + bias if bias is not None else scaled


@pytest.mark.parametrize("dtype", [E4, E5])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "scales",
    [((), ()), pytest.param(((16, 1), (1, 24)), marks=since_2_10("a CPU scales whole tensors alone"))],
)
def test_a_scaled_product_costs_a_product_and_its_scaling(dtype, has_bias, scales):
    """Else fp8 training costs more or less than the same products in bf16 and the scaling that they need."""
    one, two = torch.rand(16, 32).to(dtype), torch.rand(24, 32).to(E4).t()
    left, right = (torch.rand(shape) for shape in scales)
    bias = torch.rand(24) if has_bias else None
    fused = record(lambda: torch._scaled_mm(one, two, left, right, bias=bias, out_dtype=torch.float32))
    apart = record(lambda: scaled_apart(one, two, left, right, bias))
    assert fused.flop == apart.flop
    assert fused.contraction_flop == apart.contraction_flop
    expected = "fp8_e4m3" if dtype is E4 else "fp8_e5m2*fp8_e4m3"
    assert fused.select(precision=expected).flop == 2 * 16 * 32 * 24


@pytest.mark.skipif(not runs_here("_scaled_mm_v2"), reason="this torch has recipes on other devices alone")
@pytest.mark.parametrize("shape", [((), ()), ((16, 1), (1, 24))])
def test_recipes_cost_what_the_shapes_of_their_scales_cost(shape):
    recipe = functional.ScalingType.RowWise if shape[0] else functional.ScalingType.TensorWise
    one, two = torch.rand(16, 32).to(E4), torch.rand(24, 32).to(E4).t()
    left, right = (torch.rand(size) for size in shape)
    old = record(lambda: torch._scaled_mm(one, two, left, right, out_dtype=torch.float32))
    new = record(lambda: functional.scaled_mm(one, two, left, recipe, right, recipe, output_dtype=torch.float32))
    assert [(kind, part.flop) for kind, part in new.by("kind").items()] == [
        (kind, part.flop) for kind, part in old.by("kind").items()
    ]
    assert new.by("precision").keys() == old.by("precision").keys()
