"""Which rank this process is, and of how many; asked of torch where it knows, else of the launcher's environment.

Not here: talking to other ranks, which the meter never does.
"""

import os

import torch


def is_cuda_build() -> bool:
    """Say whether this torch could use a GPU at all; asks no driver, because asking can break a later fork."""
    return torch.version.cuda is not None or torch.version.hip is not None


def find_rank() -> tuple[int, int]:
    """Return rank and world size; 0 and 1 for a process on its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
