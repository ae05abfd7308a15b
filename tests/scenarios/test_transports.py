"""Calls between all transports, over IPv4 and IPv6, through one server with double Record-Route."""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.ports import free_port
from tests.scenarios.peer import Received
from tests.scenarios.server import ServerProcess, shipped
from tests.scenarios.wires import Dialog, End, StreamWire, connect, flat, target_of

pytestmark = pytest.mark.scenario

PROTOCOLS = ("udp", "tcp", "tls", "ws", "wss")
ADDRESSES = {"v4": "127.0.0.1", "v6": "::1"}
KINDS = tuple(itertools.product(PROTOCOLS, ADDRESSES))

SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
tcp_connect_timeout=3000
SOCKETS
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
modparam("tls_mgm", "server_domain", "home")
modparam("tls_mgm", "certificate", "[home]CERT")
modparam("tls_mgm", "private_key", "[home]KEY")
modparam("tls_mgm", "verify_cert", "[home]0")
modparam("tls_mgm", "client_domain", "out")
modparam("tls_mgm", "verify_cert", "[out]0")
loadmodule "proto_tls.so"
loadmodule "proto_ws.so"
loadmodule "proto_wss.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 30)
loadmodule "rr.so"
modparam("rr", "enable_double_rr", 1)
loadmodule "sipmsgops.so"
loadmodule "mi_fifo.so"
modparam("mi_fifo", "fifo_name", "FIFO")
route {
    if (is_method("OPTIONS")) {
        sl_send_reply(200, "$socket_in(proto) $tls_version");
        exit;
    }
    if (has_totag()) {
        if (!loose_route() && !is_method("ACK")) {
            sl_send_reply(404, "Not Here");
            exit;
        }
        t_relay();
        exit;
    }
    record_route();
    $du = $hdr(X-To);
    if (!t_relay())
        sl_reply_error();
}
"""


class House:
    """The server with a socket of each kind, and a caller and a callee on each."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        identity = authority.issue("home.test")
        self.ports: dict[tuple[str, str], int] = {}
        lines = []
        for proto, family in KINDS:
            port = free_port()
            self.ports[proto, family] = port
            shown = f"[{ADDRESSES[family]}]" if family == "v6" else ADDRESSES[family]
            lines.append(f"socket={proto}:{shown}:{port}")
        script = SCRIPT.replace("SOCKETS", "\n".join(lines)).replace("FIFO", str(folder / "fifo"))
        script = script.replace("CERT", str(identity.cert)).replace("KEY", str(identity.key))
        (folder / "opensips.cfg").write_text(script)
        self.server = ServerProcess(folder / "opensips.cfg", folder)
        self.server.start()
        self.client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client_context.check_hostname = False
        self.client_context.load_verify_locations(authority.path)
        self._ends: dict[tuple[str, str, str], End] = {}
        self.numbers = itertools.count(1)

    def end(self, user: str, proto: str, family: str) -> End:
        """A user agent that has introduced itself."""
        found = self._ends.get((user, proto, family))
        if found is None:
            address = ADDRESSES[family]
            wire = connect(proto, (address, self.ports[proto, family]), address, self.client_context)
            found = End(f"{user}-{proto}-{family}", proto, wire)
            self._ends[user, proto, family] = found
            lines = [f"From: <sip:{found.user}@home.test>;tag=1", "To: <sip:home.test>"]
            found.request("OPTIONS", "sip:home.test", lines, f"hello-{found.user}", 1)
            first = found.receive().first.split()
            assert first[1:3] == ["200", proto]
            assert (first[3] == "TLSv1.3") == (proto in ("tls", "wss"))
        return found

    def close(self) -> None:
        for end in self._ends.values():
            end.close()
        self.server.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("transports"))
    yield made
    made.close()
    assert "Traceback" not in made.server.log_text(), made.server.log_text()


def call(house: House, caller: End, callee: End) -> tuple[Dialog, Dialog, Received]:
    """Set a call up; both sides' views of it, and the INVITE as it came."""
    call_id = f"call-{next(house.numbers)}"
    local, remote = f"<sip:{caller.user}@home.test>;tag=c", f"<sip:{callee.user}@home.test>"
    caller.request(
        "INVITE", callee.contact, [f"From: {local}", f"To: {remote}", f"X-To: {callee.destination}"], call_id, 1
    )
    invite = callee.receive()
    assert invite.method == "INVITE"
    callee.answer(invite, 180, "d")
    assert caller.receive().status == 180
    callee.answer(invite, 200, "d")
    ok = caller.receive()
    assert (ok.status, ok["Call-ID"]) == (200, call_id)
    routes = flat(ok.all("Record-Route"))
    ours = Dialog(call_id, local, ok["To"], target_of(ok["Contact"]), routes[::-1], 1)
    theirs = Dialog(call_id, ok["To"], local, target_of(invite["Contact"]), flat(invite.all("Record-Route")), 100)
    caller.in_dialog("ACK", ours)
    assert callee.receive().method == "ACK"
    return ours, theirs, invite


def again(sender: End, receiver: End, dialog: Dialog, method: str) -> None:
    """A request within the call, and its answer."""
    sender.in_dialog(method, dialog)
    got = receiver.receive()
    assert got.method == method
    assert got.all("Route") == [], "the routes are ours and are taken off (RFC 3261 §16.4)"
    assert got.request_uri == receiver.contact
    receiver.answer(got, 200, "x")
    assert sender.receive().status == 200
    if method == "INVITE":
        sender.in_dialog("ACK", dialog)
        assert receiver.receive().method == "ACK"


@pytest.mark.parametrize(("callee_proto", "callee_family"), KINDS)
@pytest.mark.parametrize(("caller_proto", "caller_family"), KINDS)
def test_a_call_between_any_two(
    house: House, caller_proto: str, caller_family: str, callee_proto: str, callee_family: str
) -> None:
    """RFC 3261 §16.6, RFC 5658 §4: in-dialog requests of both sides come back the way that the call went."""
    caller = house.end("caller", caller_proto, caller_family)
    callee = house.end("callee", callee_proto, callee_family)
    ours, theirs, invite = call(house, caller, callee)
    assert f"SIP/2.0/{callee_proto.upper()} " in invite.all("Via")[0]
    same = (caller_proto, caller_family) == (callee_proto, callee_family)
    assert len(ours.routes) == (1 if same else 2)
    again(caller, callee, ours, "INVITE")
    again(callee, caller, theirs, "INVITE")
    again(callee, caller, theirs, "BYE")
    ours, theirs, _ = call(house, caller, callee)
    again(caller, callee, ours, "BYE")


def test_openssl_s_client_is_answered(house: House) -> None:
    """A real TLS client: chain, version and cipher agree, and its request is answered."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: openssl)")
    request = (
        "OPTIONS sip:home.test SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bKo\r\nMax-Forwards: 70\r\n"
        "From: <sip:o@home.test>;tag=1\r\nTo: <sip:home.test>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    port = house.ports["tls", "v4"]
    with subprocess.Popen(
        ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", "-servername", "home.test", "-tls1_2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(request.encode())
        client.stdin.flush()
        assert client.stdout.readline() == b"SIP/2.0 200 tls TLSv1.2\r\n"
        client.stdin.close()
        client.terminate()


def test_one_dead_peer_delays_nobody(house: House) -> None:
    """A TLS peer that accepts and stays silent, and one that begins a message and stops: other calls go on."""
    caller = house.end("caller", "udp", "v4")
    callee = house.end("callee", "wss", "v6")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        half = StreamWire(("127.0.0.1", house.ports["tcp", "v4"]), "127.0.0.1")
        half.send(b"INVITE sip:x SIP/2.0\r\nContent-Length: 60000\r\n\r\n")
        lines = [
            f"From: <sip:{caller.user}@home.test>;tag=z",
            "To: <sip:dead@home.test>",
            f"X-To: sip:127.0.0.1:{port};transport=tls",
        ]
        caller.request("INVITE", "sip:dead@home.test", lines, "dead-1", 1)
        ours, _, _ = call(house, caller, callee)
        again(caller, callee, ours, "BYE")
        # The one that waits ends when its transaction, or the handshake, is given up.
        assert caller.receive().status in (408, 477, 503)
        half.close()


def test_openssl_made_certificates_serve_the_shipped_script(tmp_path: Path) -> None:
    """scripts/tls_ws.cfg starts with the certificates that its first lines tell how to make."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: openssl)")
    text = shipped("tls_ws.cfg")
    command = re.search(r"^#\s+(openssl req .*?)$", text, re.MULTILINE)
    assert command is not None
    (tmp_path / "tls").mkdir()
    subprocess.run(command[1].split(), cwd=tmp_path, check=True, capture_output=True)
    ports = {name: free_port() for name in ("udp", "tls", "wss", "ws")}
    for name, port in ports.items():
        text = re.sub(rf"^socket={name}:\S+", f"socket={name}:127.0.0.1:{port}", text, flags=re.MULTILINE)
    (tmp_path / "opensips.cfg").write_text(text)
    server = ServerProcess(tmp_path / "opensips.cfg", tmp_path)
    server.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(tmp_path / "tls" / "cert.pem")
    try:
        for proto in ("tls", "wss"):
            end = End("alice", proto, connect(proto, ("127.0.0.1", ports[proto]), "127.0.0.1", context))
            lines = ["From: <sip:alice@localhost>;tag=1", "To: <sip:alice@localhost>"]
            end.request("REGISTER", "sip:localhost", lines, f"r-{proto}", 1)
            assert end.receive().status == 200
            end.close()
    finally:
        server.stop()
    assert "Traceback" not in server.log_text()
    assert "PRIVATE KEY" not in server.log_text()
