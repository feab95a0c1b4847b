"""MFU and HFU: numerator, denominator, and when there is none."""

import pytest

from flopmeter.account import Account
from flopmeter.conventions.translation import Given
from flopmeter.conventions.utilisation import translate_hfu, translate_mfu
from flopmeter.ledger.merge import read_run
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage

H100 = "NVIDIA H100 80GB HBM3"
PEAK = 989_400 * 10**9
SECOND = 10**9


def count(kind="matmul", phase="forward", flop=1, precision="bf16"):
    return OpCount(op=f"x::{kind}", kind=kind, phase=phase, precision=precision, calls=1, flop=flop)


def given(folder, usage, counts=None, says=None):
    loose = Tally.of(
        counts
        or [
            count(flop=PEAK // 4),
            count("attention", phase="backward", flop=PEAK // 4),
            count("attention", phase="recompute", flop=PEAK // 10),
            count("pointwise", phase="recompute", flop=7),
            count("normalization", flop=9),
            count(phase="optimizer", flop=11),
            count(phase="inference", flop=13),
        ]
    )
    with ScriptedSegment(folder / "run") as segment:
        if says is not None:
            segment.note("device", says)
        segment.run(loose=loose, usage=usage)
        segment.end()
    ledger = read_run(folder / "run")
    return Given.of(Account.of(ledger), ledger)


def device(name=H100, held_ns=SECOND, uuid="GPU-1", note=""):
    return DeviceUsage(uuid=uuid, name=name, held_ns=held_ns, note=note)


def test_a_rank_without_device_time_leaves_the_ratio_unknown(tmp_path):
    """Else the work of two machines over the time of one would be a utilisation twice too high."""
    for rank, usage in enumerate((Usage.of([device()]), Usage.of([], ["no NVIDIA driver"]))):
        with ScriptedSegment(tmp_path, rank=rank) as segment:
            segment.run(loose=Tally.of([count(flop=PEAK // 4)]), usage=usage)
            segment.end()
    ledger = read_run(tmp_path)
    found = translate_mfu(Given.of(Account.of(ledger), ledger))
    assert (found.flop, found.fraction) == (None, None)
    assert found.missing == ("device time of what ran on rank 1: none was measured there",)


def test_mfu_is_forward_and_backward_over_dense_peak_and_held_time(tmp_path):
    """Else a utilisation would not say of what."""
    found = translate_mfu(given(tmp_path, Usage.of([device()])))
    assert found.flop == 2 * (PEAK // 4)
    assert found.fraction == pytest.approx(0.5)
    assert found.inputs["denominator_flop"] == str(PEAK)
    assert found.inputs["precision"].startswith("bf16")
    assert "989,400,000,000,000 FLOP/s dense" in found.inputs["peaks"]
    assert found.inputs["time"] == "1 device-second of 1 device"
    assert {line.term: line.flop for line in found.bridge} == {
        "evaluation and inference": -13,
        "recomputation": -(PEAK // 10) - 7,
        "optimizer": -11,
        "norms, softmax, activations, sums, scatter": -9,
    }


def test_hfu_has_the_products_of_recomputation_besides(tmp_path):
    found = translate_hfu(given(tmp_path, Usage.of([device()])))
    assert found.fraction == pytest.approx(0.6)
    assert {line.term: line.flop for line in found.bridge}["recomputation"] == -7


def test_devices_add_up(tmp_path):
    """Else eight devices would be as fast as one."""
    usage = Usage.of([device(), device(uuid="GPU-2", name="NVIDIA A100-SXM4-80GB")])
    found = translate_mfu(given(tmp_path, usage))
    assert found.inputs["denominator_flop"] == str(PEAK + 312 * 10**12)


def test_the_peak_is_that_of_the_precision_in_which_most_ran(tmp_path):
    """Else a run in TF32 would be measured against the peak of bf16."""
    counts = [count(flop=1, precision="bf16"), count(flop=494_700 * 10**9 // 2, precision="tf32")]
    found = translate_mfu(given(tmp_path, Usage.of([device()]), counts))
    assert found.inputs["precision"].startswith("tf32")
    assert found.fraction == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        (Usage.of([], ["no NVIDIA driver"]), "device time: no NVIDIA driver"),
        (Usage.of([]), "none was measured"),
        (Usage.of([device(held_ns=None, note="reset")]), "reset"),
        (Usage.of([device(name="NVIDIA H100")]), "no peak is known of 'NVIDIA H100'"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_guessed(tmp_path, usage, said):
    """Else an unknown device would have the peak of one with a similar name, and no time would be no use."""
    found = translate_mfu(given(tmp_path, usage))
    assert found.flop is None
    assert said in " ".join(found.missing)


def test_time_in_which_a_device_was_not_seen_leaves_the_ratio_between_two(tmp_path):
    """Else a run of which half was not seen has twice the utilisation, and exits as if that were known."""
    unseen = DeviceUsage(uuid="GPU-12345678-9", name=H100, held_ns=SECOND, unseen_ns=SECOND)
    found = translate_mfu(given(tmp_path, Usage.of([unseen])))
    assert (found.flop, found.fraction) == (None, None)
    said = "device time: not seen were GPU-12345678 for 1 s; MFU lies between 25 % and 50 %"
    assert found.missing == (f"{said}, with that time and without it",)


def test_the_edges_of_held_time_are_said_beside_the_ratio(tmp_path):
    """Else a run of two samples has a utilisation to three digits."""
    edged = DeviceUsage(uuid="GPU-1", name=H100, held_ns=SECOND, edge_ns=SECOND)
    found = translate_mfu(given(tmp_path, Usage.of([edged])))
    assert found.fraction == pytest.approx(0.5)
    assert "MFU lies between 25 % and 50 %" in " ".join(found.notes)


def test_an_energy_that_lacks_is_no_matter_of_time(tmp_path):
    """What is partial of a device is its energy here, and its time is whole: it was printed as 0 s."""
    device_of_two = DeviceUsage(
        uuid="GPU-1", name=H100, held_ns=2 * SECOND, energy_mj=None, missing={"busy_ns": SECOND}
    )
    assert translate_mfu(given(tmp_path, Usage.of([device_of_two]))).inputs["time"] == "2 device-seconds of 1 device"


def test_a_peak_is_that_of_id_and_name_together(tmp_path):
    """Else a virtual card has the peak of a whole one here, and none in the report."""
    liar = {"uuid": "GPU-1", "name": H100, "pci": "0x20b210de"}
    found = translate_mfu(given(tmp_path, Usage.of([device()]), says=liar))
    assert found.flop is None
    assert "identity inconsistent, peak unknown" in found.missing[0]


@pytest.mark.parametrize(
    ("fields", "says", "missing"),
    [
        ({"name": "unknown", "held_ns": 0, "unseen_ns": SECOND}, None, "which part GPU-1 is: it never answered"),
        ({}, {"uuid": "GPU-1", "name": H100, "sms": "16"}, "it is a slice"),
    ],
)
def test_what_a_denominator_lacks_is_not_a_row_of_the_table(tmp_path, fields, says, missing):
    """Else whoever has a device that never answered is told to add a row for a card called unknown."""
    one = DeviceUsage(**{"uuid": "GPU-1", "name": H100, "held_ns": SECOND, **fields})
    found = " ".join(translate_mfu(given(tmp_path, Usage.of([one]), says=says)).missing)
    assert missing in found
    assert "add a row" not in found


def test_a_precision_without_a_peak_is_named(tmp_path):
    found = translate_mfu(given(tmp_path, Usage.of([device()]), [count(precision="nvfp4")]))
    assert "in nvfp4" in found.missing[0]


def test_a_run_without_products_has_no_utilisation(tmp_path):
    found = translate_mfu(given(tmp_path, Usage.of([device()]), [count("pointwise")]))
    assert "products" in found.missing[0]


def test_our_scripted_tables_are_products(tmp_path):
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(product_table(dtype="bf16"), usage=Usage.of([device()]))
        segment.end()
    ledger = read_run(tmp_path / "run")
    assert translate_mfu(Given.of(Account.of(ledger), ledger)).flop == 60
