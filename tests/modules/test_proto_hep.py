"""proto_hep: packets as the HEP3 specification draws them, and collectors that are away delay nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.module import Module, ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.module.tls import TlsDomain, TlsDomains
from opensipspy.modules.mi_script import MiScript
from opensipspy.modules.proto_hep import ProtoHep, parse_hep_id
from opensipspy.modules.proto_hep.packet import IP_UDP, SIP, Capture, pack
from tests.certificates import Authority

OPTIONS = b"OPTIONS sip:bob@192.0.2.2 SIP/2.0\r\nCall-ID: one@here\r\nContent-Length: 0\r\n\r\n"
CAPTURE = Capture(("192.0.2.1", 5060), ("192.0.2.2", 5080), IP_UDP, SIP, 1_700_000_000.25, OPTIONS)
CAPTURE6 = Capture(("2001:db8::1", 5060), ("2001:db8::2", 5080), IP_UDP, SIP, 1_700_000_000.25, OPTIONS)


def chunks_of(data: bytes) -> dict[int, bytes]:
    """The generic chunks of a packet of HEP 3, by type; nothing may be left over."""
    assert data[:4] == b"HEP3"
    assert struct.unpack(">H", data[4:6])[0] == len(data)
    found: dict[int, bytes] = {}
    at = 6
    while at < len(data):
        vendor, kind, length = struct.unpack(">HHH", data[at : at + 6])
        assert vendor == 0
        assert length >= 6
        found[kind] = data[at + 6 : at + length]
        at += length
    assert at == len(data)
    return found


def test_a_packet_of_hep_3() -> None:
    chunks = chunks_of(pack(CAPTURE, 3, 77))
    assert chunks == {
        1: b"\x02",
        2: b"\x11",
        3: socket.inet_aton("192.0.2.1"),
        4: socket.inet_aton("192.0.2.2"),
        7: struct.pack(">H", 5060),
        8: struct.pack(">H", 5080),
        9: struct.pack(">I", 1_700_000_000),
        10: struct.pack(">I", 250_000),
        11: b"\x01",
        12: struct.pack(">I", 77),
        15: OPTIONS,
    }


def test_the_octets_that_opensips_sends() -> None:
    """What OpenSIPS 4 sends for trace() of a SIP request to a collector of each version, as if all at one moment; those
    of version 1 and 2 have 8 octets of zero behind the message there."""
    body = b"OPTIONS sip:a@127.0.0.1:17941 SIP/2.0\r\n\r\n"
    at = 0x6B04884E + 0x0AEC3C / 1e6
    capture = Capture(("127.0.0.1", 53399), ("127.0.0.1", 17941), IP_UDP, SIP, at, body, ((0x11, b"cc"),))
    head = b"\x10\x02\x11\xd0\x97F\x15\x7f\x00\x00\x01\x7f\x00\x00\x01"
    assert pack(capture, 1, 77) == b"\x01" + head + body
    assert pack(capture, 2, 77) == b"\x02" + head + b"N\x88\x04k<\xec\n\x00M\x00\x00\x00" + body
    packet = pack(capture, 3, 77)
    assert packet[6:].startswith(
        b"\x00\x00\x00\x01\x00\x07\x02\x00\x00\x00\x02\x00\x07\x11\x00\x00\x00\x07\x00\x08\xd0\x97"
        b"\x00\x00\x00\x08\x00\x08F\x15\x00\x00\x00\t\x00\nk\x04\x88N\x00\x00\x00\n\x00\n\x00\n\xec<"
        b"\x00\x00\x00\x0b\x00\x07\x01\x00\x00\x00\x0c\x00\n\x00\x00\x00M"
        b"\x00\x00\x00\x03\x00\n\x7f\x00\x00\x01\x00\x00\x00\x04\x00\n\x7f\x00\x00\x01\x00\x00\x00\x0f\x00"
    )
    assert packet.endswith(body + b"\x00\x00\x00\x11\x00\x08cc")


def test_addresses_of_ipv6_have_chunks_of_their_own() -> None:
    chunks = chunks_of(pack(CAPTURE6, 3, 1))
    assert chunks[1] == b"\x0a"
    assert chunks[5] == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert chunks[6] == socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    assert not chunks.keys() & {3, 4}


def test_packets_of_hep_1_and_2() -> None:
    head = struct.pack(">BBHH", 2, 17, 5060, 5080) + socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    assert pack(CAPTURE, 1, 77) == b"\x01\x10" + head + OPTIONS
    assert pack(CAPTURE, 2, 77) == b"\x02\x10" + head + struct.pack("<IIHxx", 1_700_000_000, 250_000, 77) + OPTIONS
    assert pack(CAPTURE6, 1, 77)[:4] == b"\x01\x28\x0a\x11"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_no_packet_can_hold_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match="65507"):
        pack(Capture(("192.0.2.1", 1), ("192.0.2.2", 1), 6, SIP, 0.0, b"x" * 65500), version, 1)
    with pytest.raises(ValueError, match="IPv6"):
        pack(Capture(("192.0.2.1", 1), ("2001:db8::1", 1), 6, SIP, 0.0), version, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[hep_dst] 127.0.0.1:8001; transport=tcp; version=3", ("hep_dst", "tcp:127.0.0.1:8001", 3)),
        ("[hep_dst] 192.0.2.4:5000; version=2", ("hep_dst", "udp:192.0.2.4:5000", 2)),
        ("[a]192.0.2.4:5000", ("a", "tcp:192.0.2.4:5000", 3)),
        ("[a] homer.example.com", ("a", "tcp:homer.example.com:9060", 3)),
        ("[a] [2001:db8::1]:9; TRANSPORT = UDP ;", ("a", "udp:[2001:db8::1]:9", 3)),
        ("[a] 192.0.2.4; version=1; transport=tls", ("a", "udp:192.0.2.4:9060", 1)),
    ],
)
def test_hep_ids_of_the_manual(text: str, expected: tuple[str, str, int]) -> None:
    found = parse_hep_id(text)
    assert (found.name, found.text, found.version) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "[] 1.2.3.4", "[a]", "[a] 1.2.3.4:0", "[a] 1.2.3.4:65536", "[a] h;version=4", "[a] h;transport=ws",
     "[a] h;speed=3", "[a] h;version=3;version=2", "[a] two words"],
)  # fmt: skip
def test_hep_ids_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ParamError):
        ProtoHep(hep_id=[text])


def test_a_name_is_given_once() -> None:
    with pytest.raises(ParamError, match="twice"):
        ProtoHep(hep_id=["[a] 192.0.2.1", "[a] 192.0.2.2"])


@pytest.mark.parametrize("number", [-1, 65536])
def test_the_capture_id_has_16_bits(number: int) -> None:
    core = FakeCore()
    with pytest.raises(StartError, match="65535"):
        asyncio.run(core.add(ProtoHep(hep_capture_id=number)).start())


def test_tls_needs_tls_mgm() -> None:
    core = FakeCore()
    with pytest.raises(StartError, match="tls_mgm"):
        asyncio.run(core.add(ProtoHep(hep_id=["[a] 192.0.2.1;transport=tls"])).start())


class Collector:
    """Takes packets of HEP over TCP, or over TLS with a context."""

    def __init__(self) -> None:
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(b"nobody asked\r\n")
        try:
            while True:
                head = await reader.readexactly(6)
                body = await reader.readexactly(struct.unpack(">H", head[4:])[0] - 6)
                self.packets.put_nowait(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            """The server has gone."""

    async def next(self) -> dict[int, bytes]:
        return chunks_of(await asyncio.wait_for(self.packets.get(), 10))

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
        await self._server.wait_closed()


def run() -> Any:
    return make_run(request("INVITE"), core=FakeCore())


async def with_collector(
    play: Callable[[FakeCore, ProtoHep, Collector], Awaitable[None]], transport: str = "tcp", **params: Any
) -> None:
    collector = Collector()
    await collector.open()
    core = FakeCore()
    module = core.add(ProtoHep(hep_id=[f"[homer] 127.0.0.1:{collector.port};transport={transport}"], **params))
    await module.start()
    try:
        await play(core, module, collector)
    finally:
        await module.stop()
        await collector.close()


def test_correlate_for_homer_5() -> None:
    async def play(core: FakeCore, module: ProtoHep, collector: Collector) -> None:
        assert core.call("correlate", run(), "homer", "sip-one", "first@here", "other", "second@here") == 1
        chunks = await collector.next()
        assert chunks[11] == b"\x60"
        assert chunks[0x11] == b"first@here"
        assert 15 not in chunks

    asyncio.run(with_collector(play))


def test_correlate_for_homer_6() -> None:
    async def play(core: FakeCore, module: ProtoHep, collector: Collector) -> None:
        assert core.call("correlate", run(), "homer", "one", 'a"b', "two", "c\udcff") == 1
        chunks = await collector.next()
        assert json.loads(chunks[101]) == {"one": 'a"b', "two": "c\udcff"}

    asyncio.run(with_collector(play, homer5_on=0))


def test_correlate_refuses_what_makes_no_sense() -> None:
    async def play(core: FakeCore, module: ProtoHep, collector: Collector) -> None:
        for args in (
            ("other", "sip", "a", "x", "b"),
            ("homer", "sip", "a", "sip", "b"),
            ("homer", "sip", "", "x", "b"),
            ("homer", "sip", None, "x", "b"),
            ("homer", "x", "a", "y", "b"),
            ("homer", "sip", "a" * 65535, "y", "b"),
        ):
            assert core.call("correlate", run(), *args) == -1, args
        assert module.senders["homer"].dropped == 1

    asyncio.run(with_collector(play))


def test_management_commands_are_copied_with_one_correlation() -> None:
    async def play(core: FakeCore, module: ProtoHep, collector: Collector) -> None:
        module.trace_mi("homer", "mi_http", "ul_show_contact", {"table": "location", "aor": "x"}, {"result": "OK"})
        asked, answered = await collector.next(), await collector.next()
        assert asked[11] == answered[11] == b"\x57"
        assert asked[0x11] == answered[0x11]
        assert asked[0x11].startswith(b"MICORR")
        # The answer goes the other way.
        assert (asked[3], asked[4]) == (answered[4], answered[3])
        assert asked[15] == b"ul_show_contact##http##location,x"
        assert json.loads(answered[15]) == {"result": "OK"}

    asyncio.run(with_collector(play, homer5_delim="##"))


def test_doors_find_the_collector_by_its_name() -> None:
    async def play(core: FakeCore, module: ProtoHep, collector: Collector) -> None:
        door = core.add(MiScript(trace_destination="homer"))
        await door.start()
        module.trace_mi("homer", door.name, "ps", None, [1, 2])
        assert json.loads((await collector.next())[15]) == {"command": "ps", "backend": "script"}
        assert json.loads((await collector.next())[15]) == {"reply": "[1, 2]"}

    asyncio.run(with_collector(play, homer5_on=0))


def test_datagrams() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
            taker.bind(("127.0.0.1", 0))
            taker.setblocking(False)
            core = FakeCore()
            where = f"[homer] 127.0.0.1:{taker.getsockname()[1]}; transport=udp"
            module = core.add(ProtoHep(hep_id=[where], hep_capture_id=234))
            await module.start()
            assert core.call("correlate", run(), "homer", "sip", "a", "x", "b") == 1
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(taker, 65535), 10)
            assert chunks_of(data)[12] == struct.pack(">I", 234)
            await module.stop()

    asyncio.run(scenario())


def test_a_collector_that_came_back_is_written_to_again() -> None:
    async def scenario() -> None:
        first = Collector()
        await first.open()
        core = FakeCore()
        module = core.add(ProtoHep(hep_id=[f"[homer] 127.0.0.1:{first.port}"]))
        await module.start()
        assert core.call("correlate", run(), "homer", "sip", "a", "x", "b") == 1
        await first.next()
        sender = module.senders["homer"]
        sender._hang_up()
        assert core.call("correlate", run(), "homer", "sip", "second", "x", "b") == 1
        assert (await first.next())[0x11] == b"second"
        assert sender.sent == 2
        await module.stop()
        await first.close()

    asyncio.run(scenario())


def test_a_dead_collector_costs_a_bounded_queue_and_then_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            core = FakeCore()
            module = core.add(
                ProtoHep(
                    hep_id=[f"[homer] 127.0.0.1:{nobody.getsockname()[1]}"],
                    hep_async_max_postponed_chunks=3,
                    hep_max_retries=1,
                    hep_retry_cooldown=60,
                )
            )
            await module.start()
            sender = module.senders["homer"]
            results = [core.call("correlate", run(), "homer", "sip", "a", "x", "b") for _ in range(5)]
            assert results == [1, 1, 1, -1, -1]
            assert sender.dropped == 2
            assert caplog.text.count("packets dropped, 3 waited") == 1
            await core.settle()
            assert sender.dropped == 5
            assert core.call("correlate", run(), "homer", "sip", "a", "x", "b") == -1
            assert not core.tasks
            core.advance(61)
            assert core.call("correlate", run(), "homer", "sip", "a", "x", "b") == 1
            await core.settle()
            await module.stop()

    asyncio.run(scenario())


def test_a_collector_that_reads_nothing_is_hung_up_on() -> None:
    async def scenario() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            core = FakeCore()
            core_module = core.add(ProtoHep(hep_id=[f"[homer] 127.0.0.1:{silent.getsockname()[1]}"]))
            await core_module.start()
            sender = core_module.senders["homer"]
            until = time.monotonic() + 30
            core.call("correlate", run(), "homer", "sip", "first", "x", "b")
            await core.settle()
            connection = sender._transport
            assert connection is not None
            while not connection.is_closing() and time.monotonic() < until:
                core.call("correlate", run(), "homer", "sip", "a" * 60000, "x", "b")
                await asyncio.sleep(0)
            assert connection.is_closing()
            assert sender.dropped
            await core_module.stop()

    asyncio.run(scenario())


class Domains(Module, TlsDomains):
    name = "tls_mgm"

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.context = context

    def server_domain(self, address: str, port: int, name: str = "") -> TlsDomain | None:
        return None

    def client_domain(self, address: str, port: int, sip_domain: str = "", name: str = "") -> TlsDomain | None:
        return TlsDomain("homer", False, self.context)

    def client_context(self, name: str) -> ssl.SSLContext:
        return self.context


def test_tls(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("homer")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert, files.key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE

    async def scenario() -> None:
        collector = Collector()
        await collector.open(server)
        core = FakeCore()
        core.add(Domains(client))
        module = core.add(ProtoHep(hep_id=[f"[homer] 127.0.0.1:{collector.port};transport=tls"]))
        await module.start()
        assert core.call("correlate", run(), "homer", "sip", "secret", "x", "b") == 1
        assert (await collector.next())[0x11] == b"secret"
        await module.stop()
        await collector.close()

    asyncio.run(scenario())


def test_hep_carries_no_sip_of_ours() -> None:
    """RFC 3261 §19.1.1: transport= names a transport of SIP."""
    assert sip.parse_uri("sip:192.0.2.1:9060;transport=hep_udp").proto == sip.PROTO_NONE
