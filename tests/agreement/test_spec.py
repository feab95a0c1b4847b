"""The document and the book cannot differ: `docs/spec/fm-1.md` is read, table by table."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from flopmeter.formulas import (
    activation,
    class_loss,
    loss,
    pointwise,
    rates,
    recurrent,
    region,
    sampling,
    scaled,
    shared_norm,
    spectral,
)
from flopmeter.formulas import complex as complex_numbers
from flopmeter.formulas.book import FAMILIES, FormulaBook
from flopmeter.formulas.call import OpCall, TensorSpec
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
    assert {name: int(rate) for name, rate in (item.split() for item in text.split(", "))} == rates.ONEDNN


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


def call(op, *args, out=(), **options):
    return OpCall.of(op, *args, out=out, **options)


def ints(*values):
    return TensorSpec((len(values),), "int32", values=values)


Q, BOXES = (1, 2, 3, 4), (5, 4)
FP8, INT8 = "fp8_e4m3", "int8"

WORKED = [
    (call("aten::mm", (2, 3), (3, 5)), {"matmul": 2 * 2 * 5 * 3}),
    (call("aten::addmm", (5,), (2, 3), (3, 5), out=[(2, 5)]), {"matmul": 2 * 2 * 5 * 3, "pointwise": 10}),
    (call("aten::addmm", (5,), (2, 3), (3, 5), beta=0.5, alpha=2), {"matmul": 60, "pointwise": 10 + 5 + 10}),
    (
        call("aten::matmul_backward", (4, 2, 5), (4, 2, 3), (3, 5), [True, True]),
        {"matmul": 2 * 40 * 3 * 2, "reduction": (4 * 2 * 3 - 24) + (4 * 3 * 5 - 15)},
    ),
    (
        # three query rows look at 1, 2 and 3 keys, in two heads
        call("aten::_scaled_dot_product_flash_attention_for_cpu", Q, Q, Q, 0.0, True, out=[Q]),
        {"attention": 2 * 12 * (4 + 4), "pointwise": 12, "normalization": 4 * 12 - 6},
    ),
    (
        call(
            "aten::_scaled_dot_product_flash_attention_for_cpu_backward", Q, Q, Q, Q, Q, (1, 2, 3), 0.0, True, out=[Q]
        ),
        {"attention": 4 * 12 * 8 + 2 * 12 * 4, "pointwise": 12 + 12, "normalization": 4 * 12 - 6 + 2 * 12},
    ),
    (
        # sequences of 2 and 3 tokens, causal, two heads of width 8
        call("torch_attn::_varlen_attn", *[(5, 2, 8)] * 3, ints(0, 2, 5), ints(0, 2, 5), 3, 3, True),
        {"attention": 2 * 18 * (8 + 8), "pointwise": 18, "normalization": 4 * 18 - 10},
    ),
    (
        call(
            "aten::convolution",
            *((1, 2, 5, 5), (4, 2, 3, 3), (4,), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            out=[(1, 4, 3, 3)],
        ),
        {"convolution": 2 * 1 * 4 * 2 * 9 * 9, "pointwise": 1 * 4 * 9},
    ),
    (
        call(
            "aten::convolution_backward",
            *((1, 4, 3, 3), (1, 2, 5, 5), (4, 2, 3, 3), [4]),
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True]),
        ),
        {"convolution": 2 * (2 * 4 * 2 * 9 * 9), "reduction": 4 * 9 - 4},
    ),
    (call("aten::embedding_dense_backward", (6, 4), (6,), 10, -1, False), {"scatter": 6 * 4}),
    (
        call(
            "aten::_embedding_bag",
            (10, 4),
            TensorSpec((6,), "int64"),
            TensorSpec((2,), "int64"),
            False,
            1,
            out=[(2, 4)],
        ),
        {"scatter": 6 * 4, "pointwise": 2 * 4},
    ),
    (
        call("aten::native_layer_norm", (2, 3, 8), [8], (8,), (8,), 1e-5, out=[(2, 3, 8), (2, 3, 1), (2, 3, 1)]),
        {"normalization": 6 * 48 + 2 * 6 + 48 * 2},
    ),
    (call("aten::_softmax", (3, 4), 1, False, out=[(3, 4)]), {"normalization": 4 * 12 - 3}),
    (call("aten::batch_norm_stats", (2, 3, 4), 1e-5, out=[(3,), (3,)]), {"normalization": 4 * 24 + 2 * 3}),
    (call("aten::add", (3, 4), (3, 4), alpha=2, out=[(3, 4)]), {"pointwise": 12 + 12}),
    (call("aten::gelu_backward", (3, 4), (3, 4), out=[(3, 4)]), {"pointwise": 11 * 12}),
    (call("aten::mse_loss", (3, 4), (3, 4), 1, out=[()]), {"pointwise": 2 * 12, "reduction": 12}),
    (call("aten::multi_margin_loss", (3, 4), TensorSpec((3,), "int64"), 1, 1), {"pointwise": 3 + 12, "reduction": 12}),
    (call("aten::cumsum", (3, 4), 1, out=[(3, 4)]), {"reduction": 12 - 3}),
    (
        call("aten::_adaptive_avg_pool2d", (2, 3, 7, 5), [3, 2], out=[(2, 3, 3, 2)]),
        {"reduction": 2 * 3 * (7 + 3 - 1) * (5 + 2 - 1)},
    ),
    (
        call("aten::_adaptive_avg_pool2d_backward", (2, 3, 3, 2), (2, 3, 7, 5)),
        {"reduction": 2 * 3 * 3 * 2, "scatter": 2 * 3 * (7 + 3 - 1) * (5 + 2 - 1)},
    ),
    (
        call("aten::upsample_bilinear2d", (1, 1, 2, 2), [4, 4], False, out=[(1, 1, 4, 4)]),
        {"pointwise": 8 * 4 + 3 * 16 * 3},
    ),
    (
        call("aten::upsample_bicubic2d", (1, 1, 2, 2), [4, 4], True, out=[(1, 1, 4, 4)]),
        {"pointwise": 8 * (4 - 2 + 25) + 35 * 16},
    ),
    (call("torchvision::nms", BOXES, (5,), 0.5), {"pointwise": 3 * 5 + 6 * 5 * 4 // 2}),
    (call("aten::_cdist_forward", (3, 4), (2, 4), 1.0, None), {"pointwise": 6 * 4, "reduction": 2 * 6 * 4 - 6}),
    (
        call("aten::lstm_cell", (3, 6), [(3, 4), (3, 4)], (16, 6), (16, 4), (16,), (16,)),
        {"recurrent": 2 * 3 * 4 * 4 * (6 + 4), "pointwise": 3 * 4 * 13 + 2 * 3 * 4 * 4},
    ),
    (call("aten::_fft_c2c", (4, 8), [1], 0, True, dtype="complex64", out=[(4, 8)]), {"fft": 5 * 32 * 3}),
    (call("aten::linalg_cholesky_ex", (2, 3, 3)), {"linalg": 2 * (3 * 4 * 5 // 6 + (27 - 3) // 6)}),
    (call("aten::_linalg_eigh", (2, 3, 3), "L", True), {"linalg": 2 * 9 * 27}),
    (
        call("aten::mul", (3, 4), (3, 4), dtype="complex64", out=[(3, 4)]),
        {"pointwise": 6 * 12},
    ),
    (call("aten::mm", TensorSpec((3, 4), stored=5), (4, 6)), {"matmul": 2 * 5 * 6}),
    (
        # two blocks of 128 along K
        call("aten::_scaled_mm", TensorSpec((2, 256), FP8), TensorSpec((256, 5), FP8), (2, 2), (2, 5)),
        {"matmul": 2 * 2 * 5 * 256, "pointwise": 2 * (2 * 5 * 2)},
    ),
    (call("aten::_grouped_mm", (8, 3), (4, 3, 5), ints(1, 3, 3, 6)), {"matmul": 2 * 6 * 3 * 5}),
    (
        call("aten::_weight_int8pack_mm", (2, 8), TensorSpec((4, 8), INT8), (4,)),
        {"matmul": 2 * 2 * 4 * 8, "pointwise": 2 * 4},
    ),
    (call("aten::fake_quantize_per_channel_affine", (3, 4), (3,), (3,), 0, 0, 255), {"pointwise": 4 * 12 + 3}),
    (
        # 300 elements with two states in blocks of 256, no decay, the gradient as it is
        call(
            "bitsandbytes::optimizer_update_8bit_blockwise",
            *("adam", *[(300,)] * 4, 0.9, 0.9, 0.0, 0.0, 1e-8, 3, 0.1, (256,), (256,), (2,), (2,), 0.0, 1.0),
        ),
        {"pointwise": 300 * (12 + 1 + 3 * 2) + 4},
    ),
    (
        call("torchao::scaled_int8_mm", TensorSpec((2, 8), INT8), TensorSpec((8, 4), INT8), (2, 1), (1, 4)),
        {"matmul": 2 * 2 * 4 * 8, "pointwise": 2 * 2 * 4},
    ),
    (
        call(
            "_C::cutlass_scaled_mm",
            *((4, 5), TensorSpec((4, 6), FP8), TensorSpec((6, 5), FP8), (4, 2), (2, 1), None),
        ),
        {"matmul": 2 * 4 * 5 * 6, "pointwise": 4 * 5 * 2 * 2},
    ),
    (call("pyg::segment_matmul", (6, 4), (3,), (2, 4, 5)), {"matmul": 2 * 6 * 4 * 5}),
    (call("prims::fma", (3, 4), (3, 4), (3, 4), out=[(3, 4)]), {"pointwise": 2 * 12}),
]
"""Calls, and what the page says of each, written out from its row."""


@pytest.mark.parametrize(("known", "parts"), WORKED, ids=[known.op for known, _ in WORKED])
def test_a_worked_example_costs_what_its_row_says(known, parts):
    """Else page and book agree about the kinds and mean different numbers."""
    cost = BOOK.cost(known)
    assert cost is not None
    found = {kind: sum(part.flop for part in cost.parts if part.kind == kind) for kind in {p.kind for p in cost.parts}}
    assert {kind: flop for kind, flop in found.items() if flop} == parts


def test_worked_examples_are_of_many_families():
    assert len({WRITTEN[known.op][0] for known, _ in WORKED if known.op in WRITTEN}) >= 20


def test_what_is_not_in_it_yet_has_no_row():
    """Else the page goes on saying that something is missing after it was written."""
    named = re.findall(r"`(\w+::\w+)`", TEXT.partition("## Not in it yet")[2])
    assert len(named) > 10
    assert [op for op in named if BOOK.find(op)] == []
