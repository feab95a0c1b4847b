"""flopmeter doctor."""

import importlib.util
from dataclasses import replace

from flopmeter.formulas.book import FormulaBook
from flopmeter.testing.fake_clusters import h100
from flopmeter.testing.fake_devices import FakeMachine
from flopmeter.testing.fake_nvml import FakeNvml


def test_it_says_what_can_be_measured_here(call):
    """If this failed, a user would find out after the run what was not measured."""
    done = call("doctor", "--json")
    has_torch = importlib.util.find_spec("torch") is not None
    assert done.code == (0 if has_torch else 3)
    assert done.json["book"] == FormulaBook.standard().digest
    assert done.json["multiply_add"] == "2"
    if has_torch:
        assert done.json["self_test"]["passed"] is True
        for answer in done.json["self_test"]["answers"]:
            assert answer["counted_flop"] == answer["expected_flop"] != "0"
    else:
        assert done.json["self_test"] is None
        assert "not installed" in call("doctor").out
    if done.json["nvml"]["driver"] is None:
        assert done.json["nvml"]["note"]
        assert "unknown, not zero" in call("doctor").out


def test_it_says_what_works_and_which_peak_a_device_has(call, monkeypatch):
    """Else a user has to conclude from silence that energy and pipe activity will be there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    unknown = replace(h100(1), name="NVIDIA H100 of somebody's own")
    with FakeNvml(FakeMachine((h100(0), unknown)), speed=1):
        text = call("doctor").out
        devices = call("doctor", "--json").json["nvml"]["devices"]
    assert "energy yes, power yes, pipe activity yes, peak: H100 SXM" in text
    assert "energy yes, power yes, pipe activity yes, peak: unknown" in text
    assert [device["peak"] for device in devices] == ["H100 SXM", None]
    assert "visible    unknown: unlike devices" not in text, "all of them are taken, in whatever order"
    assert "or name UUIDs" in text
    assert "serial" not in devices[0]


def test_what_is_visible_is_said_to_be_unknown_where_it_is(call, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    unknown = replace(h100(1), name="NVIDIA H100 of somebody's own")
    with FakeNvml(FakeMachine((h100(0), unknown))):
        text = " ".join(call("doctor").out.split())
    assert "visible unknown: unlike devices" in text
    assert "set CUDA_DEVICE_ORDER=PCI_BUS_ID or name UUIDs" in text
