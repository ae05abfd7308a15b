"""What is known of an expression before it is used."""

from __future__ import annotations

import pytest

from opensipspy.script.pcre import compiled, is_simple, literal_prefixes


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("^0040", ["0040"]),
        ("^4[0-9]", ["4"]),
        ("^(00|\\+)40", ["0040", "+40"]),
        ("^(0040|\\+40|0|40)21[0-9]+", ["004021", "+4021", "021", "4021"]),
        ("^40?1", ["4"]),
        ("^40+1", ["40"]),
        ("^4{2}", []),
        ("^(a|b)*c", []),
        ("^(?i)abc", []),
        ("^ab|cd", []),
        ("^(ab|cd)|e", []),
        ("abc", []),
        ("^.*", []),
        ("^a\\d", ["a"]),
        ("^\\.a$", [".a"]),
        ("^(a[|]b)", []),
        ("^((a)|b)c", []),
        ("^a(|b)c", ["ac", "abc"]),
    ],
)
def test_texts_that_a_match_begins_with(text: str, prefixes: list[str]):
    assert literal_prefixes(text) == prefixes


@pytest.mark.parametrize(
    "text", ["^(0040|\\+40|0|40)21[0-9]+", "a", "(ab|c)d?$", "^a?b.*c$", "^[^a]b?", "^[0-9]{5}(.*)$"]
)
def test_short_searches(text: str):
    assert is_simple(text)


@pytest.mark.parametrize(
    "text",
    [
        "a+",
        ".*b",
        "^(a|aa)+$",
        "^.*.*b",
        "^a+b+",
        "^(a)\\1",
        "^(a*)*",
        "^a++",
        "^(?=a)",
        "^\\Ba*",
        "^[a",
        "^" + "(a|a)" * 9,
    ],
)
def test_searches_that_need_a_clock(text: str):
    assert not is_simple(text)


def test_quoted_parts_and_mistakes():
    assert compiled("^\\Qa.b\\E$").search("a.b")
    assert not compiled("^\\Qa.b\\E$").search("axb")
    for wrong in ("(", "x" * 9000):
        with pytest.raises(ValueError, match=r"."):
            compiled(wrong)
