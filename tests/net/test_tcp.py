"""TCP over real sockets: framing, keep-alives, limits, time-outs, and peers who misbehave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from opensipspy import sip
from opensipspy.net import SocketOptions, TcpSettings, TcpTransport
from opensipspy.sip import Peer, Socket
from tests.server.house import PATIENCE_S, free_port, play, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

MESSAGE = b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nContent-Length: 4\r\n\r\nbody"


class Ends:
    """A transport with one listening point, and what it delivered."""

    def __init__(self, **settings: object) -> None:
        self.received: list[tuple[bytes, Peer]] = []
        self.deliver: Callable[[bytes, Peer, Socket], None] = lambda data, peer, _: self.received.append((data, peer))
        self.transport = TcpTransport(
            lambda data, peer, at: self.deliver(data, peer, at),
            asyncio.get_running_loop(),
            TcpSettings(**{"connect_timeout_s": 30.0, "sweep_s": 0.02, **settings}),  # type: ignore[arg-type]
        )
        self.socket = Socket(sip.PROTO_TCP, "127.0.0.1", free_port())

    def client(self) -> socket.socket:
        made = socket.socket()
        made.connect(("127.0.0.1", self.socket.port))
        made.setblocking(False)
        return made


@asynccontextmanager
async def ends(**settings: object) -> AsyncIterator[Ends]:
    made = Ends(**settings)
    made.transport.bind(made.socket)
    made.transport.serve()
    try:
        yield made
    finally:
        await made.transport.close()


async def read(made: socket.socket, size: int = 65536) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(made, size), PATIENCE_S)


async def closed(made: socket.socket) -> bool:
    """Whether the server ends the connection."""
    try:
        while await read(made):
            pass
    except ConnectionResetError:
        pass
    return True


def test_messages_are_cut_by_content_length(loop: str) -> None:
    """RFC 3261 §18.3: several messages in one segment, and one message in several."""

    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                client.send(MESSAGE * 3 + MESSAGE[:30])
                await settled(lambda: len(tcp.received) == 3)
                client.send(MESSAGE[30:])
                await settled(lambda: len(tcp.received) == 4)
                assert {data for data, _ in tcp.received} == {MESSAGE}
                peer = tcp.received[0][1]
                assert (peer.proto, peer.address, peer.port) == (sip.PROTO_TCP, *client.getsockname())
                assert peer.connection > 0

    play(loop, scene)


def test_an_answer_goes_back_over_the_same_connection(loop: str) -> None:
    """RFC 3261 §18.2.2."""

    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                client.send(MESSAGE)
                await settled(lambda: bool(tcp.received))
                assert tcp.transport.send(b"answer", tcp.received[0][1], tcp.socket)
                assert await read(client) == b"answer"
                # Its number may be gone; address and port still find it.
                address, port = client.getsockname()
                assert tcp.transport.send(b"again", Peer(sip.PROTO_TCP, address, port), tcp.socket)
                assert await read(client) == b"again"
                assert len(tcp.transport.connections()) == 1

    play(loop, scene)


def test_keep_alives_are_answered(loop: str) -> None:
    """RFC 5626 §4.4.1: CRLFCRLF is answered with CRLF; a single CRLF is the answer to ours."""

    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                client.send(b"\r\n\r\n")
                assert await read(client) == b"\r\n"
                client.send(b"\r\n" + MESSAGE)
                await settled(lambda: bool(tcp.received))
        async with ends(crlf_pingpong=False) as tcp:
            with tcp.client() as client:
                client.send(b"\r\n\r\n" + MESSAGE)
                await settled(lambda: bool(tcp.received))
                with pytest.raises(BlockingIOError):
                    client.recv(10)

    play(loop, scene)


@pytest.mark.parametrize(
    "data",
    [
        b"OPTIONS sip:x SIP/2.0\r\nContent-Length: nonsense\r\n\r\n",
        b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 4\r\nl: 5\r\n\r\n",
        b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"OPTIONS sip:x SIP/2.0\r\nContent-Length: -1\r\n\r\n",
        b"x" * 100_000,
        b"\n\n\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100_000,
    ],
    ids=lambda d: repr(d[:16]) + repr(d[-30:]),
)
def test_a_stream_that_cannot_be_followed_is_closed(loop: str, data: bytes) -> None:
    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as bad, tcp.client() as good:
                try:
                    bad.send(data)
                except ConnectionError:
                    pass
                assert await closed(bad)
                good.send(MESSAGE)
                await settled(lambda: any(d == MESSAGE for d, _ in tcp.received))
                assert tcp.transport.framing_errors == 1

    play(loop, scene)


def test_a_message_in_more_pieces_than_allowed_closes_the_connection(loop: str) -> None:
    """`tcp_max_msg_chunks`."""

    async def scene() -> None:
        async with ends(max_chunks=3) as tcp:
            with tcp.client() as client:
                for piece in (MESSAGE[:10], MESSAGE[10:20], MESSAGE[20:]):
                    client.send(piece)
                    await asyncio.sleep(0.01)
                await settled(lambda: len(tcp.received) == 1)
                for index in range(4):
                    if tcp.transport.framing_errors:
                        break
                    client.send(MESSAGE[index : index + 1])
                    await asyncio.sleep(0.01)
                assert await closed(client)

    play(loop, scene)


def test_a_message_that_never_ends_closes_the_connection(loop: str) -> None:
    """`tcp_max_msg_time`: one octet now and then keeps nobody's connection open."""

    async def scene() -> None:
        async with ends(message_time_s=0.01) as tcp:
            with tcp.client() as client:
                client.send(MESSAGE[:30])
                assert await closed(client)
                assert tcp.transport.traffic.dropped_in == 1

    play(loop, scene)


def test_an_idle_connection_is_closed(loop: str) -> None:
    """`tcp_connection_lifetime`."""

    async def scene() -> None:
        async with ends(lifetime_s=0.01) as tcp:
            with tcp.client() as client:
                client.send(MESSAGE)
                assert await closed(client)
                await settled(lambda: not tcp.transport.connections())

    play(loop, scene)


def test_connections_are_limited_in_all_and_by_source(loop: str) -> None:
    async def scene() -> None:
        for settings in ({"max_connections": 2}, {"max_per_source": 2}):
            async with ends(**settings) as tcp:
                clients = [tcp.client() for _ in range(3)]
                for client in clients[:2]:
                    client.send(MESSAGE)
                await settled(lambda tcp=tcp: len(tcp.received) == 2)  # type: ignore[misc]
                assert await closed(clients[2])
                assert tcp.transport.traffic.refused == 1
                clients[0].close()
                await settled(lambda tcp=tcp: len(tcp.transport.connections()) == 1)  # type: ignore[misc]
                with tcp.client() as another:
                    another.send(MESSAGE)
                    await settled(lambda tcp=tcp: len(tcp.received) == 3)  # type: ignore[misc]
                for client in clients:
                    client.close()

    play(loop, scene)


def test_a_peer_that_does_not_read_is_given_up(loop: str) -> None:
    async def scene() -> None:
        async with ends(max_postponed=4, queue_bytes=1 << 18) as tcp:
            with tcp.client() as slow, tcp.client() as good:
                slow.send(MESSAGE)
                await settled(lambda: bool(tcp.received))
                peer = tcp.received[0][1]
                sent = 0
                while tcp.transport.send(b"x" * 60_000, peer, tcp.socket, connect=False):
                    sent += 1
                    assert sent < 1000, "the queue has to end"
                assert not tcp.transport.send(b"x", peer, tcp.socket, connect=False)
                good.send(MESSAGE)
                await settled(lambda: len(tcp.received) == 2)

    play(loop, scene)


def test_a_connection_is_opened_when_there_is_none_and_used_again(loop: str) -> None:
    async def scene() -> None:
        async with ends() as here, ends() as there:
            peer = Peer(sip.PROTO_TCP, "127.0.0.1", there.socket.port)
            for _ in range(3):
                assert here.transport.send(MESSAGE, peer, here.socket)
            await settled(lambda: len(there.received) == 3)
            assert here.transport.send(MESSAGE, peer, here.socket)
            await settled(lambda: len(there.received) == 4)
            assert len(here.transport.connections()) == 1
            # The answer comes back over it.
            assert there.transport.send(MESSAGE, there.received[0][1], there.socket)
            await settled(lambda: len(here.received) == 1)

    play(loop, scene)


def test_a_refused_connection_is_told(loop: str) -> None:
    async def scene() -> None:
        async with ends() as tcp:
            failed: list[str] = []
            nobody = Peer(sip.PROTO_TCP, "127.0.0.1", free_port())
            for name in "ab":
                assert tcp.transport.send(MESSAGE, nobody, tcp.socket, lambda name=name: failed.append(name))  # type: ignore[misc]
            await settled(lambda: failed == ["a", "b"])
            assert not tcp.transport.connections()

    play(loop, scene)


def test_a_peer_that_does_not_answer_the_connect_is_given_up(loop: str) -> None:
    """`tcp_connect_timeout`."""

    async def scene() -> None:
        # A full backlog: the kernel leaves further SYNs unanswered.
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            async with ends(connect_timeout_s=0.05) as tcp:
                failed = asyncio.Event()
                assert tcp.transport.send(MESSAGE, Peer(sip.PROTO_TCP, *address), tcp.socket, failed.set)
                await asyncio.wait_for(failed.wait(), PATIENCE_S)
            for filler in fillers:
                filler.close()

    play(loop, scene)


class LateLoop:
    """A loop that is held up elsewhere: the system has made the connection, and nobody hears of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)

    async def sock_connect(self, made: socket.socket, address: tuple[str, int]) -> None:
        await self._loop.sock_connect(made, address)
        await asyncio.Event().wait()


def test_a_peer_that_answered_while_we_were_busy_is_not_given_up(loop: str) -> None:
    """`tcp_connect_timeout` is about the peer."""

    async def scene() -> None:
        async with ends(connect_timeout_s=0.05) as here, ends() as there:
            here.transport._loop = LateLoop(asyncio.get_running_loop())  # type: ignore[assignment]
            assert here.transport.send(MESSAGE, Peer(sip.PROTO_TCP, "127.0.0.1", there.socket.port), here.socket)
            await settled(lambda: len(there.received) == 1)

    play(loop, scene)


def test_what_waits_for_a_connect_is_limited(loop: str) -> None:
    async def scene() -> None:
        async with ends(max_postponed=3) as tcp:
            nobody = Peer(sip.PROTO_TCP, "127.0.0.1", free_port())
            results = [tcp.transport.send(MESSAGE, nobody, tcp.socket) for _ in range(5)]
            assert results == [True, True, True, False, False]

    play(loop, scene)


def test_an_alias_leads_to_the_connection(loop: str) -> None:
    """RFC 5923: requests to the port that the peer advertises use the connection that he opened."""

    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client, tcp.client() as other:
                client.send(MESSAGE)
                other.send(MESSAGE)
                await settled(lambda: len(tcp.received) == 2)
                mine = next(p for _, p in tcp.received if p.port == client.getsockname()[1])
                his = next(p for _, p in tcp.received if p.port == other.getsockname()[1])
                assert tcp.transport.add_alias(mine, 5070)
                assert tcp.transport.send(b"hello", Peer(sip.PROTO_TCP, "127.0.0.1", 5070), tcp.socket)
                assert await read(client) == b"hello"
                assert not tcp.transport.add_alias(his, 5070), "an alias is not taken away from its owner"
                assert not tcp.transport.add_alias(Peer(sip.PROTO_TCP, "127.0.0.1", 1), 5071)

    play(loop, scene)


def test_closing_a_connection_by_its_peer(loop: str) -> None:
    async def scene() -> None:
        async with ends() as tcp:
            with tcp.client() as client:
                client.send(MESSAGE)
                await settled(lambda: bool(tcp.received))
                assert tcp.transport.close_peer(Peer(sip.PROTO_TCP, *client.getsockname()))
                assert await closed(client)
                assert not tcp.transport.close_peer(Peer(sip.PROTO_TCP, *client.getsockname()))

    play(loop, scene)


def test_the_end_closes_everything(loop: str) -> None:
    async def scene() -> None:
        async with ends() as tcp:
            client = tcp.client()
            client.send(MESSAGE)
            await settled(lambda: bool(tcp.received))
        assert await closed(client)
        client.close()
        with socket.socket() as late, pytest.raises(ConnectionRefusedError):
            late.connect(("127.0.0.1", tcp.socket.port))

    play(loop, scene)


def test_a_connection_that_is_kept_is_not_closed_for_being_idle(loop: str) -> None:
    """`tcp_persistent_flag`: as long as a contact is registered over it (RFC 5626 §3.5)."""

    async def scene() -> None:
        async with ends(lifetime_s=0.01) as tcp:
            with tcp.client() as kept, tcp.client() as idle:
                kept.send(MESSAGE)
                await settled(lambda: len(tcp.received) == 1)
                peer = tcp.received[0][1]
                assert tcp.transport.keep(peer, 3600)
                assert tcp.transport.keep(peer, 1)
                idle.send(MESSAGE)
                assert await closed(idle)
                [left] = tcp.transport.connections()
                assert left.peer == peer
                assert left.ends_at() > tcp.transport.now() + 3000
                assert not tcp.transport.keep(Peer(sip.PROTO_TCP, "192.0.2.1", 5060), 10)

    play(loop, scene)


def test_a_slow_sender_may_use_as_many_pieces_as_allowed(loop: str) -> None:
    """`tcp_max_msg_chunks`: a message that is whole with the last allowed piece is taken."""

    async def scene() -> None:
        async with ends(max_chunks=4) as tcp:
            with tcp.client():
                await settled(lambda: any(c.transport is not None for c in tcp.transport.connections()))
                [connection] = tcp.transport.connections()
                size = len(MESSAGE) // 4
                for round_ in range(3):
                    for start in range(0, len(MESSAGE), size):
                        # As the system hands them over: on a socket, two pieces may arrive as one.
                        connection.data_received(MESSAGE[start : start + size])
                    assert len(tcp.received) == round_ + 1
                    await asyncio.sleep(0)
                assert {data for data, _ in tcp.received} == {MESSAGE}
                assert not connection.closed

    play(loop, scene)


def test_options_of_a_listening_point_reach_the_system(loop: str) -> None:
    """`socket=... reuse_port tos ...`."""

    async def scene() -> None:
        made = Ends(tos=0x10)
        made.transport.configure(made.socket, SocketOptions(tos=0x08, reuse_port=True))
        made.transport.bind(made.socket)
        made.transport.serve()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", made.socket.port))
        with made.client() as client:
            client.send(MESSAGE)
            await settled(lambda: len(made.received) == 1)
            [connection] = made.transport.connections()
            assert connection.transport is not None
            raw = connection.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x08
        await made.transport.close()

    play(loop, scene)
