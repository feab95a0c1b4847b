"""Statement: the claim that is signed, as bytes of an in-toto Statement v1.

Bytes first: whoever reads a statement keeps the bytes that were signed, and fields it does not know.
Not here: signatures (`envelope.py`), the predicate's fields (`predicate.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.plausibility import check_physics
from flopmeter.attestation.predicate import (
    FIGURES,
    LATER,
    PREDICATE_TYPE,
    SHAPE,
    SPEC_VERSION,
    check_shape,
    describe,
)
from flopmeter.devices.table import PeakTable
from flopmeter.errors import MalformedError, UnsupportedError
from flopmeter.ledger.merge import Head, RunLedger

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Subject:
    """One file that the statement is about: a name for people, and the SHA-256 that counts."""

    name: str
    sha256: str

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the subject as in-toto writes it."""
        return {"name": self.name, "digest": {"sha256": self.sha256}}

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the subject that this object holds; other digests beside SHA-256 are not judged."""
        fields = wire.parse_object(value, name="subject")
        digests = wire.parse_object(fields.get("digest"), name="digest")
        return cls(
            name=wire.parse_text(fields.get("name"), name="subject name"),
            sha256=wire.parse_digest(digests.get("sha256"), name="sha256"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One number that an account is held against, as the signer states it.

    Units: `flop` operations; `near_percent` percent of it, from which on the relation is `near`.
    """

    id: str
    flop: int
    figure: str = "flop"
    near_percent: int = 50

    def __post_init__(self) -> None:
        """Refuse a figure that a predicate does not hold."""
        if self.figure not in FIGURES or self.flop < 0 or self.near_percent < 0:
            msg = f"threshold {self.id!r}: the figure is one of {', '.join(FIGURES)}, the numbers are not negative"
            raise ValueError(msg)

    def relate(self, compute: Mapping[str, wire.Wire]) -> str:
        """Return how these figures stand to this number: `below`, `near`, `atOrAbove`; `unknown` for null."""
        value: int | None = 0
        for name in self.figure.split("+"):
            part = compute[name]
            value = None if value is None or part is None else value + wire.parse_count(part, name=name)
        if value is None:
            return "unknown"
        if value >= self.flop:
            return "atOrAbove"
        return "near" if 100 * value >= self.near_percent * self.flop else "below"

    def to_wire(self, compute: Mapping[str, wire.Wire]) -> dict[str, wire.Wire]:
        """Return the threshold as a predicate carries it, its relation to these figures included."""
        return {
            "id": self.id,
            "flop": wire.print_count(self.flop),
            "basis": "stage",
            "relation": self.relate(compute),
            "rule": {"counts": "all", "figure": self.figure, "nearPercent": wire.print_count(self.near_percent)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A claim, as it was or will be signed: `data` are the bytes, the rest is what they say."""

    data: bytes
    subjects: tuple[Subject, ...]
    predicate: Mapping[str, wire.Wire]

    @classmethod
    def about(
        cls,
        account: Account,
        *,
        ledger: RunLedger,
        reason: str,
        subjects: Iterable[Subject] = (),
        sequence: int,
        previous: str | None,
        issuer: str | None = None,
        status: str,
        thresholds: Iterable[Threshold] = (),
        evidence: Sequence[wire.Wire] = (),
        table: PeakTable | None = None,
    ) -> Self:
        """Return the claim that an account supports.

        `ledger` is what the account was added up from. Without a subject, the run itself is one: the digest of its
        first line. Whether the ledger knows a subject is written down, not judged. `table` has the peaks of devices.

        Raises:
            MalformedError: the ledger or an argument holds what no statement may, such as a date that is none.
        """
        genesis = ledger.segments[0].header.digest
        named = sorted(set(subjects)) or [Subject(name="run", sha256=genesis)]
        known = {*account.subjects, genesis}
        digests = sorted({subject.sha256 for subject in named})
        facts = describe(account, ledger=ledger, status=status, table=table)
        limits = sorted(thresholds, key=lambda limit: (limit.id, limit.flop, limit.figure))
        predicate: dict[str, wire.Wire] = {
            **facts,
            "specVersion": SPEC_VERSION,
            "reason": reason,
            "sequence": wire.print_count(sequence),
            "previous": previous,
            "issuer": {"name": issuer, "role": "trainer"},
            "subjects": {
                "recorded": [digest for digest in digests if digest in known],
                "unrecorded": [digest for digest in digests if digest not in known],
            },
            "stage": {**facts["stage"], "kind": None, "status": status},
            "plausibility": [answer.to_wire() for answer in check_physics(account, table=table)],
            "thresholds": [limit.to_wire(facts["compute"]) for limit in limits],
            "meter": {"name": "flopmeter", "version": own_version()},
            **({"evidence": evidence} if evidence else {}),
        }
        try:
            data = wire.encode(
                {
                    "_type": STATEMENT_TYPE,
                    "subject": [subject.to_wire() for subject in named],
                    "predicateType": PREDICATE_TYPE,
                    "predicate": predicate,
                }
            )
        except (TypeError, UnicodeEncodeError) as error:  # a ledger may hold a name that cannot be a key here
            msg = f"this account cannot be stated: {error}"
            raise MalformedError(msg) from error
        return cls.from_bytes(data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the statement that these bytes hold.

        Raises:
            MalformedError: not canonical, or a required field is missing or of another type.
            UnsupportedError: another predicate, or a version of it that this build does not read.
        """
        fields = wire.parse_object(wire.decode_canonical(data), name="statement")
        for name, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
            if fields.get(name) != wanted:
                msg = f"{name} is {str(fields.get(name))[:80]!r}, this version reads {wanted!r}"
                raise UnsupportedError(msg)
        predicate = wire.parse_object(fields.get("predicate"), name="predicate")
        check_shape(predicate.get("specVersion"), SHAPE["specVersion"], "predicate.specVersion")
        written = wire.parse_text(predicate["specVersion"])
        if written.rpartition(".")[0] != SPEC_VERSION.rpartition(".")[0]:
            msg = f"specVersion is {written[:40]}, this version reads {SPEC_VERSION}"
            raise UnsupportedError(msg)
        check_shape(predicate, SHAPE)
        check_shape(predicate, LATER, is_later=True)
        subjects = tuple(Subject.from_wire(item) for item in wire.parse_list(fields.get("subject"), name="subject"))
        if not subjects:
            msg = "a statement is about at least one subject"
            raise MalformedError(msg)
        return cls(data=data, subjects=subjects, predicate=predicate)

    def part(self, name: str) -> Mapping[str, wire.Wire]:
        """Return one object of the predicate, such as `compute`."""
        return wire.parse_object(self.predicate[name], name=name)

    @property
    def status(self) -> str:
        """Whether the run went on, had finished or had broken off."""
        return wire.parse_text(self.part("stage")["status"])

    @property
    def flop(self) -> int:
        """Floating-point operations of this stage, best figure, as claimed.

        Units: FLOP.
        Is not: what earlier stages of the model cost.
        """
        return wire.parse_count(self.part("compute")["flop"])

    @property
    def heads(self) -> tuple[Head, ...]:
        """How far the ledger had got."""
        return tuple(Head.from_wire(item) for item in wire.parse_list(self.part("ledger")["heads"]))


def own_version() -> str | None:
    """Return the version of flopmeter that this is; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # thirty modules that a verifier has no need of

    try:
        return version("flopmeter")
    except PackageNotFoundError:
        return None
