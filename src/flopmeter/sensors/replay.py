"""Count a passage once, replay it while it stays the same: which passages to count, and what a replayed one was.

Pure bookkeeping over situations, witnesses and table names; no torch, so that a test can drive it by hand.
A passage is counted until a second count agrees with the first, then replayed. A replayed passage whose witness was
never seen with a count is not that passage: its figure is a guess, and the next ones like it are counted.
Not here: audits and sampling, which a later version brings; until then n = 0 and the interval says so.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

MAX_PLACES = 4096
FIRST_COUNTS = 2
COUNTS_AFTER_A_MISS = 8


@dataclass(slots=True)
class _Place:
    """What is known of one situation at one place in a step."""

    owed: int = FIRST_COUNTS
    variants: dict[Hashable, str] = field(default_factory=dict)
    confirmed: set[Hashable] = field(default_factory=set)
    is_ambiguous: bool = False
    last: str | None = None


class ReplayPlan:
    """Decides at a passage's start, and names its table at its end.

    `place` is which passage of its step one is: the last micro-batch of several runs into the optimizer, the others
    do not.
    """

    def __init__(self, *, exact: bool = False) -> None:
        """Start with nothing known; `exact` counts everything."""
        self._exact = exact
        self._places: OrderedDict[tuple[Hashable, int], _Place] = OrderedDict()
        self._variants: OrderedDict[tuple[Hashable, Hashable], set[str]] = OrderedDict()

    def is_to_be_counted(self, situation: Hashable, place: int) -> bool:
        """Say whether the passage that starts now has to be counted."""
        known = self._places.get((situation, place))
        if self._exact or known is None or known.is_ambiguous or known.owed > 0:
            return True
        self._places.move_to_end((situation, place))
        return False

    def learn(self, situation: Hashable, place: int, witness: Hashable, table: str) -> None:
        """Take in a passage that was counted."""
        known = self._places.setdefault((situation, place), _Place())
        if known.variants.get(witness) == table:
            known.confirmed.add(witness)
            known.owed -= 1
        else:
            # Before it is confirmed a change is a warm-up (a cache filled once); afterwards no witness can be trusted.
            known.is_ambiguous |= witness in known.confirmed
            known.variants[witness] = table
            known.owed = max(known.owed - 1, 1)
        known.last = table
        self._variants.setdefault((situation, witness), set()).add(table)
        _trim(self._places)
        _trim(self._variants)

    def find(self, situation: Hashable, place: int, witness: Hashable) -> tuple[str | None, bool]:
        """Return the table of a passage that was not counted, and whether its witness vouches for it.

        Another place of the same situation may vouch too, if all of them agree (a last, shorter accumulation). A
        witness never seen makes the next passages be counted; the best guess is then the last table.
        """
        known = self._places.get((situation, place))
        if known is None:
            return (None, False)
        table = known.variants.get(witness)
        if table is not None and witness in known.confirmed:
            return (table, True)
        elsewhere = self._variants.get((situation, witness), set())
        if len(elsewhere) == 1:
            return (next(iter(elsewhere)), True)
        known.owed = COUNTS_AFTER_A_MISS
        return (known.last, False)

    def forget(self, situation: Hashable, place: int) -> None:
        """Count this passage afresh: what was known of it is no longer kept elsewhere."""
        self._places.pop((situation, place), None)


def _trim(mapping: "OrderedDict[Any, Any]") -> None:
    while len(mapping) > MAX_PLACES:
        mapping.popitem(last=False)
