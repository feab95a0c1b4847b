"""Usage: what the devices spent over an interval, each figure with its basis.

Not here: how it was read (`sensors/nvml.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from flopmeter import wire
from flopmeter.errors import MalformedError
from flopmeter.host import HostUsage

BASES = ("measured", "partial", "missing")
FIGURES = ("busy_ns", "energy_mj", "power_mj", "sm_cycles", "pipes", "throttled")
"""What may be missing for a part of the time that a device was held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsage:
    """What one device spent while this run held it.

    Units: `held_ns` nanoseconds that the run had the device and NVML answered; `unseen_ns` those that it may have had
    it and NVML did not answer, a gap between nothing and all that the device can do; `edge_ns` those between a sample
    that found it free and one that found it held: held time is no more than `held_ns + edge_ns`; `left_ns` those that
    this process had it and left the reading to another of the same run (`holders.py`). `busy_ns` of the held
    ones a kernel ran (NVML's utilisation, read once a second); `energy_mj` millijoules from the device's own counter,
    `power_mj` the same from its power readings, integrated; `sm_cycles` cycles of the SM clock; `pipes` cycles in
    which each pipe was active, mean over the SMs; `throttled` nanoseconds by reason; `least_mw` milliwatts, the lowest
    power that was read. None: it was never measured; `missing` says for how many of the held nanoseconds a figure was
    not, and `note` why. `faults` counts what the driver reported, by name, such as `Xid 79`; none does not mean that
    somebody listened.
    """

    uuid: str
    name: str
    held_ns: int | None = None
    unseen_ns: int = 0
    edge_ns: int = 0
    left_ns: int = 0
    busy_ns: int | None = None
    energy_mj: int | None = None
    power_mj: int | None = None
    sm_cycles: int | None = None
    pipes: Mapping[str, int] | None = None
    throttled: Mapping[str, int] | None = None
    least_mw: int | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def __add__(self, other: object) -> "DeviceUsage":
        """Add two stretches of the same device; for how long a figure is missing adds up, too."""
        if not isinstance(other, DeviceUsage):
            return NotImplemented
        if self.uuid != other.uuid:
            msg = f"usage of {self.uuid} cannot be added to usage of {other.uuid}"
            raise ValueError(msg)
        notes = {note for both in (self.note, other.note) for note in both.split("; ") if note}
        missing = {name: self.lacks(name) + other.lacks(name) for name in FIGURES}
        if self.pipes is not None and other.pipes is not None and set(self.pipes) != set(other.pipes):
            # A pipe that only one of them tells of is not known for all of the time.
            unlike = sum(
                one.held_ns or 0 for one in (self, other) if set(one.pipes or ()) != {*self.pipes, *other.pipes}
            )
            missing["pipes"] = max(missing["pipes"], unlike)
        whole = DeviceUsage(
            uuid=self.uuid,
            name=self.name if self.name != "unknown" else other.name,
            held_ns=None if self.held_ns is None or other.held_ns is None else self.held_ns + other.held_ns,
            unseen_ns=self.unseen_ns + other.unseen_ns,
            edge_ns=self.edge_ns + other.edge_ns,
            left_ns=self.left_ns + other.left_ns,
            busy_ns=_added(self.busy_ns, other.busy_ns),
            energy_mj=_added(self.energy_mj, other.energy_mj),
            power_mj=_added(self.power_mj, other.power_mj),
            sm_cycles=_added(self.sm_cycles, other.sm_cycles),
            pipes=_joined(self.pipes, other.pipes),
            throttled=_joined(self.throttled, other.throttled),
            least_mw=min((mw for mw in (self.least_mw, other.least_mw) if mw is not None), default=None),
            faults=_joined(self.faults, other.faults) or {},
            note="; ".join(sorted(notes)),
        )
        return replace(whole, missing={name: ns for name, ns in missing.items() if ns != whole.lacks(name)})

    def lacks(self, figure: str) -> int:
        """Return for how much of the held time a figure was not measured.

        Units: nanoseconds.
        """
        return self.missing.get(figure, (self.held_ns or 0) if getattr(self, figure) is None else 0)

    @property
    def known_held_ns(self) -> int | None:
        """Return for how long the device was held; None where it never answered while it may have been.

        Units: nanoseconds.
        """
        return None if not self.held_ns and (self.unseen_ns or self.edge_ns) else self.held_ns

    def basis(self, figure: str) -> str:
        """Return how a figure came to be: `measured`, `partial` (not all of the time), or `missing`."""
        if getattr(self, "known_held_ns" if figure == "held_ns" else figure) is None:
            return "missing"
        return "partial" if self.missing.get(figure) or self.unseen_ns else "measured"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the fields as they travel; a missing figure is null."""
        return {
            "uuid": self.uuid,
            "name": self.name,
            "held_ns": wire.print_known(self.held_ns),
            "unseen_ns": wire.print_count(self.unseen_ns),
            "edge_ns": wire.print_count(self.edge_ns),
            **({"left_ns": wire.print_count(self.left_ns)} if self.left_ns else {}),
            "busy_ns": wire.print_known(self.busy_ns),
            "energy_mj": wire.print_known(self.energy_mj),
            "power_mj": wire.print_known(self.power_mj),
            "sm_cycles": wire.print_known(self.sm_cycles),
            "pipes": _print_counts(self.pipes),
            "throttled": _print_counts(self.throttled),
            "least_mw": wire.print_known(self.least_mw),
            "missing": _print_counts(self.missing),
            **({"faults": _print_counts(self.faults)} if self.faults else {}),
            "note": self.note,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return what these fields hold; MalformedError where they do not."""
        fields = wire.parse_object(value, name="device usage")

        def count(name: str) -> int | None:
            return wire.parse_known(fields.get(name), name=name)

        return cls(
            uuid=wire.parse_text(fields.get("uuid"), name="uuid"),
            name=wire.parse_text(fields.get("name"), name="name"),
            held_ns=count("held_ns"),
            unseen_ns=count("unseen_ns") or 0,
            edge_ns=count("edge_ns") or 0,
            left_ns=count("left_ns") or 0,
            busy_ns=count("busy_ns"),
            energy_mj=count("energy_mj"),
            power_mj=count("power_mj"),
            sm_cycles=count("sm_cycles"),
            pipes=_parse_counts(fields.get("pipes"), name="pipes"),
            throttled=_parse_counts(fields.get("throttled"), name="throttled"),
            least_mw=count("least_mw"),
            missing=_parse_missing(fields.get("missing"), held_ns=count("held_ns")),
            faults=_parse_counts(fields.get("faults"), name="faults") or {},
            note=wire.parse_text(fields.get("note"), name="note"),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What all devices spent over an interval, and what could not be measured at all.

    `notes` are plain sentences such as `no NVIDIA driver: …`; they make an empty list of devices say why. `host` is the
    side of the machine itself, None where nobody looked.
    """

    devices: tuple[DeviceUsage, ...] = ()
    notes: tuple[str, ...] = field(default=())
    host: HostUsage | None = None

    @classmethod
    def of(cls, devices: Iterable[DeviceUsage], notes: Iterable[str] = (), *, host: HostUsage | None = None) -> Self:
        """Sum stretches that may share devices."""
        summed: dict[str, DeviceUsage] = {}
        for device in devices:
            held = summed.get(device.uuid)
            summed[device.uuid] = device if held is None else held + device
        return cls(tuple(summed[uuid] for uuid in sorted(summed)), tuple(sorted(set(notes))), host)

    def __add__(self, other: object) -> "Usage":
        """Return the sum over both intervals."""
        if not isinstance(other, Usage):
            return NotImplemented
        hosts = [usage.host for usage in (self, other) if usage.host is not None]
        host = hosts[0] + hosts[1] if len(hosts) == 2 else next(iter(hosts), None)
        return Usage.of((*self.devices, *other.devices), (*self.notes, *other.notes), host=host)

    def total(self, figure: str) -> int | None:
        """Sum one figure over the devices; None where there is no device or one of them lacks it for some of the time.

        Units: those of the figure (`held_ns`, `busy_ns`, `energy_mj`, `power_mj`).
        Basis: `measured` if every device measured it all the time, else `missing`; the parts are in `devices`.
        """
        if not self.devices or any(device.basis(figure) != "measured" for device in self.devices):
            return None
        values: list[int] = [getattr(device, figure) for device in self.devices]
        return sum(values)

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the usage as it travels."""
        host: dict[str, wire.Wire] = {} if self.host is None else {"host": self.host.to_wire()}
        return {"devices": [device.to_wire() for device in self.devices], "notes": list(self.notes), **host}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the usage that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="usage")
        return cls.of(
            (DeviceUsage.from_wire(item) for item in wire.parse_list(fields.get("devices"), name="devices")),
            (wire.parse_text(item, name="note") for item in wire.parse_list(fields.get("notes"), name="notes")),
            host=HostUsage.from_wire(fields["host"]) if "host" in fields else None,
        )


def _added(one: int | None, two: int | None) -> int | None:
    """Add what is known."""
    if one is None or two is None:
        return one if two is None else two
    return one + two


def _joined(one: Mapping[str, int] | None, two: Mapping[str, int] | None) -> Mapping[str, int] | None:
    if one is None or two is None:
        return one if two is None else two
    return {name: one.get(name, 0) + two.get(name, 0) for name in sorted({*one, *two})}


def _print_counts(counts: Mapping[str, int] | None) -> wire.Wire:
    return None if counts is None else {name: wire.print_count(count) for name, count in sorted(counts.items())}


def _parse_counts(value: wire.Wire, *, name: str) -> dict[str, int] | None:
    if value is None:
        return None
    fields = wire.parse_object(value, name=name)
    return {key: wire.parse_count(count, name=f"{name}.{key}") for key, count in fields.items()}


def _parse_missing(value: wire.Wire, *, held_ns: int | None) -> dict[str, int]:
    found = _parse_counts(value, name="missing") or {}
    for name, ns in found.items():
        if name not in FIGURES or (held_ns is not None and ns > held_ns):
            msg = f"missing: {name!r} for {ns} ns, of a device that was held for {held_ns} ns"
            raise MalformedError(msg)
    return found
