"""How a config of `transformers` becomes tiny: rules by the names of its fields, nested configs included.

Three ways, because no one of them keeps every model whole: `same` gives each width the same size, `ratio` divides
widths and so keeps what they are to each other, `shallow` keeps widths and takes layers away.
"""

import re
from collections.abc import Mapping
from typing import Any

WIDTH, HEADS, HEAD_DIM, VOCABULARY, LAYERS, EXPERTS = 32, 4, 8, 256, 2, 4
DIVISOR = 8
LABELS = 3

_WIDTHS = re.compile(
    r"(.*_)?(hidden_size|hidden_dim|hidden_sizes|embed_dim|embed_dims|d_model|n_embd|emb_dim|embedding_size|dim|"
    r"projection_dim|embedding_dim|projector_hidden_size|word_embed_proj_dim|output_dim|input_dim|proj_size|"
    r"hidden_channels|feature_size|pooler_output_size|fusion_hidden_size|conv_dim|width|output_channels|"
    r"stem_channels|channels|feat_size|in_dim|out_dim|proj_dims|hidden_size_global|n_inner)"
)
_INNER = re.compile(
    r"(.*_)?(intermediate_size|ffn_dim|mlp_dim|d_ff|ffn_hidden_size|linear_units|d_inner|dim_feedforward|"
    r"feedforward_dim|intermediate_size_mlp|intermediate_dim|feed_forward_hidden_size|share_expert_dim)"
)
_HEADS = re.compile(
    r"(.*_)?(num_attention_heads|attention_heads|num_heads|n_head|n_heads|heads|num_attention_heads_per_stage|"
    r"num_query_heads|mamba_n_heads)"
)
_KEY_HEADS = re.compile(r"(.*_)?(num_key_value_heads|num_kv_heads|n_head_kv|multi_query_group_num|kv_n_heads)")
_HEAD_DIMS = re.compile(r"(.*_)?(head_dim|d_kv|kv_channels|dim_head|attention_head_dim|head_size|d_head)")
_LAYERS = re.compile(
    r"(.*_)?(num_hidden_layers|num_layers|n_layer|n_layers|encoder_layers|decoder_layers|depth|layers|"
    r"num_decoder_layers|num_encoder_layers|num_blocks|num_spatial_layers|num_temporal_layers|"
    r"num_auxiliary_layers|resampler_depth|n_block)"
)
_NO_LAYERS = frozenset({"max_window_layers", "num_feat_extract_layers", "duration_predictor_layers", "iou_head_depth"})
_CAPS = (
    (r"(.*_)?(vocab_size|vocab_size_per_layer_input|codebook_size|num_embeddings)", VOCABULARY),
    (r"num_experts|num_local_experts|(n|num)_routed_experts|moe_num_experts|n_experts", EXPERTS),
    (r"num_experts_per_tok|moe_topk|moe_k|num_experts_per_token|top_k_experts|moe_top_k", 2),
    (r"n_group|topk_group|num_expert_group", 1),
    (
        r"(.*_)?(max_position_embeddings|n_positions|max_(source|target)_positions|max_seq_len|max_sequence_length|n_ctx)",
        128,
    ),
    (r"image_size|pretrain_image_size|input_size|resolution|crop_size|spec_size", 64),
    (r"sliding_window|attention_window|sliding_window_size|local_attention|block_size", 4),
    (r"upsample_groups", 32),
    (r"num_queries|num_query_tokens|num_latents", 8),
)
"""Largest values of whole numbers, whichever way a config is shrunk."""
_DEPTHS = re.compile(r"(.*_)?(depths|num_block_repeats|blocks_per_stage|stage_numb_of_layers|stage_num_blocks)")
_PLACES = re.compile(r"(.*_)?(indexes|indices|idxs|index_list)")
_TOKENS = re.compile(r"(.*_)?(token_id|token_index|token_ids|_id)")


def shrink(fields: Mapping[str, Any], *, way: str = "same") -> dict[str, Any]:
    """Return the fields of a smaller config; dictionaries with a model type inside are shrunk likewise."""
    layers = _count_layers(fields)
    before = {
        value
        for name, value in fields.items()
        if isinstance(value, int) and _LAYERS.fullmatch(name) and name not in _NO_LAYERS
    }
    small: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            small[name] = _shrink_inner(name, value, way=way, layers=layers)
        elif name in ("stage_names", "out_features", "label2id", "id2label", "transformers_version"):
            continue
        elif (
            "depths" not in fields
            and isinstance(value, list | tuple)
            and len(value) > 2
            and len(value) in before
            and not _PLACES.fullmatch(name)
        ):
            small[name] = list(value)[:layers]
        else:
            small[name] = _shrink_field(name, value, way=way, layers=layers)
    for name in ("id2label", "label2id", "out_features"):
        small.pop(name, None)
    if "depths" in fields and "out_features" in fields:
        small["out_features"] = fields["out_features"]
        small.pop("out_indices", None)
    for name in ("num_layers", "num_hidden_layers"):
        if fields.get(name) == len(fields.get("depths") or ()) > 0:
            small[name] = fields[name]
    if way == "same" and "head_dim" in small and small["head_dim"] is None:
        small["head_dim"] = HEAD_DIM
    _settle_heads(small)
    return small


def renumber(fields: dict[str, Any], limit: int = VOCABULARY) -> dict[str, Any]:
    """Give each special token beyond the vocabulary a number of its own within it."""
    given: dict[int, int] = {}

    def fit(value: int) -> int:
        if value < limit:
            return value
        return given.setdefault(value, limit - 1 - len(given))

    def walk(inner: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for name, value in inner.items():
            if isinstance(value, dict):
                out[name] = walk(value)
            elif not isinstance(name, str):
                out[name] = value
            elif _TOKENS.fullmatch(name) and isinstance(value, int) and not isinstance(value, bool):
                out[name] = fit(value)
            elif _TOKENS.fullmatch(name) and isinstance(value, list) and all(isinstance(one, int) for one in value):
                out[name] = [fit(one) for one in value]
            else:
                out[name] = value
        return out

    return walk(fields)


def _shrink_inner(name: str, value: Mapping[str, Any], *, way: str, layers: int) -> Mapping[str, Any]:
    if "model_type" in value:
        return shrink(value, way=way)
    if name == "per_layer_config":
        return {layer: config for layer, config in value.items() if int(layer) < layers}
    if way == "same" and isinstance(value.get("mrope_section"), list):
        half = HEAD_DIM // 2
        return {**value, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    return value


def _count_layers(fields: Mapping[str, Any]) -> int:
    """Return how many layers show one of each kind that the config tells apart."""
    needed = LAYERS
    for name, value in fields.items():
        if isinstance(value, list) and len(value) > 2 and (_PLACES.fullmatch(name) or name == "out_indices"):
            needed = max(needed, min(len(value), 5))
        if name.endswith(("layer_types", "layers_block_type")) and isinstance(value, list | tuple) and value:
            first = max(list(value).index(kind) for kind in set(value)) + 1
            needed = max(needed, min(first, 8))
    return needed


def _shrink_field(name: str, value: Any, *, way: str, layers: int) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, list | tuple):
        return _shrink_list(name, list(value), way=way, layers=layers)
    if _LAYERS.fullmatch(name) and name not in _NO_LAYERS:
        return min(value, layers)
    for pattern, cap in _CAPS:
        if re.fullmatch(pattern, name):
            return min(value, cap)
    if way == "shallow":
        return value
    return _shrink_width(name, value, way=way)


def _shrink_width(name: str, value: int, *, way: str) -> int:
    if _HEADS.fullmatch(name):
        return _fewer_heads(value) if way == "same" else value
    if _KEY_HEADS.fullmatch(name):
        return min(value, 2) if way == "same" else value
    if _HEAD_DIMS.fullmatch(name) or name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "qk_head_dim"):
        return min(value, HEAD_DIM) if way == "same" else max(value // DIVISOR, 2)
    if _WIDTHS.fullmatch(name) or name in ("kv_lora_rank", "q_lora_rank", "hidden", "filter_size"):
        if value <= 4:
            return value
        return min(value, WIDTH) if way == "same" else max(value // DIVISOR, 4)
    if _INNER.fullmatch(name):
        return min(value, 2 * WIDTH) if way == "same" else max(value // DIVISOR, 4)
    return value


def _shrink_list(name: str, value: list[Any], *, way: str, layers: int) -> list[Any]:
    if name == "image_size":
        return [min(one, 64) for one in value]
    if _DEPTHS.fullmatch(name) and all(isinstance(one, int) for one in value):
        return [min(one, 1) for one in value]
    if name == "out_indices" or _PLACES.fullmatch(name):
        return _shrink_places(value, layers=layers)
    if way == "shallow" or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        return value
    if _HEADS.fullmatch(name):
        return [_fewer_heads(one) for one in value] if way == "same" else value
    if _WIDTHS.fullmatch(name):
        if way == "same":
            return [min(one, WIDTH) if one > 4 else one for one in value]
        return [max(one // DIVISOR, 4) if one > 4 else one for one in value]
    return value


def _shrink_places(value: list[Any], *, layers: int) -> list[Any]:
    if not value or not all(isinstance(one, int) for one in value) or max(value) < layers:
        return value
    count = min(len(value), layers)
    return list(range(layers - count, layers))


def _fewer_heads(value: int) -> int:
    return value if value <= 2 else HEADS


def _settle_heads(small: dict[str, Any]) -> None:
    heads = next((small[name] for name in ("num_attention_heads", "n_head") if isinstance(small.get(name), int)), None)
    keys = small.get("num_key_value_heads")
    if heads and isinstance(keys, int) and heads % keys:
        small["num_key_value_heads"] = heads
