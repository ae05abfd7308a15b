"""`Core` as the running server implements it: what every module works with."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from opensipspy import sip
from opensipspy.cachedb import CacheDb, CacheDbs
from opensipspy.db import Database, Databases
from opensipspy.events import Hub
from opensipspy.management import Registry, Statistics, StatusReports
from opensipspy.module import Core, DnsStore, LocateError, Module, Naptr, NoSocketError, Target
from opensipspy.module.reply_path import (
    NO_CONNECTION_FOR_BRANCH,
    NO_CONNECTION_FOR_REPLIES,
    connection_flag,
    reply_target,
    take_reply_additions,
    warning,
)
from opensipspy.module.tls import TlsSession
from opensipspy.net import (
    Hint,
    Network,
    NotFound,
    Place,
    Resolver,
    TcpConnection,
    TcpTransport,
    UdpTransport,
    socket_options,
)
from opensipspy.script import kinds
from opensipspy.script.declare import Catalogue
from opensipspy.script.run import Run
from opensipspy.server.blacklists import Blacklists
from opensipspy.server.counters import CoreCounters
from opensipspy.server.identity import Identity
from opensipspy.server.stepper import Stepper
from opensipspy.server.stores import report_back_end
from opensipspy.server.trouble import describe_failure, script_routes
from opensipspy.server.wheel import Timer, Wheel
from opensipspy.sip import Peer, Socket, Uri

T = TypeVar("T")

LOG: Final = logging.getLogger("opensipspy.core")

# Next hops given by address whose targets are kept.
MOST_LITERALS: Final = 1024
# Names that resolve nowhere (RFC 2606 §2).
NOWHERE: Final = ".invalid"


@runtime_checkable
class Replies(Protocol):
    """A module that answers requests."""

    def reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int: ...


class Repeating:
    """A call that is made again and again until it is cancelled."""

    __slots__ = ("_core", "_fn", "_interval_s", "_timer")

    def __init__(self, core: ServerCore, interval_s: float, fn: Callable[[], object]) -> None:
        self._core = core
        self._interval_s = interval_s
        self._fn = fn
        self._timer: Timer | None = core.call_later(interval_s, self._tick)

    def _tick(self) -> None:
        self._timer = self._core.call_later(self._interval_s, self._tick)
        self._fn()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ServerCore(Core):
    """The services of one server. The steps of a message are in `steps`; this is what they and the modules use."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: Network,
        catalogue: Catalogue,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """clock never jumps, wall_clock is seconds since 1970; a simulation hands in its own."""
        self.loop = loop
        self.set_clock(clock)
        self._wall_clock = wall_clock
        self.network = network
        # What each message asks for is asked of those who know, without a method of ours between.
        self.__dict__["send"] = network.dispatch
        self.__dict__["choose_socket"] = network.choose_socket
        self.globals: Any = None
        self.program: Any = None
        self.catalogue = catalogue
        self.flags = catalogue.flags
        self.sockets: list[Socket] = network.sockets
        self.stats = Statistics()
        self.counters = CoreCounters(self.stats)
        self.mi = Registry()
        self.random = random.Random(secrets.randbits(128))
        self.log = logging.getLogger("opensipspy")
        self.events = Hub(now=self.now, spawn=self.spawn)
        self.status = StatusReports(self.time, self._status_changed)
        self.identity = Identity()
        self.__dict__["is_myself"] = self.identity.is_myself
        self.blacklists = Blacklists(self.now)
        self.databases = Databases()
        self.databases.watch(partial(report_back_end, self.status, "db"))
        self.cachedbs = CacheDbs()
        self.cachedbs.watch(partial(report_back_end, self.status, "cachedb"))
        self.modules: dict[str, Module] = {}
        self.resolver: Resolver | None = None
        self.services: Any = None
        # Ends the server with a failure; set by the server around this.
        self.abort: Callable[[str], None] = self._abort_alone
        self.stepper = Stepper(loop.call_soon, self.call_later)
        self.before: list[Callable[[Run], bool | None]] = []
        # What takes messages from the network.
        self.receiver: Callable[[bytes, Peer, Socket], None] | None = None
        self.after: list[Callable[[Run], None]] = []
        self.copies: list[Callable[[Run], None]] = []
        self.reply_handlers: list[Callable[[Run], bool | Awaitable[bool]]] = []
        # Flags of messages and branches that no connection may be opened for.
        self.no_connection_reply = 0
        self.no_connection_branch = 0
        # Whether connections are opened in a way that depends on the request, and the AVPs that say how TLS is.
        self.hinting = False
        self.tls_choices: tuple[str, str] = ("", "")
        self._on_disconnect: list[Callable[[int, str, tuple[int, ...], int], None]] = []
        self._signaling: Replies | None = None
        self._transactions: Replies | None = None
        self._stateless: Replies | None = None
        self._wheel = Wheel()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._uris = sip.UriCache()
        # By the protocol that was asked for.
        self._literals: dict[int, dict[str, Target]] = {}
        self._literals_of = 0
        self._tag_secret = secrets.token_bytes(16)
        # Tells the To tags of replies that were made without the script, and so the ACKs for them, from all others.
        self.tag_prefix: str = f"{secrets.token_hex(6)}."

    # -- time

    def now(self) -> float:
        return self._clock()

    def set_clock(self, clock: Callable[[], float]) -> None:
        """Take the time from `clock` from now on."""
        self._clock = clock
        # Asked twenty times for each call: the clock itself takes the place of the method that would ask it.
        self.__dict__["now"] = clock

    def time(self) -> float:
        return self._wall_clock()

    def call_later(self, delay_s: float, fn: Callable[..., object], *args: Any) -> Timer:
        now = self._clock()
        timer = self._wheel.add(now, delay_s, fn, args)
        if self._wake is None or now + delay_s < self._wake_at:
            self._arm(now)
        return timer

    def _arm(self, now: float) -> None:
        """Let the loop wake the wheel at its earliest timer."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        at = self._wheel.next_wake()
        if at >= 0.0:
            self._wake_at = at
            self._wake = self.loop.call_later(max(0.0, at - now), self._turn)

    def _turn(self) -> None:
        self._wake = None
        for timer in self._wheel.due(self._clock()):
            fn, args = timer.take()
            if fn is None:
                continue
            try:
                fn(*args)
            except Exception as error:
                self.counters.internal_errors.inc()
                LOG.error("timer %s: %s", getattr(fn, "__qualname__", fn), describe_failure(error), exc_info=self.debug)
        self._arm(self._clock())

    @property
    def debug(self) -> bool:
        """Whether tracebacks of our own mistakes are wanted in the log."""
        return LOG.isEnabledFor(logging.DEBUG)

    @property
    def pending_timers(self) -> int:
        return len(self._wheel)

    def every(self, interval_s: float, fn: Callable[[], object]) -> Repeating:
        return Repeating(self, interval_s, fn)

    def _status_changed(self, group: str, identifier: str, status: int, details: str, old_status: int) -> None:
        self.events.raise_event(
            "E_CORE_SR_STATUS_CHANGED",
            {
                "group": group,
                "identifier": identifier,
                "status": status,
                "details": details,
                "old_status": old_status,
            },
        )

    # -- tasks

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self.loop.create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.counters.internal_errors.inc()
            LOG.error("%s: %s", task.get_name(), describe_failure(error), exc_info=error if self.debug else None)

    async def cancel_tasks(self) -> None:
        """End what runs in the background."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def wait(self, awaitable: Awaitable[T], timeout_s: float | None = None) -> T:
        async def inner() -> T:
            return await awaitable

        task = self.loop.create_task(inner())
        timer: Timer | None = None
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            task.cancel()

        if timeout_s is not None:
            timer = self.call_later(timeout_s, expire)
        try:
            return await task
        except asyncio.CancelledError:
            if late:
                raise TimeoutError from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if not task.done():
                task.cancel()

    # -- modules

    def module(self, name: str) -> Module | None:
        return self.modules.get(name)

    def api(self, name: str, cls: type[T]) -> T:
        module = self.modules.get(name)
        if module is None:
            raise LookupError(f"module {name} is not loaded")
        offered = module.api()
        if not isinstance(offered, cls):
            raise LookupError(f"module {name} does not offer {cls.__name__}")
        return offered

    def database(self, url: str) -> Database:
        return self.databases.get(url)

    def cachedb(self, url: str) -> CacheDb:
        return self.cachedbs.get(url)

    def find_repliers(self) -> None:
        """Look up the modules that answer requests, once all are loaded."""
        self.no_connection_reply = connection_flag(self, "message", NO_CONNECTION_FOR_REPLIES)
        self.no_connection_branch = connection_flag(self, "branch", NO_CONNECTION_FOR_BRANCH)
        self._signaling = self._replier("signaling")
        self._transactions = self._replier("tm")
        self._stateless = self._replier("sl")

    def _replier(self, name: str) -> Replies | None:
        found = self.modules.get(name)
        return found if isinstance(found, Replies) else None

    # -- sending

    def send(self, data: bytes, target: Target, on_failure: Callable[[], None] | None = None) -> bool:
        return self.network.dispatch(data, target, on_failure)

    def barred(self, run: Run, peer: Peer, data: bytes) -> bool:
        if self.hinting and peer.proto != sip.PROTO_UDP:
            self._hint(run, peer)
        return bool(self.blacklists.lists) and self.blacklists.bars(run, peer, data)

    def _hint(self, run: Run, peer: Peer) -> None:
        """Tell the transport what the request of `run`, which leaves next, is for."""
        transport = self.network.transport(peer.proto)
        if isinstance(transport, TcpTransport):
            sip_domain, tls_domain = (chosen(run, name) for name in self.tls_choices)
            transport.hint(Hint(peer, run.msg.source, sip_domain, tls_domain))

    def tls_session(self, peer: Peer) -> TlsSession | None:
        connection = self._connection(peer)
        found: object = connection.secure if connection is not None and connection.ready else None
        return found if isinstance(found, TlsSession) else None

    def proxied(self, peer: Peer) -> dict[str, str | int] | None:
        """What the PROXY protocol said of the connection, or of the datagrams, that `peer` stands for."""
        if peer.proto == sip.PROTO_UDP:
            transport = self.network.transport(peer.proto)
            return transport.proxied(peer) if isinstance(transport, UdpTransport) else None
        connection = self._connection(peer)
        return connection.proxied.facts() if connection is not None and connection.proxied is not None else None

    def _connection(self, peer: Peer) -> TcpConnection | None:
        if not peer.connection:
            return None
        transport = self.network.transport(peer.proto)
        return transport.connection(peer) if isinstance(transport, TcpTransport) else None

    def on_disconnect(self, callback: Callable[[int, str, tuple[int, ...], int], None]) -> None:
        self._on_disconnect.append(callback)

    def disconnected(self, connection: TcpConnection) -> None:
        """A connection that was open is gone: those who wait for answers over it are told."""
        ports = tuple(port for _, _, port in connection.keys)
        peer = connection.peer
        for callback in self._on_disconnect:
            callback(peer.proto, peer.address, ports, peer.connection)

    def association_lost(self, peer: Peer) -> None:
        """The same for a peer of SCTP, which has no connection of ours."""
        for callback in self._on_disconnect:
            callback(peer.proto, peer.address, (peer.port,), peer.connection)

    def _abort_alone(self, reason: str) -> None:
        self.log.critical("%s", reason)

    def destination_failed(self, peer: Peer) -> None:
        self.blacklists.failed(peer)

    def keep_connection(self, peer: Peer, seconds: float) -> bool:
        transport = self.network.transport(peer.proto)
        return isinstance(transport, TcpTransport) and transport.keep(peer, seconds)

    def choose_socket(self, peer: Peer, forced: Socket | None = None, received: Socket | None = None) -> Socket | None:
        return self.network.choose_socket(peer, forced, received)

    def open_socket(self, socket: Socket, words: Mapping[str, int | str]) -> None:
        options = socket_options(words)
        socket.anycast = "anycast" in words
        self.network.bind(socket, options)
        if socket.proto in (sip.PROTO_TLS, sip.PROTO_WSS) or (options is not None and options.send_proxy):
            self.hinting = True
        self.identity.add_socket(socket)

    def close_socket(self, socket: Socket) -> None:
        self.network.unbind(socket)
        self.identity.remove_socket(socket, self.sockets)

    def is_myself(self, host: str, port: int = 0, proto: int = 0) -> bool:
        return self.identity.is_myself(host, port, proto)

    def uri(self, text: str) -> Uri:
        """A URI parsed, from a small cache; raises sip.ParseError."""
        return self._uris.parse(text)

    def locate(self, uri: Uri | str, proto: int = 0) -> list[Target] | Awaitable[list[Target]]:
        if isinstance(uri, str):
            if self._literals_of == self.network.generation:
                literals = self._literals.get(proto)
                known = literals.get(uri) if literals is not None else None
                if known is not None:
                    return [known]
            text = uri
            try:
                uri = self.uri(text)
            except sip.ParseError as error:
                raise LocateError(f"{text}: {error.reason}") from error
            found = self._locate(uri, proto)
            if isinstance(found, list) and not self.network.mhomed:
                self._keep_literal(text, uri, proto, found)
            return found
        return self._locate(uri, proto)

    def _keep_literal(self, text: str, uri: Uri, proto: int, found: list[Target]) -> None:
        """Remember where a URI with an address leads: nothing but our own sockets can change it."""
        if len(found) != 1 or found[0].peer.address != (uri.param("maddr") or uri.host):
            return
        if self._literals_of != self.network.generation:
            self._literals.clear()
            self._literals_of = self.network.generation
        literals = self._literals.setdefault(proto, {})
        if len(literals) >= MOST_LITERALS:
            literals.clear()
        literals[text] = found[0]

    def _locate(self, uri: Uri, proto: int) -> list[Target] | Awaitable[list[Target]]:
        if uri.scheme not in ("sip", "sips"):
            raise LocateError(f"a {uri.scheme}: URI names no host")
        host = uri.param("maddr") or uri.host
        return self.locate_host(host, uri.port, proto or uri.proto, uri.scheme == "sips")

    def locate_host(
        self, host: str, port: int = 0, proto: int = 0, secure: bool = False
    ) -> list[Target] | Awaitable[list[Target]]:
        """Targets of a host and port; proto 0 lets DNS or our own protocols decide. Raises LocateError."""
        if self.resolver is None:
            raise LocateError("the server does not listen yet")
        if host.endswith(NOWHERE):
            return [self._named(host)]
        try:
            found = self.resolver.locate(host, port, proto, secure)
        except NotFound as error:
            raise LocateError(str(error)) from error
        if isinstance(found, list):
            return self._targets(host, found, bool(proto) or secure)
        return self._targets_later(host, found, bool(proto) or secure)

    async def naptr(self, name: str) -> list[Naptr]:
        if self.resolver is None:
            raise LocateError("the server does not listen yet")
        try:
            records = await self.resolver.records(name, "NAPTR")
        except NotFound as error:
            raise LocateError(str(error)) from error
        return [Naptr(r.priority, r.weight, r.flags, r.service, r.regexp, r.target) for r in records]

    async def txt(self, name: str) -> list[str]:
        if self.resolver is None:
            raise LocateError("the server does not listen yet")
        try:
            records = await self.resolver.records(name, "TXT")
        except NotFound as error:
            raise LocateError(str(error)) from error
        return [record.target for record in records]

    def keep_dns_answers(self, store: DnsStore) -> None:
        if self.resolver is None:
            raise LookupError("the server does not listen yet")
        self.resolver.store = store

    def _named(self, host: str) -> Target:
        """A name that a WebSocket client gave itself: it is wherever its connection is (RFC 7118 §5.2)."""
        for transport in self.network.streams():
            peer = transport.named(host.lower())
            connection = transport.connection(peer) if peer is not None else None
            if peer is not None and connection is not None:
                return Target(peer, connection.socket)
        raise LocateError(f"no connection with {host} is open")

    async def _targets_later(self, host: str, found: Awaitable[list[Place]], fixed: bool) -> list[Target]:
        try:
            places = await found
        except NotFound as error:
            raise LocateError(str(error)) from error
        return self._targets(host, places, fixed)

    def _targets(self, host: str, places: list[Place], fixed: bool) -> list[Target]:
        targets = []
        for place in places:
            peer = Peer(place.proto, place.address, place.port)
            socket = self.network.choose_socket(peer)
            if socket is None and not fixed:
                # Nobody asked for UDP: without a UDP socket, a protocol that we do have will do.
                for proto in self.network.protocols():
                    peer = Peer(proto, place.address, place.port)
                    socket = self.network.choose_socket(peer)
                    if socket is not None:
                        break
            if socket is not None:
                targets.append(Target(peer, socket))
        if not targets:
            wanted = ", ".join(sorted({sip.proto_name(place.proto) for place in places})) or "it"
            raise NoSocketError(f"{host}: no listening socket fits {wanted}")
        return targets

    # -- routes

    def run_route(self, route: Any, run: Run, done: Callable[[Run, int], None]) -> None:
        if not route.is_async:
            try:
                result = route.fn(run)
            except Exception as error:  # noqa: BLE001 - our mistake or a module's: the server lives
                result = self.script_failed(run, error)
            done(run, result)
            return
        try:
            coroutine = route.fn(run)
        except Exception as error:  # noqa: BLE001
            done(run, self.script_failed(run, error))
            return
        self.stepper.start(
            coroutine,
            lambda result: done(run, result),
            lambda error: done(run, self.script_failed(run, error)),
        )

    def script_failed(self, run: Run, error: BaseException) -> int:
        """Log the failure of a run with its place in the script, and answer a request with 500.

        Returns what stands for the route's result: 0 for a request, whose script has ended; 1 elsewhere, so that the
        default action of the route kind is taken.
        """
        self.counters.script_errors.inc()
        stack = script_routes(error) or " < ".join(
            f"{kinds.kind_keyword(kind)}[{name}]" for kind, name in reversed(run.route_stack)
        )
        LOG.error(
            "%s%s, Call-ID %s",
            describe_failure(error),
            f" in {stack}" if stack else "",
            run.msg.call_id,
            exc_info=error if self.debug else None,
        )
        if run.kind != kinds.REQUEST:
            return 1
        run.exited = True
        if not run.handled and run.msg.is_request and run.msg.method_id != sip.M_ACK:
            self.send_reply(run, 500, "Internal Server Error")
        return 0

    def receive(self, data: bytes, source: Peer, socket: Socket) -> None:
        if self.receiver is not None:
            self.receiver(data, source, socket)

    # -- hooks

    def on_reply(self, handler: Callable[[Run], bool | Awaitable[bool]]) -> None:
        self.reply_handlers.append(handler)

    def before_script(self, callback: Callable[[Run], bool | None]) -> None:
        self.before.append(callback)

    def after_script(self, callback: Callable[[Run], None]) -> None:
        self.after.append(callback)

    def on_copy(self, callback: Callable[[Run], None]) -> None:
        self.copies.append(callback)

    # -- replies

    def to_tag(self, msg: sip.Message) -> str:
        """The To tag of a stateless reply: the same for each copy of one request (RFC 3261 §8.2.7)."""
        try:
            return self.tag_prefix + self.digest(f"{msg.call_id}|{msg.from_tag}|{msg.cseq_number}")
        except sip.ParseError:
            # The request is answered because it is broken, and it may be one of these that is.
            return self.tag_prefix + self.digest(msg.head)

    def digest(self, text: str) -> str:
        """A token that this server always makes of the same text, and nobody else can."""
        data = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=12, key=self._tag_secret).hexdigest()

    def server_header(self) -> str:
        """The value of the Server header of replies made here; "" when `server_signature` is off."""
        if self.globals is None or not self.globals.server_signature:
            return ""
        # The script gives the whole line, name included.
        return str(self.globals.server_header or "").removeprefix("Server:").strip()

    def send_reply(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        if self._signaling is not None:
            return self._signaling.reply(run, code, reason, headers, body)
        if self._transactions is not None and run.transaction is not None:
            return self._transactions.reply(run, code, reason, headers, body)
        if self._stateless is not None:
            return self._stateless.reply(run, code, reason, headers, body)
        return self.reply_stateless(run, code, reason, headers, body)

    def reply_stateless(self, run: Run, code: int, reason: str, headers: str = "", body: bytes = b"") -> int:
        """Answer without a transaction. 1 when the reply left, -1 otherwise; an ACK is never answered (§17.1.1.3)."""
        msg = run.request
        if msg is None or msg.method_id == sip.M_ACK:
            return -1
        headers, body = take_reply_additions(run, code, headers, body)
        headers += warning(self, msg, run)
        target = reply_target(run)
        if self.no_connection_reply & run.msg_flags:
            target = Target(target.peer, target.socket, connect=False)
        tag = "" if code == 100 else self.to_tag(msg)
        data = sip.build_reply(msg, code, reason, tag, headers, body, "", server=self.server_header())
        sent = self.send(data, target)
        run.handled = True
        return 1 if sent else -1


def chosen(run: Run, name: str) -> str:
    """What the script put into the branch's, else the message's AVP of that name; "" when nothing."""
    if not name:
        return ""
    transaction: Any = run.transaction
    branches = transaction.branches if transaction is not None else ()
    if 0 <= run.branch_index < len(branches):
        stack = (branches[run.branch_index].avps or {}).get(name)
        if stack and stack[-1] is not None:
            return str(stack[-1])
    stack = run.avps.get(name)
    return str(stack[-1]) if stack and stack[-1] is not None else ""
