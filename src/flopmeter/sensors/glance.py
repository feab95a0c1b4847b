"""What tells at a glance whether a passage begins as another one did, as long as nothing needs to be looked at.

Each function of torch's that is asked takes a microsecond or two where its code is in no cache. So what one of them
tells is not asked of another. Not here: what a passage is told by in full (`situation.py`).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import torch

from flopmeter.sensors.fingerprint import HiddenShapeError, guard_of, is_as_before, lay_out, take_fingerprint
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
        "_ends",
        "_frame",
        "_given",
        "_guard",
        "_has_gradients",
        "_is_clear",
        "_is_odd",
        "_is_old",
        "_is_training",
        "_layout",
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
        self._guard: Callable[..., bool] | None = None
        self._number = 0
        self._layout: Any = None  # of guarded arguments that are more than some tensors
        self._is_odd = False  # that such arguments cannot be guarded

    def holds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], has_gradients: bool) -> bool:  # noqa: FBT001
        """Say whether it does; `has_gradients` is what torch says now."""
        ends = self._ends
        if (
            self.module.training is not self._is_training
            or has_gradients is not self._has_gradients
            or (ends is not None and self._is_clear != (ends[0].grad is None, ends[1].grad is None))
        ):
            return False
        guard = self._guard
        if guard is not None and not _is_autocast():
            if self._layout is None and self._frame is None:  # the usual arguments, at a call less
                if len(args) == self._number and not kwargs and guard(*args):
                    return True
            elif self._is_guarded(guard, args, kwargs):
                return True
        return self._is_alike(args, kwargs)

    def _is_alike(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Say whether torch's settings and the arguments are those of before, without a guard; make one if they are."""
        if self._modes != ambient() or is_transformed():
            return False
        if self._frame is not None:
            if not self._is_of_frame(args, kwargs):
                return False
        elif not is_as_before(self._given, args, kwargs):
            return False
        if not (self._is_odd or _is_autocast()):
            self._set_guard(args, kwargs)
        return True

    def _set_guard(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Guard what is like these; the usual ones, tensors and nothing else, need not be laid out."""
        has_free_sizes = self._frame is not None
        self._guard, self._number, self._layout = guard_of(args, has_free_sizes=has_free_sizes), len(args), None
        if self._guard is None or kwargs:
            self._guard = None
            found: list[Any] = []
            with suppress(HiddenShapeError):
                self._layout = _lay_out(args, kwargs, found, has_free_sizes=has_free_sizes)
                self._guard = guard_of([one for one in found if type(one) is not int], has_free_sizes=has_free_sizes)
            self._is_odd = self._guard is None

    def _is_guarded(self, guard: Callable[..., bool], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Say whether arguments are like the guarded ones, and lie in one another as they did."""
        has_free_sizes = self._frame is not None
        if self._layout is None:
            if len(args) != self._number or kwargs or not guard(*args):
                return False
            if has_free_sizes:
                self.sizes = tuple([size for value in args for size in value.shape])
                self._is_old = True
            return True
        found: list[Any] = []
        try:
            layout = _lay_out(args, kwargs, found, has_free_sizes=has_free_sizes)
        except HiddenShapeError:
            return False
        if layout != self._layout or not guard(*[one for one in found if type(one) is not int]):
            return False
        if has_free_sizes:
            shapes = [one.shape if type(one) is not int else (one,) for one in found]
            self.sizes = tuple(itertools.chain.from_iterable(shapes))
            self._is_old = True
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

        Made anew from `sizes` where only those were kept: then a guard held, and nothing else was new.
        """
        if self._is_old:
            self._given, self._is_old = _resize(self._given, iter(self.sizes)), False
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


def _lay_out(args: tuple[Any, ...], kwargs: Mapping[str, Any], found: list[Any], *, has_free_sizes: bool) -> Parts:
    layout = lay_out(args, found, has_free_sizes=has_free_sizes)
    named = lay_out(kwargs.values(), found, has_free_sizes=has_free_sizes) if kwargs else []
    return (layout, tuple(kwargs), named)


def _resize(given: Any, sizes: Iterator[int]) -> Any:
    """Return fingerprints with these whole numbers in place of their own: what `split_sizes` takes apart."""
    if type(given) is int:
        return next(sizes)
    if not isinstance(given, tuple):
        return given
    parts = [_resize(part, sizes) for part in given]
    return torch.Size(parts) if isinstance(given, torch.Size) else tuple(parts)


def ambient() -> tuple[Any, ...]:
    """Return the settings of torch that change what a passage runs."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
    )
