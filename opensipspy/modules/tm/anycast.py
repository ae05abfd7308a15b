"""Several servers behind one anycast address: what reaches the wrong one goes to the one that has the transaction.

Each request that leaves names its node in its Via, so that a reply is sent to that node by whichever one gets it. A
CANCEL, and the ACK of a failure, name no node: they are sent to all others. The packets are those of OpenSIPS 4, so
that its servers may stand behind the same address.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any, Final

from opensipspy import sip
from opensipspy.cluster import DISABLED, SENT, Capability, ClusterApi, ClusterUser, Packet, PacketError, PacketWriter
from opensipspy.module import Param, ParamError, Stat, script_function
from opensipspy.modules.tm.base import TmBase
from opensipspy.modules.tm.flow import armed
from opensipspy.script.kinds import REQUEST
from opensipspy.script.run import Run
from opensipspy.sip import Message, ParseError, Peer, Socket
from opensipspy.transaction import ORIGINATOR_CANCEL

CAPABILITY: Final = "tm-repl"
REPLY: Final = 1
ANY_REQUEST: Final = 2
AUTO_CANCEL: Final = 3
VERSION: Final = 0
# What t_anycast_replicate() returns.
NOT_NEEDED: Final = -1
CAME_SO: Final = -2
NOT_SENT: Final = -3

REPLICATED: Final = "tm.replicated"
"""Key in `Run.ctx` of a request that another node has sent."""

# An address of the C server: its family and length as Linux has them, and 16 octets.
IP_ADDRESS: Final = struct.Struct("<II16s")
FAMILY_V4: Final = 2
FAMILY_V6: Final = 10
HASH_MASK: Final = 0xFFFF


class Anycast(ClusterUser):
    """Takes what other nodes pass on."""

    def __init__(self, tm: TmAnycast) -> None:
        self._tm = tm

    def on_packet(self, packet: Packet, source: int) -> None:
        self._tm.take_replicated(packet)


class TmAnycast(TmBase):
    """Parameters, statistics and the function for anycast addresses."""

    wants = ("clusterer",)

    tm_replication_cluster = Param(
        int, 0, "The cluster whose nodes share the addresses of sockets marked anycast; 0: none."
    )
    cluster_param = Param(str, "cid", "Parameter of Via that names the node whose transaction it is.")
    cluster_auto_cancel = Param(
        int, 1, "1: a CANCEL to an anycast address is handled without the script, on the node that has the INVITE."
    )

    cluster_request_sent = Stat("Requests sent to the nodes of the cluster.")
    cluster_request_recv = Stat("Requests that nodes have sent.")
    cluster_reply_sent = Stat("Replies sent to the node whose transaction it is.")
    cluster_reply_recv = Stat("Replies that nodes have sent.")
    cluster_cancel_sent = Stat("CANCELs sent to the nodes of the cluster.")
    cluster_cancel_recv = Stat("CANCELs that nodes have sent.")

    def __init__(self, **params: Any) -> None:
        self._place: Capability | None = None
        self._my_node = 0
        # Whether the message at hand is one that another node has sent.
        self._taking = False
        super().__init__(**params)

    async def start(self) -> None:
        await super().start()
        if self.tm_replication_cluster < 0:
            raise ParamError("tm", "tm_replication_cluster", "the number of a cluster is above 0")
        if not self.tm_replication_cluster:
            return
        name = self.cluster_param
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ParamError("tm", "cluster_param", f"{name!r} is no name of a parameter")
        try:
            cluster = self.core.api("clusterer", ClusterApi)  # type: ignore[type-abstract]
            self._place = cluster.join(CAPABILITY, self.tm_replication_cluster, Anycast(self))
        except LookupError as error:
            raise ParamError("tm", "tm_replication_cluster", str(error)) from error
        self._my_node = cluster.my_node_id
        self.flow.layer.via_suffix = f";{name}={self._my_node}"
        self.core.before_script(self._see_request)
        # After those of this node were looked for.
        self.core.on_reply(self._stray_reply)

    # -- what goes to other nodes --------------------------------------------------------------------------------

    @script_function(routes=REQUEST)
    def t_anycast_replicate(self, run: Run) -> int:
        """Send a CANCEL or an ACK whose transaction is not here to all other nodes that share the address.

        Returns 1 sent; -1 not needed: its transaction is here, or it came to no anycast address; -2 it came from a
        node; -3 it could not be sent. The ACK for a 2xx belongs to no transaction: send it on with t_relay().
        """
        msg = run.msg
        if self._place is None or msg.method_id not in (sip.M_CANCEL, sip.M_ACK) or not msg.socket.anycast:
            return NOT_NEEDED
        if run.noted(REPLICATED):
            return CAME_SO
        layer = self.flow.layer
        if msg.method_id == sip.M_ACK:
            if layer.find(msg) is not None or layer.find_local_2xx(msg) is not None:
                return NOT_NEEDED
        elif layer.find_cancelled(msg) is not None:
            return NOT_NEEDED
        if msg.method_id == sip.M_CANCEL and self.cluster_auto_cancel and msg.via.branch:
            sent = self._send_cancel(run)
        else:
            sent = self._send(ANY_REQUEST, msg, 0)
            if sent == SENT:
                self._count(self.cluster_request_sent)
        if sent != SENT:
            return NOT_SENT
        run.handled = True
        return 1

    def _see_request(self, run: Run) -> bool | None:
        """A CANCEL to an anycast address is handled before the script sees it."""
        if self._taking:
            run.ctx[REPLICATED] = True
        msg = run.msg
        if msg.method_id != sip.M_CANCEL or not msg.socket.anycast or not self.cluster_auto_cancel:
            return None
        if self.flow.layer.find_cancelled(msg) is not None:
            self.flow.relay(run, 0, "")
            run.handled = True
            return False
        if self._taking or self._send_cancel(run) != SENT:
            return None
        run.handled = True
        return False

    def _stray_reply(self, run: Run) -> bool:
        """A reply that belongs to no transaction here goes to the node that its Via names."""
        msg = run.msg
        if not msg.socket.anycast:
            return False
        text = msg.via.param(self.cluster_param)
        if not text or not (text.isascii() and text.isdigit() and len(text) <= 9):
            return False
        node_id = int(text)
        if node_id == self._my_node:
            return False
        if self._send(REPLY, msg, node_id) == SENT:
            self._count(self.cluster_reply_sent)
        return True

    def _send_cancel(self, run: Run) -> int:
        msg = run.msg
        sent = self._send(AUTO_CANCEL, msg, 0, cancel_fields(msg, armed(run).reason or ORIGINATOR_CANCEL))
        if sent == SENT:
            self._count(self.cluster_cancel_sent)
        return sent

    def _send(self, kind: int, msg: Message, node_id: int, more: bytes = b"") -> int:
        """Pass a message on to a node, or to all of them for node 0."""
        place = self._place
        if place is None:
            return DISABLED
        socket, source = msg.socket, msg.source
        try:
            packet = PacketWriter(CAPABILITY, kind, VERSION).number(socket.proto)
            packet.text(socket.tag or socket.address).number(0 if socket.tag else socket.port)
            packet.text(packed_address(source.address)).number(source.port)
            # The C server wants the NUL of its own texts behind the message.
            packet.text(octets_of(msg) + b"\0").raw(more)
            return place.send(node_id, packet) if node_id else place.broadcast(packet)
        except (PacketError, ValueError) as error:
            self.core.log.error("tm: a %s cannot be sent to other nodes: %s", msg.method, error)
            return NOT_SENT

    # -- what comes from other nodes -----------------------------------------------------------------------------

    def take_replicated(self, packet: Packet) -> None:
        """A message that another node has passed on. Raises PacketError."""
        kind = packet.kind
        if kind not in (REPLY, ANY_REQUEST, AUTO_CANCEL):
            raise PacketError(f"{kind} is no kind of packet of {CAPABILITY}")
        proto, host, port = packet.number(), packet.text(), packet.number()
        socket = self._socket(proto, host, port)
        if socket is None or not socket.anycast:
            raise PacketError(f"{sip.proto_name(proto) or proto}:{host[:64]}:{port} is no anycast address here")
        address, source_port = unpacked_address(packet.octets()), packet.number()
        if not 0 < source_port < 65536:
            raise PacketError(f"{source_port} is no port")
        data = packet.octets().removesuffix(b"\0")
        source = Peer(proto, address, source_port)
        counted = {REPLY: self.cluster_reply_recv, AUTO_CANCEL: self.cluster_cancel_recv}
        self._count(counted.get(kind, self.cluster_request_recv))
        if kind == AUTO_CANCEL and self.cluster_auto_cancel:
            self._cancel(data, source, socket, reason_of(packet))
            return
        self._taking = True
        try:
            self.core.receive(data, source, socket)
        finally:
            self._taking = False

    def _cancel(self, data: bytes, source: Peer, socket: Socket, reason: str) -> None:
        """A CANCEL that came to another node: it counts here if its INVITE did."""
        try:
            msg = sip.parse_message(data, source, socket)
            if not msg.is_request or msg.method_id != sip.M_CANCEL:
                raise PacketError("what should be a CANCEL is none")
            sip.validate_request(msg)
        except ParseError as error:
            raise PacketError(f"a CANCEL from {source.text}: {error.reason}") from error
        if self.flow.layer.find_cancelled(msg) is None:
            return
        run = Run(msg, REQUEST, self.core.program, self.core.services)
        run.ctx[REPLICATED] = True
        if reason:
            armed(run).reason = reason
        self.flow.relay(run, 0, "")

    def _socket(self, proto: int, host: str, port: int) -> Socket | None:
        """The listening point that a message came to on another node: by its tag for port 0, else by its address."""
        for socket in self.core.sockets:
            if socket.proto != proto:
                continue
            if (socket.tag == host != "") if not port else (socket.port == port and socket.address == host.strip("[]")):
                return socket
        return None

    def _count(self, stat: Any) -> None:
        if self.enable_stats:
            stat.inc()


def octets_of(msg: Message) -> bytes:
    """A message as it came."""
    return msg.head.encode("utf-8", "surrogateescape") + b"\r\n" + msg.body


def packed_address(address: str) -> bytes:
    """An address as the C server has it in memory."""
    found = ip_address(address)
    return IP_ADDRESS.pack(FAMILY_V4 if found.version == 4 else FAMILY_V6, len(found.packed), found.packed)


def unpacked_address(data: bytes) -> str:
    """The address that the C server had in memory. Raises PacketError."""
    if len(data) != IP_ADDRESS.size:
        raise PacketError(f"an address has {len(data)} octets, not {IP_ADDRESS.size}")
    family, size, octets = IP_ADDRESS.unpack(data)
    if (family, size) not in ((FAMILY_V4, 4), (FAMILY_V6, 16)):
        raise PacketError(f"an address of family {family} with {size} octets")
    return str(ip_address(octets[:size]))


def cancel_fields(msg: Message, reason: str) -> bytes:
    """Where in a CANCEL stands what the C server looks its INVITE up by, for it reads no more of it at first.

    Offsets of 0 have no length behind them.
    """
    via = msg.via
    head = msg.head.encode("utf-8", "surrogateescape")
    line = msg.first(sip.H_VIA)
    at = len(msg.head[: line.value_start].encode("utf-8", "surrogateescape")) if line is not None else 0
    lowered = head.lower()
    made = PacketWriter(CAPABILITY, AUTO_CANCEL)

    def put(text: str, after: bytes) -> None:
        data = text.encode("utf-8", "surrogateescape")
        place = lowered.find((after + data).lower(), at) if data else -1
        if place <= 0:
            made.number(0)
        else:
            made.number(place + len(after)).number(len(data))

    put(via.branch, b"branch=")
    put(via.host_text, b"")
    put(via.transport, b"/")
    made.number(via.port)
    made.text(reason if reason.endswith("\r\n") else reason + "\r\n")
    return made.number(call_hash(msg.call_id, str(msg.cseq_number))).fields()


def reason_of(packet: Packet) -> str:
    """The Reason line of a CANCEL, a complete one or "". Raises PacketError."""
    for _ in range(3):
        # An offset, with a length behind it unless it is 0: branch, host and transport of the Via.
        if packet.number():
            packet.number()
    packet.number()
    reason = packet.text()
    packet.number()
    line = reason.removesuffix("\r\n")
    if not line:
        return ""
    if "\r" in line or "\n" in line or not line.lower().startswith("reason:") or len(line) > 1024:
        raise PacketError("the reason of a CANCEL is no line of a header")
    return line + "\r\n"


def call_hash(call_id: str, cseq: str) -> int:
    """The place of a transaction in the table of the C server, which other servers have to tell it."""
    total = 0
    for text in (call_id, cseq):
        data = text.encode("utf-8", "surrogateescape")
        for at in range(0, len(data) - len(data) % 4, 4):
            total = _mixed(total, data[at : at + 4])
        total = _mixed(total, data[len(data) - len(data) % 4 :])
    total = (total + (total >> 11) + (total >> 13) + (total >> 23)) & 0xFFFFFFFF
    return total & HASH_MASK


def _mixed(total: int, data: bytes) -> int:
    value = 0
    for octet in data:
        # Octets have a sign there.
        value = ((value << 8) + (octet - 256 if octet > 127 else octet)) & 0xFFFFFFFF
    return (total + (value ^ (value >> 3))) & 0xFFFFFFFF
