"""flopmeter report."""

import pytest


def test_it_prints_words_and_json(call, lab):
    """If this failed, neither people nor programs could read a run."""
    words = call("report", "run")
    assert words.code == 0
    assert "FLOP executed 630 FLOP" in words.out
    done = call("report", "run", "--json")
    assert done.code == 0
    assert (done.json["run"], done.json["flop"], done.json["steps"]) == ("run", "630", "3")
    assert "eu.gpai.systemic" in {finding["regime"] for finding in done.json["findings"]}


def test_one_regime_can_be_named(call, lab):
    """If this failed, a user's own rule could not be asked."""
    done = call("report", "run", "--json", "--regime", "kr.safety")
    assert [finding["regime"] for finding in done.json["findings"]] == ["kr.safety"]


@pytest.mark.parametrize(
    ("words", "code"),
    [(("report", "nowhere"), 2), (("report", "run", "--regime", "eu.nonsense"), 2), (("report",), 2)],
)
def test_bad_input_is_one_sentence(call, lab, words, code):
    """If this failed, a typo would end in a traceback."""
    done = call(*words)
    assert done.code == code
    assert "Traceback" not in done.err
    assert done.err.strip()


def test_a_changed_ledger_is_a_no(call, lab):
    """If this failed, a report would print figures from a forged ledger."""
    file = lab / "run" / "ledger" / "0-0.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"tokens":"8"', b'"tokens":"9"', 1))
    done = call("report", "run")
    assert done.code == 1
    assert "it was changed" in done.err
    assert done.out == ""
