"""Architecture: the sizes of a transformer as its configuration names them, and published formulas over them.

Not here: what ran (`account.py`), and which tool prints which formula (`conventions`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

# N parameters, D tokens, L layers, H heads, Q head width, T sequence length

NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head"),
    "head_width": ("head_dim", "kv_channels"),
    "key_heads": ("num_key_value_heads", "num_kv_heads", "num_query_groups"),
    "feed_forward": ("ffn_hidden_size", "intermediate_size", "n_inner", "ffn_dim", "dff"),
    "vocabulary": ("vocab_size",),
    "padded_vocabulary": ("padded_vocab_size",),
}
"""What configurations call the sizes: those of transformers, of GPT scripts and of Megatron, in this order."""
PADDING = 128
"""Megatron pads a vocabulary to a multiple of this, unless it is told otherwise (`--make-vocab-size-divisible-by`)."""

_COUNTED_ODDITIES = {
    "hidden_size_per_layer_input": "tables in each layer",
    "kv_lora_rank": "multi-head latent attention",
    "linear_num_key_heads": "linear attention",
    "lru_width": "a recurrence",
    "mamba_d_state": "a state space",
    "moe_num_experts": "experts",
    "mtp_num_layers": "prediction of several tokens",
    "n_routed_experts": "experts",
    "num_experts": "experts",
    "num_local_experts": "experts",
    "num_moe_experts": "experts",
    "state_size": "a state space",
}
_GATED = ("gemma", "bitnet", "modernbert")
"""Parts of the names of models whose feed-forward layers are gated whatever their activation."""
_NAMED_ODDITIES = {
    "experimental_attention_variant": "another attention",
    "hybrid_layer_pattern": "layers of several sorts",
    "hybrid_override_pattern": "layers of several sorts",
}
_FLAGGED_ODDITIES = {
    "attention_output_gate": "a gate on attention",
    "is_encoder_decoder": "an encoder and a decoder",
    "multi_latent_attention": "multi-head latent attention",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of a decoder that is all attention and feed-forward layers; None is what the configuration hides.

    `oddities` are parts that the formulas here do not know. `is_gated`: a feed-forward layer is three products, as in
    SwiGLU, and not two.

    Units: all sizes are numbers of elements, heads or layers.
    """

    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    head_width: int | None = None
    key_heads: int | None = None
    feed_forward: int | None = None
    vocabulary: int | None = None
    padded_vocabulary: int | None = None
    is_gated: bool | None = None
    oddities: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, str]) -> Self:
        """Read the sizes that a configuration names (`model.pick_sizes`), and those that follow from them.

        Example:
            >>> found = Architecture.of({"n_layer": "2", "n_embd": "64", "n_head": "4", "vocab_size": "1000"})
            >>> (found.head_width, found.key_heads, found.feed_forward, found.padded_vocabulary, found.is_gated)
            (16, 4, 256, 1024, False)
        """
        sizes = {size: _find(config, names) for size, names in NAMES.items()}
        width, heads, vocabulary = sizes["width"], sizes["heads"], sizes["vocabulary"]
        if sizes["head_width"] is None and width and heads and width % heads == 0:
            sizes["head_width"] = width // heads
        if sizes["key_heads"] is None:
            sizes["key_heads"] = 1 if config.get("multi_query") == "true" else heads
        if sizes["feed_forward"] is None and width and "n_embd" in config:
            sizes["feed_forward"] = 4 * width  # GPT-2 and what was made after it leave it unsaid
        if sizes["padded_vocabulary"] is None and vocabulary:
            sizes["padded_vocabulary"] = -(-vocabulary // PADDING) * PADDING
        return cls(**sizes, is_gated=_find_gate(config), oddities=_find_oddities(config))


def estimate_palm(*, parameters: int, tokens: int, layers: int, heads: int, head_width: int, sequence: int) -> int:
    """Return the operations of training by PaLM's Appendix B, whose MFU has them as numerator.

    Units: FLOP.
    Counts: D·(6·N + 12·L·H·Q·T): 6 per parameter, and all pairs of queries and keys, masked or not.
    Ignores: recomputation, norms, softmax, the optimizer.
    Basis: `modelled`.
    Source: Chowdhery et al. 2022, PaLM: Scaling Language Modeling with Pathways, arXiv 2204.02311, Appendix B.

    Example:
        >>> estimate_palm(parameters=100, tokens=10, layers=1, heads=2, head_width=4, sequence=5)
        10800
    """
    return tokens * (6 * parameters + palm_attention(layers, heads, head_width, sequence))


def palm_attention(layers: int, heads: int, head_width: int, sequence: int) -> int:
    """Return the second part of PaLM's formula, 12·L·H·Q·T.

    Units: FLOP per token.
    """
    return 12 * layers * heads * head_width * sequence


def megatron_attention(layers: int, heads: int, head_width: int, sequence: int) -> int:
    """Return what Megatron-LM takes the scores and the sums over values to be: half of all pairs.

    Units: FLOP per token.
    """
    return 6 * layers * heads * head_width * sequence


def megatron_weights(*, layers: int, width: int, query: int, key: int, feed_forward: int, is_gated: bool) -> int:
    """Return what Megatron-LM takes the products with the weights of all layers to be, logits apart.

    `query` is the width of all query heads together, `key` that of all key heads.

    Units: FLOP per token.
    Counts: 6 for each weight of the query, key, value and output projections, and of 2 feed-forward layers, 3 if gated.
    """
    attention = width * (query + 2 * key) + query * width
    return 6 * layers * (attention + width * feed_forward * (3 if is_gated else 2))


def _find(config: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        text = config.get(name, "")
        if text.isdecimal() and text.isascii() and int(text) > 0:
            return int(text)
    return None


def _find_gate(config: Mapping[str, str]) -> bool | None:
    """Say whether feed-forward layers are gated: as it is told, or as models with this activation are made."""
    for name in ("swiglu", "gated_linear_unit"):
        if config.get(name) in ("true", "false"):
            return config[name] == "true"
    if any(part in config.get("model_type", "") for part in _GATED):
        return True
    activation = config.get("hidden_act", config.get("hidden_activation", ""))
    if activation:
        return activation in ("silu", "swish", "swiglu")
    return False if "n_embd" in config or "ffn_dim" in config else None


def _find_oddities(config: Mapping[str, str]) -> tuple[str, ...]:
    found = [words for name, words in _COUNTED_ODDITIES.items() if _find(config, (name,))]
    found += [words for name, words in _NAMED_ODDITIES.items() if config.get(name)]
    found += [words for name, words in _FLAGGED_ODDITIES.items() if config.get(name) == "true"]
    return tuple(dict.fromkeys(found))
