"""Three figures side by side, and why they differ."""

import pytest

from flopmeter.account import Account
from flopmeter.reconciliation import Reconciliation
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import ScriptedSegment, product_table, recorded_ledger
from flopmeter.usage import DeviceUsage, Usage


def count(kind="pointwise", phase="forward", flop=1):
    return OpCount(op=f"x::{kind}", kind=kind, phase=phase, precision="fp32", calls=1, flop=flop)


def test_the_terms_add_up_to_the_difference_exactly(tmp_path):
    """Else the explanation explains something else."""
    loose = Tally.of(
        [count(), count("attention", flop=5), count(phase="recompute", flop=7), count(phase="optimizer", flop=9)]
    )
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.note("model", {"parameters": "100", "trainable": "90", "embedding": "10"})
        segment.run(product_table(), loose=loose)
        segment.run(product_table(phase="inference"), purpose="evaluation")
        segment.end()
    account = Account.of(tmp_path / "run")
    found = Reconciliation.of(account)
    assert found.modelled.flop is not None
    assert sum(term.flop for term in found.terms) == account.flop - found.modelled.flop
    by_word = {term.name.split()[0]: term.flop for term in found.terms}
    assert {word: by_word[word] for word in ("evaluation", "recomputation", "optimizer", "attention", "norms,")} == {
        "evaluation": 60,
        "recomputation": 7,
        "optimizer": 9,
        "attention": 5,
        "norms,": 1,
    }
    assert by_word["weight"] == 60 - found.modelled.flop


def test_a_term_may_be_negative_and_travels_so(tmp_path):
    found = Reconciliation.of(Account.of(recorded_ledger(tmp_path / "run")))
    assert any(term.to_wire()["flop"].startswith("-") for term in found.terms)


def test_without_a_model_there_is_nothing_to_explain(tmp_path):
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table())
        segment.end()
    found = Reconciliation.of(Account.of(tmp_path / "run"))
    assert found.terms == ()
    assert found.modelled.flop is None


def test_the_counted_figure_keeps_its_interval(tmp_path):
    account = Account.of(recorded_ledger(tmp_path / "run"))
    counted = Reconciliation.of(account).counted
    assert (counted.flop, counted.lower, counted.upper) == (account.flop, account.lower, account.upper)


@pytest.mark.parametrize("usage", [Usage(), Usage.of([], ["no NVIDIA driver"])])
def test_without_device_time_the_third_figure_is_unknown_and_says_why(tmp_path, usage):
    """Else no driver would read as no work."""
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table(), usage=usage)
        segment.end()
    hardware = Reconciliation.of(Account.of(tmp_path / "run")).hardware
    assert hardware.flop is None
    assert hardware.note


def test_the_three_come_in_the_order_of_the_contract(tmp_path):
    device = DeviceUsage(uuid="GPU-1", name="made up", held_ns=1, busy_ns=1, energy_mj=1)
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table(), usage=Usage.of([device]))
        segment.end()
    found = Reconciliation.of(Account.of(tmp_path / "run"))
    assert [estimate.method for estimate in found.estimates] == ["counted", "6nd", "hardware"]
