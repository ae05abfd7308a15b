"""A live server among peers that mean no good or know no better: it answers what can be answered, and goes on."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.peer import Phone, Received, until
from tests.scenarios.server import ServerProcess
from tests.sip.torture import MESSAGES

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
socket=tcp:127.0.0.1:PORT
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 1)
loadmodule "rr.so"
loadmodule "signaling.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("registrar", "max_contacts", 10)
ERROR_ROUTE
route {
    if (!mf_process_maxfwd_header(10)) {
        send_reply(483, "Too Many Hops");
        exit;
    }
    if ($rm == "CANCEL") {
        if (t_check_trans())
            t_relay();
        exit;
    }
    t_check_trans();
    if ($rm == "REGISTER") {
        save("location");
        exit;
    }
    if (loose_route()) {
        if ($rm != "ACK")
            send_reply(403, "Preloaded Route denied");
        exit;
    }
    if (!lookup("location")) {
        t_reply(404, "Not Found");
        exit;
    }
    t_relay();
}
"""
ERROR_ROUTE = 'error_route { xlog("broken: $err.info from $si\\n"); sl_send_reply(488, "Cannot be read"); }'

# RFC 4475 §3.1.2: broken in one place, but with enough left for an answer.
ANSWERABLE = ("scalar02", "quotbal", "badaspec", "baddn", "clerr", "ncl", "mcl01", "ltgtruri", "lwsruri", "escruri")


@pytest.fixture
def place(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int]
) -> Callable[..., tuple[ServerProcess, tuple[str, int]]]:
    def make(error_route: str = "") -> tuple[ServerProcess, tuple[str, int]]:
        port = free_port()
        script = SCRIPT.replace("PORT", str(port)).replace("ERROR_ROUTE", error_route)
        return start_server(script), ("127.0.0.1", port)

    return make


@pytest.fixture
def phones() -> Iterator[Callable[..., Phone]]:
    made: list[Phone] = []

    def make(user: str, server: tuple[str, int]) -> Phone:
        made.append(Phone(user, server))
        return made[-1]

    yield make
    for phone in made:
        phone.close()


def from_here(name: str, phone: Phone) -> bytes:
    """A torture message with a topmost Via that leads back to the phone, so that its answer arrives."""
    head, separator, body = MESSAGES[name].partition(b"\r\n\r\n")
    start, _, rest = head.partition(b"\r\n")
    via = f"Via: SIP/2.0/UDP 127.0.0.1:{phone.port};branch=z9hG4bK{name};rport\r\n".encode()
    return start + b"\r\n" + via + rest + separator + body


@pytest.mark.parametrize(("error_route", "expected"), [("", 400), (ERROR_ROUTE, 488)], ids=["plain", "error_route"])
def test_a_broken_request_is_answered(
    place: Callable[..., tuple[ServerProcess, tuple[str, int]]],
    phones: Callable[..., Phone],
    error_route: str,
    expected: int,
) -> None:
    """RFC 3261 §16.3 and RFC 4475 §3.1.2: 400, by us or by error_route, even where From, To or CSeq cannot be read."""
    server, address = place(error_route)
    phone = phones("mallory", address)
    for name in ANSWERABLE:
        phone.send(from_here(name, phone))
        reply = phone.receive()
        assert reply.status == expected, name
        phone.send(from_here(name, phone))
        assert phone.receive().raw == reply.raw, f"{name}: a copy must get the same To tag (§8.2.7)"
    assert "ERROR" not in server.log_text(), server.log_text()


def call(caller: Phone, callee: Phone) -> None:
    invite = caller.request("INVITE", f"sip:{callee.user}@127.0.0.1:{caller.server[1]}")
    caller.send(invite)
    received = callee.expect("INVITE")
    callee.send(callee.reply(received, 200))
    final = caller.expect(200)
    caller.send(caller.ack(final, invite))
    callee.expect("ACK")


def broken_copies(count: int, address: tuple[str, int], source: int) -> Iterator[bytes]:
    """Messages with a few random faults each, always the same ones."""
    dice = random.Random(4475)
    words = (
        b"\r\n",
        b"\0",
        b"<",
        b">",
        b'"',
        b";",
        b",",
        b"sip:",
        b"%00",
        b"[::1]",
        b"9" * 20,
        b"-1",
        b"\xff\xfe",
        b"*",
    )
    seeds = list(MESSAGES.values())
    for method in ("INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "MESSAGE"):
        seeds.append(
            f"{method} sip:mallory@127.0.0.1:{address[1]} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{source};branch=z9hG4bKBRANCH;rport\r\n"
            "Max-Forwards: 70\r\nFrom: <sip:mallory@127.0.0.1>;tag=1\r\nTo: <sip:mallory@127.0.0.1>\r\n"
            f"Call-ID: BRANCH\r\nCSeq: 1 {method}\r\nContact: <sip:m@127.0.0.1:{source}>;q=0.5\r\nExpires: 60\r\n"
            f"Route: <sip:127.0.0.1:{address[1]};lr>\r\nContent-Length: 5\r\n\r\nhello".encode()
        )
    for number in range(count):
        data = bytearray(dice.choice(seeds).replace(b"BRANCH", b"%d" % number))
        for _ in range(dice.choice((1, 1, 2, 3, 8))):
            at = dice.randrange(len(data) or 1)
            kind = dice.randrange(4)
            if kind == 0:
                data[at:at] = dice.choice(words)
            elif kind == 1:
                del data[at : at + dice.randrange(1, 30)]
            elif kind == 2:
                data[at : at + 1] = bytes((dice.randrange(256),))
            else:
                data[at:at] = data[at : at + dice.randrange(100)]
        yield bytes(data[:65000])


def open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def test_calls_go_on_among_broken_packets(
    place: Callable[..., tuple[ServerProcess, tuple[str, int]]], phones: Callable[..., Phone]
) -> None:
    """Two thousand faulty packets over UDP and all of RFC 4475 over TCP, with calls in between."""
    server, address = place()
    alice, bob, mallory = phones("alice", address), phones("bob", address), phones("mallory", address)
    # What can be relayed goes back to where it came from.
    assert alice.register().status == bob.register().status == mallory.register().status == 200
    files = 0
    for number, data in enumerate(broken_copies(2000, address, mallory.port)):
        mallory.send(data)
        if number % 100 == 99:
            # The server has read what came before when this is answered; the answers to the rest are thrown away.
            mallory.send(mallory.request("OPTIONS", f"sip:nobody@127.0.0.1:{address[1]}", call_id=f"mark{number}"))
            while mallory.receive().get("Call-ID") != f"mark{number}":
                pass
        if number % 500 == 499:
            call(alice, bob)
            # The first packets made the server look up names, and a resolver keeps files of its own.
            files = files or open_files(server)
    for data in MESSAGES.values():
        with socket.create_connection(address) as stream:
            stream.sendall(data)
    call(alice, bob)
    until(lambda: open_files(server) <= files + 4, 10.0, "giving files of closed connections back")
    assert "ERROR" not in server.log_text(), server.log_text()


def ended_while_sending(stream: socket.socket, most: int = 1 << 26) -> bool:
    """Whether the other side closes before `most` octets of one header went out."""
    try:
        for _ in range(0, most, 60000):
            stream.sendall(b"X: " + b"a" * 60000)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def test_a_header_without_end_and_half_open_connections_harm_nobody_else(
    place: Callable[..., tuple[ServerProcess, tuple[str, int]]], phones: Callable[..., Phone]
) -> None:
    """RFC 3261 §18.3, §26.3.2.4: one peer's endless or unfinished message costs only its own connection."""
    _, address = place()
    alice, bob = phones("alice", address), phones("bob", address)
    assert alice.register().status == bob.register().status == 200
    waiting = [socket.create_connection(address) for _ in range(100)]
    try:
        for stream in waiting:
            stream.sendall(b"INVITE sip:bob@127.0.0.1 SIP/2.0\r\nVia: ")
        call(alice, bob)
        with socket.create_connection(address) as stream:
            stream.settimeout(30)
            assert ended_while_sending(stream), "a head without end must end its connection"
        call(alice, bob)
        for stream in waiting:
            stream.settimeout(30)
            assert stream.recv(1) == b"", "an unfinished message must end its connection"
    finally:
        for stream in waiting:
            stream.close()


def test_forged_replies_do_not_end_a_call(
    place: Callable[..., tuple[ServerProcess, tuple[str, int]]], phones: Callable[..., Phone]
) -> None:
    """RFC 3261 §17.1.3: a reply counts for the transaction of its branch and CSeq method only, else it is dropped."""
    _, address = place()
    alice, bob, mallory = phones("alice", address), phones("bob", address), phones("mallory", address)
    assert bob.register().status == 200
    invite = alice.request("INVITE", f"sip:bob@127.0.0.1:{address[1]}")
    alice.send(invite)
    received = bob.expect("INVITE")
    forged = Received(received.raw, received.source)
    own = received["Via"]
    for branch in ("z9hG4bK", "z9hG4bK0.0", own.partition("branch=")[2][:-1], own.partition("branch=")[2] + "1"):
        via = own.partition("branch=")[0] + "branch=" + branch
        text = mallory.reply(forged, 603, "Decline").replace(own, via, 1)
        mallory.send(text)
    mallory.send(mallory.reply(forged, 603, "Decline").replace(" INVITE\r\n", " BYE\r\n"))
    bob.send(bob.reply(received, 180, "Ringing"))
    alice.expect(180)
    bob.send(bob.reply(received, 200))
    alice.expect(200, skip=(100, 180))


def test_a_registration_of_too_many_contacts_is_refused_whole(
    place: Callable[..., tuple[ServerProcess, tuple[str, int]]], phones: Callable[..., Phone]
) -> None:
    """RFC 3261 §10.3: contacts are taken all or not at all; `max_contacts` answers 503 as the manual says."""
    _, address = place()
    mallory, alice = phones("mallory", address), phones("alice", address)
    many = ", ".join(f"<sip:m{number}@127.0.0.1:{number + 1}>" for number in range(500))
    text = mallory.request("REGISTER", "sip:127.0.0.1", to="<sip:mallory@127.0.0.1>")
    mallory.send(text.replace(f"Contact: {mallory.contact}", f"Contact: {many}"))
    assert mallory.receive().status >= 400
    alice.send(alice.request("INVITE", f"sip:mallory@127.0.0.1:{address[1]}"))
    assert alice.expect(404).status == 404


@pytest.mark.parametrize("length", ["-1", "abc", "99999999999", "0, 0", "0\r\nContent-Length: 7"])
def test_a_length_that_cannot_be_is_answered_and_ends_the_stream(
    place: Callable[..., tuple[ServerProcess, tuple[str, int]]], length: str
) -> None:
    """RFC 3261 §18.3: what follows cannot be found again, so the connection ends; RFC 4475 §3.1.2.2."""
    _, address = place()
    with socket.create_connection(address) as stream:
        stream.settimeout(30)
        port = stream.getsockname()[1]
        stream.sendall(
            f"OPTIONS sip:bob@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:{port};branch=z9hG4bKlength\r\n"
            "Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:bob@127.0.0.1>\r\nCall-ID: length\r\n"
            f"CSeq: 1 OPTIONS\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        received = b""
        while data := stream.recv(4096):
            received += data
        assert received == b"" or received.startswith(b"SIP/2.0 400 "), received


def test_garbage_at_the_http_door_is_one_line_in_the_log(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int]
) -> None:
    """What is no HTTP is refused with a status of RFC 9110 §15.5, and no traceback tells of it."""
    http = free_port()
    doors = f'loadmodule "httpd.so"\nmodparam("httpd", "port", {http})\nloadmodule "mi_http.so"\nroute {{'
    script = SCRIPT.replace("PORT", str(free_port())).replace("ERROR_ROUTE", "").replace("route {", doors)
    server = start_server(script)
    for garbage in (b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20000 + b"\r\n", b"GET\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", http)) as stream:
            stream.settimeout(30)
            stream.sendall(garbage)
            assert b" 400 " in stream.recv(100), garbage[:20]
    lines = server.log_text().splitlines()
    assert all(line[:1].isupper() and "[" in line for line in lines), "\n".join(lines)
