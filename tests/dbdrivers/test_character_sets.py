"""Tables in other character sets than ours: what they can hold comes back, what they cannot is refused for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from opensipspy.db import Database, DatabaseError, DbDriver, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from tests.backends import MariadbServer, PostgresServer

Scenario = Callable[[Database], Awaitable[None]]


def play(driver: DbDriver, url: str, scenario: Scenario) -> None:
    async def run() -> None:
        database = driver.open_database(parse_url(url))
        try:
            await scenario(database)
        finally:
            await database.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def latin_rows(database: Database) -> None:
    await database.insert("latin", {"name": "Jürgen"})
    assert await database.select("latin", ("name",), (("name", "=", "Jürgen"),)) == [("Jürgen",)]
    with pytest.raises(DatabaseError) as caught:
        await database.insert("latin", {"name": "漢字"})
    assert not caught.value.transient
    assert len(str(caught.value).splitlines()) == 1
    assert await database.select("latin", ("name",)) == [("Jürgen",)]


def test_a_latin_table_of_mysql(mariadb_server: MariadbServer) -> None:
    async def scenario(database: Database) -> None:
        await database.raw("CREATE TABLE latin (name VARCHAR(20)) CHARACTER SET latin1")
        try:
            await latin_rows(database)
        finally:
            await database.raw("DROP TABLE latin")

    play(DbMysql(), mariadb_server.url("mysql"), scenario)


def test_a_latin_database_of_postgresql(postgres_server: PostgresServer) -> None:
    async def make(database: Database) -> None:
        await database.raw("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")

    async def scenario(database: Database) -> None:
        await database.raw("CREATE TABLE latin (name VARCHAR(20))")
        await latin_rows(database)

    play(DbPostgres(), postgres_server.url("postgres"), make)
    play(DbPostgres(), postgres_server.url("latin"), scenario)


def test_a_database_of_postgresql_that_checks_nothing(postgres_server: PostgresServer) -> None:
    """SQL_ASCII holds any octets: a cell that is no UTF-8 fails its query, and the next one is answered."""

    async def make(database: Database) -> None:
        await database.raw(
            "CREATE DATABASE unchecked ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )

    async def scenario(database: Database) -> None:
        await database.raw("CREATE TABLE wild (id INT, name VARCHAR(20))")
        await database.raw("INSERT INTO wild VALUES (1, chr(200)), (2, 'fine')")
        with pytest.raises(DatabaseError, match="invalid byte sequence") as caught:
            await database.select("wild", ("name",), (("id", "=", 1),))
        assert not caught.value.transient
        assert len(str(caught.value).splitlines()) == 1
        assert await database.select("wild", ("name",), (("id", "=", 2),)) == [("fine",)]
        assert database.available

    play(DbPostgres(), postgres_server.url("postgres"), make)
    play(DbPostgres(), postgres_server.url("unchecked"), scenario)
