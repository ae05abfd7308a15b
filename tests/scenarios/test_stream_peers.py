"""TCP and UDP together: bridging with double Record-Route, framing, connections that are reused, refused or lost."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.scenarios.peer import Phone, Received
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
socket=tcp:127.0.0.1:PORT
socket=udp:[::1]:PORT
socket=udp:127.0.0.1:MAPPED as 203.0.113.1:5070
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 1)
loadmodule "rr.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
route {
    if (has_totag()) {
        if (loose_route() || t_check_trans())
            t_relay();
        exit;
    }
    if (is_method("REGISTER")) {
        save("location");
        exit;
    }
    if (is_method("OPTIONS")) {
        send_reply(200, "Here");
        exit;
    }
    record_route();
    if ($rU == "out")
        $ru = "sip:peer@127.0.0.1:" + $hdr(X-Port) + $hdr(X-Transport);
    else if (!lookup("location")) {
        send_reply(404, "Not Found");
        exit;
    }
    t_on_failure("failed");
    t_relay();
}
failure_route[failed] {
    xlog("failed with $T_reply_code\\n");
}
"""


class Site:
    def __init__(self, port: int, mapped: int) -> None:
        self.address, self.mapped = ("127.0.0.1", port), mapped


@pytest.fixture
def site(start_server: Callable[..., ServerProcess], free_port: Callable[[], int]) -> Site:
    port, mapped = free_port(), free_port()
    start_server(SCRIPT.replace("PORT", str(port)).replace("MAPPED", str(mapped)))
    return Site(port, mapped)


@pytest.fixture
def phone(site: Site) -> Iterator[Callable[[str], Phone]]:
    made: list[Phone] = []

    def make(user: str) -> Phone:
        made.append(Phone(user, site.address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def read(stream: socket.socket) -> Received:
    """One message without a body from a stream."""
    stream.settimeout(30)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = stream.recv(65535)
        assert piece, f"closed after {data!r}"
        data += piece
    return Received(data, ("", 0))


def out(caller: Phone, site: Site, port: int, transport: str = ";transport=tcp") -> str:
    headers = (f"X-Port: {port}", f"X-Transport: {transport}")
    return caller.request("INVITE", f"sip:out@127.0.0.1:{site.address[1]}", headers=headers)


def options(port: int, name: str) -> bytes:
    return (
        f"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:{port};branch=z9hG4bK{name}\r\n"
        "Max-Forwards: 70\r\n"
        f"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: {name}\r\nCSeq: 1 OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def test_a_call_from_udp_to_tcp_and_its_requests_back(site: Site, phone: Callable[[str], Phone]) -> None:
    """RFC 5658 §4: two Record-Routes, so that each side finds us with its own transport; both are ours to remove."""
    alice, helper = phone("alice"), phone("peer")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        helper.contact = f"<sip:peer@127.0.0.1:{port};transport=tcp>"
        invite = out(alice, site, port)
        alice.send(invite)
        stream, _ = listener.accept()
        with closing(stream):
            received = read(stream)
            assert received["Via"].startswith("SIP/2.0/TCP ")
            routes = received.all("Record-Route")
            assert [";transport=tcp" in route for route in routes] == [True, False]
            stream.sendall(helper.reply(received, 200).encode())
            final = alice.expect(200)
            alice.send(alice.ack(final, invite))
            ack = read(stream)
            assert ack.method == "ACK"
            assert ack.all("Route") == []
            bye = helper.callee_request("BYE", received).replace("SIP/2.0/UDP", "SIP/2.0/TCP").encode()
            stream.sendall(bye[:100])
            stream.sendall(bye[100:])
            last = alice.expect("BYE")
            assert last.all("Route") == []
            alice.send(alice.reply(last, 200))
            assert read(stream).status == 200, "the reply takes the connection of its request (§18.2.2)"


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_messages_are_found_wherever_the_stream_is_cut(site: Site, cut: int) -> None:
    """RFC 3261 §18.3 and RFC 5626 §3.5.1: two messages in one segment, one in two, a keep-alive between them."""
    with socket.create_connection(site.address) as stream:
        port = stream.getsockname()[1]
        data = b"\r\n" + options(port, f"one{cut}") + options(port, f"two{cut}") + b"\r\n\r\n"
        stream.sendall(data[:cut])
        stream.sendall(data[cut:])
        stream.settimeout(30)
        received = b""
        while not received.endswith(b"\r\n\r\n\r\n"):
            received += stream.recv(65535)
        assert received.count(b"SIP/2.0 200 Here") == 2


def test_a_refused_connection_fails_the_branch_at_once(site: Site, phone: Callable[[str], Phone]) -> None:
    """RFC 3261 §16.9: no waiting for a timer where the transport has said no; 477 is what tm calls it."""
    alice = phone("alice")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        dead = listener.getsockname()[1]
    invite = out(alice, site, dead)
    alice.send(invite)
    final = alice.expect(477)
    alice.send(alice.ack(final, invite))


def test_a_call_comes_over_the_connection_that_registered(site: Site, phone: Callable[[str], Phone]) -> None:
    """A contact behind a NAT is reached through the connection it opened, as nothing listens at its address."""
    alice = phone("alice")
    with socket.create_connection(site.address) as stream:
        port = stream.getsockname()[1]
        register = options(port, "register").decode().replace("OPTIONS", "REGISTER")
        register = register.replace("To: <sip:127.0.0.1>", "To: <sip:tess@127.0.0.1>")
        contact = f"Contact: <sip:tess@127.0.0.1:{port};transport=tcp>\r\nExpires: 60\r\nContent-Length"
        stream.sendall(register.replace("Content-Length", contact).encode())
        assert read(stream).status == 200
        alice.send(alice.request("INVITE", f"sip:tess@127.0.0.1:{site.address[1]}"))
        assert read(stream).method == "INVITE"
    # The phone is gone before it answered.
    assert alice.receive().status == 100
    assert alice.receive(10.0).status >= 400


def test_an_advertised_address_is_what_others_see(site: Site, phone: Callable[[str], Phone]) -> None:
    """`socket=... as ADDRESS:PORT` goes into Via and Record-Route; a request over UDP leaves where it came in."""
    bob = phone("bob")
    with closing(Phone("carol", ("127.0.0.1", site.mapped))) as carol:
        carol.send(out(carol, site, bob.port, ""))
        received = bob.expect("INVITE")
        assert "203.0.113.1:5070" in received["Via"]
        assert "203.0.113.1:5070" in received["Record-Route"]
        bob.send(bob.reply(received, 486, "Busy Here"))
        carol.expect(486)


def test_ipv6_is_served_beside_ipv4(site: Site) -> None:
    """RFC 3261 §18.2.1 and RFC 3581 with an address that needs brackets in a URI and none in `received`."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as phone:
        phone.bind(("::1", 0))
        phone.settimeout(30)
        port = phone.getsockname()[1]
        via = f"SIP/2.0/UDP [::1]:{port};rport;"
        request = options(port, "six").decode().replace(f"SIP/2.0/TCP 127.0.0.1:{port};", via)
        phone.sendto(request.encode(), ("::1", site.address[1]))
        reply = Received(phone.recv(65535), ("", 0))
        assert reply.status == 200
        assert f"rport={port}" in reply["Via"]
        assert "received=::1" in reply["Via"]
