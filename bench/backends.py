"""One back-end after the other stalls for two seconds: `python -m bench.backends`.

A server whose script asks MariaDB, PostgreSQL, Redis, MongoDB, LDAP and RADIUS, each by requests of its own, and
answers some without asking anybody. Each server in turn is stopped (SIGSTOP) for two seconds. Told are the times of the
requests that do not ask it, and when those that do were answered. Ends with status 1 when the 99th percentile of the
former is above `--limit` milliseconds, or one of them got another answer.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench.load import free_port
from tests.scenarios.back_ends import BackEnds
from tests.scenarios.server import ServerProcess

STALL_S: Final = 2.0
BEFORE_S: Final = 1.0
AFTER_S: Final = 1.0
LAST_S: Final = 12.0
QUICK: Final = "quick"
REQUEST: Final = (
    "OPTIONS sip:{user}@127.0.0.1:{port} SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 127.0.0.1:{own};branch=z9hG4bK-{number}\r\n"
    "Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=f{number}\r\nTo: <sip:b@127.0.0.1>\r\n"
    "Call-ID: {number}@127.0.0.1\r\nCSeq: 1 OPTIONS\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n"
)


def main_route(names: tuple[str, ...]) -> str:
    cases = "\n".join(
        f'    if ($rU == "{name}") {{\n        route({name});\n        sl_send_reply(200, "$avp({name})");\n'
        "        exit;\n    }"
        for name in names
    )
    return f'\nroute {{\n{cases}\n    sl_send_reply(200, "nobody");\n}}\n'


class Phones(asyncio.DatagramProtocol):
    """Sends requests and keeps, for each kind, how long each took (ms) and its reason phrase."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sent: dict[str, tuple[str, float]] = {}
        self._number = 0
        self.answers: dict[str, list[tuple[float, str]]] = {}

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
        user, sent = self._sent.pop(call_id, ("", 0.0))
        if user:
            reason = data.partition(b"\r\n")[0].decode().partition(" ")[2]
            self.answers.setdefault(user, []).append(((now - sent) * 1000, reason))

    @property
    def waiting(self) -> int:
        return len(self._sent)


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else float("inf")


async def play(port: int, servers: BackEnds, stalled: str, rate: int) -> Phones:
    """Requests of all kinds in turn, `rate` a second together; the server `stalled` ("" none) stops for a while."""
    loop = asyncio.get_running_loop()
    transport, phones = await loop.create_datagram_endpoint(lambda: Phones(port), local_addr=("127.0.0.1", 0))
    users = (*servers.names, QUICK)
    length = BEFORE_S + STALL_S + AFTER_S
    begun = loop.time()
    sent = 0
    state = ""
    try:
        while (now := loop.time() - begun) < length:
            wanted = "stalled" if BEFORE_S <= now < BEFORE_S + STALL_S else ""
            if stalled and wanted != state:
                await asyncio.to_thread(servers.server(stalled).signal, signal.SIGSTOP if wanted else signal.SIGCONT)
                state = wanted
            while sent < now * rate:
                phones.send(users[sent % len(users)])
                sent += 1
            await asyncio.sleep(0.001)
        end = loop.time() + LAST_S
        while phones.waiting and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    finally:
        if stalled:
            servers.server(stalled).signal(signal.SIGCONT)
        transport.close()
    return phones


def tell(phones: Phones, names: tuple[str, ...], stalled: str, limit_ms: float) -> bool:
    """One line of figures; whether those that do not ask the stalled server were answered well and in time."""
    others = [each for user, answers in phones.answers.items() if user != stalled for each in answers]
    wrong = sum(
        answer != (f"200 alice of {user}" if user != QUICK else "200 nobody")
        for user, answers in phones.answers.items()
        if user != stalled
        for _, answer in answers
    )
    times = [took for took, _ in others]
    line = f"{stalled or 'nobody':9} stalled: {len(times)} others, median {share(times, 0.5):5.1f} ms, "
    line += f"p99 {share(times, 0.99):5.1f} ms, longest {max(times, default=0):5.1f} ms, other answers {wrong}"
    if stalled:
        mine = phones.answers.get(stalled, [])
        good = sum(answer == f"200 alice of {stalled}" for _, answer in mine)
        line += f"; its own: {good} of {len(mine)} with a result, longest {max(t for t, _ in mine) / 1000:.1f} s"
    print(f"{line}; without an answer {phones.waiting}", flush=True)
    slow = [(user, share([t for t, _ in answers], 0.99)) for user, answers in phones.answers.items() if user != stalled]
    if share(times, 0.99) > limit_ms:
        print("          p99 by kind: " + ", ".join(f"{user} {value:.1f} ms" for user, value in slow), flush=True)
    return not wrong and not phones.waiting and share(times, 0.99) <= limit_ms


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.backends", description=__doc__)
    parser.add_argument("--rate", type=int, default=300, help="requests a second, of all kinds together")
    parser.add_argument("--limit", type=float, default=20.0)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these stall")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BackEnds.names:
            parser.error(f"there is no back-end {name!r}; there are {', '.join(BackEnds.names)}")
    servers = BackEnds()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="opensipspy-") as name:
        folder = Path(name)
        server = None
        try:
            servers.start()
            server = ServerProcess(servers.script(folder, port, main_route(servers.names)), folder)
            server.start()
            asyncio.run(play(port, servers, "", arguments.rate))  # connections open
            good = True
            for stalled in ("", *(arguments.names or servers.names)):
                phones = asyncio.run(play(port, servers, stalled, arguments.rate))
                good = tell(phones, servers.names, stalled, arguments.limit) and good
            for line in server.log_text().splitlines():
                if "ERROR" in line or "WARNING" in line:
                    print("   ", line[:180])
        finally:
            if server is not None:
                server.stop()
            servers.stop()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
