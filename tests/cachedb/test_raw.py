"""What messages bring into raw queries stays where the script has put it."""

from __future__ import annotations

import json

import pytest

from opensipspy.cachedb import json_of, quoted_of, words_of
from opensipspy.cachedb.raw import pieces_of
from opensipspy.script.rawquery import RawQuery


def query(text: str, *values: str) -> str:
    """`$` in the text stands for the next value."""
    rest = iter(values)
    literal = text.split("$")
    pieces = [(literal[0], False)]
    for part in literal[1:]:
        pieces += [(next(rest), True), (part, False)]
    return RawQuery.of(tuple(pieces))


HOSTILE = [
    "a b",
    "'",
    '"',
    "' x '",
    '" x "',
    "\\",
    "\\'",
    "\r\nFLUSHALL\r\n",
    "",
    "\0\udcff",
    "'; DROP TABLE x; --",
    "''",
]


def test_a_query_is_its_text() -> None:
    made = query("GET $", "a b")
    assert made == "GET a b"
    assert pieces_of(made) == (("GET ", False), ("a b", True), ("", False))
    assert pieces_of("GET a b") == (("GET a b", False),)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_one_argument(value: str) -> None:
    assert words_of(query("SET key $", value)) == ["SET", "key", value]
    assert words_of(query("SET pre:$:post 1", value)) == ["SET", f"pre:{value}:post", "1"]
    assert words_of(query("SET '$' \"a $ b\"", value, value)) == ["SET", value, f"a {value} b"]
    assert words_of(query("HSET $ $ $$", "h", value, value, value)) == ["HSET", "h", value, value + value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  a   b\tc\r\n d ", ["a", "b", "c", "d"]),
        ("a ''", ["a", ""]),
        ("a 'b \"c' \"d 'e\"", ["a", 'b "c', "d 'e"]),
        (r"a b\ c", ["a", "b\\", "c"]),
        ("a it's", ["a", "it's"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize("text", ["", "  ", "a 'b", 'a "b', "a 'b'c"])
def test_words_that_cannot_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="raw query"):
        words_of(text)


def test_nothing_clings_to_what_was_quoted() -> None:
    with pytest.raises(ValueError, match="no blank"):
        words_of(query("SET 'a'$", "b"))


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_within_a_string_of_json(value: str) -> None:
    """RFC 8259 §7."""
    text = json_of(query('{"find": "c", "filter": {"name": "$"}, "limit": $}', value, "5"))
    assert json.loads(text) == {"find": "c", "filter": {"name": value}, "limit": 5}


def test_what_is_escaped_already_stays() -> None:
    assert json.loads(json_of(query('{"a": "$"}', r"\"x\\"))) == {"a": '"x\\'}


@pytest.mark.parametrize("value", ['1, "$where": "x"', "x", "", '"a', "1}"])
def test_a_value_outside_of_strings_is_json(value: str) -> None:
    with pytest.raises(ValueError, match="no JSON"):
        json_of(query('{"a": $}', value))


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_within_quotes_does_not_end_them(value: str) -> None:
    text = quoted_of(query("SELECT a FROM t WHERE k = '$' AND x = 1", value))
    inner = text.removeprefix("SELECT a FROM t WHERE k = '").removesuffix("' AND x = 1")
    assert "'" not in inner.replace("''", "")
    assert inner.replace("''", "'") == (value if value != "''" else "'"), "escapes of the script's own stay"
