"""What every SQL driver has to do, asked of each of them with its real server.

SQLite has no server: what is about servers that die or stall is asked of the others.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli.db import declared_tables
from opensipspy.db import (
    VERSION_TABLE,
    Column,
    Database,
    DatabaseError,
    DbDriver,
    DbValue,
    Delete,
    Index,
    Insert,
    InsertUpdate,
    Replace,
    Table,
    Update,
    as_float,
    as_text,
    auto_id,
    parse_url,
)
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.dbdrivers.db_text import DbText
from opensipspy.dbdrivers.db_unixodbc import DbUnixodbc
from opensipspy.dbdrivers.db_virtual import DbVirtual
from opensipspy.module.testing import FakeCore
from opensipspy.server.stepper import Stepper
from tests.backends import BackendServer, MariadbServer, PostgresServer

PEOPLE = Table(
    "people",
    3,
    (
        auto_id(),
        Column("name", "string", 64, default=""),
        Column("city", "string", 64, null=True, default=None),
        Column("age", "int", 11, null=True, default=None),
        Column("born", "datetime", null=True, default=None),
        Column("size", "float", "10,2", default="1.0"),
        Column("exact", "double", null=True, default=None),
        Column("letter", "char", 1, null=True, default=None),
        Column("flags", "unsigned int", 10, default="0"),
        Column("large", "unsigned long", 10, null=True, default=None),
        Column("port", "unsigned short", 5, null=True, default=None),
        Column("story", "text", null=True, default=None),
        Column("photo", "binary", null=True, default=None),
    ),
    (Index("name_idx", ("name",), unique=True), Index("city_idx", ("city", "age"))),
)

# Thousands of rows take long on a loaded machine.
PATIENT: dict[type[Any], dict[str, int]] = {DbPostgres: {"timeout": 60}, DbMysql: {"timeout_interval": 20}}

Scenario = Callable[[Database], Coroutine[Any, Any, None]]


class Backend:
    """A kind of database. server: None for one without."""

    def __init__(self, kind: type[Any], server: BackendServer | None, folder: Path, number: int) -> None:
        self.kind = kind
        self.server = server
        name = f"test_{number}"
        self.url = server.url(name) if server is not None else f"sqlite:{folder / name}"  # type: ignore[attr-defined]

    def driver(self, **params: Any) -> DbDriver:
        made: DbDriver = self.kind(**(PATIENT.get(self.kind, {}) | params))
        return made

    def open(self, **params: Any) -> Database:
        return self.driver(**params).open_database(parse_url(self.url))

    def create(self, *tables: Table) -> list[str]:
        return asyncio.run(self.driver().create_tables(parse_url(self.url), tables))

    def play(self, scenario: Scenario, **params: Any) -> None:
        async def run() -> None:
            database = self.open(**params)
            try:
                await scenario(database)
            finally:
                await database.close()

        asyncio.run(run())


@pytest.fixture(scope="session")
def numbers() -> list[int]:
    return []


class TextBackend(Backend):
    """A folder of text files: the driver knows the tables of the modules."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(DbText, None, folder, number)
        self.url = f"text://{folder / f'test_{number}'}"

    def driver(self, **params: Any) -> DbDriver:
        made = super().driver(**params)
        made.declared = {table.name: table for table in (PEOPLE, *declared_tables(None))}
        return made


class VirtualBackend(Backend):
    """A set of two SQLite databases."""

    def __init__(self, mode: str, folder: Path, number: int) -> None:
        super().__init__(DbVirtual, None, folder, number)
        self.url = "virtual://both"
        self.members = [Backend(DbSqlite, None, folder, place) for place in (number, -number)]
        self.mode = mode

    def open(self, **params: Any) -> Database:
        databases = {member.url: member.open() for member in self.members}
        core = FakeCore(databases=databases)
        driver = DbVirtual()
        driver.set_param("db_urls", f"define both {self.mode}")
        for member in self.members:
            driver.set_param("db_urls", member.url)
        database = core.add(driver).open_database(parse_url(self.url))
        close = database.close

        async def close_all() -> None:
            await close()
            for member in databases.values():
                await member.close()

        database.close = close_all  # type: ignore[method-assign]
        return database

    def create(self, *tables: Table) -> list[str]:
        made: list[str] = []
        for member in self.members:
            made = member.create(*tables)
        return made


class OdbcBackend(Backend):
    """PostgreSQL by its ODBC driver."""

    def __init__(self, server: PostgresServer, folder: Path, number: int) -> None:
        super().__init__(DbUnixodbc, server, folder, number)
        self.below = Backend(DbPostgres, server, folder, number)
        self.url = (
            f"unixodbc://postgres@127.0.0.1:{server.port}/test_{number}"
            "?driver=PostgreSQL Unicode&ByteaAsLongVarBinary=1&MaxVarcharSize=255&MaxLongVarcharSize=0"
        )

    def driver(self, **params: Any) -> DbDriver:
        made = super().driver(**params)
        made.declared = {table.name: table for table in (PEOPLE, *declared_tables(None))}
        return made

    def create(self, *tables: Table) -> list[str]:
        return self.below.create(*tables)


def odbc_driver(name: str) -> str:
    """The name of a driver of ODBC; skips without it."""
    pyodbc = pytest.importorskip("pyodbc")
    if name not in pyodbc.drivers():
        pytest.skip("needs the Debian package odbc-postgresql")
    return name


@pytest.fixture(params=["sqlite", "postgres", "mysql", "text", "virtual FAILOVER", "virtual PARALLEL", "odbc"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, numbers: list[int]) -> Backend:
    numbers.append(0)
    number = len(numbers)
    if request.param == "sqlite":
        return Backend(DbSqlite, None, tmp_path, number)
    if request.param == "odbc":
        odbc_driver("PostgreSQL Unicode")
        return OdbcBackend(request.getfixturevalue("postgres_server"), tmp_path, number)
    if request.param == "text":
        return TextBackend(tmp_path, number)
    if request.param.startswith("virtual"):
        return VirtualBackend(request.param.split()[1], tmp_path, number)
    if request.param == "postgres":
        return Backend(DbPostgres, request.getfixturevalue("postgres_server"), tmp_path, number)
    return Backend(DbMysql, request.getfixturevalue("mariadb_server"), tmp_path, number)


@pytest.fixture
def people(backend: Backend) -> Backend:
    backend.create(PEOPLE)
    return backend


@pytest.fixture(params=["postgres", "mysql"])
def served(request: pytest.FixtureRequest, tmp_path: Path, numbers: list[int]) -> Backend:
    numbers.append(0)
    kind, fixture = (DbPostgres, "postgres_server") if request.param == "postgres" else (DbMysql, "mariadb_server")
    backend = Backend(kind, request.getfixturevalue(fixture), tmp_path, len(numbers))
    backend.create(PEOPLE)
    return backend


@pytest.fixture(params=["postgres", "mysql", "odbc"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path, numbers: list[int]) -> Backend:
    """A server that may be killed."""
    numbers.append(0)
    if request.param != "odbc":
        kind, fixture = (DbPostgres, "postgres_server") if request.param == "postgres" else (DbMysql, "mariadb_server")
        made = Backend(kind, request.getfixturevalue(fixture), tmp_path, len(numbers))
    else:
        odbc_driver("PostgreSQL Unicode")
        made = OdbcBackend(request.getfixturevalue("postgres_server"), tmp_path, len(numbers))
    made.create(PEOPLE)
    return made


def names(rows: list[tuple[DbValue, ...]]) -> list[DbValue]:
    return [row[0] for row in rows]


# --- tables


def test_creating_is_repeated_without_harm(backend: Backend) -> None:
    assert backend.create(PEOPLE) == ["version", "people"]
    assert backend.create(PEOPLE) == []

    async def scenario(database: Database) -> None:
        assert await database.table_version("people") == 3
        assert await database.table_version("nobody") == 0
        await database.check_version("people", 3)
        with pytest.raises(DatabaseError, match="version 3"):
            await database.check_version("people", 4)
        await database.ping()

    backend.play(scenario)


def test_a_table_of_another_version_stops_the_creation(people: Backend) -> None:
    others = (Table("aaa", 1, (auto_id(),)), Table("people", 4, PEOPLE.columns), Table("zzz", 1, (auto_id(),)))
    with pytest.raises(DatabaseError, match="version 3, 4 is needed; nothing was changed"):
        people.create(*others)
    assert people.create(others[0]) == ["aaa"]


def test_every_table_of_every_module_can_be_made(backend: Backend) -> None:
    tables = declared_tables(None)
    assert set(backend.create(*tables)) == {table.name for table in tables} | {"version"}

    async def scenario(database: Database) -> None:
        for table in tables:
            assert await database.select(table.name, [column.name for column in table.columns]) == []
            await database.check_version(table.name, table.version or 0)

    backend.play(scenario)


def test_columns_have_their_defaults(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": "anna"})
        [row] = await database.select("people", ("id", "city", "age", "size", "flags", "story"))
        assert row == (1, None, None, 1.0, 0, None)

    people.play(scenario)


OLD_PEOPLE = Table(
    "people",
    2,
    (
        auto_id(),
        Column("name", "string", 64, default=""),
        Column("age", "string", 11, null=True, default=None),
        Column("flags", "int", 10, null=True, default=None),
        Column("nickname", "string", 64, null=True, default=None),
    ),
    (Index("name_idx", ("name",), unique=True),),
)


@pytest.fixture(params=["sqlite", "postgres", "mysql", "text"])
def upgradable(request: pytest.FixtureRequest, tmp_path: Path, numbers: list[int]) -> Backend:
    numbers.append(0)
    if request.param == "text":
        return TextBackend(tmp_path, len(numbers))
    kind, fixture = {
        "sqlite": (DbSqlite, ""),
        "postgres": (DbPostgres, "postgres_server"),
        "mysql": (DbMysql, "mariadb_server"),
    }[request.param]
    return Backend(kind, request.getfixturevalue(fixture) if fixture else None, tmp_path, len(numbers))


def test_an_old_table_is_upgraded(upgradable: Backend) -> None:
    """Rows are copied, NULL becomes the default where there can be none, numbering goes on, the old table stays."""
    upgradable.create(OLD_PEOPLE)
    url = parse_url(upgradable.url)

    async def before(database: Database) -> None:
        await database.insert("people", {"name": "anna", "age": "31", "flags": None, "nickname": "an"})
        await database.insert("people", {"name": "bert", "age": None, "flags": 5})

    upgradable.play(before)
    driver = upgradable.driver()
    [old] = asyncio.run(driver.old_tables(url, [PEOPLE, VERSION_TABLE, Table("other", 1, (auto_id(),))]))
    assert (old.version, old.rows, old.backup, old.dropped) == (2, 2, "people_v2", ["nickname"])
    assert old.plan() == (
        "people: version 2 to 3, 2 rows; new columns city, born, size, exact, letter, large, port, story, photo; "
        "without the columns nickname; the old table is kept as people_v2"
    )
    assert asyncio.run(driver.migrate_table(url, old)) == 2
    assert asyncio.run(driver.old_tables(url, [PEOPLE])) == []

    async def after(database: Database) -> None:
        await database.check_version("people", 3)
        rows = await database.select("people", ("id", "name", "age", "flags", "size"), order="id")
        assert rows == [(1, "anna", 31, 0, 1.0), (2, "bert", None, 5, 1.0)]
        await database.insert("people", {"name": "carl"})
        assert await database.select("people", ("id",), (("name", "=", "carl"),)) == [(3,)]
        with pytest.raises(DatabaseError) as caught:
            await database.insert("people", {"name": "carl"})
        assert caught.value.duplicate
        assert await database.raw("SELECT nickname FROM people_v2 WHERE id = 1") == [("an",)]

    upgradable.play(after)


def test_an_upgrade_that_fails_changes_nothing(upgradable: Backend) -> None:
    upgradable.create(OLD_PEOPLE)
    url = parse_url(upgradable.url)
    newer = Table("people", 3, (*OLD_PEOPLE.columns[:2], Column("age", "int", null=True), Column("flags", "int")))
    impossible = Table("people", 3, newer.columns, (Index("flags_idx", ("flags",), unique=True),))

    async def before(database: Database) -> None:
        await database.insert_many("people", [{"name": "anna", "flags": 1}, {"name": "bert", "flags": 1}])

    upgradable.play(before)
    driver = upgradable.driver()
    [old] = asyncio.run(driver.old_tables(url, [impossible]))
    with pytest.raises(DatabaseError):
        asyncio.run(driver.migrate_table(url, old))
    assert asyncio.run(driver.old_tables(url, [OLD_PEOPLE])) == []

    async def after(database: Database) -> None:
        assert len(await database.select("people", ("nickname",))) == 2
        with pytest.raises(DatabaseError):
            await database.raw("SELECT * FROM people_v2")

    upgradable.play(after)


def test_a_newer_table_is_left_alone(upgradable: Backend) -> None:
    upgradable.create(PEOPLE)
    [old] = asyncio.run(upgradable.driver().old_tables(parse_url(upgradable.url), [OLD_PEOPLE]))
    assert old.too_new
    assert old.plan() == "people: version 3 is newer than 2; left alone"


# --- values

TYPED: list[tuple[str, list[DbValue]]] = [
    (
        "name",
        ["", "anna", "Jürgen 漢字 😀", "it's", 'say "hi"', "back\\slash", "%s %d $1 ? :x", "a\nb\tc", "x" * 64, "-- ;"],
    ),
    ("age", [0, 1, -1, 2147483647, -2147483648, None]),
    ("large", [0, 4294967296, 9223372036854775807, None]),
    ("port", [0, 65535]),
    ("exact", [0.0, 1.5, -2.25, 0.1, 1e300, None]),
    ("letter", ["y", None]),
    ("story", ["", "long " * 10_000, None]),
    ("photo", [b"", b"\x00\xff'\"\\", bytes(range(256)) * 100, None]),
]


@pytest.mark.parametrize(("column", "values"), TYPED, ids=[column for column, _ in TYPED])
def test_values_come_back_as_they_went_in(people: Backend, column: str, values: list[DbValue]) -> None:
    async def scenario(database: Database) -> None:
        for number, value in enumerate(values):
            key = value if column == "name" else f"person {number}"
            await database.insert("people", {"name": key, column: value})
            assert await database.select("people", (column,), (("name", "=", key),)) == [(value,)]
            if column not in ("photo", "exact"):
                found = await database.select("people", ("name",), ((column, "=", value),))
                assert key in names(found)

    people.play(scenario)


def test_fractions_of_short_floats_are_not_blurred(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        for value in (0.1, 0.7, 1, 0):
            await database.insert("people", {"name": str(value), "size": value})
            [(found,)] = await database.select("people", ("size",), (("name", "=", str(value)),))
            assert as_float(found) == value

    people.play(scenario)


def test_times_are_kept_to_the_second(people: Backend) -> None:
    when = datetime(2026, 2, 28, 23, 59, 58, 700_000)

    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": "a", "born": when})
        await database.insert("people", {"name": "b", "born": None})
        await database.insert("people", {"name": "c", "born": datetime(1900, 1, 1, 0, 0, 1)})
        rows = await database.select("people", ("name", "born"), order="name")
        assert [as_text(value) for _, value in rows] == ["2026-02-28 23:59:58", "", "1900-01-01 00:00:01"]
        assert names(await database.select("people", ("name",), (("born", ">", datetime(2000, 1, 1)),))) == ["a"]
        await database.update("people", {"born": "2030-01-02 03:04:05"}, (("name", "=", "b"),))
        assert len(await database.select("people", ("name",), (("born", ">=", "2026-02-28 23:59:58"),))) == 2

    people.play(scenario)


def test_numbers_and_texts_meet(people: Backend) -> None:
    """Rows are written by others and read with loose types: a number for a text column and the other way round."""

    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": 1234, "age": "42", "size": "1.5", "exact": 2})
        assert await database.select("people", ("name", "age", "exact"), (("age", "=", "42"),)) == [("1234", 42, 2.0)]
        assert await database.select("people", ("age",), (("name", "=", "1234"),)) == [(42,)]

    people.play(scenario)


def test_a_large_cell(people: Backend) -> None:
    picture = bytes(range(256)) * 40_000

    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": "a", "photo": picture})
        [(found,)] = await database.select("people", ("photo",), (("name", "=", "a"),))
        assert found == picture

    people.play(scenario)


def test_bytes_that_are_no_text(people: Backend) -> None:
    """What a message held is kept as it was where the column can hold it; a text column may refuse, for good."""
    wild = b"caf\xe9 \xff".decode("utf-8", "surrogateescape")

    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": "a", "photo": wild})
        [(found,)] = await database.select("people", ("photo",), (("name", "=", "a"),))
        assert as_text(found) == wild
        failure: DatabaseError | None = None
        try:
            await database.insert("people", {"name": "b", "story": wild})
            [(found,)] = await database.select("people", ("story",), (("name", "=", "b"),))
            assert as_text(found) == wild
        except DatabaseError as error:
            failure = error
        assert failure is None or not failure.transient
        await database.insert("people", {"name": "c"})

    people.play(scenario)


# --- reading


async def fill(database: Database) -> None:
    await database.insert_many(
        "people",
        [
            {"name": "anna", "city": "Rome", "age": 31},
            {"name": "bert", "city": None, "age": 7},
            {"name": "carl", "city": "Oslo", "age": None},
            {"name": "dora", "city": "Rome", "age": 50},
        ],
    )


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ((), ["anna", "bert", "carl", "dora"]),
        ((("city", "=", "Rome"),), ["anna", "dora"]),
        ((("city", "!=", "Rome"),), ["carl"]),
        ((("city", "=", None),), ["bert"]),
        ((("age", "!=", None), ("city", "!=", None)), ["anna", "dora"]),
        ((("age", "<", 31),), ["bert"]),
        ((("age", "<=", 31),), ["anna", "bert"]),
        ((("age", ">", 31),), ["dora"]),
        ((("age", ">=", 31), ("city", "=", "Rome")), ["anna", "dora"]),
        ((("age", ">", None),), []),
        ((("name", "like", "%r%"),), ["bert", "carl", "dora"]),
        ((("name", "=", "nobody"),), []),
    ],
)
def test_conditions(people: Backend, where: Any, found: list[str]) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        assert names(await database.select("people", ("name",), where, "name")) == found

    people.play(scenario)


def test_order_limit_and_columns(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        some = (("age", "!=", None),)
        assert names(await database.select("people", ("name",), some, "age")) == ["bert", "anna", "dora"]
        assert names(await database.select("people", ("name",), some, "age desc", 2)) == ["dora", "anna"]
        assert names(await database.select("people", ("name",), (("city", "!=", None),), "city desc, name asc")) == [
            "anna",
            "dora",
            "carl",
        ]
        assert await database.select("people", ("age", "name"), (("name", "=", "bert"),)) == [(7, "bert")]
        [everything] = await database.select("people", (), (("name", "=", "bert"),))
        assert len(everything) == len(PEOPLE.columns)
        assert everything[:2] == (2, "bert")

    people.play(scenario)


def test_many_rows(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await database.insert_many("people", [{"name": f"n{i:05}", "age": i} for i in range(5000)])
        rows = await database.select("people", ("age",), order="name")
        assert rows == [(i,) for i in range(5000)]

    people.play(scenario)


# --- writing


def test_counts(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        assert await database.update("people", {"age": 1}, (("city", "=", "Rome"),)) == 2
        assert await database.update("people", {"age": 1}, (("city", "=", "Rome"),)) == 2, "found, though unchanged"
        assert await database.update("people", {"age": 1}, (("city", "=", "Paris"),)) == 0
        assert await database.delete("people", (("name", "=", "bert"),)) == 1
        assert await database.delete("people", (("name", "=", "bert"),)) == 0
        counts = await database.execute(
            [
                Insert("people", {"name": "emil"}),
                Update("people", {"age": 2}, ()),
                Replace("people", {"name": "emil", "age": 3}),
                InsertUpdate("people", {"name": "emil", "age": 4}, ("name",)),
                InsertUpdate("people", {"name": "fritz", "age": 5}, ("name",)),
                Delete("people"),
            ]
        )
        assert counts == [1, 4, 1, 1, 1, 5]
        assert await database.execute([]) == []

    people.play(scenario)


def test_a_replaced_row_forgets_what_is_not_given(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        await database.replace("people", {"name": "anna", "age": 32})
        await database.replace("people", {"name": "emil", "age": 1})
        rows = await database.select("people", ("name", "city", "age"), (("age", "!=", 7), ("age", "!=", 50)), "name")
        assert rows == [("anna", None, 32), ("emil", None, 1)]

    people.play(scenario)


def test_a_row_is_added_or_changed(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        await database.insert_update("people", {"name": "anna", "age": 32}, ("name",))
        await database.insert_update("people", {"name": "emil", "age": 1}, ("name",))
        await database.insert_update("people", {"name": "emil"}, ("name",))
        rows = await database.select("people", ("name", "city", "age"), (("name", "=", "anna"),))
        assert rows == [("anna", "Rome", 32)]
        assert await database.select("people", ("age",), (("name", "=", "emil"),)) == [(1,)]

    people.play(scenario)


def test_all_or_nothing(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        with pytest.raises(DatabaseError) as caught:
            await database.execute(
                [
                    Insert("people", {"name": "emil"}),
                    Delete("people", (("name", "=", "anna"),)),
                    Insert("people", {"name": "bert"}),
                ]
            )
        assert caught.value.duplicate
        assert not caught.value.transient
        assert names(await database.select("people", ("name",), order="name")) == ["anna", "bert", "carl", "dora"]
        await database.insert("people", {"name": "emil"})

    people.play(scenario)


@pytest.mark.parametrize(
    "write",
    [
        Insert("nowhere", {"name": "x"}),
        Insert("people", {"colour": "red"}),
        Insert("people", {}),
        Insert("people", {"name": None}),
        Update("people", {"nothing": 1}, ()),
        Delete("people", (("nothing", "=", 1),)),
    ],
    ids=["table", "column", "empty", "null", "update", "delete"],
)
def test_what_can_never_be_written(people: Backend, write: Any) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        with pytest.raises(DatabaseError) as caught:
            await database.execute([write])
        assert not caught.value.transient
        assert len(await database.select("people", ("name",))) == 4

    people.play(scenario)


def test_writes_that_nobody_waits_for(people: Backend, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(database: Database) -> None:
        for number in range(1200):
            database.write_later(Insert("people", {"name": f"n{number}", "age": number}))
        database.write_later(Insert("people", {"name": "n5"}), Update("people", {"city": "Rome"}, (("age", "<", 10),)))
        await database.flush()
        assert database.queued == 0
        assert len(await database.select("people", ("id",))) == 1200
        assert len(await database.select("people", ("id",), (("city", "=", "Rome"),))) == 10

    people.play(scenario)
    assert sum("is lost" in record.getMessage() for record in caplog.records) == 1


# --- hostile values and names


def test_half_a_pair_of_surrogates(people: Backend) -> None:
    """JSON brings them (RFC 8259 §8.2) and no back-end can hold them: refused for good, and nothing else is held up."""
    half = chr(0xD800)

    async def scenario(database: Database) -> None:
        for work in (
            database.insert("people", {"name": f"a{half}"}),
            database.insert_many("people", [{"name": "first"}, {"name": f"a{half}"}]),
            database.select("people", ("id",), (("name", "=", half),)),
            database.prepare("people", ("id",), (("name", "="),)).rows(half),
        ):
            async with asyncio.timeout(30):
                with pytest.raises(DatabaseError) as caught:
                    await work
            assert not caught.value.transient
        await database.insert("people", {"name": "second"})
        database.write_later(Insert("people", {"name": f"late{half}"}), Insert("people", {"name": "later"}))
        async with asyncio.timeout(30):
            await database.flush()
        found = await database.select("people", ("name",))
        assert sorted(map(as_text, names(found))) == ["late\\xed\\xa0\\x80", "later", "second"]
        assert database.lost_writes == 0

    people.play(scenario)


def test_integers_of_more_than_64_bits(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        for number in (1 << 64, 1 << 70, -(1 << 63) - 1):
            with pytest.raises(DatabaseError) as caught:
                await database.insert("people", {"name": "x", "large": number})
            assert not caught.value.transient
        await database.insert("people", {"name": "x", "large": (1 << 63) - 1})
        assert await database.select("people", ("large",)) == [((1 << 63) - 1,)]

    people.play(scenario)


EVIL = [
    "'; DROP TABLE people; --",
    "' OR '1'='1",
    '" OR ""="',
    "\\'; DROP TABLE people; --",
    "x' UNION SELECT 1, 'a",
    "%' OR 1=1 #",
    "\u02bc OR 1=1 --",
    "$1",
    "?",
    "\xbf\x27 OR 1=1 /*",
]


@pytest.mark.parametrize("value", EVIL)
def test_a_value_is_never_a_part_of_the_statement(people: Backend, value: str) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        where = (("name", "=", value),)
        assert await database.select("people", ("name",), where) == []
        assert await database.update("people", {"city": value}, where) == 0
        assert await database.delete("people", where) == 0
        await database.insert("people", {"name": value, "city": value})
        assert await database.select("people", ("name", "city"), where) == [(value, value)]
        assert await database.raw("SELECT name FROM people WHERE name = ?", (value,)) == [(value,)]
        assert await database.delete("people", where) == 1
        assert len(await database.select("people", ("name",))) == 4

    people.play(scenario)


@pytest.mark.parametrize("name", ['x"; DROP TABLE people; --', "x`y", "a b", "", "ñ", "count(*)", "a.b"])
def test_a_name_that_cannot_be_is_refused(people: Backend, name: str) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        for attempt in (
            database.select(name, ("name",)),
            database.select("people", ("name", name)),
            database.select("people", ("name",), ((name, "=", 1),)),
            database.select("people", ("name",), (), name or "?"),
            database.insert("people", {name: 1}),
            database.update("people", {"age": 1}, ((name, "=", 1),)),
            database.delete(name),
        ):
            with pytest.raises(DatabaseError) as caught:
                await attempt
            assert not caught.value.transient
        with pytest.raises(DatabaseError):
            await database.select("people", ("name",), (("name", "= name OR 1 =", 1),))
        assert len(await database.select("people", ("name",))) == 4

    people.play(scenario)


# --- raw statements


def test_raw_statements(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        assert await database.raw("SELECT name, age FROM people WHERE age > ? AND name <> '?' ORDER BY age", (20,)) == [
            ("anna", 31),
            ("dora", 50),
        ]
        assert await database.raw("SELECT count(*) FROM people") == [(4,)]
        assert await database.raw("SELECT 'what?' AS a, NULL AS b") == [("what?", None)]
        assert await database.raw("DELETE FROM people WHERE name = 'anna'") == []
        [(total,)] = await database.raw("SELECT sum(age) FROM people")
        assert total == 57
        [(mean,)] = await database.raw("SELECT avg(age) FROM people")
        assert as_float(mean) == 28.5

    people.play(scenario)


@pytest.mark.parametrize(
    "sql", ["SELEKT 1", "", "SELECT * FROM nowhere", "DELETE FROM people; DELETE FROM version", "BEGIN"]
)
def test_raw_statements_that_fail(people: Backend, sql: str) -> None:
    """Among them two in one: an injected second statement is not run."""

    async def scenario(database: Database) -> None:
        await fill(database)
        if sql:
            with pytest.raises(DatabaseError) as caught:
                await database.raw(sql)
            assert not caught.value.transient
        assert len(await database.select("people", ("name",))) == 4
        await database.insert("people", {"name": "emil"})

    people.play(scenario)

    async def later(database: Database) -> None:
        assert len(await database.select("people", ("name",))) == 5

    people.play(later)


# --- many at once


def test_many_operations_at_once(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        async def one(number: int) -> None:
            name = f"n{number}"
            await database.insert("people", {"name": name, "age": number})
            assert await database.select("people", ("age",), (("name", "=", name),)) == [(number,)]
            await database.execute(
                [
                    Update("people", {"age": number + 1}, (("name", "=", name),)),
                    Update("people", {"city": "Rome"}, (("name", "=", name),)),
                ]
            )

        # The first alone: SecantusDB, which stands for MongoDB, loses the answer of one of two upserts that make the
        # same document, here the counter of the rows.
        await one(0)
        await asyncio.gather(*(one(number) for number in range(1, 200)))
        rows = await database.select("people", ("name", "age", "city"))
        assert sorted(rows) == sorted((f"n{number}", number + 1, "Rome") for number in range(200))

    people.play(scenario)


def test_from_a_coroutine_without_a_task(people: Backend) -> None:
    """Scripts are stepped by the server and run in no task."""

    async def scenario(database: Database) -> None:
        await fill(database)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()

        async def route() -> list[DbValue]:
            await database.insert("people", {"name": "emil"})
            await database.raw("UPDATE people SET age = 1 WHERE name = ?", ("emil",))
            return names(await database.select("people", ("age",), (("name", "=", "emil"),)))

        stepper = Stepper(loop.call_soon, loop.call_later)
        stepper.start(route(), ended.set_result, ended.set_exception)
        assert await ended == [1]

    people.play(scenario)


def test_who_stops_waiting_disturbs_nobody(people: Backend) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        for _ in range(20):
            waiting = asyncio.ensure_future(database.select("people", ("name",)))
            await asyncio.sleep(0)
            if waiting.cancel():  # text files answer at once, from memory
                with pytest.raises(asyncio.CancelledError):
                    await waiting
        assert len(await database.select("people", ("name",))) == 4

    people.play(scenario)


def test_a_closed_database_is_closed(people: Backend) -> None:
    async def run() -> None:
        database = people.open()
        await database.insert("people", {"name": "a"})
        database.write_later(Insert("people", {"name": "b"}))
        await database.close()
        await database.close()
        with pytest.raises(DatabaseError, match="closed"):
            await database.select("people", ("name",))

    asyncio.run(run())

    async def later(database: Database) -> None:
        assert len(await database.select("people", ("name",))) == 2

    people.play(later)


# --- servers that die, stall or refuse


async def until(condition: Callable[[], bool | Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(60):
        while True:
            found = condition()
            if found is True or (asyncio.iscoroutine(found) and await found):
                return
            await asyncio.sleep(0.01)


async def answers(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseError:
        return False
    return True


def lines(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def test_killed_in_mid_load(mortal: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """What was acknowledged is there after kill -9, what was queued is written, and the operator was told once."""
    server = mortal.server
    assert server is not None
    acknowledged: list[str] = []
    failures: list[DatabaseError] = []

    async def scenario(database: Database) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        async def load(worker: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                name = f"w{worker} {number}"
                try:
                    await database.insert("people", {"name": name})
                    acknowledged.append(name)
                    await database.select("people", ("id",), (("name", "=", name),))
                except DatabaseError as error:
                    failures.append(error)
                    await asyncio.sleep(0.01)

        workers = [asyncio.ensure_future(load(worker)) for worker in range(8)]
        await until(lambda: len(acknowledged) >= 200)
        await loop.run_in_executor(None, server.kill)
        await until(lambda: len(failures) >= 50)
        database.write_later(*[Insert("people", {"name": f"queued {number}"}) for number in range(700)])
        before = len(acknowledged)
        await loop.run_in_executor(None, server.start)
        await until(lambda: len(acknowledged) >= before + 200)
        stop.set()
        await asyncio.gather(*workers)
        await until(lambda: database.queued == 0)
        there = set(names(await database.select("people", ("name",))))
        assert there.issuperset(acknowledged)
        assert there.issuperset(f"queued {number}" for number in range(700))

    try:
        mortal.play(scenario)
    finally:
        if not server.processes():
            server.start()
    assert all(error.transient for error in failures)
    assert lines(caplog, "is not available") == 1
    assert lines(caplog, "is available again") == 1


def test_idle_connections_of_a_restarted_server(mortal: Backend) -> None:
    """The first write after a restart does not fail because of what was open before."""
    server = mortal.server
    assert server is not None

    async def scenario(database: Database) -> None:
        await asyncio.gather(*(database.insert("people", {"name": f"n{n}"}) for n in range(8)))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, server.kill)
        await loop.run_in_executor(None, server.start)
        await asyncio.gather(*(database.insert("people", {"name": f"m{n}"}) for n in range(8)))
        assert len(await database.select("people", ("name",))) == 16

    mortal.play(scenario)


def test_a_server_that_stops_answering(served: Backend) -> None:
    """The operation ends at its time-out; later ones are served again when the server goes on."""
    server = served.server
    assert server is not None
    short = {"timeout": 3} if served.kind is DbPostgres else {"timeout_interval": 1}

    async def scenario(database: Database) -> None:
        await fill(database)
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseError) as caught:
                await database.select("people", ("name",))
            assert caught.value.transient
        finally:
            server.signal(signal.SIGCONT)
        await until(lambda: answers(database))
        assert len(await database.select("people", ("name",))) == 4

    served.play(scenario, **short)


@pytest.mark.parametrize("kind", [DbPostgres, DbMysql])
def test_a_server_that_accepts_and_says_nothing(kind: type[Any]) -> None:
    pytest.importorskip("asyncpg" if kind is DbPostgres else "asyncmy")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        scheme = "postgres" if kind is DbPostgres else "mysql"
        url = parse_url(f"{scheme}://user:geheim@127.0.0.1:{silent.getsockname()[1]}/name")
        params = {"timeout": 1} if kind is DbPostgres else {"timeout_interval": 1, "max_db_retries": 1}

        async def run() -> None:
            database = kind(**params).open_database(url)
            with pytest.raises(DatabaseError, match="no connection in 1") as caught:
                await database.ping()
            assert caught.value.transient
            with pytest.raises(DatabaseError, match="not available"):
                await database.ping()
            await database.close()

        asyncio.run(run())


@pytest.mark.parametrize("kind", [DbPostgres, DbMysql])
def test_no_server_at_all(kind: type[Any], free_port: Callable[[], int], caplog: pytest.LogCaptureFixture) -> None:
    """Operations fail at once, as transient; a queued write is kept; the password is in no text."""
    pytest.importorskip("asyncpg" if kind is DbPostgres else "asyncmy")
    scheme = "postgres" if kind is DbPostgres else "mysql"
    url = parse_url(f"{scheme}://user:geheim@127.0.0.1:{free_port()}/name")

    async def run() -> None:
        database = kind().open_database(url)
        for _ in range(3):
            with pytest.raises(DatabaseError) as caught:
                await database.insert("t", {"a": 1})
            assert caught.value.transient
            assert "geheim" not in str(caught.value)
        database.write_later(Insert("t", {"a": 1}))
        with pytest.raises(DatabaseError):
            await database.close()
        assert database.queued == 1

    asyncio.run(run())
    assert lines(caplog, "is not available") == 1
    assert "geheim" not in caplog.text


def test_a_wrong_account(served: Backend) -> None:
    server = served.server
    assert server is not None
    url = parse_url(server.url("test", "locked:geheim"))  # type: ignore[attr-defined]

    async def run() -> None:
        database = served.driver().open_database(url)
        with pytest.raises(DatabaseError) as caught:
            await database.ping()
        assert caught.value.transient
        assert "geheim" not in str(caught.value)
        await database.close()

    asyncio.run(run())


def test_the_number_of_connections_is_bounded(served: Backend) -> None:
    """db_max_async_connections: what does not fit waits for its turn."""
    core = FakeCore(globals={"db_max_async_connections": 2})
    driver = core.add(served.kind())
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'opensipspy'"
        if served.kind is DbPostgres
        else "SELECT count(*) FROM information_schema.processlist WHERE command <> 'Daemon' AND db = database()"
    )

    async def run() -> None:
        database = driver.open_database(parse_url(served.url))
        found = await asyncio.gather(*(database.raw(count) for _ in range(50)))
        assert max(row[0] for [row] in found) <= 2
        await database.close()

    asyncio.run(run())


def test_slow_operations_are_logged_without_their_values(served: Backend, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": "geheim"})

    served.play(scenario, exec_query_threshold=1)
    assert lines(caplog, "1 writes, people first took") == 1
    assert "geheim" not in caplog.text


def test_the_event_of_a_mysql_server(mariadb_server: MariadbServer, caplog: pytest.LogCaptureFixture) -> None:
    """E_MYSQL_CONNECTION: the URL, without its password, and "disconnected" or "connected"."""
    caplog.set_level(logging.CRITICAL)
    core = FakeCore()
    driver = core.add(DbMysql(timeout_interval=1))
    heard: list[tuple[str, str]] = []
    url = parse_url(mariadb_server.url("mysql", "root:"))

    async def run() -> None:
        core.events.listen("E_MYSQL_CONNECTION", lambda name, params: heard.append((params["url"], params["status"])))
        database = driver.open_database(url)
        await database.ping()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, mariadb_server.kill)
        try:
            assert not await answers(database)
        finally:
            await loop.run_in_executor(None, mariadb_server.start)
        await until(lambda: answers(database))
        await database.close()

    asyncio.run(run())
    assert heard == [(str(url), "disconnected"), (str(url), "connected")]


@pytest.mark.parametrize("kind", [DbPostgres, DbMysql])
@pytest.mark.parametrize(
    ("params", "url", "reason"),
    [
        ({}, "{}://user@host", "names a database"),
        ({"use_tls": 1}, "{}://user@host/db?tls_domain=x", "tls_mgm"),
        ({"use_tls": 1}, "{}://user@host/db?tls_ca=/nowhere/ca.pem", "TLS"),
    ],
)
def test_urls_that_cannot_be_right(kind: type[Any], params: dict[str, Any], url: str, reason: str) -> None:
    with pytest.raises(DatabaseError, match=reason):
        kind(**params).open_database(parse_url(url.format("postgres" if kind is DbPostgres else "mysql")))


def test_the_servers_are_what_they_are_called(postgres_server: PostgresServer, mariadb_server: MariadbServer) -> None:
    async def version(driver: DbDriver, url: str) -> str:
        database = driver.open_database(parse_url(url))
        try:
            return as_text((await database.raw("SELECT version()"))[0][0])
        finally:
            await database.close()

    assert asyncio.run(version(DbPostgres(), postgres_server.url("postgres"))).startswith("PostgreSQL")
    assert "MariaDB" in asyncio.run(version(DbMysql(), mariadb_server.url("mysql")))
