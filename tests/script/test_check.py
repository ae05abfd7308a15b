"""The static checker: each finding is expected on its own line of a script in cfg/ (`#~ error: text`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opensipspy.script import Finding, check, kinds
from opensipspy.script.declare import FunctionDecl
from tests.script.lab import Lab

SCRIPTS = Path(__file__).parent / "cfg"
EXPECTED = re.compile(r"#~ (error|warning|note): (.+?)(?=\s*#~|$)")


def expectations(text: str) -> list[tuple[int, str, str]]:
    return [
        (number, found.group(1), found.group(2))
        for number, line in enumerate(text.split("\n"), 1)
        for found in EXPECTED.finditer(line)
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.cfg")))
def test_findings_stand_where_they_are_expected(name: str) -> None:
    """Every finding is expected and every expectation met, in one pass over the script."""
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    found = Lab().findings(text, name)
    wanted = expectations(text)
    assert wanted
    shown = "\n".join(f.render(lambda file: text.split("\n")) for f in found)
    assert [(f.line, f.severity) for f in found] == [(line, severity) for line, severity, _ in wanted], shown
    for finding, (_line, _severity, part) in zip(found, wanted, strict=True):
        assert part in finding.message, shown
        assert finding.col >= 1


def only(text: str, **more: object) -> Finding:
    (finding,) = Lab().findings(text)
    return finding


@pytest.mark.parametrize(
    ("statement", "marked", "hint"),
    [
        ('nota("x");', "nota", "did you mean note?"),
        ('note("a", "b");', '"b"', "note(what)"),
        ("omit();", "omit()", "omit(a, [b], [c])"),
        ("$var(x) = $rUU;", "$rUU", "did you mean $rU?"),
        ('xlog("to $nope!");', "$nope", ""),
        ("$var(x) = $(rU{s.lenn});", "s.lenn", "did you mean {s.len}?"),
        ("xlgo(\"x\");", "xlgo", "did you mean xlog?"),
        ('give("5");', '"5"', "write 5 without quotes"),
        ("note(5);", "5", '"5"'),
        ("note(word);", "word", 'a text needs quotes: "word"'),
        ("route(noteh);", "noteh", "did you mean notes?"),
        ('arm("notes");', '"notes"', "there is a route[notes], but it is no failure_route"),
        ("if ([ $rs & $nope ]) exit;", "$nope", ""),
        ("return($nope);", "$nope", ""),
    ],
)  # fmt: skip
def test_the_caret_marks_the_words_and_the_hint_names_the_cure(statement: str, marked: str, hint: str) -> None:
    line = f"    {statement}"
    finding = only(f"route {{\n    route(notes);\n{line}\n}}\nroute[notes] {{ return; }}\n")
    pos = finding.pos
    assert (pos.line, line[pos.col - 1 : pos.end_col - 1]) == (3, marked)
    assert hint in finding.hint


def test_a_mistake_in_a_text_over_several_lines_marks_the_text() -> None:
    finding = only('route {\n    xlog("one\ntwo $nope");\n}\n')
    assert (finding.line, finding.message) == (2, "unknown variable $nope")


def test_a_function_of_a_module_that_is_not_loaded_names_the_module() -> None:
    lab = Lab()
    script = lab.parse("route {\n t_relay();\n}\n")
    finding = check(script, lab.catalogue, lambda name: "tm" if name == "t_relay" else "")[0]
    assert finding.message == "t_relay() is a function of module tm, not loaded"
    assert finding.hint == 'add loadmodule "tm.so"'


def test_a_route_by_variable_counts_as_a_call_of_any() -> None:
    """Which route it is shows only on a call, so none is unused and each must suit the caller's kind."""
    text = "route { route($rU); }\nroute[a] { exit; }\nroute[b] { exit; }\n"
    assert Lab().findings(text) == []
    armed = 'route { arm("f"); route(a); }\nroute[a] { request(); }\nfailure_route[f] { route("x$rU"); }\n'
    assert [f.code for f in Lab().findings(armed)] == ["route-kind"]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_function_is_refused_in_every_other_kind_of_route(kind: int) -> None:
    lab = Lab()
    lab.catalogue.add_function(FunctionDecl("here", "lab", (), kind, lambda run: 1))
    keyword = {kinds.REQUEST: "route", kinds.TIMER: "timer_route[x, 1]"}
    blocks = []
    for each in kinds.KINDS:
        named = each in (kinds.FAILURE, kinds.BRANCH, kinds.EVENT)
        head = keyword.get(each, kinds.kind_keyword(each) + ("[x]" if named else ""))
        blocks.append(f"{head} {{ here(); }}")
    findings = [f for f in lab.findings("\n".join(blocks)) if f.code == "route-kind"]
    assert {f.line for f in findings} == {n for n, each in enumerate(kinds.KINDS, 1) if each != kind}


def test_a_script_without_a_main_route_is_refused() -> None:
    assert only("startup_route { exit; }\n").code == "no-route"


def test_a_sound_script_has_no_findings() -> None:
    text = """
route {
    if (!note("a") && $rU =~ "^[0-9]+$" || $si == 10.0.0.0/8)
        exit;
    else {
        $avp(x) := $(ru{uri.user}{s.substr,0,2}) + "1";
    };
    arm("failed");
    async(later(1), resumed);
}
route[resumed] { launch(maybe(1)); omit("a", , 3); return(-1, $avp(x)); }
failure_route[failed] { for ($var(v) in $(avp(x)[*])) xlog("$var(v)" "\n"); }
"""
    assert Lab().findings(text) == []


def test_a_route_that_a_module_runs_is_used() -> None:
    lab = Lab()
    script = lab.parse("route { exit; }\nroute[a] { route(b); }\nroute[b] { exit; }\nfailure_route[f] { exit; }\n")
    used = [(kinds.REQUEST, "a"), (kinds.FAILURE, "f")]
    assert check(script, lab.catalogue, used=used) == []
    assert [f.code for f in check(script, lab.catalogue)] == ["unused-route"] * 3


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ('$socket_out = "udp:10.9.9.9:5060";', True),
        ('$socket_out = "tcp:10.0.0.1:5060";', True),
        ('$socket_out = "udp:10.0.0.1:5070";', True),
        ('$socket_out = "udp:10.0.0.1:5060";', False),
        ('$socket_out = "10.0.0.1";', False),
        ('$socket_out = "udp:192.0.2.1:5060";', False),
        ('$socket_out = "udp:sip.example.com:5060";', False),
        ('$socket_out = "inside";', False),
        ("$socket_out = $hdr(X);", False),
    ],
)
def test_a_message_cannot_leave_from_a_socket_that_nobody_opened(statement: str, told: bool) -> None:
    head = "socket=udp:10.0.0.1:5060 as 192.0.2.1\n"
    found = [finding for finding in Lab().findings(f"{head}route {{ {statement} }}\n") if finding.code == "no-socket"]
    assert len(found) == told
    # An interface or every address may be anything.
    for any_address in ("udp:*:5060", "udp:eth0:5060", "udp:0.0.0.0:5060"):
        text = f"{head}socket={any_address}\nroute {{ {statement} }}\n"
        assert not [finding for finding in Lab().findings(text) if finding.code == "no-socket"]
