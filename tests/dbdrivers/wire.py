"""A wire between a driver and a real server that a test holds in its hand: it stalls, cuts and garbles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Wire:
    """Listens on a loopback port and carries bytes to and from a server, in the test's own loop.

    held: while it is not set, what the server sends is kept. cut_after: each new connection ends when the server has
    sent so many bytes more (None: never); spoil(at, data): what becomes of the server's bytes, `at` many came before.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[Link] = set()
        self.port = 0
        self.connections = 0
        self.silent = False
        self.cut_after: int | None = None
        self.spoil: Callable[[int, bytes], bytes] | None = None

    async def __aenter__(self) -> Wire:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    @property
    def links(self) -> list[Link]:
        """The connections that are open, oldest first."""
        return sorted(self._links, key=lambda link: link.number)

    def hold(self) -> None:
        for link in self._links:
            link.passing.clear()

    def release(self) -> None:
        for link in self._links:
            link.passing.set()

    def cut(self) -> None:
        for link in list(self._links):
            link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.silent:
            self._links.add(Link(self, self.connections, reader, writer, None, None))
            return
        try:
            server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, self.connections, reader, writer, *server)
        self._links.add(link)
        for work in (link.forth(), link.back()):
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def gone(self, link: Link) -> None:
        self._links.discard(link)


class Link:
    """One connection through the wire."""

    def __init__(
        self,
        wire: Wire,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader | None,
        server_writer: asyncio.StreamWriter | None,
    ) -> None:
        self._wire = wire
        self.number = number
        self._reader = reader
        self._writer = writer
        self._server_reader = server_reader
        self._server_writer = server_writer
        self.passing = asyncio.Event()
        self.passing.set()
        self.sent = 0
        """Bytes that the server sent."""
        self.asked = asyncio.Event()
        """Set when the driver sends something."""
        self.ended = asyncio.Event()
        """Set when the driver ends the connection, or the wire does."""
        self.cut_at = wire.cut_after

    def cut(self) -> None:
        """An end without a good-bye, to both sides."""
        for writer in (self._writer, self._server_writer):
            if writer is not None:
                writer.transport.abort()
        self.ended.set()
        self._wire.gone(self)

    async def forth(self) -> None:
        assert self._server_writer is not None
        try:
            while data := await self._reader.read(65536):
                self.asked.set()
                self._server_writer.write(data)
        except OSError:
            pass  # the driver let go
        self.cut()

    async def back(self) -> None:
        assert self._server_reader is not None
        try:
            while data := await self._server_reader.read(65536):
                await self.passing.wait()
                if self.cut_at is not None and self.sent + len(data) >= self.cut_at:
                    self._writer.write(data[: self.cut_at - self.sent])
                    await self._writer.drain()
                    self._writer.close()
                    break
                if self._wire.spoil is not None:
                    data = self._wire.spoil(self.sent, data)
                self.sent += len(data)
                self._writer.write(data)
        except OSError:
            pass  # one of them let go
        else:
            if self._server_writer is not None:
                self._server_writer.transport.abort()
            self._writer.close()
        self.ended.set()
        self._wire.gone(self)
