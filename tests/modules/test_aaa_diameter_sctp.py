"""aaa_diameter over SCTP (RFC 6733 §2.1.1).

The kernel is a played one (`sctp_streams`); the tests marked so talk to the real one where that has SCTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from opensipspy.module import StartError
from opensipspy.modules.aaa_diameter import node, sctp
from opensipspy.modules.aaa_diameter.codec import DEVICE_WATCHDOG, REQUEST, RETRANSMITTED, Message, encode
from opensipspy.modules.aaa_diameter.config import Config, ConfigError, parse_config
from tests.diameter_peers import Other, free_port, success, until, write_files
from tests.modules.asynchronous import in_loop
from tests.modules.sctp_streams import OneToOne, Streams, play_streams
from tests.modules.test_aaa_diameter import ACCOUNTING, Client

SCTP = socket.IPPROTO_SCTP


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return play_streams(monkeypatch)


@pytest.fixture(params=["played", "real"])
def any_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "played":
        play_streams(monkeypatch)
    elif not sctp.available():
        pytest.skip("needs a kernel with SCTP (Linux: modprobe sctp)")
    return str(request.param)


def entry(name: str, port: int, words: str = "") -> str:
    return f'ConnectPeer = "{name}" {{ ConnectTo = "127.0.0.1"; Port = {port}; No_TLS; {words} }};\n'


def only_sctp() -> Config:
    config = Config()
    config.flags = {"no_tcp"}
    return config


def parameters(value: bytes) -> tuple[int, int, int]:
    """Stream, flags and payload of struct sctp_sndrcvinfo."""
    stream, _, flags, payload, *_ = struct.unpack("=HHHxxIIIIIi", value)
    return stream, flags, socket.ntohl(payload)


@in_loop
async def test_requests_go_over_an_association(any_kernel: str, tmp_path: Path) -> None:
    """RFC 6733 §2.1: a peer that is reached with SCTP is asked over it, and takes leave."""
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()
    async with Client(write_files(tmp_path, entry("hss.t.test", other.port, "No_TCP;"))) as client:
        await client.open("hss.t.test")
        shown = (client.core.status.group("aaa") or {})["hss.t.test"]
        assert shown.details == "connected over SCTP"
        codes = [(await client.send())[0] for _ in range(3)]
        # More than one packet, and more than one piece of what the kernel hands over.
        code, avps = await client.send([*ACCOUNTING, {"User-Name": "x" * 80_000}])
        assert (codes, code) == ([1, 1, 1], 1)
        assert {"Result-Code": 2001} in avps
    await until(lambda: not other.node.links)
    assert other.events[-1] == ("sip.t.test", False, "it took leave")
    await other.node.stop()


@in_loop
async def test_messages_leave_unordered_once_the_peer_is_open(kernel: Streams, tmp_path: Path) -> None:
    """RFC 6733 §2.1.1: stream 0 and payload 46; in order until the peer has shown that it is open; SCTP_streams."""
    kernel.slow = True
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()
    url = write_files(tmp_path, "SCTP_streams = 7;\n" + entry("hss.t.test", other.port))
    async with Client(url) as client:
        await client.open("hss.t.test")
        await until(lambda: other.node.links)
        assert (await client.send())[0] == 1
        near, far = kernel.connected[0], kernel.accepted[0]
        assert [parameters(how) for _, how in near.sent] == [(0, 0, 46), (0, 1, 46)]
        assert [parameters(how) for _, how in far.sent] == [(0, 0, 46), (0, 1, 46)]
        assert near.options[SCTP, 3] == 1, "nothing waits for more to send"
        assert struct.unpack("=HHHH", near.options[SCTP, 2]) == (7, 7, 3, 1000)
        assert struct.unpack("=iHHIII", near.options[SCTP, 1])[1] == 5
    await other.node.stop()


@in_loop
async def test_a_kernel_that_refuses_every_option_will_do(kernel: Streams, tmp_path: Path) -> None:
    kernel.refused = (1, 2, 3, 10)
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()
    async with Client(write_files(tmp_path, entry("hss.t.test", other.port))) as client:
        await client.open("hss.t.test")
        assert (await client.send())[0] == 1
    await other.node.stop()


@in_loop
async def test_tcp_is_used_where_the_kernel_has_no_sctp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As freeDiameter does: one line, and TCP; but not for a peer of No_TCP."""
    caplog.set_level(logging.INFO)

    def missing(family: int) -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "this kernel has no SCTP (Linux: load its module sctp)")

    monkeypatch.setattr(sctp, "_socket", missing)
    other = Other("hss.t.test", success)
    await other.node.start()
    peers = entry("hss.t.test", other.port) + entry("only.t.test", other.port, "No_TCP;")
    async with Client(write_files(tmp_path, peers, free_port())) as client:
        await client.open("hss.t.test")
        assert (await client.send())[0] == 1
        await until(lambda: "no connection to only.t.test: this kernel has no SCTP" in caplog.text)
        told = [record.message for record in caplog.records if record.name == "opensipspy.fake"]
        assert sum("TCP is used instead" in line for line in told) == 1
    await other.node.stop()
    with pytest.raises(StartError, match="no SCTP"):
        await Client(write_files(tmp_path, "No_TCP;", free_port())).module.launch()


@pytest.mark.parametrize("how", ["refused", "silent", "lost"])
@in_loop
async def test_a_peer_without_sctp_is_reached_with_tcp(
    how: str, kernel: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCTP is tried first; what does not come about in its time leaves TCP the rest."""
    monkeypatch.setattr(sctp, "CONNECT_S", 0.05)
    config = Config()
    config.flags = {"no_sctp"}
    other = Other("hss.t.test", success, config)
    await other.node.start()
    if how == "silent":
        kernel.silent.add(other.port)
    elif how == "lost":
        kernel.slow, kernel.connect_error = True, errno.EHOSTUNREACH
        listening = sctp.listen("127.0.0.1", other.port, 1)
    async with Client(write_files(tmp_path, entry("hss.t.test", other.port))) as client:
        await client.open("hss.t.test")
        assert (client.core.status.group("aaa") or {})["hss.t.test"].details == "connected over TCP"
        assert (await client.send())[0] == 1
    if how == "lost":
        listening.close()
    await other.node.stop()


@pytest.mark.parametrize(
    ("words", "inner", "expected"),
    [
        ("", "", ("sctp", "tcp")),
        ("Prefer_TCP;", "", ("tcp", "sctp")),
        ("", "Prefer_TCP;", ("tcp", "sctp")),
        ("No_SCTP;", "", ("tcp",)),
        ("", "No_SCTP;", ("tcp",)),
        ("No_TCP;", "", ("sctp",)),
        ("", "No_TCP;", ("sctp",)),
        ("No_SCTP;", "Prefer_TCP;", ("tcp",)),
    ],
)
def test_the_file_says_what_to_connect_with(words: str, inner: str, expected: tuple[str, ...]) -> None:
    """freeDiameter's configuration file: SCTP first, unless it says otherwise, for all or for a peer."""
    config = parse_config(f'Identity = "a.b"; {words} {entry("c.b", 1, inner)}')
    assert config.peers[0].transports == expected


@pytest.mark.parametrize(
    "text",
    [
        "No_TCP; No_SCTP;",
        "No_SCTP; " + entry("c.b", 1, "No_TCP;"),
        entry("c.b", 1, "No_SCTP; No_TCP;"),
        'TLS_Cred = "c", "k"; TLS_CA = "a"; ConnectPeer = "c.b" { No_TCP; };',
        "SCTP_streams = 70000;",
    ],
)
def test_what_leaves_nothing_to_connect_with_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(f'Identity = "a.b"; {text}')


def test_tls_is_for_tcp() -> None:
    text = 'Identity = "a.b"; TLS_Cred = "c", "k"; TLS_CA = "a"; ConnectPeer = "c.b" { Port = 1; };'
    assert parse_config(text).peers[0].transports == ("tcp",)


class Stranger:
    """The far end of an association, which speaks for itself."""

    def __init__(self, kernel: Streams, port: int) -> None:
        self.socket: Any = kernel.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
        assert self.socket.connect_ex(("127.0.0.1", port)) == 0
        self.socket.setblocking(False)

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def hello(self, other: Other) -> None:
        """The capabilities of a peer "stranger.t.test"."""
        config = Config()
        config.identity, config.realm = "stranger.t.test", "t.test"
        theirs = node.Node(config, other.dictionary, other, other.node.random, other.node.now, logging.getLogger())
        request = theirs.base_request(257)
        make = other.dictionary.make
        request.avps += [make("Host-IP-Address", "127.0.0.1"), make("Vendor-Id", 0), make("Product-Name", "x")]
        request.avps.append(make("Acct-Application-Id", 3))
        self.send(encode(request))

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(Message(DEVICE_WATCHDOG, 0, REQUEST))[:12], "half a message"),
        (encode(Message(DEVICE_WATCHDOG, 0, REQUEST)) + b"\x01\x00", "half a message"),
        (b"\x01\x00\x10\x00" + bytes(60), "half a message"),
        (b"GET / HTTP/1.1\r\n\r\n", "version 71"),
        (bytes(60_000), "version 0"),
    ],
)
@in_loop
async def test_what_is_no_whole_message_ends_the_association(data: bytes, words: str, kernel: Streams) -> None:
    """RFC 6733 §2.1.1: a message of SCTP is a message of Diameter; a length that lies does not swallow the next."""
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()
    far = Stranger(kernel, other.port)
    far.hello(other)
    await until(lambda: other.node.links)
    far.send(data)
    await until(lambda: not other.node.links)
    assert words in other.events[-1][2]
    far.close()
    await other.node.stop()


@in_loop
async def test_an_endless_message_ends_the_association(kernel: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sctp, "MAX_MESSAGE", 30_000)
    kernel.piece = 1000
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()
    far = Stranger(kernel, other.port)
    far.hello(other)
    await until(lambda: other.node.links)
    far.send(b"\x01\x00\xc3\x50" + bytes(49_996))
    await until(lambda: not other.node.links)
    assert "more than 30000 octets" in other.events[-1][2]
    far.close()
    await other.node.stop()


@in_loop
async def test_a_flood_leaves_others_their_turn(kernel: Streams) -> None:
    other = Other("hss.t.test", None, only_sctp())
    await other.node.start()
    far = Stranger(kernel, other.port)
    far.hello(other)
    await until(lambda: other.node.links)
    turns = 0
    answers = 0
    sent = 0
    while answers < 400:
        with contextlib.suppress(BlockingIOError):
            while sent < 400:
                far.send(encode(Message(DEVICE_WATCHDOG, 0, REQUEST, [], sent, sent)))
                sent += 1
        with contextlib.suppress(BlockingIOError):
            while far.socket.recvmsg(1 << 20):
                answers += 1
        await asyncio.sleep(0)
        turns += 1
    assert turns > 400 / sctp.DRAIN
    far.close()
    await other.node.stop()


@in_loop
async def test_who_does_not_read_is_sent_all_in_order_or_lost(kernel: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel does not take waits, whole messages of it, up to a limit."""
    other = Other("hss.t.test", None, only_sctp())
    await other.node.start()
    far = Stranger(kernel, other.port)
    far.hello(other)
    await until(lambda: other.node.links)
    link = other.node.links["stranger.t.test"]
    texts = [f"{number}:" + "x" * 20_000 for number in range(60)]
    for text in texts:
        link.send(Message(271, 3, 0, [other.dictionary.make("User-Name", text)], 1, 1))
    assert 0 < link.wire.waiting() < node.MAX_WRITE
    whole = asyncio.create_task(link.wire.drain())
    got: list[bytes] = []

    def read() -> bool:
        try:
            while True:
                got.append(far.socket.recvmsg(1 << 20)[0])
        except BlockingIOError:
            return len(got) == 61

    await until(read)
    await whole
    assert link.wire.waiting() == 0
    assert [data[28:].rstrip(b"\0").decode() for data in got[1:]] == texts
    monkeypatch.setattr(node, "MAX_WRITE", 100_000)
    for text in texts:
        link.send(Message(271, 3, 0, [other.dictionary.make("User-Name", text)], 1, 1))
    await until(lambda: not other.node.links)
    assert other.events[-1][2] == "it reads no more"
    assert link.wire.waiting() == 0
    link.wire.write(b"nothing more")
    link.wire.abort()
    far.close()
    await other.node.stop()


@in_loop
async def test_a_lost_association_moves_what_waits_to_another_peer(kernel: Streams, tmp_path: Path) -> None:
    """RFC 6733 §5.5.4: with the T flag, for it may have been done."""
    first, second = Other("a.t.test", None, only_sctp()), Other("b.t.test", success, only_sctp())
    for other in (first, second):
        await other.node.start()
    peers = entry("a.t.test", first.port) + entry("b.t.test", second.port)
    async with Client(write_files(tmp_path, peers)) as client:
        await client.open("a.t.test", "b.t.test")
        asked = asyncio.create_task(client.send())
        await asyncio.wait_for(first.came.wait(), 10)
        first.node.links["sip.t.test"].close("pulled")
        assert (await asked)[0] == 1
        assert second.held[0].message.flags & RETRANSMITTED
    for other in (first, second):
        await other.node.stop()


@in_loop
async def test_no_room_for_an_association_is_a_pause(
    kernel: Streams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptors are left: the loop does not spin on the waiting connection, and takes it afterwards."""
    monkeypatch.setattr(node, "ACCEPT_PAUSE_S", 0.02)
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()
    kernel.accept_errors = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError()]
    far = Stranger(kernel, other.port)
    far.hello(other)
    await until(lambda: other.node.links)
    assert caplog.text.count("Too many open files") == 1
    far.close()
    await other.node.stop()


@in_loop
async def test_an_association_that_ended_early_is_none(kernel: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other("hss.t.test", success, only_sctp())
    await other.node.start()

    def gone(self: OneToOne) -> tuple[str, int]:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with monkeypatch.context() as patched:
        patched.setattr(OneToOne, "getpeername", gone)
        far = Stranger(kernel, other.port)
        await until(lambda: kernel.accepted)
    again = Stranger(kernel, other.port)
    again.hello(other)
    await until(lambda: other.node.links)
    far.close()
    again.close()
    await other.node.stop()


@in_loop
async def test_both_are_listened_to_by_default(kernel: Streams, tmp_path: Path) -> None:
    """freeDiameter listens with TCP and with SCTP, at one port."""
    port = free_port()
    async with Client(write_files(tmp_path, entry("hss.t.test", 1), port)) as client:
        assert client.node.port == port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        Stranger(kernel, port).close()
        await until(lambda: kernel.accepted)
