"""path: Path headers on the wire, and requests that come back along them (RFC 3327)."""

from __future__ import annotations

from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.path import Path
from opensipspy.modules.rr import Rr
from opensipspy.script.run import Run

from .asynchronous import in_loop

UDP = sip.Socket(sip.PROTO_UDP, "192.0.2.1", 5060, index=0)
TCP = sip.Socket(sip.PROTO_TCP, "192.0.2.1", 5060, index=1)
NAT = sip.Socket(sip.PROTO_UDP, "10.0.0.1", 5070, "198.51.100.7", 5080, index=2)
TLS = sip.Socket(sip.PROTO_TLS, "192.0.2.1", 5061, index=3)
V6 = sip.Socket(sip.PROTO_UDP, "2001:db8::1", 5060, index=4)


def loaded(**params: int) -> FakeCore:
    core = FakeCore(sockets=[UDP, TCP, NAT, TLS, V6])
    core.add(Rr())
    core.add(Path(**params))
    return core


def register(core: FakeCore, headers: str = "", source: sip.Peer | None = None, socket: sip.Socket = UDP) -> Run:
    text = request("REGISTER", "sip:example.org", headers=headers)
    return make_run(text, core=core, source=source, socket=socket)


def paths(run: Run, out: sip.Socket = UDP) -> list[str]:
    text = sip.build_request(run.msg, run.edits, run.ruri, "SIP/2.0/UDP h;branch=z9hG4bKx", out).decode()
    return [line.partition(": ")[2] for line in text.split("\r\n") if line.startswith("Path:")]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (UDP, "<sip:192.0.2.1;lr>"),
        (TCP, "<sip:192.0.2.1;transport=tcp;lr>"),
        (NAT, "<sip:198.51.100.7:5080;lr>"),
        (TLS, "<sip:192.0.2.1:5061;transport=tls;lr>"),
        (V6, "<sip:[2001:db8::1];lr>"),
    ],
)
def test_the_path_names_the_outgoing_socket(out: sip.Socket, expected: str) -> None:
    """RFC 3327 §5.2: a URI that resolves to the proxy, with lr (§4 asks for loose routing)."""
    core = loaded(enable_double_path=0)
    run = register(core)
    assert core.call("add_path", run) == 1
    assert paths(run, out) == [expected]


def test_a_path_goes_above_those_that_are_there() -> None:
    """RFC 3327 §5.2: the proxy nearest to the registrar stands first."""
    core = loaded()
    run = register(core, "Path: <sip:edge.example.net;lr>\r\n")
    assert core.call("add_path", run, "lb") == 1
    assert paths(run) == ["<sip:lb@192.0.2.1;lr>", "<sip:edge.example.net;lr>"]


@pytest.mark.parametrize("user", ["a b", "a>b", "a@b", "a\r\nEvil: 1", 'a"b'])
def test_a_text_that_is_no_user_is_refused(user: str) -> None:
    core = loaded()
    run = register(core)
    assert core.call("add_path", run, user) == -1
    assert core.call("add_path_received", run, user) == -1
    assert paths(run) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (sip.Peer(sip.PROTO_UDP, "203.0.113.4", 1234), "received=sip:203.0.113.4:1234"),
        (sip.Peer(sip.PROTO_TCP, "203.0.113.4", 1234), "received=sip:203.0.113.4:1234%3btransport%3dtcp"),
        (sip.Peer(sip.PROTO_UDP, "2001:db8::9", 1234), "received=sip:[2001:db8::9]:1234"),
    ],
)
def test_the_source_is_kept_in_received(source: sip.Peer, expected: str) -> None:
    """The manual: the address that the request has been received from."""
    core = loaded()
    run = register(core, source=source)
    assert core.call("add_path_received", run, "in") == 1
    assert paths(run) == [f"<sip:in@192.0.2.1;{expected};lr>"]


def test_a_change_of_sockets_writes_two_paths() -> None:
    """RFC 5658 §5: one for each side; the phone's address stands in the one that faces it."""
    core = loaded()
    run = register(core, source=sip.Peer(sip.PROTO_TCP, "203.0.113.4", 1234), socket=TCP)
    core.call("add_path_received", run)
    assert paths(run, NAT) == [
        "<sip:198.51.100.7:5080;r2=on;lr>",
        "<sip:192.0.2.1;transport=tcp;r2=on;received=sip:203.0.113.4:1234%3btransport%3dtcp;lr>",
    ]


async def routed(headers: str, **params: Any) -> Run:
    core = loaded(**params)
    module = core.module("path")
    assert module is not None
    await module.launch()
    run = make_run(request("INVITE", "sip:bob@203.0.113.99", headers=headers), core=core)
    core.call("loose_route", run)
    return run


@in_loop
async def test_received_decides_where_the_request_goes() -> None:
    """The manual: the parameter comes back in our Route, and the request goes there through the NAT."""
    run = await routed("Route: <sip:192.0.2.1;received=sip:203.0.113.4:1234%3btransport%3dtcp;lr>\r\n", use_received=1)
    assert run.dst_uri == "sip:203.0.113.4:1234;transport=tcp"
    assert run.ruri == "sip:bob@203.0.113.99"


@in_loop
async def test_received_of_the_second_path_counts() -> None:
    """What was written for two sockets is read again, and the request leaves by the phone's socket."""
    run = await routed(
        "Route: <sip:198.51.100.7:5080;r2=on;lr>\r\n"
        "Route: <sip:192.0.2.1;transport=tcp;r2=on;received=sip:203.0.113.4:1234%3btransport%3dtcp;lr>\r\n",
        use_received=1,
    )
    assert run.dst_uri == "sip:203.0.113.4:1234;transport=tcp"
    assert run.socket_out is TCP


@in_loop
async def test_received_of_another_proxy_is_not_ours_to_follow() -> None:
    run = await routed(
        "Route: <sip:192.0.2.1;r2=on;lr>\r\nRoute: <sip:198.51.100.99;r2=on;received=sip:203.0.113.4:1234;lr>\r\n",
        use_received=1,
    )
    assert run.dst_uri == "sip:198.51.100.99;r2=on;received=sip:203.0.113.4:1234;lr"


@in_loop
async def test_received_is_left_alone_unless_asked_for() -> None:
    run = await routed("Route: <sip:192.0.2.1;received=sip:203.0.113.4:1234;lr>\r\n")
    assert run.dst_uri == ""


@pytest.mark.parametrize("value", ["nonsense", "tel:1234", "sip:%0d%0aEvil", "sip:a%3e", ""])
def test_an_unusable_received_changes_nothing(value: str) -> None:
    """A Route is hostile input: what is no SIP URI is not sent to."""

    @in_loop
    async def check() -> None:
        run = await routed(f"Route: <sip:192.0.2.1;received={value};lr>\r\n", use_received=1)
        assert run.dst_uri == ""

    check()
