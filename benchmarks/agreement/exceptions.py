"""Where a model type needs more than the general rules."""

from collections.abc import Mapping
from typing import Any


def merge(fields: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with changes laid over them, nested ones too."""
    out = dict(fields)
    for name, value in changes.items():
        inner = out.get(name)
        out[name] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return out


_SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
_HALF = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 0],
    }
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 4}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
_CONVS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
_SERIES = {
    "prediction_length": 4,
    "context_length": 8,
    "label_length": 4,
    "moving_average": 3,
    "lags_sequence": [1, 2],
    "num_time_features": 1,
    "feature_size": 5,
}
_WINDOWS = {"image_size": 128, "window_size": 4}

CHANGES: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"variant": 2},
    "align": {"config": {"projection_dim": 64}},
    "autoformer": {"config": _SERIES},
    "informer": {"config": _SERIES},
    "time_series_transformer": {"config": _SERIES},
    "bamba": {"config": {**_MAMBA, "attn_layer_indices": [1]}},
    "falcon_h1": {"config": {**_MAMBA, "mamba_d_ssm": 64}},
    "granitemoehybrid": {"config": {**_MAMBA, "layer_types": ["linear_attention", "full_attention"]}},
    "jamba": {"config": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}},
    "beit": {"config": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "use_auxiliary_head": True}},
    "data2vec-vision": {"config": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}},
    "dots1": {"config": {**_EXPERTS, "first_k_dense_replace": 1}},
    "deepseek_v2": {"config": {**_EXPERTS, "first_k_dense_replace": 1}},
    "deepseek_ocr2": {"config": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}}},
    "esm": {"config": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32}},
    "hunyuan_v1_dense": {"config": {"head_dim": 8}},
    "hunyuan_v1_moe": {"config": {"head_dim": 8, "num_experts": 4, "moe_topk": 2}},
    "hunyuan_vl": {"config": {"text_config": {"head_dim": 8}}},
    "hunyuan_vl_text": {"config": {"head_dim": 8}},
    "wav2vec2": {"config": _CONVS},
    "dbrx": {"config": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}}},
    "depth_pro": {"config": {"patch_size": 64}},
    "embedding_gemma2": {"without": ("pixel_values",)},
    "fun_asr_nano": {"config": {"adaptor_config": {"intermediate_size": 8}}},
    "gemma3n_text": {"config": {"num_kv_shared_layers": 0}},
    "gemma4_text": {"config": {"num_kv_shared_layers": 0}},
    "gemma3": {"config": {"mm_tokens_per_image": 4, "vision_config": {"patch_size": 16}}},
    "gemma4": {"without": ("pixel_values", "input_features")},
    "gemma4_unified": {"without": ("pixel_values", "input_features")},
    "grounding-dino": {"config": {"backbone_config": {"out_features": None, "out_indices": [2, 3, 4]}}},
    "reformer": {
        "config": {
            "axial_pos_shape": [4, 4],
            "axial_pos_embds_dim": [16, 16],
            "is_decoder": True,
            "attn_layers": ["local", "lsh"],
        },
        "length": 16,
    },
    **{
        kind: {"config": {"text_config": _SECTIONS}}
        for kind in ("glm46v", "glm4v", "glm_ocr", "glmga", "qwen2_5_vl", "qwen2_vl")
    },
    **{
        kind: {"config": _SECTIONS}
        for kind in ("glm4v_text", "glm_image_text", "glm_ocr_text", "qwen2_5_vl_text", "qwen2_vl_text")
    },
    "deepseek_vl_hybrid": {"also": ("high_res_pixel_values",)},
    "dia": {"without": ("labels",)},
    "eomt": {"head": "EomtForUniversalSegmentation"},
    "flava": {"head": "FlavaModel"},
    "fuyu": {"without": ("pixel_values", "image_patches")},
    "lfm2_moe": {"config": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}},
    "emu3": {"config": {"vocabulary_map": {"<image>": 250, "<|extra_200|>": 251}}},
    "chameleon": {"config": {"vocabulary_map": {"<image>": 250}}},
    "idefics": {"variant": 1},
    "lightglue": {"without": ("labels",)},
    "longcat_flash": {"config": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16, "head_dim": 8}},
    "llama4": {"config": {"text_config": {"vocab_size": 256}}},
    "mask2former": {"head": "Mask2FormerModel"},
    "maskformer": {"head": "MaskFormerModel"},
    "muse_spark_audio": {"sound": 9600},
    **{kind: {"config": _WINDOWS} for kind in ("swin", "swinv2", "maskformer-swin", "donut-swin")},
    "glm_image": {"config": {"text_config": _SECTIONS}},
    "glm4v_moe": {"config": {"text_config": _HALF}},
    "glm4v_moe_text": {"config": _HALF},
}
