"""Replicas: ranks that stand at the same place but for the data they train on, and must have run the same products.

Judged is only what cannot differ in a run that is as it says: ranks whose every trained passage ran the same products
on the same shapes, and which say that they took the same steps on as many tokens. Anything else says nothing.
Not here: the files (`sums.py`), what work several ranks do alike (`logical.py`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from flopmeter import wire
from flopmeter.coordinates import Coordinates
from flopmeter.step import Table
from flopmeter.tally import CONTRACTIONS, Tally

Signature: TypeAlias = frozenset[tuple[str, int]]
"""The products of one passage, by operator, phase and shapes, each with the number of its calls."""

TRAINED = frozenset({"forward", "backward", "recompute"})
APART = frozenset({"rl-rollout", "data-generation", "teacher-inference", "evaluation", "experiment"})
"""Purposes of work that one rank may do for all, with gradients or without: it is not held against any."""
ROLES = ("sequence", "expert", "pipeline", "model")
"""Along axes of these, ranks may run something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Two ranks that must have run the same products, and say that they did not.

    Units: `flop` and `other_flop` FLOP of products, of `rank` and `other`.
    """

    rank: int
    other: int
    flop: int
    other_flop: int
    detail: str

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as reports carry them."""
        return {
            "rank": wire.print_count(self.rank),
            "other": wire.print_count(self.other),
            "flop": wire.print_count(self.flop),
            "other_flop": wire.print_count(self.other_flop),
            "detail": self.detail,
        }


@dataclass(slots=True)
class Replica:
    """What one rank says that it did. `is_plain` is False once a product ran that was not counted or replayed."""

    steps: int = 0
    tokens: int = 0
    samples: int = 0
    flop: int = 0
    is_plain: bool = True
    signatures: set[Signature] = field(default_factory=set)

    def add(self, signature: Signature, flop: int, *, times: int, purpose: str, basis: str) -> None:
        """Take passages of one table: the products in it, and their FLOP in one passage."""
        if signature and purpose not in APART:
            self.flop += flop * times
            self.is_plain = self.is_plain and basis in {"counted", "replayed"}
            if len(self.signatures) < 2:
                self.signatures.add(signature)

    def add_loose(self, tally: Tally) -> None:
        """Take work without a table: if there are products of training in it, nothing can be said of their shapes."""
        if any(count.kind in CONTRACTIONS and count.phase in TRAINED for count in tally.counts):
            self.is_plain = False

    def say(self, *, steps: int, tokens: int, samples: int) -> None:
        """Take what the rank says that it trained."""
        self.steps += steps
        self.tokens += tokens
        self.samples += samples

    @property
    def said(self) -> tuple[int, int, int]:
        """What it says of its work without counting: steps, tokens, samples."""
        return (self.steps, self.tokens, self.samples)


def sign(table: Table) -> tuple[Signature, int]:
    """Return the products of a table that were part of training, and their FLOP.

    Units: FLOP.
    """
    counts = [count for count in table.tally.counts if count.kind in CONTRACTIONS and count.phase in TRAINED]
    ops = {count.op for count in counts}
    rows: Counter[str] = Counter()
    for row in table.rows:
        if row.call.op in ops and row.phase in TRAINED:
            rows[f"{row.phase} {wire.encode(row.call.to_wire()).decode()}"] += row.calls
    return frozenset(rows.items()), sum(count.flop for count in counts)


def find_contradictions(
    replicas: Mapping[int, Replica], coordinates: Mapping[int, Coordinates], *, left_out: frozenset[int]
) -> tuple[Contradiction, ...]:
    """Compare ranks that differ along axes of data alone; those in `left_out` have gaps, and are not judged."""
    first: dict[object, int] = {}
    found = []
    for rank in sorted(set(replicas) & set(coordinates) - left_out):
        replica, place = replicas[rank], coordinates[rank]
        if not (replica.is_plain and replica.tokens + replica.samples and len(replica.signatures) == 1):
            continue
        group = (place.place(*ROLES), tuple(sorted((axis.name, axis.size) for axis in place.axes)), replica.said)
        other = first.setdefault(group, rank)
        if other == rank or replicas[other].flop == replica.flop:
            continue
        (ours,), (theirs,) = replica.signatures, replicas[other].signatures
        shapes, others = ({row for row, _ in signature} for signature in (ours, theirs))
        if shapes <= others or others <= shapes:
            along = ", ".join(sorted(place.names("data")))
            detail = (
                f"ranks {other} and {rank} differ in {along} alone and took {replica.steps} steps on as many tokens in"
                " the same shapes"
            )
            flop = replicas[other].flop
            found.append(Contradiction(rank=other, other=rank, flop=flop, other_flop=replica.flop, detail=detail))
    return tuple(found)
