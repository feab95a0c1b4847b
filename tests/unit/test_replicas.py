"""Ranks that must have run the same products, and what is never held against them."""

import pytest

from flopmeter.account import Account
from flopmeter.coordinates import Axis, Coordinates
from flopmeter.testing.ledgers import BOOK, ScriptedSegment, product_table

TABLE, LONGER = product_table(), product_table(4, 3, 5)


def pair(run, *, tables=((TABLE,), (TABLE,)), times=(3, 2), tokens=(8, 8), role="data", **fields):
    """Two ranks along one axis."""
    for rank in range(2):
        header = {"book": BOOK, "convention": "fm-1", "world": "2"}
        with ScriptedSegment(run, rank=rank, header=header) as segment:
            place = Coordinates((Axis(name="dp", size=2, index=rank, role=role),))
            segment.note("coordinates", place.to_wire())
            segment.run(*tables[rank], times=times[rank], tokens=tokens[rank], **fields)
            segment.end()
    return Account.of(run).contradictions


def test_replicas_that_say_the_same_and_ran_something_else_contradict_each_other(tmp_path):
    """If this failed, a rank that hides a part of its work would be believed."""
    (found,) = pair(tmp_path)
    assert (found.rank, found.other, found.flop, found.other_flop) == (0, 1, 180, 120)
    assert "differ in dp alone" in found.detail


def test_a_part_of_the_products_that_is_missing_is_noticed(tmp_path):
    """If this failed, a counter that misses an operator on one rank would go unseen."""
    both = product_table(3, 3, 5)
    whole = type(TABLE)((*TABLE.rows, *both.rows), TABLE.tally + both.tally)
    (found,) = pair(tmp_path, tables=((whole,), (TABLE,)), times=(2, 2))
    assert found.flop > found.other_flop


@pytest.mark.parametrize(
    "legitimate",
    [
        {"times": (2, 2)},  # the same
        {"tokens": (8, 9)},  # they say themselves that they did not train on as much
        {"tables": ((TABLE,), (LONGER,))},  # other lengths
        {"tables": ((TABLE, LONGER), (TABLE, LONGER))},  # several lengths, in other proportions
        {"role": "sequence"},  # causal attention gives ranks unequal parts
        {"role": "expert"},
        {"role": "pipeline"},
        {"role": "model"},
        {"basis": "sampled"},
        {"tables": ((product_table(phase="inference"),),) * 2},  # rank 0 evaluates
    ],
    ids=str,
)
def test_what_may_differ_is_never_held_against_a_run(tmp_path, legitimate):
    """If this failed, an honest run would be called a contradiction."""
    assert pair(tmp_path, **legitimate) == ()


def test_a_rank_with_a_gap_is_not_judged(tmp_path):
    """If this failed, a rank that says itself that it does not know all would be called a liar."""
    for rank in range(2):
        header = {"book": BOOK, "convention": "fm-1", "world": "2"}
        with ScriptedSegment(tmp_path, rank=rank, header=header) as segment:
            place = Coordinates((Axis(name="dp", size=2, index=rank, role="data"),))
            segment.note("coordinates", place.to_wire())
            segment.run(TABLE, times=2 + rank)
            if rank:
                segment.note("gap", {"reason": "failure", "detail": "x", "ns": "1", "ceiling_flop_per_s": None})
            segment.end()
    assert Account.of(tmp_path).contradictions == ()


def test_what_one_rank_evaluates_with_gradients_on_is_not_held_against_it(tmp_path):
    """If this failed, a first rank that looks at how training goes would be called a liar, or the others would."""
    for rank in range(2):
        header = {"book": BOOK, "convention": "fm-1", "world": "2"}
        with ScriptedSegment(tmp_path, rank=rank, header=header) as segment:
            place = Coordinates((Axis(name="dp", size=2, index=rank, role="data"),))
            segment.note("coordinates", place.to_wire())
            for purpose in ("pretraining",) if rank else ("pretraining", "evaluation"):
                tokens = 0 if purpose == "evaluation" else 8
                segment.run(TABLE, tokens=tokens, purpose=purpose)
            if rank:
                segment.run(tokens=0)  # a step without work, so that both say the same
            segment.end()
    assert Account.of(tmp_path).contradictions == ()
