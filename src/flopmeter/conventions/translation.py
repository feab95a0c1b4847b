"""Translation: what another tool would print of a run, and the bridge that leads there from what we counted.

Not here: what each tool counts (`per_token.py`, `flop_counter.py`, `utilisation.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.devices.table import PeakTable
from flopmeter.ledger.merge import RunLedger
from flopmeter.tally import CONTRACTIONS, OpCount

REASONS = {
    "evaluation": "evaluation and inference",
    "outside": "outside of forward and backward",
    "recompute": "recomputation",
    "optimizer": "optimizer",
    "elementwise": "norms, softmax, activations, sums, scatter",
    "attention": "attention products",
    "weights": "weight products",
}
"""What every counted operation of a run is sorted into; the first that fits has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a translation is made from: ledgers, what they add up to, and the sizes that a configuration names.

    `is_told` says that the configuration was brought by the reader, and is not the watched module's own.

    `table` has the peaks of devices; None for that which comes with flopmeter.

    Units: `sequence` is the length of a sequence in tokens, None where nobody said it.
    """

    account: Account
    ledger: RunLedger
    config: Mapping[str, str]
    sequence: int | None = None
    is_told: bool = False
    table: PeakTable | None = None

    @classmethod
    def of(
        cls,
        account: Account,
        ledger: RunLedger,
        *,
        config: Mapping[str, str] | None = None,
        sequence: int | None = None,
        table: PeakTable | None = None,
    ) -> "Given":
        """Take a configuration as it is given, else as the watched module had it, and a length that all samples had."""
        recorded = account.model.config if account.model else {}
        tokens, samples = account.tokens, account.samples
        if sequence is None and samples and tokens % samples == 0:
            sequence = tokens // samples or None
        known, is_told = (recorded, False) if config is None else (config, True)
        return cls(account=account, ledger=ledger, config=known, sequence=sequence, is_told=is_told, table=table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One step of a bridge: what the other tool leaves out (below zero) or adds, and why.

    Units: FLOP.
    """

    term: str
    flop: int
    why: str = ""

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the line as reports carry it; the sign stands before the digits."""
        return {"term": self.term, "flop": str(self.flop), "why": self.why}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Another tool: its name with us, which of its figures is meant, and where its rule was read."""

    name: str
    figure: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A run as another tool would print it.

    `flop` is its figure; None where it cannot be told, and `missing` then says what is missing and how to give it.
    The lines of `bridge` add up to `flop` minus `ours`, exactly. `inputs` are what the figure was made of. `fraction`
    is what a utilisation comes to, None for other conventions. `besides` are further figures that the tool prints, by
    its own names, in words where they are unknown.

    Units: FLOP; `ours` is what this account says by convention fm-1.
    """

    tool: Tool
    ours: int
    flop: int | None
    bridge: tuple[Line, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    fraction: float | None = None
    besides: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a bridge that leads elsewhere, and a figure that is unknown without a reason."""
        if self.flop is None:
            if not self.missing:
                raise ValueError("a figure is unknown, and nothing is missing")
        elif self.ours + sum(line.flop for line in self.bridge) != self.flop:
            msg = f"the bridge from {self.ours} does not lead to {self.flop}"
            raise ValueError(msg)

    @classmethod
    def unknown(cls, tool: Tool, account: Account, missing: Iterable[str]) -> "Translation":
        """Return the answer that it cannot be told, and why."""
        return cls(tool=tool, ours=account.flop, flop=None, missing=tuple(missing), notes=describe_doubts(account))

    def to_wire(self) -> dict[str, object]:
        """Return the fields of `flopmeter report --as NAME --json`."""
        return {
            "as": self.tool.name,
            "figure": self.tool.figure,
            "source": self.tool.source,
            "flop": wire.print_known(self.flop),
            "fraction": self.fraction,
            "ours": wire.print_count(self.ours),
            "bridge": [line.to_wire() for line in self.bridge],
            "inputs": dict(self.inputs),
            "besides": dict(self.besides),
            "missing": list(self.missing),
            "notes": list(self.notes),
        }


def sort_out(account: Account) -> dict[str, int]:
    """Sort every counted operation into one of `REASONS`.

    Units: FLOP; they add up to `account.flop`.
    """
    sums = dict.fromkeys(REASONS, 0)
    for count in account.tally.counts:
        sums[reason_of(count)] += count.flop
    return sums


def reason_of(count: OpCount) -> str:
    """Return what a count is sorted into; work declared as evaluation is that, whatever its phase."""
    if count.phase == "inference" or count.purpose == "evaluation":
        return "evaluation"
    if count.phase in ("recompute", "optimizer"):
        return count.phase
    if count.phase == "other":
        return "outside"
    if count.kind == "attention":
        return "attention"
    return "weights" if count.kind in CONTRACTIONS else "elementwise"


def leave_out(sums: Mapping[str, int], reasons: Iterable[str], *, why: str) -> tuple[Line, ...]:
    """Return the lines that take these reasons out of our figure; what is zero needs none."""
    return tuple(Line(term=REASONS[reason], flop=-sums[reason], why=why) for reason in reasons if sums[reason])


def describe_doubts(account: Account) -> tuple[str, ...]:
    """Say what our own figure lacks, because the bridge begins there."""
    notes = []
    if account.lower != account.upper:
        upper = "nothing bounds it above" if account.upper is None else f"at most {account.upper:,} FLOP"
        notes.append(f"our own figure is a best one: at least {account.lower:,} FLOP, {upper}")
    if account.tally.uncounted:
        names = ", ".join(seen.op for seen in account.tally.uncounted[:3])
        notes.append(f"operators without a formula of ours are in no line: {names}")
    if account.gaps:
        notes.append(f"what fell into gaps is in no line: {len(account.gaps)} of them")
    return tuple(notes)
