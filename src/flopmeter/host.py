"""HostUsage: what the processor and memory of a rank's machine were used for by its own processes.

Not here: how it was read (`sensors/host.py`), and the devices (`usage.py`).
"""

from dataclasses import dataclass
from typing import Self

from flopmeter import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUsage:
    """What one process and its children used.

    Units: `cpu_ns` nanoseconds of processor time, `peak_bytes` bytes resident at the reading that saw most of them,
    `cores` those that the process may run on. None means that it was not measured, and `note` says why.
    """

    cpu_ns: int | None = None
    peak_bytes: int | None = None
    cores: int | None = None
    note: str = ""

    def __add__(self, other: object) -> "HostUsage":
        """Add two stretches of the same process: times add up, of the rest the larger stands; missing stays missing."""
        if not isinstance(other, HostUsage):
            return NotImplemented
        notes = {note for both in (self.note, other.note) for note in both.split("; ") if note}
        return HostUsage(
            cpu_ns=None if self.cpu_ns is None or other.cpu_ns is None else self.cpu_ns + other.cpu_ns,
            peak_bytes=_larger(self.peak_bytes, other.peak_bytes),
            cores=_larger(self.cores, other.cores),
            note="; ".join(sorted(notes)),
        )

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel; a missing figure is null."""
        return {
            "cpu_ns": wire.print_known(self.cpu_ns),
            "peak_bytes": wire.print_known(self.peak_bytes),
            "cores": wire.print_known(self.cores),
            "note": self.note,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="host usage")
        return cls(
            cpu_ns=wire.parse_known(fields.get("cpu_ns"), name="cpu_ns"),
            peak_bytes=wire.parse_known(fields.get("peak_bytes"), name="peak_bytes"),
            cores=wire.parse_known(fields.get("cores"), name="cores"),
            note=wire.parse_text(fields.get("note"), name="note"),
        )


def _larger(one: int | None, two: int | None) -> int | None:
    return None if one is None or two is None else max(one, two)
