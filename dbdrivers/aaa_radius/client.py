"""Requests to RADIUS servers, sent again with growing pauses, then to the next server (RFC 2865 §2.4, RFC 5080)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from logging import Logger
from typing import Final, cast

from opensipspy.aaa import AaaClient, AaaError, AaaReply, Attributes
from opensipspy.dbdrivers.aaa_radius import packet
from opensipspy.dbdrivers.aaa_radius.config import Config, ServerConfig
from opensipspy.dbdrivers.aaa_radius.dictionary import Dictionary

IDENTIFIERS: Final = 256
MAX_PORTS: Final = 16
"""Sockets for one server, each with 256 requests at a time."""


class Port(asyncio.DatagramProtocol):
    """A socket connected to one server: what others send to it, the system drops."""

    def __init__(self, server: ServerConfig) -> None:
        self._server = server
        self._waiting: dict[int, tuple[asyncio.Future[bytes], bytes]] = {}
        self._next = secrets.randbelow(IDENTIFIERS)
        self.transport: asyncio.DatagramTransport | None = None
        self.dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Before Python 3.12 the loop's transports are no DatagramTransport by their class.
        self.transport = cast("asyncio.DatagramTransport", transport)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= IDENTIFIERS

    def reserve(self) -> int:
        """A free identifier."""
        while self._next in self._waiting:
            self._next = (self._next + 1) % IDENTIFIERS
        number = self._next
        self._next = (number + 1) % IDENTIFIERS
        return number

    def wait(self, number: int, authenticator: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (future, authenticator)
        return future

    def release(self, number: int) -> None:
        self._waiting.pop(number, None)

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.sendto(data)

    def datagram_received(self, data: bytes, addr: object) -> None:
        waiting = self._waiting.get(data[1]) if len(data) >= packet.HEADER else None
        reply = packet.check_reply(data, self._server.secret, waiting[1]) if waiting is not None else None
        if waiting is None or reply is None:
            self.dropped += 1
        elif not waiting[0].done():
            waiting[0].set_result(reply)

    def error_received(self, exc: Exception) -> None:
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(OSError(str(exc)))


class Server:
    """One server with its sockets. dead_until: by the clock of the loop, it is asked last before then."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.dead_until = 0.0
        self.lost = False
        self._ports: list[Port] = []
        self._opening = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"{self.config.host}:{self.config.port}"

    async def port(self, bind: str) -> Port:
        """A socket with a free identifier. Raises OSError."""
        async with self._opening:
            for port in self._ports:
                if not port.full:
                    return port
            if len(self._ports) >= MAX_PORTS:
                raise AaaError(f"more than {MAX_PORTS * IDENTIFIERS} requests wait for {self.name}", transient=True)
            _, port = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: Port(self.config),
                local_addr=(bind, 0) if bind else None,
                remote_addr=(self.config.host, self.config.port),
            )
            self._ports.append(port)
            return port

    def close(self) -> None:
        for port in self._ports:
            if port.transport is not None:
                port.transport.close()
        self._ports.clear()


class RadiusClient(AaaClient):
    """The servers of one configuration file."""

    def __init__(self, config: Config, dictionary: Dictionary, log: Logger) -> None:
        self._config = config
        self._dictionary = dictionary
        self._log = log
        self._auth = [Server(server) for server in config.auth]
        self._acct = [Server(server) for server in config.acct]

    def check(self, names: Iterable[str]) -> None:
        missing = [name for name in names if self._dictionary.attribute(name) is None]
        if missing:
            raise AaaError(f"the dictionary has no attribute {', '.join(missing)}")

    def value(self, attribute: str, name: str) -> int:
        found = self._dictionary.value(attribute, name)
        if found is None:
            raise AaaError(f"the dictionary has no value {name} of {attribute}")
        return found

    def fitted(self, attributes: Attributes) -> tuple[Attributes, list[str]]:
        return packet.fitted(self._dictionary, attributes)

    async def authenticate(self, attributes: Attributes) -> AaaReply:
        def build(server: ServerConfig, number: int) -> tuple[bytes, bytes]:
            authenticator = secrets.token_bytes(16)
            data = packet.encode(self._dictionary, attributes, server.secret, authenticator)
            return packet.access_request(number, data, server.secret, authenticator), authenticator

        reply = await self._ask(self._auth, build)
        if reply[0] not in (packet.ACCESS_ACCEPT, packet.ACCESS_REJECT, packet.ACCESS_CHALLENGE):
            raise AaaError(f"the server answered with the unexpected code {reply[0]}")
        return self._reply(reply, packet.ACCESS_ACCEPT)

    async def account(self, attributes: Attributes) -> AaaReply:
        def build(server: ServerConfig, number: int) -> tuple[bytes, bytes]:
            data = packet.encode(self._dictionary, attributes, server.secret, bytes(16))
            request = packet.accounting_request(number, data, server.secret)
            return request, request[4:20]

        reply = await self._ask(self._acct, build)
        if reply[0] != packet.ACCOUNTING_RESPONSE:
            raise AaaError(f"the server answered with the unexpected code {reply[0]}")
        return self._reply(reply, packet.ACCOUNTING_RESPONSE)

    def _reply(self, data: bytes, good: int) -> AaaReply:
        return AaaReply(data[0] == good, packet.decode(self._dictionary, data))

    async def _ask(self, servers: Sequence[Server], build: Callable[[ServerConfig, int], tuple[bytes, bytes]]) -> bytes:
        if not servers:
            raise AaaError(f"{self._config.path} names no server for this")
        clock = asyncio.get_running_loop().time
        now = clock()
        # Dead servers come last: they are asked when all others are silent, too.
        for server in sorted(servers, key=lambda server: server.dead_until > now):
            try:
                reply = await self._ask_server(server, build)
            except OSError as error:
                server.dead_until = clock() + self._config.dead
                if not server.lost:
                    server.lost = True
                    self._log.error("aaa_radius: %s does not answer: %s", server.name, str(error) or "timeout")
                continue
            server.dead_until = 0.0
            if server.lost:
                server.lost = False
                self._log.warning("aaa_radius: %s answers again", server.name)
            return reply
        raise AaaError("no RADIUS server answers", transient=True)

    async def _ask_server(self, server: Server, build: Callable[[ServerConfig, int], tuple[bytes, bytes]]) -> bytes:
        port = await server.port(self._config.bind)
        number = port.reserve()
        request, authenticator = build(server.config, number)
        future = port.wait(number, authenticator)
        pause = self._config.timeout
        try:
            for _ in range(self._config.tries):
                port.send(request)
                done, _pending = await asyncio.wait((future,), timeout=pause)
                if done:
                    return future.result()
                pause *= 2
            raise TimeoutError
        finally:
            port.release(number)
            future.cancel()

    def close(self) -> None:
        for server in (*self._auth, *self._acct):
            server.close()
