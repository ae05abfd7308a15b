"""cachedb_sql beside the conformance suite: other databases, cleaning, and rows that the C server wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import CacheDb
from opensipspy.db import Database, DatabaseError, DbDriver, parse_url
from opensipspy.dbdrivers.cachedb_sql import CachedbSql
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from tests.backends import MariadbServer, PostgresServer


def play(
    kind: type[Any], url: str, scenario: Callable[[FakeCore, CacheDb, Database], Awaitable[None]], **params: Any
) -> None:
    async def run() -> None:
        core = FakeCore()
        driver = core.add(kind())
        assert isinstance(driver, DbDriver)
        await driver.create_tables(parse_url(url), CachedbSql.tables)
        core.databases[url] = database = driver.open_database(parse_url(url))
        name = f"sql:1st-{url}"
        module = core.add(CachedbSql(cachedb_url=name, **params))
        try:
            await module.start()
            await scenario(core, core.cachedb(name), database)
        finally:
            await core.cachedbs.close()
            await database.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def use(core: FakeCore, store: CacheDb, database: Database) -> None:
    await store.store("key", "ünïcode", 100)
    assert await store.fetch("key") == "ünïcode"
    await store.store("key", "41")
    assert await store.add("key", 1) == 42
    assert sorted(await asyncio.gather(*(store.add("busy", 1) for _ in range(20)))) == list(range(1, 21))
    await store.store("name", "x", 5)
    core.advance(6)
    assert await store.fetch("name") is None
    assert await store.add("name", 3) == 3
    assert await store.remove("name")
    assert not await store.remove("name")


def test_on_postgres(postgres_server: PostgresServer) -> None:
    play(DbPostgres, postgres_server.url("cachedb_sql"), use)


def test_on_mariadb(mariadb_server: MariadbServer) -> None:
    play(DbMysql, mariadb_server.url("cachedb_sql"), use)


def test_expired_rows_are_removed(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, store: CacheDb, database: Database) -> None:
        await store.store("short", "x", 5)
        await store.store("ever", "y")
        module = core.modules["cachedb_sql"]
        assert isinstance(module, CachedbSql)
        core.advance(6)
        await module.clean()
        assert await database.select("cachedb", ("keyname",)) == [("ever",)]

    play(DbSqlite, f"sqlite://{tmp_path / 'x'}", scenario)


def test_counters_of_the_c_server_go_on(tmp_path: Path) -> None:
    """OpenSIPS counts in the column `counter` and leaves `value` empty."""

    async def scenario(core: FakeCore, store: CacheDb, database: Database) -> None:
        await database.insert("cachedb", {"keyname": "n", "value": "", "counter": 5, "expires": 0})
        assert await store.fetch_counter("n") == 5
        assert await store.add("n", 2) == 7
        assert await database.select("cachedb", ("counter",)) == [(7,)]

    play(DbSqlite, f"sqlite://{tmp_path / 'x'}", scenario)


def test_a_key_is_bound_and_never_pasted(tmp_path: Path) -> None:
    async def scenario(core: FakeCore, store: CacheDb, database: Database) -> None:
        await store.store("x'; DROP TABLE cachedb; --", "'; DELETE FROM cachedb; --")
        assert await store.fetch("x'; DROP TABLE cachedb; --") == "'; DELETE FROM cachedb; --"

    play(DbSqlite, f"sqlite://{tmp_path / 'x'}", scenario)


def test_a_url_without_a_database_is_refused() -> None:
    with pytest.raises(ParamError):
        CachedbSql(cachedb_url="sql:one://h/x")

    async def run() -> None:
        core = FakeCore()
        module = core.add(CachedbSql(cachedb_url="sql:one-nosuch://h/x"))
        with pytest.raises((DatabaseError, LookupError)):
            await module.start()

    asyncio.run(run())
