"""The packets of the cluster itself, as OpenSIPS 4 has them: names, kinds, and what stands in them.

Those of `INTERNAL` begin with the number of the cluster and of the node that made them; updates go on with a number
and a time that order them, and end with the nodes that they came through. All others end with the numbers of the
cluster, of the node that made them, and of the node that they are for.
"""

from __future__ import annotations

from typing import Final

from opensipspy.cluster import Packet, PacketError, PacketWriter
from opensipspy.modules.clusterer.node import LONGEST_NAME, LONGEST_URL, MOST_CAPABILITIES, MOST_NODES, Definition

INTERNAL: Final = "clusterer-internal"
EXTRA: Final = "clusterer-extra"

PING: Final = 0
PONG: Final = 1
LINK_UPDATE: Final = 2
TOPOLOGY: Final = 3
UNKNOWN_NODE: Final = 4
DESCRIPTION: Final = 5
REMOVE_NODE: Final = 6
MESSAGE: Final = 7
MI_COMMAND: Final = 8
CAPABILITIES: Final = 9
SYNC_REQUEST: Final = 10
SYNC_DATA: Final = 11
SYNC_END: Final = 12
TAG_ACTIVE: Final = 13

VERSION: Final = 1
SYNC_VERSION: Final = 3

LINK_IS_UP: Final = 0
LINK_IS_DOWN: Final = 1
# Stands for the node that a packet over a bridge is for; the number of the sender's cluster stands before the address.
BRIDGED: Final = -(1 << 30)
ANY: Final = -1
CHUNK_MARK: Final = 101010101
LONGEST_WAY: Final = 25
MOST_MI_PARAMS: Final = 64


def internal(kind: int, cluster_id: int, node_id: int) -> PacketWriter:
    """The beginning of a packet of `INTERNAL`."""
    return PacketWriter(INTERNAL, kind, VERSION).number(cluster_id).number(node_id)


def extra(kind: int, version: int = VERSION) -> PacketWriter:
    """The beginning of a packet of `EXTRA`."""
    return PacketWriter(EXTRA, kind, version)


def addressed(packet: PacketWriter, cluster_id: int, source: int, destination: int) -> bytes:
    """A packet with its address; `packet` stays as it is, for the next destination. Raises PacketError."""
    made = PacketWriter(packet.capability, packet.kind, packet.version).raw(packet.fields())
    return made.number(cluster_id).number(source).number(destination).data()


def forwarded(packet: Packet, cluster_id: int, source: int, destination: int) -> bytes:
    """A packet whose address was read, for the next hop. Raises PacketError."""
    made = PacketWriter(packet.capability, packet.kind, packet.version).raw(packet.fields())
    return made.number(cluster_id).number(source).number(destination).data()


def put_way(packet: PacketWriter, way: list[int]) -> PacketWriter:
    """End an update with the nodes it came through."""
    packet.number(len(way))
    for node_id in way:
        packet.number(node_id)
    return packet


def take_way(packet: Packet) -> list[int]:
    """The nodes that an update came through. Raises PacketError."""
    return [packet.number() for _ in range(packet.count(LONGEST_WAY))]


def put_description(packet: PacketWriter, definition: Definition) -> PacketWriter:
    """What others have to know of a node."""
    packet.text(definition.url).text(definition.sip_address)
    return packet.number(definition.priority).number(definition.retries)


class Described:
    """What a node told of one, itself or another."""

    __slots__ = ("priority", "retries", "sip_address", "url")

    def __init__(self, packet: Packet) -> None:
        """Raises PacketError."""
        self.url = packet.text()
        self.sip_address = packet.text()
        self.priority = packet.number()
        self.retries = packet.number()
        if len(self.url) > LONGEST_URL or len(self.sip_address) > LONGEST_URL:
            raise PacketError("the address of a node is too long")

    def definition(self, cluster_id: int, node_id: int) -> Definition:
        """Raises PacketError for what no node can be."""
        try:
            return Definition(
                cluster_id,
                node_id,
                self.url,
                retries=self.retries,
                priority=self.priority,
                sip_address=self.sip_address,
            )
        except ValueError as error:
            raise PacketError(str(error)) from error


class TopologyEntry:
    """What a topology update tells of one node."""

    __slots__ = ("described", "neighbours", "node_id", "order")

    def __init__(self, packet: Packet) -> None:
        """Raises PacketError."""
        self.node_id = packet.number()
        self.described = Described(packet) if packet.number() else None
        self.order = (packet.number(), packet.number())
        self.neighbours = [packet.number() for _ in range(packet.count(MOST_NODES))]


def take_topology(packet: Packet) -> list[TopologyEntry]:
    """What a topology update tells. Raises PacketError."""
    return [TopologyEntry(packet) for _ in range(packet.count(MOST_NODES))]


def take_capabilities(packet: Packet) -> list[tuple[int, dict[str, bool]]]:
    """Node -> capability -> whether it is in order there. Raises PacketError."""
    found = []
    for _ in range(packet.count(MOST_NODES)):
        node_id = packet.number()
        states: dict[str, bool] = {}
        for _ in range(packet.count(MOST_CAPABILITIES)):
            name = packet.text()
            state = packet.number()
            if not 0 < len(name) <= LONGEST_NAME:
                raise PacketError("the name of a capability is empty or too long")
            if state not in (0, 1):
                raise PacketError(f"{state} is no state of a capability")
            states[name] = bool(state)
        found.append((node_id, states))
    return found
