"""Where this rank stands in the run's device meshes and process groups: asked of this process alone.

Torch keeps for each group the ranks that it has, so that no other rank is asked and no collective runs.
Not here: what follows for operators (`repeats.py`), the value itself (`coordinates.py`).
"""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import distributed

from flopmeter.coordinates import Axis, Coordinates, role_of

MAX_AXES = 32
_UNNAMED = frozenset({"", "undefined", "default_pg", "mesh_default"})


class Found(NamedTuple):
    """An axis, and the ranks of the run that stand along it with this one."""

    axis: Axis
    ranks: frozenset[int]


class Grid:
    """The axes that this process knows; none where it is alone, or knows of none."""

    def __init__(self, found: Sequence[Found] = (), *, world: int = 1) -> None:
        """Keep them; `world` is the number of ranks of the run."""
        self.found = tuple(found)
        self.coordinates = Coordinates(tuple(sorted(one.axis for one in found)))
        self.is_whole = prod(one.axis.size for one in found) == world
        self.is_alone = world == 1

    def covered_by(self, ranks: frozenset[int]) -> frozenset[str]:
        """Return the names of the axes that lie within a group of these ranks."""
        return frozenset(one.axis.name for one in self.found if one.ranks <= ranks)


def is_distributed() -> bool:
    """Say whether this process is one of several that know of each other."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def find_grid(modules: Iterable[torch.nn.Module]) -> Grid:
    """Find the axes that this rank stands on.

    Named process groups, those of each mesh among them, are known to torch; a mesh of one dimension over all ranks has
    the unnamed group of all, and is found with the parameters that lie on it, or, where axes are still missing, among
    all objects of this process.
    """
    if not is_distributed():
        return Grid()
    world, given = distributed.get_world_size(), list(modules)
    candidates = [*_of_models(given), *_of_groups()]
    grid = Grid(_independent(candidates, world), world=world)
    if grid.is_whole:
        return grid
    return Grid(_independent([*candidates, *_of_all_meshes()], world), world=world)


def count_groups() -> int:
    """Return how many process groups this rank is in: where that changes, it may stand on other axes.

    Units: groups.
    """
    return len(_members()) if is_distributed() else 0


def ranks_along(mesh: Any, dim: int) -> frozenset[int]:
    """Return the ranks that stand with this one along one dimension of a mesh."""
    return frozenset(distributed.get_process_group_ranks(mesh.get_group(dim)))


def _of_groups() -> Iterator[Found]:
    """Return the named groups of which this rank is a member: those of meshes, and of libraries that name theirs."""
    for group, members in reversed(list(_members().items())):  # the newest first
        described = str(getattr(group, "group_desc", ""))
        name = described.removeprefix("mesh_")
        is_of_mesh = name != described
        if described not in _UNNAMED and (is_of_mesh or role_of(name) != "model" or "tensor" in name.lower()):
            yield from _found(name, frozenset(members))


def _members() -> Mapping[Any, Mapping[int, int]]:
    world = getattr(distributed.distributed_c10d, "_world", None)
    known: Mapping[Any, Mapping[int, int]] = getattr(world, "pg_group_ranks", {})
    return known


def _of_models(modules: Sequence[torch.nn.Module]) -> Iterator[Found]:
    """Return the axes of the meshes that parameters lie on, and of the wrappers that keep replicas and shards."""
    for module in modules:
        parts = list(module.modules())
        for part in parts:
            yield from _of_wrapper(part)
        meshes = {id(mesh): mesh for mesh in (getattr(one, "device_mesh", None) for one in module.parameters()) if mesh}
        has_fsdp = any(hasattr(part, "_get_fsdp_state") for part in parts)
        for mesh in meshes.values():
            if has_fsdp and not mesh.mesh_dim_names and mesh.ndim == 1:
                yield from _found("fsdp", ranks_along(mesh, 0))
            yield from _of_mesh(mesh)


def _of_wrapper(part: torch.nn.Module) -> Iterator[Found]:
    name = {"DistributedDataParallel": "dp", "FullyShardedDataParallel": "fsdp"}.get(type(part).__name__)
    named = ((name, "process_group"), ("replicate", "_inter_node_pg")) if name is not None else ()
    for axis, attribute in named:
        group: Any = getattr(part, attribute, None)
        if group is not None:
            yield from _found(str(axis), frozenset(distributed.get_process_group_ranks(group)))


def _of_mesh(mesh: Any) -> Iterator[Found]:
    for one in dict.fromkeys((_root_of(mesh), mesh)):
        if one.get_coordinate() is not None:
            names = one.mesh_dim_names or [f"dim_{dim}" for dim in range(one.ndim)]
            for dim, name in enumerate(names):
                yield from _found(name, ranks_along(one, dim))


def _of_all_meshes() -> Iterator[Found]:
    """Return the axes of every mesh of this process: all objects are looked through, once.

    A mesh outlives the groups that it was made with, where a process leaves one world and joins another.
    """
    kind = distributed.device_mesh.DeviceMesh
    for mesh in [one for one in gc.get_objects() if type(one) is kind]:
        if hasattr(mesh, "_dim_group_names") and _is_of_this_world(mesh):
            yield from _of_mesh(mesh)


def _is_of_this_world(mesh: Any) -> bool:
    """Say whether the groups of a mesh are still known; torch 2.9 keeps only names, which the next world reuses."""
    groups = {name: group for group, name in distributed.distributed_c10d._world.pg_names.items()}  # noqa: SLF001
    made_with = getattr(_root_of(mesh), "_pg_registry", {})
    return all(name in groups and made_with.get(name, groups[name]) is groups[name] for name in mesh._dim_group_names)  # noqa: SLF001


def _root_of(mesh: Any) -> Any:
    return mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else mesh  # noqa: SLF001


def _found(name: str, ranks: frozenset[int]) -> Iterator[Found]:
    rank = distributed.get_rank()
    if rank in ranks and len(ranks) > 1:
        axis = Axis(name=name, size=len(ranks), index=sorted(ranks).index(rank), role=role_of(name))
        yield Found(axis, ranks)


def _independent(candidates: Iterable[Found], world: int) -> list[Found]:
    """Return axes that are dimensions of one grid: none lies within another, and no two are along the same ranks.

    A flattened dimension goes where its parts are known. Where only some of its parts are, it stays and they go.
    """
    unique: dict[frozenset[int], Found] = {}
    for one in sorted(candidates, key=lambda one: (len(one.ranks), one.axis.name.startswith("dim_"))):
        unique.setdefault(one.ranks, one)
    kept: list[Found] = []
    for one in unique.values():  # the shortest first
        inside = [other for other in kept if other.ranks < one.ranks]
        if inside and prod(other.axis.size for other in inside) == len(one.ranks):
            continue
        kept = [other for other in kept if other not in inside]
        kept.append(one)
    names: dict[str, int] = {}
    renamed = []
    for found in kept[:MAX_AXES]:
        times = names[found.axis.name] = names.get(found.axis.name, 0) + 1
        axis, role = found.axis, found.axis.role
        name = axis.name if times == 1 else f"{axis.name}_{times}"
        renamed.append(Found(Axis(name=name, size=axis.size, index=axis.index, role=role), found.ranks))
    return renamed if prod(found.axis.size for found in renamed) <= world else []
