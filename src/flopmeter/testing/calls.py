"""What a piece of work asks torch for: its operator calls, without a meter, a ledger or a clock.

For tests of formulas: run a kernel, see its calls, price them with a book. Not here: metering a run (`meter.py`).
"""

from collections.abc import Callable, Iterable

from flopmeter.formulas.book import FormulaBook
from flopmeter.step import Row
from flopmeter.tally import Tally


def record_calls(
    work: Callable[[], object], *, book: FormulaBook | None = None, phase: str = "other"
) -> tuple[Row, ...]:
    """Run the work once and return its operator calls as a ledger would keep them, all in one phase.

    With a `book`, integers that its formulas read are kept too, and operators that it does not know are looked into.

    Raises:
        AssertionError: a call could not be noted.
    """
    from flopmeter.sensors.shadows import rows_of
    from flopmeter.sensors.torch_ops import OpRecorder

    failures: list[Exception] = []
    recorder = OpRecorder(lambda: phase, failures.append, book)
    with recorder:
        work()
    if failures:
        msg = f"calls that could not be noted: {failures}"
        raise AssertionError(msg)
    return rows_of(recorder.take())


def price_rows(rows: Iterable[Row], book: FormulaBook) -> Tally:
    """Return what recorded calls cost, all of them.

    Units: operations (FLOP, or integer operations apart).

    Raises:
        AssertionError: the book cannot price one of them.
    """
    tally = Tally()
    for row in rows:
        tally += book.count(row.call, calls=row.calls, phase=row.phase)
    if tally.uncounted:
        msg = f"without a price: {', '.join(seen.op for seen in tally.uncounted)}"
        raise AssertionError(msg)
    return tally
