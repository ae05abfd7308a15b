"""Several servers as one: the packets between them, and what modules ask of the cluster."""

from .door import BinDoor, Receive
from .packet import HEADER_BYTES, LEAST_BYTES, MARKER, MOST_BYTES, Packet, PacketError, PacketWriter, packet_bytes

__all__ = [
    "HEADER_BYTES",
    "LEAST_BYTES",
    "MARKER",
    "MOST_BYTES",
    "BinDoor",
    "Packet",
    "PacketError",
    "PacketWriter",
    "Receive",
    "packet_bytes",
]
