"""What hangs on a user's module or on torch's optimizers, and how it behaves when the module travels.

Also what keeps Dynamo out of our code. Not here: what a boundary does (`passage.py`).
"""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])
_is_compiling = torch.compiler.is_compiling
_frames = torch._C._dynamo.eval_frame  # noqa: SLF001
CAN_HIDE = all(hasattr(_frames, name) for name in ("set_code_exec_strategy", "_FrameExecStrategy", "_FrameAction"))


class BoundaryHook:
    """A hook on a watched module that never travels: copies and pickles of the module get one that does nothing.

    It passes on to `call`, which may be another one for a while.
    """

    def __init__(self, call: Callable[..., None], on_failure: Callable[[Exception], None]) -> None:
        """Wrap what is to be called; like any hook that is a function, it has a name."""
        self.call = call
        self._on_failure = on_failure
        self.__name__ = getattr(call, "__name__", "boundary")

    def __call__(self, *args: Any) -> None:
        """Pass on, unless a compiler is tracing: then there is nothing to meter, and nothing to trace either.

        What fails goes to `on_failure`, as with `guarded`, at one call less.
        """
        if _is_compiling():
            return
        try:
            self.call(*args)
        except Exception as error:  # noqa: BLE001  # the run must live
            self._on_failure(error)

    def __reduce__(self) -> tuple[Any, ...]:
        """Turn into a standard-library callable that takes anything and returns None."""
        return (getattr, (contextlib.nullcontext(), "__exit__"))


def hide_from_dynamo(function: _Function) -> _Function:
    """Have Dynamo run a function, and all that it calls, as it stands; said once, it costs nothing at each call."""
    if CAN_HIDE:
        skip = _frames._FrameAction.SKIP  # noqa: SLF001
        _frames.set_code_exec_strategy(function.__code__, _frames._FrameExecStrategy(skip, skip))  # noqa: SLF001
    return function
