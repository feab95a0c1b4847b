"""verify(bytes, policy) → Verified: yes, no or cannot tell, with what each check found.

No file, no clock, no network, no torch: whoever calls brings bytes, digests and a ledger already read.
Nothing but a FlopmeterError leaves this room, for any input whatever.
Not here: what the law says of the figures (`regimes`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.attestation.arithmetic import check_arithmetic
from flopmeter.attestation.devices import check_usage, compare_hardware, find_strange_time
from flopmeter.attestation.envelope import Attestation
from flopmeter.attestation.evidence import check_evidence, read_evidence, refuse_unstated
from flopmeter.attestation.physics import judge_physics
from flopmeter.attestation.policy import Policy
from flopmeter.attestation.predicate import describe
from flopmeter.attestation.statement import Statement, Subject
from flopmeter.devices.table import PeakTable
from flopmeter.errors import (
    CannotVerifyError,
    LedgerBrokenError,
    LedgerError,
    MalformedError,
    MismatchError,
    PolicyError,
    SignatureError,
    VerificationError,
)
from flopmeter.ledger.merge import RunLedger

if TYPE_CHECKING:
    from flopmeter.ledger.evidence import GpuReport

T = TypeVar("T")
YES, NO, CANNOT_TELL = "yes", "no", "cannot-tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question, its answer, and why; `is_required` says whether the whole depends on an answer."""

    name: str
    verdict: str
    detail: str
    is_required: bool

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the check as the contract has it."""
        return {"name": self.name, "verdict": self.verdict, "detail": self.detail}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The verifier's answer; `statement` is None unless a trusted key signed it and it could be read."""

    checks: tuple[Check, ...]
    statement: Statement | None

    @property
    def verdict(self) -> str:
        """`no` if any check says so, else `cannot-tell` if a required one cannot tell, else `yes`."""
        if any(check.verdict == NO for check in self.checks):
            return NO
        if any(check.verdict != YES and check.is_required for check in self.checks):
            return CANNOT_TELL
        return YES

    @property
    def assurance(self) -> str | None:
        """How much stands behind a verified claim: its signer's word; None where it is not verified."""
        return "self-declared" if self.verdict == YES else None

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the answer as the contract has it."""
        return {
            "verdict": self.verdict,
            "assurance": self.assurance,
            "checks": [check.to_wire() for check in self.checks],
            "flop": None if self.statement is None else wire.print_count(self.statement.flop),
        }


def verify(
    data: bytes | Sequence[bytes],
    policy: Policy,
    *,
    ledger: "RunLedger | LedgerError | None" = None,
    subjects: Sequence[Subject] | None = None,
    reports: "Sequence[GpuReport] | LedgerError | None" = None,
    table: PeakTable | None = None,
) -> Verified:
    """Answer whether these files are one true statement by whom the policy trusts.

    Several files are one statement by several signers. `ledger` is the run's ledger, or the error that reading it
    gave; `subjects` are names and digests of files that the statement should be about; `reports` are what devices
    signed over the ledger, where the statement names such. What is not brought is not checked, and listed so. `table`
    has the peaks of devices, else that which comes with flopmeter.
    """
    files = [data] if isinstance(data, bytes) else list(data)
    bundle = "a Sigstore bundle with one DSSE envelope, in its canonical bytes"
    form, attestations = _attempt("form", lambda: [Attestation.from_bytes(file) for file in files], bundle)
    if attestations is None:
        return Verified(checks=(form, _not_reached("signature")), statement=None)
    signature = _answer("signature", lambda: _check_signatures(attestations, policy))
    if signature.verdict != YES:
        return Verified(checks=(form, signature), statement=None)
    claim = "an in-toto statement on training compute, in its canonical bytes"
    form, statement = _attempt("form", lambda: Statement.from_bytes(attestations[0].payload), claim)
    if statement is None:
        return Verified(checks=(form, signature), statement=None)
    accounts: list[Account] = []
    is_brought = ledger is not None
    checked = _answer("ledger", lambda: _check_ledger(statement, ledger, accounts, table), is_required=is_brought)
    account = next(iter(accounts), None)
    checks: tuple[Check, ...] = (
        form,
        signature,
        _answer("arithmetic", lambda: check_arithmetic(statement)),
        *(
            [_ask_physics(statement, account, table)]
            if wire.parse_list(statement.part("usage")["devices"])
            else []  # where no device was measured there is nothing to ask
        ),
        _answer("self-test", lambda: _check_self_test(statement), is_required=False),
        _answer("recorded-subjects", lambda: _check_recorded(statement), is_required=False),
        checked,
        _answer("subject", lambda: _check_subjects(statement, subjects), is_required=subjects is not None),
    )
    return Verified(checks=(*checks, *_ask_evidence(statement, reports, account)), statement=statement)


def _ask_physics(statement: Statement, account: Account | None, table: PeakTable | None) -> Check:
    """Time that the run's own dates do not bear out makes nothing possible, and is for whoever asks to look into."""
    strange = find_strange_time(statement)

    def ask() -> str:
        possible = judge_physics(statement, account, table=table)
        if strange:
            raise CannotVerifyError(strange)
        return possible

    return _answer("physics", ask, is_required=bool(strange))


def _ask_evidence(
    statement: Statement, reports: "Sequence[GpuReport] | LedgerError | None", account: Account | None
) -> list[Check]:
    """Where a statement names no report, one that lies beside its ledger all the same is not passed over."""
    if "evidence" in statement.predicate:
        stated = _answer("evidence", lambda: f"{len(read_evidence(statement))} reports")
        if stated.verdict != YES:
            return [stated]
        return [_answer("evidence", lambda: check_evidence(statement, reports, account), is_required=bool(reports))]
    if not reports:
        return []

    def ask() -> str:
        if isinstance(reports, LedgerError):
            raise reports
        refuse_unstated(statement, reports)
        return ""

    check = _answer("evidence", ask)
    return [] if check.verdict == YES else [check]


def _attempt(name: str, question: Callable[[], T], detail: str) -> tuple[Check, T | None]:
    found: list[T] = []

    def ask() -> str:
        found.append(question())
        return detail

    return _answer(name, ask), found[0] if found else None


def _answer(name: str, question: Callable[[], str], *, is_required: bool = True) -> Check:
    try:
        detail, verdict = question(), YES
    except (VerificationError, LedgerBrokenError) as error:
        detail, verdict = str(error), NO
    except (CannotVerifyError, LedgerError) as error:
        detail, verdict = str(error), CANNOT_TELL
    return Check(name=name, verdict=verdict, detail=detail, is_required=is_required)


def _not_reached(name: str) -> Check:
    return Check(name=name, verdict=CANNOT_TELL, detail="not reached: the file could not be read", is_required=True)


def _check_signatures(attestations: Sequence[Attestation], policy: Policy) -> str:
    if not attestations:
        msg = "there is no attestation to check"
        raise MalformedError(msg)
    if len({attestation.payload for attestation in attestations}) > 1:
        msg = "these files hold different statements; several files are several signatures of one statement"
        raise MismatchError(msg)
    signers = set()
    for attestation in attestations:
        key = policy.find(attestation.hint)
        if key is None:
            trusted = ", ".join(f"{key.key_id[:12]}…" for key in policy.keys)
            msg = f"signed by key {attestation.hint[:12]}…, which is not among the trusted ones ({trusted})"
            raise SignatureError(msg)
        if not key.accepts(attestation.signature, attestation.pae):
            msg = f"key {key.key_id[:12]}… did not sign this: the statement or the signature was changed"
            raise SignatureError(msg)
        signers.add(key)
    if len(signers) < policy.threshold:
        msg = f"signed by {len(signers)} trusted keys, the policy asks for {policy.threshold}"
        raise PolicyError(msg)
    return "signed by " + " and ".join(f"{key_id[:12]}…" for key_id in sorted(key.key_id for key in signers))


def _check_self_test(statement: Statement) -> str:
    tests = wire.parse_object(statement.part("coverage")["selfTests"])
    passed, failed = wire.parse_count(tests["passed"]), wire.parse_count(tests["failed"])
    if failed:
        msg = f"the counter failed {failed} of {passed + failed} self-tests: its figures cannot be relied on"
        raise MismatchError(msg)
    if not passed:
        msg = "the ledger records no self-test of the counter"
        raise CannotVerifyError(msg)
    return f"the counter passed {passed} of {passed} self-tests with known answers"


def _check_recorded(statement: Statement) -> str:
    unknown = wire.parse_list(wire.parse_object(statement.predicate["subjects"])["unrecorded"])
    if unknown:
        names = ", ".join(subject.name for subject in statement.subjects if subject.sha256 in unknown)
        msg = f"the ledger never saw {names}: that this run made it is the signer's word alone"
        raise CannotVerifyError(msg)
    return "the signer says that its ledger recorded every subject"


def _check_subjects(statement: Statement, subjects: Sequence[Subject] | None) -> str:
    if subjects is None:
        msg = "not checked: no subject was given"
        raise CannotVerifyError(msg)
    known = {subject.sha256 for subject in statement.subjects}
    for subject in subjects:
        if subject.sha256 not in known:
            msg = f"{subject.name} ({subject.sha256[:12]}…) is not what the statement is about"
            raise MismatchError(msg)
    if not subjects:
        msg = "no file was given as subject"
        raise CannotVerifyError(msg)
    given = {subject.sha256 for subject in subjects}
    return f"{len(given)} of {len(known)} subjects were given, each is what the statement is about"


def _check_ledger(
    statement: Statement, ledger: "RunLedger | LedgerError | None", accounts: list[Account], table: PeakTable | None
) -> str:
    """Compare a statement with the ledger; what that adds up to is left in `accounts`."""
    if ledger is None:
        msg = "not checked: no ledger was given"
        raise CannotVerifyError(msg)
    if isinstance(ledger, LedgerError):
        raise ledger
    if not statement.heads:
        msg = "ledger.heads names no file, so nothing says which lines this is about"
        raise MismatchError(msg)
    cut = ledger.cut_at(statement.heads)
    _check_nothing_left_out(statement, ledger, cut)
    account = Account.of(cut, live=statement.status == "running")
    accounts.append(account)
    _check_status(statement.status, ledger, cut)
    for name, expected in describe(account, ledger=cut, status=statement.status).items():
        _compare(name, statement.part(name), expected)
    said = (statement.predicate["sequence"], statement.predicate["previous"])
    last = account.attestations[-1] if account.attestations else None
    if said != (wire.print_count(len(account.attestations)), last):
        msg = (
            f"sequence {said[0]} follows {said[1]}, the ledger names {len(account.attestations)} attestations before it"
        )
        raise MismatchError(msg)
    recorded = wire.parse_list(wire.parse_object(statement.predicate["subjects"])["recorded"])
    strangers = set(recorded) - {*account.subjects, ledger.segments[0].header.digest}
    if strangers:
        msg = f"subjects.recorded holds {min(map(str, strangers))[:12]}…, which the ledger does not"
        raise MismatchError(msg)
    check_usage(account.usage)
    compare_hardware(statement, account, table=table)  # last, because it may be what cannot be told
    return f"every figure follows from the {account.entries} lines of the ledger"


def _check_nothing_left_out(statement: Statement, ledger: RunLedger, cut: RunLedger) -> None:
    """A statement may end before the ledger does; it may not skip a part in the middle or leave out a rank."""
    here = [segment.path.name for segment in cut.segments]
    last = {segment.rank: segment.number for segment in cut.segments}
    expected = [s.path.name for s in ledger.segments if s.number <= last.get(s.rank, -1)]
    whole = {segment.path.name: len(segment.entries) for segment in ledger.segments}
    if here != expected or any(len(s.entries) != whole[s.path.name] for s in cut.segments if s.number != last[s.rank]):
        msg = f"ledger.heads are {', '.join(here)}, not in order or not the whole of what came before"
        raise MismatchError(msg)
    as_of = wire.parse_text(statement.part("stage")["asOf"])
    missing = [s.path.name for s in ledger.segments if s.rank not in last and s.header.at < as_of]
    if missing:
        msg = f"{', '.join(missing)} began before {as_of} and is not among ledger.heads"
        if statement.status == "running":  # a rank that was just starting is read a moment too late
            raise CannotVerifyError(msg)
        raise MismatchError(msg)


def _check_status(said: str, ledger: RunLedger, cut: RunLedger) -> None:
    """An open end is of a run that went on or that broke off; only lines that came later tell which."""
    is_over = all(_last_of_ranks(cut))
    if (said == "finished") != is_over:
        msg = f"stage.status is {said}, the ledger as of these heads was {'finished' if is_over else 'not finished'}"
        raise MismatchError(msg)
    whole = {segment.path.name: len(segment.entries) for segment in ledger.segments}
    went_on = [s.path.name for s in cut.segments if len(s.entries) < whole[s.path.name]]
    if said == "interrupted" and went_on:
        msg = f"stage.status is interrupted, and {', '.join(went_on)} went on after that"
        raise MismatchError(msg)


def _last_of_ranks(ledger: RunLedger) -> list[bool]:
    closed = {segment.rank: segment.is_closed for segment in ledger.segments}
    return list(closed.values())


_WORDS = frozenset({"detail", "note"})
_BY_PEAKS = frozenset({"mostFlopPerS", "mostFlop"})  # of a table that may be another; arithmetic minds the second
_METHODS = frozenset({"counted", "6nd"})
_MAPS = ("compute.by.", "compute.replay.passages")  # keys that are values, not names of fields


def _compare(name: str, said: wire.Wire, expected: wire.Wire) -> None:
    """Compare every figure of a part; words may be put otherwise by another version, and fields it added are kept."""
    if isinstance(expected, Mapping):
        fields = wire.parse_object(said, name=name)
        if name.startswith(_MAPS) and set(fields) != set(expected):
            msg = f"{name} names {', '.join(sorted(fields))[:120]}, the ledger {', '.join(sorted(expected))[:120]}"
            raise MismatchError(msg)
        for key, value in {**_left_out(name, fields), **expected}.items():
            if key not in _WORDS | _BY_PEAKS:
                _compare(f"{name}.{key}", fields.get(key), value)
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        items = list(wire.parse_list(said, name=name))
        wanted = list(expected)
        if name == "compute.methods":
            items, wanted = ([m for m in some if _method(m) in _METHODS] for some in (items, wanted))
        if len(items) != len(wanted):
            msg = f"{name} has {len(items)} items, the ledger gives {len(wanted)}"
            raise MismatchError(msg)
        for index, (item, value) in enumerate(zip(items, wanted, strict=True)):
            _compare(f"{name}[{index}]", item, value)
    elif said != expected:
        msg = f"{name} is {_show(said)}, the ledger gives {_show(expected)}"
        raise MismatchError(msg)


def _left_out(name: str, fields: Mapping[str, wire.Wire]) -> dict[str, wire.Wire]:
    """Return what a description leaves out where it is none, if it is stated: else anything could stand there."""
    return {"edgeNs": "0"} if name.startswith("usage.devices[") and "edgeNs" in fields else {}


def _method(value: wire.Wire) -> wire.Wire:
    return wire.parse_object(value, name="method").get("method")


def _show(value: wire.Wire) -> str:
    return "unknown" if value is None else str(value)[:80]
