"""UDP over real sockets: what comes in is delivered, what goes out leaves or waits in a bounded queue."""

from __future__ import annotations

import asyncio
import socket

import pytest

from opensipspy import sip
from opensipspy.net import SocketOptions, UdpSettings, UdpTransport
from opensipspy.net.udp import DRAIN, HELD_BYTES, IP_MTU_DISCOVER, PMTUDISC_DONT, UdpListener, is_multicast
from opensipspy.sip import Peer, Socket
from tests.server.house import free_port, play, settled

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def listener(received: list[tuple[bytes, Peer]], address: str = "127.0.0.1", **settings: int) -> UdpTransport:
    made = UdpTransport(
        lambda data, peer, _: received.append((data, peer)), asyncio.get_running_loop(), UdpSettings(**settings)
    )
    made.bind(Socket(sip.PROTO_UDP, address, free_port()))
    made.serve()
    return made


def only(made: UdpTransport) -> UdpListener:
    return next(iter(made._listeners.values()))


def test_datagrams_arrive_with_their_sender(loop: str) -> None:
    async def scene() -> None:
        received: list[tuple[bytes, Peer]] = []
        udp = listener(received)
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0))
            for number in range(3 * DRAIN):
                client.sendto(b"%d" % number, ("127.0.0.1", only(udp).socket.port))
            await settled(lambda: len(received) == 3 * DRAIN)
            assert [int(data) for data, _ in received] == list(range(3 * DRAIN))
            assert received[0][1] == Peer(sip.PROTO_UDP, *client.getsockname())
        await udp.close()

    play(loop, scene)


def test_answers_leave_from_the_listening_point(loop: str) -> None:
    async def scene() -> None:
        for address in ("127.0.0.1", "::1"):
            udp = listener([], address)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.bind((address, 0))
                client.settimeout(30)
                at = only(udp).socket
                assert udp.send(b"hello", Peer(sip.PROTO_UDP, *client.getsockname()[:2]), at)
                data, source = client.recvfrom(100)
                assert data == b"hello"
                assert source[:2] == (address, at.port)
            await udp.close()

    play(loop, scene)


def test_what_the_kernel_does_not_take_waits_in_a_bounded_queue(loop: str) -> None:
    async def scene() -> None:
        udp = listener([], queue_datagrams=3)
        at = only(udp)

        class Full:
            """A socket whose buffer is full until it is told otherwise."""

            full = True
            sent: list[bytes] = []

            def sendto(self, data: bytes, address: tuple[str, int]) -> int:
                if self.full:
                    raise BlockingIOError
                self.sent.append(data)
                return len(data)

            def close(self) -> None:
                real.close()

        real, fake = at._os, Full()
        at._os = fake  # type: ignore[assignment]
        peer = Peer(sip.PROTO_UDP, "127.0.0.1", 9)
        results = [udp.send(b"%d" % n, peer, at.socket) for n in range(5)]
        assert results == [True, True, True, False, False]
        assert udp.traffic.dropped_out == 2
        assert udp.waiting() == 3
        fake.full = False
        await settled(lambda: len(fake.sent) == 3)
        assert fake.sent == [b"0", b"1", b"2"]
        assert udp.send(b"5", peer, at.socket)
        await udp.close()

    play(loop, scene)


def test_what_cannot_be_sent_is_refused_at_once(loop: str) -> None:
    async def scene() -> None:
        udp = listener([])
        at = only(udp).socket
        for address, port in (("example.com", 5060), ("::1", 5060), ("127.0.0.1", 0), ("", 1), ("127.0.0.1\0", 1)):
            assert not udp.send(b"x", Peer(sip.PROTO_UDP, address, port), at)
        assert not udp.send(b"x" * 70_000, Peer(sip.PROTO_UDP, "127.0.0.1", 9), at)
        assert udp.traffic.send_errors == 6
        await udp.close()
        assert not udp.send(b"x", Peer(sip.PROTO_UDP, "127.0.0.1", 9), at)

    play(loop, scene)


class Wire:
    """A listener's socket that notes what it is told, in order, and takes nothing for the ports in `deaf`."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.log: list[str] = []
        self.deaf: set[int] = set()

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        data, address = self.real.recvfrom(size)
        self.log.append(f"in {data.decode()}")
        return data, address

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        self.log.append(f"out {data[:10].decode()}")
        if address[1] in self.deaf:
            raise PermissionError(1, "Operation not permitted")
        return len(data)

    def close(self) -> None:
        self.real.close()


def test_what_came_together_is_answered_together(loop: str) -> None:
    """Answers to the datagrams of one round leave after all of them were worked on, in their order."""

    async def scene() -> None:
        def answer(data: bytes, peer: Peer, at: Socket) -> None:
            wire.log.append(f"work {data.decode()}")
            big = b"x" * HELD_BYTES if data == b"3" else b""
            assert udp.send(b"a" + data + big, Peer(sip.PROTO_UDP, "127.0.0.1", 9), at)

        udp = UdpTransport(answer, asyncio.get_running_loop())
        udp.bind(Socket(sip.PROTO_UDP, "127.0.0.1", free_port()))
        wire = Wire(only(udp)._os)
        only(udp)._os = wire  # type: ignore[assignment]
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for number in range(5):
                client.sendto(b"%d" % number, ("127.0.0.1", only(udp).socket.port))
        udp.serve()
        await settled(lambda: udp.traffic.sent == 5)
        assert wire.log[:5] == [f"in {number}" for number in range(5)]
        # The first goes at once, as nothing has been sent there yet, and so does the one that is too big to be held;
        # what was held before it goes first.
        assert wire.log[5:] == [
            *("work 0", "out a0", "work 1", "work 2"),
            *("work 3", "out a1", "out a2", "out a3xxxxxxxx", "work 4", "out a4"),
        ]
        await udp.close()

    play(loop, scene)


def test_who_sent_what_could_not_leave_is_told(loop: str) -> None:
    """A held datagram that the system refuses later calls `on_failure` (RFC 3261 §18.4)."""

    async def scene() -> None:
        failed: list[bytes] = []
        results: list[bool] = []

        def answer(data: bytes, peer: Peer, at: Socket) -> None:
            port = 9 if data == b"0" else 10
            target = Peer(sip.PROTO_UDP, "127.0.0.1", port)
            results.append(udp.send(data, target, at, lambda: failed.append(data)))

        udp = UdpTransport(answer, asyncio.get_running_loop())
        udp.bind(Socket(sip.PROTO_UDP, "127.0.0.1", free_port()))
        wire = Wire(only(udp)._os)
        wire.deaf.add(10)
        only(udp)._os = wire  # type: ignore[assignment]
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for number in range(3):
                client.sendto(b"%d" % number, ("127.0.0.1", only(udp).socket.port))
            udp.serve()
            await settled(lambda: len(failed) == 2)
            assert failed == [b"1", b"2"]
            assert (udp.traffic.sent, udp.traffic.send_errors) == (1, 2)
            # From now on an error there is told at once, also in a round.
            for number in range(3, 5):
                client.sendto(b"%d" % number, ("127.0.0.1", only(udp).socket.port))
            await settled(lambda: len(results) == 5)
        assert results == [True, True, True, False, False]
        assert failed == [b"1", b"2"]
        await udp.close()

    play(loop, scene)


def test_a_listener_closed_in_a_round_sends_no_more(loop: str) -> None:
    async def scene() -> None:
        failed: list[bytes] = []

        def answer(data: bytes, peer: Peer, at: Socket) -> None:
            assert udp.send(data, Peer(sip.PROTO_UDP, "127.0.0.1", 9), at, lambda: failed.append(data)) == (data < b"2")
            if data == b"1":
                only(udp).close()

        udp = UdpTransport(answer, asyncio.get_running_loop())
        udp.bind(Socket(sip.PROTO_UDP, "127.0.0.1", free_port()))
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            for number in range(3):
                client.sendto(b"%d" % number, ("127.0.0.1", only(udp).socket.port))
        udp.serve()
        await settled(lambda: failed == [b"1"])
        assert udp.traffic.received == 3

    play(loop, scene)


def test_a_port_in_use_is_an_error(loop: str) -> None:
    async def scene() -> None:
        udp = listener([])
        with pytest.raises(OSError, match="in use"):
            udp.bind(Socket(sip.PROTO_UDP, "127.0.0.1", only(udp).socket.port))
        await udp.close()

    play(loop, scene)


def test_groups_are_known_by_their_address(loop: str) -> None:
    """RFC 5771, RFC 4291 §2.7; SIP's own group is 224.0.1.75 (RFC 3261 §18.1.1)."""
    assert is_multicast("224.0.1.75")
    assert is_multicast("ff02::1")
    assert not is_multicast("192.0.2.1")
    assert not is_multicast("2001:db8::1")


def test_options_of_a_listening_point_reach_the_system(loop: str) -> None:
    """`socket=... reuse_port tos ... frag`."""

    async def scene() -> None:
        made = UdpTransport(lambda *_: None, asyncio.get_running_loop(), UdpSettings(tos=0x10))
        point = Socket(sip.PROTO_UDP, "127.0.0.1", free_port())
        made.configure(point, SocketOptions(tos=0x08, reuse_port=True, fragments=True))
        made.bind(point)
        raw = only(made)._os
        assert raw.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x08
        assert raw.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == PMTUDISC_DONT
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", point.port))
        await made.close()

    play(loop, scene)
