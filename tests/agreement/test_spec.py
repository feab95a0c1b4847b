"""The document and the book cannot differ: `docs/spec/fm-1.md` is read, table by table."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from flopmeter.formulas import (
    activation,
    class_loss,
    compiled,
    loss,
    pointwise,
    recurrent,
    region,
    sampling,
    scaled,
    shared_norm,
    spectral,
)
from flopmeter.formulas import complex as complex_numbers
from flopmeter.formulas.book import FAMILIES, FormulaBook
from flopmeter.tally import KINDS

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "fm-1.md"
TEXT = SPEC.read_text(encoding="utf-8")
BOOK = FormulaBook.standard()


def rows_of(family):
    """Rows of the table under a family's heading: operators, kinds, formula, note."""
    section = re.search(rf"^## {family}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section, f"no section for {family}"
    lines = [line for line in section.group(1).splitlines() if line.startswith("|")]
    assert lines[0] == "| op | kind | formula | note |"
    rows = []
    for line in lines[2:]:
        op, kind, formula, note = (cell.strip() for cell in line.replace("\\|", "\0").strip("|").split(" | ", 3))
        assert re.fullmatch(r"`[^`]+`( `[^`]+`)*", op), line
        rows.append((re.findall(r"`([^`]+)`", op), kind.split(" + "), formula, note.rstrip(" |")))
    return rows


TABLES = {family: rows_of(family) for family in FAMILIES}
WRITTEN = {op: (family, kinds) for family, rows in TABLES.items() for ops, kinds, _, _ in rows for op in ops}
FORMULA_OF = {op: formula for rows in TABLES.values() for ops, _, formula, _ in rows for op in ops}


def print_rate(rate, letter="n"):
    return letter if rate == 1 else f"{rate}·{letter}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_list_what_the_book_prices_and_nothing_else(family):
    """Else people implement a convention that is not the one we count by."""
    listed = [op for ops, _, _, _ in TABLES[family] for op in ops]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(import_module(f"flopmeter.formulas.{family}").FORMULAS)


def test_together_the_tables_are_the_book():
    assert set(WRITTEN) == set(BOOK.entries)


def test_the_kind_is_the_same_in_document_and_book():
    """Else `contraction_flop` means one thing on paper and another in a ledger."""
    assert {op: kinds[0] for op, (_, kinds) in WRITTEN.items()} == {op: row.kind for op, row in BOOK.entries.items()}
    assert {kind for _, kinds in WRITTEN.values() for kind in kinds} <= set(KINDS)


@pytest.mark.parametrize("op", [*pointwise.RATES, *activation.RATES])
def test_rates_per_element_are_those_of_the_document(op):
    """Else an activation's figure changes and the page still shows the old one."""
    rates = {**pointwise.RATES, **activation.RATES}
    assert FORMULA_OF[op] == print_rate(rates[op])


@pytest.mark.parametrize("op", [f"aten::_foreach_{name}" for name in pointwise.IN_LISTS])
def test_rates_over_lists_are_those_of_the_document(op):
    assert FORMULA_OF[op] == print_rate(pointwise.RATES[op.replace("_foreach_", "")])


@pytest.mark.parametrize("name", complex_numbers.RATES)
def test_rates_of_complex_numbers_are_those_of_the_document(name):
    rate = print_rate(complex_numbers.RATES[name])
    assert FORMULA_OF[f"complex::aten.{name}"] == rate
    if name in complex_numbers.IN_LISTS:
        assert FORMULA_OF[f"complex::aten._foreach_{name}"] == rate


@pytest.mark.parametrize("op", spectral.WINDOWS)
def test_rates_of_windows_are_those_of_the_document(op):
    assert FORMULA_OF[op] == print_rate(spectral.WINDOWS[op])


@pytest.mark.parametrize("op", [*loss.RATES, *loss.BACKWARD_RATES])
def test_rates_of_losses_are_those_of_the_document(op):
    formula = FORMULA_OF[op]
    if op in loss.RATES:
        assert formula == f"{print_rate(loss.RATES[op])}; reduce(n)"
    else:
        each, incoming = loss.BACKWARD_RATES[op]
        expected = print_rate(each) + (f" + {print_rate(incoming, 'g')}" if incoming else "")
        assert formula.removesuffix(" + n·[mean]") == expected


@pytest.mark.parametrize(("mode", "cell"), list(enumerate(recurrent.MODES)))
def test_a_step_of_each_recurrent_cell_costs_what_the_document_says(mode, cell):
    (row,) = re.findall(rf"^{mode} +{cell} +(\d+) +(\d+) +(\d+) ", TEXT, re.MULTILINE)
    known = recurrent.CELLS[cell]
    assert tuple(map(int, row)) == (known.gates, known.forward, known.backward)


def test_formats_that_include_their_scales_are_those_of_the_document():
    """Else a ledger and the page name the same arithmetic differently."""
    rows = re.findall(r"^(fp8_\w+) +((?:fp\w+ )+) *(\w+) +(\d+)$", TEXT, re.MULTILINE)
    written = {(scale, element): name for scale, elements, name, _ in rows for element in elements.split()}
    assert written == scaled.MICROSCALED
    assert {int(block) for *_, block in rows} | {None, 128} == set(scaled.BLOCKS.values())


def test_activations_below_a_product_are_those_of_the_document():
    (text,) = re.findall(r"^unary +(.*), in its tanh form 9$", TEXT, re.MULTILINE)
    assert {name: int(rate) for name, rate in (item.split() for item in text.split(", "))} == compiled.UNARY


def test_weights_between_pixels_are_those_of_the_document():
    """Else the page explains another cubic than the one that is counted."""
    steps = dict(re.findall(r"^(cubic|slopes|reflect|between) +(\d+)", TEXT, re.MULTILINE))
    assert (int(steps["cubic"]), int(steps["slopes"])) == (sampling.CUBIC, sampling.CUBIC_SLOPES)
    assert (int(steps["reflect"]), int(steps["between"])) == (sampling.REFLECTED, region.WEIGHTS)
    assert f"{region.WEIGHTS}·N·T·W·Y + {region.BETWEEN}·c" in TEXT
    (text,) = re.findall(r"^filters +w, f = (.*)$", TEXT, re.MULTILINE)
    written = re.findall(r"(\w+) (\d+), (\d+) \(", text)
    assert {name: (int(width), int(rate)) for name, width, rate in written} == sampling.FILTERS


def test_steps_of_sequences_and_shared_norms_are_those_of_the_document():
    cell, join, end = class_loss.CELL, class_loss.JOIN, class_loss.END
    assert FORMULA_OF["aten::_ctc_loss"].startswith(f"Σ {cell}·(T − 1)")
    backward = FORMULA_OF["aten::_ctc_loss_backward"]
    assert backward.startswith(f"Σ {cell + join}·(T − 1)")
    assert backward.endswith(f"{class_loss.CLASS}·T·C")
    assert f"`end = {end}`" in TEXT
    assert FORMULA_OF["aten::batch_norm_gather_stats"].startswith(f"{shared_norm.MERGE}·R·C")


def test_what_moves_is_said_to_cost_nothing():
    assert {FORMULA_OF[op] for ops, _, _, _ in TABLES["movement"] for op in ops} == {"0"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_source_that_a_formula_names_is_a_section_of_the_document(family):
    """Else the docstring sends a reader to a place that is not there."""
    source = Path(import_module(f"flopmeter.formulas.{family}").__file__).read_text(encoding="utf-8")
    anchors = re.findall(r"docs/spec/fm-1\.md#([\w-]+)", source)
    assert set(anchors) == ({family} if TABLES[family] else set())


def test_every_formula_with_several_kinds_says_them_all():
    """Else a reader thinks that a fused operator is all products."""
    for family in ("matmul", "convolution", "attention"):
        for ops, kinds, formula, _ in TABLES[family]:
            if family != "attention":
                assert formula.count(";") + 1 == len(kinds), ops
            assert len(set(kinds)) == len(kinds), ops
