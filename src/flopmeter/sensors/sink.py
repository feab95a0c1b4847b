"""What the meter offers the sensors. Not here: what it does with it (`meter.py`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flopmeter.sensors.kinship import Booking, Verdict
    from flopmeter.wire import Wire

INTERRUPTED = "an interrupt, or a failure of the meter's own, kept passages that had ended from the books"
UNKNOWN = "a passage was neither counted nor known: it was new, and counting it was beyond the overhead budget"


class PassageSink(Protocol):
    """What the meter offers the sensor."""

    def passages_ran(self, booking: "Booking") -> None:
        """Take passages that ran."""

    def passage_audited(self, verdict: "Verdict") -> None:
        """Hear of a passage that was counted by chance, or that showed others to be wrong."""

    def passages_doubted(self, table: str | None, *, family: str | None) -> None:
        """Hear that passages were booked at a table, or as one of a family, that may not have been theirs."""

    def passage_lost(self, *, reason: str, ns: int | None) -> None:
        """Take note of a passage whose work is not known."""

    def rank_placed(self, fields: Mapping[str, "Wire"]) -> None:
        """Hear where this rank stands in the grid of the run."""

    def optimizer_steps(self, optimizer_id: int) -> None:
        """Hear that an optimizer is about to step."""

    def sensor_failed(self, error: Exception, *, ns: int | None = None) -> None:
        """Hear of a failure of ours, and how long it hid the work at most; may raise in strict mode."""


@contextmanager
def owning_up(sink: PassageSink, ns: int) -> Iterator[None]:
    """Book passages that ended within so many nanoseconds: cut short, what may be lost of them is a gap of as many."""
    try:
        yield
    except BaseException:
        sink.passage_lost(reason=INTERRUPTED, ns=ns)
        raise
