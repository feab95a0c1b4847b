"""What tells at a glance whether a passage begins as another one did, as long as nothing needs to be looked at.

Each function of torch's that is asked takes a microsecond or two where its code is in no cache. So what one of them
tells is not asked of another. Not here: what a passage is told by in full (`situation.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from flopmeter.sensors.fingerprint import HiddenShapeError, guard_of, is_as_before, take_fingerprint
from flopmeter.sensors.kinship import split_sizes

Parts: TypeAlias = tuple[Any, ...]

is_transformed: Callable[[], bool] = getattr(
    torch._C,  # noqa: SLF001
    "_are_functorch_transforms_active",
    lambda: torch._C._functorch.peek_interpreter_stack() is not None,  # noqa: SLF001
)
"""Looks at flags. Whoever asks for the stack of transforms instead makes torch keep one for this thread, and copy it
for each node of each backward from then on.
"""
_is_autocast = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)  # noqa: SLF001


class ModelGlance:
    """What tells whether a forward begins as another one did; where sizes are free, `sizes` are the last one's."""

    __slots__ = (
        "_args",
        "_ends",
        "_frame",
        "_given",
        "_has_gradients",
        "_is_clear",
        "_is_old",
        "_is_training",
        "_modes",
        "_number",
        "module",
        "sizes",
    )

    def __init__(
        self,
        module: torch.nn.Module,
        ends: Sequence[torch.Tensor],
        situation: Parts,
        given: Any,
        *,
        is_training: bool,
        has_free_sizes: bool,
    ) -> None:
        """Expect what a situation of this model says."""
        self.module = module
        self._given = given
        self._is_old = False  # that what is kept is of other sizes than the last one's
        self.sizes: tuple[int, ...] = ()
        self._frame: Any = None
        if has_free_sizes:
            self._frame, self.sizes = split_sizes(given)
        self._is_training = is_training
        self._ends = (ends[0], ends[-1]) if ends else None
        *_, self._is_clear, self._modes = situation
        self._has_gradients = self._modes[0]
        self._args: Callable[..., bool] | None = None
        self._number = 0

    def holds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], has_gradients: bool) -> bool:  # noqa: FBT001
        """Say whether it does; `has_gradients` is what torch says now."""
        ends, guard = self._ends, self._args
        if (
            self.module.training is not self._is_training
            or has_gradients is not self._has_gradients
            or (ends is not None and self._is_clear != (ends[0].grad is None, ends[1].grad is None))
        ):
            return False
        if guard is not None and len(args) == self._number and not (kwargs or _is_autocast()) and guard(*args):
            if self._frame is not None:
                self.sizes = tuple([size for value in args for size in value.shape])
                self._is_old = True
            return True
        if self._modes != ambient() or is_transformed():
            return False
        if self._frame is not None:
            if not self._is_of_frame(args, kwargs):
                return False
        elif not is_as_before(self._given, args, kwargs):
            return False
        if not _is_autocast():
            has_free_sizes = self._frame is not None
            self._args, self._number = guard_of(args, kwargs, has_free_sizes=has_free_sizes), len(args)
        return True

    def _is_of_frame(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Say whether arguments are the same but for their sizes."""
        try:
            given = (take_fingerprint(args), take_fingerprint(kwargs))
        except HiddenShapeError:
            return False
        frame, sizes = split_sizes(given)
        if frame != self._frame:
            return False
        self.take(given, sizes)
        return True

    def take(self, given: Any, sizes: tuple[int, ...]) -> None:
        """Take it that the last one that is like this was given that."""
        self._given, self._is_old, self.sizes = given, False, sizes

    @property
    def given(self) -> Any:
        """The fingerprints of the last arguments that were found to be like these.

        Made anew from `sizes` where only those were kept: then a guard held, so all arguments were plain tensors.
        """
        if self._is_old:
            sizes, (args, kwargs) = iter(self.sizes), self._given
            args = tuple([(torch.Size([next(sizes) for _ in shape]), *rest) for shape, *rest in args])
            self._given, self._is_old = (args, kwargs), False
        return self._given


class OptimizerGlance:
    """What tells whether an optimizer's step begins as another one did.

    Modes are left out: an optimizer sets those that it steps in.
    """

    __slots__ = ("_ends", "_is_clear", "_size", "_state", "optimizer")

    def __init__(self, optimizer: torch.optim.Optimizer, ends: Sequence[torch.Tensor], situation: Parts) -> None:
        """Expect what a situation of this optimizer says."""
        self.optimizer = optimizer
        self._state = optimizer.state
        self._ends = (ends[0], ends[-1]) if ends else None
        *_, self._is_clear, self._size, _, _ = situation

    def holds(self) -> bool:
        """Say whether it does."""
        ends = self._ends
        return (
            (ends is None or self._is_clear == (ends[0].grad is None, ends[1].grad is None))
            and len(self._state) == self._size
            and self.optimizer.state is self._state
        )


def ambient() -> tuple[Any, ...]:
    """Return the settings of torch that change what a passage runs."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
    )
