"""Passages that differ in sizes alone, driven by hand: no torch."""

from typing import NamedTuple

import pytest

from flopmeter.sensors.kinship import MAX_FAMILIES, MAX_TABLES, MAX_WAITING, Kinship, Verdict, Waiting, split_sizes
from flopmeter.step import Table
from flopmeter.testing.ledgers import product_table


class Seen(NamedTuple):
    nodes: int
    end: str = "next"

    @property
    def sort(self):
        return self.end

    @property
    def numbers(self):
        return (self.nodes,)


def table_of(size: int) -> Table:
    return product_table(2, 3, size)


def learn(kin: Kinship, size: int, *, cost=None, seen=None, is_fixed=True, is_drawn=False) -> Verdict | None:
    table = table_of(size if cost is None else cost)
    return kin.learn((size,), seen or Seen(size), table, calls=4, is_fixed=is_fixed, is_drawn=is_drawn)


@pytest.fixture
def kin() -> Kinship:
    return Kinship("7", owner="me")


@pytest.fixture
def proven(kin) -> Kinship:
    for size in (3, 20, 9, 14, 5, 17, 11):
        learn(kin, size)
    assert kin.can_foretell((10,))
    return kin


def test_nothing_is_foretold_from_one_count(kin):
    assert learn(kin, 5) is None
    assert not kin.can_foretell((5,))
    assert not kin.can_foretell((6,))


def test_passages_wait_until_their_family_is_proven_and_are_booked_together(kin):
    """They ran before it was known what they cost; it is known now."""
    learn(kin, 3)
    for ns, size in ((100, 6), (300, 6), (200, 8)):
        assert kin.wait((size,), Seen(size), ns, 64)
    assert list(kin.settle(1, is_last=False)) == []
    for size in (20, 9, 14, 5, 17, 11):
        learn(kin, size)
    (booking,) = kin.settle(1, is_last=False)
    assert (booking.basis, booking.times, booking.ns, booking.family) == ("interpolated", 3, 600, "7")
    assert booking.tally.flop == sum(table_of(size).tally.flop for size in (6, 6, 8))
    assert booking.most_flop == table_of(8).tally.flop
    assert (booking.chance.one_in, booking.chance.longest_ns) == (64, 300)
    assert list(kin.settle(1, is_last=True)) == []


def test_what_is_not_foretold_by_the_end_is_a_guess(kin):
    learn(kin, 3)
    kin.wait((6,), Seen(6), 100, 0)
    (booking,) = kin.settle(1, is_last=True)
    assert (booking.basis, booking.times, booking.ns, booking.table) == ("modelled", 1, 100, table_of(3))
    assert booking.chance is None
    assert booking.family is None


def test_a_guess_is_the_count_whose_sizes_were_nearest(kin):
    """With lengths at random, the one that happened to be counted last would stand for all that are not foretold."""
    for size in (3, 40, 12):
        learn(kin, size)
    for size in (5, 33, 14):
        kin.wait((size,), Seen(size), 100, 64)
    booked = [booking.table for booking in kin.settle(1, is_last=True)]
    assert booked == [table_of(3), table_of(40), table_of(12)]


def test_counts_remembered_for_guesses_are_bounded(kin):
    for size in range(2, MAX_TABLES + 10):
        learn(kin, size)
    assert kin.guess((2,)) == table_of(10)
    assert kin.guess((1000,)) == table_of(MAX_TABLES + 9)


def test_what_is_doubted_is_a_guess_even_if_it_is_foretold(proven):
    proven.wait((10,), Seen(10), 100, 64)
    assert [booking.basis for booking in proven.settle(1, is_last=False, is_doubted=True)] == ["modelled"]


def test_what_shows_another_witness_than_was_foretold_is_a_guess(proven):
    """As many nodes as sizes never made: it was another program."""
    proven.wait((10,), Seen(11), 100, 64)
    assert [booking.basis for booking in proven.settle(1, is_last=False)] == ["modelled"]


def test_an_audit_that_agrees_says_so_and_a_miss_names_the_family(proven):
    assert learn(proven, 10, is_drawn=True) == Verdict()
    assert learn(proven, 10) is None
    assert learn(proven, 10, cost=12, is_drawn=True) == Verdict(is_miss=True, family="7")
    assert not proven.can_foretell((10,))


def test_a_count_that_nobody_drew_is_a_miss_too(proven):
    """Whoever finds it: what was booked before is in doubt."""
    assert learn(proven, 10, cost=12) == Verdict(is_miss=True, family="7")


def test_where_values_lead_nothing_is_ever_foretold(proven):
    """A cost that values inside tensors decide is no function of sizes, however well it fitted so far."""
    assert learn(proven, 10, is_fixed=False, is_drawn=True) == Verdict(is_miss=True, family="7")
    assert not proven.can_foretell((10,))
    for size in (3, 20, 9, 14, 5, 17, 11):
        assert learn(proven, size) is None
    assert not proven.can_foretell((10,))
    proven.wait((10,), Seen(10), 100, 64)
    assert list(proven.settle(1, is_last=False)) == []
    assert [booking.basis for booking in proven.settle(1, is_last=True)] == ["modelled"]


def test_families_are_told_apart_by_the_sort_of_their_witness(proven):
    """Passages that end in the optimizer have a cost of their own, and are foretold once they were counted."""
    proven.wait((10,), Seen(10, "optimizer"), 100, 64)
    assert list(proven.settle(1, is_last=False)) == []
    for size in (3, 20, 9, 14, 5, 17, 11):
        assert learn(proven, size, cost=2 * size, seen=Seen(size, "optimizer")) is None
    proven.wait((10,), Seen(10), 100, 64)
    (booking,) = proven.settle(1, is_last=False)
    assert booking.tally.flop == table_of(20).tally.flop + table_of(10).tally.flop


def test_families_are_bounded(kin):
    """A witness that is new each time would else fill the memory of a long run."""
    for index in range(3 * MAX_FAMILIES):
        learn(kin, 3 + index, seen=Seen(1, f"end {index}"))
    assert len(kin._families) == MAX_FAMILIES


def test_what_waits_is_bounded(kin):
    learn(kin, 3)
    for size in range(MAX_WAITING):
        assert kin.wait((size,), Seen(size), 1, 0)
    assert not kin.wait((MAX_WAITING,), Seen(1), 5, 0)
    assert kin.wait((3,), Seen(3), 1, 0), "it joins others"


def test_waiting_passages_have_the_smallest_chance_of_them_and_none_where_one_had_none():
    """A chance that is stated too large makes the interval too narrow."""
    waiting = Waiting()
    for ns, one_in in ((5, 8), (9, 64), (7, 16)):
        waiting.add(ns, one_in)
    assert (waiting.times, waiting.ns, waiting.longest_ns, waiting.one_in) == (3, 21, 9, 64)
    whole = Waiting()
    whole.join(waiting)
    assert (whole.times, whole.ns, whole.longest_ns, whole.one_in) == (3, 21, 9, 64)
    other = Waiting()
    other.add(30, 0)
    whole.join(other)
    assert (whole.times, whole.ns, whole.longest_ns, whole.one_in) == (4, 51, 30, 0)


@pytest.mark.parametrize(
    ("given", "frame", "sizes"),
    [
        ((), (), ()),
        (((2, 16), "mask", True, 3), ((None, None), "mask", True, None), (2, 16, 3)),
        ((("x", (4,)), None, 0.0), (("x", (None,)), None, 0.0), (4,)),
        (({"a": 5, "b": (6, "c")},), ((("a", None), ("b", (None, "c"))),), (5, 6)),
    ],
)
def test_a_fingerprint_is_split_into_frame_and_sizes(given, frame, sizes):
    assert split_sizes(given) == (frame, sizes)


def test_truth_values_are_no_sizes():
    """`causal=True` is not one more of something."""
    assert split_sizes((True,)) != split_sizes((False,))
    assert split_sizes((1,))[0] == split_sizes((5,))[0]
