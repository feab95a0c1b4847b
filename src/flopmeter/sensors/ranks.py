"""Which rank this process is, and of how many; asked of torch where it knows, else of the launcher's environment.

Not here: talking to other ranks, which the meter never does.
"""

import os
from collections.abc import Sequence

import torch

from flopmeter.sensors.guard import guarded
from flopmeter.sensors.mesh import count_groups, find_grid
from flopmeter.sensors.repeats import Repeats
from flopmeter.sensors.sink import PassageSink
from flopmeter.sensors.torch_ops import OpRecorder


def is_cuda_build() -> bool:
    """Say whether this torch could use a GPU at all; asks no driver, because asking can break a later fork."""
    return torch.version.cuda is not None or torch.version.hip is not None


class PlaceWatch:
    """Finds out where this rank stands, again when there are more models or process groups, and tells the recorder."""

    def __init__(self, recorder: OpRecorder, sink: PassageSink) -> None:
        """Start with nothing known."""
        self._recorder = recorder
        self._sink = sink
        self._looked_at: tuple[int, ...] = ()
        self._told: object = None
        self.on_failure = recorder.on_failure

    @guarded
    def look(self, modules: Sequence[torch.nn.Module]) -> None:
        """Find out, and tell the meter where it is news."""
        looks_at = (count_groups(), *map(id, modules))
        if looks_at == self._looked_at or not looks_at[0]:
            return
        self._looked_at = looks_at
        grid = find_grid(modules)
        self._recorder.repeats = Repeats(grid, modules) if grid.found else None
        found = grid.coordinates.to_wire()
        if found != self._told and grid.found:
            self._told = found
            self._sink.rank_placed(found)


def find_rank() -> tuple[int, int]:
    """Return rank and world size; 0 and 1 for a process on its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
