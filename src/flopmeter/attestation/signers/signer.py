"""Signer: whatever can sign bytes with a key it holds; and the table of URI schemes that open one.

Not here: what is signed (`statement.py`, `envelope.py`).
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Protocol

from flopmeter.attestation.keys import PublicKey
from flopmeter.errors import UnknownSignerError

SCHEMES = {"file": "flopmeter.attestation.signers.file"}
"""URI scheme → module with an `open_signer(rest_of_uri)`; a path without a scheme is `file:`."""

_URI = re.compile(r"([a-z][a-z0-9+.-]+):(.*)\Z", re.DOTALL)


class Signer(Protocol):
    """Holds a private key, and never shows it."""

    @property
    def public_key(self) -> PublicKey:
        """The key that others check signatures with."""
        ...

    @property
    def key_id(self) -> str:
        """Its id."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature; SigningError where there can be none."""
        ...


def open_signer(uri: str) -> Signer:
    """Return the signer that a URI, or the path of a private key, names.

    Raises:
        UnknownSignerError: a scheme that this version does not know.
        SigningError: the key cannot be read.
    """
    found = _URI.match(uri)
    scheme, rest = (found.group(1), found.group(2)) if found else ("file", uri)
    if scheme not in SCHEMES:
        if not Path(uri).exists():
            known = ", ".join(f"{name}:" for name in sorted(SCHEMES))
            msg = f"no signer is known for {scheme}:"
            raise UnknownSignerError(msg, where=uri, hint=f"there are {known}; a path alone is file:")
        scheme, rest = "file", uri
    signer: Signer = import_module(SCHEMES[scheme]).open_signer(rest)
    return signer
