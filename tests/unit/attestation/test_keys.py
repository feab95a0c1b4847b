"""Public keys: one type, one spelling."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flopmeter import wire
from flopmeter.attestation.keys import PublicKey
from flopmeter.errors import SigningError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_pem_that_another_library_wrote_is_read():
    assert PublicKey.from_pem(PEM).raw == KEY.public_key().public_bytes_raw()


def test_our_pem_is_that_of_another_library():
    """Else nobody else could read our keys."""
    assert PublicKey.from_pem(PEM).to_pem() == PEM


def test_the_id_is_the_digest_of_the_der_form():
    assert PublicKey.from_pem(PEM).key_id == wire.digest(DER)


def test_a_signature_is_accepted_and_any_other_is_not():
    key = PublicKey.from_pem(PEM)
    signature = KEY.sign(b"message")
    assert key.accepts(signature, b"message")
    assert not key.accepts(signature, b"massage")
    assert not key.accepts(signature[:-1], b"message")
    assert not key.accepts(b"", b"message")


def test_a_signature_with_a_large_scalar_is_not_accepted():
    """Else a signature would have a twin, made without the key."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not PublicKey.from_pem(PEM).accepts(signature[:32] + scalar.to_bytes(32, "little"), b"message")


def test_a_key_that_is_no_point_accepts_nothing():
    assert not PublicKey(b"\x02" + bytes(31)).accepts(bytes(64), b"message")


def test_a_key_of_another_length_cannot_be_made():
    with pytest.raises(ValueError, match="32 bytes"):
        PublicKey(b"short")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a key",
        b"\xff\xfe",
        PEM.replace(b"\n", b"\r\n"),
        PEM[:-1],
        PEM + b"\n",
        PEM.replace(b"PUBLIC", b"PRIVATE"),
        PEM.replace(b"MCow", b"MC*w"),
        PEM.replace(b"MCow", b"MCoo"),
        PEM[:40] + b"\n" + PEM[40:],
        b"-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----\n",
        generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_what_is_no_ed25519_key_in_its_one_spelling_is_refused(data):
    """Else a damaged key might be read as another one."""
    with pytest.raises(SigningError):
        PublicKey.from_pem(data, where="key.pub")
