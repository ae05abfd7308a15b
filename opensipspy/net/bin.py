"""BIN: the packets of a cluster over TCP. A stream that holds anything else is closed at the first wrong octet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from opensipspy import sip
from opensipspy.cluster import PacketError, packet_bytes
from opensipspy.net.tcp import Budget, Feeder, TcpSettings, TcpTransport
from opensipspy.net.transport import Deliver
from opensipspy.sip import ParseError, Socket


class BinFramer:
    """Cuts what one connection delivers into packets; what waits never exceeds the longest packet."""

    def __init__(self) -> None:
        self.error: ParseError | None = None
        self._buffer = b""

    @property
    def pending(self) -> int:
        """Octets of a packet that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was read and return what became whole; see `sip.StreamFramer`."""
        if self.error is not None:
            raise self.error
        found: list[bytes] = []
        buffer = self._buffer + data if self._buffer else data
        at = 0
        try:
            while at < len(buffer):
                size = packet_bytes(buffer[at : at + 10])
                if not size or at + size > len(buffer):
                    break
                found.append(buffer[at : at + size])
                at += size
        except PacketError as error:
            self._buffer = b""
            self.error = ParseError(str(error))
            if not found:
                raise self.error from error
            return found
        self._buffer = buffer[at:]
        return found


class BinTransport(TcpTransport):
    """All BIN listening points and connections. opened: told of each listening point that is bound."""

    proto: ClassVar[int] = sip.PROTO_BIN

    def __init__(
        self,
        deliver: Deliver,
        loop: asyncio.AbstractEventLoop,
        settings: TcpSettings | None = None,
        budget: Budget | None = None,
        opened: Callable[[Socket], None] | None = None,
    ) -> None:
        super().__init__(deliver, loop, settings, budget)
        self._opened = opened

    def make_framer(self, settings: TcpSettings) -> Feeder:
        return BinFramer()

    def bind(self, socket: Socket) -> None:
        super().bind(socket)
        if self._opened is not None:
            self._opened(socket)
