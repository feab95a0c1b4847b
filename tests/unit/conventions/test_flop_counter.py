"""What torch's counter would print, from the calls in a ledger; against the counter itself: tests/agreement."""

from dataclasses import replace

import pytest

from flopmeter.account import Account
from flopmeter.conventions.flop_counter import translate_flop_counter
from flopmeter.conventions.translation import Given
from flopmeter.coordinates import Axis, Coordinates
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.ledger.merge import read_run
from flopmeter.step import Row, Table
from flopmeter.tally import Tally
from flopmeter.testing.ledgers import BOOK, ScriptedSegment

STANDARD = FormulaBook.standard()
SHAPE = (2, 3, 8, 16)
FLASH = OpCall.of("aten::_scaled_dot_product_flash_attention", SHAPE, SHAPE, SHAPE, 0.0, True, out=[SHAPE])
ON_CPU = OpCall.of("aten::_scaled_dot_product_flash_attention_for_cpu", SHAPE, SHAPE, SHAPE, 0.0, True, out=[SHAPE])
BIASED = OpCall.of("aten::addmm", (5,), (2, 3), (3, 5), out=[(2, 5)])
WHOLE = OpCall.of("aten::mm", (2, 3), (3, 5), dtype="int64", out=[(2, 5)])
COMPLEX = OpCall.of("aten::mm", (2, 3), (3, 5), dtype="complex64", out=[(2, 5)])
VECTOR = OpCall.of("aten::mv", (2, 3), (3,), out=[(2,)])


def table(*calls, inside=(), beyond=()):
    rows = [Row(call=call, phase="forward", calls=2, inside=inside) for call in calls]
    kept, rest = ([STANDARD.count(call, calls=2, phase="forward") for call in some] for some in (calls, beyond))
    beyond_tally = sum(rest, Tally())
    return Table(tuple(rows), sum(kept, Tally()) + beyond_tally, beyond_tally)


def translate(folder, *tables, torch="2.13.0+cpu", loose=None, header=None, basis="counted"):
    fields = {"book": BOOK, "convention": "fm-1", "versions": {"torch": torch}} | (header or {})
    with ScriptedSegment(folder / "run", header=fields) as segment:
        segment.run(*tables, times=3, loose=loose, basis=basis)
        segment.end()
    ledger = read_run(folder / "run")
    return translate_flop_counter(Given.of(Account.of(ledger), ledger))


def lines_of(found):
    return {line.term: line.flop for line in found.bridge}


def test_causal_attention_counts_in_full(tmp_path):
    """Else its figure for a GPT on a GPU would be ours with another name."""
    found = translate(tmp_path, table(FLASH))
    assert found.flop == 6 * 2 * 3 * (2 * 2 * 8 * 8 * 16)
    assert lines_of(found)["pairs that a mask skips"] == 6 * 2 * 3 * (2 * 2 * 28 * 16)


def test_attention_on_a_cpu_is_a_zero_that_has_a_name(tmp_path):
    """Else nobody sees what its zeros leave out."""
    found = translate(tmp_path, table(ON_CPU))
    assert found.flop == 0
    assert lines_of(found)[ON_CPU.op] == -6 * 2 * 3 * (2 * 2 * 36 * 16)
    assert "torch 2.13" in found.bridge[-1].why


def test_from_the_release_that_has_a_formula_it_counts(tmp_path):
    """Else a run on another torch would be told the figure of this one."""
    assert translate(tmp_path, table(ON_CPU), torch="2.15.0").flop == 6 * 2 * 3 * (2 * 2 * 8 * 8 * 16)


def test_what_is_no_product_and_has_no_formula_is_left_out_by_name(tmp_path):
    found = translate(tmp_path, table(BIASED, VECTOR))
    assert found.flop == 6 * 2 * 2 * 3 * 5
    assert lines_of(found) == {"pointwise": -6 * 2 * 5, "aten::mv": -6 * 2 * 2 * 3}


def test_whole_and_complex_numbers_count_as_real_ones(tmp_path):
    """Else the figures of two programs that torch's counter cannot tell apart would differ here."""
    found = translate(tmp_path, table(WHOLE, COMPLEX))
    assert found.flop == 2 * 6 * 2 * 2 * 3 * 5
    assert lines_of(found) == {"products of integers": 6 * 60, "complex numbers": -3 * 6 * 60}


@pytest.mark.parametrize(
    ("groups", "mask", "more"), [(4, (True, True, False), 3), (4, (True, False, False), 0), (1, (True, True, False), 0)]
)
def test_the_weight_gradient_of_groups_is_multiplied_by_them(tmp_path, groups, mask, more):
    """Else depthwise networks would seem to cost in torch's counter what they cost."""
    shapes = (1, 8, 10), (1, 8, 12), (8, 8 // groups, 3)
    out = [(1, 8, 12), (8, 8 // groups, 3)]
    call = OpCall.of("aten::convolution_backward", *shapes, [8], [1], [0], [1], False, [0], groups, mask, out=out)
    found = translate(tmp_path, table(call))
    assert lines_of(found).get("groups of convolutions", 0) == 6 * more * 2 * 8 * (8 // groups) * 3 * 10


def test_what_runs_inside_of_a_librarys_operator_is_not_seen(tmp_path):
    found = translate(tmp_path, table(BIASED, inside=("mylib::block",)))
    assert found.flop == 0
    assert lines_of(found)["inside others"] == -6 * 60


def test_convolutions_whose_calls_are_not_kept_cannot_be_told(tmp_path):
    """Else groups that nobody can see would be taken for none."""
    shapes = (1, 8, 10), (1, 8, 12), (8, 2, 3)
    out = [(1, 8, 12), (8, 2, 3)]
    call = OpCall.of(
        "aten::convolution_backward", *shapes, [8], [1], [0], [1], False, [0], 4, (True, True, False), out=out
    )
    found = translate(tmp_path, table(BIASED, beyond=[call]))
    assert found.flop is None
    assert "aten::convolution_backward" in found.missing[0]


def test_other_products_whose_calls_are_not_kept_are_taken_for_plain_ones_and_that_is_said(tmp_path):
    found = translate(tmp_path, table(BIASED), loose=STANDARD.count(BIASED, calls=1, phase="forward"))
    assert found.flop == 7 * 60
    assert "not kept call by call" in found.notes[0]


def test_where_it_stops_with_an_error_there_is_no_figure(tmp_path):
    """Else a run with flex_attention would be told a figure that the counter never printed."""
    op = "higher_order::flex_attention"
    counts = [replace(count, op=op) for count in STANDARD.count(FLASH, calls=1, phase="forward").counts]
    found = translate(tmp_path, table(BIASED), loose=Tally.of(counts))
    assert found.flop is None
    assert "flex_attention" in found.missing[0]


def test_a_foreign_formula_may_or_may_not_be_known_to_torch(tmp_path):
    """Else an operator that torch's counter was told of would be a zero of it."""
    header = {"foreign_formulas": {"aten::mv": "mylib.flop.mv"}}
    found = translate(tmp_path, table(VECTOR), header=header)
    assert found.flop is None
    assert "mylib.flop.mv" in found.missing[0]


@pytest.mark.parametrize(
    ("torch", "said"),
    [("2.9.1", "torch 2.9"), ("2.99.0", "that of 2.99 was not read"), ("", "the ledger names none")],
)
def test_which_release_it_is_of_is_said(tmp_path, torch, said):
    assert said in translate(tmp_path, table(BIASED), torch=torch).tool.source


def test_a_sparse_operand_counts_as_a_dense_one(tmp_path):
    """Else a sparse layer would seem to cost in torch's counter what it stores."""
    sparse, dense = TensorSpec((4, 6), stored=8), TensorSpec((6, 5))
    call = OpCall(op="aten::mm", args=(sparse, dense), out=(TensorSpec((4, 5)),))
    found = translate(tmp_path, table(call))
    assert found.flop == 6 * 2 * 4 * 6 * 5
    assert lines_of(found)["sparse operands"] == 6 * (2 * 4 * 6 * 5 - 2 * 8 * 5)


def test_a_call_that_only_torchs_counter_can_price_cannot_be_told(tmp_path):
    """Else an operator that we refused would be a zero of theirs."""
    strange = OpCall.of("aten::mm", (2, 3), (4, 5), dtype="complex64", out=[(2, 5)])
    found = translate(tmp_path, table(BIASED, strange))
    assert found.flop is None
    assert "ours refused" in found.missing[0]


def test_several_ranks_are_a_sum_of_what_it_prints(tmp_path):
    for rank in (0, 1):
        with ScriptedSegment(tmp_path / "run", rank=rank, header={"book": BOOK}) as segment:
            segment.run(table(BIASED))
            segment.end()
    ledger = read_run(tmp_path / "run")
    found = translate_flop_counter(Given.of(Account.of(ledger), ledger))
    assert found.flop == 2 * 2 * 60
    assert "sum over 2 ranks" in found.notes[0]


def test_under_tensor_parallelism_it_is_said_that_the_whole_is_counted_on_each_rank(tmp_path):
    """Else our parts would be set beside its wholes, and differ by the number of ranks without a word."""
    with ScriptedSegment(tmp_path / "run", header={"book": BOOK, "world": "1"}) as segment:
        axis = Axis(name="tp", size=2, index=0, role="model")
        segment.note("coordinates", Coordinates((axis,)).to_wire())
        segment.end()
    ledger = read_run(tmp_path / "run")
    notes = translate_flop_counter(Given.of(Account.of(ledger), ledger)).notes
    assert any("the whole on each rank" in note for note in notes)


def test_scalars_beside_complex_operands_change_nothing(tmp_path):
    call = OpCall.of("aten::addmm", (5,), (2, 3), (3, 5), dtype="complex64", out=[(2, 5)], beta=1, alpha=1)
    found = translate(tmp_path, table(call))
    assert found.flop == 6 * 2 * 2 * 3 * 5
    assert lines_of(found)["complex numbers"] == -3 * 6 * 60
