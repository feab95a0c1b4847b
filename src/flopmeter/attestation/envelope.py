"""Attestation: one signature over one statement, as a DSSE envelope in a Sigstore bundle.

What is signed is the DSSE pre-authentication encoding of the payload's bytes, never a re-encoding. Only a file that
is equal to its own canonical form is read, so that no bit of it can change unseen.
Not here: what the payload says (`statement.py`), and whose signature counts (`policy.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.errors import MalformedError, UnsupportedError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def encode_pae(payload: bytes, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the bytes that are signed: the pre-authentication encoding of DSSE 1.0."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A signed statement: `payload` its bytes, `hint` the id of the key that is said to have made the signature."""

    payload: bytes
    signature: bytes
    hint: str

    @property
    def id(self) -> str:
        """SHA-256 of the payload: the same for every signer of the same statement."""
        return wire.digest(self.payload)

    @property
    def pae(self) -> bytes:
        """What the signature is over."""
        return encode_pae(self.payload)

    def to_bytes(self) -> bytes:
        """Return the file: canonical JSON and a newline."""
        bundle: dict[str, wire.Wire] = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.hint}},
            "dsseEnvelope": {
                "payload": wire.print_base64(self.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": wire.print_base64(self.signature)}],
            },
        }
        return wire.encode(bundle) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the attestation that a file holds.

        Raises:
            MalformedError: not the canonical bytes of a bundle with exactly our fields.
            UnsupportedError: another media type or payload type.
        """
        if not data.endswith(b"\n"):
            msg = "this is no attestation: its last byte is not a newline"
            raise MalformedError(msg)
        bundle = wire.parse_object(wire.decode_canonical(data[:-1]), name="attestation")
        _expect(bundle.get("mediaType"), MEDIA_TYPE, "mediaType")
        _refuse_others(bundle, ("mediaType", "verificationMaterial", "dsseEnvelope"), "attestation")
        material = _fields(bundle, "verificationMaterial", ("publicKey",))
        key = _fields(material, "publicKey", ("hint",))
        envelope = _fields(bundle, "dsseEnvelope", ("payload", "payloadType", "signatures"))
        _expect(envelope["payloadType"], PAYLOAD_TYPE, "payloadType")
        signatures = wire.parse_list(envelope["signatures"], name="signatures")
        if len(signatures) != 1:
            msg = f"a bundle holds one signature, this one {len(signatures)}"
            raise MalformedError(msg)
        signature = wire.parse_object(signatures[0], name="signature")
        _refuse_others(signature, ("sig",), "signature")
        return cls(
            payload=wire.parse_base64(envelope["payload"], name="payload"),
            signature=wire.parse_base64(signature["sig"], name="sig"),
            hint=wire.parse_digest(key["hint"], name="hint"),
        )


def _fields(outer: Mapping[str, wire.Wire], name: str, names: tuple[str, ...]) -> Mapping[str, wire.Wire]:
    found = wire.parse_object(outer[name], name=name)
    _refuse_others(found, names, name)
    return found


def _refuse_others(fields: Mapping[str, wire.Wire], names: tuple[str, ...], where: str) -> None:
    """Nothing in a bundle is signed but the payload, so a field that is not read may not stand there."""
    if set(fields) != set(names):
        msg = f"{where} has the fields {', '.join(sorted(fields))[:120]}, not {', '.join(sorted(names))}"
        raise MalformedError(msg)


def _expect(value: wire.Wire, wanted: str, name: str) -> None:
    if value != wanted:
        msg = f"{name} is {str(value)[:80]!r}, this version reads {wanted!r}"
        raise UnsupportedError(msg)
