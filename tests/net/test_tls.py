"""TLS between real sockets: domains by SNI, certificates, close, and peers who misbehave in the handshake."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from opensipspy import sip
from opensipspy.module.tls import TlsDomain, TlsDomains
from opensipspy.net import SocketOptions, TcpSettings, TlsTransport
from opensipspy.net.tls import TlsError, TlsLayer, client_hello_name
from opensipspy.net.transport import Hint
from opensipspy.sip import Peer, Socket
from tests.certificates import Authority, Identity
from tests.server.house import PATIENCE_S, free_port, play, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

MESSAGE = b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("server.test")


def server_context(identity: Identity, authority: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert, identity.key)
    if authority is not None:
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.path)
    return context


class Domains(TlsDomains):
    """One server domain by name, "" for the others; one client domain."""

    def __init__(self, servers: dict[str, ssl.SSLContext], client: ssl.SSLContext | None = None) -> None:
        self.servers = servers
        self.client = client
        self.asked: list[tuple[str, str]] = []

    def server_domain(self, address: str, port: int, name: str = "") -> TlsDomain | None:
        context = self.servers.get(name, self.servers.get(""))
        return TlsDomain(name or "default", True, context) if context is not None else None

    def client_domain(self, address: str, port: int, sip_domain: str = "", name: str = "") -> TlsDomain | None:
        self.asked.append((sip_domain, name))
        return TlsDomain(name or "client", False, self.client) if self.client is not None else None

    def client_context(self, name: str) -> ssl.SSLContext:
        raise LookupError(name)


class Ends:
    def __init__(self, domains: Domains, *, check_reuse: bool = False, **settings: object) -> None:
        self.received: list[tuple[bytes, Peer]] = []
        self.transport = TlsTransport(
            lambda data, peer, _: self.received.append((data, peer)),
            asyncio.get_running_loop(),
            domains,
            TcpSettings(**{"connect_timeout_s": 2.0, "sweep_s": 0.02, **settings}),  # type: ignore[arg-type]
            check_reuse=check_reuse,
        )
        self.socket = Socket(sip.PROTO_TLS, "127.0.0.1", free_port())

    def peer(self) -> Peer:
        return Peer(sip.PROTO_TLS, "127.0.0.1", self.socket.port)

    async def connect(
        self, context: ssl.SSLContext, name: str = "server.test"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.socket.port, ssl=context, server_hostname=name)


@asynccontextmanager
async def ends(domains: Domains, *, options: SocketOptions | None = None, **settings: object) -> AsyncIterator[Ends]:
    made = Ends(domains, **settings)  # type: ignore[arg-type]
    if options is not None:
        made.transport.configure(made.socket, options)
    made.transport.bind(made.socket)
    made.transport.serve()
    try:
        yield made
    finally:
        await made.transport.close()
        await asyncio.sleep(0)


def test_messages_go_both_ways_and_the_end_is_said(loop: str, authority: Authority, identity: Identity) -> None:
    """RFC 3261 §18.2.2: the answer takes the same connection; RFC 8446 §6.1: close_notify ends it."""

    async def scene() -> None:
        async with ends(Domains({"": server_context(identity)})) as tls:
            reader, writer = await tls.connect(client_context(authority))
            writer.write(MESSAGE[:20])
            await writer.drain()
            writer.write(MESSAGE[20:] + MESSAGE)
            await settled(lambda: len(tls.received) == 2)
            peer = tls.received[0][1]
            assert tls.transport.send(b"answer", peer, tls.socket)
            assert await asyncio.wait_for(reader.read(100), PATIENCE_S) == b"answer"
            connection = tls.transport.connection(peer)
            assert connection is not None
            assert isinstance(connection.secure, TlsLayer)
            assert connection.secure.version == "TLSv1.3"
            assert not connection.secure.verified
            assert connection.secure.server_name == "server.test"
            tls.transport.close_peer(peer)
            assert await asyncio.wait_for(reader.read(100), PATIENCE_S) == b""
            writer.close()

    play(loop, scene)


def test_we_open_connections_and_reuse_them(loop: str, authority: Authority, identity: Identity) -> None:
    async def scene() -> None:
        domains = Domains({"": server_context(identity)}, client_context(authority))
        async with ends(domains) as far, ends(domains) as near:
            near.transport.hint(Hint(far.peer(), sip_domain="server.test", tls_domain="chosen"))
            assert near.transport.send(MESSAGE, far.peer(), near.socket)
            assert near.transport.send(MESSAGE, far.peer(), near.socket)
            await settled(lambda: len(far.received) == 2)
            assert len(near.transport.connections()) == 1
            assert domains.asked == [("server.test", "chosen")]
            found = far.transport.connections()[0].secure
            assert isinstance(found, TlsLayer)
            assert found.server_name == "server.test"

    play(loop, scene)


def test_a_connection_of_another_domain_is_not_reused(loop: str, authority: Authority, identity: Identity) -> None:
    """cert_check_on_conn_reusage."""

    async def scene() -> None:
        domains = Domains({"": server_context(identity)}, client_context(authority))
        async with ends(domains) as far, ends(domains, check_reuse=True) as near:
            for name in ("one", "one", "two"):
                near.transport.hint(Hint(far.peer(), tls_domain=name))
                assert near.transport.send(MESSAGE, far.peer(), near.socket)
                await settled(lambda: near.transport.waiting() == 0)
            await settled(lambda: len(far.received) == 3)
            assert len(near.transport.connections()) == 2

    play(loop, scene)


def test_an_untrusted_server_is_refused_and_the_sender_told(
    loop: str, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    async def scene() -> None:
        stranger = Authority(tmp_path, "Stranger")
        domains = Domains({"": server_context(identity)}, client_context(stranger))
        failed: list[bool] = []
        async with ends(domains) as far, ends(domains) as near:
            assert near.transport.send(MESSAGE, far.peer(), near.socket, lambda: failed.append(True))
            await settled(lambda: bool(failed))
            assert not near.transport.connections()
            await settled(lambda: far.transport.failed_handshakes == 1)

    play(loop, scene)


def test_each_name_has_its_own_rules(loop: str, authority: Authority, identity: Identity) -> None:
    """The domain that SNI chooses brings its own certificate and its own demand for a client's (RFC 6066 §3)."""

    async def scene() -> None:
        strict = authority.issue("strict.test")
        contexts = {
            "server.test": server_context(identity),
            "strict.test": server_context(strict, authority),
        }
        async with ends(Domains(contexts)) as tls:
            _, writer = await tls.connect(client_context(authority))
            assert identity.certificate.serial_number == int(writer.get_extra_info("peercert")["serialNumber"], 16)
            writer.close()
            known = client_context(authority)
            known.load_cert_chain(identity.cert, identity.key)
            _, writer = await tls.connect(known, "STRICT.test")
            writer.write(MESSAGE)
            await settled(lambda: len(tls.received) == 1)
            connection = tls.transport.connection(tls.received[0][1])
            assert connection is not None
            assert isinstance(connection.secure, TlsLayer)
            assert connection.secure.verified
            writer.close()
            # TLS 1.3: a client without a certificate hears of it when it reads.
            reader, writer = await tls.connect(client_context(authority), "strict.test")
            with pytest.raises(ssl.SSLError):
                await asyncio.wait_for(reader.read(10), PATIENCE_S)
            writer.close()
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                await tls.connect(client_context(authority), "unknown.test")

    play(loop, scene)


def test_who_does_not_speak_tls_is_cut_off(loop: str, identity: Identity) -> None:
    async def scene() -> None:
        async with ends(Domains({"": server_context(identity)}), handshake_time_s=0.05) as tls:
            for first in (MESSAGE, b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x05\x02aaaa", b"", b"\x16\x03\x01\x00"):
                with socket.create_connection(("127.0.0.1", tls.socket.port)) as client:
                    client.setblocking(False)
                    client.send(first)
                    data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 10), PATIENCE_S)
                    assert data == b""
            assert tls.transport.failed_handshakes == 5
            assert tls.transport.budget.handshakes == 0
            assert tls.transport.budget.open == 0

    play(loop, scene)


def test_half_open_connections_have_a_limit(loop: str, authority: Authority, identity: Identity) -> None:
    """Those who begin a handshake and stop take no room from the ones that are through."""

    async def scene() -> None:
        async with ends(Domains({"": server_context(identity)}), max_handshakes=3) as tls:
            _, writer = await tls.connect(client_context(authority))
            await settled(lambda: tls.transport.budget.handshakes == 0)
            idle = [socket.create_connection(("127.0.0.1", tls.socket.port)) for _ in range(5)]
            await settled(lambda: tls.transport.traffic.refused == 2)
            assert tls.transport.budget.handshakes == 3
            writer.write(MESSAGE)
            await settled(lambda: len(tls.received) == 1)
            for each in idle:
                each.close()
            await settled(lambda: tls.transport.budget.handshakes == 0)
            _, again = await tls.connect(client_context(authority))
            again.close()
            writer.close()

    play(loop, scene)


def test_a_load_balancer_speaks_before_tls(loop: str, authority: Authority, identity: Identity) -> None:
    """allow_proxy_protocol and send_proxy_protocol: the header stands in front of the ClientHello."""

    async def scene() -> None:
        domains = Domains({"": server_context(identity)}, client_context(authority))
        async with (
            ends(domains, options=SocketOptions(allow_proxy=True)) as far,
            ends(domains, options=SocketOptions(send_proxy=True)) as near,
        ):
            near.transport.hint(Hint(far.peer(), Peer(sip.PROTO_UDP, "192.0.2.7", 5099)))
            assert near.transport.send(MESSAGE, far.peer(), near.socket)
            await settled(lambda: len(far.received) == 1)
            connection = far.transport.connection(far.received[0][1])
            assert connection is not None
            assert connection.proxied is not None
            assert (connection.proxied.src_ip, connection.proxied.src_port) == ("192.0.2.7", 5099)

    play(loop, scene)


def test_a_client_hello_in_pieces(loop: str, authority: Authority, identity: Identity) -> None:
    """RFC 8446 §5.1: the ClientHello may be spread over segments and over records."""
    domain = TlsDomain("d", False, client_context(authority))
    layer = TlsLayer(domain, "some.host.test")
    layer.start()
    hello = layer.outgoing()
    assert [client_hello_name(hello[:n]) for n in range(len(hello))] == [None] * len(hello)
    assert client_hello_name(hello) == "some.host.test"
    body = hello[5:]
    split = b"".join(b"\x16\x03\x01" + struct.pack("!H", len(p)) + p for p in (body[:7], body[7:100], body[100:]))
    assert client_hello_name(split) == "some.host.test"
    nameless = TlsLayer(domain)
    nameless.start()
    assert client_hello_name(nameless.outgoing()) == ""
    with pytest.raises(TlsError, match="not TLS"):
        client_hello_name(b"GET / HTTP/1.1")
    crumbs = b"".join(b"\x16\x03\x01\x00\x01" + body[n : n + 1] for n in range(len(body)))
    with pytest.raises(TlsError, match="too many records"):
        client_hello_name(crumbs)


def test_a_stalled_handshake_delays_nobody(loop: str, authority: Authority, identity: Identity) -> None:
    async def scene() -> None:
        domains = Domains({"": server_context(identity)}, client_context(authority))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            failed: list[bool] = []
            async with ends(domains) as far, ends(domains, handshake_time_s=0.3) as near:
                dead = Peer(sip.PROTO_TLS, "127.0.0.1", silent.getsockname()[1])
                assert near.transport.send(MESSAGE, dead, near.socket, lambda: failed.append(True))
                assert near.transport.send(MESSAGE, far.peer(), near.socket)
                await settled(lambda: len(far.received) == 1)
                assert not failed
                await settled(lambda: bool(failed))

    play(loop, scene)
