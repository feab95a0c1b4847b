"""Accounts and regimes made by hand."""

from collections import Counter
from datetime import date

import pytest

from flopmeter.account import Account
from flopmeter.regimes.regime import Condition, Regime
from flopmeter.tally import OpCount, Tally
from flopmeter.usage import Usage


def work(flop=0, *, phase="forward", purpose="undeclared", basis="counted", int_op=0) -> OpCount:
    return OpCount(
        op="aten::mm",
        kind="matmul",
        phase=phase,
        purpose=purpose,
        precision="bf16",
        basis=basis,
        calls=1,
        flop=flop,
        int_op=int_op,
    )


def account_of(*counts: OpCount, upper: int | str | None = "exact", unsure=None) -> Account:
    """Return an account in which what was not counted is unsure, unless something else is said to be."""
    tally = Tally.of(counts)
    if unsure is None:
        unsure = Counter()
        for count in counts:
            unsure[count.phase, count.purpose] += count.flop if count.basis != "counted" else 0
    return Account(
        run="by-hand",
        ranks=1,
        steps=1,
        tokens=1,
        samples=0,
        tally=tally,
        usage=Usage(),
        lower=tally.flop - sum(unsure.values()),
        upper=tally.flop if upper == "exact" else upper,
        gaps=(),
        model=None,
        passages={},
        unsure=unsure,
        unsure_passages=0,
        audits=0,
        misses=0,
        own_ns=0,
        metered_ns=0,
    )


def regime_of(threshold=1000, **changes) -> Regime:
    fields = {
        "id": "demo.small",
        "title": "A made-up regime",
        "jurisdiction": "nowhere",
        "threshold": threshold,
        "operator": ">",
        "unit": "floating-point operations",
        "counts": ("all-floating-point",),
        "obligation": "none",
        "source": "made up",
        "as_of": date(2026, 11, 22),
        "status": "in use",
    }
    if "conditions" in changes:
        changes["conditions"] = tuple(Condition(id=name, text=name) for name in changes["conditions"])
    return Regime(**{**fields, **changes})


@pytest.fixture(name="work")
def _work():
    return work


@pytest.fixture(name="account_of")
def _account_of():
    return account_of


@pytest.fixture(name="regime_of")
def _regime_of():
    return regime_of
