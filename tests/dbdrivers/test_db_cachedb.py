"""db_cachedb over SecantusDB, which speaks MongoDB's protocol: the conformance suite of SQL drivers as far as it is
not about SQL itself, and what is different with documents."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import CacheError, CacheUrl
from opensipspy.cli import db
from opensipspy.cli.db import declared_tables
from opensipspy.db import Database, DatabaseError, DbDriver, Insert, Table, parse_url
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.dbdrivers.cachedb_mongodb import CachedbMongodb, MongodbStore, pattern_of
from opensipspy.dbdrivers.db_cachedb import DbCachedb
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore
from opensipspy.server.stepper import Stepper
from tests.backends import SecantusServer
from tests.dbdrivers import test_conformance as suite
from tests.dbdrivers.test_conformance import EVIL, PEOPLE, Backend, Scenario, fill, names

test_a_large_cell = suite.test_a_large_cell
test_a_name_that_cannot_be_is_refused = suite.test_a_name_that_cannot_be_is_refused
test_a_replaced_row_forgets_what_is_not_given = suite.test_a_replaced_row_forgets_what_is_not_given
test_a_row_is_added_or_changed = suite.test_a_row_is_added_or_changed
test_a_table_of_another_version_stops_the_creation = suite.test_a_table_of_another_version_stops_the_creation
test_all_or_nothing = suite.test_all_or_nothing
test_bytes_that_are_no_text = suite.test_bytes_that_are_no_text
test_columns_have_their_defaults = suite.test_columns_have_their_defaults
test_conditions = suite.test_conditions
test_counts = suite.test_counts
test_creating_is_repeated_without_harm = suite.test_creating_is_repeated_without_harm
test_every_table_of_every_module_can_be_made = suite.test_every_table_of_every_module_can_be_made
test_fractions_of_short_floats_are_not_blurred = suite.test_fractions_of_short_floats_are_not_blurred
test_many_operations_at_once = suite.test_many_operations_at_once
test_many_rows = suite.test_many_rows
test_numbers_and_texts_meet = suite.test_numbers_and_texts_meet
test_order_limit_and_columns = suite.test_order_limit_and_columns
test_times_are_kept_to_the_second = suite.test_times_are_kept_to_the_second
test_values_come_back_as_they_went_in = suite.test_values_come_back_as_they_went_in
test_who_stops_waiting_disturbs_nobody = suite.test_who_stops_waiting_disturbs_nobody
test_writes_that_nobody_waits_for = suite.test_writes_that_nobody_waits_for


class PatientMongodb(CachedbMongodb):
    """Leaves the stand-in for MongoDB the time that it needs for thousands of rows on a loaded machine."""

    def open_store(self, url: CacheUrl) -> MongodbStore:
        store = super().open_store(url)
        store.limits.query_s = 60.0
        return store


class DocumentsBackend(Backend):
    """A database of MongoDB behind db_cachedb; each has a name of its own."""

    def __init__(self, server: SecantusServer, folder: Path, number: int) -> None:
        super().__init__(DbCachedb, server, folder, 0)
        self.url = "cachedb://mongodb:docs"
        self.store_url = server.url("docs").replace("/test.", f"/people{number}.")

    def house(self) -> tuple[FakeCore, Database, DbDriver]:
        core = FakeCore()
        core.add(PatientMongodb(cachedb_url=self.store_url))
        driver = core.add(DbCachedb(cachedb_url=self.store_url))
        driver.declared = {table.name: table for table in (PEOPLE, *declared_tables(None))}
        return core, driver.open_database(parse_url(self.url)), driver

    def play(self, scenario: Scenario, **params: Any) -> None:
        async def run() -> None:
            core, database, _ = self.house()
            try:
                await scenario(database)
            finally:
                await database.close()
                await core.cachedbs.close()

        asyncio.run(run())

    def create(self, *tables: Table) -> list[str]:
        async def run() -> list[str]:
            core, database, driver = self.house()
            try:
                return await driver.create_tables(parse_url(self.url), tables)
            finally:
                await database.close()
                await core.cachedbs.close()

        return asyncio.run(run())


@pytest.fixture(scope="module")
def places() -> list[int]:
    return []


@pytest.fixture
def backend(mongodb_server: SecantusServer, tmp_path: Path, places: list[int]) -> DocumentsBackend:
    places.append(0)
    return DocumentsBackend(mongodb_server, tmp_path, len(places))


@pytest.fixture
def people(backend: DocumentsBackend) -> DocumentsBackend:
    backend.create(PEOPLE)
    return backend


@pytest.mark.parametrize("value", [*EVIL, '{"$gt": ""}', "$name", "a.b", ".*"])
def test_a_value_is_never_an_operator(people: DocumentsBackend, value: str) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        where = (("name", "=", value),)
        assert await database.select("people", ("name",), where) == []
        assert await database.delete("people", where) == 0
        await database.insert("people", {"name": value, "city": value})
        assert await database.select("people", ("name", "city"), where) == [(value, value)]
        assert names(await database.select("people", ("name",), (("name", "like", value.replace("%", "_")),))) == [
            value
        ]
        assert await database.delete("people", where) == 1
        assert len(await database.select("people", ("name",))) == 4

    people.play(scenario)


@pytest.mark.parametrize(
    "write",
    [
        Insert("people", {"colour": "red"}),
        Insert("people", {}),
        Insert("people", {"name": None}),
        Insert("people", {"name": "x", "age": "old"}),
        Insert("people", {"name": "x", "born": "yesterday"}),
        Insert("people", {"name": "x", "age": 1 << 70}),
    ],
    ids=["column", "empty", "null", "number", "time", "large"],
)
def test_what_can_never_be_written(people: DocumentsBackend, write: Insert) -> None:
    async def scenario(database: Database) -> None:
        await fill(database)
        with pytest.raises(DatabaseError) as caught:
            await database.execute([write])
        assert not caught.value.transient
        assert len(await database.select("people", ("name",))) == 4

    people.play(scenario)


def test_from_a_coroutine_without_a_task(people: DocumentsBackend) -> None:
    """Scripts are stepped by the server and run in no task."""

    async def scenario(database: Database) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()

        async def route() -> list[Any]:
            await database.insert("people", {"name": "emil", "age": 1})
            return names(await database.select("people", ("age",), (("name", "=", "emil"),)))

        Stepper(loop.call_soon, loop.call_later).start(route(), ended.set_result, ended.set_exception)
        assert await ended == [1]

    people.play(scenario)


def test_closing_writes_what_is_queued(people: DocumentsBackend) -> None:
    async def first(database: Database) -> None:
        database.write_later(Insert("people", {"name": "a"}))

    async def later(database: Database) -> None:
        assert names(await database.select("people", ("name",))) == ["a"]

    people.play(first)
    people.play(later)


def test_collections_that_no_module_declares_take_what_they_are_given(backend: DocumentsBackend) -> None:
    async def scenario(database: Database) -> None:
        await database.insert("notes", {"title": "a", "pages": 3})
        await database.insert("notes", {"title": "b", "author": None})
        assert await database.select("notes", ("title",), (("pages", "=", 3),)) == [("a",)]
        assert await database.select("notes", (), (), "title") == [("a", 3, None), ("b", None, None)]
        assert await database.update("notes", {"pages": "four"}, (("title", "=", "b"),)) == 1
        assert await database.select("notes", ("pages",), (("title", "=", "b"),)) == [("four",)]

    backend.play(scenario)


def test_there_is_no_sql(backend: DocumentsBackend) -> None:
    async def scenario(database: Database) -> None:
        with pytest.raises(DatabaseError, match="documents have no SQL"):
            await database.raw("SELECT 1")
        await database.ping()

    backend.play(scenario)


def test_urls_and_stores_that_cannot_be_right() -> None:
    core = FakeCore()
    core.add(CachedbLocal(cachedb_url="local:memory://"))
    driver = core.add(DbCachedb(cachedb_url="local:memory://"))
    with pytest.raises(DatabaseError, match="no cachedb_url of db_cachedb is for the store 'mongodb:x'"):
        driver.open_database(parse_url("cachedb://mongodb:x"))
    with pytest.raises(DatabaseError, match="local keeps no tables; MongoDB does"):
        driver.open_database(parse_url("cachedb://local:memory"))
    with pytest.raises(ParamError):
        DbCachedb(cachedb_url="nonsense")


def test_the_text_of_a_url_names_the_store() -> None:
    assert str(parse_url("cachedb://mongodb:group")) == "cachedb://mongodb:group"


@pytest.mark.parametrize(
    ("like", "pattern"), [("%a_b%", "^.*a.b.*$"), ("a.b*", "^a\\.b\\*$"), ("", "^$"), ("$x", "^\\$x$")]
)
def test_like_as_a_regular_expression(like: str, pattern: str) -> None:
    assert pattern_of(like) == pattern


@pytest.mark.parametrize("name", ["$where", "a.b", "", "x y", "ключ"])
def test_names_mean_nothing_to_the_store(backend: DocumentsBackend, name: str) -> None:
    async def run() -> None:
        core, _, _ = backend.house()
        store = core.cachedb(backend.store_url)
        assert isinstance(store, MongodbStore)
        try:
            with pytest.raises(CacheError, match="no name of a collection or field"):
                await store.find_documents("people", (name,))
            with pytest.raises(CacheError, match="no name of a collection or field"):
                await store.find_documents("people", (), ((name, "=", 1),))
            with pytest.raises(CacheError, match="no comparison"):
                await store.find_documents("people", (), (("a", "$where", 1),))
        finally:
            await core.cachedbs.close()

    asyncio.run(run())


@pytest.fixture
def mortal(tmp_path: Path, mongodb_server: SecantusServer) -> Iterator[DocumentsBackend]:
    """A server of its own, which may be killed."""
    server = SecantusServer()
    server.start()
    try:
        yield DocumentsBackend(server, tmp_path, 1)
    finally:
        server.stop()


def test_a_killed_server_is_used_again(mortal: DocumentsBackend, caplog: pytest.LogCaptureFixture) -> None:
    mortal.create(PEOPLE)
    server = mortal.server
    assert server is not None

    async def scenario(database: Database) -> None:
        await database.insert("people", {"name": "before"})
        await asyncio.to_thread(server.signal, signal.SIGKILL)
        with pytest.raises(DatabaseError) as caught:
            await database.select("people", ("name",))
        assert caught.value.transient
        assert not database.available
        database.write_later(Insert("people", {"name": "queued"}))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        while database.queued:  # noqa: ASYNC110 - the queue tells nobody
            await asyncio.sleep(0.05)
        assert "queued" in names(await database.select("people", ("name",)))
        assert database.available

    mortal.play(scenario)
    assert sum("is not available: " in record.getMessage() for record in caplog.records) == 1


def test_the_command_line_makes_and_shows_the_collections(
    mongodb_server: SecantusServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`opensipspy db create --store`: once, with version documents that modules accept."""
    store = mongodb_server.url("docs").replace("/test.", "/by_command.")
    words = ["--url", "cachedb://mongodb:docs", "--modules", "domain", "usrloc"]
    parser = argparse.ArgumentParser()
    db.configure(parser)

    def call(*more: str) -> tuple[int, str]:
        status = db.run(parser.parse_args([*more, *words]))
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    assert call("create", "--store", store) == (
        0,
        "cachedb://mongodb:docs: domain, location\nmade version, domain, location\n",
    )
    assert call("create", "--store", store)[1].endswith("all of them are there\n")
    status, shown = call("show", "--store", store)
    assert status == 0
    assert "location             version 1013" in shown
    assert call("create") == (
        1,
        "cachedb://mongodb:docs: domain, location\n"
        "opensipspy db: cachedb://mongodb:docs: the store is needed: "
        "--store mongodb:group://host:port/database.collection\n",
    )
    assert "cachedb_nosuch" in call("create", "--store", "nosuch:docs://u:geheim@h/d.c")[1]
