"""Faults that the driver reports of a device by itself: Xid errors, and memory errors that no code could correct.

One set of events for each device, because one that fell off the bus spoils the wait for all in a set; asked at each
reading without waiting. What was before a device was registered is lost. Tried with a scripted library only.
Not here: counters of errors and what the driver asks to be done (`device.py`), what an Xid means (NVIDIA's list).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

EVERY_INSTANCE = 2**32 - 1
"""The number that an event bears which is of no single MIG instance."""
BURST = 32
"""So many events are taken at one reading; a storm of them may not hold it up, and the rest waits."""
MOST_NUMBERS = 32
"""So many numbers of Xids are told apart; NVIDIA lists some hundred, and no run has many of them."""
MOST_XID = 9999
OTHER_XIDS = "Xid of other numbers"
DOUBLE_BIT = "double-bit ECC"
REFUSED = "the driver would not report Xid errors"


class FaultWatch:
    """Listens for the faults of one card; `ask` makes a call and returns None where it fails."""

    def __init__(self, library: Any, ask: Callable[..., Any]) -> None:
        """Prepare; nothing is asked yet."""
        self._library = library
        self._ask = ask
        self._events: Any = None
        self._instance: int | None = None
        self._is_refused = False
        self._known: set[str] = set()

    @property
    def is_watching(self) -> bool:
        """Say whether faults would be heard of."""
        return self._events is not None

    def follow(self, card: Any, *, instance: int | None = None) -> None:
        """Listen to this card from now on, and to no other; `instance` is the MIG instance that is meant, if one is.

        Where the driver has no such events, on GeForce or in a virtual machine say, nothing is listened to.
        """
        self.release()
        library = self._library
        kinds = library.nvmlEventTypeXidCriticalError | library.nvmlEventTypeDoubleBitEccError
        has = self._ask(
            "events", lambda: library.nvmlDeviceGetSupportedEventTypes(card), is_noted=False, is_answer=False
        )
        self._instance, self._is_refused = instance, False
        if has is None or not has & kinds:
            return
        self._events = self._ask("events", library.nvmlEventSetCreate, is_noted=False, is_answer=False)

        def register() -> bool:
            library.nvmlDeviceRegisterEvents(card, has & kinds, self._events)
            return True

        if self._events is None or not self._ask("events", register, is_noted=False, is_answer=False):
            self.release()  # after some failures the set is undefined
            self._is_refused = True

    def take(self) -> tuple[Mapping[str, int], set[str]]:
        """Return how often each fault was reported since the last time, and what is to be noted of it."""
        if self._events is None:
            return {}, {REFUSED} if self._is_refused else set()
        found: Counter[str] = Counter()
        self._ask("Xid errors", lambda: self._gather(found), is_answer=False)
        return found, {f"the driver reported {name}" for name in found}

    def release(self) -> None:
        """Give the set back to the driver."""
        events, self._events = self._events, None
        if events is not None:
            self._ask("events", lambda: self._library.nvmlEventSetFree(events), is_noted=False, is_answer=False)

    def _gather(self, found: Counter[str]) -> None:
        library = self._library
        for _ in range(BURST):
            try:
                event = library.nvmlEventSetWait_v2(self._events, 0)
            except library.NVMLError as error:
                if getattr(error, "value", None) == library.NVML_ERROR_TIMEOUT:  # none is there: as most of the time
                    return
                raise
            if self._instance is None or event.gpuInstanceId in {self._instance, EVERY_INSTANCE}:
                found[self._name(event)] += 1

    def _name(self, event: Any) -> str:
        if event.eventType != self._library.nvmlEventTypeXidCriticalError:
            return DOUBLE_BIT
        name = f"Xid {event.eventData}"
        if name not in self._known and (len(self._known) == MOST_NUMBERS or event.eventData > MOST_XID):
            return OTHER_XIDS
        self._known.add(name)
        return name
