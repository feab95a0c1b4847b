"""The table of devices: what each part can do, read from `peaks.toml` and from files of users, and checked.

Not here: which part a device is, and what is asked of a part (`peaks.py`).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol, Self, TypeVar

from flopmeter import wire
from flopmeter.errors import MalformedError

TERA = 10**12
MHZ = 10**6
PRECISIONS = (
    *("fp64", "fp64_tensor", "fp32", "tf32", "bf16", "fp16", "fp16_acc16"),
    *("fp8", "fp8_acc16", "fp6", "fp4", "int8"),
)
"""What a row may have a figure of; `fp64` and `fp32` are those of the vector pipes, `…_acc16` accumulates in fp16."""
TENSOR = tuple(name for name in PRECISIONS if name not in ("fp64", "fp32"))
"""Those of the tensor pipes."""
CONFIDENCES = ("high", "medium", "low")
SLACK = Fraction(5, 100)
"""How far a figure may be from SMs × clock × rate: makers round, and a wrong clock or rate is off by more."""

_TEXTS = ("part", "source", "date", "confidence")
_NUMBERS = ("sms", "clock_mhz", "max_clock_mhz")
_TABLES = ("ids", "dense", "sparse", "clock_mhz_of", "unsure")
_T_co = TypeVar("_T_co", covariant=True)
_KEYS = {*_TEXTS, *_NUMBERS, *_TABLES, "rates", "capability", "note", "ids_confidence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one SM of a sort does per clock, by precision.

    Units: operations per clock and SM, dense; a multiply-add is two.
    """

    capability: str
    per_clock: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part, as its maker states it. What is not there is unknown.

    `names` has, by PCI device id, what NVML calls it, as sure as `ids_confidence`; `confidence` is that of the figures.
    `dense` and `sparse` are by precision.

    Units: `dense` and `sparse` operations per second (integer ones of `int8`); clocks MHz; `per_clock` as in `Rates`.
    """

    part: str
    names: Mapping[str, tuple[str, ...]]
    source: str
    date: str
    confidence: str
    ids_confidence: str = "high"
    capability: str = ""
    sms: int | None = None
    clock_mhz: int | None = None
    max_clock_mhz: int | None = None
    clock_mhz_of: Mapping[str, int] = field(default_factory=dict)
    per_clock: Mapping[str, int] = field(default_factory=dict)
    dense: Mapping[str, int] = field(default_factory=dict)
    sparse: Mapping[str, int] = field(default_factory=dict)
    unsure: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def clock_for(self, precision: str) -> int | None:
        """Return the clock that the dense figure of a precision implies, in MHz."""
        return self.clock_mhz_of.get(precision, self.clock_mhz)

    def multiply_out(self, precision: str) -> int | None:
        """Return SMs × clock × rate; None where one of them is unknown.

        Units: operations per second.
        """
        rate, clock = self.per_clock.get(precision), self.clock_for(precision)
        return None if rate is None or clock is None or self.sms is None else self.sms * clock * MHZ * rate


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakFile:
    """A file of a user whose rows are in a table: its name, and the SHA-256 of what it held."""

    name: str
    sha256: str

    @property
    def words(self) -> str:
        """Name and digest in one, as figures carry them that were made with it."""
        return f"{self.name} sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class PeakTable:
    """Parts with figures, and the rates by which parts are built; `files` are those of users that were put over it."""

    parts: tuple[Part, ...]
    rates: Mapping[str, Rates]
    files: tuple[PeakFile, ...] = ()

    @classmethod
    def standard(cls) -> "PeakTable":
        """Return the table that comes with flopmeter."""
        return _read_standard()

    @classmethod
    def parse(cls, text: str, *, where: str, rates: Mapping[str, Rates] | None = None) -> Self:
        """Return what a file says; `rates` are those that it may name besides its own.

        Raises:
            MalformedError: it is no such file, or contradicts itself; the message names row and field.
        """
        try:
            form = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            msg = f"not TOML: {error}"
            raise MalformedError(msg, where=where) from None
        for key in form:
            if key not in ("device", "rates"):
                msg = f"{key!r} is neither `rates` nor `device`"
                raise MalformedError(msg, where=where)
        known = dict(rates or {})
        for name, value in _table(form, "rates", where=where).items():
            known[name] = _parse_rates(value, where=f"{where}: rates.{name}")
        rows = form.get("device", [])
        if not isinstance(rows, list):
            raise MalformedError("`device` is not a list of tables, each under [[device]]", where=where)
        parts = tuple(_parse_part(row, known, where=f"{where}: row {i}") for i, row in enumerate(rows, 1))
        table = cls(parts, known)
        table._check_unique(where=where)
        return table

    def with_file(self, path: str | Path) -> "PeakTable":
        """Return this table with the rows of a user's file; they may fill in a part whose figures are unknown here.

        Raises:
            MalformedError: the file cannot be read, is malformed, or contradicts itself or this table.
        """
        where = str(path)
        try:
            data = Path(path).read_bytes()
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            raise MalformedError(msg, where=where) from None
        theirs = PeakTable.parse(text, where=where, rates=self.rates)
        kept = []
        for ours in self.parts:
            row, new = next(
                ((i, one) for i, one in enumerate(theirs.parts, 1) if _ids_and_names(one) & _ids_and_names(ours)),
                (0, None),
            )
            if new is None:
                kept.append(ours)
                continue
            if not _ids_and_names(ours) <= _ids_and_names(new):
                left = ", ".join(sorted(_ids_and_names(ours) - _ids_and_names(new)))
                msg = f"ids has some of those of {ours.part}, and leaves out {left}"
                raise MalformedError(msg, where=f"{where}: row {row} ({new.part})")
            for precision, value in ours.dense.items():
                if new.dense.get(precision, value) != value:
                    msg = (
                        f"dense.{precision} is {_tera(new.dense[precision])}, and the table that comes with flopmeter "
                        f"has {_tera(value)} of {ours.part} ({ours.source})"
                    )
                    raise MalformedError(msg, where=f"{where}: row {row} ({new.part})")
        file = PeakFile(name=wire.print_path(Path(Path(path).name)), sha256=wire.digest(data))
        return PeakTable((*kept, *theirs.parts), theirs.rates, (*self.files, file))

    def find_id(self, device_id: str) -> Part | None:
        """Return the part with this PCI device id."""
        return next((part for part in self.parts if device_id in part.names), None)

    def find_name(self, name: str) -> Part | None:
        """Return the part that NVML calls so, to the letter: a part of a name says nothing."""
        return next((part for part in self.parts if any(name in names for names in part.names.values())), None)

    def _check_unique(self, *, where: str) -> None:
        """Two rows with one id or name are a contradiction, whatever they say."""
        seen: dict[str, str] = {}
        for row, part in enumerate(self.parts, 1):
            for key in sorted(_ids_and_names(part)):
                if key in seen:
                    msg = f"ids: {key!r} stands in {seen[key]} as well"
                    raise MalformedError(msg, where=f"{where}: row {row} ({part.part})")
                seen[key] = f"row {row} ({part.part})"


class _Reader(Protocol[_T_co]):
    def __call__(self, table: Mapping[str, object], key: str, /, *, where: str, name: str) -> _T_co: ...


@cache
def _read_standard() -> PeakTable:
    text = files("flopmeter.devices").joinpath("peaks.toml").read_text(encoding="utf-8")
    return PeakTable.parse(text, where="devices/peaks.toml")


def _ids_and_names(part: Part) -> set[str]:
    return {*part.names, *(name for names in part.names.values() for name in names)}


def _tera(value: int) -> str:
    """Return a figure as the file would have it."""
    whole, rest = divmod(value, TERA)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


def _parse_rates(value: object, *, where: str) -> Rates:
    if not isinstance(value, dict):
        raise MalformedError("is not a table", where=where)
    rest = dict(value)
    capability = _text(rest, "capability", where=where)
    del rest["capability"]
    return Rates(capability=capability, per_clock={name: _rate(rest, name, where=where) for name in rest})


def _rate(table: Mapping[str, object], precision: str, *, where: str) -> int:
    _check_precision(precision, precision, where=where)
    return _number(table, precision, where=where)


def _parse_part(row: object, rates: Mapping[str, Rates], *, where: str) -> Part:
    if not isinstance(row, dict):
        raise MalformedError("is not a table", where=where)
    if isinstance(row.get("part"), str):
        where = f"{where} ({row['part']})"
    for key in row:
        if key not in _KEYS:
            msg = f"{key!r} is not a field; there are {', '.join(sorted(_KEYS))}"
            raise MalformedError(msg, where=where)
    for key in (*_TEXTS, "ids"):
        if key not in row:
            msg = f"{key!r} is missing"
            raise MalformedError(msg, where=where)
    for key in ("confidence", "ids_confidence"):
        if row.get(key, "high") not in CONFIDENCES:
            msg = f"{key} is {row[key]!r}, not one of {', '.join(CONFIDENCES)}"
            raise MalformedError(msg, where=where)
    sort = _find_rates(row, rates, where=where)
    texts = {key: _text(row, key, where=where) for key in (*_TEXTS, "note") if key in row}
    numbers = {key: _number(row, key, where=where) for key in _NUMBERS if key in row}
    part = Part(
        part=texts["part"],
        source=texts["source"],
        date=texts["date"],
        confidence=texts["confidence"],
        ids_confidence=str(row.get("ids_confidence", "high")),
        note=texts.get("note", ""),
        names=_parse_ids(_table(row, "ids", where=where), where=where),
        capability=sort.capability,
        sms=numbers.get("sms"),
        clock_mhz=numbers.get("clock_mhz"),
        max_clock_mhz=numbers.get("max_clock_mhz"),
        clock_mhz_of=_by_precision(row, "clock_mhz_of", where=where, read=_number),
        per_clock=sort.per_clock,
        dense=_by_precision(row, "dense", where=where, read=_figure),
        sparse=_by_precision(row, "sparse", where=where, read=_figure),
        unsure=_by_precision(row, "unsure", where=where, read=_text),
    )
    _check_figures(part, where=where)
    return part


def _find_rates(row: Mapping[str, object], rates: Mapping[str, Rates], *, where: str) -> Rates:
    """Return the rates that a row names, or has; those of nobody where it has none."""
    given = row.get("rates")
    if given is None:
        return Rates(capability=_text(row, "capability", where=where) if "capability" in row else "", per_clock={})
    if "capability" in row:
        raise MalformedError("capability stands with the rates, and not beside them", where=where)
    if isinstance(given, dict):
        return _parse_rates(given, where=f"{where}: rates")
    if not isinstance(given, str) or given not in rates:
        msg = f"rates is {given!r}, not one of {', '.join(rates)}, nor a table"
        raise MalformedError(msg, where=where)
    return rates[given]


def _parse_ids(ids: Mapping[str, object], *, where: str) -> dict[str, tuple[str, ...]]:
    parsed = {}
    for key, names in ids.items():
        if len(key) != 4 or not set(key) <= set("0123456789ABCDEF"):
            msg = f"ids: {key!r} is not a PCI device id, four digits in upper-case hexadecimal such as 2330"
            raise MalformedError(msg, where=where)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            msg = f"ids.{key} is {names!r}, not a list of names"
            raise MalformedError(msg, where=where)
        parsed[key] = tuple(names)
    return parsed


def _by_precision(row: Mapping[str, object], key: str, *, where: str, read: "_Reader[_T_co]") -> dict[str, _T_co]:
    table = _table(row, key, where=where)
    for precision in table:
        _check_precision(precision, f"{key}.{precision}", where=where)
    return {precision: read(table, precision, where=where, name=f"{key}.{precision}") for precision in table}


def _check_figures(part: Part, *, where: str) -> None:
    """A figure must fit how the part is built, unless the row says that it does not."""
    for precision, value in part.dense.items():
        built = part.multiply_out(precision)
        if built is not None and precision not in part.unsure and abs(value - built) > SLACK * built:
            msg = (
                f"dense.{precision} is {_tera(value)}, and {part.sms} SMs × {part.clock_for(precision)} MHz × "
                f"{part.per_clock[precision]} are {_tera(built)}: one of them is wrong"
            )
            raise MalformedError(msg, where=where, hint="sparse figures belong under `sparse`")
    for precision, value in part.sparse.items():
        dense = part.dense.get(precision)
        if dense is None or not dense < value <= 2 * dense * (1 + SLACK):
            msg = f"sparse.{precision} is {_tera(value)}, not between once and twice the dense figure"
            raise MalformedError(msg, where=where)
    highest = part.max_clock_mhz
    for precision in part.dense:
        clock = part.clock_for(precision)
        if highest is not None and clock is not None and clock > highest:
            msg = f"max_clock_mhz is {highest}, below the clock of dense.{precision}, {clock}"
            raise MalformedError(msg, where=where)


def _check_precision(precision: str, name: str, *, where: str) -> None:
    if precision not in PRECISIONS:
        msg = f"{name}: {precision!r} is not one of {', '.join(PRECISIONS)}"
        raise MalformedError(msg, where=where)


def _table(form: Mapping[str, object], key: str, *, where: str) -> Mapping[str, object]:
    value = form.get(key, {})
    if not isinstance(value, dict):
        msg = f"{key} is {value!r}, not a table"
        raise MalformedError(msg, where=where)
    return value


def _text(table: Mapping[str, object], key: str, *, where: str, name: str = "") -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        msg = f"{name or key} is {value!r}, not text"
        raise MalformedError(msg, where=where)
    return value


def _number(table: Mapping[str, object], key: str, *, where: str, name: str = "") -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        msg = f"{name or key} is {value!r}, not a whole number above 0"
        raise MalformedError(msg, where=where)
    return value


def _figure(table: Mapping[str, object], key: str, *, where: str, name: str = "") -> int:
    """Return operations per second from a decimal string in 10^12 of them."""
    value = table.get(key)
    whole, _, rest = value.partition(".") if isinstance(value, str) else ("", "", "")
    digits = f"{whole}{rest}"
    if not (digits.isascii() and digits.isdecimal() and whole and len(whole) < 9 and len(rest) <= 12 and int(digits)):
        msg = f'{name or key} is {value!r}, not a figure in 10^12 per second as a decimal string such as "989.4"'
        raise MalformedError(msg, where=where)
    unit: int = 10 ** (12 - len(rest))
    return int(digits) * unit
