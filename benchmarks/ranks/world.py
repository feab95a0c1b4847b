"""Counts a world of many ranks, one rank of each place in it, and sets the sum beside one process that trains alone.

Torch's fake process group lets one process be any rank of any world: it computes its own part, and collectives give
nothing. So shapes are those of the real run, and values are not.
"""

import argparse
import itertools
import json
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformer import Layout, Shape, Stage, lay_out

from flopmeter import Meter, Tally
from flopmeter.coordinates import Coordinates
from flopmeter.ledger.merge import read_run
from flopmeter.logical import Merge, Shares
from flopmeter.sums import Sums

RESULTS = Path(__file__).parents[1] / "results"


def loss_of(out: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the loss of one micro-batch."""
    return torch.nn.functional.cross_entropy(out.flatten(0, 1), text.flatten())


def train(shape: Shape, layout: Layout, stage: Stage, mesh: Any, run: Path, *, is_exact: bool = True, steps: int = 1) -> None:
    """Train with the meter: by a pipeline's schedule, or one micro-batch after the other."""
    text = torch.randint(shape.vocabulary, (shape.batch * shape.micro_batches, shape.sequence // layout.cp))
    optimizer = torch.optim.AdamW(stage.parameters(), foreach=False)
    schedule = None
    if layout.pp > 1:
        place, part = mesh.get_local_rank("pp"), text[: shape.batch]
        hidden = torch.empty(shape.batch, part.shape[1] // layout.tp, shape.width)
        logits = torch.empty(shape.batch, part.shape[1], shape.vocabulary)
        is_last = place == layout.pp - 1
        piped = PipelineStage(
            stage,
            place,
            layout.pp,
            torch.device("cpu"),
            input_args=(hidden if place else part,),
            output_args=(logits if is_last else hidden,),
            group=mesh.get_group("pp"),
        )
        schedule = Schedule1F1B(piped, shape.micro_batches, loss_fn=loss_of, scale_grads=False)
    with Meter(run, model=stage, exact=is_exact, strict=True, interval_s=1000) as meter:
        for _ in range(steps):
            if schedule is None:
                for part in text.split(shape.batch):
                    loss_of(stage(part), part).backward()
            else:
                schedule.step(*[text] * (place == 0), **({"target": text} if is_last else {}))
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=text.numel())


def count(shape: Shape, layout: Layout, rank: int) -> tuple[Tally, Shares, Coordinates]:
    """Return what one rank of a world runs in a step, what of it others run as well, and where it stands."""
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    try:
        if layout.world > 1:
            distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world)
            stage, mesh = lay_out(shape, layout)
        else:
            stage, mesh = Stage(shape, range(shape.layers), length=shape.sequence), None
        train(shape, layout, stage, mesh, folder)
        sums = Sums()
        for segment in read_run(folder).segments:
            sums.add_segment(segment, None, live=False)
        gaps = [gap.detail for gap in sums.gaps.values()]
        if gaps:
            raise RuntimeError("; ".join(gaps))
        tally = sums.fields()["tally"]
        return tally, sums.shares[rank], sums.coordinates.get(rank, Coordinates())
    finally:
        if layout.world > 1:
            distributed.destroy_process_group()
        shutil.rmtree(folder)


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


def by_cell(tally: Tally) -> Counter[tuple[str, str]]:
    """Return FLOP by phase and operator."""
    cells: Counter[tuple[str, str]] = Counter()
    for one in tally.counts:
        cells[one.phase, one.op] += one.flop
    return cells
