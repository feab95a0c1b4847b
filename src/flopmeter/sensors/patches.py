"""Patches: functions of others that ours stand in for while somebody meters, and that are put back.

Not here: what the stand-ins do.
"""

import functools
from collections.abc import Callable
from typing import Any

from flopmeter.sensors.hook import hide_from_dynamo

_ABSENT: Any = object()


class Patches:
    """What was put in place of others' functions, by this object."""

    def __init__(self) -> None:
        """Start with none."""
        self._put: list[tuple[Any, str, Any, Any]] = []

    def put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put what `make` makes of an attribute in its place; one that is not there, or is ours already, stays."""
        original = getattr(owner, name, None)
        if original is None or any(original is stand_in for *_, stand_in in self._put):
            return
        stand_in = make(original)
        functools.update_wrapper(stand_in, original)
        # A compiler breaks off at a function that it does not know, and leaves it alone: here as before.
        stand_in.__dict__["_torchdynamo_disable"] = True
        hide_from_dynamo(stand_in)
        self._put.append((owner, name, vars(owner).get(name, _ABSENT), stand_in))
        setattr(owner, name, stand_in)

    def take_back(self) -> None:
        """Put back what was there, unless somebody else has put theirs over ours; twice is fine."""
        while self._put:
            owner, name, before, stand_in = self._put.pop()
            if vars(owner).get(name) is not stand_in:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
