"""Recount: figures again from calls, with this book or another."""

from pathlib import Path

import pytest

from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.recount import Recount
from flopmeter.step import Row, Table, Totals
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import ScriptedSegment, product_table, recorded_ledger


def test_the_standard_book_gives_what_was_recorded(tmp_path: Path) -> None:
    """If this failed, nobody but us could arrive at our figures."""
    recount = Recount.of(recorded_ledger(tmp_path, ranks=2, lives=2), FormulaBook.standard())
    assert recount.differences == ()
    assert recount.tally.flop == recount.recorded.flop > 0
    assert recount.tally.by("purpose").keys() == recount.recorded.by("purpose").keys()
    assert recount.share == 1.0


def test_another_book_gives_another_figure_and_says_where(tmp_path: Path) -> None:
    """If this failed, an auditor's own convention could not be applied."""
    book = FormulaBook.standard().with_formula("aten::mm", lambda _call: 1, kind="matmul")
    recount = Recount.of(recorded_ledger(tmp_path), book)
    assert not recount.is_same_book
    (difference,) = recount.differences
    assert (difference.op, difference.recounted) == ("aten::mm", recount.recorded.calls)
    assert difference.recorded == recount.recorded.flop


def test_work_whose_calls_were_not_kept_lowers_the_share(tmp_path: Path) -> None:
    """If this failed, a recount would vouch for what it cannot see."""
    loose = Tally((OpCount(op="aten::mm", kind="matmul", phase="forward", precision="fp32", calls=1, flop=60),))
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(), times=3, loose=loose)
        segment.end()
    recount = Recount.of(tmp_path, FormulaBook.standard())
    assert recount.recorded.flop == recount.tally.flop == 240
    assert recount.share == 0.75


def test_an_empty_run_has_no_share(tmp_path: Path) -> None:
    """If this failed, nothing at all would be reported as fully recounted."""
    with ScriptedSegment(tmp_path) as segment:
        segment.end()
    assert Recount.of(tmp_path, FormulaBook.standard()).share is None


def test_an_operator_that_lost_its_formula_is_uncounted_again(tmp_path: Path) -> None:
    """If this failed, a smaller book would make work vanish."""
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(unknown=4), times=2)
        segment.end()
    (seen,) = Recount.of(tmp_path, FormulaBook.standard()).tally.uncounted
    assert (seen.op, seen.calls) == ("mylib::attn", 8)


def test_a_record_that_is_none_is_unreadable(tmp_path: Path) -> None:
    """If this failed, a mangled ledger would end in a traceback."""
    with ScriptedSegment(tmp_path) as segment:
        segment.note("steps", {"first": "0"})
        segment.end()
    with pytest.raises(LedgerUnreadableError):
        Recount.of(tmp_path, FormulaBook.standard())


def test_a_ledger_whose_totals_do_not_follow_from_its_records_is_refused(tmp_path: Path) -> None:
    """If this failed, a forger who seals a ledger anew would be told that every figure is right."""
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(), times=3)
        segment._total += Totals(tokens=5)
        segment.run(product_table(), times=3)
        segment.end()
    with pytest.raises(LedgerBrokenError):
        Recount.of(tmp_path, FormulaBook.standard())


def test_a_formula_for_the_whole_takes_the_place_of_its_parts(tmp_path: Path) -> None:
    """If this failed, an operator that was priced later would be counted twice: itself, and what it called."""
    rows = (
        Row(call=OpCall.of("mylib::mix", (2, 3), (3, 5), out=[(2, 5)]), phase="forward", calls=1),
        Row(call=OpCall.of("aten::mm", (2, 3), (3, 5)), phase="forward", calls=1, inside=("mylib::mix",)),
        Row(call=OpCall.of("aten::mm", (2, 3), (3, 5)), phase="forward", calls=1),
    )
    book = FormulaBook.standard()
    tallies = [book.count(row.call, calls=1, phase="forward") for row in rows]
    tally = Tally.of([c for t in tallies for c in t.counts], [u for t in tallies for u in t.uncounted])
    with ScriptedSegment(tmp_path) as segment:
        segment.run(Table(rows, tally))
        segment.end()
    assert Recount.of(tmp_path, book).tally.flop == 120
    larger = book.with_formula("mylib::mix", lambda _: 60, kind="matmul")
    recount = Recount.of(tmp_path, larger)
    assert recount.tally.flop == 120
    assert recount.tally.uncounted == ()
