"""BIN over real sockets: packets come whole, in any pieces, and a stream that is none is closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from opensipspy import sip
from opensipspy.cluster import MOST_BYTES, PacketWriter
from opensipspy.net import BinTransport, Network, TcpSettings
from opensipspy.net.bin import BinFramer
from opensipspy.sip import ParseError, Peer, Socket
from tests.modules.asynchronous import in_loop
from tests.ports import free_port

PACKET = PacketWriter("test", 5).text("hello").data()


class Taken:
    """What one end has received."""

    def __init__(self) -> None:
        self.packets: asyncio.Queue[tuple[bytes, Peer]] = asyncio.Queue()
        self.opened: list[Socket] = []

    def take(self, data: bytes, peer: Peer, socket: Socket) -> None:
        self.packets.put_nowait((data, peer))


@asynccontextmanager
async def listening(**settings: object) -> AsyncIterator[tuple[Network, Socket, Taken, BinTransport]]:
    taken = Taken()
    loop = asyncio.get_running_loop()
    transport = BinTransport(taken.take, loop, TcpSettings(**settings), None, taken.opened.append)  # type: ignore[arg-type]
    network = Network()
    network.add_transport(sip.PROTO_BIN, transport)
    socket = Socket(sip.PROTO_BIN, "127.0.0.1", free_port())
    network.bind(socket)
    network.serve()
    try:
        yield network, socket, taken, transport
    finally:
        await network.close()


def test_packets_are_cut_from_any_pieces() -> None:
    framer = BinFramer()
    stream = PACKET * 3
    found = []
    for at in range(len(stream)):
        found += framer.feed(stream[at : at + 1])
    assert found == [PACKET] * 3
    assert framer.pending == 0
    assert framer.feed(stream) == [PACKET] * 3


def test_the_first_wrong_octet_ends_the_stream() -> None:
    with pytest.raises(ParseError, match="no BIN packet"):
        BinFramer().feed(b"I")
    framer = BinFramer()
    assert framer.feed(PACKET + b"P4CK\xff\xff\xff\x7f\0\0") == [PACKET]
    assert framer.error is not None
    with pytest.raises(ParseError, match="octets"):
        framer.feed(b"")


@in_loop
async def test_two_ends_talk_and_the_socket_is_none_of_sip_s() -> None:
    async with listening() as (_, there, taken, _), listening() as (network, here, mine, transport):
        assert mine.opened == [here]
        assert network.sockets == []
        assert here.text == f"bin:127.0.0.1:{here.port}"
        largest = PacketWriter("t", 1).raw(bytes(MOST_BYTES - 17)).data()
        peer = Peer(sip.PROTO_BIN, "127.0.0.1", there.port)
        assert network.send(PACKET, peer, here)
        assert network.send(largest, peer, here)
        assert (await asyncio.wait_for(taken.packets.get(), 30))[0] == PACKET
        data, source = await asyncio.wait_for(taken.packets.get(), 30)
        assert data == largest
        assert source.proto == sip.PROTO_BIN
        assert transport.traffic.sent == 2


@in_loop
async def test_who_says_something_else_is_hung_up_on() -> None:
    async with listening() as (_, socket, taken, transport):
        reader, writer = await asyncio.open_connection("127.0.0.1", socket.port)
        writer.write(b"INVITE sip:bob@example.org SIP/2.0\r\n")
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        assert transport.framing_errors == 1
        assert taken.packets.empty()


@in_loop
async def test_too_many_pieces_end_the_connection() -> None:
    async with listening(max_chunks=3) as (_, socket, _, transport):
        reader, writer = await asyncio.open_connection("127.0.0.1", socket.port)
        closed = asyncio.ensure_future(reader.read())
        for at in range(6):
            writer.write(PACKET[at : at + 1])
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            done, _ = await asyncio.wait({closed}, timeout=0.05)
            if done:
                break
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(closed, 30)
        writer.close()
        assert transport.framing_errors == 1
