"""Several nodes of a cluster in one process: real modules, a made-up network and a made-up clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from opensipspy import sip
from opensipspy.cluster import Packet, PacketWriter
from opensipspy.db import Database
from opensipspy.module import Module, Target
from opensipspy.module.testing import FakeCore
from opensipspy.modules.clusterer import Clusterer
from opensipspy.modules.proto_bin import ProtoBin
from opensipspy.script.kinds import ONREPLY, REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import Peer, Socket

PORT = 5555


def address_of(node_id: int) -> str:
    return f"192.0.2.{node_id}"


class LinkedCore(FakeCore):
    """A core whose BIN packets reach other cores."""

    def __init__(self, wires: Wires, node_id: int, databases: Mapping[str, Database] | None = None) -> None:
        super().__init__(databases=databases)
        self._wires = wires
        self.node_id = node_id
        self.events_seen: list[tuple[str, dict[str, Any]]] = []
        self.clock, self.wall = wires.clock, wires.wall
        # Requests that would reach the script, and replies that nobody took.
        self.scripted: list[Run] = []
        self.strays: list[Run] = []

    def receive(self, data: bytes, source: Peer, socket: Socket) -> None:
        """What the server does with a message, as far as modules see it; requests end in `scripted`."""
        msg = sip.parse_message(data, source, socket)
        if msg.is_request:
            sip.validate_request(msg)
            run = Run(msg, REQUEST, None, None)
            if all(callback(run) is not False for callback in self.before):
                self.scripted.append(run)
            return
        run = Run(msg, ONREPLY, None, None)
        if not any(handler(run) is True for handler in self.reply_handlers):
            self.strays.append(run)

    def send(self, data: bytes, target: Target, on_failure: Callable[[], None] | None = None) -> bool:
        if target.peer.proto != sip.PROTO_BIN:
            return super().send(data, target, on_failure)
        return self._wires.carry(self, data, target, on_failure)


class BinNode:
    """One node: its core and modules."""

    def __init__(self, wires: Wires, node_id: int, databases: Mapping[str, Database] | None, params: Any) -> None:
        self.node_id = node_id
        self.core = LinkedCore(wires, node_id, databases)
        self.door = self.core.add(ProtoBin())
        self.door.opened(Socket(sip.PROTO_BIN, address_of(node_id), PORT))
        self.cluster = self.core.add(Clusterer(my_node_id=node_id, **params))
        for name in (
            "E_CLUSTERER_NODE_STATE_CHANGED",
            "E_CLUSTERER_REQ_RECEIVED",
            "E_CLUSTERER_RPL_RECEIVED",
            "E_CLUSTERER_SHARING_TAG_CHANGED",
        ):
            self.core.events.listen(name, lambda event, values: self.core.events_seen.append((event, dict(values))))

    def seen(self, name: str) -> list[dict[str, Any]]:
        """The events of one name, which count as seen then."""
        found = [values for event, values in self.core.events_seen if event == name]
        self.core.events_seen = [(event, values) for event, values in self.core.events_seen if event != name]
        return found

    def states(self) -> list[tuple[int, int]]:
        """(node, state) of the node events."""
        return [(v["node_id"], v["new_state"]) for v in self.seen("E_CLUSTERER_NODE_STATE_CHANGED")]

    def links(self) -> dict[int, tuple[str, str]]:
        """Node -> (state of the link, next hop), as clusterer:list shows it."""
        (shown,) = self.cluster.mi_list()["Clusters"]
        return {n["node_id"]: (n["link_state"], n["next_hop"]) for n in shown["Nodes"]}

    def take(self, data: bytes, source: str) -> None:
        """A packet from an address."""
        self.door.received(data, Peer(sip.PROTO_BIN, source, 40000, 7), self.door.sockets[0])


class Wires:
    """The network between nodes. cut: pairs of nodes that do not reach each other. Packets are in `log`."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.wall = 1_700_000_000.0
        self.nodes: dict[int, BinNode] = {}
        self.cut: set[frozenset[int]] = set()
        self.log: list[tuple[int, int, bytes]] = []
        self._queue: deque[tuple[int, int, bytes, Callable[[], None] | None]] = deque()

    def make(self, node_id: int, databases: Mapping[str, Database] | None = None, **params: Any) -> BinNode:
        node = BinNode(self, node_id, databases, params)
        self.nodes[node_id] = node
        return node

    async def join(self, node_id: int, *neighbours: int, **params: Any) -> BinNode:
        """A node without a table that knows some others."""
        values: dict[str, Any] = {
            "db_mode": 0,
            "my_node_info": [f"cluster_id=1, url=bin:{address_of(node_id)}, sip_addr=198.51.100.{node_id}:5060"],
            "neighbor_node_info": [f"cluster_id=1, node_id={n}, url=bin:{address_of(n)}:{PORT}" for n in neighbours],
        }
        values.update(params)
        node = self.make(node_id, **values)
        await node.cluster.launch()
        return node

    def carry(self, core: LinkedCore, data: bytes, target: Target, on_failure: Callable[[], None] | None) -> bool:
        there = int(target.peer.address.rpartition(".")[2])
        self._queue.append((core.node_id, there, data, on_failure))
        return True

    def settle(self) -> None:
        """Deliver everything that is on its way."""
        for _ in range(100_000):
            if not self._queue:
                return
            here, there, data, on_failure = self._queue.popleft()
            node = self.nodes.get(there)
            if here not in self.nodes:
                continue
            if node is None or frozenset((here, there)) in self.cut:
                if on_failure is not None:
                    on_failure()
                continue
            self.log.append((here, there, data))
            node.take(data, address_of(here))
        raise AssertionError("the cluster does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass for all nodes."""
        end = self.clock + seconds
        while self.clock < end - 1e-9:
            step = min(0.1, end - self.clock)
            self.clock += step
            self.wall += step
            for node in list(self.nodes.values()):
                node.core.advance(step)
            self.settle()

    def packets(self, kind: int, capability: str = "clusterer-internal") -> list[tuple[int, int, Packet]]:
        """(from, to, packet) of all packets of a kind that were delivered."""
        found = []
        for here, there, data in self.log:
            packet = Packet(data)
            if packet.kind == kind and packet.capability == capability:
                found.append((here, there, packet))
        return found


def internal(kind: int, cluster_id: int = 1, source: int = 2) -> PacketWriter:
    """The beginning of a packet about nodes and links."""
    return PacketWriter("clusterer-internal", kind, 1).number(cluster_id).number(source)


def extra(kind: int, *, source: int = 2, destination: int = 1, cluster_id: int = 1, fields: bytes = b"") -> bytes:
    """A whole packet with an address."""
    made = PacketWriter("clusterer-extra", kind, 1).raw(fields)
    return made.number(cluster_id).number(source).number(destination).data()


__all__ = ["BinNode", "Module", "Wires", "address_of", "extra", "internal"]
