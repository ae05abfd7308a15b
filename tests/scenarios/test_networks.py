"""Calls between two networks that cannot see each other, each in a network namespace, from any transport to any other:
re-INVITE and BYE from both sides come back the way the call went, and no inner address shows where it must not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

PROTOCOLS = ("udp", "tcp", "tls", "ws", "wss")
FAMILIES = ("v4", "v6")
# Side: its networks; the server has the first address of each, the phones the second.
NETWORKS = {"in": {"v4": "10.77.1.", "v6": "fd77:1::"}, "out": {"v4": "10.77.2.", "v6": "fd77:2::"}}
# What the outer side is told: an address that only a router in front of the server has.
SHOWN = {"v4": "203.0.113.9", "v6": "2001:db8::9"}
PORTS = {proto: 5060 + number for number, proto in enumerate(PROTOCOLS)}


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def listening() -> str:
    """A socket of each protocol and family on both sides."""
    lines = []
    for proto, port in PORTS.items():
        for family in FAMILIES:
            lines.append(f"socket={proto}:{bracketed(NETWORKS['in'][family] + '1')}:{port}")
            outer = f"socket={proto}:{bracketed(NETWORKS['out'][family] + '1')}:{port}"
            lines.append(f"{outer} as {bracketed(SHOWN[family])}:{port + 100}")
    return "\n".join(lines)


SCRIPT = """
log_level=3
stderror_enabled=yes
syslog_enabled=no
mhomed=yes
tcp_connect_timeout=3000
@sockets@
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
modparam("tls_mgm", "server_domain", "home")
modparam("tls_mgm", "certificate", "[home]@cert@")
modparam("tls_mgm", "private_key", "[home]@key@")
modparam("tls_mgm", "verify_cert", "[home]0")
loadmodule "proto_tls.so"
loadmodule "proto_ws.so"
loadmodule "proto_wss.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
modparam("rr", "enable_double_rr", 1)
loadmodule "sipmsgops.so"
route {
    if (is_method("OPTIONS")) {
        sl_send_reply(200, "Here");
        exit;
    }
    if (has_totag()) {
        loose_route();
        t_relay();
        exit;
    }
    record_route();
    $du = $hdr(X-To);
    remove_hf("X-To");
    t_relay();
}
"""

# Runs in a process of its own, which enters the namespaces: inside for the callers, outside for the callees.
INSIDE = """
import ctypes, itertools, json, ssl, sys
sys.path.insert(0, ROOT)
from tests.scenarios.test_networks import FAMILIES, NETWORKS, PORTS, PROTOCOLS
from tests.scenarios.wires import Dialog, End, connect, flat, target_of

libc = ctypes.CDLL(None, use_errno=True)
def enter(name):
    with open("/var/run/netns/" + name) as handle:
        assert libc.setns(handle.fileno(), 0x40000000) == 0, ctypes.get_errno()

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations(CA)
ends = {}
for side, user in (("in", "alice"), ("out", "bob")):
    enter(PREFIX + side)
    for proto, family in itertools.product(PROTOCOLS, FAMILIES):
        home = NETWORKS[side][family]
        end = End(f"{user}-{proto}-{family}", proto, connect(proto, (home + "1", PORTS[proto]), home + "2", context))
        end.request("OPTIONS", "sip:x", ["From: <sip:x@home.test>;tag=1", "To: <sip:home.test>"], end.user, 1)
        assert end.receive().status == 200
        ends[side, proto, family] = end

def call(number, caller, callee, seen):
    # What each side gets, in the order of a call with everything that may come in it.
    heard, told = seen
    def out():
        heard.append(callee.receive())
        return heard[-1]
    def back():
        told.append(caller.receive())
        return told[-1]
    def passed(sender, receiver, dialog, method):
        get, answer = (out, back) if receiver is callee else (back, out)
        sender.in_dialog(method, dialog)
        got = get()
        assert got.method == method and not got.status, got.first
        assert got.all("Route") == [] and got.request_uri == receiver.contact, got.raw
        receiver.answer(got, 200, "x")
        assert answer().status == 200
        if method == "INVITE":
            sender.in_dialog("ACK", dialog)
            assert get().method == "ACK"
    local, remote = f"<sip:{caller.user}@home.test>;tag=a", f"<sip:{callee.user}@far.test>"
    for last in ("callee", "caller"):
        call_id = f"{number}-{last}"
        lines = [f"From: {local}", f"To: {remote}", f"X-To: {callee.destination}"]
        caller.request("INVITE", callee.contact, lines, call_id, 1)
        invite = out()
        callee.answer(invite, 180, "b")
        assert back().status == 180
        callee.answer(invite, 200, "b")
        ok = back()
        ours = Dialog(call_id, local, ok["To"], target_of(ok["Contact"]), flat(ok.all("Record-Route"))[::-1], 1)
        theirs = Dialog(call_id, ok["To"], local, target_of(invite["Contact"]), flat(invite.all("Record-Route")), 100)
        caller.in_dialog("ACK", ours)
        assert out().method == "ACK"
        passed(caller, callee, ours, "INVITE")
        passed(callee, caller, theirs, "INVITE")
        if last == "callee":
            passed(callee, caller, theirs, "BYE")
        else:
            passed(caller, callee, ours, "BYE")

kinds = list(itertools.product(PROTOCOLS, FAMILIES))
for number, (one, two) in enumerate(itertools.product(kinds, kinds)):
    for near, far in (("in", "out"), ("out", "in")):
        caller, callee = ends[(near, *one)], ends[(far, *two)]
        seen = ([], [])
        print("CALL " + json.dumps([near, one, two]), flush=True)
        call(f"{near}-{number}", caller, callee, seen)
        texts = [[m.raw.decode() for m in side] for side in seen]
        print("SEEN " + json.dumps([near, one, two, *texts]), flush=True)
print("DONE")
"""


@pytest.fixture
def networks() -> Iterator[str]:
    """Two network namespaces, each joined with a third, where the server runs, by a cable of its own."""
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed (Debian: iproute2)")
    prefix = f"sip{os.getpid() % 100000}"
    spaces = {side: prefix + side for side in ("in", "mid", "out")}

    def ip(*words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True, timeout=10, check=False).returncode == 0

    try:
        if not all(ip("netns", "add", space) for space in spaces.values()):
            pytest.skip("network namespaces are not permitted here")
        for side, cable in (("in", "a"), ("out", "b")):
            near, far = f"{prefix}{cable}", f"{prefix}{cable}x"
            middle, space = spaces["mid"], spaces[side]
            ready = ip("link", "add", near, "netns", middle, "type", "veth", "peer", "name", far, "netns", space)
            for name, home, last in ((near, middle, "1"), (far, space, "2")):
                v4, v6 = NETWORKS[side]["v4"] + last + "/24", NETWORKS[side]["v6"] + last + "/64"
                ready = ready and ip("-n", home, "addr", "add", v4, "dev", name)
                # Without the search for duplicates the address can be used at once.
                ready = ready and ip("-n", home, "addr", "add", v6, "dev", name, "nodad")
                ready = ready and ip("-n", home, "link", "set", name, "up")
                ready = ready and ip("-n", home, "link", "set", "lo", "up")
            if not ready:
                pytest.skip("network cables between namespaces are not permitted here")
        yield prefix
    finally:
        for space in spaces.values():
            ip("netns", "del", space)


class Namespaced(ServerProcess):
    """A server in a network namespace. Its notification, an abstract name, stays in there; the log tells too."""

    def __init__(self, script: Path, folder: Path, space: str) -> None:
        super().__init__(script, folder)
        self.space = space

    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self.space, *super().command()]

    def begin(self) -> None:
        """Start, and return when every socket is open."""
        self.start(wait=False)
        until = time.monotonic() + self.start_limit_s
        while " ready: " not in self.log_text():
            assert time.monotonic() < until, self.log_text()
            time.sleep(0.05)


def fields(text: str) -> list[tuple[str, str]]:
    """Name and value of each header field, the first line under ""."""
    first, *lines = text.partition("\r\n\r\n")[0].split("\r\n")
    return [("", first), *((line.partition(":")[0], line.partition(":")[2].strip()) for line in lines)]


def has(value: str, side: str, last: str = "") -> bool:
    """Whether a network's address stands in a text; last: "1" for the server's, "2" for the phones'."""
    return any(re.search(re.escape(start + last) + ("(?![0-9a-f])" if last else ""), value)
               for start in NETWORKS[side].values())  # fmt: skip


def check_outside(texts: list[str], proto: str, family: str) -> None:
    """What the outer side gets: the server as it is advertised, and of the inner side only what RFC 3261 leaves no
    choice about: the Via and Contact of the phone itself, and our inner Record-Route (RFC 5658 §4), marked as such."""
    port = PORTS[proto] + 100
    ours = f"SIP/2.0/{proto.upper()} {bracketed(SHOWN[family])}:{port};"
    for text in texts:
        first = text.partition(" ")[0]
        assert not has(text, "out", "1"), f"the socket behind the advertised address:\n{text}"
        vias = [value for name, value in fields(text) if name == "Via"]
        if first != "SIP/2.0":
            assert vias[0].startswith(ours), text
            assert len(vias) == 2, text
        for name, value in fields(text):
            if name == "Record-Route":
                assert not has(value, "in", "2"), text
                assert not has(value, "in", "1") or ";r2=on" in value, text
            elif name not in ("Via", "Contact"):
                assert not (has(value, "in") and name), text
            else:
                assert not has(value, "in", "1"), f"our inner address in {name}:\n{text}"
        if first == "SIP/2.0":
            assert not any(has(value, "in") for value in vias), text


def check_inside(texts: list[str], proto: str, family: str) -> None:
    """What the inner side gets: the server's inner address on top, and never the outer one that is hidden."""
    ours = f"SIP/2.0/{proto.upper()} {bracketed(NETWORKS['in'][family] + '1')}:{PORTS[proto]};"
    for text in texts:
        assert not has(text, "out", "1"), f"the socket behind the advertised address:\n{text}"
        vias = [value for name, value in fields(text) if name == "Via"]
        if not text.startswith("SIP/2.0"):
            assert vias[0].startswith(ours), text


def test_no_inner_address_shows_outside(networks: str, tmp_path: Path) -> None:
    """RFC 3261 §16.6, RFC 5658 §4: mhomed picks the socket of each side, whichever transport and family the other has;
    calls from the inside and from the outside."""
    identity = (authority := Authority(tmp_path)).issue("home.test")
    script = SCRIPT.replace("@sockets@", listening())
    script = script.replace("@cert@", str(identity.cert)).replace("@key@", str(identity.key))
    (tmp_path / "opensips.cfg").write_text(script)
    root = str(Path(__file__).resolve().parents[2])
    server = Namespaced(tmp_path / "opensips.cfg", tmp_path, networks + "mid")
    server.begin()
    head = f"ROOT, PREFIX, CA = {root!r}, {networks!r}, {str(authority.path)!r}\n"
    try:
        done = subprocess.run(
            [sys.executable, "-c", head + INSIDE], capture_output=True, text=True, timeout=240, check=False
        )
    finally:
        server.stop()
    assert done.stdout.endswith("DONE\n"), done.stdout[-2000:] + done.stderr + server.log_text()
    assert "Traceback" not in server.log_text(), server.log_text()
    lines = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert len(lines) == 2 * (len(PROTOCOLS) * len(FAMILIES)) ** 2
    for near, one, two, heard, told in lines:
        # INVITE, ACK, re-INVITE, ACK, 200 to ours, and BYE or the 200 to it, twice; the caller gets 180 and 200, too.
        assert (len(heard), len(told)) == (12, 12)
        check_callee, check_caller = (check_outside, check_inside) if near == "in" else (check_inside, check_outside)
        check_callee(heard, *two)
        check_caller(told, *one)
