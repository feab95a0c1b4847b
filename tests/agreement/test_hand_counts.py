"""Whole models, counted by hand from the sizes of their layers, and frozen figures of a few more."""

import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.calls import price_rows, record_calls

BOOK = FormulaBook.standard()
FROZEN = tomllib.loads((Path(__file__).parent / "counts.toml").read_text(encoding="utf-8"))
B, T, D, H, V = 3, 8, 16, 4, 21  # batch, tokens, width, heads, words
N = B * T * D


def record(work, *, phase="other"):
    return price_rows(record_calls(work, phase=phase), BOOK)


def kinds_of(tally):
    return {kind: part.flop for kind, part in tally.by("kind").items() if part.flop}


class Model(nn.Module):
    """One block of a GPT without dropout, an embedding before it and a head after it."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(V, D), nn.Embedding(T, D)
        self.before, self.between, self.after = nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.head = nn.Linear(D, V, bias=False)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(T))
        parts = self.qkv(self.before(x)).split(D, -1)
        query, key, value = (part.view(B, T, H, D // H).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, D))
        x = x + self.down(functional.gelu(self.up(self.between(x))))
        return functional.cross_entropy(self.head(self.after(x)).flatten(0, 1), tokens.flatten())


TOKENS = B * T
PAIRS = B * H * T * (T + 1) // 2
SKIPPED = B * H * T * (T - 1) // 2
ROWS = B * H * T
LINEAR = 2 * TOKENS * (D * 3 * D + D * D + D * 4 * D + 4 * D * D + D * V)
WORDS = TOKENS * V

FORWARD = {
    "matmul": LINEAR,
    "attention": 2 * PAIRS * 2 * (D // H),
    # Layer norms with weight and bias; the softmax of attention and that of the loss.
    "normalization": 3 * (8 * N + 2 * TOKENS) + (4 * PAIRS - ROWS) + 4 * WORDS,
    # Places, biases of four layers, the scale of attention, gelu, two residuals, the sign of the loss.
    "pointwise": N + TOKENS * (3 * D + D + 4 * D + D) + PAIRS + 5 * 4 * N + 2 * N + TOKENS,
    "reduction": TOKENS,
}
BACKWARD = {
    # A product for the input and one for the weight of each layer: the embedding below asks for gradients too.
    "matmul": 2 * LINEAR,
    "attention": 2 * FORWARD["attention"] + 2 * PAIRS * (D // H),
    "normalization": 3 * (2 * N + 9 * N - TOKENS + 2 * N - D + N - D)
    + (4 * PAIRS - ROWS)
    + 2 * PAIRS
    + (4 * WORDS - TOKENS),
    # The scale of attention twice, the gradient of gelu, one sum at each of two forks, that of the loss.
    "pointwise": 2 * PAIRS + 11 * 4 * N + 2 * N + (TOKENS + 1),
    # Biases: a sum over the tokens for each; places: a sum over the batch.
    "reduction": (TOKENS - 1) * (3 * D + D + 4 * D + D) + (N - T * D),
    # Both embeddings.
    "scatter": N + T * D,
}


def test_a_forward_pass_is_what_its_layers_add_up_to():
    """Else the sum of right formulas is still a wrong figure."""
    model = Model()
    tally = record(lambda: model(torch.randint(0, V, (B, T))))
    assert kinds_of(tally) == FORWARD
    assert tally.masked_flop == 2 * SKIPPED * 2 * (D // H)


def test_a_backward_pass_is_what_its_layers_add_up_to():
    model = Model()
    loss = model(torch.randint(0, V, (B, T)))
    tally = record(loss.backward, phase="backward")
    assert kinds_of(tally) == BACKWARD
    assert tally.masked_flop == 2 * SKIPPED * 5 * (D // H)
    assert tally.select(phase="recompute", kind="attention").flop == 2 * PAIRS * (D // H)


def test_gradients_are_only_counted_where_they_are_computed():
    """Else a frozen model under adapters costs as much as one that is trained."""
    model = Model()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    for parameter in model.head.parameters():
        parameter.requires_grad_()
    loss = model(torch.randint(0, V, (B, T)))
    assert record(loss.backward).select(kind="matmul").flop == 2 * TOKENS * D * V


def test_checkpointing_computes_the_forward_pass_again():
    """Else a checkpointed run looks as cheap as one that keeps everything."""
    layers = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D))
    data = torch.rand(5, D, requires_grad=True)
    plain = record(lambda: layers(data).sum().backward())
    again = record(
        lambda: torch.utils.checkpoint.checkpoint(layers, data, use_reentrant=False, early_stop=False).sum().backward()
    )
    assert again.contraction_flop - plain.contraction_flop == 2 * 2 * 5 * D * D


def test_autocast_shows_in_the_precision_and_not_in_the_figure():
    """Else mixed precision changes the count, or is written down as full precision."""
    layer, data = nn.Linear(D, D), torch.rand(5, D)

    def work():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(data)

    assert record(work).select(precision="bf16", kind="matmul").flop == 2 * 5 * D * D
    assert record(work).flop == record(lambda: layer(data)).flop


def encoder():
    layer = nn.TransformerEncoderLayer(D, H, 4 * D, dropout=0.0, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.rand(B, T, D)


def images():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(8, 8, 3, groups=4), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 3, 12, 12)


def gated():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.cell = nn.RMSNorm(D), nn.LSTMCell(D, D)
            self.gate, self.up = nn.Linear(D, 2 * D, bias=False), nn.Linear(D, 2 * D, bias=False)

        def forward(self, x):
            hidden, _ = self.cell(self.norm(x))
            return functional.silu(self.gate(hidden)) * self.up(hidden)

    return Gated(), torch.rand(B, D)


MODELS = {"encoder": encoder, "images": images, "gated": gated}


@pytest.mark.parametrize("name", MODELS)
def test_known_models_keep_their_figures(name):
    """Else a change of a formula moves figures of runs, and nobody said so: see `counts.toml`."""
    model, data = MODELS[name]()

    def train():
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        model(data).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    found = {kind: str(flop) for kind, flop in kinds_of(record(train)).items()}
    assert found == FROZEN[name]


def test_every_frozen_figure_belongs_to_a_model():
    assert set(FROZEN) == set(MODELS)
