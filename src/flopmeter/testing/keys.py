"""Throw-away keys. Whoever reads this file has them too: never sign anything of value with one."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flopmeter import wire
from flopmeter.attestation.signers.file import FileSigner


def throwaway_signer(name: str = "throw-away") -> FileSigner:
    """Return a signer whose key is derived from a name: the same name, the same key and the same signatures."""
    seed = bytes.fromhex(wire.digest(name.encode()))
    return FileSigner(Ed25519PrivateKey.from_private_bytes(seed))
