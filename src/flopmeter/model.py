"""Model: the size of a model, as 6ND wants it, and what its own configuration says of its shape.

Not here: where it is taken from (`sensors/model.py`), and what a shape costs (`estimate/architecture.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from flopmeter import wire

SIZES = frozenset(
    {
        "attention_output_gate", "d_model", "experimental_attention_variant", "ffn_dim", "ffn_hidden_size",
        "dff", "gated_linear_unit", "head_dim", "hidden_act", "hidden_activation", "hidden_size",
        "hidden_size_per_layer_input", "hybrid_layer_pattern",
        "hybrid_override_pattern", "intermediate_size", "is_encoder_decoder", "kv_channels", "kv_lora_rank",
        "linear_num_key_heads", "lru_width", "mamba_d_state", "moe_num_experts",
        "model_type", "mtp_num_layers", "multi_latent_attention", "multi_query", "n_embd", "n_head", "n_inner",
        "n_layer", "n_routed_experts", "num_attention_heads", "num_experts", "num_hidden_layers",
        "num_key_value_heads", "num_kv_heads", "num_layers", "num_local_experts", "num_moe_experts",
        "num_query_groups", "padded_vocab_size", "state_size", "swiglu", "vocab_size",
    }
)  # fmt: skip
"""Names under which configurations keep what decides the operations of a transformer, those of transformers,
of Megatron and of GPT scripts; nothing else of it is kept."""
MAX_TEXT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model's size, which 6ND needs, and of its configuration the sizes that it names (`SIZES`), as text.

    `headed` are those of `embedding` that stand under the name of an output layer first: transformers takes them for
    no table.

    Units: parameters; logical ones (a tied weight once, a sharded one whole).
    """

    parameters: int
    trainable: int
    embedding: int
    headed: int = 0
    config: Mapping[str, str] = field(default_factory=dict)

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel; a configuration that says nothing stays away."""
        config: dict[str, wire.Wire] = {"config": dict(self.config)} if self.config else {}
        return {
            "parameters": wire.print_count(self.parameters),
            "trainable": wire.print_count(self.trainable),
            "embedding": wire.print_count(self.embedding),
            **({"headed": wire.print_count(self.headed)} if self.headed else {}),
            **config,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="model")
        config = wire.parse_object(fields.get("config") or {}, name="config")
        return cls(
            headed=wire.parse_count(fields.get("headed", "0"), name="headed"),
            config={name: wire.parse_text(text, name=name) for name, text in config.items()},
            **{
                name: wire.parse_count(fields.get(name), name=name) for name in ("parameters", "trainable", "embedding")
            },
        )


def pick_sizes(config: Mapping[str, object]) -> dict[str, str]:
    """Return what a configuration says under the names of `SIZES`, as text: counts, words, true and false.

    What is None says nothing; lists, parts and numbers that are not whole stay away.

    Example:
        >>> pick_sizes({"n_layer": 2, "n_inner": None, "use_cache": True, "swiglu": False})
        {'n_layer': '2', 'swiglu': 'false'}
    """
    picked: dict[str, str] = {}
    for name in sorted(SIZES & set(config)):
        value = config[name]
        if isinstance(value, bool):
            picked[name] = "true" if value else "false"
        elif isinstance(value, int) and 0 <= value < wire.MAX_COUNT:
            picked[name] = wire.print_count(value)
        elif isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable():
            picked[name] = value
    return picked
