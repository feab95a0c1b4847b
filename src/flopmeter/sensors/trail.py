"""Trail: the passages of the step that runs, for as long as each of them is known; two steps alike make a lap.

Also which forwards of it wait for their backward. Not here: what a lap does (`lap.py`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from flopmeter.sensors.draws import Draws
from flopmeter.sensors.kinship import Kinship
from flopmeter.sensors.lap import Lap, Leg
from flopmeter.sensors.place import Choice, Place
from flopmeter.sensors.situation import Situation, WatchedModel, WatchedOptimizer, Witness
from flopmeter.sensors.variant import Variant

BETWEEN = "between"
MAX_GRAPHS = 8
MAX_LEGS = 256
"""A step of more passages than this is never expected to go on as the last one did."""
PATIENCE, FOLLOWED, FOLLOWED_IN = 64, 3, 32
"""After `PATIENCE` steps without a lap, the first `FOLLOWED` of each `FOLLOWED_IN` are followed: it costs something."""


@dataclass(slots=True)
class Passage:
    """The passage that is running, the `turn`th of its step. Of one that is known and not counted, `place` says what.

    `alone` is what its own forward was given, without the graphs that were open then; where it `is_forced`, nothing
    was chosen: whether it is counted followed from what ran before.
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
    is_forced: bool = False

    @property
    def decided(self) -> Choice:
        """What was decided of it; one whose place is known is not counted."""
        return self.choice or Choice(
            self.situation, self.given, self.at, self.is_trusted, is_counted=False, place=self.place
        )

    @classmethod
    def of(cls, lap: Lap) -> "Passage":
        """Return the passage that runs in a lap, as it is without one."""
        leg = lap.leg
        started_ns, nodes, reached, marks = lap.opened
        place, choice = (leg.known, None) if isinstance(leg.known, Place) else (None, leg.choice(lap.sizes))
        given = leg.glance.given if leg.has_free_sizes else leg.given
        return cls(
            leg.situation,
            given,
            leg.at,
            leg.is_trusted,
            place,
            choice,
            leg.owner,
            leg.turn,
            marks,
            reached,
            nodes,
            started_ns,
            given,
            is_forced=leg.is_forced,
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """A passage that was counted."""

    choice: Choice
    witness: Witness
    marks: tuple[int, ...]
    ns: int
    seen: int
    is_fixed: bool


class Graph(NamedTuple):
    """A forward that ended before any gradient reached its model."""

    model: WatchedModel | WatchedOptimizer
    reached: tuple[int, ...]
    passage: Passage
    nodes: int


class Graphs:
    """The forwards whose backward is still to come; it runs in a later passage."""

    def __init__(self) -> None:
        """Start with none."""
        self.open: list[Graph] = []

    def add(self, passage: Passage, owner: WatchedModel | WatchedOptimizer, nodes: int) -> None:
        """Take a forward that made so many nodes, and that no gradient went back through."""
        self.open = [*self.open[1 - MAX_GRAPHS :], Graph(owner, tuple(owner.reached), passage, nodes)]

    def close(self) -> None:
        """Forget the graphs that no backward has gone through: an optimizer has stepped, or a step has ended."""
        if self.open:
            self.open = []

    def read(self) -> tuple[Any, ...]:
        """Return what tells of those that are open: their backward will run in the passage that begins now."""
        self.open = [graph for graph in self.open if tuple(graph.model.reached) == graph.reached]
        return tuple([(graph.passage.situation, graph.passage.alone, graph.nodes) for graph in self.open])


class Trail:
    """What ran since the step began, and what the last one was made of that was followed to its end."""

    def __init__(self) -> None:
        """Start in the middle of a step."""
        self._legs: list[Leg] | None = None
        self._before: list[Leg] = []
        self._in_vain = 0  # steps since there was a lap

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
        self._in_vain = self._in_vain + 1 if lap is None else 0
        if self._in_vain > PATIENCE and self._in_vain % FOLLOWED_IN >= FOLLOWED:
            self._legs = None
        return lap

    @property
    def is_followed(self) -> bool:
        """Whether the step that runs may go on as another one did."""
        return self._legs is not None

    def add(
        self,
        passage: Passage,
        known: Place | Kinship,
        variant: Variant | None,
        seen: tuple[Any, ...],
        marks: tuple[int, ...],
        *,
        has_graphs: bool,
    ) -> None:
        """Note a passage that was told and not counted; where it depends on what is not seen here, leave the step."""
        legs, situation = self._legs, passage.situation
        if legs is None:
            return
        nodes, reached, _, inner = seen
        is_odd = inner or has_graphs or passage.given is None
        is_odd = is_odd or (marks and variant is not None and marks != variant.marks)
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
                known=known,
                is_forced=passage.is_forced,
                variant=variant,
                nodes=nodes,
                reached=reached,
                has_marks=bool(marks),
            )
        )
