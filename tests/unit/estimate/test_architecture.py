"""Sizes as configurations name them, and formulas over sizes."""

import pytest

from flopmeter.estimate.architecture import (
    Architecture,
    estimate_palm,
    megatron_attention,
    megatron_weights,
    palm_attention,
)
from flopmeter.model import pick_sizes

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "hidden_act": "silu",
}  # fmt: skip


def of(**config):
    return Architecture.of(pick_sizes(config))


def test_a_llama_is_read():
    """Else no figure of a tool that goes by sizes can be given for the commonest model."""
    found = of(**LLAMA)
    assert (found.layers, found.width, found.heads, found.head_width, found.key_heads) == (32, 4096, 32, 128, 8)
    assert (found.feed_forward, found.vocabulary, found.padded_vocabulary) == (14336, 128256, 128256)
    assert found.is_gated is True
    assert found.oddities == ()


def test_a_gpt_leaves_its_feed_forward_unsaid():
    found = of(n_layer=12, n_head=12, n_embd=768, vocab_size=50257, n_inner=None, activation_function="gelu_new")
    assert (found.feed_forward, found.key_heads, found.padded_vocabulary) == (3072, 12, 50304)
    assert found.is_gated is False


def test_megatrons_own_names_are_read():
    found = of(
        num_layers=2, hidden_size=64, ffn_hidden_size=256, num_attention_heads=4, num_query_groups=2, kv_channels=32,
        padded_vocab_size=512, swiglu=True,
    )  # fmt: skip
    assert (found.layers, found.key_heads, found.head_width, found.padded_vocabulary) == (2, 2, 32, 512)
    assert found.is_gated is True


def test_what_is_not_said_is_none_and_no_guess():
    """Else a formula would be evaluated for sizes that the model does not have."""
    found = of(num_hidden_layers=2, hidden_size=64)
    assert (found.heads, found.head_width, found.key_heads, found.feed_forward, found.is_gated) == (None,) * 5
    assert of(hidden_size=10, num_attention_heads=3).head_width is None


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"num_local_experts": 8}, "experts"),
        ({"n_routed_experts": 64}, "experts"),
        ({"kv_lora_rank": 512}, "latent"),
        ({"is_encoder_decoder": True}, "encoder"),
        ({"state_size": 16}, "state space"),
        ({"hybrid_override_pattern": "M-M*"}, "several sorts"),
        ({"mtp_num_layers": 1}, "several tokens"),
    ],
)
def test_parts_without_a_formula_are_named(config, word):
    """Else experts, or a state space, would be priced as a dense layer."""
    assert word in " ".join(of(**LLAMA, **config).oddities)


@pytest.mark.parametrize(
    ("config", "is_gated"),
    [
        ({"hidden_act": "gelu"}, False),
        ({"hidden_act": "silu"}, True),
        ({"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh"}, True),
        ({"model_type": "modernbert-decoder", "hidden_activation": "gelu"}, True),
        ({"model_type": "bitnet", "hidden_act": "relu2"}, True),
        ({"hidden_act": "silu", "swiglu": False}, False),
        ({"gated_linear_unit": True}, True),
        ({"ffn_dim": 64}, False),
        ({}, None),
    ],
)
def test_a_gate_is_told_or_follows_from_the_activation(config, is_gated):
    assert of(**config).is_gated is is_gated


def test_one_key_head_may_be_said_in_a_word():
    assert of(multi_query=True, num_attention_heads=8).key_heads == 1


def test_palms_540_billion_by_hand():
    """Else the formula is not the one of the paper: 118 layers, 48 heads of 256, 2,048 tokens."""
    per_token = 6 * 540_350_000_000 + 12 * 118 * 48 * 256 * 2048
    assert estimate_palm(parameters=540_350_000_000, tokens=1, layers=118, heads=48, head_width=256, sequence=2048) == (
        per_token
    )


def test_megatron_takes_half_of_palms_pairs():
    assert 2 * megatron_attention(2, 4, 8, 100) == palm_attention(2, 4, 8, 100)


def test_megatrons_weights_by_hand():
    projections, feed_forward = 64 * 64 + 2 * 64 * 32 + 64 * 64, 64 * 256
    sizes = {"layers": 3, "width": 64, "query": 64, "key": 32, "feed_forward": 256}
    assert megatron_weights(**sizes, is_gated=False) == 6 * 3 * (projections + 2 * feed_forward)
    assert megatron_weights(**sizes, is_gated=True) == 6 * 3 * (projections + 3 * feed_forward)
