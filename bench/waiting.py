"""Requests whose script waits 50 ms for an HTTP server, and what others feel of it: `python -m bench.waiting`.

The server has core 0. The HTTP server (aiohttp, a process of its own) and the load have core 1. Told are the rate that
was carried, and the time that requests took which do not wait. Ends with status 1 when a request got no 200, or when
the 99th percentile of those that do not wait is above `--limit` milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
from typing import Any, Final

from bench.load import free_port
from bench.servers import ROOT, Server

ANSWER_AFTER_S: Final = 0.05
# How long a request that was sent last has to be answered.
LAST_S: Final = 3.0
REQUEST: Final = (
    "OPTIONS sip:{user}@127.0.0.1:{port} SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 127.0.0.1:{own};branch=z9hG4bK-{number}\r\n"
    "Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=f{number}\r\nTo: <sip:b@127.0.0.1>\r\n"
    "Call-ID: {number}@127.0.0.1\r\nCSeq: 1 OPTIONS\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n"
)


async def serve(port: int) -> None:
    """The HTTP server: every request is answered after 50 ms."""
    from aiohttp import web

    async def answer(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(ANSWER_AFTER_S)
        return web.Response(text="ok")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1000).start()
    await asyncio.Event().wait()


class Phones(asyncio.DatagramProtocol):
    """Sends requests and keeps the time until each was answered, in milliseconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sent: dict[str, tuple[str, float]] = {}
        self._number = 0
        self.took_ms: dict[str, list[float]] = {"wait": [], "quick": []}
        self.refused = 0
        self.finished = asyncio.Event()
        self._last = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._own = transport.get_extra_info("sockname")[1]

    def send(self, user: str) -> None:
        self._number += 1
        text = REQUEST.format(user=user, port=self._port, own=self._own, number=self._number)
        self._sent[f"{self._number}@127.0.0.1"] = (user, time.perf_counter())
        self._transport.sendto(text.encode(), ("127.0.0.1", self._port))

    def datagram_received(self, data: bytes, source: object) -> None:
        now = time.perf_counter()
        call_id = data.partition(b"Call-ID: ")[2].partition(b"\r\n")[0].decode()
        found = self._sent.pop(call_id, None)
        if found is None:
            return
        if not data.startswith(b"SIP/2.0 200"):
            self.refused += 1
        self.took_ms[found[0]].append((now - found[1]) * 1000)
        if self._last and not self._sent:
            self.finished.set()

    def finish(self) -> None:
        """No more requests follow: `finished` is set with the last answer."""
        self._last = True
        if not self._sent:
            self.finished.set()

    @property
    def unanswered(self) -> int:
        return len(self._sent)


async def play(port: int, arguments: argparse.Namespace) -> tuple[Phones, float]:
    """Both kinds of requests at steady rates; the seconds from the first to the last."""
    loop = asyncio.get_running_loop()
    _, phones = await loop.create_datagram_endpoint(lambda: Phones(port), local_addr=("127.0.0.1", 0))
    started = loop.time()
    sent = {"wait": 0, "quick": 0}
    rates = {"wait": arguments.rate, "quick": arguments.quick}
    while (now := loop.time() - started) < arguments.seconds:
        for user, rate in rates.items():
            while sent[user] < now * rate:
                phones.send(user)
                sent[user] += 1
        await asyncio.sleep(0.001)
    took = loop.time() - started
    phones.finish()
    try:
        await asyncio.wait_for(phones.finished.wait(), LAST_S)
    except TimeoutError:
        pass  # what has no answer by now is told below
    return phones, took


def until_it_listens(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
            continue
        return
    raise SystemExit("the HTTP server does not start")


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="requests a second that wait")
    parser.add_argument("--quick", type=int, default=200, help="requests a second that do not")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--limit", type=float, default=20.0)
    parser.add_argument("--python", default=sys.executable, help="the Python of the environment of the server")
    parser.add_argument("--compiled", action="store_true", help="that environment has the compiled wheel")
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {1})
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
        return 0
    http, port = free_port(), free_port()
    helper = subprocess.Popen([sys.executable, "-m", "bench.waiting", "--serve", str(http)], cwd=ROOT)
    server = None
    try:
        until_it_listens(http)
        kind = "compiled" if arguments.compiled else "plain"
        server = Server(kind, "waiting", {"PORT": str(port), "HTTP": str(http)}, python=arguments.python)
        asyncio.run(play(port, argparse.Namespace(rate=arguments.rate, quick=10, seconds=1)))
        before = server.cpu_s()
        phones, took = asyncio.run(play(port, arguments))
        used = server.cpu_s() - before
    finally:
        helper.terminate()
        helper.wait()
        if server is not None:
            server.stop()
    waited, quick = phones.took_ms["wait"], phones.took_ms["quick"]
    print(f"{len(waited) / took:.0f} requests/s that wait for HTTP, {len(quick) / took:.0f}/s that do not")
    print(f"no answer {phones.unanswered}, refused {phones.refused}, processor {used / took:.0%} of a core")
    print(f"those that wait:   median {share(waited, 0.5):6.1f} ms, p99 {share(waited, 0.99):6.1f} ms")
    print(f"those that do not: median {share(quick, 0.5):6.1f} ms, p99 {share(quick, 0.99):6.1f} ms")
    good = not phones.unanswered and not phones.refused and share(quick, 0.99) <= arguments.limit
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
