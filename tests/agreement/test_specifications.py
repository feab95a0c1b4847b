"""The ledger and the attestation that stand in the specifications are what the program reads and writes."""

import re
from pathlib import Path

import pytest

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.keys import PublicKey
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.predicate import LATER, PREDICATE_TYPE, REASONS, SHAPE, SPEC_VERSION
from flopmeter.attestation.statement import Statement, Subject
from flopmeter.attestation.verifier import verify
from flopmeter.ledger.entry import FORMAT, KINDS
from flopmeter.ledger.merge import read_run
from flopmeter.testing.keys import throwaway_signer

SPEC = Path(__file__).parents[2] / "docs" / "spec"
LEDGER = (SPEC / "ledger-v0.1.md").read_text(encoding="utf-8")
PREDICATE = (SPEC / "predicate-v0.1.md").read_text(encoding="utf-8")


def blocks(text) -> list[bytes]:
    """The blocks under the heading `Example`, as files."""
    examples = text.partition("## Example")[2]
    return [found.encode() for found in re.findall(r"^```text\n(.*?)^```", examples, re.MULTILINE | re.DOTALL)]


@pytest.fixture
def run(tmp_path):
    lines, name = blocks(LEDGER)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "0-0.jsonl").write_bytes(lines)
    (tmp_path / "ledger" / "run").write_bytes(name)
    return tmp_path


def test_the_example_ledger_reads_and_adds_up(run):
    """Else whoever implements the page builds something else."""
    account = Account.of(run)
    assert (account.flop, account.interval, account.tokens) == (180, (180, 180), 2)


def test_the_example_attestation_holds(run):
    key, statement, file = blocks(PREDICATE)
    verified = verify(
        file,
        Policy((PublicKey.from_pem(key),)),
        ledger=read_run(run),
        subjects=[Subject(name="model.bin", sha256=wire.digest(b"weights\n"))],
    )
    assert {check.verdict for check in verified.checks} == {"yes"}, verified.to_wire()
    assert Attestation.from_bytes(file).payload + b"\n" == statement


def test_the_example_is_what_this_version_would_sign(run):
    """Else the page describes a version before this one. The version's own number may differ."""
    key, written, _ = blocks(PREDICATE)
    given = Statement.from_bytes(written[:-1])
    ledger = read_run(run)
    made = Statement.about(
        Account.of(ledger),
        ledger=ledger,
        reason="run-end",
        subjects=given.subjects,
        sequence=0,
        previous=None,
        issuer="Example Lab",
        status="finished",
    )
    assert {**made.predicate, "meter": None} == {**given.predicate, "meter": None}
    assert throwaway_signer("specification").public_key.to_pem() == key


def fields(shape, path="") -> set[str]:
    """Every field that a predicate must have, but for those inside lists."""
    if not isinstance(shape, dict):
        return {path}
    return {found for name, inner in shape.items() for found in fields(inner, f"{path}.{name}".lstrip("."))}


def inner_fields(shape) -> set[str]:
    """Every field inside a list."""
    if isinstance(shape, list):
        return fields(shape[0]) - {""}
    return {found for inner in shape.values() for found in inner_fields(inner)} if isinstance(shape, dict) else set()


def test_the_page_names_every_field_and_no_other():
    """Else another implementation leaves one out, and is refused."""
    rows = re.findall(r"^\| `([A-Za-z.]+)` \|", PREDICATE, re.MULTILINE)
    later = {".".join(name.split(".")[:2]) for name in fields(LATER)}
    assert set(rows) == fields(SHAPE) | later
    for name in inner_fields(SHAPE) | inner_fields(LATER):
        assert f"`{name.rpartition('.')[2]}`" in PREDICATE, name


def test_the_pages_name_the_versions_reasons_and_kinds():
    assert PREDICATE_TYPE in PREDICATE
    assert SPEC_VERSION.rpartition(".")[0] in PREDICATE
    assert FORMAT in LEDGER
    assert [reason for reason in REASONS if f"`{reason}`" not in PREDICATE] == []
    kinds = LEDGER.partition("## Kinds")[2].partition("###")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \| ", kinds, re.MULTILINE)) == set(KINDS)
