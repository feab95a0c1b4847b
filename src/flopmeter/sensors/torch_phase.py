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
    """Knows whether an optimizer steps and which watched forwards run; torch knows the rest."""

    def __init__(self) -> None:
        """Start outside of everything."""
        self._forwards: list[bool] = []
        self._optimizer_task: int | None = None

    @property
    def forward_depth(self) -> int:
        """How many forwards of watched modules are running, one inside the other."""
        return len(self._forwards)

    def enter_forward(self) -> None:
        """A watched module's forward begins; what runs in it belongs to the phase that gradients say now."""
        self._forwards.append(torch.is_grad_enabled())

    def leave_forward(self) -> None:
        """A watched module's forward has ended."""
        if self._forwards:
            self._forwards.pop()

    def leave_forwards(self) -> None:
        """No forward can be running here: forget those that an interrupt cut off before their end was seen."""
        self._forwards.clear()

    def enter_optimizer(self) -> None:
        """An optimizer's step begins, inside a backward or outside."""
        self._optimizer_task = torch._C._current_graph_task_id()  # noqa: SLF001

    def leave_optimizer(self) -> None:
        """An optimizer's step has ended."""
        self._optimizer_task = None

    def now(self) -> str:
        """Return the phase of an operator called now on this thread.

        `optimizer`: inside an optimizer's step with gradients off (a closure turns them on). `backward`: the autograd
        engine runs. `recompute`: within it, gradients are on and a checkpoint frame of torch.utils.checkpoint is
        calling; double backward has no such frame and stays `backward`. `forward`: gradients are on, or were when the
        watched forward began (torch turns them off inside a custom autograd function, and users inside a forward), or
        a custom autograd function runs outside of a forward. `inference`: a watched forward that began with gradients
        off. `other`: the rest.
        """
        task = torch._C._current_graph_task_id()  # noqa: SLF001
        has_gradients = torch.is_grad_enabled()
        if self._optimizer_task == task and not has_gradients and not self._forwards:
            return "optimizer"
        if task != -1:
            return "recompute" if has_gradients and _in_checkpoint() else "backward"
        if has_gradients:
            return "forward"
        if self._forwards:
            return "forward" if self._forwards[-1] else "inference"
        # Only the forward of a custom autograd function turns both kinds of gradients off without inference mode.
        is_function = not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled()  # noqa: SLF001
        return "forward" if is_function else "other"


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
