"""The list of operators that do no arithmetic."""

import pytest

from flopmeter.formulas import movement
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall

BOOK = FormulaBook.standard()


@pytest.mark.parametrize(
    "op",
    [
        *("view", "transpose_", "copy_", "_to_copy", "cat", "stack", "fill_", "zero_", "empty", "arange", "where"),
        *("relu", "relu_", "maximum", "clamp_min_", "sort", "topk", "argmax", "eq", "isfinite", "masked_fill_"),
        *("index", "gather", "index_select", "embedding", "bernoulli_", "randn", "uniform_", "_local_scalar_dense"),
        *("_foreach_copy_", "_foreach_zero_", "_foreach_maximum_", "max_pool2d_with_indices", "select_backward"),
    ],
)
def test_moving_and_comparing_cost_nothing_and_are_no_gap(op):
    """Else copies are arithmetic, or every run is full of uncounted operators that did none."""
    cost = BOOK.cost(OpCall.of(f"aten::{op}", (2, 3), out=[(2, 3)]))
    assert cost is not None
    assert cost.flop == 0


@pytest.mark.parametrize(
    "op",
    ["c10d::allreduce_", "_c10d_functional::all_gather_into_tensor", "c10d::send", "symm_mem::one_shot_all_reduce"],
)
def test_collectives_cost_nothing_by_convention(op):
    """Else figures of the same training differ with the number of ranks."""
    assert BOOK.cost(OpCall.of(op, [(2, 3)], out=[(2, 3)])).flop == 0


def test_no_name_stands_twice():
    """Else two lists disagree one day, and which one wins depends on their order."""
    lists = (movement.VIEWS, movement.COPIES, movement.CASTS, movement.FILLS, movement.COMPARES)
    names = [name for one in (*lists, movement.INDEXING, movement.RANDOM, movement.CHECKS) for name in one]
    assert len(names) == len(set(names))


def test_names_are_those_that_dispatch_sees():
    """Else a name with an overload, or of the wrong form, is never found."""
    assert all(op.count("::") == 1 and "." not in op for op in movement.FORMULAS)
    aten = [op.removeprefix("aten::") for op in movement.FORMULAS if op.startswith("aten::")]
    assert not [name for name in aten if name.endswith("_")]
