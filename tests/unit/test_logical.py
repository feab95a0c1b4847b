"""Work that several ranks did alike, taken once."""

from dataclasses import replace

import pytest

from flopmeter.account import Account
from flopmeter.coordinates import ANYWHERE, Axis, Coordinates
from flopmeter.errors import LedgerUnreadableError
from flopmeter.repeat import Repeat
from flopmeter.testing.ledgers import BOOK, ScriptedSegment, product_table

TABLE = product_table()  # 60 FLOP


def write(run, *, ranks=4, tables=None, place=None, loose=None, present=None):
    """Four ranks on a grid of dp × tp, each with one passage."""
    for rank in present or range(ranks):
        header = {"book": BOOK, "convention": "fm-1", "world": str(ranks)}
        with ScriptedSegment(run, rank=rank, header=header) as segment:
            axes = place(rank) if place else grid(rank)
            if axes:
                segment.note("coordinates", Coordinates(axes).to_wire())
            segment.run(*(tables or [TABLE]), loose=loose)
            segment.end()
    return Account.of(run)


def grid(rank):
    return (
        Axis(name="dp", size=2, index=rank // 2, role="data"),
        Axis(name="tp", size=2, index=rank % 2, role="model"),
    )


def axis(size, index):
    return Axis(name="dp", size=size, index=index, role="data")


def header(ranks):
    return {"book": BOOK, "convention": "fm-1", "world": str(ranks)}


def repeated(over=(), unsure=(), table=TABLE):
    return replace(table, repeated=(Repeat(over=over, unsure=unsure, tally=table.tally),))


def test_a_run_of_one_rank_is_its_own_logical_figure(tmp_path):
    """If this failed, a plain run would have two figures."""
    account = write(tmp_path, ranks=1, place=lambda _: ())
    assert account.logical.flop == account.flop == 60
    assert account.logical.repeated == ()


def test_what_is_repeated_is_taken_once_and_named(tmp_path):
    """If this failed, the total of a tensor-parallel run would stand there multiplied by its size alone."""
    other = product_table(2, 5, 3, phase="backward")
    account = write(tmp_path, tables=[repeated(over=("tp",)), other])
    assert account.flop == 4 * (60 + 60)
    assert account.logical.flop == 2 * 60 + 4 * 60
    (found,) = account.logical.repeated
    assert (found.over, found.phase, found.kind, found.flop) == (("tp",), "forward", "matmul", 120)


def test_what_may_be_repeated_makes_an_interval(tmp_path):
    """If this failed, work of which nobody knows would be claimed to be one thing or the other."""
    account = write(tmp_path, tables=[repeated(over=("dp",), unsure=("tp",))])
    assert (account.logical.lower, account.logical.upper) == (60, 120)
    assert account.logical.flop is None


def test_a_rank_without_coordinates_may_have_done_what_every_other_did(tmp_path):
    """If this failed, ranks of which nothing is known would count as if each did other work."""
    account = write(tmp_path, place=lambda _: ())
    assert (account.logical.lower, account.logical.upper) == (60, 240)


def test_axes_that_do_not_make_up_the_run_leave_the_rest_open(tmp_path):
    """If this failed, an axis that nobody found would pass for one of data."""
    account = write(tmp_path, place=lambda rank: grid(rank)[:1], tables=[repeated(unsure=(ANYWHERE,))])
    assert (account.logical.lower, account.logical.upper) == (60, 240)
    account = write(tmp_path / "2", place=lambda rank: grid(rank)[:1])
    assert (account.logical.lower, account.logical.upper) == (60, 240)


def test_work_without_a_table_may_be_repeated_along_axes_of_models(tmp_path):
    """If this failed, interpolated work would be taken for each rank's own under tensor parallelism."""
    account = write(tmp_path, tables=[TABLE], loose=TABLE.tally)
    assert (account.logical.lower, account.logical.upper) == (4 * 60 + 2 * 60, 8 * 60)


def test_a_rank_that_is_missing_leaves_open_whether_it_did_the_same(tmp_path):
    """If this failed, half of what one rank did would be taken off for a rank that nobody has heard of."""
    account = write(tmp_path, tables=[repeated(over=("tp",))], present=[0, 2, 3])
    assert (account.logical.lower, account.logical.upper) == (90, 180)


def test_more_repeated_than_done_is_refused(tmp_path):
    """If this failed, a ledger could talk its own logical figure down."""
    table = replace(TABLE, repeated=(Repeat(over=("tp",), unsure=(), tally=TABLE.tally * 2),))
    with pytest.raises(LedgerUnreadableError, match="repeated"):
        write(tmp_path, tables=[table])


def test_the_same_calls_may_be_repeated_in_one_passage_and_not_in_another(tmp_path):
    """If this failed, two optimizers of equal models would both be replicas because one of them is."""
    assert repeated(over=("tp",)).work == TABLE.work
    assert repeated(over=("tp",)).name != TABLE.name
    account = write(tmp_path, tables=[repeated(over=("tp",)), TABLE])
    assert account.logical.flop == 2 * 60 + 4 * 60


def test_work_that_ranks_did_not_do_as_often_is_between_the_mean_and_the_most(tmp_path):
    """If this failed, updates of ranks that ran out of data would make a figure that is claimed to be exact."""
    for rank in range(2):
        with ScriptedSegment(tmp_path, rank=rank, header=header(2)) as segment:
            segment.note("coordinates", Coordinates((axis(2, rank),)).to_wire())
            segment.run(repeated(over=("dp",)), times=2 + rank)
            segment.end()
    logical = Account.of(tmp_path).logical
    assert (logical.lower, logical.upper) == (150, 180)
    assert sum(one.flop for one in logical.repeated) == 5 * 60 - 180


def test_each_life_of_a_rank_is_judged_by_the_world_it_was_in(tmp_path):
    """If this failed, a run that went on with fewer ranks would be divided by numbers of ranks it never had."""
    for size in (4, 2):
        for rank in range(size):
            with ScriptedSegment(tmp_path, rank=rank, header=header(size)) as segment:
                segment.note("coordinates", Coordinates((axis(size, rank),)).to_wire())
                segment.run(repeated(over=("dp",)))
                segment.end()
    account = Account.of(tmp_path)
    assert account.flop == 6 * 60
    assert account.logical.flop == 2 * 60


def test_what_was_counted_before_a_rank_knew_its_place_stays_open(tmp_path):
    """If this failed, work under a mesh that was made late would be claimed to be each rank's own."""
    for rank in range(2):
        with ScriptedSegment(tmp_path, rank=rank, header=header(2)) as segment:
            segment.run(TABLE)
            segment.note("coordinates", Coordinates((axis(2, rank),)).to_wire())
            segment.run(TABLE)
            segment.end()
    account = Account.of(tmp_path)
    assert (account.logical.lower, account.logical.upper) == (2 * 60, 4 * 60)
