"""The rules of NAPTR records (RFC 3402 §3.2), which strangers write."""

from __future__ import annotations

import pytest

from opensipspy.module.naptr import apply_rule, parse_rule
from opensipspy.script.patterns import PatternCache


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ("!^.*$!sip:info@example.com!", "sip:info@example.com"),
        ("!^\\+4930(.*)$!sip:\\1@berlin.example!", "sip:123@berlin.example"),
        ("!(.)(.)!\\2\\1\\0!", "4++4"),
        ("/^.*$/sip:a!b@c/", "sip:a!b@c"),
        ("!^.*$!sip:a\\!b@c!", "sip:a!b@c"),
        ("!^\\+49!x!i", "x"),
        ("!^.*$!\\\\1!", "\\1"),
        ("!^(x)?\\+!<\\1>!", "<>"),
    ],
)
def test_rules(rule: str, made: str) -> None:
    """The whole result is the replacement; nothing around the match is kept (RFC 6116 §3.4.3)."""
    assert apply_rule(rule, "+4930123", PatternCache()) == made


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "!",
        "!!",
        "!a!b",
        "!^.*$!sip:a@b!x",
        "1^.*$1sip:a@b1",
        "\\^.*$\\b\\",
        "!(!sip:a@b!",
        "!^.*$!\\3!",
        "!^nothing$!x!",
        "!" + "x" * 600 + "!y!",
        "!.!" + "\\0" * 200 + "!" + "iiiiiiiii",
        "!^.*$!" + "\\0" * 100 + "!",
    ],
)
def test_rules_that_make_nothing(rule: str) -> None:
    """Malformed, unmatched or too long: None."""
    assert apply_rule(rule, "+4930123", PatternCache()) is None


def test_the_case_matters_unless_flagged() -> None:
    """RFC 3402 §3.2: the flag i makes matching ignore case."""
    assert apply_rule("!^ABC$!x!", "abc", PatternCache()) is None
    assert apply_rule("!^ABC$!x!i", "abc", PatternCache()) == "x"
    assert parse_rule("!a!b!i") == ("a", "b", True)


def test_an_expression_without_end_is_given_up() -> None:
    """What takes too long raises TimeoutError: the server must not stand still for one record."""
    with pytest.raises(TimeoutError):
        apply_rule("!^(a|aa)+$!x!", "a" * 60 + "b", PatternCache())
