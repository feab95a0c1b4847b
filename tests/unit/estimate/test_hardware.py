"""What devices could have done and did, from time, clock and activity."""

from fractions import Fraction

import pytest

from flopmeter.devices.peaks import identify
from flopmeter.devices.table import PeakTable
from flopmeter.estimate.hardware import Assumption, Cycles, DeviceTime, Hardware, estimate_hardware
from flopmeter.units import NS_PER_S

H100 = {"uuid": "GPU-1", "device_id": "2330", "name": "NVIDIA H100 80GB HBM3"}
HOUR = 3600 * NS_PER_S
BF16 = 989_400 * 10**9
FP8 = 1_978_900 * 10**9


def test_a_device_that_did_not_say_what_it_is_has_no_peak_and_that_is_said():
    found = estimate_hardware([DeviceTime(uuid="GPU-12345678-9", may_have_held_ns=NS_PER_S)])
    assert found.ceiling_flop is None
    assert found.notes == ("GPU-12345678 did not say which part it is, so its peak is unknown",)


def h100(**given):
    return DeviceTime(**H100, **{"may_have_held_ns": HOUR, **given})


def cycles(mhz, ns=HOUR, share=100):
    return Cycles(cycles=mhz * ns // 1000 * share // 100, covered_ns=ns)


def test_a_ceiling_is_time_times_the_stated_peak():
    """It is N·L·H of the guidelines; the report calls a count above it a contradiction."""
    found = estimate_hardware([h100()] * 8, precisions=["bf16"])
    assert found.ceiling_flop == 8 * 3600 * BF16
    assert found.at_clock_flop is found.tensor_lower_flop is found.tensor_upper_flop is None
    assert found.estimate.flop is None
    assert found.estimate.upper == found.ceiling_flop
    assert found.estimate.method == "hardware"
    assert found.estimate.inputs["may_have_held_ns"] == str(8 * HOUR)
    assert found.inputs["precisions"] == "bf16"


def test_the_fastest_precision_makes_the_ceiling():
    assert estimate_hardware([h100()], precisions=["fp32", "bf16", "fp8_e5m2*fp8_e4m3"]).ceiling_flop == 3600 * FP8
    assert estimate_hardware([h100()]).ceiling_flop == 3600 * FP8


def test_integer_operations_make_no_ceiling_of_flop():
    """A4090's int8 is above all its FLOP but one; a figure in OP/s says nothing of FLOP."""
    device = DeviceTime(uuid="GPU-1", name="NVIDIA A10", may_have_held_ns=NS_PER_S)
    assert estimate_hardware([device]).ceiling_flop == 125 * 10**12


def test_at_clock_follows_the_clock_that_was_measured():
    """A throttled card did less than its datasheet says, one at its highest clock more."""
    at = estimate_hardware([h100(clock=cycles(1830))], precisions=["bf16"])
    assert at.at_clock_flop == at.ceiling_flop
    half = estimate_hardware([h100(clock=cycles(915))], precisions=["bf16"])
    assert half.at_clock_flop == at.ceiling_flop // 2
    fast = estimate_hardware([h100(clock=cycles(1980))], precisions=["bf16"])
    assert fast.at_clock_flop * 1830 == pytest.approx(fast.ceiling_flop * 1980, abs=1830)
    assert fast.estimate.upper == fast.at_clock_flop > fast.ceiling_flop


def test_the_vector_pipes_figure_implies_another_clock():
    """The H100's fp32 is stated at 1980 MHz, its bf16 at 1830."""
    at = estimate_hardware([h100(clock=cycles(1980))], precisions=["fp32"])
    assert at.at_clock_flop == at.ceiling_flop == 3600 * 66_900 * 10**9


def test_tensor_cycles_are_an_interval_between_the_slowest_and_the_fastest_precision():
    """Cycles do not name their precision: a single figure would be wrong by two."""
    device = h100(clock=cycles(1830), tensor=cycles(1830, share=40))
    found = estimate_hardware([device], precisions=["bf16", "fp8_e4m3", "fp32"])
    assert found.tensor_lower_flop == 3600 * BF16 * 40 // 100
    assert found.tensor_upper_flop == 3600 * FP8 * 40 // 100
    assert (found.estimate.lower, found.estimate.upper) == (found.tensor_lower_flop, found.tensor_upper_flop)
    assert found.estimate.flop is None


def test_one_declared_precision_makes_a_figure():
    found = estimate_hardware([h100(tensor=cycles(1830, share=40))], precisions=["bf16"]).estimate
    assert found.flop == found.lower == found.upper == 3600 * BF16 * 40 // 100


def test_nothing_declared_leaves_every_precision_of_the_tensor_pipes_open():
    found = estimate_hardware([h100(tensor=cycles(1980, share=10))])
    assert found.tensor_lower_flop == 3600 * 66_900 * 10**9 // 10
    assert found.tensor_upper_flop > 3600 * FP8 // 10


def test_a_run_in_fp32_alone_has_no_tensor_precision():
    assert estimate_hardware([h100(tensor=cycles(1830))], precisions=["fp32"]).tensor_upper_flop is None


def test_time_in_which_nobody_looked_is_nothing_below_and_everything_above():
    """A lost sensor is a gap with a bound, not an idle device."""
    device = h100(clock=cycles(1830, ns=HOUR // 2), tensor=cycles(1830, ns=HOUR // 2, share=50))
    found = estimate_hardware([device], precisions=["bf16"])
    assert found.tensor_lower_flop == 900 * BF16
    full = Fraction(1800 * BF16 * 1980, 1830)
    assert found.tensor_upper_flop == -(-(900 * BF16 + full) // 1)
    assert found.at_clock_flop == -(-(1800 * BF16 + full) // 1)


def test_a_slice_counts_by_its_sms():
    """A seventh of a card that is given the whole card's peak looks idle."""
    found = estimate_hardware(
        [h100(slice_sms=16, clock=cycles(1830), tensor=cycles(1830, share=50))], precisions=["bf16"]
    )
    assert found.ceiling_flop == 3600 * 16 * 4096 * 1_830_000_000 == found.at_clock_flop
    assert found.tensor_lower_flop == found.tensor_upper_flop == found.ceiling_flop // 2


def test_a_slice_of_a_part_whose_rates_are_unknown_has_no_peak():
    device = DeviceTime(uuid="MIG-1", device_id="3182", name="NVIDIA B300 SXM6 AC", may_have_held_ns=HOUR, slice_sms=20)
    found = estimate_hardware([device], precisions=["fp64"])
    assert found.ceiling_flop is None
    assert "slice of B300" in found.notes[0]


def test_unmeasured_time_is_unknown_and_not_zero():
    found = estimate_hardware([h100(), h100(may_have_held_ns=None)], precisions=["bf16"])
    assert found.ceiling_flop is None
    assert "may_have_held_ns" not in found.inputs
    assert "unknown, not zero" in found.notes[0]
    assert (
        estimate_hardware([]).estimate
        == Hardware(inputs={"devices": "0", "precisions": "any"}, notes=("no device time was measured",)).estimate
    )


def test_an_unknown_device_has_no_peak_but_a_hint():
    """Elsewhere it gets an A100's."""
    found = estimate_hardware(
        [h100(), DeviceTime(uuid="GPU-2", name="NVIDIA X9", may_have_held_ns=HOUR)], precisions=["bf16"]
    )
    assert found.ceiling_flop is found.bound_upper_flop is found.estimate.upper is None
    assert "NVIDIA X9" in found.notes[0]
    assert "TOML" in found.notes[0]


def test_its_capability_bounds_it_where_sms_and_clock_are_known():
    unknown = DeviceTime(
        uuid="GPU-2", name="NVIDIA X9", may_have_held_ns=NS_PER_S, sms=100, capability="9.0", max_clock_mhz=2000
    )
    found = estimate_hardware([unknown, h100(may_have_held_ns=NS_PER_S)], precisions=["bf16"])
    assert found.ceiling_flop is None
    assert found.bound_lower_flop == 100 * 2_000_000_000 * 1024 + BF16
    assert found.bound_upper_flop == 100 * 2_000_000_000 * 4096 + BF16 == found.estimate.upper
    assert any("a bound, not a peak" in note for note in found.notes)


def test_a_part_whose_figures_are_unknown_is_bounded_too():
    l20 = DeviceTime(
        uuid="GPU-1",
        device_id="26BA",
        name="NVIDIA L20",
        may_have_held_ns=NS_PER_S,
        sms=92,
        capability="8.9",
        max_clock_mhz=2520,
    )
    found = estimate_hardware([l20], precisions=["bf16"])
    assert found.ceiling_flop is None
    assert (found.bound_lower_flop, found.bound_upper_flop) == (92 * 2520 * 10**6 * 512, 92 * 2520 * 10**6 * 1024)


def test_an_inconsistent_identity_is_not_even_bounded():
    """Whoever pretends about the name may pretend about the rest."""
    device = h100(sms=132, capability="9.0", max_clock_mhz=1980)
    liar = DeviceTime(**{**{name: getattr(device, name) for name in device.__slots__}, "name": "NVIDIA L4"})
    found = estimate_hardware([liar])
    assert found.ceiling_flop is found.bound_upper_flop is None
    assert found.notes[0].startswith("identity inconsistent, peak unknown")


def test_a_precision_without_a_peak_leaves_the_ceiling_unknown():
    """It might be the fastest of them."""
    found = estimate_hardware([h100()], precisions=["bf16", "nvfp4"])
    assert found.ceiling_flop is None
    assert "bf16 or nvfp4" in found.notes[0]


def test_what_is_assumed_says_so_and_by_whom():
    """An assumption that looks measured is the error this tool is there to prevent."""
    found = estimate_hardware([h100()], precisions=["bf16"], assumption=Assumption(share=Fraction(2, 5), who="the lab"))
    assert found.assumed_flop == 3600 * BF16 * 2 // 5 == found.estimate.flop
    assert found.estimate.note.startswith("utilisation assumed by the lab, not measured")
    assert found.estimate.inputs["utilisation"] == "2/5, assumed by the lab"
    assert found.estimate.upper == found.ceiling_flop


def test_an_assumption_of_an_unknown_peak_makes_no_figure():
    device = DeviceTime(uuid="GPU-2", name="NVIDIA X9", may_have_held_ns=HOUR)
    found = estimate_hardware([device], assumption=Assumption(share=Fraction(1, 2), who="the lab"))
    assert found.assumed_flop is None
    assert found.estimate.flop is None
    assert found.assumed_by == ""


@pytest.mark.parametrize(("share", "who"), [(Fraction(3, 2), "x"), (Fraction(-1, 2), "x"), (Fraction(1, 2), " ")])
def test_an_assumption_has_a_name_and_a_share(share, who):
    with pytest.raises(ValueError, match="somebody assumes it"):
        Assumption(share=share, who=who)


def test_more_tensor_cycles_than_cycles_are_said_and_not_clipped():
    """NVML has been seen to give over 100 %; a clipped reading hides it."""
    found = estimate_hardware([h100(clock=cycles(1830), tensor=cycles(1830, share=104))], precisions=["bf16"])
    assert found.tensor_upper_flop == 3600 * BF16 * 104 // 100
    assert any("more tensor cycles" in note for note in found.notes)


def test_cycles_are_not_negative():
    with pytest.raises(ValueError, match="-1 cycles"):
        Cycles(cycles=-1, covered_ns=1)


def test_figures_are_exact_for_a_year_of_a_large_cluster():
    """A float would be off by ten thousand times a small model's training."""
    year = 365 * 24 * HOUR + 1
    found = estimate_hardware([h100(may_have_held_ns=year)] * 10_000, precisions=["bf16"])
    assert found.ceiling_flop == -(-10_000 * year * BF16 // NS_PER_S)


def test_a_part_without_clock_or_sms_has_a_ceiling_alone():
    b100 = next(part for part in PeakTable.standard().parts if part.part == "B100")
    table = PeakTable(
        (type(b100)(part="B100", names={"FFFF": ("B100",)}, source="s", date="d", confidence="low", dense=b100.dense),),
        {},
    )
    device = DeviceTime(
        uuid="GPU-1",
        name="B100",
        may_have_held_ns=NS_PER_S,
        clock=cycles(1000, NS_PER_S),
        tensor=cycles(1000, NS_PER_S),
    )
    found = estimate_hardware([device], precisions=["bf16"], table=table)
    assert found.ceiling_flop == 1750 * 10**12
    assert found.at_clock_flop is found.tensor_upper_flop is None
    assert identify(name="B100", table=table).part is table.parts[0]


def test_it_travels_as_an_estimate():
    found = estimate_hardware([h100()], precisions=["bf16"])
    assert found.to_wire()["upper"] == str(3600 * BF16)
    assert found.to_wire()["method"] == "hardware"


def test_a_capability_that_nobody_knows_bounds_nothing():
    """A new generation may be faster than all before it."""
    device = DeviceTime(
        uuid="GPU-1", name="NVIDIA X9", may_have_held_ns=HOUR, sms=1, capability="99.0", max_clock_mhz=1
    )
    assert estimate_hardware([device]).bound_upper_flop is None


def test_an_upper_end_says_by_which_peaks_it_is_one():
    """Else `at most` in fp32 stands beside what the part can do in bf16, and both read as bounds of the same."""
    by_time = estimate_hardware([h100()], precisions=["fp32"]).estimate
    assert "by stated peaks in fp32: device time × peak" in by_time.note
    by_clock = estimate_hardware([h100(clock=cycles(1000, HOUR))], precisions=["bf16", "fp32"]).estimate
    assert "by stated peaks in bf16 and fp32: device time × peak at the measured clock" in by_clock.note
    by_pipes = estimate_hardware([h100(clock=cycles(1000, HOUR), tensor=cycles(10, HOUR))]).estimate
    assert "by stated rates in any precision" in by_pipes.note
    assert not any("at most" in one.note for one in (by_time, by_clock, by_pipes))
