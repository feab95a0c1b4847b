"""Tiny networks whose work changes in the ways in which that of real ones does.

What a network is told by its own attributes stands on the modules; what it is told behind their backs (by a closure,
a global, the clock) stands in `Outside`. Not here: when any of it changes (`loop.py`).
"""

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Cache = dict[int, tuple[torch.Tensor, torch.Tensor]]
KEPT = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
CLASSES = 3


class TroubleError(Exception):
    """What goes wrong in the middle of a step, such as memory running out."""


class Outside:
    """What a network is told behind its modules' backs."""

    def __init__(self, seed: int) -> None:
        """Start with nothing special, and random numbers of its own."""
        self.rng = random.Random(seed)  # noqa: S311 # nothing is to be kept secret
        self.causal = False
        self.selective = False
        self.iterations = 0
        self.twin = self.detached = False
        self.trouble = ""

    def fail(self, place: str) -> None:
        """Raise where trouble was ordered for this place."""
        if self.trouble == place:
            self.trouble = ""
            raise TroubleError(place)


class Mlp(nn.Module):
    """Two linear layers with dropout after them."""

    def __init__(self, width: int, *, wide: int = 2) -> None:
        """Make the layers."""
        super().__init__()
        self.up, self.down, self.dropout = (
            nn.Linear(width, wide * width),
            nn.Linear(wide * width, width),
            nn.Dropout(0.0),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the layers make of it."""
        return x + self.dropout(self.down(functional.gelu(self.up(x))))


class Attention(nn.Module):
    """Fused attention of two heads; whether it is causal is an attribute, an argument, or decided elsewhere."""

    def __init__(self, width: int, outside: Outside) -> None:
        """Make the projections."""
        super().__init__()
        self.causal, self.keeps = False, False
        self.inner, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None
        self.is_causal_elsewhere = lambda: outside.causal

    def forward(self, x: torch.Tensor, *, causal: bool = False, cache: Cache | None = None) -> torch.Tensor:
        """Attend; with a cache, to what it holds as well."""
        batch, length, width = x.shape
        query, key, value = self.inner(x).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        former = cache.get(id(self)) if cache is not None else self.kept if self.keeps else None
        if former is not None:
            key, value = torch.cat([former[0], key], 2), torch.cat([former[1], value], 2)
        if cache is not None:
            cache[id(self)] = (key, value)
        elif self.keeps:
            self.kept = (key, value)
        is_causal = (causal or self.causal or self.is_causal_elsewhere()) and former is None
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        return x + self.out(found.transpose(1, 2).reshape(batch, length, width))


class Lora(nn.Module):
    """A linear layer with an adapter of rank 2, which may be merged into it."""

    def __init__(self, width: int) -> None:
        """Make the layer and its adapter."""
        super().__init__()
        self.merged = False
        self.plain = nn.Linear(width, width)
        self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, width, bias=False)

    def merge(self, *, merged: bool) -> None:
        """Put the adapter into the weight, or take it out."""
        if merged != self.merged:
            with torch.no_grad():
                self.plain.weight.add_(self.up.weight @ self.down.weight, alpha=1 if merged else -1)
            self.merged = merged

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer, and the adapter where it is apart."""
        return self.plain(x) if self.merged else self.plain(x) + self.up(self.down(x))


class Experts(nn.Module):
    """Three experts; each token goes to the best `top`, of which each takes at most `capacity` tokens."""

    def __init__(self, width: int, *, top: int = 1, capacity: int | None = None) -> None:
        """Make router and experts."""
        super().__init__()
        self.top, self.capacity = top, capacity
        self.router = nn.Linear(width, 3)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Let each expert work on its own tokens; one that has none does not run."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(tokens).softmax(-1).topk(self.top, -1)
        out = tokens
        for number, expert in enumerate(self.experts):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            rows, places = rows[: self.capacity], places[: self.capacity]
            if len(rows):
                share = weights[rows, places].unsqueeze(-1)
                out = out.index_add(0, rows, (expert(tokens[rows]) * share).to(out.dtype))
        return out.view_as(x)


class Recurrent(nn.Module):
    """A GRU that takes padded sequences as they are, or packs them where their lengths are given."""

    def __init__(self, width: int) -> None:
        """Make the layer."""
        super().__init__()
        self.layer = nn.GRU(width, width, batch_first=True)

    def forward(self, x: torch.Tensor, *, lengths: Any = None) -> torch.Tensor:
        """Run over the sequences, each to its own end."""
        if lengths is None:
            return x + self.layer(x)[0]
        given = torch.as_tensor(lengths)
        packed, _ = self.layer(pack_padded_sequence(x, given, batch_first=True, enforce_sorted=False))
        return x + pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]


class Convolution(nn.Module):
    """A convolution along the sequence, with a normalization."""

    def __init__(self, width: int) -> None:
        """Make the layers."""
        super().__init__()
        self.layer, self.norm = nn.Conv1d(width, width, 3, padding=1), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the layers make of it."""
        return x + self.layer(self.norm(x).transpose(1, 2)).transpose(1, 2)


def make_block(kind: str, width: int, outside: Outside) -> nn.Module:
    """Make one layer."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: Mlp(width),
        "attention": lambda: Attention(width, outside),
        "lora": lambda: Lora(width),
        "experts": lambda: Experts(width),
        "two_experts": lambda: Experts(width, top=2),
        "full_experts": lambda: Experts(width, top=2, capacity=2),
        "recurrent": lambda: Recurrent(width),
        "convolution": lambda: Convolution(width),
        "encoder": lambda: nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True),
    }
    return makers[kind]()


class Net(nn.Module):
    """A stack of layers with a head; its attributes say how it is run."""

    def __init__(self, kinds: tuple[str, ...], width: int, outside: Outside) -> None:
        """Make the layers."""
        super().__init__()
        self.checkpointing = ""
        self.layer_drop = self.early_exit = 0.0
        self.iterations = 0
        self.branches = self.has_thread = self.casts = self.hooks_tensors = False
        self.blocks = nn.ModuleList(make_block(kind, width, outside) for kind in kinds)
        self.spare = nn.Linear(width, width)
        self.narrow, self.broad = nn.Linear(width, 2), nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, CLASSES)
        self.ask = lambda: outside

    def forward(self, x: Any, *, causal: bool = False, lengths: Any = None, cache: Cache | None = None) -> torch.Tensor:
        """Return the logits of each token."""
        outside = self.ask()
        if isinstance(x, PackedSequence):
            x, sizes = pad_packed_sequence(x, batch_first=True)
            lengths = sizes.tolist()
        around: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if self.casts else nullcontext()
        with around:
            hidden = x
            for index, block in enumerate(self.blocks):
                is_dropped = self.training and self.layer_drop and outside.rng.random() < self.layer_drop
                if not is_dropped:
                    hidden = self._run(block, hidden, causal=causal, lengths=lengths, cache=cache)
                if index == 0:
                    hidden = self._meddle(hidden, outside)
                if self.early_exit and hidden.detach().float().std().item() > self.early_exit:
                    break
            hidden = self._branch(hidden, outside)
            if hidden.requires_grad and self.hooks_tensors:
                hidden.register_hook(lambda gradient: gradient * 1.5)
            return self.head(hidden)

    def _run(self, block: nn.Module, x: torch.Tensor, *, causal: bool, lengths: Any, cache: Cache | None) -> Any:
        call: Callable[..., Any] = block
        if isinstance(block, Attention):
            call = partial(block, causal=causal, cache=cache)
        elif isinstance(block, Recurrent):
            call = partial(block, lengths=lengths)
        how = self.checkpointing
        if not how or not x.requires_grad or not torch.is_grad_enabled():
            return call(x)
        if how == "reentrant":
            return checkpoint(call, x, use_reentrant=True)
        if how == "selective" or self.ask().selective:
            contexts = partial(create_selective_checkpoint_contexts, _policy)
            return checkpoint(call, x, use_reentrant=False, context_fn=contexts)
        return checkpoint(call, x, use_reentrant=False)

    def _meddle(self, hidden: torch.Tensor, outside: Outside) -> torch.Tensor:
        """Do what happens in the middle of a forward: an error now or in the backward, work without gradients."""
        outside.fail("forward")
        if hidden.requires_grad and outside.trouble == "backward":
            hidden.register_hook(lambda _gradient: outside.fail("backward"))
        with torch.no_grad():
            vector = torch.ones_like(self.head.weight[0])
            for _ in range(self.iterations + outside.iterations):
                vector = functional.normalize(self.spare.weight @ vector, dim=0)
        if self.has_thread:
            copy = hidden.detach().clone()
            thread = threading.Thread(target=lambda: torch.sin(copy @ copy.transpose(-1, -2)).sum())
            thread.start()
            thread.join()
        return hidden.detach() if outside.detached else hidden

    def _branch(self, hidden: torch.Tensor, outside: Outside) -> torch.Tensor:
        """Go on as the data say: through one layer more, or through one of two that make as many nodes."""
        if self.branches and hidden.detach().float().sum().item() > 0:
            hidden = hidden + functional.silu(self.spare(hidden))
        if outside.twin:
            side = self.broad if hidden.detach().float().sum().item() > 0 else self.narrow
            hidden = hidden * side(hidden).mean(-1, keepdim=True)
        return hidden


def _policy(_context: Any, func: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if func in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def newton_schulz(matrix: torch.Tensor, *, iterations: int) -> torch.Tensor:
    """Return the nearest orthogonal matrix, as Muon does it."""
    found = matrix / (matrix.norm() + 1e-7)
    for _ in range(iterations):
        square = found @ found.mT
        found = 3.4445 * found + (-4.775 * square + 2.0315 * square @ square) @ found
    return found


class Muon(torch.optim.Optimizer):
    """Gradient descent whose first matrix is made orthogonal before it is applied."""

    def __init__(self, parameters: Any, lr: float = 0.01, iterations: int = 5) -> None:
        """Take the parameters."""
        super().__init__(parameters, {"lr": lr, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Apply the gradients."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            wide = [p for p in group["params"] if p.grad is not None and p.ndim == 2]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = parameter.grad
                if wide and parameter is wide[0]:
                    change = newton_schulz(change.float(), iterations=group["iterations"])
                parameter.add_(change, alpha=-group["lr"])
        return loss
