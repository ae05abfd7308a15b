"""The module itself: parameters, functions, commands, events, and what clusters need of the server."""

from __future__ import annotations

import asyncio
import socket as os_socket
from collections.abc import Callable, Coroutine, Sequence
from logging import Logger
from typing import Annotated, Any, Final

from opensipspy.cluster import (
    ANY_NODE,
    DISABLED,
    FAILED,
    SENT,
    UNREACHABLE,
    BinDoor,
    Capability,
    ClusterApi,
    ClusterNode,
    ClusterUser,
    Packet,
    PacketError,
    PacketWriter,
    parse_tag,
)
from opensipspy.db import Database, DatabaseError
from opensipspy.module import (
    Core,
    Event,
    MiError,
    Module,
    Param,
    ParamError,
    Requires,
    StartError,
    Stat,
    Target,
    Timer,
    WritableVar,
    mi_command,
    script_function,
    variable,
)
from opensipspy.module.table_cache import cell_int, cell_text, open_database
from opensipspy.modules.clusterer import wire
from opensipspy.modules.clusterer.cluster import Bridge, Cluster
from opensipspy.modules.clusterer.links import LinkTimes
from opensipspy.modules.clusterer.node import (
    DEFAULT_PRIORITY,
    DEFAULT_RETRIES,
    HIGHEST_ID,
    MOST_CLUSTERS,
    Definition,
    Node,
    literal,
    number,
    parse_properties,
    parse_url,
)
from opensipspy.modules.clusterer.tables import (
    BRIDGE_COLUMNS,
    BRIDGE_TABLE,
    CLUSTERER_TABLE,
    MOST_ROWS,
    definition_of,
)
from opensipspy.modules.clusterer.tags import Tag, Tags, parse_definition
from opensipspy.script.kinds import BRANCH, EVENT, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.run import Index, Run, Value, VarRef
from opensipspy.sip import Peer, Socket

ROUTES: Final = REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL | EVENT
GROUP: Final = "clusterer"
NODE_STATES: Final = "node_states"
SHARING_TAGS: Final = "sharing_tags"
STATUS_READY: Final = 1
TICK_S: Final = 0.1
RESOLVE_AGAIN_S: Final = 5.0
TAG_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TAG_LENGTH: Final = 24
OK: Final = "OK"
MI_TYPES: Final = {"cluster_id": "int", "cmd_name": "string", "cmd_params": "array", "destination": "int"}
MESSAGE_PARAMS: Final = (("cluster_id", "int"), ("src_id", "int"), ("msg", "string"), ("tag", "string"))
EVERYWHERE: Final = ("0.0.0.0", "::")


class Clusterer(Module, ClusterApi):
    """Know the other servers of a cluster, see which of them can be reached, and talk to them.

    The nodes come from the table, or with `db_mode` 0 from `neighbor_node_info` and from each other. They ping each
    other over `socket=bin:...`, tell each other which links they have, and pass packets on where there is no link.
    Only packets from the addresses of known nodes count. OpenSIPS 4 and this server may be nodes of one cluster.

    Nodes trust each other: each may run management commands on the others, and nothing is encrypted. With `db_mode` 0
    whoever reaches the listening point can become a node: keep it where only the nodes are.
    """

    name = "clusterer"
    requires = (Requires("proto_bin"),)
    tables = (CLUSTERER_TABLE, BRIDGE_TABLE)

    my_node_id = Param(int, -1, "The number of this node, from 1. It has to be given.")
    db_mode = Param(int, 1, "1: the nodes are in the table, others are not listened to. 0: they are found.")
    db_url = Param(str, None, "The database; the global db_default_url when not set.")
    db_table = Param(str, "clusterer", "The table of nodes.")
    db_bridges_table = Param(str, "clusterer_bridge", "The table of bridges to other clusters.")
    id_col = Param(str, "id", "Column: number of the row.")
    cluster_id_col = Param(str, "cluster_id", "Column: the cluster.")
    node_id_col = Param(str, "node_id", "Column: the node.")
    url_col = Param(str, "url", "Column: where it listens, bin:host:port.")
    state_col = Param(str, "state", "Column: 1 enabled, 0 disabled.")
    no_ping_retries_col = Param(str, "no_ping_retries", "Column: pings after the first before a link is down.")
    priority_col = Param(str, "priority", "Column: of ways of one length, that over the lowest is taken.")
    sip_addr_col = Param(str, "sip_addr", "Column: where it takes SIP, for modules.")
    flags_col = Param(str, "flags", "Column: seed, for a node that needs nobody to have its data from.")
    description_col = Param(str, "description", "Column: a text for operators.")
    my_node_info = Param(
        str, None, "With db_mode 0: this node in a cluster, cluster_id=1,url=bin:...", repeated=True, func=True
    )
    neighbor_node_info = Param(
        str, None, "With db_mode 0: another node, cluster_id=1,node_id=2,url=bin:...", repeated=True, func=True
    )
    sharing_tag = Param(str, None, "A sharing tag and how it begins, name/cluster=active or =backup.", func=True)
    ping_interval = Param(int, 4, "Between pings to a neighbour.", unit="s")
    ping_timeout = Param(int, 1000, "How long an answer may take.", unit="ms")
    node_timeout = Param(int, 60, "Until one that is down is pinged again.", unit="s")
    seed_fallback_interval = Param(int, 5, "How long a seed node looks for data of others.", unit="s")
    sync_timeout = Param(int, 15, "How long data that are being synced may fail to come.", unit="s")
    sync_packet_size = Param(int, 32768, "How large packets of synced data become, 65,503 at most.", unit="bytes")
    dispatch_jobs = Param(int, 1, "In the C server, which process works on packets; there is one here.")
    enable_rerouting = Param(int, 1, "Send through other nodes where there is no link, and pass on for others.")
    enable_stats = Param(int, 1, "Show the statistics.")

    node_state_changed = Event(
        "E_CLUSTERER_NODE_STATE_CHANGED",
        (("cluster_id", "int"), ("node_id", "int"), ("new_state", "int")),
        "A node can be reached (new_state 1), or cannot any more (0).",
    )
    req_received = Event("E_CLUSTERER_REQ_RECEIVED", MESSAGE_PARAMS, "A node has sent a request to scripts.")
    rpl_received = Event("E_CLUSTERER_RPL_RECEIVED", MESSAGE_PARAMS, "A node has sent a reply to scripts.")
    sharing_tag_changed = Event(
        "E_CLUSTERER_SHARING_TAG_CHANGED",
        ("name", "cluster", "state", "reason"),
        "A sharing tag has become active or backup here.",
    )

    nodes_all = Stat("Other nodes of the clusters.", "clusterer_nodes", computed="count_nodes", no_reset=True)
    nodes_up = Stat("Those there is a link to.", "clusterer_nodes_up", computed="count_up", no_reset=True)
    nodes_down = Stat("Those there is none to.", "clusterer_nodes_down", computed="count_down", no_reset=True)

    _pings = Timer(TICK_S, "tick")
    _syncs = Timer(0.5, "tick_syncs")

    def __init__(self, **params: Any) -> None:
        self.clusters: dict[int, Cluster] = {}
        self.tags = Tags(self._tell_tag, self._tag_changed)
        self._mine: dict[int, Definition] = {}
        self._others: list[Definition] = []
        self._tag_callbacks: list[Callable[[str, int, bool], None]] = []
        self._joined: list[tuple[str, int, ClusterUser, int]] = []
        self._strangers: set[str] = set()
        self._database: Database | None = None
        super().__init__(**params)

    # --- parameters

    def _properties(self) -> dict[str, str]:
        """What nodes are defined by: the names of the columns, and what they mean here."""
        return {
            self.cluster_id_col: "cluster_id",
            self.node_id_col: "node_id",
            self.url_col: "url",
            self.no_ping_retries_col: "no_ping_retries",
            self.priority_col: "priority",
            self.sip_addr_col: "sip_addr",
            self.flags_col: "flags",
            self.state_col: "state",
            self.description_col: "description",
        }

    def _defined(self, text: str, needed: Sequence[str]) -> dict[str, str]:
        found = parse_properties(text, self._properties())
        for name in needed:
            if name not in found:
                raise ValueError(f"{name} is missing in {text!r}")
        return found

    def _definition(self, found: dict[str, str], node_id: int) -> Definition:
        return Definition(
            number(found, "cluster_id", 0),
            node_id,
            found["url"],
            enabled=bool(number(found, "state", 1)),
            retries=number(found, "no_ping_retries", DEFAULT_RETRIES),
            priority=number(found, "priority", DEFAULT_PRIORITY),
            sip_address=found.get("sip_addr", ""),
            flags=found.get("flags", ""),
            description=found.get("description", ""),
        )

    def set_my_node_info(self, text: str) -> None:
        """One `my_node_info`. Raises ValueError."""
        found = self._defined(text, ("cluster_id", "url"))
        mine = self._definition(found, max(1, number(found, "node_id", self.my_node_id)))
        if "node_id" in found:
            mine.node_id = number(found, "node_id", 0)
        else:
            mine.node_id = 0
        if mine.cluster_id in self._mine:
            raise ValueError(f"this node is defined twice in cluster {mine.cluster_id}")
        self._mine[mine.cluster_id] = mine

    def set_neighbor_node_info(self, text: str) -> None:
        """One `neighbor_node_info`. Raises ValueError."""
        found = self._defined(text, ("cluster_id", "node_id", "url"))
        self._others.append(self._definition(found, number(found, "node_id", 0)))

    def set_sharing_tag(self, text: str) -> None:
        """One `sharing_tag`. Raises ValueError."""
        self.tags.define(*parse_definition(text))

    # --- life

    def bind(self, core: Core) -> None:
        super().bind(core)
        if not self.enable_stats:
            core.stats.remove_group(self.name)

    async def start(self) -> None:
        if self.my_node_id < 1:
            raise ParamError(self.name, "my_node_id", "is needed, and counts from 1")
        for name in ("ping_interval", "ping_timeout"):
            if getattr(self, name) <= 0:
                raise ParamError(self.name, name, "has to be above 0")
        for name in ("node_timeout", "seed_fallback_interval", "sync_timeout"):
            if getattr(self, name) < 0:
                raise ParamError(self.name, name, "cannot be below 0")
        self._door = self.core.api("proto_bin", BinDoor)  # type: ignore[type-abstract]
        self._door.on_packet(wire.INTERNAL, self.take_internal)
        self._door.on_packet(wire.EXTRA, self.take_extra)
        self.core.status.set_status(GROUP, STATUS_READY, "", NODE_STATES)
        self.core.status.set_status(GROUP, STATUS_READY, "", SHARING_TAGS)
        if self.fixed:
            self._database = open_database(self, self.db_url)
            try:
                self.clusters = await self._load(self._database)
            except DatabaseError as error:
                raise StartError(f"table {self.db_table}: {error}") from error
        else:
            self.clusters = self._from_script()
        self._keep_tags()

    def _from_script(self) -> dict[int, Cluster]:
        if not self._mine:
            raise ParamError(self.name, "my_node_info", "is needed with db_mode 0")
        for mine in self._mine.values():
            if mine.node_id not in (0, self.my_node_id):
                raise ParamError(self.name, "my_node_info", f"node_id {mine.node_id} is not my_node_id")
            mine.node_id = self.my_node_id
        return self._make([*self._mine.values(), *self._others])

    def _make(self, definitions: Sequence[Definition]) -> dict[int, Cluster]:
        """The clusters of all definitions. Raises StartError."""
        made: dict[int, Cluster] = {}
        for mine in definitions:
            if mine.node_id == self.my_node_id:
                made[mine.cluster_id] = Cluster(self, mine, self._own_socket(mine))
        if len(made) > MOST_CLUSTERS:
            raise StartError(f"this node is in {len(made)} clusters, {MOST_CLUSTERS} are allowed")
        for definition in definitions:
            if definition.node_id == self.my_node_id:
                continue
            cluster = made.get(definition.cluster_id)
            if cluster is None:
                raise StartError(f"node {definition.node_id}: this node is not in cluster {definition.cluster_id}")
            cluster.add(definition)
        for cluster in made.values():
            every = [cluster.me, *cluster.nodes.values()]
            if self.fixed and not any(node.definition.seed for node in every):
                self.log.info("cluster %d has no seed node: data may have nobody to come from", cluster.cluster_id)
        return made

    def _own_socket(self, mine: Definition) -> Socket:
        """The listening point that others know this node by. Raises StartError."""
        port = mine.port or self._door.default_port
        addresses = {literal(mine.host)} if literal(mine.host) else _addresses_of(mine.host)
        for socket in self._door.sockets:
            shown = (socket.address, socket.advertised_address)
            if port in (socket.port, socket.advertised_port) and (
                mine.host in shown or addresses & {*shown} or socket.address in EVERYWHERE
            ):
                return socket
        raise StartError(f"cluster {mine.cluster_id}: this node is {mine.url}, and no socket=bin:... is that")

    async def _load(self, database: Database) -> dict[int, Cluster]:
        """The clusters of the table. Raises DatabaseError, StartError."""
        await database.check_version(self.db_table, CLUSTERER_TABLE.version or 0)
        columns = (
            self.id_col,
            self.cluster_id_col,
            self.node_id_col,
            self.url_col,
            self.state_col,
            self.no_ping_retries_col,
            self.priority_col,
            self.sip_addr_col,
            self.flags_col,
            self.description_col,
        )
        rows = await database.select(self.db_table, columns, (), "", MOST_ROWS + 1)
        if len(rows) > MOST_ROWS:
            raise StartError(f"table {self.db_table} has more than {MOST_ROWS} rows")
        definitions = []
        for row in rows:
            try:
                definitions.append(definition_of(row))
            except ValueError as error:
                self.log.error("table %s: row %s is skipped: %s", self.db_table, row[0], error)
        here = {found.cluster_id for found in definitions if found.node_id == self.my_node_id}
        if not here:
            self.log.warning("table %s: node %d is in no cluster", self.db_table, self.my_node_id)
        self._strangers = {address for d in definitions if (address := literal(d.host))}
        made = self._make([found for found in definitions if found.cluster_id in here])
        await self._load_bridges(database, made)
        return made

    async def _load_bridges(self, database: Database, clusters: dict[int, Cluster]) -> None:
        try:
            rows = await database.select(self.db_bridges_table, BRIDGE_COLUMNS, (), "", MOST_ROWS)
        except DatabaseError as error:
            if error.transient or self.given("db_bridges_table"):
                raise
            # Databases made before OpenSIPS 4 have no such table.
            self.log.info("there are no bridges between clusters: %s", error)
            return
        for row in rows:
            try:
                cluster_a = cell_int(row[0], "cluster_a", 1, HIGHEST_ID)
                cluster_b = cell_int(row[1], "cluster_b", 1, HIGHEST_ID)
                tag = cell_text(row[2], "send_shtag").strip()
                destinations = []
                for url in cell_text(row[3], "dst_node_csv", null="").split(","):
                    if url.strip():
                        host, port = parse_url(url)
                        address = literal(host) or next(iter(_addresses_of(host)), "")
                        if not address:
                            raise ValueError(f"{host} cannot be resolved")
                        destinations.append((address, port or self._door.default_port))
                        self._strangers.add(address)
            except ValueError as error:
                self.log.error("table %s: a row is skipped: %s", self.db_bridges_table, error)
                continue
            if cluster_a in clusters and destinations:
                clusters[cluster_a].bridges.append(Bridge(cluster_b, tag, destinations))

    def _keep_tags(self) -> None:
        for tag in self.tags.keep(set(self.clusters)):
            self.log.warning("sharing tag %s: there is no cluster %d", tag.name, tag.cluster_id)

    # --- what a cluster asks of us

    @property
    def log(self) -> Logger:
        return self.core.log

    @property
    def fixed(self) -> bool:
        return self.db_mode != 0

    @property
    def through_others(self) -> bool:
        return self.enable_rerouting != 0

    @property
    def times(self) -> LinkTimes:
        return LinkTimes(float(self.ping_interval), self.ping_timeout / 1000, float(self.node_timeout))

    @property
    def default_port(self) -> int:
        return self._door.default_port

    @property
    def sync_packet_bytes(self) -> int:
        return self.sync_packet_size

    @property
    def sync_timeout_s(self) -> float:
        return float(self.sync_timeout)

    @property
    def seed_fallback_s(self) -> float:
        return float(self.seed_fallback_interval)

    def now(self) -> float:
        return self.core.now()

    def wall(self) -> int:
        """Seconds since 1970 as packets have them, in 32 bits."""
        seconds = int(self.core.time()) & 0xFFFFFFFF
        return seconds - (1 << 32) if seconds >= 1 << 31 else seconds

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.core.spawn(work, name)

    def backlog(self) -> int:
        return self._door.waiting()

    def put(self, data: bytes, peer: Peer, socket: Socket, on_failure: Callable[[], None] | None) -> bool:
        return self.core.send(data, Target(peer, socket), on_failure)

    def find_address(self, node: Node) -> None:
        self.core.spawn(self._resolve(node), f"look-up of {node.definition.host}")

    async def _resolve(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(node.definition.host, None, type=os_socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self.log.error("node %d: %s cannot be resolved: %s", node.node_id, node.definition.host, error)
            if any(cluster.nodes.get(node.node_id) is node for cluster in self.clusters.values()):
                self.core.call_later(max(RESOLVE_AGAIN_S, float(self.node_timeout)), self.find_address, node)
            return
        node.address = literal(str(found[0][4][0]))

    def node_changed(self, cluster_id: int, node_id: int, up: bool) -> None:
        self.core.status.report(
            GROUP, f"Node [{node_id}], cluster [{cluster_id}] is {'UP' if up else 'DOWN'}", NODE_STATES
        )
        self.node_state_changed(cluster_id=cluster_id, node_id=node_id, new_state=int(up))
        if up:
            self.tags.node_came(cluster_id, node_id)

    def message(self, cluster_id: int, source: int, request: bool, text: str, tag: str) -> None:
        event = self.req_received if request else self.rpl_received
        event(cluster_id=cluster_id, src_id=source, msg=text, tag=tag)

    def run_command(self, name: str, params: list[str], source: int) -> None:
        self.log.info("management command %s from node %d", name, source)
        self.core.spawn(self._run_command(name, params, source), f"management command {name}")

    async def _run_command(self, name: str, params: list[str], source: int) -> None:
        try:
            await self.core.mi.call(name, params)
        except MiError as error:
            self.log.warning("management command %s from node %d: %s", name, source, error)

    def tag_active_elsewhere(self, tag: str, cluster_id: int, source: int) -> None:
        try:
            name, _ = parse_tag(f"{tag}/{cluster_id}")
        except ValueError as error:
            raise PacketError(str(error)) from error
        if not self.tags.active_elsewhere(name, cluster_id, source):
            raise PacketError("there are too many sharing tags")

    def tag_is_active(self, tag: str, cluster_id: int) -> bool:
        return self.tag_active(tag, cluster_id)

    def capability_changed(self, name: str, status: int, details: str, report: str) -> None:
        self.core.status.set_status(GROUP, status, details, f"cap:{name}")
        if report:
            self.core.status.report(GROUP, report, f"cap:{name}")

    def _tell_tag(self, cluster_id: int, node_id: int, tag: str) -> bool:
        return self.clusters[cluster_id].send_to(node_id, wire.extra(wire.TAG_ACTIVE).text(tag)) == SENT

    def _tag_changed(self, tag: Tag, reason: str) -> None:
        self.core.status.report(
            GROUP, f"TAG <{tag.name}>, cluster {tag.cluster_id}, became {tag.state} due to {reason}", SHARING_TAGS
        )
        self.log.info("sharing tag %s/%d is %s now: %s", tag.name, tag.cluster_id, tag.state, reason)
        for callback in self._tag_callbacks:
            callback(tag.name, tag.cluster_id, tag.active)
        self.sharing_tag_changed(name=tag.name, cluster=tag.cluster_id, state=tag.state, reason=reason)

    # --- packets

    def _cluster(self, cluster_id: int) -> Cluster:
        found = self.clusters.get(cluster_id)
        if found is None:
            raise PacketError(f"there is no cluster {cluster_id}")
        return found

    def take_internal(self, packet: Packet, peer: Peer) -> None:
        """A packet about nodes and links. Raises PacketError."""
        cluster, source = self._cluster(packet.number()), packet.number()
        self._check_source(source)
        cluster.internal(packet, source, peer)

    def take_extra(self, packet: Packet, peer: Peer) -> None:
        """Any other packet of the cluster itself. Raises PacketError."""
        destination, source, cluster_id = packet.last_number(), packet.last_number(), packet.last_number()
        self._check_source(source)
        cluster = self._cluster(cluster_id)
        node = cluster.accept(packet, source, destination, peer)
        if node is not None:
            cluster.extra(packet, node)

    def take_capability(self, packet: Packet, peer: Peer) -> None:
        """A packet of a module. Raises PacketError."""
        destination, source, cluster_id = packet.last_number(), packet.last_number(), packet.last_number()
        cluster = self._cluster(cluster_id)
        if destination == wire.BRIDGED:
            packet.last_number()
            if peer.address not in self._strangers and not cluster.is_member(peer.address):
                raise PacketError(f"no bridge to cluster {cluster_id} begins at this address")
            if not cluster.me.enabled:
                return
        else:
            self._check_source(source)
            if cluster.accept(packet, source, destination, peer) is None:
                return
        capability = cluster.capabilities.get(packet.capability)
        if capability is None:
            raise PacketError(f"nobody takes packets of {packet.capability[:64]!r} in cluster {cluster_id}")
        capability.received(packet, source)

    def _check_source(self, source: int) -> None:
        if source == self.my_node_id:
            raise PacketError(f"it says that it comes from node {source}, which is this one")

    # --- timers and figures

    def tick(self) -> None:
        """Ping who has to be pinged."""
        for cluster in self.clusters.values():
            cluster.tick()

    def tick_syncs(self) -> None:
        """Give up what takes too long to sync."""
        for cluster in self.clusters.values():
            cluster.tick_sync()

    def count_nodes(self) -> int:
        """Other nodes, in all clusters."""
        return sum(len(cluster.nodes) for cluster in self.clusters.values())

    def count_up(self) -> int:
        """Those there is a link to."""
        return sum(node.link.up for cluster in self.clusters.values() for node in cluster.nodes.values())

    def count_down(self) -> int:
        """Those there is none to."""
        return self.count_nodes() - self.count_up()

    # --- for other modules

    def join(
        self, name: str, cluster_id: int, user: ClusterUser, *, startup_sync: bool = False, with_nodes: int = ANY_NODE
    ) -> Capability:
        cluster = self.clusters.get(cluster_id)
        if cluster is None:
            raise LookupError(f"this node is in no cluster {cluster_id}")
        self._door.on_packet(name, self.take_capability)
        return cluster.join(name, user, startup_sync, with_nodes)

    def nodes(self, cluster_id: int) -> list[ClusterNode]:
        cluster = self.clusters.get(cluster_id)
        if cluster is None:
            return []
        found = [cluster.nodes[node_id] for node_id in cluster.routes if node_id in cluster.nodes]
        return [
            ClusterNode(n.node_id, n.address, n.port, n.definition.sip_address, n.definition.description) for n in found
        ]

    def my_sip_address(self, cluster_id: int) -> str:
        cluster = self.clusters.get(cluster_id)
        return cluster.me.definition.sip_address if cluster is not None else ""

    def check_address(self, cluster_id: int, address: str, *, sip: bool = True) -> bool:
        cluster = self.clusters.get(cluster_id)
        if cluster is None:
            return False
        if not sip:
            return cluster.is_member(literal(address.strip("[]")))
        wanted = _host_of(address)
        return any(_host_of(n.definition.sip_address) == wanted for n in cluster.nodes.values() if wanted)

    def tag_active(self, tag: str, cluster_id: int) -> bool:
        found = self.tags.find(tag, cluster_id)
        return found is not None and found.active

    def activate_tag(self, tag: str, cluster_id: int, reason: str) -> None:
        cluster = self.clusters.get(cluster_id)
        if cluster is not None:
            self.tags.activate(tag, cluster_id, list(cluster.nodes), reason)

    def on_tag(self, callback: Callable[[str, int, bool], None]) -> None:
        self._tag_callbacks.append(callback)

    # --- script

    def _new_tag(self, cluster_id: int) -> str:
        drawn = "".join(self.core.random.choice(TAG_LETTERS) for _ in range(TAG_LENGTH))
        return f"{cluster_id}-{self.my_node_id}-{drawn}"

    def _script_packet(self, request: bool, tag: str, text: str) -> PacketWriter:
        return wire.extra(wire.MESSAGE).number(int(request)).text(tag).text(text)

    def _send_message(self, cluster_id: int, dst_id: int, text: str, tag: str, request: bool) -> int:
        cluster = self.clusters.get(cluster_id)
        if cluster is None:
            self.log.error("a message for node %d: this node is in no cluster %d", dst_id, cluster_id)
            return FAILED
        if dst_id == self.my_node_id:
            if not cluster.me.enabled:
                return DISABLED
            self.message(cluster_id, self.my_node_id, request, text, tag)
            return SENT
        try:
            return cluster.send_to(dst_id, self._script_packet(request, tag, text))
        except PacketError as error:
            self.log.error("a message for node %d: %s", dst_id, error)
            return FAILED

    @script_function(routes=ROUTES)
    def cluster_send_req(
        self, run: Run, cluster_id: int, dst_id: int, msg: str, tag: Annotated[VarRef | None, WritableVar()] = None
    ) -> int:
        """Send a text to a node, where it raises E_CLUSTERER_REQ_RECEIVED.

        tag: a variable for the tag that the reply will have, too. Returns 1 (sent), -1 (this node is disabled), -2 (no
        way leads there) or -3 (it could not be sent).
        """
        made = self._new_tag(cluster_id)
        if tag is not None:
            tag.set(run, made)
        return self._send_message(cluster_id, dst_id, msg, made, True)

    @script_function(routes=ROUTES)
    def cluster_send_rpl(self, run: Run, cluster_id: int, dst_id: int, msg: str, tag: VarRef) -> int:
        """Answer a request of a node, where it raises E_CLUSTERER_RPL_RECEIVED. tag: that of the request.

        Returns as cluster_send_req(); -3 when there is no tag.
        """
        value = tag.get(run)
        if value is None:
            self.log.error("cluster_send_rpl: there is no tag")
            return FAILED
        return self._send_message(cluster_id, dst_id, msg, str(value), False)

    @script_function(routes=ROUTES)
    def cluster_broadcast_req(
        self,
        run: Run,
        cluster_id: int,
        msg: str,
        tag: Annotated[VarRef | None, WritableVar()] = None,
        include_self: int = 0,
    ) -> int:
        """Send a text to all other nodes, where it raises E_CLUSTERER_REQ_RECEIVED.

        tag: a variable for the tag that the replies will have, too. include_self: raise the event here, too. Returns
        1 (sent to one at least, or there is none), -1 (this node is disabled), -2 (none can be reached) or -3 (none
        could be sent to).
        """
        made = self._new_tag(cluster_id)
        if tag is not None:
            tag.set(run, made)
        cluster = self.clusters.get(cluster_id)
        if cluster is None:
            self.log.error("a message for all nodes: this node is in no cluster %d", cluster_id)
            return FAILED
        try:
            result = cluster.broadcast(self._script_packet(True, made, msg))
        except PacketError as error:
            self.log.error("a message for all nodes of cluster %d: %s", cluster_id, error)
            return FAILED
        if include_self and result != DISABLED:
            self.message(cluster_id, self.my_node_id, True, msg, made)
        return result

    @script_function(routes=ROUTES)
    def cluster_check_addr(self, run: Run, cluster_id: int, ip: str, addr_type: str = "sip") -> int:
        """Whether an address is one of the other nodes': their `sip_addr`, or with addr_type "bin" that of their BIN
        listening points. Returns 1 or -1."""
        kind = addr_type.strip().lower()
        if kind not in ("sip", "bin"):
            self.log.error("cluster_check_addr: addr_type is sip or bin, not %s", addr_type)
            return -1
        return 1 if self.check_address(cluster_id, ip, sip=kind == "sip") else -1

    def parse_tag_name(self, text: str) -> object:
        """What stands in $cluster.sh_tag(...). Raises ValueError."""
        return parse_tag(text)

    @variable("$cluster.sh_tag", name_arg=True, parse_name="parse_tag_name")
    def sh_tag(self, run: Run, name: tuple[str, int], index: Index) -> Value:
        """State of a sharing tag, $cluster.sh_tag(name/cluster): "active" or "backup". Written "active" or a number
        above 0, it becomes active here and backup on all other nodes; it cannot be made backup."""
        return "active" if self.tag_active(*name) else "backup"

    @sh_tag.setter
    def set_sh_tag(self, run: Run, name: tuple[str, int], index: Index, value: Value) -> None:
        if value is None or value == "":
            return
        if isinstance(value, str):
            state = value.strip().lower()
            if state not in ("active", "backup"):
                self.log.error("$cluster.sh_tag(%s/%d) is active or backup, not %s", *name, value)
                return
            active = state == "active"
        else:
            active = value > 0
        if not active:
            self.log.warning("$cluster.sh_tag(%s/%d) cannot be made backup", *name)
            return
        self.activate_tag(*name, "script variable")

    # --- management

    def _mi_cluster(self, cluster_id: int, code: int = 404, text: str = "Cluster id not found") -> Cluster:
        if cluster_id < 1:
            raise MiError(400, "Bad value for 'cluster_id'")
        found = self.clusters.get(cluster_id)
        if found is None:
            raise MiError(code, text)
        return found

    def _show(self, key: str, each: Callable[[Cluster], list[dict[str, Any]]]) -> dict[str, Any]:
        return {"Clusters": [{"cluster_id": c.cluster_id, key: each(c)} for c in self.clusters.values()]}

    @mi_command("clusterer:list", aliases=("clusterer_list",))
    def mi_list(self) -> dict[str, Any]:
        """Show the other nodes of each cluster, and how the links to them stand."""

        def nodes(cluster: Cluster) -> list[dict[str, Any]]:
            return [
                {
                    "node_id": node.node_id,
                    "db_id": node.definition.db_id,
                    "url": node.definition.url,
                    "link_state": node.link.state,
                    "state": "enabled" if node.enabled else "disabled",
                    "next_hop": str(cluster.routes.get(node.node_id, "none")),
                    "description": node.definition.description or "none",
                }
                for node in cluster.nodes.values()
            ]

        return self._show("Nodes", nodes)

    @mi_command("clusterer:list_topology", aliases=("clusterer_list_topology",))
    def mi_list_topology(self) -> dict[str, Any]:
        """Show which nodes of each cluster have a link to which, as far as this node knows."""

        def nodes(cluster: Cluster) -> list[dict[str, Any]]:
            mine = [node.node_id for node in cluster.nodes.values() if node.link.up]
            found = [{"node_id": cluster.my_id, "Neighbours": mine}]
            for node in cluster.nodes.values():
                others = sorted(node.neighbours) + ([cluster.my_id] if node.link.up else [])
                found.append({"node_id": node.node_id, "Neighbours": others})
            return found

        return self._show("Nodes", nodes)

    @mi_command("clusterer:list_cap", aliases=("clusterer_list_cap",))
    def mi_list_cap(self) -> dict[str, Any]:
        """Show what the modules of this node share in each cluster, and whether they have all data."""

        def capabilities(cluster: Cluster) -> list[dict[str, Any]]:
            return [
                {"name": c.name, "state": "Ok" if c.ok else "not synced", "enabled": "yes" if c.enabled else "no"}
                for c in cluster.capabilities.values()
            ]

        return self._show("Capabilities", capabilities)

    @mi_command("clusterer:list_shtags", aliases=("clusterer_list_shtags",))
    def mi_list_shtags(self) -> list[dict[str, Any]]:
        """Show all sharing tags and whether they are active here."""
        return [{"Tag": t.name, "Cluster": t.cluster_id, "State": t.state} for t in self.tags.known.values()]

    @mi_command("clusterer:shtag_set_active", aliases=("clusterer_shtag_set_active",), params=(("tag",),))
    def mi_shtag_set_active(self, tag: str) -> str:
        """Make a sharing tag, name/cluster, active here and backup on all other nodes."""
        if not tag.partition("/")[0].strip() or "/" not in tag:
            raise MiError(400, "Bad tag format <name/cluster_id>")
        try:
            name, cluster_id = parse_tag(tag)
        except ValueError as error:
            raise MiError(400, "Bad cluster ID in tag") from error
        if cluster_id not in self.clusters:
            raise MiError(404, "Cluster ID not found")
        self.activate_tag(name, cluster_id, "MI command")
        return OK

    @mi_command("clusterer:reload", aliases=("clusterer_reload",))
    async def mi_reload(self) -> str:
        """Read the table again. Links to nodes that are still where they were stay; the others are found anew."""
        if self._database is None:
            raise MiError(400, "Non-DB mode")
        try:
            made = await self._load(self._database)
        except (DatabaseError, StartError) as error:
            self.log.error("the table of clusters is not loaded again: %s", error)
            raise MiError(500, "Failed to reload") from error
        for cluster_id, cluster in made.items():
            old = self.clusters.get(cluster_id)
            if old is not None:
                cluster.succeed(old)
        self.clusters = made
        self._keep_tags()
        return OK

    @mi_command(
        "clusterer:set_status",
        aliases=("clusterer_set_status",),
        params=(("cluster_id", "status"), ("cluster_id", "node_id", "status")),
        types={"cluster_id": "int", "node_id": "int", "status": "int"},
    )
    async def mi_set_status(self, cluster_id: int, status: int, node_id: int | None = None) -> str:
        """Enable (1) or disable (0) this node or another one: packets from and to a disabled one do not count."""
        cluster = self._mi_cluster(cluster_id)
        target = self.my_node_id if node_id is None else node_id
        if target < 1:
            raise MiError(400, "Bad value for 'node_id'")
        if status not in (0, 1):
            raise MiError(400, "Bad value for 'status'")
        try:
            cluster.set_enabled(target, bool(status))
        except LookupError:
            raise MiError(404, "Node id not found") from None
        if self._database is not None:
            try:
                await self._database.update(
                    self.db_table,
                    {self.state_col: status},
                    [(self.cluster_id_col, "=", cluster_id), (self.node_id_col, "=", target)],
                )
            except DatabaseError as error:
                self.log.error("the state of node %d is not in the table: %s", target, error)
        return OK

    @mi_command(
        "clusterer:set_cap_status",
        aliases=("clusterer_set_cap_status",),
        params=(("cluster_id", "capability", "status"),),
        types={"cluster_id": "int", "capability": "string", "status": "int"},
    )
    def mi_set_cap_status(self, cluster_id: int, capability: str, status: int) -> str:
        """Enable (1) or disable (0) what a module shares: a disabled one neither sends nor receives."""
        cluster = self._mi_cluster(cluster_id)
        if status not in (0, 1):
            raise MiError(400, "Bad value for 'status'")
        found = cluster.capabilities.get(capability)
        if found is None:
            raise MiError(404, "Capability not found")
        found.set_enabled(bool(status))
        return OK

    @mi_command(
        "clusterer:remove_node",
        aliases=("clusterer_remove_node",),
        params=(("cluster_id", "node_id"),),
        types={"cluster_id": "int", "node_id": "int"},
    )
    def mi_remove_node(self, cluster_id: int, node_id: int) -> str:
        """Take a node out of the cluster, everywhere; if it runs, it is disabled. Not with db_mode 1."""
        if self.fixed:
            raise MiError(400, "Running in DB mode")
        cluster = self._mi_cluster(cluster_id, 400, "Unknown cluster id")
        if node_id < 1:
            raise MiError(400, "Bad value for 'node_id'")
        node = cluster.nodes.get(node_id)
        if node is None:
            raise MiError(400, "Unknown node id")
        cluster.broadcast(wire.extra(wire.REMOVE_NODE).number(node_id))
        cluster.remove(node)
        return OK

    def _command_packet(self, name: str, params: Sequence[Any]) -> PacketWriter:
        if len(params) > wire.MOST_MI_PARAMS:
            raise MiError(400, "Too many parameters")
        packet = wire.extra(wire.MI_COMMAND)
        try:
            packet.text(name).number(len(params))
            for value in params:
                packet.text(str(value))
        except PacketError as error:
            raise MiError(400, str(error)) from error
        return packet

    @mi_command(
        "clusterer:send_mi",
        aliases=("cluster_send_mi",),
        params=(("cluster_id", "destination", "cmd_name"), ("cluster_id", "destination", "cmd_name", "cmd_params")),
        types=MI_TYPES,
    )
    def mi_send_mi(self, cluster_id: int, destination: int, cmd_name: str, cmd_params: list[Any] | None = None) -> str:
        """Have a management command run on another node."""
        cluster = self._mi_cluster(cluster_id, 400, "Send error")
        if destination < 1:
            raise MiError(400, "Bad value for 'destination'")
        if destination == self.my_node_id:
            raise MiError(400, "Local node specified as destination")
        result = cluster.send_to(destination, self._command_packet(cmd_name, cmd_params or []))
        if result == DISABLED:
            return "Local node disabled"
        if result == UNREACHABLE:
            raise MiError(400, "Destination down")
        if result != SENT:
            raise MiError(400, "Send error")
        return OK

    @mi_command(
        "clusterer:broadcast_mi",
        aliases=("cluster_broadcast_mi",),
        params=(("cluster_id", "cmd_name"), ("cluster_id", "cmd_name", "cmd_params")),
        types={name: kind for name, kind in MI_TYPES.items() if name != "destination"},
    )
    async def mi_broadcast_mi(self, cluster_id: int, cmd_name: str, cmd_params: list[Any] | None = None) -> Any:
        """Have a management command run on all nodes, this one too, whose answer is shown."""
        params = cmd_params or []
        if cluster_id < 1:
            raise MiError(400, "Bad value for 'cluster_id'")
        cluster = self.clusters.get(cluster_id)
        result = FAILED if cluster is None else cluster.broadcast(self._command_packet(cmd_name, params))
        if result != SENT:
            self.log.error("management command %s was sent to no other node of cluster %d", cmd_name, cluster_id)
        return await self.core.mi.call(cmd_name, params)


def _host_of(address: str) -> str:
    """The host of "host:port" or "[address]:port", an address in its usual form."""
    text = address.strip()
    if text.startswith("["):
        return literal(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return literal(text) or text.lower()


def _addresses_of(host: str) -> set[str]:
    """The addresses of a name; the start may wait for them."""
    try:
        found = os_socket.getaddrinfo(host, None, type=os_socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {literal(str(answer[4][0])) for answer in found}
