"""A Diameter node: connections to peers, capabilities, watchdogs, requests and their answers (RFC 6733 §5, RFC 3539).

Every connection is a `Link`; `Node` holds them, picks one for a request, and sends what a lost one left unanswered over
another. All waiting is on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any, Final, Protocol

from opensipspy.modules.aaa_diameter import sctp
from opensipspy.modules.aaa_diameter.codec import (
    CAPABILITIES_EXCHANGE,
    DEVICE_WATCHDOG,
    DISCONNECT_PEER,
    ELECTION_LOST,
    ERROR,
    MAX_FIRST,
    MAX_MESSAGE,
    NO_COMMON_APPLICATION,
    PROXIABLE,
    RELAY_APPLICATION,
    REQUEST,
    RETRANSMITTED,
    SUCCESS,
    TOO_BUSY,
    UNABLE_TO_DELIVER,
    UNKNOWN_PEER,
    Avp,
    DiameterError,
    Framer,
    Message,
    decode,
    decode_avps,
    encode,
)
from opensipspy.modules.aaa_diameter.config import SCTP, TCP, Config, PeerConfig
from opensipspy.modules.aaa_diameter.dictionary import Dictionary
from opensipspy.modules.aaa_diameter.tls import Tls, names_identity
from opensipspy.modules.aaa_diameter.wire import TcpWire, Wire

HANDSHAKE_S: Final = 10.0
"""How long a new connection has until capabilities are exchanged."""
GOODBYE_S: Final = 1.0
"""How long we wait for the answer to our last request on a connection."""
FIRST_PAUSE_S: Final = 1.0
"""Pause after the first failed attempt to connect; it doubles up to TcTimer."""
MAX_PENDING: Final = 20_000
"""Requests of ours without an answer, on one connection."""
MAX_WRITE: Final = 4 << 20
"""Octets waiting to leave on one connection; a peer that reads no more is lost."""
MAX_INCOMING: Final = 256
"""Connections that others made to us."""
MAX_UNKNOWN: Final = 16
"""Connections from one address of which we do not know yet who it is, so that others find room."""
ACCEPT_PAUSE_S: Final = 1.0
"""How long no connection is taken after the system had no room for one."""
HELD_S: Final = 120.0
"""How long a request of a peer may wait for its answer."""
MAX_HELD: Final = 10_000
DUPLICATE_S: Final = 240.0
"""How long answers are kept for requests that come twice (RFC 6733 §3, End-to-End Identifier)."""
MAX_ANSWERS: Final = 10_000

PRODUCT: Final = "opensipspy"
SESSION_ID: Final = 263
ORIGIN_HOST: Final = 264
RESULT_CODE: Final = 268
ERROR_MESSAGE: Final = 281
DESTINATION_REALM: Final = 283
PROXY_INFO: Final = 284
DESTINATION_HOST: Final = 293
ORIGIN_REALM: Final = 296
REBOOTING: Final = 0
DO_NOT_TALK_TO_ME: Final = 2


class Unreachable(Exception):
    """No peer can take the request now. sent: one had got it before."""

    def __init__(self, reason: str, sent: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent


class Randomness(Protocol):
    """What identifiers and pauses are made with."""

    def getrandbits(self, k: int, /) -> int: ...
    def uniform(self, a: float, b: float) -> float: ...


class Pending:
    """A request of ours that waits for its answer."""

    __slots__ = ("answer", "message", "tried")

    def __init__(self, message: Message, answer: asyncio.Future[Message]) -> None:
        self.message = message
        self.answer = answer
        self.tried: set[str] = set()


class Held:
    """A request of a peer that waits for ours. link: where it came from, last when it came twice."""

    __slots__ = ("at", "key", "link", "message")

    def __init__(self, link: Link, message: Message, key: tuple[str, int], at: float) -> None:
        self.link = link
        self.message = message
        self.key = key
        self.at = at


class Owner(ABC):
    """What a node tells."""

    @abstractmethod
    def request_came(self, held: Held) -> None:
        """A request for an application of ours; `Node.answer` is called for it now or later."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something beside."""

    @abstractmethod
    def peer_changed(self, identity: str, is_open: bool, why: str) -> None:
        """A peer can be used, or no more. why: for what reason no more; what it is connected over."""


class Link:
    """One connection to a peer. identity: "" until the peer has said it. suspect: the watchdog has no answer yet."""

    def __init__(self, node: Node, wire: Wire, peer: PeerConfig | None) -> None:
        self.node = node
        self.peer = peer
        self.identity = ""
        self.realm = ""
        self.applications: frozenset[int] = frozenset()
        self.is_open = False
        self.suspect = False
        self.pending: dict[int, Pending] = {}
        self.why = "it closed the connection"
        self.stay_away = False
        self.wire = wire
        self._framer = Framer(MAX_FIRST)
        self._messages: list[bytes] = []
        self._heard = 0.0
        self._waiting = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self.address = wire.address
        self.secure = wire.secure

    def certified(self) -> bool:
        """Whether the certificate that a peer showed over TLS is that of the identity it has said (§13.1)."""
        return not self.secure or names_identity(self.wire.certificate, self.identity)

    # --- what goes out

    def send(self, message: Message) -> None:
        """Put a message on the wire. DiameterError when it cannot be one."""
        self.wire.write(encode(message))
        if self.wire.waiting() > MAX_WRITE:
            self.close("it reads no more")

    def close(self, why: str) -> None:
        """End the connection at once; what is pending moves to other peers."""
        if not self._gone.is_set():
            self.why = why
            self._gone.set()
            if self._watchdog is not None:
                self._watchdog.cancel()
            self.wire.abort()

    async def closed(self) -> None:
        """Returns when the connection is over."""
        await self._gone.wait()

    # --- what comes in

    async def next(self) -> Message:
        """The next message. DiameterError for octets that are none, EOFError at the end."""
        while not self._messages:
            data = await self.wire.read()
            if not data:
                raise EOFError
            self._messages = self._framer.feed(data)
            if self.wire.whole and self._framer.waiting:
                raise DiameterError("half a message")
            self._messages.reverse()
        self._heard = self.node.now()
        return decode(self._messages.pop())

    async def serve(self) -> None:
        """Handle messages of an open connection until it ends."""
        self._framer.most = MAX_MESSAGE
        self._heard = self.node.now()
        self._arm()
        said = False
        if self.peer is not None:
            # Its answer to our capabilities has shown it; who was called waits for what comes next (§2.1.1).
            said = True
            self.wire.heard()
        try:
            while not self._gone.is_set():
                message = await self.next()
                if not said:
                    said = True
                    self.wire.heard()
                self.node.take(self, message)
        except DiameterError as error:
            self.close(f"it sent garbage: {error}")
        except (EOFError, OSError):
            self.close(self.why)

    # --- RFC 3539 §3.4.1

    def _interval(self) -> float:
        base = (self.peer.watchdog_s if self.peer is not None else 0.0) or self.node.config.watchdog_s
        # Jitter keeps many nodes from asking in step; two seconds of the RFC's thirty.
        return base + self.node.random.uniform(-base / 15, base / 15)

    def _arm(self) -> None:
        self._watchdog = asyncio.get_running_loop().call_later(self._interval(), self._expired, self.node.now())

    def _expired(self, since: float) -> None:
        if self._heard > since:
            self._arm()
        elif not self._waiting:
            self._waiting = True
            self.send(self.node.base_request(DEVICE_WATCHDOG))
            self._arm()
        elif not self.suspect:
            self.suspect = True
            self.node.fail_over(self)
            self._arm()
        else:
            self.close("it does not answer the watchdog")

    def alive(self) -> None:
        """A watchdog answer came."""
        self._waiting = self.suspect = False


class Node:
    """This end of all connections."""

    def __init__(
        self,
        config: Config,
        dictionary: Dictionary,
        owner: Owner,
        random: Randomness,
        now: Callable[[], float],
        log: logging.Logger | logging.LoggerAdapter[Any],
        prefer: str = "",
        tls: Tls | None = None,
    ) -> None:
        self.config = config
        self.dictionary = dictionary
        self.random = random
        self.now = now
        self.log = log
        self.prefer = prefer.lower()
        self.port = 0
        self.links: dict[str, Link] = {}
        self._owner = owner
        self._state_id = random.getrandbits(32)
        self._hop = random.getrandbits(32)
        self._end = random.getrandbits(20)
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._listening: list[socket.socket] = []
        self._has_sctp = False
        self._tasks: list[asyncio.Task[None]] = []
        self._incoming: set[Link] = set()
        self._calling: set[str] = set()
        self._held: OrderedDict[tuple[str, int], Held] = OrderedDict()
        self._answers: OrderedDict[tuple[str, int], tuple[float, Message]] = OrderedDict()
        self._changed = asyncio.Event()
        self._stopping = False

    # --- life

    async def start(self) -> None:
        """Listen, and begin to connect; does not wait for peers. OSError when the port is taken."""
        wants = [peer.identity for peer in self.config.peers if SCTP in peer.transports]
        listens = bool(self.config.port or self.config.listen_on)
        self._has_sctp = sctp.available()
        if not self._has_sctp and (wants or (listens and self.config.sctp)):
            self.log.info("aaa_diameter: this kernel has no SCTP (Linux: load its module sctp); TCP is used instead")
        if listens:
            hosts = self.config.listen_on or None
            if self.config.tcp:
                self._servers.append(await asyncio.start_server(self._accepted, hosts, self.config.port))
                self.port = int(self._servers[0].sockets[0].getsockname()[1])
            if self.config.sctp and (self._has_sctp or not self.config.tcp):
                self._listen_sctp()
        if self._tls is not None and self.config.secure_port:
            hosts, port = self.config.listen_on or None, self.config.secure_port
            self._servers.append(
                await asyncio.start_server(
                    self._accepted, hosts, port, ssl=self._tls.server, ssl_handshake_timeout=HANDSHAKE_S
                )
            )
        for peer in self.config.peers:
            self._tasks.append(self._owner.spawn(self._keep(peer), f"diameter peer {peer.identity}"))

    def _listen_sctp(self) -> None:
        for address in self.config.listen_on or ("0.0.0.0", "::"):
            try:
                made = sctp.listen(address, self.port or self.config.port, self.config.streams)
            except OSError as error:
                if address == "::" and not self.config.listen_on:
                    # As with TCP, a system without IPv6 is listened on without.
                    self.log.info("aaa_diameter: SCTP: no listening on ::: %s", error)
                    continue
                raise
            self._listening.append(made)
            self.port = self.port or int(made.getsockname()[1])
            self._admit(made)

    def _admit(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening.fileno(), self._accept_sctp, listening)

    def _accept_sctp(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            wire = sctp.accept(listening)
        except OSError as error:
            self.log.error("aaa_diameter: SCTP: no connection can be taken: %s", error)
            loop.remove_reader(listening.fileno())
            loop.call_later(ACCEPT_PAUSE_S, self._admit, listening)
            return
        if wire is not None:
            self._owner.spawn(self._taken(wire), f"diameter connection of {wire.address}")

    async def stop(self) -> None:
        """Take leave of all peers (§5.4) and close everything."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening.fileno())
            listening.close()
        goodbyes = []
        for link in list(self.links.values()):
            request = self.base_request(DISCONNECT_PEER)
            request.avps.append(self.dictionary.make("Disconnect-Cause", REBOOTING))
            pending = self._post(link, request)
            if pending is not None:
                goodbyes.append(pending.answer)
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=GOODBYE_S)
        for task in self._tasks:
            task.cancel()
        for link in [*self.links.values(), *self._incoming]:
            link.close("the server stops")
            self._abandon(link)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def wait_open(self, identity: str) -> None:
        """Returns when a peer can be used."""
        while identity.lower() not in self.links:
            self._changed.clear()
            await self._changed.wait()

    # --- connections we make

    async def _keep(self, peer: PeerConfig) -> None:
        """Connect to a peer, and again whenever it is lost, with pauses that grow."""
        name = peer.identity.lower()
        longest = peer.connect_s or self.config.connect_s
        pause = FIRST_PAUSE_S
        told = False
        while not self._stopping:
            other = self.links.get(name)
            if other is not None:
                # It connected to us.
                await other.closed()
                await asyncio.sleep(min(pause, longest) * self.random.uniform(0.5, 1.0))
                continue
            link = None
            try:
                link = await self._connect(peer)
            except (OSError, EOFError, TimeoutError, DiameterError) as error:
                if not told:
                    why = str(error) or "it closed the connection or gave no answer"
                    self.log.warning("aaa_diameter: no connection to %s: %s", peer.identity, why)
                    told = True
            if link is not None:
                pause, told = FIRST_PAUSE_S, False
                await self._run(link)
                if link.stay_away:
                    # §5.4.3: told not to come back soon.
                    pause = longest
            await asyncio.sleep(min(pause, longest) * self.random.uniform(0.5, 1.0))
            pause = min(pause * 2, longest)

    async def _connect(self, peer: PeerConfig) -> Link | None:
        async with asyncio.timeout(HANDSHAKE_S):
            self._calling.add(peer.identity.lower())
            try:
                context = self._tls.client if peer.secure and self._tls is not None else None
                if peer.secure and context is None:
                    raise OSError("there is no certificate for TLS")
                link = Link(self, await self._reach(peer, context), peer)
                try:
                    return await self._introduce(link, peer)
                except BaseException:
                    link.close("the capabilities exchange failed")
                    raise
            finally:
                self._calling.discard(peer.identity.lower())

    async def _reach(self, peer: PeerConfig, context: ssl.SSLContext | None) -> Wire:
        """A connection with a peer, by the first of its transports that comes about."""
        failures = []
        for name in peer.transports:
            try:
                if name == SCTP:
                    if not self._has_sctp and TCP in peer.transports:
                        continue
                    return await sctp.connect(peer.address, peer.port, self.config.streams)
                identity = peer.identity if context is not None else None
                return TcpWire(
                    *await asyncio.open_connection(peer.address, peer.port, ssl=context, server_hostname=identity)
                )
            except OSError as error:
                failures.append(error.strerror or str(error))
        raise OSError("; ".join(failures))

    async def _introduce(self, link: Link, peer: PeerConfig) -> Link | None:
        request = self.base_request(CAPABILITIES_EXCHANGE)
        request.avps += self._capabilities(link)
        request.hop_by_hop = self._next_hop()
        link.send(request)
        answer = await link.next()
        if answer.command != CAPABILITIES_EXCHANGE or answer.is_request:
            raise DiameterError("its first message is no answer to ours")
        result = answer.number(RESULT_CODE)
        if result != SUCCESS:
            reason = answer.text(ERROR_MESSAGE)
            raise DiameterError(f"it refuses us with {result}" + (f" ({reason[:200]})" if reason else ""))
        if answer.text(ORIGIN_HOST).lower() != peer.identity.lower():
            raise DiameterError(f"it says it is {answer.text(ORIGIN_HOST)[:200]!r}")
        self._learn(link, answer)
        if not self._common(link):
            raise DiameterError("it has no application that we have")
        if link.identity in self.links:
            # Its own connection to us was there first.
            link.close("there is another connection")
            return None
        return link

    # --- connections others make

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._taken(TcpWire(reader, writer))

    async def _taken(self, wire: Wire) -> None:
        strangers = sum(not other.is_open and other.address == wire.address for other in self._incoming)
        if self._stopping or len(self._incoming) >= MAX_INCOMING or strangers >= MAX_UNKNOWN:
            wire.abort()
            return
        link = Link(self, wire, None)
        self._incoming.add(link)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.append(task)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                welcome = await self._welcome(link)
            if welcome:
                await self._run(link)
        except DiameterError as error:
            self.log.warning("aaa_diameter: closed a connection from %s: %s", link.address, error)
        except (OSError, EOFError, TimeoutError) as error:
            self.log.info("aaa_diameter: a connection from %s ended early: %s", link.address, error or "no message")
        finally:
            link.close("done")
            self._incoming.discard(link)
            if task is not None and task in self._tasks:
                self._tasks.remove(task)

    async def _welcome(self, link: Link) -> bool:
        """The first message of a peer (§5.3), and our answer; False when it is not let in."""
        request = await link.next()
        if request.command != CAPABILITIES_EXCHANGE or not request.is_request:
            raise DiameterError("its first message is no capabilities request")
        self._learn(link, request)
        name = link.identity
        result = SUCCESS
        if name == self.config.identity.lower() or not self.config.admits(name, link.secure) or not link.certified():
            result = UNKNOWN_PEER
        elif name in self.links or (name in self._calling and name > self.config.identity.lower()):
            # §5.6.4: with both calling, the connection of the higher name stays.
            result = ELECTION_LOST
        elif not self._common(link):
            result = NO_COMMON_APPLICATION
        answer = self.base_answer(request, result)
        if result == UNKNOWN_PEER:
            answer.flags |= ERROR
        answer.avps += self._capabilities(link)
        link.send(answer)
        if result != SUCCESS:
            self.log.warning("aaa_diameter: refused peer %r from %s with %d", name[:200], link.address, result)
            with contextlib.suppress(OSError):
                await link.wire.drain()
            return False
        return True

    def _learn(self, link: Link, message: Message) -> None:
        link.identity = message.text(ORIGIN_HOST).lower()
        link.realm = message.text(ORIGIN_REALM).lower()
        if not link.identity or not link.realm:
            raise DiameterError("it does not say who it is")
        link.applications = frozenset(_applications(message.avps))

    def _common(self, link: Link) -> bool:
        return RELAY_APPLICATION in link.applications or any(
            number in link.applications for number in self.dictionary.applications
        )

    async def _run(self, link: Link) -> None:
        """An open connection, from the first to the last message."""
        self.links[link.identity] = link
        link.is_open = True
        self._owner.peer_changed(link.identity, True, link.wire.kind)
        self._changed.set()
        try:
            await link.serve()
        finally:
            link.close("the server stops")
            link.is_open = False
            if self.links.get(link.identity) is link:
                del self.links[link.identity]
            if not self._stopping:
                self._owner.peer_changed(link.identity, False, link.why)
                self.fail_over(link)

    def _capabilities(self, link: Link) -> list[Avp]:
        make = self.dictionary.make
        found = [
            make("Host-IP-Address", str(ip_address(link.wire.local.partition("%")[0]))),
            make("Vendor-Id", 0),
            make("Product-Name", PRODUCT),
            make("Origin-State-Id", self._state_id),
        ]
        found += [make("Supported-Vendor-Id", vendor) for vendor in self.dictionary.vendors if vendor]
        for application in self.dictionary.applications.values():
            name = "Auth-Application-Id" if application.is_auth else "Acct-Application-Id"
            if application.vendor:
                group = [{"Vendor-Id": application.vendor}, {name: application.number}]
                found.append(make("Vendor-Specific-Application-Id", group))
            else:
                found.append(make(name, application.number))
        found.append(make("Inband-Security-Id", 0))
        return found

    # --- messages

    def base_request(self, command: int) -> Message:
        """A request of the base protocol, with our name in it."""
        message = Message(command, 0, REQUEST, self._origin(), self._next_hop(), self.next_end())
        if command == DEVICE_WATCHDOG:
            message.avps.append(self.dictionary.make("Origin-State-Id", self._state_id))
        return message

    def base_answer(self, request: Message, result: int, text: str = "") -> Message:
        """An answer with a result; 3xxx are protocol errors (§7.1.3)."""
        flags = request.flags & PROXIABLE | (ERROR if 3000 <= result < 4000 else 0)
        message = Message(request.command, request.application, flags, [], request.hop_by_hop, request.end_to_end)
        session = request.find(SESSION_ID)
        if session is not None:
            message.avps.append(session)
        message.avps.append(self.dictionary.make("Result-Code", result))
        message.avps += self._origin()
        if text:
            message.avps.append(self.dictionary.make("Error-Message", text))
        message.avps += [avp for avp in request.avps if avp.code == PROXY_INFO and not avp.vendor]
        return message

    def _origin(self) -> list[Avp]:
        make = self.dictionary.make
        return [make("Origin-Host", self.config.identity), make("Origin-Realm", self.config.realm)]

    def _next_hop(self) -> int:
        self._hop = self._hop + 1 & 0xFFFFFFFF
        return self._hop

    def next_end(self) -> int:
        """A new End-to-End Identifier."""
        # §3: the time in the upper 12 bits keeps it unique over a restart.
        self._end = self._end + 1 & 0xFFFFF
        return (int(self.now()) & 0xFFF) << 20 | self._end

    def take(self, link: Link, message: Message) -> None:
        """One message of an open connection."""
        if not message.is_request:
            self._take_answer(link, message)
        elif message.command == DEVICE_WATCHDOG:
            answer = self.base_answer(message, SUCCESS)
            answer.avps.append(self.dictionary.make("Origin-State-Id", self._state_id))
            link.send(answer)
        elif message.command == DISCONNECT_PEER:
            cause = message.find(273)
            link.stay_away = cause is not None and int.from_bytes(cause.data[:4], "big") == DO_NOT_TALK_TO_ME
            link.why = "it took leave"
            link.send(self.base_answer(message, SUCCESS))
        elif message.command == CAPABILITIES_EXCHANGE:
            # §5.6: not on an open connection.
            link.close("it exchanges capabilities again")
        else:
            self._take_request(link, message)

    def _take_answer(self, link: Link, message: Message) -> None:
        if message.command == DEVICE_WATCHDOG:
            link.alive()
            return
        pending = link.pending.pop(message.hop_by_hop, None)
        if pending is None or pending.message.command != message.command:
            if pending is not None:
                link.pending[message.hop_by_hop] = pending
            self.log.info("aaa_diameter: an answer from %s that nobody waits for: %r", link.identity, message)
            return
        if message.is_error and message.number(RESULT_CODE) in (UNABLE_TO_DELIVER, TOO_BUSY):
            # §6.2: another peer may do better.
            other = self._choose(pending)
            if other is not None:
                self._move(pending, other)
                return
        if not pending.answer.done():
            pending.answer.set_result(message)

    def _take_request(self, link: Link, message: Message) -> None:
        now = self.now()
        key = (message.text(ORIGIN_HOST).lower(), message.end_to_end)
        while self._answers and next(iter(self._answers.values()))[0] < now - DUPLICATE_S:
            self._answers.popitem(last=False)
        while self._held and next(iter(self._held.values())).at < now - HELD_S:
            _, late = self._held.popitem(last=False)
            self.log.warning("aaa_diameter: no answer was made for %r of %s", late.message, late.link.identity)
        known = self._answers.get(key)
        if known is not None and known[1].command == message.command:
            again = known[1]
            link.send(
                Message(again.command, again.application, again.flags, again.avps, message.hop_by_hop, again.end_to_end)
            )
            return
        held = self._held.get(key)
        if held is not None and held.message.command == message.command:
            held.link = link
            held.message.hop_by_hop = message.hop_by_hop
            return
        if len(self._held) >= MAX_HELD:
            link.send(self.base_answer(message, TOO_BUSY, "too many requests wait"))
            return
        held = Held(link, message, key, now)
        self._held[key] = held
        self._owner.request_came(held)

    def answer(self, held: Held, answer: Message) -> bool:
        """Answer a request; False when it was answered before or is too old, or the peer is gone.

        DiameterError when the answer is above the limit of a message.
        """
        if not self.holds(held):
            return False
        answer.hop_by_hop = held.message.hop_by_hop
        answer.end_to_end = held.message.end_to_end
        encode(answer)
        del self._held[held.key]
        self._answers[held.key] = (self.now(), answer)
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        link = held.link if held.link.is_open else self.links.get(held.link.identity)
        if link is None:
            return False
        link.send(answer)
        return True

    def holds(self, held: Held) -> bool:
        """Whether a request still waits for its answer."""
        return self._held.get(held.key) is held

    # --- requests of ours

    async def request(self, message: Message, timeout_s: float) -> Message:
        """Send a request and wait for its answer. It keeps an End-to-End Identifier that it has.

        Raises Unreachable without a peer, TimeoutError, DiameterError when the message is too long.
        """
        message.flags |= REQUEST
        message.end_to_end = message.end_to_end or self.next_end()
        pending = Pending(message, asyncio.get_running_loop().create_future())
        link = self._choose(pending)
        if link is None:
            raise Unreachable("no peer is connected" if not self.links else "no connected peer has this application")
        self._move(pending, link)
        try:
            async with asyncio.timeout(timeout_s):
                return await pending.answer
        finally:
            hop = message.hop_by_hop
            for other in self.links.values():
                if other.pending.get(hop) is pending:
                    del other.pending[hop]

    def _choose(self, pending: Pending) -> Link | None:
        """The peer for a request (§6.1.4): the one it names, then by preference and the order of the file."""
        message = pending.message
        named = message.text(DESTINATION_HOST).lower()
        order = {peer.identity.lower(): i for i, peer in enumerate(self.config.peers)}
        realm = message.text(DESTINATION_REALM).lower()
        usable = [
            link
            for name, link in self.links.items()
            if name not in pending.tried
            and len(link.pending) < MAX_PENDING
            and (RELAY_APPLICATION in link.applications or message.application in link.applications)
        ]
        return min(
            usable,
            key=lambda link: (
                link.suspect,
                link.identity != named,
                bool(realm) and link.realm != realm,
                link.identity != self.prefer,
                order.get(link.identity, len(order)),
            ),
            default=None,
        )

    def _post(self, link: Link, message: Message) -> Pending | None:
        pending = Pending(message, asyncio.get_running_loop().create_future())
        message.hop_by_hop = self._next_hop()
        link.pending[message.hop_by_hop] = pending
        link.send(message)
        return pending

    def _move(self, pending: Pending, link: Link) -> None:
        if pending.tried:
            pending.message.flags |= RETRANSMITTED
        pending.tried.add(link.identity)
        pending.message.hop_by_hop = self._next_hop()
        link.pending[pending.message.hop_by_hop] = pending
        try:
            link.send(pending.message)
        except DiameterError:
            del link.pending[pending.message.hop_by_hop]
            raise

    def fail_over(self, link: Link) -> None:
        """Send what a lost or silent peer has not answered to another (§5.5.4)."""
        waiting = list(link.pending.values())
        link.pending.clear()
        for pending in waiting:
            if pending.answer.done():
                continue
            other = self._choose(pending)
            if other is not None and other is not link and not other.suspect:
                self._move(pending, other)
            elif link.is_open:
                # Suspect, and no other: its answer may still come.
                link.pending[pending.message.hop_by_hop] = pending
            else:
                pending.answer.set_exception(Unreachable(f"{link.identity}: {link.why}", sent=True))

    def _abandon(self, link: Link) -> None:
        for pending in link.pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(Unreachable("the server stops", sent=True))
                # Nobody may be waiting any more.
                pending.answer.exception()
        link.pending.clear()


def _applications(avps: list[Avp]) -> list[int]:
    """The applications that a peer has."""
    found = []
    for avp in avps:
        if avp.vendor:
            continue
        if avp.code in (258, 259) and len(avp.data) == 4:
            found.append(int.from_bytes(avp.data, "big"))
        elif avp.code == 260:
            found += [
                int.from_bytes(inner.data, "big")
                for inner in decode_avps(avp.data)
                if not inner.vendor and inner.code in (258, 259) and len(inner.data) == 4
            ]
    return found
