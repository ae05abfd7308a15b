"""A server in this process whose routes are Python functions, and a peer that talks to it over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from opensipspy import sip
from opensipspy.module import Module
from opensipspy.modules.proto_tcp import ProtoTcp
from opensipspy.modules.proto_udp import ProtoUdp
from opensipspy.script import kinds
from opensipspy.script.core import build_catalogue
from opensipspy.script.run import Run
from opensipspy.server.listening import Listen
from opensipspy.server.logs import L_INFO, Logs, Sink
from opensipspy.server.options import Options
from opensipspy.server.server import Server
from opensipspy.server.services import Services
from tests.ports import free_port

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop),
}
PATIENCE_S = 30.0

GLOBALS: dict[str, Any] = {
    "advertised_address": "",
    "advertised_port": 0,
    "auto_aliases": False,
    "blacklists": (),
    "db_version_table": "version",
    "disable_dns_blacklist": True,
    "check_via": False,
    "chroot": "",
    "debug_mode": False,
    "disable_core_dump": False,
    "disable_stateless_fwd": False,
    "dns_retr_no": -1,
    "dns_retr_time": -1,
    "dns_try_ipv6": False,
    "dns_try_naptr": True,
    "exec_dns_threshold": 0,
    "exec_msg_threshold": 0,
    "given": frozenset({"disable_stateless_fwd"}),
    "maxbuffer": 262144,
    "query_buffer_size": 0,
    "query_flush_time": 0,
    "mcast_loopback": False,
    "mcast_ttl": -1,
    "mhomed": False,
    "open_files_limit": -1,
    "log_event_enabled": False,
    "log_event_level_filter": 0,
    "dns_servers_no": -1,
    "poll_method": "",
    "sip_warning": False,
    "server_header": "Server: test (1)",
    "user_agent_header": "",
    "server_signature": True,
    "tcp_accept_aliases": False,
    "tcp_connect_timeout": 1000,
    "tcp_connection_lifetime": 120,
    "tcp_keepalive": True,
    "tcp_keepcount": 0,
    "tcp_keepidle": 0,
    "tcp_keepinterval": 0,
    "tcp_max_connections": 64,
    "tcp_max_msg_time": 4,
    "tcp_socket_backlog": 10,
    "tos": 16,
    "wdir": "",
}


class Route:
    """What the compiler makes of a route block."""

    def __init__(self, fn: Callable[[Run], Any], kind: int = kinds.REQUEST, name: str = "") -> None:
        self.fn = fn
        self.kind = kind
        self.name = name
        self.is_async = asyncio.iscoroutinefunction(fn)


class Routes:
    """What the compiler makes of a script."""

    def __init__(self, main: Callable[[Run], Any] | None, others: list[Route]) -> None:
        self.main = Route(main) if main is not None else None
        self.others = others
        self.timer_routes: list[tuple[int, Route]] = []
        self.event_routes: list[tuple[str, Route]] = []

    def route(self, kind: int, name: str) -> Route | None:
        return next((r for r in self.others if r.kind == kind and r.name == name), None)


class Script:
    """What `load` returns, without a file."""

    def __init__(
        self,
        main: Callable[[Run], Any] | None = None,
        *,
        others: list[Route] | None = None,
        listen: list[Listen] | None = None,
        modules: list[Module] | None = None,
        aliases: list[tuple[int, str, int, bool]] | None = None,
        **settings: Any,
    ) -> None:
        self.program = Routes(main, others or [])
        self.globals = SimpleNamespace(**{**GLOBALS, **settings})
        self.services = Services(L_INFO, {"mode": "test"})
        self.catalogue = build_catalogue(self.services)
        loaded = [ProtoUdp(), ProtoTcp(), *(modules or [])]
        self.modules = {module.name: module for module in loaded}
        self.warnings: list[str] = []
        self._listen = listen or [Listen(sip.PROTO_UDP, "127.0.0.1", free_port())]
        self._aliases = aliases or []

    def in_order(self) -> list[Module]:
        return list(self.modules.values())

    def ports(self) -> dict[int, int]:
        return {
            getattr(module, "protocol"): getattr(module, "default_port")  # noqa: B009 - what proto_* modules offer
            for module in self.modules.values()
            if hasattr(module, "protocol") and hasattr(module, "default_port")
        }

    def listen(self, options: Options) -> list[Listen]:
        return self._listen

    def aliases(self) -> list[tuple[int, str, int, bool]]:
        return self._aliases


class Lines(Sink):
    """Keeps the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, level: int, text: str, fields: dict[str, Any]) -> None:
        self.lines.append(self.styled(level, text, fields))


class House:
    """The running server and its log."""

    def __init__(self, server: Server, lines: list[str], task: asyncio.Task[int]) -> None:
        self.server = server
        self.core = server.core
        self.log = lines
        self.task = task

    def stat(self, name: str) -> int:
        found = self.core.stats.find(name)
        assert found is not None, name
        return found.read()

    @property
    def port(self) -> int:
        return self.core.sockets[0].port


@asynccontextmanager
async def running(script: Script, options: Options | None = None) -> Any:
    """The server of a script, serving; it is stopped at the end."""
    sink = Lines()
    logs = Logs(logging.getLogger("opensipspy"), [sink], L_INFO)
    server = Server(options or Options(), cast(Any, script), logs, asyncio.get_running_loop())
    ready = asyncio.Event()
    task = asyncio.ensure_future(server.main(ready.set))
    started = asyncio.ensure_future(ready.wait())
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    house = House(server, sink.lines, task)
    try:
        yield house
    finally:
        server.stop()
        await asyncio.wait_for(task, PATIENCE_S)
        logs.close()


def play(kind: str, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scene on a loop of that kind."""
    loop = LOOPS[kind]()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(asyncio.wait_for(scene(), 60))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class Peer:
    """A UDP peer of the server."""

    def __init__(self, port: int, family: int = socket.AF_INET) -> None:
        self.os = socket.socket(family, socket.SOCK_DGRAM)
        self.os.setblocking(False)
        self.os.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        self.address, self.port = self.os.getsockname()[:2]

    def send(self, data: bytes | str) -> None:
        self.os.send(data.encode() if isinstance(data, str) else data)

    async def receive(self) -> str:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.os, 65535), PATIENCE_S)
        return data.decode("utf-8", "surrogateescape")

    def nothing(self) -> bool:
        """Whether nothing has arrived."""
        try:
            self.os.recv(65535)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.os.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def request(
    method: str = "OPTIONS",
    *,
    ruri: str = "sip:127.0.0.1",
    via: str = "SIP/2.0/UDP 127.0.0.1:5999;rport",
    branch: str = "z9hG4bK1",
    call_id: str = "call-1",
    cseq: int = 1,
    to_tag: str = "",
    headers: str = "",
    body: str = "",
    cseq_method: str = "",
) -> str:
    """A request's text."""
    return (
        f"{method} {ruri} SIP/2.0\r\nVia: {via};branch={branch}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:a@example.com>;tag=f1\r\nTo: <sip:b@example.com>{';tag=' + to_tag if to_tag else ''}\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {cseq} {cseq_method or method}\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


async def settled(condition: Callable[[], bool]) -> None:
    """Turns of the loop until the condition holds; the caller's time limit ends a vain wait."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0.001)


Scene = Callable[[], Awaitable[None]]
