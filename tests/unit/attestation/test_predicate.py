"""How an account fills the predicate's fields."""

import pytest

from flopmeter.account import Account
from flopmeter.attestation.predicate import SHAPE, check_shape, describe
from flopmeter.errors import MalformedError
from flopmeter.ledger.merge import read_run
from flopmeter.testing.ledgers import ScriptedSegment, product_table, recorded_ledger
from flopmeter.usage import DeviceUsage, Usage


def described(run, *, status="finished"):
    ledger = read_run(run)
    return describe(Account.of(ledger, live=status == "running"), ledger=ledger, status=status)


def test_every_figure_of_the_account_is_there(tmp_path):
    run = recorded_ledger(tmp_path / "run", ranks=2)
    account, parts = Account.of(run), described(tmp_path / "run")
    compute = parts["compute"]
    assert (compute["flop"], compute["lower"]) == (str(account.flop), str(account.lower))
    assert compute["contractionFlop"] == str(account.tally.contraction_flop)
    assert compute["by"]["purpose"] == {"evaluation": "60", "pretraining": str(account.flop - 60)}
    assert compute["replay"]["passages"] == {"counted": "10", "replayed": "12"}
    assert parts["model"] == {
        "parameters": "100",
        "trainable": "90",
        "embedding": "10",
        "tokens": "32",
        "samples": "6",
        "steps": "3",
    }
    assert parts["coverage"]["ranks"] == "2"
    assert parts["coverage"]["selfTests"] == {"passed": "2", "failed": "0"}
    assert parts["ledger"]["head"] == account.head


def test_no_field_is_called_as_in_python(tmp_path):
    """Else readers in other languages meet two spellings."""
    names = set()

    def gather(value):
        if isinstance(value, dict):
            names.update(value)
            for inner in value.values():
                gather(inner)
        elif isinstance(value, list):
            for inner in value:
                gather(inner)

    run = recorded_ledger(tmp_path / "run", lives=2, is_closed=False)
    gather(described(run, status="interrupted"))
    assert [name for name in names if "_" in name] == []


def test_device_time_is_summed_and_unknown_where_one_device_lacks_it(tmp_path):
    one = DeviceUsage(uuid="GPU-1", name="made up", held_ns=5, busy_ns=4, energy_mj=3)
    two = DeviceUsage(uuid="GPU-2", name="made up", held_ns=7, busy_ns=None, energy_mj=1, note="no counter")
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table(), usage=Usage.of([one, two], ["a note"]))
        segment.end()
    usage = described(tmp_path / "run")["usage"]
    assert (usage["heldNs"], usage["busyNs"], usage["energyMj"], usage["notes"]) == ("12", None, "4", ["a note"])
    assert [device["uuid"] for device in usage["devices"]] == ["GPU-1", "GPU-2"]


def test_a_torn_line_is_named_unless_it_may_be_one_being_written(tmp_path):
    """Else the trace of a killed process could be changed unseen, or a live statement would not hold a moment later."""
    run = recorded_ledger(tmp_path / "run", is_closed=False)
    path = run / "ledger" / "0-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"at"')
    assert [item["bytes"] for item in described(run, status="interrupted")["ledger"]["torn"]] == ["5"]
    assert described(run, status="running")["ledger"]["torn"] == []


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (None, "predicate"),
        ([], "predicate"),
        ({}, "predicate.specVersion"),
        ({"specVersion": None}, "predicate.specVersion"),
    ],
)
def test_what_is_missing_is_named(value, where):
    with pytest.raises(MalformedError, match=where):
        check_shape(value, SHAPE)
