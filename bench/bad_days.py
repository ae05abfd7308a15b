"""What calls feel when others' destinations are in trouble: `python -m bench.bad_days`.

A proxy carries calls between two phones all the time, and beside them one kind of trouble after the other: a name
server that says nothing, SRV sets with dead members, refused and swallowed TCP connections, peers that reset their TCP,
TLS and WebSocket connections in mid-message, certificates that are loaded anew ten times a second. Told are the
set-up times of the calls that have nothing to do with it, and how the others ended. Ends with status 1 when the 99th
percentile of the former is above `--limit` milliseconds, one of them failed, or one of the others ended in a way that
it must not. dnsmasq is the name server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from bench.load import free_port
from tests.certificates import Authority
from tests.scenarios.server import ServerProcess

HOST: Final = "127.0.0.1"
AFTER_S: Final = 12.0
SCRIPT: Final = """
log_level=2
stderror_enabled=yes
syslog_enabled=no
dns_retr_time=1
dns_retr_no=1
tcp_connect_timeout=500
socket=udp:127.0.0.1:@UDP@
socket=tcp:127.0.0.1:@TCP@
socket=tls:127.0.0.1:@TLS@
socket=ws:127.0.0.1:@WS@
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "tls_openssl.so"
loadmodule "tls_mgm.so"
modparam("tls_mgm", "server_domain", "home")
modparam("tls_mgm", "certificate", "[home]@CERT@")
modparam("tls_mgm", "private_key", "[home]@KEY@")
modparam("tls_mgm", "verify_cert", "[home]0")
loadmodule "proto_tls.so"
loadmodule "proto_ws.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 2)
loadmodule "sipmsgops.so"
loadmodule "httpd.so"
modparam("httpd", "ip", "127.0.0.1")
modparam("httpd", "port", @HTTP@)
loadmodule "mi_http.so"
route {
    if (is_method("OPTIONS")) {
        sl_send_reply(200, "Here");
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
    t_relay();
}
"""
HEADERS: Final = (
    "Via: SIP/2.0/UDP 127.0.0.1:{own};branch=z9hG4bK{number}{method}\r\n"
    "Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=f{number}\r\nTo: {to}\r\nCall-ID: {number}@bench\r\n"
    "CSeq: 1 {method}\r\nContact: <sip:a@127.0.0.1:{own}>\r\nContent-Length: 0\r\n\r\n"
)


class Callers(asyncio.DatagramProtocol):
    """Sends INVITEs, acknowledges what ends them, and keeps for each kind the time (ms) and the status."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sent: dict[str, tuple[str, str, float]] = {}
        self._number = 0
        self.times_ms: dict[str, list[float]] = {}
        self.ends: dict[str, Counter[int]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._own = transport.get_extra_info("sockname")[1]

    def call(self, kind: str, uri: str) -> None:
        self._number += 1
        number = str(self._number)
        self._sent[number] = (kind, uri, time.perf_counter())
        self._say("INVITE", uri, number, f"<{uri}>", "")

    def _say(self, method: str, uri: str, number: str, to: str, routes: str) -> None:
        rest = HEADERS.format(own=self._own, number=number, method=method, to=to)
        self._transport.sendto(f"{method} {uri} SIP/2.0\r\n{routes}{rest}".encode(), (HOST, self._port))

    def datagram_received(self, data: bytes, source: object) -> None:
        now = time.perf_counter()
        head = data.decode()
        status = int(head.split(" ", 2)[1])
        number = head.partition("Call-ID: ")[2].partition("@")[0]
        if status < 200 or number not in self._sent:
            return
        kind, uri, sent = self._sent.pop(number)
        self.times_ms.setdefault(kind, []).append((now - sent) * 1000)
        self.ends.setdefault(kind, Counter())[status] += 1
        to = head.partition("\r\nTo: ")[2].partition("\r\n")[0]
        routes = "".join(f"Route: {line[14:]}\r\n" for line in head.split("\r\n") if line.startswith("Record-Route: "))
        if status < 300:
            self._say("ACK", uri, number, to, routes)
        else:
            rest = HEADERS.format(own=self._own, number=number, method="ACK", to=to).replace(f"{number}ACK;", "")
            rest = rest.replace(f"z9hG4bK{number}ACK", f"z9hG4bK{number}INVITE")
            self._transport.sendto(f"ACK {uri} SIP/2.0\r\n{rest}".encode(), (HOST, self._port))

    @property
    def waiting(self) -> int:
        return len(self._sent)


class Callee(asyncio.DatagramProtocol):
    """Answers every INVITE at once."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        if not data.startswith(b"INVITE"):
            return
        kept = [
            line + (b";tag=callee" if line.startswith(b"To:") else b"")
            for line in data.split(b"\r\n")
            if line.startswith((b"Via:", b"Record-Route:", b"From:", b"To:", b"Call-ID:", b"CSeq:"))
        ]
        contact = f"Contact: <sip:b@127.0.0.1:{self.port}>".encode()
        self._transport.sendto(
            b"\r\n".join([b"SIP/2.0 200 OK", *kept, contact, b"Content-Length: 0", b"", b""]), source
        )


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else float("inf")


def cut(port: int, first: bytes, context: ssl.SSLContext | None) -> None:
    """Connect, say the beginning of something, and reset the connection."""
    with contextlib.suppress(OSError):
        made = socket.create_connection((HOST, port), 2)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if context is not None:
            made = context.wrap_socket(made)
        made.sendall(first)
        made.close()


class House:
    """The server, the name server, and the peers that are in trouble."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        ours = authority.issue("home.test")
        self.ports = {name: free_port() for name in ("UDP", "TCP", "TLS", "WS", "HTTP")}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.load_verify_locations(authority.path)
        self.silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.silent.bind((HOST, 0))
        # Nobody accepts: once the queue is full, what else connects hears nothing.
        self.swallows = socket.socket()
        self.swallows.bind((HOST, 0))
        self.swallows.listen(0)
        self._fill: list[socket.socket] = []
        for _ in range(4):
            made = socket.socket()
            made.setblocking(False)
            made.connect_ex(self.swallows.getsockname())
            self._fill.append(made)
        self.dead, self.refuses = free_port(), free_port()
        text = SCRIPT.replace("@CERT@", str(ours.cert)).replace("@KEY@", str(ours.key))
        for name, port in self.ports.items():
            text = text.replace(f"@{name}@", str(port))
        (folder / "opensips.cfg").write_text(text)
        self.server = ServerProcess(folder / "opensips.cfg", folder)
        self._folder = folder
        self._names: subprocess.Popen[bytes] | None = None

    def start(self, callee: int) -> None:
        port, silent = free_port(), self.silent.getsockname()[1]
        words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="]
        words += [f"--port={port}", f"--listen-address={HOST}", "--bind-interfaces", "--pid-file", "--log-facility=-"]
        words += [f"--host-record=host.test,{HOST}", "--local=/test/", f"--server=/lost.example/{HOST}#{silent}"]
        words += [f"--srv-host=_sip._udp.dead.test,host.test,{self.dead},1"]
        words += [f"--srv-host=_sip._udp.dead.test,host.test,{callee},2"]
        words += [f"--srv-host=_sip._udp.lost.test,host.test,{self.dead},1"]
        with (self._folder / "dnsmasq.out").open("wb") as out:
            self._names = subprocess.Popen(words, stdout=out, stderr=out)
        os.environ["OPENSIPSPY_NAME_SERVERS"] = f"{HOST}:{port}"
        self.server.start()

    def stop(self) -> None:
        self.server.stop()
        if self._names is not None:
            self._names.kill()
            self._names.wait()
        for each in (self.silent, self.swallows, *self._fill):
            each.close()

    async def reload(self) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tls_mgm:reload", "params": {}})
        reader, writer = await asyncio.open_connection(HOST, self.ports["HTTP"])
        head = f"POST /mi HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        answer = await reader.read()
        writer.close()
        if b'"OK"' not in answer:
            raise SystemExit(f"tls_mgm:reload: {answer!r}")


Trouble = tuple[str, int, frozenset[int], Callable[[Callers, int], Awaitable[None]] | None]


def troubles(house: House) -> list[Trouble]:
    """Name, times a second, statuses that its calls may end with, what happens each time."""

    def calls(kind: str, uri: str) -> Callable[[Callers, int], Awaitable[None]]:
        async def one(callers: Callers, number: int) -> None:
            callers.call(kind, uri.replace("%", str(number)))

        return one

    async def resets(callers: Callers, number: int) -> None:
        half = b"INVITE sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK1\r\nCont"
        name = ("TCP", "TLS", "WS")[number % 3]
        begun = b"GET / HTTP/1.1\r\nUpgrade: webso" if name == "WS" else half
        await asyncio.to_thread(cut, house.ports[name], begun, house.context if name == "TLS" else None)

    async def reload(callers: Callers, number: int) -> None:
        await house.reload()

    swallows = house.swallows.getsockname()[1]
    return [
        ("nothing", 0, frozenset(), None),
        ("silent name server", 20, frozenset({476}), calls("silent name server", "sip:b@n%.lost.example")),
        ("SRV, first is dead", 20, frozenset({200}), calls("SRV, first is dead", "sip:b@dead.test")),
        ("SRV, all are dead", 20, frozenset({408}), calls("SRV, all are dead", "sip:b@lost.test")),
        (
            "TCP, refused",
            20,
            frozenset({477}),
            calls("TCP, refused", f"sip:b@127.0.0.1:{house.refuses};transport=tcp"),
        ),
        ("TCP, swallowed", 20, frozenset({477}), calls("TCP, swallowed", f"sip:b@127.0.0.1:{swallows};transport=tcp")),
        ("resets", 30, frozenset(), resets),
        ("certificates anew", 10, frozenset(), reload),
    ]


async def play(house: House, rate: int, seconds: float, limit_ms: float) -> bool:
    loop = asyncio.get_running_loop()
    there, callee = await loop.create_datagram_endpoint(Callee, local_addr=(HOST, 0))
    house.start(callee.port)
    here, callers = await loop.create_datagram_endpoint(lambda: Callers(house.ports["UDP"]), local_addr=(HOST, 0))
    good = True
    for _ in range(50):
        callers.call("warm", f"sip:b@127.0.0.1:{callee.port}")
        await asyncio.sleep(0.01)
    for name, each_s, allowed, happen in troubles(house):
        begun, sent, done = loop.time(), 0, 0
        tasks: list[asyncio.Future[None]] = []
        callers.times_ms.pop("good", None)
        callers.ends.pop("good", None)
        while (now := loop.time() - begun) < seconds:
            while sent < now * rate:
                callers.call("good", f"sip:b@127.0.0.1:{callee.port}")
                sent += 1
            while happen is not None and done < now * each_s:
                tasks.append(asyncio.ensure_future(happen(callers, done)))
                done += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        end = loop.time() + AFTER_S
        while callers.waiting and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        times, ends = callers.times_ms.get("good", []), callers.ends.get(name, Counter())
        fine = callers.ends["good"] == {200: sent} and not callers.waiting and set(ends) <= allowed
        fine = fine and share(times, 0.99) <= limit_ms
        good = good and fine
        line = f"{name:19} {len(times)} calls, median {share(times, 0.5):5.1f} ms, p99 {share(times, 0.99):5.1f} ms, "
        line += f"longest {max(times, default=0):5.1f} ms, without an answer {callers.waiting}"
        if ends:
            took = callers.times_ms[name]
            line += f"; its own {done}: {dict(ends)}, median {share(took, 0.5) / 1000:.2f} s"
        print(line if fine else f"{line} <- not as it should be", flush=True)
    here.close()
    there.close()
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bad_days", description=__doc__)
    parser.add_argument("--rate", type=int, default=100, help="calls a second that have nothing to do with it")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each trouble lasts")
    parser.add_argument("--limit", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        house = House(Path(name))
        try:
            good = asyncio.run(play(house, arguments.rate, arguments.seconds, arguments.limit))
        finally:
            house.stop()
        said = [line for line in house.server.log_text().splitlines() if "Traceback" in line or " ERROR " in line]
        print("\n".join(said[:10]))
    return 0 if good and not said else 1


if __name__ == "__main__":
    sys.exit(main())
