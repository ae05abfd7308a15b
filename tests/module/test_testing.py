"""The stand-in server of module tests behaves as the contract says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import LocateError, Module, Target
from opensipspy.module.testing import FakeCore, make_run, reply, request
from opensipspy.script.kinds import ONREPLY


def test_the_clock_fires_timers_in_order() -> None:
    core = FakeCore()
    fired: list[tuple[str, float]] = []
    core.call_later(2, lambda: fired.append(("b", core.now())))
    core.call_later(1, lambda: core.call_later(0.5, lambda: fired.append(("a", core.now()))))
    repeated = core.every(1, lambda: fired.append(("e", core.now())))
    gone = core.call_later(1, lambda: fired.append(("x", 0)))
    gone.cancel()
    core.advance(2)
    assert fired == [("e", 1001), ("a", 1001.5), ("b", 1002), ("e", 1002)]
    repeated.cancel()
    core.advance(5)
    assert len(fired) == 4
    assert core.time() - 1_700_000_000 == 7


def test_messages_become_runs() -> None:
    run = make_run(request("MESSAGE", "sip:bob@example.org", headers="X-A: 1\r\nMax-Forwards: 5", body="hi"))
    assert (run.msg.method, run.ruri, run.msg.max_forwards, run.msg.body) == (
        "MESSAGE",
        "sip:bob@example.org",
        5,
        b"hi",
    )
    assert run.msg.named("X-A")[0].value == "1"
    answer = make_run(reply(180, "Ringing"), ONREPLY)
    assert (answer.msg.status, answer.kind) == (180, ONREPLY)
    assert make_run(request("OPTIONS", without=("Max-Forwards",))).msg.max_forwards == -1


def test_addresses_are_located_and_names_are_not() -> None:
    core = FakeCore()
    targets = core.locate("sip:bob@192.0.2.7:5070")
    assert isinstance(targets, list)
    assert (targets[0].peer.address, targets[0].peer.port) == ("192.0.2.7", 5070)
    with pytest.raises(LocateError, match="not known"):
        core.locate("sip:bob@example.org")
    core.located["sip:bob@example.org"] = targets
    assert core.locate("sip:bob@example.org") is targets
    with pytest.raises(LocateError, match="no socket"):
        core.locate("sip:bob@[2001:db8::1]")
    assert core.is_myself("127.0.0.1", 5060)
    assert not core.is_myself("127.0.0.1", 5061)


def test_sends_replies_and_apis_are_recorded() -> None:
    core = FakeCore()
    target = Target(sip.Peer(sip.PROTO_UDP, "192.0.2.7", 5060), core.sockets[0])
    assert core.send(b"data", target)
    assert (core.sent[0].text, core.sent[0].target) == ("data", target)
    run = make_run(request())
    assert core.send_reply(run, 404, "Not Found") == 1
    assert (core.replies[0].code, run.handled) == (404, True)

    class Other(Module):
        name = "other"

    other = core.add(Other())
    assert core.api("other", Other) is other
    assert core.module("none") is None
    with pytest.raises(LookupError):
        core.api("none", Other)
    with pytest.raises(LookupError):
        core.api("other", FakeCore)
    with pytest.raises(LookupError):
        core.database("sqlite:///x")


def test_routes_run_in_place_and_wait_only_when_they_must() -> None:
    async def scenario() -> None:
        core, run = FakeCore(), make_run(request())
        results: list[int] = []

        def done(run: Any, result: int) -> None:
            results.append(result)

        gate = asyncio.Event()

        async def quick(run: Any) -> int:
            return 2

        async def slow(run: Any) -> int:
            await gate.wait()
            await asyncio.sleep(0)
            return 3

        core.run_route(SimpleNamespace(fn=lambda run: 1), run, done)
        core.run_route(SimpleNamespace(fn=quick), run, done)
        core.run_route(SimpleNamespace(fn=slow, name="slow"), run, done)
        assert results == [1, 2], "nothing waited"
        gate.set()
        await core.settle()
        assert results == [1, 2, 3]

    asyncio.run(scenario())
