"""What modules share through clusterer: packets, all data for a node that has started, bridges between clusters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

import pytest

from opensipspy.cluster import (
    DISABLED,
    MOST_BYTES,
    OTHER_SIP_ADDRESS,
    SENT,
    UNREACHABLE,
    Capability,
    ClusterUser,
    Packet,
    PacketError,
    PacketWriter,
    SyncWriter,
)
from opensipspy.modules.clusterer import wire
from opensipspy.modules.clusterer.cluster import Bridge
from tests.modules.asynchronous import in_loop
from tests.modules.cluster_house import BinNode, Wires, address_of, extra, internal

NAME = "test-cap"


class Words(ClusterUser):
    """Shares words."""

    def __init__(self, *words: str, slowly: bool = False) -> None:
        self.words = list(words)
        self.heard: list[tuple[int, str]] = []
        self.nodes: list[tuple[int, bool]] = []
        self.synced_from: list[int] = []
        self.slowly = slowly

    def on_packet(self, packet: Packet, source: int) -> None:
        self.heard.append((source, packet.text()))

    def on_node(self, node_id: int, up: bool) -> None:
        self.nodes.append((node_id, up))

    def on_sync_request(self, node_id: int, sync: SyncWriter) -> Awaitable[None] | None:
        if self.slowly:
            return self._add_slowly(sync)
        for word in self.words:
            sync.add(PacketWriter(NAME, 0, 7).text(word))
        return None

    async def _add_slowly(self, sync: SyncWriter) -> None:
        for word in self.words:
            await asyncio.sleep(0)
            sync.add(PacketWriter(NAME, 0, 7).text(word))

    def on_sync_chunk(self, chunk: Packet, source: int) -> None:
        assert chunk.version == 7
        self.words.append(chunk.text())

    def on_synced(self, source: int) -> None:
        self.synced_from.append(source)


def join(node: BinNode, words: Words, *, startup_sync: bool = False, with_nodes: int = 0) -> Capability:
    return node.cluster.join(NAME, 1, words, startup_sync=startup_sync, with_nodes=with_nodes)


def say(word: str) -> PacketWriter:
    return PacketWriter(NAME, 1).text(word)


@in_loop
async def test_packets_reach_the_module_of_other_nodes() -> None:
    wires = Wires()
    nodes = [await wires.join(1), await wires.join(2, 1), await wires.join(3, 1)]
    users = [Words() for _ in nodes]
    places = [join(node, user) for node, user in zip(nodes, users, strict=True)]
    wires.advance(3)
    assert places[0].send(2, say("one")) == SENT
    assert places[0].broadcast(say("all")) == SENT
    wires.settle()
    assert [user.heard for user in users] == [[], [(1, "one"), (1, "all")], [(1, "all")]]
    assert users[0].nodes == [(2, True), (3, True)]
    assert places[2].synced_nodes() == [1, 2, 3]
    wires.cut.add(frozenset((1, 3)))
    wires.advance(10)
    assert places[0].send(3, say("around")) == SENT
    wires.settle()
    assert users[2].heard[-1] == (1, "around")
    del wires.nodes[2], wires.nodes[3]
    wires.advance(10)
    assert users[0].nodes[2:] == [(2, False), (3, False)]
    assert places[0].send(2, say("gone")) == UNREACHABLE
    with pytest.raises(LookupError, match="no cluster 5"):
        nodes[0].cluster.join(NAME, 5, Words())


@in_loop
async def test_a_node_that_starts_gets_all_data() -> None:
    wires = Wires()
    first = await wires.join(1, my_node_info=["cluster_id=1,url=bin:192.0.2.1,flags=seed"])
    donor = Words(*(f"word {n} " + "x" * 500 for n in range(300)))
    place = join(first, donor, startup_sync=True)
    assert not place.synced
    wires.advance(6)
    assert place.synced, "a seed node needs nobody"
    second = await wires.join(2, 1)
    late = Words(slowly=True)
    mine = join(second, late, startup_sync=True)
    status = second.core.status.group("clusterer")
    assert status is not None
    assert (status[f"cap:{NAME}"].status, status[f"cap:{NAME}"].details) == (-2, "sync pending")
    wires.advance(2)
    assert late.words == donor.words
    assert late.synced_from == [1]
    assert mine.synced
    assert status[f"cap:{NAME}"].status == 1
    assert [text for _, text in status[f"cap:{NAME}"].reports] == [
        "Sync request postponed! (no donor available)",
        "Sync requested from node [1]",
        "Sync started from node [1]",
        "Sync completed, received [300] chunks",
    ]
    assert len([1 for _, _, p in wires.packets(wire.SYNC_DATA, "clusterer-extra")]) > 3
    assert place.synced_nodes() == mine.synced_nodes() == [1, 2]
    third = await wires.join(3, 1)
    more = Words()
    wires.nodes[1].cluster.clusters[1].capabilities[NAME].set_enabled(False)
    wires.settle()
    join(third, more, startup_sync=True)
    wires.advance(3)
    await second.core.settle()
    wires.settle()
    assert more.synced_from == [2], "the first is disabled, so another one gives"
    assert sorted(more.words) == sorted(donor.words)


@in_loop
async def test_packets_that_come_during_a_sync_follow_it() -> None:
    wires = Wires()
    first, second = await wires.join(1), await wires.join(2, 1)
    late = Words()
    join(first, Words("a"))
    wires.advance(2)
    mine = join(second, late, startup_sync=True)
    data = PacketWriter("clusterer-extra", wire.SYNC_DATA, 3).text(NAME).number(7)
    chunk = PacketWriter("", 0).text("b").fields()
    data.number(len(chunk)).number(wire.CHUNK_MARK).raw(chunk)
    second.take(data.number(1).number(1).number(2).data(), address_of(1))
    packet = PacketWriter(NAME, 1).text("meanwhile").number(1).number(1).number(2).data()
    second.take(packet, address_of(1))
    assert (late.words, late.heard) == (["b"], [])
    end = PacketWriter("clusterer-extra", wire.SYNC_END, 3).text(NAME).number(1)
    second.take(end.number(1).number(1).number(2).data(), address_of(1))
    assert late.heard == [(1, "meanwhile")]
    assert mine.synced


@in_loop
async def test_the_end_of_the_data_may_come_before_them() -> None:
    """Packets of one node may take two ways."""
    wires = Wires()
    first, second = await wires.join(1), await wires.join(2, 1)
    late = Words()
    join(first, Words("a"))
    wires.advance(2)
    mine = join(second, late, startup_sync=True)
    end = PacketWriter("clusterer-extra", wire.SYNC_END, 3).text(NAME).number(2)
    second.take(end.number(1).number(1).number(2).data(), address_of(1))
    for word in ("b", "c"):
        assert not mine.synced
        chunk = PacketWriter("", 0).text(word).fields()
        data = PacketWriter("clusterer-extra", wire.SYNC_DATA, 3).text(NAME).number(7)
        data.number(len(chunk)).number(wire.CHUNK_MARK).raw(chunk)
        second.take(data.number(1).number(1).number(2).data(), address_of(1))
    assert mine.synced
    assert late.words == ["b", "c"]


@in_loop
async def test_a_sync_that_stops_is_given_up_or_asked_of_another() -> None:
    wires = Wires()
    first, second = await wires.join(1), await wires.join(2, 1)
    late = Words()
    join(first, Words("a"))
    wires.advance(2)
    wires.nodes.pop(1)
    mine = join(second, late, startup_sync=True)
    wires.advance(20)
    assert not mine.synced
    status = second.core.status.group("clusterer")
    assert status is not None
    assert status[f"cap:{NAME}"].status in (-2, -3)
    back = await wires.join(1, 2)
    join(back, Words("c"))
    wires.advance(8)
    assert mine.synced
    assert late.words == ["c"]


class Silent(Words):
    """Has the data and never ends giving them."""

    def on_sync_request(self, node_id: int, sync: SyncWriter) -> Awaitable[None]:
        return asyncio.get_running_loop().create_future()


@in_loop
async def test_who_does_not_answer_is_asked_again() -> None:
    wires = Wires()
    first, second = await wires.join(1), await wires.join(2, 1)
    join(first, Silent("a"))
    wires.advance(2)
    late = Words()
    mine = join(second, late, startup_sync=True)
    wires.advance(16)
    status = second.core.status.group("clusterer")
    assert status is not None
    assert status[f"cap:{NAME}"].status == -3
    first.cluster.clusters[1].capabilities[NAME].user = Words("b")
    # Nobody but who was asked is listened to.
    end = PacketWriter("clusterer-extra", wire.SYNC_END, 3).text(NAME).number(0)
    second.take(end.number(1).number(1).number(2).data(), address_of(1))
    assert not mine.synced
    wires.advance(16)
    assert mine.synced
    assert late.words == ["b"]
    for task in first.core.tasks:
        task.cancel()
    await asyncio.gather(*first.core.tasks, return_exceptions=True)


@in_loop
async def test_data_may_be_wanted_of_certain_nodes_only() -> None:
    wires = Wires()
    first, second = await wires.join(1), await wires.join(2, 1)
    same = "cluster_id=1,url=bin:192.0.2.3,sip_addr=198.51.100.2:5060"
    third = await wires.join(3, 1, my_node_info=[same])
    join(second, Words("twin"))
    wires.advance(3)
    late = Words()
    join(third, late, startup_sync=True, with_nodes=OTHER_SIP_ADDRESS)
    wires.advance(1)
    assert late.words == []
    join(first, Words("other"))
    wires.advance(3)
    assert late.words == ["other"]


@in_loop
async def test_a_disabled_capability_neither_sends_nor_receives() -> None:
    wires = Wires()
    first, second = await wires.join(1), await wires.join(2, 1)
    users = (Words(), Words())
    place, there = join(first, users[0]), join(second, users[1])
    wires.advance(2)
    mi = first.core.mi_call
    assert (await mi("clusterer:list_cap"))["Clusters"][0]["Capabilities"] == [
        {"name": NAME, "state": "Ok", "enabled": "yes"}
    ]
    await mi("clusterer:set_cap_status", {"cluster_id": 1, "capability": NAME, "status": 0})
    assert (await mi("clusterer:list_cap"))["Clusters"][0]["Capabilities"] == [
        {"name": NAME, "state": "not synced", "enabled": "no"}
    ]
    assert place.broadcast(say("x")) == SENT
    assert there.broadcast(say("y")) == SENT
    wires.settle()
    assert [user.heard for user in users] == [[], []]
    await mi("clusterer:set_cap_status", {"cluster_id": 1, "capability": NAME, "status": 1})
    assert place.synced
    place.broadcast(say("z"))
    wires.settle()
    assert users[1].heard == [(1, "z")]
    await mi("clusterer:set_status", {"cluster_id": 1, "status": 0})
    assert place.broadcast(say("z")) == DISABLED


@in_loop
async def test_bridges_lead_into_another_cluster() -> None:
    wires = Wires()
    first = await wires.join(1, sharing_tag="wan/1=backup")
    second = await wires.join(2, my_node_info=["cluster_id=2,url=bin:192.0.2.2"])
    place = join(first, Words())
    there = Words()
    second.cluster.join(NAME, 2, there)
    first.cluster.clusters[1].bridges.append(Bridge(2, "wan", [("192.0.2.77", 5555), ("192.0.2.2", 5555)]))
    place.broadcast_bridges(say("early"))
    wires.settle()
    first.cluster.activate_tag("wan", 1, "test")
    place.broadcast_bridges(say("unknown"))
    wires.settle()
    assert there.heard == [], "nothing says that packets over a bridge may come from there"
    assert second.door.dropped == 1
    second.cluster._strangers.add("192.0.2.1")
    assert place.broadcast_bridges(say("over the bridge")) == SENT
    wires.settle()
    assert there.heard == [(1, "over the bridge")]


@in_loop
async def test_nonsense_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    wires = Wires()
    first, _ = await wires.join(1), await wires.join(2, 1)
    user = Words()
    place = join(first, user)
    wires.advance(2)
    dropped = first.door.dropped
    with caplog.at_level(logging.WARNING):
        for data in (
            PacketWriter(NAME, 1).number(1).number(2).number(1).data(),
            PacketWriter("other-cap", 1).text("x").number(1).number(2).number(1).data(),
            PacketWriter(NAME, 1).data(),
            extra(wire.SYNC_REQUEST, fields=PacketWriter("", 0).text("no-cap").fields()),
            extra(wire.SYNC_DATA, fields=PacketWriter("", 0).text(NAME).number(1).fields()),
            internal(wire.CAPABILITIES).number(50).number(1).number(1).number(2).number(1).text("").number(1).data(),
            internal(wire.CAPABILITIES).number(50).number(1).number(1).number(2).number(1).text("a").number(7).data(),
        ):
            first.take(data, address_of(2))
            dropped += 1
            assert first.door.dropped == dropped
    assert user.heard == []
    assert place.synced


class Boulder(Words):
    """Has a piece of data that no packet can hold."""

    def on_sync_request(self, node_id: int, sync: SyncWriter) -> None:
        sync.add(PacketWriter(NAME, 0, 7).raw(bytes(MOST_BYTES)))


@in_loop
async def test_a_piece_that_no_packet_can_hold_is_an_error() -> None:
    wires = Wires()
    first = await wires.join(1)
    first.cluster.join(NAME, 1, Boulder())
    with pytest.raises(PacketError, match="fits into no packet"):
        first.cluster.clusters[1].capabilities[NAME].give(2)
