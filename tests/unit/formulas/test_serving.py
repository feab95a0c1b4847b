"""Kernels of inference engines, counted step by step."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.formulas.serving import FORMULAS, GATES, NOTHING, READS

SILU, GELU, GELU_TANH = ["sigmoid", "times"], ["half", "scale", "erf", "one", "times"], ["nine"] * 9
STEPS = {
    "_C::silu_and_mul": [*SILU, "gate"],
    "_C::mul_and_silu": [*SILU, "gate"],
    "sgl_kernel::silu_and_mul": [*SILU, "gate"],
    "_C::gelu_and_mul": [*GELU, "gate"],
    "sgl_kernel::gelu_and_mul": [*GELU, "gate"],
    "_C::gelu_tanh_and_mul": [*GELU_TANH, "gate"],
    "sgl_kernel::gelu_tanh_and_mul": [*GELU_TANH, "gate"],
    "_C::fatrelu_and_mul": ["gate"],
    "_C::swigluoai_and_mul": ["alpha", *SILU, "one more", "gate"],
    "_C::silu_and_mul_quant": [*SILU, "gate", "scale"],
    "_C::gelu_new": GELU_TANH,
    "_C::gelu_fast": GELU_TANH,
    "_C::gelu_quick": ["factor", *SILU],
    "_C::relu_squared": ["square"],
}


def cost_of(op, *args, **options):
    found = FORMULAS[op][1](OpCall.of(op, *args, **options))
    return found if isinstance(found, int) else {part.kind: part.flop for part in found.parts if part.flop}


def spec(dtype, *shape, values=None):
    return TensorSpec(shape, dtype, values=values)


@pytest.mark.parametrize("op", GATES)
def test_an_activation_costs_its_steps_for_each_element_of_the_result(op):
    assert cost_of(op, (5, 8), (5, 16)) == len(STEPS[op]) * 40


def test_quantizing_with_a_scale_that_is_there():
    x, scale = (5, 8), (1,)
    assert cost_of("_C::static_scaled_fp8_quant", x, x, scale) == 40
    assert cost_of("_C::static_scaled_int8_quant", x, x, scale, None) == 40
    assert cost_of("_C::static_scaled_int8_quant", x, x, scale, (1,)) == 40 + 40


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("_C::dynamic_scaled_fp8_quant", ((5, 8), (5, 8), (1,))),
        ("_C::dynamic_per_token_scaled_fp8_quant", ((5, 8), (5, 8), (5, 1), None)),
        ("_C::dynamic_scaled_int8_quant", ((5, 8), (5, 8), (5, 1), None)),
        ("_C::per_token_group_fp8_quant", ((5, 8), (5, 8), (5, 2), 4, 1e-5, -448.0, 448.0, False)),
        ("sgl_kernel::sgl_per_token_group_quant_int8", ((5, 8), (5, 8), (5, 2), 4, 1e-5, -128.0, 127.0)),
    ],
)
def test_choosing_scales_costs_absolute_values_and_two_divisions_each(op, args):
    scales = args[2][0] * (args[2][1] if len(args[2]) > 1 else 1)
    steps = {"absolute": 40, "times the inverse": 40, "maximum / 448": scales, "inverse": scales}
    assert cost_of(op, *args) == sum(steps.values())


def test_norms_and_what_they_do_besides():
    x, w = (5, 8), (8,)
    norm = {"square": 40, "mean": 40, "eps": 5, "root": 5, "times": 40}
    plain = sum(norm.values())
    assert cost_of("_C::rms_norm", x, x, None, 1e-6) == {"normalization": plain}
    assert cost_of("_C::rms_norm", x, x, w, 1e-6) == {"normalization": plain + 40}
    assert cost_of("sgl_kernel::rmsnorm", x, x, w, 1e-6, True) == {"normalization": plain + 40}
    assert cost_of("sgl_kernel::gemma_rmsnorm", x, x, w, 1e-6, True) == {"normalization": plain + 40 + 8}
    added = {"normalization": plain + 40, "pointwise": 40}
    assert cost_of("_C::fused_add_rms_norm", x, x, w, 1e-6) == added
    assert cost_of("sgl_kernel::fused_add_rmsnorm", x, x, w, 1e-6, True) == added
    assert cost_of("_C::rms_norm_static_fp8_quant", x, x, w, (1,), 1e-6) == added
    assert cost_of("_C::fused_add_rms_norm_static_fp8_quant", x, x, x, w, (1,), 1e-6)["pointwise"] == 80
    chosen = cost_of("_C::rms_norm_dynamic_per_token_quant", x, x, w, (5, 1), 1e-6, None, x)
    assert chosen == {"normalization": plain + 40, "pointwise": 40 + (40 + 40 + 5 + 5)}


@pytest.mark.parametrize("rotated", [16, 8])
def test_a_rotation_takes_two_products_and_a_sum(rotated):
    each = len(["x·cos", "y·sin", "add"])
    tokens, query_heads, key_heads = 5, 4, 1
    expected = each * tokens * (query_heads + key_heads) * rotated
    table = (2048, rotated)
    assert cost_of("_C::rotary_embedding", (5,), (5, 64), (5, 16), 16, table, True) == expected
    assert cost_of("_C::rotary_embedding", (5,), (5, 64), None, 16, table, True) == each * tokens * 4 * rotated
    query, key = (5, 4, 16), (5, 1, 16)
    assert (
        cost_of("sgl_kernel::apply_rope_pos_ids_cos_sin_cache", query, key, query, key, table, (5,), False, True, 0)
        == expected
    )


@pytest.mark.parametrize("op", ["_C::dsv3_fused_a_gemm", "_C::fp32_router_gemm", "sgl_kernel::dsv3_router_gemm"])
@pytest.mark.parametrize("weight", [(8, 6), (6, 8)])
def test_products_into_a_tensor(op, weight):
    assert cost_of(op, (4, 6), (4, 8), weight) == sum(2 * 8 for _row in range(4) for _column in range(6))


@pytest.mark.parametrize(
    ("scales", "blocks"), [((1,), 1), ((1, 1), 1), ((4, 1), 1), ((4, 2), 2)], ids=["one", "one too", "rows", "blocks"]
)
@pytest.mark.parametrize("bias", [None, (6,)])
def test_scaled_products(scales, blocks, bias):
    a, b = spec("fp8_e4m3", 4, 256), spec("fp8_e4m3", 256, 6)
    given = cost_of("_C::cutlass_scaled_mm", (4, 6), a, b, scales, (6,), bias)
    returned = cost_of("sgl_kernel::fp8_scaled_mm", a, b, scales, (6,), None, bias, out=[(4, 6)])
    expected = {"matmul": 2 * 4 * 6 * 256, "pointwise": 24 * (2 * blocks + (bias is not None))}
    assert given == returned == expected
    cost = FORMULAS["_C::cutlass_scaled_mm"][1](OpCall.of("_C::cutlass_scaled_mm", (4, 6), a, b, scales, (6,), bias))
    assert [part.precision for part in cost.parts] == ["fp8_e4m3", "fp32"]


@pytest.mark.parametrize(("zeros", "bias"), [(None, None), ((1, 2), None), (None, (16,)), ((1, 2), (16,))])
def test_products_with_packed_weights(zeros, bias):
    packed = spec("int32", 4, 32)
    zeros = zeros and spec("int32", *zeros)
    args = (4, 64), None, packed, bias, (1, 16), None, None, zeros, (1,), 0, 4, 16, 64, False, False, False
    steps = {"scale": 64 * 16, "zero point": 64 * 16 * (zeros is not None), "bias": 64 * (bias is not None)}
    assert cost_of("_C::marlin_gemm", *args, out=[(4, 16)]) == {
        "matmul": 2 * 4 * 16 * 64,
        "pointwise": sum(steps.values()),
    }


def test_experts_are_chosen_by_softmax_and_their_results_added_up():
    softmax = {"subtract": 40, "exp": 40, "sums": 40 - 5, "divide": 40}
    vllm = ("_moe_C::topk_softmax", (5, 2), (5, 2), (5, 2), (5, 8))
    assert cost_of(*vllm, False, None) == {"normalization": sum(softmax.values())}
    assert cost_of(*vllm, True, None) == {"normalization": sum(softmax.values()) + 5 * (1 + 2)}
    assert cost_of("_moe_C::moe_sum", (5, 2, 8), (5, 8)) == 5 * 8


def test_a_cache_that_keeps_fp8_scales_what_it_keeps():
    cache, key = (10, 16, 2, 8), (5, 2, 8)
    for kind, each in (("auto", 0), ("fp8", 1)):
        found = cost_of("_C_cache_ops::reshape_and_cache_flash", key, key, cache, cache, (5,), kind, (1,), (1,))
        assert found == each * 160


@pytest.mark.parametrize("op", ["_C::paged_attention_v1", "_C::paged_attention_v2"])
def test_a_new_token_looks_at_all_cached_ones(op):
    """Key heads that are shared cost each query head as much."""
    lengths = spec("int32", 3, values=(3, 0, 5))
    query, cache = (3, 4, 8), (10, 2, 8, 16, 8)
    args = (query, cache, cache, 2, 0.3, (3, 1), lengths, 16, 5)
    before = (query,) if op.endswith("v1") else (query, (3, 4, 1), (3, 4, 1), (3, 4, 1, 8))
    pairs = 4 * (3 + 5)
    assert cost_of(op, *before, *args) == {
        "attention": pairs * (2 * 8 + 2 * 8),
        "pointwise": pairs,
        "normalization": 4 * pairs - 4 * 2,
    }
    assert READS[op] == (len(before) + 6,)


def test_moving_and_sorting_costs_nothing():
    assert all(cost_of(op, (5, 8), (5, 8)) == {} for op in NOTHING)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("_C::dynamic_scaled_int8_quant", ((5, 8), (5, 8), (5, 1), (5, 1))),
        ("_C::rms_norm", ((5, 8), (5, 8), (5,), 1e-6)),
        ("_C::rotary_embedding", ((5,), (5, 64), None, 8, (2048, 16), True)),
        ("_C::dsv3_fused_a_gemm", ((4, 6), (4, 8), (7, 6))),
        ("_C::dsv3_fused_a_gemm", ((3, 6), (4, 8), (8, 6))),
        ("_C_cache_ops::reshape_and_cache", ((5, 2, 8), (5, 2, 8), (10,), (10,), (5,))),
        ("_C::paged_attention_v1", ((3, 4, 8), (3, 4, 8), (1,), (1,), 2, 0.3, (3, 1), spec("int32", 3), 16, 5)),
    ],
)
def test_what_does_not_fit_or_is_not_known_is_refused(op, args):
    """Lengths that the host does not know would be a guess."""
    with pytest.raises(FormulaError):
        cost_of(op, *args)
