"""What is kept of a call: shapes and scalars that decide a cost, and nothing that a tensor holds."""

import pytest
import torch

from flopmeter.formulas.call import AnyNumber
from flopmeter.sensors.shadows import flatten, rows_of, shadow, shadow_nested


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (torch.rand(2, 3), (torch.Size([2, 3]), torch.float32)),
        (torch.eye(3).to_sparse(), (torch.Size([3, 3]), torch.float32, 3, None)),
        (0.001, AnyNumber()),
        (0.5, 0.5),
        (float("inf"), "inf"),
        ([1, None, "x", True], (1, None, "x", True)),
        (torch.float32, None),
    ],
)
def test_what_decides_a_cost_is_kept_and_nothing_else(value, kept):
    """Else a learning rate that changes makes a new row each step, or a tensor lives as long as the meter."""
    assert shadow(value) == kept
    assert isinstance(hash(shadow(value)), int)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_the_list_of_its_tensors():
    nested = torch.nested.nested_tensor([torch.rand(2, 4), torch.rand(3, 4)])
    assert shadow_nested(nested) == (((2, 4), torch.float32), ((3, 4), torch.float32))


def test_tensors_in_lists_are_found_in_order():
    one, two = torch.rand(1), torch.rand(2)
    assert [tensor.shape for tensor in flatten([one, (two, None)])] == [one.shape, two.shape]


def test_rows_are_the_same_in_whatever_order_the_calls_ran():
    """Else one program has two tables, and two ranks disagree."""
    kept = ((torch.Size([2, 3]), torch.float32), (torch.Size([3, 5]), torch.float32))
    keys = [
        (torch.ops.aten.mm.default, phase, kept, (), ((torch.Size([2, 5]), torch.float32),), "cpu", inside)
        for phase in ("forward", "backward")
        for inside in ((), ("mylib::mix",))
    ]
    rows = rows_of(dict.fromkeys(keys, 2))
    assert rows == rows_of(dict.fromkeys(reversed(keys), 2))
    assert {(row.phase, row.inside) for row in rows} == {(key[1], key[6]) for key in keys}
    assert {row.calls for row in rows} == {2}
