"""Recount: every figure again from the operator tables of a ledger, with this book or another. No torch.

Not here: counting a running program (`sensors`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.errors import LedgerUnreadableError, MalformedError
from flopmeter.formulas.book import FormulaBook
from flopmeter.ledger.chain import Segment
from flopmeter.ledger.merge import RunLedger, read_run
from flopmeter.step import Steps, Table
from flopmeter.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One operator whose recorded and recounted cost differ.

    Units: operations, floating-point and integer together.
    """

    op: str
    recorded: int
    recounted: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as `recount --json` prints them."""
        return {
            "op": self.op,
            "recorded": wire.print_count(self.recorded),
            "recounted": wire.print_count(self.recounted),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    """What a book makes of the calls that a ledger keeps.

    `tally` is the recounted part plus, as recorded, the part whose calls were not kept (`kept_as_recorded`).
    """

    run: str
    book: str
    ledger_books: tuple[str, ...]
    tally: Tally
    recorded: Tally
    kept_as_recorded: Tally
    differences: tuple[Difference, ...]

    @classmethod
    def of(cls, run: "Path | str | RunLedger", book: FormulaBook) -> Self:
        """Price every kept call of a run again.

        Raises:
            LedgerMissingError: no ledger there.
            LedgerUnreadableError: not of a form that this build reads.
            LedgerBrokenError: a chain does not follow, or a record cannot be true: its totals do not follow, or it
                names a table that is not there.
        """
        ledger = run if isinstance(run, RunLedger) else read_run(run)
        Account.of(ledger)  # what nobody could add up is not worth a recount: it raises
        recounted: list[Tally] = []
        recorded: list[Tally] = []
        kept: list[Tally] = []
        for segment in ledger.segments:
            tables, times, loose = _read(segment)
            for (name, purpose, basis), count in sorted(times.items()):
                table = tables[name]
                fresh = _sum(
                    book.count(row.call, calls=row.calls, phase=row.phase)
                    for row in table.rows
                    if not any(book.find(op) for op in row.inside)  # the price of the whole holds its parts
                )
                recounted.append(((fresh + table.beyond) * count).labelled(purpose=purpose, basis=basis))
                recorded.append((table.tally * count).labelled(purpose=purpose, basis=basis))
                kept.append(table.beyond * count)
            kept.extend(loose)
            recounted.extend(loose)
            recorded.extend(loose)
        books = dict.fromkeys(str(segment.header.body.get("book")) for segment in ledger.segments)
        before, after = _sum(recorded), _sum(recounted)
        return cls(
            run=ledger.run,
            book=book.digest,
            ledger_books=tuple(books),
            tally=after,
            recorded=before,
            kept_as_recorded=_sum(kept),
            differences=_compare(before, after),
        )

    @property
    def is_same_book(self) -> bool:
        """Say whether this is the one book that the ledger was written with."""
        return self.ledger_books == (self.book,)

    @property
    def share(self) -> float | None:
        """Share of the recorded operations whose calls were kept and priced again; None where none were recorded."""
        total = self.recorded.flop + self.recorded.int_op
        return 1 - (self.kept_as_recorded.flop + self.kept_as_recorded.int_op) / total if total else None


def _read(segment: Segment) -> tuple[dict[str, Table], Counter[tuple[str, str, str]], list[Tally]]:
    tables: dict[str, Table] = {}
    times: Counter[tuple[str, str, str]] = Counter()
    loose: list[Tally] = []
    for entry in segment.entries:
        where = f"{segment.path}:{entry.seq + 1}"
        try:
            if entry.kind == "table":
                table = Table.from_wire(entry.body)
                tables[table.name] = table
            elif entry.kind == "steps":
                for ran in Steps.from_wire(entry.body).ran:
                    if ran.table is not None:
                        times[ran.table, ran.purpose, ran.basis] += ran.times
                    elif ran.tally is not None:
                        loose.append(ran.tally.labelled(purpose=ran.purpose, basis=ran.basis))
        except MalformedError as error:
            raise LedgerUnreadableError(error.what, where=where) from error
    return tables, times, loose


def _sum(tallies: Iterable[Tally]) -> Tally:
    listed = list(tallies)
    return Tally.of(
        (count for tally in listed for count in tally.counts), (seen for tally in listed for seen in tally.uncounted)
    )


def _compare(before: Tally, after: Tally) -> tuple[Difference, ...]:
    old = {op: tally.flop + tally.int_op for op, tally in before.by("op").items()}
    new = {op: tally.flop + tally.int_op for op, tally in after.by("op").items()}
    return tuple(
        Difference(op=op, recorded=old.get(op, 0), recounted=new.get(op, 0))
        for op in sorted({*old, *new})
        if old.get(op, 0) != new.get(op, 0)
    )
