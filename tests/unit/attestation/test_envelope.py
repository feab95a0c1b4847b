"""The bundle: what is signed, and what a file may look like."""

import base64
import json
import shutil
import subprocess

import pytest

from flopmeter import wire
from flopmeter.attestation.envelope import Attestation, encode_pae
from flopmeter.errors import CannotVerifyError, MalformedError, UnsupportedError
from flopmeter.testing.keys import throwaway_signer


def made() -> Attestation:
    signer = throwaway_signer()
    payload = b'{"a":"b"}'
    return Attestation(payload=payload, signature=signer.sign(encode_pae(payload)), hint=signer.key_id)


def changed(change) -> bytes:
    bundle = json.loads(made().to_bytes())
    change(bundle)
    return wire.encode(bundle) + b"\n"


def test_the_encoding_that_is_signed_is_that_of_the_standard():
    """Else no other tool would accept our signatures. The example stands in the DSSE specification."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert encode_pae(b"hello world", payload_type="http://example.com/HelloWorld") == expected


def test_lengths_are_counted_in_bytes():
    assert encode_pae("é".encode(), payload_type="é") == b"DSSEv1 2 \xc3\xa9 2 \xc3\xa9"


def test_a_file_reads_back_as_what_was_written():
    assert Attestation.from_bytes(made().to_bytes()) == made()


def test_the_id_is_the_digest_of_the_payload():
    """Else two signers of one statement would give it two ids."""
    assert made().id == wire.digest(b'{"a":"b"}')


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.update(mediaType="application/json"),
        lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
        lambda b: b.pop("mediaType"),
    ],
)
def test_another_type_is_not_read(change):
    with pytest.raises(UnsupportedError):
        Attestation.from_bytes(changed(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.pop("verificationMaterial"),
        lambda b: b.update(verificationMaterial={"certificate": {}}),
        lambda b: b.update(verificationMaterial={"publicKey": "hint"}),
        lambda b: b.update(verificationMaterial={"publicKey": {"hint": "me"}}),
        lambda b: b.update(note="unsigned, and so not allowed"),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="someone"),
        lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"].rstrip("=") + "*"),
        lambda b: b["dsseEnvelope"].update(payload=None),
    ],
)
def test_a_field_missing_added_or_of_another_form_is_refused(change):
    """Else something unsigned could ride along, or be changed unseen."""
    with pytest.raises(MalformedError):
        Attestation.from_bytes(changed(change))


def test_another_spelling_of_the_same_file_is_refused():
    """Else one attestation would have many files, and a flipped bit could pass."""
    data = made().to_bytes()
    bundle = json.loads(data)
    for other in (
        data[:-1],
        data + b"\n",
        b" " + data,
        json.dumps(bundle).encode() + b"\n",
        b"\xef\xbb\xbf" + data,
        data.replace(b'"sig"', b'"\\u0073ig"'),
        b"",
        b"\n",
        b"[]\n",
        b"null\n",
        b'{"a":1}\n',
    ):
        with pytest.raises(CannotVerifyError):
            Attestation.from_bytes(other)


def test_base64_with_spare_bits_is_refused():
    """Else a bit of the signature's text could change and mean the same."""
    bundle = json.loads(made().to_bytes())
    envelope = bundle["dsseEnvelope"]
    text = wire.print_base64(b"ab")
    assert text == "YWI="
    envelope["payload"] = "YWJ="
    assert base64.b64decode("YWJ=") == b"ab"
    with pytest.raises(MalformedError):
        Attestation.from_bytes(wire.encode(bundle) + b"\n")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_the_signature(tmp_path):
    """Else only our own program could check what our own program signed."""
    (tmp_path / "key.pub").write_bytes(throwaway_signer().public_key.to_pem())
    (tmp_path / "pae").write_bytes(made().pae)
    (tmp_path / "sig").write_bytes(made().signature)
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pub",
        "-rawin",
        "-in",
        "pae",
        "-sigfile",
        "sig",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "pae").write_bytes(made().pae + b" ")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60).returncode != 0
