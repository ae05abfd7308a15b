"""textops: what expressions find, and what leaves on the wire after replacing."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.textops import TextOps, split_expression
from opensipspy.script.declare import VariableDecl
from opensipspy.script.run import Branch, Run
from tests.script.lab import Lab

BODY = "v=0\r\no=alice 1 1 IN IP4 10.0.0.1\r\nc=IN IP4 10.0.0.1\r\n"


def call(function: str, run: Run, *args: Any) -> int:
    """Call a function as a script with constant arguments does."""
    core = FakeCore()
    core.catalogue.add_variable(
        VariableDecl("$avp", "core", get=lambda run, name, index: run.vars.get(name), name_arg=True)
    )
    core.catalogue.add_variable(VariableDecl("$rm", "core", get=lambda run, name, index: run.msg.method))
    core.add(TextOps())
    params = core.catalogue.functions[function].params
    ready = [p.fixup(a) if p.fixup is not None else a for p, a in zip(params, args, strict=True)]
    result: int = core.call(function, run, *ready)
    return result


def message(headers: str = "Subject: hello world\r\nX: Hello", body: str = BODY) -> Run:
    return make_run(request(headers=headers + "\r\nContent-Type: application/sdp", body=body))


def wire(run: Run) -> tuple[str, str]:
    """Headers and body as they leave; Content-Length fits."""
    text = sip.build_request(run.msg, run.edits, run.ruri, "", run.msg.socket).decode()
    head, _, body = text.partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n" in head + "\r\n"
    return head + "\r\n", body


@pytest.mark.parametrize(
    ("function", "expression", "expected"),
    [
        ("search", "^INVITE sip:bob@", 1),
        ("search", "SUBJECT: *hello", 1),
        ("search", "^hello", -1),
        ("search", "^c=IN IP4 10\\.0\\.0\\.1.$", 1),
        ("search", "world.*Hello", -1),
        ("search_body", "^o=alice", 1),
        ("search_body", "Subject", -1),
        ("search_body", "[[:digit:]]{1,3}\\.0", 1),
    ],
)
def test_searching(function: str, expression: str, expected: int) -> None:
    """The manual: POSIX extended, without regard to case, `^` and `$` at line ends."""
    assert call(function, message(), expression) == expected


def test_a_broken_expression_is_found_at_load() -> None:
    """A constant that cannot be compiled is a finding."""
    with pytest.raises(ValueError, match="missing"):
        call("search", message(), "(a")


def test_replacing_the_first() -> None:
    """The manual: the first occurrence, in the headers before the body; never in the start line."""
    run = message()
    assert call("replace", run, "hello", "bye") == 1
    assert call("replace", run, "INVITE sip", "x") == -1
    assert call("replace", run, "^o=alice", "o=bob") == 1
    head, body = wire(run)
    assert "Subject: bye world\r\nX: Hello\r\n" in head
    assert head.startswith("INVITE sip:bob@example.org SIP/2.0\r\n")
    assert "o=bob 1 1" in body
    assert call("replace", run, "nothing like it", "x") == -1


def test_replacing_all() -> None:
    """The manual: every occurrence, headers and body."""
    run = message("Subject: 10.0.0.1 and 10.0.0.1")
    assert call("replace_all", run, "10\\.0\\.0\\.1", "192.0.2.1") == 1
    head, body = wire(run)
    assert "Subject: 192.0.2.1 and 192.0.2.1\r\n" in head
    assert body.count("192.0.2.1") == 2


@pytest.mark.parametrize(
    ("function", "expression", "text", "expected"),
    [
        ("replace_body", "10\\.0\\.0\\.1", "::1", BODY.replace("10.0.0.1", "::1", 1)),
        ("replace_body_all", "10\\.0\\.0\\.1", "::1", BODY.replace("10.0.0.1", "::1")),
        ("replace_body_all", "^.=", "x:", BODY.replace("v=", "x:").replace("o=", "x:").replace("c=", "x:")),
        ("replace_body_atonce", "^.+$", "", ""),
        ("search_append_body", "^v=0", " x", BODY.replace("v=0", "v=0 x")),
    ],
)
def test_replacing_in_the_body(function: str, expression: str, text: str, expected: str) -> None:
    """The manual: the first, all by lines, or all at once, where "^.+$" is the whole body."""
    run = message()
    assert call(function, run, expression, text) == 1
    assert wire(run)[1] == expected


def test_body_changes_add_up() -> None:
    """Each function sees the body that the one before left."""
    run = message()
    assert call("replace_body", run, "alice", "bob") == 1
    assert call("replace_body", run, "bob", "carol") == 1
    assert call("search_body", run, "alice") == -1
    assert wire(run)[1] == BODY.replace("alice", "carol")


def test_appending_after_a_match() -> None:
    """The manual: after the first match, which stays."""
    run = message()
    assert call("search_append", run, "hello", ", new") == 1
    assert "Subject: hello, new world\r\n" in wire(run)[0]


def test_substitution_in_headers() -> None:
    """The manual: groups, the whole match, the Request-URI, variables, escapes, flags."""
    run = message("Subject: one two")
    run.vars["x"] = 5
    assert call("subst", run, "/^(Subject): (.*) TWO(.?)$/\\1: \\2 [\\0] \\u $avp(x) $rm $avp(none)!\\3/i") == 1
    assert "\r\nSubject: one [Subject: one two\r] sip:bob@example.org 5 INVITE !\r\n" in wire(run)[0]


def test_case_counts_without_the_flag() -> None:
    """The manual: i ignores case, without it case counts."""
    assert call("subst", message(), "/HELLO/x/") == -1
    assert call("subst", message(), "/HELLO/x/i") == 1


def test_all_or_the_first() -> None:
    """The manual: g is global."""
    run = message("Subject: a a a")
    call("subst", run, "#a a#b#")
    assert "Subject: b a\r\n" in wire(run)[0]
    run = message("Subject: aXaXa")
    call("subst", run, "/aX?/b/g")
    assert "Subject: bbb\r\n" in wire(run)[0]


def test_substitution_in_the_body() -> None:
    """The manual's example: the user of the o= line."""
    run = message()
    assert call("subst_body", run, "/^o=([^ ]*) /o=$avp(u) /") == 1
    assert "\r\no= 1 1 IN" in wire(run)[1]
    assert call("subst_body", run, "/^zz/x/") == -1


def test_a_dot_matches_line_ends_when_asked() -> None:
    """The manual: s does not treat a line feed as the end of a line."""
    run = message()
    assert call("subst_body", run, "/v=0.*/gone/s") == 1
    assert wire(run)[1] == "gone"


@pytest.mark.parametrize(
    ("function", "ruri", "expression", "expected"),
    [
        ("subst_uri", "sip:123@h", "/^sip:([0-9]+)@(.*)$/sip:3463\\1@\\2;orig=\\1/i", "sip:3463123@h;orig=123"),
        ("subst_uri", "sip:abc@h", "/^sip:([0-9]+)@(.*)$/sip:1\\1@\\2/", None),
        ("subst_uri", "sip:abc@h", "/.*//", None),
        ("subst_uri", "sip:abc@h", "/@h/@h h/", None),
        ("subst_user", "sip:553642@h;x=3642", "/3642$/36423463/", "sip:5536423463@h;x=3642"),
        ("subst_user", "sip:123:pw@h", "/(.*)3/9\\13/", "sip:9123:pw@h"),
        ("subst_user", "sip:sip@sip", "/sip/x/", "sip:x@sip"),
        ("subst_user", "sip:h", "/.*/x/", None),
        ("subst_user", "sip:123@h", "/.*//", "sip:h"),
        ("subst_user", "sip:123@h", "/2/@/", None),
    ],
)
def test_substitution_in_the_request_uri(function: str, ruri: str, expression: str, expected: str | None) -> None:
    """The manual's examples; what would be no URI is not taken (RFC 3261 §19.1.1)."""
    run = make_run(request(ruri=ruri))
    assert call(function, run, expression) == (1 if expected is not None else -1)
    assert run.ruri == (expected if expected is not None else ruri)


@pytest.mark.parametrize(
    "text", ["", "/", "/a", "/a/b", "//b/", "/a/b/x", "/a/\\1/", "/(/b/", "abca", "\\a\\b\\", "/a/$avp(/"]
)
def test_broken_substitutions_are_found_at_load(text: str) -> None:
    """A constant of the wrong form is a finding."""
    with pytest.raises(ValueError, match=r"."):
        call("subst", message(), text)


def test_any_delimiter() -> None:
    """The manual's form is sed's: an escaped delimiter is itself."""
    assert split_expression("/a\\/b/c\\/\\1/gi") == ("a/b", "c/\\1", "gi")
    assert split_expression("|a/b|c|") == ("a/b", "c", "")


def test_branches_keep_their_changes() -> None:
    """Changes in a branch route are for that branch."""
    run = message()
    one, two = (run.for_branch(Branch(run.ruri), index) for index in (0, 1))
    call("replace_body", one, "alice", "bob")
    call("replace", one, "hello", "bye")
    assert "bob" in wire(one)[1]
    assert wire(two) == wire(run)


def test_an_expression_that_takes_forever_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script must not hang on what a peer sent."""
    monkeypatch.setattr("opensipspy.script.patterns.MATCH_SECONDS", 0.001)
    run = message(body="a" * 5000 + "b")
    assert call("search_body", run, "(a|aa)+(a|aa)+(a|aa)+$") == -1
    assert call("replace_body", run, "(a|aa)+(a|aa)+(a|aa)+$", "x") == -1


def test_bytes_that_are_no_text_survive() -> None:
    """What was not matched leaves byte for byte as it came."""
    data = request(headers="X: 1", body="a\xff").encode("latin-1")
    run = make_run(data.replace(b"Content-Length: 3", b"Content-Length: 2"))
    assert call("replace_body", run, "a", "b") == 1
    assert sip.build_request(run.msg, run.edits, run.ruri, "", run.msg.socket).endswith(b"\r\n\r\nb\xff")


def test_what_a_variable_holds_names_no_other_variable() -> None:
    """It may come from a message; in an expression of the script itself, variables are read."""
    lab = Lab()
    core = FakeCore()
    core.catalogue = lab.catalogue
    core.add(TextOps())
    lab.run(
        """route {
            $var(secret) = "geheim";
            $var(sent) = "/sip:.*/sip:" + "$" + "var(secret)@h/";
            subst_uri($var(sent));
            $var(first) = $ru;
            $ru = "sip:x@h";
            subst_uri("/x@/$var(secret)@/");
        }"""
    )
    assert lab.last.vars["first"] == "sip:$var(secret)@h"
    assert lab.last.ruri == "sip:geheim@h"
