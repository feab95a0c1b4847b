"""Policy: whose signatures an auditor accepts, and how many of them.

Keys come from here and never from the attestation. Not here: how a signature is checked (`keys.py`).
"""

from dataclasses import dataclass

from flopmeter.attestation.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Policy:
    """Trusted keys, and how many different ones must have signed."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1

    def __post_init__(self) -> None:
        """Refuse a policy that nothing, or everything, would satisfy."""
        distinct = len(set(self.keys))
        if not 1 <= self.threshold <= distinct:
            msg = f"{self.threshold} signatures by {distinct} different trusted keys can never be asked for"
            raise ValueError(msg)

    def find(self, key_id: str) -> PublicKey | None:
        """Return the trusted key of this id, or None."""
        return next((key for key in self.keys if key.key_id == key_id), None)
