"""Which of the operators that this rank runs do other ranks run alike? Told by where their operands come from.

A tensor is *cut* along an axis of the grid where each rank along it has another part, or other data; it is *whole*
where each has all of it (or a summand as large as all of it). What an operator makes is cut along each axis that one
of its operands is cut along; where all are whole, every rank does the same. DTensors say it of themselves, and so do
collectives; what was made before a passage is taken as cut along axes of data, and as unknown along the others, but
for integers (tokens, labels, positions): of these, ranks that share a model are given the same.
Marks are kept by storage, so views share them, and only while a passage is counted: this costs time with each call.
Not here: noting calls (`torch_ops.py`), finding the axes (`mesh.py`), what is made of it at the end (`logical.py`).
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import distributed
from torch.multiprocessing.reductions import StorageWeakRef

from flopmeter.coordinates import ANYWHERE
from flopmeter.sensors.guard import guarded
from flopmeter.sensors.mesh import Grid, ranks_along
from flopmeter.sensors.operators import Operator
from flopmeter.sensors.shadows import flatten

Axes: TypeAlias = frozenset[str]
Place: TypeAlias = tuple[int, int, int]
"""Where a tensor lies: its storage, where in it, and how many elements."""
_NO_AXES: Axes = frozenset()
_ANYWHERE: Axes = frozenset({ANYWHERE})
_DATA = ("data", "sequence", "expert", "pipeline")
LOOKS = 64
"""How often in a passage parameters are looked at again because an operand is unknown."""
_LISTED = ("aten::_foreach_", "aten::_fused_")
"""Operators that do one thing to each item of lists, whose items need not lie alike."""
_MAKERS = frozenset({"aten::lift_fresh", "aten::detach", "aten::detach_", "aten::clone", "aten::_local_scalar_dense"})
"""Operators that compute nothing, on what may be known once it is where it belongs."""
_WHOLE = ("all_reduce", "allreduce", "all_gather", "allgather", "broadcast")
_CUT = ("reduce_scatter", "all_to_all", "alltoall", "scatter")
_LOOSE = frozenset({"optimizer", "other"})
"""Phases of work that need not be on a rank's own data: updates, clipped gradients, averaged weights."""
_CUTTING = ("FULL_SHARD", "SHARD_GRAD_OP")
"""Strategies of FSDP by which each rank of its group updates a part of its own."""
_resolve: Any = (
    getattr(distributed.distributed_c10d, "_resolve_process_group", None) if distributed.is_available() else None
)
_DDP = "torch.nn.parallel.distributed"
_ZERO = "torch.distributed.optim.zero_redundancy_optimizer"


class Mark(NamedTuple):
    """The axes along which a tensor is cut, and those of which nothing is known."""

    cut: Axes
    unknown: Axes


Spread: TypeAlias = tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]], ...]
"""Of one call: what is repeated over which axes, perhaps over which others, and of which items, none being all."""


class _Known(NamedTuple):
    """What is known of a storage. `is_said`: by a DTensor or of an optimizer's parameter; no operator can unsay it."""

    storage: StorageWeakRef
    mark: Mark
    is_said: bool


CONSTANT = Mark(_NO_AXES, _NO_AXES)


class Repeats:
    """Follows, through the operators of one passage, along which axes tensors are cut.

    `modules` are those that are watched. Where it fails itself nothing is known any more: `failed` says how.
    """

    def __init__(self, grid: Grid, modules: Sequence[torch.nn.Module]) -> None:
        """Start with nothing known of any tensor."""
        self.grid = grid
        self.failed = ""
        self.is_following = False
        self._modules = tuple(modules)
        place = grid.coordinates
        rest = _NO_AXES if grid.is_whole else frozenset({ANYWHERE})
        self._all = place.names() | rest
        self._default = Mark(place.names(*_DATA), place.names("model") | rest)
        stages = place.names("pipeline")
        self._default_of_optimizer = Mark(stages, self._all - stages)
        self._nothing_known = self._spread([((), Mark(_NO_AXES, self._all))])
        self._unmarked = self._spread([((), self._default)])
        self._unmarked_of_optimizer = self._spread([((), self._default_of_optimizer)])
        self._found: Spread = ()
        self._looks_left = 0
        self._looked_for: set[Place] = set()
        self._stepping: torch.optim.Optimizer | None = None
        self._of_zero: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._marks: dict[int, _Known] = {}
        self._parts: dict[Place, _Known] = {}
        self._meshes: dict[Any, tuple[Axes, ...]] = {}
        self._groups: dict[str, Axes] = {}

    def on_failure(self, error: Exception) -> None:
        """Know nothing any more: calls are noted all the same, as ones that other ranks may run as well."""
        self.failed = self.failed or f"{type(error).__name__}: {error}"
        self._unmarked = self._unmarked_of_optimizer = self._nothing_known
        self._marks.clear()

    @guarded
    def begin(self, owner: Any, *, goes_on: bool = False) -> None:
        """Begin a passage; `goes_on` says that the one before was counted: what lives on of it is known.

        Of an optimizer's step what is known of its parameters is taken anew: how gradients were summed was not seen.
        Where axes are of data alone there is nothing to follow in a forward and its backward.
        """
        optimizer = getattr(owner, "optimizer", None)
        goes_on = goes_on and optimizer is None
        self._marks = {place: known for place, known in self._marks.items() if goes_on and not known.storage.expired()}
        self._parts = {place: known for place, known in self._parts.items() if goes_on and place[0] in self._marks}
        self._looks_left = LOOKS
        self._looked_for.clear()
        self.is_following = not self.failed and bool(owner is None or optimizer is not None or self._default.unknown)
        self._stepping = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
        if self._stepping is not None:
            self._see_parameters(self._stepping)

    @guarded
    def see(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Take what the DTensors among these arguments say of their local parts."""
        if self.is_following:
            for tensor in _dense([*args, *kwargs.values()]):
                self._see_placements(tensor)

    def follow(
        self, operator: Operator, phase: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> Spread:
        """Mark what an operator made, and return over which axes its work is repeated."""
        self._found = self.unmarked(phase)
        if self.is_following:
            self._follow(operator, phase, args, kwargs, out)
        return self._found

    def unmarked(self, phase: str) -> Spread:
        """Return over which axes work may be repeated that was not followed."""
        return self._unmarked_of_optimizer if phase in _LOOSE else self._unmarked

    @guarded
    def _follow(self, operator: Operator, phase: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        name = operator.name
        default = self._default_of_optimizer if phase in _LOOSE else self._default
        if "c10d" in name.partition("::")[0]:
            self._communicate(name, args, out, default)
            return
        given = _dense([*args, *kwargs.values()])
        if name.startswith("fsdp::"):  # it puts parameters that lie in different ways into one buffer
            mark = _mixed([self._mark(tensor, default) for tensor in given])
            for tensor in _dense(out) or given:
                self._put(tensor, mark)
            return
        is_listed = name.startswith(_LISTED)
        if name not in _MAKERS:
            self._look_if_unknown(given, default, is_listed=is_listed)
        if is_listed:
            self._found = self._follow_items(args, kwargs, out, default)
            return
        mark = self._made(operator, given, out, default)
        for tensor in _dense(out):
            self._put(tensor, mark)
        self._found = self._spread([((), mark)])

    def _made(self, operator: Operator, given: Sequence[torch.Tensor], out: Any, default: Mark) -> Mark:
        """Return the mark of what an operator makes."""
        mark = _joined(self._mark(tensor, default) for tensor in given)
        is_drawn = torch.Tag.nondeterministic_seeded in getattr(operator.func, "tags", ())
        if (mark == CONSTANT and is_drawn) or (self._stepping is not None and not given):
            mark = default  # drawn by each rank, perhaps from a seed of its own; or state of this rank's parameters
        if operator.name == "aten::copy_" and len(given) == 2 and not _is_part(given[0]):
            mark = self._mark(given[1], default)
        if operator.name == "aten::clone" and given and _is_part(given[0]):
            # DTensor cuts a whole tensor so; what else takes a part of one does not matter as much.
            mark = Mark(mark.cut, mark.unknown | (self._default.unknown - mark.cut))
        if given and out is given[0] and self._is_said(out):
            # What stays whole when something is added to it, was added something whole.
            mark = Mark(mark.cut, mark.unknown & self._mark(out, default).unknown)
        return mark

    def _look_if_unknown(self, given: Sequence[torch.Tensor], default: Mark, *, is_listed: bool) -> None:
        if not self._looks_left:
            return
        marks = [self._mark(tensor, default) for tensor in given]
        if not (_joined(marks).unknown or (is_listed and any(mark.unknown for mark in marks))):
            return
        places = set(map(_place_of, given))
        if not self._looked_for.issuperset(places):
            self._looked_for |= places
            self._look_again()

    def _follow_items(self, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, default: Mark) -> Spread:
        lists = [
            value
            for value in (*args, *kwargs.values(), out)
            if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor)
        ]
        count = len(lists[0]) if lists else 0
        lists = [value for value in lists if len(value) == count]
        single = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        beside = [
            value for value in single if value.numel() > 1
        ]  # a rate or a scale is one number, the same everywhere
        alike: dict[Mark, list[int]] = {}
        for index in range(count):
            items = [value[index] for value in lists]
            inputs = items[:-1] if isinstance(out, list | tuple) and out and lists[-1] is out else items
            mark = _joined(self._mark(tensor, default) for tensor in (*inputs, *beside))
            for tensor in items:
                self._put(tensor, mark)
            alike.setdefault(mark, []).append(index)
        if len(alike) == 1:
            return self._spread([((), mark) for mark in alike])
        return self._spread([(tuple(items), mark) for mark, items in alike.items()])

    def _communicate(self, name: str, args: Sequence[Any], out: Any, default: Mark) -> None:
        """Mark what a collective gives: the same to all of its group, or a part to each."""
        along = self._along(args)
        mark = _mixed([self._mark(tensor, default) for tensor in _dense(args)])
        word = name.rpartition("::")[2]
        if any(part in word for part in _CUT):
            mark = Mark(mark.cut | along, mark.unknown - along)
        elif any(part in word for part in _WHOLE):
            mark = Mark(mark.cut - along, mark.unknown - along)
        elif "wait" not in word:
            mark = default
        for tensor in _dense(out):
            self._put(tensor, mark)

    def _along(self, args: Sequence[Any]) -> Axes:
        for arg in args:
            if isinstance(arg, str):
                name, group = arg, None
            elif isinstance(arg, torch.ScriptObject):
                try:
                    group = distributed.ProcessGroup.unbox(arg)
                except RuntimeError:  # an object of another sort
                    continue
                name = group.group_name
            else:
                continue
            if name in self._groups:
                return self._groups[name]
            if group is None:
                if _resolve is None:
                    continue
                try:
                    group = _resolve(name)
                except (LookupError, RuntimeError, ValueError):  # such as "sum"
                    continue
            along = self._groups[name] = self.grid.covered_by(frozenset(distributed.get_process_group_ranks(group)))
            return along
        return _NO_AXES

    def _look_again(self) -> None:
        """Something is unknown: FSDP may have put whole parameters in place of their parts, an optimizer made state."""
        self._looks_left -= 1
        if self._stepping is not None:
            self._see_parameters(self._stepping)
            return
        for module in self._modules:
            for parameter in module.parameters():
                self._see_placements(parameter)
                if parameter.grad is not None:
                    self._see_placements(parameter.grad)

    def _see_placements(self, tensor: torch.Tensor) -> None:
        spec, local = getattr(tensor, "_spec", None), getattr(tensor, "_local_tensor", None)
        if spec is None or local is None:
            return
        default = self._default if self._stepping is None else self._default_of_optimizer
        local = getattr(local, "elem", local)  # of a collective that runs on
        axes = self._meshes.get(spec.mesh)
        if axes is None:
            mesh = spec.mesh
            axes = self._meshes[mesh] = tuple(self.grid.covered_by(ranks_along(mesh, dim)) for dim in range(mesh.ndim))
        cut, said = _NO_AXES, _NO_AXES
        for along, placement in zip(axes, spec.placements, strict=False):
            said |= along
            if not (placement.is_replicate() or placement.is_partial()):
                cut |= along
        self._put(local, Mark(cut | (default.cut - said), default.unknown - said), is_said=True)

    def _see_parameters(self, optimizer: torch.optim.Optimizer) -> None:
        """Mark parameters, gradients and state where it is known that each rank has its own, or all the same.

        Replicas of DDP are updated alike by an optimizer of torch that has all of them. What ZeRO and FSDP update is
        each rank's own part. State of one element (a step's number) is kept by each rank that has a part of it.
        """
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        known, is_zero = self._replicas(optimizer, owned), optimizer in self._of_zero
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                mark = known.get(id(parameter))
                if hasattr(parameter, "_local_tensor"):
                    self._see_placements(parameter)
                    mark = self._mark(parameter._local_tensor, self._default_of_optimizer)  # noqa: SLF001
                if mark is None:
                    continue
                stages = self._default_of_optimizer.cut
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor) and not hasattr(value, "_local_tensor"):
                        each = Mark(stages, mark.unknown) if value.numel() == 1 and not is_zero else mark
                        self._put(value, each, is_said=True)
                if not hasattr(parameter, "_local_tensor"):
                    for tensor in (parameter, parameter.grad):
                        if tensor is not None:
                            self._put(tensor, mark, is_said=True)

    def _replicas(self, optimizer: torch.optim.Optimizer, owned: set[int]) -> dict[int, Mark]:
        known: dict[int, Mark] = {}
        stages, unknown = self._default_of_optimizer
        if type(optimizer).__module__ == _ZERO:
            self._of_zero.update((optimizer, getattr(optimizer, "optim", optimizer)))
        is_zero = optimizer in self._of_zero
        for part in (part for module in self._modules for part in module.modules()):
            group = getattr(part, "process_group", None)
            if type(part).__module__ == _DDP and group is not None:
                along = self.grid.covered_by(frozenset(distributed.get_process_group_ranks(group)))
                trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
                is_alike = type(optimizer).__module__.startswith("torch.optim.")
                if is_zero or (is_alike and owned.issuperset(map(id, trained))):
                    mark = Mark(stages | along if is_zero else stages, unknown - along)
                    known.update((id(parameter), mark) for parameter in trained)
            elif getattr(getattr(part, "sharding_strategy", None), "name", "") in _CUTTING and group is not None:
                along = self.grid.covered_by(frozenset(distributed.get_process_group_ranks(group)))
                known.update((id(each), Mark(stages | along, unknown - along)) for each in part.parameters())
        return known

    def _mark(self, tensor: torch.Tensor, default: Mark) -> Mark:
        place = _place_of(tensor)
        found = self._parts.get(place) or self._marks.get(place[0])
        if found is not None:
            return found.mark
        is_index = self._stepping is None and not (tensor.is_floating_point() or tensor.is_complex())
        return Mark(default.cut, default.unknown & _ANYWHERE) if is_index else default

    def _is_said(self, tensor: torch.Tensor) -> bool:
        place = _place_of(tensor)
        found = self._parts.get(place) or self._marks.get(place[0])
        return found is not None and found.is_said

    def _put(self, tensor: torch.Tensor, mark: Mark, *, is_said: bool = False) -> None:
        """Keep a mark. Several tensors may lie in one storage: gradients that FSDP reduced together, for one."""
        place = _place_of(tensor)
        found = self._marks.get(place[0])
        if found is not None and found.is_said and not is_said:
            return
        # The weak reference keeps another storage from getting the same place while we remember this one.
        reference = StorageWeakRef(tensor.untyped_storage())
        if _is_part(tensor):
            if is_said:
                self._parts[place] = _Known(reference, mark, is_said)
            if found is not None:
                mark = _mixed([found.mark, mark])
        self._marks[place[0]] = _Known(reference, mark, is_said)

    def _spread(self, marks: Iterable[tuple[tuple[int, ...], Mark]]) -> Spread:
        spread = []
        for items, (cut, unknown) in marks:
            over = self._all - cut - unknown
            if over or unknown:
                spread.append((tuple(sorted(over)), tuple(sorted(unknown)), items))
        return tuple(spread)


def _dense(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value that have one storage to be told by; sparse ones have none."""
    return [tensor for tensor in flatten(value) if tensor.layout is torch.strided]


def _joined(marks: Iterable[Mark]) -> Mark:
    cut, unknown = _NO_AXES, _NO_AXES
    for mark in marks:
        cut |= mark.cut
        unknown |= mark.unknown
    return Mark(cut, unknown - cut)


def _mixed(marks: Sequence[Mark]) -> Mark:
    """Return what is known of a buffer that holds such tensors side by side."""
    joined = _joined(marks)
    differ = frozenset(axis for axis in joined.cut if not all(axis in mark.cut for mark in marks))
    return Mark(joined.cut - differ, joined.unknown | differ)


def _place_of(tensor: torch.Tensor) -> Place:
    return (tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.numel())  # noqa: SLF001


def _is_part(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()
