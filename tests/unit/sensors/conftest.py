"""What the tests of the sensors share: run a small training program metered, and add up its ledger."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from flopmeter.account import Account
from flopmeter.meter import Meter
from flopmeter.tally import Tally

Program = Callable[[Meter], object]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """How much time counting takes must not decide what these tests see.

    It is always affordable, nothing is drawn, and models are looked at each time.
    """
    from flopmeter.sensors.budget import Budget

    monkeypatch.setattr(Budget, "can_afford", lambda self, calls: True)
    monkeypatch.setattr(Budget, "one_in", lambda self, *, calls, usual_ns: 0)
    monkeypatch.setattr(Budget, "weigh_hooks", lambda self, now: None)


@pytest.fixture
def metered(tmp_path) -> Callable[..., Account]:
    """Run a program inside a meter of its own, always from the same seed, and return the account."""
    import torch

    numbers = itertools.count()

    def run(program: Program, **options: object) -> Account:
        torch.manual_seed(0)
        with Meter(tmp_path / f"run-{next(numbers)}", **options) as meter:
            program(meter)
        return meter.account()

    return run


def without_basis(tally: Tally) -> Tally:
    """Return what costs something, however it came to be: the last stretch between passages is rarely a whole one."""
    costly = (count for count in tally.counts if count.flop or count.int_op or count.masked_flop)
    return Tally.of((replace(count, basis="counted") for count in costly), tally.uncounted)


@pytest.fixture
def replayed_truly(metered) -> Callable[..., Account]:
    """Run a program replayed and counted throughout: equal tallies, and something must have been replayed.

    Parts of a model are looked at in turn: where one is seen a step late, what ran meanwhile `may_be_assumed`.
    """

    def check(program: Program, *, may_be_assumed: bool = False) -> Account:
        ours, exact = metered(program), metered(program, exact=True)
        assert not exact.gaps
        assert not ours.gaps
        assert set(exact.passages) == {"counted"}
        assumed = {"modelled"} if may_be_assumed else set()
        assert set(ours.passages) <= {"counted", "replayed", "sampled", "interpolated"} | assumed
        assert {"replayed", "sampled"} & set(ours.passages), "the program must give replay a chance to be wrong"
        assert sum(ours.passages.values()) == sum(exact.passages.values())
        assert without_basis(ours.tally) == without_basis(exact.tally)
        assert (ours.steps, ours.tokens) == (exact.steps, exact.tokens)
        assert ours.lower <= exact.flop
        assert ours.upper is None or exact.flop <= ours.upper
        return ours

    return check
