"""What a tracer of connections is told: each connection once when it opens, once when it has gone, and why."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from opensipspy import sip
from opensipspy.module.tracing import ConnectionTracer, TracedConnection
from opensipspy.net import TcpSettings, TcpTransport
from opensipspy.sip import Peer, Socket
from tests.server.house import free_port, play, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

MESSAGE = b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nContent-Length: 0\r\n\r\n"


class Recorder(ConnectionTracer):
    """told: (what, direction, our end, the reason)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, tuple[str, int], str]] = []

    @property
    def active(self) -> bool:
        return True

    def _note(self, what: str, connection: TracedConnection) -> None:
        assert connection.session() is None
        assert connection.take_handshake() == (b"", b"")
        direction = "ours" if connection.outgoing else "theirs"
        self.told.append((what, direction, connection.local_end(), connection.ending))

    def opened(self, connection: TracedConnection) -> None:
        assert connection.ready
        self._note("opened", connection)

    def lost(self, connection: TracedConnection) -> None:
        self._note("lost" if connection.ready else "failed", connection)

    def reasons(self) -> list[tuple[str, str]]:
        return [(what, reason) for what, _, _, reason in self.told]


class Ends:
    """A transport with one listening point, and its tracer."""

    def __init__(self, address: str = "127.0.0.1", **settings: object) -> None:
        self.tracer = Recorder()
        self.received: list[Peer] = []
        self.transport = TcpTransport(
            lambda data, peer, at: self.received.append(peer),
            asyncio.get_running_loop(),
            TcpSettings(**{"connect_timeout_s": 30.0, "sweep_s": 0.02, **settings}),  # type: ignore[arg-type]
        )
        self.transport.tracer = self.tracer
        self.socket = Socket(sip.PROTO_TCP, address, free_port())

    def client(self) -> socket.socket:
        made = socket.create_connection((self.socket.address, self.socket.port))
        made.setblocking(False)
        return made

    async def gone(self) -> None:
        await settled(lambda: bool(self.tracer.told) and self.tracer.told[-1][0] != "opened")


@asynccontextmanager
async def ends(address: str = "127.0.0.1", **settings: object) -> AsyncIterator[Ends]:
    made = Ends(address, **settings)
    made.transport.bind(made.socket)
    made.transport.serve()
    try:
        yield made
    finally:
        await made.transport.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda client: client.close(), "EOF received"),
        (reset, "Connection reset by peer"),
        (lambda client: client.send(b"OPTIONS sip:x SIP/2.0\r\nContent-Length: -1\r\n\r\n"), "Content-Length"),
    ],
    ids=["closed", "reset", "nonsense"],
)
def test_how_peers_end_connections(loop: str, act: Callable[[socket.socket], object], reason: str) -> None:
    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                client.send(MESSAGE)
                await settled(lambda: bool(tcp.received))
                act(client)
                await tcp.gone()
        (opened, nothing), (lost, why) = tcp.tracer.reasons()
        assert (opened, nothing, lost) == ("opened", "", "lost")
        assert reason in why

    play(loop, scene)


def test_connections_that_are_ended_here(loop: str) -> None:
    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                client.send(MESSAGE)
                await settled(lambda: bool(tcp.received))
                assert tcp.transport.close_peer(tcp.received[0])
                await tcp.gone()
        assert tcp.tracer.reasons() == [("opened", ""), ("lost", "closed by the server")]
        async with ends(lifetime_s=0.01) as tcp:
            with tcp.client():
                await tcp.gone()
        assert tcp.tracer.reasons() == [("opened", ""), ("lost", "Timeout on no traffic")]
        async with ends() as tcp:
            with tcp.client():
                await settled(lambda: bool(tcp.tracer.told))
                await tcp.transport.close()
        assert tcp.tracer.reasons() == [("opened", ""), ("lost", "closed by the server")]

    play(loop, scene)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_of_ours(loop: str, address: str) -> None:
    async def scene() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        async with ends(address) as tcp:
            with socket.create_server((address, 0), family=family) as listener:
                port = listener.getsockname()[1]
                assert tcp.transport.send(MESSAGE, Peer(sip.PROTO_TCP, address, port), tcp.socket)
                await settled(lambda: bool(tcp.tracer.told))
                made, name = listener.accept()
                made.close()
                await tcp.gone()
            assert tcp.transport.send(MESSAGE, Peer(sip.PROTO_TCP, address, port), tcp.socket)
            await settled(lambda: len(tcp.tracer.told) == 3)
        opened, lost, failed = tcp.tracer.told
        assert opened == ("opened", "ours", tuple(name[:2]), "")
        assert lost[0] == "lost"
        assert failed == ("failed", "ours", (address, 0), "Connection refused")

    play(loop, scene)


def test_the_address_that_a_peer_asked_for_is_told(loop: str) -> None:
    """Of a listening point on all addresses."""

    async def scene() -> None:
        async with ends("0.0.0.0") as tcp:
            with socket.create_connection(("127.0.0.2", tcp.socket.port)):
                await settled(lambda: bool(tcp.tracer.told))
            await tcp.gone()
        assert {local for _, _, local, _ in tcp.tracer.told} == {("127.0.0.2", tcp.socket.port)}

    play(loop, scene)
