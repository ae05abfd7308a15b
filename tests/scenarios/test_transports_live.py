"""Transports with a server of their own: a reload with calls up, a load balancer in front, hostile and lost peers."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.scenarios.server import ServerProcess
from tests.scenarios.wires import End, StreamWire, UdpWire, connect

pytestmark = pytest.mark.scenario

BASE = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
SOCKETS
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "tls_wolfssl.so"
loadmodule "tls_mgm.so"
DOMAINS
loadmodule "proto_tls.so"
loadmodule "sl.so"
loadmodule "httpd.so"
modparam("httpd", "ip", "127.0.0.1")
modparam("httpd", "port", HTTP)
loadmodule "mi_http.so"
route {
    ROUTE
}
"""
DOMAIN = """
modparam("tls_mgm", "server_domain", "NAME")
modparam("tls_mgm", "certificate", "[NAME]CERT")
modparam("tls_mgm", "private_key", "[NAME]KEY")
modparam("tls_mgm", "ca_list", "[NAME]CA")
modparam("tls_mgm", "match_sip_domain", "[NAME]NAME")
modparam("tls_mgm", "require_cert", "[NAME]REQUIRED")
"""
OPTIONS = ["From: <sip:a@one.test>;tag=1", "To: <sip:one.test>"]


def mi(port: int, method: str, /, **params: object) -> object:
    """A management command over HTTP."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    head = f"POST /mi HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port), 5) as made:
        made.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        data = b""
        while piece := made.recv(65536):
            data += piece
    answer = json.loads(data.partition(b"\r\n\r\n")[2])
    assert "error" not in answer, answer
    return answer["result"]


def domains(authority: Authority, *names: str, required: int = 0) -> str:
    text = ""
    for name in names:
        identity = authority.issue(name)
        made = DOMAIN.replace("NAME", name).replace("CERT", str(identity.cert)).replace("KEY", str(identity.key))
        text += made.replace("[" + name + "]CA", f"[{name}]{authority.path}").replace("REQUIRED", str(required))
    return text


def script(sockets: str, http: int, route: str, domains: str = "") -> str:
    return (
        BASE.replace("SOCKETS", sockets)
        .replace("HTTP", str(http))
        .replace("ROUTE", route)
        .replace("DOMAINS", domains or 'modparam("tls_mgm", "client_domain", "out")')
    )


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.path)
    return context


def ask(wire: ssl.SSLSocket, call_id: str) -> str:
    """The reason phrase of the answer to an OPTIONS."""
    text = (
        f"OPTIONS sip:one.test SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:a@one.test>;tag=1\r\nTo: <sip:one.test>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    wire.sendall(text.encode())
    data = b""
    while b"\r\n\r\n" not in data:
        piece = wire.recv(65536)
        assert piece, "closed"
        data += piece
    return data.split(b"\r\n", 1)[0].decode().split(" ", 2)[2]


def test_certificates_are_replaced_with_connections_up(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path
) -> None:
    """tls_mgm:reload: who is connected stays connected; who connects sees the new certificate, by name (SNI)."""
    authority = Authority(tmp_path)
    port, http = free_port(), free_port()
    route = 'sl_send_reply(200, "$tls_my_subject_cn $tls_peer_subject_cn $tls_peer_verified");'
    server = start_server(
        script(f"socket=tls:127.0.0.1:{port}", http, route, domains(authority, "one.test", "two.test"))
    )
    known = trusting(authority)
    client = authority.issue("client.test")
    known.load_cert_chain(client.cert, client.key)

    def dial(name: str, context: ssl.SSLContext) -> ssl.SSLSocket:
        made = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname=name)
        made.settimeout(30)
        return made

    with dial("one.test", known) as one, dial("two.test", trusting(authority)) as two:
        assert ask(one, "1") == "one.test client.test 1"
        assert ask(two, "2") == "two.test <null> 0"
        before = one.getpeercert()
        assert before is not None
        renewed = authority.issue("one.test")
        assert mi(http, "tls_mgm:reload") == "OK"
        with dial("one.test", trusting(authority)) as fresh:
            after = fresh.getpeercert()
            assert after is not None
            assert int(str(after["serialNumber"]), 16) == renewed.certificate.serial_number
            assert after["serialNumber"] != before["serialNumber"]
            assert ask(fresh, "3") == "one.test <null> 0"
        assert ask(one, "4") == "one.test client.test 1"
        listed = mi(http, "tcp:list", proto="tls")
        assert isinstance(listed, dict)
        assert {entry["Type"] for entry in listed["Connections"]} == {"tls"}
        assert mi(http, "tcp:close", ipport=f"tls:127.0.0.1:{one.getsockname()[1]}") == "OK"
        assert one.recv(10) == b""
        shown = mi(http, "tls_mgm:list")
    assert isinstance(shown, dict)
    assert [entry["name"] for entry in shown["Domains"]] == ["one.test", "two.test"]
    assert "PRIVATE KEY" not in server.log_text()


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_haproxy_in_front(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path, version: str
) -> None:
    """$proxy_protocol tells who is behind the load balancer; $si stays the load balancer."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed (Debian: haproxy)")
    port, http, front = free_port(), free_port(), free_port()
    route = 'sl_send_reply(200, "$si $proxy_protocol(src_ip):$proxy_protocol(src_port) $proxy_protocol(af)");'
    start_server(script(f"socket=tcp:127.0.0.1:{port} allow_proxy_protocol", http, route))
    (tmp_path / "haproxy.cfg").write_text(
        "global\n  maxconn 10\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n"
        f"listen sip\n  bind 127.0.0.1:{front}\n  server one 127.0.0.1:{port} {version}\n"
    )
    balancer = subprocess.Popen(
        ["haproxy", "-db", "-q", "-f", str(tmp_path / "haproxy.cfg")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            try:
                wire = StreamWire(("127.0.0.1", front), "127.0.0.1")
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        end = End("alice", "tcp", wire)
        end.request("OPTIONS", "sip:one.test", OPTIONS, "behind", 1)
        assert end.receive().first == f"SIP/2.0 200 127.0.0.1 127.0.0.1:{wire.address[1]} INET"
        end.close()
        direct = End("bob", "tcp", StreamWire(("127.0.0.1", port), "127.0.0.1"))
        direct.request("OPTIONS", "sip:one.test", OPTIONS, "direct", 1)
        assert direct.receive().first == "SIP/2.0 200 127.0.0.1 <null>:<null> <null>"
        direct.close()
    finally:
        balancer.terminate()
        balancer.wait(10)


RELAY = """
    if (has_totag()) {
        loose_route();
        t_relay();
        exit;
    }
    if (!is_method("INVITE")) {
        sl_send_reply(200, "Here");
        exit;
    }
    $du = $hdr(X-To);
    t_relay();
"""


@pytest.fixture
def relay(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path
) -> tuple[int, int, ssl.SSLContext]:
    """UDP and TLS port of a proxy, and a context that trusts it."""
    authority = Authority(tmp_path)
    udp, tls = free_port(), free_port()
    sockets = f"socket=udp:127.0.0.1:{udp}\nsocket=tls:127.0.0.1:{tls}\ntcp_max_connections=64\ntcp_max_msg_time=1"
    modules = ("tm.so", "rr.so", "sipmsgops.so")
    loading = "".join(f'loadmodule "{name}"\n' for name in modules) + 'modparam("tm", "fr_timeout", 60)\n'
    text = script(sockets, free_port(), "ROUTE", domains(authority, "one.test"))
    # These clients do not say whom they ask for.
    text = text.replace('"[one.test]one.test"', '"[one.test]*"')
    text = text.replace("route {", loading + "route {", 1)
    start_server(text.replace("ROUTE", RELAY))
    context = trusting(authority)
    context.check_hostname = False
    return udp, tls, context


def test_a_peer_that_goes_before_it_answers(relay: tuple[int, int, ssl.SSLContext]) -> None:
    """RFC 3261 §16.9: the loss of the connection is the end of the branch, long before a time-out."""
    udp, tls, context = relay
    caller = End("alice", "udp", connect("udp", ("127.0.0.1", udp), "127.0.0.1", context))
    wire = connect("tls", ("127.0.0.1", tls), "127.0.0.1", context)
    callee = End("one.test", "tls", wire)
    context.check_hostname = False
    callee.request("OPTIONS", "sip:one.test", OPTIONS, "hello", 1)
    assert callee.receive().status == 200
    lines = ["From: <sip:a@one.test>;tag=1", "To: <sip:b@one.test>", f"X-To: {callee.destination}"]
    caller.request("INVITE", "sip:b@one.test", lines, "lost", 1)
    assert callee.receive().method == "INVITE"
    callee.close()
    # The time-out is a minute away.
    assert caller.receive().status in (477, 503)
    caller.close()


def test_the_script_chooses_the_client_domain(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], tmp_path: Path
) -> None:
    """client_sip_domain_avp: our certificate and the name we ask for (SNI) are those of the domain the call is for."""
    authority = Authority(tmp_path)
    gateway, udp = authority.issue("gateway.test"), free_port()
    text = 'modparam("tls_mgm", "client_sip_domain_avp", "tls_for")\n'
    for name in ("atlanta.test", "biloxi.test"):
        identity = authority.issue(name)
        text += (
            DOMAIN.replace("server_domain", "client_domain")
            .replace("NAME", name)
            .replace("REQUIRED", "1")
            .replace("CERT", str(identity.cert))
            .replace("KEY", str(identity.key))
            .replace(f"[{name}]CA", f"[{name}]{authority.path}")
        )
    route = "$avp(tls_for) = $rd; $du = $hdr(X-To); t_relay();"
    made = script(
        f"socket=udp:127.0.0.1:{udp}\nsocket=tls:127.0.0.1:{free_port()}\ntcp_connect_timeout=2000",
        free_port(),
        route,
        text,
    )
    start_server(made.replace("route {", 'loadmodule "tm.so"\nroute {', 1))
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(gateway.cert, gateway.key)
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    context.sni_callback = lambda _, name, __: asked.append(name)
    caller = End("alice", "udp", UdpWire(("127.0.0.1", udp), "127.0.0.1"))
    for number, name in enumerate(("biloxi.test", "atlanta.test")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(30)
            port = listener.getsockname()[1]
            lines = ["From: <sip:a@one.test>;tag=1", f"To: <sip:b@{name}>", f"X-To: sip:127.0.0.1:{port};transport=tls"]
            caller.request("INVITE", f"sip:b@{name}", lines, f"out{number}", 1)
            plain, _ = listener.accept()
            plain.settimeout(30)
            with context.wrap_socket(plain, server_side=True) as accepted:
                shown = accepted.getpeercert()
                assert shown is not None
                assert ((("commonName", name),),) == shown["subject"]
                assert accepted.recv(7) == b"INVITE "
        assert caller.receive().status in (477, 503)
    assert asked == ["biloxi.test", "atlanta.test"]
    caller.close()


def test_floods_of_half_open_connections_are_refused(relay: tuple[int, int, ssl.SSLContext]) -> None:
    """Those who hold connections without a handshake get their share and no more, and only for tcp_max_msg_time."""
    udp, tls, context = relay
    caller = End("alice", "udp", connect("udp", ("127.0.0.1", udp), "127.0.0.1", context))
    idle = [socket.create_connection(("127.0.0.1", tls), 5) for _ in range(40)]
    caller.request("OPTIONS", "sip:one.test", OPTIONS, "flood", 1)
    assert caller.receive().status == 200
    for each in idle:
        each.settimeout(30)
        try:
            assert each.recv(10) == b""
        except ConnectionResetError:
            pass
        each.close()
    late = End("bob", "tls", connect("tls", ("127.0.0.1", tls), "127.0.0.1", context))
    late.request("OPTIONS", "sip:one.test", OPTIONS, "after", 1)
    assert late.receive().status == 200
    late.close()
    caller.close()
