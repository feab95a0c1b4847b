"""What it weighs to come in, and to verify."""

import json
import subprocess
import sys

import pytest

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.signers.file import write_key_pair
from flopmeter.attestation.statement import Statement, Subject
from flopmeter.formulas.call import OpCall
from flopmeter.ledger.file import LedgerFile
from flopmeter.ledger.merge import read_run
from flopmeter.recording import Recording
from flopmeter.step import Row, Table
from flopmeter.tally import OpCount, Tally

FRONT_DOOR = 5
VERIFY = 200
GUESTS = {"torch", "numpy", "pynvml", "psutil", "rich", "lightning", "transformers"}

COUNT = """
import json, sys
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_after(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(code=code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def attested(tmp_path):
    """A run of ten steps by hand, closed, with its attestation over a weight file; no torch."""
    run = tmp_path / "run"
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"weights")
    call = OpCall.of("aten::mm", (2, 3), (3, 5), out=[(2, 5)])
    count = OpCount(op="aten::mm", kind="matmul", phase="forward", precision="fp32", calls=1, flop=60)
    table = Table((Row(call=call, phase="forward", calls=1),), Tally.of([count]))
    header = {"book": wire.digest(b"book"), "convention": "fm-1", "world": "1", "purpose": "undeclared"}
    header |= {"exact": True, "overhead_budget": "0.01", "versions": {}, "host": {}}
    recording = Recording()
    for _ in range(10):
        recording.add(purpose="undeclared", basis="counted", times=1, ns=1000, table=table)
        recording.add_tokens(tokens=8, samples=1)
        recording.finish_step()
    ledger = LedgerFile(run, header=header)
    ledger.append("table", table.to_wire())
    recording.close_record(own_ns=0, ceiling=None)
    ledger.append("steps", recording.waiting().to_wire())
    digest = wire.digest(weights.read_bytes())
    ledger.append("checkpoint", {"files": [{"name": weights.name, "sha256": digest}]})
    ledger.append("close", {"reason": "end"})
    ledger.sync()
    ledger.close()
    lines = read_run(run)
    statement = Statement.about(
        Account.of(lines),
        ledger=lines,
        reason="run-end",
        subjects=[Subject(name=weights.name, sha256=digest)],
        sequence=0,
        previous=None,
        status="finished",
    )
    signer = write_key_pair(tmp_path / "key")
    signature = signer.sign(encode_pae(statement.data))
    attestation = Attestation(payload=statement.data, signature=signature, hint=signer.key_id)
    (tmp_path / "attestation.json").write_bytes(attestation.to_bytes())
    return tmp_path


def test_the_front_door_is_light():
    """Else a training script pays for what it does not use, and an auditor loads what they do not trust."""
    new = modules_after("import flopmeter; dir(flopmeter)")
    assert len(new) <= FRONT_DOOR, new


def test_verifying_is_light(attested):
    """Else an auditor has to trust code that has nothing to do with the question."""
    arguments = [
        "verify",
        "attestation.json",
        "--key",
        "key.pub",
        "--subject",
        "model.bin",
        "--ledger",
        "run",
        "--json",
    ]
    code = f"""
import os
os.chdir({str(attested)!r})
from flopmeter.cli.main import main
assert main({arguments!r}) == 0
"""
    new = modules_after(code)
    assert len(new) <= VERIFY, (len(new), new)
    assert {name.partition(".")[0] for name in new} & GUESTS == set()
    assert [name for name in new if name.startswith(("flopmeter.sensors", "flopmeter.attestation.signers"))] == []


def test_the_count_sees_a_heavy_import():
    assert len(modules_after("import argparse, dataclasses, decimal")) > FRONT_DOOR
