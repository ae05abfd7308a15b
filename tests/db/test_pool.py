"""The pool of connections: hand-made connections that break, stall or are refused at will."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import pytest

from opensipspy.db import (
    Database,
    DatabaseError,
    DbUrl,
    DbValue,
    Delete,
    Limits,
    Link,
    LostError,
    PooledDatabase,
    SqlText,
    Write,
    parse_url,
)
from tests.modules.asynchronous import in_loop

URL = parse_url("fake://user:geheim@host/name")


class FakeServer:
    """refuse: connections fail. stall: nothing is answered until it is set. breaks: how the next operations end."""

    def __init__(self) -> None:
        self.refuse = False
        self.stall: asyncio.Event | None = None
        self.breaks: list[DatabaseError] = []
        self.links: list[FakeLink] = []
        self.attempts = 0
        self.done: list[str] = []
        self.changes: list[bool] = []
        self.back = asyncio.Event()
        self.most = 0
        self.busy = 0

    async def connect(self) -> Link:
        self.attempts += 1
        if self.refuse:
            raise DatabaseError("refused", transient=True)
        await asyncio.sleep(0)
        link = FakeLink(self)
        self.links.append(link)
        return link

    def changed(self, url: DbUrl, available: bool) -> None:
        self.changes.append(available)
        if available:
            self.back.set()

    def database(self, **limits: float | None) -> PooledDatabase:
        return PooledDatabase(URL, SqlText(), Limits(**limits), self.connect, self.changed)  # type: ignore[arg-type]


class FakeLink(Link):
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.gone = False
        self.killed = False
        self.said_good_bye = False

    @property
    def closed(self) -> bool:
        return self.gone

    async def _work(self, what: str) -> None:
        server = self.server
        server.busy += 1
        server.most = max(server.most, server.busy)
        try:
            if server.stall is not None:
                await server.stall.wait()
            await asyncio.sleep(0)
            if server.breaks:
                raise server.breaks.pop(0)
            server.done.append(what)
        finally:
            server.busy -= 1

    async def query(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        await self._work("query")
        return [(1,)]

    async def write(self, writes: Sequence[Write]) -> list[int]:
        await self._work("write")
        return [1] * len(writes)

    async def raw(self, sql: str, args: Sequence[DbValue]) -> list[tuple[DbValue, ...]]:
        await self._work(sql)
        return []

    def kill(self) -> None:
        self.gone = self.killed = True

    async def close(self) -> None:
        self.gone = self.said_good_bye = True


async def several(database: Database, count: int) -> list[object]:
    return list(await asyncio.gather(*(database.select("t", ("a",)) for _ in range(count)), return_exceptions=True))


@in_loop
async def test_connections_are_shared_and_bounded() -> None:
    server = FakeServer()
    database = server.database(connections=3)
    assert await several(database, 50) == [[(1,)]] * 50
    assert (len(server.links), server.most) == (3, 3)
    await database.close()
    assert all(link.said_good_bye for link in server.links)


def lost(harmless: bool) -> LostError:
    return LostError("gone", harmless=harmless)


@pytest.mark.parametrize(
    ("operation", "harmless", "again"),
    [
        (lambda db: db.select("t", ("a",)), False, True),
        (lambda db: db.raw(" select nextval('s')"), False, False),
        (lambda db: db.ping(), False, True),
        (lambda db: db.raw("UPDATE t SET a = 1"), False, False),
        (lambda db: db.raw("UPDATE t SET a = 1"), True, True),
        (lambda db: db.execute([Delete("t")]), False, False),
        (lambda db: db.execute([Delete("t")]), True, True),
    ],
)
def test_only_what_had_no_effect_is_done_again(
    operation: Callable[[Database], Awaitable[object]], harmless: bool, again: bool
) -> None:
    """A write whose answer is missing may have been done: who asked for it decides."""

    @in_loop
    async def run() -> None:
        server = FakeServer()
        database = server.database()
        server.breaks = [lost(harmless)]
        if again:
            await operation(database)
        else:
            with pytest.raises(DatabaseError) as caught:
                await operation(database)
            assert caught.value.transient
        assert len(server.done) == int(again)
        assert server.links[0].killed
        server.breaks = [lost(harmless), lost(harmless)]
        with pytest.raises(DatabaseError, match="gone"):
            await operation(database)
        await database.close()

    run()


@in_loop
async def test_an_error_of_the_statement_keeps_the_connection() -> None:
    server = FakeServer()
    database = server.database()
    server.breaks = [DatabaseError("no such column")]
    with pytest.raises(DatabaseError, match="column"):
        await database.select("t", ("a",))
    assert await database.select("t", ("a",)) == [(1,)]
    assert len(server.links) == 1
    assert server.changes == []
    await database.close()


@in_loop
async def test_idle_connections_that_ended_are_not_used() -> None:
    server = FakeServer()
    database = server.database()
    await several(database, 4)
    for link in server.links:
        link.gone = True
    await database.execute([Delete("t")])
    assert len(server.links) == 5
    await database.close()


@in_loop
async def test_a_server_that_is_away_is_not_waited_for() -> None:
    server = FakeServer()
    server.refuse = True
    database = server.database(connect_attempts=3)
    with pytest.raises(DatabaseError, match="refused"):
        await database.select("t", ("a",))
    assert server.attempts == 3
    for _ in range(10):
        with pytest.raises(DatabaseError, match="not available"):
            await database.select("t", ("a",))
    assert server.attempts == 3
    server.refuse = False
    async with asyncio.timeout(60):
        await server.back.wait()
    assert await database.select("t", ("a",)) == [(1,)]
    assert server.changes == [False, True]
    await database.close()


@in_loop
async def test_a_stalled_server(caplog: pytest.LogCaptureFixture) -> None:
    """The time-out ends the operation and its connection; who waited for a connection is told as well."""
    server = FakeServer()
    server.stall = asyncio.Event()
    database = server.database(connections=1, query_s=0.05)
    found = await several(database, 3)
    assert all(isinstance(error, DatabaseError) and error.transient for error in found)
    assert sum("no answer to a select from t" in str(error) for error in found) >= 1
    assert all(link.killed for link in server.links)
    server.stall.set()
    assert await database.select("t", ("a",)) == [(1,)]
    await database.close()


@in_loop
async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    server = FakeServer()
    server.stall = asyncio.Event()
    database = server.database(connections=2)
    waiting = [asyncio.ensure_future(database.select("t", ("a",))) for _ in range(6)]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    server.stall.set()
    assert await several(database, 6) == [[(1,)]] * 6
    assert server.busy == 0
    await database.close()


@in_loop
async def test_closing_while_operations_run() -> None:
    server = FakeServer()
    server.stall = asyncio.Event()
    database = server.database()
    running = asyncio.ensure_future(database.select("t", ("a",)))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0.01)
    server.stall.set()
    await closing
    assert await running == [(1,)]
    with pytest.raises(DatabaseError, match="closed"):
        await database.select("t", ("a",))


@in_loop
async def test_slow_operations_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    server = FakeServer()
    database = server.database(slow_s=1e-9)
    await database.raw("SELECT 'geheim'")
    assert (database.queries, database.slow_queries) == (1, 1)
    await database.close()
    [record] = caplog.records
    assert "a raw statement took" in record.getMessage()
    assert "geheim" not in caplog.text
