"""The report as JSON has every field of the contract."""

from pathlib import Path

from flopmeter.account import Account
from flopmeter.report.summary import summarize
from flopmeter.testing.ledgers import ScriptedSegment, product_table, recorded_ledger
from flopmeter.usage import DeviceUsage, Usage

CONTRACT = {
    "run", "steps", "tokens", "ranks", "flop", "lower", "upper", "int_op", "masked_flop", "contraction_flop", "by",
    "uncounted", "replay", "usage", "estimates", "findings", "gaps", "ledger",
}  # fmt: skip


def test_every_field_of_the_contract_is_there(tmp_path: Path) -> None:
    """If this failed, programs that read our reports would break."""
    summary = summarize(Account.of(recorded_ledger(tmp_path, lives=2)), name="tiny")
    assert set(summary) >= CONTRACT
    assert set(summary["by"]) == {"phase", "kind", "precision", "purpose", "basis"}
    assert set(summary["replay"]) >= {
        "counted_passages", "replayed_passages", "interpolated_passages", "sampled_passages", "audits", "mismatches",
        "overhead_fraction",
    }  # fmt: skip
    assert [estimate["method"] for estimate in summary["estimates"]] == ["counted", "6nd", "hardware"]
    assert set(summary["usage"]) >= {"held_s", "busy_s", "energy_mj", "devices"}
    assert set(summary["ledger"]) >= {"entries", "head"}


def test_counts_are_decimal_strings_and_unknown_is_null(tmp_path: Path) -> None:
    """If this failed, a reader in JavaScript would round 10^25, or take unknown for zero."""
    summary = summarize(Account.of(recorded_ledger(tmp_path, is_closed=False)), name="tiny")
    assert summary["flop"] == "630"
    assert summary["upper"] is None
    assert summary["usage"]["held_s"] is None
    assert summary["by"]["phase"] == {"backward": "300", "forward": "300", "inference": "30"}
    assert summary["replay"]["replayed_passages"] == "6"


def test_gpu_hours_and_devices_that_were_not_seen_stand_there(tmp_path: Path) -> None:
    """If this failed, a program would take a device that was lost for one that rested."""
    lost = DeviceUsage(uuid="GPU-1", name="NVIDIA H100 80GB HBM3", held_ns=3600 * 10**9, unseen_ns=1800 * 10**9)
    with ScriptedSegment(tmp_path) as segment:
        segment.note("device", {"uuid": "GPU-1", "name": lost.name, "pci": "0x233010de"})
        segment.run(product_table(), usage=Usage.of([lost]))
        segment.end()
    summary = summarize(Account.of(tmp_path), name="tiny")
    assert summary["gaps"] == []
    (unseen,) = summary["devices_not_seen"]
    assert (unseen["uuid"], unseen["ns"]) == ("GPU-1", str(1800 * 10**9))
    assert int(unseen["most_flop"]) == 1800 * int(unseen["most_flop_per_s"])
    total = summary["usage"]["all_devices"]
    assert (total["held_gpu_hours"], total["not_seen_gpu_hours"], total["busy_gpu_hours"]) == (1.0, 0.5, None)
    assert total["partial"] == {"held_ns": "1", "busy_ns": "1", "energy_mj": "1"}
