"""Real nodes of one cluster, this server's and OpenSIPS' where it is there: links, ways around, tags, anycast calls."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from opensipspy.cluster import PacketWriter
from tests.scenarios.cluster import Cluster, ClusterNode
from tests.scenarios.peer import Phone, Received

TALK = """
route {
	if ($rU == "all")
		cluster_broadcast_req(1, "hello all");
	else
		cluster_send_req(1, $(rU{s.int}), "hello $rU");
	xlog("sent: $retcode\\n");
	sl_send_reply(200, "OK");
	exit;
}
"""
CALLS = """
route {
	if ($rm == "ACK" || $rm == "CANCEL") {
		if ($rm == "ACK" && t_check_trans())
			exit;
		xlog("replicated: $rm\\n");
		t_anycast_replicate();
		exit;
	}
	$du = "sip:127.0.0.1:CALLEE";
	t_relay();
}
"""
SHARE = 'modparam("tm", "tm_replication_cluster", 1)\n'

OURS = ("py", "py")
MIXED = [OURS, ("py", "c"), ("c", "py")]


@pytest.fixture
def cluster(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Cluster]:
    made = Cluster(tmp_path, free_port)
    yield made
    made.end()
    for node in made.nodes.values():
        if node.server is not None:
            assert "Traceback" not in node.log(), node.log()


def ask(node: ClusterNode, user: str) -> None:
    """Have the script of a node send a message."""
    phone = Phone("op", ("127.0.0.1", node.sip_port))
    try:
        phone.send(phone.request("OPTIONS", f"sip:{user}@127.0.0.1"))
        assert phone.expect(200).status == 200
    finally:
        phone.close()


@pytest.mark.parametrize("kinds", MIXED, ids="-".join)
def test_two_nodes_talk_share_tags_and_notice_each_other_s_end(cluster: Cluster, kinds: tuple[str, ...]) -> None:
    first, second = cluster.make(kinds)
    tag = 'modparam("clusterer", "sharing_tag", "vip/1={}")\n'
    cluster.start(first, {}, TALK, more=tag.format("active"))
    cluster.start(second, {1: first.bin_port}, TALK, more=tag.format("backup"))
    first.linked(2)
    second.linked(1)
    for here, there in ((first, second), (second, first)):
        here.says(f"node {there.node_id} is 1")
        ask(here, str(there.node_id))
        there.says(f"request 'hello {there.node_id}' of {here.node_id}")
        here.says(f"reply 'answer of {there.node_id}' of {there.node_id}")
    ask(second, "all")
    first.says("request 'hello all' of 2")
    assert second.mi("clusterer:shtag_set_active", "vip/1") == "OK"
    first.says("tag vip is backup")
    assert first.mi("clusterer:list_shtags") == [{"Tag": "vip", "Cluster": 1, "State": "backup"}]
    assert first.mi("clusterer:send_mi", 1, 2, "clusterer:list") == "OK"
    assert second.server is not None
    second.server.kill()
    first.says("node 2 is 0")
    if second.kind == "py":
        second.start()
        first.linked(2)
        second.linked(1)


def test_whatever_comes_to_the_bin_port_the_links_stay(cluster: Cluster) -> None:
    """From the addresses of nodes and with their numbers, for the loopback has no other."""
    first, second = cluster.make(OURS)
    cluster.start(first, {}, TALK)
    cluster.start(second, {1: first.bin_port}, TALK)
    first.linked(2)
    draw = Random(1)
    for number in range(150):
        fields = draw.randbytes(draw.randrange(60))
        kind = number % 15
        inside = PacketWriter("clusterer-internal", kind, 1).number(1).number(2).raw(fields)
        outside = PacketWriter("clusterer-extra", kind, 1).raw(fields).number(1).number(2).number(1)
        with socket.create_connection(("127.0.0.1", first.bin_port), 30) as made:
            made.sendall(inside.data() + outside.data() + draw.randbytes(20))
            made.settimeout(30)
            with contextlib.suppress(ConnectionError):
                while made.recv(4096):
                    pass
    assert "is dropped" in first.log()
    first.until(lambda: first.links().get(2, ("", ""))[0] == "Up", "the link is up")
    second.linked(1)
    ask(first, "2")
    second.says("request 'hello 2' of 1")


@pytest.mark.parametrize(
    "kinds", [("py", "py", "py"), ("py", "c", "py"), ("c", "py", "c"), ("c", "py", "py")], ids="-".join
)
def test_packets_go_around_where_there_is_no_link(
    cluster: Cluster, kinds: tuple[str, ...], free_port: Callable[[], int]
) -> None:
    first, second, third = cluster.make(kinds)
    nobody = free_port()
    cluster.start(second, {1: first.bin_port, 3: third.bin_port}, TALK)
    cluster.start(first, {2: second.bin_port, 3: nobody}, TALK)
    cluster.start(third, {2: second.bin_port, 1: nobody}, TALK)
    for end, other in ((first, third), (third, first)):
        end.linked(2)
        end.until(lambda end=end, other=other: end.links()[other.node_id][1] == "2", "a way over node 2")  # type: ignore[misc]
        assert end.links()[other.node_id][0] != "Up"
    for end, other in ((first, third), (third, first)):
        end.says(f"node {other.node_id} is 1")
        other.until(lambda end=end, other=other: other.links()[end.node_id][1] == "2", "a way back")  # type: ignore[misc]
        ask(end, str(other.node_id))
        other.says(f"request 'hello {other.node_id}' of {end.node_id}")
        end.says(f"reply 'answer of {other.node_id}' of {other.node_id}")
    shown = {n["node_id"]: sorted(n["Neighbours"]) for n in first.mi("clusterer:list_topology")["Clusters"][0]["Nodes"]}
    assert shown == {1: [2], 2: [1, 3], 3: [2]}
    assert second.server is not None
    second.server.kill()
    first.says("node 3 is 0")
    third.says("node 1 is 0")
    ask(first, "3")
    first.says("sent: -2")


CACHE = """
loadmodule "cachedb_local.so"
modparam("cachedb_local", "cluster_id", 1)
modparam("cachedb_local", "cache_collections", "default/r")
"""
STORE = """
route {
	cache_store("local", "$rU", "of NODE");
	sl_send_reply(200, "OK");
	exit;
}
"""


@pytest.mark.parametrize("kinds", MIXED, ids="-".join)
def test_keys_are_the_same_on_all_nodes(cluster: Cluster, kinds: tuple[str, ...]) -> None:
    def keys(node: ClusterNode) -> dict[str, str]:
        shown = node.mi("cachedb_local:fetch_chunk", "*", "default")
        return {found["name"]: found["value"] for found in (shown or {}).get("keys", [])}

    def synced(node: ClusterNode) -> bool:
        (shown,) = node.mi("clusterer:list_cap")["Clusters"]
        return {"name": "cachedb-local-repl", "state": "Ok", "enabled": "yes"} in shown["Capabilities"]

    first, second = cluster.make(kinds)
    cluster.start(first, {}, STORE.replace("NODE", "1"), more=CACHE)
    first.until(lambda: synced(first), "the seed node counts as synced")
    ask(first, "early")
    cluster.start(second, {1: first.bin_port}, STORE.replace("NODE", "2"), more=CACHE)
    second.until(lambda: synced(second), "it has all data")
    assert keys(second) == {"early": "of 1"}
    ask(second, "later")
    first.until(lambda: keys(first) == {"early": "of 1", "later": "of 2"}, "a key of node 2")
    ask(first, "later")
    second.until(lambda: keys(second)["later"] == "of 1", "the newer value of node 1")


class Call:
    """A call through one of two nodes. They share no address, but a tag that stands for one between nodes."""

    def __init__(self, cluster: Cluster, kinds: tuple[str, ...]) -> None:
        self.first, self.second = cluster.make(kinds)
        self.caller = Phone("alice", ("127.0.0.1", self.first.sip_port))
        self.callee = Phone("bob", ("127.0.0.1", self.second.sip_port))
        calls = CALLS.replace("CALLEE", str(self.callee.port))
        cluster.start(self.first, {}, calls, more=SHARE, words="anycast tag shared")
        cluster.start(self.second, {1: self.first.bin_port}, calls, more=SHARE, words="anycast tag shared")
        self.first.linked(2)
        self.second.linked(1)
        self.invite = self.caller.request("INVITE", "sip:bob@127.0.0.1")
        self.caller.send(self.invite)
        self.received = self.callee.expect("INVITE")

    def elsewhere(self) -> None:
        """What the caller says goes to the other node from now on."""
        self.caller.server = ("127.0.0.1", self.second.sip_port)

    def close(self) -> None:
        self.caller.close()
        self.callee.close()


@pytest.fixture(params=MIXED, ids="-".join)
def call(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Call]:
    made = Call(cluster, request.param)
    yield made
    made.close()


def test_a_call_whose_messages_reach_the_wrong_node(call: Call) -> None:
    caller, callee = call.caller, call.callee
    assert ";cid=1" in call.received["Via"]
    callee.send(callee.reply(call.received, 180, "Ringing"))
    caller.expect(180)
    call.elsewhere()
    caller.send(caller.cancel(call.invite))
    answered = caller.expect(200)
    assert answered["CSeq"].endswith("CANCEL")
    cancel = callee.expect("CANCEL")
    callee.send(callee.reply(cancel, 200, "OK"))
    callee.send(callee.reply(call.received, 487, "Request Terminated"))
    ended = caller.expect(487)
    assert isinstance(ended, Received)
    callee.expect("ACK")
    caller.send(caller.ack(ended, call.invite))
    call.second.says("replicated: ACK")
    caller.expect_nothing_but(487, 3.0)
    assert "replicated: CANCEL" not in call.second.log()
