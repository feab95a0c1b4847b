"""What the devices spent, as a person reads it: a table, and a sentence for whatever is not whole.

Not here: figures; every number is one of `usage.py`, only lined up.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flopmeter.attestation.plausibility import Plausibility
from flopmeter.host import HostUsage
from flopmeter.units import J_PER_KWH, MJ_PER_J, NS_PER_S, print_energy, print_ratio
from flopmeter.usage import DeviceUsage, Usage

MIB = 2**20
NS_PER_HOUR = 3600 * NS_PER_S
DIFFER_PERCENT, DIFFER_NS = 5, 60 * NS_PER_S
"""Energy by the counter and by the power readings are compared over a minute or longer; more apart is said.

Source: the two agree within 1 % over long windows where both are sound (ml-energy/zeus issue 12).
"""
WORDS = {
    "busy_ns": "utilisation",
    "energy_mj": "energy",
    "power_mj": "power",
    "sm_cycles": "the SM clock",
    "pipes": "pipe activity",
    "throttled": "throttling",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What all devices were held, not seen, busy and fed; each the sum of what is known, None where nothing is.

    Units: GPU-hours and kWh; `partial` has by figure how many devices lack it for some or all of the time.
    """

    devices: int
    held_gpu_hours: float | None
    not_seen_gpu_hours: float
    busy_gpu_hours: float | None
    energy_kwh: float | None
    partial: Mapping[str, int]

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Add up what is known."""
        figures = ("held_ns", "busy_ns", "energy_mj")
        held, busy, energy = (
            [value for device in usage.devices if (value := _known(device, figure)) is not None] for figure in figures
        )
        return cls(
            devices=len(usage.devices),
            held_gpu_hours=sum(held) / NS_PER_HOUR if held else None,
            not_seen_gpu_hours=sum(device.unseen_ns for device in usage.devices) / NS_PER_HOUR,
            busy_gpu_hours=sum(busy) / NS_PER_HOUR if busy else None,
            energy_kwh=sum(energy) / (MJ_PER_J * J_PER_KWH) if energy else None,
            partial={name: sum(one.basis(name) != "measured" for one in usage.devices) for name in figures},
        )

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Return the cells of the table's last row, marked where a device lacks some of it."""
        marks = {name: "+" if number else "" for name, number in self.partial.items()}
        return (
            _three(self.held_gpu_hours),
            _three(self.not_seen_gpu_hours or None, unknown=""),
            _three(self.busy_gpu_hours, mark=marks["busy_ns"]),
            _three(self.energy_kwh, mark=marks["energy_mj"]),
        )

    def to_wire(self) -> dict[str, object]:
        """Return it as `report --json` has it."""
        return {
            "devices": str(self.devices),
            "held_gpu_hours": self.held_gpu_hours,
            "not_seen_gpu_hours": self.not_seen_gpu_hours,
            "busy_gpu_hours": self.busy_gpu_hours,
            "energy_kwh": self.energy_kwh,
            "partial": {name: str(number) for name, number in self.partial.items()},
        }


def render_usage(usage: Usage, *, ranks: int = 1) -> Iterator[RenderableType]:
    """Yield what a terminal shows of the devices, where there are none, why, and of the host."""
    yield Text()
    if usage.notes:
        notes = strip_controls("; ".join(usage.notes))
        yield Text(f"NVIDIA devices: {notes}; device time and energy are unknown, not zero")
    if usage.host is not None:
        yield Text(f"host: {strip_controls(describe_host(usage.host, is_all=not usage.devices, ranks=ranks))}")
    if not usage.devices:
        return
    # Narrow enough for a line of 80 to each device: its padding, and no `GPU-` before what tells two cards apart.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("device", overflow="fold")
    for title in ("held", "not seen", "busy", "energy", "SM MHz", "tensor"):
        table.add_column(title, justify="right")
    rows = [tuple(_figures(device)) for device in usage.devices]
    for device, row in zip(usage.devices, rows, strict=True):
        name = f"{device.name.removeprefix('NVIDIA ')} {device.uuid.removeprefix('GPU-').removeprefix('MIG-')[:8]}"
        table.add_row(Text(strip_controls(name)), *row)  # not markup, whatever it says
    total = Total.of(usage)
    table.add_row(f"all {total.devices}: GPU-hours, kWh", *total.words, "", "", style="bold")
    yield table
    if any("+" in cell for cell in (*total.words, *(cell for row in rows for cell in row))):
        some = [
            f"{WORDS[figure]} of {number}" for figure, number in total.partial.items() if number and figure in WORDS
        ]
        which = (
            f" (of {total.devices} {'device' if total.devices == 1 else 'devices'}: {', '.join(some)})" if some else ""
        )
        yield Text(
            f"+ not for all of the time{which}: a sum is at least that, a share is of the time that was measured"
        )
    for device in usage.devices:
        yield from (Text(strip_controls(f"{device.uuid[:12]}: {sentence}")) for sentence in describe_device(device))


def render_namers(usage: Usage, identities: Mapping[str, Mapping[str, str]]) -> Iterator[RenderableType]:
    """Yield a sentence where devices are there because somebody named them; `identities` are the ledger's, by UUID."""
    named: dict[str, list[str]] = {}
    for device in usage.devices:
        namer = identities.get(device.uuid, {}).get("named_by", "torch")
        if namer != "torch":
            named.setdefault(namer, []).append(device.uuid)
    for namer, uuids in named.items():
        which = "all of them" if len(uuids) == len(usage.devices) else ", ".join(uuid[:12] for uuid in uuids)
        yield Text(strip_controls(f"devices named by {namer}, whether the run used them or not: {which}"))


def render_physics(answers: Iterable[Plausibility]) -> Iterator[RenderableType]:
    """Yield what physics says of the count: impossible in red."""
    joined: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        joined.setdefault((answer.verdict, answer.detail), []).append(answer.name)
    for (verdict, detail), names in joined.items():
        yield Text(strip_controls(f"physics, {' and '.join(names)}: {detail}"), style="red" if verdict == "no" else "")


def describe_host(host: HostUsage, *, is_all: bool, ranks: int = 1) -> str:
    """Return the host's side in a sentence; `is_all` says that nothing else of the hardware was measured.

    Processor time is that of all ranks together, memory that of the rank that had most.
    """
    if host.cpu_ns is None:
        return f"processor time and memory are unknown: {host.note or 'nobody read them'}"
    cores = "" if host.cores is None else f" on {host.cores} {'core' if host.cores == 1 else 'cores'}"
    memory = (
        "memory unknown"
        if host.peak_bytes is None
        else f"at most {host.peak_bytes / MIB:,.0f} MiB of memory{' in one rank' if ranks > 1 else ''}"
    )
    spent = _seconds(host.cpu_ns) if host.cpu_ns else "less than 0.01 s"  # of the system's own ticks
    said = f"{spent} of processor time{cores}, {memory}"
    note = f" ({host.note})" if host.note else ""
    return f"{said}{note}{'; that is all that was measured of the hardware' if is_all else ''}"


def describe_device(device: DeviceUsage) -> Iterator[str]:
    """Yield a sentence for each thing about a device that its row does not tell."""
    yield from (note for note in device.note.split("; ") if note)
    if device.unseen_ns:
        yield f"of {_seconds(device.unseen_ns)} nothing is known: it may have done nothing, or all that it can"
    for figure, ns in device.missing.items():
        if getattr(device, figure) is None:
            continue  # its row says unknown
        yield f"{WORDS.get(figure, figure)} was not measured for {_seconds(ns)} of the time held"
    if device.throttled:
        said = ", ".join(f"{name} {_seconds(ns)}" for name, ns in device.throttled.items())
        yield f"its clock was held down: {said}"
    energy, power = device.energy_mj, device.power_mj
    if energy is None or power is None or device.missing.get("energy_mj") or device.missing.get("power_mj"):
        return
    if (device.held_ns or 0) >= DIFFER_NS and 100 * abs(energy - power) > DIFFER_PERCENT * max(energy, power):
        yield f"its power readings add up to {print_energy(power)}, its energy counter says {print_energy(energy)}"


def strip_controls(text: str) -> str:
    """Leave out what could move a reader's cursor."""
    return "".join(filter(str.isprintable, text))


def _figures(device: DeviceUsage) -> Iterable[str]:
    held_ns = device.held_ns or 0
    clocked_ns = held_ns - device.lacks("sm_cycles")
    tensor = None if device.pipes is None else device.pipes.get("tensor")
    mhz = f"{1000 * device.sm_cycles / clocked_ns:,.0f}" if device.sm_cycles and clocked_ns else "unknown"
    return (
        "unknown" if device.known_held_ns is None else _seconds(held_ns),
        _seconds(device.unseen_ns) if device.unseen_ns else "",
        _marked(_share(device.busy_ns, held_ns - device.lacks("busy_ns")), device, "busy_ns"),
        _marked(print_energy(device.energy_mj), device, "energy_mj"),
        _marked(mhz, device, "sm_cycles"),
        _marked(_share(tensor, device.sm_cycles), device, "pipes"),
    )


def _marked(text: str, device: DeviceUsage, figure: str) -> str:
    return text + ("+" if device.basis(figure) == "partial" and text != "unknown" else "")


def _known(device: DeviceUsage, figure: str) -> int | None:
    value: int | None = getattr(device, "known_held_ns" if figure == "held_ns" else figure)
    return value


def _three(value: float | None, *, mark: str = "", unknown: str = "unknown") -> str:
    return unknown if value is None else f"{value:,.3g}{mark}" if value < 1000 else f"{value:,.0f}{mark}"


def _seconds(ns: int) -> str:
    return f"{ns / NS_PER_S:,.0f} s" if ns >= 100 * NS_PER_S else f"{ns / NS_PER_S:.3g} s"


def _share(part: int | None, whole: int | None) -> str:
    return "unknown" if part is None or not whole else print_ratio(part / whole)
