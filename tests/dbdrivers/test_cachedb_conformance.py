"""What every driver of a key-value store has to do, asked of each of them with its real server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import LARGEST_COUNTER, CacheDb, CacheError, RemoteCacheDb
from opensipspy.db import parse_url
from opensipspy.dbdrivers.cachedb_dynamodb import CachedbDynamodb
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.dbdrivers.cachedb_memcached import CachedbMemcached
from opensipspy.dbdrivers.cachedb_mongodb import CachedbMongodb, MongodbStore
from opensipspy.dbdrivers.cachedb_redis import CachedbRedis
from opensipspy.dbdrivers.cachedb_sql import CachedbSql
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module.testing import FakeCore
from tests.backends import BackendServer
from tests.dbdrivers.stores import StoreKind

Request = pytest.FixtureRequest


def make_kind(name: str, request: Request, folder: Path) -> StoreKind:
    if name == "local":
        return StoreKind(CachedbLocal, "local://", None, own_clock=False)
    if name == "sql":
        url = f"sqlite://{folder / 'keys.sqlite'}"
        asyncio.run(DbSqlite().create_tables(parse_url(url), CachedbSql.tables))
        return StoreKind(
            CachedbSql,
            f"sql:test-{url}",
            None,
            own_clock=False,
            wants="nul spaces signs large",
            sql=(DbSqlite, url),
        )
    if name == "redis":
        server = request.getfixturevalue("redis_server")
        return StoreKind(CachedbRedis, server.url("test"), server, query_timeout=3000, connect_timeout=3000)
    if name == "redis cluster":
        cluster = request.getfixturevalue("redis_cluster")
        return StoreKind(CachedbRedis, cluster.url("test"), None)
    if name == "memcached":
        server = request.getfixturevalue("memcached_server")
        return StoreKind(CachedbMemcached, server.url("test"), server, wants="octets nul large")
    if name == "dynamodb":
        server = request.getfixturevalue("dynamodb_server")
        url = server.url("test")
        return StoreKind(CachedbDynamodb, url, None, own_clock=False, wants="nul spaces signs", lacks="truncate")
    server = request.getfixturevalue("mongodb_server")
    return StoreKind(CachedbMongodb, server.url("test"), server, own_clock=False, wants="nul spaces signs large")


KINDS = ["local", "sql", "redis", "redis cluster", "memcached", "mongodb", "dynamodb"]
SERVED = ["redis", "memcached", "mongodb"]


@pytest.fixture(params=KINDS)
def kind(request: Request, tmp_path: Path) -> StoreKind:
    return make_kind(request.param, request, tmp_path)


@pytest.fixture(params=SERVED)
def served(request: Request, tmp_path: Path) -> StoreKind:
    return make_kind(request.param, request, tmp_path)


# --- values


def test_a_value_is_kept_replaced_and_removed(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        assert await store.fetch("alice") is None
        await store.store("alice", "one")
        assert await store.fetch("alice") == "one"
        await store.store("alice", "two")
        assert await store.fetch("alice") == "two"
        assert await store.remove("alice")
        assert not await store.remove("alice")
        assert await store.fetch("alice") is None

    kind.play(scenario)


def test_values_come_back_as_they_went_in(kind: StoreKind) -> None:
    values = ["", "0", "Jürgen 漢字 😀", "a b\tc\r\nEND\r\n", '{"json": "yes"}', "%s $1 ? :x '--", "x" * 100_000]
    if "nul" in kind.wants:
        values.append("a\0b")
    if "octets" in kind.wants:
        values.append(b"caf\xe9 \xff\x00".decode("utf-8", "surrogateescape"))

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        for number, value in enumerate(values):
            await store.store(f"key{number}", value)
            assert await store.fetch(f"key{number}") == value

    kind.play(scenario)


def test_a_value_of_ten_megabytes(kind: StoreKind) -> None:
    large = "0123456789" * (1 << 20)

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        if "large" not in kind.wants:
            with pytest.raises(CacheError) as caught:
                await store.store("large", large)
            assert not caught.value.transient
            return
        await store.store("large", large)
        assert await store.fetch("large") == large

    kind.play(scenario)


def test_keys_of_every_kind(kind: StoreKind) -> None:
    """Keys hold what callers sent: a store takes or refuses them, and never takes them for commands."""
    keys = ["sip:bob@example.org;x=%20", "ключ", "$where", "a.b.c", "k" * 240]
    hostile = ["with space", "x\r\nflush_all\r\n", "get a\r\nset b 0 0 1\r\n1\r\n", "tab\there"]

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        for key in keys:
            await store.store(key, f"value of {key}")
        for key in hostile:
            if "spaces" in kind.wants:
                await store.store(key, f"value of {key}")
                assert await store.fetch(key) == f"value of {key}"
            else:
                for refused in (store.store(key, "x"), store.fetch(key), store.remove(key), store.add(key, 1)):
                    with pytest.raises(CacheError) as caught:
                        await refused
                    assert not caught.value.transient
        for key in keys:
            assert await store.fetch(key) == f"value of {key}"

    kind.play(scenario)


# --- counters


def test_counters_count(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        assert await store.fetch_counter("calls") is None
        assert await store.add("calls", 5) == 5
        assert await store.add("calls", 2) == 7
        assert await store.sub("calls", 3) == 4
        assert await store.fetch_counter("calls") == 4
        assert (await store.fetch("calls") or "").strip() == "4"
        await store.store("given", "41")
        assert await store.add("given", 1) == 42
        await store.store("number", 7)
        assert await store.fetch_counter("number") == 7
        if "signs" in kind.wants:
            assert await store.sub("calls", 6) == -2
            assert await store.fetch_counter("calls") == -2

    kind.play(scenario)


def test_counters_end_at_64_bits(kind: StoreKind) -> None:
    """Beyond, there is an error and no small number."""

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await store.store("text", LARGEST_COUNTER - 1)
        assert await store.add("text", 1) == LARGEST_COUNTER
        assert await store.fetch_counter("text") == LARGEST_COUNTER
        assert await store.add("counter", LARGEST_COUNTER) == LARGEST_COUNTER
        for key in ("text", "counter"):
            with pytest.raises(CacheError) as caught:
                await store.add(key, 1)
            assert not caught.value.transient
        with pytest.raises(CacheError):
            await store.add("other", 2**64)
        await store.store("next", "1")
        assert await store.add("next", 1) == 2

    kind.play(scenario)


def test_keys_that_hardly_ever_expire(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        for number, seconds in enumerate((2**31, 2**32, 2**40, 2**62)):
            await store.store(f"key{number}", "x", seconds)
            assert await store.fetch(f"key{number}") == "x"
            assert await store.add(f"counter{number}", 1, seconds) == 1
            assert await store.add(f"counter{number}", 1, seconds) == 2

    kind.play(scenario)


def test_what_is_no_number_is_not_counted(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await store.store("name", "alice")
        with pytest.raises(CacheError) as caught:
            await store.add("name", 1)
        assert not caught.value.transient
        with pytest.raises(CacheError):
            await store.fetch_counter("name")
        assert await store.fetch("name") == "alice"

    kind.play(scenario)


def test_counts_of_many_at_once_are_all_counted(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        # SecantusDB, which stands for MongoDB, loses the answer of one of two upserts that make the same document.
        first = [await store.add("busy", 1)] if isinstance(store, MongodbStore) else []
        values = await asyncio.gather(*(store.add("busy", 1) for _ in range(50 - len(first))))
        assert sorted([*first, *values]) == list(range(1, 51))
        assert await store.fetch_counter("busy") == 50

    kind.play(scenario)


def test_many_at_once_get_their_own_answers(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await asyncio.gather(*(store.store(f"k{n}", f"v{n}") for n in range(300)))
        assert await asyncio.gather(*(store.fetch(f"k{n}") for n in range(300))) == [f"v{n}" for n in range(300)]

    kind.play(scenario)


# --- expiry


def test_keys_expire(kind: StoreKind) -> None:
    async def pass_time(core: FakeCore) -> None:
        if kind.own_clock:
            await asyncio.sleep(2.1)
        else:
            core.advance(2.1)

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await store.store("short", "x", 1)
        await store.store("long", "y", 40 * 86400)
        await store.store("ever", "z")
        await store.add("counter", 3, 1)
        assert await store.fetch("short") == "x"
        assert await store.fetch_counter("counter") == 3
        await pass_time(core)
        assert await store.fetch("short") is None
        assert await store.fetch_counter("counter") is None
        assert await store.fetch("long") == "y"
        assert await store.fetch("ever") == "z"
        assert await store.add("counter", 1) == 1

    kind.play(scenario)


def test_storing_anew_forgets_the_old_expiry(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await store.store("key", "x", 1)
        await store.store("key", "y")
        if kind.own_clock:
            await asyncio.sleep(1.1)
        else:
            core.advance(2)
        assert await store.fetch("key") == "y"

    kind.play(scenario)


# --- maps


def test_maps(kind: StoreKind) -> None:
    async def scenario(store: CacheDb, core: FakeCore) -> None:
        if not store.maps:
            with pytest.raises(CacheError, match="keeps no maps"):
                await store.map_get("dialogs")
            return
        assert await store.map_get("dialogs") == {}
        await store.map_set("dialogs", "one.1", {"state": "early", "a.b$c": "x"})
        await store.map_set("dialogs", "two", {"state": "ended"})
        await store.map_set("dialogs", "one.1", {"state": "confirmed", "a.b$c": None, "caller": "alice"})
        assert await store.map_get("dialogs") == {
            "one.1": {"state": "confirmed", "caller": "alice"},
            "two": {"state": "ended"},
        }
        await store.map_remove("dialogs", "one.1")
        assert await store.map_get("dialogs") == {"two": {"state": "ended"}}
        await store.map_remove("dialogs")
        assert await store.map_get("dialogs") == {}

    kind.play(scenario)


# --- servers that die and stall


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the store tells nobody
        await asyncio.sleep(0.02)


def test_a_server_that_dies_in_mid_load_is_used_again(served: StoreKind, caplog: pytest.LogCaptureFixture) -> None:
    server = served.server
    assert server is not None

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        failures: list[CacheError] = []
        answers = 0

        async def work(number: int) -> None:
            nonlocal answers
            for step in range(60):
                try:
                    await store.store(f"w{number}", str(step))
                    answers += 1
                except CacheError as error:
                    failures.append(error)
                await asyncio.sleep(0.005)

        workers = [asyncio.create_task(work(n)) for n in range(8)]
        await until(lambda: answers > 40)
        server.kill()
        await until(lambda: not store.available)
        await asyncio.gather(*workers)
        assert failures
        assert all(error.transient for error in failures)
        # Nobody waits for a server that is known to be away.
        begun = asyncio.get_running_loop().time()
        for _ in range(100):
            with pytest.raises(CacheError):
                await store.fetch("w1")
        assert asyncio.get_running_loop().time() - begun < 1.0
        await asyncio.to_thread(server.start)
        await until(lambda: store.available)
        await store.store("back", "yes")
        assert await store.fetch("back") == "yes"

    with caplog.at_level(logging.WARNING, "opensipspy.cachedb"):
        try:
            served.play(scenario)
        finally:
            if not server.ready():
                server.start()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("opensipspy.cachedb")]
    assert [line for line in lines if "is not available" in line] == lines[:1]
    assert sum("is available again" in line for line in lines) == 1
    assert len(lines) == 2


def test_a_stalled_server_is_given_up(served: StoreKind) -> None:
    server = served.server
    assert server is not None

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        assert isinstance(store, RemoteCacheDb)
        await store.store("key", "x")
        store.limits.query_s = store.limits.connect_s = 0.3
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(CacheError) as caught:
                await store.fetch("key")
            assert caught.value.transient
            assert not store.available
            with pytest.raises(CacheError, match="not available"):
                await store.fetch("key")
        finally:
            server.signal(signal.SIGCONT)
        await until(lambda: store.available)
        assert await store.fetch("key") == "x"

    served.play(scenario)


def test_a_server_that_accepts_and_never_answers(served: StoreKind) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        url = served.url.replace(str(served.server.port), str(listener.getsockname()[1]))  # type: ignore[union-attr]
        silent = StoreKind(served.driver, url, None, **served.params)

        async def run() -> None:
            core, store = silent.open()
            assert isinstance(store, RemoteCacheDb)
            store.limits.connect_s = 0.3
            with pytest.raises(CacheError) as caught:
                await store.fetch("key")
            assert caught.value.transient
            with pytest.raises(CacheError, match="not available"):
                await store.fetch("key")
            await core.cachedbs.close()

        asyncio.run(asyncio.wait_for(run(), 60))


def test_nothing_listens(served: StoreKind) -> None:
    url = served.url.replace(str(served.server.port), "1")  # type: ignore[union-attr]
    absent = StoreKind(served.driver, url, None, **served.params)

    async def run() -> None:
        core, store = absent.open()
        assert isinstance(store, RemoteCacheDb)
        store.limits.connect_s = 1.0
        with pytest.raises(CacheError) as caught:
            await store.store("key", "x")
        assert caught.value.transient
        await core.cachedbs.close()
        with pytest.raises(CacheError, match="closed"):
            await store.fetch("key")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_close_ends_what_waits(served: StoreKind) -> None:
    server = served.server
    assert isinstance(server, BackendServer)

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await store.store("key", "x")
        server.signal(signal.SIGSTOP)
        try:
            waiting: asyncio.Task[Any] = asyncio.create_task(store.fetch("key"))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(CacheError):
                await waiting
        finally:
            server.signal(signal.SIGCONT)
            # A client that could not say good-bye to a stopped server ends now, and not in another test.
            closing = list(store._closing)  # type: ignore[attr-defined]
            if closing:
                await asyncio.wait(closing, timeout=10)

    served.play(scenario)
