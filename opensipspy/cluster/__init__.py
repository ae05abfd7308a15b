"""Several servers as one: the packets between them, and what modules ask of the cluster."""

from .contract import (
    ANY_NODE,
    DISABLED,
    FAILED,
    OTHER_SIP_ADDRESS,
    SAME_SIP_ADDRESS,
    SENT,
    UNREACHABLE,
    Capability,
    ClusterApi,
    ClusterNode,
    ClusterUser,
    SyncWriter,
)
from .door import BinDoor, Receive
from .packet import HEADER_BYTES, LEAST_BYTES, MARKER, MOST_BYTES, Packet, PacketError, PacketWriter, packet_bytes
from .tag import parse_tag

__all__ = [
    "ANY_NODE",
    "DISABLED",
    "FAILED",
    "HEADER_BYTES",
    "LEAST_BYTES",
    "MARKER",
    "MOST_BYTES",
    "OTHER_SIP_ADDRESS",
    "SAME_SIP_ADDRESS",
    "SENT",
    "UNREACHABLE",
    "BinDoor",
    "Capability",
    "ClusterApi",
    "ClusterNode",
    "ClusterUser",
    "Packet",
    "PacketError",
    "PacketWriter",
    "Receive",
    "SyncWriter",
    "packet_bytes",
    "parse_tag",
]
