"""Compiled routes: what each statement does, what waits, and where an error is said to be."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable
from typing import Any

import pytest

from opensipspy.script import ScriptErrors, kinds
from tests.script.lab import NAME, Lab

# -- calls and their results


def test_statements_run_in_order_and_the_end_of_a_route_is_true() -> None:
    lab = Lab()
    assert lab.run('route { note("a"); note("b"); }') == 1
    assert lab.notes == ["a", "b"]


@pytest.mark.parametrize(("number", "taken"), [(1, "yes"), (200, "yes"), (-1, "no"), (-5, "no")])
def test_a_call_is_true_above_zero(number: int, taken: str) -> None:
    assert Lab().body(f'if (give({number})) note("yes"); else note("no");') == [number, taken]


@pytest.mark.parametrize("statement", ["give(0);", "if (give(0)) note(\"no\");", "if (!give(0)) note(\"no\");",
                                       "$var(x) = 1 + give(0);", "while (give(0)) note(\"no\");"])  # fmt: skip
def test_a_call_that_returns_0_ends_the_script(statement: str) -> None:
    lab = Lab()
    assert lab.run(f'route {{ {statement} note("after"); }}') == 0
    assert lab.notes == [0]
    assert lab.last.exited
    assert not lab.last.dropped


@pytest.mark.parametrize(
    ("statement", "dropped"), [("exit;", False), ("drop;", True), ("exit();", False), ("drop();", True)]
)
def test_exit_and_drop_end_the_script_from_a_called_route(statement: str, dropped: bool) -> None:
    lab = Lab()
    assert lab.run(f'route {{ route(a); note("after"); }} route[a] {{ note("in"); {statement} }}') == 0
    assert lab.notes == ["in"]
    assert (lab.last.exited, lab.last.dropped) == (True, dropped)


@pytest.mark.parametrize(
    ("written", "code"),
    [("return;", 1), ("return();", 1), ("return(5);", 5), ("return -2;", -2), ("$var(c) = 7; return $var(c);", 7),
     ('$var(c) = "text"; return $var(c);', 1), ("return $var(none);", -1), ("return(-3, 1);", -3), ("return(, 1);", 1),
     ("", 1)],
)  # fmt: skip
def test_return_gives_its_code_to_rc(written: str, code: int) -> None:
    lab = Lab()
    assert lab.body(f'route(a); note("$rc $retcode");\n}} route[a] {{ {written}') == [f"{code} {code}"]


def test_return_0_ends_the_script() -> None:
    lab = Lab()
    assert lab.body('route(a); note("after");\n} route[a] { return(0);') == []
    assert lab.last.exited


def test_further_values_of_return_are_read_with_return() -> None:
    """The code itself is not among them, and a return without values leaves none."""
    script = (
        'route(a); note("$return(0) $(return(1)) $return(2) $return(3)"); route(b); note("then $return(0)");\n'
        '} route[a] { return(1, "x", 5, NULL);} route[b] { return(2);'
    )
    assert Lab().body(script) == ["x 5 <null> <null>", "then <null>"]


def test_route_passes_parameters() -> None:
    """Texts are passed as they are written; each route sees its own parameters."""
    script = (
        'route(a, "one $rU", -2, $rU, $var(no), null); note("none: $param(1)");\n'
        '} route[a] { note("$param(1) $param(2) $param(3) $param(4) $param(9)"); route(b, "in"); note("$param(2)");\n'
        '} route[b] { note("$param(1) $param(2)");'
    )
    assert Lab().body(script) == ["one $rU -2 bob <null> <null>", "in <null>", "-2", "none: <null>"]


def test_a_route_may_be_named_by_a_variable_or_a_format() -> None:
    script = (
        '$var(r) = "b"; route($var(r)); route("to_$var(r)"); if (route($var(none))) note("no"); else note("none");\n'
    )
    lab = Lab()
    assert lab.body(script + '} route[b] { note("b"); } route[to_b] { note("to_b");') == ["b", "to_b", "none"]
    assert "there is no route[" in lab.log


def test_routes_that_call_each_other_without_end_are_stopped() -> None:
    """At most 100 calls deep; then the script ends and the log says why."""
    lab = Lab()
    assert lab.run('route { route(a); } route[a] { note("a"); route(a); }') == 0
    assert len(lab.notes) == 100
    assert "100 deep at route[a]" in lab.log


# -- conditions


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        ("$var(i)", True), ("$var(zero)", False), ("$var(t)", True), ("$var(empty)", False), ("$var(no)", False),
        ("!$var(no)", True), ("not $var(i)", False), ("1", True), ("0", False),
        ("[$var(i) & 4]", True), ("[$var(i) & 2]", False), ("[$var(i) - 5]", False),
        ("$var(i) == 5", True), ("$var(i) != 5", False), ("$var(i) > 4", True), ("$var(i) >= 6", False),
        ('$var(i) == "5"', True), ('$var(t) == "BOB"', True), ('$var(t) != "bob"', False), ('$var(t) < "boc"', True),
        ("$var(no) == NULL", True), ("$var(no) != null", False), ("$var(t) != NULL", True),
        ("$var(zero) == NULL", False),
        ('$var(no) == "x"', False), ('$var(no) != "x"', True), ("$var(no) == 5", False), ("$var(no) < 5", False),
        ('$var(t) =~ "^B"', True), ('$var(t) !~ "^x"', True), ('$var(no) =~ "."', False), ('$var(no) !~ "."', True),
        ("$var(t) =~ $var(pattern)", True), ("$var(i) == $var(i)", True), ("$var(i) == $var(t)", False),
        ("$si == 198.51.100.0/24", True), ("$si != 198.51.100.7", False), ("$si == 2001:db8::/32", False),
        ("$var(t) == 5", False), ("!($var(t) == 5)", False),
        ("$var(new) = 3", True), ("{ note(\"in\"); }", True), ("{ note(\"in\"); give(-1); }", False), ("{ }", False),
        ("!{ give(-1); }", True), ("if ($var(i) == 5) note(\"in\");", True),
    ],
)  # fmt: skip
def test_conditions(condition: str, taken: bool) -> None:
    """NULL is only equal to NULL, a string is never a number, case does not matter, networks hold addresses."""
    before = '$var(i) = 5; $var(zero) = 0; $var(t) = "bob"; $var(empty) = ""; $var(pattern) = "^bo";'
    assert Lab().holds(condition, before) is taken


def test_a_condition_is_evaluated_only_as_far_as_needed() -> None:
    lab = Lab()
    script = 'if ($var(x) == 1 || give(-1) || $var(x) == NULL && give(2) && note("in")) note("yes");'
    assert lab.body(script) == [-1, 2, "in", "yes"]
    assert lab.body('if (give(1) || later(2)) note("yes");') == [1, "yes"]
    assert lab.body("$var(i) = 0; while (give(1) && $var(i) < 2 && later(3)) $var(i) += 1;") == [
        1, "later 3", 1, "later 3", 1,
    ]  # fmt: skip


# -- loops and switch


def test_while_stops_at_max_while_loops() -> None:
    """An endless loop ends after max_while_loops rounds, and the script goes on behind it."""
    lab = Lab()
    lab.run('max_while_loops=3\nroute { while (1) note("x"); note("after"); }')
    assert lab.notes == ["x", "x", "x", "after"]
    assert "3 rounds" in lab.log


def test_break_leaves_the_innermost_loop() -> None:
    script = """
    while ($var(i) < 3) {
        $var(i) += 1;
        while (1) { note("$var(i)"); break; }
        switch ($var(i)) { case 2: break; default: note("d"); }
        if ($var(i) == 2) break;
    }
    note("end");"""
    assert Lab().body("$var(i) = 0;" + script) == ["1", "d", "2", "end"]


@pytest.mark.parametrize(
    ("value", "noted"),
    [("1", ["one", "two"]), ("2", ["two"]), ('"a"', ["text"]), ('"A"', ["text"]), ("9", ["other"]), ("NULL", ["other"]),
     ('"1"', ["other"]), ("-3", ["negative", "other"])],
)  # fmt: skip
def test_switch_falls_through_to_the_next_break(value: str, noted: list[str]) -> None:
    script = """
    switch ($var(x)) {
        case 1: note("one");
        case 2: note("two"); break;
        case "a": note("text"); break;
        case -3: note("negative");
        default: note("other");
    }"""
    assert Lab().body(f"$var(x) = {value}; {script}") == noted


def test_exit_inside_a_switch_in_a_loop_ends_the_script() -> None:
    lab = Lab()
    assert lab.run("route { while (1) { switch ($var(x)) { default: exit; } } }") == 0


def test_for_goes_over_every_value_of_an_avp() -> None:
    """The first value is the last one that was added."""
    script = '$avp(a) = "x"; $avp(a) = "y"; $avp(a) = 3; for ($var(v) in $(avp(a)[*])) note("$var(v)"); note("end");'
    assert Lab().body(script) == ["3", "y", "x", "end"]
    assert Lab().body('for ($var(v) in $(avp(none)[*])) note("no"); note("end");') == ["end"]
    assert Lab().body('for ($var(v) in $(hdr(X-Custom)[*])) note("$var(v)");') == ["one", "two"]


# -- assignments and arithmetic


@pytest.mark.parametrize(
    ("statements", "value"),
    [
        ("$var(v) = 5; $var(v) += 2;", 7), ("$var(v) = 5; $var(v) -= 7;", -2), ("$var(v) = 6; $var(v) *= 2;", 12),
        ("$var(v) = 7; $var(v) /= 2;", 3), ("$var(v) = 7; $var(v) %= 4;", 3), ("$var(v) = 6; $var(v) &= 3;", 2),
        ("$var(v) = 6; $var(v) |= 1;", 7), ("$var(v) = 6; $var(v) ^= 5;", 3), ('$var(v) = "a"; $var(v) += "b";', "ab"),
        ("$var(v) = 5; $var(v) = NULL;", None), ("$var(v) = $rU;", "bob"), ("$var(v) = ($rU == \"bob\");", 1),
        ("$var(v) = 5; $var(v) = 1 / 0;", 0), ("$var(v) = 5; $var(v) += $var(no);", 5),
        ('$var(v) = "$rU";', "$rU"),
    ],
)  # fmt: skip
def test_assignments(statements: str, value: object) -> None:
    """What cannot be calculated leaves the variable as it was, and the script goes on."""
    lab = Lab()
    lab.run(f"route {{ {statements} $var(end) = 1; }}")
    assert (lab.last.vars.get("v"), lab.last.vars.get("end")) == (value, 1)


def test_colon_equals_replaces_all_values_of_an_avp() -> None:
    assert Lab().body('$avp(a) = 1; $avp(a) = 2; $avp(a) := 3; note("$(avp(a)[*])");') == ["3"]


# -- arguments


def test_arguments_arrive_prepared() -> None:
    lab = Lab()
    script = """
    $var(n) = "4";
    note("to $rU of $rd at 5$$"); even("6"); even("$var(n)"); give($var(n));
    omit("a", , 3); omit("b"); omit("$var(no)", "c");
    raw("as $rU is"); into($var(seven)); note($var(seven)); if (find("^beta$")) note("found");"""
    assert lab.body(script) == [
        "to bob of biloxi.example at 5$", 6, 4, 4, ("a", None, 3), ("b",), (None, "c"), "as $rU is", "7", "found",
    ]  # fmt: skip


def test_a_value_that_a_function_cannot_take_makes_the_call_fail() -> None:
    """The call is not made and counts as -1; the log names the function."""
    lab = Lab()
    script = (
        '$var(n) = "3"; if (even("$var(n)")) note("no"); else note("odd"); $var(n) = "x3"; give($var(n)); note("on");'
    )
    assert lab.body(script) == ["odd", "on"]
    assert "even(): 3 is odd" in lab.log
    assert "give(): a number is needed, not 'x3'" in lab.log


def test_xlog_writes_its_text_at_its_level() -> None:
    lab = Lab()
    lab.body(
        'xlog("to $rU\\n"); xlog("L_INFO", "info " "$rU"); xlog("L_DBG", "hidden"); xdbg("hidden"); log(1, "old");'
    )
    assert lab.services.lines[0] == (2, "to bob\n")
    assert (3, "info bob") in lab.services.lines
    assert "hidden" not in lab.log


def test_assert_does_something_only_when_it_is_enabled() -> None:
    assert Lab().body('assert($rU == "x", "never"); note("on");') == ["on"]
    lab = Lab()
    assert lab.run('enable_asserts=yes\nroute { assert($rU == "x", "told"); note("on"); }') == 0
    assert lab.notes == []
    assert "told" in lab.log


# -- waiting


@pytest.mark.parametrize(
    ("script", "waiting"),
    [
        ("route { note(\"a\"); } route[a] { later(1); }", {"a"}),
        ("route { route(a); } route[a] { route(b); } route[b] { later(1); } route[c] { }", {"", "a", "b"}),
        ("route { route(a); } route[a] { route(b); } route[b] { route(a); } route[c] { later(1); }", {"c"}),
        ("route { route($var(r)); } route[a] { maybe(1); } route[b] { }", {"", "a"}),
        ("route { route($var(r)); } route[a] { } route[b] { }", set()),
        ("route { launch(later(1)); }", set()),
        ("route { async(maybe(1), a); } route[a] { }", {""}),
        ("route { if ($var(x) == 1 && !later(1)) exit; }", {""}),
        ("route { while (1) { switch ($var(x)) { case 1: later(1); } } }", {""}),
    ],
)  # fmt: skip
def test_only_routes_that_can_reach_a_wait_are_coroutines(script: str, waiting: set[str]) -> None:
    program = Lab().compile(script)
    assert {name for name, route in program.routes(kinds.REQUEST).items() if route.is_async} == waiting


def test_functions_that_wait_give_their_result_like_others() -> None:
    lab = Lab()
    assert lab.body('if (later(-1)) note("no"); else if (maybe(2) && maybe(-3)) note("no"); else note("yes");') == [
        "later -1", "later -3", "yes",
    ]  # fmt: skip


def test_async_goes_on_in_the_resume_route() -> None:
    """Nothing behind async() runs; $rc of the resume route is the function's result."""
    lab = Lab()
    script = 'async(later(-5), done); note("never");\n} route[done] { note("resumed with $rc"); exit;'
    assert lab.body(script) == ["later -5", "resumed with -5"]


def test_async_gives_up_what_takes_longer_than_its_time_limit() -> None:
    """The resume route then sees -1 in $rc, and the log says why."""
    lab = Lab()

    async def limited(work: Awaitable[int], limit_s: float) -> int:
        assert limit_s == 3
        asyncio.ensure_future(work).cancel()
        raise TimeoutError

    lab.services.within = limited  # type: ignore[method-assign]
    script = 'async(later(5), done, 3);\n} route[done] { note("resumed with $rc"); exit;'
    assert lab.body(script) == ["resumed with -1"]
    assert "test.cfg:2: async(): no result within 3 s" in lab.log
    assert lab.body('async(maybe(5), done, 3);\n} route[done] { note("$rc"); exit;') == ["5"]


def test_for_goes_over_all_values_of_an_index() -> None:
    lab = Lab()
    three = '$avp(a) = "x"; $avp(a) = "y"; $avp(a) = "z";'
    assert lab.body(three + "for ($var(i) in $(avp(a)[*])) note($var(i));") == ["z", "y", "x"]
    assert lab.body("for ($var(i) in $(avp(none)[*])) note($var(i));") == []
    assert lab.body("for ($var(i) in $(<request>hdr(X-Custom)[*])) note($var(i));") == ["one", "two"]
    assert lab.body(three + "for ($var(i) in $(avp(a)[*])) { note($var(i)); break; }") == ["z"]


def test_for_without_the_index_of_all_values_is_skipped_as_in_the_c_server() -> None:
    lab = Lab()
    assert lab.body('$avp(a) = "x"; for ($var(i) in $avp(a)) note("never"); note("on");') == ["on"]
    assert "needs the index [*]" in lab.log


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 20),
        ("7 - 2 << 1", 10),
        ("1 << 3 + 1", 16),
        ("~0", -1),
        ("(1 + 2) * 3", 9),
        ("2147483647 + 1", -2147483648),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ('"a" + "b" + "c"', "abc"),
        ('"$rU"', "$rU"),
    ],
)
def test_constants_are_calculated_at_load(expression: str, value: int | str) -> None:
    """+ - * / % bind alike, from the left; << >> & | ^ bind weaker. A text is not a format here."""
    lab = Lab()
    program = lab.compile(f"route {{ $var(v) = {expression}; }}")
    assert program.main is not None
    assert not [name for name in program.main.code.co_names if name.startswith("_op")]
    assert value in program.main.code.co_consts
    assert lab.value(expression) == value


@pytest.mark.parametrize("expression", ['"a" - 1', '1 + "a"', '"ab" & "a"'])
def test_a_constant_that_cannot_be_calculated_leaves_the_variable_alone(expression: str) -> None:
    lab = Lab()
    assert lab.value(f"5; $var(v) = {expression}") == 5
    assert "test.cfg:1: " in lab.log


def test_operands_are_read_from_left_to_right() -> None:
    """A variable before a call has the value of before the call."""
    lab = Lab()
    lab.run("route { $var(x) = 1; $var(v) = $var(x) + route(set) + $var(x); } route[set] { $var(x) = 10; return(5); }")
    assert lab.last.vars["v"] == 16


def test_a_switch_may_have_a_thousand_cases() -> None:
    cases = "".join(f'case {number}: note("{number}"); break; ' for number in range(1000))
    assert Lab().body(f"$var(x) = 777; switch ($var(x)) {{ {cases} }}") == ["777"]
    assert Lab().body(f'switch ($var(x)) {{ {cases} default: note("none"); }}') == ["none"]


@pytest.mark.parametrize("depth", [100, 1000, 20_000])
@pytest.mark.parametrize(
    ("begin", "opening", "middle", "closing", "end"),
    [
        ("if (", "(", "1", ")", ") exit;"),
        ("if (", "!", "$var(x)", "", ") exit;"),
        ("$var(x) = ", "$var(y) + ", "1", "", ";"),
        ("if (", "give(1) || ", "1", "", ") exit;"),
        ("", "if ($var(x)) { ", "exit;", " }", ""),
        ("", "while ($var(x)) { ", "break;", " }", ""),
        ("", "if ($var(x) == 1) exit; else ", "exit;", "", ""),
        ('xlog("', "$(avp(", "x", "))", '");'),
    ],
)
def test_what_nests_too_deep_is_a_finding(
    depth: int, begin: str, opening: str, middle: str, closing: str, end: str
) -> None:
    """However deep: a finding with a place, never an error of ours."""
    text = f"route {{\n{begin}{opening * depth}{middle}{closing * depth}{end}\n}}\n"
    lab = Lab()
    found = [finding for finding in lab.findings(text) if finding.severity == "error"]
    try:
        if not found:
            lab.compile(text)
    except ScriptErrors as errors:
        found = errors.findings
    assert all("deep" in finding.message for finding in found)
    assert found or depth == 100


def test_launch_runs_beside_the_script_on_its_own_variables() -> None:
    lab = Lab()
    text = """route { $var(x) = 1; launch(later(-2), done, "p $var(x)"); $var(x) = 2; note("first"); }
    route[done] { note("$rc $param(1) $var(x)"); $var(x) = 9; }"""
    assert lab.run(text) == 1
    assert lab.notes == ["first"]
    (work,) = lab.services.started
    asyncio.run(_finish(work))
    assert lab.notes == ["first", "later -2", "-2 p 1 1"]
    assert lab.last.vars["x"] == 2


async def _finish(work: Any) -> None:
    await work


# -- errors on a call


def _raised(lab: Lab, text: str) -> list[traceback.FrameSummary]:
    with pytest.raises(RuntimeError, match="the function broke") as raised:
        lab.run(text)
    return [frame for frame in traceback.extract_tb(raised.value.__traceback__) if frame.filename == NAME]


def test_a_traceback_shows_the_lines_of_the_script() -> None:
    text = 'route {\n    note("a");\n    if ($rU == "bob" && breaks())\n        exit;\n}\n'
    (frame,) = _raised(Lab(), text)
    assert (frame.lineno, frame.end_lineno, frame.name) == (3, 3, "route")
    assert text.split("\n")[2][frame.colno : frame.end_colno] == "breaks()"


def test_a_traceback_shows_every_route_on_the_way() -> None:
    text = "route {\n  route(a);\n}\nroute[a] {\n\n  while (1) {\n    if (later(1)) breaks();\n  }\n}\n"
    frames = _raised(Lab(), text)
    assert [(frame.lineno, frame.name) for frame in frames] == [(2, "route"), (7, "route[a]")]


def test_an_error_that_the_script_survives_tells_place_routes_and_call() -> None:
    lab = Lab()
    lab.run('route {\n  route(a);\n}\nroute[a] {\n\n  $var(x) = "a" - 1;\n}\n')
    assert lab.log == (
        "test.cfg:6: unsupported operands for -: a string and an integer in route[a], "
        "Call-ID 3848276298220188511@atlanta.example"
    )


def test_an_error_in_an_included_file_names_that_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner.cfg").write_text("route[a] {\n  breaks();\n}\n")
    lab = Lab()
    with pytest.raises(RuntimeError) as raised:
        lab.run('route {\n  route(a);\n}\ninclude_file "inner.cfg"\n')
    frames = traceback.extract_tb(raised.value.__traceback__)
    shown = [(frame.filename, frame.lineno) for frame in frames if frame.filename.endswith(".cfg")]
    assert shown == [(NAME, 2), ("inner.cfg", 2)]


def test_a_run_time_message_names_its_line() -> None:
    lab = Lab()
    lab.body("$var(z) = 0;\n\n$var(x) = 1 / $var(z);")
    assert "test.cfg:4: division by zero" in lab.log


# -- the code itself


def test_names_of_a_script_are_never_python() -> None:
    """A text in a script is data: nothing of it becomes source of the compiled code."""
    lab = Lab()
    name = "a' + __import__(b) + \\"
    lab.body(f'$var({name}) = 1; $var(x) = $var({name}); note("$var(x)");')
    assert lab.notes == ["1"]
    assert lab.last.vars[name] == 1


def test_compiled_code_sees_next_to_no_builtins() -> None:
    """What a script's code could reach by name is a class and a counter, never open or __import__."""
    program = Lab().compile('route { note("a"); }')
    assert program.main is not None
    assert set(program.main.fn.__globals__["__builtins__"]) <= {"int", "range"}


def test_the_program_lists_its_routes() -> None:
    text = """route { } route[a] { } timer_route[t, 30] { } event_route[E_LAB] { } failure_route[f] { }
    onreply_route { } startup_route { }"""
    program = Lab().compile(text)
    assert program.main is program.route(kinds.REQUEST) is program.route(kinds.REQUEST, "0")
    assert [(seconds, route.name) for seconds, route in program.timer_routes] == [(30, "t")]
    assert [(name, route.kind) for name, route in program.event_routes] == [("E_LAB", kinds.EVENT)]
    assert program.route(kinds.FAILURE, "none") is None
    assert program.route(kinds.ONREPLY) is not None
    assert program.route(kinds.STARTUP) is not None
    assert len(program.all_routes()) == 7


@pytest.mark.parametrize("expression", ["1 / 0", "7 % $var(no)", "0 + 5 / 0"])
def test_a_division_by_zero_is_logged_and_gives_zero(expression: str) -> None:
    lab = Lab()
    assert lab.value(f"5; $var(v) = {expression}") == 0
    assert "division by zero" in lab.log


def test_null_and_a_number_in_a_variable_make_a_text() -> None:
    """A number in a variable is also its digits; one that is written or calculated is not."""
    lab = Lab()
    assert lab.value("5; $var(n) = 7; $var(v) = $avp(no) + $var(n)") == "7"
    assert lab.value("5; $var(v) = $avp(no) + 7") == 5
    assert lab.value("5; $var(n) = 7; $var(v) = $avp(no) + ($var(n) + 1)") == 5


def test_the_return_code_tells_of_ifs_and_of_failed_assignments() -> None:
    """An if that does not hold leaves 0, an assignment that fails -1."""
    lab = Lab()
    assert lab.body('give(3); if ($rc == 1) note("no"); note("$rc");')[-1] == "0"
    assert lab.body('give(3); if ($rc == 3) note("yes"); note("$rc");')[-1] == "1"
    assert lab.body('give(3); if ($rc == 3) { } note("$rc");')[-1] == "1"
    assert lab.body('give(3); $var(t) = "a" - 1; note("$rc");')[-1] == "-1"
    assert lab.body('give(3); $var(t) = 5; $var(t) += "a"; note("$rc");')[-1] == "-1"


def test_lines_of_xlog_are_held_back_by_xlog_level_only() -> None:
    lab = Lab()
    lab.services.lines.clear()
    lab.run('route { xlog("L_NOTICE", "one"); xlog("L_DBG", "two"); }')
    assert [line for _level, line in lab.services.lines] == ["one"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('switch ($rm) { case "INVITE": $var(x) = 1; break; }', -5),
        ('switch ($rm) { case "INVITE": if ($var(n) == NULL) break; note("n"); }', -5),
        ('switch ($rm) { case "BYE": break; default: break; }', -5),
        ('switch ($rm) { case "BYE": break; }', 1),
        ('switch ($rm) { case "INVITE": note("n"); }', 1),
        ('switch ($rm) { case "INVITE": give(-3); }', -3),
        ('switch ($rm) { case "INVITE": give(-3); default: $var(x) = 1; }', 1),
        ('switch ($rm) { case "INVITE": break; } note("n");', 1),
        ('if (1) { switch ($rm) { case "INVITE": break; } }', -5),
        ("while (1) { break; }", -5),
        ('while (1) { switch ($rm) { case "INVITE": break; } break; }', -5),
        ("$avp(q) = 1; for ($var(i) in $(avp(q)[*])) break;", -5),
        ("for ($var(i) in $(avp(none)[*])) break;", 1),
    ],
)
def test_a_route_that_ends_in_a_loop_or_switch_has_its_result(body: str, code: int) -> None:
    """As the C server has it: what `break` has left was not carried out, -5; else the last statement counts."""
    lab = Lab()
    text = f"route {{ route(a); $var(code) = $rc; if (route(a)) $var(yes) = 1; }} route[a] {{ {body} }}"
    program = lab.compile(text)
    run = lab.new_run(program)
    assert program.main is not None
    program.main.fn(run)
    assert run.vars["code"] == code
    assert ("yes" in run.vars) == (code > 0)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('"a" + 1', None),
        ("$var(text) + 1", None),
        ("$var(text) + $var(five)", "a5"),
        ('"a" + ($var(five) + 1)', None),
        ('$rp + "/x"', "5060/x"),
        ("$(rp) + 1", 5061),
    ],
)
def test_text_takes_a_number_out_of_a_variable_only(expression: str, value: int | str | None) -> None:
    """A number that is written or calculated is no text, and the statement is not carried out; a port is both."""
    lab = Lab()
    before = '$ru = "sip:a@b:5060"; $var(text) = "a"; $var(five) = 5;'
    program = lab.compile(f"route {{ {before} $var(v) = {expression}; }}")
    run = lab.new_run(program)
    assert program.main is not None
    program.main.fn(run)
    assert run.vars.get("v") == value
