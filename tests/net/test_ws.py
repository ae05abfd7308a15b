"""SIP over WebSocket between real sockets, with the library's own client as the browser (RFC 6455, RFC 7118)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from opensipspy import sip
from opensipspy.net import TcpSettings, TcpTransport
from opensipspy.net.ws import LONGEST_HANDSHAKE, WebSocketFramer, WssTransport, WsTransport
from opensipspy.sip import Limits, ParseError, Peer, Socket
from tests.certificates import Authority
from tests.net.test_tls import Domains, client_context, server_context
from tests.server.house import PATIENCE_S, free_port, play, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

MESSAGE = (
    b"MESSAGE sip:x SIP/2.0\r\nVia: SIP/2.0/WS df7jal23ls0d.invalid;branch=z9hG4bK1\r\nContent-Length: 4\r\n\r\nbody"
)
ORIGIN = "http://app.test"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://app.test\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


class Ends:
    def __init__(self, transport: TcpTransport | None = None, *, require_origin: bool = True, **settings: object):
        self.received: list[tuple[bytes, Peer]] = []
        made = TcpSettings(**{"connect_timeout_s": 2.0, "sweep_s": 0.02, **settings})  # type: ignore[arg-type]
        self.transport = transport or WsTransport(
            self.deliver, asyncio.get_running_loop(), made, require_origin=require_origin
        )
        self.transport.deliver = self.deliver
        self.socket = Socket(self.transport.proto, "127.0.0.1", free_port())

    def deliver(self, data: bytes, peer: Peer, _: Socket) -> None:
        self.received.append((data, peer))

    def client(
        self, *, subprotocol: str = "sip", origin: str | None = ORIGIN, compression: str | None = "deflate"
    ) -> websockets.asyncio.client.connect:
        return websockets.asyncio.client.connect(
            f"ws://127.0.0.1:{self.socket.port}/any",
            subprotocols=[Subprotocol(subprotocol)],
            origin=origin,  # type: ignore[arg-type]
            compression=compression,
            proxy=None,
        )

    async def raw(self, data: bytes) -> bytes:
        """What comes back for bytes on a plain connection until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.socket.port)
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        return answer


@asynccontextmanager
async def ends(transport: TcpTransport | None = None, **settings: object) -> AsyncIterator[Ends]:
    made = Ends(transport, **settings)  # type: ignore[arg-type]
    made.transport.bind(made.socket)
    made.transport.serve()
    try:
        yield made
    finally:
        await made.transport.close()
        await asyncio.sleep(0)


def test_messages_go_both_ways(loop: str) -> None:
    """RFC 7118 §4.1 and §5: subprotocol sip, one message a frame, text or binary; compression is not negotiated."""

    async def scene() -> None:
        async with ends() as web, web.client() as client:
            assert client.subprotocol == "sip"
            assert client.protocol.extensions == []
            await client.send(MESSAGE.decode())
            await client.send(MESSAGE)
            await settled(lambda: len(web.received) == 2)
            assert {data for data, _ in web.received} == {MESSAGE}
            peer = web.received[0][1]
            assert web.transport.send(b"text \xc3\xa9", peer, web.socket)
            assert await asyncio.wait_for(client.recv(), PATIENCE_S) == "text é"
            assert web.transport.send(b"binary \xff", peer, web.socket)
            assert await asyncio.wait_for(client.recv(), PATIENCE_S) == b"binary \xff"

    play(loop, scene)


def test_a_message_may_come_in_frames_and_keep_alives_are_answered(loop: str) -> None:
    """RFC 6455 §5.4 and §5.5.2; CRLFCRLF as a message is answered too (RFC 7118 §6)."""

    async def scene() -> None:
        async with ends() as web, web.client() as client:
            await client.send([MESSAGE[:10], MESSAGE[10:40], MESSAGE[40:]])
            await settled(lambda: len(web.received) == 1)
            assert web.received[0][0] == MESSAGE
            await asyncio.wait_for(await client.ping(), PATIENCE_S)
            await client.send("\r\n\r\n")
            assert await asyncio.wait_for(client.recv(), PATIENCE_S) == "\r\n"

    play(loop, scene)


def test_the_client_closes_in_order(loop: str) -> None:
    async def scene() -> None:
        async with ends() as web:
            client = await web.client()
            await settled(lambda: len(web.transport.connections()) == 1)
            await client.close(1000)
            assert client.close_code == 1000
            await settled(lambda: not web.transport.connections())

    play(loop, scene)


def test_the_server_says_that_it_goes(loop: str) -> None:
    """RFC 6455 §7.4.1: 1001, going away."""

    async def scene() -> None:
        async with ends() as web:
            client = await web.client()
            await client.send(MESSAGE)
            await settled(lambda: len(web.received) == 1)
            web.transport.close_peer(web.received[0][1])
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), PATIENCE_S)
            assert client.close_code == 1001

    play(loop, scene)


def test_a_handshake_that_does_not_fit_is_refused(loop: str) -> None:
    """RFC 7118 §4.1: without the subprotocol sip no connection; `require_origin`."""

    async def scene() -> None:
        async with ends() as web:
            with pytest.raises(InvalidStatus) as failed:
                await web.client(subprotocol="chat")
            assert failed.value.response.status_code == 400
            with pytest.raises(InvalidStatus) as failed:
                await web.client(origin=None)
            assert failed.value.response.status_code == 403
            assert b" 426 " in await web.raw(b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: y\r\n\r\n")
            assert await web.raw(MESSAGE) == b""
            # RFC 6455 §4.4: 426 and the version that is spoken here.
            for version in (b"", b"Sec-WebSocket-Version: 8\r\n"):
                head = (
                    b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: y\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + version
                )
                answer = await web.raw(head + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
                assert b" 426 " in answer
                assert b"Sec-WebSocket-Version: 13\r\n" in answer
            await settled(lambda: not web.transport.connections())
            assert web.transport.budget.handshakes == 0
            assert web.transport.framing_errors == 6
        async with ends(require_origin=False) as web, web.client(origin=None) as client:
            await client.send(MESSAGE)
            await settled(lambda: len(web.received) == 1)

    play(loop, scene)


def test_hostile_frames_end_the_connection(loop: str) -> None:
    """RFC 6455 §7.4.1: 1009 for what is too big, 1002 for what breaks the protocol; empty frames have a limit."""

    async def scene() -> None:
        async with ends(limits=Limits(head=1000, body=1000), max_chunks=0) as web:
            for frames, code in (
                ([Frame(Opcode.BINARY, b"x" * 3000)], 1009),
                ([Frame(Opcode.BINARY, b"x" * 900, fin=False)] + [Frame(Opcode.CONT, b"x" * 900, fin=False)] * 3, 1009),
                ([Frame(Opcode.CONT, b"x")], 1002),
                ([Frame(Opcode.TEXT, b"OPTIONS caf\xe9")], 1007),
                ([Frame(Opcode.TEXT, b"OPTIONS \xc3", fin=False), Frame(Opcode.CONT, b"(")], 1007),
                ([Frame(Opcode.TEXT, b"x" * 20000)], 1009),
                ([Frame(Opcode.TEXT, b"", fin=False)] + [Frame(Opcode.CONT, b"", fin=False)] * 100, 1001),
            ):
                client = await web.client(compression=None)
                for frame in frames:
                    client.transport.write(frame.serialize(mask=True))
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(client.recv(), PATIENCE_S)
                assert client.close_code in (code, 1006)
                await client.close()
            await settled(lambda: not web.transport.connections())
            assert web.received == []

    play(loop, scene)


def test_pings_whose_answers_nobody_reads_end_the_connection(loop: str) -> None:
    """RFC 6455 §5.5.2: a Pong for each Ping; what waits for a peer that does not read is bounded (`slow_peer`)."""

    async def scene() -> None:
        async with ends(queue_bytes=1 << 16, max_chunks=0, message_time_s=60.0) as web:
            reader, writer = await asyncio.open_connection("127.0.0.1", web.socket.port, limit=1024)
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            ping = Frame(Opcode.PING, b"p" * 125).serialize(mask=True) * 1000
            with contextlib.suppress(ConnectionError):
                for _ in range(2000):
                    writer.write(ping)
                    await writer.drain()
            await settled(lambda: not web.transport.connections())
            assert web.transport.traffic.dropped_out == 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    play(loop, scene)


@pytest.mark.parametrize("rsv", [0x40, 0x20, 0x10])
def test_a_compressed_frame_is_not_unpacked(loop: str, rsv: int) -> None:
    """RFC 7692 §6: RSV1 without permessage-deflate breaks the protocol: fifty kilobytes that would become fifty million
    are refused as they are."""

    async def scene() -> None:
        async with ends() as web:
            reader, writer = await asyncio.open_connection("127.0.0.1", web.socket.port)
            writer.write(HANDSHAKE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"permessage-deflate" not in head
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
            frame = bytearray(Frame(Opcode.TEXT, packed[:60000]).serialize(mask=True))
            frame[0] |= rsv
            writer.write(bytes(frame))
            closing = await asyncio.wait_for(reader.read(), PATIENCE_S)
            assert closing[:1] in (b"\x88", b""), "a Close frame, or no more than the end"
            if closing:
                assert int.from_bytes(closing[2:4], "big") == 1002
            assert web.received == []
            writer.close()

    play(loop, scene)


def test_a_slow_handshake_is_cut(loop: str) -> None:
    async def scene() -> None:
        async with ends(handshake_time_s=0.05) as web:
            assert await web.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX: ") == b""
            many = await web.raw(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * LONGEST_HANDSHAKE)
            assert many.startswith(b"HTTP/1.1 431 ")

    play(loop, scene)


def test_we_are_the_client(loop: str) -> None:
    async def scene() -> None:
        async with ends() as far, ends() as near:
            peer = Peer(sip.PROTO_WS, "127.0.0.1", far.socket.port)
            for _ in range(3):
                assert near.transport.send(MESSAGE, peer, near.socket)
            await settled(lambda: len(far.received) == 3)
            assert len(far.transport.connections()) == 1
            assert far.transport.send(b"SIP/2.0 200 OK\r\n\r\n", far.received[0][1], far.socket)
            await settled(lambda: len(near.received) == 1)

    play(loop, scene)


def test_over_tls(loop: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """wss: the same over TLS, in both directions."""
    authority = Authority(tmp_path_factory.mktemp("wss"))
    identity = authority.issue("server.test")

    async def scene() -> None:
        domains = Domains({"": server_context(identity)}, client_context(authority))

        def make() -> WssTransport:
            return WssTransport(
                lambda *_: None, asyncio.get_running_loop(), domains, TcpSettings(connect_timeout_s=2.0, sweep_s=0.02)
            )

        async with ends(make()) as far, ends(make()) as near:
            assert near.transport.send(MESSAGE, Peer(sip.PROTO_WSS, "127.0.0.1", far.socket.port), near.socket)
            await settled(lambda: len(far.received) == 1)
            context: ssl.SSLContext = client_context(authority)
            async with websockets.asyncio.client.connect(
                f"wss://127.0.0.1:{far.socket.port}",
                subprotocols=[Subprotocol("sip")],
                origin=ORIGIN,  # type: ignore[arg-type]
                ssl=context,
                proxy=None,
            ) as client:
                await client.send(MESSAGE)
                await settled(lambda: len(far.received) == 2)
                assert far.transport.send(b"answer", far.received[1][1], far.socket)
                assert await asyncio.wait_for(client.recv(), PATIENCE_S) == "answer"

    play(loop, scene)


def test_a_client_is_found_by_the_name_it_gave_itself(loop: str) -> None:
    """RFC 7118 §5.2: a host in .invalid stands for the connection; another connection cannot take it."""

    async def scene() -> None:
        async with ends() as web, web.client() as one, web.client() as two:
            await one.send(MESSAGE)
            await settled(lambda: len(web.received) == 1)
            await two.send(MESSAGE)
            await settled(lambda: len(web.received) == 2)
            first, second = (peer for _, peer in web.received)
            assert web.transport.add_name(first, "df7jal23ls0d.invalid")
            assert not web.transport.add_name(second, "df7jal23ls0d.invalid")
            assert web.transport.named("df7jal23ls0d.invalid") == first
            await one.close()
            await settled(lambda: len(web.transport.connections()) == 1)
            assert web.transport.named("df7jal23ls0d.invalid") is None
            assert web.transport.add_name(second, "df7jal23ls0d.invalid")

    play(loop, scene)


def test_a_broken_framer_stays_broken(loop: str) -> None:
    framer = WebSocketFramer()
    with pytest.raises(ParseError):
        framer.feed(b"nonsense\r\n\r\n")
    with pytest.raises(ParseError):
        framer.feed(b"GET / HTTP/1.1\r\n\r\n")
