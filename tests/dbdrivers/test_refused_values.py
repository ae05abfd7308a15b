"""A value that a server refuses may be a password: what it says of the value never gets into an error's text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from opensipspy.cachedb import CacheDb, CacheError
from opensipspy.db import Column, Database, DatabaseError, DbDriver, Index, Insert, Table, auto_id, parse_url
from opensipspy.db.words import without_values
from opensipspy.dbdrivers.cachedb_redis import CachedbRedis
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.dbdrivers.db_text import DbText
from opensipspy.dbdrivers.db_unixodbc import DbUnixodbc
from opensipspy.module.testing import FakeCore
from tests.backends import RedisServer
from tests.dbdrivers.stores import StoreKind

PEOPLE = Table(
    "secretive",
    1,
    (
        auto_id(),
        Column("name", "string", 20),
        Column("age", "int", 11, null=True, default=None),
        Column("born", "datetime", null=True, default=None),
    ),
    (Index("name_idx", ("name",), unique=True),),
)
SECRET = "geheim"
# A value can look like what a server says behind values.
TRICKS = (SECRET, f"{SECRET}' for key 'x", f'x" {SECRET}', f"({SECRET})", f"a (expected str, got {SECRET})")
BACKENDS = ("sqlite", "text", "postgres", "mysql", "odbc-postgres", "odbc-mysql", "odbc-sqlite")


@pytest.fixture(params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DbDriver, str, DbDriver, str]:
    """The driver and URL that tables are made with, and those under test."""
    kind, _, through = str(request.param).rpartition("-")
    servers = {"postgres": "postgres_server", "mysql": "mariadb_server"}
    if through in servers:
        server = request.getfixturevalue(servers[through])
        url = server.url("secretive" + kind)
        maker: DbDriver = DbPostgres() if through == "postgres" else DbMysql()
    elif through == "text":
        (tmp_path / "tables").mkdir()
        url, maker = f"text://{tmp_path}/tables", DbText()
    else:
        url, maker = f"sqlite:{tmp_path}/secret.sqlite", DbSqlite()
    if not kind:
        return maker, url, maker, url
    pyodbc = pytest.importorskip("pyodbc")
    names = {"postgres": "PostgreSQL Unicode", "mysql": "MariaDB Unicode", "sqlite": "SQLite3"}
    if names[through] not in pyodbc.drivers():
        pytest.skip(f"needs the ODBC driver {names[through]}")
    if through == "sqlite":
        return maker, url, DbUnixodbc(), f"unixodbc://h/{tmp_path}/secret.sqlite?driver=SQLite3"
    parsed = parse_url(url)
    account = f"{parsed.user}:{parsed.password}@" if parsed.user else ""
    return (
        maker,
        url,
        DbUnixodbc(),
        f"unixodbc://{account}127.0.0.1:{parsed.port}/{parsed.database}?driver={names[through]}",
    )


async def refused(database: Database, sql: str = "", row: dict[str, object] | None = None) -> str:
    """What the database says of a row that it does not take; "" when it does."""
    try:
        if row is not None:
            await database.execute([Insert("secretive", row)])  # type: ignore[arg-type]
        else:
            await database.raw(sql)
    except DatabaseError as error:
        return str(error)
    return ""


def test_no_value_in_what_is_told(
    opened: tuple[DbDriver, str, DbDriver, str], caplog: pytest.LogCaptureFixture
) -> None:
    maker, made_at, driver, url = opened
    if isinstance(driver, DbUnixodbc):
        FakeCore().add(driver)

    async def play() -> list[str]:
        await maker.create_tables(parse_url(made_at), [PEOPLE])
        database = driver.open_database(parse_url(url))
        told = []
        try:
            for name in TRICKS:
                row: dict[str, object] = {"name": name}
                if len(name) <= 20:
                    assert not await refused(database, row=row)
                    duplicate = await refused(database, row=row)
                    if not isinstance(driver, DbText):  # it has no unique keys
                        assert any(word in duplicate for word in ("name_idx", "secretive.name")), duplicate
                    told.append(duplicate)
                told.append(await refused(database, row={"name": "a", "age": name}))
                told.append(await refused(database, row={"name": "b", "born": name}))
                told.append(await refused(database, row={"name": name * 20}))
                literal = name.replace("'", "''")
                for sql in (
                    f"SELECT 1 WHERE '{literal}' ' {SECRET}",
                    f"INSERT INTO secretive (name, age) VALUES ('n', '{literal}')",
                    f"INSERT INTO secretive (name, born) VALUES ('o', '{literal}')",
                    f"INSERT INTO secretive (name) VALUES ('{literal * 20}')",
                    f"SELECT CAST('{literal}' AS DATE), no_such_column FROM secretive",
                    f"UPDATE secretive SET id = id + '{literal}' WHERE name LIKE '%'",
                ):
                    told.append(await refused(database, sql))
        finally:
            await database.close()
        return told

    told = asyncio.run(play())
    assert sum(map(bool, told)) >= 8
    assert not [text for text in told if SECRET in text]
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Duplicate entry 'geheim' for key 'PRIMARY'", "Duplicate entry for key 'PRIMARY'"),
        ("Duplicate entry 'x' for key 'geheim' for key 'name_idx'", "Duplicate entry for key 'name_idx'"),
        (
            "[ma-3.1.15][10.11.6]Duplicate entry 'geheim' for key 'name_idx' (1062) (SQLExecDirectW)",
            "Duplicate entry for key 'name_idx'",
        ),
        (
            "Incorrect integer value: 'geheim' for column `d`.`t`.`age` at row 1",
            "Incorrect integer value for column `d`.`t`.`age`",
        ),
        ("Data too long for column 'ha1' at row 1", "Data too long for column 'ha1'"),
        ("You have an error in your SQL syntax; ... near 'geheim' at line 1", "You have an error in your SQL syntax"),
        ('invalid input syntax for type integer: "geheim"', "invalid input syntax for type integer"),
        (
            'ERROR: duplicate key value violates unique constraint "k"; DETAIL: Key (name)=(geheim) already exists.',
            'duplicate key value violates unique constraint "k"',
        ),
        ('syntax error at or near "geheim"', "syntax error"),
        ('near "geheim": syntax error', "syntax error"),
        ("UNIQUE constraint failed: t.a, t.b (19)", "UNIQUE constraint failed: t.a, t.b"),
        (
            "ORA-00001: unique constraint (SER.K) violated\nORA-03301: row with column values (NAME:'geheim') exists",
            "ORA-00001: unique constraint (SER.K) violated",
        ),
        ("no such column: age", "no such column: age"),
        ("Unbekannter Fehler 'geheim'", ""),
        ("", ""),
    ],
)
def test_names_are_kept_and_values_left_out(said: str, told: str) -> None:
    assert without_values(said) == told


def test_redis_repeats_no_argument(redis_server: RedisServer) -> None:
    told = []

    async def scenario(store: CacheDb, core: FakeCore) -> None:
        await store.store("name", SECRET)
        for ask in (
            store.add("name", 1),
            store.raw_query(f"NOSUCH {SECRET} {SECRET}"),
            store.raw_query(f"EVAL 'return redis.error_reply(ARGV[1])' 0 {SECRET}"),
            store.raw_query(f"HGET name {SECRET}"),
            store.raw_query(f"SET name {SECRET} {SECRET}"),
        ):
            with pytest.raises(CacheError) as caught:
                await ask
            told.append(str(caught.value))

    StoreKind(CachedbRedis, redis_server.url("g"), redis_server).play(scenario)
    assert not [text for text in told if SECRET in text]
    words = ("not an integer", "unknown command", "", "wrong kind of value", "syntax")
    assert all(word in text for text, word in zip(told, words, strict=True)), told
