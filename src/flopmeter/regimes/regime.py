"""Regime and Finding: one law or policy with its number, and what it says about an account.

The verdict judges the number. What is no number (risk, money, modality, place) stands beside it as conditions, and
both together give the duty. Not here: what counts (`rules`), how a file is read (`form`), warnings while a run still
goes on (`monitor`). No legal advice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from flopmeter import wire
from flopmeter.account import Account
from flopmeter.errors import UnknownRegimeError
from flopmeter.regimes.form import parse_form
from flopmeter.regimes.rules import RULES, Exclusion
from flopmeter.units import print_flop

VERDICTS = ("above", "cannot-tell", "will-exceed", "near", "below")
OPERATORS = (">", ">=")
# Unit → whether integer operations are among what is compared.
UNITS: Mapping[str, bool] = {
    "floating-point operations": False,
    "integer or floating-point operations": True,
    "computational operations": True,
}
# `in use` is said of guidance and of an organisation's own policy.
LIVE = ("in force", "in use")
STATUSES = (*LIVE, "not yet in force", "no longer in force", "never in force")
# How number, operator, unit and dates are known, by the weakest of them: from the law's text, from a text about it,
# from memory, or concluded.
CONFIDENCES = ("primary", "secondary", "recalled", "inferred")
NEAR_PERCENT = 50

_ID = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)*\Z")
_FRACTION = re.compile(r"0\.[0-9]{1,6}\Z")
_MAX_THRESHOLD = 10**60


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a regime asks besides the number, in words."""

    id: str
    text: str

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the condition with its answer, which nobody has given yet."""
        return {"id": self.id, "text": self.text, "answer": "unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """One rule-book: what counts, where its threshold lies, and where that is written.

    `counts` names rules of `rules.RULES`: the first gives the figure, and further ones are other readings of the same
    text, which can only widen the interval. `plan_counts` says that a plan to pass the number is enough.
    `in_force_until` is the first day on which the regime no longer holds. `allowed_error` is an error of the figure
    that the regime itself tolerates; it is shown, and never enters an interval.

    Units: `threshold` operations, as `unit` says.
    """

    id: str
    title: str
    jurisdiction: str
    threshold: int
    operator: str
    unit: str
    counts: tuple[str, ...]
    obligation: str
    source: str
    as_of: date
    status: str
    deadline: str = ""
    url: str = ""
    in_force_from: date | None = None
    in_force_until: date | None = None
    confidence: str = ""
    allowed_error: str = ""
    plan_counts: bool = False
    note: str = ""
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; each message starts with the name of the field."""
        self._check_words()
        self._check_counts()
        self._check_dates()

    @property
    def counts_int_op(self) -> bool:
        """Whether integer operations are among what is compared."""
        return UNITS[self.unit]

    @property
    def digest(self) -> str:
        """The digest of everything this regime says, so that two parties can see whether they mean the same."""
        return wire.digest(wire.encode(self.to_wire()))

    def is_passed_by(self, flop: int, *, percent: int = 100) -> bool:
        """Whether a figure passes the number, or `percent` of it, by the regime's own operator."""
        scaled, line = flop * 100, self.threshold * percent
        return scaled > line if self.operator == ">" else scaled >= line

    def status_on(self, day: date | None) -> str:
        """Return the status on a day; without one, on the day the facts were read."""
        if day is None or self.status == "never in force":
            return self.status
        if self.in_force_from is not None and day < self.in_force_from:
            return "not yet in force"
        if self.in_force_until is not None and day >= self.in_force_until:
            return "no longer in force"
        return "in use" if self.status == "in use" else "in force"

    def is_live(self, day: date) -> bool:
        """Whether the regime is in force, or in use, on a day."""
        return self.status_on(day) in LIVE

    def assess(self, account: Account, *, on: date | None = None, plan_flop: int | None = None) -> "Finding":
        """Return what this regime says about an account.

        `plan_flop` is what the finished run is planned to have executed in all, in the regime's unit.
        """
        figures = [RULES[name].count(account) for name in self.counts]
        figure = figures[0]
        uppers = [each.upper for each in figures if each.upper is not None]
        return Finding(
            regime=self,
            flop=figure.flop,
            lower=min(each.lower for each in figures),
            upper=max(uppers) if len(uppers) == len(figures) else None,
            gross_flop=figure.gross_flop,
            exclusions=figure.exclusions,
            status=self.status_on(on),
            plan_flop=plan_flop,
        )

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return all fields as they travel; null where one is empty."""
        return {
            "id": self.id,
            "title": self.title,
            "jurisdiction": self.jurisdiction,
            "threshold": wire.print_count(self.threshold),
            "operator": self.operator,
            "unit": self.unit,
            "counts": list(self.counts),
            "conditions": [{"id": condition.id, "text": condition.text} for condition in self.conditions],
            "plan_counts": self.plan_counts,
            "obligation": self.obligation,
            "deadline": self.deadline or None,
            "source": self.source,
            "url": self.url or None,
            "as_of": self.as_of.isoformat(),
            "in_force_from": self.in_force_from.isoformat() if self.in_force_from else None,
            "in_force_until": self.in_force_until.isoformat() if self.in_force_until else None,
            "status": self.status,
            "confidence": self.confidence or None,
            "allowed_error": self.allowed_error or None,
            "note": self.note,
        }

    def _check_words(self) -> None:
        if not _ID.match(self.id):
            msg = f"id is {self.id!r}, not lower-case words joined by dots"
            raise ValueError(msg)
        if not 0 < self.threshold < _MAX_THRESHOLD:
            msg = f"threshold is {self.threshold}, not a positive number below 1e60"
            raise ValueError(msg)
        for name, value, known in (
            ("operator", self.operator, OPERATORS),
            ("unit", self.unit, tuple(UNITS)),
            ("status", self.status, STATUSES),
            ("confidence", self.confidence, ("", *CONFIDENCES)),
        ):
            if value not in known:
                msg = f"{name} is {value!r}, not one of {', '.join(word for word in known if word)}"
                raise ValueError(msg)
        if self.allowed_error and not _FRACTION.match(self.allowed_error):
            msg = f"allowed_error is {self.allowed_error!r}, not a fraction such as 0.30"
            raise ValueError(msg)
        ids = [condition.id for condition in self.conditions]
        if len(set(ids)) != len(ids):
            msg = f"conditions have an id twice: {', '.join(ids)}"
            raise ValueError(msg)

    def _check_counts(self) -> None:
        if not self.counts:
            msg = f"counts names no rule; there are {', '.join(RULES)}"
            raise ValueError(msg)
        for name in self.counts:
            if name not in RULES:
                msg = f"counts names the rule {name!r}; there are {', '.join(RULES)}"
                raise ValueError(msg)
            if RULES[name].counts_int_op != self.counts_int_op:
                msg = f"counts names the rule {name!r}, which does not count the unit {self.unit!r}"
                raise ValueError(msg)

    def _check_dates(self) -> None:
        start, end = self.in_force_from, self.in_force_until
        if self.status == "never in force":
            if start or end:
                msg = "in_force_from and in_force_until are given, and status is 'never in force'"
                raise ValueError(msg)
            return
        if start is None and self.status != "in use":
            msg = f"in_force_from is missing, and status is {self.status!r}"
            raise ValueError(msg)
        if start and end and end <= start:
            msg = f"in_force_until is {end}, not after in_force_from {start}"
            raise ValueError(msg)
        if self.status_on(self.as_of) != self.status:
            msg = f"status is {self.status!r}, and by its dates it was {self.status_on(self.as_of)!r} on {self.as_of}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a regime says about an account.

    `lower` and `upper` are what is known to hold, see `rules.Figure`; an error that the regime allows is not in them.

    Units: operations, as the regime's unit says; `plan_flop` is None where no plan was given.
    """

    regime: Regime
    flop: int
    lower: int
    upper: int | None
    gross_flop: int
    exclusions: tuple[Exclusion, ...] = ()
    status: str
    plan_flop: int | None = None

    @property
    def verdict(self) -> str:
        """The strongest of the five that applies to the number."""
        regime = self.regime
        if regime.is_passed_by(self.flop):
            return "above"
        if self.upper is None or regime.is_passed_by(self.upper):
            return "cannot-tell"
        if self.plan_flop is not None and regime.is_passed_by(self.plan_flop):
            return "will-exceed"
        return "near" if regime.is_passed_by(self.flop, percent=NEAR_PERCENT) else "below"

    @property
    def duty(self) -> str:
        """Whether the regime obliges: yes, no, or unknown while a condition or the number is."""
        verdict = self.verdict
        if self.status not in LIVE or verdict in {"near", "below"}:
            return "no"
        if verdict == "will-exceed" and not self.regime.plan_counts:
            return "no"
        return "unknown" if verdict == "cannot-tell" or self.regime.conditions else "yes"

    @property
    def message(self) -> str:
        """The finding in one sentence, for people."""
        regime = self.regime
        line = f"{regime.operator} {print_flop(regime.threshold)}"
        sentence = f"{regime.id}: {self.verdict} ({print_flop(self.flop)}; the line is {line})"
        if self.verdict != "cannot-tell":
            return sentence
        if self.upper is None:
            return f"{sentence}; nothing bounds what was not counted"
        return f"{sentence}; what is not known for sure may come to {print_flop(self.upper)}"

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the finding as every `--json` carries it."""
        regime = self.regime
        return {
            "regime": regime.id,
            "verdict": self.verdict,
            "flop": wire.print_count(self.flop),
            "lower": wire.print_count(self.lower),
            "upper": None if self.upper is None else wire.print_count(self.upper),
            "threshold": wire.print_count(regime.threshold),
            "operator": regime.operator,
            "gross_flop": wire.print_count(self.gross_flop),
            "exclusions": [exclusion.to_wire() for exclusion in self.exclusions],
            "conditions": [condition.to_wire() for condition in regime.conditions],
            "duty": self.duty,
            "obligation": regime.obligation,
            "deadline": regime.deadline or None,
            "source": regime.source,
            "status": self.status,
            "allowed_error": regime.allowed_error or None,
        }


def catalogue() -> tuple[Regime, ...]:
    """Return every regime that comes with flopmeter, by id; those no longer or never in force too."""
    known = _catalogue_files()
    return tuple(read_regime(known[name]) for name in sorted(known))


def find(name: str | Path) -> Regime:
    """Return the regime of this id in the catalogue, or the one in a file of one's own.

    Text that ends in `.toml` is a path.

    Raises:
        UnknownRegimeError: no such id, or a file that is missing or says what cannot be meant.
    """
    if isinstance(name, Path) or name.endswith(".toml"):
        return read_regime(Path(name))
    known = _catalogue_files()
    if name not in known:
        msg = f"no regime has the id {name!r}"
        raise UnknownRegimeError(msg, hint=f"there are {', '.join(sorted(known))}; or give the path of a .toml file")
    return read_regime(known[name])


def read_regime(path: Path | Traversable) -> Regime:
    """Return the regime that a TOML file holds.

    Raises:
        UnknownRegimeError: the file is missing, or says what cannot be meant; the message names file and key.
    """
    try:
        form, conditions = parse_form(path.read_bytes().decode("utf-8"))
        return Regime(**form, conditions=tuple(Condition(id=name, text=text) for name, text in conditions))
    except OSError as error:
        msg = f"the regime cannot be read: {error.strerror}"
        raise UnknownRegimeError(msg, where=str(path)) from error
    except ValueError as error:
        raise UnknownRegimeError(str(error), where=str(path)) from error


def _catalogue_files() -> dict[str, Traversable]:
    found = files("flopmeter.regimes").joinpath("catalogue").iterdir()
    return {item.name.removesuffix(".toml"): item for item in found if item.name.endswith(".toml")}
