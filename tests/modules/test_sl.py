"""Stateless replies and the ACKs that follow them (RFC 3261 section 8.2.7)."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.sl import Sl
from opensipspy.script.run import Branch, Run


class Bench:
    def __init__(self, **params: Any) -> None:
        self.core = FakeCore()
        self.sl = self.core.add(Sl(**params))

    def run(self, method: str = "INVITE", **given: Any) -> Run:
        return make_run(request(method, **given), core=self.core)

    def sent(self) -> sip.Message:
        last = self.core.sent[-1]
        return sip.parse_message(last.data, last.target.peer, last.target.socket)

    def stat(self, name: str) -> int:
        return next(getattr(self.sl, stat.attribute).read() for stat in self.sl.stats() if stat.name == name)


def test_a_reply_goes_back_where_the_request_came_from() -> None:
    """RFC 3261 §8.2.6, §18.2.2: the copied headers, a To tag, the Via's port."""
    bench = Bench()
    run = bench.run()
    run.reply_edits.append("X-Why: because\r\n")
    assert bench.core.call("sl_send_reply", run, 404, "Not here") == 1
    reply = bench.sent()
    assert (reply.status, reply.reason) == (404, "Not here")
    assert reply.to_tag
    assert reply.named("X-Why")[0].value == "because"
    assert bench.core.sent[-1].target.peer == sip.Peer(sip.PROTO_UDP, "192.0.2.10", 5060)
    assert run.handled
    assert run.transaction is None
    assert [bench.stat(name) for name in ("sent_replies", "4xx_replies", "5xx_replies")] == [1, 1, 0]


def test_retransmissions_get_the_same_to_tag_and_other_requests_do_not() -> None:
    """RFC 3261 §8.2.7."""
    bench = Bench()
    tags = []
    for run in (bench.run(), bench.run(), bench.run(cseq=2)):
        bench.core.call("sl_send_reply", run, 486, "Busy")
        tags.append(bench.sent().to_tag)
    assert tags[0] == tags[1] != tags[2]
    assert bench.sl.local_tag(bench.run()) == tags[0]


def test_a_100_has_no_to_tag() -> None:
    """RFC 3261 §8.2.6.2."""
    bench = Bench()
    bench.core.call("sl_send_reply", bench.run(), 100, "Trying")
    assert bench.sent().to_tag == ""


def test_the_ack_of_a_stateless_reply_never_reaches_the_script() -> None:
    """sl manual: ACKs are known by the signature in their To tag."""
    bench = Bench()
    bench.core.call("sl_send_reply", bench.run(), 486, "Busy")
    tag = bench.sent().to_tag
    (before,) = bench.core.before
    ack = bench.run("ACK", to=f"<sip:bob@example.org>;tag={tag}")
    assert before(ack) is False
    assert ack.handled
    assert bench.stat("received_ACKs") == 1
    assert before(bench.run("ACK", to="<sip:bob@example.org>;tag=other")) is None
    assert before(bench.run("BYE", to=f"<sip:bob@example.org>;tag={tag}")) is None


def test_an_ack_is_never_answered() -> None:
    """RFC 3261 §17.1.1.3."""
    bench = Bench()
    assert bench.core.call("sl_send_reply", bench.run("ACK"), 200, "OK") == -1
    assert bench.core.sent == []


@pytest.mark.parametrize("code", [0, 99, 700, -1])
def test_codes_that_are_no_status_are_refused(code: int) -> None:
    """RFC 3261 §7.2."""
    bench = Bench()
    assert bench.core.call("sl_send_reply", bench.run(), code, "What") == -1


def test_an_error_reply_tells_the_reason_of_the_last_failure() -> None:
    """sl manual, sl_reply_error; what tm notes, what $err holds, else 500."""
    bench = Bench()
    run = bench.run()
    assert bench.core.call("sl_reply_error", run) == 1
    assert bench.sent().status == 500
    parsed = bench.run()
    parsed.error_code = 400
    bench.core.call("sl_reply_error", parsed)
    assert (bench.sent().status, bench.sent().reason) == (400, "Bad Request")
    relayed = bench.run()
    relayed.ctx["error_reply"] = (476, "Unresolvable destination (476/TM)")
    bench.core.call("sl_reply_error", relayed)
    assert (bench.sent().status, bench.sent().reason) == (476, "Unresolvable destination (476/SL)")
    assert bench.stat("sent_err_replies") == 3


def test_a_redirection_has_the_destinations_of_the_script() -> None:
    """RFC 3261 §8.3: the Request-URI that the script chose, and its branches."""
    bench = Bench()
    run = bench.run()
    run.ruri = "sip:bob@192.0.2.7"
    run.branches.append(Branch("sip:bob@192.0.2.8", q=250))
    assert bench.core.call("sl_send_reply", run, 302, "Moved Temporarily") == 1
    assert bench.sent().value(sip.H_CONTACT) == "<sip:bob@192.0.2.7>, <sip:bob@192.0.2.8>;q=0.25"
    assert bench.core.call("sl_send_reply", bench.run(), 301, "Moved Permanently") == 1
    assert not bench.sent().has(sip.H_CONTACT)


def test_nothing_is_counted_when_statistics_are_off() -> None:
    """sl manual, enable_stats."""
    bench = Bench(enable_stats=0)
    bench.core.call("sl_send_reply", bench.run(), 200, "OK")
    assert bench.stat("sent_replies") == 0


def test_a_reply_that_cannot_be_sent_is_a_failure() -> None:
    """The script may then do something else."""
    bench = Bench()
    bench.core.accept_sends = False
    run = bench.run()
    assert bench.core.call("sl_send_reply", run, 200, "OK") == -1
    assert not run.handled
