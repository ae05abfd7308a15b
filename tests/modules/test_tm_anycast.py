"""tm behind an anycast address: what reaches the wrong server goes to the one that has the transaction."""

from __future__ import annotations

import re
from typing import Any

import pytest

from opensipspy import sip
from opensipspy.cluster import Packet, PacketWriter
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.tm import Tm
from opensipspy.modules.tm.anycast import (
    CAPABILITY,
    call_hash,
    cancel_fields,
    packed_address,
    unpacked_address,
)
from opensipspy.script.run import Run
from opensipspy.sip import Peer, Socket
from tests.modules.asynchronous import in_loop
from tests.modules.cluster_house import BinNode, Wires, address_of

VIA = "SIP/2.0/UDP 203.0.113.5:5060;branch=z9hG4bKcaller"
CALLER = Peer(sip.PROTO_UDP, "203.0.113.5", 5060)
CALLEE = "sip:bob@203.0.113.9:5070"
SHARED = "198.51.100.100"


class Shared:
    """Nodes 1 and 2 (and more) that listen at one address."""

    def __init__(self, wires: Wires, nodes: list[BinNode], tms: list[Tm]) -> None:
        self.wires = wires
        self.nodes = nodes
        self.tms = tms

    def socket(self, node: int) -> Socket:
        return self.nodes[node - 1].core.sockets[0]

    def comes(self, node: int, text: str, source: Peer = CALLER) -> None:
        """A message from the network to a node."""
        core = self.nodes[node - 1].core
        core.receive(text.encode(), source, self.socket(node))
        self.wires.settle()

    def run(self, node: int, text: str) -> Run:
        """A request whose script is at hand."""
        return make_run(text, core=self.nodes[node - 1].core, socket=self.socket(node), source=CALLER)

    def sent(self, node: int) -> list[str]:
        core = self.nodes[node - 1].core
        found = [sent.text for sent in core.sent]
        core.sent.clear()
        return found

    def invite(self, node: int) -> str:
        """A call through a node; the INVITE as it left."""
        run = self.run(node, request("INVITE", CALLEE, via=VIA))
        assert self.nodes[node - 1].core.call("t_relay", run) == 1
        trying, invite = self.sent(node)
        assert trying.startswith("SIP/2.0 100")
        return invite

    def stat(self, node: int, name: str) -> int:
        found = self.nodes[node - 1].core.stats.find(name)
        assert found is not None
        return found.read()


async def shared(count: int = 2, anycast: bool = True, **params: Any) -> Shared:
    wires = Wires()
    nodes, tms = [], []
    for node_id in range(1, count + 1):
        node = await wires.join(node_id, *range(1, node_id))
        node.core.sockets[:] = [Socket(sip.PROTO_UDP, SHARED, 5060)]
        node.core.sockets[0].anycast = anycast
        tm = node.core.add(Tm(tm_replication_cluster=1, **params))
        await tm.launch()
        nodes.append(node)
        tms.append(tm)
    wires.advance(2)
    return Shared(wires, nodes, tms)


def answer(invite: str, status: str, method: str = "INVITE") -> str:
    via = re.search(r"^Via: (.*)$", invite, re.M)
    assert via is not None
    head = "".join(f"{line}\r\n" for line in invite.split("\r\n") if line[:5] in ("From:", "Call-"))
    vias = "".join(f"{line}\r\n" for line in invite.split("\r\n") if line.startswith("Via:"))
    return (
        f"SIP/2.0 {status}\r\n{vias}{head}To: <sip:bob@example.org>;tag=b1\r\nCSeq: 1 {method}\r\n"
        "Content-Length: 0\r\n\r\n"
    )


@in_loop
async def test_requests_name_their_node() -> None:
    house = await shared()
    assert re.search(r"^Via: SIP/2.0/UDP 198.51.100.100:5060;branch=z9hG4bK[^;]*;cid=1\r$", house.invite(1), re.M)
    named = await shared(cluster_param="tid")
    assert ";tid=2\r" in named.invite(2)


@in_loop
async def test_a_reply_at_the_wrong_node_goes_to_the_right_one() -> None:
    house = await shared()
    invite = house.invite(1)
    house.comes(2, answer(invite, "180 Ringing"), Peer(sip.PROTO_UDP, "203.0.113.9", 5070))
    (ringing,) = house.sent(1)
    assert ringing.startswith("SIP/2.0 180 Ringing")
    assert house.sent(2) == []
    assert house.nodes[1].core.strays == []
    assert (house.stat(2, "cluster_reply_sent"), house.stat(1, "cluster_reply_recv")) == (1, 1)
    house.comes(1, answer(invite, "200 OK"))
    assert house.sent(1)[0].startswith("SIP/2.0 200 OK")
    assert house.stat(1, "cluster_reply_sent") == 0
    # What belongs to no transaction of the node that it names goes round no further.
    house.comes(1, answer(invite.replace(";branch=z9hG4bK", ";branch=z9hG4bKno"), "200 OK"))
    assert len(house.nodes[0].core.strays) == 1


@in_loop
async def test_a_cancel_at_the_wrong_node_ends_the_call() -> None:
    house = await shared(3)
    invite = house.invite(1)
    house.comes(1, answer(invite, "180 Ringing"))
    house.sent(1)
    house.comes(3, request("CANCEL", CALLEE, via=VIA))
    done, cancel = house.sent(1)
    assert done.startswith("SIP/2.0 200 canceling")
    assert cancel.startswith(f"CANCEL {CALLEE} SIP/2.0\r\n")
    assert 'Reason: SIP;cause=487;text="ORIGINATOR_CANCEL"' in cancel
    assert cancel.count("cid=1") == 1
    assert house.sent(2) == house.sent(3) == []
    assert [house.nodes[n].core.scripted for n in range(3)] == [[], [], []]
    assert (house.stat(3, "cluster_cancel_sent"), house.stat(1, "cluster_cancel_recv")) == (1, 1)
    house.comes(2, answer(invite, "487 Request Terminated"))
    ended = [text for text in house.sent(1) if text.startswith("SIP/2.0")]
    assert ended[0].startswith("SIP/2.0 487")


@in_loop
async def test_a_cancel_at_the_right_node_is_handled_without_the_script() -> None:
    house = await shared()
    invite = house.invite(1)
    house.comes(1, answer(invite, "180 Ringing"))
    house.sent(1)
    house.comes(1, request("CANCEL", CALLEE, via=VIA))
    assert [text.split(" ")[0] for text in house.sent(1)] == ["SIP/2.0", "CANCEL"]
    assert house.stat(1, "cluster_cancel_sent") == 0
    assert house.nodes[0].core.scripted == []


@in_loop
async def test_without_auto_cancel_the_script_says_what_becomes_of_it() -> None:
    house = await shared(cluster_auto_cancel=0)
    invite = house.invite(1)
    house.comes(1, answer(invite, "180 Ringing"))
    house.sent(1)
    house.comes(2, request("CANCEL", CALLEE, via=VIA))
    (run,) = house.nodes[1].core.scripted
    assert house.nodes[1].core.call("t_anycast_replicate", run) == 1
    house.wires.settle()
    (there,) = house.nodes[0].core.scripted
    assert house.nodes[0].core.call("t_anycast_replicate", there) == -2
    assert house.nodes[0].core.call("t_relay", there) == 1
    assert [text.split(" ")[0] for text in house.sent(1)] == ["SIP/2.0", "CANCEL"]
    assert (house.stat(2, "cluster_request_sent"), house.stat(1, "cluster_request_recv")) == (1, 1)


@in_loop
async def test_the_ack_of_a_failure_reaches_its_invite() -> None:
    house = await shared()
    invite = house.invite(1)
    house.comes(1, answer(invite, "486 Busy Here"))
    busy = house.sent(1)[-1]
    tag = re.search(r"^To: .*;tag=(\S+)\r$", busy, re.M)
    assert tag is not None
    ack = request("ACK", CALLEE, via=VIA, to=f"<sip:bob@example.org>;tag={tag[1]}")
    house.comes(2, ack)
    (run,) = house.nodes[1].core.scripted
    assert house.nodes[1].core.call("t_anycast_replicate", run) == 1
    house.wires.settle()
    (there,) = house.nodes[0].core.scripted
    assert there.msg.source.text == CALLER.text
    assert house.nodes[0].core.call("t_check_trans", there) == 1
    house.nodes[0].core.advance(5)
    assert not [text for text in house.sent(1) if "486" in text], "it is not sent again"


@in_loop
async def test_what_need_not_or_cannot_be_sent() -> None:
    house = await shared()
    house.invite(1)
    call = house.nodes[0].core.call
    assert call("t_anycast_replicate", house.run(1, request("INVITE", CALLEE))) == -1
    assert call("t_anycast_replicate", house.run(1, request("CANCEL", CALLEE, via=VIA))) == -1
    other = VIA.replace("caller", "other")
    assert call("t_anycast_replicate", house.run(1, request("CANCEL", CALLEE, via=other))) == 1
    house.socket(1).anycast = False
    assert call("t_anycast_replicate", house.run(1, request("CANCEL", CALLEE, via=other))) == -1
    house.socket(1).anycast = True
    del house.wires.nodes[2]
    house.wires.advance(10)
    assert call("t_anycast_replicate", house.run(1, request("CANCEL", CALLEE, via=other))) == -3
    house.comes(1, request("CANCEL", CALLEE, via=other))
    assert len(house.nodes[0].core.scripted) == 1, "nobody takes it, so the script sees it"


@in_loop
async def test_other_addresses_are_left_alone() -> None:
    house = await shared(anycast=False)
    invite = house.invite(1)
    house.comes(2, answer(invite, "180 Ringing"))
    assert len(house.nodes[1].core.strays) == 1
    house.comes(2, request("CANCEL", CALLEE, via=VIA))
    assert len(house.nodes[1].core.scripted) == 1
    assert house.sent(1) == []


@in_loop
async def test_nonsense_from_a_node_is_dropped() -> None:
    house = await shared()
    node = house.nodes[0]
    good = request("CANCEL", CALLEE, via=VIA).encode() + b"\0"
    dropped = node.door.dropped

    def packet(kind: int, host: str = SHARED, port: int = 5060, address: bytes = packed_address("192.0.2.9")) -> Any:
        return PacketWriter(CAPABILITY, kind).number(1).text(host).number(port).text(address).number(5060)

    for made in (
        packet(9).text(good),
        packet(2, host="192.0.2.200").text(good),
        packet(2, port=0).text(good),
        packet(2, address=b"x" * 24).text(good),
        packet(2, address=b"x").text(good),
        packet(3).text(good),
        packet(3).text(b"junk").number(0).number(0).number(0).number(0).text("").number(0),
        packet(3).text(good).number(0).number(0).number(0).number(0).text("X: y\r\nReason: z").number(0),
        packet(3).text(good.replace(b"CANCEL", b"OPTIONS")).number(0).number(0).number(0).number(0).text("").number(0),
    ):
        node.take(made.number(1).number(2).number(1).data(), address_of(2))
        dropped += 1
        assert node.door.dropped == dropped
    assert node.core.scripted == []


@pytest.mark.parametrize(
    "params",
    [
        {"tm_replication_cluster": 7},
        {"tm_replication_cluster": -1},
        {"tm_replication_cluster": 1, "cluster_param": "a b"},
    ],
)
def test_the_start_says_what_is_wrong(params: dict[str, Any]) -> None:
    @in_loop
    async def scenario() -> None:
        node = await Wires().join(1)
        tm = node.core.add(Tm(**params))
        with pytest.raises(ParamError, match=list(params)[-1]):
            await tm.launch()

    scenario()


@in_loop
async def test_without_clusterer_nothing_is_shared() -> None:
    core = FakeCore()
    with pytest.raises(ParamError, match="clusterer"):
        await core.add(Tm(tm_replication_cluster=1)).launch()


def test_addresses_are_those_of_the_c_server() -> None:
    """struct ip_addr of ip_addr.h on Linux: family, length, 16 octets."""
    assert packed_address("192.0.2.1").hex() == "0200000004000000c0000201" + "00" * 12
    assert packed_address("2001:db8::1").hex() == "0a00000010000000" + "20010db8" + "00" * 11 + "01"
    for text in ("192.0.2.1", "2001:db8::1"):
        assert unpacked_address(packed_address(text)) == text


def test_a_cancel_tells_where_its_via_stands() -> None:
    text = request("CANCEL", CALLEE, via="SIP/2.0/UDP 203.0.113.5:5062 ;Branch=z9hG4bKx;rport")
    msg = make_run(text).msg
    packet = Packet(PacketWriter("x", 1).raw(cancel_fields(msg, "Reason: SIP;cause=487")).data())
    for expected in ("z9hG4bKx", "203.0.113.5", "UDP"):
        at, size = packet.number(), packet.number()
        assert text[at : at + size] == expected
    assert packet.number() == 5062
    assert packet.text() == "Reason: SIP;cause=487\r\n"
    assert packet.number() == call_hash(msg.call_id, "1")
    assert packet.left == 0
