"""Trail: the passages of the step that runs, for as long as each of them is known; two steps alike make a lap.

Not here: what a lap does (`lap.py`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from flopmeter.sensors.draws import Draws
from flopmeter.sensors.lap import Lap, Leg
from flopmeter.sensors.replay import Choice, Place
from flopmeter.sensors.situation import Situation, WatchedModel, WatchedOptimizer
from flopmeter.sensors.variant import Variant

BETWEEN = "between"
MAX_LEGS = 256
"""A step of more passages than this is never expected to go on as the last one did."""


@dataclass(slots=True)
class Passage:
    """The passage that is running, the `turn`th of its step. Of one that is known and not counted, `place` says what.

    `alone` is what its own forward was given, without the graphs that were open then.
    """

    situation: Situation
    given: Any
    at: int
    is_trusted: bool
    place: Place | None
    choice: Choice | None
    owner: WatchedModel | WatchedOptimizer | None
    turn: int
    marks: tuple[int, ...]
    reached: tuple[int, ...]
    nodes: int
    started_ns: int
    alone: Any
    inner: int = 0
    failed: str = ""

    @classmethod
    def of(cls, lap: Lap) -> "Passage":
        """Return the passage that runs in a lap, as it is without one."""
        leg = lap.leg
        started_ns, nodes, reached, marks = lap.opened
        return cls(
            leg.situation,
            leg.given,
            leg.at,
            leg.is_trusted,
            leg.place,
            None,
            leg.owner,
            leg.turn,
            marks,
            reached,
            nodes,
            started_ns,
            leg.given,
        )


class Graph(NamedTuple):
    """A forward that ended before any gradient reached its model."""

    model: WatchedModel | WatchedOptimizer
    reached: tuple[int, ...]
    passage: Passage
    nodes: int


class Trail:
    """What ran since the step began, and what the step before was made of."""

    def __init__(self) -> None:
        """Start in the middle of a step."""
        self._legs: list[Leg] | None = None
        self._before: list[Leg] = []

    def leave(self) -> None:
        """Follow this step no longer."""
        self._legs = None

    def begin_step(self, lap: Lap | None, draws: Draws) -> Lap | None:
        """Follow a new step; return a lap where there is none and the last two steps were alike."""
        legs, self._legs = self._legs, []
        if lap is None and legs:
            if Lap.can_be(legs, self._before):
                lap = Lap(legs, draws)
            self._before = legs
        return lap

    def add(
        self,
        passage: Passage,
        variant: Variant,
        seen: tuple[Any, ...],
        marks: tuple[int, ...],
        *,
        has_graphs: bool,
    ) -> None:
        """Note a passage that was told and not counted; where it depends on what is not seen here, leave the step."""
        legs, situation, place = self._legs, passage.situation, passage.place
        if legs is None or place is None:
            return
        nodes, reached, _, inner = seen
        is_odd = inner or has_graphs or passage.given is None or (marks and marks != variant.marks)
        if is_odd or len(legs) >= MAX_LEGS:
            self._legs = None
            return
        legs.append(
            Leg(
                situation[1] if situation[0] == BETWEEN else situation[0],
                passage.owner,
                situation,
                passage.given,
                passage.at,
                passage.turn,
                is_trusted=passage.is_trusted,
                place=place,
                variant=variant,
                nodes=nodes,
                reached=reached,
                has_marks=bool(marks),
            )
        )
