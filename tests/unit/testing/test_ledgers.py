"""Ledgers by hand are ledgers."""

from flopmeter.account import Account
from flopmeter.ledger.merge import read_run
from flopmeter.testing.ledgers import ScriptedClock, ScriptedSegment, product_table, recorded_ledger


def test_a_recorded_ledger_reads_as_any_other(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    run = recorded_ledger(tmp_path / "run", ranks=2, lives=2, weights=[tmp_path / "model.bin"])
    assert len(read_run(run).segments) == 4
    assert list(Account.of(run).subjects.values()) == ["model.bin"]


def test_a_clock_goes_on_by_one_second():
    clock = ScriptedClock("2026-12-31T23:59:58+00:00")
    assert [clock(), clock()] == ["2026-12-31T23:59:59.000Z", "2027-01-01T00:00:00.000Z"]


def test_a_product_costs_what_its_sizes_say():
    assert product_table(2, 3, 5).tally.flop == 60
    assert product_table(unknown=3).tally.uncounted[0].calls == 3


def test_a_segment_without_an_end_was_killed(tmp_path):
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table())
    assert not read_run(tmp_path / "run").segments[0].is_closed
