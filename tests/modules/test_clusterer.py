"""clusterer: nodes that find each other, links that break, ways around them, and what strangers say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensipspy.cluster import PacketWriter, parse_tag
from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module import MiError, ParamError, StartError
from opensipspy.module.testing import make_run, make_var, request
from opensipspy.modules.clusterer import wire
from opensipspy.modules.clusterer.links import Link, LinkTimes
from opensipspy.modules.clusterer.node import parse_properties
from opensipspy.modules.clusterer.node import parse_url as parse_node_url
from opensipspy.modules.clusterer.paths import is_newer, next_hops
from opensipspy.modules.clusterer.tables import BRIDGE_TABLE, CLUSTERER_TABLE
from opensipspy.modules.clusterer.tags import parse_definition
from tests.modules.asynchronous import in_loop
from tests.modules.cluster_house import BinNode, Wires, address_of, extra, internal
from tests.modules.tables import URL, change, make_tables

# What OpenSIPS 4 nodes 1 and 2 of cluster 1 said to each other on loopback, octet by octet.
C_PING = "5034434b2e00000001001200636c757374657265722d696e7465726e616c00000000010000000100000001000000"
# No label of a name may be so long, so that nobody has to be asked.
LONG = "x" * 64 + ".invalid"
C_PONG = "5034434b2e00000001001200636c757374657265722d696e7465726e616c01000000010000000200000000000000"
C_TOPOLOGY = (
    "5034434b5600000001001200636c757374657265722d696e7465726e616c030000000100000001000000000000000c72046b"
    "010000000100000000000000ffffffff0000000001000000020000000100000001000000"
)


async def three(wires: Wires, **params: Any) -> tuple[BinNode, BinNode, BinNode]:
    """Nodes 1, 2 and 3, of which 2 and 3 knew 1 only."""
    first = await wires.join(1, **params)
    second = await wires.join(2, 1, **params)
    third = await wires.join(3, 1, **params)
    wires.advance(3)
    return first, second, third


# --- links and ways


def test_a_link_is_up_when_the_first_ping_is_answered() -> None:
    link = Link(LinkTimes(4.0, 1.0, 60.0), 3)
    assert not link.answered(0.0), "nothing was asked"
    assert link.tick(0.0)
    assert link.answered(0.2)
    assert [now for now in (0.3, 1.5, 3.9, 4.0, 4.5) if link.tick(now)] == [4.0]
    assert link.up


def test_a_missed_answer_is_asked_for_again_before_the_link_is_down() -> None:
    link = Link(LinkTimes(4.0, 1.0, 60.0), 2)
    link.tick(0.0)
    link.answered(0.1)
    assert link.tick(4.0)
    assert link.tick(5.0)
    assert link.state == "Probe"
    assert link.tick(6.0)
    assert not link.tick(7.0)
    assert link.state == "Down"
    assert not link.tick(65.0)
    assert link.tick(67.0), "after node_timeout it is tried again"
    assert link.answered(67.5)


def test_without_retries_one_missed_answer_is_enough() -> None:
    link = Link(LinkTimes(4.0, 1.0, 60.0), 0)
    link.tick(0.0)
    assert not link.tick(1.0)
    assert link.state == "Down"


def test_the_shortest_way_counts_then_the_priority() -> None:
    neighbours = {2: {4}, 3: {4, 5}, 4: {6}, 5: {6}}
    assert next_hops([2, 3], neighbours, lambda n: 50) == {2: 2, 3: 3, 4: 2, 5: 3, 6: 2}
    assert next_hops([2, 3], neighbours, lambda n: 50 - n)[4] == 3
    assert next_hops([2, 3], neighbours, lambda n: 50, through_others=False) == {2: 2, 3: 3}
    assert next_hops([], neighbours, lambda n: 50) == {}


def test_updates_are_ordered_by_number_and_begin_anew_after_a_restart() -> None:
    assert is_newer((-1, 0), 0, 100)
    assert is_newer((0, 100), 1, 100)
    assert not is_newer((5, 100), 5, 200)
    assert not is_newer((5, 100), 4, 200)
    assert is_newer((5, 100), 0, 200)
    assert not is_newer((5, 100), 0, 100), "a late copy of the first one"
    assert not is_newer((5, 100), 0, 90)
    assert is_newer((5, 100), 0, 10), "its clock was set back"


# --- nodes find each other


@in_loop
async def test_nodes_find_each_other_through_the_one_they_know() -> None:
    wires = Wires()
    first, second, third = await three(wires)
    assert first.links() == {2: ("Up", "2"), 3: ("Up", "3")}
    assert second.links() == {1: ("Up", "1"), 3: ("Up", "3")}
    assert third.links() == {1: ("Up", "1"), 2: ("Up", "2")}
    assert first.states() == [(2, 1), (3, 1)]
    topology = {n["node_id"]: n["Neighbours"] for n in third.cluster.mi_list_topology()["Clusters"][0]["Nodes"]}
    assert topology == {3: [1, 2], 1: [2, 3], 2: [1, 3]}
    reports = first.core.status.group("clusterer")
    assert reports is not None
    assert reports["node_states"].reports[-1][1] == "Node [3], cluster [1] is UP"
    assert [first.core.stats.find(f"clusterer_nodes{s}").read() for s in ("", "_up", "_down")] == [2, 2, 0]  # type: ignore[union-attr]


@in_loop
async def test_what_leaves_is_octet_by_octet_what_the_c_server_sends() -> None:
    wires = Wires()
    await wires.join(1, 2)
    await wires.join(2, 1)
    wires.advance(0.15)
    log = {(here, data.hex()) for here, _, data in wires.log}
    assert (1, C_PING) in log
    assert (2, C_PONG) in log
    stamp = int(wires.wall).to_bytes(4, "little").hex()
    sent = next(data.hex() for here, _, data in wires.log if here == 1 and data[30:34] == b"\x03\0\0\0")
    # Before its first link update a node of C says -1 and 0 of it, too; the time is another one.
    assert sent.replace(stamp, "0c72046b") == C_TOPOLOGY


@in_loop
async def test_packets_take_another_way_when_a_link_breaks() -> None:
    wires = Wires()
    first, second, third = await three(wires)
    first.states()
    wires.cut.add(frozenset((1, 3)))
    wires.advance(8)
    assert first.links()[3][1] == "2"
    assert first.links()[3][0] in ("Probe", "Down")
    assert third.links()[1][1] == "2"
    assert (3, 0) not in first.states()[-1:], "it can still be reached"
    run = make_run(request(), core=first.core)
    third.seen("E_CLUSTERER_REQ_RECEIVED")
    assert first.core.call("cluster_send_req", run, 1, 3, "around") == 1
    wires.settle()
    (got,) = third.seen("E_CLUSTERER_REQ_RECEIVED")
    assert (got["src_id"], got["msg"]) == (1, "around")
    del wires.nodes[2]
    wires.advance(12)
    assert first.links()[3] == ("Down", "none")
    assert {(2, 0), (3, 0)} <= set(first.states())
    assert first.core.call("cluster_send_req", run, 1, 3, "nowhere") == -2
    assert second.node_id == 2


@in_loop
async def test_without_rerouting_only_links_count() -> None:
    wires = Wires()
    first, second, third = await three(wires, enable_rerouting=0)
    wires.cut.add(frozenset((1, 3)))
    wires.advance(12)
    assert first.links()[3] == ("Down", "none")
    fields = PacketWriter("x", 0).number(1).text("t").text("m").fields()
    second.take(extra(wire.MESSAGE, source=1, destination=3, fields=fields), address_of(1))
    wires.settle()
    assert third.seen("E_CLUSTERER_REQ_RECEIVED") == []
    assert second.door.dropped == 1


@in_loop
async def test_a_node_that_was_killed_is_noticed_and_welcomed_back() -> None:
    wires = Wires()
    first, _, _ = await three(wires)
    first.states()
    del wires.nodes[3]
    wires.advance(5)
    assert first.states() == [(3, 0)]
    await wires.join(3, 1)
    wires.advance(3)
    assert first.states() == [(3, 1)]
    assert first.links() == {2: ("Up", "2"), 3: ("Up", "3")}
    assert wires.nodes[3].links() == {1: ("Up", "1"), 2: ("Up", "2")}


@in_loop
async def test_a_late_packet_does_not_bring_an_old_topology_back() -> None:
    wires = Wires()
    first, second, _ = await three(wires)
    old = next(data for here, there, data in wires.log if (here, there) == (2, 1) and data[30:34] == b"\x03\0\0\0")
    neighbours = set(first.cluster.clusters[1].nodes[2].neighbours)
    first.take(old, address_of(2))
    assert first.cluster.clusters[1].nodes[2].neighbours == neighbours
    assert second.node_id == 2


# --- script


@in_loop
async def test_requests_and_replies_carry_one_tag() -> None:
    wires = Wires()
    first, second, _ = await three(wires)
    run = make_run(request(), core=first.core)
    tag = make_var("tag")
    assert first.core.call("cluster_send_req", run, 1, 2, "who is there?", tag) == 1
    wires.settle()
    (asked,) = second.seen("E_CLUSTERER_REQ_RECEIVED")
    assert asked == {"cluster_id": 1, "src_id": 1, "msg": "who is there?", "tag": run.vars["tag"]}
    assert str(run.vars["tag"]).startswith("1-1-")
    there = make_run(request(), core=second.core)
    there.vars["t"] = asked["tag"]
    assert second.core.call("cluster_send_rpl", there, 1, 1, "me", make_var("t")) == 1
    wires.settle()
    (answer,) = first.seen("E_CLUSTERER_RPL_RECEIVED")
    assert answer == {"cluster_id": 1, "src_id": 2, "msg": "me", "tag": run.vars["tag"]}
    assert second.core.call("cluster_send_rpl", there, 1, 1, "me", make_var("none")) == -3


@in_loop
async def test_broadcasts_reach_all_and_oneself_when_asked() -> None:
    wires = Wires()
    first, second, third = await three(wires)
    run = make_run(request(), core=first.core)
    assert first.core.call("cluster_broadcast_req", run, 1, "all", make_var("tag"), 1) == 1
    wires.settle()
    for node in (first, second, third):
        (got,) = node.seen("E_CLUSTERER_REQ_RECEIVED")
        assert (got["src_id"], got["msg"], got["tag"]) == (1, "all", run.vars["tag"])
    assert first.core.call("cluster_broadcast_req", run, 1, "others") == 1
    wires.settle()
    assert first.seen("E_CLUSTERER_REQ_RECEIVED") == []
    assert first.core.call("cluster_send_req", run, 1, 1, "to myself") == 1
    assert first.seen("E_CLUSTERER_REQ_RECEIVED")[0]["msg"] == "to myself"


@in_loop
async def test_results_tell_why_nothing_was_sent() -> None:
    wires = Wires()
    first, _, _ = await three(wires)
    run = make_run(request(), core=first.core)
    call = first.core.call
    assert call("cluster_send_req", run, 1, 9, "x") == -3
    assert call("cluster_send_req", run, 7, 2, "x") == -3
    assert call("cluster_broadcast_req", run, 7, "x") == -3
    assert call("cluster_send_req", run, 1, 2, "x" * 65530) == -3
    assert call("cluster_send_req", run, 1, 2, "x" * 70000) == -3
    wires.nodes = {1: first}
    wires.advance(15)
    assert call("cluster_send_req", run, 1, 2, "x") == -2
    assert call("cluster_broadcast_req", run, 1, "x") == -2
    await first.core.mi_call("clusterer:set_status", {"cluster_id": 1, "status": 0})
    assert call("cluster_send_req", run, 1, 2, "x") == -1
    assert call("cluster_send_req", run, 1, 1, "x") == -1
    assert call("cluster_broadcast_req", run, 1, "x", None, 1) == -1


@in_loop
async def test_addresses_of_nodes_are_known() -> None:
    wires = Wires()
    first, _, _ = await three(wires)
    run = make_run(request(), core=first.core)

    def check(*args: Any) -> int:
        return int(first.core.call("cluster_check_addr", run, *args))

    assert check(1, "198.51.100.2") == 1
    assert check(1, "198.51.100.2", "sip") == 1
    assert check(1, "192.0.2.2") == -1
    assert check(1, "192.0.2.2", "bin") == 1
    assert check(1, "198.51.100.2", "bin") == -1
    assert check(1, "198.51.100.1") == -1, "its own address is none of another node"
    assert check(1, "198.51.100.2", "udp") == -1
    assert check(2, "198.51.100.2") == -1
    assert [(n.node_id, n.sip_address) for n in first.cluster.nodes(1)] == [
        (2, "198.51.100.2:5060"),
        (3, "198.51.100.3:5060"),
    ]
    assert first.cluster.my_sip_address(1) == "198.51.100.1:5060"


# --- sharing tags


@in_loop
async def test_a_sharing_tag_is_active_on_one_node() -> None:
    wires = Wires()
    first = await wires.join(1, sharing_tag="vip/1=active")
    second = await wires.join(2, 1, sharing_tag="vip/1=backup")
    wires.advance(2)
    run = make_run(request(), core=first.core)
    assert first.core.read("$cluster.sh_tag", run, "vip/1") == "active"
    assert second.core.read("$cluster.sh_tag", run, "vip/1") == "backup"
    changes: list[tuple[str, int, bool]] = []
    first.cluster.on_tag(lambda *change: changes.append(change))
    assert await second.core.mi_call("clusterer:shtag_set_active", {"tag": "vip/1"}) == "OK"
    wires.settle()
    assert changes == [("vip", 1, False)]
    assert first.core.read("$cluster.sh_tag", run, "vip/1") == "backup"
    (lost,) = first.seen("E_CLUSTERER_SHARING_TAG_CHANGED")
    assert lost == {"name": "vip", "cluster": 1, "state": "backup", "reason": "cluster broadcast from 2"}
    (won,) = second.seen("E_CLUSTERER_SHARING_TAG_CHANGED")
    assert won == {"name": "vip", "cluster": 1, "state": "active", "reason": "MI command"}
    first.core.write("$cluster.sh_tag", run, "backup", "vip/1")
    first.core.write("$cluster.sh_tag", run, "nonsense", "vip/1")
    first.core.write("$cluster.sh_tag", run, None, "vip/1")
    assert first.core.read("$cluster.sh_tag", run, "vip/1") == "backup"
    first.core.write("$cluster.sh_tag", run, 1, "vip/1")
    wires.settle()
    assert second.core.read("$cluster.sh_tag", run, "vip/1") == "backup"
    assert await first.core.mi_call("clusterer:list_shtags") == [{"Tag": "vip", "Cluster": 1, "State": "active"}]
    assert first.core.read("$cluster.sh_tag", run, "other/1") == "backup"


@in_loop
async def test_nodes_that_come_later_learn_what_is_active() -> None:
    wires = Wires()
    first = await wires.join(1, sharing_tag="vip/1=backup")
    await first.core.mi_call("clusterer:shtag_set_active", {"tag": "vip/1"})
    second = await wires.join(2, 1, sharing_tag="vip/1=backup")
    await second.core.mi_call("clusterer:set_status", {"cluster_id": 1, "status": 1})
    wires.advance(2)
    assert first.cluster.tag_active("vip", 1)
    assert not second.cluster.tag_active("vip", 1)


@pytest.mark.parametrize(
    ("tag", "code"), [("vip", 400), ("/1", 400), ("vip/x", 400), ("vip/2", 404), ("x" * 100 + "/1", 400)]
)
def test_bad_tags_are_refused(tag: str, code: int) -> None:
    @in_loop
    async def scenario() -> None:
        first = await Wires().join(1)
        with pytest.raises(MiError) as refused:
            await first.core.mi_call("clusterer:shtag_set_active", {"tag": tag})
        assert refused.value.code == code

    scenario()


def test_tags_and_nodes_are_read_as_the_manual_writes_them() -> None:
    assert parse_definition("vip1/2=active") == ("vip1", 2, True)
    assert parse_definition("node / 10 = backup") == ("node", 10, False)
    for text in ("vip1/2", "vip1/2=on", "vip1=active", "/2=active", "vip/-1=active"):
        with pytest.raises(ValueError, match=r"."):
            parse_definition(text)
    assert parse_tag("a/1") == ("a", 1)
    assert parse_node_url("bin:192.168.0.5:5566") == ("192.168.0.5", 5566)
    assert parse_node_url("bin:192.168.0.5") == ("192.168.0.5", 0)
    assert parse_node_url("node.example.org:5566") == ("node.example.org", 5566)
    assert parse_node_url("bin:[2001:db8::1]:5566") == ("2001:db8::1", 5566)
    for text in (
        "",
        "bin:",
        "tcp:192.0.2.1",
        "bin:192.0.2.1:0",
        "bin:192.0.2.1:99999",
        "bin:[::1",
        "bin:a b",
        "bin:a:x",
    ):
        with pytest.raises(ValueError, match=r"."):
            parse_node_url(text)
    assert parse_properties("a=1, b = x", {"a": "one", "b": "two"}) == {"one": "1", "two": "x"}
    with pytest.raises(ValueError, match="no property"):
        parse_properties("c=1", {"a": "one"})


# --- what does not count


@in_loop
async def test_only_known_nodes_at_known_addresses_count(caplog: pytest.LogCaptureFixture) -> None:
    wires = Wires()
    first, _, _ = await three(wires)
    fields = PacketWriter("x", 0).number(1).text("t").text("m").fields()
    good = extra(wire.MESSAGE, fields=fields)
    first.take(good, address_of(2))
    assert len(first.seen("E_CLUSTERER_REQ_RECEIVED")) == 1
    dropped = first.door.dropped
    for data, source in (
        (good, "203.0.113.9"),
        (extra(wire.MESSAGE, source=9, fields=fields), address_of(2)),
        (extra(wire.MESSAGE, source=1, fields=fields), address_of(2)),
        (extra(wire.MESSAGE, cluster_id=2, fields=fields), address_of(2)),
        (extra(99, fields=fields), address_of(2)),
        (internal(wire.PING).number(1).data(), "203.0.113.9"),
        (internal(wire.PING, source=1).number(1).data(), address_of(2)),
        (internal(wire.PING, cluster_id=5).number(1).data(), address_of(2)),
        (internal(77).data(), address_of(2)),
        (internal(wire.PONG).number(100000).data(), address_of(2)),
        (internal(wire.TOPOLOGY).number(99).number(1).number(129).data(), address_of(2)),
        (internal(wire.LINK_UPDATE).number(99).number(1).number(3).number(5).number(0).data(), address_of(2)),
    ):
        first.take(data, source)
        dropped += 1
        assert first.door.dropped == dropped, data.hex()
    assert first.seen("E_CLUSTERER_REQ_RECEIVED") == []
    assert len([r for r in caplog.records if "is dropped" in r.message]) <= 2, "one line a second"


@in_loop
async def test_strangers_are_asked_who_they_are_where_nodes_may_come() -> None:
    wires = Wires()
    first = await wires.join(1)
    first.take(internal(wire.PING, source=9).number(1).data(), address_of(9))
    assert first.cluster.clusters[1].nodes == {}
    described = internal(wire.DESCRIPTION, source=9)
    wire.put_way(described.text("bin:192.0.2.9:5555").text("").number(50).number(3), [9])
    first.take(described.data(), address_of(9))
    assert list(first.cluster.clusters[1].nodes) == [9]
    for url, way, source in (
        ("tcp:192.0.2.8", [8], address_of(8)),
        ("bin:192.0.2.8:5555", [7], address_of(8)),
        ("bin:192.0.2.8:5555", [8, 9], "203.0.113.1"),
    ):
        bad = internal(wire.DESCRIPTION, source=8)
        wire.put_way(bad.text(url).text("").number(50).number(3), way)
        first.take(bad.data(), source)
        assert list(first.cluster.clusters[1].nodes) == [9]


KINDS = st.integers(0, 14)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), KINDS, st.binary(max_size=80)), max_size=8))
def test_nodes_survive_any_packet_of_a_node(packets: list[tuple[bool, int, bytes]]) -> None:
    @in_loop
    async def scenario() -> None:
        wires = Wires()
        first = await wires.join(1, 2, 3)
        await wires.join(2, 1)
        wires.advance(1)
        for inside, kind, fields in packets:
            if inside:
                first.take(internal(kind).raw(fields).data(), address_of(2))
            else:
                first.take(extra(kind, fields=fields), address_of(2))
        wires.advance(2)
        await first.core.settle()
        assert 2 in first.links()

    logging.disable(logging.CRITICAL)
    try:
        scenario()
    finally:
        logging.disable(logging.NOTSET)


# --- management


@in_loop
async def test_a_disabled_node_is_not_talked_to() -> None:
    wires = Wires()
    first, second, _ = await three(wires)
    mi = first.core.mi_call
    first.states()
    assert await mi("clusterer:set_status", {"cluster_id": 1, "node_id": 2, "status": 0}) == "OK"
    assert first.states() == [(2, 0)]
    shown = {n["node_id"]: n for n in (await mi("clusterer:list"))["Clusters"][0]["Nodes"]}
    assert (shown[2]["state"], shown[2]["link_state"], shown[2]["next_hop"]) == ("disabled", "Down", "none")
    before = len(wires.log)
    wires.advance(10)
    assert not [1 for here, there, _ in wires.log[before:] if (here, there) == (1, 2)]
    assert second.links()[1][1] == "3"
    assert await mi("clusterer:set_status", {"cluster_id": 1, "node_id": 2, "status": 1}) == "OK"
    wires.advance(65)
    assert first.links()[2] == ("Up", "2")
    await mi("clusterer:set_status", {"cluster_id": 1, "status": 0})
    wires.advance(10)
    assert {state for state, _ in first.links().values()} == {"Down"}
    assert second.links()[1] == ("Down", "none")
    await mi("clusterer:set_status", {"cluster_id": 1, "status": 1})
    wires.advance(2)
    assert second.links()[1] == ("Up", "1")


@in_loop
async def test_a_removed_node_is_forgotten_everywhere() -> None:
    wires = Wires()
    first, second, third = await three(wires)
    assert await first.core.mi_call("clusterer:remove_node", {"cluster_id": 1, "node_id": 3}) == "OK"
    wires.settle()
    assert list(first.links()) == [2]
    assert list(second.links()) == [1]
    assert not third.cluster.clusters[1].me.enabled
    wires.advance(10)
    assert list(first.links()) == [2]


@in_loop
async def test_commands_run_on_other_nodes() -> None:
    wires = Wires()
    first, second, third = await three(wires)
    mi = first.core.mi_call
    params = {"cluster_id": 1, "destination": 2, "cmd_name": "clusterer:shtag_set_active", "cmd_params": ["x/1"]}
    assert await mi("clusterer:send_mi", params) == "OK"
    wires.settle()
    await second.core.settle()
    assert second.cluster.tag_active("x", 1)
    wires.settle()
    shown = await mi("clusterer:broadcast_mi", {"cluster_id": 1, "cmd_name": "clusterer:list_shtags"})
    assert shown == [{"Tag": "x", "Cluster": 1, "State": "backup"}]
    wires.settle()
    for node in (second, third):
        await node.core.settle()
    await mi("clusterer:send_mi", {"cluster_id": 1, "destination": 2, "cmd_name": "no:such"})
    wires.settle()
    await second.core.settle()


@pytest.mark.parametrize(
    ("command", "params", "code", "message"),
    [
        ("set_status", {"cluster_id": 0, "status": 1}, 400, "Bad value for 'cluster_id'"),
        ("set_status", {"cluster_id": 7, "status": 1}, 404, "Cluster id not found"),
        ("set_status", {"cluster_id": 1, "status": 5}, 400, "Bad value for 'status'"),
        ("set_status", {"cluster_id": 1, "node_id": 0, "status": 1}, 400, "Bad value for 'node_id'"),
        ("set_status", {"cluster_id": 1, "node_id": 9, "status": 1}, 404, "Node id not found"),
        ("set_cap_status", {"cluster_id": 1, "capability": "x", "status": 1}, 404, "Capability not found"),
        ("set_cap_status", {"cluster_id": 1, "capability": "x", "status": 3}, 400, "Bad value for 'status'"),
        ("remove_node", {"cluster_id": 9, "node_id": 1}, 400, "Unknown cluster id"),
        ("remove_node", {"cluster_id": 1, "node_id": 0}, 400, "Bad value for 'node_id'"),
        ("remove_node", {"cluster_id": 1, "node_id": 9}, 400, "Unknown node id"),
        ("send_mi", {"cluster_id": 1, "destination": 1, "cmd_name": "x"}, 400, "Local node specified as destination"),
        ("send_mi", {"cluster_id": 1, "destination": 0, "cmd_name": "x"}, 400, "Bad value for 'destination'"),
        ("send_mi", {"cluster_id": 1, "destination": 2, "cmd_name": "x"}, 400, "Destination down"),
        ("send_mi", {"cluster_id": 1, "destination": 9, "cmd_name": "x"}, 400, "Send error"),
        ("broadcast_mi", {"cluster_id": 0, "cmd_name": "x"}, 400, "Bad value for 'cluster_id'"),
        ("reload", {}, 400, "Non-DB mode"),
    ],
)
def test_commands_refuse_what_cannot_be(command: str, params: dict[str, Any], code: int, message: str) -> None:
    @in_loop
    async def scenario() -> None:
        first = await Wires().join(1, 2)
        with pytest.raises(MiError) as refused:
            await first.core.mi_call(f"clusterer:{command}", params)
        assert (refused.value.code, refused.value.message) == (code, message)

    scenario()


# --- the table


def nodes_table(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.sqlite"
    make_tables(path, CLUSTERER_TABLE, BRIDGE_TABLE)
    change(
        path,
        "INSERT INTO clusterer (cluster_id, node_id, url, sip_addr, flags, description) VALUES (?,?,?,?,?,?)",
        [
            (1, 1, "bin:192.0.2.1:5555", "198.51.100.1", "seed", "one"),
            (1, 2, "bin:192.0.2.2:5555", None, None, None),
            (1, 3, "smtp:nowhere", None, None, None),
            (2, 2, "bin:192.0.2.2:5555", None, None, None),
            (2, 4, "bin:192.0.2.4:5555", None, None, None),
        ],
    )
    change(
        path,
        "INSERT INTO clusterer_bridge (cluster_a, cluster_b, send_shtag, dst_node_csv) VALUES (1, 2, 'wan', ?)",
        [("bin:192.0.2.77:5555,bin:192.0.2.4:5555",)],
    )
    return path


def test_nodes_come_from_the_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = nodes_table(tmp_path)

    @in_loop
    async def scenario() -> None:
        wires = Wires()
        database = DbSqlite(busy_timeout=10).open_database(parse_url(f"sqlite:{path}"))
        databases = {URL: database}
        first = wires.make(1, databases, db_url=URL)
        second = wires.make(2, databases, db_url=URL)
        for node in (first, second):
            await node.cluster.launch()
        assert "row 3 is skipped" in caplog.text
        wires.advance(1)
        assert sorted(second.cluster.clusters) == [1, 2]
        assert first.links() == {2: ("Up", "2")}
        assert first.cluster.clusters[1].me.definition.seed
        first.take(internal(wire.PING, source=9).number(1).data(), address_of(9))
        assert first.door.dropped == 1, "with a table, strangers are not listened to"
        with pytest.raises(MiError, match="Running in DB mode"):
            await first.core.mi_call("clusterer:remove_node", {"cluster_id": 1, "node_id": 2})
        await first.core.mi_call("clusterer:set_status", {"cluster_id": 1, "node_id": 2, "status": 0})
        rows = await database.select("clusterer", ("state",), [("cluster_id", "=", 1), ("node_id", "=", 2)])
        assert rows == [(0,)]
        await first.core.mi_call("clusterer:set_status", {"cluster_id": 1, "node_id": 2, "status": 1})
        await database.insert("clusterer", {"cluster_id": 1, "node_id": 5, "url": "bin:192.0.2.5"})
        wires.advance(7)
        first.states()
        assert await first.core.mi_call("clusterer:reload") == "OK"
        assert first.links()[2] == ("Up", "2")
        wires.advance(7)
        assert first.states() == [], "a node that was never away is not told of"
        assert first.links() == {2: ("Up", "2"), 5: ("Down", "none")}
        (bridge,) = first.cluster.clusters[1].bridges
        assert (bridge.cluster_id, bridge.tag, bridge.destinations) == (
            2,
            "wan",
            [("192.0.2.77", 5555), ("192.0.2.4", 5555)],
        )
        for node in (first, second):
            await node.cluster.shutdown()
        await database.close()

    scenario()


@in_loop
async def test_names_of_nodes_are_resolved(caplog: pytest.LogCaptureFixture) -> None:
    wires = Wires()
    info = "cluster_id=1,node_id={},url=bin:{}:5555"
    names = [info.format(2, "localhost"), info.format(3, LONG)]
    first = await wires.join(1, neighbor_node_info=names)
    await first.core.settle()
    nodes = first.cluster.clusters[1].nodes
    assert nodes[2].address in ("127.0.0.1", "::1")
    assert nodes[3].address == ""
    assert f"{LONG} cannot be resolved" in caplog.text
    assert first.core.pending_timers > 2, "it is tried again"
    first.take(internal(wire.PING).number(1).data(), nodes[2].address)
    assert first.door.dropped == 0


def test_the_start_says_what_is_wrong() -> None:
    def started(**params: Any) -> None:
        @in_loop
        async def scenario() -> None:
            node = Wires().make(1, None, **params)
            await node.cluster.launch()

        scenario()

    mine = "cluster_id=1,url=bin:192.0.2.1:5555"
    with pytest.raises(ParamError, match="my_node_info"):
        started(db_mode=0)
    with pytest.raises(ParamError, match="is not my_node_id"):
        started(db_mode=0, my_node_info=[mine + ",node_id=4"])
    with pytest.raises(StartError, match="no socket=bin"):
        started(db_mode=0, my_node_info=["cluster_id=1,url=bin:192.0.2.200:5555"])
    with pytest.raises(StartError, match="this node is not in cluster 2"):
        started(db_mode=0, my_node_info=[mine], neighbor_node_info=["cluster_id=2,node_id=2,url=bin:192.0.2.2"])
    with pytest.raises(ParamError, match="db_url"):
        started()
    for name in ("ping_interval", "ping_timeout"):
        with pytest.raises(ParamError, match=name):
            started(db_mode=0, my_node_info=[mine], **{name: 0})
    for bad in ("url=bin:192.0.2.1", "cluster_id=1", "cluster_id=1,url=tcp:192.0.2.1", "cluster_id=x,url=bin:a", "x=1"):
        with pytest.raises(ParamError):
            started(db_mode=0, my_node_info=[bad])
    with pytest.raises(ParamError, match="defined twice"):
        started(db_mode=0, my_node_info=[mine, mine])


@in_loop
async def test_statistics_can_be_left_out() -> None:
    first = await Wires().join(1, enable_stats=0)
    assert first.core.stats.find("clusterer_nodes") is None
