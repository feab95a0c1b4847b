"""What entries add up to while they are read, and what a mistaken or hostile one gains: nothing."""

from dataclasses import replace

import pytest

from flopmeter.account import Account
from flopmeter.coordinates import Axis, Coordinates, role_of
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError
from flopmeter.ledger.merge import read_run
from flopmeter.model import Model
from flopmeter.step import Chance, Ran
from flopmeter.sums import Sums
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import BOOK, CEILING_FLOP_PER_S, STEP_NS, ScriptedSegment, product_table, recorded_ledger

TABLE, OTHER = product_table(), product_table(2, 5, 3)
CHANCE = Chance(one_in=64, longest_ns=STEP_NS)
STEP_FLOP = CEILING_FLOP_PER_S * STEP_NS // 10**9


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def replayed(segment, *tables, times=10**6, chance=CHANCE, **fields) -> None:
    """Count tables 20,000 times, each of them an audit, and replay them `times` times."""
    segment.run(*tables, times=20_000, audits=20_000 * len(tables))
    segment.run(*tables, times=times, basis="replayed", chance=chance, **fields)


def test_audits_make_replayed_work_sure_but_for_what_they_can_have_missed(run):
    """If this failed, audits would cost time and prove nothing, or prove too much."""
    with ScriptedSegment(run) as segment:
        replayed(segment, TABLE)
        segment.end()
    account = Account.of(run)
    assert account.flop == 1_020_000 * 60
    assert account.interval == (account.flop - 192 * 60, account.flop + 192 * STEP_FLOP)
    assert (account.audits, account.misses, account.unsure_passages) == (20_000, 0, 192)
    assert account.unsure == {("forward", "undeclared"): 192 * 60}


def test_audits_that_no_passage_was_counted_for_are_none(run):
    """Else a ledger makes itself sure by a number that stands for nothing."""
    with ScriptedSegment(run) as segment:
        segment.run(TABLE, times=2)
        segment.run(TABLE, times=10**6, basis="replayed", chance=CHANCE, audits=10**9)
        segment.end()
    assert Account.of(run).lower == 2 * 60


def test_a_miss_opens_what_was_booked_at_that_table_on_every_rank(run):
    """Else what one rank found out leaves the others as sure as before."""
    for rank in range(2):
        with ScriptedSegment(run, rank=rank) as segment:
            replayed(segment, TABLE, OTHER)
            if rank == 1:
                segment.run(TABLE, audits=1, misses=1)
                segment.note("miss", {"booked": TABLE.name, "family": None})
            segment.end()
    account = Account.of(run)
    counted = 60 + 2 * 20_000 * 120
    assert account.lower == counted + 2 * (10**6 - 5 * 64) * 60, "of the other table, 3 + 2 a rank"
    assert account.misses == 1


def test_a_miss_of_work_without_a_table_opens_all_of_that_rank(run):
    """Else what was wrong stays sure because nobody kept what it was booked at."""
    with ScriptedSegment(run) as segment:
        replayed(segment, TABLE)
        loose = OTHER.tally * 10**6
        segment.run(loose=loose, times=1, basis="replayed", chance=CHANCE)
        before = Account.of(run, live=True)
        segment.note("miss", {"booked": OTHER.name, "family": None})
        segment.end()
    account = Account.of(run)
    assert account.upper < before.upper + STEP_FLOP
    assert account.lower == 1_020_000 * 60 - 192 * 60
    assert account.unsure_passages == 193


def test_a_miss_of_a_family_opens_that_family_of_that_segment_alone(run):
    families = [
        Ran(purpose="undeclared", basis="interpolated", times=10**6, ns=10**6 * STEP_NS, tally=TABLE.tally * 10**6,
            most_flop=60, family=name, chance=CHANCE)
        for name in ("0", "1")
    ]  # fmt: skip
    for rank in range(2):
        with ScriptedSegment(run, rank=rank) as segment:
            segment.run(TABLE, times=40_000, audits=40_000)
            segment.record(families)
            if rank == 0:
                segment.note("miss", {"booked": None, "family": "1"})
            segment.end()
    account = Account.of(run)
    assert account.unsure_passages == 10**6 + 2 * 192
    assert account.lower == 2 * 40_000 * 60 + 3 * 10**6 * 60 - 2 * 192 * 60


@pytest.mark.parametrize("body", [{}, {"booked": None, "family": None}, {"booked": "0" * 64, "family": "1"},
                                  {"booked": "x"}, {"family": ["1"]}])  # fmt: skip
def test_a_miss_that_names_nothing_is_refused(run, body):
    """Else a line that should widen the interval is passed over."""
    with ScriptedSegment(run) as segment:
        segment.note("miss", body)
        segment.end()
    with pytest.raises(LedgerUnreadableError):
        Account.of(run)


@pytest.mark.parametrize(
    "chance",
    [
        replace(CHANCE, longest_ns=STEP_NS - 1),
        replace(CHANCE, longest_ns=10**6 * STEP_NS + 1),
        replace(CHANCE, lower=10**6 * 60 + 1, upper=10**9),
        replace(CHANCE, lower=0, upper=10**6 * 60 - 1),
    ],
)
def test_a_chance_that_cannot_be_is_refused(run, chance):
    """Else whoever writes the ledger narrows the interval by a slip."""
    with ScriptedSegment(run) as segment:
        replayed(segment, TABLE, chance=chance)
        segment.end()
    with pytest.raises(LedgerUnreadableError):
        Account.of(run)


@pytest.mark.parametrize("one_in", [0, 1, 10**59])
def test_a_chance_that_is_none_leaves_work_open(run, one_in):
    with ScriptedSegment(run) as segment:
        replayed(segment, TABLE, chance=replace(CHANCE, one_in=one_in))
        segment.end()
    account = Account.of(run)
    assert account.interval == (20_000 * 60, 20_000 * 60 + 10**6 * STEP_FLOP)


def test_a_counted_passage_with_operators_without_a_formula_did_no_less_than_was_counted(run):
    """Else where the clock stood still the most is less than the least."""
    with ScriptedSegment(run, ceiling_flop_per_s=1) as segment:
        segment.run(product_table(unknown=1))
        segment.end()
    assert Account.of(run).interval == (60, 60)


def test_a_table_that_stands_nowhere_is_named(run):
    with ScriptedSegment(run) as segment:
        segment.record([Ran(purpose="undeclared", basis="counted", times=1, ns=1, table="0" * 64)])
        segment.end()
    with pytest.raises(LedgerBrokenError, match=r"table 000000000000… ran"):
        Account.of(run)


def test_sums_are_named_as_an_account_names_them(run):
    (segment,) = read_run(recorded_ledger(run)).segments
    sums = Sums()
    sums.add_segment(segment, None, live=False)
    fields = sums.fields()
    assert (fields["tally"].flop, fields["lower"], fields["audits"]) == (630, 270, 0)
    assert fields["unsure_passages"] == 6


def test_what_was_declared_of_a_counted_passage_is_in_the_figure_and_not_in_its_lower_end(run):
    """The verifier holds `lower` against what was counted: with a claim in it, an honest ledger would be refused."""
    claim = OpCount(
        op="triton::declared", kind="other", phase="forward", precision="16-bit", basis="declared", calls=1, flop=40
    )
    loose = Tally.of((*TABLE.tally.counts, claim))
    with ScriptedSegment(run) as segment:
        segment.run(loose=loose)
        segment.end()
    account = Account.of(run)
    assert (account.flop, account.lower) == (100, 60)
    assert account.upper == STEP_FLOP
    assert {basis: part.flop for basis, part in account.tally.by("basis").items()} == {"counted": 60, "declared": 40}


def standing(sizes, index):
    """Say where a rank stands on axes of these names and sizes, the last of which is the fastest."""
    axes = []
    for name, size in reversed(sizes.items()):
        index, at = divmod(index, size)
        axes.append(Axis(name=name, size=size, index=at, role=role_of(name)))
    return Coordinates(tuple(sorted(axes)))


@pytest.mark.parametrize(
    ("sizes", "told", "expected"),
    [
        ({"dp": 4}, [8, 8, 8, 8], 32),
        ({"dp": 2, "tp": 2}, [8, 8, 9, 9], 17),
        ({"dp": 2, "pp": 2}, [0, 8, 0, 9], 17),
        ({"dp": 2, "rows": 2}, [8, 8, 8, 8], 32),  # nobody knows what ranks along it share
        ({"tp": 2}, [8, 8, 8, 8], 32),  # nor what the other axis is
        ({"cp": 2, "tp": 2}, [4, 4, 4, 4], 8),
    ],
)
def test_ranks_that_share_their_examples_have_trained_them_once(run, sizes, told, expected):
    """If this failed, 6ND of a run with eight ranks for each layer would be eight times what it is."""
    for rank, tokens in enumerate(told):
        with ScriptedSegment(
            run, rank=rank, header={"book": BOOK, "convention": "fm-1", "world": str(len(told))}
        ) as segment:
            segment.note("coordinates", standing(sizes, rank).to_wire())
            segment.run(TABLE, tokens=tokens)
            segment.end()
    assert Account.of(run).tokens == expected


def test_tokens_of_another_grid_are_others(run):
    """If this failed, a run that went on with stages in place of parts of layers would lose half of its tokens."""
    for sizes in ({"dp": 2, "tp": 2}, {"dp": 2, "pp": 2}):
        for rank in range(4):
            with ScriptedSegment(run, rank=rank, header={"book": BOOK, "convention": "fm-1", "world": "4"}) as segment:
                segment.note("coordinates", standing(sizes, rank).to_wire())
                segment.run(TABLE, tokens=8)
                segment.end()
    assert Account.of(run).tokens == 32


@pytest.mark.parametrize(("stages", "expected"), [(4, Model(parameters=22, trainable=18, embedding=10)), (3, None)])
def test_the_stages_of_a_pipeline_are_one_model(run, stages, expected):
    """If this failed, the first stage would pass for the model, with the tokens of all."""
    for rank in range(stages):
        with ScriptedSegment(run, rank=rank, header={"book": BOOK, "convention": "fm-1", "world": "4"}) as segment:
            segment.note("coordinates", standing({"dp": 2, "pp": 2}, rank).to_wire())
            if rank != 1 or stages == 4:
                size = (
                    Model(parameters=12, trainable=9, embedding=10)
                    if rank % 2 == 0
                    else Model(parameters=10, trainable=9, embedding=0)
                )
                segment.note("model", size.to_wire())
            segment.run(TABLE)
            segment.end()
    assert Account.of(run).model == expected


def test_a_grid_of_more_ranks_than_the_header_knows_of_misses_them(run):
    """If this failed, a meter that began before its process joined the others would say that it has seen all of it."""
    with ScriptedSegment(run, header={"book": BOOK, "convention": "fm-1", "world": "1"}) as segment:
        segment.note("coordinates", standing({"dp": 4}, 0).to_wire())
        segment.run(TABLE)
        segment.end()
    account = Account.of(run)
    assert [(gap.reason, gap.detail) for gap in account.gaps] == [
        ("missing ranks", "3 of 4 ranks left no ledger here: 1, 2, 3")
    ]
    assert account.upper is None
