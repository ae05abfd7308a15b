"""Comparison, conditions, arithmetic and assignment with OpenSIPS's typing (manual: Script-Operators)."""

from __future__ import annotations

import pytest

from opensipspy.script import runtime
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Value
from opensipspy.script.runtime import COMPARISONS, EvaluationError
from tests.script.fakes import Bench


@pytest.mark.parametrize(
    ("left", "op", "right", "result"),
    [
        (1, "==", 1, 1),
        (1, "!=", 1, 0),
        (2, ">", 1, 1),
        (2, "<=", 1, 0),
        (-1, "<", 0, 1),
        ("abc", "==", "ABC", 1),
        ("abc", "!=", "ABC", 0),
        ("abc", "<", "ABD", 1),
        ("ab", "<", "abc", 1),
        ("abc", ">=", "ABC", 1),
        ("É", "==", "é", 0),
        (5, "==", "5", 1),
        ("5", "==", 5, 1),
        (10, "<", "9", 1),
        (None, "==", None, 1),
        (None, "!=", None, 0),
        (None, "<", None, 0),
        (None, "==", "", 0),
        (None, "!=", "", 1),
        ("", "==", "", 1),
        (0, "==", None, 0),
        (0, "!=", None, 1),
        ("a", ">", None, 0),
    ],
)
def test_two_variables_compare(left: Value, op: str, right: Value, result: int) -> None:
    """Text without case, ints as numbers, an int beside a text as its digits, NULL equal to NULL only."""
    assert runtime.compare(Bench().run, COMPARISONS[op], left, right) == result


@pytest.mark.parametrize(
    ("left", "op", "right", "result"),
    [
        (5, "==", 5, 1),
        (5, ">", 4, 1),
        (None, "==", 5, 0),
        (None, "!=", 5, 1),
        (None, "<", 5, 0),
        ("5", "==", 5, -1),
        ("x", "!=", 5, -1),
    ],
)
def test_a_variable_compares_with_a_number(left: Value, op: str, right: int, result: int) -> None:
    bench = Bench()
    assert runtime.compare_int(bench.run, COMPARISONS[op], left, right) == result
    assert bool(bench.log) is (result < 0)


@pytest.mark.parametrize(
    ("left", "op", "right", "result"),
    [
        ("INVITE", "==", "invite", 1),
        (200, "==", "200", 1),
        (200, "<", "3", 1),
        (None, "==", "", 0),
        (None, "!=", "x", 1),
        (None, ">=", "", 0),
    ],
)
def test_a_variable_compares_with_a_text(left: Value, op: str, right: str, result: int) -> None:
    assert runtime.compare_text(Bench().run, COMPARISONS[op], left, right) == result
    if op == "==":
        assert runtime.equal_text(left, right, right.lower()) is bool(result)


@pytest.mark.parametrize(
    ("left", "op", "network", "result"),
    [
        ("192.0.2.7", "==", "192.0.2.0/24", 1),
        ("192.0.3.7", "==", "192.0.2.0/24", 0),
        ("192.0.3.7", "!=", "192.0.2.0/255.255.255.0", 1),
        ("2001:db8::1", "==", "[2001:db8::1]", 1),
        ("[2001:db8::1]", "==", "2001:db8::/32", 1),
        ("192.0.2.7", "==", "2001:db8::/32", 0),
        ("host.example", "==", "192.0.2.0/24", -1),
        ("192.0.2.256", "==", "192.0.2.0/24", -1),
        ("192.0.02.1", "==", "192.0.2.0/24", -1),
        ("192.0.2", "==", "192.0.2.0/24", -1),
        ("255.255.255.255", "==", "0.0.0.0/0", 1),
        ("192.0.2.7", "==", "192.0.2.9", 0),
        ("::ffff:192.0.2.7", "==", "192.0.2.0/24", 0),
        (None, "==", "192.0.2.0/24", 0),
        (None, "!=", "192.0.2.0/24", 1),
    ],
)
def test_a_variable_compares_with_a_network(left: Value, op: str, network: str, result: int) -> None:
    parsed = runtime.parse_network(network)
    assert runtime.compare_net(Bench().run, COMPARISONS[op], left, parsed) == result


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("INVITE", "^inv", 1),
        ("BYE", "^inv", 0),
        (200, "^2", 1),
        (None, "x", 0),
        ("x", None, 0),
        (None, None, 1),
        ("x", "(", -1),
    ],
)
def test_a_regular_expression_matches_without_case(left: Value, right: Value, result: int) -> None:
    bench = Bench()
    assert runtime.match_dynamic(bench.run, left, right) == result
    assert runtime.not_match_dynamic(bench.run, left, right) == (result if result < 0 else 1 - result)
    if isinstance(right, str) and result >= 0:
        assert runtime.match(bench.run, left, Pattern(right)) == result
        assert runtime.not_match(bench.run, left, Pattern(right)) == 1 - result


def test_a_search_without_end_is_an_error_not_a_hang() -> None:
    bench = Bench()
    assert runtime.match(bench.run, "a" * 4000, Pattern("^(([a-z])+.)+[A-Z0-9_]([a-z])+$", ignore_case=False)) == -1
    assert "too long" in bench.log


@pytest.mark.parametrize(
    ("value", "true"), [(1, True), (-1, True), (0, False), ("0", True), ("", False), (None, False)]
)
def test_a_bare_variable_is_a_condition(value: Value, true: bool) -> None:
    assert runtime.truth(value) is true


@pytest.mark.parametrize(("result", "negated"), [(1, 0), (5, 0), (0, 1), (-1, -1)])
def test_not_keeps_an_error(result: int, negated: int) -> None:
    assert runtime.negate(result) == negated


@pytest.mark.parametrize(
    ("left", "op", "right", "result"),
    [
        (2, "+", 3, 5),
        (2147483647, "+", 1, -2147483648),
        ("a", "+", "b", "ab"),
        (5, "+", None, 5),
        ("a", "+", None, "a"),
        (None, "+", "a", "a"),
        (2, "-", 3, -1),
        (-2147483648, "-", 1, 2147483647),
        (65536, "*", 65536, 0),
        (7, "/", 2, 3),
        (-7, "/", 2, -3),
        (-7, "%", 2, -1),
        (7, "%", -2, 1),
        (-2147483648, "/", -1, -2147483648),
        (6, "&", 3, 2),
        (6, "|", 1, 7),
        (6, "^", 3, 5),
        (1, "<<", 31, -2147483648),
        (-8, ">>", 1, -4),
        ("ab", "&", "\x0f\x0f", "\x01\x02"),
        ("ab", "|", "  ", "ab"),
        ("ab", "^", "ab", "\x00\x00"),
    ],
)
def test_an_expression_gives(left: Value, op: str, right: Value, result: Value) -> None:
    """32-bit integers that wrap, C's division toward zero, texts that join and mix bit by bit."""
    assert runtime.BINARY[op](left, right) == result


@pytest.mark.parametrize(
    ("left", "op", "right", "message"),
    [
        (1, "/", 0, "division by zero"),
        (1, "%", 0, "division by zero"),
        (1, "/", None, "division by zero"),
        (1, "+", "a", "an integer and a string"),
        (None, "+", 1, "NULL and an integer"),
        ("a", "-", "b", "a string and a string"),
        ("a", "*", 2, "a string and an integer"),
        ("ab", "&", "a", "different length"),
        (None, "-", 1, "NULL"),
    ],
)
def test_an_expression_fails(left: Value, op: str, right: Value, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        runtime.BINARY[op](left, right)


def test_bit_not_takes_integers() -> None:
    assert runtime.bit_not(2) == -3
    with pytest.raises(EvaluationError, match="~ needs an integer"):
        runtime.bit_not("2")


@pytest.mark.parametrize(
    ("left", "op", "right", "result"), [("a", "+", "b", "ab"), (5, "+", 2, 7), (5, "-", 2, 3), (5, "/", 2, 2)]
)
def test_compound_assignment_gives(left: Value, op: str, right: Value, result: Value) -> None:
    assert runtime.compound(op, left, right) == result


@pytest.mark.parametrize(
    ("left", "op", "right"),
    [(None, "+", 1), (1, "+", None), ("a", "+", 1), (1, "+", "a"), ("a", "-", "a"), (1, "/", 0)],
)
def test_compound_assignment_refuses(left: Value, op: str, right: Value) -> None:
    """The manual: both sides of one type, neither NULL, texts with += only."""
    with pytest.raises(EvaluationError):
        runtime.compound(op, left, right)


def test_an_error_is_logged_with_its_place_in_the_script() -> None:
    bench = Bench()
    code = compile("\n\nreport(run, 'oops')", "dir/opensips.cfg", "exec")
    exec(code, {"report": runtime.report, "run": bench.run})
    said = "dir/opensips.cfg:3: oops, Call-ID 3848276298220188511@atlanta.example"
    assert bench.services.lines == [(runtime.L_ERR, said)]


@pytest.mark.parametrize(
    ("word", "level"),
    [("L_ALERT", -3), ("L_CRIT", -2), ("L_ERR", -1), ("L_WARN", 1), ("L_NOTICE", 2), ("L_INFO", 3), ("L_DBG", 4)],
)
def test_levels_have_words(word: str, level: int) -> None:
    assert runtime.level_of(word) == level


@pytest.mark.parametrize("word", ["", "L_", "L_X", "debug"])
def test_a_word_that_is_no_level_is_an_error(word: str) -> None:
    if word == "debug":
        # Only the third letter counts, and "b" is none.
        assert word[2] == "b"
    with pytest.raises(ValueError, match="no log level"):
        runtime.level_of(word)


def test_xlog_makes_its_text_only_when_it_is_let_through() -> None:
    bench = Bench()
    made: list[str] = []

    def text(run: object) -> str:
        made.append("made")
        return "hello"

    assert runtime.xlog(bench.run, runtime.L_DBG, text) == 1
    assert made == []
    assert runtime.xlog(bench.run, runtime.L_INFO, text) == 1
    assert runtime.xlog_dynamic(bench.run, "L_ERR", text) == 1
    assert runtime.xlog_dynamic(bench.run, 2, text) == 1
    assert runtime.xlog_dynamic(bench.run, None, text) == 1
    assert [level for level, _line in bench.services.lines] == [3, -1, 2, -1]
