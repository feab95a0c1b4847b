"""What counts: each rule turns an account into the figure that a regime compares with its number.

Few, small and named, so that a regime's file can say which one it means. Laws leave much open; each rule says how it
reads its source, and counts where the text is silent. Not here: numbers, dates and articles (`catalogue`), verdicts
(`regime`).

The source of the two European rules is Annex A.1 of the Commission's guidelines on general-purpose AI models,
C(2025) 5045. American texts give a number and a unit and no method; Korea's notice gives an outline.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.tally import OpCount

# What the meter saw itself, and what whoever runs the training says.
SEEN, CLAIMED = "phase", "purpose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Work of an account that a rule leaves out of its figure.

    `what` is the phase or purpose; `basis` says which of the two, and with it on whose word the work is left out:
    a phase is what the meter saw, a purpose is a claim of whoever ran the training.

    Units: operations of the sort that the rule counts.
    """

    what: str
    basis: str
    flop: int

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as reports carry them."""
        return {"what": self.what, "basis": self.basis, "flop": wire.print_count(self.flop)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a rule makes of an account.

    `lower` is what surely ran and counts: what may not have run of a phase and purpose that count is taken off, and of
    integer operations only counted ones are sure. `upper` takes nobody's word: of what the rule leaves out, only
    recomputation that was seen and counted is left out of it too. None where nothing bounds what was not counted.

    Units: operations of the sort that the rule counts.
    """

    flop: int
    lower: int
    upper: int | None
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def gross_flop(self) -> int:
        """The figure before anything was left out.

        Units: operations of the sort that the rule counts.
        """
        return self.flop + sum(exclusion.flop for exclusion in self.exclusions)


def count_training(account: Account) -> Figure:
    """Sum the compute that contributes directly to parameter updates.

    Counts: forward, backward and optimizer work, and what the meter could not place (`other`).
    Ignores: recomputation; forward passes with gradients off; what was run for evaluation, experiments, data
    generation, rollouts, teachers' outputs or auxiliary models, by the claim of whoever ran it.
    Source: Annex A.1, meaning of training compute for a model that is not one of systemic risk; recomputation is
    excluded there by name. That a pass with gradients off updates nothing is our reading: a frozen part of a model
    runs so too, which is why `upper` keeps it.
    """

    def leave_out(count: OpCount) -> tuple[str, str] | None:
        if count.phase in {"recompute", "inference"}:
            return SEEN, count.phase
        return (CLAIMED, count.purpose) if count.purpose in _NO_UPDATE else None

    return _sum(account, leave_out)


def count_cumulative(account: Account) -> Figure:
    """Sum all compute that contributed to the model's capabilities.

    Counts: training and fine-tuning; forward passes for data generation, rollouts and teachers' outputs, samples that
    were thrown away included; every pass with gradients off whose purpose nobody declared.
    Ignores: recomputation; by claim, evaluation, experiments, and the training of auxiliary models such as a reward
    model.
    Source: Regulation (EU) 2024/1689, recital 111; Annex A.1, cumulative compute. Rollouts and teachers' outputs are
    not named there, and are counted as generated data that is not public. Generated data that was published need
    not be counted; here it is, because the meter cannot know. Evaluation is left out as purely diagnostic.
    Is not: the compute behind weights that the run started from or merged, which A.1 adds; that is another account's.
    """

    def leave_out(count: OpCount) -> tuple[str, str] | None:
        if count.phase == "recompute":
            return SEEN, count.phase
        return (CLAIMED, count.purpose) if count.purpose in _NO_CAPABILITY else None

    return _sum(account, leave_out)


def count_all_floating_point(account: Account) -> Figure:
    """Sum every floating-point operation executed.

    Counts: everything, whatever its phase and purpose.
    Source: Korea's AI Basic Act, art. 32, and the ministry's notice: all training-related computation; what adds
    nothing of substance to capability may be left out, and nothing is.
    """
    return _sum(account)


def count_floating_point_and_integer(account: Account) -> Figure:
    """Sum every floating-point and every integer operation executed.

    Counts: everything, whatever its phase and purpose; an integer operation as much as a floating-point one.
    Source: "integer or floating-point operations" of the American texts, which say nothing about recomputation,
    evaluation or generated data; so nothing is left out.
    """
    return _sum(account, with_int_op=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule under the name that regimes use."""

    name: str
    count: Callable[[Account], Figure]
    counts_int_op: bool = False


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule(name="training", count=count_training),
            Rule(name="cumulative", count=count_cumulative),
            Rule(name="all-floating-point", count=count_all_floating_point),
            Rule(name="floating-point-and-integer", count=count_floating_point_and_integer, counts_int_op=True),
        )
    }
)

# Annex A.1: what helps only people's understanding, what only diagnoses, and what trains another model.
_NO_CAPABILITY = frozenset({"evaluation", "experiment", "reward-training"})
# These make data that a later update may use; they are no update.
_NO_UPDATE = _NO_CAPABILITY | {"data-generation", "rl-rollout", "teacher-inference"}


def _sum(
    account: Account,
    leave_out: Callable[[OpCount], tuple[str, str] | None] | None = None,
    *,
    with_int_op: bool = False,
) -> Figure:
    flop = int_op = surely_out = 0
    out: Counter[tuple[str, str]] = Counter()
    shares: set[tuple[str, str]] = set()
    for count in account.tally.counts:
        amount = count.flop + (count.int_op if with_int_op else 0)
        is_counted = count.basis == "counted"
        reason = None if leave_out is None else leave_out(count)
        if reason is None:
            flop += amount
            int_op += count.int_op if with_int_op and not is_counted else 0
            shares.add((count.phase, count.purpose))
        else:
            out[reason] += amount
            surely_out += amount if is_counted and reason == (SEEN, "recompute") else 0
    # What is unsure is split by phase and purpose, so that what a rule leaves out takes nothing from what it counts.
    unsure = sum(account.unsure.get(share, 0) for share in shares)
    lower = flop - int_op - (account.flop - account.lower if leave_out is None else unsure)
    upper = account.upper
    if upper is not None:
        upper = max(upper + (account.int_op if with_int_op else 0) - surely_out, flop)
    exclusions = tuple(
        Exclusion(what=what, basis=basis, flop=amount) for (basis, what), amount in sorted(out.items()) if amount
    )
    return Figure(flop=flop, lower=lower, upper=upper, exclusions=exclusions)
