"""FileSigner: an Ed25519 private key in a PKCS #8 PEM file that only its owner can read.

Not here: keys in hardware or in somebody's cloud.
"""

import logging
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from flopmeter.attestation.keys import PublicKey
from flopmeter.errors import SigningError
from flopmeter.ledger.chain import refuse_special

_log = logging.getLogger("flopmeter")


class FileSigner:
    """Signs with a private key held in memory, as read from a file."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        """Take the key; `from_file` reads one."""
        self._private_key = private_key
        self.public_key = PublicKey(private_key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        """Name the key by its public id."""
        return f"FileSigner({self.key_id[:12]}…)"

    @property
    def key_id(self) -> str:
        """The id of the public key."""
        return self.public_key.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature over the message."""
        return self._private_key.sign(message)

    @classmethod
    def from_file(cls, path: Path | str) -> "FileSigner":
        """Read a private key; warn where others can read it too.

        Raises:
            SigningError: the file cannot be read, or holds no unencrypted Ed25519 key.
        """
        try:
            refuse_special(Path(path))
            data = Path(path).read_bytes()
            mode = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError as error:
            msg = f"the private key cannot be read: {error.strerror}"
            raise SigningError(msg, where=str(path), hint="`flopmeter keygen PATH` makes one") from error
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
            is_public = b"PUBLIC KEY" in data
            msg = (
                "this is a public key"
                if is_public
                else "this is no private key in PEM that can be read without a password"
            )
            hint = "sign with the private one beside it" if is_public else "`flopmeter keygen PATH` makes one"
            raise SigningError(msg, where=str(path), hint=hint) from error
        if not isinstance(key, Ed25519PrivateKey):
            msg = "this private key is not an Ed25519 key"
            raise SigningError(msg, where=str(path), hint="`flopmeter keygen PATH` makes one")
        if mode & 0o077:
            _log.warning("%s: others on this machine can read the private key; run: chmod 600 %s", path, path)
        return cls(key)


def open_signer(rest: str) -> FileSigner:
    """Return the signer of a `file:` URI, which is a path."""
    return FileSigner.from_file(Path(rest))


def write_key_pair(path: Path | str) -> FileSigner:
    """Make a key pair: `path` (private, mode 0600) and `path.pub`; neither may exist.

    Raises:
        SigningError: a file of that name exists, or cannot be written.
    """
    private_path = Path(path)
    public_path = Path(f"{path}.pub")
    signer = FileSigner(Ed25519PrivateKey.generate())
    private = signer._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # noqa: SLF001
    made: list[Path] = []
    try:
        for file, data, mode in ((private_path, private, 0o600), (public_path, signer.public_key.to_pem(), 0o644)):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            made.append(file)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        for file in made:  # half a pair is of no use, and in the way of the next try
            file.unlink(missing_ok=True)
        hint = "a key is never overwritten: choose another path" if isinstance(error, FileExistsError) else ""
        msg = f"the key pair cannot be written: {error.strerror}"
        raise SigningError(msg, where=str(error.filename or path), hint=hint) from error
    return signer
