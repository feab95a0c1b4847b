"""The open record of a running meter, and its open gaps."""

import pytest

from flopmeter import recording as recordings
from flopmeter.formulas.call import OpCall
from flopmeter.recording import OpenGaps, Recording
from flopmeter.step import Chance, Row, Steps, Table
from flopmeter.tally import OpCount, Tally, Uncounted
from flopmeter.usage import DeviceUsage, Usage


def table(flop: int, *, uncounted: bool = False) -> Table:
    count = OpCount(op="aten::mm", kind="matmul", phase="forward", precision="fp32", calls=1, flop=flop)
    row = Row(call=OpCall.of("aten::mm", (1, flop), (flop, 1)), phase="forward", calls=1)
    unknown = (Uncounted(op="mine::op", calls=1, elements=1),) if uncounted else ()
    return Table((row,), Tally((count,), unknown))


def close(recording: Recording, *, own_ns: int = 0) -> Steps:
    recording.close_record(own_ns=own_ns, ceiling=None)
    steps = recording.waiting()
    assert steps is not None
    recording.steps_written(steps)
    return steps


def unwritten(recording: Recording) -> tuple[Table, ...]:
    recording.close_record(own_ns=0, ceiling=None)
    return recording.unwritten()


def test_passages_of_the_same_table_purpose_and_basis_are_one_line():
    recording = Recording()
    for basis in ("counted", "replayed", "replayed"):
        recording.add(table=table(10), times=1, purpose="undeclared", basis=basis, ns=5)
    recording.add_tokens(tokens=3, samples=1)
    recording.finish_step()
    steps = close(recording)
    assert {(ran.basis, ran.times, ran.ns) for ran in steps.ran} == {("counted", 1, 5), ("replayed", 2, 10)}
    assert (steps.total.flop, steps.total.tokens, steps.total.steps) == (30, 3, 1)
    assert recording.flop == 30
    assert recording.total == steps.total


def test_totals_go_on_over_records_and_counts_begin_anew():
    recording = Recording()
    recording.begin_segment(first=7)
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=1)
    recording.add_tokens(tokens=3, samples=0)
    recording.finish_step()
    first = close(recording, own_ns=40)
    recording.add(table=table(10), times=1, purpose="undeclared", basis="replayed", ns=1)
    recording.add_tokens(tokens=4, samples=0)
    recording.finish_step()
    second = close(recording, own_ns=100)
    assert (first.first, first.count, second.first, second.count) == (7, 1, 8, 1)
    assert (first.own_ns, second.own_ns) == (40, 60)
    assert (second.tokens, second.total.tokens, second.total.flop) == (4, 7, 20)
    assert second.started_ns == first.ended_ns, "no moment falls between two records"


def test_a_record_that_could_not_be_written_waits_and_what_runs_meanwhile_is_another():
    """Else a full disk loses the work of one interval for good, or an interrupt writes it twice."""
    recording = Recording()
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=1)
    recording.close_record(own_ns=0, ceiling=None)
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=1)
    recording.close_record(own_ns=0, ceiling=None)
    waiting = recording.waiting()
    assert waiting.total.flop == 10
    recording.steps_written(waiting)
    recording.steps_written(waiting)
    assert not recording.is_empty
    assert close(recording).total.flop == 20
    assert recording.is_empty
    assert recording.waiting() is None


def test_a_table_is_written_once():
    recording = Recording()
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=1)
    (new,) = unwritten(recording)
    recording.table_written(new)
    close(recording)
    recording.add(table=table(10), times=1, purpose="evaluation", basis="counted", ns=1)
    assert unwritten(recording) == ()


@pytest.mark.parametrize(("basis", "uncounted"), [("counted", False), ("counted", True), ("replayed", False)])
def test_beyond_the_room_for_tables_work_is_counted_and_its_uncertainty_kept(monkeypatch, basis, uncounted):
    monkeypatch.setattr(recordings, "MAX_TABLES", 1)
    chance = None if basis == "counted" else Chance(one_in=64, longest_ns=4)
    recording = Recording()
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=5)
    recording.add(table=table(20, uncounted=uncounted), times=2, purpose="evaluation", basis=basis, ns=7, chance=chance)
    assert len(unwritten(recording)) == 1
    steps = close(recording)
    assert steps.total.flop == 50
    (loose,) = (ran for ran in steps.ran if ran.table is None)
    assert (loose.times, loose.ns, loose.most_flop, loose.tally.flop) == (2, 7, 20, 40)
    assert (loose.purpose, loose.basis, loose.chance) == ("evaluation", basis, chance)
    assert len(loose.tally.uncounted) == uncounted
    assert Steps.from_wire(steps.to_wire()) == steps


def test_passages_of_another_chance_are_another_line():
    """Else what could hardly be drawn hides behind what was drawn often."""
    recording = Recording()
    for one_in, longest_ns in ((64, 3), (64, 5), (0, 9)):
        chance = Chance(one_in=one_in, longest_ns=longest_ns)
        recording.add(table=table(10), times=2, purpose="undeclared", basis="replayed", ns=8, chance=chance)
    found = {ran.chance.one_in: (ran.times, ran.ns, ran.chance.longest_ns) for ran in close(recording).ran}
    assert found == {64: (4, 16, 5), 0: (2, 8, 8)}, "none is longer than all together"


def test_a_range_is_that_of_all_passages_of_a_line():
    """Else a range that was known of some of them is taken for the range of all."""
    recording = Recording()
    for ends in ((5, 30), (None, None)):
        chance = Chance(one_in=64, longest_ns=3, lower=ends[0], upper=ends[1])
        recording.add(table=table(10), times=2, purpose="undeclared", basis="sampled", ns=6, chance=chance)
    (ran,) = close(recording).ran
    assert (ran.chance.lower, ran.chance.upper) == (25, 50)


def test_a_family_has_one_tally_and_knows_its_dearest():
    recording = Recording()
    for flop, most in ((30, 20), (40, 40)):
        recording.add(
            tally=table(flop).tally, most_flop=most, family="7", times=2, purpose="undeclared", basis="interpolated",
            ns=6, chance=Chance(one_in=64, longest_ns=3),
        )  # fmt: skip
    (ran,) = close(recording).ran
    assert (ran.family, ran.times, ran.tally.flop, ran.most_flop) == ("7", 4, 70, 40)
    assert recording.flop == 70


def test_audits_and_their_misses_are_told_with_the_record():
    recording = Recording()
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=1)
    for is_miss in (False, True, False):
        recording.add_audit(is_miss=is_miss)
    steps = close(recording)
    assert (steps.audits, steps.misses) == (3, 1)


def test_the_next_step_is_known_whether_records_are_written_or_not():
    """Else the same draws come twice, and a step's passages are all counted or none."""
    recording = Recording()
    recording.begin_segment(first=7)
    recording.finish_step()
    recording.close_record(own_ns=0, ceiling=None)
    recording.finish_step()
    assert recording.next_step == 9
    recording.steps_written(recording.waiting())
    assert recording.next_step == 9


def test_a_sum_that_an_interrupt_left_half_made_is_still_a_line_that_can_be_read():
    """Else control-C at a bad moment leaves a ledger that nobody reads any more."""
    recording = Recording()
    chance = Chance(one_in=64, longest_ns=3, lower=5, upper=30)
    recording.add(table=table(10), times=2, purpose="undeclared", basis="sampled", ns=6, chance=chance)
    half = next(iter(recording._state.open.ran.values()))
    half.times, half.ns = half.times + 3, half.ns + 90
    recording._state.open.ran[recordings._Alike("evaluation", "counted", None, None, None)] = recordings._Sum()
    steps = close(recording)
    assert Steps.from_wire(steps.to_wire()) == steps
    assert steps.total.flop == 50


def test_rows_are_bounded_too(monkeypatch):
    monkeypatch.setattr(recordings, "MAX_ROWS", 2)
    recording = Recording()
    for flop in range(1, 6):
        recording.add(table=table(flop), times=1, purpose="undeclared", basis="counted", ns=1)
    assert len(unwritten(recording)) == 2
    assert close(recording).total.flop == 15


def test_devices_alone_are_worth_a_record():
    recording = Recording()
    assert recording.is_empty
    recording.add_usage(Usage.of([DeviceUsage(uuid="GPU-fake", name="Fake GPU", held_ns=1)]))
    assert not recording.is_empty


def test_a_new_segment_names_its_tables_again_and_counts_from_nothing():
    """If this failed, a ledger file that took over from another would speak of tables that it does not hold."""
    recording = Recording()
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=5)
    recording.table_written(unwritten(recording)[0])
    assert close(recording).total.flop == 10
    recording.add(table=table(10), times=1, purpose="undeclared", basis="replayed", ns=5)
    assert unwritten(recording) == ()
    recording.begin_segment(first=3)
    assert len(unwritten(recording)) == 1
    steps = close(recording)
    assert (steps.first, steps.total.flop, recording.flop) == (3, 10, 20)


def test_a_record_survives_the_wire():
    recording = Recording()
    recording.add(table=table(10), times=1, purpose="undeclared", basis="counted", ns=1)
    recording.add_tokens(tokens=2, samples=1)
    recording.finish_step()
    steps = close(recording)
    assert Steps.from_wire(steps.to_wire()) == steps


def test_a_gap_that_repeats_itself_is_one_line():
    gaps = OpenGaps()
    assert gaps.add("passage", "again", ns=5, ceiling=100)
    assert not gaps.add("passage", "again", ns=6, ceiling=100)
    (body,) = gaps.take()
    assert (body["ns"], body["times"], body["ceiling_flop_per_s"]) == ("11", "2", "100")
    assert gaps.take() == []


def test_one_gap_of_unknown_length_makes_the_line_unknown():
    """Else an unbounded gap would pass for a short one."""
    gaps = OpenGaps()
    gaps.add("passage", "again", ns=5, ceiling=100)
    gaps.add("passage", "again", ns=None, ceiling=100)
    assert gaps.take()[0]["ns"] is None


def test_kinds_and_lines_are_bounded_and_the_rest_comes_at_the_end(monkeypatch):
    monkeypatch.setattr(recordings, "MAX_GAP_KINDS", 3)
    monkeypatch.setattr(recordings, "MAX_GAP_LINES", 4)
    gaps = OpenGaps()
    for index in range(10):
        gaps.add("passage", f"kind {index}", ns=1, ceiling=None)
    taken = gaps.take()
    assert len(taken) == 4
    assert sum(int(body["times"]) for body in taken) == 10
    gaps.add("passage", "late", ns=1, ceiling=None)
    assert gaps.take() == []
    assert [body["detail"] for body in gaps.take(is_last=True)] == ["late"]
