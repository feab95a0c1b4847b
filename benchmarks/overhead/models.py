"""The programs whose overhead is measured: a small GPT, the same with experts, and what one training step of them is.

Small on purpose: an operator takes microseconds, so whatever somebody's Python adds to one shows at its worst.
Not here: what is timed (`step.py`, `situations.py`), what grows (`growth.py`).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

VOCABULARY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a model is; the standard one is the launch-bound GPT that the overhead's bars speak of."""

    layers: int = 12
    width: int = 32
    heads: int = 2
    longest: int = 512
    experts: int = 0
    is_grouped: bool = False


class Attention(nn.Module):
    """Causal self-attention, with a cache of keys and values where one is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, cache: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Attend to what came before; a cache holds keys and values of it, and grows by those of `x`."""
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        is_first = not cache
        if cache is not None:
            if cache:
                key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
            cache[:] = [key, value]
        mixed = scaled_dot_product_attention(query, key, value, is_causal=is_first)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Experts(nn.Module):
    """Eight small networks of which each token takes two: how many rows each one gets is known by values alone."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(experts)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Send each token through the two experts that its router likes best, expert by expert."""
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(rows).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == number)
            if row.numel():
                out = out.index_add(0, row, expert(rows[row]) * weights[row, slot, None])
        return out.view_as(x)


class GroupedExperts(nn.Module):
    """The same routing with room for a fixed number of tokens in each expert: no shape depends on values."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width) / (2 * width) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Each expert takes the tokens that its router likes best, as many as there is room for, in two products."""
        rows = x.reshape(-1, x.shape[-1])
        scores = self.router(rows).softmax(-1)
        room = max(1, 2 * rows.shape[0] // scores.shape[1])
        weights, taken = scores.t().topk(min(room, rows.shape[0]), dim=-1)
        hidden = nn.functional.gelu(torch.bmm(rows[taken], self.up))
        made = torch.bmm(hidden, self.down) * weights[..., None]
        out = torch.zeros_like(rows).index_add(0, taken.flatten(), made.flatten(0, 1))
        return out.view_as(x)


class Block(nn.Module):
    """One layer of the GPT."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, size.heads)
        if size.experts:
            self.mlp: nn.Module = (GroupedExperts if size.is_grouped else Experts)(width, size.experts)
        else:
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, cache: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Attend, then think."""
        x = x + self.attention(self.norm(x), cache)
        return x + self.mlp(self.second_norm(x))


class GPT(nn.Module):
    """A decoder: embeddings of tokens and positions, blocks, a head of its own."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, size.width)
        self.positions = nn.Embedding(size.longest, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, VOCABULARY, bias=False)

    def forward(self, text: torch.Tensor, caches: list[list[torch.Tensor]] | None = None) -> torch.Tensor:
        """Return the logits of the next token at each place."""
        begin = caches[0][0].shape[2] if caches and caches[0] else 0
        places = torch.arange(begin, begin + text.shape[1], device=text.device)
        x = self.tokens(text) + self.positions(places)
        for number, block in enumerate(self.blocks):
            x = block(x, caches[number] if caches is not None else None)
        return self.head(self.norm(x))


class Training:
    """A model, its AdamW and one step of them; two with the same seed do the same, bit by bit."""

    def __init__(self, size: Size, *, seed: int = 0) -> None:
        """Make model and optimizer."""
        torch.manual_seed(seed)
        self.model = GPT(size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def step(self, text: torch.Tensor) -> torch.Tensor:
        """Make one optimizer update from this batch of tokens, one longer than what the model sees; return the loss."""
        logits = self.model(text[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def batch(*, sequences: int = 2, length: int = 16, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return random tokens, one more than `length` a row, so that each place has a next one."""
    return torch.randint(VOCABULARY, (sequences, length + 1), generator=generator)


def generate(model: GPT, prompt: torch.Tensor, *, new: int) -> torch.Tensor:
    """Decode greedily with a cache that grows by one place for each new token; whoever calls turns gradients off."""
    caches: list[list[torch.Tensor]] = [[] for _ in model.blocks]
    text, fed = prompt, prompt
    for _ in range(new):
        fed = model(fed, caches)[:, -1].argmax(-1, keepdim=True)
        text = torch.cat([text, fed], dim=1)
    return text
