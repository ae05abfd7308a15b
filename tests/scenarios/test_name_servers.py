"""Destinations by name, with a name server of the test's own: SRV, A, names that are not there, a dead server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.peer import Phone, until
from tests.scenarios.server import ServerProcess

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is missing: apt-get install dnsmasq-base"),
]

SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:127.0.0.1:PORT
dns_retr_time=1
dns_retr_no=1
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 2)
route {
    if ($rm == "ACK" && t_check_trans())
        exit;
    if (!t_relay())
        xlog("cannot relay: $retcode\\n");
}
"""


@pytest.fixture
def phone() -> Iterator[Callable[[str, int], Phone]]:
    made: list[Phone] = []

    def make(user: str, port: int) -> Phone:
        made.append(Phone(user, ("127.0.0.1", port)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def dnsmasq(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., int]]:
    """Start dnsmasq with these options on a free port, which is returned."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> int:
        port = free_port()
        words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="]
        words += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file", "--log-facility=-"]
        with (tmp_path / "dnsmasq.out").open("wb") as out:
            running.append(subprocess.Popen([*words, "--local=/test/", *options], stdout=out, stderr=out))

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listening, what="the start of dnsmasq")
        return port

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda servers: monkeypatch.setitem(os.environ, "OPENSIPSPY_NAME_SERVERS", servers)


def test_a_name_leads_where_srv_and_a_say(
    start_server: Callable[..., ServerProcess],
    free_port: Callable[[], int],
    phone: Callable[[str, int], Phone],
    dnsmasq: Callable[..., int],
    environment: Callable[[str], None],
) -> None:
    """RFC 3263 §4.2: SRV gives host and port, a port in the URI means A at once; §4.3: the next one if it is dead."""
    port = free_port()
    alice, bob = phone("alice", port), phone("bob", port)
    dead = free_port()
    server = dnsmasq(
        "--host-record=host.test,127.0.0.1",
        f"--srv-host=_sip._udp.service.test,host.test,{bob.port},1",
        f"--srv-host=_sip._udp.spare.test,host.test,{dead},1",
        f"--srv-host=_sip._udp.spare.test,host.test,{bob.port},2",
    )
    environment(f"127.0.0.1:{server}")
    start_server(SCRIPT.replace("PORT", str(port)))
    for uri in (f"sip:bob@host.test:{bob.port}", "sip:bob@service.test", "sip:bob@spare.test"):
        invite = alice.request("INVITE", uri)
        alice.send(invite)
        received = bob.expect("INVITE", 10.0)
        assert received.request_uri == uri, "the name stays in the Request-URI"
        bob.send(bob.reply(received, 200))
        alice.expect(200)


def test_a_name_that_is_not_there_is_answered_with_476(
    start_server: Callable[..., ServerProcess],
    free_port: Callable[[], int],
    phone: Callable[[str, int], Phone],
    dnsmasq: Callable[..., int],
    environment: Callable[[str], None],
) -> None:
    """OpenSIPS's tm answers 476 where a destination cannot be resolved."""
    port = free_port()
    environment(f"127.0.0.1:{dnsmasq()}")
    start_server(SCRIPT.replace("PORT", str(port)))
    alice = phone("alice", port)
    alice.send(alice.request("INVITE", "sip:bob@nowhere.test"))
    alice.expect(476)


def test_a_dead_name_server_holds_up_nobody_else(
    start_server: Callable[..., ServerProcess],
    free_port: Callable[[], int],
    phone: Callable[[str, int], Phone],
    environment: Callable[[str], None],
) -> None:
    """While a look-up waits for a server that never answers, others pass, and the caller is answered in the end."""
    port = free_port()
    alice, bob, carol = phone("alice", port), phone("bob", port), phone("carol", port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(30)
        environment(f"127.0.0.1:{silent.getsockname()[1]}")
        start_server(SCRIPT.replace("PORT", str(port)))
        alice.send(alice.request("INVITE", "sip:bob@lost.test"))
        silent.recv(2000)
        carol.send(carol.request("MESSAGE", f"sip:bob@127.0.0.1:{bob.port}"))
        received = bob.expect("MESSAGE")
        bob.send(bob.reply(received, 200))
        carol.expect(200)
        assert alice.expect(476, 20.0).status == 476


def test_name_servers_that_cannot_be_stop_the_start(
    start_server: Callable[..., ServerProcess], free_port: Callable[[], int], environment: Callable[[str], None]
) -> None:
    """A mistake in the environment is said at the start, not at the first call."""
    environment("ns.example.com")
    server = start_server(SCRIPT.replace("PORT", str(free_port())), wait=False)
    assert server.wait() == 1
    assert "OPENSIPSPY_NAME_SERVERS: 'ns.example.com' is no address" in server.log_text()
