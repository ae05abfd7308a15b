"""SQLite files as a database: real files, other programs' locks, files that go away and come back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import sqlite3
import stat
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import (
    Column,
    DatabaseError,
    Delete,
    Index,
    Insert,
    InsertUpdate,
    Replace,
    Table,
    Update,
    as_text,
    auto_id,
    parse_url,
)
from opensipspy.dbdrivers.db_sqlite import DbSqlite, SqliteDatabase
from opensipspy.module import ParamError

PEOPLE = Table(
    "people",
    3,
    (
        auto_id(),
        Column("name", "string", 64, default=""),
        Column("city", "string", 64, null=True, default=None),
        Column("born", "datetime", null=True, default=None),
        Column("size", "float", "10,2", default="1.0"),
    ),
    (Index("name_idx", ("name",), unique=True), Index("city_idx", ("city",))),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "test.sqlite"
    asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{file}"), [PEOPLE]))
    return file


def play(path: Path, scenario: Callable[[SqliteDatabase], Coroutine[Any, Any, None]], **params: Any) -> None:
    async def run() -> None:
        database = DbSqlite(**params).open_database(parse_url(f"sqlite:{path}"))
        await database.ready()
        try:
            await scenario(database)
        finally:
            await database.close()

    asyncio.run(run())


def test_created_tables_have_their_columns_indexes_and_version(path: Path):
    connection = sqlite3.connect(path)
    assert [row[1] for row in connection.execute("PRAGMA table_info(people)")] == ["id", "name", "city", "born", "size"]
    indexes = {row[1]: row[2] for row in connection.execute("PRAGMA index_list(people)")}
    assert indexes == {"people_name_idx": 1, "people_city_idx": 0}
    assert connection.execute("SELECT * FROM version").fetchall() == [("people", 3)]
    connection.close()


def test_the_file_is_for_its_owner_only(path: Path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_creating_twice_keeps_the_rows(path: Path):
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO people (name) VALUES ('anna')")
    connection.close()
    assert asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [PEOPLE])) == []
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM people").fetchall() == [("anna",)]
    connection.close()


def test_another_version_of_a_table_is_not_touched(path: Path):
    newer = Table("people", 4, PEOPLE.columns)
    more = Table("more", 1, (auto_id(),))
    with pytest.raises(DatabaseError, match="version 3, 4 is needed; nothing was changed"):
        asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [more, newer]))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall() == []
    connection.close()


def test_each_kind_of_write_and_what_is_read_back(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        await database.insert("people", {"name": "anna", "city": "Ulm", "born": datetime(1990, 2, 3, 4, 5, 6)})
        await database.insert_many("people", [{"name": "bert"}, {"name": "carl", "city": "Bonn"}])
        assert await database.update("people", {"city": "Kiel"}, [("name", "=", "bert")]) == 1
        await database.replace("people", {"name": "carl", "city": "Jena"})
        await database.insert_update("people", {"name": "anna", "city": "Hof"}, ["name"])
        await database.insert_update("people", {"name": "dora", "city": None}, ["name"])
        rows = await database.select("people", ["name", "city", "born"], order="name")
        assert rows == [
            ("anna", "Hof", "1990-02-03 04:05:06"),
            ("bert", "Kiel", None),
            ("carl", "Jena", None),
            ("dora", None, None),
        ]
        assert await database.select("people", ["name"], [("city", "=", None)]) == [("dora",)]
        assert await database.select("people", ["name"], [("city", "!=", None)], "name desc", 1) == [("carl",)]
        assert await database.select("people", ["name"], [("name", "like", "%ert")]) == [("bert",)]
        assert await database.delete("people", [("name", "=", "bert")]) == 1
        assert await database.raw("SELECT count(*) FROM people WHERE city > ?", ["A"]) == [(2,)]

    play(path, scenario)


def test_a_read_by_key_is_answered_in_the_loop_and_a_scan_in_the_thread(path: Path, monkeypatch):
    async def scenario(database: SqliteDatabase) -> None:
        await database.insert_many("people", [{"name": f"n{i}", "city": "Ulm"} for i in range(200)])
        asked = []
        query = database._in_thread.query
        monkeypatch.setattr(database._in_thread, "query", lambda sql, args: (asked.append(sql), query(sql, args))[1])
        assert await database.select("people", ["city"], [("name", "=", "n7")]) == [("Ulm",)]
        assert asked == []
        assert len(await database.select("people", ["name"], [("size", "=", 1.0)])) == 200
        assert len(asked) == 1, "no index leads to `size`"
        assert len(await database.select("people", ["name"], [("city", "=", "Ulm")])) == 200
        assert len(asked) == 2, "an index leads to more rows than the loop should read"

    play(path, scenario)


def test_a_prepared_read_by_key_is_answered_at_once(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        await database.insert_many("people", [{"name": f"n{i}", "city": "Ulm"} for i in range(200)])
        by_name = database.prepare("people", ["city", "size"], [("name", "=")], limit=1)
        assert by_name.rows_now("n7") == await by_name.rows("n7") == [("Ulm", 1.0)]
        assert by_name.rows_now("nobody") == await by_name.rows("nobody") == []
        await database.update("people", {"city": "Bonn"}, [("name", "=", "n7")])
        assert by_name.rows_now("n7") == [("Bonn", 1.0)], "nothing is kept from before"
        for text in ("Jos\udce9", "' OR 1=1 --"):
            assert by_name.rows_now(text) == []

    play(path, scenario)


def test_a_prepared_read_that_is_not_short_has_to_be_awaited(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        await database.insert_many("people", [{"name": f"n{i}", "city": "Ulm"} for i in range(200)])
        by_size = database.prepare("people", ["name"], [("size", "=")])
        assert by_size.rows_now(1.0) is None, "no index leads to it"
        assert len(await by_size.rows(1.0)) == 200
        by_city = database.prepare("people", ["name"], [("city", "=")])
        assert by_city.rows_now("Ulm") is None, "too many rows"
        assert len(await by_city.rows("Ulm")) == 200
        assert by_city.rows_now(None) is None
        assert await by_city.rows(None) == []
        everybody = database.prepare("people", ["name"], [])
        assert everybody.rows_now() is None
        assert len(await everybody.rows()) == 200

    play(path, scenario)


def test_a_read_by_key_that_walks_far_is_broken_off_in_the_loop(path: Path, monkeypatch):
    """The plan looks short, and the second condition makes it long: the loop gives up, the thread answers."""

    async def scenario(database: SqliteDatabase) -> None:
        await database.insert_many("people", [{"name": f"n{i}", "city": "Ulm", "size": i} for i in range(9000)])
        asked = []
        query = database._in_thread.query
        monkeypatch.setattr(database._in_thread, "query", lambda sql, args: (asked.append(sql), query(sql, args))[1])
        nobody = [("city", "=", "Ulm"), ("size", "=", -1.0)]
        assert await database.select("people", ["name"], nobody) == []
        assert await database.select("people", ["name"], nobody) == []
        assert len(asked) == 2
        for number in range(0, 9000, 10):
            assert await database.select("people", ["size"], [("name", "=", f"n{number}")]) == [(number,)]
        assert len(asked) == 2, "many short ones are not one long one"

    play(path, scenario)


def test_reading_alone_puts_the_file_into_wal_mode(path: Path):
    """Readers then never wait for a writer, and read in half the time."""

    def journal_mode() -> str:
        with contextlib.closing(sqlite3.connect(path)) as other:
            return str(other.execute("PRAGMA journal_mode").fetchone()[0])

    async def scenario(database: SqliteDatabase) -> None:
        await database.ready()
        assert await database.select("people", ["city"], [("name", "=", "anna")]) == []
        assert journal_mode() == "wal"

    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
    assert journal_mode() == "delete"
    play(path, scenario)


def test_a_batch_is_all_or_nothing_and_leaves_its_neighbours_alone(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        results = await asyncio.gather(
            database.execute([Insert("people", {"name": "anna"})]),
            database.execute([Insert("people", {"name": "bert"}), Insert("people", {"name": "anna"})]),
            database.execute([Insert("people", {"name": "carl"}), Update("people", {"city": "Ulm"}, [])]),
            return_exceptions=True,
        )
        assert results[0] == [1]
        assert isinstance(results[1], DatabaseError)
        assert results[1].duplicate
        assert not results[1].transient
        assert results[2] == [1, 2]
        assert await database.select("people", ["name"], order="name") == [("anna",), ("carl",)]

    play(path, scenario)


def test_simultaneous_writes_share_a_commit(path: Path, monkeypatch):
    async def scenario(database: SqliteDatabase) -> None:
        batches = []
        write = database._in_thread.write
        monkeypatch.setattr(database._in_thread, "write", lambda batch: (batches.append(len(batch)), write(batch))[1])
        await asyncio.gather(*(database.insert("people", {"name": f"n{i}"}) for i in range(50)))
        assert batches == [1, 49]

    play(path, scenario)


@pytest.mark.parametrize(
    "write",
    [
        Insert("people", {'name") VALUES (1); --': 1}),
        Delete("people; DROP TABLE people"),
        Delete("people", [("name", "= 1 OR 1", 1)]),
        Replace("people", {}),
        InsertUpdate("people", {"name": "x"}, ["a b"]),
    ],
)
def test_names_and_operators_cannot_carry_sql(path: Path, write):
    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(DatabaseError):
            await database.execute([write])
        await database.insert("people", {"name": "still there"})

    play(path, scenario)


def test_text_that_is_no_utf8_comes_back_as_it_was(path: Path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")

    async def scenario(database: SqliteDatabase) -> None:
        await database.insert("people", {"name": name, "city": "\U0001f4de"})
        rows = await database.select("people", ["name", "city"], [("name", "=", name)])
        assert [as_text(v) for v in rows[0]] == [name, "\U0001f4de"]

    play(path, scenario)


def test_a_missing_file_is_transient_told_once_and_not_made(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The database comes up when the file does, without a restart."""
    file = tmp_path / "later.sqlite"

    async def scenario(database: SqliteDatabase) -> None:
        for _ in range(3):
            with pytest.raises(DatabaseError, match="no such file") as caught:
                await database.select("people", ["name"], [("name", "=", "x")])
            assert caught.value.transient
        assert not file.exists()
        await DbSqlite().create_tables(parse_url(f"sqlite:{file}"), [PEOPLE])
        assert await database.select("people", ["name"], [("name", "=", "x")]) == []
        await database.insert("people", {"name": "x"})
        assert await database.select("people", ["name"], [("name", "=", "x")]) == [("x",)]

    with caplog.at_level(logging.WARNING):
        play(file, scenario)
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 2
    assert "is not available" in messages[0]
    assert "is available again" in messages[1]


def test_a_file_that_was_replaced_is_opened_anew(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        await database.insert("people", {"name": "old"})
        assert await database.select("people", ["name"], [("name", "=", "old")]) == [("old",)]
        for file in path.parent.glob("test.sqlite*"):
            file.rename(file.with_name("away-" + file.name))
        await DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [PEOPLE])
        assert await database.select("people", ["name"], [("name", "=", "old")]) == []
        await database.insert("people", {"name": "new"})
        assert await database.select("people", ["name"]) == [("new",)]

    play(path, scenario)


def test_another_programs_lock_is_transient_and_readers_do_not_wait_for_it(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        await database.insert("people", {"name": "anna"})
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked") as caught:
            await database.insert("people", {"name": "bert"})
        assert caught.value.transient
        assert await database.select("people", ["name"], [("name", "=", "anna")]) == [("anna",)]
        other.execute("ROLLBACK")
        other.close()
        await database.insert("people", {"name": "bert"})

    play(path, scenario, busy_timeout=10)


def test_queued_writes_wait_for_the_lock_and_are_there_after_close(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        database.write_later(Insert("people", {"name": "anna"}))
        with pytest.raises(DatabaseError):
            await database.flush()
        other.execute("ROLLBACK")
        other.close()

    play(path, scenario, busy_timeout=10)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM people").fetchall() == [("anna",)]
    connection.close()


def test_a_file_that_is_no_database_is_an_error_and_no_crash(tmp_path: Path):
    file = tmp_path / "text"
    file.write_text("this is no database, however long the text is " * 50)

    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(DatabaseError, match="not a database"):
            await database.insert("people", {"name": "x"})

    play(file, scenario)


def test_a_full_disk_is_transient(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(DatabaseError, match="full") as caught:
            await database.insert("people", {"name": "x" * 3_000_000})
        assert caught.value.transient
        await database.insert("people", {"name": "small"})

    play(path, scenario, exec_pragma="max_page_count=100")


def test_queued_rows_wait_for_room_on_the_disk(path: Path, caplog: pytest.LogCaptureFixture):
    """No file may grow beyond 512 KB for a while, so that SQLite's log of writes cannot."""
    names = [f"{number:04}" + "x" * 1000 for number in range(1000)]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario(database: SqliteDatabase) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, usual[1]))
        try:
            for name in names:
                database.write_later(Insert("people", {"name": name}))
            with pytest.raises(DatabaseError) as caught:
                await database.flush()
            assert caught.value.transient
            assert not database.available
            assert database.queued
            assert isinstance(await database.select("people", ["name"]), list), "reading goes on"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        await database.flush()
        assert sorted(str(row[0]) for row in await database.raw("SELECT name FROM people")) == names
        assert database.available
        assert database.lost_writes == 0

    play(path, scenario)
    assert sum("is not available: " in record.getMessage() for record in caplog.records) == 1


def test_an_unknown_table_is_not_transient(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(DatabaseError, match="no such table") as caught:
            await database.select("nobody", ["name"], [("name", "=", "x")])
        assert not caught.value.transient

    play(path, scenario)


def test_a_raw_statement_cannot_hold_the_lock(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(DatabaseError, match="transaction open"):
            await database.raw("BEGIN IMMEDIATE")
        await database.insert("people", {"name": "x"})

    play(path, scenario)


def test_a_closed_database_refuses(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        await database.close()
        with pytest.raises(DatabaseError, match="closed"):
            await database.select("people", ["name"])
        with pytest.raises(DatabaseError, match="closed"):
            await database.insert("people", {"name": "x"})

    play(path, scenario)


@pytest.mark.parametrize("url", ["sqlite:", "sqlite::memory:", "sqlite://host/x"])
def test_urls_that_name_no_file_are_refused(url: str):
    with pytest.raises(DatabaseError):
        DbSqlite().open_database(parse_url(url))


def test_pragmas_are_run_on_each_connection_and_checked(path: Path):
    async def scenario(database: SqliteDatabase) -> None:
        assert await database.raw("PRAGMA cache_size") == [(-3000,)]

    play(path, scenario, exec_pragma="cache_size=-3000")
    for bad in ("cache_size", "x;y=1", "a=1; DROP TABLE people"):
        with pytest.raises(ParamError):
            DbSqlite(exec_pragma=bad)


def test_an_extension_that_is_not_there_is_an_error_with_its_name(path: Path):
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        with pytest.raises(ParamError, match="without SQLite extensions"):
            DbSqlite(load_extension="no_such_extension.so;entry")
        return

    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(DatabaseError, match="no_such_extension"):
            await database.select("people", ["name"])

    play(path, scenario, load_extension="no_such_extension.so;entry")
