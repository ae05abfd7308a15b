"""Capabilities: what modules share with other nodes, and how a node that lacks the data gets them from one that has."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from opensipspy.cluster import (
    ANY_NODE,
    FAILED,
    MOST_BYTES,
    SAME_SIP_ADDRESS,
    SENT,
    Capability,
    ClusterUser,
    Packet,
    PacketError,
    PacketWriter,
    SyncWriter,
)
from opensipspy.modules.clusterer import wire

if TYPE_CHECKING:
    from opensipspy.modules.clusterer.cluster import Cluster
    from opensipspy.modules.clusterer.node import Node

# Status of a capability, as status reports show it.
NOT_SYNCED: Final = -3
SYNC_PENDING: Final = -2
SYNCING: Final = -1
SYNCED: Final = 1
DETAILS: Final = {
    NOT_SYNCED: "not synced",
    SYNC_PENDING: "sync pending",
    SYNCING: "sync in progress",
    SYNCED: "synced",
}
# Packets that come while data are synced and are kept until these are complete.
MOST_KEPT: Final = 10_000
# How many pieces of data come is told behind the last one; over another way that may be there earlier.
UNKNOWN: Final = -1
# Octets of packets that have not left: beyond it who sends many waits, for so long at most.
MOST_BACKLOG: Final = 4 << 20
PATIENCE_S: Final = 30.0
PAUSE_S: Final = 0.02
# Room for the address of a packet.
ADDRESS_BYTES: Final = 12


class LocalCapability(Capability):
    """One capability of one cluster on this node."""

    def __init__(self, cluster: Cluster, name: str, user: ClusterUser, startup_sync: bool, with_nodes: int) -> None:
        self.cluster = cluster
        self.name = name
        self.cluster_id = cluster.cluster_id
        self.user = user
        self.enabled = True
        self.ok = not startup_sync
        # Whether data are wanted and nobody was asked yet.
        self.pending = False
        self.in_progress = False
        # Whether data were asked for and have not come.
        self._wanted = False
        self.status = SYNCED if self.ok else NOT_SYNCED
        self._needs_data = startup_sync
        self._with_nodes = with_nodes
        self._asked: int = 0
        self._active_at = 0.0
        self._chunks = 0
        self._total = UNKNOWN
        self._kept: deque[tuple[Packet, int]] = deque()
        self._lost = 0

    # --- Capability

    @property
    def synced(self) -> bool:
        return self.ok

    def send(self, node_id: int, packet: PacketWriter) -> int:
        if not self.enabled:
            return SENT
        return self.cluster.send_to(node_id, packet)

    def broadcast(self, packet: PacketWriter) -> int:
        if not self.enabled:
            return SENT
        return self.cluster.broadcast(packet)

    def broadcast_bridges(self, packet: PacketWriter) -> int:
        if not self.enabled:
            return SENT
        return self.cluster.broadcast_bridges(packet)

    def synced_nodes(self) -> list[int]:
        cluster = self.cluster
        found = [n for n in cluster.routes if n in cluster.nodes and cluster.nodes[n].capabilities.get(self.name)]
        if self.ok:
            found.append(cluster.my_id)
        return sorted(found)

    def request_sync(self) -> None:
        if self.pending or self.in_progress or not self.enabled:
            return
        self._wanted = True
        if self.ok:
            self.ok = False
            self.cluster.tell_capability(self, False)
        self._chunks = 0
        self._total = UNKNOWN
        self._active_at = self.cluster.now()
        donor = next((node for node in self.cluster.nodes.values() if self._gives(node)), None)
        if donor is None or not self._ask(donor):
            self.pending = True
            self._became(SYNC_PENDING, "Sync request postponed! (no donor available)")

    # --- asking

    def _gives(self, node: Node) -> bool:
        """Whether a node has the data and can be asked for them."""
        return node.node_id in self.cluster.routes and node.capabilities.get(self.name, False) and self._fits(node)

    def _fits(self, node: Node) -> bool:
        if self._with_nodes == ANY_NODE:
            return True
        same = node.definition.sip_address == self.cluster.me.definition.sip_address
        return same == (self._with_nodes == SAME_SIP_ADDRESS)

    def _ask(self, donor: Node) -> bool:
        packet = wire.extra(wire.SYNC_REQUEST, wire.SYNC_VERSION).text(self.name)
        if self.cluster.send_to(donor.node_id, packet) != SENT:
            return False
        self.pending = False
        self._asked = donor.node_id
        self._active_at = self.cluster.now()
        self._became(SYNC_PENDING, f"Sync requested from node [{donor.node_id}]")
        return True

    def node_ready(self, node: Node) -> None:
        """A node may have what is waited for."""
        if self.pending and self.enabled and self._gives(node):
            self._ask(node)

    def tick(self, now: float, seed: bool, fallback_s: float, timeout_s: float) -> None:
        """Give up what takes too long."""
        if self.ok or not self.enabled:
            return
        if self.pending:
            if seed and now - self._active_at >= fallback_s:
                self.pending = False
                self._wanted = False
                self.ok = True
                self._became(
                    SYNCED,
                    "ERROR: Sync request aborted! (no donor found in due time) => fallback to synced state",
                )
                self.cluster.log.warning(
                    "capability %s in cluster %d: no node to sync from, this seed node counts as synced",
                    self.name,
                    self.cluster_id,
                )
                self.cluster.tell_capability(self, True)
        elif (self.in_progress or self._asked) and now - self._active_at >= timeout_s:
            self.in_progress = False
            self._asked = 0
            self._active_at = now
            self._became(NOT_SYNCED, f"Sync timed out, received [{self._chunks}] chunks")
            self.cluster.log.warning("capability %s in cluster %d: the sync has timed out", self.name, self.cluster_id)
            self._deliver_kept()
        elif self._wanted and not self._asked and now - self._active_at >= timeout_s:
            # A donor that has failed may work now, and there may be another one.
            self.request_sync()

    def node_lost(self, node_id: int) -> None:
        """A node that was asked is gone before it had sent everything: another one is asked."""
        if self._asked == node_id and not self.ok:
            self.in_progress = False
            self._asked = 0
            self.pending = False
            self.request_sync()

    def set_enabled(self, enabled: bool) -> None:
        """Take part, or not."""
        if self.enabled == enabled:
            return
        self.enabled = enabled
        if not enabled:
            self.ok = False
            self.pending = False
            self.in_progress = False
            self._wanted = False
            self._asked = 0
            self._kept.clear()
            self._became(NOT_SYNCED, "Capability disabled via MI, revert to not synced state")
            self.cluster.tell_capability(self, False)
        elif self._needs_data:
            # What changed meanwhile is not known here.
            self.request_sync()
        else:
            self.ok = True
            self._became(SYNCED, "Capability enabled via MI")
            self.cluster.tell_capability(self, True)

    # --- receiving

    def received(self, packet: Packet, source: int) -> None:
        """A packet of the capability. Raises PacketError."""
        if not self.enabled:
            return
        if not self.in_progress:
            self.user.on_packet(packet, source)
        elif len(self._kept) < MOST_KEPT:
            self._kept.append((packet, source))
        else:
            self._lost += 1

    def sync_data(self, packet: Packet, source: int) -> None:
        """A part of the data. Raises PacketError."""
        version = packet.number()
        if not self.enabled or self.ok or source != self._asked:
            return
        if not self.in_progress:
            self.in_progress = True
            self._became(SYNCING, f"Sync started from node [{source}]")
        self._active_at = self.cluster.now()
        while packet.left:
            size = packet.number()
            if packet.number() != wire.CHUNK_MARK:
                raise PacketError("a piece of synced data has no mark")
            chunk = packet.part(size)
            chunk.version = version
            self._chunks += 1
            self.user.on_sync_chunk(chunk, source)
        if self._chunks >= self._total >= 0:
            self._complete(source)

    def sync_end(self, packet: Packet, source: int) -> None:
        """All parts were sent. Raises PacketError."""
        sent = packet.number()
        if not self.enabled or self.ok or source != self._asked:
            return
        self._total = sent
        if self._chunks >= sent:
            self._complete(source)

    def _complete(self, source: int) -> None:
        """All pieces are there."""
        self.in_progress = False
        self.pending = False
        self._asked = 0
        self._total = UNKNOWN
        self._wanted = False
        self.ok = True
        self._became(SYNCED, f"Sync completed, received [{self._chunks}] chunks")
        self.user.on_synced(source)
        self._deliver_kept()
        self.cluster.tell_capability(self, True)

    def _deliver_kept(self) -> None:
        kept, self._kept = self._kept, deque()
        if self._lost:
            self.cluster.log.warning("capability %s: %d packets were lost during the sync", self.name, self._lost)
            self._lost = 0
        for packet, source in kept:
            try:
                self.user.on_packet(packet, source)
            except PacketError as error:
                self.cluster.log.warning("capability %s: a packet of node %d: %s", self.name, source, error)

    # --- giving

    def give(self, node_id: int) -> None:
        """Send all data to a node that asks for them."""
        writer = Chunks(self, node_id)
        done = self.user.on_sync_request(node_id, writer)
        if done is None:
            writer.end()
        else:
            self.cluster.spawn(self._end_later(done, writer), f"sync of {self.name} to node {node_id}")

    async def _end_later(self, done: Awaitable[None], writer: Chunks) -> None:
        try:
            await done
        except PacketError as error:
            self.cluster.log.warning("capability %s: %s", self.name, error)
            return
        writer.end()

    # --- telling

    def _became(self, status: int, report: str) -> None:
        self.status = status
        self.cluster.capability_status(self.name, status, DETAILS[status], report)


class Chunks(SyncWriter):
    """Packs pieces of data into packets for one node."""

    def __init__(self, capability: LocalCapability, node_id: int) -> None:
        self._capability = capability
        self._node_id = node_id
        self._most = min(max(capability.cluster.sync_packet_bytes, 1024), MOST_BYTES - ADDRESS_BYTES)
        self._packet: PacketWriter | None = None
        self._version = 0
        self._count = 0
        self._failed = 0

    def add(self, chunk: PacketWriter) -> None:
        fields = chunk.fields()
        if self._packet is not None and (
            chunk.version != self._version or len(self._packet) + 8 + len(fields) > self._most
        ):
            self._flush()
        if self._packet is None:
            self._version = chunk.version
            self._packet = wire.extra(wire.SYNC_DATA, wire.SYNC_VERSION).text(self._capability.name)
            self._packet.number(self._version)
        if len(self._packet) + 8 + len(fields) > MOST_BYTES - ADDRESS_BYTES:
            raise PacketError(f"a piece of {len(fields)} octets fits into no packet")
        self._packet.number(len(fields)).number(wire.CHUNK_MARK).raw(fields)
        self._count += 1

    async def room(self) -> None:
        cluster = self._capability.cluster
        waited_s = 0.0
        while cluster.backlog() > MOST_BACKLOG:
            if waited_s >= PATIENCE_S:
                raise PacketError(f"node {self._node_id} takes no more of the data of {self._capability.name}")
            await asyncio.sleep(PAUSE_S)
            waited_s += PAUSE_S

    def _flush(self) -> None:
        packet, self._packet = self._packet, None
        if packet is not None and self._capability.cluster.send_to(self._node_id, packet) in (FAILED,):
            self._failed += 1

    def end(self) -> None:
        """Send what is left, and how much it was."""
        self._flush()
        capability = self._capability
        packet = wire.extra(wire.SYNC_END, wire.SYNC_VERSION).text(capability.name).number(self._count)
        sent = capability.cluster.send_to(self._node_id, packet)
        if sent != SENT or self._failed:
            capability.cluster.log.warning(
                "capability %s: the data for node %d could not be sent", capability.name, self._node_id
            )
