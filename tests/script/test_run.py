"""One message in a script, and its views for branches and replies."""

from __future__ import annotations

from opensipspy.script.kinds import ALL, BRANCH, FAILURE, ONREPLY, REQUEST, kind_bit, kind_name, kind_names
from opensipspy.script.run import VIA_LOCAL_RPORT, Branch
from tests.script.fakes import REPLY, UDP_SOCKET, Bench


def test_a_branch_has_its_own_destination_flags_and_edits() -> None:
    """Changes in a branch route touch only that branch; AVPs and variables are shared."""
    bench = Bench()
    run = bench.run
    run.msg_flags = 4
    view = run.for_branch(Branch("sip:b@b.example", "sip:hop.example", 500, "<sip:p;lr>", 2, UDP_SOCKET), 3)
    assert (view.kind, view.branch_index, view.ruri, view.dst_uri) == (BRANCH, 3, "sip:b@b.example", "sip:hop.example")
    assert (view.q, view.path, view.branch_flags, view.msg_flags) == (500, "<sip:p;lr>", 2, 4)
    view.ruri = "sip:other@b.example"
    view.edits.append("X: y\r\n")
    view.avps["a"] = [1]
    view.vars["v"] = 2
    assert run.ruri == bench.message.ruri
    assert not run.edits.all_notes()
    assert len(view.edits.all_notes()) == 1
    assert (bench.read("$avp(a)"), bench.read("$var(v)")) == (1, 2)


def test_a_branch_sees_the_edits_made_before_it() -> None:
    run = Bench().run
    run.edits.append("X: y\r\n")
    assert len(run.for_branch(run.main_branch()).edits.all_notes()) == 1


def test_a_reply_shares_what_belongs_to_the_transaction() -> None:
    bench = Bench()
    bench.run.msg_flags = 1
    bench.write("$avp(a)", "x")
    view = bench.run.for_reply(Bench(REPLY).message, FAILURE)
    assert (view.kind, view.msg_flags, view.avps) == (FAILURE, 1, {"a": ["x"]})
    assert view.context("request") is not None
    assert view.context("reply") is view


def test_the_context_is_the_transactions_own_run() -> None:
    """$(<request>ru) in a reply route shows the Request-URI as the script left it."""
    bench = Bench()

    class Transaction:
        run = bench.run

    bench.run.ruri = "sip:changed@b.example"
    bench.run.transaction = Transaction()
    view = bench.run.for_reply(Bench(REPLY).message)
    assert view.kind == ONREPLY
    assert view.context("request") is bench.run


def test_the_request_of_a_failure_route_is_as_the_main_route_left_it() -> None:
    """$ru begins as it came there, $(<request>ru) does not, as in OpenSIPS."""
    bench = Bench()

    class Transaction:
        run = bench.run

    bench.run.ruri = "sip:changed@b.example"
    bench.run.transaction = Transaction()
    view = bench.run.for_branch(Branch(bench.message.ruri))
    view.kind = FAILURE
    view.request = bench.message
    view.transaction = bench.run.transaction
    assert bench.spec("$ru").reader()(view) == bench.message.ruri
    assert bench.spec("$(<request>ru)").reader()(view) == "sip:changed@b.example"


def test_kinds_have_names() -> None:
    assert kind_name(REQUEST) == "request"
    assert kind_bit("failure") == kind_bit("failure_route") == FAILURE
    assert kind_bit("nope") == 0
    assert kind_names(ALL) == [
        "request",
        "failure",
        "onreply",
        "branch",
        "error",
        "local",
        "startup",
        "timer",
        "event",
    ]


def test_a_detached_view_goes_its_own_way() -> None:
    """launch() works beside the script: neither sees what the other does from then on."""
    bench = Bench()
    bench.write("$avp(a)", "x")
    bench.write("$var(v)", 1)
    view = bench.run.detached()
    assert (view.kind, view.ruri, view.avps, view.vars) == (REQUEST, bench.run.ruri, {"a": ["x"]}, {"v": 1})
    view.avps["a"].append("y")
    view.vars["v"] = 2
    view.ruri = "sip:other@b.example"
    assert (bench.read("$avp(a)"), bench.read("$var(v)"), bench.read("$ru")) == ("x", 1, bench.message.ruri)


def test_our_via_shows_what_the_script_asked_for() -> None:
    """RFC 3581 §3 for rport; the socket's own advertised address without set_advertised_address()."""
    run = Bench().run
    assert run.via_value(UDP_SOCKET, "z9hG4bK1") == "SIP/2.0/UDP 203.0.113.5:5080;branch=z9hG4bK1"
    run.via_flags |= VIA_LOCAL_RPORT
    run.advertised_address = "[2001:db8::7]"
    assert run.via_value(UDP_SOCKET, "z9hG4bK1") == "SIP/2.0/UDP [2001:db8::7]:5080;branch=z9hG4bK1;rport"
    run.advertised_port = 99
    assert run.via_value(UDP_SOCKET, "z9hG4bK1") == "SIP/2.0/UDP [2001:db8::7]:99;branch=z9hG4bK1;rport"


def test_views_of_a_run_share_what_is_put_in_after_they_were_made() -> None:
    run = Bench().run
    view = run.for_branch(Branch("sip:carol@example.com"), 1)
    of_view = view.for_branch(Branch("sip:dave@example.com"), 2)
    of_view.avps["a"] = ["1"]
    run.vars["v"] = 2
    view.ctx["module"] = "noted"
    run.reply_edits.append("X: y\r\n")
    for one in (run, view, of_view):
        assert (one.avps, one.vars, one.ctx) == ({"a": ["1"]}, {"v": 2}, {"module": "noted"})
        assert one.reply_edits == ["X: y\r\n"]
        assert (one.noted("module"), one.noted("other")) == ("noted", None)


def test_a_view_with_its_own_context_leaves_that_of_the_run_alone() -> None:
    run = Bench().run
    view = run.for_branch(Branch("sip:carol@example.com"), 1)
    view.ctx = {}
    view.ctx["module"] = 1
    assert (run.noted("module"), view.noted("module")) == (None, 1)
