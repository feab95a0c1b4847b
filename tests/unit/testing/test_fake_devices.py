"""Scripts of fake machines: values, and the text that the library reads."""

from flopmeter.testing.fake_devices import (
    FakeDevice,
    FakeDriver,
    FakeMachine,
    FakeMig,
    FakeProcess,
    Fault,
    Series,
    nanoseconds,
)


def test_a_series_keeps_its_value_until_the_next_point():
    """Else energy is worked out over other powers than those that were scripted."""
    series = Series.steps({10: 5, 0: 3})
    assert series.points == ((0, 3), (10_000_000_000, 5))
    assert [series.at(at) for at in (-1, 0, 9_999_999_999, 10_000_000_000, 10**12)] == [3, 3, 3, 5, 5]
    assert Series.of(7) == Series(((0, 7),))
    assert Series.of(series) is series


def test_seconds_that_binary_fractions_cannot_hold_are_whole_nanoseconds():
    assert [nanoseconds(seconds) for seconds in (0.1, 1.7, 3600)] == [100_000_000, 1_700_000_000, 3_600_000_000_000]


def test_a_script_says_what_the_values_say():
    """Else the library plays another machine than the one whose truth a test knows."""
    device = FakeDevice(
        uuid="GPU-1",
        serial=None,
        power=Series.steps({0: 5, 1: 7}),
        gpm={5: 12.5},
        resets_s=(3,),
        frozen_s=((1, 2),),
        xid={4: 79},
        processes=(FakeProcess(pid=17, used_bytes=None, until_s=2),),
        migs=(FakeMig(slot=2, uuid="MIG-1", gpm={5: 50}),),
        more_series={"field.230": Series.of(2)},
    )
    text = FakeMachine((device,), FakeDriver(driver="1.2"), (Fault("metric:5", is_nan=True, calls=3),)).to_text()
    lines = text.splitlines()
    for line in (
        "text driver 1.2",
        "fault metric:5 -1 0 0 0 1 1 3 0 9223372036854775807",
        "device 0",
        "text uuid GPU-1",
        "series power 0:5 1000000000:7",
        "series gpm.5 0:12.5",
        "series resets 3000000000:1",
        "series frozen 0:0 1000000000:1 2000000000:0",
        "series xid 4000000000:79",
        "process c 17 - 4294967295 4294967295 90 40 0 2000000000",
        "series field.230 0:2",
        "mig 2",
        "text uuid MIG-1",
    ):
        assert line in lines
    assert not any(line.startswith("text serial") for line in lines)
    assert lines.index("text driver 1.2") < lines.index("device 0") < lines.index("mig 2")


def test_a_script_is_a_file(tmp_path):
    machine = FakeMachine((FakeDevice(uuid="GPU-1"),))
    assert machine.write_script(tmp_path / "script").read_text(encoding="utf-8") == machine.to_text()
