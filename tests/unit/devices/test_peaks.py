"""Ceilings of what a device could have done, and which device it is."""

from fractions import Fraction

import pytest

from flopmeter.devices.peaks import (
    beside_flop_per_s,
    bound_capability,
    bound_cpu,
    find_columns,
    find_fastest,
    find_peak,
    flop_per_cycle,
    identify,
    most_flop_per_s,
    print_device_id,
)
from flopmeter.devices.table import PeakTable
from flopmeter.errors import UnknownDeviceError

H100 = "NVIDIA H100 80GB HBM3"
TABLE = PeakTable.standard()


def part(name):
    return TABLE.find_name(name)


def test_a_cpus_ceiling_is_stated_and_generous():
    """A ceiling that a machine can beat would call an honest run impossible."""
    assert bound_cpu(1) == 6_000_000_000 * 4096
    assert bound_cpu(64) == 64 * bound_cpu(1)


def test_it_is_above_the_fastest_int8_unit():
    tile = 2 * 16 * 16 * 64 // 16
    assert bound_cpu(1) > tile * 5_000_000_000


def test_peaks_are_dense_and_by_precision():
    """Else a utilisation would be half of what it is, as where a sparse peak was taken."""
    assert find_peak(H100, "bf16").flop_per_s == 989_400 * 10**9
    assert find_peak("NVIDIA A100-SXM4-80GB", "tf32").flop_per_s == 156 * 10**12


def test_a_pair_of_precisions_has_the_lower_peak():
    assert find_peak(H100, "fp8_e5m2*fp8_e4m3").flop_per_s == 1_978_900 * 10**9
    assert find_peak(H100, "bf16*fp8_e4m3").flop_per_s == 989_400 * 10**9


def test_fp64_is_that_of_the_tensor_pipes_where_there_are_such():
    """Else products in fp64 would be above what the device is said to do."""
    assert find_peak(H100, "fp64").flop_per_s == 66_900 * 10**9
    assert find_peak("Tesla V100-SXM2-16GB", "fp64").flop_per_s == 7_800 * 10**9


def test_scaled_formats_have_a_peak_where_there_is_hardware_for_them():
    """A Hopper part computes mxfp8 in other steps; its fp8 peak would be a guess."""
    assert find_peak("NVIDIA B200", "mxfp8").flop_per_s == 4_500 * 10**12
    assert find_peak("NVIDIA B200", "nvfp4").flop_per_s == 9_000 * 10**12
    assert find_columns(part(H100), "mxfp8") is None


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("NVIDIA H100", "bf16"),
        ("nvidia h100 80gb hbm3", "bf16"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
        ("NVIDIA A100-SXM4-80GB", "fp8_e4m3"),
        (H100, "fp8_e5m2*nvfp4"),
        (H100, ""),
        ("NVIDIA L20", "bf16"),
        ("", "bf16"),
    ],
)
def test_a_device_or_a_precision_that_is_not_in_the_table_has_no_peak(device, precision):
    """Else an L40S gets the peak of an L4, as elsewhere."""
    with pytest.raises(UnknownDeviceError):
        find_peak(device, precision)


def test_an_id_comes_out_of_what_nvml_gives():
    assert print_device_id(0x233010DE) == "2330"
    assert print_device_id(0x1DB110DE) == "1DB1"
    assert print_device_id(0x74A11002) == ""


@pytest.mark.parametrize(
    ("device_id", "name"),
    [
        ("2330", "NVIDIA H100 PCIe"),
        ("2331", H100),
        ("2330", "NVIDIA H100"),
        ("20B0", "NVIDIA A100-SXM4-80GB"),
        ("20B0", "GRID A100X-40C"),
    ],
)
def test_an_id_and_a_name_that_contradict_each_other_have_no_peak(device_id, name):
    """Else a slice of a card, or a card that pretends, gets the peak of the whole."""
    identity = identify(device_id=device_id, name=name)
    assert (identity.status, identity.part) == ("inconsistent", None)
    assert identity.words.startswith("identity inconsistent, peak unknown")
    assert repr(name) in identity.words
    with pytest.raises(UnknownDeviceError, match="identity inconsistent"):
        find_peak(name, "bf16", device_id=device_id)


def test_an_unknown_id_has_no_peak_even_under_a_known_name():
    """Names are shared by parts that differ; the id is what counts."""
    identity = identify(device_id="2337", name=H100)
    assert (identity.status, identity.part) == ("unknown", None)
    assert "under 2330" in identity.words


def test_what_is_unknown_comes_with_what_to_do():
    for identity in (identify(device_id="FFFF", name="NVIDIA X1"), identify(name="NVIDIA X1"), identify()):
        assert identity.status == "unknown"
        assert "TOML" in identity.words
    slice_ = identify(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    assert "slice" in slice_.words


def test_either_of_id_and_name_is_enough_where_the_other_is_not_known():
    assert identify(device_id="2330").part is identify(name=H100).part is identify(device_id="2330", name=H100).part


def test_the_fastest_figure_minds_what_a_kernel_may_accumulate_in():
    """Else a card for games that accumulates in fp16 would be above its ceiling."""
    assert find_fastest(part("NVIDIA GeForce RTX 4090"), "fp16") == "fp16_acc16"
    assert find_fastest(part("NVIDIA GeForce RTX 4090"), "bf16") == "bf16"
    assert find_fastest(part("NVIDIA GeForce RTX 4090"), "fp8_e4m3*bf16") == "bf16"
    assert find_fastest(part(H100), "fp16") == "fp16"
    assert find_fastest(part(H100), "fp4") is None


def test_no_figure_of_a_part_is_above_the_most_it_can_do():
    """Else an honest run at the highest clock would be called impossible."""
    bounded = 0
    for one in TABLE.parts:
        most = most_flop_per_s(one)
        if most is not None:
            bounded += 1
            assert most > max(one.dense.values())
    assert bounded > 20


def test_the_most_is_every_pipe_at_the_highest_clock():
    """A datasheet's peak is not the most: an H100's clock goes 8 % above the one it assumes."""
    h100 = part(H100)
    assert most_flop_per_s(h100) == 132 * 1_980_000_000 * (8192 + 256 + 128)
    assert most_flop_per_s(h100, clock_mhz=2100) == 132 * 2_100_000_000 * (8192 + 256 + 128)
    assert most_flop_per_s(h100, clock_mhz=600) == most_flop_per_s(h100)
    assert most_flop_per_s(TABLE.find_id("3182")) is None
    assert most_flop_per_s(part("NVIDIA L20")) is None


def test_a_measured_h100_nvl_is_above_its_datasheet_and_below_the_most():
    """973 TFLOP/s were measured on one; a ceiling that calls this impossible is wrong."""
    nvl = part("NVIDIA H100 NVL")
    assert nvl.dense["bf16"] < 978 * 10**12 < most_flop_per_s(nvl)


def test_a_capability_bounds_what_is_unknown_and_no_more():
    """Parts of one capability differ by four; one figure for all of them would be another card's."""
    bound = bound_capability("9.0", sms=78, clock_mhz=1980, precisions=["bf16"])
    assert bound.lower_flop_per_s == 78 * 1_980_000_000 * 1024
    assert bound.upper_flop_per_s == 78 * 1_980_000_000 * 4096
    assert "a bound, not a peak" in bound.words
    assert bound_capability("13.0", sms=78, clock_mhz=1980) is None
    assert bound_capability("8.0", sms=108, clock_mhz=1410, precisions=["fp8_e4m3"]) is None
    widest = bound_capability("8.0", sms=1, clock_mhz=1)
    assert (widest.lower_flop_per_s, widest.upper_flop_per_s) == (64 * 10**6, 4096 * 10**6)


def test_every_part_lies_within_the_bound_of_its_capability():
    bounded = 0
    for one in TABLE.parts:
        if one.sms is not None:
            bounded += 1
            bound = bound_capability(one.capability, sms=one.sms, clock_mhz=one.clock_mhz, precisions=["fp16"])
            assert bound.lower_flop_per_s * 98 <= one.dense["fp16"] * 100 <= bound.upper_flop_per_s * 102
    assert bounded > 20


def test_a_slice_does_what_its_sms_do():
    """A slice of a seventh that is given the card's peak looks idle."""
    h100 = part(H100)
    assert flop_per_cycle(h100, "bf16", slice_sms=16) == 16 * 4096
    assert flop_per_cycle(h100, "bf16") == Fraction(989_400 * 10**9, 1_830_000_000)
    assert flop_per_cycle(h100, "fp4") is None
    assert flop_per_cycle(h100, "fp4", slice_sms=16) is None
    assert flop_per_cycle(TABLE.find_name("NVIDIA B300 SXM6 AC"), "int8", slice_sms=4) is None


def test_what_runs_beside_tensor_pipes_is_above_every_figure_without_them():
    """Else packed half precision on vector pipes makes an honest run impossible: 78 TFLOPS on an A100."""
    a100 = TABLE.find_name("NVIDIA A100-SXM4-80GB")
    assert beside_flop_per_s(a100) >= 78 * 10**12 + a100.dense["fp64"]
    for part in TABLE.parts:
        beside = beside_flop_per_s(part)
        assert beside is None or beside >= max(part.dense.get(name, 0) for name in ("fp32", "fp64"))
        assert beside is None or beside_flop_per_s(part, clock_mhz=9000) > beside
