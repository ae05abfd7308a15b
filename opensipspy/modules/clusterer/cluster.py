"""One cluster as this node sees it: its nodes, the links between them, and the packets that go through it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from logging import Logger
from typing import Any, Protocol

from opensipspy.cluster import (
    DISABLED,
    FAILED,
    SENT,
    UNREACHABLE,
    ClusterUser,
    Packet,
    PacketError,
    PacketWriter,
)
from opensipspy.modules.clusterer import wire
from opensipspy.modules.clusterer.capability import DETAILS, LocalCapability
from opensipspy.modules.clusterer.links import DOWN, LinkTimes
from opensipspy.modules.clusterer.node import MOST_CAPABILITIES, MOST_NODES, Definition, Node
from opensipspy.modules.clusterer.paths import is_newer, next_hops
from opensipspy.sip import PROTO_BIN, Peer, Socket


class House(Protocol):
    """What a cluster needs of the module. fixed: whether nodes come from the table only."""

    my_node_id: int

    @property
    def log(self) -> Logger: ...
    @property
    def fixed(self) -> bool: ...
    @property
    def through_others(self) -> bool: ...
    @property
    def times(self) -> LinkTimes: ...
    @property
    def default_port(self) -> int: ...
    @property
    def sync_packet_bytes(self) -> int: ...
    @property
    def sync_timeout_s(self) -> float: ...
    @property
    def seed_fallback_s(self) -> float: ...
    def now(self) -> float: ...
    def wall(self) -> int: ...
    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None: ...
    def backlog(self) -> int: ...
    def put(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None) -> bool: ...
    def find_address(self, node: Node) -> None: ...
    def node_changed(self, cluster_id: int, node_id: int, up: bool) -> None: ...
    def message(self, cluster_id: int, source: int, request: bool, text: str, tag: str) -> None: ...
    def run_command(self, name: str, params: list[str], source: int) -> None: ...
    def tag_active_elsewhere(self, tag: str, cluster_id: int, source: int) -> None: ...
    def tag_is_active(self, tag: str, cluster_id: int) -> bool: ...
    def capability_changed(self, name: str, status: int, details: str, report: str) -> None: ...


class Bridge:
    """The way into another cluster: the first of its nodes that takes a packet. tag: active where packets leave."""

    __slots__ = ("cluster_id", "destinations", "tag")

    def __init__(self, cluster_id: int, tag: str, destinations: list[tuple[str, int]]) -> None:
        self.cluster_id = cluster_id
        self.tag = tag
        self.destinations = destinations


class Cluster:
    """socket: the BIN listening point that packets leave from."""

    def __init__(self, house: House, me: Definition, socket: Socket) -> None:
        self.cluster_id = me.cluster_id
        self.my_id = house.my_node_id
        self.log = house.log
        self.socket = socket
        self.me = Node(me, house.times, house.default_port)
        self.nodes: dict[int, Node] = {}
        self.capabilities: dict[str, LocalCapability] = {}
        self.bridges: list[Bridge] = []
        # Node -> next hop, of all that can be reached.
        self.routes: dict[int, int] = {}
        self._house = house
        self._link_number = -1
        self._link_at = 0
        self._topology_number = -1
        self._capability_number = -1

    # --- what capabilities need

    @property
    def sync_packet_bytes(self) -> int:
        return self._house.sync_packet_bytes

    def now(self) -> float:
        return self._house.now()

    def backlog(self) -> int:
        return self._house.backlog()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._house.spawn(work, name)

    def capability_status(self, name: str, status: int, details: str, report: str) -> None:
        self._house.capability_changed(name, status, details, report)

    def join(self, name: str, user: ClusterUser, startup_sync: bool, with_nodes: int) -> LocalCapability:
        """Take part with a capability. Raises LookupError when there are too many."""
        if name not in self.capabilities and len(self.capabilities) >= MOST_CAPABILITIES:
            raise LookupError(f"cluster {self.cluster_id} has {MOST_CAPABILITIES} capabilities already")
        made = self.capabilities[name] = LocalCapability(self, name, user, startup_sync, with_nodes)
        self._house.capability_changed(name, made.status, DETAILS[made.status], "")
        if startup_sync:
            made.request_sync()
        else:
            self.tell_capability(made, True)
        return made

    def succeed(self, old: Cluster) -> None:
        """Take the place of what the cluster was before its nodes were read again."""
        self._link_number, self._link_at = old._link_number, old._link_at
        self._topology_number, self._capability_number = old._topology_number, old._capability_number
        self.capabilities = old.capabilities
        for capability in self.capabilities.values():
            capability.cluster = self
        self.routes = old.routes
        for node_id, node in self.nodes.items():
            known = old.nodes.get(node_id)
            if known is None:
                continue
            node.link_order, node.topology_order = known.link_order, known.topology_order
            node.capability_order, node.capabilities = known.capability_order, known.capabilities
            node.waits_for_sync = known.waits_for_sync
            node.neighbours = known.neighbours
            if node.enabled and known.enabled and node.definition.url == known.definition.url:
                # The link is what it was: nobody hears of a node that was never away.
                node.address, node.link = known.address, known.link
                node.link.retries = node.definition.retries
        # What is still on its way for the nodes of before concerns nobody.
        old.nodes.clear()
        self._changed()

    # --- nodes

    def add(self, definition: Definition) -> Node | None:
        """Make a node known; None when it is this one or there are too many."""
        if definition.node_id == self.my_id:
            return None
        found = self.nodes.get(definition.node_id)
        if found is not None:
            return found
        if len(self.nodes) >= MOST_NODES - 1:
            self.log.warning(
                "cluster %d has %d nodes, node %d is left out", self.cluster_id, MOST_NODES, definition.node_id
            )
            return None
        node = self.nodes[definition.node_id] = Node(definition, self._house.times, self._house.default_port)
        if not node.enabled:
            node.link.disable()
        if not node.address:
            self._house.find_address(node)
        return node

    def remove(self, node: Node) -> None:
        """Forget a node."""
        was_up = node.link.up
        node.link.disable()
        if was_up:
            self._unlinked(node)
        self.nodes.pop(node.node_id, None)
        for other in self.nodes.values():
            other.neighbours.discard(node.node_id)
        self._changed()

    def is_member(self, address: str) -> bool:
        """Whether packets may come from an address."""
        return any(node.address == address for node in self.nodes.values())

    def set_enabled(self, node_id: int, enabled: bool) -> None:
        """Use a node, or this one, or not. Raises LookupError for an unknown node."""
        if node_id == self.my_id:
            if self.me.enabled == enabled:
                return
            self.me.enabled = enabled
            for node in self.nodes.values():
                if enabled and node.enabled:
                    node.link.restart()
                else:
                    node.link.disable()
                    node.neighbours.clear()
            self._changed()
            return
        found = self.nodes.get(node_id)
        if found is None:
            raise LookupError(f"node {node_id}")
        if found.enabled == enabled:
            return
        found.enabled = enabled
        if enabled:
            found.link.restart()
            return
        was_up = found.link.up
        found.link.disable()
        found.neighbours.clear()
        if was_up:
            self._unlinked(found)
        else:
            self._changed()

    # --- time

    def tick(self) -> None:
        """Ping who has to be pinged, and notice who has gone."""
        if not self.me.enabled:
            return
        now = self.now()
        for node in list(self.nodes.values()):
            if node.enabled and node.address:
                self._tick(node, now)

    def tick_sync(self) -> None:
        """Give up syncs that take too long."""
        if not self.me.enabled:
            return
        house, now = self._house, self.now()
        for capability in self.capabilities.values():
            capability.tick(now, self.me.definition.seed, house.seed_fallback_s, house.sync_timeout_s)

    def _tick(self, node: Node, now: float) -> None:
        was_up = node.link.up
        due = node.link.tick(now)
        if was_up and not node.link.up:
            self.log.warning("cluster %d: node %d does not answer", self.cluster_id, node.node_id)
            self._unlinked(node)
        if due:
            with_list = 0 if node.link.up else 1
            self._put(node, wire.internal(wire.PING, self.cluster_id, self.my_id).number(with_list))

    # --- sending

    def _put(self, node: Node, packet: PacketWriter) -> bool:
        return self._put_data(node, packet.data())

    def _put_data(self, node: Node, data: bytes) -> bool:
        """Send to a neighbour. One that should be there and is not is probed."""

        def failed() -> None:
            if node.link.up and self.nodes.get(node.node_id) is node:
                node.link.restart()
                self._unlinked(node)

        if not node.address:
            return False
        peer = Peer(PROTO_BIN, node.address, node.port)
        if self._house.put(data, peer, self.socket, failed):
            return True
        failed()
        return False

    def send_to(self, node_id: int, packet: PacketWriter) -> int:
        """Send a packet with an address to a node: SENT, DISABLED, UNREACHABLE or FAILED."""
        if not self.me.enabled:
            return DISABLED
        node = self.nodes.get(node_id)
        if node is None:
            return FAILED
        if not node.enabled:
            return SENT
        try:
            data = wire.addressed(packet, self.cluster_id, self.my_id, node_id)
        except PacketError as error:
            self.log.error("cluster %d: a packet for node %d: %s", self.cluster_id, node_id, error)
            return FAILED
        return self._route(node_id, data)

    def _route(self, node_id: int, data: bytes) -> int:
        """Send over the best way; while one fails, over the next best."""
        tried = False
        while True:
            hop = self.routes.get(node_id)
            if hop is None:
                return FAILED if tried else UNREACHABLE
            if self._put_data(self.nodes[hop], data):
                return SENT
            tried = True
            if self.routes.get(node_id) == hop:
                return FAILED

    def broadcast(self, packet: PacketWriter) -> int:
        """Send to all other nodes; SENT when it left for one of them or there are none."""
        if not self.me.enabled:
            return DISABLED
        results = [self.send_to(node.node_id, packet) for node in list(self.nodes.values()) if node.enabled]
        if not results or SENT in results:
            return SENT
        return FAILED if FAILED in results else UNREACHABLE

    def broadcast_bridges(self, packet: PacketWriter) -> int:
        """Send over each bridge whose sharing tag is active here."""
        if not self.me.enabled:
            return DISABLED
        results = []
        for bridge in self.bridges:
            if not self._house.tag_is_active(bridge.tag, self.cluster_id):
                continue
            made = PacketWriter(packet.capability, packet.kind, packet.version).raw(packet.fields())
            made.number(self.cluster_id)
            try:
                data = wire.addressed(made, bridge.cluster_id, self.my_id, wire.BRIDGED)
            except PacketError as error:
                self.log.error("bridge to cluster %d: %s", bridge.cluster_id, error)
                return FAILED
            results.append(self._cross(bridge, data, 0))
        return SENT if all(results) else FAILED

    def _cross(self, bridge: Bridge, data: bytes, at: int) -> bool:
        """Send to the first node of a bridge that takes it, from number `at` on."""
        for number in range(at, len(bridge.destinations)):
            address, port = bridge.destinations[number]

            def next_one(number: int = number) -> None:
                if not self._cross(bridge, data, number + 1):
                    self.log.warning("bridge to cluster %d: none of its nodes can be reached", bridge.cluster_id)

            if self._house.put(data, Peer(PROTO_BIN, address, port), self.socket, next_one):
                return True
        return False

    # --- links and ways

    def _neighbours(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.link.up]

    def _changed(self) -> None:
        """Links have changed: find the ways anew, and tell which nodes have come and gone."""
        before = self.routes
        enabled = {node_id for node_id, node in self.nodes.items() if node.enabled}
        self.routes = next_hops(
            (node.node_id for node in self._neighbours()),
            {n: node.neighbours & enabled for n, node in self.nodes.items() if node.enabled},
            self._priority,
            through_others=self._house.through_others,
        )
        gone = [node_id for node_id in before if node_id not in self.routes]
        come = [node_id for node_id in self.routes if node_id not in before]
        for node_id in gone:
            self._tell_node(node_id, False)
        for node_id in come:
            self._tell_node(node_id, True)

    def _priority(self, node_id: int) -> int:
        return self.nodes[node_id].definition.priority

    def _tell_node(self, node_id: int, up: bool) -> None:
        node = self.nodes.get(node_id)
        for capability in list(self.capabilities.values()):
            if up and node is not None:
                if capability.name in node.waits_for_sync:
                    node.waits_for_sync.discard(capability.name)
                    capability.give(node_id)
                capability.node_ready(node)
            elif not up:
                capability.node_lost(node_id)
            capability.user.on_node(node_id, up)
        self._house.node_changed(self.cluster_id, node_id, up)

    def _linked(self, node: Node, known: Iterable[int]) -> None:
        """A link has come up: the neighbour gets to know everything, the others that there is a link."""
        self.log.info("cluster %d: node %d is up", self.cluster_id, node.node_id)
        self._changed()
        self._tell_link(node, wire.LINK_IS_UP)
        self._tell_topology(node, set(known))
        self._tell_capabilities(node, 1)

    def _unlinked(self, node: Node) -> None:
        """A link that was up is not any more."""
        self._changed()
        self._tell_link(node, wire.LINK_IS_DOWN)

    def _ordered(self, kind: int, number: int, at: int) -> PacketWriter:
        return wire.internal(kind, self.cluster_id, self.my_id).number(number).number(at)

    def _tell_link(self, about: Node, state: int) -> None:
        others = [node for node in self._neighbours() if node is not about]
        if not others:
            return
        self._link_number += 1
        self._link_at = self._house.wall()
        packet = self._ordered(wire.LINK_UPDATE, self._link_number, self._link_at)
        wire.put_way(packet.number(about.node_id).number(state), [self.my_id])
        for node in others:
            self._put(node, packet)

    def _tell_topology(self, to: Node, known: set[int]) -> None:
        self._topology_number += 1
        packet = self._ordered(wire.TOPOLOGY, self._topology_number, self._house.wall())
        others = [node for node in self.nodes.values() if node is not to]
        packet.number(1 + len(others))
        packet.number(self.my_id).number(0).number(self._link_number).number(self._link_at)
        mine = [node.node_id for node in self._neighbours()]
        packet.number(len(mine))
        for node_id in mine:
            packet.number(node_id)
        for node in others:
            packet.number(node.node_id)
            if node.node_id in known:
                packet.number(0)
            else:
                wire.put_description(packet.number(1), node.definition)
            packet.number(node.link_order[0]).number(node.link_order[1]).number(len(node.neighbours))
            for node_id in node.neighbours:
                packet.number(node_id)
        wire.put_way(packet, [self.my_id])
        try:
            data = packet.data()
        except PacketError as error:
            self.log.error("cluster %d: the topology for node %d: %s", self.cluster_id, to.node_id, error)
            return
        self._put_data(to, data)

    def tell_capability(self, capability: LocalCapability, state: bool) -> None:
        """Tell all neighbours how one capability stands here."""
        neighbours = self._neighbours()
        if not neighbours:
            return
        self._capability_number += 1
        packet = self._ordered(wire.CAPABILITIES, self._capability_number, self._house.wall())
        packet.number(1).number(self.my_id).number(1).text(capability.name).number(int(state))
        wire.put_way(packet.number(0), [self.my_id])
        for node in neighbours:
            self._put(node, packet)

    def _tell_capabilities(self, to: Node, wants_reply: int) -> None:
        """Tell a neighbour what is known of the capabilities of all nodes."""
        told = [(node.node_id, node.capabilities) for node in self.nodes.values() if node.capabilities]
        told = [(node_id, states) for node_id, states in told if node_id != to.node_id]
        mine = {name: capability.ok for name, capability in self.capabilities.items()}
        if mine:
            told.insert(0, (self.my_id, mine))
        if not told:
            return
        self._capability_number += 1
        packet = self._ordered(wire.CAPABILITIES, self._capability_number, self._house.wall()).number(len(told))
        for node_id, states in told:
            packet.number(node_id).number(len(states))
            for name, state in states.items():
                packet.text(name).number(int(state))
        wire.put_way(packet.number(wants_reply), [self.my_id])
        self._put(to, packet)

    def _flood(self, packet: PacketWriter, way: list[int]) -> None:
        """Pass an update on to the neighbours that it did not come through."""
        if len(way) >= wire.LONGEST_WAY:
            return
        others = [node for node in self._neighbours() if node.node_id not in way]
        if not others:
            return
        try:
            data = wire.put_way(packet, [*way, self.my_id]).data()
        except PacketError as error:
            self.log.error("cluster %d: an update cannot be passed on: %s", self.cluster_id, error)
            return
        for node in others:
            self._put_data(node, data)

    # --- packets between neighbours

    def internal(self, packet: Packet, source: int, peer: Peer) -> None:
        """A packet of `wire.INTERNAL` after cluster and node were read. Raises PacketError."""
        if not self.me.enabled:
            return
        node = self.nodes.get(source)
        if node is None:
            self._stranger(packet, source, peer)
            return
        if not self.is_member(peer.address):
            raise PacketError(f"no node of cluster {self.cluster_id} has this address")
        if not node.enabled:
            return
        kind = packet.kind
        if kind == wire.PING:
            self._pinged(node, packet)
        elif kind == wire.PONG:
            known = [packet.number() for _ in range(packet.count(MOST_NODES))]
            if node.link.answered(self.now()):
                self._linked(node, known)
        elif kind == wire.LINK_UPDATE:
            self._link_update(node, packet)
        elif kind == wire.TOPOLOGY:
            self._topology(node, packet)
        elif kind == wire.CAPABILITIES:
            self._capabilities(node, packet)
        elif kind == wire.UNKNOWN_NODE:
            answer = wire.internal(wire.DESCRIPTION, self.cluster_id, self.my_id)
            self._put(node, wire.put_way(wire.put_description(answer, self.me.definition), [self.my_id]))
            if not node.link.up:
                node.link.restart()
        elif kind != wire.DESCRIPTION:
            raise PacketError(f"{kind} is no kind of packet between nodes")

    def _stranger(self, packet: Packet, source: int, peer: Peer) -> None:
        """A node that is not known yet: where nodes may come by themselves, it is asked who it is."""
        if self._house.fixed:
            raise PacketError(f"node {source} is none of cluster {self.cluster_id}")
        if packet.kind == wire.PING:
            answer = wire.internal(wire.UNKNOWN_NODE, self.cluster_id, self.my_id)
            self._house.put(answer.data(), peer, self.socket, None)
        elif packet.kind == wire.DESCRIPTION:
            start = packet.left
            described = wire.Described(packet)
            fields = packet.fields()[: 8 + start - packet.left]
            way = wire.take_way(packet)
            definition = described.definition(self.cluster_id, source)
            if way[:1] != [source] or (len(way) > 1 and not self.is_member(peer.address)):
                raise PacketError(f"node {source} is described by who is no node")
            if self.add(definition) is not None:
                self._flood(PacketWriter(packet.capability, packet.kind, packet.version).raw(fields), way)
        else:
            raise PacketError(f"node {source} is not known in cluster {self.cluster_id}")

    def _pinged(self, node: Node, packet: Packet) -> None:
        with_list = packet.number()
        answer = wire.internal(wire.PONG, self.cluster_id, self.my_id)
        others = [n for n in self.nodes if n != node.node_id] if with_list else []
        answer.number(len(others))
        for node_id in others:
            answer.number(node_id)
        self._put(node, answer)
        if not node.link.up:
            self._ask_again(node)

    def _ask_again(self, node: Node) -> None:
        """A node speaks that did not answer: it is asked at once whether it hears, too."""
        node.link.restart()
        self._tick(node, self.now())

    def _link_update(self, source: Node, packet: Packet) -> None:
        start = packet.left
        order = (packet.number(), packet.number())
        about, state = packet.number(), packet.number()
        fields = packet.fields()[: 8 + start - packet.left]
        way = wire.take_way(packet)
        if state not in (wire.LINK_IS_UP, wire.LINK_IS_DOWN):
            raise PacketError(f"{state} is no state of a link")
        if not is_newer(source.link_order, *order):
            return
        source.link_order = order
        up = state == wire.LINK_IS_UP
        if about == self.my_id:
            if up != source.link.up and (source.link.up or source.link.state == DOWN):
                was_up = source.link.up
                source.link.restart()
                if was_up:
                    self._unlinked(source)
        elif about in self.nodes:
            if up:
                source.neighbours.add(about)
            else:
                source.neighbours.discard(about)
            self._changed()
        else:
            return
        self._flood(PacketWriter(packet.capability, packet.kind, packet.version).raw(fields), way)

    def _topology(self, source: Node, packet: Packet) -> None:
        start = packet.left
        order = (packet.number(), packet.number())
        entries = wire.take_topology(packet)
        fields = packet.fields()[: 8 + start - packet.left]
        way = wire.take_way(packet)
        if not is_newer(source.topology_order, *order):
            return
        source.topology_order = order
        if not self._house.fixed:
            for entry in entries:
                if entry.described is not None and entry.node_id not in self.nodes and entry.node_id != self.my_id:
                    self.add(entry.described.definition(self.cluster_id, entry.node_id))
        for entry in entries:
            node = self.nodes.get(entry.node_id)
            if node is None or not (node is source or is_newer(node.link_order, *entry.order)):
                continue
            node.link_order = entry.order
            told = {n for n in entry.neighbours if n in self.nodes and n != node.node_id}
            if node is not source and source.node_id in node.neighbours:
                # Who tells does not know what others say of their links to it.
                told.add(source.node_id)
            node.neighbours = told
            if self.my_id in entry.neighbours and node.enabled and node.link.state == DOWN:
                node.link.restart()
        self._changed()
        self._flood(PacketWriter(packet.capability, packet.kind, packet.version).raw(fields), way)

    def _capabilities(self, source: Node, packet: Packet) -> None:
        start = packet.left
        order = (packet.number(), packet.number())
        told = wire.take_capabilities(packet)
        fields = packet.fields()[: 8 + start - packet.left]
        wants_reply = packet.number()
        way = wire.take_way(packet)
        if not is_newer(source.capability_order, *order):
            return
        source.capability_order = order
        for node_id, states in told:
            node = self.nodes.get(node_id)
            if node is None:
                continue
            for name, state in states.items():
                if name in node.capabilities or len(node.capabilities) < MOST_CAPABILITIES:
                    node.capabilities[name] = state
                capability = self.capabilities.get(name)
                if state and capability is not None:
                    capability.node_ready(node)
        if wants_reply:
            self._tell_capabilities(source, 0)
        made = PacketWriter(packet.capability, packet.kind, packet.version).raw(fields).number(0)
        self._flood(made, way)

    # --- packets with an address

    def accept(self, packet: Packet, source: int, destination: int, peer: Peer) -> Node | None:
        """Whether a packet is for this node, and from whom; one for another node is passed on. Raises PacketError."""
        if not self.me.enabled:
            return None
        node = self.nodes.get(source)
        if node is None:
            raise PacketError(f"node {source} is not known in cluster {self.cluster_id}")
        if not self.is_member(peer.address):
            raise PacketError(f"no node of cluster {self.cluster_id} has this address")
        if not node.enabled:
            return None
        if node.link.state == DOWN:
            self._ask_again(node)
        if destination == self.my_id:
            return node
        if not self._house.through_others:
            raise PacketError(f"it is for node {destination}, and packets are not passed on")
        hop = self.routes.get(destination)
        if hop is None:
            self.log.info("cluster %d: no way to node %d for node %d", self.cluster_id, destination, source)
        elif hop == source:
            # Each believes that the other knows the way.
            self.log.info(
                "cluster %d: node %d sends packets for node %d in a circle", self.cluster_id, hop, destination
            )
        else:
            self._route(destination, wire.forwarded(packet, self.cluster_id, source, destination))
        return None

    def extra(self, packet: Packet, source: Node) -> None:
        """A packet of `wire.EXTRA` for this node. Raises PacketError."""
        kind, house = packet.kind, self._house
        if kind == wire.MESSAGE:
            request = bool(packet.number())
            tag = packet.text()
            house.message(self.cluster_id, source.node_id, request, packet.text(), tag)
        elif kind == wire.TAG_ACTIVE:
            house.tag_active_elsewhere(packet.text(), self.cluster_id, source.node_id)
        elif kind == wire.MI_COMMAND:
            name = packet.text()
            params = [packet.text() for _ in range(packet.count(wire.MOST_MI_PARAMS))]
            house.run_command(name, params, source.node_id)
        elif kind == wire.REMOVE_NODE:
            self._remove_asked(packet.number())
        elif kind == wire.SYNC_REQUEST:
            self._sync_asked(packet.text(), source)
        elif kind in (wire.SYNC_DATA, wire.SYNC_END):
            if packet.version != wire.SYNC_VERSION:
                raise PacketError(f"synced data of version {packet.version}, {wire.SYNC_VERSION} is known here")
            capability = self.capabilities.get(packet.text())
            if capability is None:
                raise PacketError("data of an unknown capability")
            if kind == wire.SYNC_DATA:
                capability.sync_data(packet, source.node_id)
            else:
                capability.sync_end(packet, source.node_id)
        else:
            raise PacketError(f"{kind} is no kind of packet of a cluster")

    def _remove_asked(self, node_id: int) -> None:
        if self._house.fixed:
            return
        if node_id == self.my_id:
            self.log.warning("cluster %d: this node was removed, and is disabled", self.cluster_id)
            self.set_enabled(self.my_id, False)
        elif node_id in self.nodes:
            self.remove(self.nodes[node_id])

    def _sync_asked(self, name: str, source: Node) -> None:
        capability = self.capabilities.get(name)
        if capability is None:
            raise PacketError("it asks for the data of an unknown capability")
        if not capability.enabled:
            return
        if source.node_id in self.routes:
            capability.give(source.node_id)
        else:
            source.waits_for_sync.add(name)
