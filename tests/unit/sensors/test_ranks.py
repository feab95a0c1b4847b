"""Rank and world, from torch or from the launcher's environment."""

import pytest
import torch

from flopmeter.coordinates import Axis
from flopmeter.sensors import ranks
from flopmeter.sensors.mesh import Found, Grid
from flopmeter.sensors.ranks import find_rank
from flopmeter.sensors.torch_ops import OpRecorder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_process_on_its_own_is_rank_0_of_1(alone: pytest.MonkeyPatch) -> None:
    """If this failed, a plain script would look like a part of something."""
    assert find_rank() == (0, 1)


def test_the_launcher_is_believed_and_nonsense_is_not(alone: pytest.MonkeyPatch) -> None:
    """If this failed, two ranks would fight for one ledger file."""
    alone.setenv("RANK", "3")
    alone.setenv("WORLD_SIZE", "8")
    assert find_rank() == (3, 8)
    alone.setenv("RANK", "three")
    assert find_rank() == (0, 1)


def test_torch_knows_better_than_the_environment(alone: pytest.MonkeyPatch) -> None:
    """If this failed, a launcher that sets no RANK would give every process rank 0."""
    alone.setattr(torch.distributed, "is_initialized", lambda: True)
    alone.setattr(torch.distributed, "get_rank", lambda: 5)
    alone.setattr(torch.distributed, "get_world_size", lambda: 6)
    assert find_rank() == (5, 6)


class Sink:
    def __init__(self) -> None:
        self.told: list[object] = []

    def rank_placed(self, fields: object) -> None:
        self.told.append(fields)


def test_a_rank_looks_again_only_where_there_are_more_groups_or_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, each record would cost a look through all parameters, or a later mesh would never be found."""
    axis = Axis(name="tp", size=2, index=1, role="model")
    looks, groups, grids = [], [1], [Grid((Found(axis, frozenset({0, 1})),), world=2)]
    monkeypatch.setattr(ranks, "count_groups", lambda: groups[0])
    monkeypatch.setattr(ranks, "find_grid", lambda modules: looks.append(modules) or grids[-1])
    recorder, sink = OpRecorder(lambda: "forward", pytest.fail), Sink()
    watch, model = ranks.PlaceWatch(recorder, sink), torch.nn.Linear(2, 2)
    for _ in range(3):
        watch.look([model])
    assert len(looks) == 1
    assert sink.told == [{"axes": [axis.to_wire()]}]
    assert recorder.repeats is not None
    groups[0] = 2
    watch.look([model])
    assert len(looks) == 2
    assert len(sink.told) == 1  # nothing new was found
    groups[0], grids[:] = 3, [Grid()]
    watch.look([model])
    assert recorder.repeats is None


def test_a_process_on_its_own_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, every plain run would pay for what only runs of several ranks need."""
    monkeypatch.setattr(ranks, "find_grid", pytest.fail)
    ranks.PlaceWatch(OpRecorder(lambda: "forward", pytest.fail), Sink()).look([torch.nn.Linear(2, 2)])
