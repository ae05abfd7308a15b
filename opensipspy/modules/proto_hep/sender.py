"""The way to one collector: a queue with an end, and a task that empties it. Who traces never waits."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from opensipspy.module import Core

CONNECT_TIMEOUT_S: Final = 5.0
RETRY_PAUSE_S: Final = 1.0
TELL_EVERY_S: Final = 60.0
"""How often the log says that packets were dropped because too many waited."""
LOOK_UP_EVERY_S: Final = 60.0
"""For how long datagrams go to the address that a name had."""


class Destination:
    """Where a `hep_id` leads: host (an address without brackets, or a name), port, "udp", "tcp" or "tls", version."""

    __slots__ = ("host", "name", "port", "transport", "version")

    def __init__(self, name: str, host: str, port: int, transport: str, version: int) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.transport = transport
        self.version = version

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}:{host}:{self.port}"


class Limits:
    """most: packets that wait. send_timeout_s: how long a connection may take nothing, 0 for any time.
    attempts: failures in a row before there is silence for cooldown_s."""

    __slots__ = ("attempts", "cooldown_s", "most", "send_timeout_s")

    def __init__(self, most: int, send_timeout_s: float, attempts: int, cooldown_s: float) -> None:
        self.most = max(most, 1)
        self.send_timeout_s = send_timeout_s
        self.attempts = max(attempts, 1)
        self.cooldown_s = cooldown_s


class Link(asyncio.BaseProtocol):
    """One connection to a collector, or one socket for datagrams. What a collector says is not listened to."""

    def __init__(self) -> None:
        self.lost = False
        self.writable = asyncio.Event()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """Nothing is asked of a collector, so it has no answer to give."""

    def datagram_received(self, data: bytes, address: object) -> None:
        """See `data_received`."""

    def eof_received(self) -> bool:
        return False

    def error_received(self, error: OSError) -> None:
        """An ICMP message: nobody listens there at the moment. The next packet tries again."""

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.writable.set()


class Sender:
    """Sends packets to one collector. context_of: the TLS context for an address and a port, None when there is none.

    sent and dropped count packets.
    """

    def __init__(
        self,
        core: Core,
        destination: Destination,
        limits: Limits,
        context_of: Callable[[str, int], SSLContext | None],
    ) -> None:
        self.destination = destination
        self.sent = 0
        self.dropped = 0
        self._core = core
        self._limits = limits
        self._context_of = context_of
        self._queue: deque[bytes] = deque()
        self._task: asyncio.Task[Any] | None = None
        self._link: Link | None = None
        self._transport: asyncio.Transport | asyncio.DatagramTransport | None = None
        self._opened_at = 0.0
        self._failures = 0
        self._silent_until = 0.0
        self._untold = 0
        self._told_at = -TELL_EVERY_S

    def put(self, data: bytes) -> bool:
        """Send a packet at once where nothing waits, else queue it; False when it is dropped."""
        if not self._queue and self._is_open():
            self._write(data)
            self.sent += 1
            return True
        if self._core.now() < self._silent_until:
            self.dropped += 1
            return False
        if len(self._queue) >= self._limits.most:
            self.dropped += 1
            link = self._link
            if link is not None and not link.writable.is_set():
                self._hang_up()
            self._tell_dropped()
            return False
        self._queue.append(data)
        if self._task is None or self._task.done():
            self._task = self._core.spawn(self._empty(), f"HEP to {self.destination.name}")
        return True

    def _tell_dropped(self) -> None:
        self._untold += 1
        now = self._core.now()
        if now < self._told_at + TELL_EVERY_S:
            return
        self._core.log.warning(
            "HEP: %s at %s: %d packets dropped, %d waited (hep_async_max_postponed_chunks)",
            self.destination.name,
            self.destination.text,
            self._untold,
            self._limits.most,
        )
        self._untold = 0
        self._told_at = now

    async def close(self, patience_s: float = 0.5) -> None:
        """Give what waits a short chance to leave, then close."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=patience_s)
            self._task.cancel()
            await asyncio.wait([self._task])
        self.dropped += len(self._queue)
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def _empty(self) -> None:
        while self._queue:
            try:
                await self._send(self._queue[0])
            except (OSError, TimeoutError, LookupError) as error:
                self._hang_up()
                if not self._again(error):
                    return
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                self._queue.popleft()
                self.sent += 1

    def _again(self, error: Exception) -> bool:
        self._failures += 1
        what = str(error) or type(error).__name__
        if self._failures < self._limits.attempts:
            self._core.log.info("HEP: %s at %s: %s", self.destination.name, self.destination.text, what)
            return True
        self._failures = 0
        self._silent_until = self._core.now() + self._limits.cooldown_s
        self.dropped += len(self._queue)
        self._queue.clear()
        self._core.log.warning(
            "HEP: %s at %s: %s; nothing is sent there for %d s",
            self.destination.name,
            self.destination.text,
            what,
            self._limits.cooldown_s,
        )
        return False

    async def _send(self, data: bytes) -> None:
        link = await self._open()
        if not link.writable.is_set():
            await asyncio.wait_for(link.writable.wait(), self._limits.send_timeout_s or None)
        if link.lost or self._transport is None:
            raise ConnectionResetError("the connection was lost")
        self._write(data)

    def _is_open(self) -> bool:
        """Whether a packet can leave at once."""
        link = self._link
        return link is not None and not link.lost and link.writable.is_set() and not self._is_stale()

    def _is_stale(self) -> bool:
        """Whether it is time to ask again where datagrams go."""
        return self.destination.transport == "udp" and self._core.now() - self._opened_at > LOOK_UP_EVERY_S

    def _write(self, data: bytes) -> None:
        """Over what is open: neither waits nor raises."""
        # What a loop gives out for datagrams is not always of asyncio's class for that, so the class does not tell.
        if self.destination.transport == "udp":
            cast("asyncio.DatagramTransport", self._transport).sendto(data)
        else:
            cast("asyncio.Transport", self._transport).write(data)
        self._failures = 0

    async def _open(self) -> Link:
        """The link that is there, or a new one."""
        old = self._link
        if old is not None and not old.lost and not self._is_stale():
            return old
        if self._transport is not None:
            self._transport.close()
            self._link = self._transport = None
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            loop = asyncio.get_running_loop()
            kind = socket.SOCK_DGRAM if self.destination.transport == "udp" else socket.SOCK_STREAM
            found = await loop.getaddrinfo(self.destination.host, self.destination.port, type=kind)
            address = cast("str", found[0][4][0])
            link = await self._connect(loop, address)
        self._link = link
        self._opened_at = self._core.now()
        return link

    async def _connect(self, loop: asyncio.AbstractEventLoop, address: str) -> Link:
        port = self.destination.port
        if self.destination.transport == "udp":
            datagrams, to_all = await loop.create_datagram_endpoint(Link, remote_addr=(address, port))
            self._transport = datagrams
            return to_all
        if self.destination.transport == "tcp":
            self._transport, link = await loop.create_connection(Link, address, port)
            return link
        context = self._context_of(address, port)
        if context is None:
            raise LookupError("tls_mgm has no client domain for it")
        self._transport, link = await loop.create_connection(
            Link, address, port, ssl=context, server_hostname=self.destination.host
        )
        return link

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._link = self._transport = None
