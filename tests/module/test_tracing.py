"""Telling collectors of connections: what is told, when, and what never leaves (proto_tls's and proto_ws's manuals)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.management import MiError
from opensipspy.module import Module
from opensipspy.module.testing import FakeCore
from opensipspy.module.tls import TlsSession
from opensipspy.module.tracing import ConnectionReport, ConnectionSink, TracedTransport, shown_handshake
from opensipspy.modules.proto_tcp import ProtoTcp
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import Peer, Socket

HERE = Socket(sip.PROTO_TCP, "192.0.2.1", 5060)


class Sink(Module, ConnectionSink):
    name = "proto_hep"

    def __init__(self) -> None:
        super().__init__()
        self.told: list[ConnectionReport] = []

    def takes(self, destination: str) -> bool:
        return destination == "homer"

    def trace_connection(self, destination: str, report: ConnectionReport) -> None:
        assert destination == "homer"
        self.told.append(report)

    def events(self) -> list[str]:  # type: ignore[override]
        return [f"{report.parts['Event']} {report.parts['Status']}" for report in self.told]


class Link:
    """A connection as a transport shows it."""

    def __init__(self, *, outgoing: bool = False, handshake: tuple[bytes, bytes] = (b"", b"")) -> None:
        self.outgoing = outgoing
        self.ready = False
        self.ending = ""
        self.trace: Any = None
        self.socket = HERE
        self.peer = Peer(sip.PROTO_TCP, "192.0.2.7", 1234, 5)
        self._handshake = handshake

    def local_end(self) -> tuple[str, int]:
        return "192.0.2.1", 5060

    def session(self) -> TlsSession | None:
        return None

    def take_handshake(self) -> tuple[bytes, bytes]:
        return self._handshake

    def open(self, tracer: TracedTransport) -> None:
        self.ready = True
        tracer.opened(self)

    def lose(self, tracer: TracedTransport, reason: str = "EOF received") -> None:
        self.ending = reason
        tracer.lost(self)


class House:
    """A core with a sink, a transport and a route of the script."""

    def __init__(self, route: Callable[[Run], Any] | None = None, *, waits: bool = False, **params: Any) -> None:
        self.core = FakeCore()
        self.sink = self.core.add(Sink())
        params.setdefault("trace_destination", "homer")
        params.setdefault("trace_on", 1)
        if route is not None:
            params["trace_filter_route"] = "choose"
        made = SimpleNamespace(fn=route, is_async=waits, kind=REQUEST, name="choose")
        self.core.program = SimpleNamespace(
            route=lambda kind, name: made if (kind, name) == (REQUEST, "choose") else None
        )
        self.module = self.core.add(ProtoTcp(**params))
        asyncio.run(self.module.start())


def test_all_of_a_connection_has_one_correlation() -> None:
    house = House()
    link, other = Link(), Link(outgoing=True)
    for one in (link, other):
        one.open(house.module)
    for one in (link, other):
        one.lose(house.module)
    assert house.sink.events() == ["ACCEPTED SUCCESS", "CONNECTED SUCCESS", "CLOSED SUCCESS", "CLOSED SUCCESS"]
    first, second, third, fourth = (report.correlation for report in house.sink.told)
    assert first == third != second == fourth
    report = house.sink.told[0]
    assert (report.protocol, report.remote, report.local) == (6, ("192.0.2.7", 1234), ("192.0.2.1", 5060))
    assert list(report.parts) == ["Protocol", "Event", "Status", "Message"]


def test_a_connection_that_did_not_come_about() -> None:
    house = House()
    Link(outgoing=True).lose(house.module, "Connection refused")
    assert house.sink.events() == ["CONNECTED FAILURE", "CLOSED SUCCESS"]
    assert {report.parts["Message"] for report in house.sink.told} == {"Connection refused"}


def test_texts_have_an_end() -> None:
    house = House()
    Link(handshake=(b"GET / HTTP/1.1\r\nHost: " + b"x" * 100_000, b"")).lose(house.module, "y" * 100_000)
    assert len(house.sink.told[0].parts["Ws-Request"]) == 4096
    assert len(house.sink.told[0].parts["Message"]) == 512


def test_what_was_opened_while_tracing_was_off_is_not_told_of() -> None:
    house = House(trace_on=0)
    early, late = Link(), Link()
    early.open(house.module)
    assert house.module.switch_tracing("On") == "OK"
    late.open(house.module)
    early.lose(house.module)
    assert house.sink.events() == ["ACCEPTED SUCCESS"]
    assert house.module.switch_tracing("off") == "OK"
    late.lose(house.module)
    assert house.sink.events() == ["ACCEPTED SUCCESS"]


def test_the_command() -> None:
    house = House(trace_on=0)
    assert asyncio.run(house.core.mi_call("tcp:trace")) == {"TCP tracing": "off"}
    assert asyncio.run(house.core.mi_call("tcp_trace", ["on"])) == "OK"
    assert asyncio.run(house.core.mi_call("tcp:trace", {})) == {"TCP tracing": "on"}
    with pytest.raises(MiError) as refused:
        house.module.switch_tracing("1")
    assert refused.value.code == 500


def test_the_route_sees_both_ends_and_chooses() -> None:
    seen = []

    def choose(run: Run) -> int:
        seen.append((run.msg.source.address, run.msg.source.port, run.msg.socket.text))
        run.dropped = len(seen) == 1
        return 0

    house = House(choose)
    dropped, kept = Link(), Link()
    for one in (dropped, kept):
        one.open(house.module)
        one.lose(house.module)
    assert seen == [("192.0.2.7", 1234, "tcp:192.0.2.1:5060")] * 2
    assert house.sink.events() == ["ACCEPTED SUCCESS", "CLOSED SUCCESS"]
    assert house.module.routes_used() == [(REQUEST, "choose")]
    assert not house.core.replies


@pytest.mark.parametrize("drop", [True, False])
def test_nothing_is_told_before_a_route_that_waits_has_ended(drop: bool) -> None:
    async def scenario() -> None:
        may_end = asyncio.Event()

        async def choose(run: Run) -> int:
            await house.core.wait(may_end.wait())
            run.dropped = drop
            return 0

        house.core.program.route(REQUEST, "choose").fn = choose
        link = Link()
        link.open(house.module)
        link.lose(house.module)
        await asyncio.sleep(0)
        assert not house.sink.told
        may_end.set()
        await house.core.settle()
        assert house.sink.events() == ([] if drop else ["ACCEPTED SUCCESS", "CLOSED SUCCESS"])

    house = House(lambda run: 0, waits=True)
    asyncio.run(scenario())


def test_no_route_runs_while_tracing_is_off() -> None:
    def choose(run: Run) -> int:
        raise AssertionError

    house = House(choose, trace_on=0)
    Link().open(house.module)
    Link().lose(house.module)


def test_without_a_destination_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        house = House(trace_destination="nobody")
    assert "no hep_id 'nobody'" in caplog.text
    Link().open(house.module)
    assert not house.module.active
    core = FakeCore()
    module = core.add(ProtoTcp(trace_destination="homer", trace_on=1))
    with caplog.at_level(logging.WARNING):
        asyncio.run(module.start())
    assert "needs the proto_hep module" in caplog.text
    assert not module.active


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nbody", "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
        (b"GET /a?b=c&d HTTP/1.1\r\n\r\n", "GET /a?... HTTP/1.1\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nX-Key:  k\r\nCOOKIE: k\r\n\r\n", "GET / HTTP/1.1\r\nX-Key: ...\r\nCOOKIE: ...\r\n\r\n"),
        (b"HTTP/1.1 401 No\r\nSet-Cookie: k\r\n\r\nk", "HTTP/1.1 401 No\r\nSet-Cookie: ...\r\n\r\n"),
        (b"GET / X\r\nSec-WebSocket-Protocol: k, SIP", "GET / X\r\nSec-WebSocket-Protocol: ..., SIP\r\n\r\n"),
        (b"\xff", "\xff\r\n\r\n"),
    ],
)  # fmt: skip
def test_handshakes_are_shown_without_secrets(data: bytes, expected: str) -> None:
    """RFC 6265 section 8.3, RFC 9110 section 17.16.3: cookies and credentials are for the two ends alone."""
    assert shown_handshake(data) == expected
