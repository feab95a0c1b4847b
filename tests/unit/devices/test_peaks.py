"""Ceilings of what a device could have done."""

import tomllib
from importlib.resources import files

import pytest

from flopmeter.devices.peaks import bound_cpu, find_peak
from flopmeter.errors import UnknownDeviceError


def test_a_cpus_ceiling_is_stated_and_generous():
    """A ceiling that a machine can beat would call an honest run impossible."""
    assert bound_cpu(1) == 6_000_000_000 * 4096
    assert bound_cpu(64) == 64 * bound_cpu(1)


def test_it_is_above_the_fastest_int8_unit():
    tile = 2 * 16 * 16 * 64 // 16
    assert bound_cpu(1) > tile * 5_000_000_000


def test_peaks_are_dense_and_by_precision():
    """Else a utilisation would be half of what it is, as where a sparse peak was taken."""
    assert find_peak("NVIDIA H100 80GB HBM3", "bf16").flop_per_s == 989_400 * 10**9
    assert find_peak("NVIDIA A100-SXM4-80GB", "tf32").flop_per_s == 156 * 10**12


def test_a_pair_of_precisions_has_a_peak():
    assert find_peak("NVIDIA H100 80GB HBM3", "fp8_e5m2*fp8_e4m3").flop_per_s == 1_978_900 * 10**9


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("NVIDIA H100", "bf16"),
        ("nvidia h100 80gb hbm3", "bf16"),
        ("NVIDIA A100-SXM4-80GB", "fp8_e4m3"),
        ("NVIDIA H100 80GB HBM3", "fp8_e5m2*nvfp4"),
        ("", "bf16"),
    ],
)
def test_a_device_or_a_precision_that_is_not_in_the_table_has_no_peak(device, precision):
    """Else an L40S gets the peak of an L4, as elsewhere."""
    with pytest.raises(UnknownDeviceError):
        find_peak(device, precision)


def test_every_row_says_where_it_is_from():
    """Else nobody can check a utilisation."""
    for row in tomllib.loads((files("flopmeter.devices") / "peaks.toml").read_text(encoding="utf-8"))["device"]:
        assert row["source"]
        assert row["date"]
        for precision, peak in row["gflop_per_s"].items():
            assert type(peak) is int
            assert find_peak(row["names"][0], precision).flop_per_s == peak * 10**9
