"""The one way from values to bytes and back, and the one digest.

Canonical JSON without numbers: every quantity is a decimal string, keys are ASCII and sorted, there is no
white space. Under these rules the standard library writes what RFC 8785 asks for, byte for byte.
Not here: what the values mean.
"""

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from flopmeter.errors import MalformedError

Wire: TypeAlias = "str | bool | Sequence[Wire] | Mapping[str, Wire] | None"
"""What may travel: no int, no float."""

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 64
MAX_COUNT = 10**60
_COUNT = re.compile(r"(0|[1-9][0-9]{0,59})\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def encode(value: Wire) -> bytes:
    """Return the canonical bytes of a value.

    Raises:
        TypeError: a number, a key that is not ASCII text, or any other type that does not travel.
    """
    _refuse_numbers(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(data: bytes) -> Wire:
    """Return the value that these bytes hold, if they are JSON of the kind we write.

    Accepts any spacing and key order; use `decode_canonical` where the bytes themselves are signed or chained.

    Raises:
        MalformedError: not UTF-8, not JSON, a number, a repeated key, or deeper or longer than allowed.
    """
    if len(data) > MAX_BYTES:
        msg = f"{len(data)} bytes are more than the {MAX_BYTES} that are read"
        raise MalformedError(msg)
    try:
        value: Wire = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_no_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
        _check_depth(value, MAX_DEPTH)
    except MalformedError:
        raise
    except (ValueError, RecursionError) as error:
        msg = f"not JSON: {error}"
        raise MalformedError(msg) from error
    return value


def decode_canonical(data: bytes) -> Wire:
    """Return the value of bytes that are equal to their own canonical re-encoding.

    Raises:
        MalformedError: see `decode`, and bytes that another spelling of the same value would also have.
    """
    value = decode(data)
    try:
        same = encode(value) == data
    except (TypeError, UnicodeEncodeError) as error:
        msg = f"not canonical JSON: {error}"
        raise MalformedError(msg) from error
    if not same:
        msg = "not canonical JSON: these bytes differ from their own re-encoding"
        raise MalformedError(msg)
    return value


def digest(data: bytes) -> str:
    """Return the SHA-256 of the bytes, as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content; OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def print_path(path: Path) -> str:
    """Return a file's name as text that can travel, whatever bytes it is made of."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="backslashreplace")


def print_count(value: int) -> str:
    """Return a count as it travels: a decimal string without sign or leading zero."""
    if not 0 <= value < MAX_COUNT:
        msg = "a count has up to 60 digits and no sign"
        raise ValueError(msg)
    return str(value)


def parse_count(value: Wire, *, name: str = "count") -> int:
    """Return the count that a decimal string holds.

    Raises:
        MalformedError: not a decimal string of at most 60 digits.
    """
    if isinstance(value, str) and _COUNT.match(value):
        return int(value)
    msg = f"{name} is {value!r}, not a decimal string"
    raise MalformedError(msg)


def print_known(value: int | None) -> str | None:
    """Return a count as it travels, or None where it is not known."""
    return None if value is None else print_count(value)


def parse_known(value: Wire, *, name: str = "count") -> int | None:
    """Return the count that a decimal string holds, None where it is not known; MalformedError where it is neither."""
    return None if value is None else parse_count(value, name=name)


def parse_text(value: Wire, *, name: str = "text") -> str:
    """Return a string, or say that it is none."""
    if isinstance(value, str):
        return value
    msg = f"{name} is {type(value).__name__}, not text"
    raise MalformedError(msg)


def parse_digest(value: Wire, *, name: str = "digest") -> str:
    """Return a SHA-256 in hexadecimal, or say that it is none."""
    if isinstance(value, str) and _DIGEST.match(value):
        return value
    msg = f"{name} is not 64 lowercase hexadecimal digits"
    raise MalformedError(msg)


def parse_object(value: Wire, *, name: str = "object") -> Mapping[str, Wire]:
    """Return a JSON object, or say that it is none."""
    if isinstance(value, Mapping):
        return value
    msg = f"{name} is {type(value).__name__}, not an object"
    raise MalformedError(msg)


def parse_list(value: Wire, *, name: str = "list") -> Sequence[Wire]:
    """Return a JSON array, or say that it is none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    msg = f"{name} is {type(value).__name__}, not an array"
    raise MalformedError(msg)


def print_base64(data: bytes) -> str:
    """Return standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def parse_base64(value: Wire, *, name: str = "base64") -> bytes:
    """Return the bytes of standard base64, refusing what decodes but would be written otherwise (spare bits).

    Raises:
        MalformedError: not base64, or not the one spelling of its bytes.
    """
    text = parse_text(value, name=name)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"{name} is not base64: {error}"
        raise MalformedError(msg) from error
    if print_base64(data) != text:
        msg = f"{name} is not the one base64 spelling of its bytes"
        raise MalformedError(msg)
    return data


def _unique(pairs: list[tuple[str, Wire]]) -> dict[str, Wire]:
    value = dict(pairs)
    if len(value) != len(pairs):
        msg = "not JSON of ours: a key stands twice in one object"
        raise MalformedError(msg)
    return value


def _no_number(text: str) -> NoReturn:
    msg = f"not JSON of ours: the number {text[:40]} where a decimal string belongs"
    raise MalformedError(msg)


def _check_depth(value: Wire, left: int) -> None:
    if left == 0:
        msg = f"nested deeper than {MAX_DEPTH}"
        raise MalformedError(msg)
    if isinstance(value, Mapping):
        for inner in value.values():
            _check_depth(inner, left - 1)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            _check_depth(inner, left - 1)


def _refuse_numbers(value: Wire) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not str(key).isascii() or type(key) is not str:
                msg = f"a key on the wire is ASCII text, not {key!r}"
                raise TypeError(msg)
            _refuse_numbers(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_numbers(inner)
    else:
        msg = f"{type(value).__name__} does not travel; counts are decimal strings"
        raise TypeError(msg)
