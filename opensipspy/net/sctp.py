"""SCTP: one-to-many sockets of the kernel, each SIP message one SCTP message (RFC 4168 §4).

The kernel keeps the associations; a message that has to go to a peer opens one by itself. Nothing of this was ever run
where the kernel has no SCTP: there the listening point is refused with a clear error.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket as os_socket
from collections.abc import Callable
from typing import Final

from opensipspy.net.traffic import Traffic
from opensipspy.net.transport import Deliver, SocketOptions, Transport
from opensipspy.sip import PROTO_SCTP, Peer, Socket

LOG: Final = logging.getLogger(__name__)

DRAIN: Final = 64
MESSAGE_BYTES: Final = 131072
BACKLOG: Final = 128


class SctpTransport(Transport):
    """All SCTP listening points."""

    def __init__(self, deliver: Deliver, loop: asyncio.AbstractEventLoop) -> None:
        self.traffic = Traffic()
        self._deliver = deliver
        self._loop = loop
        self._sockets: dict[Socket, os_socket.socket] = {}
        self._reuse: set[Socket] = set()
        # What a broken message has shown of its beginning is not kept: the rest of it is left out.
        self._partial: set[tuple[Socket, str, int]] = set()

    def configure(self, socket: Socket, options: SocketOptions) -> None:
        if options.reuse_port:
            self._reuse.add(socket)

    def bind(self, socket: Socket) -> None:
        family = os_socket.AF_INET6 if socket.is_v6 else os_socket.AF_INET
        try:
            made = os_socket.socket(family, os_socket.SOCK_SEQPACKET, os_socket.IPPROTO_SCTP)
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                raise OSError(error.errno, "this kernel has no SCTP (Linux: load its module sctp)") from None
            raise
        try:
            made.setblocking(False)
            made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
            if socket in self._reuse:
                made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEPORT, 1)
            if socket.is_v6:
                made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_V6ONLY, 1)
            made.bind((socket.address, socket.port))
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        self._sockets[socket] = made

    def serve(self) -> None:
        for socket, made in self._sockets.items():
            self._loop.add_reader(made.fileno(), self._readable, socket, made)

    def _readable(self, socket: Socket, made: os_socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                data, _ancillary, flags, address = made.recvmsg(MESSAGE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                LOG.debug("%s: receive: %s", socket.text, error)
                continue
            if not data or not address:
                continue
            key = (socket, str(address[0]), int(address[1]))
            whole = bool(flags & os_socket.MSG_EOR)
            if key in self._partial or not whole:
                (self._partial.discard if whole else self._partial.add)(key)
                self.traffic.dropped_in += 1
                continue
            self.traffic.received += 1
            self._deliver(data, Peer(PROTO_SCTP, key[1], key[2]), socket)
            if made.fileno() < 0:
                return

    def send(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None = None) -> bool:
        made = self._sockets.get(socket)
        if made is None or made.fileno() < 0:
            return False
        try:
            made.sendto(data, (peer.address, peer.port))
        except (OSError, OverflowError) as error:
            # A full buffer too: the sender's transaction tries another destination or asks again.
            self.traffic.send_errors += 1
            LOG.warning("%s: cannot send %d bytes to %s: %s", socket.text, len(data), peer.text, error)
            return False
        self.traffic.sent += 1
        return True

    def pause(self) -> None:
        for made in self._sockets.values():
            if made.fileno() >= 0:
                self._loop.remove_reader(made.fileno())

    async def close(self) -> None:
        self.pause()
        for made in self._sockets.values():
            made.close()
        self._sockets.clear()

    def waiting(self) -> int:
        return 0
