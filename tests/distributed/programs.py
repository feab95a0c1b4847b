"""What each of four processes runs, one program after the other; a script for `test_gloo.py`.

Each program trains a few steps with the meter in `OUT/<program>`; what it counts alone, rank 0 leaves in `OUT/alone`.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as pipelines
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from flopmeter import Meter

STEPS, BATCH, WIDTH = 3, 8, 16


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def make(layers=2):
    torch.manual_seed(0)
    return nn.Sequential(*(Layer() for _ in range(layers)))


def train(run, model, *, batch=BATCH, optimizer=None, exact=True, watched=None, collectives=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), foreach=False)
    before = None
    with Meter(run, model=watched or model, exact=exact, strict=True) as meter:
        for step in range(STEPS):
            x = torch.randn(batch, WIDTH)
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=batch)
            if step == 0 and collectives is not None:
                before = len(collectives)
    return before


def spy_on_collectives():
    """Note every collective that this process asks for, by name."""
    asked = []

    def wrap(name):
        inner = getattr(distributed, name)

        def outer(*args, **kwargs):
            asked.append(name)
            return inner(*args, **kwargs)

        setattr(distributed, name, outer)
        setattr(distributed.distributed_c10d, name, outer)

    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier", "gather_object", "send"):
        wrap(name)
    return asked


def run_pipeline(run, rank, kind, *, exact=True, chunks=4):
    """A model of four layers on two ranks at a time: ranks 0 and 1 are a pipeline, as are 2 and 3."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "pp"))
    layers = list(make(4))
    cls = getattr(pipelines, kind)
    place, each = mesh.get_local_rank("pp"), 2 if issubclass(cls, pipelines.PipelineScheduleSingle) else 1
    count = 4 // each
    mine = [place] if each == 2 else [place, 3 - place] if kind == "ScheduleZBVZeroBubble" else [place, place + 2]
    group = mesh.get_group("pp")
    parts = [nn.Sequential(*layers[index * each : (index + 1) * each]) for index in mine]
    stages = [
        PipelineStage(part, index, count, torch.device("cpu"), group=group)
        for part, index in zip(parts, mine, strict=True)
    ]
    given = stages[0] if issubclass(cls, pipelines.PipelineScheduleSingle) else stages
    schedule = cls(given, chunks, loss_fn=lambda out, target: (out - target).square().sum(), scale_grads=False)
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], foreach=False)
    has_first, has_last = 0 in mine, count - 1 in mine
    x, target = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
    schedule.step(*[x] * has_first, **({"target": target} if has_last else {}))  # stages learn of shapes
    optimizer.zero_grad()
    with Meter(run, model=parts, exact=exact, strict=True) as meter:
        for _ in range(STEPS if exact else 12):
            schedule.step(*[x] * has_first, **({"target": target} if has_last else {}))
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=BATCH)


def main(out, rank):
    asked = spy_on_collectives()
    if rank == 0:
        train_alone(out / "alone")
    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=int(os.environ["WORLD_SIZE"])
    )
    distributed.barrier()

    model = DistributedDataParallel(make())
    plain = DistributedDataParallel(make())
    asked.clear()
    for _ in range(STEPS):
        plain(torch.randn(BATCH, WIDTH)).square().sum().backward()
    unmetered = list(asked)
    asked.clear()
    train(out / "ddp", model)
    (out / f"collectives-{rank}.json").write_text(json.dumps({"metered": asked, "unmetered": unmetered}))

    model = DistributedDataParallel(make())
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, foreach=False)
    train(out / "zero", model, optimizer=zero)

    train(out / "fsdp1", FullyShardedDataParallel(make(), device_id=torch.device("cpu")))

    model = make()
    for layer in model:
        fully_shard(layer)
    train(out / "fsdp2", fully_shard(model))

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    model = make()
    for layer in model:
        parallelize_module(layer, mesh["tp"], plan)
    train(out / "tp", model)
    model = make()
    for layer in model:
        parallelize_module(layer, mesh["tp"], plan)
        fully_shard(layer, mesh=mesh["dp"])
    train(out / "fsdp2-tp", fully_shard(model, mesh=mesh["dp"]))

    for kind in ("ScheduleGPipe", "Schedule1F1B", "ScheduleInterleaved1F1B", "ScheduleInterleavedZeroBubble"):
        run_pipeline(out / kind, rank, kind)
        run_pipeline(out / f"{kind}-replayed", rank, kind, exact=False)

    unequal = DistributedDataParallel(make())
    train(out / "unequal", unequal, batch=BATCH + rank)
    distributed.destroy_process_group()


def train_alone(out):
    train(out / "ddp", make(), batch=4 * BATCH)
    train(out / "small", make(), batch=BATCH)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
