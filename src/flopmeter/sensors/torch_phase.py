"""Which phase an operator call belongs to: forward, backward, recompute, optimizer, inference or other.

Read from torch's own state at the moment of the call; no module hook is needed for it.
Not here: purposes, which people declare.
"""

import sys
from types import FrameType

import torch

_CHECKPOINT_FILE = torch.utils.checkpoint.__file__
_CHECKPOINT_FRAMES = frozenset({"recompute_fn", "unpack_hook", "backward"})


class PhaseTracker:
    """Knows whether an optimizer steps and whether a watched module's forward runs; torch knows the rest."""

    def __init__(self) -> None:
        """Start outside of everything."""
        self.in_optimizer = False
        self.forward_depth = 0

    def now(self) -> str:
        """Return the phase of an operator called now on this thread.

        `backward`: the autograd engine runs. `recompute`: within it, gradients are on and a checkpoint frame of
        torch.utils.checkpoint is calling; double backward has no such frame and stays `backward`. `optimizer`: inside
        an optimizer's step with gradients off (a closure turns them on). `inference`: a watched module's forward with
        gradients off. `forward`: anything else with gradients on. `other`: the rest.
        """
        if torch._C._current_graph_task_id() != -1:  # noqa: SLF001
            return "recompute" if torch.is_grad_enabled() and _in_checkpoint() else "backward"
        if torch.is_grad_enabled():
            return "forward"
        if self.forward_depth:
            return "inference"
        return "optimizer" if self.in_optimizer else "other"


def is_in_backward() -> bool:
    """Say whether the autograd engine is running on behalf of this thread."""
    return bool(torch._C._current_graph_task_id() != -1)  # noqa: SLF001


def _in_checkpoint() -> bool:
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _CHECKPOINT_FILE and code.co_name in _CHECKPOINT_FRAMES:
            return True
        frame = frame.f_back
    return False
