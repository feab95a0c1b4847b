"""A statement that contradicts itself is caught without any ledger."""

import pytest

from flopmeter.attestation.arithmetic import check_arithmetic
from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.statement import Statement
from flopmeter.errors import MismatchError


def statement_of(data) -> Statement:
    return Statement.from_bytes(Attestation.from_bytes(data).payload)


def test_an_honest_statement_holds(attested):
    assert "follow from each other" in check_arithmetic(statement_of(attested.data))


def compute(**fields):
    return lambda v: v["predicate"]["compute"].update(fields)


def bump(*path):
    """Raise a decimal string somewhere by one."""

    def change(value):
        at = value["predicate"]
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = str(int(at[path[-1]]) + 1)

    return change


GAP = {"reason": "x", "detail": "", "rank": "0", "segment": "0", "times": "1", "ns": None, "upperFlop": None}
LIMIT = {
    "id": "made-up",
    "flop": "1000",
    "basis": "stage",
    "relation": "below",
    "rule": {"counts": "all", "figure": "flop", "nearPercent": "50"},
}


@pytest.mark.parametrize(
    "change",
    [
        bump("compute", "flop"),
        bump("compute", "lower"),
        bump("compute", "contractionFlop"),
        *(bump("compute", "by", name, value) for name, value in (("phase", "forward"), ("kind", "matmul"))),
        *(bump("compute", "by", name, value) for name, value in (("precision", "bf16"), ("basis", "counted"))),
        bump("compute", "by", "purpose", "evaluation"),
        compute(upper="1"),
        compute(lower="99999999"),
        bump("compute", "methods", 0, "flop"),
        bump("compute", "methods", 1, "flop"),
        bump("model", "tokens"),
        bump("model", "parameters"),
        lambda v: v["predicate"]["model"].update(embedding="101"),
        lambda v: v["predicate"]["compute"]["methods"][1].update(inputs={}),
        bump("ledger", "entries"),
        lambda v: v["predicate"]["ledger"].update(head="0" * 64),
        lambda v: v["predicate"]["ledger"].update(heads=[], entries="0"),
        lambda v: v["predicate"]["stage"].update(finishedOn=None),
        lambda v: v["predicate"]["stage"].update(status="running"),
        bump("sequence"),
        lambda v: v["predicate"].update(previous="0" * 64),
        lambda v: v["predicate"]["subjects"].update(recorded=[]),
        lambda v: v["predicate"]["usage"].update(energyMj="5"),
        lambda v: v["predicate"].update(thresholds=[{**LIMIT, "relation": "below", "flop": "1"}]),
        lambda v: v["predicate"].update(reason="threshold-crossed", thresholds=[{**LIMIT, "flop": "9" * 30}]),
        lambda v: v["predicate"].update(reason="threshold-near"),
        lambda v: v["predicate"]["coverage"].update(gaps=[GAP]),
    ],
)
def test_a_figure_that_does_not_follow_is_caught(attested, forge, change):
    """Else a signer could claim a sum that the parts beside it disprove."""
    with pytest.raises(MismatchError):
        check_arithmetic(statement_of(forge(attested.data, change)))


def test_a_true_relation_holds(attested, forge):
    flop = statement_of(attested.data).flop
    for number, relation in ((flop, "atOrAbove"), (2 * flop, "near"), (2 * flop + 1, "below")):
        limit = {**LIMIT, "flop": str(number), "relation": relation}
        check_arithmetic(
            statement_of(forge(attested.data, lambda v, limit=limit: v["predicate"].update(thresholds=[limit])))
        )


def test_what_was_not_computed_again_is_said(attested, forge):
    """Else a reader takes a figure for checked that nobody checked."""

    def change(value):
        value["predicate"]["thresholds"] = [{**LIMIT, "rule": {**LIMIT["rule"], "counts": "without-evaluation"}}]
        value["predicate"]["compute"]["methods"][2]["flop"] = "5"

    said = check_arithmetic(statement_of(forge(attested.data, change)))
    assert "made-up counts by a rule" in said
    assert "hardware was not computed again" in said
