"""Models of sequences in torch alone: recurrent ones, transformers, selective scans, experts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from subject import Built, Table, train
from torch import nn
from torch.nn import functional
from torch.nn.utils import rnn

SEQUENCES = Table()
WORDS, WIDTH, LENGTH, BATCH = 50, 16, 10, 3


def tokens() -> torch.Tensor:
    """Return a batch of texts."""
    return torch.randint(1, WORDS, (BATCH, LENGTH))


class Recurrent(nn.Module):
    """A language model over any recurrent layer, with packed texts where asked."""

    def __init__(self, layer: nn.Module, wide: int, *, packed: bool = False) -> None:
        """Take the layer, and the width that comes out of it."""
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.layer, self.head, self.packed = layer, nn.Linear(wide, WORDS), packed

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return scores of words."""
        x = self.words(text)
        if not self.packed:
            return self.head(self.layer(x)[0])
        lengths = torch.tensor([LENGTH, LENGTH - 3, 2])
        out, _ = self.layer(rnn.pack_padded_sequence(x, lengths, batch_first=True))
        return self.head(rnn.pad_packed_sequence(out, batch_first=True)[0])


def recurrent(kind: type[nn.RNNBase], *, packed: bool = False, **options: Any) -> Built:
    """Return a language model's training step."""
    layer = kind(WIDTH, 12, batch_first=True, **options)
    wide = (options.get("proj_size") or 12) * (2 if options.get("bidirectional") else 1)
    model, text = Recurrent(layer, wide, packed=packed), tokens()
    return train(model, lambda: functional.cross_entropy(model(text).flatten(0, 1), text.flatten(), ignore_index=0))


for _kind in (nn.LSTM, nn.GRU, nn.RNN):
    _name = _kind.__name__.lower()
    SEQUENCES.put(_name, partial(recurrent, _kind))
    SEQUENCES.put(f"{_name}-deep", partial(recurrent, _kind, num_layers=2, dropout=0.1, bidirectional=True))
    SEQUENCES.put(f"{_name}-packed", partial(recurrent, _kind, packed=True, bidirectional=True))
SEQUENCES.put("lstm-projected", partial(recurrent, nn.LSTM, proj_size=8, num_layers=2))
SEQUENCES.put("rnn-relu", partial(recurrent, nn.RNN, nonlinearity="relu", bias=False))


class Cells(nn.Module):
    """Recurrent cells in a loop of one's own."""

    def __init__(self) -> None:
        """One of each."""
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(WIDTH, 12), nn.GRUCell(12, 12), nn.RNNCell(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last state."""
        state, inner, last = (x.new_zeros(BATCH, 12), x.new_zeros(BATCH, 12)), None, None
        for now in x.unbind(1):
            state = self.lstm(now, state)
            inner = self.gru(state[0], inner)
            last = self.rnn(inner, last)
        return last


@SEQUENCES.add
def recurrent_cells() -> Built:
    """Cells of three kinds, one on the other."""
    model, data = Cells(), torch.rand(BATCH, LENGTH, WIDTH)
    return train(model, lambda: model(data).square().mean())


class Text(nn.Module):
    """An encoder of torch's own layers over words."""

    def __init__(self, *, norm_first: bool, activation: str, batch_first: bool = True) -> None:
        """Take which arrangement."""
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 32, activation=activation, norm_first=norm_first, batch_first=batch_first
        )
        self.words = nn.EmbeddingBag(WORDS, WIDTH, mode="sum")
        self.places = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, text: torch.Tensor, *, padded: bool = False) -> torch.Tensor:
        """Return scores of words."""
        x = self.words(text.view(-1, 1)).view(*text.shape, WIDTH) + self.places
        mask = torch.arange(LENGTH)[None] >= torch.tensor([LENGTH, LENGTH - 2, 4])[:, None]
        return self.head(self.body(x, src_key_padding_mask=mask if padded else None))


def encoder(**options: Any) -> Built:
    """Return training as usual, and evaluation on torch's fast path, with padding and without."""
    model, text = Text(**options), tokens()
    targets = text.flatten()

    def loss() -> torch.Tensor:
        return functional.cross_entropy(model(text, padded=True)[:, :LENGTH].flatten(0, 1), targets)

    return train(model, loss, evaluate=lambda: (model(text), model(text, padded=True)))


SEQUENCES.put("transformer-encoder", partial(encoder, norm_first=False, activation="relu"))
SEQUENCES.put("transformer-encoder-gelu", partial(encoder, norm_first=True, activation="gelu"))


@SEQUENCES.add
def transformer_decoder() -> Built:
    """Encoder and decoder with causal and cross attention."""
    model = nn.Transformer(WIDTH, 2, 1, 1, 32, batch_first=True)
    source, target = torch.rand(BATCH, 6, WIDTH), torch.rand(BATCH, LENGTH, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward() -> torch.Tensor:
        return model(source, target, tgt_mask=mask, tgt_is_causal=True)

    return train(model, lambda: functional.smooth_l1_loss(forward(), target), evaluate=forward)


def attention(*, weights: bool, **options: Any) -> Built:
    """Return attention alone, with the weights asked for or not."""
    model = nn.MultiheadAttention(WIDTH, 4, batch_first=True, dropout=0.1, **options)
    query = torch.rand(BATCH, LENGTH, WIDTH)
    key = torch.rand(BATCH, LENGTH, options.get("kdim", WIDTH))

    def forward() -> torch.Tensor:
        keys = (key, key) if "kdim" in options else (query, query)
        out, seen = model(query, *keys, need_weights=weights)
        return out.square().mean() + (seen.square().mean() if weights else 0)

    return train(model, forward)


SEQUENCES.put("multihead-attention", partial(attention, weights=False))
SEQUENCES.put("multihead-attention-weights", partial(attention, weights=True))
SEQUENCES.put("multihead-attention-bias", partial(attention, weights=True, add_bias_kv=True, add_zero_attn=True))
SEQUENCES.put("multihead-attention-other-keys", partial(attention, weights=False, kdim=12, vdim=12))


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Return queries or keys turned by their places, in complex numbers as Llama's first code has it."""
    steps = torch.arange(x.shape[2])[:, None] * 0.1 ** torch.arange(x.shape[3] // 2)
    turned = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(steps), steps)
    return torch.view_as_real(turned).flatten(3).type_as(x)


class Mixer(nn.Module):
    """A decoder block with one product of attention out of several."""

    def __init__(self, mix: Callable[..., torch.Tensor], *, key_heads: int = 4, wide: nn.Module | None = None) -> None:
        """Take the attention and the feed-forward part."""
        super().__init__()
        self.mix, self.key_heads = mix, key_heads
        self.query, self.keys = nn.Linear(32, 32, bias=False), nn.Linear(32, 16 * key_heads, bias=False)
        self.norms = nn.ModuleList([nn.RMSNorm(32), nn.RMSNorm(32)])
        self.wide = wide or nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix, then widen."""
        normed = self.norms[0](x)
        query = self.query(normed).unflatten(-1, (4, 8)).transpose(1, 2)
        key, value = self.keys(normed).unflatten(-1, (2 * self.key_heads, 8)).transpose(1, 2).chunk(2, 1)
        x = x + self.mix(rotate(query), rotate(key), value).transpose(1, 2).flatten(2)
        return x + self.wide(self.norms[1](x))


def block(mix: Callable[..., torch.Tensor], **options: Any) -> Built:
    """Return a training step of one block."""
    model, data = Mixer(mix, **options), torch.rand(2, LENGTH, 32)
    return train(model, lambda: model(data).square().mean())


def flexible(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return flexible attention with a score of its own and a causal mask, not compiled.

    On a CPU it has no backward, so its operands are cut off and the rest of the block learns.
    """
    from torch.nn.attention import flex_attention as flex

    mask = flex.create_block_mask(lambda _b, _h, i, j: i >= j, None, None, LENGTH, LENGTH, device="cpu")
    operands = (one.detach() for one in (query, key, value))
    return flex.flex_attention(*operands, score_mod=lambda s, _b, _h, i, j: s + (i - j) * 0.1, block_mask=mask)


def linear_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return attention without a softmax, as a running sum."""
    query, key = functional.elu(query) + 1, functional.elu(key) + 1
    state = torch.einsum("bhsd,bhse->bhsde", key, value).cumsum(2)
    norm = torch.einsum("bhsd,bhsd->bhs", query, key.cumsum(2)).clamp(min=1e-3)
    return torch.einsum("bhsd,bhsde->bhse", query, state) / norm[..., None]


class Experts(nn.Module):
    """Experts without dropped tokens, by grouped products over sorted rows."""

    def __init__(self) -> None:
        """Four experts, two for each token."""
        super().__init__()
        self.route = nn.Linear(32, 4, bias=False)
        self.up, self.down = (nn.Parameter(torch.randn(4, *shape) * 0.1) for shape in ((32, 128), (64, 32)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Route, sort, multiply, bring back."""
        rows = x.flatten(0, 1)
        chance, chosen = self.route(rows).softmax(-1).topk(2, -1)
        order = chosen.flatten().argsort(stable=True)
        ends = torch.bincount(chosen.flatten(), minlength=4).cumsum(0).int()
        gate, up = torch._grouped_mm(rows[order // 2].bfloat16(), self.up.bfloat16(), offs=ends).chunk(2, -1)  # noqa: SLF001
        out = torch._grouped_mm(functional.silu(gate) * up, self.down.bfloat16(), offs=ends)  # noqa: SLF001
        scaled = out.float() * chance.flatten()[order, None]
        return torch.zeros_like(rows).index_add(0, order // 2, scaled).view_as(x)


class Ternary(nn.Module):
    """A linear layer with weights of −1, 0 and 1, in additions alone."""

    def __init__(self) -> None:
        """Take weights, which are rounded as they are used."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what a weight lets pass, subtract what it turns."""
        scale = self.weight.abs().mean().clamp(min=1e-5)
        signs = (self.weight / scale).round().clamp(-1, 1)
        plus = torch.where(signs > 0, x[..., None, :], 0).sum(-1)
        minus = torch.where(signs < 0, x[..., None, :], 0).sum(-1)
        straight = functional.linear(x, self.weight) * 0
        return (plus - minus) * scale + straight


_fused = functional.scaled_dot_product_attention
SEQUENCES.put("block-causal", partial(block, partial(_fused, is_causal=True)))
SEQUENCES.put("block-grouped-heads", partial(block, partial(_fused, enable_gqa=True, dropout_p=0.1), key_heads=2))
SEQUENCES.put("block-masked", partial(block, lambda q, k, v: _fused(q, k, v, torch.ones(LENGTH, LENGTH).tril().bool())))
SEQUENCES.put("block-flex-attention", partial(block, flexible))
SEQUENCES.put("block-linear-attention", partial(block, linear_attention))
SEQUENCES.put("block-ternary", lambda: block(partial(_fused, is_causal=True), wide=Ternary()))
SEQUENCES.put("block-experts", lambda: block(partial(_fused, is_causal=True), wide=Experts()))


class Scan(nn.Module):
    """A selective state space in plain torch, step by step, and at once by sums of logarithms."""

    def __init__(self) -> None:
        """Take widths of the state."""
        super().__init__()
        self.inner, self.out = nn.Linear(WIDTH, 64), nn.Linear(32, WIDTH)
        self.conv = nn.Conv1d(32, 32, 4, groups=32, padding=3)
        self.states, self.delta = nn.Linear(32, 2 * 4 + 2), nn.Linear(2, 32)
        self.decay = nn.Parameter(torch.arange(1.0, 5).log().repeat(32, 1))
        self.skip = nn.Parameter(torch.ones(32))

    def forward(self, x: torch.Tensor, *, at_once: bool = False) -> torch.Tensor:
        """Scan."""
        x, gate = self.inner(x).chunk(2, -1)
        x = functional.silu(self.conv(x.transpose(1, 2))[..., :LENGTH].transpose(1, 2))
        delta, enter, leave = self.states(x).split([2, 4, 4], -1)
        delta = functional.softplus(self.delta(delta))
        decay = -self.decay.exp() * delta[..., None]
        fed = delta[..., None] * enter[:, :, None] * x[..., None]
        if at_once:
            whole = decay.cumsum(1)
            states = (fed.abs().clamp_min(1e-9).log() - whole).logcumsumexp(1).add(whole).exp()
        else:
            state, found = torch.zeros_like(fed[:, 0]), []
            for keep, now in zip(decay.exp().unbind(1), fed.unbind(1), strict=True):
                state = keep * state + now
                found.append(state)
            states = torch.stack(found, 1)
        out = torch.einsum("blds,bls->bld", states, leave) + self.skip * x
        return self.out(out * functional.silu(gate))


@SEQUENCES.add
def selective_scan() -> Built:
    """A block like Mamba's, both ways."""
    model, data = Scan(), torch.rand(2, LENGTH, WIDTH)
    return train(model, lambda: model(data).square().mean() + model(data, at_once=True).square().mean())
