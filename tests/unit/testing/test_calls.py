"""Operator calls of a piece of work, without a meter."""

import pytest
import torch

from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.testing.calls import price_rows, record_calls


def test_calls_come_as_a_ledger_keeps_them():
    """Else a formula is tested on other calls than those that it will price."""
    x, w = torch.rand(2, 3), torch.rand(3, 5)
    (row,) = record_calls(lambda: [torch.mm(x, w), torch.mm(x, w)], phase="forward")
    assert row.call == OpCall.of("aten::mm", (2, 3), (3, 5), out=[(2, 5)])
    assert (row.phase, row.calls) == ("forward", 2)


def test_with_a_book_the_integers_that_it_reads_are_kept():
    ends = torch.tensor([2, 5], dtype=torch.int32)
    work = [torch.rand(6, 16), torch.rand(2, 16, 8), ends]
    for book, expected in ((None, None), (FormulaBook.standard(), (2, 5))):
        rows = record_calls(lambda: torch._grouped_mm(*work), book=book)
        (row,) = [row for row in rows if row.call.op == "aten::_grouped_mm"]
        assert row.call.tensor(2).values == expected


def test_what_the_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        record_calls(lambda: 1 / 0)


def test_a_price_is_of_all_calls_or_of_none():
    """Else a test passes although its operator has no formula."""
    x = torch.rand(4)
    book = FormulaBook.standard()
    assert price_rows(record_calls(lambda: x * 2 + x), book).flop == 8
    empty = FormulaBook(entries={}, digest="")
    with pytest.raises(AssertionError, match="aten::mul"):
        price_rows(record_calls(lambda: x * 2), empty)
