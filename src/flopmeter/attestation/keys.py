"""Public keys: Ed25519 and nothing else, as PEM; the id of a key; the check of one signature.

The set of key types is closed on purpose: what a verifier accepts is not a plug-in. Not here: private keys
(`signers`), and whose keys are trusted (`policy.py`).
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flopmeter import wire
from flopmeter.errors import SigningError

_DER_PREFIX = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of id-Ed25519, RFC 8410
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One Ed25519 public key, its 32 bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        """Refuse what cannot be a key."""
        if len(self.raw) != 32:
            msg = f"an Ed25519 public key has 32 bytes, not {len(self.raw)}"
            raise ValueError(msg)

    @property
    def der(self) -> bytes:
        """SubjectPublicKeyInfo, the form that other tools read."""
        return _DER_PREFIX + self.raw

    @property
    def key_id(self) -> str:
        """SHA-256 of the DER form, in hexadecimal; the hint that an attestation carries."""
        return wire.digest(self.der)

    def to_pem(self) -> bytes:
        """Return the key as PEM, as `openssl pkey -pubout` writes it."""
        return f"{_BEGIN}\n{wire.print_base64(self.der)}\n{_END}\n".encode("ascii")

    @classmethod
    def from_pem(cls, data: bytes, *, where: str = "") -> Self:
        """Return the key of a PEM file, which must be the one PEM spelling of it.

        Raises:
            SigningError: not a PEM public key, or not of Ed25519.
        """
        hint = "an Ed25519 public key in PEM is needed: `flopmeter keygen PATH` writes one to PATH.pub"
        try:
            lines = data.decode("ascii").strip().splitlines()
        except UnicodeDecodeError:
            lines = []
        if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
            kind = lines[0][:60] if lines and lines[0].startswith("-----BEGIN ") else "something else"
            msg = f"this is no public key in PEM, but {kind}"
            raise SigningError(msg, where=where, hint=hint)
        try:
            der = base64.b64decode("".join(lines[1:-1]), validate=True)
        except (binascii.Error, ValueError) as error:
            msg = f"this public key cannot be read: {error}"
            raise SigningError(msg, where=where, hint=hint) from error
        if not der.startswith(_DER_PREFIX) or len(der) != len(_DER_PREFIX) + 32:
            msg = "this public key is not an Ed25519 key"
            raise SigningError(msg, where=where, hint=hint)
        key = cls(der.removeprefix(_DER_PREFIX))
        if key.to_pem() != data:
            msg = "this public key is not written in the one PEM form of its bytes"
            raise SigningError(msg, where=where, hint="write it anew: openssl pkey -pubin -in OLD -out NEW")
        return key

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Say whether this key's owner signed the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no point of the curve
            return False
        return True
