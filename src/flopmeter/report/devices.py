"""What the devices spent, as a person reads it: a table, and a sentence for whatever is not whole.

Not here: figures; every number is one of `usage.py`, only lined up.
"""

from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flopmeter.attestation.plausibility import Plausibility
from flopmeter.units import MJ_PER_J, NS_PER_S, print_ratio
from flopmeter.usage import DeviceUsage, Usage

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


def render_usage(usage: Usage) -> Iterator[RenderableType]:
    """Yield what a terminal shows of the devices; where there are none, why."""
    yield Text()
    for note in usage.notes:
        yield Text(f"NVIDIA devices: {note}; device time and energy are unknown, not zero")
    if not usage.devices:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column("device", overflow="fold")
    for title in ("held", "not seen", "busy", "energy", "SM clock", "tensor"):
        table.add_column(title, justify="right")
    for device in usage.devices:
        name = f"{device.name.removeprefix('NVIDIA ')} {device.uuid[:12]}"
        table.add_row(Text("".join(filter(str.isprintable, name))), *_figures(device))  # not markup, whatever it says
    yield table
    for device in usage.devices:
        yield from (Text(f"{device.uuid[:12]}: {sentence}") for sentence in describe_device(device))


def render_physics(answers: Iterable[Plausibility]) -> Iterator[RenderableType]:
    """Yield what physics says of the count: impossible in red."""
    for answer in answers:
        yield Text(f"physics, {answer.name}: {answer.detail}", style="red" if answer.verdict == "no" else "")


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
        yield f"its power readings add up to {_joules(power)}, its energy counter says {_joules(energy)}"


def _figures(device: DeviceUsage) -> Iterable[str]:
    held_ns = device.held_ns or 0
    clocked_ns = held_ns - device.lacks("sm_cycles")
    tensor = None if device.pipes is None else device.pipes.get("tensor")
    energy = "unknown" if device.energy_mj is None else _joules(device.energy_mj)
    return (
        "unknown" if device.held_ns is None else _seconds(held_ns),
        _seconds(device.unseen_ns) if device.unseen_ns else "",
        _share(device.busy_ns, held_ns - device.lacks("busy_ns")),
        energy + ("+" if device.basis("energy_mj") == "partial" else ""),
        f"{1000 * device.sm_cycles / clocked_ns:,.0f} MHz" if device.sm_cycles and clocked_ns else "unknown",
        _share(tensor, device.sm_cycles),
    )


def _seconds(ns: int) -> str:
    return f"{ns / NS_PER_S:,.0f} s" if ns >= 100 * NS_PER_S else f"{ns / NS_PER_S:.3g} s"


def _joules(mj: int) -> str:
    return f"{mj // MJ_PER_J:,}.{mj % MJ_PER_J:03d} J"


def _share(part: int | None, whole: int | None) -> str:
    return "unknown" if part is None or not whole else print_ratio(part / whole)
