"""SCTP: what is asked of a kernel that has it and done with what that says; a clear word where there is none.

The kernel is a played one (`sctp_kernel`); the last test talks to the real one where that has SCTP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from opensipspy import sip
from opensipspy.modules.proto_sctp import ProtoSctp
from opensipspy.net.sctp import SctpTransport
from opensipspy.net.transport import SocketOptions
from opensipspy.sip import Peer, Socket
from tests.net.sctp_kernel import CANNOT_START, LOST, RESTART, SHUT, UP, Far, Kernel, play_kernel
from tests.server import house
from tests.server.house import House, free_port, play, running, settled
from tests.server.test_reload import reloading

MESSAGE = b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n"
PEER = Peer(sip.PROTO_SCTP, "127.0.0.1", 5060)
SOCKET = Socket(sip.PROTO_SCTP, "127.0.0.1", 5060)
ALL_OPTIONS = (1, 2, 3, 4, 10, 11)


class Scene:
    """A listening point, what came in, and peers."""

    def __init__(self, kernel: Kernel, options: SocketOptions | None = None, limit: int = 100) -> None:
        self.kernel = kernel
        self.received: list[tuple[bytes, int]] = []
        self.lost: list[int] = []
        self.transport = SctpTransport(self._deliver, asyncio.get_running_loop(), limit)
        self.transport.on_lost = lambda peer: self.lost.append(peer.port)
        self.at = Socket(sip.PROTO_SCTP, "127.0.0.1", free_port())
        if options is not None:
            self.transport.configure(self.at, options)
        self.transport.bind(self.at)
        self.transport.serve()
        self.peers: list[Far] = []

    def _deliver(self, data: bytes, peer: Peer, at: Socket) -> None:
        assert (peer.proto, at) == (sip.PROTO_SCTP, self.at)
        self.received.append((data, peer.port))

    def peer(self) -> Far:
        self.peers.append(Far(self.at.port))
        return self.peers[-1]

    def reaches(self, peer: Far) -> bool:
        return self.transport.reaches(Peer(sip.PROTO_SCTP, "127.0.0.1", peer.port))

    async def heard(self, count: int) -> list[bytes]:
        await settled(lambda: len(self.received) >= count)
        return [data for data, _ in self.received]

    async def end(self) -> None:
        await self.transport.close()
        for peer in self.peers:
            peer.close()


def act(monkeypatch: pytest.MonkeyPatch, scene: Callable[[Scene], Awaitable[None]], limit: int = 100) -> None:
    """Run a scene with a listening point over the played kernel."""

    async def whole() -> None:
        made = Scene(play_kernel(monkeypatch), limit=limit)
        try:
            await scene(made)
        finally:
            await made.end()

    play("asyncio", whole)


def test_messages_leave_unordered_and_do_not_outlive_their_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4168 §5.1: stream 0, unordered; RFC 6458 §8.1 for the options, as Linux lays them out."""

    async def scene(made: Scene) -> None:
        (one,) = made.kernel.made
        level = socket.IPPROTO_SCTP
        stream, _, flags, protocol, _, lifetime, _, _, association = struct.unpack(
            "=HHHxxIIIIIi", one.options[level, 10]
        )
        assert (stream, flags, protocol, lifetime, association) == (0, 1, 0, 32000, 0)
        assert one.options[level, 3] == 1, "no waiting for more to send"
        assert one.options[level, 4] == 600, "idle associations are closed by the kernel"
        assert struct.unpack("=HHHH", one.options[level, 2]) == (0, 0, 3, 1000)
        assert struct.unpack("=iHHIII", one.options[level, 1])[:2] == (0, 5)
        assert one.options[level, 11] == b"\x00\x01"
        assert one.options[socket.SOL_SOCKET, socket.SO_REUSEADDR] == 1
        assert one.backlog > 0

    act(monkeypatch, scene)


def test_words_of_the_socket_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tos` and `reuse_port` of the core manual's socket parameter."""

    async def scene() -> None:
        made = Scene(play_kernel(monkeypatch), SocketOptions(tos=0x20, reuse_port=True))
        (one,) = made.kernel.made
        assert one.options[socket.IPPROTO_IP, socket.IP_TOS] == 0x20
        assert one.options[socket.SOL_SOCKET, socket.SO_REUSEPORT] == 1
        await made.end()

    play("asyncio", scene)


def test_an_old_kernel_carries_messages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but SCTP itself is needed; who does not tell of associations is taken to reach everybody."""

    async def scene() -> None:
        made = Scene(play_kernel(monkeypatch, refused=ALL_OPTIONS))
        peer = made.peer()
        peer.send(MESSAGE)
        assert await made.heard(1) == [MESSAGE]
        assert made.reaches(peer)
        await made.end()

    play("asyncio", scene)


def test_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4168 §4: one message of SIP is one message of SCTP; replies go where requests came from."""

    async def scene(made: Scene) -> None:
        peer = made.peer()
        peer.send(MESSAGE)
        await made.heard(1)
        assert made.transport.send(b"SIP/2.0 200 OK", Peer(sip.PROTO_SCTP, "127.0.0.1", peer.port), made.at)
        assert await peer.receive() == b"SIP/2.0 200 OK"
        assert (made.transport.traffic.received, made.transport.traffic.sent) == (1, 1)

    act(monkeypatch, scene)


def test_pieces_of_a_message_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 6458 §3.1.4: without MSG_EOR more is to come, and other peers may speak in between."""

    async def scene(made: Scene) -> None:
        one, other = made.peer(), made.peer()
        one.piece(MESSAGE[:10])
        other.piece(b"INVITE ")
        one.piece(MESSAGE[10:20])
        other.piece(b"sip:y", last=True)
        await made.heard(1)
        assert made.transport.waiting() == 20
        one.piece(MESSAGE[20:], last=True)
        assert await made.heard(2) == [b"INVITE sip:y", MESSAGE]
        assert made.transport.waiting() == 0

    act(monkeypatch, scene)


def test_a_message_without_end_costs_its_sender_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long is left out, up to its end and no further."""

    async def scene(made: Scene) -> None:
        one, other = made.peer(), made.peer()
        for _ in range(5):
            one.piece(b"x" * 1000, repeat=60)
        other.send(MESSAGE)
        await made.heard(1)
        assert made.transport.waiting() == 0
        one.piece(b"x", last=True)
        one.send(MESSAGE)
        assert await made.heard(2) == [MESSAGE, MESSAGE]
        assert made.transport.traffic.dropped_in == 1

    act(monkeypatch, scene)


def test_no_memory_for_many_who_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(made: Scene) -> None:
        for _ in range(30):
            made.peer().piece(b"x" * 100)
        made.peer().send(MESSAGE)
        await made.heard(1)
        assert made.transport.waiting() <= 16 * 100

    act(monkeypatch, scene)


def test_notifications_are_no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 6458 §6: MSG_NOTIFICATION; those that nobody asked for, or that are cut short, mean nothing."""

    async def scene(made: Scene) -> None:
        peer = made.peer()
        assert not made.reaches(peer)
        peer.becomes(UP)
        peer.tells(b"\x02\x80\x00\x00")
        peer.tells(struct.pack("=HHI", 0x8005, 0, 12) + b"\0" * 12)
        peer.send(MESSAGE)
        assert await made.heard(1) == [MESSAGE]
        assert made.reaches(peer)
        assert made.lost == []

    act(monkeypatch, scene)


@pytest.mark.parametrize("state", [LOST, SHUT, CANNOT_START])
def test_the_end_of_an_association_is_told(monkeypatch: pytest.MonkeyPatch, state: int) -> None:
    """RFC 3261 §18.4: what was sent has failed. A message that had begun will not end."""

    async def scene(made: Scene) -> None:
        peer = made.peer()
        peer.becomes(UP)
        peer.piece(b"half of")
        peer.becomes(state)
        await settled(lambda: bool(made.lost))
        assert made.lost == [peer.port]
        assert not made.reaches(peer)
        peer.becomes(UP)
        peer.send(MESSAGE)
        assert await made.heard(1) == [MESSAGE]

    act(monkeypatch, scene)


def test_a_peer_that_was_started_anew_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 6458 §6.1.1, SCTP_RESTART: the association goes on, what was half said does not."""

    async def scene(made: Scene) -> None:
        peer = made.peer()
        peer.becomes(UP)
        peer.piece(b"half of")
        peer.becomes(RESTART)
        peer.send(MESSAGE)
        assert await made.heard(1) == [MESSAGE]
        assert made.reaches(peer)
        assert made.lost == []

    act(monkeypatch, scene)


def test_too_many_associations(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tcp_max_connections` holds for them too: whoever comes later is sent away with an ABORT."""

    async def scene(made: Scene) -> None:
        first, second, third = made.peer(), made.peer(), made.peer()
        for number, peer in enumerate((first, second, third), 7):
            peer.becomes(UP, association=number)
        (one,) = made.kernel.made
        await settled(lambda: bool(one.aborted))
        assert one.aborted == [(9, "127.0.0.1")]
        assert made.transport.traffic.refused == 1
        assert made.transport.associations == 2
        assert not made.reaches(third)
        first.becomes(SHUT)
        third.becomes(UP, association=10)
        await settled(lambda: made.reaches(third))

    act(monkeypatch, scene, limit=2)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EHOSTUNREACH, errno.ENOBUFS, errno.EMSGSIZE])
def test_what_cannot_be_sent_is_told_at_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A full buffer, or no way there: the transaction goes elsewhere instead of waiting."""

    async def scene(made: Scene) -> None:
        peer = Peer(sip.PROTO_SCTP, "127.0.0.1", 5060)
        made.kernel.send_errors.append(OSError(number, "no"))
        assert not made.transport.send(MESSAGE, peer, made.at)
        assert not made.transport.send(MESSAGE, Peer(sip.PROTO_SCTP, "127.0.0.1", 70000), made.at)
        assert not made.transport.send(MESSAGE, peer, Socket(sip.PROTO_SCTP, "127.0.0.2", 5060))
        assert made.transport.traffic.send_errors == 2

    act(monkeypatch, scene)


def test_errors_and_odd_senders_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says of a peer that is gone, a message from port 0, an empty one."""

    async def scene(made: Scene) -> None:
        made.kernel.receive_errors.append(OSError(errno.ECONNRESET, "reset"))
        peer = made.peer()
        peer.send(b"")
        peer.from_nowhere(MESSAGE)
        peer.send(MESSAGE)
        assert await made.heard(1) == [MESSAGE]
        assert made.transport.traffic.dropped_in == 1

    act(monkeypatch, scene)


def test_a_listening_point_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sockets_mgm asks for while the server runs."""

    async def scene(made: Scene) -> None:
        peer = made.peer()
        peer.becomes(UP)
        await settled(lambda: made.reaches(peer))
        made.transport.unbind(made.at)
        assert made.lost == [peer.port]
        assert not made.transport.send(MESSAGE, Peer(sip.PROTO_SCTP, "127.0.0.1", peer.port), made.at)
        made.transport.bind(made.at)
        made.transport.admit(made.at)
        peer.send(MESSAGE)
        assert await made.heard(1) == [MESSAGE]

    act(monkeypatch, scene)


SCRIPT = """
log_level=3
socket=udp:127.0.0.1:{port}
socket=sctp:127.0.0.1:{sctp}
loadmodule "proto_udp.so"
loadmodule "proto_sctp.so"
loadmodule "sl.so"
loadmodule "tm.so"
route {{
	$du = "sip:127.0.0.1:{callee};transport=sctp";
	t_relay();
}}
"""


def test_a_call_over_sctp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RFC 4168 §6.1: Via says SCTP; nothing is repeated over a reliable transport; a lost peer is a failed branch."""
    play_kernel(monkeypatch)
    port, sctp_port = free_port(), free_port()
    callee = Far(sctp_port)

    async def scene(made: House, write: Callable[[str], None]) -> None:
        with house.Peer(port) as caller:
            caller.send(house.request("MESSAGE", ruri="sip:b@127.0.0.1"))
            carried = (await callee.receive()).decode()
            assert carried.split("\r\n")[1].startswith(f"Via: SIP/2.0/SCTP 127.0.0.1:{sctp_port};branch=z9hG4bK")
            callee.becomes(UP)
            await settled(lambda: made.stat("server:sctp_associations") == 1)
            callee.send(sip.build_reply(sip.parse_message(carried.encode(), PEER, SOCKET), 200, "OK", "t1"))
            assert (await caller.receive()).startswith("SIP/2.0 200 OK")
            caller.send(house.request("MESSAGE", ruri="sip:b@127.0.0.1", branch="z9hG4bK2", cseq=2))
            await callee.receive()
            callee.becomes(LOST)
            assert (await caller.receive()).startswith("SIP/2.0 477 ")

    reloading("asyncio", tmp_path, SCRIPT.format(port=port, sctp=sctp_port, callee=callee.port), scene)
    callee.close()


def test_a_kernel_without_sctp_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in OpenSIPS: what the script wants to listen on cannot be had. One line tells why."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    kernel = play_kernel(monkeypatch)
    monkeypatch.setattr(kernel, "socket", refuse)

    async def scene() -> None:
        listen = [house.Listen(sip.PROTO_SCTP, "127.0.0.1", 5060)]
        async with running(house.Script(modules=[ProtoSctp()], listen=listen)) as made:
            assert made.task.result() == 1
            (line,) = [line for line in made.log if "CRITICAL" in line]
            assert "cannot listen on sctp:127.0.0.1:5060: this kernel has no SCTP" in line

    play("asyncio", scene)


def kernel_has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not kernel_has_sctp(), reason="this kernel has no SCTP (module sctp)")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_messages_are_whole(loop: str) -> None:
    """RFC 4168 §4: one message of SIP is one message of SCTP."""

    async def scene() -> None:
        received: list[tuple[bytes, Peer]] = []
        ends = []
        for _ in range(2):
            transport = SctpTransport(lambda data, peer, _: received.append((data, peer)), asyncio.get_running_loop())
            at = Socket(sip.PROTO_SCTP, "127.0.0.1", free_port())
            transport.bind(at)
            transport.serve()
            ends.append((transport, at))
        (near, here), (far, there) = ends
        for _ in range(3):
            assert near.send(MESSAGE, Peer(sip.PROTO_SCTP, "127.0.0.1", there.port), here)
        await settled(lambda: len(received) == 3)
        assert {data for data, _ in received} == {MESSAGE}
        await near.close()
        await far.close()

    play(loop, scene)
