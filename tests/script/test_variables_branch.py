"""The destination set in variables (manual: Script-CoreVar, $msg.branch.*)."""

from __future__ import annotations

import pytest

from tests.script.fakes import REPLY, Bench

RURI = "sip:bob:secret@biloxi.example:5070;transport=tcp;user=phone"


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.write("$msg.branch", "sip:one@a.example")
    bench.write("$branch", "sip:two@b.example")
    return bench


def test_msg_branch_counts_the_request_uri_and_branch_does_not(bench: Bench) -> None:
    assert bench.read("$msg.branch") == "sip:two@b.example"
    assert bench.read("$msg.branch.uri") == "sip:two@b.example"
    assert bench.read("$(msg.branch.uri[0])") == RURI
    assert bench.read("$(msg.branch.uri[1])") == "sip:one@a.example"
    assert bench.read("$(msg.branch.uri[-1])") == "sip:two@b.example"
    assert bench.read("$(msg.branch.uri[-3])") == RURI
    assert bench.read("$(msg.branch.uri[*])") == f"{RURI}, sip:one@a.example, sip:two@b.example"
    assert bench.read("$msg.branch.last_idx") == 2
    assert bench.read("$branch") == "sip:one@a.example"
    assert bench.read("$branch(uri)") == "sip:one@a.example"
    assert bench.read("$(branch(uri)[1])") == "sip:two@b.example"
    assert bench.read("$(branch(uri)[*])") == "sip:one@a.example, sip:two@b.example"


@pytest.mark.parametrize("text", ["$(msg.branch.uri[3])", "$(msg.branch.uri[-4])", "$(branch(uri)[2])"])
def test_a_branch_that_is_not_there_is_null(bench: Bench, text: str) -> None:
    assert bench.read(text) is None
    before = bench.read("$(msg.branch.uri[*])")
    bench.write(text, "sip:x@y.example")
    assert bench.read("$(msg.branch.uri[*])") == before
    assert "no branch" in bench.log


def test_without_branches_the_last_is_the_request_uri() -> None:
    bench = Bench()
    assert bench.read("$msg.branch") == RURI
    assert bench.read("$msg.branch.last_idx") == 0
    assert bench.read("$branch(uri)") is None


def test_fields_of_a_branch_are_written(bench: Bench) -> None:
    bench.write("$(msg.branch.duri[1])", "sip:proxy.example")
    bench.write("$(msg.branch.q[1])", 500)
    bench.write("$(msg.branch.path[1])", "<sip:edge.example;lr>")
    bench.write("$(msg.branch.socket[1])", "outside")
    bench.write("$(msg.branch.flag(F1)[1])", 1)
    branch = bench.run.branches[0]
    assert (branch.dst_uri, branch.q, branch.path) == ("sip:proxy.example", 500, "<sip:edge.example;lr>")
    assert bench.read("$(branch(duri)[0])") == "sip:proxy.example"
    assert bench.read("$(branch(q)[0])") == "0.5"
    assert bench.read("$(branch(socket)[0])") == "udp:192.0.2.100:5060"
    assert bench.read("$(branch(flags)[0])") == "F1"
    bench.write("$(msg.branch.flags[1])", None)
    bench.write("$(branch(duri)[0])", None)
    assert bench.read("$(msg.branch.flags[1])") == ""
    assert bench.read("$(branch(duri)[0])") is None
    assert bench.read("$(msg.branch.duri[2])") is None


def test_index_0_writes_the_request_uri(bench: Bench) -> None:
    bench.write("$(msg.branch.uri[0])", "sip:main@c.example")
    bench.write("$(msg.branch.duri[0])", "sip:hop.example")
    bench.write("$(msg.branch.q[0])", 900)
    assert (bench.read("$ru"), bench.read("$du"), bench.read("$ru_q")) == ("sip:main@c.example", "sip:hop.example", 900)


def test_attributes_have_any_name(bench: Bench) -> None:
    bench.write("$msg.branch.attr(name)", "one")
    bench.write("$msg.branch.attr(num)", 5)
    bench.write("$(msg.branch.attr(name)[0])", "main")
    assert bench.read("$msg.branch.attr(name)") == "one"
    assert bench.read("$(msg.branch.attr(num)[2])") == 5
    assert bench.read("$(msg.branch.attr(num)[1])") is None
    assert bench.read("$(msg.branch.attr(name)[0])") == "main"
    assert bench.read("$(msg.branch.attr(name)[9])") is None


def test_flags_without_an_index_are_those_of_the_last_branch(bench: Bench) -> None:
    bench.write("$msg.branch.flag(X)", 1)
    assert bench.read("$(branch.flag(X)[2])") == 1
    assert bench.read("$(branch.flag(X)[0])") == 0
    assert bench.read("$(branch.flag(X)[7])") is None
    bench.write("$(branch.flag(X)[0])", 1)
    assert bench.read("$bf") == "X"


@pytest.mark.parametrize(("variable", "value"), [("$msg.branch", None), ("$msg.branch", ""), ("$msg.branch.uri", 5)])
def test_a_branch_needs_a_uri(bench: Bench, variable: str, value: str | int | None) -> None:
    bench.write(variable, value)
    assert [branch.uri for branch in bench.run.branches] == ["sip:one@a.example", "sip:two@b.example"]
    assert bench.log


def test_the_destination_set_has_a_limit() -> None:
    bench = Bench()
    for number in range(100):
        bench.write("$msg.branch", f"sip:{number}@a.example")
    assert len(bench.run.branches) == 64


def test_a_reply_has_no_branches_to_write() -> None:
    bench = Bench(REPLY)
    bench.write("$(msg.branch.duri[0])", "sip:x@y.example")
    assert bench.run.dst_uri == ""


def test_the_destination_set_shows_as_a_contact_header(bench: Bench) -> None:
    bench.write("$(msg.branch.q[1])", 250)
    assert bench.read("$ds") == "Contact: <sip:one@a.example>;q=0.25, <sip:two@b.example>"
    bench.write("$ru", "sip:new@c.example")
    assert bench.read("$ds").startswith("Contact: <sip:new@c.example>, <sip:one@a.example>;q=0.25")
