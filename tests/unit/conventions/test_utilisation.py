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


def given(folder, usage, counts=None):
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
    assert "1 s held by 1 device" in found.inputs["time"]
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
