"""The predicate of training compute, v0.1: its fields, and how an account fills them.

`docs/spec/predicate-v0.1.md` is the normative text. Every quantity is a decimal string; unknown is null, never zero.
Fields that this version does not know are kept and not judged.
Not here: the envelope around it (`statement.py`), and whether its figures agree (`arithmetic.py`).
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.devices.table import PeakTable
from flopmeter.errors import MalformedError
from flopmeter.formulas.book import CONVENTION
from flopmeter.ledger.merge import RunLedger
from flopmeter.reconciliation import Reconciliation, unseen_devices
from flopmeter.usage import DeviceUsage

PREDICATE_TYPE = "https://flopmeter.dev/training-compute/v0.1"
SPEC_VERSION = "0.1.0"
REASONS = ("run-start", "heartbeat", "threshold-near", "threshold-crossed", "checkpoint", "run-end", "correction")
STATUSES = ("running", "finished", "interrupted")
RELATIONS = ("below", "near", "atOrAbove", "unknown")
BOUNDS = ("flop", "lower", "upper")
FIGURES = (*BOUNDS, "flop+intOp")
"""What a threshold may be held against; the last is for rules that count integer operations too."""
SPLITS = ("phase", "kind", "precision", "purpose", "basis")

Shape: TypeAlias = "Callable[[wire.Wire, str], object] | dict[str, Shape] | list[Shape]"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z\Z")
_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\Z")


def _text(value: wire.Wire, name: str) -> str:
    return wire.parse_text(value, name=name)


def _count(value: wire.Wire, name: str) -> int:
    return wire.parse_count(value, name=name)


def _digest(value: wire.Wire, name: str) -> str:
    return wire.parse_digest(value, name=name)


def _date(value: wire.Wire, name: str) -> str:
    return _matching(value, _DATE, name, "a date in UTC such as 2026-11-22T09:00:00Z")


def _version(value: wire.Wire, name: str) -> str:
    return _matching(value, _VERSION, name, "a version such as 0.1.0")


def _matching(value: wire.Wire, pattern: re.Pattern[str], name: str, wanted: str) -> str:
    text = wire.parse_text(value, name=name)
    if not pattern.match(text):
        msg = f"{name} is {text[:60]!r}, not {wanted}"
        raise MalformedError(msg)
    return text


def _one_of(*known: str) -> Shape:
    def check(value: wire.Wire, name: str) -> None:
        if value not in known:
            msg = f"{name} is {str(value)[:60]!r}, not one of {', '.join(known)}"
            raise MalformedError(msg)

    return check


def _or_null(shape: Shape) -> Shape:
    def check(value: wire.Wire, name: str) -> None:
        if value is not None:
            check_shape(value, shape, name)

    return check


def _map_of(shape: Shape) -> Shape:
    def check(value: wire.Wire, name: str) -> None:
        for key, inner in wire.parse_object(value, name=name).items():
            check_shape(inner, shape, f"{name}.{key}")

    return check


_INTERVAL: dict[str, Shape] = {"flop": _or_null(_count), "lower": _or_null(_count), "upper": _or_null(_count)}
_DEVICE_TIME: dict[str, Shape] = {
    "heldNs": _or_null(_count),
    "busyNs": _or_null(_count),
    "energyMj": _or_null(_count),
}
SHAPE: dict[str, Shape] = {
    "specVersion": _version,
    "reason": _one_of(*REASONS),
    "sequence": _count,
    "previous": _or_null(_digest),
    "issuer": {"name": _or_null(_text), "role": _one_of("trainer", "provider", "auditor")},
    "subjects": {"recorded": [_digest], "unrecorded": [_digest]},
    "stage": {
        "id": _text,
        "kind": _or_null(_text),
        "status": _one_of(*STATUSES),
        "startedOn": _date,
        "asOf": _date,
        "finishedOn": _or_null(_date),
    },
    "compute": {
        "convention": _text,
        "flop": _count,
        "lower": _count,
        "upper": _or_null(_count),
        "intOp": _count,
        "maskedFlop": _count,
        "contractionFlop": _count,
        "by": {dimension: _map_of(_count) for dimension in SPLITS},
        "uncounted": [{"op": _text, "calls": _count, "elements": _count}],
        "books": [_digest],
        "methods": [{"method": _text, **_INTERVAL, "inputs": _map_of(_text)}],
        "replay": {"passages": _map_of(_count), "audits": _count, "mismatches": _count},
    },
    "thresholds": [
        {
            "id": _text,
            "flop": _count,
            "basis": _one_of("stage"),
            "relation": _one_of(*RELATIONS),
            "rule": {"counts": _text, "figure": _one_of(*FIGURES), "nearPercent": _count},
        }
    ],
    "model": {
        "parameters": _or_null(_count),
        "trainable": _or_null(_count),
        "embedding": _or_null(_count),
        "tokens": _or_null(_count),
        "samples": _or_null(_count),
        "steps": _count,
    },
    "coverage": {
        "ranks": _count,
        "gaps": [
            {
                "reason": _text,
                "detail": _text,
                "rank": _count,
                "segment": _count,
                "times": _count,
                "ns": _or_null(_count),
                "upperFlop": _or_null(_count),
            }
        ],
        "selfTests": {"passed": _count, "failed": _count},
    },
    "usage": {
        **_DEVICE_TIME,
        "devices": [{"uuid": _text, "name": _text, "note": _text, **_DEVICE_TIME}],
        "notes": [_text],
    },
    "ledger": {
        "genesis": _digest,
        "head": _digest,
        "entries": _count,
        "heads": [{"file": _text, "entries": _count, "head": _digest}],
        "torn": [{"file": _text, "bytes": _count, "sha256": _digest}],
    },
    "meter": {"name": _text, "version": _or_null(_text)},
}
"""Every field that v0.1 requires; each may have neighbours that a later version knows."""
LATER: dict[str, Shape] = {
    "plausibility": [
        {"name": _text, "verdict": _one_of("yes", "no", "cannot-tell"), "detail": _text, "numbers": _map_of(_text)}
    ],
    "coverage": {
        "devicesNotSeen": [
            {"uuid": _text, "ns": _count, "mostFlopPerS": _or_null(_count), "mostFlop": _or_null(_count)}
        ],
    },
    "usage": {
        "devices": [{"unseenNs": _count, "edgeNs": _count, "missingNs": _map_of(_count)}],
        "host": {"cpuNs": _or_null(_count), "peakBytes": _or_null(_count)},
    },
}
"""Fields that an earlier meter did not write: each may be absent, and is else of this form."""


def check_shape(value: wire.Wire, shape: Shape, name: str = "predicate", *, is_later: bool = False) -> None:
    """Check that the required fields are there and of their types; where `is_later`, those that are there.

    Raises:
        MalformedError: one is not; the message names it.
    """
    if isinstance(shape, dict):
        fields = wire.parse_object(value, name=name)
        for key, inner in shape.items():
            if key not in fields:
                if is_later:
                    continue
                msg = f"{name}.{key} is missing"
                raise MalformedError(msg)
            check_shape(fields[key], inner, f"{name}.{key}", is_later=is_later)
    elif isinstance(shape, list):
        for index, item in enumerate(wire.parse_list(value, name=name)):
            check_shape(item, shape[0], f"{name}[{index}]", is_later=is_later)
    else:
        shape(value, name)


def describe(
    account: Account, *, ledger: RunLedger, status: str, table: PeakTable | None = None
) -> dict[str, Mapping[str, wire.Wire]]:
    """Return the parts of a predicate that follow from a ledger and nothing else.

    A verifier that holds the ledger computes them again and compares, but for the hardware's figure and what
    a device that was not seen can do at most, which go by the peaks of `table`.
    """
    return {
        "stage": {
            "id": account.run,
            "startedOn": account.started,
            "asOf": account.ended,
            "finishedOn": account.ended if status == "finished" else None,
        },
        "compute": _describe_compute(account, table),
        "model": _describe_model(account),
        "coverage": _describe_coverage(account, table),
        "usage": _describe_usage(account),
        "ledger": {
            "genesis": ledger.segments[0].header.digest,
            "head": account.head,
            "entries": wire.print_count(account.entries),
            "heads": [head.to_wire() for head in account.heads],
            "torn": []
            if status == "running"  # such bytes are a line being written, and will be a whole one soon
            else [{"file": s.path.name, **s.torn.to_wire()} for s in ledger.segments if s.torn is not None],
        },
    }


def _describe_compute(account: Account, table: PeakTable | None) -> dict[str, wire.Wire]:
    tally = account.tally
    return {
        "convention": CONVENTION,
        "flop": wire.print_count(account.flop),
        "lower": wire.print_count(account.lower),
        "upper": print_known(account.upper),
        "intOp": wire.print_count(account.int_op),
        "maskedFlop": wire.print_count(tally.masked_flop),
        "contractionFlop": wire.print_count(tally.contraction_flop),
        "by": {
            dimension: {value: wire.print_count(part.flop) for value, part in tally.by(dimension).items()}
            for dimension in SPLITS
        },
        "uncounted": [seen.to_wire() for seen in tally.uncounted],
        "books": list(account.books),
        "methods": [estimate.to_wire() for estimate in Reconciliation.of(account, table=table).estimates],
        "replay": {
            "passages": {basis: wire.print_count(number) for basis, number in account.passages.items()},
            "audits": wire.print_count(account.audits),
            "mismatches": wire.print_count(account.misses),
        },
    }


def _describe_model(account: Account) -> dict[str, wire.Wire]:
    model = account.model
    return {
        "parameters": None if model is None else wire.print_count(model.parameters),
        "trainable": None if model is None else wire.print_count(model.trainable),
        "embedding": None if model is None else wire.print_count(model.embedding),
        "tokens": _print_told(account.tokens, account),
        "samples": _print_told(account.samples, account),
        "steps": wire.print_count(account.steps),
    }


def _describe_coverage(account: Account, table: PeakTable | None) -> dict[str, wire.Wire]:
    unseen: list[wire.Wire] = [
        {
            "uuid": one.uuid,
            "ns": wire.print_count(one.ns),
            "mostFlopPerS": print_known(one.most_flop_per_s),
            "mostFlop": print_known(one.most_flop),
        }
        for one in unseen_devices(account, table=table)
    ]
    return {
        "ranks": wire.print_count(account.ranks),
        "gaps": [
            {
                "reason": gap.reason,
                "detail": gap.detail,
                "rank": wire.print_count(gap.rank),
                "segment": wire.print_count(gap.segment),
                "times": wire.print_count(gap.times),
                "ns": print_known(gap.ns),
                "upperFlop": print_known(gap.upper_flop),
            }
            for gap in account.gaps
        ],
        **({"devicesNotSeen": unseen} if unseen else {}),
        "selfTests": {
            "passed": wire.print_count(sum(account.self_tests)),
            "failed": wire.print_count(len(account.self_tests) - sum(account.self_tests)),
        },
    }


def _describe_usage(account: Account) -> dict[str, wire.Wire]:
    usage, host = account.usage, account.usage.host
    return {
        "heldNs": print_known(usage.total("held_ns")),
        "busyNs": print_known(usage.total("busy_ns")),
        "energyMj": print_known(usage.total("energy_mj")),
        "devices": [_describe_device(device) for device in usage.devices],
        "notes": list(usage.notes),
        **(
            {}
            if host is None
            else {"host": {"cpuNs": print_known(host.cpu_ns), "peakBytes": print_known(host.peak_bytes)}}
        ),
    }


def _describe_device(device: DeviceUsage) -> dict[str, wire.Wire]:
    return {
        "uuid": device.uuid,
        "name": device.name,
        "note": device.note,
        "heldNs": print_known(device.known_held_ns),
        "unseenNs": wire.print_count(device.unseen_ns),
        **({"edgeNs": wire.print_count(device.edge_ns)} if device.edge_ns else {}),
        "busyNs": print_known(device.busy_ns),
        "energyMj": print_known(device.energy_mj),
        "missingNs": {
            name: wire.print_count(device.missing[figure])
            for figure, name in (("busy_ns", "busyNs"), ("energy_mj", "energyMj"))
            if figure in device.missing
        },
    }


def print_known(value: int | None) -> str | None:
    """Return a count as it travels, and null where it is unknown."""
    return None if value is None else wire.print_count(value)


def _print_told(value: int, account: Account) -> str | None:
    """A training loop that names no tokens has trained on some; only a run without a step has none."""
    return wire.print_count(value) if value or not account.steps else None
