"""What a module asks of the cluster.

class Shared(ClusterUser):
    def on_packet(self, packet, source): ...       # raises PacketError for nonsense

api = self.core.api("clusterer", ClusterApi)       # `wants = ("clusterer",)`; LookupError without it
mine = api.join("my-cap", cluster_id, Shared(), startup_sync=True)     # in start(); LookupError: no such cluster
mine.broadcast(PacketWriter("my-cap", KIND).text("x"))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final

from opensipspy.cluster.packet import Packet, PacketWriter

# What became of a packet, in the numbers of script functions.
SENT: Final = 1
DISABLED: Final = -1
UNREACHABLE: Final = -2
FAILED: Final = -3

# With which nodes data are shared.
ANY_NODE: Final = 0
SAME_SIP_ADDRESS: Final = 1
OTHER_SIP_ADDRESS: Final = 2


class ClusterNode:
    """A node that can be reached."""

    __slots__ = ("address", "description", "node_id", "port", "sip_address")

    def __init__(self, node_id: int, address: str, port: int, sip_address: str, description: str) -> None:
        self.node_id = node_id
        self.address = address
        self.port = port
        self.sip_address = sip_address
        self.description = description


class SyncWriter(ABC):
    """Takes the data that a node asks for, piece by piece; pieces travel together while they fit into a packet."""

    @abstractmethod
    def add(self, chunk: PacketWriter) -> None:
        """Send the fields of `chunk`; its `version` is that of the data, and is the same for all. Raises PacketError
        for a piece that no packet can hold."""

    @abstractmethod
    async def room(self) -> None:
        """Wait while much of what was added has not left yet; to be awaited now and then by who has much to add.
        Raises PacketError when the node does not take it."""


class ClusterUser:
    """What a capability is told. Nothing has to be overridden but what is wanted."""

    def on_packet(self, packet: Packet, source: int) -> None:
        """A packet of the capability, from node `source`. Raises PacketError for one that makes no sense."""

    def on_node(self, node_id: int, up: bool) -> None:
        """A node can be reached, or cannot any more."""

    def on_sync_request(self, node_id: int, sync: SyncWriter) -> Awaitable[None] | None:
        """A node wants all data: add them to `sync`, at once or in a coroutine."""
        return None

    def on_sync_chunk(self, chunk: Packet, source: int) -> None:
        """A piece of what was asked for with `request_sync`; `chunk.version` is that of the data."""

    def on_synced(self, source: int) -> None:
        """All pieces have come. Packets that came meanwhile follow."""


class Capability(ABC):
    """A module's place in a cluster."""

    name: str
    cluster_id: int

    @property
    @abstractmethod
    def synced(self) -> bool:
        """Whether this node has all data: it is not so before the first sync of a capability that needs one."""

    @abstractmethod
    def send(self, node_id: int, packet: PacketWriter) -> int:
        """Send to one node, through others where there is no link. SENT, DISABLED, UNREACHABLE or FAILED."""

    @abstractmethod
    def broadcast(self, packet: PacketWriter) -> int:
        """Send to all other nodes. SENT when it left for one of them, or there are none."""

    @abstractmethod
    def broadcast_bridges(self, packet: PacketWriter) -> int:
        """Send to one node of each cluster that a bridge leads to, if the bridge's sharing tag is active here."""

    @abstractmethod
    def request_sync(self) -> None:
        """Ask a node that is synced for all data, as soon as there is one."""

    @abstractmethod
    def synced_nodes(self) -> list[int]:
        """The reachable nodes that are synced, and this one if it is, in order: who shares work picks its share."""


class ClusterApi(ABC):
    """What the module `clusterer` offers."""

    my_node_id: int

    @abstractmethod
    def join(
        self, name: str, cluster_id: int, user: ClusterUser, *, startup_sync: bool = False, with_nodes: int = ANY_NODE
    ) -> Capability:
        """Take part in a cluster. startup_sync: the data of others are asked for at once, and this node is not synced
        before it has them. with_nodes: whose. Raises LookupError for an unknown cluster."""

    @abstractmethod
    def nodes(self, cluster_id: int) -> list[ClusterNode]:
        """The other nodes that can be reached; [] for an unknown cluster."""

    @abstractmethod
    def my_sip_address(self, cluster_id: int) -> str:
        """The `sip_addr` of this node, "" when it has none."""

    @abstractmethod
    def check_address(self, cluster_id: int, address: str, *, sip: bool = True) -> bool:
        """Whether an address is a node's `sip_addr`, or with `sip=False` where its BIN packets come from."""

    @abstractmethod
    def tag_active(self, tag: str, cluster_id: int) -> bool:
        """Whether a sharing tag is active here. An unknown one becomes known, and is not."""

    @abstractmethod
    def activate_tag(self, tag: str, cluster_id: int, reason: str) -> None:
        """Make a sharing tag active here, and passive everywhere else."""

    @abstractmethod
    def on_tag(self, callback: Callable[[str, int, bool], None]) -> None:
        """Call `callback(tag, cluster_id, active)` when a sharing tag changes."""
