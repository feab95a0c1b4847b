"""Usage: what the devices spent over an interval, each figure with its basis.

Not here: how it was read (`sensors/nvml.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from flopmeter import wire

BASES = ("measured", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsage:
    """What one device spent.

    Units: `held_ns` and `busy_ns` nanoseconds (held: this run had the device; busy: a kernel ran), `energy_mj`
    millijoules from the device's own counter. None means that it was not measured, and `note` says why.
    """

    uuid: str
    name: str
    held_ns: int | None = None
    busy_ns: int | None = None
    energy_mj: int | None = None
    note: str = ""

    def __add__(self, other: object) -> "DeviceUsage":
        """Add two stretches of the same device; a figure missing in either is missing in the sum."""
        if not isinstance(other, DeviceUsage):
            return NotImplemented
        if self.uuid != other.uuid:
            msg = f"usage of {self.uuid} cannot be added to usage of {other.uuid}"
            raise ValueError(msg)
        notes = {note for both in (self.note, other.note) for note in both.split("; ") if note}
        return DeviceUsage(
            uuid=self.uuid,
            name=self.name,
            held_ns=_added(self.held_ns, other.held_ns),
            busy_ns=_added(self.busy_ns, other.busy_ns),
            energy_mj=_added(self.energy_mj, other.energy_mj),
            note="; ".join(sorted(notes)),
        )

    def basis(self, figure: str) -> str:
        """Return how a figure came to be: `measured`, or `missing`."""
        return "missing" if getattr(self, figure) is None else "measured"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel; a missing figure is null."""
        return {
            "uuid": self.uuid,
            "name": self.name,
            "held_ns": wire.print_known(self.held_ns),
            "busy_ns": wire.print_known(self.busy_ns),
            "energy_mj": wire.print_known(self.energy_mj),
            "note": self.note,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="device usage")
        return cls(
            uuid=wire.parse_text(fields.get("uuid"), name="uuid"),
            name=wire.parse_text(fields.get("name"), name="name"),
            held_ns=wire.parse_known(fields.get("held_ns"), name="held_ns"),
            busy_ns=wire.parse_known(fields.get("busy_ns"), name="busy_ns"),
            energy_mj=wire.parse_known(fields.get("energy_mj"), name="energy_mj"),
            note=wire.parse_text(fields.get("note"), name="note"),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What all devices spent over an interval, and what could not be measured at all.

    `notes` are plain sentences such as `no NVIDIA driver: …`; they make an empty list of devices say why.
    """

    devices: tuple[DeviceUsage, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, devices: Iterable[DeviceUsage], notes: Iterable[str] = ()) -> Self:
        """Sum stretches that may share devices."""
        summed: dict[str, DeviceUsage] = {}
        for device in devices:
            held = summed.get(device.uuid)
            summed[device.uuid] = device if held is None else held + device
        return cls(tuple(summed[uuid] for uuid in sorted(summed)), tuple(sorted(set(notes))))

    def __add__(self, other: object) -> "Usage":
        """Return the sum over both intervals."""
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage.of((*self.devices, *other.devices), (*self.notes, *other.notes))

    def total(self, figure: str) -> int | None:
        """Sum one figure over the devices; None where there is no device or one of them lacks it.

        Units: those of the figure (`held_ns`, `busy_ns`, `energy_mj`).
        Basis: `measured` if every device measured it, else `missing`.
        """
        values = [getattr(device, figure) for device in self.devices]
        return sum(values) if values and None not in values else None

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the usage as it travels."""
        return {"devices": [device.to_wire() for device in self.devices], "notes": list(self.notes)}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the usage that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="usage")
        return cls.of(
            (DeviceUsage.from_wire(item) for item in wire.parse_list(fields.get("devices"), name="devices")),
            (wire.parse_text(item, name="note") for item in wire.parse_list(fields.get("notes"), name="notes")),
        )


def _added(one: int | None, two: int | None) -> int | None:
    return None if one is None or two is None else one + two
