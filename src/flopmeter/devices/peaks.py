"""Ceilings: what a device could have done at most per second.

Not here: what a device did. A device or a precision that is not in `peaks.toml` has no peak, and none is guessed; the
issue on hardware evidence brings more rows.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from flopmeter.errors import UnknownDeviceError

CPU_CYCLES_PER_S = 6_000_000_000
CPU_OPERATIONS_PER_CYCLE = 4096
GFLOP = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What a device does at most in one precision, without sparsity, as its maker states it.

    Units: `flop_per_s` FLOP/s, dense.
    """

    device: str
    precision: str
    flop_per_s: int
    source: str
    date: str


def bound_cpu(cores: int) -> int:
    """Return a generous ceiling of what CPU cores can do.

    Units: operations per second.
    Counts: cores × 6 GHz × 4,096 operations per cycle, above the int8 rate of AMX
        (one tile product of 16 × 16 × 64 multiply-adds every 16 cycles: 2,048 operations per cycle).
    Basis: a stated bound, above any part sold; not a peak, and not measured.
    Source: convention fm-1, docs/spec/fm-1.md; Intel, Architecture Instruction Set Extensions (AMX).

    Example:
        >>> bound_cpu(2)
        49152000000000
    """
    return cores * CPU_CYCLES_PER_S * CPU_OPERATIONS_PER_CYCLE


def find_peak(device: str, precision: str) -> Peak:
    """Return the peak of a device, named as NVML names it, in a precision; of a pair of precisions, the lower peak.

    Raises:
        UnknownDeviceError: the table has no row of this name, or none of this precision.

    Example:
        >>> find_peak("NVIDIA H100 80GB HBM3", "bf16").flop_per_s
        989400000000000
    """
    row = _read().get(device)
    if row is None:
        msg = f"no peak is known of {device!r}: devices/peaks.toml has no row of this name"
        raise UnknownDeviceError(msg)
    known = row["gflop_per_s"]
    asked = precision.split("*")
    unknown = [name for name in asked if name not in known]
    if unknown:
        msg = f"no peak is known of {device!r} in {precision}: devices/peaks.toml has {', '.join(known)}"
        raise UnknownDeviceError(msg)
    return Peak(
        device=device,
        precision=precision,
        flop_per_s=min(known[name] for name in asked) * GFLOP,
        source=row["source"],
        date=row["date"],
    )


@cache
def _read() -> dict[str, dict[str, Any]]:
    table = tomllib.loads(files("flopmeter.devices").joinpath("peaks.toml").read_text(encoding="utf-8"))
    return {name: row for row in table["device"] for name in row["names"]}
