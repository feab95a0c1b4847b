"""The claim: which bytes are signed, and which are read."""

import json
from dataclasses import replace

import pytest

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.statement import Statement, Subject, Threshold
from flopmeter.errors import CannotVerifyError, MalformedError, UnsupportedError
from flopmeter.ledger.merge import read_run
from flopmeter.tally import OpCount, Tally
from flopmeter.testing.ledgers import ScriptedSegment, product_table, recorded_ledger

FILE = Subject(name="model.bin", sha256=wire.digest(b"weights"))


def state(run, **changes) -> Statement:
    ledger = read_run(run)
    given = {"reason": "run-end", "sequence": 0, "previous": None, "status": "finished", **changes}
    return Statement.about(Account.of(ledger), ledger=ledger, **given)


@pytest.fixture
def run(tmp_path):
    return recorded_ledger(tmp_path / "run")


def test_a_statement_reads_back_as_it_was_made(run):
    made = state(run, subjects=[FILE])
    assert Statement.from_bytes(made.data) == made


def test_a_statement_is_canonical_and_holds_no_number(run):
    """Else JavaScript rounds the figures, and one claim has many digests."""
    data = state(run).data
    assert wire.encode(json.loads(data)) == data
    json.loads(data, parse_int=pytest.fail, parse_float=pytest.fail)


def test_the_same_account_gives_the_same_bytes(run):
    """Else two signers of one claim would sign two."""
    other = Subject(name="a.bin", sha256=wire.digest(b"more"))
    assert state(run, subjects=[FILE, other]).data == state(run, subjects=[other, FILE, FILE]).data


def test_without_a_subject_the_run_itself_is_one(run):
    genesis = read_run(run).segments[0].header.digest
    assert state(run).subjects == (Subject(name="run", sha256=genesis),)


def test_a_subject_that_the_ledger_never_saw_is_marked(tmp_path):
    """Else weights from elsewhere would look as if this run had made them."""
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"weights")
    run = recorded_ledger(tmp_path / "run", weights=[weights])
    stranger = Subject(name="other.bin", sha256=wire.digest(b"other"))
    marked = state(run, subjects=[FILE, stranger]).predicate["subjects"]
    assert marked == {"recorded": [FILE.sha256], "unrecorded": [stranger.sha256]}


def test_what_is_unknown_is_null_and_never_zero(tmp_path):
    """Else a run without tokens or a model would claim that it had none."""
    with ScriptedSegment(tmp_path / "run", ceiling_flop_per_s=None) as segment:
        segment.run(product_table(unknown=2), tokens=0)
        segment.end()
    statement = state(tmp_path / "run")
    assert statement.part("compute")["upper"] is None
    assert {statement.part("model")[name] for name in ("parameters", "trainable", "embedding", "tokens")} == {None}
    assert statement.part("usage")["energyMj"] is None
    six_nd = next(m for m in statement.part("compute")["methods"] if m["method"] == "6nd")
    assert six_nd["flop"] is None
    assert statement.part("compute")["uncounted"] == [{"op": "mylib::attn", "calls": "2", "elements": "12"}]


def test_a_run_that_has_not_stepped_has_no_tokens_and_says_so(tmp_path):
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.end()
    assert state(tmp_path / "run", reason="run-start").part("model")["tokens"] == "0"


@pytest.mark.parametrize(
    ("flop", "relation"), [(99, "below"), (100, "near"), (199, "near"), (200, "atOrAbove"), (10**30, "atOrAbove")]
)
def test_a_figure_stands_to_a_number_as_whole_numbers_do(flop, relation):
    assert Threshold(id="x", flop=200).relate({"flop": str(flop)}) == relation


def test_an_unknown_figure_stands_to_nothing():
    """Else what is not bounded would pass for below."""
    assert Threshold(id="x", flop=200, figure="upper").relate({"upper": None}) == "unknown"


def test_integer_operations_are_added_where_the_rule_counts_them():
    limit = Threshold(id="x", flop=200, figure="flop+intOp")
    assert limit.relate({"flop": "150", "intOp": "50"}) == "atOrAbove"
    assert limit.relate({"flop": "150", "intOp": "49"}) == "near"


def test_a_threshold_over_an_unknown_figure_cannot_be_made():
    with pytest.raises(ValueError, match="the figure is one of"):
        Threshold(id="x", flop=1, figure="guess")


def test_a_ledger_with_words_that_cannot_be_stated_is_refused(tmp_path):
    """Else something would be signed that nobody can read back."""
    ledger = read_run(recorded_ledger(tmp_path / "run"))
    odd = replace(Account.of(ledger), started="yesterday")
    with pytest.raises(MalformedError, match="startedOn"):
        Statement.about(odd, ledger=ledger, reason="run-end", sequence=0, previous=None, status="finished")


def test_a_ledger_whose_names_are_not_ascii_is_refused(tmp_path):
    odd = OpCount(op="mylib::mm", kind="matmul", phase="forward", precision="fp§", calls=1, flop=60)
    with ScriptedSegment(tmp_path / "run") as segment:
        segment.run(loose=Tally.of([odd]))
        segment.end()
    with pytest.raises(MalformedError, match="cannot be stated"):
        state(tmp_path / "run")


def changed(run, change) -> bytes:
    value = json.loads(state(run).data)
    change(value)
    return wire.encode(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda v: v.update(predicateType="https://flopmeter.dev/training-compute/v9"),
        lambda v: v.pop("predicateType"),
        lambda v: v["predicate"].update(specVersion="0.2.0"),
        lambda v: v["predicate"].update(specVersion="1.1.0"),
    ],
)
def test_another_type_or_version_is_not_read(run, change):
    """Else figures that mean something else would be taken for ours."""
    with pytest.raises(UnsupportedError):
        Statement.from_bytes(changed(run, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(subject=[]),
        lambda v: v.update(subject=[{"name": "x"}]),
        lambda v: v.update(subject=[{"name": "x", "digest": {"sha1": "00"}}]),
        lambda v: v.update(predicate=None),
        lambda v: v["predicate"].pop("specVersion"),
        lambda v: v["predicate"].update(specVersion="0.1"),
        lambda v: v["predicate"].update(reason="because"),
        lambda v: v["predicate"].update(sequence="-1"),
        lambda v: v["predicate"].update(sequence="007"),
        lambda v: v["predicate"].update(previous="x"),
        lambda v: v["predicate"]["stage"].update(status="done"),
        lambda v: v["predicate"]["stage"].update(asOf="yesterday"),
        lambda v: v["predicate"]["compute"].update(flop=None),
        lambda v: v["predicate"]["compute"].update(flop="1e25"),
        lambda v: v["predicate"]["compute"].pop("upper"),
        lambda v: v["predicate"]["compute"]["by"].pop("phase"),
        lambda v: v["predicate"]["compute"]["by"]["phase"].update(forward="many"),
        lambda v: v["predicate"]["compute"].update(methods={}),
        lambda v: v["predicate"]["coverage"].update(gaps=["one"]),
        lambda v: v["predicate"]["ledger"]["heads"][0].pop("file"),
    ],
)
def test_a_required_field_missing_or_of_another_form_is_refused(run, change):
    with pytest.raises(MalformedError):
        Statement.from_bytes(changed(run, change))


def test_a_field_of_a_later_version_is_kept_and_not_judged(run):
    """Else a signer could not say more than we can read; in-toto asks for this."""

    def change(value):
        value["predicate"]["lineage"] = {"complete": True, "parents": []}
        value["predicate"]["compute"]["commitment"] = "secret"
        value["subject"][0]["uri"] = "https://example.org"
        value["subject"][0]["digest"]["sha512"] = "00"
        value["predicate"]["specVersion"] = "0.1.7"

    statement = Statement.from_bytes(changed(run, change))
    assert statement.predicate["lineage"] == {"complete": True, "parents": []}
    assert wire.decode(statement.data)["predicate"]["compute"]["commitment"] == "secret"


def test_bytes_that_are_not_canonical_are_refused(run):
    data = state(run).data
    for other in (data + b"\n", json.dumps(json.loads(data)).encode(), data.replace(b'"0"', b"0", 1), b"", b"\xff"):
        with pytest.raises(CannotVerifyError):
            Statement.from_bytes(other)
