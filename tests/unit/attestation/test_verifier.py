"""Yes, no or cannot tell; nothing else, whatever comes in."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.statement import Statement, Subject
from flopmeter.attestation.subjects import hash_subjects
from flopmeter.attestation.verifier import verify
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError
from flopmeter.ledger.merge import read_run
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import ScriptedClock, ScriptedSegment, product_table, recorded_ledger

VERDICTS = {"yes", "no", "cannot-tell"}


def answer(verified, name):
    return next(check for check in verified.checks if check.name == name)


def test_an_honest_attestation_holds(attested):
    verified = verify(
        attested.data, attested.policy, ledger=read_run(attested.run), subjects=hash_subjects([attested.weights])
    )
    assert verified.verdict == "yes"
    assert verified.assurance == "self-declared"
    assert {check.name: check.verdict for check in verified.checks} == dict.fromkeys(
        ("form", "signature", "arithmetic", "self-test", "recorded-subjects", "ledger", "subject"), "yes"
    )


def test_what_was_not_brought_is_listed_and_does_not_decide(attested):
    verified = verify(attested.data, attested.policy)
    assert verified.verdict == "yes"
    assert answer(verified, "ledger").verdict == answer(verified, "subject").verdict == "cannot-tell"
    assert "not checked" in answer(verified, "ledger").detail


def test_the_answer_travels_as_the_contract_says(attested):
    value = verify(attested.data, attested.policy).to_wire()
    assert set(value) == {"verdict", "assurance", "checks", "flop"}
    assert all(set(check) == {"name", "verdict", "detail"} for check in value["checks"])
    assert isinstance(value["flop"], str)


def test_a_stranger_s_signature_is_a_no(attested):
    """Else anyone could attest anything."""
    policy = Policy((throwaway_signer("somebody else").public_key,))
    verified = verify(attested.data, policy)
    assert verified.verdict == "no"
    assert verified.assurance is None
    assert verified.statement is None
    assert verified.to_wire()["flop"] is None
    assert "not among the trusted" in answer(verified, "signature").detail


def test_a_stranger_s_signature_under_a_trusted_hint_is_a_no(attested):
    """Else the hint, which nobody signs, would decide whose word it is."""
    payload = Attestation.from_bytes(attested.data).payload
    forged = Attestation(
        payload=payload,
        signature=throwaway_signer("somebody else").sign(encode_pae(payload)),
        hint=attested.policy.keys[0].key_id,
    )
    verified = verify(forged.to_bytes(), attested.policy)
    assert verified.verdict == "no"
    assert "did not sign this" in answer(verified, "signature").detail


def test_a_signature_over_the_bare_payload_is_a_no(attested):
    """Else a signature made for another purpose could be taken for an attestation."""
    payload, signer = Attestation.from_bytes(attested.data).payload, throwaway_signer()
    bare = Attestation(payload=payload, signature=signer.sign(payload), hint=signer.key_id)
    assert verify(bare.to_bytes(), attested.policy).verdict == "no"


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"\x00" * 100, b'{"mediaType":"x"}\n'])
def test_what_is_no_attestation_cannot_be_told(attested, data):
    verified = verify(data, attested.policy)
    assert verified.verdict == "cannot-tell"
    assert answer(verified, "form").verdict == "cannot-tell"


def test_no_file_at_all_cannot_be_told(attested):
    assert verify([], attested.policy).verdict == "cannot-tell"


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"{}", b'{"_type":"https://in-toto.io/Statement/v1"}'])
def test_a_signed_payload_of_another_kind_cannot_be_told(attested, payload):
    """Else a signature over something else would count as a no, or a yes, on training compute."""
    signer = throwaway_signer()
    other = Attestation(payload=payload, signature=signer.sign(encode_pae(payload)), hint=signer.key_id)
    verified = verify(other.to_bytes(), attested.policy)
    assert verified.verdict == "cannot-tell"
    assert answer(verified, "signature").verdict == "yes"
    assert answer(verified, "form").verdict == "cannot-tell"


def test_several_files_are_one_statement_by_several_signers(attested):
    """Else a threshold of two could be met by two statements, or by one key twice."""
    payload, other = Attestation.from_bytes(attested.data).payload, throwaway_signer("auditor")
    second = Attestation(payload=payload, signature=other.sign(encode_pae(payload)), hint=other.key_id).to_bytes()
    both = Policy((*attested.policy.keys, other.public_key), threshold=2)
    assert verify([attested.data, second], both).verdict == "yes"
    assert verify([attested.data, attested.data], both).verdict == "no"
    assert verify(attested.data, both).verdict == "no"
    assert verify([attested.data, second], attested.policy).verdict == "no"


def test_two_different_statements_are_a_no(attested, forge):
    changed = forge(attested.data, lambda v: v["predicate"]["issuer"].update(name="me"))
    verified = verify([attested.data, changed], attested.policy)
    assert verified.verdict == "no"
    assert "different statements" in answer(verified, "signature").detail


def test_a_statement_against_itself_is_a_no(attested, forge):
    changed = forge(attested.data, lambda v: v["predicate"]["compute"].update(flop="1"))
    verified = verify(changed, attested.policy)
    assert answer(verified, "arithmetic").verdict == verified.verdict == "no"
    assert verified.assurance is None


def test_another_subject_is_a_no(attested):
    verified = verify(attested.data, attested.policy, subjects=[Subject(name="x", sha256="0" * 64)])
    assert answer(verified, "subject").verdict == verified.verdict == "no"


def test_an_empty_list_of_subjects_cannot_be_told(attested):
    assert verify(attested.data, attested.policy, subjects=[]).verdict == "cannot-tell"


def test_a_failed_self_test_is_a_no(tmp_path, attest_run):
    """Else figures of a counter that miscounts would pass."""
    case = attest_run(tmp_path)
    run = tmp_path / "other"
    with ScriptedSegment(run) as segment:
        segment.note("self-test", {"passed": False})
        segment.run(product_table())
        segment.end()
    issue(run, throwaway_signer(), out=case.file, live=False)
    verified = verify(case.data, case.policy)
    assert answer(verified, "self-test").verdict == verified.verdict == "no"


def test_a_run_without_a_self_test_says_so_and_still_holds(attested, tmp_path):
    with ScriptedSegment(tmp_path / "bare") as segment:
        segment.end()
    issue(tmp_path / "bare", throwaway_signer(), out=attested.file, live=False)
    verified = verify(attested.data, attested.policy)
    assert (answer(verified, "self-test").verdict, verified.verdict) == ("cannot-tell", "yes")


def test_an_unrecorded_subject_is_reported(attested, tmp_path):
    other = tmp_path / "elsewhere.bin"
    other.write_bytes(b"made elsewhere")
    issue(
        attested.run,
        throwaway_signer(),
        out=attested.file,
        live=False,
        subjects=hash_subjects([other]),
        allow_unrecorded=True,
    )
    verified = verify(attested.data, attested.policy, subjects=hash_subjects([other]), ledger=read_run(attested.run))
    assert verified.verdict == "yes"
    assert answer(verified, "recorded-subjects").verdict == "cannot-tell"
    assert "elsewhere.bin" in answer(verified, "recorded-subjects").detail


# What the ledger says.


@pytest.mark.parametrize(
    ("error", "verdict"), [(LedgerBrokenError("changed"), "no"), (LedgerUnreadableError("nonsense"), "cannot-tell")]
)
def test_a_ledger_that_could_not_be_read_is_an_answer(attested, error, verdict):
    assert verify(attested.data, attested.policy, ledger=error).verdict == verdict


def test_another_ledger_is_a_no(attested, tmp_path):
    other = recorded_ledger(tmp_path / "other")
    assert verify(attested.data, attested.policy, ledger=read_run(other)).verdict == "no"


def shift(*path, by=1):
    def change(value):
        at = value["predicate"]
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = str(int(at[path[-1]]) + by)

    return change


def both(*changes):
    def change(value):
        for one in changes:
            one(value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        both(shift("compute", "upper", by=10**6), shift("compute", "methods", 0, "upper", by=10**6)),
        both(shift("compute", "lower", by=-1), shift("compute", "methods", 0, "lower", by=-1)),
        both(shift("compute", "by", "phase", "forward"), shift("compute", "by", "phase", "backward", by=-1)),
        both(
            shift("compute", "flop", by=1),
            shift("compute", "contractionFlop"),
            shift("compute", "methods", 0, "flop"),
            *(
                shift("compute", "by", name, value)
                for name, value in (
                    ("phase", "forward"),
                    ("kind", "matmul"),
                    ("precision", "bf16"),
                    ("purpose", "evaluation"),
                    ("basis", "replayed"),
                )
            ),
        ),
        shift("compute", "maskedFlop"),
        shift("compute", "intOp"),
        lambda v: v["predicate"]["compute"]["by"]["phase"].update(optimizer="0"),
        lambda v: v["predicate"]["compute"]["replay"]["passages"].update(declared="3"),
        lambda v: v["predicate"]["compute"].update(uncounted=[{"op": "x", "calls": "1", "elements": "1"}]),
        lambda v: v["predicate"]["compute"].update(books=[]),
        lambda v: v["predicate"]["compute"].update(convention="fm-2"),
        lambda v: v["predicate"]["compute"]["methods"].pop(0),
        shift("compute", "replay", "audits"),
        shift("model", "steps"),
        shift("model", "trainable"),
        shift("coverage", "ranks"),
        shift("coverage", "selfTests", "passed"),
        lambda v: v["predicate"]["stage"].update(startedOn="2020-01-01T00:00:00Z"),
        lambda v: v["predicate"]["stage"].update(id="another"),
        both(
            lambda v: v["predicate"]["stage"].update(status="interrupted", finishedOn=None),
            lambda v: v["predicate"].update(reason="heartbeat"),
        ),
        lambda v: v["predicate"]["usage"].update(notes=["all is well"]),
        lambda v: v["predicate"]["ledger"].update(genesis="0" * 64),
        lambda v: v["predicate"].update(sequence="1", previous="0" * 64),
        lambda v: v["predicate"]["ledger"]["torn"].append({"file": "0-0.jsonl", "bytes": "1", "sha256": "0" * 64}),
        both(
            lambda v: v["subject"][0]["digest"].update(sha256="1" * 64),
            lambda v: v["predicate"]["subjects"].update(recorded=["1" * 64]),
        ),
    ],
)
def test_a_claim_that_the_ledger_does_not_bear_out_is_a_no(attested, forge, change):
    """Else a signer could state any figure that agrees with itself."""
    verified = verify(forge(attested.data, change), attested.policy, ledger=read_run(attested.run))
    assert answer(verified, "ledger").verdict == verified.verdict == "no", answer(verified, "arithmetic").detail


def test_words_may_differ_and_fields_may_be_added(attested, forge):
    """Else an older attestation would fail when a later version puts a note otherwise."""

    def change(value):
        value["predicate"]["compute"]["methods"][1]["note"] = "put otherwise"
        value["predicate"]["compute"]["methods"].append(
            {"method": "architecture", "flop": None, "lower": None, "upper": None, "inputs": {}}
        )
        value["predicate"]["compute"]["commitment"] = "secret"
        value["predicate"]["lineage"] = {"complete": False}

    assert verify(forge(attested.data, change), attested.policy, ledger=read_run(attested.run)).verdict == "yes"


def test_an_attestation_holds_while_the_ledger_goes_on(tmp_path, attest_run):
    """Else resuming a run would disprove what was said of it before."""
    case = attest_run(tmp_path, lives=2, is_closed=False)
    with ScriptedSegment(case.run, clock=ScriptedClock("2026-06-01T00:00:00+00:00")) as segment:
        segment.run(product_table())
        segment.end()
    assert verify(case.data, case.policy, ledger=read_run(case.run)).verdict == "yes"


def test_a_live_attestation_holds_at_every_later_time(tmp_path):
    """Else a warning in the middle of a run would be worth nothing afterwards."""
    signer = throwaway_signer()
    policy, out, run = Policy((signer.public_key,)), tmp_path / "a.json", tmp_path / "run"
    with ScriptedSegment(run) as segment:
        segment.run(product_table())
        segment.file.sync()
        issued = issue(run, signer, out=out, live=True)
        data = out.read_bytes()
        segment.note("attestation", {"payload": issued.id})
        segment.run(product_table())
        segment.file.sync()
        assert verify(data, policy, ledger=read_run(run)).verdict == "yes"
        segment.end()
    assert verify(data, policy, ledger=read_run(run)).verdict == "yes"
    second = issue(run, signer, out=out, live=False)
    predicate = json.loads(second.payload)["predicate"]
    assert (predicate["sequence"], predicate["previous"]) == ("1", issued.id)
    assert verify(second.to_bytes(), policy, ledger=read_run(run)).verdict == "yes"


def redo_heads(heads):
    """Make a statement name other heads, its own sums over them included."""

    def change(value):
        ledger = value["predicate"]["ledger"]
        ledger["heads"] = heads(ledger["heads"])
        ledger["entries"] = str(sum(int(head["entries"]) for head in ledger["heads"]))
        ledger["head"] = wire.digest(wire.encode(ledger["heads"]))

    return change


@pytest.mark.parametrize(
    "heads",
    [
        lambda heads: heads[:2],
        lambda heads: heads[2:],
        lambda heads: heads[1:],
        lambda heads: [heads[2], heads[3], heads[0], heads[1]],
        lambda heads: [*heads[:3], {**heads[3], "entries": "99"}],
        lambda heads: [*heads[:3], {**heads[3], "entries": "0"}],
        lambda heads: [*heads[:3], {**heads[3], "file": "1-7.jsonl"}],
    ],
)
def test_a_ledger_with_a_part_left_out_is_a_no(tmp_path, attest_run, forge, heads):
    """Else a rank, or a life of one, could be left out of the sum."""
    case = attest_run(tmp_path, ranks=2, lives=2)
    verified = verify(forge(case.data, redo_heads(heads)), case.policy, ledger=read_run(case.run))
    assert answer(verified, "ledger").verdict == verified.verdict == "no"


def test_a_statement_on_no_line_at_all_is_a_no(attested, forge):
    """Else a forged file makes the verifier stumble where it should refuse."""
    early = "2000-01-01T00:00:00.000Z"

    def change(value):
        redo_heads(lambda heads: [])(value)
        value["predicate"]["stage"].update(startedOn=early, asOf=early, finishedOn=early)

    verified = verify(forge(attested.data, change), attested.policy, ledger=read_run(attested.run))
    assert answer(verified, "ledger").verdict == verified.verdict == "no"


def restate(case, forge, status, *, lines):
    """Return a statement of a status over the first lines of a run of one file, every figure its own."""
    ledger = read_run(case.run)
    segment = ledger.segments[0]
    entries = segment.entries[: len(segment.entries) if lines is None else lines]
    cut = replace(ledger, segments=(replace(segment, entries=entries, torn=None),))
    account = Account.of(cut, live=status == "running")
    statement = Statement.about(account, ledger=cut, reason="heartbeat", sequence=0, previous=None, status=status)
    return forge(case.data, lambda value: (value.clear(), value.update(json.loads(statement.data))))


@pytest.mark.parametrize(
    ("status", "lines", "verdict"),
    [
        ("running", 5, "yes"),
        ("running", None, "no"),
        ("interrupted", 5, "no"),
        ("interrupted", None, "no"),
        ("finished", None, "yes"),
    ],
)
def test_a_status_that_the_lines_refute_is_a_no(attested, forge, status, lines, verdict):
    """Else a run that had ended is said to go on, or one that went on to have broken off."""
    data = restate(attested, forge, status, lines=lines)
    assert verify(data, attested.policy, ledger=read_run(attested.run)).verdict == verdict


def test_a_middle_life_cut_short_is_a_no(tmp_path, attest_run, forge):
    case = attest_run(tmp_path, lives=2)
    first = read_run(case.run).segments[0]

    def cut(heads):
        return [{**heads[0], "entries": "3", "head": first.entries[2].digest}, heads[1]]

    verified = verify(forge(case.data, redo_heads(cut)), case.policy, ledger=read_run(case.run))
    assert verified.verdict == "no"
    assert "not the whole" in answer(verified, "ledger").detail


def test_a_rank_that_a_live_statement_leaves_out_cannot_be_told(tmp_path):
    """Else a warning read while a rank was just starting would be called a lie, or a rank left out would pass."""
    signer, run, out = throwaway_signer(), tmp_path / "run", tmp_path / "a.json"
    policy = Policy((signer.public_key,))
    for rank, start in enumerate(("2026-06-01T00:00:00+00:00", "2026-05-01T00:00:00+00:00")):
        with ScriptedSegment(run, rank=rank, clock=ScriptedClock(start)) as segment:
            segment.run(product_table())
    seen = run / "ledger" / "1-0.jsonl"
    hidden = seen.rename(tmp_path / "hidden")
    for live, verdict in ((True, "cannot-tell"), (False, "no")):
        issue(run, signer, out=out, live=live)
        hidden.rename(seen)
        verified = verify(out.read_bytes(), policy, ledger=read_run(run))
        assert answer(verified, "ledger").verdict == verified.verdict == verdict
        seen.rename(hidden)


# Whatever comes in.


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_any_bytes_get_an_answer(data):
    """Else an auditor's service falls over a file, or takes silence for consent."""
    policy = Policy((throwaway_signer().public_key,))
    assert verify(data, policy).verdict == "cannot-tell"
    assert verify(data + b"\n", policy).verdict == "cannot-tell"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.text(max_size=8)
    | st.sampled_from(["0", "1", "10" * 20, "0" * 64, "2026-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9), new=JSON, is_removed=st.booleans())
def test_any_signed_statement_gets_an_answer(attested, forge, seed, new, is_removed):
    """Else whoever holds a trusted key could bring the verifier down."""

    def change(value):
        path = random.Random(seed).choice([path for path in places(value) if path])
        at = value
        for name in path[:-1]:
            at = at[name]
        if is_removed:
            del at[path[-1]]
        else:
            at[path[-1]] = new

    try:
        data = forge(attested.data, change)
    except (TypeError, UnicodeEncodeError):  # keys or text that cannot be written, and so not signed either
        return
    verified = verify(data, attested.policy, ledger=read_run(attested.run), subjects=hash_subjects([attested.weights]))
    assert verified.verdict in VERDICTS
    json.dumps(verified.to_wire())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), new=st.binary(max_size=6), width=st.integers(0, 6))
def test_a_mutated_file_never_says_yes(attested, place, new, width):
    data = attested.data
    at = place % len(data)
    changed = data[:at] + new + data[at + width :]
    verdict = verify(changed, attested.policy).verdict
    assert verdict in VERDICTS
    assert (verdict == "yes") == (changed == data)
