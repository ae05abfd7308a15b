"""Expressions typed into a debugger mean what they mean in a route."""

from __future__ import annotations

import asyncio

import pytest

from opensipspy.script.declare import Catalogue
from opensipspy.script.run import Run, Value
from opensipspy.server.console import Expression, ExpressionError, shown, variable
from opensipspy.server.debugger import log_message
from opensipspy.sip import PROTO_UDP, Peer, parse_message
from tests.script.fakes import INVITE, UDP_SOCKET
from tests.script.lab import Lab


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def run(lab: Lab) -> Run:
    data = INVITE.encode() if isinstance(INVITE, str) else INVITE
    made = Run(parse_message(data, Peer(PROTO_UDP, "192.0.2.1", 5060), UDP_SOCKET), services=lab.services)
    made.vars["x"] = 5
    made.avps["name"] = ["one", "two"]
    return made


def read(text: str, run: Run, catalogue: Catalogue) -> Value | bool:
    return asyncio.run(Expression(text, catalogue).result(run))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$var(x)", 5),
        ("$(avp(name)[1])", "one"),
        ("$(avp(name){s.len})", 3),
        ('"x is $var(x)"', "x is 5"),
        ("$var(x) == 5", True),
        ('$var(x) > 5 || $avp(name) == "TWO"', True),
        ('!($avp(name) =~ "^t")', False),
        ("give(3)", True),
        ("later(-1)", False),
        ("$hdr(Nothing)", None),
    ],
)
def test_variables_texts_and_conditions_are_read(lab: Lab, run: Run, text: str, value: object) -> None:
    found = read(text, run, lab.catalogue)
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


def test_statements_are_carried_out_and_do_not_end_the_run(lab: Lab, run: Run) -> None:
    read('$var(x) = 7; $avp(name) = "three"; exit', run, lab.catalogue)
    assert run.vars["x"] == 7
    assert run.avps["name"][-1] == "three"
    assert not run.exited


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1 to 4096"),
        ("$nosuch", "nosuch"),
        ("no_such()", "no_such"),
        ("$var(x) ==", "unexpected"),
        ("} route[evil] { exit;", "unexpected"),
        ("x" * 5000, "1 to 4096"),
    ],
)
def test_what_is_no_expression_says_why(lab: Lab, text: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said):
        Expression(text, lab.catalogue)


def test_hovering_over_a_call_does_not_make_it(lab: Lab) -> None:
    with pytest.raises(ExpressionError):
        Expression("give(3)", lab.catalogue, harmless=True)
    assert lab.notes == []


def test_a_log_message_holds_expressions_with_braces_of_their_own(lab: Lab, run: Run) -> None:
    parts = log_message("len {$(avp(name){s.len})} of {$avp(name)}.", lab.catalogue)
    shown_parts = [part if isinstance(part, str) else asyncio.run(part.result(run)) for part in parts]
    assert shown_parts == ["len ", 3, " of ", "two", "."]
    with pytest.raises(ExpressionError, match="has no }"):
        log_message("open {$var(x)", lab.catalogue)


def test_values_are_shown_as_a_script_writes_them() -> None:
    assert [shown(value) for value in (None, 5, True, "a\r\nb")] == ["NULL", "5", "true", '"a\\r\\nb"']


def test_a_variable_is_all_of_its_text(lab: Lab) -> None:
    assert variable("$var(x)", lab.catalogue).writable
    with pytest.raises(ExpressionError):
        variable("$var(x) and more", lab.catalogue)
