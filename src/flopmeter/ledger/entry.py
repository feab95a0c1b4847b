"""Entry: one line of a ledger, sealed to the line before.

Not here: files (`file.py`), whole chains (`chain.py`), what bodies mean (`step.py`, `account.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.errors import LedgerBrokenError, LedgerUnreadableError, MalformedError

FORMAT = "flopmeter-ledger/v0.1"
KINDS = (
    "header",
    "self-test",
    "model",
    "coordinates",
    "device",
    "table",
    "steps",
    "gap",
    "miss",
    "checkpoint",
    "threshold",
    "attestation",
    "close",
)
GENESIS = "0" * 64
RUN_FILE = "run"
"""The file beside the ledger files that holds the id of their run."""
_FIELDS = {"at", "body", "kind", "prev", "seq", "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One sealed line.

    `seq` counts from 0 in a file; `prev` is the digest of the line before, zeros for the first; `at` is a UTC date.
    """

    kind: str
    seq: int
    prev: str
    at: str
    body: Mapping[str, wire.Wire]

    def __post_init__(self) -> None:
        """Refuse a kind that the format does not know."""
        if self.kind not in KINDS:
            msg = f"kind is {self.kind!r}, not one of {', '.join(KINDS)}"
            raise MalformedError(msg)

    def _unsealed(self) -> dict[str, wire.Wire]:
        return {
            "at": self.at,
            "body": self.body,
            "kind": self.kind,
            "prev": self.prev,
            "seq": wire.print_count(self.seq),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes of every field but this one."""
        return wire.digest(wire.encode(self._unsealed()))

    def to_line(self) -> bytes:
        """Return the line with its digest and newline."""
        unsealed = self._unsealed()
        sealed = {**unsealed, "sha256": wire.digest(wire.encode(unsealed))}
        return wire.encode(sealed) + b"\n"

    @classmethod
    def from_line(cls, line: bytes, *, where: str) -> Self:
        """Return the entry that a line (without newline) holds.

        Raises:
            LedgerUnreadableError: the line is not an entry of this format.
            LedgerBrokenError: it is one, and its digest is not that of its content.
        """
        try:
            fields = wire.parse_object(wire.decode_canonical(line), name="entry")
            if set(fields) != _FIELDS:
                msg = f"an entry has the fields {', '.join(sorted(_FIELDS))}, not {', '.join(sorted(fields))[:120]}"
                raise MalformedError(msg)
            entry = cls(
                kind=wire.parse_text(fields["kind"], name="kind"),
                seq=wire.parse_count(fields["seq"], name="seq"),
                prev=wire.parse_digest(fields["prev"], name="prev"),
                at=wire.parse_text(fields["at"], name="at"),
                body=wire.parse_object(fields["body"], name="body"),
            )
            sealed = wire.parse_digest(fields["sha256"], name="sha256")
        except MalformedError as error:
            raise LedgerUnreadableError(error.what, where=where) from error
        found = entry.digest
        if found != sealed:
            msg = f"the line says its digest is {sealed[:12]}…, its content has {found[:12]}…: it was changed"
            raise LedgerBrokenError(msg, where=where)
        return entry
