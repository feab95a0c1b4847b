"""Kernels of C++ extensions, counted element by element from the calls that the sensor writes down."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.cost import Part
from flopmeter.formulas.extension import FORMULAS, WIDTHS

BOOK = FormulaBook.standard()
APEX = "fused_weight_gradient_mlp_cuda::wgrad_gemm_accum_fp32"
TE, TE_GROUPED = "transformer_engine_torch::generic_gemm", "transformer_engine_torch::te_general_grouped_gemm"
WAYS = {"bias": False, "gelu": False, "grad": False, "accumulate": False}


def parts_of(op, *args, **options):
    return {
        (part.kind, part.precision): part.flop for part in BOOK.cost(OpCall.of(op, *args, **options)).parts if part.flop
    }


def multiply(rows, inner, columns):
    """Count a product by making it, term by term."""
    return sum(2 for _row in range(rows) for _term in range(inner) for _column in range(columns))


def test_a_weight_gradient_is_a_product_and_an_addition_to_what_was_there():
    """Products are in the precision of the operands, whatever they are added up in: it decides which peak counts."""
    x, dy = TensorSpec((2, 3, 4), "bf16"), TensorSpec((2, 3, 5), "bf16")
    found = parts_of(APEX, x, dy, TensorSpec((5, 4)), False)
    assert found == {("matmul", "bf16"): multiply(5, 2 * 3, 4), ("pointwise", "fp32"): 5 * 4}


@pytest.mark.parametrize("shapes", [((6, 4), (6, 5), (4, 5)), ((6, 4), (7, 5), (5, 4)), ((), (), ())])
def test_shapes_that_are_no_weight_gradient_are_refused(shapes):
    with pytest.raises(FormulaError):
        BOOK.cost(OpCall.of(APEX, *shapes, False))


@pytest.mark.parametrize(
    ("shapes", "ways"),
    [
        (((6, 4), (2, 4, 5), (6, 5)), (False, False)),
        (((6, 4), (2, 5, 4), (6, 5)), (False, True)),
        (((6, 4), (6, 5), (2, 4, 5)), (True, False)),
    ],
)
def test_groups_share_the_rows_out(shapes, ways):
    found = parts_of("grouped_gemm_backend::gmm", *shapes, (2,), *ways, dtype="bf16")
    assert found == {("matmul", "bf16"): multiply(2, 4, 5) + multiply(4, 4, 5)}


@pytest.mark.parametrize("ways", [(False, True), (True, False)])
def test_groups_that_do_not_fit_are_refused(ways):
    with pytest.raises(FormulaError):
        BOOK.cost(OpCall.of("grouped_gemm_backend::gmm", (6, 4), (2, 4, 5), (6, 5), (2,), *ways))


@pytest.mark.parametrize(
    ("a", "b", "d"),
    [
        ((6, 4), (5, 4), (6, 5)),
        ((4, 6), (4, 5), (6, 5)),
        ((6, 4), (2, 5, 4), (6, 5)),  # groups of rows
    ],
)
def test_deepgemm_is_told_by_the_elements_of_a_and_the_width_of_the_result(a, b, d):
    one, two = TensorSpec(a, "fp8_e4m3"), TensorSpec(b, "fp8_e4m3")
    op = "deep_gemm::fp8_gemm_nt"
    assert parts_of(op, one, two, TensorSpec(d, "bf16"), False) == {("matmul", "fp8_e4m3"): multiply(6, 4, 5)}
    added = parts_of(op, one, two, TensorSpec(d, "fp32"), True)
    assert added == {("matmul", "fp8_e4m3"): multiply(6, 4, 5), ("pointwise", "fp32"): 30}


def test_deepgemm_in_groups_of_the_inner_size_costs_all_groups():
    a, b, d = TensorSpec((7, 4), "bf16"), TensorSpec((7, 5), "bf16"), TensorSpec((2, 4, 5))
    op = "deep_gemm::k_grouped_bf16_gemm_tn_contiguous"
    assert parts_of(op, a, b, d, False) == {("matmul", "bf16"): multiply(4, 3, 5) + multiply(4, 4, 5)}


def test_packed_operands_are_refused():
    """Two values to a byte: a size that is read as one would be half of the truth."""
    with pytest.raises(FormulaError, match="packed"):
        BOOK.cost(OpCall.of("deep_gemm::fp8_fp4_gemm_nt", (6, 4), TensorSpec((5, 2), "int8"), (6, 5), False))


@pytest.mark.parametrize(
    ("a", "transposes_a", "b", "transposes_b", "m", "k", "n"),
    [
        ((5, 4), True, (2, 3, 4), False, 6, 4, 5),  # y = x·wᵀ
        ((5, 4), False, (2, 3, 5), False, 6, 5, 4),  # dx = dy·w
        ((2, 3, 4), False, (2, 3, 5), True, 5, 6, 4),  # dw = dyᵀ·x
    ],
)
def test_transformer_engines_layouts_are_understood(a, transposes_a, b, transposes_b, m, k, n):
    product = ("matmul", "bf16")
    plain = parts_of(TE, a, transposes_a, b, transposes_b, "", "", dtype="bf16", **WAYS)
    assert plain == {product: multiply(m, k, n)}
    more = parts_of(TE, a, transposes_a, b, transposes_b, "", "", dtype="bf16", **{**WAYS, "bias": True, "gelu": True})
    assert more == {product: multiply(m, k, n), ("pointwise", "fp32"): m * n * (1 + 9)}
    added = parts_of(TE, a, transposes_a, b, transposes_b, "", "", dtype="bf16", **{**WAYS, "accumulate": True})
    assert added == {product: multiply(m, k, n), ("pointwise", "fp32"): m * n}
    backward = {**WAYS, "bias": True, "grad": True}
    summed = parts_of(TE, a, transposes_a, b, transposes_b, "", "", dtype="bf16", **backward)
    assert summed == {product: multiply(m, k, n), ("reduction", "fp32"): (m - 1) * n}


def test_transformer_engines_formats_are_the_precision():
    found = parts_of(TE, (5, 4), True, (6, 4), False, "mxfp8", "mxfp8", dtype="uint8", **WAYS)
    assert found == {("matmul", "mxfp8"): multiply(6, 4, 5)}
    found = parts_of(TE, (5, 4), True, (6, 4), False, "fp8_e4m3", "fp8_e5m2", dtype="uint8", **WAYS)
    assert found == {("matmul", "fp8_e4m3*fp8_e5m2"): multiply(6, 4, 5)}


@pytest.mark.parametrize(
    ("op", "args", "ways"),
    [
        (TE, ((5, 3), True, (6, 4), False, "", ""), WAYS),
        (TE, ((5, 4), True, (), False, "", ""), WAYS),
        (TE, ((5, 4), True, (6, 4), False, "", ""), {**WAYS, "gelu": True, "grad": True}),
        (TE_GROUPED, ([(5, 4)], True, [(6, 4), (6, 4)], False, "", ""), WAYS),
    ],
)
def test_products_that_do_not_fit_are_refused(op, args, ways):
    with pytest.raises(FormulaError):
        BOOK.cost(OpCall.of(op, *args, **ways))


def test_groups_of_transformer_engine_are_added_up():
    args = ([(5, 4), (5, 4)], True, [(2, 4), (3, 4)], False, "", "")
    assert parts_of(TE_GROUPED, *args, **WAYS) == {("matmul", "fp32"): multiply(2, 4, 5) + multiply(3, 4, 5)}


@pytest.mark.parametrize(("mode", "decay", "rate"), [(0, 0.1, 15), (1, 0.1, 14), (0, 0, 13), (1, 0, 13)])
def test_adam_costs_what_torchs_own_costs(mode, decay, rate):
    """One optimizer must not be cheaper because another library brings it."""
    sizes = [(2, 3), (4,)]
    (part,) = BOOK.cost(OpCall.of("amp_C::multi_tensor_adam", sizes, mode, decay)).parts
    assert (part.flop, part.phase) == (rate * 10, "optimizer")
    options = {"beta2": 0.999, "weight_decay": decay, "amsgrad": False, "maximize": False}
    op = "aten::_fused_adamw_" if mode else "aten::_fused_adam_"
    assert BOOK.cost(OpCall.of(op, sizes, sizes, sizes, sizes, [], [(1,), (1,)], **options)).flop == part.flop


def test_a_declaration_is_taken_by_width_and_is_no_count():
    cost = BOOK.cost(
        OpCall.of("triton::declared", "kernel", bytes=99, flops=1, flops8=2, flops16=3, flops32=4, flops64=5)
    )
    assert {part.precision: part.flop for part in cost.parts} == dict(
        zip(WIDTHS.values(), (2, 3, 4, 5, 1), strict=True)
    )
    assert {part.basis for part in cost.parts} == {"declared"}
    tally = BOOK.count(OpCall.of("triton::declared", "kernel", flops=7), calls=3, phase="forward")
    assert [(count.basis, count.flop, count.calls) for count in tally.counts] == [("declared", 21, 3)]


def test_nothing_declared_is_no_price():
    with pytest.raises(FormulaError):
        BOOK.cost(OpCall.of("triton::declared", "kernel", bytes=99))


def test_a_basis_that_no_cost_has_is_refused():
    with pytest.raises(ValueError, match="basis"):
        Part(kind="other", basis="replayed")


def test_every_row_is_in_the_book():
    assert all(BOOK.find(op) is not None for op in FORMULAS)
