"""Costs: parts that are whole, known and not negative."""

import pytest

from flopmeter.formulas.cost import Cost, Part


def test_a_cost_is_the_sum_of_its_parts_and_masked_work_is_not_in_it():
    """Else the work that a mask skipped is counted as done."""
    cost = Cost.of(Part(kind="attention", flop=10, masked_flop=7), Part(kind="pointwise", flop=3))
    assert cost.flop == 13


def test_parts_without_work_are_dropped_but_the_first():
    """Else a call whose cost is zero has no cell in which it counts as a call."""
    empty, masked = Part(kind="pointwise"), Part(kind="attention", masked_flop=1)
    assert Cost.of(Part(kind="matmul"), empty, masked).parts == (Part(kind="matmul"), masked)


def test_no_parts_is_a_statement():
    assert (Cost().parts, Cost().flop) == ((), 0)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"flop": -1}, ValueError),
        ({"masked_flop": -1}, ValueError),
        ({"flop": 1.0}, TypeError),
        ({"flop": None}, TypeError),
        ({"flop": True}, TypeError),
        ({"masked_flop": 0.5}, TypeError),
        ({"kind": "gemm"}, ValueError),
        ({"phase": "warmup"}, ValueError),
    ],
)
def test_a_part_that_is_no_count_is_refused(fields, error):
    """Else a formula that divides with `/` puts floats into sums that are signed."""
    with pytest.raises(error):
        Part(**{"kind": "matmul", **fields})
