"""TCP: listening points, connections that peers open, and connections that we open when something has to go out.

Every connection has its own framer and its own bounded queue, so that a peer who reads slowly, sends nonsense or stops
in the middle of a message loses only his own connection. A peer is found by the number of the connection that a
message came in on (RFC 3261 §18.2.2), else by address and port, where a connection may answer to several ports
(RFC 5923); else a new connection is opened.
"""

from __future__ import annotations

import asyncio
import logging
import socket as os_socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from opensipspy import sip
from opensipspy.net.transport import Deliver, SocketOptions, Traffic, Transport
from opensipspy.sip import PING, PONG, ParseError, Peer, Socket, StreamFramer

LOG: Final = logging.getLogger(__name__)

CRLF: Final = b"\r\n"
ACCEPTS_AT_ONCE: Final = 64
# What one peer that reads slowly may keep waiting in our memory.
QUEUE_BYTES: Final = 1 << 20
SWEEP_S: Final = 1.0
# How long an aborted listener rests when the process has no file descriptor left.
ACCEPT_REST_S: Final = 1.0


class TcpSettings:
    """Limits and time-outs, named after the script's global parameters and proto_tcp's.

    connect_timeout_s, lifetime_s (idle), message_time_s (to receive the rest of a message that has begun).
    max_connections in all, max_per_source for one address. max_postponed: messages that wait while the peer is slow.
    max_chunks: pieces that one message may arrive in, 0 for any number. send_timeout_s: how long data may wait before
    the peer is given up, 0 for as long as it is little. keepalive: TCP's own; its idle_s, interval_s and count count
    where they are not 0. sweep_s: how often idle connections are looked for.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 0.1,
        lifetime_s: float = 120.0,
        message_time_s: float = 4.0,
        max_connections: int = 2048,
        max_per_source: int = 512,
        max_postponed: int = 32,
        max_chunks: int = 0,
        send_timeout_s: float = 0.0,
        queue_bytes: int = QUEUE_BYTES,
        backlog: int = 10,
        crlf_pingpong: bool = True,
        keepalive: bool = True,
        keepalive_idle_s: int = 0,
        keepalive_interval_s: int = 0,
        keepalive_count: int = 0,
        tos: int = 0,
        sweep_s: float = SWEEP_S,
        limits: sip.Limits = sip.DEFAULT_LIMITS,
    ) -> None:
        self.connect_timeout_s = connect_timeout_s
        self.lifetime_s = lifetime_s
        self.message_time_s = message_time_s
        self.max_connections = max_connections
        self.max_per_source = max_per_source
        self.max_postponed = max_postponed
        self.max_chunks = max_chunks
        self.send_timeout_s = send_timeout_s
        self.queue_bytes = queue_bytes
        self.backlog = backlog
        self.crlf_pingpong = crlf_pingpong
        self.keepalive = keepalive
        self.keepalive_idle_s = keepalive_idle_s
        self.keepalive_interval_s = keepalive_interval_s
        self.keepalive_count = keepalive_count
        self.tos = tos
        self.sweep_s = sweep_s
        self.limits = limits


class TcpConnection(asyncio.Protocol):
    """One connection, ours or a peer's. Only `TcpTransport` makes it."""

    def __init__(self, owner: TcpTransport, socket: Socket, number: int, outgoing: bool) -> None:
        self.owner = owner
        self.socket = socket
        self.number = number
        self.outgoing = outgoing
        self.peer = Peer(socket.proto, "", 0, number)
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.keys: set[tuple[int, str, int]] = set()
        self.last_active = owner.now()
        # It is not closed for being idle before then.
        self.kept_until = 0.0
        # When the unfinished message at hand began; below 0 when there is none.
        self.message_since = -1.0
        # Messages that wait for the connect, with whom to tell when it fails.
        self.pending: list[tuple[bytes, Callable[[], None] | None]] = []
        self.pending_bytes = 0
        self._postponed = 0
        self._chunks = 0
        self._framer = StreamFramer(owner.settings.limits)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.owner.connection_made(self)

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        if self.closed or owner.paused:
            return
        self.last_active = owner.now()
        try:
            items = self._framer.feed(data)
        except ParseError as error:
            owner.framing_error(self, error)
            return
        for item in items:
            if item == PING:
                if owner.settings.crlf_pingpong:
                    self.write(CRLF)
            elif item != PONG:
                owner.traffic.received += 1
                owner.deliver(item, self.peer, self.socket)
            if self.is_closed():
                return
        if self._framer.error is not None:
            owner.framing_error(self, self._framer.error)
            return
        if not self._framer.pending:
            self.message_since = -1.0
            self._chunks = 0
            return
        if items or self.message_since < 0.0:
            self.message_since = self.last_active
            self._chunks = 0
        self._chunks += 1
        if 0 < owner.settings.max_chunks <= self._chunks:
            owner.framing_error(self, ParseError(f"a message came in more than {owner.settings.max_chunks} pieces"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.connection_lost(self)

    def ends_at(self) -> float:
        """When it is closed if nothing happens on it, in seconds of the loop's clock."""
        return max(self.last_active + self.owner.settings.lifetime_s, self.kept_until)

    def is_closed(self) -> bool:
        """Whether something that was called meanwhile has closed it."""
        return self.closed

    # -- sending

    def write(self, data: bytes) -> bool:
        """Send, or keep for later in the bounded queue; False, and the connection is closed, when that is full."""
        settings = self.owner.settings
        transport = self.transport
        if transport is None or self.closed or transport.is_closing():
            return False
        buffered = transport.get_write_buffer_size()
        if buffered == 0:
            self._postponed = 0
        else:
            self._postponed += 1
            if self._postponed > settings.max_postponed or buffered + len(data) > settings.queue_bytes:
                self.owner.slow_peer(self, buffered)
                return False
        transport.write(data)
        self.last_active = self.owner.now()
        if settings.send_timeout_s > 0 and buffered == 0 and transport.get_write_buffer_size() > 0:
            self.owner.expect_drained(self, settings.send_timeout_s)
        return True

    def hold(self, data: bytes, on_failure: Callable[[], None] | None) -> bool:
        """Keep a message until the connection is made."""
        settings = self.owner.settings
        if len(self.pending) >= settings.max_postponed or self.pending_bytes + len(data) > settings.queue_bytes:
            return False
        self.pending.append((data, on_failure))
        self.pending_bytes += len(data)
        return True

    def close(self) -> None:
        """Close at once, without waiting for the peer."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


class TcpTransport(Transport):
    """All TCP listening points and connections."""

    proto: Final = sip.PROTO_TCP

    def __init__(self, deliver: Deliver, loop: asyncio.AbstractEventLoop, settings: TcpSettings | None = None) -> None:
        self.deliver = deliver
        self.settings = settings or TcpSettings()
        self.traffic = Traffic()
        self.paused = False
        self.framing_errors = 0
        self._loop = loop
        self._listeners: dict[Socket, os_socket.socket] = {}
        self._options: dict[Socket, SocketOptions] = {}
        self._connections: dict[int, TcpConnection] = {}
        self._by_address: dict[tuple[int, str, int], TcpConnection] = {}
        self._per_source: dict[str, int] = {}
        self._last_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._resting: dict[Socket, asyncio.TimerHandle] = {}
        # Told of each connection that was there and is not any more.
        self.on_lost: Callable[[TcpConnection], None] | None = None

    def now(self) -> float:
        """Seconds of the loop's clock."""
        return self._loop.time()

    # -- listening

    def configure(self, socket: Socket, options: SocketOptions) -> None:
        self._options[socket] = options

    def bind(self, socket: Socket) -> None:
        family = os_socket.AF_INET6 if socket.is_v6 else os_socket.AF_INET
        made = os_socket.socket(family, os_socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
            options = self._options.get(socket)
            if options is not None and options.reuse_port:
                made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEPORT, 1)
            if socket.is_v6:
                made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_V6ONLY, 1)
            made.bind((socket.address, socket.port))
            made.listen(self.settings.backlog)
        except OSError:
            made.close()
            raise
        self._listeners[socket] = made

    def serve(self) -> None:
        for socket, listener in self._listeners.items():
            self._loop.add_reader(listener.fileno(), self._accept, socket, listener)
        self._sweeper = self._loop.call_later(self.settings.sweep_s, self._sweep)

    def _accept(self, socket: Socket, listener: os_socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No file descriptors left: without a rest the loop would spin on the waiting connection.
                LOG.error("%s: cannot accept connections: %s", socket.text, error)
                self._loop.remove_reader(listener.fileno())
                self._resting[socket] = self._loop.call_later(ACCEPT_REST_S, self._rested, socket, listener)
                return
            source = str(address[0])
            if not self._may_open(source):
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = self._new_connection(socket, source, int(address[1]), outgoing=False)
            self._spawn(self._adopt(connection, accepted))

    def _rested(self, socket: Socket, listener: os_socket.socket) -> None:
        del self._resting[socket]
        self._loop.add_reader(listener.fileno(), self._accept, socket, listener)

    async def _adopt(self, connection: TcpConnection, accepted: os_socket.socket) -> None:
        try:
            self._tune(accepted, connection.socket)
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError as error:
            LOG.debug("%s: %s went away: %s", connection.socket.text, connection.peer.text, error)
            accepted.close()
            self.connection_lost(connection)

    def _may_open(self, source: str) -> bool:
        """Whether the limits leave room for one more connection with that address."""
        if len(self._connections) >= self.settings.max_connections:
            reason = "tcp_max_connections are open"
        elif self._per_source.get(source, 0) >= self.settings.max_per_source:
            reason = f"{self.settings.max_per_source} connections with it are open"
        else:
            return True
        self.traffic.refused += 1
        LOG.warning("tcp: connection with %s refused: %s", source, reason)
        return False

    def _new_connection(self, socket: Socket, address: str, port: int, *, outgoing: bool) -> TcpConnection:
        self._last_number += 1
        connection = TcpConnection(self, socket, self._last_number, outgoing)
        connection.peer = Peer(socket.proto, address, port, connection.number)
        self._connections[connection.number] = connection
        self._per_source[address] = self._per_source.get(address, 0) + 1
        self._add_key(connection, port)
        return connection

    def _add_key(self, connection: TcpConnection, port: int) -> None:
        key = (connection.socket.proto, connection.peer.address, port)
        self._by_address[key] = connection
        connection.keys.add(key)

    def add_alias(self, peer: Peer, port: int) -> bool:
        """Let the connection of `peer` also carry what goes to its address and `port`; False when it is closed."""
        connection = self.find(peer)
        if connection is None:
            return False
        taken = self._by_address.get((peer.proto, peer.address, port))
        # A port that another connection really has is not given away: that would be hijacking it.
        if taken is not None and taken is not connection:
            return False
        self._add_key(connection, port)
        return True

    # -- connections

    def _tune(self, made: os_socket.socket, socket: Socket) -> None:
        settings = self.settings
        made.setsockopt(os_socket.IPPROTO_TCP, os_socket.TCP_NODELAY, 1)
        options = self._options.get(socket)
        tos = options.tos if options is not None and options.tos >= 0 else settings.tos
        if tos:
            if made.family == os_socket.AF_INET6:
                made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_TCLASS, tos)
            else:
                made.setsockopt(os_socket.IPPROTO_IP, os_socket.IP_TOS, tos)
        if not settings.keepalive:
            return
        made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", settings.keepalive_idle_s),
            ("TCP_KEEPINTVL", settings.keepalive_interval_s),
            ("TCP_KEEPCNT", settings.keepalive_count),
        ):
            if value > 0 and hasattr(os_socket, name):
                made.setsockopt(os_socket.IPPROTO_TCP, getattr(os_socket, name), value)

    def connection_made(self, connection: TcpConnection) -> None:
        """A connection is there: send what waited for it."""
        if connection.closed:
            connection.close()
            return
        pending, connection.pending, connection.pending_bytes = connection.pending, [], 0
        assert connection.transport is not None
        for data, on_failure in pending:
            # Not write(): all of it was counted against the limits when it was held.
            if connection.closed or connection.transport.is_closing():
                if on_failure is not None:
                    on_failure()
                continue
            connection.transport.write(data)
            self.traffic.sent += 1

    def connection_lost(self, connection: TcpConnection) -> None:
        """Forget a connection; whoever waited for it is told."""
        connection.closed = True
        if self._connections.pop(connection.number, None) is None:
            return
        for key in connection.keys:
            if self._by_address.get(key) is connection:
                del self._by_address[key]
        address = connection.peer.address
        left = self._per_source.get(address, 0) - 1
        if left > 0:
            self._per_source[address] = left
        else:
            self._per_source.pop(address, None)
        if self.on_lost is not None and connection.transport is not None:
            self.on_lost(connection)
        pending, connection.pending = connection.pending, []
        for _, on_failure in pending:
            self.traffic.send_errors += 1
            if on_failure is not None:
                on_failure()

    def framing_error(self, connection: TcpConnection, error: ParseError) -> None:
        """The stream cannot be cut into messages any more, so it cannot be used any more (RFC 3261 §18.3)."""
        self.framing_errors += 1
        self.traffic.dropped_in += 1
        LOG.info("%s: %s closed: %s", connection.socket.text, connection.peer.text, error.reason)
        connection.close()
        self.connection_lost(connection)

    def slow_peer(self, connection: TcpConnection, buffered: int) -> None:
        """The peer does not read what we send: it is given up so that it holds none of our memory."""
        self.traffic.dropped_out += 1
        LOG.warning("%s: %s closed: %d bytes wait for it", connection.socket.text, connection.peer.text, buffered)
        connection.close()
        self.connection_lost(connection)

    def expect_drained(self, connection: TcpConnection, timeout_s: float) -> None:
        """Give the peer up unless it has taken something of what waits by then."""
        transport = connection.transport
        if transport is None:
            return
        before = transport.get_write_buffer_size()

        def check() -> None:
            if connection.closed or transport.is_closing():
                return
            left = transport.get_write_buffer_size()
            if left >= before:
                self.slow_peer(connection, left)
            elif left:
                self.expect_drained(connection, timeout_s)

        self._loop.call_later(timeout_s, check)

    def find(self, peer: Peer) -> TcpConnection | None:
        """The connection to a peer: by its number, else by address and port."""
        connection = self._connections.get(peer.connection) if peer.connection else None
        if connection is None or connection.closed:
            connection = self._by_address.get((peer.proto, peer.address, peer.port))
        return None if connection is None or connection.closed else connection

    def reaches(self, peer: Peer) -> bool:
        return self.find(peer) is not None

    def keep(self, peer: Peer, seconds: float) -> bool:
        """Let the connection to a peer live for so long although nothing comes; False when there is none.

        A shorter wish does not take a longer one back: several contacts may hang on one connection.
        """
        connection = self.find(peer)
        if connection is None:
            return False
        connection.kept_until = max(connection.kept_until, self.now() + seconds)
        return True

    def close_peer(self, peer: Peer) -> bool:
        """Close the connection to a peer; False when there is none."""
        connection = self.find(peer)
        if connection is None:
            return False
        connection.close()
        self.connection_lost(connection)
        return True

    def connections(self) -> list[TcpConnection]:
        return list(self._connections.values())

    # -- sending

    def send(
        self,
        data: bytes,
        peer: Peer,
        socket: Socket,
        on_failure: Callable[[], None] | None = None,
        *,
        connect: bool = True,
    ) -> bool:
        connection = self.find(peer)
        if connection is None:
            if not connect or not self._may_open(peer.address):
                return False
            connection = self._new_connection(socket, peer.address, peer.port, outgoing=True)
            connection.hold(data, on_failure)
            self._spawn(self._connect(connection))
            return True
        if connection.transport is None:
            return connection.hold(data, on_failure)
        if not connection.write(data):
            self.traffic.send_errors += 1
            return False
        self.traffic.sent += 1
        return True

    async def _connect(self, connection: TcpConnection) -> None:
        peer, socket = connection.peer, connection.socket
        family = os_socket.AF_INET6 if ":" in peer.address else os_socket.AF_INET
        made = os_socket.socket(family, os_socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            self._tune(made, socket)
            # From the address of the listening point, on a free port: the port itself belongs to the listener.
            if socket.is_v6 == (family == os_socket.AF_INET6):
                made.bind((socket.address, 0))
            await asyncio.wait_for(
                self._loop.sock_connect(made, (peer.address, peer.port)), self.settings.connect_timeout_s
            )
            await self._loop.create_connection(lambda: connection, sock=made)
        except (OSError, TimeoutError) as error:
            made.close()
            LOG.warning("tcp: cannot connect to %s: %s", peer.text, error or "timed out")
            connection.close()
            self.connection_lost(connection)
        except asyncio.CancelledError:
            made.close()
            self.connection_lost(connection)
            raise

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- housekeeping

    def _sweep(self) -> None:
        """Close idle connections, and those whose message does not end in time."""
        self._sweeper = self._loop.call_later(self.settings.sweep_s, self._sweep)
        now = self.now()
        settings = self.settings
        for connection in list(self._connections.values()):
            if connection.transport is None:
                continue
            if 0.0 <= connection.message_since < now - settings.message_time_s:
                self.traffic.dropped_in += 1
                LOG.info("%s: %s closed: it did not end its message", connection.socket.text, connection.peer.text)
            elif connection.ends_at() >= now:
                continue
            connection.close()
            self.connection_lost(connection)

    def pause(self) -> None:
        """Stop listening; connections stay for the replies that are still to come over them."""
        for socket, listener in self._listeners.items():
            self._loop.remove_reader(listener.fileno())
            resting = self._resting.pop(socket, None)
            if resting is not None:
                resting.cancel()

    async def close(self) -> None:
        self.paused = True
        self.pause()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections.values()):
            # close() of the transport lets what is buffered go out; it is bounded by the loop's end.
            if connection.transport is not None:
                connection.transport.close()
            self.connection_lost(connection)

    def waiting(self) -> int:
        return sum(
            connection.pending_bytes
            + (connection.transport.get_write_buffer_size() if connection.transport is not None else 0)
            for connection in self._connections.values()
        )
