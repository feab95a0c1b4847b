"""flopmeter doctor."""

import importlib.util

from flopmeter.formulas.book import FormulaBook


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
