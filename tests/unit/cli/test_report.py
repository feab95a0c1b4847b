"""flopmeter report."""

import json

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


def test_the_figure_of_another_tool_with_the_bridge_there(call, lab):
    """If this failed, a figure from another tool's log could not be set beside ours."""
    done = call("report", "run", "--as", "hf", "--json")
    assert done.code == 0
    assert (done.json["run"], done.json["as"], done.json["missing"]) == ("run", "hf", [])
    tokens = 8 * 2  # of three steps, one is an evaluation
    assert done.json["flop"] == str(6 * (100 - 10) * tokens)
    assert int(done.json["ours"]) + sum(int(line["flop"]) for line in done.json["bridge"]) == int(done.json["flop"])
    words = call("report", "run", "--as", "hf")
    assert words.code == 0
    assert "run run as hf" in words.out


def test_a_figure_that_cannot_be_told_is_no_success(call, lab):
    """If this failed, a script would take an unknown for a figure."""
    done = call("report", "run", "--as", "megatron", "--json")
    assert done.code == 3
    assert done.json["flop"] is None
    assert done.json["bridge"] == []
    assert "--config" in " ".join(done.json["missing"])
    assert call("report", "run", "--as", "mfu").code == 3


def test_sizes_may_come_from_a_configuration(call, lab):
    """If this failed, a run whose model has no configuration could never be set beside Megatron's log."""
    config = {"n_layer": 2, "n_embd": 4, "n_head": 2, "vocab_size": 128, "seq_length": 8}
    (lab / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = call("report", "run", "--as", "palm", "--config", "config.json", "--json")
    assert done.code == 0
    assert done.json["flop"] == str(16 * (6 * 100 + 12 * 2 * 2 * 2 * 8))


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '"x"', '{"seq_length": "8"}', '{"seq_length": 0}', '{"seq_length": NaN}']
)
def test_a_configuration_that_is_none_is_one_sentence(call, lab, text):
    """If this failed, a wrong file would end in a traceback."""
    (lab / "config.json").write_text(text, encoding="utf-8")
    done = call("report", "run", "--as", "palm", "--config", "config.json")
    assert done.code == 2
    assert "config.json" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [("--as", "nonsense"), ("--config", "config.json"), ("--as", "palm", "--config", "nowhere.json"), ("--as",)],
)
def test_wrong_usage_of_conventions_is_said(call, lab, words):
    done = call("report", "run", *words)
    assert done.code == 2
    assert "Traceback" not in done.err
