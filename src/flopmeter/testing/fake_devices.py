"""Scripts for the fake NVML library: what each device is, what it does over time, and what goes wrong when.

A fake proves our handling, not the hardware. Values only: loading the library is `fake_nvml`, what is true of a
script is `fake_truth`, ready-made machines are in `fake_clusters`.

A script is a text of lines, read by the C files beside this one::

    text KEY WORDS                  of the machine, until the first `device`
    device INDEX                    what follows is of this device, in the order of NVML
    mig SLOT                        what follows is of this MIG instance of it
    text KEY WORDS                  a constant
    series KEY NS:VALUE NS:VALUE…   a figure over time: VALUE from NS on; before the first, the first value
    process KIND PID BYTES GI CI SM% MEM% FROM_NS UNTIL_NS      KIND c, g or m; BYTES `-` where unknown
    fault TARGET DEVICE CODE SLEEP_NS HANGS IS_NAN FROM_CALL CALLS FROM_NS UNTIL_NS
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Self, TypeAlias

from flopmeter.units import NS_PER_S

FOR_EVER_NS = 2**63 - 1
GIB = 2**30

Number: TypeAlias = int | float | Fraction


def nanoseconds(seconds: Number) -> int:
    """Return whole nanoseconds.

    Units: takes seconds, returns nanoseconds.
    """
    return round(Fraction(seconds) * NS_PER_S)


@dataclass(frozen=True, slots=True)
class Series:
    """A figure over time, constant between `points`: pairs of nanoseconds since time 0 and the value from then on."""

    points: tuple[tuple[int, Number], ...]

    @classmethod
    def steps(cls, values: Mapping[Number, Number]) -> Self:
        """Return the series that takes these values from these seconds on."""
        return cls(tuple(sorted((nanoseconds(seconds), value) for seconds, value in values.items())))

    @classmethod
    def of(cls, value: "Figure") -> "Series":
        """Return a series as it is, and a number as a series that never changes."""
        return value if isinstance(value, Series) else Series(((0, value),))

    def at(self, ns: int) -> Number:
        """Return the value at a time."""
        return next((value for since, value in reversed(self.points) if since <= ns), self.points[0][1])

    def to_text(self) -> str:
        """Return the points as a script has them."""
        return " ".join(f"{ns}:{value if isinstance(value, int) else float(value)}" for ns, value in self.points)


Figure: TypeAlias = Series | Number


@dataclass(frozen=True, slots=True)
class FakeProcess:
    """A process on a device, by the host's number; `used_bytes` is None where the driver does not say."""

    pid: int
    used_bytes: int | None = GIB
    kind: str = "compute"
    sm_util: int = 90
    memory_util: int = 40
    from_s: Number = 0
    until_s: Number | None = None
    gi: int = 0xFFFFFFFF
    ci: int = 0xFFFFFFFF

    def to_text(self) -> str:
        """Return the line of a script."""
        used = "-" if self.used_bytes is None else self.used_bytes
        until = FOR_EVER_NS if self.until_s is None else nanoseconds(self.until_s)
        loads = f"{self.gi} {self.ci} {self.sm_util} {self.memory_util}"
        return f"process {self.kind[0]} {self.pid} {used} {loads} {nanoseconds(self.from_s)} {until}"


@dataclass(frozen=True, slots=True)
class FakeMig:
    """A MIG instance in a slot of its device. Power, energy and utilisation exist for the whole device only."""

    slot: int
    uuid: str
    name: str = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    gi: int = 1
    ci: int = 0
    sms: int = 60
    gi_slices: int = 3
    ci_slices: int = 3
    memory_total: int = 40 * GIB
    memory_used: Figure = GIB
    gpm: Mapping[int, Figure] = field(default_factory=dict)
    processes: tuple[FakeProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class FakeDevice:
    """One device: an H100 SXM unless told otherwise. None means that NVML answers NOT_SUPPORTED.

    `resets_s` are the seconds at which counters restart (driver reloaded, device reset); in `frozen_s`, pairs of
    seconds, the energy counter sticks to one reading. `xid` has numbers by second, of the MIG instance `xid_gi` or
    all. `power_window_ns` is the window that the power call takes the mean of: a second on Ampere and newer but for
    GA100, 0 on others. `gpm` has percentages by metric id; `gpm_cycles` is `mean` or `sum` where the driver has raw
    cycle counters. `more_texts` and `more_series` add or replace any key of the script, such as `field.230` for the
    value of a field.
    """

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    serial: str | None = "1650523000001"
    board_part: str | None = "692-2G520-0200-000"
    pci_device_id: int = 0x233010DE
    pci_subsystem_id: int = 0x16C110DE
    bus_id: str = "00000000:1B:00.0"
    vbios: str | None = "96.00.74.00.01"
    inforom: str | None = "G520.0200.00.05"
    minor: int | None = 0
    module_id: int | None = 1
    board_id: int | None = 0x1B00
    multi_gpu_board: int | None = 0
    brand: int | None = 14
    pdi: int | None = None
    capability: str = "9.0"
    architecture: int = 9
    cores: int | None = 16896
    sms: int = 132
    persistence: int | None = 1
    compute_mode: int | None = 0

    power: Figure | None = 500_000
    module_power: Figure | None = None
    memory_power: Figure | None = None
    power_window_ns: int = NS_PER_S
    power_limit_mw: int | None = 700_000
    power_default_mw: int | None = 700_000
    power_min_mw: int | None = 200_000
    power_max_mw: int | None = 700_000
    has_energy: bool = True
    energy_refresh_ns: int = 20_000_000
    energy_base_mj: int = 123_456_789
    energy_offset: Figure | None = None
    resets_s: tuple[Number, ...] = ()
    frozen_s: tuple[tuple[Number, Number], ...] = ()

    gpu_util: Figure | None = 100
    memory_util: Figure | None = 40
    sm_clock: Figure | None = 1755
    graphics_clock: Figure | None = 1755
    memory_clock: Figure | None = 2619
    video_clock: Figure | None = 1545
    max_sm_clock: int | None = 1980
    max_graphics_clock: int | None = 1980
    max_memory_clock: int | None = 2619
    max_video_clock: int | None = 1545
    reasons: Figure | None = 0
    temperature: Figure | None = 60
    performance_state: Figure | None = 0

    memory_total: int | None = 80 * GIB
    memory_reserved: int = GIB // 2
    memory_used: Figure | None = 60 * GIB
    ecc_mode: int | None = 1
    ecc_corrected: Figure | None = 0
    ecc_uncorrected: Figure | None = 0
    remapped_rows: Figure | None = 0
    remapped_rows_uncorrected: Figure | None = 0
    remapping_pending: Figure | None = 0
    remapping_failed: Figure | None = 0
    recovery_action: Figure | None = 0
    has_events: bool = True
    xid_gi: int = 0xFFFFFFFF
    xid: Mapping[Number, int] = field(default_factory=dict)

    has_gpm: bool = True
    gpm: Mapping[int, Figure] = field(default_factory=dict)
    gpm_refresh_ns: int = 100_000_000
    gpm_cycles: str | None = None
    gpm_is_difference: bool = False

    processes: tuple[FakeProcess, ...] = ()
    mig_mode: int | None = 0
    mig_slots: int = 7
    migs: tuple[FakeMig, ...] = ()
    fabric_cluster: str | None = None
    fabric_clique: int = 0
    fabric_state: int = 3
    chassis_serial: str | None = None
    slot: int = 0
    more_texts: Mapping[str, str] = field(default_factory=dict)
    more_series: Mapping[str, Series] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FakeDriver:
    """The driver that all devices share. `missing` names the functions that its library does not have.

    `cc_environment` (None: NOT_SUPPORTED), `cc_feature`, `cc_dev_tools` and `cc_multi_gpu` are the machine's state of
    confidential computing; with `cc_forgets_nonce` a report answers another nonce than it was given.
    `code_after_fork` is what calls in a forked child return until it initialises the library itself.
    `empty_is_success`: a list of samples that is empty comes as success, and not as NOT_FOUND. Who `is_privileged`
    sees the processes of all MIG instances of a device at once. With `search_stops_at_lost` a device cannot be found by
    its UUID while one before it is lost; with `has_wide_processes` lists of processes have the longer entries of the
    first drivers of R535, from which newer bindings read garbage.
    """

    driver: str = "580.95.05"
    nvml: str = "13.580.95.05"
    cuda: int = 13000
    missing: tuple[str, ...] = ()
    cc_environment: int | None = None
    cc_feature: int = 0
    cc_dev_tools: int = 0
    cc_multi_gpu: int = 0
    cc_forgets_nonce: bool = False
    code_after_fork: int = 999
    empty_is_success: bool = False
    is_privileged: bool = False
    search_stops_at_lost: bool = False
    has_wide_processes: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, where and when.

    `target` is a function of the library by its exported name (`nvmlDeviceGetCount_v2`), `field:N` or `metric:N`; a
    last `*` stands for any ending, so `*` is every call. All given conditions hold together: the device (None:
    whichever, or none), the time, and the calls from number `from_call` on, counted from 1 among those that the
    other conditions let through, `calls` of them (0: for ever). The call sleeps, hangs until `FakeNvml.release`,
    and returns `code` where that is not 0; `is_nan` makes a GPM metric NaN.
    """

    target: str
    code: int = 0
    device: int | None = None
    sleep_s: Number = 0
    hangs: bool = False
    is_nan: bool = False
    from_call: int = 1
    calls: int = 0
    from_s: Number = 0
    until_s: Number | None = None

    def to_text(self) -> str:
        """Return the line of a script."""
        device = -1 if self.device is None else self.device
        until = FOR_EVER_NS if self.until_s is None else nanoseconds(self.until_s)
        effect = f"{self.code} {nanoseconds(self.sleep_s)} {int(self.hangs)} {int(self.is_nan)}"
        return f"fault {self.target} {device} {effect} {self.from_call} {self.calls} {nanoseconds(self.from_s)} {until}"


@dataclass(frozen=True, slots=True)
class FakeMachine:
    """Devices in NVML's order (by PCI bus, which need not be CUDA's), their driver, and what goes wrong."""

    devices: tuple[FakeDevice, ...]
    driver: FakeDriver = FakeDriver()
    faults: tuple[Fault, ...] = ()

    def to_text(self) -> str:
        """Return the script."""
        lines = list(_lines_of(self.driver, without={"missing"}))
        lines += [fault.to_text() for fault in self.faults]
        for index, device in enumerate(self.devices):
            lines.append(f"device {index}")
            lines += _lines_of(device, without={"resets_s", "frozen_s", "xid"})
            lines += _lines_of_times(device)
            for mig in device.migs:
                lines += [f"mig {mig.slot}", *_lines_of(mig, without={"slot"})]
        return "".join(f"{line}\n" for line in lines)

    def write_script(self, path: Path) -> Path:
        """Write the script, and return its path."""
        path.write_text(self.to_text(), encoding="utf-8")
        return path


# Figures that change, as opposed to constants; keys of the script are the names of the fields.
CHANGING = {
    *("power", "module_power", "memory_power", "energy_offset", "gpu_util", "memory_util", "sm_clock"),
    *("graphics_clock", "memory_clock", "video_clock", "reasons", "temperature", "performance_state", "memory_used"),
    *("ecc_corrected", "ecc_uncorrected", "remapped_rows", "remapped_rows_uncorrected", "recovery_action"),
    *("remapping_pending", "remapping_failed"),
}


def _lines_of(item: FakeDevice | FakeDriver | FakeMig, *, without: set[str]) -> Iterator[str]:
    # What a script has twice is taken from its first line, so more_… come first.
    for key, words in getattr(item, "more_texts", {}).items():
        yield f"text {key} {words}"
    for key, series in getattr(item, "more_series", {}).items():
        yield f"series {key} {series.to_text()}"
    for part in fields(item):
        value = getattr(item, part.name)
        if part.name in CHANGING and value is not None:
            yield f"series {part.name} {Series.of(value).to_text()}"
        elif part.name == "gpm":
            yield from (f"series gpm.{metric} {Series.of(figure).to_text()}" for metric, figure in value.items())
        elif part.name == "processes":
            yield from (process.to_text() for process in value)
        elif part.name not in without and isinstance(value, int | str):
            yield f"text {part.name} {int(value) if isinstance(value, bool) else value}"


def _lines_of_times(device: FakeDevice) -> Iterator[str]:
    if device.resets_s:
        yield f"series resets {' '.join(f'{nanoseconds(at)}:1' for at in sorted(device.resets_s))}"
    if device.frozen_s:
        edges = [edge for since, until in sorted(device.frozen_s) for edge in ((since, 1), (until, 0))]
        yield f"series frozen 0:0 {' '.join(f'{nanoseconds(at)}:{value}' for at, value in edges)}"
    if device.xid:
        yield f"series xid {' '.join(f'{nanoseconds(at)}:{code}' for at, code in sorted(device.xid.items()))}"
