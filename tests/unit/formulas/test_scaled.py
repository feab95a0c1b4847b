"""Grouped and scaled products, counted term by term on small shapes."""

import math

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.scaled import FORMULAS

BOOK = FormulaBook.standard()
E4, E5, E8, FP4 = "fp8_e4m3", "fp8_e5m2", "fp8_e8m0", "fp4"
ONE = TensorSpec(())


def parts_of(op, *args, **options):
    cost = FORMULAS[op][1](OpCall.of(op, *args, **options))
    return {(part.kind, part.precision): (part.flop, part.masked_flop) for part in cost.parts}


def ends(*values):
    return TensorSpec((len(values),), "int32", values=values)


def cut(length, blocks):
    """Return the blocks of a row one after another, as a kernel walks over it."""
    return [min(blocks, length - start) for start in range(0, length, blocks)]


# Groups


@pytest.mark.parametrize(
    ("shapes", "offsets", "used", "all_of_it"),
    [
        (((8, 3), (4, 3, 5)), (1, 3, 3, 6), [(1, 5, 3), (2, 5, 3), (0, 5, 3), (3, 5, 3)], (8, 5, 3)),
        (((4, 8, 3), (3, 20)), (5, 10, 10, 20), [(8, 5, 3), (8, 5, 3), (8, 0, 3), (8, 10, 3)], (8, 20, 3)),
        (((8, 12), (12, 5)), (4, 4, 11), [(8, 5, 4), (8, 5, 0), (8, 5, 7)], (8, 5, 12)),
        (((8, 3), (2, 3, 5)), (0, 0), [], (8, 5, 3)),
    ],
)
def test_groups_share_rows_columns_or_the_inner_size_out_up_to_the_last_offset(shapes, offsets, used, all_of_it):
    """Else a mixture of experts costs as if every token met every expert, or tokens that no expert took are trained."""
    done = sum(2 * rows * columns * inner for rows, columns, inner in used)
    rest = 2 * math.prod(all_of_it) - done
    assert parts_of("aten::_grouped_mm", *shapes, ends(*offsets)) == {("matmul", None): (done, rest)}


def test_offsets_that_are_not_known_leave_nothing_out():
    """Else a figure depends on whether a device had already told its numbers."""
    unknown = TensorSpec((4,), "int32")
    assert parts_of("aten::_grouped_mm", (8, 3), (4, 3, 5), unknown) == {("matmul", None): (2 * 8 * 3 * 5, 0)}
    assert parts_of("aten::_grouped_mm", (4, 8, 3), (3, 20), unknown) == {("matmul", None): (2 * 8 * 3 * 20, 0)}
    assert parts_of("aten::_grouped_mm", (8, 12), (12, 5), unknown) == {("matmul", None): (2 * 8 * 12 * 5, 0)}


def test_two_batches_of_groups_are_a_batch_of_products():
    assert parts_of("aten::_grouped_mm", (4, 8, 3), (4, 3, 5)) == {("matmul", None): (4 * 2 * 8 * 3 * 5, 0)}


def test_a_bias_is_added_where_an_output_is_computed():
    bias = (4, 5)
    rows = parts_of("aten::_grouped_mm", (8, 3), (4, 3, 5), ends(1, 3, 3, 6), bias)
    assert rows["pointwise", None] == (6 * 5, 0)
    inner = parts_of("aten::_grouped_mm", (8, 12), (12, 5), ends(4, 4, 11), (3, 5))
    assert inner["pointwise", None] == (3 * 8 * 5, 0)


def test_the_gradients_of_a_grouped_product_are_two_products_of_each_group():
    op = "transformers::grouped_mm_fallback_backward"
    done = 2 * sum(rows * 5 * 3 for rows in (1, 2, 0, 3)) * 2
    assert parts_of(op, (8, 3), (4, 3, 5), ends(1, 3, 3, 6), (8, 5)) == {("matmul", None): (done, 2 * 2 * 2 * 5 * 3)}


@pytest.mark.parametrize(
    "args",
    [
        [(8, 3), (4, 4, 5), (4,)],
        [(8, 3), (4, 3, 5)],
        [(8, 3), (4, 3, 5), (3,)],
        [(8, 3), (4, 3, 5), (4, 1)],
        [(8, 3), (4, 3, 5), ends(1, 2, 3, 9)],
        [(8, 3), (4, 3, 5), ends(4, 2, 3, 5)],
        [(8, 3), (4, 3, 5), ends(-1, 2, 3, 5)],
        [(8, 3), (4, 3, 5), TensorSpec((4,), "int32", values=(1, 2))],
        [(4, 8, 3), (5, 3, 5)],
        [(4, 8, 3), (3,), (4,)],
        [(4, 8, 3, 1), (3, 5), (4,)],
    ],
)
def test_groups_that_do_not_fit_are_refused(args):
    """Else offsets that were read wrongly become a figure."""
    with pytest.raises(FormulaError, match="grouped_mm"):
        FORMULAS["aten::_grouped_mm"][1](OpCall.of("aten::_grouped_mm", *args))


def test_a_gradient_of_another_shape_than_the_product_is_refused():
    op = "transformers::grouped_mm_fallback_backward"
    with pytest.raises(FormulaError, match="gradient"):
        FORMULAS[op][1](OpCall.of(op, (8, 3), (4, 3, 5), (4,), (8, 6)))


# Scaled products


def scaled(one, two, scale_one, scale_two, *rest):
    return parts_of("aten::_scaled_mm", one, two, scale_one, scale_two, *rest)


def scaling(rows, columns, blocks):
    """Two factors for the sum over each block of each output."""
    return sum(2 for _ in range(rows) for _ in range(columns) for _ in blocks)


@pytest.mark.parametrize(
    ("left", "right", "blocks"),
    [
        (TensorSpec(()), TensorSpec(()), [320]),
        (TensorSpec((1,)), TensorSpec((1, 1)), [320]),
        (TensorSpec((16, 1)), TensorSpec((1, 24)), [320]),
        (TensorSpec((16, 3)), TensorSpec((3, 1)), cut(320, 128)),
        (TensorSpec((16, 3)), TensorSpec((3, 24)), cut(320, 128)),
        (TensorSpec((1, 3)), TensorSpec((3, 24)), cut(320, 128)),
        (TensorSpec((128 * 12,), E8), TensorSpec((128 * 12,), E8), cut(320, 32)),
        (TensorSpec((16 * 10,), E8), TensorSpec((24 * 10,), E8), cut(320, 32)),
    ],
)
def test_each_block_of_an_output_is_scaled_by_two_factors(left, right, blocks):
    """Else scaling is free in one recipe and not in another."""
    found = scaled(TensorSpec((16, 320), E4), TensorSpec((320, 24), E4), left, right)
    precision = "mxfp8" if left.dtype == E8 else E4
    assert found == {
        ("matmul", precision): (2 * 16 * 24 * 320, 0),
        ("pointwise", "fp32"): (scaling(16, 24, blocks), 0),
    }


@pytest.mark.parametrize(
    ("one", "two", "scale", "precision"),
    [
        (E4, E4, "fp32", "fp8_e4m3"),
        (E5, E4, "fp32", "fp8_e5m2*fp8_e4m3"),
        (E4, E5, "fp32", "fp8_e4m3*fp8_e5m2"),
        ("fp8_e4m3fnuz", "fp8_e4m3fnuz", "fp32", "fp8_e4m3fnuz"),
    ],
)
def test_the_products_have_the_precision_of_the_operands(one, two, scale, precision):
    """Else fp8 training is written down as fp32, that of its scales."""
    spec = TensorSpec((), scale)
    call = OpCall.of("aten::_scaled_mm", TensorSpec((16, 32), one), TensorSpec((32, 8), two), spec, spec)
    tally = BOOK.count(call, calls=3, phase="forward")
    assert tally.select(kind="matmul").by("precision").keys() == {precision}
    assert tally.select(precision=precision).flop == 3 * 2 * 16 * 32 * 8
    assert tally.select(precision="fp32", kind="pointwise").flop == 3 * 2 * 16 * 8


@pytest.mark.parametrize(("scale", "blocks", "precision"), [(E4, cut(96, 16), "nvfp4"), (E8, cut(96, 32), "mxfp4")])
def test_two_values_lie_in_an_element_of_four_bits(scale, blocks, precision):
    """Else a model in four bits is counted at half of its size."""
    spec = TensorSpec((128 * 8,), scale)
    found = scaled(TensorSpec((16, 48), FP4), TensorSpec((48, 24), FP4), spec, spec)
    assert found == {
        ("matmul", precision): (2 * 16 * 24 * 96, 0),
        ("pointwise", "fp32"): (scaling(16, 24, blocks), 0),
    }


def test_a_bias_and_a_scale_of_the_result_touch_each_output_once():
    found = scaled(TensorSpec((16, 32), E4), TensorSpec((32, 8), E4), ONE, ONE, TensorSpec((8,), "bf16"), ONE)
    assert found["pointwise", "fp32"] == (16 * 8 * (2 + 1 + 1), 0)


def test_nothing_is_scaled_where_nothing_is_summed():
    assert scaled(TensorSpec((16, 0), E4), TensorSpec((0, 8), E4), ONE, ONE) == {("matmul", E4): (0, 0)}


def version_two(one, two, recipes, scales, bias=None, op="aten::_scaled_mm_v2", offsets=()):
    (left, right), (first, second) = recipes, scales
    return parts_of(op, one, two, first, left, [], second, right, [], *offsets, bias, None)


@pytest.mark.parametrize(
    ("recipes", "dtype", "scale", "blocks", "precision"),
    [
        (([0], [0]), E4, "fp32", [256], E4),
        (([1], [1]), E5, "fp32", [256], E5),
        (([3], [3]), E4, E8, cut(256, 32), "mxfp8"),
        (([4], [4]), E4, "fp32", cut(256, 128), E4),
        (([4], [5]), E4, "fp32", cut(256, 128), E4),
        (([5], [4]), E4, "fp32", cut(256, 128), E4),
    ],
)
def test_a_recipe_says_what_shares_a_scale(recipes, dtype, scale, blocks, precision):
    spec = TensorSpec((128 * 8,), scale)
    found = version_two(TensorSpec((16, 256), dtype), TensorSpec((256, 24), dtype), recipes, ([spec], [spec]))
    assert found == {
        ("matmul", precision): (2 * 16 * 24 * 256, 0),
        ("pointwise", "fp32"): (scaling(16, 24, blocks), 0),
    }


def test_a_scale_of_the_whole_tensor_beside_its_blocks_multiplies_each_output_once_more():
    """Else the second level of NVFP4 is free."""
    spec = TensorSpec((128 * 8,), E4)
    one, two = TensorSpec((16, 32), FP4), TensorSpec((32, 24), FP4)
    found = version_two(one, two, ([2, 0], [2, 0]), ([spec, ONE], [spec, ONE]), bias=TensorSpec((24,), "bf16"))
    assert found == {
        ("matmul", "nvfp4"): (2 * 16 * 24 * 64, 0),
        ("pointwise", "fp32"): (scaling(16, 24, cut(64, 16)) + 16 * 24 * (1 + 1 + 1), 0),
    }


@pytest.mark.parametrize(
    ("shapes", "scales"),
    [
        (((16, 320), (320, 24)), ((16, 2), (2, 24))),
        (((16, 320), (320, 24)), ((7, 3), (3, 24))),
        (((16, 320), (320, 24)), ((16, 3), (3, 7))),
        (((16, 320), (320, 24)), ((16, 3), (1, 24))),
        (((16, 320), (320, 24)), ((16,), (24,))),
        (((16, 320), (320, 24)), ((), (1, 24))),
        (((16, 320), (160, 24)), ((), ())),
        (((2, 16, 320), (2, 320, 24)), ((), ())),
    ],
)
def test_scales_and_operands_of_an_unknown_form_are_refused(shapes, scales):
    specs = [TensorSpec(shape, E4) for shape in shapes]
    with pytest.raises(FormulaError, match="_scaled_mm"):
        FORMULAS["aten::_scaled_mm"][1](OpCall.of("aten::_scaled_mm", *specs, *(TensorSpec(shape) for shape in scales)))


@pytest.mark.parametrize(
    ("dtype", "left", "right"),
    [
        ("bf16", ONE, ONE),
        (E4, TensorSpec((4096,), E4), TensorSpec((4096,), E4)),
        (E4, TensorSpec((4096,), E8), ONE),
        (E4, TensorSpec((15,), E8), TensorSpec((4096,), E8)),
        (E4, TensorSpec((4096,), E8), TensorSpec((7,), E8)),
        (FP4, TensorSpec((), "bf16"), TensorSpec((), "bf16")),
    ],
)
def test_a_format_that_is_not_known_is_refused(dtype, left, right):
    """Else a product is written down in a precision that nobody computed in."""
    call = OpCall.of("aten::_scaled_mm", TensorSpec((16, 32), dtype), TensorSpec((32, 8), dtype), left, right)
    with pytest.raises(FormulaError, match="_scaled_mm"):
        FORMULAS["aten::_scaled_mm"][1](call)


@pytest.mark.parametrize(
    ("recipes", "scales"),
    [
        (([0], [4]), ([ONE], [ONE])),
        (([9], [9]), ([ONE], [ONE])),
        (([], []), ([], [])),
        (([0], [0]), ([ONE, ONE], [ONE])),
        (([2, 1], [2, 1]), ([ONE, ONE], [ONE, ONE])),
        (([0, 0], [0, 0]), ([ONE, TensorSpec((4,))], [ONE, ONE])),
    ],
)
def test_recipes_that_are_not_known_are_refused(recipes, scales):
    with pytest.raises(FormulaError, match="_scaled_mm_v2"):
        version_two(TensorSpec((16, 32), E4), TensorSpec((32, 8), E4), recipes, scales)


# Both


def test_rows_of_groups_are_scaled_where_they_are_computed():
    a, b = TensorSpec((10, 64), E4), TensorSpec((3, 64, 8), E4)
    found = parts_of("aten::_scaled_grouped_mm", a, b, TensorSpec((10,)), TensorSpec((3, 8)), ends(2, 2, 7))
    assert found == {
        ("matmul", E4): (2 * 7 * 64 * 8, 2 * 3 * 64 * 8),
        ("pointwise", "fp32"): (scaling(7, 8, [64]), 0),
    }


def test_groups_of_microscaled_columns_and_batches():
    blocks = TensorSpec((3, 4096), E8)
    columns = parts_of(
        "aten::_scaled_grouped_mm",
        *(TensorSpec((3, 8, 64), E4), TensorSpec((64, 20), E4), blocks, TensorSpec((64, 64), E8), ends(4, 4, 16)),
    )
    assert columns == {
        ("matmul", "mxfp8"): (2 * 8 * 64 * 16, 2 * 8 * 64 * 4),
        ("pointwise", "fp32"): (scaling(8, 16, cut(64, 32)), 0),
    }
    batch = parts_of("aten::_scaled_grouped_mm", TensorSpec((3, 8, 64), E4), TensorSpec((3, 64, 5), E4), blocks, blocks)
    assert batch == {
        ("matmul", "mxfp8"): (3 * 2 * 8 * 64 * 5, 0),
        ("pointwise", "fp32"): (3 * scaling(8, 5, cut(64, 32)), 0),
    }


def test_groups_that_share_out_the_inner_size_have_blocks_of_their_own():
    a, b, scale = TensorSpec((8, 96), E4), TensorSpec((96, 5), E4), TensorSpec((64, 64), E8)
    known = parts_of("aten::_scaled_grouped_mm", a, b, scale, scale, ends(40, 40, 80))
    pieces = [*cut(40, 32), *cut(0, 32), *cut(40, 32)]
    assert known == {
        ("matmul", "mxfp8"): (2 * 8 * 5 * 80, 2 * 8 * 5 * 16),
        ("pointwise", "fp32"): (scaling(8, 5, pieces), 0),
    }


def shares(whole, groups):
    """Yield every way in which so many groups can share out a size."""
    if groups == 1:
        yield (whole,)
        return
    for size in range(whole + 1):
        yield from ((size, *rest) for rest in shares(whole - size, groups - 1))


@pytest.mark.parametrize(("inner", "groups"), [(96, 3), (64, 2), (40, 4), (3, 5), (0, 2)])
def test_unknown_groups_of_the_inner_size_have_as_many_blocks_as_any_could(inner, groups):
    """Else the bound that the convention names is none."""
    most = max(sum(len(cut(size, 32)) for size in sizes) for sizes in shares(inner, groups))
    a, b, scale = TensorSpec((2, inner), E4), TensorSpec((inner, 3), E4), TensorSpec((64, 64), E8)
    found = parts_of("aten::_scaled_grouped_mm", a, b, scale, scale, TensorSpec((groups,), "int32"))
    flop, _ = found.get(("pointwise", "fp32"), (0, 0))
    assert flop == scaling(2, 3, range(most))


def test_groups_with_recipes_and_two_levels():
    blocks = TensorSpec((3, 4096), E4)
    a, b = TensorSpec((10, 32), FP4), TensorSpec((3, 32, 8), FP4)
    found = version_two(
        *(a, b, ([2, 0], [2, 0]), ([blocks, ONE], [blocks, ONE])),
        op="aten::_scaled_grouped_mm_v2",
        offsets=[ends(2, 2, 7)],
    )
    assert found == {
        ("matmul", "nvfp4"): (2 * 7 * 64 * 8, 2 * 3 * 64 * 8),
        ("pointwise", "fp32"): (scaling(7, 8, cut(64, 16)) + 7 * 8 * 2, 0),
    }


def test_scales_of_two_kinds_in_one_grouped_product_are_refused():
    a, b = TensorSpec((8, 32), E4), TensorSpec((2, 32, 5), E4)
    with pytest.raises(FormulaError, match="no form that is known"):
        parts_of("aten::_scaled_grouped_mm", a, b, TensorSpec((8,)), TensorSpec((2, 128), E8), (2,))
