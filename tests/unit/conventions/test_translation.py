"""What a translation is, and what every bridge rests on."""

import pytest

from flopmeter.account import Account
from flopmeter.conventions.translation import (
    REASONS,
    Given,
    Line,
    Tool,
    Translation,
    describe_doubts,
    leave_out,
    sort_out,
)
from flopmeter.ledger.merge import read_run
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import ScriptedSegment, product_table, recorded_ledger

TOOL = Tool(name="theirs", figure="their figure", source="their file")


def count(kind="pointwise", phase="forward", flop=1):
    return OpCount(op=f"x::{kind}", kind=kind, phase=phase, precision="fp32", calls=1, flop=flop)


def test_a_bridge_that_leads_elsewhere_is_refused():
    """Else a line could be forgotten, and the explanation would explain another figure."""
    with pytest.raises(ValueError, match="does not lead to 7"):
        Translation(tool=TOOL, ours=10, flop=7, bridge=(Line(term="a", flop=-2),))
    assert Translation(tool=TOOL, ours=10, flop=7, bridge=(Line(term="a", flop=-3),)).flop == 7


def test_an_unknown_figure_has_a_reason(tmp_path):
    """Else "cannot tell" would leave a person with nothing to do."""
    with pytest.raises(ValueError, match="nothing is missing"):
        Translation(tool=TOOL, ours=10, flop=None)
    account = Account.of(recorded_ledger(tmp_path / "run"))
    assert Translation.unknown(TOOL, account, ["tokens"]).missing == ("tokens",)


def test_it_travels_with_signs_and_digits():
    """Else a program would read a float, or a word for a figure."""
    line = Line(term="recomputation", flop=-(10**30), why="left out")
    wire = Translation(tool=TOOL, ours=10**31, flop=9 * 10**30, bridge=(line,), notes=("a note",)).to_wire()
    assert (wire["as"], wire["flop"], wire["ours"]) == ("theirs", str(9 * 10**30), str(10**31))
    assert wire["bridge"] == [{"term": "recomputation", "flop": "-1" + "0" * 30, "why": "left out"}]
    assert (wire["missing"], wire["notes"], wire["source"]) == ([], ["a note"], "their file")


def test_every_operation_has_one_reason(tmp_path):
    """Else the lines of a bridge would count something twice, or not at all."""
    loose = Tally.of(
        [
            count("normalization", flop=1),
            count("attention", flop=2),
            count(phase="recompute", flop=4),
            count("matmul", phase="optimizer", flop=8),
            count("matmul", phase="other", flop=16),
            count("attention", phase="inference", flop=32),
        ]
    )
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table(), loose=loose)
        segment.run(product_table(), purpose="evaluation")
        segment.end()
    account = Account.of(tmp_path / "run")
    sums = sort_out(account)
    assert sums == {
        "evaluation": 32 + 60, "outside": 16, "recompute": 4, "optimizer": 8, "elementwise": 1, "attention": 2,
        "weights": 60,
    }  # fmt: skip
    assert sum(sums.values()) == account.flop
    lines = leave_out(sums, REASONS, why="all of it")
    assert sum(line.flop for line in lines) == -account.flop


@pytest.mark.parametrize(("tokens", "length"), [((8, 8), 8), ((8, 7), None), ((0, 0), None)])
def test_a_length_is_taken_from_samples_only_where_all_can_have_had_it(tmp_path, tokens, length):
    """Else a mean of different lengths would pass for the length of each."""
    with ScriptedSegment(tmp_path / "run") as segment:
        for number in tokens:
            segment.run(product_table(), tokens=number)  # one sample each
        segment.end()
    ledger = read_run(tmp_path / "run")
    account = Account.of(ledger)
    assert Given.of(account, ledger).sequence == length
    assert Given.of(account, ledger, sequence=5).sequence == 5


def test_a_configuration_that_is_given_takes_the_place_of_the_recorded_one(tmp_path):
    with ScriptedSegment(tmp_path / "run") as segment:
        size = {"parameters": "1", "trainable": "1", "embedding": "0"}
        segment.note("model", {**size, "config": {"n_layer": "2"}})
        segment.end()
    ledger = read_run(tmp_path / "run")
    account = Account.of(ledger)
    assert Given.of(account, ledger).config == {"n_layer": "2"}
    assert Given.of(account, ledger, config={"n_layer": "3"}).config == {"n_layer": "3"}


def test_what_our_own_figure_lacks_is_said(tmp_path):
    """Else a bridge from a floor would look as sure as one from a count."""
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table(unknown=3))
        segment.note("gap", {"reason": "failure", "detail": "x", "ns": None, "ceiling_flop_per_s": None})
        segment.end()
    said = " ".join(describe_doubts(Account.of(tmp_path / "run")))
    assert "at least 60 FLOP, nothing bounds it above" in said
    assert "mylib::attn" in said
    assert "1 of them" in said
    with ScriptedSegment(tmp_path / "sure") as segment:
        segment.run(product_table())
        segment.end()
    assert describe_doubts(Account.of(tmp_path / "sure")) == ()
