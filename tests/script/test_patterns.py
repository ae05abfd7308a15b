"""POSIX extended regular expressions, as the C library reads them."""

from __future__ import annotations

import pytest

from opensipspy.script.patterns import Pattern, PatternCache, translate


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^a.c$", "abc", True),
        ("^a.c$", "a\nc", True),
        ("abc$", "abc\n", False),
        ("^two", "one\ntwo", False),
        ("INVITE|ack", "ACK", True),
        ("a{2,3}", "caab", True),
        ("^a{2}$", "aaa", False),
        ("a{,2}b", "b", True),
        ("a{x}", "a{x}", True),
        ("{", "{", True),
        ("[[:digit:]]+x", "12x", True),
        ("[^[:alpha:]]", "abc", False),
        ("[[:xdigit:][:space:]]{3}", "f 0", True),
        ("[]a]", "]", True),
        ("[^]a]", "]", False),
        ("[a-]", "-", True),
        ("[-a]", "-", True),
        ("[a-c]", "b", True),
        (r"[\d]", "5", False),
        (r"[\d]", "\\", True),
        ("[[.-.]]", "-", True),
        (r"sip:\+?[0-9]+@", "sip:+123@x", True),
        (r"\.", "a", False),
        (r"\w\W\b", "a b", True),
        (r"\<two\>", "one two", True),
        ("*a", "*a", True),
        ("a**", "", True),
        ("(a|b)*c", "ababc", True),
        (r"(a)\1", "aa", True),
        ("a)", "a)", True),
        ("()", "", True),
        ("a#b c", "a#b c", True),
        ("(?", "x", None),
        ("a|*b", "*b", True),
    ],
)
def test_an_expression_is_found(pattern: str, text: str, found: bool | None) -> None:
    if found is None:
        with pytest.raises(ValueError):  # noqa: PT011 - the text comes from the library
            Pattern(pattern)
    else:
        assert Pattern(pattern).search(text) is found


@pytest.mark.parametrize("pattern", ["(", "[", "[a", "[[:nope:]]", "a\\", "[z-a]", "a{99999}", "x" * 9000])
def test_a_malformed_expression_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Pattern(pattern)


def test_lines_make_the_ends_of_lines_match() -> None:
    """REG_NEWLINE: textops and {re.subst} compile with it, `=~` does not."""
    assert Pattern("^two$", lines=True).search("one\ntwo\nthree")
    assert not Pattern("one.two", lines=True).search("one\ntwo")
    assert not Pattern("one[^x]two", lines=True).search("one\ntwo")


def test_case_counts_when_asked() -> None:
    assert not Pattern("abc", ignore_case=False).search("ABC")


def test_a_search_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        Pattern("^(([a-z])+.)+[A-Z]([a-z])+$", ignore_case=False).search("a" * 4000)


def test_the_cache_is_bounded() -> None:
    cache = PatternCache(2)
    first = cache.get("a")
    assert cache.get("a") is first
    cache.get("b")
    cache.get("c")
    assert cache.get("a") is not first


def test_nothing_of_python_shows_through() -> None:
    assert translate(r"\d(?:x)") != r"\d(?:x)"
    assert Pattern(r"\d").search("d")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*)*x", ".*.*.*.*x", r"(a*)\1*b"])
def test_no_expression_escapes_the_clock(pattern: str) -> None:
    """Only searches that are known to be short are not timed; the others end in time, found or given up."""
    for length in (40, 300, 4000):
        try:
            found = Pattern(pattern).search("a" * length + "b")
        except TimeoutError:
            continue
        assert found == pattern.endswith("b")


@pytest.mark.parametrize("ignore_case", [True, False])
def test_short_texts_are_searched_as_long_ones_are(ignore_case: bool) -> None:
    """Which of the two packages searches is told by the expression; what is found is not."""
    texts = [
        "",
        "a",
        "A",
        "bench",
        "sip:Bob@192.0.2.1:5060",
        "\u212a",
        "k",
        "x\n",
        "x\ny",
        "a-b",
        "\u00e9",
        "(a)",
        "aaa",
    ]
    expressions = (
        "^a", "a$", "x$", "^$", "K", "[[:alpha:]]+", "[^a-z]", "^(a|b)?-", "192\\.0\\.", "a{2}", "a{2,}$", ".", "^.$",
        "[a-c]+", "(a)|(x)", "\\(a\\)", "\\w", "[-a]", "a*", "a|", "\u00e9", "[A-Z]{1,3}:",
    )  # fmt: skip
    for expression in expressions:
        pattern = Pattern(expression, ignore_case)
        for text in texts:
            assert pattern.search(text) == (pattern.find(text) is not None), (expression, text)
