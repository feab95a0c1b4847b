"""Adding by index, counted by hand."""

import pytest

from flopmeter.formulas.call import AnyNumber, OpCall
from flopmeter.formulas.cost import Cost
from flopmeter.formulas.embedding import FORMULAS


def flop_of(op, *args, **options):
    found = FORMULAS[op][1](OpCall.of(op, *args, **options))
    return found.flop if isinstance(found, Cost) else found


def test_an_embedding_gradient_adds_every_element_once_however_large_the_table():
    """Else a large vocabulary costs by its size, as in 6ND with embeddings."""
    op = "aten::embedding_dense_backward"
    assert flop_of(op, (2, 3, 4), (2, 3), 10, -1, False) == 24
    assert flop_of(op, (2, 3, 4), (2, 3), 100_000, -1, False) == 24
    assert flop_of(op, (2, 3, 4), (2, 3), 10, -1, True) == 48


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("aten::index_add", ((10, 4), 0, (3,), (3, 4)), 12),
        ("aten::index_add", ((10, 4), 0, (3,), (3, 4), AnyNumber()), 24),
        ("aten::scatter_add", ((10, 4), 0, (3, 4), (5, 4)), 12),
        ("aten::scatter_reduce", ((10, 4), 0, (3, 4), (3, 4), "sum"), 12),
        ("aten::scatter_reduce", ((10, 4), 0, (3, 4), (3, 4), "prod"), 12),
        ("aten::scatter_reduce", ((10, 4), 0, (3, 4), (3, 4), "mean"), 12 + 40),
        ("aten::scatter_reduce", ((10, 4), 0, (3, 4), (3, 4), "amax"), 0),
        ("aten::index_reduce", ((10, 4), 0, (3,), (3, 4), "prod"), 12),
        ("aten::index_reduce", ((10, 4), 0, (3,), (3, 4), "amin"), 0),
        ("aten::put", ((10,), (3,), (3,), True), 3),
        ("aten::put", ((10,), (3,), (3,)), 0),
        ("aten::unfold_backward", ((3, 4), [6], 0, 4, 1), 12),
    ],
)
def test_each_element_that_is_brought_in_is_one_add_unless_it_is_compared(op, args, expected):
    """Else graph models, which only scatter, have no arithmetic of their own."""
    assert flop_of(op, *args) == expected


def test_a_scatter_copies_unless_it_is_told_to_add():
    op = "aten::scatter"
    assert flop_of(op, (10, 4), 0, (3, 4), (3, 4)) == 0
    assert flop_of(op, (10, 4), 0, (3, 4), (3, 4), reduce="add") == 12
    assert flop_of(op, (10, 4), 0, (3, 4), 0.5, reduce="multiply") == 12


@pytest.mark.parametrize(
    ("indices", "values", "expected"),
    [
        ([(3,)], (3, 4, 5), 3 * 4 * 5),
        ([(3,), (3,)], (3, 5), 3 * 5),
        ([(2, 1), (3,)], (2, 3, 5), 2 * 3 * 5),
        ([None, (3,)], (10, 3, 5), 10 * 3 * 5),
        ([(3,)], (1,), 3 * 4 * 5),
    ],
)
def test_index_put_adds_over_the_indexed_region(indices, values, expected):
    """Else the gradient of an advanced index is free, or costs the whole tensor."""
    for op in ("aten::index_put", "aten::_index_put_impl"):
        assert flop_of(op, (10, 4, 5), indices, values, True) == expected
        assert flop_of(op, (10, 4, 5), indices, values) == 0


def test_a_mask_says_only_how_many_values_there_are():
    call = OpCall.of("aten::index_put", (10, 4), [OpCall.of("", (10, 4), dtype="bool").args[0]], (7,), True)
    assert FORMULAS["aten::index_put"][1](call) == 7


def test_a_mask_changes_no_region():
    """Places that the mask leaves out get a zero added."""
    op = "aten::_unsafe_masked_index_put_accumulate"
    assert flop_of(op, (10, 4, 5), (3,), [(3,)], (3, 4, 5)) == 3 * 4 * 5
    assert flop_of(op, (10, 4, 5), (10, 3), [None, (3,)], (10, 3, 5)) == 10 * 3 * 5


def test_counting_is_free_and_adding_weights_up_is_not():
    """Else a histogram of losses counts as arithmetic on each of them."""
    assert flop_of("aten::bincount", (9,), out=[(4,)]) == 0
    assert flop_of("aten::bincount", (9,), (9,), out=[(4,)]) == 9
    assert flop_of("aten::histogram", (9,), 4, out=[(4,), (5,)]) == 0
    assert flop_of("aten::histogram", (9,), 4, weight=(9,), out=[(4,), (5,)]) == 9
    assert flop_of("aten::_histogramdd_from_bin_cts", (9, 2), [4, 3], weight=(9,), out=[(4, 3)]) == 9


def test_a_density_divides_by_the_sum_and_by_the_widths():
    total, divisions, widths, again = 4 - 1, 4, 4, 4
    found = flop_of("aten::histogram", (9,), 4, density=True, out=[(4,), (5,)])
    assert found == total + divisions + widths + again
    total, divisions, rows, columns = 12 - 1, 12, 4 + 12, 3 + 12
    op = "aten::_histogramdd_from_bin_tensors"
    found = flop_of(op, (9, 2), [(5,), (4,)], weight=(9,), density=True, out=[(4, 3)])
    assert found == 9 + total + divisions + rows + columns
