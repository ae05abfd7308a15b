"""cachedb_cassandra against a stub of the native protocol: no Cassandra server could be had."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from opensipspy.cachedb import CacheError
from opensipspy.dbdrivers.cachedb_cassandra import CachedbCassandra, CassandraStore
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore

Scenario = Callable[[CassandraStore], Awaitable[None]]


@pytest.fixture
def stub() -> Iterator[Any]:
    pytest.importorskip("cassandra", reason="needs the package cassandra-driver")
    from tests.dbdrivers.cassandra_stub import CassandraStub

    server = CassandraStub()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def play(url: str, scenario: Scenario, **params: Any) -> None:
    async def run() -> None:
        core = FakeCore()
        module = core.add(CachedbCassandra(cachedb_url=url, **params))
        try:
            await module.start()
            store = core.cachedb(url)
            assert isinstance(store, CassandraStore)
            await scenario(store)
        finally:
            await core.cachedbs.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_values(stub: Any) -> None:
    wild = b"caf\xe9 \xff\x00".decode("utf-8", "surrogateescape")

    async def scenario(store: CassandraStore) -> None:
        assert await store.fetch("alice") is None
        for value in ("one", "", "Jürgen 漢字 😀", "'; DROP TABLE keys; --", "a\0b", wild, "x" * 100_000):
            await store.store("alice", value)
            assert await store.fetch("alice") == value
        await store.store("x' y \"", 7)
        assert await store.fetch("x' y \"") == "7"
        assert await store.remove("alice")
        assert await store.fetch("alice") is None
        await store.store("short", "lived", 1)
        assert await store.fetch("short") == "lived"
        await asyncio.sleep(1.1)
        assert await store.fetch("short") is None
        await store.truncate()
        assert await store.fetch("x' y \"") is None
        await store.ping()

    play(stub.url(), scenario)


def test_a_column_of_text_refuses_octets_that_are_none(stub: Any) -> None:
    from tests.dbdrivers.cassandra_stub import VARCHAR

    stub.kind = VARCHAR
    wild = b"\xff".decode("utf-8", "surrogateescape")

    async def scenario(store: CassandraStore) -> None:
        await store.store("k", "grün")
        assert await store.fetch("k") == "grün"
        for refused in (store.store("k", wild), store.fetch(wild), store.fetch("")):
            with pytest.raises(CacheError) as caught:
                await refused
            assert not caught.value.transient

    play(stub.url(), scenario)


def test_counters_have_a_table_of_their_own(stub: Any) -> None:
    async def scenario(store: CassandraStore) -> None:
        assert await store.fetch_counter("calls") is None
        assert await store.add("calls", 5) == 5
        assert await store.sub("calls", 7) == -2
        assert await store.fetch_counter("calls") == -2
        assert await store.fetch("calls") == "-2"
        await asyncio.gather(*(store.add("many", 1) for _ in range(50)))
        assert await store.fetch_counter("many") == 50

    play(stub.url(), scenario)

    async def without(store: CassandraStore) -> None:
        with pytest.raises(CacheError, match="names no table of counters"):
            await store.add("calls", 1)
        assert await store.fetch("calls") is None

    play(stub.url(tables="keys"), without)


def test_raw_queries(stub: Any) -> None:
    async def scenario(store: CassandraStore) -> None:
        assert await store.raw_query("SELECT 7") == [[7, "seven", None]]
        with pytest.raises(CacheError, match="Syntax error") as caught:
            await store.raw_query("SELEKT")
        assert not caught.value.transient

    play(stub.url(), scenario)


def test_consistency_levels_and_repeated_operations(stub: Any) -> None:
    from cassandra import ConsistencyLevel

    async def scenario(store: CassandraStore) -> None:
        stub.unavailable = 2
        await store.store("k", "v")
        assert stub.levels == [ConsistencyLevel.EACH_QUORUM] * 3
        assert await store.fetch("k") == "v"
        assert stub.levels[-1] == ConsistencyLevel.LOCAL_ONE
        # A counter is never counted twice.
        stub.unavailable = 1
        with pytest.raises(CacheError) as caught:
            await store.add("n", 1)
        assert caught.value.transient
        assert stub.counts == {}

    play(stub.url(), scenario, rd_consistency_level="local_one", wr_consistency_level="EACH_QUORUM", query_retries=2)


def test_a_server_that_goes_and_comes_back(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="opensipspy")

    async def scenario(store: CassandraStore) -> None:
        await store.store("k", "v")
        await asyncio.to_thread(stub.stop)
        with pytest.raises(CacheError) as caught:
            await store.fetch("k")
        assert caught.value.transient
        assert not store.available
        await asyncio.to_thread(stub.restart)
        while not store.available:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.05)
        assert await store.fetch("k") == "v"

    play(stub.url(), scenario, connect_timeout=500, query_timeout=1000)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("opensipspy")]
    assert sum("is not available: " in text for text in told) == 1
    assert sum("is available again" in text for text in told) == 1


@pytest.mark.parametrize(
    "url", ["cassandra://h/keyspace", "cassandra://h/a.b.c.d", 'cassandra://h/a.b"', "cassandra://h/", "redis://h/a.b"]
)
def test_urls_that_cannot_be_right(url: str) -> None:
    with pytest.raises(ParamError):
        CachedbCassandra(cachedb_url=url)


@pytest.mark.parametrize("name", ["rd_consistency_level", "wr_consistency_level"])
def test_levels_that_do_not_exist(name: str) -> None:
    module = FakeCore().add(CachedbCassandra(**{name: "most"}))
    with pytest.raises(ParamError, match="is one of all, "):
        asyncio.run(module.start())


def test_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"opensipspy\[cassandra\]"):
        asyncio.run(CachedbCassandra().start())
