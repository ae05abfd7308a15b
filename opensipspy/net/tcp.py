"""TCP: listening points, connections that peers open, and connections that we open when something has to go out.

Every connection has its own framer and its own bounded queue, so that a peer who reads slowly, sends nonsense or stops
in the middle of a message loses only his own connection, and one who sends without end waits for his turn (`turns`). A
peer is found by the number of the connection that a message came in on (RFC 3261 §18.2.2), else by address and port,
where a connection may answer to several ports (RFC 5923); else a new connection is opened.

TLS and WebSocket are steps that the bytes of a connection take on their way (`Secure`, `Web`): what differs from TCP is
made by `TcpTransport.make_secure` and `make_web` of the transports derived from it, everything else is here once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket as os_socket
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, Protocol, cast

from opensipspy import sip
from opensipspy.module.paths import ALIAS_ALWAYS, ALIAS_ASKED, TcpPaths
from opensipspy.module.tls import TlsSession
from opensipspy.module.tracing import ConnectionTracer
from opensipspy.net.proxy_protocol import Proxied, ProxyError, read_header, write_header
from opensipspy.net.traffic import Traffic
from opensipspy.net.transport import Deliver, Hint, LayerError, SocketOptions, Transport
from opensipspy.net.turns import SLICE_BYTES, Turns
from opensipspy.sip import PING, PONG, ParseError, Peer, Socket, StreamFramer

LOG: Final = logging.getLogger(__name__)

CRLF: Final = b"\r\n"
ACCEPTS_AT_ONCE: Final = 64
# What one peer that reads slowly may keep waiting in our memory.
QUEUE_BYTES: Final = 1 << 20
SWEEP_S: Final = 1.0
# How long an aborted listener rests when the process has no file descriptor left.
ACCEPT_REST_S: Final = 1.0
# How long what was said last may take to leave before a closed connection is cut.
LINGER_S: Final = 1.0
# Why a connection was closed, in the words that collectors know from OpenSIPS where those have any.
BY_PEER: Final = "EOF received"
BY_US: Final = "closed by the server"
# Names that one connection may have.
MOST_NAMES: Final = 8


class Secure(Protocol):
    """Encryption between the network and the messages: `net.tls.TlsLayer`. Its methods raise LayerError."""

    ready: bool
    ended: bool

    def start(self) -> None: ...
    def feed(self, data: bytes) -> bytes: ...
    def outgoing(self) -> bytes: ...
    def wrap(self, data: bytes) -> bytes: ...
    def farewell(self) -> bytes: ...
    def session(self) -> TlsSession | None: ...


class Feeder(Protocol):
    """Cuts what a peer says into messages; raises ParseError."""

    error: ParseError | None

    @property
    def pending(self) -> int: ...
    def feed(self, data: bytes) -> list[bytes]: ...


class Web(Feeder, Protocol):
    """A feeder that also has something to say itself: `net.ws.WebSocketFramer`."""

    ready: bool
    ended: bool

    def start(self) -> None: ...
    def outgoing(self) -> bytes: ...
    def wrap(self, data: bytes) -> bytes: ...
    def farewell(self) -> bytes: ...
    def take_handshake(self) -> tuple[bytes, bytes]: ...


class TcpSettings:
    """Limits and time-outs, named after the script's global parameters and proto_tcp's.

    connect_timeout_s, lifetime_s (idle), message_time_s (to receive the rest of a message that has begun).
    max_connections in all, max_per_source for one address. max_postponed: messages that wait while the peer is slow.
    max_chunks: pieces that one message may arrive in, 0 for any number. send_timeout_s: how long data may wait before
    the peer is given up, 0 for as long as it is little. keepalive: TCP's own; its idle_s, interval_s and count count
    where they are not 0. sweep_s: how often idle connections are looked for.
    handshake_time_s: for TLS and WebSocket handshakes together; max_handshakes: that peers may have begun at a time.
    no_new_connection: none is opened by us. alias_mode: one of ALIAS_*, -1 for what the script says.
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
        handshake_time_s: float = 4.0,
        max_handshakes: int = 512,
        no_new_connection: bool = False,
        alias_mode: int = -1,
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
        self.handshake_time_s = handshake_time_s
        self.max_handshakes = max_handshakes
        self.no_new_connection = no_new_connection
        self.alias_mode = alias_mode
        self.limits = limits

    def but(self, **changes: Any) -> TcpSettings:
        """The same with some values changed."""
        return TcpSettings(**{**vars(self), **changes})


class Budget:
    """How many connections there are, over all protocols that stand on TCP (`tcp_max_connections` counts them all)."""

    __slots__ = ("handshakes", "last_number", "open", "per_source", "turns")

    def __init__(self) -> None:
        self.turns: Turns | None = None
        self.open: int = 0
        self.per_source: dict[str, int] = {}
        self.handshakes: int = 0
        self.last_number: int = 0


class TcpConnection(asyncio.Protocol):
    """One connection, ours or a peer's. Only `TcpTransport` makes it."""

    def __init__(
        self, owner: TcpTransport, socket: Socket, peer: Peer, settings: TcpSettings, *, outgoing: bool
    ) -> None:
        self.owner = owner
        self.socket = socket
        self.peer = peer
        self.settings = settings
        self.number = peer.connection
        self.outgoing = outgoing
        self.transport: asyncio.Transport | None = None
        self.closed = False
        # Whether messages may leave: the connect and all handshakes are done.
        self.ready = False
        self.keys: set[tuple[int, str, int]] = set()
        self.names: set[str] = set()
        self.hint: Hint | None = None
        self.proxied: Proxied | None = None
        self.last_active = owner.now()
        # It is not closed for being idle before then.
        self.kept_until = 0.0
        # When the unfinished message at hand began; below 0 when there is none.
        self.message_since = -1.0
        # Messages that wait for the connect, with whom to tell when it fails.
        self.pending: list[tuple[bytes, Callable[[], None] | None]] = []
        self.pending_bytes = 0
        self.secure: Secure | None = None
        self.web: Web | None = None
        self.late: asyncio.TimerHandle | None = None
        # Why it was closed, "" while it is not; and what a tracer keeps.
        self.ending = ""
        self.trace: Any = None
        self._postponed = 0
        self._chunks = 0
        # What was read and waits for its turn, and whether what was worked on of it has ended a message.
        self._rest = bytearray()
        self._cut = False
        self._framer: Feeder = owner.make_framer(settings)
        self._expects_proxy = not outgoing and owner.expects_proxy(socket)
        self._preface = b""
        # Whether the WebSocket handshake of ours has begun: more of TLS may come before its answer.
        self._asked = False
        # Nothing stands between the network and the messages.
        self._plain = not self._expects_proxy

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.owner.connection_made(self)

    def begin(self) -> None:
        """Say first what has to be said before messages. Raises LayerError."""
        owner = self.owner
        if self.outgoing:
            self._to_network(owner.preface(self))
        self.secure = owner.make_secure(self)
        self.web = owner.make_web(self)
        if self.web is not None:
            self._framer = self.web
        if self.secure is None and self.web is None:
            self.ready = True
            return
        self._plain = False
        if self.outgoing:
            if self.secure is not None:
                self.secure.start()
                self._to_network(self.secure.outgoing())
            elif self.web is not None:
                self.web.start()
                self._to_network(self.web.outgoing())

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        if self.closed or owner.paused:
            return
        self.last_active = owner.now()
        if not self._plain:
            try:
                data = self._through(data)
            except LayerError as error:
                owner.layer_error(self, error)
                return
            if self.is_closed():
                return
            if not data:
                if self.secure is not None and self.secure.ended and not self._rest:
                    owner.drop(self, BY_PEER)
                return
        if not self._rest and len(data) <= SLICE_BYTES and owner.turns.allows():
            if self._work(data):
                self._has_read()
            return
        waits = bool(self._rest)
        self._rest += data
        if not waits and self.transport is not None:
            self.transport.pause_reading()
            owner.turns.wait(self, little=len(data) <= SLICE_BYTES)

    def work_on(self) -> bool:
        """Work on a part of what waits; whether there is more."""
        if self.closed or self.owner.paused:
            self._rest.clear()
            return False
        data = bytes(self._rest[:SLICE_BYTES])
        del self._rest[:SLICE_BYTES]
        if not self._work(data):
            self._rest.clear()
            return False
        if self._rest:
            return True
        self._has_read()
        if not self.is_closed() and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        return False

    def _work(self, data: bytes) -> bool:
        """Act on what the peer says; False when that was the end of the connection."""
        owner = self.owner
        try:
            items = self._framer.feed(data)
        except ParseError as error:
            owner.framing_error(self, error)
            return False
        if self.web is not None and not self._answered():
            return False
        pings = 0
        for item in items:
            if item == PING:
                pings += 1
            elif item != PONG:
                owner.traffic.received += 1
                owner.deliver(item, self.peer, self.socket)
                if self.is_closed():
                    return False
        if pings and self.settings.crlf_pingpong:
            # What came together is answered together; over WebSocket an answer is a message, and one is enough.
            self.write(CRLF * pings if self.web is None else CRLF)
            if self.is_closed():
                return False
        if self._framer.error is not None:
            owner.framing_error(self, self._framer.error)
            return False
        self._cut = self._cut or bool(items)
        return True

    def _has_read(self) -> None:
        """All that was read is worked on: look whether a message has begun and goes on for too long."""
        cut, self._cut = self._cut, False
        if not self._plain and self._has_ended():
            self.owner.drop(self, BY_PEER)
            return
        if not self._framer.pending:
            self.message_since = -1.0
            self._chunks = 0
            return
        if cut or self.message_since < 0.0:
            self.message_since = self.owner.now()
            self._chunks = 0
        self._chunks += 1
        if self.ready and 0 < self.settings.max_chunks <= self._chunks:
            reason = f"a message came in more than {self.settings.max_chunks} pieces"
            self.owner.framing_error(self, ParseError(reason))

    def _through(self, data: bytes) -> bytes:
        """What the peer says in bytes of the network. Raises LayerError."""
        if self._expects_proxy:
            self._preface += data
            try:
                length, self.proxied = read_header(self._preface)
            except ProxyError as error:
                raise LayerError(str(error)) from error
            if length < 0:
                if self.message_since < 0.0:
                    self.message_since = self.last_active
                return b""
            data, self._preface = self._preface[length:], b""
            self.message_since = -1.0
            self._expects_proxy = False
            self._plain = self.secure is None and self.web is None
            if not data:
                return b""
        secure = self.secure
        if secure is None:
            return data
        try:
            data = secure.feed(data)
        finally:
            self._to_network(secure.outgoing())
        if secure.ready and not self.ready and not self.is_closed():
            self._secured()
        return data

    def _secured(self) -> None:
        """Encryption is there; a WebSocket handshake may follow."""
        web = self.web
        if web is None:
            self.owner.connection_ready(self)
        elif self.outgoing and not self._asked:
            self._asked = True
            web.start()
            self._say(web.outgoing())

    def _answered(self) -> bool:
        """Send what WebSocket itself answers; False when the connection has gone over that."""
        assert self.web is not None
        try:
            self._say(self.web.outgoing())
        except LayerError as error:
            self.owner.layer_error(self, error)
            return False
        if self.is_closed():
            return False
        if self.web.ready and not self.ready:
            self.owner.connection_ready(self)
        return not self.is_closed()

    def _has_ended(self) -> bool:
        return (self.secure is not None and self.secure.ended) or (self.web is not None and self.web.ended)

    def _say(self, data: bytes) -> None:
        """Bytes above TLS. Raises LayerError."""
        if data:
            self._to_network(data if self.secure is None else self.secure.wrap(data))

    def _to_network(self, data: bytes) -> None:
        """What TLS and WebSocket themselves have to say: a peer may ask for it without end and not read it."""
        transport = self.transport
        if not data or transport is None or transport.is_closing():
            return
        buffered = transport.get_write_buffer_size()
        if buffered + len(data) > self.settings.queue_bytes and not self.closed:
            self.owner.slow_peer(self, buffered)
            return
        transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.connection_lost(self, BY_PEER if exc is None else str(exc) or type(exc).__name__)

    # -- what a tracer asks for

    def local_end(self) -> tuple[str, int]:
        """Our address and port; of a listening point on all addresses, the one that was asked for."""
        name = self.transport.get_extra_info("sockname") if self.transport is not None else None
        if name:
            return str(name[0]), int(name[1])
        return self.socket.address, 0 if self.outgoing else self.socket.port

    def session(self) -> TlsSession | None:
        """What is known of its TLS, None while that is nothing."""
        return None if self.secure is None else self.secure.session()

    def take_handshake(self) -> tuple[bytes, bytes]:
        """Request and reply of its WebSocket handshake, once; b"" for what there is not, or was not kept."""
        return (b"", b"") if self.web is None else self.web.take_handshake()

    def ends_at(self) -> float:
        """When it is closed if nothing happens on it, in seconds of the loop's clock."""
        return max(self.last_active + self.settings.lifetime_s, self.kept_until)

    def unread(self) -> int:
        """Octets that have come and wait for their turn: it is us who are late, not the peer."""
        return len(self._rest)

    def is_closed(self) -> bool:
        """Whether something that was called meanwhile has closed it."""
        return self.closed

    # -- sending

    def write(self, data: bytes) -> bool:
        """Send, or keep for later in the bounded queue; False, and the connection is closed, when that is full."""
        settings = self.settings
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
        if not self.put(data):
            return False
        self.last_active = self.owner.now()
        if settings.send_timeout_s > 0 and buffered == 0 and transport.get_write_buffer_size() > 0:
            self.owner.expect_drained(self, settings.send_timeout_s)
        return True

    def put(self, data: bytes) -> bool:
        """Send without a look at the limits; False, and the connection is closed, when that is impossible."""
        transport = self.transport
        if transport is None or self.closed or transport.is_closing():
            return False
        if self.web is not None or self.secure is not None:
            try:
                if self.web is not None:
                    data = self.web.wrap(data)
                if self.secure is not None:
                    data = self.secure.wrap(data)
            except LayerError as error:
                self.owner.layer_error(self, error)
                return False
        transport.write(data)
        return True

    def hold(self, data: bytes, on_failure: Callable[[], None] | None) -> bool:
        """Keep a message until the connection is made."""
        settings = self.settings
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

    def finish(self) -> None:
        """Close in order: what waits and the last words of WebSocket and TLS get a moment to leave."""
        transport = self.transport
        if self.closed or transport is None or transport.is_closing():
            self.close()
            return
        self.closed = True
        try:
            if self.web is not None and (self.secure is None or self.secure.ready):
                self._say(self.web.farewell())
            if self.secure is not None:
                self._to_network(self.secure.outgoing() + self.secure.farewell())
        except LayerError as error:
            LOG.debug("%s: %s: %s", self.socket.text, self.peer.text, error)
        self.owner.linger(transport)


class TcpTransport(Transport):
    """All TCP listening points and connections."""

    proto: ClassVar[int] = sip.PROTO_TCP
    # Whether connections have a handshake of their own once TCP's is done.
    shakes_hands: ClassVar[bool] = False

    def __init__(
        self,
        deliver: Deliver,
        loop: asyncio.AbstractEventLoop,
        settings: TcpSettings | None = None,
        budget: Budget | None = None,
    ) -> None:
        """budget: shared by the transports whose connections count together."""
        self.deliver = deliver
        self.settings = settings or TcpSettings()
        self.traffic = Traffic()
        self.paused = False
        self.framing_errors = 0
        self.failed_handshakes = 0
        self.budget = budget or Budget()
        if self.budget.turns is None:
            self.budget.turns = Turns(loop)
        self.turns = self.budget.turns
        # What a connection's settings are, where that depends on who is at its ends.
        self.paths: TcpPaths | None = None
        self._loop = loop
        self._listeners: dict[Socket, os_socket.socket] = {}
        self._options: dict[Socket, SocketOptions] = {}
        self._connections: dict[int, TcpConnection] = {}
        self._by_address: dict[tuple[int, str, int], TcpConnection] = {}
        self._by_name: dict[str, TcpConnection] = {}
        self._hint: Hint | None = None
        self._lingering: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        # Refused connections that no line in the log tells of yet, and when the last line did.
        self._refused_unsaid = 0
        self._refused_said_at = -SWEEP_S
        self._resting: dict[Socket, asyncio.TimerHandle] = {}
        # Told of each connection that was there and is not any more.
        self.on_lost: Callable[[TcpConnection], None] | None = None
        self.tracer: ConnectionTracer | None = None

    def now(self) -> float:
        """Seconds of the loop's clock."""
        return self._loop.time()

    # -- what other protocols do differently

    def make_secure(self, connection: TcpConnection) -> Secure | None:
        """The encryption of a connection. Raises LayerError."""
        return None

    def make_web(self, connection: TcpConnection) -> Web | None:
        """The WebSocket of a connection. Raises LayerError."""
        return None

    def make_framer(self, settings: TcpSettings) -> Feeder:
        """What cuts a connection's stream into messages."""
        return StreamFramer(settings.limits)

    def reusable(self, connection: TcpConnection, hint: Hint | None) -> bool:
        """Whether a message may leave over a connection that is there."""
        return True

    # -- listening

    def expects_proxy(self, socket: Socket) -> bool:
        """Whether a peer may say in the PROXY protocol for whom it speaks."""
        options = self._options.get(socket)
        return options is not None and options.allow_proxy

    def preface(self, connection: TcpConnection) -> bytes:
        """What leaves on a connection of ours before everything else."""
        options = self._options.get(connection.socket)
        if options is None or not options.send_proxy or connection.transport is None:
            return b""
        peer, hint = connection.peer, connection.hint
        source = connection.transport.get_extra_info("sockname")[:2]
        if hint is not None and hint.source is not None:
            source = (hint.source.address, hint.source.port)
        return write_header(source, (peer.address, peer.port))

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

    def admit(self, socket: Socket) -> None:
        listener = self._listeners[socket]
        self._loop.add_reader(listener.fileno(), self._accept, socket, listener)

    def unbind(self, socket: Socket) -> None:
        listener = self._listeners.pop(socket)
        self._loop.remove_reader(listener.fileno())
        resting = self._resting.pop(socket, None)
        if resting is not None:
            resting.cancel()
        # The options stay: connections that came here still ask for them.
        listener.close()

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
            if not self._may_open(source, socket, incoming=True):
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
            self._tune(accepted, connection.socket, connection.settings)
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError as error:
            LOG.debug("%s: %s went away: %s", connection.socket.text, connection.peer.text, error)
            accepted.close()
            self.connection_lost(connection, str(error))

    def _may_open(self, source: str, socket: Socket, *, incoming: bool) -> bool:
        """Whether the limits leave room for one more connection with that address."""
        budget, settings = self.budget, self.settings
        if budget.open >= settings.max_connections:
            reason = "tcp_max_connections are open"
        elif incoming and self.shakes_hands and budget.handshakes >= settings.max_handshakes:
            reason = f"{settings.max_handshakes} handshakes have begun"
        elif budget.per_source.get(source, 0) >= settings.max_per_source and not self.expects_proxy(socket):
            # Behind a load balancer everybody has its address.
            reason = f"{settings.max_per_source} connections with it are open"
        else:
            return True
        self.traffic.refused += 1
        # Who is refused may come again at once, thousands of times: a line each would cost more than the connections.
        self._refused_unsaid += 1
        if self.now() >= self._refused_said_at + SWEEP_S:
            self._say_refused(f"connection with {source} refused: {reason}")
        return False

    def _say_refused(self, what: str) -> None:
        more = self._refused_unsaid - 1
        LOG.warning("%s: %s%s", sip.proto_name(self.proto), what, f" ({more} more before)" if more else "")
        self._refused_unsaid = 0
        self._refused_said_at = self.now()

    def _new_connection(
        self, socket: Socket, address: str, port: int, *, outgoing: bool, settings: TcpSettings | None = None
    ) -> TcpConnection:
        budget = self.budget
        budget.last_number += 1
        peer = Peer(socket.proto, address, port, budget.last_number)
        if settings is None:
            settings = self.settings_for(socket, address, port)
        connection = TcpConnection(self, socket, peer, settings, outgoing=outgoing)
        self._connections[connection.number] = connection
        budget.open += 1
        budget.per_source[address] = budget.per_source.get(address, 0) + 1
        if self.shakes_hands and not outgoing:
            budget.handshakes += 1
        self._add_key(connection, port)
        return connection

    def settings_for(self, socket: Socket, address: str, port: int) -> TcpSettings:
        """What counts between a listening point and an address."""
        if self.paths is None:
            return self.settings
        found = self.paths.find(self.proto, socket.address, socket.port, address, port)
        if found is None:
            return self.settings
        changes = dict(vars(found))
        if found.max_chunks < 0:
            del changes["max_chunks"]
        return self.settings.but(**changes)

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

    def takes_alias(self, peer: Peer, asked: bool, default: bool) -> bool:
        """Whether requests may go back over a peer's connection: asked by it (RFC 5923), default: the script's word."""
        if self.paths is None:
            return asked and default
        connection = self.find(peer)
        mode = connection.settings.alias_mode if connection is not None else -1
        if mode < 0:
            return asked and default
        return mode == ALIAS_ALWAYS or (asked and mode == ALIAS_ASKED)

    def add_name(self, peer: Peer, name: str) -> bool:
        """Let the connection of `peer` be found by a name that resolves nowhere (RFC 7118 §5.2, Appendix B.1)."""
        connection = self.find(peer)
        if connection is None or len(connection.names) >= MOST_NAMES:
            return False
        taken = self._by_name.get(name)
        if taken is not None and taken is not connection:
            return False
        self._by_name[name] = connection
        connection.names.add(name)
        return True

    def named(self, name: str) -> Peer | None:
        """The peer whose connection has that name."""
        connection = self._by_name.get(name)
        return None if connection is None or connection.closed else connection.peer

    # -- connections

    def _tune(self, made: os_socket.socket, socket: Socket, settings: TcpSettings) -> None:
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
        try:
            connection.begin()
        except LayerError as error:
            self.layer_error(connection, error)
            return
        if connection.ready:
            if self.tracer is not None:
                self.tracer.opened(connection)
            self._flush(connection)
        else:
            connection.late = self._loop.call_later(connection.settings.handshake_time_s, self._too_late, connection)

    def _too_late(self, connection: TcpConnection) -> None:
        connection.late = None
        if not connection.ready and not connection.closed:
            self.layer_error(connection, LayerError("the handshake took too long"))

    def connection_ready(self, connection: TcpConnection) -> None:
        """All handshakes of a connection are done."""
        connection.ready = True
        self._shaken(connection)
        if self.tracer is not None:
            self.tracer.opened(connection)
        self._flush(connection)

    def _shaken(self, connection: TcpConnection) -> None:
        """A handshake has ended, one way or the other."""
        if connection.late is not None:
            connection.late.cancel()
            connection.late = None
        if self.shakes_hands and not connection.outgoing:
            self.budget.handshakes -= 1

    def _flush(self, connection: TcpConnection) -> None:
        pending, connection.pending, connection.pending_bytes = connection.pending, [], 0
        for data, on_failure in pending:
            # Not write(): all of it was counted against the limits when it was held.
            if connection.put(data):
                self.traffic.sent += 1
            elif on_failure is not None:
                on_failure()

    def connection_lost(self, connection: TcpConnection, reason: str) -> None:
        """Forget a connection; whoever waited for it is told."""
        connection.closed = True
        if self._connections.pop(connection.number, None) is None:
            return
        connection.ending = reason
        if not connection.ready:
            self._shaken(connection)
        for name in connection.names:
            if self._by_name.get(name) is connection:
                del self._by_name[name]
        for key in connection.keys:
            if self._by_address.get(key) is connection:
                del self._by_address[key]
        address = connection.peer.address
        budget = self.budget
        budget.open -= 1
        left = budget.per_source.get(address, 0) - 1
        if left > 0:
            budget.per_source[address] = left
        else:
            budget.per_source.pop(address, None)
        if self.on_lost is not None and connection.ready:
            self.on_lost(connection)
        pending, connection.pending = connection.pending, []
        for _, on_failure in pending:
            self.traffic.send_errors += 1
            if on_failure is not None:
                on_failure()
        if self.tracer is not None:
            self.tracer.lost(connection)

    def framing_error(self, connection: TcpConnection, error: ParseError) -> None:
        """The stream cannot be cut into messages any more, so it cannot be used any more (RFC 3261 §18.3)."""
        self.framing_errors += 1
        self.traffic.dropped_in += 1
        LOG.info("%s: %s closed: %s", connection.socket.text, connection.peer.text, error.reason)
        if connection.web is not None:
            # Who asks in a wrong way is told so.
            connection.finish()
        else:
            connection.close()
        self.connection_lost(connection, error.reason)

    def layer_error(self, connection: TcpConnection, error: LayerError) -> None:
        """TLS, WebSocket or the PROXY protocol failed on a connection."""
        if not connection.ready:
            self.failed_handshakes += 1
        self.traffic.dropped_in += 1
        LOG.log(
            logging.WARNING if connection.outgoing else logging.INFO,
            "%s: %s closed: %s",
            connection.socket.text,
            connection.peer.text,
            error,
        )
        connection.finish()
        self.connection_lost(connection, str(error))

    def drop(self, connection: TcpConnection, reason: str = BY_US) -> None:
        """End a connection in order."""
        connection.finish()
        self.connection_lost(connection, reason)

    def linger(self, transport: asyncio.Transport) -> None:
        """Close once what waits has left, or after a moment: a peer that does not read holds nothing of ours."""
        transport.close()
        if not transport.get_write_buffer_size():
            return

        def cut() -> None:
            self._lingering.discard(timer)
            transport.abort()

        timer = self._loop.call_later(LINGER_S, cut)
        self._lingering.add(timer)

    def slow_peer(self, connection: TcpConnection, buffered: int) -> None:
        """The peer does not read what we send: it is given up so that it holds none of our memory."""
        self.traffic.dropped_out += 1
        LOG.warning("%s: %s closed: %d bytes wait for it", connection.socket.text, connection.peer.text, buffered)
        connection.close()
        self.connection_lost(connection, f"{buffered} bytes wait for it")

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
        self.drop(connection)
        return True

    def connection(self, peer: Peer) -> TcpConnection | None:
        """The open connection that a message from `peer` came over, None when it is gone."""
        found = self._connections.get(peer.connection)
        return found if found is not None and not found.closed else None

    def close_number(self, number: int) -> bool:
        """Close a connection by its number; False when there is none."""
        connection = self._connections.get(number)
        if connection is None:
            return False
        self.drop(connection)
        return True

    def connections(self) -> list[TcpConnection]:
        return list(self._connections.values())

    # -- sending

    def hint(self, hint: Hint) -> None:
        """Tell what the next message to an address is for, in case a connection has to be opened for it."""
        self._hint = hint

    def send(
        self,
        data: bytes,
        peer: Peer,
        socket: Socket,
        on_failure: Callable[[], None] | None = None,
        *,
        connect: bool = True,
    ) -> bool:
        hint, self._hint = self._hint, None
        if hint is not None and not hint.fits(peer):
            hint = None
        connection = self.find(peer)
        if connection is not None and not self.reusable(connection, hint):
            connection = None
        if connection is None:
            settings = self.settings_for(socket, peer.address, peer.port)
            if not connect or settings.no_new_connection or not self._may_open(peer.address, socket, incoming=False):
                return False
            connection = self._new_connection(socket, peer.address, peer.port, outgoing=True, settings=settings)
            connection.hint = hint
            connection.hold(data, on_failure)
            self._spawn(self._connect(connection))
            return True
        if not connection.ready:
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
            self._tune(made, socket, connection.settings)
            # From the address of the listening point, on a free port unless `reuse_port` lets two sockets have it.
            if socket.is_v6 == (family == os_socket.AF_INET6):
                options = self._options.get(socket)
                same = options is not None and options.reuse_port
                if same:
                    made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
                    made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEPORT, 1)
                made.bind((socket.address, socket.port if same else 0))
            try:
                await asyncio.wait_for(
                    self._loop.sock_connect(made, (peer.address, peer.port)), connection.settings.connect_timeout_s
                )
            except TimeoutError:
                # It may have been us who were late to see the answer.
                if not _is_connected(made):
                    raise
            await self._loop.create_connection(lambda: connection, sock=made)
        except (OSError, TimeoutError) as error:
            made.close()
            LOG.warning("cannot connect to %s: %s", peer.text, error or "timed out")
            connection.close()
            # The system's own words; those of the loop name the address once more.
            self.connection_lost(connection, os.strerror(error.errno) if error.errno else str(error) or "timed out")
        except asyncio.CancelledError:
            made.close()
            self.connection_lost(connection, BY_US)
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
        for connection in list(self._connections.values()):
            if connection.transport is None:
                continue
            if connection.unread():
                continue
            reason = "Timeout on no traffic"
            if 0.0 <= connection.message_since < now - connection.settings.message_time_s:
                self.traffic.dropped_in += 1
                reason = "it did not end its message"
                LOG.info("%s: %s closed: it did not end its message", connection.socket.text, connection.peer.text)
            elif connection.ends_at() >= now:
                continue
            self.drop(connection, reason)

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
            # What is buffered may go out; it is bounded by the loop's end.
            self.drop(connection)
        for timer in self._lingering:
            timer.cancel()
        self._lingering.clear()

    def waiting(self) -> int:
        return sum(
            connection.pending_bytes
            + connection.unread()
            + (connection.transport.get_write_buffer_size() if connection.transport is not None else 0)
            for connection in self._connections.values()
        )


def _is_connected(made: os_socket.socket) -> bool:
    try:
        made.getpeername()
    except OSError:
        return False
    return True
