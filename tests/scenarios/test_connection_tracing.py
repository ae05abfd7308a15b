"""What a collector of HEP is told of connections, by this server and, where the environment names it, by the C server.

Both play the same connections; each packet is compared chunk by chunk. What differs on purpose is named here:

- this server never sends the master key of TLS, with which whoever has recorded a connection could read it;
- a connection that has ended is told of with its ends, where the C server writes 127.0.0.2 and port 0;
- where a WebSocket handshake fails, its request and reply are told of, too;
- what a WebSocket of ours says to a server is told of; the C server leaves that out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tests.certificates import Authority
from tests.ports import free_port
from tests.scenarios.server import ServerProcess
from tests.scenarios.wires import connect

PROTOCOLS = ("tcp", "tls", "ws", "wss")
PATIENCE_S = 20.0
HAS_C = bool(os.environ.get("OPENSIPS") and os.environ.get("OPENSIPS_MODULES"))
SCRIPT = """
log_level=3
stderror_enabled=yes
{c_head}
{sockets}
loadmodule "proto_udp.so"
{tcp}
loadmodule "proto_hep.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
loadmodule "proto_tls.so"
loadmodule "proto_ws.so"
loadmodule "proto_wss.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "mi_datagram.so"
modparam("mi_datagram", "socket_name", "udp:127.0.0.1:{commands}")
modparam("mi_datagram", "trace_destination", "homer")
modparam("mi_datagram", "trace_bwlist", "w: version")
modparam("proto_hep", "hep_id", "[homer] {homer}; version=3")
modparam("proto_hep", "homer5_on", {homer5})
modparam("proto_hep", "hep_capture_id", 77)
modparam("proto_tcp", "tcp_async", 0)
modparam("tls_mgm", "server_domain", "in")
modparam("tls_mgm", "match_ip_address", "[in]*")
modparam("tls_mgm", "match_sip_domain", "[in]*")
modparam("tls_mgm", "certificate", "[in]{server.cert}")
modparam("tls_mgm", "private_key", "[in]{server.key}")
modparam("tls_mgm", "ca_list", "[in]{authority.path}")
modparam("tls_mgm", "verify_cert", "[in]1")
modparam("tls_mgm", "require_cert", "[in]0")
modparam("tls_mgm", "client_domain", "out")
modparam("tls_mgm", "match_ip_address", "[out]*")
modparam("tls_mgm", "match_sip_domain", "[out]*")
modparam("tls_mgm", "certificate", "[out]{client.cert}")
modparam("tls_mgm", "private_key", "[out]{client.key}")
modparam("tls_mgm", "ca_list", "[out]{authority.path}")
modparam("tls_mgm", "verify_cert", "[out]1")
modparam("tls_mgm", "require_cert", "[out]0")
{tracing}
route {{
    if ($rU == "forward") {{
        $du = $hdr(X-To);
        t_relay();
        exit;
    }}
    sl_send_reply(200, "OK");
    exit;
}}
{more}
"""


def chunks_of(data: bytes) -> dict[int, bytes]:
    """The chunks of a packet of HEP 3 by their types."""
    assert data[:4] == b"HEP3"
    assert struct.unpack(">H", data[4:6])[0] == len(data)
    found: dict[int, bytes] = {}
    at = 6
    while at < len(data):
        vendor, kind, length = struct.unpack(">HHH", data[at : at + 6])
        assert vendor == 0
        assert kind not in found
        found[kind] = data[at + 6 : at + length]
        at += length
    return found


class Told:
    """One packet."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.chunks = chunks_of(data)
        self.payload = self.chunks[15].decode("utf-8", "replace")
        self.parts: dict[str, str] = json.loads(self.payload) if self.payload.startswith("{") else {}
        self.source = (socket.inet_ntoa(self.chunks[3]), struct.unpack(">H", self.chunks[7])[0])
        self.destination = (socket.inet_ntoa(self.chunks[4]), struct.unpack(">H", self.chunks[8])[0])
        self.correlation = self.chunks[17].decode()

    def fixed(self) -> dict[int, bytes]:
        """The chunks that are the same each time."""
        return {kind: self.chunks[kind] for kind in (1, 2, 11, 12)}


class Site:
    """One of the two servers, and its collector."""

    def __init__(self, own: bool, folder: Path, homer5: int = 0, filtered: bool = False, homer: str = "") -> None:
        """homer: where a collector is, and how it is reached; else it is the one here."""
        folder.mkdir()
        self.own = own
        self.folder = folder
        self._ended: set[str] = set()
        self.asked_from = ("", 0)
        self.authority = Authority(folder)
        self.server = self.authority.issue("server.test")
        self.client = self.authority.issue("client.test")
        self.ports = {proto: free_port() for proto in ("udp", *PROTOCOLS)}
        self.commands = free_port()
        self._collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._collector.bind(("127.0.0.1", 0))
        self._collector.settimeout(PATIENCE_S)
        sockets = "".join(f"socket={proto}:127.0.0.1:{port}\n" for proto, port in self.ports.items())
        tracing = ""
        for proto in PROTOCOLS:
            tracing += f'modparam("proto_{proto}", "trace_destination", "homer")\n'
            tracing += f'modparam("proto_{proto}", "trace_on", 1)\n'
            if filtered:
                tracing += f'modparam("proto_{proto}", "trace_filter_route", "filter")\n'
        c_head = f'udp_workers=1\ntcp_workers=1\nmpath="{os.environ.get("OPENSIPS_MODULES")}/"'
        text = SCRIPT.format(
            c_head="" if own else c_head,
            # It is no module file there, and HEP packets leave from a listening point.
            tcp='loadmodule "proto_tcp.so"',
            sockets=sockets if own else sockets + f"socket=hep_udp:127.0.0.1:{free_port()}\n",
            commands=self.commands,
            homer=homer or f"127.0.0.1:{self._collector.getsockname()[1]}; transport=udp",
            homer5=homer5,
            server=self.server,
            client=self.client,
            authority=self.authority,
            tracing=tracing,
            more=FILTER if filtered else "",
        )
        path = folder / "script.cfg"
        path.write_text(text, encoding="utf-8")
        self._log = folder / "c.log"
        self._own: ServerProcess | None = None
        self._c: subprocess.Popen[bytes] | None = None
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        if own:
            self._own = ServerProcess(path, folder)
            self._own.start()
            return
        command = [os.environ["OPENSIPS"], "-F", "-f", str(path), "-w", str(folder), "-m", "64", "-M", "16"]
        with self._log.open("ab") as log:
            self._c = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder
            )
        end = time.monotonic() + PATIENCE_S
        self._udp.settimeout(0.3)
        while True:
            assert self._c.poll() is None, self.log_text()[-3000:]
            assert time.monotonic() < end, self.log_text()[-3000:]
            self._udp.sendto(self.options("x", "UDP"), ("127.0.0.1", self.ports["udp"]))
            try:
                self._udp.recv(65535)
            except OSError:
                continue
            return

    def log_text(self) -> str:
        return self._own.log_text() if self._own is not None else self._log.read_text("utf-8", "replace")

    def context(self) -> ssl.SSLContext:
        """Of a client that shows a certificate."""
        made = ssl.create_default_context(cafile=str(self.authority.path))
        made.check_hostname = False
        made.load_cert_chain(self.client.cert, self.client.key)
        return made

    def options(self, user: str, transport: str, to: str = "") -> bytes:
        return (
            f"OPTIONS sip:{user}@127.0.0.1 SIP/2.0\r\n"
            f"Via: SIP/2.0/{transport} 127.0.0.1:5090;branch=z9hG4bK{time.monotonic_ns()};rport\r\n"
            "Max-Forwards: 5\r\nFrom: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:b@127.0.0.1>\r\n"
            f"Call-ID: trace-{time.monotonic_ns()}\r\nCSeq: 1 OPTIONS\r\nX-To: {to}\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    def visit(self, proto: str) -> tuple[str, int]:
        """Come with a connection, ask something over it, and go; our end."""
        wire = connect(proto, ("127.0.0.1", self.ports[proto]), "127.0.0.1", self.context())
        wire.send(self.options("x", proto.upper()))
        assert wire.read().startswith(b"SIP/2.0 200")
        wire.close()
        return wire.address

    def forward(self, uri: str) -> None:
        """Let the server send a request somewhere."""
        self._udp.sendto(self.options("forward", "UDP", uri), ("127.0.0.1", self.ports["udp"]))

    def next(self) -> Told:
        """The next packet of a connection that had not ended: the C server tells of some ends twice."""
        while True:
            told = Told(self._collector.recv(65535))
            if told.correlation not in self._ended:
                return told

    def until_closed(self) -> list[Told]:
        """All that comes up to the end of a connection."""
        found = [self.next()]
        while found[-1].parts.get("Event", "") != "CLOSED" and ":CLOSED:" not in found[-1].payload:
            found.append(self.next())
        self._ended.add(found[-1].correlation)
        return found

    def command(self, name: str, *params: str) -> Any:
        """Ask for a management command; its result, or its error."""
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": name}
        if params:
            request["params"] = list(params)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(PATIENCE_S)
            asker.bind(("127.0.0.1", 0))
            asker.sendto(json.dumps(request).encode(), ("127.0.0.1", self.commands))
            answer = json.loads(asker.recv(65535))
            self.asked_from = asker.getsockname()
        return answer.get("result", answer.get("error"))

    def stop(self) -> None:
        self._collector.close()
        self._udp.close()
        if self._own is not None:
            self._own.stop()
        if self._c is not None:
            if self._c.poll() is None:
                os.killpg(self._c.pid, signal.SIGKILL)
            self._c.wait()


FILTER = """
route[filter] {
    if ($si == "127.0.0.1" && $socket_in(ip) == "127.0.0.1" && $socket_in(proto) != "ws")
        exit;
    drop;
}
"""


@pytest.fixture(scope="module", params=["own", pytest.param("c", marks=pytest.mark.skipif(not HAS_C, reason="no C"))])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(request.param == "own", tmp_path_factory.mktemp("tracing") / request.param)
    try:
        yield made
    finally:
        made.stop()


NAMES = {
    "server-subject": "/CN=server.test",
    "server-issuer": "/CN=Test Authority",
}
PEER_NAMES = {"client-subject": "/CN=client.test", "client-issuer": "/CN=Test Authority"}
NUMBERS = {"tcp": 6, "tls": 22, "ws": 50, "wss": 50}


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_a_connection_that_comes_and_goes(site: Site, proto: str) -> None:
    address = site.visit(proto)
    opened, closed = site.until_closed()
    for told in (opened, closed):
        assert told.fixed() == {1: b"\x02", 2: bytes([NUMBERS[proto]]), 11: b"\x59", 12: struct.pack(">I", 77)}
        assert set(told.chunks) == {1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 15, 17}
    assert opened.correlation == closed.correlation
    assert 0 < int(opened.correlation) < 1 << 64
    assert opened.source == address
    assert opened.destination == ("127.0.0.1", site.ports[proto])
    parts = dict(opened.parts)
    if proto in ("tls", "wss"):
        assert {name: parts.pop(name) for name in NAMES} == NAMES
        for name, text in PEER_NAMES.items():
            # A certificate that was sent is told of; C servers learn of it too late where TLS 1.3 is spoken.
            assert parts.pop(name, None if site.own else text) == text
        if not site.own:
            parts.pop("master-key")
    if proto in ("ws", "wss"):
        asked, answered = parts.pop("Ws-Request"), parts.pop("Ws-Reply")
        assert asked.startswith("GET / HTTP/1.1\r\nHost: ")
        assert "\r\nOrigin: http://app.test\r\n" in asked
        assert asked.endswith("\r\n\r\n")
        assert answered.startswith("HTTP/1.1 101 Switching Protocols\r\nUpgrade: ")
        assert "\r\nSec-WebSocket-Protocol: sip\r\n" in answered
        assert answered.endswith("\r\n\r\n")
    assert parts == {
        "Protocol": proto.upper(),
        "Event": "ACCEPTED",
        "Status": "SUCCESS",
        "Message": "Connection accepted...",
    }
    assert closed.parts == {
        "Protocol": proto.upper(),
        "Event": "CLOSED",
        "Status": "SUCCESS",
        "Message": "EOF received",
    }
    if site.own:
        assert (closed.source, closed.destination) == (opened.source, opened.destination)


def test_a_connection_of_ours(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        name = listener.getsockname()
        site.forward(f"sip:127.0.0.1:{name[1]};transport=tcp")
        made, address = listener.accept()
        made.recv(65535)
        made.close()
        connected, closed = site.until_closed()
    assert connected.source == name
    assert connected.destination == (address if site.own else ("127.0.0.1", 0))
    assert connected.parts == {
        "Protocol": "TCP",
        "Event": "CONNECTED",
        "Status": "SUCCESS",
        "Message": "Successfully connected...",
    }
    assert closed.parts["Message"] == "EOF received"
    assert closed.correlation == connected.correlation


@pytest.mark.parametrize("trusted", [True, False])
def test_a_connection_of_ours_over_tls(site: Site, trusted: bool, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown = site.server if trusted else Authority(tmp_path, "Stranger").issue("stranger.test")
    context.load_cert_chain(shown.cert, shown.key)
    context.load_verify_locations(site.authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        name = listener.getsockname()
        site.forward(f"sip:127.0.0.1:{name[1]};transport=tls")
        made, _ = listener.accept()
        made.settimeout(PATIENCE_S)
        if trusted:
            secure = context.wrap_socket(made, server_side=True)
            assert secure.recv(7) == b"OPTIONS"
            secure.close()
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
                context.wrap_socket(made, server_side=True)
        connected, closed = site.until_closed()
    assert connected.source == name
    assert connected.correlation == closed.correlation
    parts = dict(connected.parts)
    message = parts.pop("Message")
    if trusted:
        assert message.startswith("Successfully connected")
        assert parts == {
            "Protocol": "TLS",
            "client-subject": "/CN=server.test",
            "client-issuer": "/CN=Test Authority",
            "server-subject": "/CN=client.test",
            "server-issuer": "/CN=Test Authority",
            "Event": "CONNECTED",
            "Status": "SUCCESS",
        }
    else:
        assert "certificate" in message
        assert parts == {
            "Protocol": "TLS",
            "server-subject": "/CN=client.test",
            "server-issuer": "/CN=Test Authority",
            "Event": "CONNECTED",
            "Status": "FAILURE",
        }


def test_what_is_no_tls(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.ports["tls"])) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        failed, closed = site.until_closed()
        assert failed.source == stranger.getsockname()
    assert failed.parts["Event"] == "ACCEPTED"
    assert failed.parts["Status"] == "FAILURE"
    assert failed.parts["Message"]
    assert failed.correlation == closed.correlation


def test_management_commands(site: Site) -> None:
    for proto in PROTOCOLS:
        for name in (f"{proto}:trace", f"{proto}_trace"):
            assert site.command(name) == {f"{proto.upper()} tracing": "on"}
    assert site.command("tls:trace", "OFF") == "OK"
    assert site.command("tls:trace") == {"TLS tracing": "off"}
    assert site.command("tls:trace", "maybe")["code"] == 500
    site.visit("tls")
    # What comes next is of another connection.
    site.visit("tcp")
    assert [told.parts["Protocol"] for told in site.until_closed()] == ["TCP", "TCP"]
    assert site.command("tls:trace", "on") == "OK"
    site.visit("tls")
    assert [told.parts["Protocol"] for told in site.until_closed()] == ["TLS", "TLS"]


def test_a_handshake_of_websocket_that_fails(site: Site) -> None:
    """RFC 6455 section 4.2.2. What may be a secret stays here: cookies, passwords, queries, tokens as subprotocols."""
    with socket.create_connection(("127.0.0.1", site.ports["ws"])) as browser:
        browser.settimeout(PATIENCE_S)
        browser.sendall(
            b"GET /sip?token=hidden1 HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: X19kUzjKm5P836OzpTsClw==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: sip, hidden2\r\nCookie: id=hidden3\r\nAuthorization: Basic hidden4\r\n\r\n"
        )
        assert browser.recv(9).startswith(b"HTTP/1.1 ")
        told = site.until_closed()
    if not site.own:
        assert [one.parts["Event"] for one in told] == ["CLOSED"]
        return
    failed, closed = told
    assert b"hidden" not in failed.data + closed.data
    assert failed.parts["Ws-Request"] == (
        "GET /sip?... HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: X19kUzjKm5P836OzpTsClw==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: sip, ...\r\nCookie: ...\r\nAuthorization: ...\r\n\r\n"
    )
    assert failed.parts["Ws-Reply"].startswith("HTTP/1.1 403 Forbidden\r\n")
    assert (failed.parts["Event"], failed.parts["Status"]) == ("ACCEPTED", "FAILURE")
    assert "Origin" in failed.parts["Message"]


@pytest.fixture(params=["own", pytest.param("c", marks=pytest.mark.skipif(not HAS_C, reason="no C"))])
def plain_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(request.param == "own", tmp_path / request.param, homer5=1)
    try:
        yield made
    finally:
        made.stop()


def test_homer_5_reads_texts(plain_site: Site) -> None:
    plain_site.visit("tcp")
    assert [told.payload for told in plain_site.until_closed()] == [
        "TCP:ACCEPTED:SUCCESS:Connection accepted...",
        "TCP:CLOSED:SUCCESS:EOF received",
    ]
    plain_site.visit("ws")
    opened, closed = plain_site.until_closed()
    assert opened.payload.startswith("WS:ACCEPTED:GET / HTTP/1.1\r\n")
    assert "\r\n\r\n:SUCCESS:HTTP/1.1 101 Switching Protocols\r\n" in opened.payload
    assert opened.payload.endswith("\r\n\r\n:Connection accepted...")
    assert closed.payload == "WS:CLOSED:SUCCESS:EOF received"


def test_a_route_chooses_what_is_traced(tmp_path: Path) -> None:
    """The C server does not survive a trace_filter_route, so this is what its manual says."""
    site = Site(True, tmp_path / "own", filtered=True)
    try:
        site.visit("ws")
        site.visit("tcp")
        assert [told.parts["Protocol"] for told in site.until_closed()] == ["TCP", "TCP"]
        site.visit("ws")
        site.visit("wss")
        assert [told.parts["Protocol"] for told in site.until_closed()] == ["WSS", "WSS"]
    finally:
        site.stop()


def test_management_commands_are_copied(site: Site) -> None:
    """The C server says of datagrams too that they came over TCP."""
    result = site.command("version")
    asked, answered = site.next(), site.next()
    assert asked.fixed() == answered.fixed() == {1: b"\x02", 2: b"\x06", 11: b"\x57", 12: struct.pack(">I", 77)}
    assert (asked.source, asked.destination) == (site.asked_from, ("127.0.0.1", site.commands))
    assert (answered.source, answered.destination) == (asked.destination, asked.source)
    assert asked.parts == {"command": "version", "backend": "datagram"}
    assert json.loads(answered.parts["reply"]) == {"jsonrpc": "2.0", "result": result, "id": 1}
    assert asked.correlation == answered.correlation
    assert asked.correlation.startswith("MICORR")
    assert set(asked.chunks) == set(answered.chunks) == {1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 15, 17}


def test_what_we_say_to_a_websocket_server(tmp_path: Path) -> None:
    """RFC 7118 section 4: our request, and the reply of a server that speaks SIP or does not."""
    site = Site(True, tmp_path / "own")
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE_S)
            site.forward(f"sip:127.0.0.1:{listener.getsockname()[1]};transport=ws")
            made, address = listener.accept()
            with made:
                made.settimeout(PATIENCE_S)
                asked = made.recv(65535).decode()
                made.sendall(b"HTTP/1.1 404 Not Found\r\nSet-Cookie: hidden\r\nContent-Length: 0\r\n\r\n")
                failed, closed = site.until_closed()
        assert failed.destination == address
        assert failed.parts["Ws-Request"] == asked
        assert failed.parts["Ws-Reply"] == "HTTP/1.1 404 Not Found\r\nSet-Cookie: ...\r\nContent-Length: 0\r\n\r\n"
        assert (failed.parts["Event"], failed.parts["Status"]) == ("CONNECTED", "FAILURE")
        assert closed.parts["Event"] == "CLOSED"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            site.forward(f"sip:127.0.0.1:{port};transport=ws")
            made, _ = listener.accept()
            protocol = ServerProtocol(subprotocols=[Subprotocol("sip")])
            with made:
                made.settimeout(PATIENCE_S)
                protocol.receive_data(made.recv(65535))
                (request,) = protocol.events_received()
                assert isinstance(request, Request)
                protocol.send_response(protocol.accept(request))
                made.sendall(b"".join(protocol.data_to_send()))
                connected = site.next()
        assert (connected.parts["Event"], connected.parts["Status"]) == ("CONNECTED", "SUCCESS")
        assert connected.parts["Ws-Reply"].startswith("HTTP/1.1 101 Switching Protocols\r\n")
        # Nobody listens there any more.
        site.until_closed()
        site.forward(f"sip:127.0.0.1:{port};transport=tcp")
        refused, closed = site.until_closed()
        assert (refused.parts["Event"], refused.parts["Status"]) == ("CONNECTED", "FAILURE")
        assert "refused" in refused.parts["Message"]
    finally:
        site.stop()


def test_a_collector_that_reads_nothing_delays_no_message(tmp_path: Path) -> None:
    """It does not even accept the connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        site = Site(True, tmp_path / "own", homer=f"127.0.0.1:{silent.getsockname()[1]}; transport=tcp")
        try:
            wires = [connect("ws", ("127.0.0.1", site.ports["ws"]), "127.0.0.1", site.context()) for _ in range(400)]
            for wire in wires:
                wire.send(site.options("x", "WS"))
            for wire in wires:
                assert wire.read().startswith(b"SIP/2.0 200")
                wire.close()
        finally:
            site.stop()
