"""Which phase an operator call belongs to: forward, backward, recompute, optimizer, inference or other.

Read from torch's own state at the moment of the call; no module hook is needed for it.
Not here: purposes, which people declare.
"""

import re
import sys
from types import FrameType

import torch

from flopmeter.sensors.graph_text import RESTORED

_CHECKPOINT, _AUTOGRAD, _ENGINE = (
    module.__file__ for module in (torch.utils.checkpoint, torch.autograd, torch.autograd.graph)
)
_TELLING_FRAMES = {
    **{(_CHECKPOINT, name): "recompute" for name in ("recompute_fn", "unpack_hook", "backward")},
    **{(_AUTOGRAD, name): "backward" for name in ("backward", "grad")},
    (_ENGINE, "_engine_run_backward"): "backward",
}
"""Functions of torch that tell, while a backward runs, what is done on their behalf: file and name.

A checkpoint computes again below its own frame; what the engine does for it later is below the engine's.
"""
_PIPELINE = "torch.distributed.pipelining._backward"
_GRAPH_CODE = "<eval_with_key>"
"""What torch calls the file of code that it writes out of a graph."""
MAX_GRAPHS = 256
_NAMED = re.compile(r"\s+(\w+)\b[^=]* = ")
_repeated: dict[str, frozenset[int]] = {}
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001
_has_gradients = torch.is_grad_enabled


class PhaseTracker:
    """Knows whether an optimizer steps and which watched forwards run; torch knows the rest."""

    def __init__(self) -> None:
        """Start outside of everything.

        `forwards` are those of watched modules that run, one inside the other; `optimizer_task` is that of autograd's
        tasks in which an optimizer steps, -1 where it steps outside of all, None where none does.
        """
        self.forwards: list[bool] = []
        self.optimizer_task: int | None = None

    def enter_forward(self) -> None:
        """A watched module's forward begins; what runs in it belongs to the phase that gradients say now."""
        self.forwards.append(torch.is_grad_enabled())

    def leave_forward(self) -> None:
        """A watched module's forward has ended."""
        if self.forwards:
            self.forwards.pop()

    def leave_forwards(self) -> None:
        """No forward can be running here: forget those that an interrupt cut off before their end was seen."""
        self.forwards.clear()

    def enter_optimizer(self) -> None:
        """An optimizer's step begins, inside a backward or outside."""
        self.optimizer_task = torch._C._current_graph_task_id()  # noqa: SLF001

    def leave_optimizer(self) -> None:
        """An optimizer's step has ended."""
        self.optimizer_task = None

    def now(self) -> str:
        """Return the phase of an operator called now on this thread.

        `optimizer`: inside an optimizer's step with gradients off (a closure turns them on). `recompute`: the autograd
        engine runs, and of all the callers that tell, a checkpoint of torch.utils.checkpoint is nearest. `backward`:
        the engine runs, and none is nearer; double backward too. `forward`: gradients are on, or were when the watched
        forward began (torch turns them off inside a custom autograd function, and users inside a forward), or a custom
        autograd function runs outside of a forward. `inference`: a watched forward that began with gradients off.
        `other`: the rest.
        """
        task = _graph_task()
        has_gradients = _has_gradients()
        if self.optimizer_task == task and not has_gradients and not self.forwards:
            return "optimizer"
        if task != -1:
            return _phase_in_backward()
        if has_gradients:
            return "forward" if _PIPELINE not in sys.modules else _phase_in_pipeline()
        if self.forwards:
            return "forward" if self.forwards[-1] else "inference"
        # Only the forward of a custom autograd function turns both kinds of gradients off without inference mode.
        is_function = not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled()  # noqa: SLF001
        return "forward" if is_function else "other"


def _phase_in_pipeline() -> str:
    """Return `backward` for gradients that a zero-bubble pipeline adds up itself, outside of the engine."""
    file = sys.modules[_PIPELINE].__file__
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        if frame.f_code.co_filename == file:
            return "backward"
        frame = frame.f_back
    return "forward"


def _phase_in_backward() -> str:
    """Return which part of a backward the nearest caller that tells is at; on a thread of the engine's none may tell.

    Code of a graph tells by the line it is at.

    The search begins where the hook was called from: most operators of a backward are called by the engine itself, and
    to look at the frames of our own functions would cost more than all the rest.
    """
    try:
        frame: FrameType | None = sys._getframe(3)  # noqa: SLF001
    except ValueError:  # a thread of the engine's, where nobody calls
        return "backward"
    while frame is not None:
        code = frame.f_code
        phase = _TELLING_FRAMES.get((code.co_filename, code.co_name))
        if phase is not None:
            return phase
        if code.co_name == "forward" and code.co_filename.startswith(_GRAPH_CODE):
            return "recompute" if frame.f_lineno in _find_repeated(frame) else "backward"
        frame = frame.f_back
    return "backward"


def _find_repeated(frame: FrameType) -> frozenset[int]:
    """Return the lines of a backward graph's code that its partitioner took over from the forward.

    Torch keeps with each node where it came from. A graph without any of the backward's own is none.
    """
    code = frame.f_code
    if code.co_filename in _repeated:
        return _repeated[code.co_filename]
    module, lines = frame.f_locals.get("self"), frozenset[int]()
    if isinstance(module, torch.fx.GraphModule):
        tags = {
            node.name: node.meta.get("partitioner_tag") for node in module.graph.nodes if node.op == "call_function"
        }
        text = (
            module.code[max(0, module.code.find("def forward")) :].splitlines()
            if "is_backward" in tags.values()
            else []
        )
        named = [(number, found[1]) for number, line in enumerate(text) if (found := _NAMED.match(line))]
        again = {name for name, tag in tags.items() if tag == "is_forward" or RESTORED in name}
        lines = frozenset(code.co_firstlineno + number for number, name in named if name in again)
    if len(_repeated) >= MAX_GRAPHS:
        _repeated.clear()
    _repeated[code.co_filename] = lines
    return lines
