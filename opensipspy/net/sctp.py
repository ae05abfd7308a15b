"""SCTP: one-to-many sockets of the kernel, each SIP message one SCTP message (RFC 4168 §4 and §5).

The kernel keeps the associations; a message that has to go to a peer opens one by itself. All messages go unordered
over stream 0 (§5.1), so that one that is lost holds up none behind it, and the kernel drops what it could not send in
the time that a transaction lasts. What happens to associations it tells as notifications among the messages.

No kernel here has SCTP: the tests play one. Options that a kernel refuses are done without; a kernel without SCTP
refuses the listening point, which ends the start.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket as os_socket
import struct
from collections.abc import Callable
from typing import Final

from opensipspy.net.traffic import Traffic
from opensipspy.net.transport import Deliver, SocketOptions, Transport
from opensipspy.sip import PROTO_SCTP, Peer, Socket

LOG: Final = logging.getLogger(__name__)

DRAIN: Final = 64
MESSAGE_BYTES: Final = 131072
BACKLOG: Final = 128
# Messages that the kernel hands over in pieces, of different peers.
MOST_PARTIAL: Final = 16
MOST_ASSOCIATIONS: Final = 2048
# How long an association may be silent; longer than any transaction waits.
IDLE_S: Final = 600
# What a transaction waits for at most while nothing comes (RFC 3261 timers B and F).
USEFUL_MS: Final = 32000
# Attempts to open an association, and how far apart they may grow.
INIT_ATTEMPTS: Final = 3
INIT_MS: Final = 1000
# Retransmissions, of seconds that double, until an association counts as lost: 5 are half a minute.
RETRANSMISSIONS: Final = 5

# Of Linux's <linux/sctp.h> (RFC 6458 §5.3, §6.1, §8.1); Python names none of them.
SCTP_ASSOCINFO: Final = 1
SCTP_INITMSG: Final = 2
SCTP_NODELAY: Final = 3
SCTP_AUTOCLOSE: Final = 4
SCTP_DEFAULT_SEND_PARAM: Final = 10
SCTP_EVENTS: Final = 11
SCTP_SNDRCV: Final = 1
UNORDERED: Final = 1
ABORT: Final = 4
MSG_NOTIFICATION: Final = 0x8000
ASSOC_CHANGE: Final = 0x8001
COMM_UP: Final = 0
RESTART: Final = 2
# stream, ssn, flags, ppid, context, time to live in ms, tsn, cumtsn, association
SNDRCV_INFO: Final = struct.Struct("=HHHxxIIIIIi")
# streams out, streams in, attempts, longest wait in ms; 0 leaves a value as it is.
INIT_MESSAGE: Final = struct.Struct("=HHHH")
# association, retransmissions, peer's addresses, its window, our window, life of a cookie
ASSOCIATION_PARAMS: Final = struct.Struct("=iHHIII")
# data, association
EVENTS_WANTED: Final = struct.Struct("=BB")
# type, flags, length, state, error, streams out, streams in, association
CHANGE: Final = struct.Struct("=HHIHHHHi")

Association = tuple[Socket, str, int]


class SctpTransport(Transport):
    """All SCTP listening points."""

    def __init__(
        self, deliver: Deliver, loop: asyncio.AbstractEventLoop, max_associations: int = MOST_ASSOCIATIONS
    ) -> None:
        self.traffic = Traffic()
        self.max_associations = max_associations
        # Told of each association that is there no more, or could not be opened.
        self.on_lost: Callable[[Peer], None] | None = None
        self._deliver = deliver
        self._loop = loop
        self._sockets: dict[Socket, os_socket.socket] = {}
        self._options: dict[Socket, SocketOptions] = {}
        self._up: set[Association] = set()
        # Listening points whose kernel tells nothing of associations.
        self._untold: set[Socket] = set()
        # Messages of which only the beginning is there; None for one that is too long, whose rest is left out.
        self._partial: dict[Association, bytearray | None] = {}

    @property
    def associations(self) -> int:
        """How many are open."""
        return len(self._up)

    # -- listening

    def configure(self, socket: Socket, options: SocketOptions) -> None:
        self._options[socket] = options

    def bind(self, socket: Socket) -> None:
        family = os_socket.AF_INET6 if socket.is_v6 else os_socket.AF_INET
        try:
            made = os_socket.socket(family, os_socket.SOCK_SEQPACKET, os_socket.IPPROTO_SCTP)
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                raise OSError(error.errno, "this kernel has no SCTP (Linux: load its module sctp)") from None
            raise
        options = self._options.get(socket) or SocketOptions()
        try:
            made.setblocking(False)
            made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
            if options.reuse_port:
                made.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEPORT, 1)
            if socket.is_v6:
                made.setsockopt(os_socket.IPPROTO_IPV6, os_socket.IPV6_V6ONLY, 1)
            self._tune(made, socket, options)
            made.bind((socket.address, socket.port))
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        self._sockets[socket] = made

    def _tune(self, made: os_socket.socket, socket: Socket, options: SocketOptions) -> None:
        """Ask the kernel for what makes SCTP fit for SIP; a message gets through without any of it."""
        level = os_socket.IPPROTO_SCTP
        wishes: list[tuple[int, int, int | bytes]] = [
            (level, SCTP_NODELAY, 1),
            (level, SCTP_AUTOCLOSE, IDLE_S),
            (level, SCTP_INITMSG, INIT_MESSAGE.pack(0, 0, INIT_ATTEMPTS, INIT_MS)),
            (level, SCTP_ASSOCINFO, ASSOCIATION_PARAMS.pack(0, RETRANSMISSIONS, 0, 0, 0, 0)),
            (level, SCTP_DEFAULT_SEND_PARAM, SNDRCV_INFO.pack(0, 0, UNORDERED, 0, 0, USEFUL_MS, 0, 0, 0)),
            (level, SCTP_EVENTS, EVENTS_WANTED.pack(0, 1)),
        ]
        if options.tos >= 0:
            v6 = (os_socket.IPPROTO_IPV6, os_socket.IPV6_TCLASS)
            wishes.append((*(v6 if socket.is_v6 else (os_socket.IPPROTO_IP, os_socket.IP_TOS)), options.tos))
        for where, name, value in wishes:
            try:
                made.setsockopt(where, name, value)
            except OSError as error:
                LOG.info("%s: the kernel refuses option %d: %s", socket.text, name, error)
                if name == SCTP_EVENTS:
                    self._untold.add(socket)

    def serve(self) -> None:
        for socket in self._sockets:
            self.admit(socket)

    def admit(self, socket: Socket) -> None:
        made = self._sockets[socket]
        self._loop.add_reader(made.fileno(), self._readable, socket, made)

    def unbind(self, socket: Socket) -> None:
        made = self._sockets.pop(socket)
        self._loop.remove_reader(made.fileno())
        made.close()
        for association in [found for found in self._up if found[0] is socket]:
            self._ended(association)
        self._untold.discard(socket)

    # -- receiving

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
            association = (socket, str(address[0]), int(address[1]))
            if flags & MSG_NOTIFICATION:
                self._notified(association, data, made)
                continue
            if not association[2]:
                self.traffic.dropped_in += 1
                continue
            whole = self._whole(association, data, last=bool(flags & os_socket.MSG_EOR))
            if whole:
                self.traffic.received += 1
                self._deliver(whole, Peer(PROTO_SCTP, association[1], association[2]), socket)
            if made.fileno() < 0:
                return

    def _whole(self, association: Association, data: bytes, *, last: bool) -> bytes:
        """The message that ends here; b"" while more of it is to come (RFC 6458 §3.1.4, MSG_EOR), or it is too long."""
        partial = self._partial
        if association not in partial:
            if last:
                return data
            partial[association] = bytearray() if len(partial) < MOST_PARTIAL else None
        begun = partial[association]
        if begun is not None:
            begun += data
            if len(begun) > MESSAGE_BYTES:
                begun = partial[association] = None
        if not last:
            return b""
        del partial[association]
        if begun is None:
            self.traffic.dropped_in += 1
            LOG.info("%s: a message of %s:%d is too long", association[0].text, association[1], association[2])
            return b""
        return bytes(begun)

    def _notified(self, association: Association, data: bytes, made: os_socket.socket) -> None:
        """The kernel tells what became of an association."""
        if len(data) < CHANGE.size:
            return
        kind, _, _, state, _, _, _, number = CHANGE.unpack_from(data)
        if kind != ASSOC_CHANGE:
            return
        if state == COMM_UP:
            if len(self._up) < self.max_associations:
                self._up.add(association)
            else:
                self._refuse(association, number, made)
        elif state == RESTART:
            # The peer has begun anew: what it had begun to say before will not end.
            self._partial.pop(association, None)
        else:
            self._ended(association)

    def _refuse(self, association: Association, number: int, made: os_socket.socket) -> None:
        socket, address, port = association
        self.traffic.refused += 1
        LOG.warning("%s: %s refused: %d associations are open", socket.text, address, len(self._up))
        abort = SNDRCV_INFO.pack(0, 0, ABORT, 0, 0, 0, 0, 0, number)
        try:
            made.sendmsg([], [(os_socket.IPPROTO_SCTP, SCTP_SNDRCV, abort)], 0, (address, port))
        except OSError as error:
            LOG.debug("%s: abort: %s", socket.text, error)

    def _ended(self, association: Association) -> None:
        """An association is gone, or did not come about: who waits for an answer is told (RFC 3261 §18.4)."""
        self._up.discard(association)
        self._partial.pop(association, None)
        if self.on_lost is not None:
            self.on_lost(Peer(PROTO_SCTP, association[1], association[2]))

    # -- sending

    def reaches(self, peer: Peer) -> bool:
        place = (peer.address, peer.port)
        return any(socket in self._untold or (socket, *place) in self._up for socket in self._sockets)

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

    # -- the end

    def pause(self) -> None:
        for made in self._sockets.values():
            if made.fileno() >= 0:
                self._loop.remove_reader(made.fileno())

    async def close(self) -> None:
        self.pause()
        for made in self._sockets.values():
            made.close()
        self._sockets.clear()
        self._up.clear()
        self._partial.clear()

    def waiting(self) -> int:
        return sum(len(begun) for begun in self._partial.values() if begun is not None)
