"""Quantizing as torch runs it on a CPU, against torch's own loops in plain operators."""

import warnings

import pytest
import torch
from torch.ao import quantization
from torch.ao.quantization.fx import _decomposed
from versions import since_2_10

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
INT8 = torch.int8


def record(work):
    return price_rows(record_calls(work, book=BOOK), BOOK)


def total(work):
    """Everything, integers too: a zero point is one in some of torch's own forms."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tally = record(work)
    return tally.flop + tally.int_op


X = torch.rand(4, 6)
Q = torch.ones(4, 6, dtype=INT8)
ROWS, ZEROS = torch.rand(4) + 0.1, torch.zeros(4, dtype=torch.int32)
GROUPS, GROUP_ZEROS = torch.rand(4, 2) + 0.1, torch.zeros(4, 2, dtype=torch.int32)

CASES = {
    "quantize_per_tensor": (X, 0.1, 3, -128, 127, INT8),
    "quantize_per_channel": (X, ROWS, ZEROS, 0, -128, 127, INT8),
    "quantize_per_channel_group": (X, GROUPS, GROUP_ZEROS, -128, 127, INT8, 3),
    "quantize_per_token": (X, ROWS[:, None], ZEROS[:, None], -128, 127, INT8),
    "dequantize_per_tensor": (Q, 0.1, 3, -128, 127, INT8),
    "dequantize_per_channel": (Q, ROWS, ZEROS, 0, -128, 127, INT8),
    "dequantize_per_channel_group": (Q, GROUPS, GROUP_ZEROS, -128, 127, INT8, 3, torch.float32),
    "dequantize_per_token": (Q, ROWS[:, None], ZEROS[:, None], -128, 127, INT8, torch.float32),
    "choose_qparams_tensor": (X, -128, 127, 1e-6, INT8),
    "choose_qparams_symmetric_tensor": (X, -128, 127, 1e-6, INT8),
    "choose_qparams_per_token": (X, INT8),
    "choose_qparams_per_token_asymmetric": (X, INT8),
}
DIFFERENT = {
    "quantize_per_channel": (4, "1/x is a reciprocal and a product by 1"),
    "quantize_per_token": (4, "1/x is a reciprocal and a product by 1"),
    "quantize_per_channel_group": (8 + 23, "likewise, and it counts the elements that are no numbers, in integers"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_costs_what_its_own_form_in_python_costs(name):
    """Else what is exported costs another figure than what was trained."""
    whole = name.removesuffix("_tensor") if name.startswith("choose") else name
    op = getattr(getattr(torch.ops.quantized_decomposed, whole), "default" if whole == name else "tensor")
    more, _ = DIFFERENT.get(name, (0, ""))
    apart = total(lambda: getattr(_decomposed, name)(*CASES[name]))
    assert total(lambda: op(*CASES[name])) + more == apart


def test_each_difference_belongs_to_a_case():
    assert set(DIFFERENT) <= set(CASES)


def test_channels_without_zero_points_are_multiplied_alone():
    args = (Q, ROWS, None, 0, -128, 127, INT8)
    op = torch.ops.quantized_decomposed.dequantize_per_channel.default
    assert total(lambda: op(*args)) == total(lambda: _decomposed.dequantize_per_channel(*args))


def observed(*, fused, **settings):
    observer = (
        quantization.MovingAveragePerChannelMinMaxObserver
        if "ch_axis" in settings
        else quantization.MovingAverageMinMaxObserver
    )
    kind = quantization.FusedMovingAvgObsFakeQuantize if fused else quantization.FakeQuantize
    module = kind(observer, quant_min=-128, quant_max=127, dtype=torch.qint8, **settings)
    module(X)  # the first averages are the first minima and maxima, without arithmetic
    return module


@pytest.mark.parametrize(
    ("settings", "choose"),
    [
        ({"qscheme": torch.per_tensor_affine}, 4),
        ({"qscheme": torch.per_tensor_symmetric}, 2),
        ({"qscheme": torch.per_channel_affine, "ch_axis": 0}, 4 * 4),
        ({"qscheme": torch.per_channel_symmetric, "ch_axis": 0}, 4 * 2),
    ],
)
@pytest.mark.parametrize(("observing", "quantizing"), [(True, True), (False, True), (True, False), (False, False)])
def test_observing_and_quantizing_cost_the_same_fused_and_apart(settings, choose, observing, quantizing):
    """Else training under quantization costs more or less depending on which of torch's two modules does it.

    The scale is chosen where the one observes, and where the other quantizes.
    """
    found = []
    for fused in (False, True):
        module = observed(fused=fused, **settings)
        if not observing:
            module.disable_observer()
        if not quantizing:
            module.disable_fake_quant()
        found.append(total(lambda module=module: module(X)))
    apart, fused = found
    assert apart - choose * observing == fused - choose * quantizing


def test_a_step_under_quantization_is_what_its_parts_add_up_to():
    """Else the backward pass of a quantized layer costs what that of a plain one costs, or twice that."""
    layer = torch.ao.nn.qat.Linear(6, 5, qconfig=quantization.get_default_qat_qconfig("fbgemm"))
    data = torch.rand(4, 6, requires_grad=True)
    layer(data)
    forward = record(lambda: layer(data))
    scales, products, bias = 5, 2 * 4 * 6 * 5, 4 * 5
    assert forward.contraction_flop == products
    assert forward.flop == products + bias + scales * (6 + 2 + 1) + 4 * 30
    out = layer(data)
    backward = record(lambda: out.backward(torch.rand(4, 5)))
    assert backward.flop == 2 * products + 30 + 3 * 5


@pytest.mark.parametrize("channels", [False, True])
def test_learned_scales_cost_what_is_asked_of_torch(channels):
    scale, zero = (torch.ones(4), torch.zeros(4)) if channels else (torch.ones(1), torch.zeros(1))
    name = f"_fake_quantize_learnable_per_{'channel' if channels else 'tensor'}_affine"
    args = [scale.requires_grad_(), zero.requires_grad_(), *([0] if channels else []), 0, 255]
    data, out = torch.rand(4, 6, requires_grad=True), []
    forward = record(lambda: out.append(getattr(torch, name)(data, *args)))
    assert forward.flop == 4 * 24 + (4 if channels else 0)
    backward = record(lambda: out[0].backward(torch.rand(4, 6)))
    assert backward.flop == 11 * 24 + 2 * (24 - scale.numel()) + (3 * 4 if channels else 0)


def bf16(*shape):
    return torch.rand(shape, dtype=torch.bfloat16)


def test_a_weight_in_eight_bits_costs_its_product_and_its_scales():
    """Else a layer whose weight is stored in integers costs another figure than the form it replaces."""
    data, weight, scales = bf16(4, 64), torch.ones(32, 64, dtype=INT8), bf16(32)
    fused = record(lambda: torch._weight_int8pack_mm(data, weight, scales))
    apart = record(lambda: (data @ weight.to(torch.bfloat16).t()) * scales)
    assert {kind: part.flop for kind, part in fused.by("kind").items()} == {
        kind: part.flop for kind, part in apart.by("kind").items() if part.flop
    }
    assert fused.by("precision").keys() == {"bf16"}


def test_a_weight_in_four_bits_costs_its_product_and_its_groups():
    data, weight, table = bf16(4, 64), torch.ones(32, 64, dtype=torch.int32), bf16(2, 32, 2)
    packed = torch._convert_weight_to_int4pack_for_cpu(weight, 1)
    fused = record(lambda: torch._weight_int4pack_mm_for_cpu(data, packed, 32, table))

    def apart():
        groups = weight.to(torch.bfloat16).view(32, 2, 32)
        scales, zeros = table[:, :, 0].t()[:, :, None], table[:, :, 1].t()[:, :, None]
        return data @ (groups * scales + zeros).view(32, 64).t()

    assert fused.flop == record(apart).flop
    assert record(lambda: torch._convert_weight_to_int4pack_for_cpu(weight, 1)).flop == 0


@since_2_10("no bias in this kernel of a CPU")
def test_rows_quantized_on_the_way_cost_what_the_same_steps_cost():
    weight, scales, bias = torch.ones(32, 32, dtype=torch.uint8), torch.ones(32, 1), torch.rand(32)
    for has_bias in (None, bias):
        packed = torch.ops.aten._dyn_quant_pack_4bit_weight(weight, scales, has_bias, 64, 64, 32)
        tally = record(
            lambda packed=packed: torch.ops.aten._dyn_quant_matmul_4bit(torch.rand(4, 64), packed, 64, 64, 32)
        )
        assert tally.int_op == 2 * 4 * 64 * 32
        assert tally.flop == 4 * (4 + 2 * 64) + 4 * 32 * (3 + (has_bias is not None))


def test_integers_are_multiplied_as_integers():
    """Else an 8-bit product is a FLOP."""
    tally = record(lambda: torch._int_mm(torch.ones(32, 16, dtype=INT8), torch.ones(16, 8, dtype=INT8)))
    assert (tally.int_op, tally.flop) == (2 * 32 * 16 * 8, 0)
    assert tally.by("precision").keys() == {"int8"}


def test_packed_layers_are_read_from_what_goes_in_and_comes_out():
    """Else a layer whose weight is an object of a library costs nothing, or stops the count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight = torch.quantize_per_tensor(torch.rand(5, 8), 0.1, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, torch.rand(5))
        data = torch.quantize_per_tensor(torch.rand(4, 8), 0.1, 3, torch.quint8)
        other = torch.quantize_per_tensor(torch.rand(8, 3), 0.1, 3, torch.quint8)
        static = record(lambda: torch.ops.quantized.linear(data, packed, 0.1, 2))
        dynamic = record(lambda: torch.ops.quantized.linear_dynamic(torch.rand(4, 8), packed))
        product = record(lambda: torch.ops.quantized.matmul(data, other, 0.1, 2))
        total = record(lambda: torch.ops.quantized.add(data, data, 0.1, 2))
    assert (static.int_op, static.flop) == (2 * 4 * 8 * 5, 5 * 4 * 5)
    assert (dynamic.int_op, dynamic.flop) == (2 * 4 * 8 * 5, 4 + 2 * 4 * 8 + 3 * 4 * 5)
    assert (product.int_op, product.flop) == (2 * 4 * 8 * 3, 4 * 4 * 3)
    assert (total.int_op, total.flop) == (0, 7 * 4 * 8)


def test_tables_in_eight_bits_are_read_row_by_row():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, bags = torch.ao.nn.quantized.Embedding(10, 4), torch.ao.nn.quantized.EmbeddingBag(10, 4)
        assert record(lambda: rows(torch.tensor([1, 2, 2]))).flop == 2 * 3 * 4
        assert record(lambda: bags(torch.tensor([1, 2, 2]), torch.tensor([0]))).flop == 2 * 3 * 4 + 2 * 4


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_fused_layers_cost_what_the_same_steps_cost():
    ops, zeros = torch.ops.onednn, torch.zeros(6, dtype=torch.int64)
    weight = ops.qlinear_prepack(torch.ones(6, 8, dtype=INT8), [4, 8])
    data = torch.ones(4, 8, dtype=torch.uint8)
    args = (data, 0.1, 3, weight, torch.rand(6), zeros)
    plain = record(lambda: ops.qlinear_pointwise(*args, torch.rand(6), 0.1, 0, torch.uint8, "relu", [], ""))
    assert (plain.int_op, plain.flop) == (2 * 4 * 8 * 6, 4 * 6 * (2 + 1 + 2))
    more = (None, 1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], "")
    both = record(lambda: ops.qlinear_pointwise.binary(*args, torch.rand(4, 6), *more))
    assert (both.int_op, both.flop) == (2 * 4 * 8 * 6, 4 * 6 * (2 + 1))
    steps = [1, 1], [1, 1], [1, 1], 2
    kernel = ops.qconv_prepack(torch.ones(6, 2, 3, 3, dtype=INT8), torch.rand(6), 0.1, 3, *steps, [2, 4, 7, 7])
    image = torch.ones(2, 4, 7, 7, dtype=torch.uint8)
    args = (image, 0.1, 3, kernel, torch.rand(6), zeros, None, *steps, 1.0, 0, torch.float32, "none", [], "")
    convolution = record(lambda: ops.qconv_pointwise(*args))
    assert (convolution.int_op, convolution.flop) == (2 * 2 * 6 * 49 * 2 * 9, 2 * 6 * 49 * 2)
