"""Formulas about the model, times tokens: each by hand, and what is said where an input is missing."""

import pytest

from flopmeter.account import Account
from flopmeter.conventions.per_token import translate_aws, translate_hf, translate_megatron, translate_palm
from flopmeter.conventions.translation import Given
from flopmeter.ledger.merge import read_run
from flopmeter.model import pick_sizes
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage

EVERY = (translate_hf, translate_aws, translate_palm, translate_megatron)
PARAMETERS, TRAINABLE, EMBEDDING = 1000, 900, 100
LENGTH, STEPS = 8, 3
TOKENS = LENGTH * STEPS
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 32, "vocab_size": 300, "hidden_act": "silu",
}  # fmt: skip


def count(kind="pointwise", phase="forward", flop=1, masked=0):
    return OpCount(op=f"x::{kind}", kind=kind, phase=phase, precision="fp32", calls=1, flop=flop, masked_flop=masked)


def given(folder, *, model=True, tokens=LENGTH, config=None, sequence=LENGTH, usage=None):
    loose = Tally.of([count(), count("attention", flop=5, masked=3), count(phase="recompute", flop=7)])
    with ScriptedSegment(folder / "run") as segment:
        if model:
            sizes = {"parameters": PARAMETERS, "trainable": TRAINABLE, "embedding": EMBEDDING}
            segment.note("model", {name: str(number) for name, number in sizes.items()})
        for step in range(STEPS):
            segment.run(product_table(), loose=loose, tokens=tokens, usage=None if step else usage)
        segment.run(product_table(phase="inference"), purpose="evaluation", tokens=0)
        segment.end()
    ledger = read_run(folder / "run")
    return Given.of(
        Account.of(ledger), ledger, config=None if config is None else pick_sizes(config), sequence=sequence
    )


def test_the_trainer_has_six_per_parameter_outside_of_tables(tmp_path):
    """Else total_flos of a checkpoint could not be set beside our figure."""
    found = translate_hf(given(tmp_path))
    assert found.flop == 6 * (PARAMETERS - EMBEDDING) * TOKENS
    lines = {line.term: line.flop for line in found.bridge}
    assert lines["evaluation and inference"] == -60
    assert lines["recomputation"] == -7 * STEPS
    assert lines["attention products"] == -5 * STEPS
    assert lines["weight products"] == found.flop - 60 * STEPS


def test_aws_counts_frozen_weights_for_two_thirds(tmp_path):
    """Else the figure that its users file would not be recognised."""
    found = translate_aws(given(tmp_path))
    assert found.flop == (4 * PARAMETERS + 2 * TRAINABLE) * TOKENS


@pytest.mark.parametrize(
    ("name", "busy_s", "held_s", "said"),
    [
        ("NVIDIA H100 80GB HBM3", 2, 3, str(2 * 989 * 10**12)),
        ("NVIDIA H200", 1, 3, str(148 * 10**12)),
        ("NVIDIA A10G", 1, 3, str(125 * 10**12)),
        ("NVIDIA RTX of next year", 1, 3, str(150 * 10**12)),
        ("NVIDIA A100-SXM4-80GB", None, 3, f"as their post has it, {3 * 312 * 10**12}"),
        ("NVIDIA A100-SXM4-80GB", None, None, "neither time nor utilisation"),
    ],
)
def test_awss_upper_bound_is_a_guessed_peak_times_utilisation(tmp_path, name, busy_s, held_s, said):
    """Else a guess by a part of a name would look like a bound of ours."""
    busy_ns, held_ns = (None if seconds is None else seconds * 10**9 for seconds in (busy_s, held_s))
    usage = Usage.of([DeviceUsage(uuid="GPU-1", name=name, held_ns=held_ns, busy_ns=busy_ns)])
    (bound,) = translate_aws(given(tmp_path, usage=usage)).besides.values()
    assert bound == said if busy_s else said in bound


def test_without_a_device_awss_upper_bound_is_unknown_and_says_why(tmp_path):
    """Else no driver would read as no work."""
    (bound,) = translate_aws(given(tmp_path, usage=Usage.of([], ["no NVIDIA driver"]))).besides.values()
    assert bound == "cannot tell: no NVIDIA driver"


def test_palm_takes_every_pair_and_every_parameter(tmp_path):
    """Else MFU figures from papers could not be compared with a run."""
    found = translate_palm(given(tmp_path, config=LLAMA))
    layers, heads, width = 2, 4, 4
    assert found.flop == TOKENS * (6 * PARAMETERS + 12 * layers * heads * width * LENGTH)
    lines = {line.term: line.flop for line in found.bridge}
    assert lines["attention products"] == 12 * layers * heads * width * LENGTH * TOKENS - 5 * STEPS
    assert str(6 * EMBEDDING * TOKENS)[:2] in found.notes[0].replace(".", "")


def megatron_by_its_paper(*, layers, hidden, heads, groups, width, feed_forward, gated, vocabulary, length, batch):
    """The closed form that Megatron-LM had before its terms were written out, with half of all pairs.

    12·B·s·l·h²·((1 + g/a + s/2h)·r + f/h, by 3/2 if gated, + V/2lh), r the width of all heads over h; as published in
    Narayanan et al. 2021 (arXiv 2104.04473) for g = a, r = 1, f = 4h and every pair: 72·B·s·l·h²·(1 + s/6h + V/12lh).
    A faithful evaluation of what is published: the program itself comes with its repository alone.
    """
    ratio = width * heads / hidden
    attention = (1 + groups / heads + length / (2 * hidden)) * ratio
    rest = feed_forward / hidden * (1.5 if gated else 1) + vocabulary / (2 * layers * hidden)
    return 12 * batch * length * layers * hidden**2 * (attention + rest)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 4), (4, 2, 4), (4, 1, 8)])
def test_megatron_agrees_with_its_published_form(tmp_path, gated, heads, groups, width):
    """Else TFLOP/s from its log could not be set beside a run; GQA, SwiGLU, causal half and padded words included."""
    config = {**LLAMA, "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": width, "swiglu": gated}
    found = translate_megatron(given(tmp_path, config=config))
    sizes = {"layers": 2, "hidden": 16, "feed_forward": 32, "vocabulary": 384, "length": LENGTH, "batch": STEPS}
    assert found.flop == megatron_by_its_paper(heads=heads, groups=groups, width=width, gated=gated, **sizes)
    lines = {line.term: line.flop for line in found.bridge}
    assert lines["padding of the vocabulary"] == 6 * 16 * (384 - 300) * TOKENS


def test_a_padded_vocabulary_that_is_told_is_not_padded_again(tmp_path):
    found = translate_megatron(given(tmp_path, config={**LLAMA, "padded_vocab_size": 512}))
    assert found.inputs["padded_vocabulary"] == "512"
    assert not any("multiple" in note for note in found.notes)


def test_megatron_does_not_know_what_its_formula_does_not(tmp_path):
    """Else experts would be priced as one dense layer."""
    found = translate_megatron(given(tmp_path, config={**LLAMA, "num_local_experts": 8}))
    assert found.flop is None
    assert "experts" in found.missing[0]


def test_a_configuration_of_another_model_is_noticed(tmp_path):
    """Else a wrong file gives a wrong figure that looks right."""
    big = {**LLAMA, "num_hidden_layers": 40}
    assert "look whether the configuration is of this model" in " ".join(
        translate_megatron(given(tmp_path, config=big)).notes
    )


def test_a_configuration_of_this_model_is_not_doubted(tmp_path):
    config = {**LLAMA, "num_hidden_layers": 1, "intermediate_size": 4, "vocab_size": 1}  # 768 + 192 of 900 weights
    assert "look whether" not in " ".join(translate_megatron(given(tmp_path, config=config)).notes)


@pytest.mark.parametrize("translate", EVERY)
def test_without_tokens_nothing_is_guessed(tmp_path, translate):
    """Else a run that told no tokens would have cost nothing."""
    found = translate(given(tmp_path, tokens=0, config=LLAMA))
    assert found.flop is None
    assert any("meter.step(tokens=…" in missing for missing in found.missing)


@pytest.mark.parametrize("translate", [translate_hf, translate_aws, translate_palm])
def test_without_a_model_it_says_how_to_give_one(tmp_path, translate):
    found = translate(given(tmp_path, model=False, config=LLAMA))
    assert found.flop is None
    assert any("Meter(model=…)" in missing for missing in found.missing)


@pytest.mark.parametrize("translate", [translate_palm, translate_megatron])
def test_without_sizes_it_names_them_and_says_how_to_give_them(tmp_path, translate):
    """Else a person would have to read the source to learn what is wanted."""
    found = translate(given(tmp_path))
    assert found.flop is None
    (missing,) = found.missing
    assert "layers" in missing
    assert "--config config.json" in missing
    (missing,) = translate(given(tmp_path / "2", config={"text_config": LLAMA})).missing
    assert "does not say so at its top level" in missing


@pytest.mark.parametrize("translate", [translate_palm, translate_megatron])
def test_without_a_length_it_says_how_to_give_one(tmp_path, translate):
    folder = given(tmp_path, config=LLAMA)
    found = translate(Given(account=folder.account, ledger=folder.ledger, config=folder.config, sequence=None))
    assert found.flop is None
    assert '"seq_length"' in found.missing[0]


def test_megatron_needs_no_parameters_and_names_the_figure_of_older_versions(tmp_path):
    """Else a log of last year could not be set beside a run."""
    found = translate_megatron(given(tmp_path, model=False, config=LLAMA))
    (older,) = found.besides.values()
    assert int(older) - found.flop == 6 * 2 * 4 * 4 * LENGTH * TOKENS


@pytest.mark.parametrize(
    "sizes",
    [
        {"moe_num_experts": 8},
        {"mamba_d_state": 16},
        {"linear_num_key_heads": 4},
        {"lru_width": 16},
        {"hidden_size_per_layer_input": 4},
    ],
)
def test_what_is_no_dense_transformer_has_no_figure_of_megatron_and_a_note_of_palm(tmp_path, sizes):
    """Else hybrids and mixtures whose configurations have names of their own would pass for dense transformers."""
    config = LLAMA | sizes
    (missing,) = translate_megatron(given(tmp_path, config=config)).missing
    assert missing.startswith("a formula for")
    found = translate_palm(given(tmp_path / "2", config=config))
    assert found.flop is not None
    assert any("every token meets every parameter" in note for note in found.notes)
