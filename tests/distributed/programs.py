"""What each of four processes runs, one program after the other; a script for `test_gloo.py`.

Each program trains a few steps with the meter in `OUT/<program>`; `OUT/alone` is one process that has all the data.
"""

import json
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
from torch.utils._python_dispatch import TorchDispatchMode

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


def train(run, model, *, batch=BATCH, optimizer=None, watched=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), foreach=False)
    with Meter(run, model=watched or model, exact=True, strict=True) as meter:
        for _ in range(STEPS):
            train_once(model, optimizer, batch)
            meter.step(tokens=batch)


def train_once(model, optimizer, batch=BATCH):
    model(torch.randn(batch, WIDTH)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def train_clipped(run):
    """Gradients are clipped, and a model of each rank's own is trained by an optimizer like that of the replicas."""
    replicas, own = DistributedDataParallel(make()), make()
    with Meter(run, model=[replicas, own], exact=True, strict=True) as meter:
        for model in (replicas, own):
            optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
            for _ in range(STEPS):
                model(torch.randn(BATCH, WIDTH)).square().sum().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
                optimizer.step()
                optimizer.zero_grad()
                meter.step(tokens=BATCH)


class Collectives(TorchDispatchMode):
    """Notes every collective that this process asks for; the ones of Python go through the dispatcher as well."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "c10d" in func.namespace:
            self.asked.append(func.name())
        return func(*args, **(kwargs or {}))


def count_collectives(out, rank):
    """The same training with the meter and without, from its start to its end."""
    asked = {}
    for is_metered in (False, True):
        model = make()
        for layer in model:
            fully_shard(layer)
        optimizer = torch.optim.AdamW(fully_shard(model).parameters(), foreach=False)
        train_once(model, optimizer)
        with Collectives() as collectives:
            if is_metered:
                train(out / "collectives", model, optimizer=optimizer)
            else:
                for _ in range(STEPS):
                    train_once(model, optimizer)
        asked[str(is_metered)] = collectives.asked
    (out / f"collectives-{rank}.json").write_text(json.dumps(asked))


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
    with Meter(run, model=parts, exact=exact, strict=True, overhead_budget=0.1) as meter:
        for _ in range(STEPS if exact else 4 * STEPS):
            schedule.step(*[x] * has_first, **({"target": target} if has_last else {}))
            optimizer.step()
            optimizer.zero_grad()
            meter.step(tokens=BATCH)


def main(out, rank):
    if rank == 0:
        train(out / "alone", make(), batch=4 * BATCH)
    distributed.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=4)
    train(out / "ddp", DistributedDataParallel(make()))
    train(out / "unequal", DistributedDataParallel(make()), batch=BATCH + rank)
    train_clipped(out / "clipped")
    count_collectives(out, rank)

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

    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10):
        run_pipelines(out, rank)
    distributed.destroy_process_group()


def run_pipelines(out: Path, rank: int) -> None:
    """Train as stages of pipelines; before torch 2.10 their stages cannot tell each other of shapes with gloo."""
    for kind in ("ScheduleGPipe", "Schedule1F1B", "ScheduleInterleaved1F1B", "ScheduleInterleavedZeroBubble"):
        run_pipeline(out / kind, rank, kind)
        run_pipeline(out / f"{kind}-replayed", rank, kind, exact=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
