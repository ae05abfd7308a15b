"""Arguments with raw queries: what variables brought is told apart from what the script wrote."""

from __future__ import annotations

import pytest

from opensipspy.script.rawquery import RawQuery, raw_query
from opensipspy.script.varsyntax import parse_format_text
from tests.script.test_corefuncs import Caller

HOSTILE = "a b' \" \r\nFLUSHALL"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("GET $var(x)", (("GET ", False), (HOSTILE, True))),
        ("SET '$var(x)' $var(n)", (("SET '", False), (HOSTILE, True), ("' ", False), ("5", True))),
        ("GET $var(nothing)!", (("GET ", False), ("<null>", True), ("!", False))),
    ],
)
def test_pieces(text: str, pieces: tuple[tuple[str, bool], ...]) -> None:
    bench = Caller()
    bench.run.vars.update(x=HOSTILE, n=5)
    made = raw_query(parse_format_text(text, bench.catalogue))(bench.run)
    assert isinstance(made, RawQuery)
    assert made.pieces == pieces
    assert made == "".join(piece for piece, _ in pieces)


def test_a_query_that_is_one_variable_is_the_scripts_own() -> None:
    bench = Caller()
    bench.run.vars["x"] = "GET key"
    assert raw_query(parse_format_text("$var(x)", bench.catalogue))(bench.run) == "GET key"
    assert not isinstance(raw_query(parse_format_text("$var(x)", bench.catalogue))(bench.run), RawQuery)
    assert raw_query(parse_format_text("GET key", bench.catalogue))(bench.run) == "GET key"
    assert raw_query(parse_format_text("$avp(none)", bench.catalogue))(bench.run) is None
