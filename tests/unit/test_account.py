"""What ledgers add up to, from files alone."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flopmeter import wire
from flopmeter.account import Account, Gap, Model
from flopmeter.errors import LedgerBrokenError, LedgerError, LedgerMissingError, LedgerUnreadableError
from flopmeter.ledger.entry import GENESIS, Entry
from flopmeter.ledger.merge import read_run
from flopmeter.testing.ledgers import (
    CEILING_FLOP_PER_S,
    STEP_NS,
    ScriptedClock,
    ScriptedSegment,
    product_table,
    recorded_ledger,
)
from flopmeter.usage import DeviceUsage, Usage

ONE_MS = CEILING_FLOP_PER_S * STEP_NS // 10**9


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_a_run_adds_up_by_hand(run):
    """Else the figure that everything rests on is wrong."""
    account = Account.of(recorded_ledger(run))
    # forward 60 and backward 60: twice counted, three times replayed; one evaluation of 30.
    assert account.flop == 120 * 2 + 30 + 120 * 3
    assert {name: part.flop for name, part in account.tally.by("phase").items()} == {
        "backward": 300,
        "forward": 300,
        "inference": 30,
    }
    assert {name: part.flop for name, part in account.tally.by("purpose").items()} == {
        "evaluation": 30,
        "pretraining": 600,
    }
    assert (account.steps, account.tokens, account.samples, account.ranks) == (3, 16, 3, 1)
    assert account.passages == {"counted": 5, "replayed": 6}
    assert account.gaps == ()
    assert account.estimate.flop == 6 * 100 * 16


def test_what_was_counted_is_the_lower_end_and_time_bounds_the_rest(run):
    """Else a replayed passage would be as sure as a counted one."""
    account = Account.of(recorded_ledger(run))
    assert account.interval == (270, 270 + 6 * ONE_MS)


def test_ends_are_equal_when_everything_was_counted(run):
    with ScriptedSegment(run) as segment:
        segment.run(product_table(), times=5)
        segment.end()
    assert Account.of(run).interval == (300, 300)


def test_uncounted_work_is_bounded_by_time_and_never_zero(run):
    with ScriptedSegment(run) as segment:
        segment.run(product_table(unknown=2), times=4)
        segment.end()
    account = Account.of(run)
    assert account.interval == (240, 4 * ONE_MS)
    assert [(seen.op, seen.calls) for seen in account.tally.uncounted] == [("mylib::attn", 8)]


def test_without_a_ceiling_nothing_bounds_what_was_not_counted(run):
    """Else unknown work would pass for none."""
    with ScriptedSegment(run, ceiling_flop_per_s=None) as segment:
        segment.run(product_table(unknown=1))
        segment.end()
    assert Account.of(run).interval == (60, None)


def test_ranks_and_lives_are_summed(run):
    """Else restarts or ranks vanish from the sum."""
    account = Account.of(recorded_ledger(run, ranks=2, lives=3))
    assert (account.flop, account.ranks, account.steps, account.tokens) == (6 * 630, 2, 9, 96)
    assert [gap.reason for gap in account.gaps] == ["killed"] * 4


def test_a_killed_life_leaves_a_gap_that_time_bounds(run):
    """Else what ran after the last record would count as nothing."""
    with ScriptedSegment(run, clock=ScriptedClock("2026-01-01T00:00:00+00:00")) as segment:
        segment.run(product_table())
    with ScriptedSegment(run, clock=ScriptedClock("2026-01-01T00:01:00+00:00")) as segment:
        segment.end()
    account = Account.of(run)
    (gap,) = account.gaps
    # Dates are cut to milliseconds, so it may have been one longer.
    assert (gap.reason, gap.ns) == ("killed", 58_001_000_000)
    assert gap.upper_flop == 58_001 * CEILING_FLOP_PER_S // 1000
    assert account.upper == 60 + gap.upper_flop


def test_a_clock_that_was_set_back_bounds_nothing(run):
    """Else a machine whose clock is wrong proves that a killed process did nothing."""
    with ScriptedSegment(run, clock=ScriptedClock("2026-01-02T00:00:00+00:00")) as segment:
        segment.run(product_table())
    with ScriptedSegment(run, clock=ScriptedClock("2026-01-01T00:00:00+00:00")) as segment:
        segment.end()
    account = Account.of(run)
    assert account.gaps[0].ns is None
    assert account.upper is None


def test_a_life_that_never_closed_bounds_nothing(run):
    account = Account.of(recorded_ledger(run, is_closed=False))
    assert [(gap.reason, gap.ns) for gap in account.gaps] == [("not closed", None)]
    assert account.upper is None


def test_a_live_account_is_as_of_its_last_record(run):
    """Else every look at a running job would find a gap."""
    account = Account.of(recorded_ledger(run, is_closed=False), live=True)
    assert account.gaps == ()
    assert account.upper is not None


def test_events_are_taken_in(run):
    with ScriptedSegment(run) as segment:
        segment.note("self-test", {"passed": True})
        segment.note("self-test", {"passed": False})
        segment.note("model", {"parameters": "5", "trainable": "4", "embedding": "1"})
        segment.note("gap", {"reason": "passage", "detail": "lost", "ns": "1000000000", "ceiling_flop_per_s": "7"})
        segment.note("gap", {"reason": "failure", "detail": "x", "ns": "0", "ceiling_flop_per_s": None})
        segment.note("checkpoint", {"files": [{"name": "a", "sha256": "1" * 64}]})
        segment.note("threshold", {"regime": "eu.gpai.systemic", "percent": "50"})
        segment.note("attestation", {"payload": "2" * 64})
        segment.note("device", {"uuid": "GPU-1"})
        segment.end()
    account = Account.of(run)
    assert account.self_tests == (True, False)
    assert account.model == Model(parameters=5, trainable=4, embedding=1)
    assert [gap.upper_flop for gap in account.gaps] == [7, 0]
    assert account.subjects == {"1" * 64: "a"}
    assert account.warned == (("eu.gpai.systemic", 50),)
    assert account.attestations == ("2" * 64,)
    assert account.upper == 7


def test_gaps_of_one_reason_in_one_life_are_joined(run):
    """Else a run that fails a thousand times has a report of a thousand lines."""
    with ScriptedSegment(run) as segment:
        for times in ("1", "4"):
            body = {"reason": "failure", "detail": "x", "ns": "1000000000", "ceiling_flop_per_s": "7", "times": times}
            segment.note("gap", body)
        segment.note("gap", {"reason": "failure", "detail": "y", "ns": None, "ceiling_flop_per_s": "7"})
        segment.end()
    account = Account.of(run)
    assert [(gap.detail, gap.times, gap.ns, gap.upper_flop) for gap in account.gaps] == [
        ("x", 5, 2 * 10**9, 14),
        ("y", 1, None, None),
    ]
    assert account.upper is None


def test_usage_is_summed_per_device(run):
    device = DeviceUsage(uuid="GPU-1", name="made up", held_ns=5, busy_ns=None, energy_mj=2)
    with ScriptedSegment(run) as segment:
        segment.run(product_table(), usage=Usage.of([device]))
        segment.run(product_table(), usage=Usage.of([device], ["a note"]))
        segment.end()
    usage = Account.of(run).usage
    assert (usage.total("held_ns"), usage.total("busy_ns"), usage.total("energy_mj")) == (10, None, 4)
    assert usage.notes == ("a note",)


def test_loose_work_counts(run):
    """Else work past the room for tables would vanish."""
    with ScriptedSegment(run) as segment:
        segment.run(product_table(), loose=product_table(7, 7, 7).tally)
        segment.end()
    assert Account.of(run).interval == (60 + 2 * 343, 60 + 2 * 343)


def test_loose_work_that_was_replayed_is_bounded_by_time(run):
    """Else past the room for tables a replayed passage would be as sure as a counted one."""
    loose = product_table().tally.labelled(purpose="undeclared", basis="replayed")
    with ScriptedSegment(run) as segment:
        segment.run(loose=loose, basis="replayed")
        segment.end()
    assert Account.of(run).interval == (0, ONE_MS)


def test_a_share_of_overhead_is_unknown_where_nothing_was_metered(run):
    with ScriptedSegment(run) as segment:
        segment.end()
    assert Account.of(run).overhead_fraction is None


def test_the_overhead_is_a_share_of_the_metered_time(run):
    account = Account.of(recorded_ledger(run))
    assert replace(account, own_ns=account.metered_ns // 4).overhead_fraction == pytest.approx(0.25)


def test_no_ledger_is_an_error(tmp_path):
    with pytest.raises(LedgerMissingError):
        Account.of(tmp_path)


def reseal(run, change) -> None:
    """Change entries and seal the chain again, as a forger with time would."""
    path = run / "ledger" / "0-0.jsonl"
    entries = [Entry.from_line(line, where="") for line in path.read_bytes().splitlines()]
    lines, prev = [], GENESIS
    for entry in change(entries):
        sealed = replace(entry, seq=len(lines), prev=prev)
        lines.append(sealed.to_line())
        prev = sealed.digest
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("kind", ["table", "steps"])
def test_a_record_that_does_not_follow_from_those_before_it_is_refused(run, kind):
    """Else a forger need only seal the chain anew after dropping a line."""
    recorded_ledger(run)

    def drop(entries):
        at = next(index for index, entry in enumerate(entries) if entry.kind == kind)
        return entries[:at] + entries[at + 1 :]

    reseal(run, drop)
    with pytest.raises(LedgerBrokenError):
        Account.of(run)


def test_a_table_under_another_name_is_refused(run):
    recorded_ledger(run)
    reseal(
        run,
        lambda entries: [replace(e, body={**e.body, "table": "0" * 64}) if e.kind == "table" else e for e in entries],
    )
    with pytest.raises(LedgerUnreadableError, match="digest of its rows"):
        Account.of(run)


def test_a_gap_travels():
    gap = Gap(reason="killed", detail="x", rank=1, segment=2, ns=None, upper_flop=3)
    assert gap.to_wire() == {
        "reason": "killed",
        "detail": "x",
        "rank": "1",
        "segment": "2",
        "ns": None,
        "upper_flop": "3",
        "times": "1",
    }


ODD_TEXT = (
    "",
    "x",
    "0",
    "7",
    "-1",
    "9" * 61,
    "*",
    "'text",
    "1.5",
    "9" * 400 + ".0",
    "0" * 64,
    "§",
    "counted",
    "killed",
)
ODD_SHAPES = ("fp32[2,3]", "fp32[]", f"fp32[{'9' * 5000}]")
ODD_DATES = ("2026-01-01T00:00:00.000Z", "2026-01-01")
ODD = st.sampled_from([None, True, *ODD_TEXT, *ODD_SHAPES, *ODD_DATES, [], {}, ["x"], [[]]])


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9), odd=ODD)
def test_any_well_sealed_ledger_gives_an_account_or_an_error_of_ours(tmp_path_factory, seed, odd):
    """Else a forger could bring the auditor's program down."""
    run = recorded_ledger(tmp_path_factory.mktemp("odd") / "run", lives=2)
    path = run / "ledger" / "0-1.jsonl"
    values = [wire.decode(line) for line in path.read_bytes().splitlines()]
    choice = random.Random(seed)
    value = choice.choice(values)
    at, where = value, choice.choice([place for place in places(value) if place and place[0] in ("body", "at", "kind")])
    for name in where[:-1]:
        at = at[name]
    at[where[-1]] = odd
    lines, prev = [], GENESIS
    for seq, fields in enumerate(values):
        unsealed = {**{name: fields[name] for name in ("at", "body", "kind")}, "seq": str(seq), "prev": prev}
        prev = wire.digest(wire.encode(unsealed))
        lines.append(wire.encode({**unsealed, "sha256": prev}) + b"\n")
    path.write_bytes(b"".join(lines))
    try:
        account = Account.of(read_run(run))
    except LedgerError:
        return
    assert account.flop >= 0


def test_a_shape_of_thousands_of_digits_is_refused(run):
    """Else a forger's ledger ends in a traceback: Python reads no int of more than 4,300 digits."""
    recorded_ledger(run)

    def grow(entries):
        bodies = [
            {**e.body, "rows": [{**e.body["rows"][0], "out": [f"fp32[{'9' * 5000}]"]}]} if e.kind == "table" else e.body
            for e in entries
        ]
        return [replace(entry, body=body) for entry, body in zip(entries, bodies, strict=True)]

    reseal(run, grow)
    with pytest.raises(LedgerUnreadableError):
        Account.of(run)


def test_a_rank_that_left_no_ledger_is_a_gap_without_a_bound(tmp_path):
    """If this failed, half of a run on two machines would pass for the whole."""
    header = {"book": "made-up", "convention": "fm-1", "world": "3"}
    for rank in (0, 2):
        with ScriptedSegment(tmp_path, rank=rank, header=header) as segment:
            segment.run(product_table())
            segment.end()
    account = Account.of(tmp_path)
    assert account.upper is None
    assert [(gap.reason, gap.detail) for gap in account.gaps] == [
        ("missing ranks", "1 of 3 ranks left no ledger here: 1")
    ]
