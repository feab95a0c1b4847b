"""Ledgers written by hand, through the same files as a metered run but without torch, clocks or devices.

Not here: how a run is metered (`meter.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from flopmeter import wire
from flopmeter.formulas.call import OpCall
from flopmeter.ledger.entry import Entry
from flopmeter.ledger.file import LedgerFile
from flopmeter.step import Chance, Ran, Row, Steps, Table, Totals
from flopmeter.tally import OpCount, Tally, Uncounted
from flopmeter.usage import Usage

STEP_NS = 1_000_000
CEILING_FLOP_PER_S = 10**12
BOOK = wire.digest(b"a made-up book")


def product_table(
    m: int = 2, k: int = 3, n: int = 5, *, phase: str = "forward", dtype: str = "fp32", unknown: int = 0
) -> Table:
    """Return the table of one matrix product of 2·M·N·K operations, and of `unknown` calls without a formula."""
    call = OpCall.of("aten::mm", (m, k), (k, n), dtype=dtype, out=[(m, n)])
    rows = [Row(call=call, phase=phase, calls=1)]
    seen = []
    if unknown:
        strange = OpCall.of("mylib::attn", (m, k), out=[(m, k)])
        rows.append(Row(call=strange, phase=phase, calls=unknown))
        seen.append(Uncounted(op=strange.op, calls=unknown, elements=unknown * m * k))
    count = OpCount(op=call.op, kind="matmul", phase=phase, precision=dtype, calls=1, flop=2 * m * k * n)
    return Table(tuple(rows), Tally.of([count], seen))


class ScriptedClock:
    """Dates that go on by one second each time they are asked for."""

    def __init__(self, start: str = "2026-01-01T00:00:00+00:00") -> None:
        """Begin at a date."""
        self._now = datetime.fromisoformat(start)

    def __call__(self) -> str:
        """Return the next date, in the form that ledgers keep."""
        self._now += timedelta(seconds=1)
        return self._now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ScriptedSegment:
    """One life of one process, written by hand: say what ran, and it keeps the totals."""

    def __init__(
        self,
        run_dir: Path | str,
        *,
        rank: int = 0,
        clock: ScriptedClock | None = None,
        ceiling_flop_per_s: int | None = CEILING_FLOP_PER_S,
        header: Mapping[str, wire.Wire] | None = None,
    ) -> None:
        """Open a new segment, as a meter that starts or starts again."""
        self.file = LedgerFile(
            run_dir, rank=rank, header=header or {"book": BOOK, "convention": "fm-1"}, now=clock or ScriptedClock()
        )
        self._ceiling = ceiling_flop_per_s
        self._tables: dict[str, Table] = {}
        self._total = Totals()
        self._ns = 0

    def __enter__(self) -> Self:
        """Return this segment, open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file, without a closing line: `end` writes one."""
        self.file.sync()
        self.file.close()

    def note(self, kind: str, body: Mapping[str, wire.Wire]) -> Entry:
        """Append a line of any kind."""
        return self.file.append(kind, body)

    def run(
        self,
        *tables: Table,
        times: int = 1,
        purpose: str = "undeclared",
        basis: str = "counted",
        tokens: int = 8,
        loose: Tally | None = None,
        chance: Chance | None = None,
        audits: int = 0,
        misses: int = 0,
        usage: Usage | None = None,
    ) -> None:
        """Append one record of one step in which each table ran so often; new tables are written before it.

        `loose` is the tally of one more passage, which has no table.
        """
        for table in tables:
            if table.name not in self._tables:
                self._tables[table.name] = table
                self.note("table", table.to_wire())
        names = sorted({table.name for table in tables})
        ran = [
            Ran(table=name, purpose=purpose, basis=basis, times=times, ns=times * STEP_NS, chance=chance)
            for name in names
        ]
        if loose is not None:
            ran.append(
                Ran(
                    tally=loose,
                    purpose=purpose,
                    basis=basis,
                    times=1,
                    ns=STEP_NS,
                    most_flop=loose.flop,
                    chance=chance,
                )
            )
        self.record(ran, tokens=tokens, audits=audits, misses=misses, usage=usage)

    def record(
        self,
        ran: Sequence[Ran],
        *,
        tokens: int = 8,
        audits: int = 0,
        misses: int = 0,
        usage: Usage | None = None,
    ) -> None:
        """Append one record of one step in which this ran, whether it can be true or not."""
        first = self._total.steps
        self._total += Totals(tokens=tokens, steps=1)
        for item in ran:
            if item.tally is not None:
                self._total += Totals.of(item.tally)
            elif item.table in self._tables:
                self._total += Totals.of(self._tables[item.table].tally) * item.times
        started, self._ns = self._ns, self._ns + sum(item.ns for item in ran)
        steps = Steps(
            first=first,
            count=1,
            tokens=tokens,
            samples=1,
            started_ns=started,
            ended_ns=self._ns,
            own_ns=0,
            ran=tuple(ran),
            usage=usage or Usage(),
            ceiling_flop_per_s=self._ceiling,
            total=self._total,
            audits=audits,
            misses=misses,
        )
        self.note("steps", steps.to_wire())

    def keep(self, *files: Path | str) -> None:
        """Append a checkpoint: these weight files were made here."""
        named = [{"name": Path(file).name, "sha256": wire.digest(Path(file).read_bytes())} for file in files]
        self.note("checkpoint", {"files": named})

    def end(self) -> None:
        """Append the closing line."""
        self.note("close", {"reason": "end"})


def recorded_ledger(
    run_dir: Path | str, *, ranks: int = 1, lives: int = 1, weights: Sequence[Path | str] = (), is_closed: bool = True
) -> Path:
    """Write the ledger of a small run, and return its directory.

    Each rank lives `lives` times; every life runs two steps of two passages with an evaluation between them. All
    but the last life are killed; the last is closed unless `is_closed` says otherwise. Rank 0 keeps the weights.
    """
    clock = ScriptedClock()
    forward, backward = product_table(), product_table(2, 5, 3, phase="backward", dtype="bf16")
    evaluation = product_table(1, 3, 5, phase="inference")
    for rank in range(ranks):
        for life in range(lives):
            with ScriptedSegment(run_dir, rank=rank, clock=clock) as segment:
                segment.note("self-test", {"passed": True, "torch": "none", "answers": []})
                segment.note("model", {"parameters": "100", "trainable": "90", "embedding": "10"})
                segment.run(forward, backward, times=2, purpose="pretraining")
                segment.run(evaluation, purpose="evaluation", tokens=0)
                segment.run(forward, backward, times=3, purpose="pretraining", basis="replayed")
                if life == lives - 1:
                    if weights and rank == 0:
                        segment.keep(*weights)
                    if is_closed:
                        segment.end()
    return Path(run_dir)
