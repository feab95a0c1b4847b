"""One attested run, written by hand; tests change it and ask the verifier again."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from flopmeter import wire
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.attestation.issuance import issue
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.subjects import hash_subjects
from flopmeter.testing.keys import throwaway_signer
from flopmeter.testing.ledgers import recorded_ledger


class Attested(NamedTuple):
    folder: Path
    run: Path
    weights: Path
    file: Path
    key: Path
    policy: Policy

    @property
    def data(self):
        return self.file.read_bytes()


def attest(folder, **changes):
    """Make a run and its attestation in a folder."""
    weights = folder / "model.bin"
    weights.write_bytes(b"the weights of a model")
    run = recorded_ledger(folder / "run", weights=[weights], **changes)
    signer = throwaway_signer()
    key = folder / "key.pub"
    key.write_bytes(signer.public_key.to_pem())
    file = folder / "attestation.json"
    issue(run, signer, out=file, live=False, subjects=hash_subjects([weights]))
    return Attested(folder, run, weights, file, key, Policy((signer.public_key,)))


@pytest.fixture
def attested(tmp_path):
    return attest(tmp_path)


@pytest.fixture
def attest_run():
    return attest


def forge(data, change):
    """Change the statement inside an attestation, and sign it again with the trusted key."""
    value = json.loads(Attestation.from_bytes(data).payload)
    change(value)
    payload, signer = wire.encode(value), throwaway_signer()
    return Attestation(payload=payload, signature=signer.sign(encode_pae(payload)), hint=signer.key_id).to_bytes()


@pytest.fixture(name="forge")
def forge_fixture():
    return forge
