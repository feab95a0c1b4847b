"""Rank and world, from torch or from the launcher's environment."""

import pytest
import torch

from flopmeter.sensors.ranks import find_rank


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
