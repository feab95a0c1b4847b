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
from dataclasses import asdict, replace
from datetime import UTC, datetime
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
import torch._dynamo  # DTensor wants it: here once, or in each process anew
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformer import Layout, Shape, Stage, lay_out

from flopmeter import Meter
from flopmeter.coordinates import Coordinates
from flopmeter.ledger.merge import read_run
from flopmeter.logical import Merge, Shares, Standing
from flopmeter.step import Steps, Table
from flopmeter.sums import Sums

Cell: TypeAlias = tuple[str, str]
"""Phase and operator."""
RESULTS = Path(__file__).parents[1] / "results"


def train(shape: Shape, layout: Layout, stage: Stage, run: Path, *, is_exact: bool = True, steps: int = 1) -> None:
    """Train with the meter, as a pipeline does: all forwards of a step first, then the backwards."""
    text = torch.randint(shape.vocabulary, (shape.batch * shape.micro_batches, shape.sequence // layout.cp))
    optimizer = torch.optim.AdamW(stage.parameters(), fused=True)
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
    (shares,) = sums.shares.values()
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
    return Counted(executed, dict(logical), shares, place)


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


def extras(shape: Shape, layout: Layout, parameters: int) -> dict[str, tuple[Cell, int]]:
    """Return, by reason, what a world runs more or less than one process, beyond what is repeated."""
    passes = shape.micro_batches * layout.data
    mixtures = shape.layers // 2 if shape.experts else 0
    summed = (layout.cp * layout.tp - 1) * (2 * shape.layers + 1) * shape.width * passes
    return {
        "gradients of norms: each rank sums over its own tokens, a collective adds the sums": (
            ("backward", "aten::sum"),
            -summed,
        ),
        "gradients: each rank has a summand, a collective adds them": (
            ("backward", "aten::add_"),
            -(layout.data - 1) * shape.micro_batches * parameters,
        ),
        "losses: each part of a sequence divides by its own length": (
            ("backward", "aten::nll_loss_backward"),
            (layout.cp - 1) * passes,
        ),
        "gradients within experts: added up before a collective adds the ranks' summands": (
            ("backward", "aten::add"),
            (layout.tp - 1) * mixtures * passes * shape.sequence * shape.width,
        ),
    }


def compare(shape: Shape, layout: Layout) -> dict[str, object]:
    """Count one rank of each place, and one process that trains on all their data; set both side by side."""
    begun = time.perf_counter()
    alone = count_apart(replace(shape, micro_batches=shape.micro_batches * layout.data), Layout(), 0)
    parameters = sum(one.numel() for one in Stage(shape, range(shape.layers), length=shape.sequence).parameters())
    merge, executed, logical = Merge(), Counter[Cell](), defaultdict[Cell, Fraction](Fraction)
    seconds = []
    for rank, alike in places(layout):
        started = time.perf_counter()
        counted = count_apart(shape, layout, rank)
        seconds.append(time.perf_counter() - started)
        for _ in range(alike):
            merge.add(counted.shares, Standing(rank, layout.world, counted.place))
        for cell, flop in counted.executed.items():
            executed[cell] += flop * alike
        for cell, once in counted.logical.items():
            logical[cell] += once * alike
        print(f"rank {rank}: {sum(counted.executed.values()):,} FLOP, {seconds[-1]:.1f} s", flush=True)
    found, named = merge.logical(), extras(shape, layout, parameters)
    expected = Counter(alone.executed)
    for cell, flop in named.values():
        expected[cell] += flop
    wrong = {
        cell: (str(logical[cell]), expected[cell]) for cell in {*logical, *expected} if logical[cell] != expected[cell]
    }
    return {
        "layout": asdict(layout) | {"world": layout.world},
        "shape": asdict(shape),
        "places": len(seconds),
        "seconds_per_place": {"median": round(sorted(seconds)[len(seconds) // 2], 2), "all": round(sum(seconds), 1)},
        "seconds": round(time.perf_counter() - begun, 1),
        "executed_flop": str(sum(executed.values())),
        "logical_flop": [str(found.lower), str(found.upper)],
        "one_process_flop": str(sum(alone.executed.values())),
        "repeated_flop": {
            f"{one.phase} {one.kind} over {', '.join(one.over)}": str(one.flop) for one in found.repeated
        },
        "named_flop": {reason: str(flop) for reason, (_, flop) in named.items() if flop},
        "wrong": {" ".join(cell): pair for cell, pair in wrong.items()},
        "is_exact": not wrong
        and found.lower == found.upper
        and found.lower == sum(alone.executed.values()) + sum(flop for _, flop in named.values())
        and sum(executed.values()) == found.lower + sum(one.flop for one in found.repeated),
    }


def check_others(shape: Shape, layout: Layout, ranks: list[int]) -> dict[str, object]:
    """Count ranks that differ from those of `places` in their data alone: they must come to the same."""
    sizes = (layout.pp, layout.replicate, layout.shard // layout.ep, layout.ep, layout.cp, layout.tp)
    found = {}
    for rank in ranks:
        index, rest = [], rank
        for size in reversed(sizes):
            rest, at = divmod(rest, size)
            index.insert(0, at)
        index[1] = index[2] = 0
        like = rank_at(sizes, tuple(index))
        found[str(rank)] = {
            "like": str(like),
            "is_equal": count_apart(shape, layout, rank).executed == count_apart(shape, layout, like).executed,
        }
    return found


def main() -> int:
    """Compare, write a result, and say whether all was exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a world of 16 ranks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shape = Shape(width=128, hidden=256, experts=16)
    layout = Layout(pp=2, replicate=128, shard=4, ep=2, cp=2, tp=8)
    others = [4097, 9999, 16383]
    if options.quick:
        shape, layout, others = Shape(), Layout(replicate=2, shard=2, ep=2, cp=2, tp=2), [15]
    result = compare(shape, layout)
    result["others"] = check_others(shape, layout, others)
    result["is_exact"] = bool(result["is_exact"]) and all(one["is_equal"] for one in result["others"].values())
    now = datetime.now(UTC)
    written = {
        "command": "python benchmarks/ranks/world.py",
        "date": now.date().isoformat(),
        "device": f"CPU, {platform.machine()}, one thread",
        "versions": {"python": platform.python_version(), **{each: version(each) for each in ("torch", "flopmeter")}},
        "note": "torch's fake process group: shapes are real, values and collectives are not",
        **result,
    }
    path = options.out or RESULTS / f"ranks_cpu_{now:%Y%m}.json"
    path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(written, indent=2, ensure_ascii=False))
    return 0 if written["is_exact"] else 1


if __name__ == "__main__":
    sys.exit(main())
