"""The boundary between torch and us: whatever fails on our side stays on our side.

Every method that torch or a framework calls wears `guarded`. Not here: what happens to the failure (`meter.py`).
"""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Guarded(Protocol):
    """An object that wants to hear of its own failures."""

    def on_failure(self, error: Exception) -> None:
        """Record a failure; may raise in strict mode."""


P = ParamSpec("P")
S = TypeVar("S", bound=Guarded)


def guarded(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Turn every exception of a method into a call of `on_failure`, so that the user's run goes on."""

    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # the run must live; `hook.py` does the same at one call less
            self.on_failure(error)

    return functools.update_wrapper(wrapper, method)


def words_of(error: Exception) -> str:
    """Return what an error says, in one line, without the semicolon that parts notes."""
    return " ".join(str(error).split()).replace(";", ",") or type(error).__name__
