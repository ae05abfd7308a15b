"""UDP listening points: a non-blocking socket that is drained when the loop says it is readable.

The drain loop costs a fifth of a datagram protocol of asyncio's (no call-back object, no copy), and runs the same on
every kind of loop. It works in rounds: what the kernel holds is taken out, then worked on, then what that gave is sent,
which keeps the kernel's code and ours out of each other's caches and wakes whoever receives it once. When datagrams
come fast, the wake-ups themselves are what costs most: then a listener rests for a moment before it looks, as network
cards hold back their interrupts (`Pace`). A datagram that the kernel does not take at once waits in a bounded queue.
"""

from __future__ import annotations

import logging
import socket as os_socket
import sys
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from opensipspy import sip
from opensipspy.net.proxy_protocol import Proxied, ProxyError, read_header
from opensipspy.net.traffic import Pace, Traffic
from opensipspy.net.transport import Deliver, SocketOptions, Transport
from opensipspy.sip import Peer, Socket

LOG: Final = logging.getLogger(__name__)

# How many datagrams are taken before the loop looks at its other duties.
DRAIN: Final = 64
DATAGRAM_BYTES: Final = 65535
# How many datagrams of a round are held until they are sent together, and how big one may be.
MOST_HELD: Final = 16
HELD_BYTES: Final = 4096
# Addresses that were found fit to send to, kept by each listener.
MOST_LITERALS: Final = 4096
QUEUE_DATAGRAMS: Final = 1000
LOW_DELAY: Final = 0x10
# Of Linux's <netinet/in.h>; Python names them from 3.14 on.
IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_DONT: Final = 0


class UdpSettings:
    """tos: the IP header's value, 0 leaves it. receive_buffer_bytes: asked of the kernel."""

    def __init__(
        self,
        *,
        tos: int = LOW_DELAY,
        receive_buffer_bytes: int = 262144,
        queue_datagrams: int = QUEUE_DATAGRAMS,
        multicast_ttl: int = -1,
        multicast_loopback: bool = False,
    ) -> None:
        self.tos = tos
        self.receive_buffer_bytes = receive_buffer_bytes
        self.queue_datagrams = queue_datagrams
        self.multicast_ttl = multicast_ttl
        self.multicast_loopback = multicast_loopback


class Round:
    """What the listeners of a transport send while datagrams that came together are worked on.

    Only for addresses that took a datagram before: whether the system can send to an address at all is told at once.
    """

    __slots__ = ("held", "open")

    def __init__(self) -> None:
        self.open: bool = False
        # Listener, datagram, destination, and whom to tell when it could not leave.
        self.held: list[tuple[UdpListener, bytes, tuple[str, int], Callable[[], None] | None]] = []

    def send(self) -> None:
        """Let out what was held."""
        held = self.held
        self.held = []
        for listener, data, destination, on_failure in held:
            listener.send_held(data, destination, on_failure)


class UdpListener:
    """One bound UDP socket."""

    def __init__(
        self,
        socket: Socket,
        deliver: Deliver,
        loop: AbstractEventLoop,
        settings: UdpSettings,
        traffic: Traffic,
        pace: Pace,
        sending: Round,
        options: SocketOptions | None = None,
    ) -> None:
        self.socket = socket
        self._pace = pace
        self._round = sending
        self._deliver = deliver
        self._loop = loop
        self._traffic = traffic
        self._limit = settings.queue_datagrams
        self._queue: deque[tuple[bytes, tuple[str, int]]] = deque()
        self._os = bound_datagram_socket(socket, settings, options)
        self._fd: int = self._os.fileno()
        self._family = self._os.family
        # Where the system can send to without a look-up, and where a datagram went without an error.
        self._literals: set[str] = set()
        self._reached: set[str] = set()
        self._allow_proxy: bool = options is not None and options.allow_proxy
        # What the header of the latest datagram from an address said.
        self.proxied: dict[tuple[str, int], Proxied] = {}

    def serve(self) -> None:
        self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    @property
    def queued(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return sum(len(data) for data, _ in self._queue)

    def _readable(self) -> None:
        pace = self._pace
        if pace.rests:
            pace.rest(self)
        taken = self._take()
        pace.took(len(taken))
        self._traffic.received += len(taken)
        deliver = self._deliver
        socket = self.socket
        sending = self._round
        sending.open = len(taken) > 1
        try:
            for data, source in taken:
                address: str = source[0]
                port: int = source[1]
                if self._allow_proxy:
                    data = self._without_header(data, (address, port))
                    if not data:
                        continue
                deliver(data, Peer(sip.PROTO_UDP, address, port), socket)
                if len(sending.held) >= MOST_HELD:
                    sending.send()
        finally:
            sending.open = False
            sending.send()

    def _take(self) -> list[tuple[bytes, Any]]:
        """What the kernel holds, not more than a round's worth.

        An address has two parts over IPv4 and four over IPv6, so it has no tuple type that compiled code would check.
        """
        receive = self._os.recvfrom
        taken: list[tuple[bytes, Any]] = []
        for _ in range(DRAIN):
            try:
                taken.append(receive(DATAGRAM_BYTES))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                # An ICMP answer to something sent earlier; it says nothing about what comes in.
                LOG.debug("%s: receive: %s", self.socket.text, error)
        return taken

    def _without_header(self, data: bytes, source: tuple[str, int]) -> bytes:
        """A datagram without its PROXY header, b"" when that cannot be read."""
        try:
            length, proxied = read_header(data)
        except ProxyError as error:
            self._traffic.dropped_in += 1
            LOG.info("%s: datagram from %s dropped: %s", self.socket.text, source[0], error)
            return b""
        self.proxied.pop(source, None)
        if proxied is not None:
            if len(self.proxied) >= MOST_LITERALS:
                del self.proxied[next(iter(self.proxied))]
            self.proxied[source] = proxied
        return data[length:] if length > 0 else data

    def send(self, data: bytes, peer: Peer, on_failure: Callable[[], None] | None = None) -> bool:
        """Send one datagram, or queue it when the kernel's buffer is full."""
        address = peer.address
        if self._fd < 0 or (address not in self._literals and not self._is_literal(address)):
            return False
        destination = (address, peer.port)
        if self._round.open:
            if address in self._reached and len(data) <= HELD_BYTES and 0 < peer.port < 65536:
                self._round.held.append((self, data, destination, on_failure))
                return True
            self._round.send()
        return self._send_now(data, destination)

    def send_held(self, data: bytes, destination: tuple[str, int], on_failure: Callable[[], None] | None) -> None:
        """Send what waited for the end of the round. When it cannot leave, whoever sent it is told afterwards."""
        if (self._fd < 0 or not self._send_now(data, destination)) and on_failure is not None:
            self._loop.call_soon(on_failure)

    def _send_now(self, data: bytes, destination: tuple[str, int]) -> bool:
        if self._queue:
            return self._enqueue(data, destination)
        try:
            self._os.sendto(data, destination)
        except (BlockingIOError, InterruptedError):
            return self._enqueue(data, destination)
        except (OSError, OverflowError) as error:
            self._traffic.send_errors += 1
            self._reached.discard(destination[0])
            peer = Peer(sip.PROTO_UDP, destination[0], destination[1])
            LOG.warning("%s: cannot send %d bytes to %s: %s", self.socket.text, len(data), peer.text, error)
            return False
        self._traffic.sent += 1
        self._reached.add(destination[0])
        return True

    def _is_literal(self, address: str) -> bool:
        """Whether the system can send there without a look-up: a name, as a hostile maddr could hold, would block."""
        try:
            os_socket.inet_pton(self._family, address.partition("%")[0])
        except (OSError, ValueError):
            self._traffic.send_errors += 1
            LOG.warning("%s: cannot send to %r: no address of this family", self.socket.text, address)
            return False
        if len(self._literals) >= MOST_LITERALS:
            self._literals.clear()
            self._reached.clear()
        self._literals.add(address)
        return True

    def _enqueue(self, data: bytes, destination: tuple[str, int]) -> bool:
        if len(self._queue) >= self._limit:
            self._traffic.dropped_out += 1
            return False
        if not self._queue:
            self._loop.add_writer(self._fd, self._writable)
        self._queue.append((data, destination))
        return True

    def _writable(self) -> None:
        while self._queue:
            data, destination = self._queue[0]
            try:
                self._os.sendto(data, destination)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._traffic.send_errors += 1
                LOG.warning("%s: cannot send to %s: %s", self.socket.text, destination, error)
            else:
                self._traffic.sent += 1
            self._queue.popleft()
        self._loop.remove_writer(self._fd)

    def close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._fd = -1
        self._queue.clear()
        self._os.close()


def bound_datagram_socket(
    socket: Socket, settings: UdpSettings, options: SocketOptions | None = None
) -> os_socket.socket:
    """A non-blocking socket bound to the listening point; a multicast address is joined. Raises OSError."""
    family = os_socket.AF_INET6 if socket.is_v6 else os_socket.AF_INET
    made = os_socket.socket(family, os_socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        multicast = is_multicast(socket.address)
        if multicast:
            made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
        options = options or SocketOptions()
        if options.reuse_port:
            made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEPORT, 1)
        tos = options.tos if options.tos >= 0 else settings.tos
        if socket.is_v6:
            made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_V6ONLY, 1)
            if tos:
                made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_TCLASS, tos)
        elif tos:
            made.setsockopt(os_socket.IPPROTO_IP, os_socket.IP_TOS, tos)
        if options.fragments:
            allow_fragments(made, socket)
        enlarge_receive_buffer(made, settings.receive_buffer_bytes)
        made.bind((socket.address, socket.port))
        if multicast:
            join_group(made, socket, settings)
    except OSError:
        made.close()
        raise
    return made


def allow_fragments(made: os_socket.socket, socket: Socket) -> None:
    """Let datagrams be cut on their way (`frag`): the DF bit is not set, no path MTU is asked for."""
    if not sys.platform.startswith("linux"):
        LOG.warning("%s: frag has no effect on this system", socket.text)
    elif socket.is_v6:
        made.setsockopt(os_socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
    else:
        made.setsockopt(os_socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)


def enlarge_receive_buffer(made: os_socket.socket, size_bytes: int) -> None:
    """Ask for a receive buffer of that size; a bigger one is kept, and the kernel's limit is respected."""
    if made.getsockopt(os_socket.SOL_SOCKET, os_socket.SO_RCVBUF) < size_bytes:
        made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_RCVBUF, size_bytes)


def is_multicast(address: str) -> bool:
    """Whether an address literal is a group (224.0.0.0/4, ff00::/8)."""
    if ":" in address:
        return address.lower().startswith("ff")
    first = address.partition(".")[0]
    return first.isdigit() and 224 <= int(first) <= 239


def join_group(made: os_socket.socket, socket: Socket, settings: UdpSettings) -> None:
    """Take the datagrams of a multicast group (`mcast_ttl`, `mcast_loopback`)."""
    if socket.is_v6:
        group = os_socket.inet_pton(os_socket.AF_INET6, socket.address) + b"\0\0\0\0"
        made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_JOIN_GROUP, group)
        made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_MULTICAST_LOOP, int(settings.multicast_loopback))
        if settings.multicast_ttl >= 0:
            made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_MULTICAST_HOPS, settings.multicast_ttl)
        return
    group = os_socket.inet_aton(socket.address) + b"\0\0\0\0"
    made.setsockopt(os_socket.IPPROTO_IP, os_socket.IP_ADD_MEMBERSHIP, group)
    made.setsockopt(os_socket.IPPROTO_IP, os_socket.IP_MULTICAST_LOOP, int(settings.multicast_loopback))
    if settings.multicast_ttl >= 0:
        made.setsockopt(os_socket.IPPROTO_IP, os_socket.IP_MULTICAST_TTL, settings.multicast_ttl)


class UdpTransport(Transport):
    """All UDP listening points."""

    def __init__(self, deliver: Deliver, loop: AbstractEventLoop, settings: UdpSettings | None = None) -> None:
        self._deliver = deliver
        self._loop = loop
        self._settings = settings or UdpSettings()
        self._listeners: dict[Socket, UdpListener] = {}
        self._options: dict[Socket, SocketOptions] = {}
        self._pace = Pace()
        self._round = Round()
        self.traffic = Traffic()

    def configure(self, socket: Socket, options: SocketOptions) -> None:
        self._options[socket] = options

    def bind(self, socket: Socket) -> None:
        options = self._options.get(socket)
        self._listeners[socket] = UdpListener(
            socket, self._deliver, self._loop, self._settings, self.traffic, self._pace, self._round, options
        )

    def serve(self) -> None:
        for listener in self._listeners.values():
            listener.serve()

    def admit(self, socket: Socket) -> None:
        self._listeners[socket].serve()

    def unbind(self, socket: Socket) -> None:
        self._listeners.pop(socket).close()
        self._options.pop(socket, None)

    def send(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None = None) -> bool:
        listener = self._listeners.get(socket)
        return listener is not None and listener.send(data, peer, on_failure)

    def proxied(self, peer: Peer) -> dict[str, str | int] | None:
        """What the PROXY header of the latest datagram from `peer` said."""
        for listener in self._listeners.values():
            found = listener.proxied.get((peer.address, peer.port))
            if found is not None:
                return found.facts()
        return None

    def pause(self) -> None:
        for listener in self._listeners.values():
            listener.pause()

    async def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def waiting(self) -> int:
        return sum(listener.queued for listener in self._listeners.values())
