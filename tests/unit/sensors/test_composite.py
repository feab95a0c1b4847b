"""Operators that torch builds of others: which they are, and that taking them apart gives the same bits."""

import pytest
import torch

from flopmeter.sensors import composite

MM, LINEAR, EINSUM = torch.ops.aten.mm.default, torch.ops.aten.linear.default, torch.ops.aten.einsum.default
SVDVALS = torch.ops.aten.linalg_svdvals.default


@pytest.mark.parametrize(("op", "expected"), [(MM, False), (LINEAR, True), (EINSUM, True), (SVDVALS, False)])
def test_which_are_taken_apart(op, expected):
    """One that asks whether a mode is there is run whole: else it would take another way than without us."""
    assert composite.is_composite(op) is expected


def test_a_higher_order_operator_is_none():
    assert not composite.is_composite(torch.ops.higher_order.cond)


def test_autograd_is_left_behind_where_torch_says_so():
    assert not composite.is_below_autograd()
    with torch._C._AutoDispatchBelowAutograd():
        assert composite.is_below_autograd()
    with torch.inference_mode():
        assert composite.is_below_autograd()
    assert not composite.is_below_autograd()


def test_taken_apart_it_gives_the_same_bits():
    x, w, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    with torch.inference_mode():
        assert torch.equal(composite.take_apart(LINEAR, (x, w, bias), {}), torch.nn.functional.linear(x, w, bias))


def test_only_what_asks_for_gradients_needs_the_outer_state():
    assert composite.state_of(EINSUM) is None
    assert composite.state_of(LINEAR) is not None
