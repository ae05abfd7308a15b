"""SCTP: refused with a clear word where the kernel has none, carried where it has."""

from __future__ import annotations

import asyncio
import socket

import pytest

from opensipspy import sip
from opensipspy.net.sctp import SctpTransport
from opensipspy.sip import Peer, Socket
from tests.server.house import free_port, play, settled

MESSAGE = b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n"


def kernel_has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(kernel_has_sctp(), reason="this kernel has SCTP")
def test_a_kernel_without_sctp_refuses() -> None:
    async def scene() -> None:
        transport = SctpTransport(lambda *_: None, asyncio.get_running_loop())
        with pytest.raises(OSError, match="no SCTP"):
            transport.bind(Socket(sip.PROTO_SCTP, "127.0.0.1", 5060))

    play("asyncio", scene)


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
