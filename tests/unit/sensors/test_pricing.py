"""Tables are priced once, and there is room for so many."""

import torch

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors import pricing
from flopmeter.sensors.pricing import Pricer
from flopmeter.sensors.torch_ops import OpRecorder
from flopmeter.sensors.torch_phase import PhaseTracker


def failing(error):
    raise error


def calls_of(*sizes: int):
    recorder = OpRecorder(PhaseTracker().now, failing)
    tensors = [torch.ones(size, size) for size in sizes]
    with recorder:
        for x in tensors:
            x @ x
    return recorder.take()


def test_the_same_calls_are_one_table_priced_once(monkeypatch):
    pricer = Pricer(FormulaBook.standard(), failing)
    table = pricer.table(calls_of(2, 3))
    assert table.tally.flop == 2 * (8 + 27)
    monkeypatch.setattr(pricer, "_price", failing)
    assert pricer.table(calls_of(3, 2)) is table


def test_rows_beyond_the_limit_are_counted_and_cannot_be_recounted(monkeypatch):
    monkeypatch.setattr(pricing, "MAX_ROWS", 2)
    table = Pricer(FormulaBook.standard(), failing).table(calls_of(2, 3, 4))
    assert len(table.rows) == 2
    assert table.tally.flop == 2 * (8 + 27 + 64)
    assert 0 < table.beyond.flop < table.tally.flop


def test_room_is_bounded_by_tables_and_by_calls(monkeypatch):
    """A run with ever-changing shapes must not fill the memory of the machine that trains."""
    monkeypatch.setattr(pricing, "MAX_TABLES", 5)
    pricer = Pricer(FormulaBook.standard(), failing)
    tables = [pricer.table(calls_of(size)) for size in range(1, 12)]
    assert list(pricer._by_calls.values()) == tables[-5:]
    monkeypatch.setattr(pricing, "MAX_KEYS", 3)
    pricer.table(calls_of(*range(1, 20)))
    assert len(pricer._by_calls) == 0
    assert pricer._keys == 0


def test_a_formula_that_refuses_is_told_of_and_its_call_is_uncounted():
    def refuse(call):
        raise ValueError(call.op)

    heard = []
    book = FormulaBook.standard().with_formula("aten::mm", refuse, kind="matmul")
    table = Pricer(book, heard.append).table(calls_of(2))
    assert [(type(error), error.where) for error in heard] == [(FormulaError, "aten::mm")]
    assert [seen.op for seen in table.tally.uncounted] == ["aten::mm"]
    assert table.tally.flop == 0
