"""The queue of writes that nobody waits for: bounded, in order, retried, flushed, never lost silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

import opensipspy.db.database as database_module
from opensipspy.db import (
    Condition,
    Database,
    DatabaseError,
    Databases,
    DbDriver,
    DbUrl,
    DbValue,
    Insert,
    Table,
    Write,
    parse_url,
)


class Memory(Database):
    """Keeps the rows written; `failures` are raised first, one for each call."""

    def __init__(self) -> None:
        super().__init__(parse_url("memory:x"))
        self.rows: list[object] = []
        self.failures: list[DatabaseError] = []
        self.calls = 0
        self.written = asyncio.Event()

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        return [(7,)] if where == (("table_name", "=", "acc"),) else []

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.failures:
            error = self.failures.pop(0)
            if error.transient:
                self.note_failure(error)
            raise error
        if any(isinstance(w, Insert) and w.row.get("id") == "bad" for w in writes):
            raise DatabaseError("this row never fits")
        self.rows += [w.row["id"] for w in writes if isinstance(w, Insert)]
        self.note_success()
        self.written.set()
        return [1] * len(writes)

    async def raw(self, sql: str, args: Sequence[DbValue] = ()) -> list[tuple[DbValue, ...]]:
        return []


def row(number: object) -> Insert:
    return Insert("t", {"id": number})  # type: ignore[dict-item]


def away() -> DatabaseError:
    return DatabaseError("gone", transient=True)


def test_queued_writes_arrive_in_order_in_one_batch():
    async def scenario() -> None:
        database = Memory()
        for number in range(5):
            database.write_later(row(number))
        await database.flush()
        assert database.rows == [0, 1, 2, 3, 4]
        assert database.calls == 1
        assert database.queued == 0

    asyncio.run(scenario())


def test_the_queue_is_written_when_the_database_is_back(caplog: pytest.LogCaptureFixture, monkeypatch):
    """Two failures and a recovery are two lines of log."""
    monkeypatch.setattr(database_module, "FIRST_RETRY_S", 0.001)

    async def scenario() -> None:
        database = Memory()
        database.failures = [away(), away()]
        database.write_later(row(1), row(2))
        assert database._writer is not None
        await database._writer
        assert database.rows == [1, 2]

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert [r.getMessage() for r in caplog.records] == [
        "database memory:x is not available: gone",
        "database memory:x is available again",
    ]


def test_a_row_that_never_fits_is_dropped_alone_and_told(caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        database = Memory()
        database.write_later(row(1), row("bad"), row(2))
        await database.flush()
        assert database.rows == [1, 2]

    asyncio.run(scenario())
    assert ["a write to table t is lost (1 so far)" in r.getMessage() for r in caplog.records] == [True]


class Forgetful(Memory):
    """Writes, and then its answer is lost; or (done False) dies before."""

    def __init__(self, *, done: bool) -> None:
        super().__init__()
        self.done = done
        self.lost = 1

    async def execute(self, writes: Sequence[Write]) -> list[int]:
        if self.lost:
            self.lost -= 1
            if self.done:
                await super().execute(writes)
            raise DatabaseError("no answer", transient=True, uncertain=True)
        return await super().execute(writes)

    async def select(
        self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
    ) -> list[tuple[DbValue, ...]]:
        assert table == "t"
        return [(value,) for column, operator, value in where if value in self.rows]


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("number", [1, 2, 37])
def test_rows_whose_answer_was_lost_are_there_once(done: bool, number: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_module, "FIRST_RETRY_S", 0.001)

    async def scenario() -> None:
        database = Forgetful(done=done)
        database.write_later(*(row(n) for n in range(number)))
        assert database._writer is not None
        await database._writer
        assert database.rows == list(range(number))
        database.lost = 1
        database.write_later(row("more"))
        with pytest.raises(DatabaseError):
            await database.flush()
        database.write_later(row("last"))
        await database.flush()
        assert database.rows == [*range(number), "more", "last"]

    asyncio.run(scenario())


def test_the_queue_is_bounded(monkeypatch):
    monkeypatch.setattr(database_module, "MAX_QUEUED_WRITES", 2)

    async def scenario() -> None:
        database = Memory()
        database.write_later(row(1), row(2))
        with pytest.raises(DatabaseError, match="2 writes are waiting") as caught:
            database.write_later(row(3))
        assert caught.value.transient
        await database.flush()
        assert database.rows == [1, 2]

    asyncio.run(scenario())


def test_a_flush_that_fails_keeps_the_queue():
    async def scenario() -> None:
        database = Memory()
        database.failures = [away()]
        database.write_later(row(1))
        with pytest.raises(DatabaseError):
            await database.flush()
        assert database.queued == 1
        await database.flush()
        assert database.rows == [1]

    asyncio.run(scenario())


def test_a_flush_in_the_middle_of_a_batch_writes_nothing_twice():
    async def scenario() -> None:
        database = Memory()
        database.write_later(row(1))
        await asyncio.sleep(0)  # the writer has begun
        await database.flush()
        assert database.rows == [1]

    asyncio.run(scenario())


def test_check_version_tells_what_is_needed():
    async def scenario() -> None:
        database = Memory()
        await database.check_version("acc", 7)
        with pytest.raises(DatabaseError, match="table acc has version 7, 8 is needed"):
            await database.check_version("acc", 8)
        with pytest.raises(DatabaseError, match="table other is not there"):
            await database.check_version("other", 1)

    asyncio.run(scenario())


class MemoryDriver(DbDriver):
    schemes = ("memory",)

    def open_database(self, url: DbUrl) -> Database:
        return Memory()

    async def create_tables(self, url: DbUrl, tables: Sequence[Table]) -> list[str]:
        return []


def test_modules_that_name_the_same_url_share_the_database():
    databases = Databases()
    databases.add(MemoryDriver())
    assert databases.get("memory:x") is databases.get("memory:x")
    assert databases.get("memory:x") is not databases.get("memory:y")


def test_a_driver_that_is_not_loaded_is_named():
    databases = Databases()
    with pytest.raises(DatabaseError, match=r'loadmodule "db_mysql\.so"') as caught:
        databases.get("mysql://u:secret@h/x")
    assert "secret" not in str(caught.value)


def test_closing_flushes_and_reports_what_failed():
    async def scenario() -> None:
        databases = Databases()
        databases.add(MemoryDriver())
        good, bad = databases.get("memory:x"), databases.get("memory:y")
        assert isinstance(good, Memory)
        assert isinstance(bad, Memory)
        bad.failures = [away(), away(), away()]
        good.write_later(row(1))
        bad.write_later(row(1))
        failures = await databases.close()
        assert good.rows == [1]
        assert [str(f) for f in failures] == ["gone (lost writes: 1)"]

    asyncio.run(scenario())


def test_a_database_that_does_not_answer_at_the_end(caplog: pytest.LogCaptureFixture):
    """What it has is told by number; the others, opened before it, have theirs. Nothing is sent twice."""

    class Silent(Memory):
        async def execute(self, writes: Sequence[Write]) -> list[int]:
            self.calls += 1
            await asyncio.Event().wait()
            raise AssertionError

    class BothDriver(MemoryDriver):
        def open_database(self, url: DbUrl) -> Database:
            return Silent() if "silent" in str(url) else Memory()

    async def scenario() -> None:
        databases = Databases()
        databases.add(BothDriver())
        good, silent = databases.get("memory:x"), databases.get("memory:silent")
        good.write_later(row(1))
        silent.write_later(row(1), row(2))
        await asyncio.sleep(0)
        silent.write_later(row(3))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(databases.close(), 0.1)
        assert isinstance(good, Memory)
        assert isinstance(silent, Memory)
        assert (good.rows, silent.calls) == ([1], 1)

    asyncio.run(scenario())
    [line] = [record.getMessage() for record in caplog.records if "lost writes" in record.getMessage()]
    assert "(lost writes: 3; 2 of them may have been done)" in line


@pytest.mark.parametrize(("flush_s", "number"), [(0.0, 3), (0.01, 2)], ids=["enough of them", "old enough"])
def test_writes_are_gathered(flush_s: float, number: int):
    """query_buffer_size and query_flush_time: what is gathered travels together."""

    async def scenario() -> None:
        databases = Databases()
        databases.configure(buffered_writes=3, flush_s=flush_s)
        databases.add(MemoryDriver())
        database = databases.get("memory:x")
        assert isinstance(database, Memory)
        for each in range(number):
            database.write_later(row(each))
            for _ in range(5):
                await asyncio.sleep(0)
            if each < 2:
                assert database.rows == []
        await asyncio.wait_for(database.written.wait(), 60)
        assert database.rows == list(range(number))
        assert database.calls == 1

    asyncio.run(scenario())


def test_gathered_writes_are_flushed_at_the_end():
    async def scenario() -> None:
        databases = Databases()
        databases.configure(buffered_writes=100)
        databases.add(MemoryDriver())
        database = databases.get("memory:x")
        assert isinstance(database, Memory)
        database.write_later(row(1))
        assert await databases.close() == []
        assert database.rows == [1]

    asyncio.run(scenario())


def test_the_table_of_versions_has_the_name_that_the_script_gives():
    asked: list[str] = []

    class Asked(Memory):
        async def select(
            self, table: str, columns: Sequence[str], where: Sequence[Condition] = (), order: str = "", limit: int = 0
        ) -> list[tuple[DbValue, ...]]:
            asked.append(table)
            return [(7,)]

    class Driver(MemoryDriver):
        def open_database(self, url: DbUrl) -> Database:
            return Asked()

    databases = Databases()
    databases.configure(version_table="my_versions")
    databases.add(Driver())
    assert asyncio.run(databases.get("memory:x").table_version("acc")) == 7
    assert asked == ["my_versions"]
