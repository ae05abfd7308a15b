"""Where BIN packets come in: what `proto_bin` offers to those who talk to other nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from opensipspy.cluster.packet import Packet

if TYPE_CHECKING:
    from opensipspy.sip import Peer, Socket

Receive = Callable[[Packet, "Peer"], None]
"""Takes one packet and who sent it. Raises PacketError for one that is not what its capability says."""


class BinDoor(ABC):
    """The listening points of the BIN protocol. A packet leaves with `core.send(data, Target(peer, socket))`."""

    sockets: list[Socket]
    """The listening points, in the order of the script."""

    @property
    @abstractmethod
    def default_port(self) -> int:
        """The port of an address that names none."""

    @abstractmethod
    def on_packet(self, capability: str, receive: Receive) -> None:
        """Give packets of a capability to `receive`; the last one counts."""

    @abstractmethod
    def waiting(self) -> int:
        """Octets that have not left yet, of all packets."""

    @abstractmethod
    def complain(self, peer: Peer, reason: str) -> None:
        """Count a packet that was dropped; the log has one line of it, and floods one line a second."""
