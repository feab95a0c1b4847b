"""Where a rank stands, asked of no other rank."""

import torch
import worlds
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from versions import since_2_10

from flopmeter.sensors.mesh import count_groups, find_grid


def found(*modules):
    grid = find_grid(modules)
    return {axis.name: (axis.size, axis.index, axis.role) for axis in grid.coordinates.axes}, grid.is_whole


def test_a_process_on_its_own_stands_nowhere():
    """If this failed, a plain run would be one of several ranks."""
    assert found(nn.Linear(2, 2)) == ({}, True)
    assert count_groups() == 0


def find_dimensions():
    init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("pp", "dp", "tp"))
    return found()


def test_the_dimensions_of_a_mesh_are_axes():
    """If this failed, ranks could not be told from replicas."""
    axes = {"pp": (2, 1, "pipeline"), "dp": (2, 0, "data"), "tp": (2, 1, "model")}
    assert worlds.as_rank(find_dimensions, rank=5, world=8) == (axes, True)


def find_flattened():
    mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("dp_shard", "cp", "tp"))
    mesh["dp_shard", "cp"]._flatten("dp_shard_cp")
    return found()


def test_a_flattened_dimension_is_its_parts():
    """If this failed, work would be divided by the ranks of an axis twice."""
    axes, is_whole = worlds.as_rank(find_flattened, world=8)
    assert (set(axes), is_whole) == ({"dp_shard", "cp", "tp"}, True)


def find_partial():
    for start in (0, 4):
        distributed.new_group([start, start + 1], group_desc="EXPERT_MODEL_PARALLEL_GROUP")
        distributed.new_group(list(range(start, start + 4)), group_desc="DATA_PARALLEL_GROUP")
        distributed.new_group(list(range(start, start + 4)), group_desc="somebody's own")
    for start in range(4):
        distributed.new_group([start, start + 4], group_desc="TENSOR_MODEL_PARALLEL_GROUP")
    return found()


def test_named_groups_of_a_library_are_axes_and_a_part_of_one_is_none():
    """If this failed, Megatron's ranks would stand nowhere, or on an axis and on a part of it as well."""
    axes, is_whole = worlds.as_rank(find_partial, world=8)
    assert axes == {"DATA_PARALLEL_GROUP": (4, 0, "data"), "TENSOR_MODEL_PARALLEL_GROUP": (2, 0, "model")}
    assert is_whole


def find_ddp():
    return found(nn.parallel.DistributedDataParallel(nn.Linear(2, 2)))


def find_fsdp():
    return found(fully_shard(nn.Linear(4, 4)))


def find_pipeline():
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("pp",))
    return mesh is not None and found()


def find_nothing():
    return found(nn.Linear(2, 2))


def test_a_mesh_or_a_wrapper_of_all_ranks_has_no_group_of_its_own_and_is_found_all_the_same():
    """If this failed, the most usual runs would know of no axis."""
    assert worlds.as_rank(find_ddp) == ({"dp": (4, 0, "data")}, True)
    assert worlds.as_rank(find_fsdp) == ({"fsdp": (4, 0, "data")}, True)
    assert worlds.as_rank(find_pipeline, rank=2) == ({"pp": (4, 2, "pipeline")}, True)


def test_ranks_that_nothing_is_known_of_are_unknown():
    """If this failed, a hand-made scheme would pass for one that is understood."""
    assert worlds.as_rank(find_nothing) == ({}, False)


def find_after_another_world():
    left = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    distributed.destroy_process_group()
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    return left is not None and found(nn.Linear(2, 2))


@since_2_10("a mesh keeps the names of its groups alone, which the next world reuses")
def test_a_mesh_of_a_world_that_was_left_is_none_of_the_next():
    """If this failed, a second run in one process would stand where the first stood."""
    assert worlds.as_rank(find_after_another_world) == ({}, False)


def test_finding_asks_for_no_collective():
    """If this failed, finding out would wait for other ranks."""
    assert worlds.as_rank(_watched) == []


def _watched():
    init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    asked = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            asked.append(func.name())
            return func(*args, **(kwargs or {}))

    with Watch():
        find_grid([nn.Linear(2, 2)])
    return [name for name in asked if "c10d" in name]
