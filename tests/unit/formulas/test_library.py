"""Fused kernels of training libraries, counted step by step."""

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.call import OpCall
from flopmeter.formulas.library import ACTIVATIONS, FORMULAS, GATES, GROUPED, NOTHING, SOFTMAX


def cost_of(op, *args, **options):
    found = FORMULAS[op][1](OpCall.of(op, *args, **options))
    return found if isinstance(found, int) else {part.kind: part.flop for part in found.parts if part.flop}


@pytest.mark.parametrize("op", SOFTMAX)
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (3, 5)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_softmax_costs_the_pairs_that_it_keeps(op, queries, keys, scale):
    """Where it is causal, the last query sees all keys."""
    causal, masked = SOFTMAX[op]
    steps = {"subtract": 0, "exp": 0, "sum": 0, "divide": 0, "scale": 0}
    for _matrix in range(2):
        for query in range(queries):
            kept = [key for key in range(keys) if not causal or key <= query + keys - queries]
            for step in steps:
                steps[step] += len(kept) - (step == "sum")
    scores = (2, queries, keys)
    given = [scores, scores] if op.endswith("bwd") or masked else [scores]
    found = cost_of(op, *given, scale)
    assert found.pop("pointwise", 0) == steps.pop("scale") * (scale != 1)
    assert found == {"normalization": sum(steps.values())}


@pytest.mark.parametrize("probabilities", [None, (10,)])
def test_rows_of_experts_come_back_to_their_tokens(probabilities):
    """Ten rows for five tokens: each token adds up two."""
    tokens, per_token, width = 5, 2, 8
    adds = tokens * (per_token - 1) * width
    times = {} if probabilities is None else {"pointwise": 10 * width}
    args = (10, 8), (5, 9), probabilities, 5, 4, 8, None
    assert cost_of("te_moe::unpermute_mask_map_fwd", *args, out=[(5, 8)]) == {"reduction": adds, **times}
    assert cost_of("te_moe::permute_index_map_bwd", (10, 8), (10,), 5, 2, out=[(5, 8)]) == {"reduction": adds}


def test_gradients_of_rows_and_probabilities():
    steps = {"dy·p": 80, "dy·row": 80}
    expected = {"pointwise": sum(steps.values()), "reduction": 10 * (8 - 1)}
    assert cost_of("te_moe::unpermute_index_map_bwd", (5, 8), (10, 8), (10,), (5, 2)) == expected
    assert cost_of("te_moe::unpermute_mask_map_bwd_with_probs", (5, 8), (5, 9), (10, 8), (5, 4), None) == expected


@pytest.mark.parametrize("gemma", [False, True])
def test_a_root_mean_square_norm_and_its_gradients(gemma):
    x, w, n, m, k = (3, 4, 8), (8,), 96, 12, 8
    forward = {"square": n, "mean": n, "eps": m, "root": m, "times": n, "weight": n, "one more": k * gemma}
    assert cost_of("unsloth::rms_layernorm", x, w, 1e-6, gemma) == sum(forward.values())
    backward = cost_of("unsloth::rms_layernorm_backward", x, x, w, (12,), 1e-6, gemma, False)
    trained = cost_of("unsloth::rms_layernorm_backward", x, x, w, (12,), 1e-6, gemma, True)
    assert backward == 8 * n - m + k * gemma
    assert trained - backward == n + (n - k)


def test_rotations():
    q, k, table = (1, 5, 4, 8), (1, 5, 2, 8), (5, 8)
    assert cost_of("unsloth::rope_embedding", q, table, table, False) == 3 * 160
    assert cost_of("unsloth::rope_embedding_qk", q, k, table, table, (5,), True) == 3 * (160 + 80)
    both = cost_of("unsloth::qk_norm_rope", q, k, (8,), (8,), table, table, (5,), 1e-6, 1e-6, False)
    assert both == {"normalization": 4 * 240 + 2 * 30, "pointwise": 3 * 240}


@pytest.mark.parametrize(
    ("alpha", "beta", "each"), [(1.0, 1.0, 1), (1.0, 0.0, 0), (2.0, 1.0, 2), (2.0, 0.5, 3), (1.0, 0.5, 2), (2.0, 0, 1)]
)
def test_adding_a_product_in_place(alpha, beta, each):
    expected = {"matmul": 2 * 2 * 5 * 3} | ({"pointwise": each * 10} if each else {})
    assert cost_of("unsloth::addmm_", (2, 5), (2, 3), (3, 5), alpha, beta) == expected


@pytest.mark.parametrize("op", GROUPED)
def test_groups_share_out_the_rows(op):
    """Ten rows meet a weight each, whichever it is; each weight's gradient adds up its rows."""
    other = (10, 8) if GROUPED[op] else (3, 4, 8)
    assert cost_of(op, (10, 4), other, (3,)) == sum(2 * 4 * 8 for _row in range(10))


@pytest.mark.parametrize("bias", [None, (6,)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.0, 0.5)])
def test_quack_multiplies_and_adds(bias, alpha, beta):
    a, b, c = (4, 8), (8, 6), (4, 6)
    products = {"matmul": 2 * 4 * 6 * 8}

    def more(*steps):
        return products | ({"pointwise": 24 * sum(steps)} if sum(steps) else {})

    has_bias, is_scaled, is_other_scaled = bias is not None, alpha != 1, beta != 1
    assert cost_of("quack::gemm", a, b, bias, alpha, out=[c]) == more(has_bias, is_scaled)
    assert cost_of("quack::gemm_out", a, b, c, bias, alpha) == more(has_bias, is_scaled)
    added = more(has_bias, is_scaled, True, is_other_scaled)
    assert cost_of("quack::gemm_add", a, b, c, bias, alpha, beta, out=[c]) == added
    assert cost_of("quack::gemm_add_out", a, b, c, c, bias, alpha, beta) == added
    assert cost_of("quack::gemm", a, b, bias, 1.0, (1,), out=[c]) == more(has_bias, True)


def test_quack_multiplies_rows_of_groups_and_batches():
    assert cost_of("quack::gemm_out", (10, 8), (3, 8, 6), (10, 6))["matmul"] == 10 * 2 * 8 * 6
    assert cost_of("quack::gemm_out", (3, 4, 8), (3, 8, 6), (3, 4, 6))["matmul"] == 12 * 2 * 8 * 6


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_quack_activates(name):
    found = cost_of("quack::gemm_act_out", (4, 8), (8, 6), None, (4, 6), (4, 6), (6,), name)
    assert found == {"matmul": 2 * 4 * 6 * 8, "pointwise": 24 * (2 + (ACTIVATIONS[name] if name else 0))}


@pytest.mark.parametrize("name", [*GATES, "swiglu-tanh"])
def test_quack_gates(name):
    """The gate takes half of the columns, so its result is half as wide as the product."""
    found = cost_of("quack::gemm_gated_out", (4, 8), (8, 12), (4, 12), (4, 6), None, (12,), name)
    assert found == {"matmul": 2 * 4 * 12 * 8, "pointwise": 48 + 24 * GATES[name.removesuffix("-tanh")]}


def test_permuting_costs_nothing():
    assert all(cost_of(op, (10, 8), (5,)) == {} for op in NOTHING)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("unsloth::addmm_", ((2, 5), (2, 3), (4, 5), 1.0, 1.0)),
        ("unsloth_zoo::grouped_mm_fp16", ((10, 4), (3, 5, 8), (3,))),
        ("unsloth_zoo::grouped_mm_fp16_wgrad", ((10, 4), (9, 8), (3,))),
        ("quack::gemm_out", ((4, 8), (7, 6), (4, 6))),
        ("quack::gemm_out", ((4, 24), (24, 6), (3, 4, 6))),
        ("quack::gemm_out", ((4, 8), (8, 6), (4, 6), None, 1.0, None, None, None, None, None, False, True, "mxfp8")),
        ("quack::gemm_act_out", ((4, 8), (8, 6), None, (4, 6), None, None, "mish")),
        ("quack::gemm_gated_out", ((4, 8), (8, 12), None, (4, 6), None, None, None)),
    ],
)
def test_what_does_not_fit_or_is_not_known_is_refused(op, args):
    with pytest.raises(FormulaError):
        cost_of(op, *args)


def test_scores_of_any_size_cost_no_time():
    """Else one row of a ledger that claims any size takes all time or memory of whoever reads it."""
    scores = (1, 10**15, 10**15)
    whole = cost_of("te_softmax::scaled_softmax_fwd", scores, 1.0)
    causal = cost_of("te_softmax::scaled_upper_triang_masked_softmax_fwd", scores, 1.0)
    assert whole["normalization"] == 4 * 10**30 - 10**15
    assert causal["normalization"] == 2 * 10**15 * (10**15 + 1) - 10**15
