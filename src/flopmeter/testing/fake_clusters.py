"""Machines for the fake NVML library, ready made: whole ones, and ones of which something is wrong.

A fake proves our handling, not the hardware: power and activity here are made up. Not here: what a machine can
be made of (`fake_devices`).
"""

import uuid
from dataclasses import replace

from flopmeter.testing.fake_devices import FakeDevice, FakeDriver, FakeMachine, FakeMig, FakeProcess, Fault, Series
from flopmeter.testing.fake_truth import GPU_IS_LOST

# PCI buses and minor numbers of an eight-GPU baseboard; device nodes do not follow the buses.
BUSES = (0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)
MINORS = (2, 3, 0, 1, 6, 7, 4, 5)
FABRIC = "5f1e0d6c9b7a4e3a8c2d1b0a99887766"
SW_POWER_CAP, SW_THERMAL = 0x4, 0x20
# Symbols that came after this driver, as an example of an old one: nobody has compared it with NVIDIA's library.
OLD_DRIVER = FakeDriver(
    driver="525.147.05",
    nvml="12.525.147.05",
    cuda=12000,
    missing=(
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetSupportedClocksEventReasons",
        "nvmlDeviceGetGpuFabricInfoV",
        "nvmlDeviceGetPdi",
        "nvmlDeviceGetPlatformInfo",
        "nvmlDeviceGetProcessesUtilizationInfo",
        "nvmlSystemGetConfComputeSettings",
    ),
)


def made_up_uuid(name: str) -> str:
    """Return a UUID as NVML writes them; the same name, the same UUID."""
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, name)}"


def h100(index: int = 0, *, host: str = "node-0") -> FakeDevice:
    """Return an H100 SXM in one of eight places, at work for an hour: full power, but for two minutes in the middle."""
    bus = BUSES[index]
    return FakeDevice(
        uuid=made_up_uuid(f"{host}/{index}"),
        serial=f"16505230{index:05d}",
        bus_id=f"00000000:{bus:02X}:00.0",
        board_id=bus << 8,
        minor=MINORS[index],
        module_id=index + 1,
        power=Series.steps({0: 640_000 + 1_000 * index, 1740: 130_000, 1860: 650_000 + 1_000 * index}),
        gpu_util=Series.steps({0: 100, 1740: 0, 1860: 100}),
        sm_clock=Series.steps({0: 1755, 1740: 1980, 1860: 1740}),
        gpm={
            1: Series.steps({0: 99, 1740: 0, 1860: 99}),
            2: Series.steps({0: 92, 1740: 0, 1860: 92}),
            5: Series.steps({0: 44, 1740: 0, 1860: 46}),
            7: Series.steps({0: 44, 1740: 0, 1860: 46}),
            8: 0,
            9: 0,
            4: Series.steps({0: 11, 1740: 0, 1860: 11}),
            11: 0,
            12: Series.steps({0: 6, 1740: 0, 1860: 6}),
            13: Series.steps({0: 2, 1740: 0, 1860: 2}),
        },
        processes=(FakeProcess(pid=700_000 + index),),
        fabric_cluster=FABRIC,
    )


def eight_h100s(*, host: str = "node-0") -> FakeMachine:
    """Return a node of eight H100 SXM, of which nothing is wrong."""
    return FakeMachine(tuple(h100(index, host=host) for index in range(8)))


def lost_halfway(machine: FakeMachine, *, index: int = 3, after_s: int = 1800) -> FakeMachine:
    """Return the machine with one device that falls off the bus, Xid 79 and all."""
    changed = _change(machine, index, xid={after_s: 79})
    return replace(changed, faults=(*machine.faults, Fault("*", GPU_IS_LOST, device=index, from_s=after_s)))


def reset_counter(machine: FakeMachine, *, index: int = 5, after_s: int = 1200) -> FakeMachine:
    """Return the machine with one device whose counters restart, as after a driver was reloaded."""
    return _change(machine, index, resets_s=(after_s,))


def throttled(machine: FakeMachine, *, index: int = 6, from_s: int = 600, until_s: int = 1500) -> FakeMachine:
    """Return the machine with one device that is held back by heat and power for a while."""
    return _change(
        machine,
        index,
        reasons=Series.steps({0: 0, from_s: SW_THERMAL | SW_POWER_CAP, until_s: 0}),
        sm_clock=Series.steps({0: 1755, from_s: 1200, until_s: 1755}),
        power=Series.steps({0: 640_000, from_s: 430_000, until_s: 640_000}),
        temperature=Series.steps({0: 60, from_s: 88, until_s: 65}),
    )


def bad_hour() -> FakeMachine:
    """Return eight H100 SXM in an hour in which one is lost, one counter restarts and one device is throttled."""
    return throttled(reset_counter(lost_halfway(eight_h100s())))


def sliced_h100() -> FakeMachine:
    """Return one H100 cut into two MIG instances, in slots 0 and 3: those between are gaps."""
    migs = (
        FakeMig(slot=0, uuid="MIG-3f5c1c1e-0f0a-5a7b-9c52-2f6f1c7a0001", gi=1, gpm={5: 30, 7: 30, 2: 70}),
        FakeMig(
            slot=3,
            uuid="MIG-3f5c1c1e-0f0a-5a7b-9c52-2f6f1c7a0002",
            name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            gi=9,
            sms=16,
            gi_slices=1,
            ci_slices=1,
            memory_total=10 * 2**30,
        ),
    )
    return FakeMachine((replace(h100(), mig_mode=1, migs=migs, processes=()),))


def two_kinds() -> FakeMachine:
    """Return a T4 before an H100 in NVML's order; CUDA counts the fastest first (`cuda_order`)."""
    t4 = FakeDevice(
        uuid=made_up_uuid("two-kinds/t4"),
        name="Tesla T4",
        serial="1324519000001",
        board_part="900-2G183-0000-001",
        pci_device_id=0x1EB810DE,
        bus_id="00000000:05:00.0",
        capability="7.5",
        architecture=6,
        cores=2560,
        sms=40,
        power=65_000,
        power_window_ns=0,
        power_limit_mw=70_000,
        sm_clock=1590,
        max_sm_clock=1590,
        memory_total=15 * 2**30,
        memory_used=2**30,
        has_gpm=False,
        recovery_action=None,
        remapped_rows=None,
        remapping_pending=None,
        remapping_failed=None,
    )
    return FakeMachine((t4, h100(4)))


def cuda_order(machine: FakeMachine) -> list[str]:
    """Return the UUIDs as CUDA would count these devices by default, the fastest first; equals keep NVML's order."""
    fastest = sorted(machine.devices, key=lambda device: -device.sms * (device.max_sm_clock or 0))
    return [device.uuid for device in fastest]


def _change(machine: FakeMachine, index: int, **changes: object) -> FakeMachine:
    devices = list(machine.devices)
    devices[index] = replace(devices[index], **changes)  # type: ignore[arg-type]
    return replace(machine, devices=tuple(devices))
