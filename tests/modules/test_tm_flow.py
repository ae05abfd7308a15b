"""Anything may happen in any order: no exception, one final answer at most, nothing left at the end."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from opensipspy import sip
from opensipspy.modules.tm.flow import next_hop, proxy_uri
from opensipspy.script.run import Branch, Run

from .tm_bench import BOB, CAROL, DAVE, TmBench

STATUSES = [100, 180, 183, 200, 302, 401, 407, 408, 480, 486, 487, 503, 603]

ACTIONS = st.one_of(
    st.tuples(st.just("answer"), st.integers(0, 7), st.sampled_from(STATUSES)),
    st.tuples(st.just("answer cancel"), st.integers(0, 7), st.sampled_from([200, 481])),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("again")),
    st.tuples(st.just("ack")),
    st.tuples(st.just("reply"), st.sampled_from([180, 200, 486])),
    st.tuples(st.just("inject"), st.booleans()),
    st.tuples(st.just("no more")),
    st.tuples(st.just("time"), st.floats(0.1, 50.0)),
    st.tuples(st.just("sends"), st.booleans()),
)
FAILURE_ROUTES = st.lists(st.sampled_from(["relay", "reply", "drop", "again", "nothing"]), max_size=3)


class Scene:
    """One call that anything may happen to."""

    def __init__(self, method: str, forks: int, waits: bool, failures: list[str]) -> None:
        self.bench = TmBench(fr_timeout=5, fr_inv_timeout=20)
        self.bench.core.located["sip:b@name"] = self._targets()
        self.failures = list(failures)
        self.method = method
        self.requests: list[sip.Message] = []
        self.cancels: list[sip.Message] = []
        self.replies: list[sip.Message] = []
        self.final_tag = ""
        self.bench.failure("f", self.failed)
        self.bench.onreply("r", lambda run: 1)
        run = self.run = self.bench.run(method)
        self.bench.call("t_on_failure", run, "f")
        self.bench.call("t_on_reply", run, "r")
        if waits:
            self.bench.call("t_newtran", run)
            self.bench.call("t_wait_for_new_branches", run, 2)
        run.branches = [Branch(uri) for uri in (CAROL, "sip:b@name", DAVE)[:forks]]
        self.bench.call("t_relay", run)
        self.bench.end(run)
        self.look()

    def _targets(self) -> list[Any]:
        return [*self.bench.core.locate("sip:192.0.2.51"), *self.bench.core.locate("sip:192.0.2.52")]  # type: ignore[misc]

    def failed(self, run: Run) -> int:
        todo = self.failures.pop(0) if self.failures else "nothing"
        if todo == "again":
            self.bench.call("t_on_failure", run, "f")
        if todo in ("relay", "again"):
            run.ruri = CAROL
            run.branches = [Branch(DAVE)]
            self.bench.call("t_relay", run)
        elif todo == "reply":
            self.bench.call("t_reply", run, 480, "No")
        elif todo == "drop":
            run.dropped = True
            return 0
        return 1

    def look(self) -> None:
        """Sort what left."""
        for msg in self.bench.take():
            if not msg.is_request:
                self.replies.append(msg)
                if msg.status >= 200 and msg.cseq_method == self.method:
                    self.final_tag = msg.to_tag
            elif msg.method == self.method:
                self.requests.append(msg)
            elif msg.method == "CANCEL":
                self.cancels.append(msg)

    def act(self, action: tuple[Any, ...]) -> None:
        bench = self.bench
        kind = action[0]
        if kind == "answer" and self.requests:
            sent = self.requests[action[1] % len(self.requests)]
            bench.answer(sent, action[2], to_tag=f"t{action[1]}")
        elif kind == "answer cancel" and self.cancels:
            bench.answer(self.cancels[action[1] % len(self.cancels)], action[2])
        elif kind == "cancel" and self.method == "INVITE":
            bench.cancel()
        elif kind == "again":
            bench.call("t_check_trans", bench.run(self.method))
        elif kind == "ack" and self.method == "INVITE":
            bench.call("t_relay", bench.ack(self.final_tag or "x"))
        elif kind == "reply" and self.run.transaction is not None:
            bench.call("t_reply", self.run, action[1], "Here")
        elif kind == "inject" and self.run.transaction is not None:
            self.run.ruri = CAROL
            bench.call("t_inject_branches", self.run, "msg", "cancel" if action[1] else None)
        elif kind == "no more":
            bench.call("t_wait_no_more_branches", self.run)
        elif kind == "time":
            bench.core.advance(action[1])
        elif kind == "sends":
            bench.core.accept_sends = action[1]
        self.look()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["INVITE", "MESSAGE"]),
    st.integers(0, 3),
    st.booleans(),
    FAILURE_ROUTES,
    st.lists(ACTIONS, max_size=30),
)
def test_whatever_happens_a_transaction_has_one_outcome_and_an_end(
    method: str, forks: int, waits: bool, failures: list[str], actions: list[tuple[Any, ...]]
) -> None:
    """RFC 3261 §16.7: one final answer, save for further 2xx to an INVITE; then everything is released."""
    scene = Scene(method, forks, waits, failures)
    first = scene.run.transaction
    for action in actions:
        scene.act(action)
        if first is None or getattr(first, "gone", True):
            break
    outcomes = {reply.status for reply in scene.replies if reply.status >= 200 and reply.cseq_method == method}
    if not (first is None or getattr(first, "gone", True)):
        assert len({status for status in outcomes if status >= 300}) <= 1
        if method == "INVITE" and any(status < 300 for status in outcomes):
            assert all(status < 300 for status in outcomes)
    scene.bench.core.accept_sends = True
    for callback in scene.bench.core.after:
        if scene.run.transaction is not None:
            callback(scene.run)
    scene.bench.core.advance(600)
    assert len(scene.bench.tm.flow.layer) == 0
    assert scene.bench.tm.flow.layer.pending_timers == 0


def test_an_outbound_proxy_is_read_as_the_manual_writes_it() -> None:
    """tm manual, t_relay: "[proto:]host[:port]"."""
    assert proxy_uri("192.0.2.1:5070") == "sip:192.0.2.1:5070"
    assert proxy_uri("tcp:192.0.2.1:5070") == "sip:192.0.2.1:5070;transport=tcp"
    assert proxy_uri("mydomain.com") == "sip:mydomain.com"
    assert proxy_uri("sip:x;lr") == "sip:x;lr"


def test_the_next_hop_is_taken_in_order() -> None:
    """Destination URI, outbound proxy, first hop of the Path, Request-URI (RFC 3261 §16.6 step 6)."""
    bench = TmBench()
    run = bench.run()
    assert next_hop(run) == BOB
    run.path = "<sip:p1;lr>,<sip:p2;lr>"
    assert next_hop(run) == "sip:p1;lr"
    assert next_hop(run, "sip:proxy") == "sip:proxy"
    run.dst_uri = "sip:du"
    assert next_hop(run, "sip:proxy") == "sip:du"


def test_a_server_that_stops_keeps_no_timer() -> None:
    """Module life."""
    bench = TmBench()
    bench.invite()
    asyncio.run(bench.tm.stop())
    assert bench.core.pending_timers == 0
