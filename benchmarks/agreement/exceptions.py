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

_POINTS = {"keypoint_decoder_dim": 65}
_READER = {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True}

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
    "idefics": {"variant": 1, "also": ("image_attention_mask",)},
    "granite_speech": {"without": ("input_features_mask",)},
    "granite_speech_plus": {"without": ("input_features_mask",)},
    "instructblip": {"also": ("qformer_input_ids",)},
    "kosmos-2": {"without": ("pixel_values",)},
    "nemotron": {"config": {"num_key_value_heads": 2}},
    "nemotron_h": {"config": {"n_groups": 1, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8}},
    "perceiver": {
        "without": ("labels",),
        "config": {
            "d_latents": 32,
            "d_model": 32,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "qk_channels": 32,
            "v_channels": 32,
        },
    },
    "pop2piano": {"without": ("input_ids",), "variant": 1},
    "qwen2_audio": {"also": ("feature_attention_mask",)},
    "recurrent_gemma": {"config": {"num_hidden_layers": 3}},
    "sam": {"config": {"prompt_encoder_config": {"image_embedding_size": 4}}},
    "sam_hq": {"config": {"prompt_encoder_config": {"image_embedding_size": 4}}},
    "encoder-decoder": {"base": {"encoder": {"model_type": "bert"}, "decoder": _READER}},
    "vision-encoder-decoder": {"base": {"encoder": {"model_type": "vit"}, "decoder": _READER}},
    "speech-encoder-decoder": {"base": {"encoder": {"model_type": "wav2vec2"}, "decoder": _READER}},
    "vision-text-dual-encoder": {
        "base": {"vision_config": {"model_type": "vit"}, "text_config": {"model_type": "bert"}},
        "head": "VisionTextDualEncoderModel",
    },
    "lightglue": {
        "without": ("labels",),
        "mode": "eval",
        "variant": 2,
        "config": {"keypoint_detector_config": _POINTS},
    },
    "superglue": {
        "without": ("labels",),
        "mode": "eval",
        "variant": 2,
        "config": {"keypoint_detector_config": _POINTS},
    },
    **{kind: {"mode": "eval", "without": ("labels",)} for kind in ("swin2sr", "vitmatte", "vitpose", "vits")},
    **{
        kind: {"without": ("pixel_values", "image_sizes")}
        for kind in ("llava_next", "llava_next_video", "llava_onevision")
    },
    **{kind: {"variant": 1, "also": ("attention_mask",)} for kind in ("lasr_ctc", "parakeet_ctc")},
    "mimi": {"variant": 1, "config": {"vector_quantization_hidden_dimension": 32}},
    "efficientnet": {"config": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}},
    "llava": {"without": ("image_sizes",)},
    "mllama": {"without": ("pixel_values",)},
    "t5gemma2": {"without": ("pixel_values",)},
    "vipllava": {"config": {"vision_feature_layers": [-1, -2]}},
    "superpoint": {"config": _POINTS},
    "sam3": {"also": ("input_ids",)},
    "sam3_lite_text": {"also": ("input_ids",)},
    "splinter": {"head": "SplinterModel"},
    "wav2vec2-bert": {"variant": 1, "config": {"vocab_size": 64}},
    "wav2vec2-conformer": {"config": {"vocab_size": 64, **_CONVS}},
    "xmod": {"config": {"default_language": "en_XX"}},
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

WAYS: dict[str, str] = {
    **dict.fromkeys(
        (
            "bridgetower",
            "codegen",
            "gptj",
            "lilt",
            "mamba2",
            "mimo_v2_flash",
            "mistral4",
            "mistral_large4",
            "neucodec",
            "xcodec",
            "xlstm",
        ),
        "ratio",
    ),
    **dict.fromkeys(
        (
            "bit",
            "bros",
            "layoutlmv3",
            "mobilebert",
            "pp_lcnet_v4",
            "pp_ocrv6_small_rec",
            "pp_ocrv6_tiny_rec",
            "sam",
            "sam2_hiera_det_model",
            "sam2_vision_model",
            "sam_hq",
        ),
        "shallow",
    ),
}
"""Which of the three ways of shrinking, where it is not the first."""
