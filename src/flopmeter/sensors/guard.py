"""The boundary between torch and us: whatever fails on our side stays on our side.

Every method that torch or a framework calls wears `guarded`. Not here: what happens to the failure (`meter.py`).
"""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol


class Guarded(Protocol):
    """An object that wants to hear of its own failures."""

    def on_failure(self, error: Exception) -> None:
        """Record a failure; may raise in strict mode."""


P = ParamSpec("P")


def guarded(method: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """Turn every exception of a method into a call of `on_failure`, so that the user's run goes on."""

    @functools.wraps(method)
    def wrapper(self: Guarded, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # the one place: the run must live
            self.on_failure(error)

    return wrapper
