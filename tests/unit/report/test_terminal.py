"""The report in words: what it must say, whatever it looks like."""

from pathlib import Path

from flopmeter.account import Account
from flopmeter.formulas.book import FormulaBook
from flopmeter.regimes.regime import find
from flopmeter.report.summary import summarize
from flopmeter.report.terminal import render_account
from flopmeter.step import Chance
from flopmeter.testing.ledgers import STEP_NS, ScriptedSegment, product_table, recorded_ledger
from flopmeter.usage import DeviceUsage, Usage


def test_it_says_what_ran_and_how_sure_that_is(tmp_path: Path) -> None:
    """If this failed, a person would read a figure without its interval."""
    text = render_account(Account.of(recorded_ledger(tmp_path)), name="tiny")
    assert "FLOP executed 630 FLOP" in text
    assert "known to lie between 270 FLOP (counted)" in text
    assert "4 passages counted" not in text
    assert "passages: 5 counted, 6 replayed\n" in text
    assert "of the metered time; what was chosen is not known" in text
    assert "0 audits: too few to say how many of the 6 passages" in text
    assert "uncounted: nothing" in text
    assert "gaps in the count: none" in text


def test_it_says_what_audits_bound_and_what_was_chosen(tmp_path: Path) -> None:
    """If this failed, nobody could tell a figure that was audited from one that was not."""
    header = {"book": "ab" * 32, "convention": "fm-1", "exact": False, "overhead_budget": "0.01"}
    chance = Chance(one_in=64, longest_ns=STEP_NS)
    with ScriptedSegment(tmp_path, header=header) as segment:
        segment.run(product_table(), times=20_000, audits=20_000)
        segment.run(product_table(), times=10**6, basis="replayed", chance=chance)
        segment.run(product_table(), basis="modelled")
        segment.end()
    with ScriptedSegment(tmp_path, header={**header, "exact": True}) as segment:
        segment.run(product_table(), audits=1, misses=1)
        segment.end()
    text = " ".join(render_account(Account.of(tmp_path), name="tiny").split())
    chosen = "chosen was counting within 1 % of the time, then everything to be counted (exact)"
    assert "passages: 20,001 counted, 1,000,000 replayed, 1 assumed metering took" in text
    assert f"of the metered time; {chosen}" in text
    assert (
        "20,001 audits, 1 with another result: with 95 % confidence, no more than 321 of the 1,000,001 passages" in text
    )
    assert "known to lie between 6.12e+07 FLOP and 3.21e+11 FLOP" in text.replace("6.12e+07 FLOP (counted)", "")
    summary = summarize(Account.of(tmp_path), name="tiny")["replay"]
    assert {**summary, "overhead_fraction": None} == {
        "counted_passages": "20001", "replayed_passages": "1000000", "interpolated_passages": "0",
        "sampled_passages": "0", "modelled_passages": "1", "audits": "20001", "mismatches": "1",
        "unsure_passages": "321", "budgets": ["0.01", "exact"], "overhead_fraction": None,
    }  # fmt: skip


def test_a_budget_that_is_no_number_is_shown_as_it_is(tmp_path: Path) -> None:
    """If this failed, a header of somebody else's would end the report in a traceback."""
    with ScriptedSegment(tmp_path, header={"book": "ab" * 32, "overhead_budget": "as little as can be"}) as segment:
        segment.run(product_table())
        segment.end()
    assert "within 'as little as can be' of the time" in " ".join(
        render_account(Account.of(tmp_path), name="tiny").split()
    )


def test_what_is_unknown_is_said_in_words(tmp_path: Path) -> None:
    """If this failed, an unknown would be read as a zero."""
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(unknown=7), usage=Usage((), ("no NVIDIA driver: not found",)))
        segment.note("gap", {"reason": "failure", "detail": "a made-up fault", "ns": None, "ceiling_flop_per_s": None})
        segment.end()
    account = Account.of(tmp_path)
    text = render_account(account, name="tiny", findings=[find("eu.gpai.systemic").assess(account)])
    assert "nothing bounds the rest" in text
    assert "NVIDIA devices: no NVIDIA driver: not found; device time and energy are unknown, not zero" in text
    assert "mylib::attn: 7 calls" in text
    assert "gap (failure, segment 0, unbounded): a made-up fault" in text
    assert "cannot-tell" in text


def test_devices_stand_with_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    """If this failed, device time would look complete where it is not."""
    usage = Usage.of([DeviceUsage(uuid="GPU-1", name="H100", held_ns=2_000_000_000, energy_mj=5_000)])
    with ScriptedSegment(tmp_path) as segment:
        segment.run(product_table(), usage=usage)
        segment.end()
    text = render_account(Account.of(tmp_path), name="tiny")
    (line,) = [line for line in text.splitlines() if line.startswith("H100 1 ")]
    assert line.split() == ["H100", "1", "2", "s", "unknown", "5", "J", "unknown", "unknown"]


def test_a_device_that_was_lost_is_a_bounded_gap_and_none_of_the_count(tmp_path: Path) -> None:
    """If this failed, `gaps: none` would stand below a device that was lost for minutes."""
    lost = DeviceUsage(uuid="GPU-3e38d5b6-1", name="NVIDIA H100 80GB HBM3", held_ns=1, unseen_ns=275_000_000_000)
    with ScriptedSegment(tmp_path) as segment:
        segment.note("device", {"uuid": lost.uuid, "name": lost.name, "pci": "0x233010de"})
        segment.run(product_table(), usage=Usage.of([lost]))
        segment.end()
    account = Account.of(tmp_path)
    text = render_account(account, name="tiny", width=200)
    assert "gaps in the count: none" in text
    assert "devices not seen: GPU-3e38d5b6 for 4.6 min, between nothing and 6.16e+17 FLOP" in text
    assert "that is no gap in the count" in text
    assert account.lower == account.upper == account.flop, "what was counted is counted"


def test_a_long_list_is_cut_and_says_so(tmp_path: Path) -> None:
    """If this failed, a thousand gaps would hide the rest of the report."""
    with ScriptedSegment(tmp_path) as segment:
        for number in range(15):
            body = {"reason": "failure", "detail": f"fault {number}", "ns": "0", "ceiling_flop_per_s": None}
            segment.note("gap", body)
        segment.end()
    text = render_account(Account.of(tmp_path), name="tiny")
    assert "fault 9" in text
    assert "fault 10" not in text
    assert "and 5 more gaps" in text


def test_a_ledger_written_with_another_book_says_so(tmp_path: Path) -> None:
    """If this failed, figures by private formulas would pass for those of the convention."""
    standard = FormulaBook.standard().digest
    for name, header in (
        ("standard", {"book": standard, "convention": "fm-1"}),
        ("other", {"book": "ab" * 32, "convention": "fm-1", "foreign_formulas": {"mylib::attn": "mylib.flop.count"}}),
    ):
        with ScriptedSegment(tmp_path / name, header=header) as segment:
            segment.run(product_table())
            segment.end()
    texts = {name: render_account(Account.of(tmp_path / name), name="tiny") for name in ("standard", "other")}
    assert "another book" not in texts["standard"]
    assert "formulas: another book than the standard one of this version" in texts["other"]
    assert "mylib::attn is priced by mylib.flop.count" in texts["other"]
    summaries = {name: summarize(Account.of(tmp_path / name), name="tiny") for name in texts}
    assert (summaries["standard"]["is_standard_book"], summaries["standard"]["foreign_formulas"]) == (True, {})
    assert summaries["other"]["foreign_formulas"] == {"mylib::attn": "mylib.flop.count"}
    assert summaries["other"]["is_standard_book"] is False


def test_what_a_ledger_calls_things_is_neither_markup_nor_moves_the_cursor(tmp_path):
    """Else a device or an operator with an odd name breaks the report, or rewrites what stands above it."""
    odd = "[/]\x1b[2J"
    with ScriptedSegment(tmp_path) as segment:
        device = DeviceUsage(uuid=odd, name=odd, held_ns=10**9, note=odd)
        segment.note("gap", {"reason": "failure", "detail": odd, "ns": "1", "upper_flop": None})
        segment.run(product_table(), usage=Usage.of([device], [odd]))
        segment.end()
    text = render_account(Account.of(tmp_path), name=odd)
    assert "\x1b" not in text
    assert text.count("[/][2J") >= 4
