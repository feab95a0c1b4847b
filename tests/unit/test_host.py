"""HostUsage: what the host's side cost, where missing is never zero."""

import pytest

from flopmeter import wire
from flopmeter.errors import MalformedError
from flopmeter.host import HostUsage

USAGE = HostUsage(cpu_ns=10, peak_bytes=100, cores=4)


def test_times_add_up_and_the_larger_peak_stands():
    """Else a run of a thousand records is said to have needed a thousand times its memory."""
    other = HostUsage(cpu_ns=5, peak_bytes=70, cores=8, note="b")
    assert USAGE + other == HostUsage(cpu_ns=15, peak_bytes=100, cores=8, note="b")


@pytest.mark.parametrize("figure", ["cpu_ns", "peak_bytes", "cores"])
def test_a_figure_missing_once_is_missing_in_the_sum(figure):
    """Else hours that nobody measured are reported as if they had cost nothing."""
    missing = HostUsage(**{"cpu_ns": 1, "peak_bytes": 1, "cores": 1, figure: None})
    assert getattr(USAGE + missing, figure) is None
    assert getattr(missing + USAGE, figure) is None


def test_notes_do_not_pile_up_over_a_long_run():
    total = HostUsage(cpu_ns=0, peak_bytes=0, cores=0, note="a")
    for _ in range(50):
        total = total + HostUsage(note="b") + HostUsage(note="a")
    assert total.note == "a; b"


def test_nothing_else_is_added():
    with pytest.raises(TypeError):
        USAGE + 1


@pytest.mark.parametrize("usage", [USAGE, HostUsage(cpu_ns=0), HostUsage(note="psutil does not load")])
def test_it_survives_the_wire(usage):
    assert HostUsage.from_wire(wire.decode_canonical(wire.encode(usage.to_wire()))) == usage


@pytest.mark.parametrize("value", [None, {}, {**USAGE.to_wire(), "cpu_ns": -1}, {**USAGE.to_wire(), "note": None}])
def test_what_is_no_usage_is_refused(value):
    with pytest.raises(MalformedError):
        HostUsage.from_wire(value)
