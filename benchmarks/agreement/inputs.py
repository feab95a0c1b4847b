"""Inputs of a model of `transformers`, made by the names of its forward's parameters."""

# ruff: noqa: ARG001  # every maker is asked in the same way

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

BATCH, LENGTH, GRID = 2, 12, 4
HAS_MATCHER = importlib.util.find_spec("scipy") is not None
"""Losses of detectors match boxes by an assignment that `transformers` takes from scipy."""
NAMES: dict[str, Callable[[Any], Any]] = {}


class Setting:
    """What the makers of inputs ask: the whole config, and the one for text, pictures or sound inside."""

    def __init__(self, config: Any, head: str, changes: Mapping[str, Any], known: Iterable[str] = ()) -> None:
        """Keep what is asked for."""
        self.known, self.variant = frozenset(known), changes.get("variant", 0)
        self.config, self.head, self.changes = config, head, changes
        self.length = changes.get("length", LENGTH)

    def find(self, *names: str, default: Any = None) -> Any:
        """Return the first field of one of these names, looking inside nested configs last."""
        for name in names:
            for config in self.configs():
                value = getattr(config, name, None)
                if value is not None:
                    return value
        return default

    def knows(self, *names: str) -> bool:
        """Say whether the model takes one of these."""
        return any(name in self.known for name in names)

    @property
    def has_grid(self) -> bool:
        """Say whether pictures come as rows of patches with a grid beside them."""
        return self.knows("grid_thw", "image_grid_thw", "image_grid_hw", "grid_hw")

    def configs(self) -> list[Any]:
        """Return the config and those inside it."""
        found, wait = [], [self.config]
        while wait:
            config = wait.pop(0)
            found.append(config)
            for name in getattr(config, "sub_configs", None) or ():
                inner = getattr(config, name, None)
                if inner is not None and not isinstance(inner, dict):
                    wait.append(inner)
        return found


def maker(*names: str) -> Callable[[Callable[[Setting], Any]], Callable[[Setting], Any]]:
    """Say which parameters a function makes values for."""

    def keep(function: Callable[[Setting], Any]) -> Callable[[Setting], Any]:
        for name in names:
            NAMES[name] = function
        return function

    return keep


@maker("input_ids", "decoder_input_ids", "text_input_ids")
def make_tokens(setting: Setting) -> torch.Tensor:
    """Return tokens, and where the model wants them the places of pictures or sounds among them."""
    vocabulary = min(setting.find("vocab_size", default=100), 100)
    tokens = torch.randint(5, max(vocabulary, 6), (BATCH, setting.length))
    for place, count in setting.changes.get("places", {}).items():
        number = setting.find(place)
        tokens = torch.cat([tokens[:, :2], torch.full((BATCH, count), number), tokens[:, 2:]], 1)
    return tokens


@maker("attention_mask", "decoder_attention_mask")
def make_mask(setting: Setting) -> torch.Tensor:
    """Return a mask that lets all tokens pass, or all of a sound."""
    if not setting.knows("input_ids"):
        return make_features_mask(setting)
    return torch.ones(BATCH, setting.length, dtype=torch.long)


@maker("pixel_values", "pixel_values_images", "spectrogram")
def make_picture(setting: Setting) -> torch.Tensor:
    """Return pictures; as a row of patches where the model is told their grid."""
    channels = setting.find("num_channels", "in_channels", "in_chans", "n_channels", default=3)
    channels = channels if isinstance(channels, int) else 3
    patch = setting.find("patch_size", default=16)
    if setting.has_grid:
        depth = setting.find("temporal_patch_size", default=1)
        return torch.rand(BATCH * GRID * GRID, channels * depth * patch * patch)
    if setting.knows("spatial_shapes"):
        return torch.rand(BATCH, GRID * GRID, channels * patch * patch)
    size = setting.find("image_size", "crop_size", "img_size", default=64)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if setting.variant == 0:
        return torch.rand(BATCH, channels, height, width)
    if setting.variant == 1:
        return torch.rand(BATCH, 1, channels, height, width)
    return torch.rand(BATCH, setting.find("num_frames", default=2), channels, height, width)


@maker("grid_thw", "image_grid_thw")
def make_grid(setting: Setting) -> torch.Tensor:
    """Return the grid of patches of each picture."""
    return torch.tensor([[1, GRID, GRID]] * BATCH)


@maker("image_grid_hw", "spatial_shapes", "target_sizes")
def make_flat_grid(setting: Setting) -> torch.Tensor:
    """Return the grid of patches of each picture, without time."""
    return torch.tensor([[GRID, GRID]] * BATCH)


@maker("merge_sizes")
def make_merge(setting: Setting) -> torch.Tensor:
    """Return how many patches become one."""
    return torch.tensor([1] * BATCH)


@maker("image_sizes")
def make_sizes(setting: Setting) -> torch.Tensor:
    """Return heights and widths of pictures."""
    size = setting.find("image_size", default=64)
    return torch.tensor([[size, size] if isinstance(size, int) else list(size)] * BATCH)


@maker("image_attention_mask")
def make_picture_mask(setting: Setting) -> torch.Tensor:
    """Return a mask that lets each token see the one picture."""
    return torch.ones(BATCH, setting.length, 1, dtype=torch.long)


@maker("pixel_attention_mask")
def make_patch_mask(setting: Setting) -> torch.Tensor:
    """Return a mask that leaves all patches."""
    if setting.knows("spatial_shapes"):
        return torch.ones(BATCH, GRID * GRID, dtype=torch.long)
    size = setting.find("image_size", default=64)
    return torch.ones(BATCH, size, size, dtype=torch.long)


@maker("flattened_patches")
def make_patches(setting: Setting) -> torch.Tensor:
    """Return patches behind their row and column."""
    wide = setting.find("patch_embed_hidden_size", default=768)
    places = torch.tensor([[[1.0 + row, 1.0 + column] for row in range(GRID) for column in range(GRID)]])
    return torch.cat([places.expand(BATCH, -1, -1), torch.rand(BATCH, GRID * GRID, wide)], 2)


@maker("pixel_values_videos")
def make_video(setting: Setting) -> torch.Tensor:
    """Return moving pictures."""
    size = setting.find("image_size", "crop_size", default=64)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    frames = setting.find("num_frames", "frames_per_clip", default=4)
    return torch.rand(BATCH, frames, setting.find("num_channels", "in_chans", default=3), height, width)


@maker("input_features")
def make_features(setting: Setting) -> torch.Tensor:
    """Return spectrograms, time last or first."""
    names = ("num_mel_bins", "feature_projection_input_dim", "n_mels", "input_feat_per_channel", "input_feat_size")
    bins = setting.find(*names, "input_dim", "n_mel_bins", "mel_dim", default=80)
    length = min(2 * setting.find("max_source_positions", default=32), 256)
    if setting.variant == 0:
        return torch.rand(BATCH, bins, length)
    return torch.rand(BATCH, length, bins) if setting.variant == 1 else torch.rand(BATCH, 1, length, bins)


@maker("input_features_mask", "feature_attention_mask")
def make_features_mask(setting: Setting) -> torch.Tensor:
    """Return a mask that leaves all of a sound."""
    length = min(2 * setting.find("max_source_positions", default=32), 256)
    return torch.ones(BATCH, length, dtype=torch.bool)


@maker("input_values", "audio_values")
def make_wave(setting: Setting) -> torch.Tensor:
    """Return sound: one row of it, one channel of it, or a spectrogram."""
    if setting.variant == 0:
        return torch.randn(BATCH, setting.changes.get("sound", 8000))
    if setting.variant == 1:
        return torch.randn(BATCH, 1, 8000)
    return torch.rand(BATCH, setting.find("max_length", default=64), setting.find("num_mel_bins", default=80))


@maker("past_values", "past_observed_mask")
def make_series(setting: Setting) -> torch.Tensor:
    """Return rows of numbers over time; for models with lags, before the context too."""
    length = setting.find("context_length", default=32) + max(setting.find("lags_sequence", default=[0]))
    channels = setting.find("num_input_channels")
    if setting.knows("past_time_features"):
        return torch.ones(BATCH, length)
    return torch.rand(BATCH, length, channels) if channels else torch.rand(BATCH, length)


@maker("future_values")
def make_future(setting: Setting) -> torch.Tensor:
    """Return what comes after."""
    shape = (BATCH, setting.find("prediction_length", default=4))
    channels = setting.find("num_input_channels")
    return torch.rand(*shape, channels) if channels else torch.rand(*shape)


@maker("past_time_features")
def make_past_times(setting: Setting) -> torch.Tensor:
    """Return when it was."""
    return torch.rand(*make_series(setting).shape[:2], setting.find("num_time_features"))


@maker("future_time_features")
def make_future_times(setting: Setting) -> torch.Tensor:
    """Return when it will be."""
    return torch.rand(*make_future(setting).shape[:2], setting.find("num_time_features"))


@maker("high_res_pixel_values")
def make_fine_picture(setting: Setting) -> torch.Tensor:
    """Return pictures for the finer of two encoders."""
    size = setting.config.high_res_vision_config.image_size
    return torch.rand(BATCH, 3, size, size)


@maker("states")
def make_situations(setting: Setting) -> torch.Tensor:
    """Return what an agent sees."""
    return torch.rand(BATCH, setting.length, setting.find("state_dim"))


@maker("actions")
def make_actions(setting: Setting) -> torch.Tensor:
    """Return what an agent does."""
    return torch.rand(BATCH, setting.length, setting.find("act_dim"))


@maker("rewards", "returns_to_go")
def make_rewards(setting: Setting) -> torch.Tensor:
    """Return what an agent gets."""
    return torch.rand(BATCH, setting.length, 1)


@maker("timesteps")
def make_times(setting: Setting) -> torch.Tensor:
    """Return when."""
    return torch.arange(setting.length).expand(BATCH, -1)


@maker("qformer_input_ids")
def make_question(setting: Setting) -> torch.Tensor:
    """Return tokens for the part between a picture and a text."""
    return torch.randint(5, 100, (BATCH, LENGTH))


@maker("query_embeds")
def make_queries(setting: Setting) -> torch.Tensor:
    """Return learnt questions."""
    return torch.rand(BATCH, 8, setting.find("hidden_size"))


@maker("visual_feats")
def make_regions(setting: Setting) -> torch.Tensor:
    """Return what a detector has seen."""
    return torch.rand(BATCH, 6, setting.find("visual_feat_dim"))


@maker("visual_pos")
def make_region_boxes(setting: Setting) -> torch.Tensor:
    """Return where it has seen that."""
    return torch.rand(BATCH, 6, setting.find("visual_pos_dim", default=4))


@maker("mm_token_type_ids", "token_type_ids")
def make_sorts(setting: Setting) -> torch.Tensor:
    """Return which tokens stand for pictures."""
    tokens = make_tokens(setting)
    sorts = torch.zeros_like(tokens)
    for place in setting.changes.get("places", {}):
        sorts[tokens == setting.find(place)] = 1
    return sorts


@maker("return_loss")
def make_wish(setting: Setting) -> bool:
    """Return that the loss is wanted."""
    return True


@maker("inputs")
def make_anything(setting: Setting) -> torch.Tensor:
    """Return what a model without one sort of input is given: sound to speech models, else tokens."""
    return make_wave(setting) if setting.head.startswith("Speech") else make_tokens(setting)


@maker("bbox")
def make_boxes(setting: Setting) -> torch.Tensor:
    """Return a box for each token."""
    return torch.tensor([1, 2, 3, 4]).expand(BATCH, setting.length, 4).clone()


@maker("inputs_embeds", "hidden_states", "encoder_hidden_states", "decoder_inputs_embeds")
def make_states(setting: Setting) -> torch.Tensor:
    """Return hidden states."""
    if setting.has_grid:
        return make_picture(setting)
    return torch.rand(BATCH, setting.length, setting.find("hidden_size", "d_model", "n_embd", "dim"))


def make_labels(setting: Setting, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the head's loss compares with: the first of these kinds of heads that the class is named for."""
    for names, labels in LABELS.items():
        if any(name in setting.head for name in names):
            return labels(setting, inputs)
    tokens = inputs.get("input_ids")
    return {"labels": torch.randint(5, 50, (BATCH, 8)) if tokens is None else tokens.clone()}


def _label_spans(_: Setting, __: Mapping[str, Any]) -> dict[str, Any]:
    start = torch.zeros(BATCH, dtype=torch.long)
    return {"start_positions": start, "end_positions": start + 1}


def _label_tokens(setting: Setting, inputs: Mapping[str, Any]) -> dict[str, Any]:
    shape = inputs["input_ids"].shape if "input_ids" in inputs else (BATCH, setting.length)
    return {"labels": torch.zeros(shape, dtype=torch.long)}


def _label_boxes(_: Setting, __: Mapping[str, Any]) -> dict[str, Any]:
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    return {"labels": [{"class_labels": torch.tensor([0]), "boxes": box} for _ in range(BATCH)]} if HAS_MATCHER else {}


def _label_masks(_: Setting, inputs: Mapping[str, Any]) -> dict[str, Any]:
    masks = [torch.rand(2, *inputs["pixel_values"].shape[-2:]).round() for _ in range(BATCH)]
    return {"mask_labels": masks, "class_labels": [torch.tensor([0, 1])] * BATCH} if HAS_MATCHER else {}


def _label_pixels(_: Setting, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": torch.zeros(BATCH, *inputs["pixel_values"].shape[-2:], dtype=torch.long)}


def _label_rows(setting: Setting, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": torch.randint(0, max(setting.find("num_labels", default=2), 1), (BATCH,))}


def _label_letters(_: Setting, __: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": torch.randint(1, 5, (BATCH, 3))}


LABELS: dict[tuple[str, ...], Callable[[Setting, Mapping[str, Any]], dict[str, Any]]] = {
    ("ForQuestionAnswering",): _label_spans,
    ("TokenClassification", "FrameClassification"): _label_tokens,
    ("SemanticSegmentation",): _label_pixels,
    ("UniversalSegmentation", "InstanceSegmentation"): _label_masks,
    ("Detection", "Segmentation"): _label_boxes,
    ("Classification",): _label_rows,
    ("CTC",): _label_letters,
    ("Depth",): lambda _, __: {},
}


def make_inputs(model: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for a training step of a model."""
    known = inspect.signature(model.forward).parameters
    setting = Setting(model.config, type(model).__name__, changes, known)
    wanted = {getattr(model, "main_input_name", "input_ids")} & set(known)
    wanted |= {
        name
        for name, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    if "input_ids" in wanted:
        wanted |= {"pixel_values", "input_features"} & set(known)
    if "input_ids" in known and "ConditionalGeneration" in setting.head and "decoder_input_ids" not in known:
        wanted.add("input_ids")
    times = {"actions", "rewards", "returns_to_go", "timesteps", "future_time_features", "future_values"}
    wanted |= ({*times, "past_time_features", "past_observed_mask", "visual_feats", "visual_pos"}) & set(known)
    wanted |= {"bbox", "return_loss", "flattened_patches", "input_features_mask"} & set(known)
    if "pixel_values" in wanted:
        grid = {"grid_thw", "image_grid_thw", "image_grid_hw", "spatial_shapes", "mm_token_type_ids", "merge_sizes"}
        wanted |= grid & set(known)
        wanted |= {"image_sizes"} & set(known)
        wanted |= {"pixel_attention_mask"} & set(known) if "spatial_shapes" in known else set()
    wanted |= set(changes.get("also", ()))
    wanted -= set(changes.get("without", ()))
    inputs: dict[str, Any] = {}
    for name in sorted(wanted - {"labels", "start_positions", "end_positions", "mask_labels"}):
        if name not in NAMES:
            msg = f"no maker for the input {name}"
            raise LookupError(msg)
        inputs[name] = NAMES[name](setting)
    if "labels" not in changes.get("without", ()):
        made = make_labels(setting, inputs)
        if all(name in known for name in made):
            inputs |= made
        if (
            getattr(model.config, "is_encoder_decoder", False)
            and "decoder_input_ids" in known
            and "labels" not in inputs
        ):
            inputs.setdefault("decoder_input_ids", make_tokens(setting))
    return inputs
