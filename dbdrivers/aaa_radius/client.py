"""Requests to RADIUS servers, sent again with growing pauses, then to the next server (RFC 2865 §2.4, RFC 5080).

As the client libraries of the C server do, each request gets NAS-Port 5060 and the NAS-IP-Address (NAS-IPv6-Address)
that it is sent from, unless it has its own, and the NAS-Identifier of the configuration; records get Acct-Delay-Time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final, Protocol, cast

from opensipspy.aaa import AaaClient, AaaError, AaaReply, AaaValue, Attributes, Ticket
from opensipspy.dbdrivers.aaa_radius import packet
from opensipspy.dbdrivers.aaa_radius.config import Config, ServerConfig
from opensipspy.dbdrivers.aaa_radius.dictionary import Dictionary

IDENTIFIERS: Final = 256
MAX_PORTS: Final = 16
"""Sockets for one server, each with 256 requests at a time."""
NAS_PORT: Final = 5060
DELAY: Final = "Acct-Delay-Time"

Build = Callable[[ServerConfig, int, str], tuple[bytes, bytes]]
"""The request for a server, and its authenticator; from the identifier and the address it is sent from."""


class Watcher(Protocol):
    """Is told what happens with the servers."""

    def sent(self, again: bool) -> None:
        """A request left. again: for a second time, or more."""

    def late(self) -> None:
        """A reply came that nobody waits for any more."""

    def dropped(self, server: str, why: str) -> None:
        """A reply does not count."""

    def failed(self) -> None:
        """A request stays without an answer, or cannot be made."""

    def state(self, server: str, lost: bool, reason: str) -> None:
        """A server is asked for the first time, does not answer, or answers again."""


class Seal:
    """Whether replies of a server need a Message-Authenticator (CVE-2024-3596). learns: once one had it, all do."""

    def __init__(self, needed: bool, learns: bool) -> None:
        self.needed = needed
        self._learns = learns

    def admits(self, reply: bytes) -> bool:
        """Whether a checked reply counts."""
        if self.needed or self._learns:
            if packet.is_sealed(reply):
                self.needed = True
            elif self.needed:
                return False
        return True


class Port(asyncio.DatagramProtocol):
    """A socket connected to one server: what others send to it, the system drops."""

    def __init__(self, server: ServerConfig, name: str, watcher: Watcher, seal: Seal) -> None:
        self._server = server
        self._seal = seal
        self._name = name
        self._watcher = watcher
        self._waiting: dict[int, tuple[asyncio.Future[bytes], bytes]] = {}
        self._next = secrets.randbelow(IDENTIFIERS)
        self.transport: asyncio.DatagramTransport | None = None
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Before Python 3.12 the loop's transports are no DatagramTransport by their class.
        self.transport = cast("asyncio.DatagramTransport", transport)
        # A scope after "%" has no place in attributes.
        self.address = str(transport.get_extra_info("sockname")[0]).partition("%")[0]

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
            if waiting is None and len(data) >= packet.HEADER:
                self._watcher.late()
            else:
                self._watcher.dropped(self._name, "it is broken or not authentic")
        elif not self._seal.admits(reply):
            # Such a reply can be forged by those between.
            self._watcher.dropped(self._name, "it has no Message-Authenticator, as it has to")
        elif not waiting[0].done():
            waiting[0].set_result(reply)

    def error_received(self, exc: Exception) -> None:
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(OSError(str(exc)))


class Server:
    """One server with its sockets. dead_until: by the clock of the loop, it is asked last before then."""

    def __init__(self, config: ServerConfig, watcher: Watcher, seal: Seal) -> None:
        self.config = config
        self._seal = seal
        self._watcher = watcher
        self.known = False
        self.dead_until = 0.0
        self.lost = False
        self._ports: list[Port] = []
        self._opening = asyncio.Lock()

    @property
    def name(self) -> str:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{host}:{self.config.port}"

    async def port(self, bind: str) -> Port:
        """A socket with a free identifier. Raises OSError."""
        async with self._opening:
            for port in self._ports:
                if not port.full:
                    return port
            if len(self._ports) >= MAX_PORTS:
                raise OSError(f"{MAX_PORTS * IDENTIFIERS} requests wait for it already")
            _, port = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: Port(self.config, self.name, self._watcher, self._seal),
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


def _seconds(value: AaaValue) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise AaaError(f"the value of {DELAY} is no number") from error


class RadiusClient(AaaClient):
    """The servers of one configuration file."""

    def __init__(self, config: Config, dictionary: Dictionary, watcher: Watcher) -> None:
        self._config = config
        self._dictionary = dictionary
        self._watcher = watcher
        self._auth = [Server(server, watcher, Seal(config.sealed, config.learns)) for server in config.auth]
        self._acct = [Server(server, watcher, Seal(False, False)) for server in config.acct]

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
        given = {name.lower() for name, _ in attributes}

        def build(server: ServerConfig, number: int, address: str) -> tuple[bytes, bytes]:
            authenticator = secrets.token_bytes(16)
            whole = (*attributes, *self._own(given, address))
            data = packet.encode(self._dictionary, whole, server.secret, authenticator)
            return packet.access_request(number, data, server.secret, authenticator), authenticator

        reply = await self._ask(self._auth, build)
        if reply[0] not in (packet.ACCESS_ACCEPT, packet.ACCESS_REJECT, packet.ACCESS_CHALLENGE):
            raise AaaError(f"the server answered with the unexpected code {reply[0]}")
        return self._reply(reply, packet.ACCESS_ACCEPT)

    async def account(self, attributes: Attributes, ticket: Ticket | None = None) -> AaaReply:
        # RFC 2866 has no mark of a copy: servers tell it by Acct-Session-Id, Acct-Status-Type and Event-Timestamp,
        # which are the same again.
        given = {name.lower() for name, _ in attributes}
        clock = asyncio.get_running_loop().time
        delays = [value for name, value in attributes if name.lower() == DELAY.lower()]
        rest = [(name, value) for name, value in attributes if name.lower() != DELAY.lower()]
        begun = clock() - _seconds(delays[0] if delays else 0)

        def build(server: ServerConfig, number: int, address: str) -> tuple[bytes, bytes]:
            whole = (*rest, *self._own(given, address), (DELAY, int(clock() - begun)))
            data = packet.encode(self._dictionary, whole, server.secret, bytes(16))
            request = packet.accounting_request(number, data, server.secret)
            return request, request[4:20]

        reply = await self._ask(self._acct, build)
        if reply[0] != packet.ACCOUNTING_RESPONSE:
            raise AaaError(f"the server answered with the unexpected code {reply[0]}")
        return self._reply(reply, packet.ACCOUNTING_RESPONSE)

    def _reply(self, data: bytes, good: int) -> AaaReply:
        return AaaReply(data[0] == good, packet.decode(self._dictionary, data))

    def _own(self, given: set[str], address: str) -> list[tuple[str, AaaValue]]:
        """What requests say of this server (RFC 2865 §5.4, §5.32). given: attributes that they have, in lower case."""
        found: list[tuple[str, AaaValue]] = []
        if "nas-port" not in given:
            found.append(("NAS-Port", NAS_PORT))
        if not {"nas-ip-address", "nas-ipv6-address"} & given:
            name = "NAS-IPv6-Address" if ip_address(address).version == 6 else "NAS-IP-Address"
            found.append((name, address))
        if self._config.nas_identifier and "nas-identifier" not in given:
            found.append(("NAS-Identifier", self._config.nas_identifier))
        return found

    def _order(self, servers: Sequence[Server], now: float) -> list[Server]:
        """Those that answered last time first. A silent one is tried by a single request when its time is over."""
        ready = [server for server in servers if server.dead_until <= now]
        for server in ready:
            if server.lost:
                server.dead_until = now + self._config.dead
        return ready + [server for server in servers if server not in ready]

    async def _ask(self, servers: Sequence[Server], build: Build) -> bytes:
        try:
            return await self._ask_each(servers, build)
        except AaaError:
            self._watcher.failed()
            raise

    async def _ask_each(self, servers: Sequence[Server], build: Build) -> bytes:
        if not servers:
            raise AaaError(f"{self._config.path} names no server for this")
        clock = asyncio.get_running_loop().time
        for server in self._order(servers, clock()):
            try:
                reply = await self._ask_server(server, build)
            except OSError as error:
                server.dead_until = clock() + self._config.dead
                self._tell(server, lost=True, reason=str(error) or "timeout")
                continue
            server.dead_until = 0.0
            self._tell(server, lost=False)
            return reply
        raise AaaError("no RADIUS server answers", transient=True, sent=True)

    def _tell(self, server: Server, lost: bool, reason: str = "") -> None:
        if server.lost != lost or not server.known:
            server.lost, server.known = lost, True
            self._watcher.state(server.name, lost, reason)

    async def _ask_server(self, server: Server, build: Build) -> bytes:
        port = await server.port(self._config.bind)
        number = port.reserve()
        request, authenticator = build(server.config, number, port.address)
        future = port.wait(number, authenticator)
        pause = self._config.timeout
        try:
            for attempt in range(self._config.tries):
                port.send(request)
                self._watcher.sent(again=attempt > 0)
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
