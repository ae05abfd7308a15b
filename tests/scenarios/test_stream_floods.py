"""Peers of a running server that send without end, or never end what they began: others do not notice."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import ssl
import struct
import subprocess
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli.db import create
from tests.certificates import Authority
from tests.ports import free_port
from tests.scenarios.peer import Phone, until
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
socket=udp:127.0.0.1:@udp@
socket=tcp:127.0.0.1:@tcp@
socket=tcp:127.0.0.1:@balanced@ allow_proxy_protocol
socket=tls:127.0.0.1:@tls@
socket=ws:127.0.0.1:@ws@
tcp_max_connections=120
tcp_max_msg_time=1
db_default_url="sqlite:@database@"
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "db_sqlite.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
modparam("tls_mgm", "server_domain", "home")
modparam("tls_mgm", "certificate", "[home]@cert@")
modparam("tls_mgm", "private_key", "[home]@key@")
modparam("tls_mgm", "ca_list", "[home]@ca@")
modparam("tls_mgm", "verify_cert", "[home]1")
modparam("tls_mgm", "require_cert", "[home]0")
loadmodule "proto_tls.so"
loadmodule "proto_ws.so"
modparam("proto_ws", "require_origin", 0)
loadmodule "tcp_mgm.so"
modparam("tcp_mgm", "db_url", "sqlite:@database@")
loadmodule "sl.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
modparam("httpd", "port", @http@)
route {
	if (is_peer_verified())
		sl_send_reply(200, "Verified");
	else
		sl_send_reply(200, "Here");
}
"""
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: sip\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


class Site:
    """The server, its ports by name, and who signs certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        identity = self.authority.issue("home.test")
        self.ports = {name: free_port() for name in ("udp", "tcp", "balanced", "tls", "ws", "http")}
        self.database = folder / "tables.sqlite"
        create(f"sqlite:{self.database}", ["tcp_mgm"])
        values = {**self.ports, "database": self.database, "cert": identity.cert, "key": identity.key}
        text = SCRIPT
        for name, value in {**values, "ca": self.authority.path}.items():
            text = text.replace(f"@{name}@", str(value))
        (folder / "opensips.cfg").write_text(text)
        self.server = ServerProcess(folder / "opensips.cfg", folder)

    def connect(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), 30)

    def secure(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        return context.wrap_socket(self.connect("tls"), server_hostname="home.test")

    def web(self) -> socket.socket:
        made = self.connect("ws")
        made.sendall(HANDSHAKE)
        head = b""
        while b"\r\n\r\n" not in head:
            head += made.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"permessage-deflate" not in head
        return made

    def mi(self, method: str) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        url = f"http://127.0.0.1:{self.ports['http']}/mi"
        with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=30) as answer:
            return json.load(answer)["result"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("floods"))
    made.server.start()
    yield made
    made.server.stop()
    assert "Traceback" not in made.server.log_text(), made.server.log_text()


@pytest.fixture
def site(house: Site) -> Iterator[Site]:
    """The server without anybody's connections."""
    yield house
    until(lambda: not house.mi("tcp:list")["Connections"], what="the end of all connections")


@pytest.fixture
def phone(house: Site) -> Iterator[Phone]:
    made = Phone("alice", ("127.0.0.1", house.ports["udp"]))
    yield made
    made.close()


def served(phone: Phone) -> None:
    phone.send(phone.request("OPTIONS", "sip:home.test"))
    phone.expect(200)


def options(proto: str, number: int) -> bytes:
    return (
        f"OPTIONS sip:home.test SIP/2.0\r\nVia: SIP/2.0/{proto} 127.0.0.1:9;rport;branch=z9hG4bK{number}\r\n"
        f"From: <sip:a@home.test>;tag=1\r\nTo: <sip:home.test>\r\nCall-ID: {number}\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def ends(made: socket.socket) -> bool:
    """Whether the server closes, whatever it says before."""
    made.settimeout(30)
    try:
        while made.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def sends_until_closed(made: socket.socket, data: bytes, most: int) -> bool:
    """Whether the server closes before it has taken `most` octets whose answers nobody reads."""
    made.settimeout(30)
    try:
        for _ in range(0, most, len(data)):
            made.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def frame(first: int, data: bytes) -> bytes:
    """A masked frame of RFC 6455 §5.2; first: its first octet."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0xFE, len(data))
    return bytes([first]) + length + bytes(4) + data


def test_a_flood_without_end_keeps_nobody_from_being_served(site: Site, phone: Phone) -> None:
    """Requests as fast as they are taken over one connection, whose answers are read: others are served all along."""
    enough = threading.Event()
    heard = threading.Event()
    flood = b"".join(options("TCP", number) for number in range(500))

    def listen(made: socket.socket) -> None:
        with suppress(OSError):
            while made.recv(1 << 20):
                heard.set()

    def send(made: socket.socket) -> None:
        while not enough.is_set():
            made.sendall(flood)
        made.shutdown(socket.SHUT_WR)

    with site.connect("tcp") as flooding, site.connect("tcp") as calm:
        threads = [threading.Thread(target=task, args=(flooding,)) for task in (listen, send)]
        for thread in threads:
            thread.start()
        try:
            assert heard.wait(30)
            for number in range(10):
                served(phone)
                calm.sendall(options("TCP", 100_000 + number))
                assert calm.recv(4096).startswith(b"SIP/2.0 200 ")
        finally:
            enough.set()
            for thread in threads:
                thread.join(60)


@pytest.mark.parametrize(
    "data",
    [b"\r\n\r\n" * 15000, b"".join(options("TCP", number) for number in range(200))],
    ids=["pings", "requests"],
)
def test_answers_that_nobody_reads_end_the_connection(site: Site, phone: Phone, data: bytes) -> None:
    """`tcp_async_max_postponed_chunks`: what waits for one peer is bounded, and the log tells of it."""
    with site.connect("tcp") as deaf:
        assert sends_until_closed(deaf, data, 1 << 28)
    served(phone)
    assert "bytes wait for it" in site.server.log_text()


def test_pings_of_websocket_that_nobody_reads(site: Site, phone: Phone) -> None:
    """RFC 6455 §5.5.2 asks for a Pong each; a peer that does not read them is given up."""
    with site.web() as deaf:
        assert sends_until_closed(deaf, frame(0x89, b"p" * 125) * 500, 1 << 28)
    served(phone)


def test_what_would_unpack_to_any_size(site: Site, phone: Phone) -> None:
    """RFC 7692 was not agreed on: a compressed frame ends the connection, as does a length beyond all limits."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(40_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
    for hostile in (frame(0xC1, packed[:60000]), b"\x81\xff" + struct.pack("!Q", 1 << 62) + bytes(4) + b"x"):
        with site.web() as made:
            made.sendall(hostile)
            assert ends(made)
    served(phone)


def test_fragments_that_never_end(site: Site, phone: Phone) -> None:
    """RFC 6455 §5.4: a message may come in parts, but not in any number, nor over any time (`tcp_max_msg_time`)."""
    with site.web() as made, site.web() as slow:
        slow.sendall(frame(0x01, b"OPTIONS"))
        made.sendall(frame(0x01, b"x") + frame(0x00, b"") * 200)
        assert ends(made)
        served(phone)
        assert ends(slow)


UNFINISHED = {
    "silence": ("tls", b""),
    "half a hello": ("tls", b"\x16\x03\x01\x00\x05\x01\x00\x10\x00\x03"),
    "crumbs": ("tls", b"".join(b"\x16\x03\x01\x00\x01" + bytes([n]) for n in b"\x01\x00\x10\x00" + b"z" * 100)),
    "half a line": ("balanced", b"PROXY TCP4 127.0."),
    "half a header": ("balanced", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x07\x00"),
    "no line": ("balanced", b"PROXY " + b"1" * 200),
    "head": ("tcp", b"OPTIONS sip:home.test SIP/2.0\r\nVia: "),
    "body": ("tcp", b"OPTIONS sip:home.test SIP/2.0\r\nContent-Length: 60000\r\n\r\nbody"),
    "handshake": ("ws", b"GET / HTTP/1.1\r\nHost: "),
}


def test_what_has_begun_has_to_end(site: Site, phone: Phone) -> None:
    """`tcp_max_msg_time`, and the same for handshakes and the PROXY protocol."""
    made = {what: site.connect(name) for what, (name, _) in UNFINISHED.items()}
    for what, (_, data) in UNFINISHED.items():
        made[what].sendall(data)
    served(phone)
    for what, each in made.items():
        assert ends(each), what
        each.close()
    served(phone)


def test_no_more_connections_than_there_may_be(site: Site, phone: Phone) -> None:
    """`tcp_max_connections`, and a part of them for one address: those who are there are served, a few lines tell."""
    lines = site.server.log_text().count("refused")
    made = [site.connect("tcp") for _ in range(400)]
    made[0].sendall(options("TCP", 1))
    assert made[0].recv(4096).startswith(b"SIP/2.0 200 ")
    assert ends(made[-1])
    served(phone)
    assert len(site.mi("tcp:list")["Connections"]) == 30
    assert site.server.log_text().count("refused") - lines < 50
    for each in made:
        each.close()
    until(lambda: not site.mi("tcp:list")["Connections"], what="the end of all connections")
    with site.connect("tcp") as late:
        late.sendall(options("TCP", 2))
        assert late.recv(4096).startswith(b"SIP/2.0 200 ")


def test_a_verified_peer(site: Site) -> None:
    """tls_mgm manual, is_peer_verified: a certificate of the authority, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(site.authority.path)
    for expected in (b"SIP/2.0 200 Here", b"SIP/2.0 200 Verified"):
        with site.secure(context) as made:
            made.sendall(options("TLS", 1))
            assert made.recv(4096).startswith(expected)
        own = site.authority.issue("phone.test")
        context.load_cert_chain(own.cert, own.key)


def test_no_second_handshake(site: Site, phone: Phone) -> None:
    """RFC 5246 §7.2.2, no_renegotiation: a client could ask for the dearest part of TLS again and again."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.ports['tls']}", "-tls1_2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        said = b""
        while b"Extended master secret" not in said:
            said += client.stdout.read(4096)
            assert client.poll() is None, said
        client.stdin.write(b"R\n")
        while piece := client.stdout.read(4096):
            said += piece
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said
    served(phone)


def test_times_of_connections_from_a_table(site: Site) -> None:
    """tcp_mgm manual, tcp_mgm:reload: connections made afterwards live as long as the row says."""
    with closing(sqlite3.connect(site.database)) as connection, connection:
        connection.execute(
            "INSERT INTO tcp_mgm (proto, remote_addr, remote_port, local_port, con_lifetime) VALUES (?, ?, 0, ?, 1)",
            ("tcp", "127.0.0.1", site.ports["tcp"]),
        )
    assert site.mi("tcp_mgm:reload") == "OK"
    with site.connect("tcp") as made:
        made.sendall(options("TCP", 1))
        assert made.recv(4096).startswith(b"SIP/2.0 200 ")
        assert ends(made)
    with closing(sqlite3.connect(site.database)) as connection, connection:
        connection.execute("DELETE FROM tcp_mgm")
    site.mi("tcp_mgm:reload")
