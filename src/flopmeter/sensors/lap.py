"""Lap: the passages of a step that goes on as the last one did, told at a glance.

A training loop repeats itself: the same model with inputs of the same shape, then the same optimizer. To find out
anew what each passage is takes longer than a launch-bound program can spare: after a step nothing of ours is in the
processor's caches, and each function of torch's that is asked takes a microsecond. So what two steps had in common is
expected of the third. A boundary holds against that only what tells whether the passage that begins is the expected
one, and writes the witness of the one that ends on a tape; a while later all witnesses are looked at together. Where
anything is not as expected the lap is left, and all goes on as without it.
Not here: what tells passages apart (`situation.py`), when a lap begins and what becomes of it (`bookkeeper.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from flopmeter.sensors.allocator import device_marks, marks_between
from flopmeter.sensors.draws import Draws
from flopmeter.sensors.kinship import ONE_IN_UNAFFORDABLE, Kinship, Waiting
from flopmeter.sensors.launches import launched
from flopmeter.sensors.place import Choice, Place
from flopmeter.sensors.situation import Situation, WatchedModel, WatchedOptimizer, sequence_nr
from flopmeter.sensors.variant import Variant

FORWARD, FORWARD_END, OPTIMIZER, OPTIMIZER_END = "forward", "forward-end", "optimizer", "optimizer-end"
LOOK_EVERY_NS = 500_000_000
"""How long a model or an optimizer is not looked at while a lap goes on."""
SCANNED = 64
"""For so many steps at once it is found out which of them hold a passage that is drawn."""
MAX_COVERED = 1024
TAPED = 16
"""So many steps are on the tape before it is looked at."""
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001
_WIDTH = 4  # of a note on the tape: when, nodes so far, gradients that reached either end so far


class Leg:
    """One passage of a lap: what it is expected to be, and how often it was.

    `kind` names the boundary that opens it, `turn` says which passage of its step it is, from 1. What is `known` of it
    is its place or, where sizes tell it from others of its program, its kinship; a forward of the latter has free
    sizes. Its cost is free where values decide it, or where counts are owed that the budget refuses. It is forced if
    nobody chose whether it is counted (`Passage`); quiet if the ends of its model's forwards change nothing; soft if
    its own end needs no witness. Until `due_ns` a `glance` tells it.
    Units: nanoseconds; `usual_ns` is the mean duration.
    """

    __slots__ = (
        *("at", "covered", "due_ns", "following", "given", "glance", "has_free_sizes", "has_marks", "is_forced"),
        *("has_free_cost", "is_quiet", "is_region", "is_soft", "is_trusted", "kin", "kind", "known", "longest_ns"),
        *("nodes", "ns", "owner", "reached", "situation", "times", "turn", "usual_ns", "variant"),
    )

    def __init__(  # noqa: PLR0917  # the parts of a passage, as the bookkeeper has them
        self,
        kind: str,
        owner: WatchedModel | WatchedOptimizer | None,
        situation: Situation,
        given: Any,
        at: int,
        turn: int,
        *,
        is_trusted: bool,
        known: Place | Kinship,
        is_forced: bool,
        variant: Variant | None,
        nodes: int,
        reached: tuple[int, ...],
        has_marks: bool,
    ) -> None:
        """Expect what was seen."""
        self.kind = kind
        self.owner = owner
        self.situation = situation
        self.given = given
        self.at = at
        self.turn = turn
        self.is_trusted = is_trusted
        self.known = known
        self.is_forced = is_forced
        self.kin = known if isinstance(known, Kinship) else None
        self.has_free_sizes = self.kin is not None and kind == FORWARD
        self.has_free_cost = isinstance(known, Place) and (not known.is_trusted or known.is_asked_for)
        self.variant = variant
        self.nodes = nodes
        self.reached = reached
        self.has_marks = has_marks
        self.usual_ns = known.usual_ns
        self.covered: set[tuple[int, ...]] = set()
        self.times = self.ns = self.longest_ns = self.due_ns = 0
        self.glance: Any = None
        self.following = self
        self.is_region = isinstance(owner, WatchedModel) and owner.is_region
        self.is_quiet = False
        self.is_soft = isinstance(owner, WatchedOptimizer) and not (nodes or has_marks)

    def join(self, following: "Leg") -> None:
        """Take a place in a lap, before this other one."""
        self.following = following
        if isinstance(self.owner, WatchedModel):
            self.glance = self.owner.glance(self.situation, self.given, has_free_sizes=self.has_free_sizes)
        elif self.owner is not None:
            self.glance = self.owner.glance(self.situation)

    def is_like(self, other: "Leg") -> bool:
        """Say whether it is the same passage of another step."""
        is_same = (
            self.known is other.known
            and self.is_forced is other.is_forced
            and self.owner is other.owner
            and (self.kind, self.at, self.turn, self.has_marks) == (other.kind, other.at, other.turn, other.has_marks)
        )
        if self.has_free_cost:
            return is_same
        has_same_nodes = self.kin is not None or self.nodes == other.nodes
        return is_same and self.variant is other.variant and self.reached == other.reached and has_same_nodes

    @property
    def ended_by(self) -> str:
        """Which boundary closes it, as its witness has it."""
        return "" if self.owner is None else "meter" if self.following.kind == "step" else self.following.kind

    @property
    def one_in(self) -> int:
        """The chance that it had to be counted; none where chance is not asked."""
        return 0 if self.is_forced or self.known.is_asked_for else self.known.one_in

    @property
    def drawn_in(self) -> int:
        """The chance that makes the lap end for it, 1 in so many: also that of what the budget refuses."""
        return ONE_IN_UNAFFORDABLE if self.known.is_asked_for and not self.is_forced else self.one_in

    def choice(self, sizes: tuple[int, ...]) -> Choice:
        """Return what was decided of one of these sizes: that it is not counted."""
        place = self.known if isinstance(self.known, Place) else None
        what = (self.situation, self.given, self.at, self.is_trusted)
        return Choice(*what, is_counted=False, place=place, kin=self.kin, sizes=sizes)

    def covers(self, sizes: tuple[int, ...]) -> bool:
        """Say whether a passage of these sizes is left uncounted: foretold, refused by the budget, or left to chance.

        Kept until the lap is resumed.
        """
        kin = self.kin
        if sizes in self.covered:
            return True
        if kin is None or sizes in kin.placed or not (kin.can_foretell(sizes) or kin.is_asked_for or kin.is_worn_out):
            return False
        if len(self.covered) >= MAX_COVERED:
            self.covered.clear()
        self.covered.add(sizes)
        return True

    def take(self) -> Waiting:
        """Return the passages that were taken for this one since the last call."""
        waiting = Waiting()
        waiting.times, waiting.ns, waiting.longest_ns = self.times, self.ns, self.longest_ns
        waiting.one_in = self.one_in
        self.times = self.ns = self.longest_ns = 0
        return waiting


class Told(NamedTuple):
    """A passage that is booked on its own: its sizes or its cost were free, or it was not the expected one."""

    leg: Leg
    nodes: int
    reached: tuple[int, ...]
    marks: tuple[int, ...]
    ns: int
    sizes: tuple[int, ...]
    is_expected: bool


class Lap:
    """The legs of one step; `leg` is open. Before step `until` no passage is drawn.

    `tape` holds the witnesses at each boundary; it is looked at when it is longer than `full`.
    """

    __slots__ = (
        *("_draws", "_has_marks", "_marks", "_oldest", "_rates", "_reached", "_sizes"),
        *("full", "is_over", "leg", "legs", "tape", "until"),
    )

    def __init__(self, legs: Sequence[Leg], draws: Draws) -> None:
        """Join the legs to a ring: the last one counts as just closed."""
        self.legs = tuple(legs)
        for leg, following in zip(self.legs, (*self.legs[1:], self.legs[0]), strict=True):
            leg.join(following)
        heard = {id(leg.owner) for leg in self.legs if leg.following.kind == FORWARD_END}
        for leg in self.legs:
            leg.is_quiet = isinstance(leg.owner, WatchedModel) and id(leg.owner) not in heard
        self.leg = self._oldest = self.legs[-1]
        reached = [leg.owner.reached for leg in self.legs if leg.owner is not None and any(leg.reached)]
        self._reached = reached[0] if reached else (0, 0)  # by gradients, of the one model that is trained
        self._has_marks = any(leg.has_marks for leg in self.legs)
        self.tape: list[int] = []
        self._marks: list[tuple[int, ...]] = []
        self._sizes: list[tuple[int, ...]] = []  # of the legs on the tape whose sizes are free
        self.full = TAPED * len(self.legs) * _WIDTH
        self._draws = draws
        self._rates: list[int] = []
        self.until = -1
        self.is_over = False

    @staticmethod
    def can_be(legs: Sequence[Leg], others: Sequence[Leg]) -> bool:
        """Say whether these are the legs of a lap: the same in two steps, and gradients reach one model at most."""
        return (
            len(legs) == len(others)
            and all(map(Leg.is_like, legs, others))
            and len({id(leg.owner) for leg in legs if any(leg.reached)}) <= 1
        )

    def is_drawn(self) -> bool:
        """Say whether chance has a passage of the running step counted."""
        step, rates = self._draws.step, [leg.drawn_in for leg in self.legs]
        if rates != self._rates or self.until < step:
            self._rates, turns = rates, [leg.turn for leg in self.legs]
            self.until = self._draws.find_step(step, SCANNED, turns, rates)
        return self.until == step

    def resume(
        self,
        known: Place | Kinship,
        choice: Choice | None,
        now_ns: int,
        *,
        is_forced: bool,
        marks: tuple[int, ...],
        due_ns: int,
    ) -> bool:
        """Open the leg that is expected next, if it is the passage that has just begun and of which this is known."""
        leg = self.leg.following
        if (
            self.is_over
            or leg.known is not known
            or leg.is_forced is not is_forced
            or leg.turn != self._draws.at
            or leg.has_marks != bool(marks)
            or self.is_drawn()
        ):
            return False
        for each in self.legs:
            each.covered.clear()
            each.due_ns = min(due_ns, each.owner.looked_ns + LOOK_EVERY_NS) if each.owner is not None else due_ns
        self.tape.clear()
        self._marks.clear()
        self._sizes.clear()
        if leg.kin is not None and not (choice and leg.covers(choice.sizes)):
            return False
        if leg.has_free_sizes and choice is not None:
            self._sizes.append(choice.sizes)
            leg.glance.take(choice.given, choice.sizes)
        self._oldest = leg
        self._open(leg, now_ns)
        return True

    def expire(self) -> None:
        """End with the next boundary, and never go on; any thread may say so."""
        self.is_over = True
        for leg in self.legs:
            leg.due_ns = 0

    def forward(
        self,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        has_gradients: bool,  # noqa: FBT001
        now_ns: int,
    ) -> bool:
        """Turn to the next leg, if that is a forward of this module with such arguments."""
        before = self.leg
        leg = before.following
        glance = leg.glance
        if (
            leg.kind != FORWARD
            or glance.module is not module
            or now_ns >= leg.due_ns
            or not glance.holds(args, kwargs, has_gradients)
            or (before.kind == FORWARD and _graph_task() != -1)
        ):
            return False
        if leg.has_free_sizes:
            if glance.sizes not in leg.covered and not leg.covers(glance.sizes):
                return False
            self._sizes.append(glance.sizes)
        if (
            self._has_marks
        ):  # from here on `_open`, and `count_nodes`, written out: one more call costs a microsecond here
            self._marks.append(device_marks())
        first, last = self._reached
        self.tape += (now_ns, sequence_nr() + launched.total, first, last)
        self.leg, self._draws.at = leg, leg.turn
        return True

    def optimizer(self, optimizer: torch.optim.Optimizer, now_ns: int) -> bool:
        """Turn to the next leg, if that is a step of this optimizer."""
        leg = self.leg.following
        glance = leg.glance
        if leg.kind != OPTIMIZER or glance.optimizer is not optimizer or now_ns >= leg.due_ns or not glance.holds():
            return False
        if self._has_marks:  # `_open` and `count_nodes`, written out
            self._marks.append(device_marks())
        first, last = self._reached
        self.tape += (now_ns, sequence_nr() + launched.total, first, last)
        self.leg, self._draws.at = leg, leg.turn
        return True

    def between(self, after: str, now_ns: int) -> bool:
        """Turn to the next leg, if that is what runs after such a boundary."""
        before = self.leg
        leg = before.following
        if leg.kind != after:
            return False
        if before.is_soft:
            tape = self.tape
            tape += (now_ns, tape[-3], tape[-2], tape[-1])
            self.leg, self._draws.at = leg, leg.turn
        else:
            self._open(leg, now_ns)
        return True

    def _open(self, leg: Leg, now_ns: int) -> None:
        """Write down the witnesses at the boundary where a leg begins."""
        first, last = self._reached
        if self._has_marks:
            self._marks.append(device_marks())
        self.tape += (now_ns, sequence_nr() + launched.total, first, last)
        self.leg, self._draws.at = leg, leg.turn

    @property
    def opened(self) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """When the open leg began, and its witnesses then: nodes, gradients that had reached its model, marks."""
        now_ns, nodes, first, last = self.tape[-_WIDTH:]
        owner = self.leg.owner
        reached = tuple(owner.reached) if owner is not None else ()  # of another model than the one that is trained
        if any(self.leg.reached):
            reached = (first, last)
        return now_ns, nodes, reached, self._marks[-1] if self.leg.has_marks else ()

    @property
    def taped_ns(self) -> int:
        """How long the tape was written since it was last looked at.

        Units: nanoseconds.
        """
        return self.tape[-_WIDTH] - self.tape[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of the open leg, where they are free."""
        return self._sizes[-1] if self.leg.has_free_sizes else ()

    def settle(self) -> list[Told] | None:
        """Look at the tape up to the open leg: add up passages whose cost the witness tells, and return the others.

        None where an interrupt left a note out: which passage is which cannot be told then.
        """
        tape, marks, taken, leg = self.tape, self._marks, self._sizes, self._oldest
        # Interrupted from here on it loses what the caller will own up to; read again, that would be booked twice.
        self.tape, self._marks = tape[-_WIDTH:], marks[-1:]
        self._sizes = taken[-1:] if self.leg.has_free_sizes else []
        self._oldest = self.leg
        closed, rest = divmod(len(tape) - _WIDTH, _WIDTH)
        if rest or (self._has_marks and len(marks) != closed + 1):
            return None
        ring, at = len(self.legs), self.legs.index(leg)
        if self.legs[(at + closed) % ring] is not self.leg:
            return None
        free = [number for number in range(closed + 1) if self.legs[(at + number) % ring].has_free_sizes]
        if len(free) != len(taken):
            return None
        sizes = dict(zip(free, taken, strict=True))
        told = []
        for number in range(closed):
            began, nodes, first, last, ended, nodes_after, first_after, last_after = tape[
                number * _WIDTH : (number + 2) * _WIDTH
            ]
            ns, nodes = ended - began, nodes_after - nodes
            reached = (first_after - first, last_after - last) if any(leg.reached) else leg.reached
            given_out = marks_between(marks[number], marks[number + 1]) if leg.has_marks else ()
            is_usual, variant = nodes == leg.nodes and reached == leg.reached, leg.variant
            if is_usual and variant is not None and (not leg.has_marks or given_out == variant.marks):
                leg.usual_ns += (ns - leg.usual_ns) >> 3
                leg.times += 1
                leg.ns += ns
                leg.longest_ns = max(leg.longest_ns, ns)
            else:
                is_expected = leg.has_free_cost or (leg.kin is not None and reached == leg.reached)
                told.append(Told(leg, nodes, reached, given_out, ns, sizes.get(number, ()), is_expected))
            leg = leg.following
        return told
