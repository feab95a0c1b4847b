"""Ceilings of what a device could have done."""

from flopmeter.devices.peaks import bound_cpu


def test_a_cpus_ceiling_is_stated_and_generous():
    """A ceiling that a machine can beat would call an honest run impossible."""
    assert bound_cpu(1) == 6_000_000_000 * 4096
    assert bound_cpu(64) == 64 * bound_cpu(1)


def test_it_is_above_the_fastest_int8_unit():
    tile = 2 * 16 * 16 * 64 // 16
    assert bound_cpu(1) > tile * 5_000_000_000
