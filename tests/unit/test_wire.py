"""The one way from values to bytes: strict in what it writes and in what it reads."""

import base64
import json

import pytest

from flopmeter import wire
from flopmeter.errors import MalformedError


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": "1", "a": None}, b'{"a":null,"b":"1"}'),
        (["x", True, False, None], b'["x",true,false,null]'),
        ({"text": 'é\n"\\\u2028'}, '{"text":"é\\n\\"\\\\\u2028"}'.encode()),
        ("", b'""'),
        ({}, b"{}"),
        (("a", ("b",)), b'["a",["b"]]'),
    ],
)
def test_a_value_has_one_spelling(value, data):
    """Else two honest writers of the same value have different digests."""
    assert wire.encode(value) == data
    assert wire.encode(wire.decode_canonical(data)) == data


@pytest.mark.parametrize(
    "value", [1, 1.5, {"a": 3}, [[0]], {1: "a"}, {"é": "a"}, {None: "a"}, b"bytes", {"a": {1}}, object()]
)
def test_numbers_and_foreign_types_do_not_travel(value):
    """Else a count passes through a float somewhere and comes out rounded."""
    with pytest.raises(TypeError):
        wire.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"flop": 3}',
        b"[1.5]",
        b"[-1]",
        b"[1e5]",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b'{"a":"1","a":"1"}',
        b'{"x":{"a":"1","b":"2","a":"3"}}',
        b"",
        b"{",
        b'["a",]',
        b"'a'",
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":"1"}',
        b'"a" "b"',
        b"[" * 100_000,
        b"[" * 70 + b"]" * 70,
        b'{"a":' * 70 + b"null" + b"}" * 70,
        b"9" * 10_000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_bytes_that_we_would_not_write_are_refused(data):
    """Else two readers of one signed file see two values: the first or the last of repeated keys, a rounded number."""
    with pytest.raises(MalformedError):
        wire.decode(data)


def test_depth_has_a_limit_and_the_limit_is_inside():
    """Else a file of brackets ends in a traceback."""
    deepest = b"[" * (wire.MAX_DEPTH - 2) + b'"x"' + b"]" * (wire.MAX_DEPTH - 2)
    assert wire.decode_canonical(deepest)
    with pytest.raises(MalformedError, match="deeper"):
        wire.decode(b"[" * wire.MAX_DEPTH + b'"x"' + b"]" * wire.MAX_DEPTH)


def test_length_has_a_limit(monkeypatch):
    """Else a large file takes all memory before it is refused."""
    monkeypatch.setattr(wire, "MAX_BYTES", 10)
    assert wire.decode(b'"12345678"') == "12345678"
    with pytest.raises(MalformedError, match="11 bytes"):
        wire.decode(b'"123456789"')


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":"1","a":"2"}',
        b'{"a": "1"}',
        b'{"a":"1"}\n',
        b'{"a":"\\u00e9"}',
        b'{"a":"\\/"}',
        b'["\\ud800"]',
        '{"é":"1"}'.encode(),
    ],
)
def test_another_spelling_of_the_same_value_is_refused_where_bytes_are_signed(data):
    """Else bytes can change under a signature that still verifies."""
    json.loads(data)
    with pytest.raises(MalformedError, match="canonical"):
        wire.decode_canonical(data)


def test_where_nothing_is_signed_any_spelling_will_do():
    assert wire.decode(b' {"b": "1",\n "a": "2"} ') == {"a": "2", "b": "1"}


def test_a_digest_is_sha_256():
    assert wire.digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("value", [0, 1, 10**25, 2**63, 10**60 - 1])
def test_a_count_travels_as_all_its_digits(value):
    """Else figures above 2**53 are rounded by whoever reads them as a number."""
    assert wire.parse_count(wire.print_count(value)) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "01", "1.0", "1e3", " 1", "1 ", "1\n", "0x1", "१", "1_000", "9" * 61, None, True, [], {}]
)
def test_only_a_plain_decimal_string_is_a_count(text):
    """Else one count has two spellings, and a changed byte goes unnoticed."""
    with pytest.raises(MalformedError, match="flop"):
        wire.parse_count(text, name="flop")


def test_a_negative_count_is_never_written():
    with pytest.raises(ValueError):
        wire.print_count(-1)


@pytest.mark.parametrize("data", [b"", b"\x00", b"ab", b"abc", bytes(range(256))])
def test_base64_survives(data):
    assert wire.parse_base64(wire.print_base64(data)) == data


@pytest.mark.parametrize(
    "text", ["YR==", "YWJ=", "YQ", "YQ=", "YQ===", "Y Q==", "YQ==\n", "YQ-_", "é", "====", None, 5]
)
def test_base64_with_spare_bits_or_another_alphabet_is_refused(text):
    """Else bits of a signed file can be flipped unseen: the last character has two or four unused ones."""
    with pytest.raises(MalformedError):
        wire.parse_base64(text)


def test_spare_bits_are_what_a_lenient_reader_would_overlook():
    assert base64.b64decode("YQ==") == base64.b64decode("YR==") == b"a"


@pytest.mark.parametrize("text", ["", "ab", "A" * 64, "g" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", None])
def test_a_digest_is_64_lowercase_hexadecimal_digits(text):
    with pytest.raises(MalformedError):
        wire.parse_digest(text)


def test_parsers_say_which_field_was_wrong():
    """Else nobody can find the line."""
    assert wire.parse_digest("0" * 64) == "0" * 64
    assert wire.parse_text("x") == "x"
    assert wire.parse_object({"a": "b"}) == {"a": "b"}
    assert wire.parse_list(["a"]) == ["a"]
    for parse, wrong in (
        (wire.parse_text, None),
        (wire.parse_text, ["a"]),
        (wire.parse_object, ["a"]),
        (wire.parse_object, "a"),
        (wire.parse_object, None),
        (wire.parse_list, "a"),
        (wire.parse_list, {"a": "b"}),
        (wire.parse_list, None),
    ):
        with pytest.raises(MalformedError, match="phase"):
            parse(wrong, name="phase")
