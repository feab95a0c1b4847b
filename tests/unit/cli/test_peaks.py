"""--peaks FILE: rows of a user's own, where a command asks what a device can do."""

import hashlib
import json

import pytest

from flopmeter.attestation.envelope import Attestation
from flopmeter.testing.ledgers import ScriptedSegment, product_table
from flopmeter.usage import DeviceUsage, Usage

CARD = "NVIDIA My Card"
ROW = f"""
[[device]]
part = "My card"
ids = {{ FFF0 = ["{CARD}"] }}
source = "its datasheet"
date = "2026"
confidence = "high"
rates = "hopper"
sms = 100
clock_mhz = 1000
max_clock_mhz = 1000
dense = {{ bf16 = "409.6" }}
"""
DIGEST = hashlib.sha256(ROW.encode()).hexdigest()


@pytest.fixture
def folder(call, tmp_path):
    with ScriptedSegment("run") as segment:
        segment.note("self-test", {"passed": True, "torch": "none", "answers": []})
        segment.note("device", {"uuid": "GPU-1", "name": CARD, "pci": "0xfff010de"})
        device = DeviceUsage(uuid="GPU-1", name=CARD, held_ns=10**9)
        segment.run(product_table(dtype="bf16"), usage=Usage.of([device]))
        segment.end()
    (tmp_path / "mine.toml").write_text(ROW, encoding="utf-8")
    assert call("keygen", "key").code == 0
    return tmp_path


def hardware_of(summary):
    (found,) = (one for one in summary["estimates"] if one["method"] == "hardware")
    return found


def test_a_report_with_a_row_has_a_ceiling_and_says_whose(call, folder):
    """Else a new card stays without a figure until a release, or has one of which nobody knows the source."""
    bare = call("report", "run", "--json").json
    assert (hardware_of(bare)["upper"], bare["peaks"]) == (None, [])
    assert bare["plausibility"][0]["verdict"] == "cannot-tell"
    done = call("report", "run", "--json", "--peaks", "mine.toml").json
    assert hardware_of(done)["upper"] == str(4096 * 10**11)
    assert hardware_of(done)["inputs"]["peaks"] == f"mine.toml sha256:{DIGEST}"
    assert done["peaks"] == [{"file": "mine.toml", "sha256": DIGEST}]
    assert done["plausibility"][0]["verdict"] == "yes"
    words = " ".join(call("report", "run", "--peaks", "mine.toml").out.split())
    assert f"with peaks of mine.toml, {DIGEST[:12]}" in words
    assert "physics, ceiling: possible" in words


def test_utilisation_can_be_told_with_a_row(call, folder):
    assert call("report", "run", "--as", "mfu", "--json").code == 3
    done = call("report", "run", "--as", "mfu", "--json", "--peaks", "mine.toml")
    assert done.code == 0
    assert f"mine.toml sha256:{DIGEST}" in done.out


def test_an_attestation_carries_the_digest_of_the_file_and_can_be_checked_with_it(call, folder):
    """Else an auditor cannot ask for the rows that a ceiling was made with."""
    done = call("attest", "run", "--key", "key", "--out", "a.json", "--peaks", "mine.toml")
    assert done.code == 0
    predicate = json.loads(Attestation.from_bytes((folder / "a.json").read_bytes()).payload)["predicate"]
    (hardware,) = (one for one in predicate["compute"]["methods"] if one["method"] == "hardware")
    assert hardware["inputs"]["peaks"] == f"mine.toml sha256:{DIGEST}"
    assert predicate["plausibility"][0]["verdict"] == "yes"
    for more, verdict, code in ((), "cannot-tell", 3), (("--peaks", "mine.toml"), "yes", 0):
        found = call("verify", "a.json", "--key", "key.pub", "--ledger", "run", "--json", *more)
        assert found.code == code, "a figure that cannot be computed again is not a yes"
        assert {check["name"]: check["verdict"] for check in found.json["checks"]}["physics"] == verdict


COMMANDS = [
    ("report", "run"),
    ("report", "run", "--json"),
    ("attest", "run", "--key", "key", "--out", "a.json"),
    ("verify", "a.json", "--key", "key.pub"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("nowhere.toml", "nowhere.toml: No such file or directory"),
        ("run", "run: cannot be read: Is a directory"),
        ("bad.toml", "bad.toml: row 1 (My card): dense.bf16 is '409,6', not a figure"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(call, folder, command, file, words):
    """Else a slip in a row is a traceback, or a report without the row that was asked for."""
    call("attest", "run", "--key", "key", "--out", "a.json")
    (folder / "bad.toml").write_text(ROW.replace('"409.6"', '"409,6"'), encoding="utf-8")
    done = call(*command, "--peaks", file)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(f"flopmeter: {words}")
    assert len(done.err.splitlines()) == 1
