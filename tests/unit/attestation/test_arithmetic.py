"""A statement that contradicts itself is caught without any ledger."""

import pytest

from flopmeter.attestation.arithmetic import check_arithmetic
from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.statement import Statement
from flopmeter.errors import MismatchError, UnsupportedError


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


def device(**fields):
    """Return a device as a statement has it: held for a hundred, busy for ninety."""
    known = {"uuid": "GPU-1", "name": "x", "note": "", "heldNs": "100", "busyNs": "90", "energyMj": "7"}
    return {**known, "unseenNs": "0", "missingNs": {}, **fields}


def using(*devices, **totals):
    def change(value):
        value["predicate"]["usage"].update(devices=list(devices), **totals)

    return change


@pytest.mark.parametrize(
    ("devices", "totals", "words"),
    [
        ([device(busyNs="101")], {"busyNs": "101"}, "busyNs of GPU-1 is 101, more than the 100 ns"),
        ([device(missingNs={"busyNs": "11"})], {"busyNs": None}, "more than the 89 ns in which that was measured"),
        (
            [device(missingNs={"energyMj": "101"})],
            {"energyMj": None},
            "energyMj of GPU-1 is missing for 101 ns of the 100",
        ),
        ([device(missingNs={"sm_cycles": "1"})], {}, "missingNs of GPU-1 names 'sm_cycles'"),
        (
            [device(heldNs=None, busyNs=None, missingNs={"energyMj": "1"})],
            {"heldNs": None, "busyNs": None, "energyMj": None},
            "missing for 1 ns of the unknown that it was held",
        ),
        ([device(), device()], {"heldNs": "200", "busyNs": "180", "energyMj": "14"}, "has GPU-1 2 times"),
    ],
)
def test_a_device_that_contradicts_itself_is_caught(attested, forge, devices, totals, words):
    """Else a device was busy for longer than it was held, and its energy twice that of the card."""
    known = {"heldNs": "100", "busyNs": "90", "energyMj": "7"}
    with pytest.raises(MismatchError, match=words):
        check_arithmetic(statement_of(forge(attested.data, using(*devices, **{**known, **totals}))))
    check_arithmetic(statement_of(forge(attested.data, using(device(), **known))))


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([], "coverage.devicesNotSeen is"),
        ([{}], "coverage.devicesNotSeen is"),
        ([{"uuid": "GPU-2", "ns": "5", "mostFlopPerS": None, "mostFlop": None}], "coverage.devicesNotSeen is"),
        ([{"uuid": "GPU-1", "ns": "4", "mostFlopPerS": None, "mostFlop": None}], "coverage.devicesNotSeen is"),
        ([{"uuid": "GPU-1", "ns": "5", "mostFlopPerS": "1000000000", "mostFlop": "4"}], "mostFlop of coverage"),
        ([{"uuid": "GPU-1", "ns": "5", "mostFlopPerS": None, "mostFlop": "0"}], "mostFlop of coverage"),
    ],
)
def test_a_device_that_was_not_seen_is_bounded_by_its_time(attested, forge, listed, words):
    """Else a device that was lost for an hour has a bound of nothing, or none at all."""

    def change(listed):
        def make(value):
            using(device(unseenNs="5"), heldNs=None, busyNs=None, energyMj=None)(value)
            value["predicate"]["coverage"].update(devicesNotSeen=listed)

        return make

    with pytest.raises(MismatchError, match=words):
        check_arithmetic(statement_of(forge(attested.data, change(listed))))
    for rate, most in (("1000000001", "6"), (None, None)):
        true = [{"uuid": "GPU-1", "ns": "5", "mostFlopPerS": rate, "mostFlop": most}]
        check_arithmetic(statement_of(forge(attested.data, change(true))))
    earlier = using(device(unseenNs="5"), heldNs=None, busyNs=None, energyMj=None)  # a meter that had no such list
    check_arithmetic(statement_of(forge(attested.data, earlier)))


def test_bounds_in_the_wrong_order_are_caught(attested, forge):
    def change(value):
        value["predicate"]["compute"]["methods"][2].update(lower="2", upper="1")

    with pytest.raises(MismatchError, match="method hardware has bounds 2 and 1"):
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
        value["predicate"]["compute"]["methods"][2]["flop"] = "5"

    said = check_arithmetic(statement_of(forge(attested.data, change)))
    assert "hardware was not computed again" in said


def test_a_threshold_by_an_unknown_rule_cannot_be_told(attested, forge):
    """Else a statement says that it stays below a law's number by a rule that nobody knows, and is called true."""

    def change(value):
        value["predicate"]["thresholds"] = [{**LIMIT, "flop": "1", "rule": {**LIMIT["rule"], "counts": "nothing"}}]

    with pytest.raises(UnsupportedError, match="made-up counts by a rule"):
        check_arithmetic(statement_of(forge(attested.data, change)))


def test_another_convention_cannot_be_told(attested, forge):
    """Else figures counted by rules of the signer's own pass for ours."""
    with pytest.raises(UnsupportedError, match="mine"):
        check_arithmetic(statement_of(forge(attested.data, compute(convention="mine"))))


def rename(dimension):
    """Put a part under a name that the contract does not have."""

    def change(value):
        parts = value["predicate"]["compute"]["by"][dimension]
        parts["magic"] = parts.pop(max(parts))

    return change


@pytest.mark.parametrize("dimension", ["phase", "kind", "purpose", "basis"])
def test_a_name_that_the_contract_does_not_have_is_caught(attested, forge, dimension):
    """Else a signer hides work under a name that no law speaks of."""
    with pytest.raises(MismatchError, match="magic"):
        check_arithmetic(statement_of(forge(attested.data, rename(dimension))))


def claim(*, lower, audits=0, mismatches=0, basis=None):
    """Claim a lower end: of 630 FLOP, 270 were counted and the others replayed."""

    def change(value):
        figures = value["predicate"]["compute"]
        figures["lower"] = figures["methods"][0]["lower"] = str(lower)
        figures["replay"].update(audits=str(audits), mismatches=str(mismatches))
        if basis is not None:
            figures["by"]["basis"] = basis

    return change


@pytest.mark.parametrize(
    ("claimed", "most"),
    [
        ({"audits": 0}, 270),
        ({"audits": 3}, 270),
        ({"audits": 4}, 629),
        ({"audits": 5, "mismatches": 1}, 270),
        ({"audits": 6, "mismatches": 1}, 629),
        ({"audits": 99, "basis": {"counted": "270", "modelled": "360"}}, 270),
        ({"audits": 99, "basis": {"counted": "270", "declared": "60", "replayed": "300"}}, 569),
        ({"audits": 0, "basis": {"counted": "630"}}, 630),
        ({"audits": 99, "basis": {"modelled": "630"}}, 0),
    ],
)
def test_a_lower_bound_above_what_audits_can_have_made_sure_is_caught(attested, forge, claimed, most):
    """Else replayed work passes for counted work wherever no ledger is brought."""
    check_arithmetic(statement_of(forge(attested.data, claim(lower=most, **claimed))))
    with pytest.raises(MismatchError, match=f"no more than {most} is known|between its bounds"):
        check_arithmetic(statement_of(forge(attested.data, claim(lower=most + 1, **claimed))))


def test_more_mismatches_than_audits_are_caught(attested, forge):
    with pytest.raises(MismatchError, match="5 mismatches in 4 audits"):
        check_arithmetic(statement_of(forge(attested.data, claim(lower=0, audits=4, mismatches=5))))


@pytest.mark.parametrize(
    ("started", "ended"),
    [
        ("2026-99-99T99:99:99Z", None),
        ("2026-02-30T00:00:00Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("2999-01-01T00:00:00Z", None),
        ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00.25Z"),
        (None, "2026-13-01T00:00:00Z"),
    ],
)
def test_a_date_that_is_none_or_out_of_order_is_caught(attested, forge, started, ended):
    """Else a run ends before it begins, and is called true."""

    def change(value):
        stage = value["predicate"]["stage"]
        stage["startedOn"] = started or stage["startedOn"]
        stage["asOf"] = stage["finishedOn"] = ended or stage["asOf"]

    with pytest.raises(MismatchError, match=r"stage\."):
        check_arithmetic(statement_of(forge(attested.data, change)))


def test_a_fraction_of_a_second_does_not_make_a_date_later_than_it_is(attested, forge):
    """Else a run of less than a second, its dates cut to different lengths, would be refused."""

    def change(value):
        value["predicate"]["stage"].update(startedOn="2026-01-01T00:00:00Z", asOf="2026-01-01T00:00:00.000Z")
        value["predicate"]["stage"]["finishedOn"] = "2026-01-01T00:00:00.000Z"

    check_arithmetic(statement_of(forge(attested.data, change)))
