"""Findings as they are shown."""

from __future__ import annotations

from opensipspy.script.errors import (
    ERROR,
    NOTE,
    WARNING,
    WIDEST,
    Finding,
    Pos,
    ScriptErrors,
    has_errors,
    in_order,
    render,
)

LINES = {"a.cfg": ["route {", "\tt_rely(1, 2);", "}"]}


def lines(file: str) -> list[str]:
    return LINES.get(file, [])


def test_a_finding_shows_its_line_with_a_caret_under_the_place() -> None:
    """Tabs stay tabs in front of the caret, so that it stands right on every terminal."""
    finding = Finding(
        Pos("a.cfg", 2, 2, 2, 8), ERROR, "unknown-function", "unknown function t_rely", "did you mean t_relay?"
    )
    assert finding.render(lines).split("\n") == [
        "a.cfg:2:2: error: unknown function t_rely (did you mean t_relay?)",
        "    \tt_rely(1, 2);",
        "    \t^^^^^^",
    ]


def test_a_place_that_is_not_in_the_file_is_only_named() -> None:
    for pos in (Pos("b.cfg", 1, 1), Pos("a.cfg", 9, 1), Pos("a.cfg", 0, 0)):
        assert "\n" not in Finding(pos, WARNING, "x", "message").render(lines)


def test_a_span_over_lines_or_beyond_the_end_shows_what_it_can() -> None:
    assert Finding(Pos("a.cfg", 1, 7, 3, 2), ERROR, "x", "m").render(lines).endswith("\n          ^")
    assert Finding(Pos("a.cfg", 3, 1, 3, 99), ERROR, "x", "m").render(lines).endswith("\n    ^")


def test_findings_come_in_the_order_of_the_text_and_once() -> None:
    first, second = Finding(Pos("a.cfg", 1, 3), ERROR, "x", "m"), Finding(Pos("a.cfg", 2, 1), WARNING, "y", "n")
    assert in_order([second, first, second]) == [first, second]
    assert has_errors([first, second])
    assert not has_errors([second])


def test_the_count_stands_at_the_end_and_long_lists_are_cut() -> None:
    many = [Finding(Pos("a.cfg", 1, n), ERROR, "x", "m") for n in range(1, 300)]
    text = render(many, lines).split("\n")
    assert text[-2:] == ["... and 99 more", "299 errors, 0 warnings"]
    assert ScriptErrors(many[:1], lines).render().endswith("\n1 error, 0 warnings")


def test_json_has_the_whole_place() -> None:
    assert Finding(Pos("a.cfg", 2, 2), NOTE, "code", "message", "hint").as_dict() == {
        "file": "a.cfg", "line": 2, "column": 2, "end_line": 2, "end_column": 3, "severity": "note", "code": "code",
        "message": "message", "hint": "hint",
    }  # fmt: skip


def test_a_long_line_is_shown_around_the_place() -> None:
    text = "x" * 1000 + "HERE" + "y" * 1000
    finding = Finding(Pos("a.cfg", 1, 1001, 1, 1005), ERROR, "x", "m")
    _, source, caret = finding.render(lambda file: [text]).split("\n")
    assert len(source) == 4 + WIDEST
    begin = caret.index("^")
    assert source[begin : begin + 4] == "HERE"
    assert caret.count("^") == 4


def test_what_is_no_text_cannot_reach_the_terminal() -> None:
    finding = Finding(Pos("a.cfg", 1, 1), ERROR, "x", "m")
    assert finding.render(lambda file: ["a\x1b[2Jb\udc80"]).split("\n")[1] == "    a\ufffd[2Jb\ufffd"
