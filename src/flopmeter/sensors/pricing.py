"""Noted operator calls become a table, priced once and kept while there is room.

Not here: what is noted (`torch_ops.py`), formulas (`formulas`), which passage a table belongs to (`passage.py`).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall
from flopmeter.repeat import Repeat
from flopmeter.sensors.regions import open_regions
from flopmeter.sensors.shadows import Key, describe, rows_of
from flopmeter.step import Row, Table
from flopmeter.tally import Tally

MAX_ROWS = 4096
MAX_TABLES = 1024
MAX_KEYS = 50_000
"""Room for the signatures by which tables are recognised, in operator calls of all of them together."""


class Pricer:
    """Makes tables by one book; a passage that ran the same calls before gets the same table without being priced.

    `on_refusal` hears of formulas that refused a call; the call itself is listed as uncounted.
    """

    def __init__(self, book: FormulaBook, on_refusal: Callable[[FormulaError], None]) -> None:
        """Start with no table."""
        self._book = book
        self._on_refusal = on_refusal
        self._by_calls: OrderedDict[frozenset[tuple[Key, int]], Table] = OrderedDict()
        self._keys = 0

    def table(self, calls: Mapping[Key, int]) -> Table:
        """Return the table of these calls."""
        signature = frozenset(calls.items())
        known = self._by_calls.get(signature)
        if known is not None:
            return known
        calls = open_regions(calls)
        rows = rows_of(calls)
        kept, beyond = rows[:MAX_ROWS], rows[MAX_ROWS:]
        rest = self._price(beyond)
        repeated = repeats_of(calls, lambda call, phase, times: self._book.count(call, calls=times, phase=phase))
        table = Table(kept, self._price(kept) + rest, rest, repeated)
        self._report_refusals(table, rows)
        if table.holds_once:
            return table  # never asked for again
        self._by_calls[signature] = table
        self._keys += len(signature)
        while self._by_calls and (len(self._by_calls) > MAX_TABLES or self._keys > MAX_KEYS):
            self._keys -= len(self._by_calls.popitem(last=False)[0])
        return table

    def _price(self, rows: tuple[Row, ...]) -> Tally:
        tallies = [self._book.count(row.call, calls=row.calls, phase=row.phase) for row in rows]
        return Tally.of(
            (count for tally in tallies for count in tally.counts),
            (seen for tally in tallies for seen in tally.uncounted),
        )

    def _report_refusals(self, table: Table, rows: tuple[Row, ...]) -> None:
        unknown: set[Any] = {seen.op for seen in table.tally.uncounted}
        for row in rows:
            if row.call.op in unknown:
                try:
                    self._book.cost(row.call)
                except FormulaError as error:
                    self._on_refusal(error)


def repeats_of(calls: Mapping[Key, int], price: Callable[[OpCall, str, int], Tally]) -> tuple[Repeat, ...]:
    """Return what of these calls other ranks do as well, or may; `price` is asked what a call cost in a phase."""
    summed: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Tally]] = {}
    for key, times in calls.items():
        for over, unsure, items in key[7] if len(key) > 7 else ():
            call = describe(key)
            part = price(restrict(call, items) if items else call, key[1], times)
            summed.setdefault((over, unsure), []).append(Tally(part.counts))
    return tuple(
        Repeat(over=over, unsure=unsure, tally=tally)
        for (over, unsure), tallies in sorted(summed.items())
        if (tally := Tally.of(count for one in tallies for count in one.counts)).flop + tally.int_op
    )


def restrict(call: OpCall, items: Sequence[int]) -> OpCall:
    """Return the call that an operator on lists would have been with these items alone."""
    lengths = [len(arg) for arg in call.args if isinstance(arg, tuple)]
    if not lengths:
        return call

    def pick(value: Any) -> Any:
        return (
            tuple(value[index] for index in items) if isinstance(value, tuple) and len(value) == lengths[0] else value
        )

    return replace(
        call,
        args=tuple(pick(arg) for arg in call.args),
        options=tuple((name, pick(value)) for name, value in call.options),
        out=pick(call.out),
    )
