"""The report as JSON has every field of the contract."""

from pathlib import Path

from flopmeter.account import Account
from flopmeter.report.summary import summarize
from flopmeter.testing.ledgers import recorded_ledger

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
