"""Quantizing as torch runs it on a CPU, against torch's own loops in plain operators."""

import warnings

import pytest
import torch
from torch.ao import quantization
from torch.ao.quantization.fx import _decomposed

from flopmeter.formulas.book import FormulaBook
from flopmeter.sensors.torch_ops import OpRecorder, rows_of
from flopmeter.tally import Tally

BOOK = FormulaBook.standard()
INT8 = torch.int8


def record(work):
    failures = []
    recorder = OpRecorder(lambda: "other", failures.append, BOOK.reads)
    with recorder:
        work()
    assert failures == []
    tally = Tally()
    for row in rows_of(recorder.take()):
        tally += BOOK.count(row.call, calls=row.calls, phase=row.phase)
    assert tally.uncounted == ()
    return tally


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
