"""Counts a world of many ranks, one rank of each place in it, and sets the sum beside one process that trains alone.

Torch's fake process group lets one process be any rank of any world: it computes its own part, and collectives give
nothing. So shapes are those of the real run, and values are not.
"""

import argparse
import itertools
import json
import multiprocessing
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformer import Layout, Shape, Stage, lay_out

from flopmeter import Meter
from flopmeter.coordinates import Coordinates
from flopmeter.ledger.merge import read_run
from flopmeter.logical import Merge, Shares
from flopmeter.step import Steps, Table
from flopmeter.sums import Sums

Cell: TypeAlias = tuple[str, str]
"""Phase and operator."""
RESULTS = Path(__file__).parents[1] / "results"


def train(shape: Shape, layout: Layout, stage: Stage, run: Path, *, is_exact: bool = True, steps: int = 1) -> None:
    """Train with the meter, as a pipeline does: all forwards of a step first, then the backwards."""
    text = torch.randint(shape.vocabulary, (shape.batch * shape.micro_batches, shape.sequence // layout.cp))
    optimizer = torch.optim.AdamW(stage.parameters(), foreach=False)
    with Meter(run, model=stage, exact=is_exact, strict=True, interval_s=1000) as meter:
        for _ in range(steps):
            ends = [run_forward(shape, layout, stage, part) for part in text.split(shape.batch)]
            for end, gradient in ends:
                torch.autograd.backward(end, gradient)
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=text.numel())


def run_forward(
    shape: Shape, layout: Layout, stage: Stage, text: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run one micro-batch through a stage; return where its backward begins, and with which gradient."""
    length = text.shape[1] // layout.tp  # between stages each rank has a part of the sequence
    given = text if stage.embedding is not None else torch.randn(len(text), length, shape.width, requires_grad=True)
    out = stage(given)
    if stage.output is not None:
        return torch.nn.functional.cross_entropy(out.flatten(0, 1), text.flatten()), None
    return out, torch.randn(out.shape)


class Counted(NamedTuple):
    """What one rank ran in a step: all of it, and with work that others did as well divided among them."""

    executed: Counter[Cell]
    logical: dict[Cell, Fraction]
    shares: Shares
    place: Coordinates


def count(shape: Shape, layout: Layout, rank: int) -> Counted:
    """Return what one rank of a world runs in a step."""
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    try:
        if layout.world > 1:
            distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world)
            stage, _ = lay_out(shape, layout)
        else:
            stage = Stage(shape, range(shape.layers), length=shape.sequence)
        train(shape, layout, stage, folder)
        return read(folder, rank)
    finally:
        if layout.world > 1:
            distributed.destroy_process_group()
        shutil.rmtree(folder)


def read(folder: Path, rank: int) -> Counted:
    """Read the ledger of one rank."""
    sums = Sums()
    (segment,) = read_run(folder).segments
    sums.add_segment(segment, None, live=False)
    if sums.gaps:
        raise RuntimeError("; ".join(gap.detail for gap in sums.gaps.values()))
    place = sums.coordinates.get(rank, Coordinates())
    tables = [Table.from_wire(entry.body) for entry in segment.entries if entry.kind == "table"]
    times = Counter(
        {
            ran.table: ran.times
            for entry in segment.entries
            if entry.kind == "steps"
            for ran in Steps.from_wire(entry.body).ran
        }
    )
    executed: Counter[Cell] = Counter()
    logical: dict[Cell, Fraction] = defaultdict(Fraction)
    for table in tables:
        for one in table.tally.counts:
            executed[one.phase, one.op] += one.flop * times[table.name]
            logical[one.phase, one.op] += one.flop * times[table.name]
        for repeat in table.repeated:
            for one in repeat.tally.counts:
                once = Fraction(one.flop, place.size(repeat.over))
                logical[one.phase, one.op] -= (one.flop - once) * times[table.name]
    return Counted(executed, dict(logical), sums.shares[rank], place)


def count_apart(shape: Shape, layout: Layout, rank: int) -> Counted:
    """Return the same, counted in a process of its own: torch remembers the groups of the world before."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(count, (shape, layout, rank))


def places(layout: Layout) -> Iterator[tuple[int, int]]:
    """Return a rank of each place that differs from others in more than the data, and how many ranks stand there."""
    sizes = (layout.pp, layout.replicate, layout.shard // layout.ep, layout.ep, layout.cp, layout.tp)
    alike = layout.replicate * (layout.shard // layout.ep)
    for pp, ep, cp, tp in itertools.product(*map(range, (layout.pp, layout.ep, layout.cp, layout.tp))):
        yield rank_at(sizes, (pp, 0, 0, ep, cp, tp)), alike


def rank_at(sizes: tuple[int, ...], index: tuple[int, ...]) -> int:
    """Return the rank at a place of a grid, the last axis being the fastest."""
    rank = 0
    for size, at in zip(sizes, index, strict=True):
        rank = rank * size + at
    return rank
