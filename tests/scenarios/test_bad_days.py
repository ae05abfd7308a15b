"""What fails far away: name servers, members of SRV sets, peers in mid-call and mid-message, certificates in time."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.scenarios.peer import Phone, Received, until
from tests.scenarios.server import ServerProcess
from tests.scenarios.test_transports_live import mi
from tests.scenarios.wires import Dialog, End, connect, target_of

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=2
stderror_enabled=yes
syslog_enabled=no
dns_retr_time=DNSTIME
dns_retr_no=1
tcp_connect_timeout=2000
socket=udp:127.0.0.1:UDP
socket=tcp:127.0.0.1:TCP
socket=tls:127.0.0.1:TLS
socket=ws:127.0.0.1:WS
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
modparam("tls_mgm", "server_domain", "home")
modparam("tls_mgm", "certificate", "[home]CERT")
modparam("tls_mgm", "private_key", "[home]KEY")
modparam("tls_mgm", "verify_cert", "[home]0")
modparam("tls_mgm", "client_domain", "out")
modparam("tls_mgm", "ca_list", "[out]AUTHORITY")
modparam("tls_mgm", "verify_cert", "[out]1")
loadmodule "proto_tls.so"
loadmodule "proto_ws.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 2)
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "httpd.so"
modparam("httpd", "ip", "127.0.0.1")
modparam("httpd", "port", HTTP)
loadmodule "mi_http.so"
route {
	if (is_method("OPTIONS")) {
		sl_send_reply(200, "Here");
		exit;
	}
	if (is_method("CANCEL")) {
		if (t_check_trans())
			t_relay();
		exit;
	}
	if (is_method("ACK") && t_check_trans())
		exit;
	if (has_totag()) {
		loose_route();
		t_relay();
		exit;
	}
	record_route();
	if ($hdr(X-To))
		$du = $hdr(X-To);
	t_relay();
}
"""


class Site:
    """The server, its ports by name, and who signs its certificate."""

    def __init__(self, folder: Path, free_port: Callable[[], int], start: Callable[..., ServerProcess]) -> None:
        self.authority = Authority(folder)
        self.ports = {name: free_port() for name in ("UDP", "TCP", "TLS", "WS", "HTTP")}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(self.authority.path)
        self.context.check_hostname = False
        self._start = start

    def start(
        self, valid: datetime.timedelta = datetime.timedelta(days=1), dns_time_s: int = 1, more: str = ""
    ) -> None:
        ours = self.authority.issue("home.test", valid=valid)
        text = SCRIPT.replace("CERT", str(ours.cert)).replace("KEY", str(ours.key)).replace("DNSTIME", str(dns_time_s))
        text = text.replace("AUTHORITY", str(self.authority.path))
        for name in ("UDP", "TCP", "TLS", "WS", "HTTP"):
            text = text.replace(f":{name}\n", f":{self.ports[name]}\n").replace(
                f'"port", {name})', f'"port", {self.ports[name]})'
            )
        self._start(f"{more}\n{text}")

    def phone(self, user: str) -> Phone:
        return Phone(user, ("127.0.0.1", self.ports["UDP"]))

    def end(self, user: str, proto: str) -> End:
        wire = connect(proto, ("127.0.0.1", self.ports[proto.upper()]), "127.0.0.1", self.context)
        return End(user, proto, wire)


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int], start_server: Callable[..., ServerProcess]) -> Site:
    return Site(tmp_path, free_port, start_server)


@pytest.fixture
def named(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Start dnsmasq with these options as the server's name server."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is missing: apt-get install dnsmasq-base")
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> None:
        port = free_port()
        words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="]
        words += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file", "--log-facility=-"]
        words += ["--local=/test/", "--host-record=host.test,127.0.0.1", *options]
        with (tmp_path / "dnsmasq.out").open("wb") as out:
            running.append(subprocess.Popen(words, stdout=out, stderr=out))

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listening, what="the start of dnsmasq")
        monkeypatch.setitem(os.environ, "OPENSIPSPY_NAME_SERVERS", f"127.0.0.1:{port}")

    yield start
    for process in running:
        process.kill()
        process.wait()


def call(caller: Phone, uri: str, status: int, limit_s: float = 10.0) -> Received:
    """A call that ends with a failure, acknowledged."""
    text = caller.request("INVITE", uri)
    caller.send(text)
    final = caller.expect(status, limit_s)
    caller.send(caller.ack(final, text))
    return final


def reset(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


def test_a_set_of_servers_with_dead_members(
    site: Site, named: Callable[..., None], free_port: Callable[[], int]
) -> None:
    """RFC 3263 §4.3: refused, silent and overloaded members are passed over in one transaction, in their order."""
    with closing(site.phone("alice")) as alice, closing(site.phone("busy")) as busy, closing(site.phone("bob")) as bob:
        refused, silent = free_port(), free_port()
        named(
            f"--srv-host=_sip._tcp.streams.test,host.test,{refused},1",
            f"--srv-host=_sip._udp.mixed.test,host.test,{silent},1",
            f"--srv-host=_sip._udp.mixed.test,host.test,{busy.port},2",
            f"--srv-host=_sip._udp.mixed.test,host.test,{bob.port},3",
            f"--srv-host=_sip._udp.dead.test,host.test,{silent},1",
        )
        site.start()
        call(alice, "sip:bob@streams.test;transport=tcp", 477)
        call(alice, "sip:bob@dead.test", 408)
        text = alice.request("INVITE", "sip:bob@mixed.test")
        alice.send(text)
        overloaded = busy.expect("INVITE")
        busy.send(busy.reply(overloaded, 503, "Service Unavailable"))
        busy.expect("ACK")
        invite = bob.expect("INVITE")
        branches = {message["Via"].partition("branch=")[2] for message in (overloaded, invite)}
        assert len(branches) == 2, "RFC 3263 §4.3: each attempt is a new client transaction"
        bob.send(bob.reply(invite, 200))
        alice.send(alice.ack(alice.expect(200), text))
        bob.expect("ACK")


def test_a_dead_member_is_remembered(site: Site, named: Callable[..., None], free_port: Callable[[], int]) -> None:
    """Core manual, disable_dns_blacklist: the next call goes to a member that works at once."""
    with closing(site.phone("alice")) as alice, closing(site.phone("bob")) as bob:
        silent = free_port()
        named(
            f"--srv-host=_sip._udp.set.test,host.test,{silent},1",
            f"--srv-host=_sip._udp.set.test,host.test,{bob.port},2",
        )
        site.start(more="disable_dns_blacklist=no")
        for limit_s in (5.0, 1.5):  # fr_timeout is 2 seconds
            text = alice.request("INVITE", "sip:bob@set.test")
            alice.send(text)
            invite = bob.expect("INVITE", limit_s)
            bob.send(bob.reply(invite, 200))
            alice.send(alice.ack(alice.expect(200), text))
            bob.expect("ACK")
        listed = mi(site.ports["HTTP"], "blacklists:list", name="dns")
        assert isinstance(listed, dict)
        assert [rule["Port"] for rule in listed["Rules"]] == [silent]


def test_a_caller_gives_up_while_the_name_server_is_silent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 3261 §9.2: the CANCEL is answered and the call ends at once, not when the look-up has failed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, closing(site.phone("alice")) as alice:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(10)
        monkeypatch.setitem(os.environ, "OPENSIPSPY_NAME_SERVERS", f"127.0.0.1:{silent.getsockname()[1]}")
        site.start(dns_time_s=30)
        text = alice.request("INVITE", "sip:bob@lost.example")
        alice.send(text)
        silent.recv(2000)
        alice.send(alice.cancel(text))
        assert alice.expect(200)["CSeq"] == "1 CANCEL"
        alice.send(alice.ack(alice.expect(487), text))


def test_a_peer_that_is_killed_in_mid_call(site: Site) -> None:
    """RFC 3261 §12.2.1.2: the BYE of the one who is left ends with a failure at once, not after timer F."""
    with closing(site.phone("alice")) as alice, socket.create_server(("127.0.0.1", 0)) as listener:
        site.start()
        listener.settimeout(10)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        text = alice.request("INVITE", f"sip:bob@{address};transport=tcp")
        alice.send(text)
        made, source = listener.accept()
        with made:
            made.settimeout(10)
            invite = Received(made.recv(65535), source)
            with closing(site.phone("bob")) as words:
                words.contact = f"<sip:bob@{address};transport=tcp>"
                made.sendall(words.reply(invite, 200).encode())
            answer = alice.expect(200)
            alice.send(alice.ack(answer, text))
            assert made.recv(65535).startswith(b"ACK ")
            listener.close()
            reset(made)
        until(lambda: not connections(site), what="the end of the connection")
        alice.send(alice.in_dialog("BYE", text, answer))
        assert alice.expect(477)["CSeq"] == "2 BYE"


def connections(site: Site) -> list[object]:
    listed = mi(site.ports["HTTP"], "tcp:list", proto="tcp")
    assert isinstance(listed, dict)
    found = listed.get("Connections", [])
    assert isinstance(found, list)
    return found


def test_an_answer_that_breaks_off_is_no_answer(site: Site) -> None:
    """RFC 3261 §18.3, §17.1.4: half a 200 and a reset connection is a transport that failed."""
    with closing(site.phone("alice")) as alice, socket.create_server(("127.0.0.1", 0)) as listener:
        site.start()
        listener.settimeout(10)
        text = alice.request("INVITE", f"sip:bob@127.0.0.1:{listener.getsockname()[1]};transport=tcp")
        alice.send(text)
        made, source = listener.accept()
        made.settimeout(10)
        answer = alice.reply(Received(made.recv(65535), source), 200).encode()
        made.sendall(answer[: len(answer) // 2])
        reset(made)
        alice.send(alice.ack(alice.expect(477), text))


@pytest.mark.parametrize("proto", ["tcp", "tls", "ws"])
def test_a_request_that_breaks_off_harms_nobody(site: Site, proto: str) -> None:
    """RFC 3261 §18.3: it is never acted on; the next who connects is served."""
    site.start()
    with closing(site.phone("bob")) as bob:
        for length in (20, 150, -1):
            made = socket.create_connection(("127.0.0.1", site.ports[proto.upper()]), 10)
            if proto == "tls":
                made = site.context.wrap_socket(made)
            data = bob.request("INVITE", f"sip:bob@127.0.0.1:{bob.port}").encode()
            if proto == "ws":
                data = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + data
            made.sendall(data[:length])
            reset(made)
        with closing(site.end("alice", proto)) as alice:
            lines = ["From: <sip:a@home.test>;tag=1", "To: <sip:home.test>"]
            alice.request("OPTIONS", "sip:home.test", lines, "after", 1)
            assert alice.receive().status == 200
        bob.expect_nothing(0.2)


def test_a_certificate_expires_with_a_call_up(site: Site) -> None:
    """No date ends a session of TLS: the call goes on. Who connects sees what has expired, until a reload."""
    site.start()
    # Not before the server runs: starting may take longer than this certificate lasts.
    site.authority.issue("home.test", valid=datetime.timedelta(seconds=5))
    assert mi(site.ports["HTTP"], "tls_mgm:reload") == "OK"
    with closing(site.end("alice", "tls")) as alice, closing(site.phone("bob")) as bob:
        lines = ["From: <sip:a@home.test>;tag=1", "To: <sip:b@home.test>", f"X-To: sip:127.0.0.1:{bob.port}"]
        alice.request("INVITE", "sip:b@home.test", lines, "long", 1)
        invite = bob.expect("INVITE")
        bob.send(bob.reply(invite, 200))
        final = alice.receive()
        assert final.status == 200
        routes = list(reversed(final.all("Record-Route")))
        target = target_of(final["Contact"])
        dialog = Dialog("long", "<sip:a@home.test>;tag=1", final["To"], target, routes, 1)
        alice.in_dialog("ACK", dialog)
        bob.expect("ACK")

        def refused() -> bool:
            try:
                with closing(site.end("late", "tls")):
                    return False
            except ssl.SSLCertVerificationError as error:
                return "expired" in str(error)

        end = time.monotonic() + 30
        while not refused():
            assert time.monotonic() < end
            time.sleep(0.2)
        site.authority.issue("home.test")
        assert mi(site.ports["HTTP"], "tls_mgm:reload") == "OK"
        with closing(site.end("carol", "tls")) as carol:
            carol.request("OPTIONS", "sip:home.test", lines[:2], "new", 1)
            assert carol.receive().status == 200
        alice.in_dialog("BYE", dialog)
        bob.send(bob.reply(bob.expect("BYE"), 200))
        assert alice.receive()["CSeq"] == "2 BYE"


def test_a_peer_whose_certificate_has_expired_is_not_spoken_to(site: Site) -> None:
    """RFC 5922 §7.1: no message leaves, and the caller hears so at once."""
    site.start()
    expired = site.authority.issue("gateway.test", valid=datetime.timedelta(hours=-1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(expired.cert, expired.key)
    with closing(site.phone("alice")) as alice, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        text = alice.request("INVITE", f"sip:bob@127.0.0.1:{listener.getsockname()[1]};transport=tls")
        alice.send(text)
        made, _ = listener.accept()
        made.settimeout(10)
        with pytest.raises(ssl.SSLError), context.wrap_socket(made, server_side=True) as secure:
            secure.recv(100)
        made.close()
        alice.send(alice.ack(alice.expect(477), text))
