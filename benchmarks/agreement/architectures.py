"""Every architecture of `transformers` that can be built from a shrunken config, as subjects."""

import inspect
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import exceptions
import inputs
import refusals
import shrinking
import torch
import transformers
from subject import Built, Subject
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
EAGER = ("bert", "clip", "gemma2", "gpt2", "llama", "mistral", "vit", "wav2vec2", "whisper")
EXPERTS = ("deepseek_v3", "mixtral", "qwen3_moe")
TASKS = (
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "OBJECT_DETECTION",
    "UNIVERSAL_SEGMENTATION",
    "SEMANTIC_SEGMENTATION",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "SEQUENCE_CLASSIFICATION",
    "TIME_SERIES_PREDICTION",
    "DEPTH_ESTIMATION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "VISUAL_QUESTION_ANSWERING",
    "TEXT_TO_SPECTROGRAM",
    "TEXT_TO_WAVEFORM",
    "IMAGE_TO_IMAGE",
    "PRETRAINING",
)


def heads_of(kind: str) -> list[str]:
    """Return class names that `transformers` registers for a model type, those with a loss first."""
    found: list[str] = []
    for task in (*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS), "MODEL_MAPPING_NAMES"):
        names = getattr(modeling_auto, task).get(kind)
        if names:
            found += [names] if isinstance(names, str) else list(names)
    others = [
        names
        for task, mapping in vars(modeling_auto).items()
        if task.startswith("MODEL") and task.endswith("MAPPING_NAMES") and (names := mapping.get(kind))
    ]
    found += [name for names in others for name in ([names] if isinstance(names, str) else names)]
    return list(dict.fromkeys(found))


def config_of(kind: str, *, way: str = "") -> Any:
    """Return the shrunken config of a model type."""
    changes = exceptions.CHANGES.get(kind, {})
    cls = CONFIG_MAPPING[kind]
    plain = cls(**changes.get("base", {}))
    fields = plain.to_dict()
    small = shrinking.shrink(fields, way=way or exceptions.WAYS.get(kind, "same"))
    small = exceptions.merge(small, changes.get("config", {}))
    small = shrinking.renumber(small)
    if small.get("is_encoder_decoder") and small.get("decoder_start_token_id") is None:
        small["decoder_start_token_id"] = 2
    if small.get("pad_token_id") is None:
        small["pad_token_id"] = 0
    backbone = small.get("backbone_config")
    if isinstance(backbone, dict) and backbone.get("model_type") == "timm_backbone":
        small["backbone_config"] = RESNET
    for name in ("model_type", "transformers_version", "architectures", "torch_dtype", "dtype"):
        small.pop(name, None)
    return cls(**small)


def build(kind: str, *, way: str = "", attention: str = "", experts: str = "") -> Built:
    """Build the model of a type with its training step; attention and experts as `transformers` chooses, or as told."""
    changes = exceptions.CHANGES.get(kind, {})
    torch.manual_seed(0)
    config = config_of(kind, way=way)
    cls = getattr(transformers, changes.get("head") or heads_of(kind)[0])
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in cls(config).parameters())
    if size > 40e6:
        msg = f"{size / 1e6:.0f} million parameters"
        raise MemoryError(msg)
    model = cls(config)
    if attention:
        model.set_attn_implementation(attention)
    if experts:
        model.set_experts_implementation(experts)
    model.train(changes.get("mode") != "eval")
    data = fit_inputs(model, changes)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)

    def step() -> None:
        torch.manual_seed(1)
        loss_of(model(**data)).backward()
        optimizer.step()
        optimizer.zero_grad()

    def evaluate() -> None:
        model.eval()
        with torch.no_grad():
            model(**data)
        model.train(changes.get("mode") != "eval")

    return Built(step, evaluate, sum(parameter.numel() for parameter in model.parameters()))


_MISMATCH = re.compile(
    r"(image|video|audio).*?tokens?:? (?:torch\.Size\(\[)?(\d+)\D+features:? (?:torch\.Size\(\[)?(\d+)", re.IGNORECASE
)


_VARIED = ("pixel_values", "input_features", "input_values")


def fit_inputs(model: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return inputs: the first shape that the model takes, with as many places for pictures as it says it needs."""
    failure: Exception | None = None
    for variant in range(3):
        try:
            data = place_inputs(model, {"variant": variant, **changes})
        except LookupError:
            raise
        except Exception as error:
            failure = failure or error
            if "variant" in changes or not any(name in inspect.signature(model.forward).parameters for name in _VARIED):
                raise
        else:
            return data
    raise failure


def place_inputs(model: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return inputs with which a forward runs."""
    asked = inputs.Setting(model.config, "", changes)
    width = asked.find("hidden_size", default=1)
    for unit in (width, 1, 0):
        data = inputs.make_inputs(model, changes)
        try:
            with torch.no_grad():
                model(**data)
        except (RuntimeError, ValueError) as error:
            found = _MISMATCH.search(str(error))
            if not found or not unit:
                raise
            sort, count = found.group(1).lower(), int(found.group(3)) // inputs.BATCH // unit
            place = next(name for name in (f"{sort}_token_id", f"{sort}_token_index") if asked.find(name) is not None)
            changes = {**changes, "places": {**changes.get("places", {}), place: count}}
        else:
            break
    return data


def loss_of(out: Any) -> torch.Tensor:
    """Return the model's own loss, else the sum of all floating outputs that have a gradient."""
    if isinstance(out, torch.Tensor):
        return out.float().abs().sum() if out.is_complex() else out.float().sum()
    loss = getattr(out, "loss", None)
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        return loss.sum()
    total = [one.float().sum() for one in flatten(out) if one.is_floating_point() and one.requires_grad]
    if not total:
        msg = "no output has a gradient"
        raise LookupError(msg)
    return torch.stack(total).sum()


def flatten(out: Any) -> Iterator[torch.Tensor]:
    """Return all tensors of an output."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, dict):
        for one in out.values():
            yield from flatten(one)
    elif isinstance(out, list | tuple):
        for one in out:
            yield from flatten(one)


def subjects() -> list[Subject]:
    """Return all that this version of `transformers` knows by name, and some once more in another implementation."""
    plain = [
        Subject(f"transformers/{kind}", partial(build, kind))
        for kind in sorted(CONFIG_MAPPING)
        if kind not in refusals.REFUSED and heads_of(kind)
    ]
    eager = [Subject(f"transformers/{kind}+eager", partial(build, kind, attention="eager")) for kind in EAGER]
    told = [
        Subject(f"transformers/{kind}+{experts}", partial(build, kind, experts=experts))
        for kind in EXPERTS
        for experts in ("eager", "batched_mm")
    ]
    return [*plain, *eager, *told]


def refused() -> dict[str, str]:
    """Return what is not among the subjects, and why."""
    parts = {kind: "no model is registered: a part of another" for kind in CONFIG_MAPPING if not heads_of(kind)}
    return parts | refusals.REFUSED
