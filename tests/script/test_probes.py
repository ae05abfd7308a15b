"""Watched scripts do what plain ones do, and tell of every statement, condition and value."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opensipspy import script as language
from opensipspy.script.probes import CASE, CONDITION, STATEMENT, Watch, compile_watched
from opensipspy.script.run import Run
from opensipspy.sip import PROTO_UDP, Peer, parse_message
from tests.script.fakes import INVITE, UDP_SOCKET
from tests.script.lab import Lab

BODY = """
route {
    $var(n) = 3;
    $var(out) = "";
    while ($var(n) > 0) {
        $var(n) = $var(n) - 1;
        if ($var(n) == 2 || $var(n) == "x") $var(out) = $var(out) + "two ";
        else if (!($var(n) == 1)) { $var(out) = $var(out) + "zero "; }
    }
    switch ($var(out)) {
        case "nothing": $var(way) = 1; break;
        case "two zero ": $var(way) = 2;
        default: $var(way) = $var(way) + 10; break;
    }
    route(NAMED, "a");
    $var(result) = $rc;
    for ($var(v) in $(avp(list)[*])) { $var(last) = $var(v); }
    if ({ $var(g) = 5; $var(g) = $var(g) - 5; } && $var(n) == NULL) exit;
    $var(bad) = "a" - 1;
    if (give(-1) || note("$var(n)") && give(-2)) $var(none) = 1;
    if (route(NAMED, "b") && !route(FALSE)) { return(7); }
    drop;
}
route[NAMED] { $var(param) = $param(1); if ($var(param) == "a") { return(3); } $var(seen) = 1; }
route[FALSE] { return(-1); }
"""


class Notes(Watch):
    values = True

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[int] = []
        self.conditions: list[tuple[str, bool]] = []
        self.cases: list[str] = []
        self.seen: list[tuple[str, Any]] = []

    def statement(self, run: Run, number: int) -> None:
        self.statements.append(self.points[number].line)

    def condition(self, run: Run, number: int, outcome: Any) -> Any:
        self.conditions.append((self.points[number].text, outcome > 0))
        return outcome

    def case(self, run: Run, first: int, entry: int) -> None:
        self.cases.append(self.points[first + entry].text)

    def value(self, run: Run, text: str, value: Any) -> Any:
        self.seen.append((text, value))
        return value


class Holding(Watch):
    """Holds every statement for one turn of the loop."""

    halting = True

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.routes_left = 0

    def halts(self, run: Run, number: int) -> bool:
        return True

    async def halt(self, run: Run, number: int) -> None:
        self.held += 1
        await asyncio.sleep(0)

    def left(self, run: Run) -> None:
        self.routes_left += 1


def load(watch: Watch | None) -> Any:
    catalogue = Lab().catalogue
    script = language.parse_script("test.cfg", "", BODY)
    assert [finding for finding in language.check(script, catalogue) if finding.severity == "error"] == []
    return language.compile_script(script, catalogue) if watch is None else compile_watched(script, catalogue, watch)


def execute(program: Any) -> tuple[int, dict[str, Any], bool]:
    data = INVITE.encode() if isinstance(INVITE, str) else INVITE
    run = Run(parse_message(data, Peer(PROTO_UDP, "192.0.2.1", 5060), UDP_SOCKET), program=program)
    run.avps["list"] = ["one", "two"]
    result = program.main.fn(run)
    if program.main.is_async:
        result = asyncio.run(result)
    return result, run.vars, run.exited


@pytest.fixture
def plain() -> tuple[int, dict[str, Any], bool]:
    return execute(load(None))


def test_a_watched_script_does_what_a_plain_one_does(plain: tuple[int, dict[str, Any], bool]) -> None:
    assert execute(load(Notes())) == plain
    assert execute(load(Watch())) == plain
    assert plain[0] == 7


def test_a_script_that_is_held_at_every_statement_does_the_same(plain: tuple[int, dict[str, Any], bool]) -> None:
    watch, told = Holding(), Notes()
    program = load(watch)
    assert program.main.is_async
    assert execute(program) == plain
    execute(load(told))
    assert watch.held == len(told.statements)
    assert watch.routes_left == 4


def test_conditions_are_told_one_by_one_with_their_outcome() -> None:
    watch = Notes()
    execute(load(watch))
    assert watch.conditions[:3] == [("$var(n) > 0", True), ("$var(n) == 2", True), ("$var(n) > 0", True)]
    assert ('$var(n) == "x"', False) in watch.conditions
    # `!` of a comparison is one condition, `!` of a call is the call's.
    assert ("!($var(n) == 1)", True) in watch.conditions
    assert ("route(FALSE)", False) in watch.conditions
    assert watch.cases == ['case "two zero "']


def test_values_are_told_as_they_are_read_and_written() -> None:
    watch = Notes()
    execute(load(watch))
    assert watch.seen[0] == ("$var(n) =", 3)
    assert ("$param(1)", "a") in watch.seen
    assert ("$var(last) =", "one") in watch.seen or ("$var(v) =", "one") in watch.seen


def test_points_have_the_place_and_the_text_of_the_script() -> None:
    watch = Notes()
    load(watch)
    lines = BODY.split("\n")
    for point in watch.points:
        assert point.kind in (STATEMENT, CONDITION, CASE)
        assert point.file == "test.cfg"
        if point.text != "no case" and "\n" not in point.text:
            assert point.text.split()[0].rstrip(";(") in lines[point.line - 1]
    assert {point.route for point in watch.points} == {"route", "route[NAMED]", "route[FALSE]"}


def test_routes_of_a_script_that_cannot_wait_stay_plain_functions_unless_they_may_be_held() -> None:
    assert not load(Notes()).main.is_async
    assert all(route.is_async for route in load(Holding()).all_routes())
