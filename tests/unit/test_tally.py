"""Tallies: exact sums by cell, and what was seen but not counted."""

from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.errors import MalformedError
from flopmeter.tally import BASES, CONTRACTIONS, DIMENSIONS, KINDS, PHASES, PURPOSES, OpCount, Tally, Uncounted


def count(**fields):
    return OpCount(
        **{"op": "aten::mm", "kind": "matmul", "phase": "forward", "precision": "fp32", "calls": 1, **fields}
    )


MIXED = Tally.of(
    [
        count(flop=100, calls=2),
        count(phase="backward", flop=200, calls=4),
        count(op="aten::add", kind="pointwise", flop=7),
        count(op="aten::add", kind="pointwise", precision="int64", int_op=9),
        count(op="aten::sdpa", kind="attention", precision="bf16", flop=40, masked_flop=30),
    ],
    [Uncounted(op="mylib::attn", calls=2, elements=50)],
)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "gemm"},
        {"phase": "warmup"},
        {"purpose": "fun"},
        {"basis": "guessed"},
        {"calls": -1},
        {"flop": -1},
        {"int_op": -1},
        {"masked_flop": -1},
    ],
)
def test_a_count_outside_the_contract_is_refused(fields):
    """Else a typing error makes a new kind, and sums over the known kinds miss it."""
    with pytest.raises(ValueError):
        count(**fields)


def test_counts_of_one_cell_are_added_and_cells_are_kept_apart():
    """Else a tally grows with the length of the run, or two precisions fall into one figure."""
    tally = Tally.of(
        [count(flop=1, calls=2), count(flop=10, precision="bf16"), count(flop=100, int_op=3, masked_flop=5)]
    )
    assert len(tally.counts) == 2
    assert tally.select(precision="fp32").counts == (count(flop=101, calls=3, int_op=3, masked_flop=5),)


def test_the_order_of_counting_does_not_show():
    """Else two ranks that did the same have different digests."""
    assert Tally.of(reversed(MIXED.counts), MIXED.uncounted) == MIXED


def test_measures_are_sums_over_what_was_counted():
    assert (MIXED.flop, MIXED.int_op, MIXED.masked_flop, MIXED.calls) == (347, 9, 30, 9)


def test_contractions_are_products_only():
    """Else the figure that is set beside other counters holds work that they do not know."""
    assert MIXED.contraction_flop == 340
    assert set(KINDS) >= CONTRACTIONS
    every = Tally.of(count(kind=kind, flop=1) for kind in KINDS)
    assert every.contraction_flop == len(CONTRACTIONS) == 4


def test_skipped_pairs_are_not_work():
    """Else causal attention is counted in full after all."""
    assert Tally.of([count(kind="attention", masked_flop=30)]).flop == 0


def test_coverage_is_the_share_of_calls_that_had_a_formula():
    """Else a run full of unknown operators looks complete."""
    assert MIXED.coverage() == 9 / 11
    assert Tally.of([count()]).coverage() == 1
    assert Tally.of([], [Uncounted(op="x::y", calls=3, elements=0)]).coverage() == 0
    assert Tally().coverage() is None


def test_uncounted_calls_of_one_operator_are_added():
    one = Uncounted(op="x::y", calls=3, elements=5)
    assert Tally.of([], [one, one]).uncounted == (Uncounted(op="x::y", calls=6, elements=10),)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_split_adds_up_to_the_whole(dimension):
    """Else a report's parts do not sum to its total."""
    parts = MIXED.by(dimension)
    assert sum(part.flop for part in parts.values()) == MIXED.flop
    assert set(parts) == {getattr(cell, dimension) for cell in MIXED.counts}
    for value, part in parts.items():
        assert part == MIXED.select(**{dimension: value})


def test_selecting_by_several_dimensions_takes_what_has_all_of_them():
    assert MIXED.select(kind="matmul", phase="backward").flop == 200
    assert MIXED.select(kind="matmul", precision="bf16") == Tally()


def test_a_dimension_that_does_not_exist_is_a_mistake():
    """Else a typing error answers zero."""
    with pytest.raises(ValueError, match="kinds"):
        MIXED.by("kinds")
    with pytest.raises(ValueError, match="dtype"):
        MIXED.select(dtype="bf16")


def test_labels_are_put_on_every_count_and_change_no_figure():
    labelled = MIXED.labelled(purpose="evaluation", basis="replayed")
    assert set(labelled.by("purpose")) == {"evaluation"}
    assert set(labelled.by("basis")) == {"replayed"}
    assert (labelled.flop, labelled.calls, labelled.uncounted) == (MIXED.flop, MIXED.calls, MIXED.uncounted)


def test_labels_that_meet_are_added():
    two = Tally.of([count(flop=1), count(flop=2, basis="replayed")])
    assert two.labelled(purpose="undeclared", basis="counted").counts == (count(flop=3, calls=2),)


def test_what_somebody_declared_stays_declared():
    """Else a claim about a kernel becomes a count as soon as its passage is replayed."""
    tally = Tally.of([replace(count(flop=3), basis="declared"), count(flop=2)])
    labelled = tally.labelled(purpose="pretraining", basis="replayed")
    assert {basis: part.flop for basis, part in labelled.by("basis").items()} == {"declared": 3, "replayed": 2}


@pytest.mark.parametrize("times", [-1, 1.5, True, "2", None])
def test_a_tally_is_multiplied_by_whole_numbers_only(times):
    """Else half a passage is counted."""
    with pytest.raises(TypeError):
        MIXED * times


def test_a_tally_is_added_to_tallies_only():
    with pytest.raises(TypeError):
        MIXED + 1


def test_no_times_is_nothing():
    assert Tally() == MIXED * 0


def test_figures_have_no_upper_end():
    """Else the sum of a large run wraps around or loses its last digits."""
    huge = Tally.of([count(flop=10**30 + 1)]) * 10**20
    assert huge.flop == 10**50 + 10**20


def test_a_tally_survives_the_wire():
    data = wire.encode(MIXED.to_wire())
    assert Tally.from_wire(wire.decode_canonical(data)) == MIXED


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(
            (name, wrong)
            for name in (*DIMENSIONS, "calls", "flop", "int_op", "masked_flop")
            for wrong in (None, True, [])
        ),
        *((name, "-1") for name in ("kind", "phase", "purpose", "basis", "calls", "flop", "int_op", "masked_flop")),
    ],
)
def test_a_count_with_a_wrong_field_is_refused(name, wrong):
    """Else an edited ledger is read as something."""
    with pytest.raises(MalformedError):
        OpCount.from_wire({**count().to_wire(), name: wrong})


@pytest.mark.parametrize("value", [None, [], {"counts": []}, {"uncounted": []}, {"counts": [{}], "uncounted": []}])
def test_a_tally_with_a_field_missing_is_refused(value):
    with pytest.raises(MalformedError):
        Tally.from_wire(value)


@pytest.mark.parametrize("name", ["op", "calls", "elements"])
def test_an_uncounted_call_with_a_field_missing_is_refused(name):
    fields = Uncounted(op="x::y", calls=1, elements=2).to_wire()
    del fields[name]
    with pytest.raises(MalformedError):
        Uncounted.from_wire(fields)


def test_the_lists_of_the_contract_hold_no_name_twice():
    for names in (PHASES, PURPOSES, KINDS, BASES):
        assert len(set(names)) == len(names)


def test_a_count_is_a_value():
    assert replace(count(flop=1), flop=2) == count(flop=2)
    with pytest.raises(AttributeError):
        count().flop = 5
