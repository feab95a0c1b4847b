"""Operators of bitsandbytes against that package's own forms in Python, where it is installed."""

import pytest
import torch

from flopmeter.formulas.bitsandbytes import UPDATES
from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

pytest.importorskip("bitsandbytes")
cpu = pytest.importorskip("bitsandbytes.backends.cpu.ops")
default = pytest.importorskip("bitsandbytes.backends.default.ops")
functional = pytest.importorskip("bitsandbytes.functional")

BOOK = FormulaBook.standard()
OPS = torch.ops.bitsandbytes


def record(work):
    return price_rows(record_calls(work, book=BOOK), BOOK)


def states_of(name, size):
    state = torch.rand(2, size) if name == "ademamix" else torch.rand(size)
    return state, torch.rand(size) if name in ("adam", "lamb", "ademamix") else None


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "gnorm_scale": 0.5}, {"max_unorm": 0.3}, {"step": 1}])
def test_a_step_costs_what_its_own_form_costs(name, settings):
    """Else the optimizer of most fine-tuning runs is priced by hearsay."""
    first, second = states_of(name, 40)
    known = {"max_unorm": 0.0, "param_norm": 1.0, "beta1": 0.9, "beta2": 0.99, "beta3": 0.99, "alpha": 0.3}
    known |= {"eps": 1e-8, "weight_decay": 0.0, "step": 3, "lr": 0.01, "gnorm_scale": 1.0} | settings
    grad, parameter, norm = torch.rand(40), torch.rand(40), torch.zeros(1)
    args = (name, grad, parameter, first, second, norm, *known.values())
    fused = record(lambda: OPS.optimizer_update_32bit(*args))
    apart = record(lambda: cpu._optimizer_update_32bit_cpu(*args))
    literal_one = 40 * (known["gnorm_scale"] == 1.0)  # it multiplies by the factor even then
    assert fused.flop == apart.flop - literal_one


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("step", [1, 3])
def test_a_step_in_eight_bits_costs_what_its_own_form_costs(name, step):
    size, blocks = 512, 2
    first, second = states_of(name, size)
    codes = [torch.zeros(state.shape, dtype=torch.uint8) if state is not None else None for state in (first, second)]
    largest = [torch.ones(*state.shape[:-1], blocks) if state is not None else None for state in (first, second)]
    table = functional.create_dynamic_map(signed=True)
    numbers = (0.9, 0.99, 0.99, 0.3, 1e-8, step, 0.01)
    args = (name, torch.rand(size), torch.rand(size), *codes, *numbers, table, table, *largest, 0.1, 0.5)
    fused = record(lambda: OPS.optimizer_update_8bit_blockwise(*args))
    assert fused.flop == record(lambda: cpu._optimizer_update_8bit_blockwise_cpu(*args)).flop


def test_a_product_in_four_bits_costs_what_its_own_form_costs():
    """Else adapters over a 4-bit model are priced by hearsay."""
    weight, data, bias = torch.rand(64, 128), torch.rand(3, 5, 128), torch.rand(64)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    args = (data, packed, list(weight.shape), state.state2.absmax, 64, "nf4", bias, state.absmax)
    args += (state.state2.code, state.offset)
    fused = record(lambda: OPS.gemm_4bit(*args))
    apart = record(lambda: default._gemm_4bit_default_impl(*args))
    assert fused.flop == apart.flop
    assert fused.contraction_flop == apart.contraction_flop == 2 * 15 * 64 * 128


def test_blocks_cost_what_their_own_form_costs():
    weight = torch.rand(64, 128)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    back = record(lambda: functional.dequantize_4bit(packed, state))
    plain = default._dequantize_4bit_compute.__wrapped__
    code = default._get_4bit_code("nf4", torch.device("cpu"))
    apart = record(lambda: plain(packed.flatten(), state.absmax, code, 64, [64, 128], torch.float32))
    assert back.flop == apart.flop == 64 * 128
    there = record(lambda: OPS.quantize_4bit(weight, 64, "nf4", torch.uint8))
    assert there.flop == 2 * 64 * 128 + 64 * 128 // 64


def test_a_product_in_eight_bits_is_counted_in_integers():
    one, two = torch.ones(4, 16, dtype=torch.int8), torch.ones(8, 16, dtype=torch.int8)
    tally = record(lambda: OPS.int8_scaled_mm(one, two, torch.rand(4), torch.rand(8), torch.rand(8)))
    sums = OPS.int8_linear_matmul(one, two)
    apart = record(lambda: OPS.int8_mm_dequant(sums, torch.rand(4), torch.rand(8), bias=torch.rand(8)))
    assert (tally.int_op, tally.flop) == (2 * 4 * 8 * 16, apart.flop)


def test_a_step_over_a_weight_in_four_bits():
    """The weight is turned back into numbers for the forward and again for the backward pass."""
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.to("cpu")
    data = torch.rand(4, 64, requires_grad=True)
    layer(data)
    forward = record(lambda: layer(data))
    out = layer(data)
    backward = record(lambda: out.backward(torch.rand(4, 32)))
    assert forward.contraction_flop == backward.contraction_flop == 2 * 4 * 64 * 32
    assert forward.select(kind="pointwise").flop >= 64 * 32
    assert backward.select(kind="pointwise").flop >= 64 * 32
