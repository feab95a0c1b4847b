"""Account: what the ledgers of one run add up to, from files alone.

Not here: laws (`regimes`), comparison with estimates (`reconciliation`), signatures (`attestation`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flopmeter import wire
from flopmeter.bounds import Share
from flopmeter.coordinates import Coordinates
from flopmeter.estimate.estimate import Estimate
from flopmeter.estimate.six_nd import estimate_six_nd
from flopmeter.ledger.merge import Head, RunLedger, join_heads, read_run
from flopmeter.logical import Logical
from flopmeter.model import Model
from flopmeter.replicas import Contradiction
from flopmeter.sums import Gap, Sums
from flopmeter.tally import Tally
from flopmeter.usage import Usage

__all__ = ["Account", "Gap", "Model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What all ledgers of one run add up to.

    `lower` and `upper` are what `flop` is known to lie between: counted passages at what they cost; the others at
    what they were booked at, but for as many as can be wrong (`bounds.py`) by the `audits` drawn among them, of which
    `misses` did not find what was booked. `upper` is None where nothing bounds it. `unsure` says how much of each
    phase and purpose may not have run, and `unsure_passages` how many may not be what they were booked at. `budgets`
    are what the run was told to count within: `exact` for everything, else the share of time, of each life of its own.

    `logical` is the same with work that several ranks did alike taken once, `coordinates` says where each rank stands,
    and `contradictions` are ranks that must have run the same products and say that they did not. `devices` is what
    each device says it is, by its UUID. `is_live`: the run goes on, and devices are read later than steps are counted.

    Units: `flop`, `int_op`, `lower`, `upper` operations; `steps` optimizer updates of the rank that made most;
    `tokens` and `samples` summed over ranks that have examples of their own; `passages` by basis; `foreign_formulas`
    operator by operator, where theirs is written down; `own_ns` and `metered_ns` nanoseconds summed over ranks.
    """

    run: str
    ranks: int
    steps: int
    tokens: int
    samples: int
    tally: Tally
    usage: Usage
    lower: int
    upper: int | None
    gaps: tuple[Gap, ...]
    model: Model | None
    passages: Mapping[str, int]
    unsure: Mapping[Share, int]
    unsure_passages: int
    audits: int
    misses: int
    own_ns: int
    metered_ns: int
    logical: Logical | None = None
    coordinates: Mapping[int, Coordinates] = field(default_factory=dict)
    contradictions: tuple[Contradiction, ...] = ()
    subjects: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    budgets: tuple[str, ...] = ()
    books: tuple[str, ...] = ()
    foreign_formulas: Mapping[str, str] = field(default_factory=dict)
    self_tests: tuple[bool, ...] = ()
    warned: tuple[tuple[str, int], ...] = ()
    attestations: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    heads: tuple[Head, ...] = ()
    is_live: bool = False

    @classmethod
    def of(cls, run: "Path | str | RunLedger", *, live: bool = False) -> Self:
        """Add up the ledgers of a run directory, or of ledgers already read.

        Every record's cumulative totals are computed again and compared. `live` means that the last segments are
        still being written and the account is as of their last record; else an end without a closing line is a gap.

        Raises:
            LedgerMissingError: no ledger there.
            LedgerUnreadableError: a file or a record is not of a form that this build reads.
            LedgerBrokenError: a chain or a total does not follow.
        """
        ledger = run if isinstance(run, RunLedger) else read_run(run)
        sums = Sums()
        for segment, following in zip(ledger.segments, [*ledger.segments[1:], None], strict=True):
            same_rank = following is not None and following.rank == segment.rank
            sums.add_segment(segment, following if same_rank else None, live=live)
        sums.add_missing_ranks(ledger.segments)
        return cls(**sums.fields(), run=ledger.run, is_live=live, **_circumstances(ledger))

    @property
    def flop(self) -> int:
        """Floating-point operations executed, best figure.

        Units: FLOP.
        Basis: mixed; `tally.by("basis")` splits it.
        Is not: anything uncounted or in a gap; `interval` says how much that may be.
        """
        return self.tally.flop

    @property
    def int_op(self) -> int:
        """Integer operations executed, best figure.

        Units: operations.
        """
        return self.tally.int_op

    @property
    def interval(self) -> tuple[int, int | None]:
        """What `flop` lies between; no upper end when nothing bounds what was not counted.

        Units: FLOP.
        """
        return (self.lower, self.upper)

    @property
    def estimate(self) -> Estimate:
        """6ND from the model and the tokens that the ledger names."""
        return estimate_six_nd(parameters=self.model.parameters if self.model else None, tokens=self.tokens)

    @property
    def head(self) -> str:
        """One digest over the heads of all ledger files."""
        return join_heads(self.heads)

    @property
    def entries(self) -> int:
        """Lines of all ledger files.

        Units: lines.
        """
        return sum(head.entries for head in self.heads)

    @property
    def overhead_fraction(self) -> float | None:
        """Share of the metered time that metering took; None where nothing was metered.

        Basis: its own code as measured, and torch's path to it while counting as estimated from it.
        """
        return self.own_ns / self.metered_ns if self.metered_ns else None


def _circumstances(ledger: RunLedger) -> dict[str, Any]:
    books: Iterable[wire.Wire] = (segment.header.body.get("book") for segment in ledger.segments)
    bodies = [segment.header.body.get("foreign_formulas") or {} for segment in ledger.segments]
    foreign = [wire.parse_object(body, name="foreign formulas") for body in bodies]
    return {
        "ranks": len({segment.rank for segment in ledger.segments}),
        "budgets": tuple(dict.fromkeys(filter(None, (_read_budget(s.header.body) for s in ledger.segments)))),
        "books": tuple(dict.fromkeys(book for book in books if isinstance(book, str))),
        "foreign_formulas": {op: str(name) for found in foreign for op, name in found.items()},
        "started": min(date for segment in ledger.segments for date in (segment.header.at, segment.entries[-1].at)),
        "ended": max(segment.entries[-1].at for segment in ledger.segments),
        "heads": ledger.heads,
    }


def _read_budget(header: Mapping[str, wire.Wire]) -> str:
    if header.get("exact") is True:
        return "exact"
    budget = header.get("overhead_budget")
    return budget if isinstance(budget, str) else ""
