"""A small transformer on many ranks, laid out as torchtitan lays its own out.

Pipeline stages, FSDP2, tensor and sequence parallel, attention that gathers keys along the sequence, and experts that
live on different ranks.
Not here: who runs it (`world.py`).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of what it is given; `batch` sequences in each micro-batch of one data-parallel rank."""

    width: int = 64
    hidden: int = 128
    heads: int = 8
    layers: int = 4
    vocabulary: int = 128
    sequence: int = 32
    experts: int = 4
    batch: int = 1
    micro_batches: int = 2


@dataclass(frozen=True)
class Layout:
    """How many ranks each axis has; experts lie along a part of `shard`."""

    pp: int = 1
    replicate: int = 1
    shard: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1

    @property
    def world(self) -> int:
        """Ranks of the run."""
        return self.pp * self.replicate * self.shard * self.cp * self.tp

    @property
    def data(self) -> int:
        """Ranks that have other sequences."""
        return self.replicate * self.shard


class Attention(nn.Module):
    """Attention over whole sequences; a rank with a part of each gathers keys and values from the others."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.depth = shape.width // shape.heads
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width, bias=False) for _ in range(4))
        self.sequence: DeviceMesh | None = None

    def forward(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """Mix each position with all others."""
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, -1, self.depth).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        query, key = turn(query, angles), turn(key, angles)
        if self.sequence is not None:
            key, value = (
                collectives.all_gather_tensor_autograd(one.contiguous(), 2, self.sequence) for one in (key, value)
            )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


def turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn pairs of numbers by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class FeedForward(nn.Module):
    """A gated layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up, self.gate = (nn.Linear(shape.width, shape.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take each position by itself."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """Experts, each of which gets as many tokens as every other; tokens of those on other ranks go there and back."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        number, width, hidden = shape.experts, shape.width, shape.hidden
        self.up, self.gate = (nn.Parameter(torch.randn(number, width, hidden)) for _ in range(2))
        self.down = nn.Parameter(torch.randn(number, hidden, width))
        self.ranks: DeviceMesh | None = None
        self.parts: DeviceMesh | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take tokens in the order of the experts that they go to."""
        if self.parts is not None:  # each rank has a part of each expert, and gives a summand of the gradient
            x = DTensor.from_local(x, self.parts, [Replicate()]).to_local(grad_placements=[Partial()])
        up, gate, down = (
            one.to_local() if isinstance(one, DTensor) else one for one in (self.up, self.gate, self.down)
        )
        width, senders = x.shape[-1], 1 if self.ranks is None else self.ranks.size()
        x = self._exchange(x).view(senders, len(up), -1, width).transpose(0, 1).reshape(len(up), -1, width)
        x = (nn.functional.silu(x @ gate) * (x @ up)) @ down
        return self._exchange(x.view(len(up), senders, -1, width).transpose(0, 1).reshape(-1, width))

    def _exchange(self, x: torch.Tensor) -> torch.Tensor:
        return (
            x if self.ranks is None else collectives.all_to_all_single_autograd(x.contiguous(), None, None, self.ranks)
        )


class Mixture(nn.Module):
    """A router and experts; where tokens go does not depend on what they say, so that each run is like every other."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.router = nn.Linear(shape.width, shape.experts, bias=False)
        self.experts = Experts(shape)
        self.number = shape.experts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Send each token to an expert."""
        flat = x.reshape(-1, x.shape[-1])
        weights = self.router(flat).softmax(-1)
        weights = weights.to_local() if hasattr(weights, "to_local") else weights
        order = torch.arange(flat.shape[0]).view(-1, self.number).t().reshape(-1)
        chosen = (order % self.number)[:, None]
        done = self.experts(flat[order] * weights[order].gather(1, chosen))
        return done[order.argsort()].view(x.shape)


class Block(nn.Module):
    """One layer; every second has experts."""

    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        self.before_attention, self.before_rest = nn.RMSNorm(shape.width), nn.RMSNorm(shape.width)
        self.attention = Attention(shape)
        has_experts = shape.experts > 0 and index % 2 == 1
        self.rest = Mixture(shape) if has_experts else FeedForward(shape)

    def forward(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """Attend, then feed forward."""
        x = x + self.attention(self.before_attention(x), angles)
        return x + self.rest(self.before_rest(x))


class Stage(nn.Module):
    """Some layers of the model; the first stage has the embedding, the last one the output."""

    def __init__(self, shape: Shape, layers: range, *, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width) if layers.start == 0 else None
        self.blocks = nn.ModuleList(Block(shape, index) for index in layers)
        is_last = layers.stop == shape.layers
        self.norm = nn.RMSNorm(shape.width) if is_last else None
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False) if is_last else None
        rates = 1.0 / 10_000 ** (torch.arange(0, shape.width // shape.heads, 2) / (shape.width // shape.heads))
        angles = torch.outer(torch.arange(length), rates)
        self.register_buffer("angles", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layers of this stage."""
        x = x if self.embedding is None else self.embedding(x)
        for block in self.blocks:
            x = block(x, self.angles)
        return x if self.output is None else self.output(self.norm(x))


def lay_out(shape: Shape, layout: Layout) -> tuple[Stage, DeviceMesh]:
    """Return this rank's stage of the model, and the mesh of the run."""
    mixed = layout.shard // layout.ep
    mesh = init_device_mesh(
        "cpu",
        (layout.pp, layout.replicate, mixed, layout.ep, layout.cp, layout.tp),
        mesh_dim_names=("pp", "dp_replicate", "dp_shard_mod_ep", "ep", "cp", "tp"),
    )
    each = shape.layers // layout.pp
    first = mesh.get_local_rank("pp") * each
    stage = Stage(shape, range(first, first + each), length=shape.sequence // layout.cp)
    if layout.tp > 1:
        _split(stage, mesh["tp"])
    for block in stage.blocks:
        if layout.cp > 1:
            block.attention.sequence = mesh["cp"]
        if layout.ep * layout.tp > 1 and isinstance(block.rest, Mixture):
            _place_experts(block.rest.experts, mesh, layout)
    _shard(stage, mesh, layout)
    return stage, mesh


def _split(stage: Stage, tp: DeviceMesh) -> None:
    plan: dict[str, object] = {}
    if stage.embedding is not None:
        plan["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if stage.output is not None:
        plan["norm"] = SequenceParallel()
        plan["output"] = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    parallelize_module(stage, tp, plan)
    column, row = ColwiseParallel, RowwiseParallel
    for block in stage.blocks:
        has_experts = isinstance(block.rest, Mixture)
        plan = {
            "before_attention": SequenceParallel(),
            "before_rest": SequenceParallel(),
            "attention": PrepareModuleInput(input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)),
            **{f"attention.{name}": column() for name in ("query", "key", "value")},
            "attention.out": row(output_layouts=Shard(1)),
            "rest": PrepareModuleInput(
                input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),), use_local_output=has_experts
            ),
        }
        if not has_experts:
            plan |= {"rest.up": column(), "rest.gate": column(), "rest.down": row(output_layouts=Shard(1))}
        parallelize_module(block, tp, plan)
        if has_experts:
            distribute_module(block.rest.router, tp, input_fn=_as_whole)
            block.rest.register_forward_hook(lambda _module, _args, out: _keep_part(out, tp))


def _place_experts(experts: Experts, mesh: DeviceMesh, layout: Layout) -> None:
    """Put experts on their ranks, and a part of each on the ranks of tensor parallelism."""
    names = tuple(name for name, size in (("ep", layout.ep), ("tp", layout.tp)) if size > 1)
    for name, column in (("up", 2), ("gate", 2), ("down", 1)):
        cuts = [Shard(0)] * (layout.ep > 1) + [Shard(column)] * (layout.tp > 1)
        setattr(experts, name, nn.Parameter(distribute_tensor(getattr(experts, name).detach(), mesh[names], cuts)))
    if layout.ep > 1:
        experts.ranks = mesh["ep"]
    if layout.tp > 1:
        experts.parts = mesh["tp"]


def _as_whole(_module: nn.Module, inputs: tuple[torch.Tensor, ...], tp: DeviceMesh) -> tuple[object, ...]:
    return tuple(DTensor.from_local(one, tp, [Replicate()]) for one in inputs)


def _keep_part(out: torch.Tensor, tp: DeviceMesh) -> torch.Tensor:
    return DTensor.from_local(out, tp, [Partial()]).redistribute(placements=[Shard(1)]).to_local()


def _shard(stage: Stage, mesh: DeviceMesh, layout: Layout) -> None:
    names = ("dp_shard_mod_ep", "ep", "cp")
    is_sharded = layout.shard * layout.cp > 1
    if layout.data * layout.cp == 1:
        return
    shards = mesh[names]._flatten("dp_shard_cp") if is_sharded else None  # noqa: SLF001
    replicas = mesh["dp_replicate"] if layout.replicate > 1 else None
    whole = mesh["dp_replicate", "dp_shard_cp"] if replicas is not None else shards
    of_experts = mesh["dp_shard_mod_ep", "cp"]._flatten("dp_shard_mod_ep_cp")  # noqa: SLF001
    of_experts = mesh["dp_replicate", "dp_shard_mod_ep_cp"] if replicas is not None else of_experts
    for block in stage.blocks:
        if isinstance(block.rest, Mixture) and layout.ep > 1:
            fully_shard(block.rest.experts, mesh=of_experts)
        fully_shard(block, mesh=whole)
    fully_shard(stage, mesh=whole)
