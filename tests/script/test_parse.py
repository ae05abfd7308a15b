"""Words and grammar of the routing script: what is taken, what it means, and what is said of mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensipspy.script import ScriptErrors, kinds, parse_script, tree
from opensipspy.script.parse import Script
from tests.script.lab import NAME, Lab


def body_of(statements: str) -> tuple[tree.Stm, ...]:
    script = parse_script(NAME, text=f"route {{\n{statements}\n}}\n")
    return script.blocks[0].body


def messages(text: str) -> list[tuple[int, int, str]]:
    """(line, column, message) of each syntax error."""
    with pytest.raises(ScriptErrors) as raised:
        parse_script(NAME, text=text)
    return [(f.line, f.col, f.message) for f in raised.value.findings]


# -- strings, numbers, comments, addresses


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r'"a\nb\rc\td\ae"', "a\nb\rc\td\ae"),
        (r'"a \"quoted\" \\ word"', 'a "quoted" \\ word'),
        (r'"\x41\x4a\101\60"', "AJA0"),
        (r'"\d+\.5 \$"', r"\d+\.5 \$"),
        ('"one \\\ntwo"', "one two"),
        ('"one\ntwo"', "one\ntwo"),
        (r"'a\n\"b'", r"a\n\"b"),
        ("'one\ntwo'", "one\ntwo"),
        ('""', ""),
        ('"# no comment /* none */"', "# no comment /* none */"),
    ],
)
def test_strings(written: str, meant: str) -> None:
    """Double quotes take escapes and leave other backslashes alone; single quotes take nothing; both span lines."""
    (call,) = body_of(f"note({written});")
    assert isinstance(call, tree.Call)
    (text,) = call.args
    assert isinstance(text, tree.Text)
    assert text.value == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", 0), ("10", 10), ("0x1F", 31), ("0xff", 255), ("017", 15), ("-5", -5), ("+5", 5),
        ("yes", 1), ("on", 1), ("enable", 1), ("true", 1), ("no", 0), ("off", 0), ("disable", 0), ("false", 0),
        ("2147483647", 2147483647), ("-2147483648", -2147483648),
    ],
)  # fmt: skip
def test_numbers(written: str, meant: int) -> None:
    """Decimal, hexadecimal with a lower-case x, octal, a sign, and the words for 0 and 1."""
    (call,) = body_of(f"give({written});")
    assert isinstance(call, tree.Call)
    (number,) = call.args
    assert isinstance(number, tree.Number)
    assert number.value == meant


def test_a_number_of_more_than_32_bits_is_cut_with_a_warning() -> None:
    script = parse_script(NAME, text="route { give(99999999999); }")
    assert [(f.severity, f.line, f.col) for f in script.findings] == [("warning", 1, 14)]


def test_comments_nest_and_strings_may_hold_their_signs() -> None:
    lab = Lab()
    assert lab.body('/* a /* b */ note("no"); */ note("/* yes */"); # note("no")\n note("#");') == ["/* yes */", "#"]


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "10.0.0.0/8", "10.0.0.0/255.0.0.0", "2001:db8::1", "[2001:db8::1]", "2001:db8::/32", "::1"],
)
def test_addresses_and_networks_need_no_quotes(address: str) -> None:
    (statement,) = body_of(f"if ($si == {address}) exit;")
    assert isinstance(statement, tree.If)
    assert isinstance(statement.condition, tree.Compare)
    assert isinstance(statement.condition.right, tree.Net)
    assert statement.condition.right.text == address


@pytest.mark.parametrize(
    "variable",
    [
        "$ru", "$hdr(Via)", "$(hdr(Via)[-1])", "$(avp(x)[*])", "$(ru{uri.user})", "$(<request>ru)", "$avp(a$var(b)c)",
        "$(var(x){s.select,0,;}{s.int})", "$(hdr(X)[$var(i)]{re.subst,/(a) b/\\1/g})", "$msg.branch.uri",
        "$json(x/$var(y)/z)",
    ],
)  # fmt: skip
def test_a_variable_runs_to_its_matching_parenthesis(variable: str) -> None:
    (statement,) = body_of(f"if ({variable}==1) exit;")
    assert isinstance(statement, tree.If)
    assert isinstance(statement.condition, tree.Compare)
    assert statement.condition.left.text == variable


@pytest.mark.parametrize("glued", ["$rU=~", "$rU==", "$rU!=", "$rU<", "$rU>=", "$rU!~"])
def test_an_operator_may_touch_its_variable(glued: str) -> None:
    (statement,) = body_of(f'if({glued}"x")exit;')
    assert isinstance(statement, tree.If)
    assert isinstance(statement.condition, tree.Compare)
    assert statement.condition.left.text == "$rU"


# -- forms of statements


@pytest.mark.parametrize(
    "statements",
    [
        'if ($rU == "a") { exit; };',
        'if ($rU == "a") exit; else drop;',
        'if ($rU == "a") { exit; } else if ($rU == "b") drop; else { return(1); }',
        'if (!is_method("ACK|BYE") && ($rU =~ "^1" || not $var(x))) ;',
        "if ($var(x) = 3) exit;",
        "if ([$var(x) & 4] and 1) exit;",
        "if ({ note(1); }) exit;",
        "while ($var(i) < 10) $var(i) += 1;",
        "for ($var(x) in $(avp(x)[*])) { break; }",
        'switch ($var(x)) { case 1: case -2: exit; break; case "a": default: drop; }',
        'route(name); route(name, 1, "a", $var(x), null); route(0); route("with space"); route($var(name));',
        'return; return(); return 1; return -1; return(1); return $var(x); return($var(x), 1, "a", NULL);',
        "return(, 1);",
        "exit(); drop(); ;;;",
        'async(later(1), resume); async(later(1), "resume", 5); launch(later(1)); launch(later(1), done, "x$var(y)");',
        'assert(1 == 1, "never");',
        'xlog("a" "b"\n"c"); xlog("L_INFO", "a" "b"); xdbg("a" "b"); log(3, "a"); log("a"); error("a", "b");',
        "f(); f(,); f(a); f(,a); f(a,,c); f(a,); f(-1, +1, $var(x), \"s\", 's', NULL);",
        "$var(x) := NULL; $var(x) = null; $var(x) += 1; $var(x) -= 1; $var(x) *= 1; $var(x) /= 1; $var(x) %= 1;",
        "$var(x) &= 1; $var(x) |= 1; $var(x) ^= 1; $var(x) = 1 + f(1); $var(x) = ~(1 << 2) ^ 3 | 4 & 5 >> 1;",
    ],
)
def test_forms_that_scripts_use(statements: str) -> None:
    if "assert" in statements:
        statements = statements.replace("1 == 1", "$var(x) == 1")
    assert body_of(statements)


def test_names_of_routes_may_be_words_numbers_and_strings() -> None:
    script = parse_script(
        NAME,
        text='route { } route[a] { } route[7] { } route["to b"] { } timer_route[t, 60] { } event_route[E_X] { }'
        " onreply_route { } onreply_route[r] { } failure_route[1] { } branch_route[b] { } error_route { }"
        " local_route { } startup_route { }",
    )
    assert [(block.kind, block.name, block.interval_s) for block in script.blocks] == [
        (kinds.REQUEST, "", 0), (kinds.REQUEST, "a", 0), (kinds.REQUEST, "7", 0), (kinds.REQUEST, "to b", 0),
        (kinds.TIMER, "t", 60), (kinds.EVENT, "E_X", 0), (kinds.ONREPLY, "", 0), (kinds.ONREPLY, "r", 0),
        (kinds.FAILURE, "1", 0), (kinds.BRANCH, "b", 0), (kinds.ERROR, "", 0), (kinds.LOCAL, "", 0),
        (kinds.STARTUP, "", 0),
    ]  # fmt: skip


def test_route_0_is_the_main_route() -> None:
    assert parse_script(NAME, text="route[0] { exit; }").blocks[0].name == ""


def test_else_belongs_to_the_nearest_if() -> None:
    (outer,) = body_of("if ($var(a)) if ($var(b)) exit; else drop;")
    assert isinstance(outer, tree.If)
    (inner,) = outer.then
    assert isinstance(inner, tree.If)
    assert not outer.otherwise
    assert isinstance(inner.otherwise[0], tree.Drop)


def test_an_omitted_argument_keeps_its_place() -> None:
    (call,) = body_of('f(,"b",,"d",);')
    assert isinstance(call, tree.Call)
    assert [arg.value if isinstance(arg, tree.Text) else arg for arg in call.args] == [None, "b", None, "d", None]


def test_modules_and_parameters() -> None:
    script = parse_script(
        NAME,
        text='loadmodule "tm.so";\nloadmodule "a/b.so"\nmodparam("tm", "x", -5)\nmodparam("a|b", "y", "one "\n"two");',
    )
    assert [module.name for module in script.loadmodules] == ["tm.so", "a/b.so"]
    assert [(p.module, p.name, p.value) for p in script.modparams] == [("tm", "x", -5), ("a|b", "y", "one two")]
    assert (script.modparams[1].pos.line, script.modparams[1].value_pos.end_line) == (4, 5)


# -- operators


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 20),
        ("2 * 3 + 4", 10),
        ("10 - 3 - 2", 5),
        ("7 % 4 * 2", 6),
        ("2 * (3 + 4)", 14),
        ("8 >> 1 + 1", 2),
        ("1 << 2 + 1", 8),
        ("6 | 1 & 4", 4),
        ("1 ^ 3 << 1", 4),
        ("~5", -6),
        ("~1 + 2", 0),
        ("-3 + +2", -1),
        ('"a" + "b"', "ab"),
        ("2147483647 + 1", -2147483648),
        ("7 / 2", 3),
    ],
)
def test_operators_of_a_level_are_equal_and_go_from_left_to_right(expression: str, value: object) -> None:
    """+ - * / % are one level; & | ^ << >> another, weaker one."""
    assert Lab().value(expression) == value


@pytest.mark.parametrize(
    ("condition", "called", "taken"),
    [
        ("give(1) or give(2) and give(-3)", [1, -3], False),
        ("give(-1) and give(2) or give(3)", [-1, 3], True),
        ("give(-1) && (give(2) || give(3))", [-1], False),
        ("!give(-1) && give(2)", [-1, 2], True),
        ("not (give(1) && give(-2)) || give(3)", [1, -2], True),
    ],
)
def test_and_and_or_are_equal_and_stop_early(condition: str, called: list[int], taken: bool) -> None:
    notes = Lab().body(f'if ({condition}) note("yes"); else note("no");')
    assert notes == [*called, "yes" if taken else "no"]


# -- mistakes


def test_every_mistake_of_a_file_is_told_once_and_at_its_place() -> None:
    """Ten mistakes, ten findings: none hides another, none is told twice."""
    text = """log_lvel=3
listen=udp:127.0.0.1:5060
socket=upd:127.0.0.1
loadmodule tm
route {
    $var(x) = ;
    xlog("a")
    exit;
    if ($rU == "x" { exit; }
    "text";
    f(1 2);
}
failure_route { exit; }
timer_route[t] { }
}
"""
    found = messages(text)
    assert [line for line, _, _ in found] == [1, 2, 3, 4, 6, 7, 9, 10, 11, 13, 14, 15]
    said = {line: (col, message) for line, col, message in found}
    assert said[1] == (1, "unknown global parameter log_lvel")
    assert "global parameter listen" in said[2][1]
    assert said[3] == (8, "unknown protocol upd")
    assert said[6] == (15, "unexpected ';'")
    assert said[7] == (14, "';' is missing here")
    assert said[9] == (20, "')' is missing before '{'")
    assert said[11] == (9, "unexpected '2'")
    assert said[13][1] == "failure_route needs a name: failure_route[name]"
    assert said[14][1] == "timer_route needs an interval: timer_route[t, seconds]"
    assert said[15] == (1, "this '}' closes nothing")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('route { xlog("open); }\nroute[a] { }\n', (1, 14), "this string is not closed"),
        ("route { xlog('open); }\nroute[a] { }\n", (1, 14), "this string is not closed"),
        ("route { /* open }\nroute[a] { }\n", (1, 9), "this comment is not closed"),
        ("route { $var(x = 1; }\n", (1, 9), "')' of this variable is missing"),
        ('route {\n  xlog("$var(x)"); $var(x = 1;\n  exit;\n}\n', (2, 20), "')' of this variable is missing"),
        ("route { switch ($rU) { case 1: if ($rU == 1)) { exit; } case 2: exit; } }\n", (1, 45), "unexpected ')'"),
        ("route { switch ($rU) { case $var(x): exit; case 2: exit; } }\n", (1, 29), "unexpected '$var(x)'"),
        ("route { switch ($rU) { exit; case 2: exit; } }\n", (1, 24), "unexpected 'exit'"),
        ("route { exit;\n", (1, 7), "this block is not closed"),
        ("route { exit; }\nelse\n", (2, 1), "unexpected else"),
        ('route { if ("a" == $rU) exit; }\n', (1, 13), "a string cannot stand left of '=='"),
        ("route { if (rU == 1) exit; }\n", (1, 13), "'rU' cannot stand left of '=='"),
        ("route { if ($rU == 1); else exit; else drop; }\n", (1, 35), "this else belongs to no if"),
        ("route { t_relay; }\n", (1, 9), "'t_relay' is neither a statement nor a call"),
        ('route { return("a"); }\n', (1, 16), "the first value of return is its code: a number or a variable"),
        ("route { switch ($rU) { default: exit; case 1: drop; } }\n", (1, 24), "default must be the last case"),
        ('loadmodule "a.so"\n"b.so"\n', (2, 1), 'unexpected "b.so"'),
        ("error_route[x] { }\n", (1, 13), "error_route has no name"),
    ],
)
def test_one_mistake_one_message(text: str, place: tuple[int, int], message: str) -> None:
    assert messages(text) == [(*place, message)]


def test_a_character_without_meaning_is_skipped_with_a_warning() -> None:
    """As the C server does; some of its own sample scripts have one."""
    script = parse_script(NAME, text="route {\n` exit;\n}\n")
    assert [(f.severity, f.line, f.col) for f in script.findings] == [("warning", 2, 1)]
    assert len(script.blocks[0].body) == 1


def test_a_block_that_is_not_closed_does_not_swallow_the_next() -> None:
    found = messages("route {\n if ($rU) {\n exit;\n}\nroute[a] {\n $var(x) = ;\n}\n")
    assert [line for line, _, _ in found] == [1, 6]


def test_a_finding_shows_its_line_with_a_caret_below() -> None:
    with pytest.raises(ScriptErrors) as raised:
        parse_script(NAME, text='route {\n\tif ($rU == "a" exit;\n}\n')
    assert raised.value.render().split("\n")[:3] == [
        "test.cfg:2:17: error: unexpected 'exit' (expected '&&', ')' or '||')",
        '    \tif ($rU == "a" exit;',
        "    \t               ^^^^",
    ]


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep = "if ($var(x)) {" * 300 + "}" * 300
    assert any("nested deeper" in message for _, _, message in messages(f"route {{ {deep} }}"))


SCRIPT_PIECES = st.sampled_from(
    ["route", "{", "}", "(", ")", "[", "]", ";", ",", "if", "else", "while", "switch", "case", ":", "default", '"a"',
     "'", '"', "$var(x)", "$(", "=", "==", "&&", "!", "exit", "xlog", "f", "1", "0x", "10.0.0.1", "/*", "*/", "#",
     "\n", "\\", "socket", "udp",
     "loadmodule", "modparam", "async", "launch", "for", "in", "return", "failure_route", "é", "\x00"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(SCRIPT_PIECES, max_size=40))
def test_any_text_is_a_script_or_gives_findings(pieces: list[str]) -> None:
    outcome: Script | ScriptErrors
    try:
        outcome = parse_script(NAME, text=" ".join(pieces))
    except ScriptErrors as errors:
        outcome = errors
    assert isinstance(outcome, Script) or any(finding.severity == "error" for finding in outcome.findings)
