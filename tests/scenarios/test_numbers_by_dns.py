"""enum and dns_cache with a real name server: numbers of ENUM, and what its answers make of a request."""

from __future__ import annotations

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
socket=udp:127.0.0.1:PORT
dns_retr_time=1
dns_retr_no=1
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "enum.so"
loadmodule "cachedb_local.so"
loadmodule "dns_cache.so"
modparam("dns_cache", "cachedb_url", "local://")
modparam("enum", "domain_suffix", "test.")
modparam("enum", "i_enum_suffix", "test.")
modparam("enum", "isn_suffix", "isn.test.")
modparam("enum", "bl_algorithm", "txt")
route {
    if ($rm == "ACK" && t_check_trans())
        exit;
    switch ($hdr(X-Query)) {
    case "enum":
        $var(found) = enum_query();
        break;
    case "services":
        $var(found) = enum_query( , "+sip+voice:sip", "+4930123");
        break;
    case "infrastructure":
        $var(found) = i_enum_query();
        break;
    case "isn":
        $var(found) = isn_query();
        break;
    case "from":
        $var(found) = is_from_user_enum();
        break;
    }
    sl_send_reply(480, "$var(found) $ru $(msg.branch.uri[1])");
}
"""


@pytest.fixture
def dnsmasq(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[int]:
    """dnsmasq with the test's numbers; its port."""
    port = free_port()
    records = [
        # name, order, preference, flags, service, regexp
        ("3.2.1.0.3.9.4.test", 20, 10, "u", "E2U+sip", "!^.*$!sip:second@a.test!"),
        ("3.2.1.0.3.9.4.test", 10, 10, "u", "E2U+sip", "!^\\+4930(.*)$!sip:\\1@127.0.0.1!"),
        ("3.2.1.0.3.9.4.test", 5, 10, "u", "E2U+voice:sip", "!^.*$!sip:voice@a.test!"),
        ("4.i.3.2.1.test", 10, 10, "u", "E2U+sip", "!^.*$!sip:carrier@a.test!"),
        ("6.5.1212.isn.test", 10, 10, "u", "E2U+sip", "!^.*$!sip:isn@a.test!"),
        ("9.9.9.4.test", 10, 10, "u", "E2U+sip", "!^(a|aa)+$!sip:x@a.test!"),
    ]
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="]
    words += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file", "--log-facility=-"]
    words += ["--local=/test/", "--log-queries", "--local-ttl=300", "--txt-record=i.1.test,3"]
    for name, order, preference, flags, service, regexp in records:
        words.append("--naptr-record=" + f"{name},{order},{preference},{flags},{service},{regexp}")
    with (tmp_path / "dnsmasq.out").open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listening, what="the start of dnsmasq")
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def server(
    tmp_path: Path, dnsmasq: int, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, int]]:
    monkeypatch.setenv("OPENSIPSPY_NAME_SERVERS", f"127.0.0.1:{dnsmasq}")
    port = free_port()
    script = tmp_path / "numbers.cfg"
    script.write_text(SCRIPT.replace("PORT", str(port)), encoding="utf-8")
    process = ServerProcess(script, tmp_path)
    process.start()
    yield "127.0.0.1", port
    process.stop()


@pytest.fixture
def phone(server: tuple[str, int]) -> Iterator[Phone]:
    made = Phone("+4930123", server)
    yield made
    made.close()


def ask(phone: Phone, query: str, user: str) -> str:
    phone.send(phone.request("OPTIONS", f"sip:{user}@gw.example", headers=(f"X-Query: {query}",)))
    return phone.receive().first.partition(" 480 ")[2]


def test_numbers(phone: Phone, tmp_path: Path) -> None:
    """RFC 6116 §3: NAPTR records of dnsmasq, by order; a TXT record moves the branch label (the manual of enum)."""
    assert ask(phone, "enum", "+4930123").startswith("1 sip:123@127.0.0.1 sip:second@a.test")
    assert ask(phone, "services", "bob").startswith("1 sip:voice@a.test")
    assert ask(phone, "infrastructure", "+1234").startswith("1 sip:carrier@a.test")
    assert ask(phone, "isn", "56*1212").startswith("1 sip:isn@a.test")
    assert ask(phone, "from", "bob").startswith("1 sip:bob@gw.example")
    for query, user in (("enum", "+4999999"), ("enum", "+4999"), ("isn", "7*1"), ("enum", "bob")):
        assert ask(phone, query, user).startswith(f"-1 sip:{user}@gw.example")
    # Asked once each, however often it was wanted.
    log = (tmp_path / "dnsmasq.out").read_text()
    assert log.count("query[NAPTR] 3.2.1.0.3.9.4.test") == 1
