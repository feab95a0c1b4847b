"""Which family of models a subject belongs to, so that ratios can be told apart."""

import re
from typing import Any

STATE = re.compile(
    r"mamba|rwkv|xlstm|recurrent_gemma|jamba|bamba|zamba|falcon_h1|hybrid|lfm2|plamo|nemotron_h|qwen3_next|qwen3_5|"
    r"kimi_linear|minimax|olmo_hybrid|selective-scan"
)
"""Kinds whose layers keep a state and attend to it instead of to all tokens, all of them or some."""
BY_HAND = (
    (re.compile(r"torch/(lstm|gru|rnn|recurrent)"), "recurrent"),
    (re.compile(r"torch/(transformer|multihead|block-(?!experts))"), "language"),
    (re.compile(r"torch/block-experts"), "experts"),
    (re.compile(r"torch/(fourier|complex)|transformers/fnet"), "spectral and complex"),
    (re.compile(r"torch/(speech|sound)"), "audio"),
)
TASKS = (
    ("multimodal", ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "VISUAL_QUESTION", "ZERO_SHOT", "RETRIEVAL", "DOCUMENT")),
    ("audio", ("AUDIO", "CTC", "SPEECH", "WAVEFORM", "SPECTROGRAM", "RNNT", "TDT")),
    ("vision", ("IMAGE", "SEGMENTATION", "VIDEO", "DETECTION", "DEPTH", "BACKBONE", "MASK_GENERATION", "KEYPOINT")),
    ("language", ("CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION", "SEQ_TO_SEQ")),
    ("time series", ("TIME_SERIES", "DECISION")),
)
"""Words of the tasks for which transformers registers a kind, the most telling first."""
PARTS = {
    "vision": "vision",
    "video": "vision",
    "sam": "vision",
    "vit": "vision",
    "vq": "vision",
    "text": "language",
    "audio": "audio",
    "speech": "audio",
    "acoustic": "audio",
    "asr": "audio",
    "codec": "audio",
    "mimi": "audio",
    "dac": "audio",
    "clap": "audio",
    "decoder": "language",
    "former": "time series",
}
"""Words in the names of parts of models, which have no task of their own."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")


def family_of(name: str) -> str:
    """Return the family of a subject."""
    for pattern, family in BY_HAND:
        if pattern.match(name):
            return family
    if STATE.search(name):
        return "state space"
    if name.startswith("transformers/"):
        return family_of_kind(name.removeprefix("transformers/").partition("+")[0])
    return family_of_table(name)


def family_of_table(name: str) -> str:
    """Return the family of a model made by hand, after the file that it stands in."""
    from graphs import GRAPHS  # with torch, which is slow to import
    from training import TRAINING
    from vision import VISION

    tables = {"graphs and tables": GRAPHS, "training methods": TRAINING, "vision": VISION}
    found = [family for family, table in tables.items() if name in {one.name for one in table}]
    return found[0] if found else "other"


def family_of_kind(kind: str) -> str:
    """Return the family of a model type of transformers, after its config and its tasks."""
    from transformers import CONFIG_MAPPING  # slow to import, and may be absent
    from transformers.models.auto import modeling_auto

    config = CONFIG_MAPPING[kind]
    inner = [one for one in getattr(config, "sub_configs", {}).values() if isinstance(one, type)]
    if "_moe" in kind or any(count_experts(one) for one in (config, *inner)):
        return "experts"
    tasks = " ".join(
        task for task, mapping in vars(modeling_auto).items() if task.endswith("MAPPING_NAMES") and kind in mapping
    )
    found = next((family for family, words in TASKS if any(word in tasks for word in words)), "")
    return found or next((family for word, family in PARTS.items() if word in kind), "other")


def count_experts(config: Any) -> int:
    """Return how many experts a config's defaults speak of, if there is a choice between them."""
    counts = [getattr(config, name, None) for name in EXPERTS]
    return max([count for count in counts if isinstance(count, int) and count > 1], default=0)
