"""What carries the messages of one connection: TCP, TLS over it, or an SCTP association (`sctp`)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

READ_SIZE: Final = 65536


class Wire(ABC):
    """Octets to and from one peer. whole: each `read` brings whole messages, none is continued in the next.

    address: the peer's, local: ours. secure: over TLS; certificate: what the peer then showed, as of `getpeercert()`.
    """

    kind = ""
    whole = False
    secure = False
    certificate: Mapping[str, Any] | None = None

    def __init__(self, address: str, local: str) -> None:
        self.address = address
        self.local = local

    @abstractmethod
    async def read(self) -> bytes:
        """What came next; b"" at the end. OSError when the connection broke."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send one message, now or when there is room; nothing once the connection is over."""

    @abstractmethod
    def waiting(self) -> int:
        """Octets that have not left yet."""

    @abstractmethod
    def abort(self) -> None:
        """End it at once."""

    @abstractmethod
    async def drain(self) -> None:
        """Returns when what waits has left. OSError when the connection broke."""

    @abstractmethod
    def heard(self) -> None:
        """The peer has shown that the connection is open at its end too."""


class TcpWire(Wire):
    """A connection of TCP, or of TLS."""

    kind = "TCP"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername") or ("an unknown address",)
        local = writer.get_extra_info("sockname") or ("127.0.0.1",)
        super().__init__(str(peer[0]), str(local[0]))
        self._reader = reader
        self._writer = writer
        self.secure = writer.get_extra_info("ssl_object") is not None
        self.certificate = writer.get_extra_info("peercert")

    async def read(self) -> bytes:
        return await self._reader.read(READ_SIZE)

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    def waiting(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def drain(self) -> None:
        await self._writer.drain()

    def heard(self) -> None:
        """A stream needs no such word."""
