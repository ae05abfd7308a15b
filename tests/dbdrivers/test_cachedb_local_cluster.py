"""cachedb_local on several nodes of a cluster."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import InstantCacheDb
from opensipspy.cluster import MOST_BYTES, Packet, PacketWriter
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.module import ParamError
from tests.modules.asynchronous import in_loop
from tests.modules.cluster_house import BinNode, Wires, address_of

SHARED = {"cache_collections": "calls/r; mine", "cachedb_url": ["local:///calls", "local:own:///mine"], "cluster_id": 1}
SEED = ["cluster_id=1,url=bin:192.0.2.1,flags=seed"]


async def join(wires: Wires, node_id: int, **params: Any) -> BinNode:
    info = {"my_node_info": SEED} if node_id == 1 else {}
    node = await wires.join(node_id, *range(1, node_id), **info)
    module = node.core.add(CachedbLocal(**{**SHARED, **params}))
    await module.launch()
    return node


def store(node: BinNode, url: str = "local:///calls") -> InstantCacheDb:
    found = node.core.cachedb(url)
    assert isinstance(found, InstantCacheDb)
    return found


@in_loop
async def test_what_changes_on_one_node_changes_on_all() -> None:
    wires = Wires()
    nodes = [await join(wires, n) for n in (1, 2, 3)]
    wires.advance(8)
    first, second, third = (store(node) for node in nodes)
    first.store_now("a", "1")
    first.store_now("short", "x", 60)
    second.add_now("n", 5)
    wires.settle()
    assert [s.fetch_now("a") for s in (first, second, third)] == ["1"] * 3
    third.add_now("n", -2)
    first.remove_now("a")
    wires.settle()
    assert [s.fetch_now("n") for s in (first, second, third)] == ["3"] * 3
    assert [s.fetch_now("a") for s in (first, second, third)] == [None] * 3
    wires.advance(59)
    assert third.fetch_now("short") == "x"
    wires.advance(2)
    assert third.fetch_now("short") is None


@in_loop
async def test_collections_without_the_suffix_stay_here() -> None:
    wires = Wires()
    first, second = await join(wires, 1), await join(wires, 2)
    wires.advance(8)
    store(first, "local:///mine").store_now("a", "1")
    wires.settle()
    assert store(second, "local:///mine").fetch_now("a") is None
    # Another node may share more; what is not shared here is left alone.
    data = PacketWriter("cachedb-local-repl", 1, 1).text("mine").text("k").text("v").number(0)
    second.take(data.number(1).number(1).number(2).data(), address_of(1))
    assert store(second, "local:///mine").fetch_now("k") is None


@in_loop
async def test_a_node_that_starts_gets_everything() -> None:
    wires = Wires()
    first = await join(wires, 1)
    wires.advance(6)
    there = store(first)
    for number in range(2500):
        there.store_now(f"key {number}", "x" * 100, 0 if number % 2 else 600)
    second = await join(wires, 2)
    for _ in range(30):
        wires.advance(0.2)
        await _rest()
    here = store(second)
    assert [here.fetch_now(f"key {n}") for n in (0, 1, 2499)] == ["x" * 100] * 3
    assert second.cluster.clusters[1].capabilities["cachedb-local-repl"].synced
    wires.advance(600)
    assert here.fetch_now("key 0") is None
    assert here.fetch_now("key 1") is not None


async def _rest() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


@in_loop
async def test_none_starts_empty() -> None:
    wires = Wires()
    first = await join(wires, 1)
    wires.advance(6)
    store(first).store_now("a", "1")
    second = await join(wires, 2, cluster_persistency="none")
    wires.advance(4)
    await _rest()
    wires.settle()
    assert store(second).fetch_now("a") is None
    store(first).store_now("b", "2")
    wires.settle()
    assert store(second).fetch_now("b") == "2"


def test_what_was_kept_over_a_restart_is_dropped_when_no_node_knows_it(tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        wires = Wires()
        first = await join(wires, 1)
        wires.advance(6)
        store(first).store_now("both", "new")
        second = await wires.join(2, 1)
        second.core.globals.restart_persistency_cache_file = str(tmp_path / "cache")
        before = CachedbLocal(cache_collections="calls/r; mine", enable_restart_persistency=1)
        before.core = second.core
        before._collections["calls"].put("old", "1", 0.0)
        before._collections["calls"].put("both", "old", 0.0)
        before._collections["mine"].put("own", "1", 0.0)
        await before._write_file()
        module = second.core.add(CachedbLocal(**SHARED, enable_restart_persistency=1))
        await module.launch()
        wires.advance(2)
        await _rest()
        wires.advance(1)
        here = store(second)
        assert here.fetch_now("both") == "new"
        assert here.fetch_now("old") is None
        assert store(second, "local:///mine").fetch_now("own") == "1"

    scenario()


@in_loop
async def test_nonsense_is_dropped_and_what_is_too_large_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    wires = Wires()
    first, second = await join(wires, 1), await join(wires, 2)
    wires.advance(8)
    dropped = first.door.dropped
    for made in (
        PacketWriter("cachedb-local-repl", 1, 1).text("unknown").text("k").text("v").number(0),
        PacketWriter("cachedb-local-repl", 1, 1).text("calls").text("k").text("v").number(-5),
        PacketWriter("cachedb-local-repl", 1, 1).text("calls"),
        PacketWriter("cachedb-local-repl", 2, 1).text("calls"),
        PacketWriter("cachedb-local-repl", 9, 1).text("calls"),
    ):
        first.take(made.number(1).number(2).number(1).data(), address_of(2))
        dropped += 1
        assert first.door.dropped == dropped
    with caplog.at_level(logging.WARNING):
        store(first).store_now("big", "x" * MOST_BYTES)
        store(first).store_now("bigger", "x" * 70000)
    wires.settle()
    assert store(second).fetch_now("big") is None
    assert "key bigger is not replicated" in caplog.text


def test_what_leaves_is_what_the_c_server_sends() -> None:
    """cachedb_local_replication.c: collection, key, value, seconds to live."""

    @in_loop
    async def scenario() -> None:
        wires = Wires()
        first, _ = await join(wires, 1), await join(wires, 2)
        wires.advance(8)
        store(first).store_now("k", "v", 30)
        wires.settle()
        packet = Packet(wires.log[-1][2])
        assert (packet.capability, packet.kind, packet.version) == ("cachedb-local-repl", 1, 1)
        assert [packet.text(), packet.text(), packet.text(), packet.number()] == ["calls", "k", "v", 30]

    scenario()


@pytest.mark.parametrize(
    ("params", "name"),
    [({"cluster_persistency": "always"}, "cluster_persistency"), ({"cluster_id": 7}, "cluster_id")],
)
def test_the_start_says_what_is_wrong(params: dict[str, Any], name: str) -> None:
    @in_loop
    async def scenario() -> None:
        with pytest.raises(ParamError, match=name):
            await join(Wires(), 1, **params)

    scenario()
