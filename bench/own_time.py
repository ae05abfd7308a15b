"""Time of our own code for each message, without sockets or SIPp: `python -m bench.own_time invite [--profile]`.

The server runs in this process on a script of the bench; its datagrams are put in by hand and what it would send is
caught. The medians repeat within 2 % where a run with SIPp scatters by 15 %, so this shows what a change did.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import hashlib
import pstats
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.load import free_port, make_users
from bench.servers import script_text
from opensipspy import sip
from opensipspy.server.launch import open_logs
from opensipspy.server.load import load
from opensipspy.server.options import Options
from opensipspy.server.server import Server
from opensipspy.sip import Peer, message

CALLER = 5998
CALLEE = 5999
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8\r\n"
    "a=rtpmap:8 PCMA/8000\r\n"
)


class Wire:
    """Takes the place of the operating system's socket: what leaves is kept."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.out: list[bytes] = []

    def sendto(self, data: bytes, destination: tuple[str, int]) -> int:
        self.out.append(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Bench:
    """One server and the phones around it."""

    def __init__(self, server: Server, profile: cProfile.Profile | None) -> None:
        self.server = server
        self.socket = server.core.sockets[0]
        self.port = self.socket.port
        self.times: dict[str, list[int]] = {}
        self._profile = profile
        listener = server.network.transport(sip.PROTO_UDP)._listeners[self.socket]  # type: ignore[union-attr]
        self._wire = listener._os = Wire(listener._os)

    def forget_sent(self) -> None:
        """What left since the last message is of no interest."""
        self._wire.out.clear()

    def put(self, name: str, text: str, port: int = CALLER) -> list[str]:
        """Let the server have one datagram; what it sends."""
        data = text.encode()
        source = Peer(sip.PROTO_UDP, "127.0.0.1", port)
        self._wire.out.clear()
        if self._profile is not None:
            self._profile.enable()
        start = time.perf_counter_ns()
        self.server.steps.receive(data, source, self.socket)
        took = time.perf_counter_ns() - start
        if self._profile is not None:
            self._profile.disable()
        self.times.setdefault(name, []).append(took)
        return [one.decode() for one in self._wire.out]


def lines(text: str, name: str) -> str:
    return "".join(line + "\r\n" for line in text.split("\r\n") if line.lower().startswith(name.lower() + ":"))


def joined_vias(text: str) -> str:
    """In one header, as SIPp copies them."""
    values = [line[5:] for line in lines(text, "Via").split("\r\n") if line]
    return "Via: " + ", ".join(values) + "\r\n"


def request(method: str, uri: str, number: int, step: int, to: str, more: str = "", body: str = "") -> str:
    return (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{CALLER};branch=z9hG4bK-{number}-{step}\r\n{more}"
        f"Max-Forwards: 70\r\nFrom: <sip:caller{number}@127.0.0.1>;tag=8c{number}\r\n{to}"
        f"Call-ID: {number}-77@127.0.0.1\r\nCSeq: {step} {method}\r\nUser-Agent: bench\r\n"
        f"Content-Length: {len(body):5}\r\n\r\n{body}"
    )


def answer(received: str, status: str, more: str = "", body: str = "") -> str:
    to = lines(received, "To")
    if ";tag=" not in to:
        to = to[:-2] + ";tag=uas\r\n"
    head = joined_vias(received) + lines(received, "Record-Route") + lines(received, "From") + to
    head += lines(received, "Call-ID") + lines(received, "CSeq") + more
    return f"SIP/2.0 {status}\r\n{head}Content-Length: {len(body):5}\r\n\r\n{body}"


def call(bench: Bench, number: int) -> None:
    """INVITE, 180, 200, ACK, BYE, 200."""
    contact = f"Contact: <sip:127.0.0.1:{CALLEE};transport=UDP>\r\n"
    sdp = "Content-Type: application/sdp\r\n"
    own = f"Contact: <sip:caller@127.0.0.1:{CALLER};transport=UDP>\r\n" + sdp
    to = "To: <sip:callee@127.0.0.1>\r\n"
    _, invite = bench.put("INVITE", request("INVITE", f"sip:callee@127.0.0.1:{bench.port}", number, 1, to, own, SDP))
    bench.put("180", answer(invite, "180 Ringing", contact), CALLEE)
    (ok,) = bench.put("200 INVITE", answer(invite, "200 OK", contact + sdp, SDP), CALLEE)
    routes, to = lines(ok, "Record-Route").replace("Record-Route", "Route"), lines(ok, "To")
    target = f"sip:127.0.0.1:{CALLEE};transport=UDP"
    bench.put("ACK", request("ACK", target, number, 1, to, routes).replace(f"-{number}-1\r", f"-{number}-ack\r"))
    (bye,) = bench.put("BYE", request("BYE", target, number, 2, to, routes))
    bench.put("200 BYE", answer(bye, "200 OK"), CALLEE)


def options(bench: Bench, number: int) -> None:
    to = "To: <sip:x@127.0.0.1>\r\n"
    assert bench.put("OPTIONS", request("OPTIONS", f"sip:127.0.0.1:{bench.port}", number, 1, to))


def register(bench: Bench, number: int) -> None:
    """REGISTER, 401, REGISTER with a digest, 200."""
    user, uri = f"user{number % 1000}", f"sip:127.0.0.1:{bench.port}"
    to = f"To: <sip:{user}@127.0.0.1>\r\n"
    contact = f"Contact: <sip:{user}@127.0.0.1:{CALLER}>\r\nExpires: 600\r\n"
    (challenge,) = bench.put("REGISTER", request("REGISTER", uri, number, 1, to, contact))
    found = re.search('nonce="([^"]+)"', challenge)
    assert found is not None
    ha1 = hashlib.md5(f"{user}:127.0.0.1:secret{number % 1000}".encode()).hexdigest()
    ha2 = hashlib.md5(f"REGISTER:{uri}".encode()).hexdigest()
    response = hashlib.md5(f"{ha1}:{found[1]}:00000001:ab:auth:{ha2}".encode()).hexdigest()
    contact += (
        f'Authorization: Digest username="{user}",realm="127.0.0.1",cnonce="ab",nc=00000001,qop=auth,uri="{uri}",'
        f'nonce="{found[1]}",response="{response}",algorithm=MD5\r\n'
    )
    (ok,) = bench.put("with digest", request("REGISTER", uri, number, 2, to, contact))
    assert ok.startswith("SIP/2.0 200")


SCENARIOS: dict[str, Callable[[Bench, int], None]] = {
    "invite": call,
    "options": options,
    "register": register,
    "script": options,
}


async def start_server(
    scenario: str, folder: Path, profile: cProfile.Profile | None = None, clock: Callable[[], float] = time.monotonic
) -> Bench:
    """The server in this process, with the bench's script of that name."""
    database, _ = make_users(folder)
    script = folder / "bench.cfg"
    values = {"PORT": str(free_port()), "UAS": str(CALLEE), "DB": str(database).lstrip("/")}
    script.write_text(script_text("plain", scenario, values), encoding="utf-8")
    settings = Options()
    settings.script, settings.workdir, settings.log_stderr = str(script), str(folder), True
    loaded = load(settings)
    server = Server(settings, loaded, open_logs(settings, loaded), asyncio.get_running_loop())
    server.core.set_clock(clock)
    await server.start()
    gc.collect()
    gc.freeze()
    return Bench(server, profile)


async def measure(arguments: argparse.Namespace, folder: Path, profile: cProfile.Profile | None) -> Bench:
    bench = await start_server(arguments.scenario, folder, profile)
    play = SCENARIOS[arguments.scenario]
    for number in range(arguments.calls):
        if number == arguments.calls // 5:  # warm
            bench.times.clear()
        play(bench, number)
        if number % 200 == 0:
            await asyncio.sleep(0)
    await bench.server.shut_down()
    return bench


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.own_time", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    profile = cProfile.Profile() if arguments.profile else None
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = asyncio.run(measure(arguments, Path(name), profile))
    print("plain Python" if message.__file__.endswith(".py") else "compiled")
    medians = {name: statistics.median(times) / 1000 for name, times in bench.times.items()}
    for name, median in medians.items():
        print(f"{name:12} {median:7.1f} us")
    print(f"{'a call':12} {sum(medians.values()):7.1f} us")
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
