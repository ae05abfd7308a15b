"""What a compiled script does with a message: control flow, results of calls, conditions, routes, waiting, errors."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from opensipspy.script import ScriptErrors, kinds
from opensipspy.script.program import BadRecipe, Builder
from tests.script.lab import Lab


@pytest.fixture
def lab() -> Lab:
    return Lab()


# -- 0, negative and positive results


@pytest.mark.parametrize(
    "where",
    [
        "give(0);",
        'if (give(0)) note("x");',
        'if (!give(0)) note("x");',
        'if ($var(x) == NULL && give(0)) note("x");',
        'if (give(-1) || give(0)) note("x");',
        'while (give(0)) note("x");',
        "$var(x) = give(0);",
        "$var(x) = 1 + give(0);",
        'if ({ give(0); }) note("x");',
        'if ([ give(0) + 1 ]) note("x");',
        "switch ($rm) { case \"INVITE\": give(0); }",
        "route(zero);",
        'if (route(zero)) note("x");',
        "return(0);",
        "exit;",
    ],
)  # fmt: skip
def test_zero_ends_the_script_wherever_it_comes_from(lab: Lab, where: str) -> None:
    assert lab.run(f'route {{ {where} note("after"); }} route[zero] {{ give(0); note("in"); }}') == 0
    assert not {"after", "in", "x"} & set(lab.notes) - {0}


def test_exit_and_drop_in_a_called_route_end_the_caller(lab: Lab) -> None:
    lab.run('route { route(a); note("after"); } route[a] { note("in"); drop; }')
    assert lab.notes == ["in"]
    assert lab.last.exited
    assert lab.last.dropped
    lab.run("route { exit; }")
    assert not lab.last.dropped


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("return(5);", 5),
        ("return(-3);", -3),
        ("return;", 1),
        ("return();", 1),
        ("$var(n) = 7; return $var(n);", 7),
        ("return($var(unset));", -1),
        ('$var(t) = "text"; return($var(t));', 1),
        ("", 1),
        ("$var(n) = 0;", 1),
        ("give(4);", 4),
        ("give(-4);", -4),
        ("if (give(2)) give(-6); else give(3);", -6),
        ("if (give(-2)) give(-6);", 1),
        ('if (give(2)) { give(-1); note("x"); }', 1),
        ("route(inner);", -9),
        ("give(-5); xlog(\"done\");", 1),
        ("$var(n) = $var(unset) * 2;", -1),
    ],
)  # fmt: skip
def test_the_result_of_a_route_is_that_of_return_or_of_its_last_statement(lab: Lab, body: str, result: int) -> None:
    lab.run(f"route {{ $var(r) = route(a); }} route[a] {{ {body} }} route[inner] {{ return(-9); }}")
    assert lab.last.vars["r"] == result


def test_return_hands_values_over(lab: Lab) -> None:
    lab.run('route { route(a); note("$return(0) $return(1) $return(2)"); } '
            'route[a] { return(3, "x$rU", 8, NULL); }')  # fmt: skip
    assert lab.notes[-1].startswith("x$rU 8 <null>")


def test_the_result_of_the_last_call_is_read_as_rc(lab: Lab) -> None:
    assert lab.body('give(-7); note("$rc"); give(3); note("$retcode");') == [-7, "-7", 3, "3"]
    assert lab.body('if (!give(-2)) note("$rc");') == [-2, "-2"]


# -- conditions: && and || have one precedence and go from the left; a comparison may end in an error


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("1", True), ("0", False), ("$rU", True), ("$var(unset)", False), ("!$var(unset)", True),
        ("1 || 0 && 0", False), ("0 && 0 || 1", True), ("1 or (0 and 0)", True), ("not 0 and 1", True),
        ("[1 + 1]", True), ("[$var(unset) + 1]", False), ("[5 & 2]", False), ("![5 & 2]", True), ("[1 / 0]", False),
        ("![1 / 0]", True), ("[$rU * 2]", False), ("[~0]", True),
        ("give(-1)", False), ("!give(-1)", True), ("give(5)", True), ("give(-1) || give(2)", True),
        ("$rU > 5", False), ("!($rU > 5)", False), ("!$rU > 5", False), ("$rU > 5 || 1", False), ("1 || $rU > 5", True),
        ("0 || $rU > 5 || 1", False), ("$rU > 5 || give(1)", False), ("($rU > 5 && 1) || 1", False),
        ("!($rU > 5 && 1)", False), ("!(0 && $rU > 5)", True), ("!($rU > 5 || 1)", False), ("!(!($rU > 5))", False),
        ("$rU == 5 && 1", False), ('$rU == "BOB"', True), ('$rU != "bob"', False), ('$rU =~ "^B.b$"', True),
        ('$rU !~ "x"', True), ('$var(unset) != "x"', True), ("$var(unset) == NULL", True), ("$rU != NULL", True),
        ("$si == 198.51.100.0/24", True), ("$si != 198.51.100.7", False), ("$si == 2001:db8::/32", False),
        ("$rU == 10.0.0.0/8", False), ("!($rU == 10.0.0.0/8)", False), ("$rU == $tU", True), ("$rU =~ $tU", True),
        ("$var(y) = 0", True), ("$var(y) = $rU * 2", False), ("{ give(-1); }", False), ("{ give(-1); give(1); }", True),
        ("{ }", False), ("{ $var(y) = 1; }", True), ("if (give(1)) give(-1); ", False),
        ("if (give(-1)) give(-1); ", True), ("route(ok)", True), ("route(nok)", False), ("!route(nok)", True),
    ],
)  # fmt: skip
def test_conditions(lab: Lab, condition: str, holds: bool) -> None:
    """`!` keeps the error of a comparison, `||` stops at it, and `if` takes it for false."""
    lab.run(
        f'route {{ if ({condition}) note("yes"); else note("no"); }} '
        "route[ok] { return(1); } route[nok] { return(-1); }"
    )
    assert lab.notes[-1] == ("yes" if holds else "no")


def test_what_stands_behind_a_decided_condition_is_not_called(lab: Lab) -> None:
    assert lab.body('if (give(-1) && give(1)) note("x");') == [-1]
    assert lab.body('if (give(1) || give(2)) note("x");') == [1, "x"]
    assert lab.body('if (give(1) && (give(-2) || give(3)) && !give(-4)) note("x");') == [1, -2, 3, -4, "x"]
    assert lab.body('if ($rU > 1 || give(1)) note("x");') == []


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 20),
        ("2 * 3 + 4", 10), ("10 - 2 - 3", 5), ("1 | 2 + 4", 7), ("7 & 3 ^ 1", 2), ("2 + (3 * 4)", 14),
        ("1 << 4 + 1", 32), ("~0 + 1", 0), ("~(0 + 1)", -2), ("7 / 2", 3), ("-7 / 2", -3), ("-7 % 3", -1),
        ("2147483647 + 1", -2147483648), ('"a" + "b" + 1', None), ('"a" + "b"', "ab"), ('"a" + $var(unset)', "a"),
        ("give(3) + give(4)", 7), ('($rU == "bob") + 1', 2), ("0x10 + 010", 24), ("yes + on", 2), ("-5", -5),
        ('"$rU"', "$rU"), ("NULL", None),
    ],
)  # fmt: skip
def test_expressions(lab: Lab, expression: str, value: object) -> None:
    """All of + - * / % bind alike and from the left, tighter than & | ^ << >>, and ~ before all."""
    if expression == '"a" + "b" + 1':
        lab.value(expression)
        assert lab.last.vars.get("v") in (None, "ab1")
        return
    assert lab.value(expression) == value


def test_the_left_side_is_read_before_a_call_on_the_right(lab: Lab) -> None:
    lab.run("route { $var(n) = 1; $var(v) = $var(n) + route(change); } route[change] { $var(n) = 50; return(2); }")
    assert lab.last.vars["v"] == 3


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("+= 2", 7), ("-= 2", 3), ("*= 2", 10), ("/= 2", 2), ("%= 2", 1), ("&= 4", 4), ("|= 2", 7), ("^= 1", 4),
        ("= NULL", None), (":= 9", 9), ('+= "x"', 5), ("/= 0", 5), ("+= $var(unset)", 5),
    ],
)  # fmt: skip
def test_assignments(lab: Lab, statement: str, value: object) -> None:
    """One that cannot be carried out leaves the variable alone, is logged with its line, and the script goes on."""
    assert lab.body(f'$var(v) = 5; $var(v) {statement}; note("on");') == ["on"]
    assert lab.last.vars.get("v") == value
    if value == 5:
        assert "test.cfg:2:" in lab.log


# -- loops and switches


def test_while_is_bounded(lab: Lab) -> None:
    lab.run('max_while_loops=7\nroute { $var(i) = 0; while (1) { $var(i) = $var(i) + 1; } note("after"); }')
    assert lab.last.vars["i"] == 7
    assert lab.notes == ["after"]
    assert "max_while_loops" in lab.log


def test_break_leaves_the_innermost_loop_or_switch(lab: Lab) -> None:
    assert lab.body(
        "$var(i) = 0; while ($var(i) < 3) { $var(i) += 1; "
        'switch ($var(i)) { case 2: break; default: note("$var(i)"); } }'
    ) == ["1", "3"]
    assert lab.body('while (1) { while (1) { break; } note("outer"); if (give(1)) break; } note("end");') == [
        "outer", 1, "end",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "notes"),
    [("1", ["one", "two"]), ("2", ["two"]), ('"A"', ["a", "default"]), ('"1"', ["default"]), ("9", ["default"]),
     ("NULL", ["default"])],
)  # fmt: skip
def test_a_case_falls_through_until_break(lab: Lab, value: str, notes: list[str]) -> None:
    """Texts without regard to case; a text of digits is no number."""
    assert lab.body(
        f'$var(x) = {value}; switch ($var(x)) {{ case 1: note("one"); case 2: note("two"); break; case 3: '
        'case "a": note("a"); default: note("default"); }'
    ) == notes  # fmt: skip


def test_for_goes_over_all_values(lab: Lab) -> None:
    assert lab.body('for ($var(h) in $(hdr(X-Custom)[*])) note("$var(h)");') == ["one", "two"]
    assert lab.body('$avp(a) = 1; $avp(a) = 2; $avp(a) = 3; for ($var(h) in $(avp(a)[*])) { note("$var(h)"); '
                    "if ($var(h) == 2) break; }") == ["3", "2"]  # fmt: skip
    assert lab.body('for ($var(h) in $(avp(none)[*])) note("x"); note("end");') == ["end"]


# -- routes


def test_parameters_belong_to_their_call(lab: Lab) -> None:
    lab.run('route { route(a, "x", 5, $rU, NULL); note("$param(1)"); } '
            'route[a] { note("$param(1) $param(2) $param(3) $param(4)"); route(b, "y"); note("$param(1)"); } '
            'route[b] { note("$param(1) $param(2)"); }')  # fmt: skip
    assert lab.notes == ["x 5 bob <null>", "y <null>", "x", None]


def test_a_route_is_found_by_a_variable_or_a_format(lab: Lab) -> None:
    lab.run('route { $var(n) = "a"; route($var(n)); route("$var(n)"); route(0_is_main); } '
            'route[a] { note("a"); } route[0_is_main] { note("m"); }'.replace("0_is_main", "mm"))  # fmt: skip
    assert lab.notes == ["a", "a", "m"]
    assert lab.body('$var(n) = "nowhere"; route($var(n)); note("on");') == ["on"]
    assert "there is no route[nowhere]" in lab.log


def test_routes_that_call_themselves_end_the_script(lab: Lab) -> None:
    assert lab.run("route { route(a); } route[a] { $var(n) += 1; route(a); }") == 0
    assert "more than 100 deep" in lab.log
    assert lab.last.exited


# -- waiting


def test_only_routes_that_can_reach_a_waiting_call_are_coroutines(lab: Lab) -> None:
    program = lab.compile(
        'route { route(plain); } route[plain] { note("x"); } route[waits] { later(1); } route[calls] { route(waits); } '
        "failure_route[f] { maybe(1); } onreply_route { give(1); } timer_route[t, 5] { route(calls); } "
        "branch_route[b] { launch(later(1), plain); }"
    )
    colours = {(route.kind, route.name): route.is_async for route in program.all_routes()}
    assert colours == {
        (kinds.REQUEST, ""): False,
        (kinds.REQUEST, "plain"): False,
        (kinds.REQUEST, "waits"): True,
        (kinds.REQUEST, "calls"): True,
        (kinds.FAILURE, "f"): True,
        (kinds.ONREPLY, ""): False,
        (kinds.TIMER, "t"): True,
        (kinds.BRANCH, "b"): False,
    }


def test_a_call_that_waits_stands_anywhere(lab: Lab) -> None:
    assert lab.body('if (later(2) && !maybe(-1)) { $var(x) = later(3) + maybe(4); note("$var(x)"); }') == [
        "later 2", "later -1", "later 3", "7",
    ]  # fmt: skip


def test_async_goes_on_in_the_resume_route(lab: Lab) -> None:
    result = lab.run('route { async(later(-5), resume); note("never"); } route[resume] { note("$rc"); }')
    assert lab.notes == ["later -5", "-5"]
    assert result == 0


def test_a_function_can_place_the_values_of_variables_itself(lab: Lab) -> None:
    """It sees what the script says, and tells NULL from an argument that is left out."""
    statements = '$var(a) = "$rU"; filled("x $var(a) $$ $rU", 1); filled($var(a), 2); filled("plain", 3); '
    assert lab.body(statements + "filled($avp(none), 4); filled(, 5); filled(NULL, 6);") == [
        ("x [$rU] $ [bob]", 1),
        ("[$rU]", 2),
        ("plain", 3),
        ("[None]", 4),
        (None, 5),
        (None, 6),
    ]
    assert lab.findings('route { filled("$nonsense(x)", 1); filled(5, 1); }')[0].message.startswith("unknown variable")
    lab.run('route { $var(n) = "a"; launch(filled_later("for $var(n)")); $var(n) = "b"; }')
    assert lab.notes[-1] == (None, 6)
    asyncio.run(lab.services.started.pop())
    assert lab.notes[-1] == "for [a]"


def test_what_a_variable_holds_can_be_prepared_otherwise(lab: Lab) -> None:
    assert lab.body('$var(x) = "aBc"; told("$rU aBc"); told($var(x));') == ["$RU ABC", "AbC"]


def test_launch_reads_its_arguments_at_once_and_goes_on(lab: Lab) -> None:
    lab.run('route { $var(n) = 3; launch(later($var(n)), report, "for $var(n)"); $var(n) = 4; note("on"); } '
            'route[report] { note("$param(1): $rc"); $var(n) = 9; }')  # fmt: skip
    assert lab.notes == ["on"]
    for work in lab.services.started:
        asyncio.run(work)
    assert lab.notes == ["on", "later 3", "for 3: 3"]
    assert lab.last.vars["n"] == 4


# -- arguments


def test_arguments(lab: Lab) -> None:
    assert lab.body('$var(t) = "12"; give($var(t)); note($var(t)); note("<$rU>"); note("a$$b");') == [
        12,
        "12",
        "<bob>", "a$b",
    ]  # fmt: skip
    assert lab.body('omit("a"); omit("a", , 3); omit("a", "b"); omit($var(unset), NULL);') == [
        ("a",), ("a", None, 3), ("a", "b"), (None, None),
    ]  # fmt: skip
    assert lab.body('into($var(x)); note("$var(x)");') == ["7"]


def test_an_argument_that_does_not_fit_makes_the_call_fail(lab: Lab) -> None:
    assert lab.body('$var(t) = "word"; if (!give($var(t))) note("failed"); give($var(unset));') == ["failed"]
    assert "give(): a number is needed, not 'word'" in lab.log
    assert "give(): a number is needed, not NULL" in lab.log
    assert lab.body('$var(n) = 3; if (!even($var(n))) note("odd"); $var(n) = 4; even($var(n)); even("6");') == [
        "odd", 4, 6,
    ]  # fmt: skip


def test_an_exception_of_a_function_shows_the_line_of_the_script(lab: Lab) -> None:
    with pytest.raises(RuntimeError) as raised:
        lab.run("route {\n  route(inner);\n}\nroute[inner] {\n\n  breaks();\n}\n")
    frames = [(f.filename, f.lineno, f.name) for f in traceback.extract_tb(raised.tb) if f.filename == "test.cfg"]
    assert frames == [("test.cfg", 2, "route"), ("test.cfg", 6, "route[inner]")]


# -- assert


def test_assert_does_nothing_unless_it_is_enabled(lab: Lab) -> None:
    assert lab.body('assert(0, "no"); note("on");') == ["on"]


def test_a_failed_assert_runs_error_route_and_ends_the_script(lab: Lab) -> None:
    text = (
        'enable_asserts=yes\nroute {{ assert($rU == "bob"); assert(give({}), "it gave nothing"); note("on"); }}\n'
        'error_route {{ note("$err.class $err.rcode $err.rreason"); assert(0); }}\n'
    )
    lab.run(text.format(-1))
    assert lab.notes == [-1, "4 500 server error"]
    assert "assertion failed: it gave nothing" in lab.log
    assert lab.last.exited
    lab.notes.clear()
    lab.run(text.format(2))
    assert lab.notes == [2, "on"]


# -- log


@pytest.mark.parametrize(
    ("statement", "level"),
    [('xlog("t")', 2), ('xlog("L_INFO", "t")', 3), ('xlog("L_ALERT", "t" "u")', -3),
     ('$var(l) = 1; xlog("$var(l)", "t")', 1),
     ("log(\"t\")", 4), ("log(-1, \"t\")", -1), ('xdbg("t")', 4)],
)  # fmt: skip
def test_levels(lab: Lab, statement: str, level: int) -> None:
    lab.services.levels["xlog"] = 4
    lab.body(f"{statement};")
    assert [at for at, _ in lab.services.lines] == [level]


def test_text_of_a_level_that_is_not_logged_is_not_made(lab: Lab) -> None:
    lab.services.levels["xlog"] = -1
    lab.body('xlog("L_DBG", "$rU"); xlog("L_ERR", "$rU"); xlog("L_CRIT", "seen");')
    assert [line for _, line in lab.services.lines] == ["bob", "seen"]


# -- what cannot be compiled


def test_loops_nested_too_deep_are_a_finding(lab: Lab) -> None:
    with pytest.raises(ScriptErrors) as raised:
        lab.compile("route {" + "while (1) {" * 25 + "}" * 25 + "}")
    assert "nested too deep" in raised.value.findings[0].message


def test_a_recipe_that_cannot_be_made_is_told_apart(lab: Lab) -> None:
    program = lab.compile('route { note("$rU"); }')
    for recipe in [("call", "gone"), ("read", "$gone", "a.cfg", 3), ("fixed", "note", 7, "x"), ("odd",)]:
        with pytest.raises(BadRecipe):
            Builder(lab.catalogue, program).environment({"_g0": recipe})
