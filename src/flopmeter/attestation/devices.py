"""What is said of devices, against itself and against the ledger: time, energy, cycles, and what physics made of them.

A figure that no device can have is refused; a bound here is far above what any does, because a sampler may write what
a driver told it. Not here: what a count may be (`plausibility.py`, `physics.py`), the other figures (`verifier.py`).
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.plausibility import check_physics
from flopmeter.attestation.statement import Statement, own_version
from flopmeter.devices.table import PeakTable
from flopmeter.errors import MismatchError, UnsupportedError
from flopmeter.reconciliation import Reconciliation, unseen_devices
from flopmeter.units import NS_PER_S, print_duration
from flopmeter.usage import DeviceUsage, Usage

Fields = Mapping[str, wire.Wire]

MISSING = ("busyNs", "energyMj")
"""What `missingNs` may name."""
MOST_CYCLES_PER_NS = 10
"""A clock of 10 GHz, which no device has."""
LEAST_NS_PER_MJ = 10
"""A power of 100 kW, which no device draws."""
SLACK_NS = NS_PER_S
"""Counters lag behind the clock by less than that."""
DATES_TIMES, DATES_SLACK_NS = 10, 3600 * NS_PER_S
"""Dates are of wall clocks, which are set back, and lives may overlap: device time may be so much more."""
MOST_PROCESSORS = 4096
"""Of one machine."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def check_devices(devices: Sequence[Fields]) -> None:
    """Check that what each device did fits into the time that it was held, and that each stands there once.

    Raises:
        MismatchError: it does not, or stands there twice.
    """
    uuids = [wire.parse_text(device["uuid"]) for device in devices]
    same = [uuid.casefold() for uuid in uuids]
    for uuid in uuids:
        if same.count(uuid.casefold()) > 1:
            msg = f"usage.devices has {uuid[:40]} {same.count(uuid.casefold())} times"
            raise MismatchError(msg)
    for uuid, device in zip(uuids, devices, strict=True):
        _check_device(uuid[:40], device)


def _check_device(uuid: str, device: Fields) -> None:
    held, busy, energy = (_known(device, name) for name in ("heldNs", "busyNs", "energyMj"))
    missing = wire.parse_object(device.get("missingNs", {}), name="missingNs")
    for name in missing:
        ns = wire.parse_count(missing[name], name=name)
        if name not in MISSING:
            msg = f"missingNs of {uuid} names {name[:40]!r}, not one of {', '.join(MISSING)}"
            raise MismatchError(msg)
        if held is None or ns > held:
            msg = f"{name} of {uuid} is missing for {ns} ns of the {_show(held)} that it was held"
            raise MismatchError(msg)
    for name, value in (("busyNs", busy), ("energyMj", energy)):
        seen = max(0, (held or 0) - (_known(missing, name) or 0))
        if value and (seen == 0 or (name == "busyNs" and value > seen)):
            msg = f"{name} of {uuid} is {value}, more than the {seen} ns in which that was measured"
            raise MismatchError(f"{msg} allow" if name == "energyMj" else msg)
    spans = [_known(device, name) or 0 for name in ("heldNs", "unseenNs", "edgeNs")]
    _check_energy("energyMj", uuid, energy, sum(spans))


def check_usage(usage: Usage) -> None:
    """Check what a ledger alone tells of devices: cycles, power and how long clocks were held down.

    Raises:
        MismatchError: no device does that.
    """
    for device in usage.devices:
        held_ns = device.held_ns or 0
        longest_ns = held_ns + device.unseen_ns + device.edge_ns
        _check_cycles(device, held_ns=held_ns, longest_ns=longest_ns)
        _check_energy("power_mj", device.uuid[:40], device.power_mj, longest_ns)
        for reason, ns in (device.throttled or {}).items():
            if ns > 2 * held_ns + longest_ns - held_ns + SLACK_NS:
                msg = f"{device.uuid[:40]} was held down ({reason[:40]}) for {ns} ns of the {held_ns} that it was held"
                raise MismatchError(msg)


def _check_cycles(device: DeviceUsage, *, held_ns: int, longest_ns: int) -> None:
    # A pipe may have more cycles than the clock was seen to have: that is read at both ends, and counters count.
    told = [("sm_cycles", device.sm_cycles, held_ns)]
    told += [(f"pipes.{name[:40]}", cycles, longest_ns) for name, cycles in (device.pipes or {}).items()]
    for name, cycles, ns in told:
        if cycles is not None and cycles > MOST_CYCLES_PER_NS * (ns + SLACK_NS):
            msg = f"{name} of {device.uuid[:40]} is {cycles} in {ns} ns: no clock is above {MOST_CYCLES_PER_NS} GHz"
            raise MismatchError(msg)


def _check_energy(name: str, uuid: str, energy_mj: int | None, ns: int) -> None:
    if energy_mj is not None and LEAST_NS_PER_MJ * energy_mj > ns + SLACK_NS:
        msg = f"{name} of {uuid} is {energy_mj} in {ns} ns: no device draws 100 kW"
        raise MismatchError(msg)


def find_strange_time(statement: Statement) -> str:
    """Return in words where devices or processors took far more time than lies between the run's dates, else nothing.

    It proves nothing, as dates are those of a wall clock; but a time that nobody bears out bounds nothing either.
    """
    stage, usage = statement.part("stage"), statement.part("usage")
    try:
        dates = [datetime.fromisoformat(wire.parse_text(stage[name])) for name in ("startedOn", "asOf")]
    except ValueError:  # the arithmetic says so
        return ""
    passed = abs(dates[1] - dates[0])
    passed_ns = (passed.days * 86_400 + passed.seconds + 1) * NS_PER_S
    ranks = max(1, wire.parse_count(statement.part("coverage")["ranks"]))  # each may have had the same device
    most_ns = DATES_TIMES * ranks * passed_ns + DATES_SLACK_NS
    told = []
    for device in (wire.parse_object(item) for item in wire.parse_list(usage["devices"])):
        spans = [_known(device, name) or 0 for name in ("heldNs", "unseenNs", "edgeNs")]
        told.append((f"{wire.parse_text(device['uuid'])[:40]} may have been held for", sum(spans), most_ns))
    cpu_ns = _known(wire.parse_object(usage.get("host", {}), name="host"), "cpuNs") or 0
    told.append(("processors took", cpu_ns, most_ns * MOST_PROCESSORS * ranks))
    strange = [f"{words} {print_duration(ns)}" for words, ns, most in told if ns > most]
    if not strange:
        return ""
    return f"{'; '.join(strange)}, and the run's dates lie {print_duration(passed_ns)} apart"


def compare_hardware(statement: Statement, account: Account, *, table: PeakTable | None = None) -> None:
    """Compare the hardware's figures and what physics said to the signer with what the ledger gives.

    Both go by peaks: those that come with flopmeter where the statement names no others, else those of `table`.

    Raises:
        MismatchError: they are others.
        UnsupportedError: it was made with other peaks than `table` has, or differs and was made by another version.
    """
    said = _hardware(statement.part("compute")["methods"])
    inputs = wire.parse_object(said["inputs"])
    named = None if "peaks" not in inputs else sorted(_DIGEST.findall(wire.parse_text(inputs["peaks"])))
    has_devices = bool(account.usage.devices)
    if named is None or not has_devices:
        table = None
    elif named != sorted(file.sha256 for file in (table.files if table is not None else ())):
        msg = "the hardware's figure was made with peaks of a file that was not brought: bring it as --peaks"
        raise UnsupportedError(msg)
    try:
        wanted = Reconciliation.of(account, table=table).hardware.to_wire()
        for name in ("flop", "lower", "upper"):
            _agree(f"{name} of method hardware", said[name], wanted[name])
        given = wire.parse_object(wanted["inputs"])
        for name in sorted({*inputs, *given} - ({"peaks"} if has_devices else set())):
            _agree(f"inputs.{name[:40]} of method hardware", inputs.get(name), given.get(name))
        unseen = [
            {"uuid": one.uuid, "mostFlopPerS": wire.print_known(one.most_flop_per_s)}
            for one in unseen_devices(account, table=table)
        ]
        stated = wire.parse_list(statement.part("coverage").get("devicesNotSeen", []))
        bounded = [{name: wire.parse_object(one).get(name) for name in ("uuid", "mostFlopPerS")} for one in stated]
        _agree("coverage.devicesNotSeen", bounded, unseen)
        _compare_plausibility(statement.predicate.get("plausibility"), account, table)
    except MismatchError as error:
        version = statement.part("meter")["version"]
        if version == own_version():
            raise
        msg = f"{error}; that is no contradiction, because version {_show(version)} made it, and this is another"
        raise UnsupportedError(msg) from error


def _compare_plausibility(value: wire.Wire, account: Account, table: PeakTable | None) -> None:
    wanted = [answer.to_wire() for answer in check_physics(account, table=table)]
    if value is None:
        if wanted:
            msg = "there is no plausibility, though devices were measured"
            raise MismatchError(msg)
        return
    said = [wire.parse_object(item) for item in wire.parse_list(value)]
    _agree("number of answers in plausibility", str(len(said)), str(len(wanted)))
    for one, other in zip(said, wanted, strict=True):
        for name in ("name", "verdict", "numbers"):
            _agree(f"{name} in plausibility of {other['name']}", one.get(name), other[name])


def _hardware(methods: wire.Wire) -> Fields:
    found = [method for item in wire.parse_list(methods) if (method := wire.parse_object(item))["method"] == "hardware"]
    if len(found) != 1:
        msg = f"compute.methods has {len(found)} figures of the hardware, the ledger gives 1"
        raise MismatchError(msg)
    return found[0]


def _agree(name: str, said: wire.Wire, wanted: wire.Wire) -> None:
    if said != wanted:
        msg = f"{name} is {_show(said)}, the ledger gives {_show(wanted)}"
        raise MismatchError(msg)


def _known(fields: Fields, name: str) -> int | None:
    return wire.parse_known(fields.get(name), name=name)


def _show(value: object) -> str:
    return "unknown" if value is None else str(value)[:80]
