"""What a ledger keeps of a step."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from flopmeter.errors import MalformedError
from flopmeter.formulas.call import OpCall
from flopmeter.step import Chance, Ran, Row, Steps, Table, Totals
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import product_table
from flopmeter.usage import Usage

RAN = Ran(table="a" * 64, purpose="undeclared", basis="counted", times=3, ns=7)
TOTALS = Totals(flop=1, int_op=2, masked_flop=3, contraction_flop=4, tokens=5, steps=6)
STEPS = Steps(
    first=0,
    count=1,
    tokens=8,
    samples=1,
    started_ns=0,
    ended_ns=9,
    own_ns=1,
    ran=(RAN,),
    usage=Usage(),
    ceiling_flop_per_s=None,
    total=TOTALS,
    audits=2,
    misses=1,
)
CHANCE = Chance(one_in=64, longest_ns=5, lower=150, upper=250)
REPLAYED = Ran(table="a" * 64, purpose="undeclared", basis="replayed", times=3, ns=7, chance=CHANCE)
LOOSE = Ran(
    tally=product_table().tally,
    most_flop=25,
    family="7",
    purpose="undeclared",
    basis="interpolated",
    times=3,
    ns=7,
    chance=Chance(one_in=0, longest_ns=7),
)


@pytest.mark.parametrize(
    "value", [RAN, REPLAYED, LOOSE, CHANCE, TOTALS, STEPS, product_table(unknown=2), product_table().rows[0]]
)
def test_values_travel_and_come_back(value):
    assert type(value).from_wire(value.to_wire()) == value


def test_a_table_is_named_by_what_ran_and_not_by_what_it_is_said_to_cost():
    """Else a recount with other formulas would be about another table."""
    table = product_table()
    assert Table(table.rows, Tally()).name == table.name
    assert product_table(2, 3, 6).name != table.name
    beyond = Tally.of([OpCount(op="x::y", kind="other", phase="forward", precision="fp32", calls=1)])
    assert Table(table.rows, table.tally, beyond).name != table.name


def test_a_table_under_a_wrong_name_is_refused():
    with pytest.raises(MalformedError, match="digest of its rows"):
        Table.from_wire({**product_table().to_wire(), "table": "0" * 64})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Ran, {"purpose": "fun"}),
        (Ran, {"basis": "guessed"}),
        (Ran, {"times": "-1"}),
        (Ran, {"table": "x"}),
        (Row, {"phase": "sideways"}),
        (Steps, {"count": None}),
        (Steps, {"ceiling_flop_per_s": "fast"}),
        (Steps, {"ran": "none"}),
        (Totals, {"flop": "1.5"}),
    ],
)
def test_a_field_of_another_form_is_refused(kind, change):
    row = Row(call=OpCall.of("aten::mm", (2, 3), (3, 5)), phase="forward", calls=1)
    value = {Ran: RAN, Row: row, Steps: STEPS, Totals: TOTALS}[kind]
    with pytest.raises(MalformedError):
        kind.from_wire({**value.to_wire(), **change})


@pytest.mark.parametrize(
    ("ran", "change", "said"),
    [
        (RAN, {"table": None}, "one of the two"),
        (RAN, {"tally": product_table().tally}, "one of the two"),
        (RAN, {"family": "7"}, "of loose work"),
        (RAN, {"most_flop": 1}, "of loose work"),
        (RAN, {"times": 0}, "ran no times"),
        (RAN, {"chance": CHANCE}, "no chance"),
        (LOOSE, {"most_flop": 19}, "cannot have cost 60 FLOP"),
        (REPLAYED, {"chance": replace(CHANCE, longest_ns=2)}, "as the longest"),
        (REPLAYED, {"chance": replace(CHANCE, longest_ns=8)}, "as the longest"),
        (REPLAYED, {"chance": replace(CHANCE, lower=None)}, "without a lower"),
        (REPLAYED, {"chance": replace(CHANCE, upper=None)}, "without an upper"),
        (STEPS, {"misses": 3}, "more than there were"),
    ],
)
def test_what_cannot_be_true_of_any_passages_is_refused(ran, change, said):
    """Else a mistaken or hostile ledger has a narrower interval than an honest one."""
    value = replace(ran, **change).to_wire()
    with pytest.raises(MalformedError, match=said):
        type(ran).from_wire(value)


@pytest.mark.parametrize(("flop", "is_right"), [(149, False), (150, True), (250, True), (251, False)])
def test_a_range_holds_what_was_booked(flop, is_right):
    """Else what was booked lies outside of what it is said to lie between."""
    with nullcontext() if is_right else pytest.raises(MalformedError, match="lie between"):
        REPLAYED.check_ends(flop)
    RAN.check_ends(flop)


def test_totals_add_and_multiply_figure_by_figure():
    assert TOTALS + TOTALS == TOTALS * 2
    assert Totals() == TOTALS * 0
    assert Totals() + TOTALS == TOTALS


def test_totals_of_a_tally_name_each_measure():
    table = product_table()
    assert Totals.of(table.tally, tokens=2, steps=1) == Totals(flop=60, contraction_flop=60, tokens=2, steps=1)


def test_totals_mix_with_nothing_else():
    with pytest.raises(TypeError):
        TOTALS + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        TOTALS * "2"  # type: ignore[operator]
