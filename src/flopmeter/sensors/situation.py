"""What tells passages apart: the situation in which one starts, and the witnesses of what ran in it.

A situation is known when a passage starts, a witness when it has ended. Both are plain hashable values; reading them
runs no operator. Not here: what is decided from them (`replay.py`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch

Situation: TypeAlias = tuple[Any, ...]

_MAX_DEPTH = 4
_sequence_nr = getattr(torch._C._autograd, "_get_sequence_nr", None)  # noqa: SLF001


class Witness(NamedTuple):
    """What was seen of a passage without looking at its operators.

    `nodes` is how many autograd nodes were made; `gradients` whether those of the first and the last parameter
    changed; `ended_by` which boundary closed the passage.
    """

    nodes: int
    gradients: tuple[bool, ...]
    ended_by: str


class WatchedModel:
    """One watched module: its parts, looked up once, and their fingerprint, read at each forward."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Look the parts up."""
        self.module = module
        self.refresh()

    def refresh(self) -> None:
        """Look the parts up again (after layers were added or removed)."""
        self._modules = list(self.module.modules())
        self._parameters = list(self.module.parameters())

    def situation(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Situation:
        """Return the fingerprint of a forward that is about to run."""
        return (
            "forward",
            id(self.module),
            _fingerprint(args, _MAX_DEPTH),
            _fingerprint(kwargs, _MAX_DEPTH),
            tuple([module.training for module in self._modules]),
            tuple([parameter.requires_grad for parameter in self._parameters]),
            tuple([parameter.grad is None for parameter in self._ends()]),
            *ambient(),
        )

    def _ends(self) -> list[torch.nn.Parameter]:
        trainable = [parameter for parameter in self._parameters if parameter.requires_grad]
        return [trainable[0], trainable[-1]] if trainable else []

    def gradient_marks(self) -> tuple[Any, ...]:
        """Return marks of the first and last trainable parameter's gradient that change when a backward reaches them."""
        return tuple(
            [None if p.grad is None else (id(p.grad), p.grad._version) for p in self._ends()]  # noqa: SLF001
        )


def ambient() -> Situation:
    """Return the settings of torch that change what a passage runs."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *(
            (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ()
            for device in ("cpu", "cuda")
        ),
    )


def optimizer_situation(optimizer: torch.optim.Optimizer) -> Situation:
    """Return the fingerprint of an optimizer step that is about to run."""
    groups = []
    for group in optimizer.param_groups:
        flags = tuple(
            [(name, value) for name, value in group.items() if value is None or isinstance(value, bool | str)]
            + [(name, value == 0) for name, value in group.items() if isinstance(value, int | float)]
        )
        groups.append((flags, tuple([_gradient_spec(p) for p in group["params"]])))
    return ("optimizer", id(optimizer), len(optimizer.state), tuple(groups), *ambient())


def count_nodes() -> int:
    """Return torch's running number of autograd nodes made on this thread; 0 where the build does not tell."""
    return int(_sequence_nr()) if _sequence_nr is not None else 0


def _gradient_spec(parameter: torch.Tensor) -> Any:
    gradient = parameter.grad
    return None if gradient is None else (gradient.shape, gradient.dtype, gradient.layout)


def _fingerprint(value: Any, depth: int) -> Any:
    """Return shapes and types of tensors, and plain values as they are, to a few levels of nesting."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.device.type, value.requires_grad)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else "float"
    if depth == 0:
        return type(value).__name__
    if isinstance(value, Mapping):
        return tuple([(str(key), _fingerprint(item, depth - 1)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple([_fingerprint(item, depth - 1) for item in value])
    return type(value).__name__
