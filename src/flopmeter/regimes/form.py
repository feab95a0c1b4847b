"""The form of a regime's file: which keys it may have, and of which type each is. Strict, because it states law.

A number stands in quotes with all its digits: TOML's 1e25 is a float, and that float is 10000000000000000905969664.
Not here: what the words mean and which belong together (`regime`).
"""

import re
import tomllib
from datetime import date
from typing import NoReturn, TypedDict, TypeGuard

NEEDED_KEYS = (
    "id",
    "title",
    "jurisdiction",
    "threshold",
    "operator",
    "unit",
    "counts",
    "obligation",
    "source",
    "as_of",
    "status",
)
OTHER_KEYS = (
    "deadline",
    "url",
    "in_force_from",
    "in_force_until",
    "confidence",
    "allowed_error",
    "plan_counts",
    "note",
    "conditions",
)
CONDITION_KEYS = ("id", "text")

_DIGITS = re.compile(r"[1-9][0-9]{0,59}\Z")


class Form(TypedDict):
    """The fields of a file, each of its type; an absent text is empty, an absent date None."""

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
    deadline: str
    url: str
    in_force_from: date | None
    in_force_until: date | None
    confidence: str
    allowed_error: str
    plan_counts: bool
    note: str


def parse_form(text: str) -> tuple[Form, tuple[tuple[str, str], ...]]:
    """Return the fields of a regime's file, and its conditions as pairs of id and text.

    Raises:
        ValueError: not TOML, an unknown or a missing key, a bare number; the message starts with the key.
    """
    try:
        table: dict[str, object] = tomllib.loads(text, parse_float=_Bare)
    except RecursionError:
        msg = "nested too deep"
        raise ValueError(msg) from None
    _check_keys(table, known=(*NEEDED_KEYS, *OTHER_KEYS), needed=NEEDED_KEYS, prefix="")
    form = Form(
        id=_text(table, "id"),
        title=_text(table, "title"),
        jurisdiction=_text(table, "jurisdiction"),
        threshold=_count(table, "threshold"),
        operator=_text(table, "operator"),
        unit=_text(table, "unit"),
        counts=_texts(table, "counts"),
        obligation=_text(table, "obligation"),
        source=_text(table, "source"),
        as_of=_date(table, "as_of"),
        status=_text(table, "status"),
        deadline=_text_or_none(table, "deadline"),
        url=_text_or_none(table, "url"),
        in_force_from=_date_or_none(table, "in_force_from"),
        in_force_until=_date_or_none(table, "in_force_until"),
        confidence=_text_or_none(table, "confidence"),
        allowed_error=_text_or_none(table, "allowed_error"),
        plan_counts=_truth(table, "plan_counts"),
        note=_text_or_none(table, "note"),
    )
    return form, _conditions(table)


class _Bare:
    """A bare TOML float, kept as it was written so that it can be refused by its key."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"the bare number {self.text}"


def _refuse(key: str, value: object, wanted: str) -> NoReturn:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    got = f"the bare number {value}" if is_number else repr(value)
    msg = f"{key} is {got}, not {wanted}"
    raise ValueError(msg)


def _check_keys(table: dict[str, object], *, known: tuple[str, ...], needed: tuple[str, ...], prefix: str) -> None:
    for key in table:
        if key not in known:
            msg = f"{prefix}{key} is no key of a regime; there are {', '.join(known)}"
            raise ValueError(msg)
    for key in needed:
        if key not in table:
            msg = f"{prefix}{key} is missing"
            raise ValueError(msg)


def _text(table: dict[str, object], key: str, *, prefix: str = "") -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        _refuse(prefix + key, value, "text in quotes")
    return value


def _text_or_none(table: dict[str, object], key: str) -> str:
    return _text(table, key) if key in table else ""


def _count(table: dict[str, object], key: str) -> int:
    value = table[key]
    if not isinstance(value, str) or not _DIGITS.match(value):
        _refuse(key, value, "a positive whole number in quotes with all its digits")
    return int(value)


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _texts(table: dict[str, object], key: str) -> tuple[str, ...]:
    value = table[key]
    if not _is_texts(value):
        _refuse(key, value, "a list of names in quotes")
    return tuple(value)


def _date(table: dict[str, object], key: str) -> date:
    value = table[key]
    if type(value) is not date:
        _refuse(key, value, "a date such as 2026-01-31, without quotes or time")
    return value


def _date_or_none(table: dict[str, object], key: str) -> date | None:
    return _date(table, key) if key in table else None


def _truth(table: dict[str, object], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        _refuse(key, value, "true or false")
    return value


def _conditions(table: dict[str, object]) -> tuple[tuple[str, str], ...]:
    value = table.get("conditions", [])
    if not isinstance(value, list):
        _refuse("conditions", value, "a list of tables [[conditions]]")
    found: list[tuple[str, str]] = []
    for item in value:
        if not isinstance(item, dict):
            _refuse("conditions", item, "a table with id and text")
        _check_keys(item, known=CONDITION_KEYS, needed=CONDITION_KEYS, prefix="conditions.")
        found.append((_text(item, "id", prefix="conditions."), _text(item, "text", prefix="conditions.")))
    return tuple(found)
