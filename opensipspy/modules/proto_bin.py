"""proto_bin: lets the servers of a cluster talk to each other in BIN packets over TCP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from opensipspy import sip
from opensipspy.cluster import BinDoor, Packet, PacketError, Receive
from opensipspy.module import Module, Param
from opensipspy.sip import Peer, Socket

COMPLAIN_EVERY_S: Final = 1.0


class ProtoBin(Module, BinDoor):
    """BIN over TCP: without it no `socket=bin:...` can be opened.

    The protocol neither encrypts nor authenticates: listen where only the other nodes can reach. A stream that is no
    sequence of packets is closed; packets that nobody takes, or that hold something else than they should, are dropped.
    """

    protocol = sip.PROTO_BIN

    bin_port = Param(int, 5555, "Port of the BIN listening points that name none.")
    bin_send_timeout = Param(
        int,
        100,
        "Without `bin_async`: how long a connection may stay unable to take data that waits for it before it is "
        "closed.",
        unit="ms",
    )
    bin_max_msg_chunks = Param(
        int, 32, "In how many pieces a packet may arrive; a connection that brings more is closed. 0: any number."
    )
    bin_async = Param(int, 1, "Connect and write without blocking. The server never blocks, whatever the value.")
    bin_async_max_postponed_chunks = Param(
        int, 1024, "How many packets may wait for a connection that cannot take them before it is closed."
    )
    bin_async_local_write_timeout = Param(
        int,
        10,
        "How long the C server tries to write at once; writing is handed to the system at once here.",
        unit="ms",
    )

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.sockets: list[Socket] = []
        # Packets that were dropped, and those of them that no line in the log tells of yet.
        self.dropped = 0
        self._unsaid = 0
        self._said_at = -COMPLAIN_EVERY_S
        self._takers: dict[str, Receive] = {}
        self._waiting: Callable[[], int] = int

    @property
    def default_port(self) -> int:
        """The port of a listening point that names none."""
        return self.bin_port

    def opened(self, socket: Socket) -> None:
        """A listening point is there."""
        self.sockets.append(socket)

    def measure(self, waiting: Callable[[], int]) -> None:
        """Where to ask for what has not left yet."""
        self._waiting = waiting

    def waiting(self) -> int:
        return self._waiting()

    def on_packet(self, capability: str, receive: Receive) -> None:
        self._takers[capability] = receive

    def received(self, data: bytes, peer: Peer, socket: Socket) -> None:
        """One packet from the network."""
        try:
            packet = Packet(data)
            taker = self._takers.get(packet.capability)
            if taker is None:
                self.complain(peer, f"nobody takes packets of {packet.capability[:64]!r}")
                return
            taker(packet, peer)
        except PacketError as error:
            self.complain(peer, str(error))

    def complain(self, peer: Peer, reason: str) -> None:
        self.dropped += 1
        now = self.core.now()
        if now - self._said_at < COMPLAIN_EVERY_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} before it, too)" if self._unsaid else ""
        self._said_at, self._unsaid = now, 0
        self.core.log.warning("a packet from %s is dropped: %s%s", peer.text, reason, more)
