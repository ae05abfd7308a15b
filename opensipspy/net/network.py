"""All listening points of the server, whatever their protocol, and the choice of the one to send from."""

from __future__ import annotations

import logging
import socket as os_socket
from collections.abc import Callable
from typing import Final

from opensipspy import sip
from opensipspy.module.target import Target
from opensipspy.net.tcp import TcpTransport
from opensipspy.net.transport import SocketOptions, Transport
from opensipspy.sip import Peer, Socket

LOG: Final = logging.getLogger("opensipspy.core")
# Any port will do for a probe: connect() of a datagram socket sends nothing.
PROBE_PORT: Final = 5060


class Network:
    """Listening points in the order of the script, and their transports by protocol number."""

    def __init__(self, *, mhomed: bool = False) -> None:
        self.sockets: list[Socket] = []
        self.mhomed = mhomed
        self._serving = False
        # Counts the changes of `sockets`, for those who keep what they derived from it.
        self.generation = 0
        self._transports: dict[int, Transport] = {}
        self._defaults: dict[tuple[int, bool, bool], Socket | None] = {}

    def add_transport(self, proto: int, transport: Transport) -> None:
        """Let a protocol's listening points be bound."""
        self._transports[proto] = transport

    def transport(self, proto: int) -> Transport | None:
        return self._transports.get(proto)

    def streams(self) -> list[TcpTransport]:
        """The transports whose peers have connections."""
        return [transport for transport in self._transports.values() if isinstance(transport, TcpTransport)]

    def bind(self, socket: Socket, options: SocketOptions | None = None) -> None:
        """Open a listening point. Raises LookupError when no transport serves its protocol, OSError from the system.

        One of BIN is not among `sockets`: those are for SIP."""
        transport = self._transports.get(socket.proto)
        if transport is None:
            raise LookupError(sip.proto_name(socket.proto))
        if options is not None:
            transport.configure(socket, options)
        transport.bind(socket)
        if self._serving:
            transport.admit(socket)
        if socket.proto != sip.PROTO_BIN:
            self.sockets.append(socket)
            self._changed()

    def unbind(self, socket: Socket) -> None:
        """Close a listening point; what was received there can still be answered over connections. Raises LookupError
        for one that is not open."""
        transport = self._transports.get(socket.proto)
        if transport is None or socket not in self.sockets:
            raise LookupError(socket.text)
        transport.unbind(socket)
        self.sockets.remove(socket)
        self._changed()

    def _changed(self) -> None:
        for index, socket in enumerate(self.sockets):
            socket.index = index
        self._defaults.clear()
        self.generation += 1

    def serve(self) -> None:
        """Begin to take messages."""
        self._serving = True
        for transport in self._transports.values():
            transport.serve()

    def pause(self) -> None:
        """Take no new messages."""
        for transport in self._transports.values():
            transport.pause()

    async def close(self) -> None:
        for transport in self._transports.values():
            await transport.close()

    def protocols(self) -> tuple[int, ...]:
        """The protocols that we listen on, in the order of the script."""
        return tuple(dict.fromkeys(socket.proto for socket in self.sockets))

    def send(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None = None) -> bool:
        """Hand bytes to the transport of `socket`; see `Transport.send`."""
        transport = self._transports.get(socket.proto)
        return transport is not None and transport.send(data, peer, socket, on_failure)

    def dispatch(self, data: bytes, target: Target, on_failure: Callable[[], None] | None = None) -> bool:
        """Hand bytes to the transport of a target's socket, unless that needs a connection that must not be opened."""
        if not target.connect and not self.reaches(target.peer, target.socket):
            LOG.info("no connection to %s, and none is to be opened", target.peer.text)
            return False
        socket = target.socket
        transport = self._transports.get(socket.proto)
        return transport is not None and transport.send(data, target.peer, socket, on_failure)

    def reaches(self, peer: Peer, socket: Socket) -> bool:
        """Whether a message to `peer` can leave by `socket` without a new connection."""
        transport = self._transports.get(socket.proto)
        return transport is not None and transport.reaches(peer)

    def choose_socket(self, peer: Peer, forced: Socket | None = None, received: Socket | None = None) -> Socket | None:
        """The listening point to reach `peer` from: `forced` when it fits protocol and address family, or the first of
        its sockets that does when it is a bond, or the one of the same address and port with another protocol; else the
        one whose address the system would send from (`mhomed`), else `received`, where a request came in, when it fits
        and is of UDP, else the first that fits. None when none does."""
        v6 = ":" in peer.address
        if forced is not None and forced.is_v6 == v6 and forced.proto == peer.proto:
            return forced
        if forced is not None:
            for socket in self.sockets if forced.members is None else forced.members:
                if socket.proto != peer.proto or socket.is_v6 != v6:
                    continue
                if forced.members is not None or (socket.address == forced.address and socket.port == forced.port):
                    return socket
        if self.mhomed:
            found = self._routed(peer, v6)
            if found is not None:
                return found
        if received is not None and received.proto == sip.PROTO_UDP == peer.proto and received.is_v6 == v6:
            return received
        key = (peer.proto, v6, is_loopback(peer.address))
        if key not in self._defaults:
            self._defaults[key] = self._first(peer.proto, v6, key[2])
        return self._defaults[key]

    def _first(self, proto: int, v6: bool, loopback: bool) -> Socket | None:
        fitting = [s for s in self.sockets if s.proto == proto and s.is_v6 == v6]
        # From 127.0.0.1 nothing but this machine can be reached, so another one is better for everything else.
        nearest = [s for s in fitting if is_loopback(s.address) == loopback]
        found = nearest or fitting
        return found[0] if found else None

    def _routed(self, peer: Peer, v6: bool) -> Socket | None:
        family = os_socket.AF_INET6 if v6 else os_socket.AF_INET
        with os_socket.socket(family, os_socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((peer.address, peer.port or PROBE_PORT))
                address = probe.getsockname()[0]
            except OSError:
                return None
        for socket in self.sockets:
            if socket.proto == peer.proto and socket.is_v6 == v6 and socket.address in (address, "0.0.0.0", "::"):
                return socket
        return None

    def waiting(self, proto: int) -> int:
        """Bytes that wait in our queues of one protocol."""
        transport = self._transports.get(proto)
        return transport.waiting() if transport is not None else 0


def is_loopback(address: str) -> bool:
    """Whether an address literal reaches this machine only."""
    return address.startswith("127.") or address == "::1"
