"""Which work other ranks do as well: told by where operands come from, and never guessed."""

import pytest
import torch
import worlds
from torch import nn
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from flopmeter.formulas.call import OpCall, TensorSpec
from flopmeter.sensors.pricing import restrict

WIDTH, ROWS = 8, 4


def parts_of(program, *models):
    """FLOP by over, unsure, phase and kind; and all of it."""
    (shares,) = worlds.meter(program, *models).shares.values()
    return dict(shares.parts), shares.flop


def on_mesh(program):
    """Run on rank 0 of dp × tp, where `program` gets the mesh of tp."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    return program(mesh["tp"])


def measure(body):
    return worlds.as_rank(lambda: on_mesh(body))


def whole(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Replicate()])
    return parts_of(lambda: x * 3.5)


def cut(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Shard(0)])
    return parts_of(lambda: x * 3.5)


def summand(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Partial()])
    return parts_of(lambda: x * 3.5)


def plain(_tp):
    x = torch.randn(ROWS, WIDTH)
    return parts_of(lambda: x * 3.5)


def plain_from_whole(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Replicate()])
    return parts_of(lambda: ((x * 3.5).to_local() * 3.5).t() * 3.5)


def plain_from_cut(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Shard(0)])
    return parts_of(lambda: (x * 3.5).to_local() * 3.5)


def gathered(tp):
    x = torch.randn(ROWS, WIDTH)
    return parts_of(lambda: collectives.all_gather_tensor(x, 0, tp.get_group()) * 3.5)


def scattered(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Replicate()])
    return parts_of(lambda: collectives.reduce_scatter_tensor((x * 1.0).to_local(), "sum", 0, tp.get_group()) * 3.5)


def whole_then_cut(tp):
    x = DTensor.from_local(torch.randn(ROWS, WIDTH), tp, [Replicate()])
    return parts_of(lambda: (x * 1.0).redistribute(placements=[Shard(0)]).to_local() * 3.5)


def drawn(_tp):
    return parts_of(lambda: torch.randn(ROWS, WIDTH) * 3.5)


def constant(_tp):
    return parts_of(lambda: torch.ones(ROWS, WIDTH) * 3.5)


SIZE = ROWS * WIDTH


@pytest.mark.parametrize(
    ("body", "parts", "flop"),
    [
        (whole, {(("tp",), ()): SIZE}, SIZE),
        (cut, {}, SIZE),
        (summand, {(("tp",), ()): SIZE}, SIZE),
        (plain, {((), ("tp",)): SIZE}, SIZE),
        (plain_from_whole, {(("tp",), ()): 3 * SIZE}, 3 * SIZE),
        (plain_from_cut, {}, 2 * SIZE),
        (gathered, {(("tp",), ()): 2 * SIZE}, 2 * SIZE),
        (scattered, {(("tp",), ()): SIZE}, SIZE + SIZE // 2),
        (whole_then_cut, {(("tp",), ()): SIZE, ((), ("tp",)): SIZE // 2}, SIZE + SIZE // 2),
        (constant, {(("dp", "tp"), ()): SIZE}, SIZE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_work_is_repeated_where_no_operand_is_cut(body, parts, flop):
    """If this failed, the logical figure would hold work twice, or leave some out."""
    found, total = measure(body)
    summed = {}
    for (over, unsure, _, _), each in found.items():
        summed[over, unsure] = summed.get((over, unsure), 0) + each
    assert (summed, total) == (parts, flop)


def test_what_each_rank_draws_is_not_the_same():
    """If this failed, training on made-up data would count as work that all ranks repeat."""
    found, _ = measure(drawn)
    assert all(not over for over, *_ in found)


def sequence_parallel(tp):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
    plan = {
        "0": SequenceParallel(),
        "1": ColwiseParallel(input_layouts=Shard(1)),
        "3": RowwiseParallel(output_layouts=Shard(1)),
    }
    model = parallelize_module(model, tp, plan)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)

    def train():
        model(torch.randn(1, ROWS, WIDTH)).square().sum().backward()
        optimizer.step()

    return parts_of(train, model)


def test_norms_and_their_optimizer_are_what_sequence_parallel_ranks_repeat():
    """If this failed, the state of an optimizer for all parameters in one call would be one rank's or all ranks'."""
    found, _ = measure(sequence_parallel)
    optimizer = {(over, unsure): flop for (over, unsure, phase, _), flop in found.items() if phase == "optimizer"}
    # Along dp nobody said that the parameters are the same: they are no DDP's, and not on a mesh with dp.
    assert set(optimizer) == {((), ("dp",)), (("tp",), ("dp",))}
    assert optimizer[("tp",), ("dp",)] > 3 * WIDTH  # norm, and the bias of the last layer


def sliced(tp):
    weights = nn.ParameterList([nn.Parameter(distribute_tensor(torch.randn(WIDTH), tp, [Replicate()]))])
    weights.append(nn.Parameter(distribute_tensor(torch.randn(WIDTH), tp, [Shard(0)])))
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.5, foreach=True)
    return parts_of(optimizer.step)


def test_one_call_for_many_parameters_is_taken_apart():
    """If this failed, one norm among its operands would make a whole optimizer repeated, or none of it."""
    found, total = measure(sliced)
    assert found == {
        ((), ("dp",), "optimizer", "pointwise"): WIDTH,
        (("tp",), ("dp",), "optimizer", "pointwise"): 2 * WIDTH,
    }
    assert total == 3 * WIDTH


def test_a_call_on_lists_is_restricted_to_some_items():
    """If this failed, a part of a call would be priced as the whole."""
    items = tuple(TensorSpec((size,)) for size in (2, 3, 5))
    call = OpCall(op="aten::_foreach_mul", args=(items, items), out=items)
    part = restrict(call, (0, 2))
    assert [spec.shape for spec in part.tensors] == [(2,), (5,), (2,), (5,)]
    assert [spec.shape for spec in part.out] == [(2,), (5,)]
    assert restrict(OpCall.of("aten::mm", (2, 3), (3, 5)), (0,)) == OpCall.of("aten::mm", (2, 3), (3, 5))
