"""Comments of the language: they nest, and a script full of them is read in one pass."""

from __future__ import annotations

import pytest

from opensipspy.script import ScriptErrors, parse_script
from opensipspy.script.layout import layout
from opensipspy.script.lexer import comment_end

ROUTE = "route { exit; }\n"


@pytest.mark.parametrize(
    ("text", "end"),
    [("/**/x", 4), ("/*/**/x", -1), ("/* /* */ */x", 11), ("/*/*/", -1), ("/* // # */x", 10), ("/* a", -1)],
)
def test_a_comment_ends_where_as_many_are_closed_as_were_opened(text: str, end: int) -> None:
    assert comment_end(text, 0) == end


def test_a_tower_of_comments_is_read_in_one_pass() -> None:
    """200,000 of them: a pass over the rest of the text for each would take an hour."""
    tower = "/*" * 200_000 + "*/" * 200_000 + "\n"
    assert parse_script("x.cfg", "", tower + ROUTE).blocks
    assert layout(tower + ROUTE, "x.cfg").startswith(tower)
    with pytest.raises(ScriptErrors) as caught:
        parse_script("x.cfg", "", ROUTE + tower[2:-3] + "x")
    assert [finding.line for finding in caught.value.findings]


def test_a_comment_that_stays_open_is_told_where_it_begins() -> None:
    with pytest.raises(ScriptErrors) as caught:
        parse_script("x.cfg", "", ROUTE + "  /* /* */ \n")
    [finding] = caught.value.findings
    assert (finding.line, finding.col, finding.code) == (2, 3, "open-comment")


def test_a_number_of_ten_thousand_digits_is_a_finding() -> None:
    with pytest.raises(ScriptErrors) as caught:
        parse_script("x.cfg", "", f"route {{ $var(x) = {'9' * 10_000}; }}\n")
    [finding] = caught.value.findings
    assert (finding.line, finding.col, finding.message) == (1, 19, "a number of 10000 digits")


def test_blocks_without_end_are_read_in_one_pass() -> None:
    """A look through all findings for each block would take minutes here."""
    with pytest.raises(ScriptErrors) as caught:
        parse_script("x.cfg", "", "route {\n" * 20_000)
    assert {finding.code for finding in caught.value.findings} >= {"open-block"}
