"""The table of devices, and the sentences about what in it is not whole."""

from io import StringIO

from rich.console import Console

from flopmeter.host import HostUsage
from flopmeter.report.devices import Total, describe_device, describe_host, render_namers, render_usage
from flopmeter.usage import DeviceUsage, Usage

HOUR = 3600 * 1_000_000_000


def text_of(usage, *, width=100, **circumstances):
    console = Console(file=StringIO(), width=width)
    for part in render_usage(usage, **circumstances):
        console.print(part)
    return console.file.getvalue()


def test_a_whole_device_is_a_row_to_the_second():
    device = DeviceUsage(
        uuid="GPU-12345678-9", name="NVIDIA H100 80GB HBM3", held_ns=HOUR, busy_ns=HOUR // 2, energy_mj=2_260_200_001,
        power_mj=2_260_200_000, sm_cycles=1755 * HOUR // 1000, pipes={"tensor": 1755 * HOUR // 4000}, throttled={},
    )  # fmt: skip
    (line,) = [line for line in text_of(Usage.of([device])).splitlines() if line.startswith("H100 80GB HBM3 12345678 ")]
    figures = "3,600 s 50 % 0.628 kWh 1,755 25 %"
    assert " ".join(line.split()).endswith(figures)
    assert list(describe_device(device)) == []


def test_what_is_not_whole_is_marked_and_said():
    """Else half an hour of a lost device reads as half an hour of rest."""
    device = DeviceUsage(
        uuid="GPU-1", name="x", held_ns=HOUR // 2, unseen_ns=HOUR // 2, energy_mj=5000, missing={"energy_mj": 10**9},
        throttled={"thermal": HOUR // 4}, note="GPU is lost; b",
    )  # fmt: skip
    text = text_of(Usage.of([device]))
    assert "5 J+" in text
    assert "+ not for all of the time (of 1 device: utilisation of 1, energy of 1): a sum is at least that" in text
    said = list(describe_device(device))
    assert said[:2] == ["GPU is lost", "b"]
    assert said[2].startswith("of 1,800 s nothing is known")
    assert said[3] == "energy was not measured for 1 s of the time held"
    assert said[4] == "its clock was held down: thermal 900 s"


def test_the_last_row_is_gpu_hours_held_and_busy_apart():
    """Else whoever is billed by GPU-hours adds eight rows of seconds up by hand."""
    figures = {"name": "NVIDIA H100 80GB HBM3", "sm_cycles": 1755 * HOUR // 1000, "pipes": {"tensor": 0}}
    whole = [
        DeviceUsage(uuid=f"GPU-{n}", held_ns=HOUR, busy_ns=HOUR // 2, energy_mj=3_600_000_000, **figures)
        for n in range(7)
    ]
    lost = DeviceUsage(
        uuid="GPU-7", held_ns=HOUR // 2, unseen_ns=HOUR // 2, busy_ns=HOUR // 4, energy_mj=1_800_000_000, **figures
    )
    usage = Usage.of([*whole, lost])
    lines = [" ".join(line.split()) for line in text_of(usage).splitlines()]
    assert "all 8: GPU-hours, kWh 7.5 0.5 3.75+ 7.5+" in lines
    assert "H100 80GB HBM3 7 1,800 s 1,800 s 50 %+ 0.5 kWh+ 3,510+ 0 %+" in lines
    assert Total.of(usage).to_wire() == {
        "devices": "8",
        "held_gpu_hours": 7.5,
        "not_seen_gpu_hours": 0.5,
        "busy_gpu_hours": 3.75,
        "energy_kwh": 7.5,
        "partial": {"held_ns": "1", "busy_ns": "1", "energy_mj": "1"},
    }


def test_a_device_is_a_line_of_eighty():
    """Else eight devices are sixteen lines, and the second of each has a figure of nothing."""
    device = DeviceUsage(
        uuid="GPU-08fbc55b-1", name="NVIDIA H100 80GB HBM3", held_ns=10 * HOUR, unseen_ns=HOUR, busy_ns=HOUR,
        energy_mj=2_000_000_000, sm_cycles=1755 * HOUR // 1000, pipes={"tensor": 1755 * HOUR // 4000},
    )  # fmt: skip
    lines = text_of(Usage.of([device]), width=80).splitlines()
    (line,) = [line for line in lines if line.startswith("H100")]
    assert line.startswith("H100 80GB HBM3 08fbc55b ")
    assert line.rstrip().endswith("%+")
    slice_of_it = DeviceUsage(uuid="MIG-146b658d-2", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", held_ns=HOUR)
    assert "MIG 1g.10gb 146b658d" in text_of(Usage.of([slice_of_it]))


def test_two_ways_to_measure_energy_that_disagree_are_said():
    device = DeviceUsage(uuid="GPU-1", name="x", held_ns=HOUR, energy_mj=327_000, power_mj=187_000)
    assert list(describe_device(device)) == ["its power readings add up to 187 J, its energy counter says 327 J"]
    near = DeviceUsage(uuid="GPU-1", name="x", held_ns=HOUR, energy_mj=100_000, power_mj=96_000)
    assert list(describe_device(near)) == []


def test_unknown_is_a_word():
    text = text_of(Usage.of([DeviceUsage(uuid="GPU-1", name="x")], ["no driver"]))
    assert text.count("unknown") == 9, "five figures, three of all devices, and the sentence about the driver"
    assert "not zero" in text


def test_a_device_that_never_answered_was_not_held_for_no_time():
    """Else a device without a permission reads as one that was held for zero seconds."""
    device = DeviceUsage(uuid="GPU-1", name="x", held_ns=0, unseen_ns=HOUR)
    (line,) = [line for line in text_of(Usage.of([device])).splitlines() if line.startswith("x 1 ")]
    assert line.split() == ["x", "1", "unknown", "3,600", "s", *["unknown"] * 4]


def test_what_a_device_calls_itself_does_not_move_the_cursor():
    device = DeviceUsage(uuid="\x1b[2J", name="\x1b[1m", held_ns=HOUR, note="\x1b[3A")
    assert "\x1b" not in text_of(Usage.of([device], ["\x1b[4A"], host=HostUsage(note="\x1b[5A")))


def test_the_host_is_said_to_be_all_where_no_device_was_measured():
    """Else a laptop's report leaves open whether there was more to see."""
    host = HostUsage(cpu_ns=3_640_000_000, peak_bytes=352 * 2**20, cores=2)
    said = "host: 3.64 s of processor time on 2 cores, at most 352 MiB of memory"
    assert said + "; that is all" in text_of(Usage.of([], ["no NVIDIA driver"], host=host))
    beside = text_of(Usage.of([DeviceUsage(uuid="GPU-1", name="x", held_ns=HOUR)], host=host))
    assert said in beside
    assert "that is all" not in beside


def test_memory_of_one_rank_is_not_taken_for_that_of_all():
    host = HostUsage(cpu_ns=10**9, peak_bytes=2**30)
    assert "1,024 MiB of memory in one rank" in text_of(Usage((), (), host), ranks=8)


def test_what_of_the_host_was_not_read_is_unknown():
    assert describe_host(HostUsage(note="psutil does not load"), is_all=True) == (
        "processor time and memory are unknown: psutil does not load"
    )
    assert describe_host(HostUsage(cpu_ns=0, note="late"), is_all=False) == (
        "less than 0.01 s of processor time, memory unknown (late)"
    )


def test_devices_that_somebody_named_are_said_to_be_named():
    """Else devices that did nothing raise what the run could have done, and nobody asks who put them there."""
    usage = Usage.of([DeviceUsage(uuid=f"GPU-{number}", name="x", held_ns=1) for number in range(2)])
    ours, theirs = {"named_by": "torch"}, {"named_by": "FLOPMETER_DEVICES"}

    def said(one, two):
        return [part.plain for part in render_namers(usage, {"GPU-0": one, "GPU-1": two})]

    words = "devices named by FLOPMETER_DEVICES, whether the run used them or not"
    assert said(ours, {}) == []
    assert said(ours, theirs) == [f"{words}: GPU-1"]
    assert said(theirs, theirs) == [f"{words}: all of them"]
