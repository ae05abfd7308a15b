"""Tables in memory: rows that are no good, loads that fail, databases that come late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from opensipspy.db import DatabaseError, DbValue
from opensipspy.module import StartError
from opensipspy.module.table_cache import LONGEST_CELL, Cells, TableCache, cell_int, cell_text
from opensipspy.module.testing import FakeCore
from tests.modules.memory_database import MemoryDatabase


def add(numbers: list[int], cells: Cells) -> None:
    numbers.append(cell_int(cells[1], "number", 0, 100))


def rows(*numbers: DbValue) -> list[dict[str, DbValue]]:
    return [{"id": at, "number": number} for at, number in enumerate(numbers, 1)]


Scenario = Callable[[FakeCore, MemoryDatabase, TableCache[list[int]]], Coroutine[Any, Any, None]]


def play(scenario: Scenario, *numbers: DbValue, **cache: Any) -> None:
    async def run() -> None:
        core = FakeCore()
        database = MemoryDatabase({"t": rows(*numbers)}, t=3)
        kept: TableCache[list[int]] = TableCache(core, database, "t", 3, ("id", "number"), list, add, **cache)
        await scenario(core, database, kept)

    asyncio.run(run())


def test_rows_of_other_types_are_skipped_with_one_line(caplog: pytest.LogCaptureFixture):
    async def scenario(core: FakeCore, database: MemoryDatabase, kept: TableCache[list[int]]) -> None:
        await kept.start()
        assert kept.data == [1, 7, 5]
        assert (kept.rows, kept.skipped) == (3, 4)

    with caplog.at_level(logging.WARNING):
        play(scenario, 1, None, "7", "x", 101, b"\xff", 5)
    assert caplog.messages == ["table t: 4 of 7 rows are skipped; the first: id 2: number is NULL"]


def test_a_reload_that_fails_leaves_the_old_data():
    async def scenario(core: FakeCore, database: MemoryDatabase, kept: TableCache[list[int]]) -> None:
        await kept.start()
        database.away = True
        database.tables["t"] = rows(9)
        with pytest.raises(DatabaseError):
            await kept.load()
        assert kept.data == [1, 2]
        database.away = False
        await kept.load()
        assert kept.data == [9]

    play(scenario, 1, 2)


def test_old_data_serve_while_a_large_table_is_read():
    async def scenario(core: FakeCore, database: MemoryDatabase, kept: TableCache[list[int]]) -> None:
        await kept.start()
        database.tables["t"] = rows(*[n % 100 for n in range(2000)])
        loading = asyncio.ensure_future(kept.load())
        await asyncio.sleep(0)
        with pytest.raises(DatabaseError, match="is being read already"):
            await kept.load()
        seen = set()
        while not loading.done():
            seen.add(len(kept.data))
            await asyncio.sleep(0)
        await loading
        assert seen <= {2, 2000}
        assert 2 in seen
        assert len(kept.data) == 2000

    play(scenario, 1, 2)


def test_a_database_that_is_away_at_the_start_is_asked_again(caplog: pytest.LogCaptureFixture):
    async def scenario(core: FakeCore, database: MemoryDatabase, kept: TableCache[list[int]]) -> None:
        database.away = True
        await kept.start()
        assert kept.data == []
        core.advance(1.0)
        await core.settle()
        assert not kept.loaded
        database.away = False
        core.advance(1.9)
        await core.settle()
        assert not kept.loaded
        core.advance(0.1)
        await core.settle()
        assert kept.data == [4]
        assert core.pending_timers == 0

    with caplog.at_level(logging.WARNING):
        play(scenario, 4)
    assert "table t is loaded now: 1 rows" in caplog.messages


@pytest.mark.parametrize(("version", "text"), [({}, "is not there"), ({"t": 2}, "has version 2, 3 is needed")])
def test_a_table_of_another_version_stops_the_start_and_says_what_to_run(version: dict[str, int], text: str):
    async def scenario(core: FakeCore, database: MemoryDatabase, kept: TableCache[list[int]]) -> None:
        database.versions = version
        with pytest.raises(StartError, match=f"{text}.*opensipspy db "):
            await kept.start()

    play(scenario, 1)


def test_steps_are_told():
    told: list[str] = []

    async def scenario(core: FakeCore, database: MemoryDatabase, kept: TableCache[list[int]]) -> None:
        await kept.load()
        database.away = True
        with pytest.raises(DatabaseError):
            await kept.load()

    play(scenario, 1, None, changed=told.append)
    assert told == [
        "starting DB data loading",
        "DB data loading successfully completed",
        "1 rules loaded (1 discarded)",
        "starting DB data loading",
        "DB data loading failed, discarding",
    ]


def test_cells_are_checked():
    assert cell_text(None, "a", null="") == ""
    assert cell_text(b"x", "a") == "x"
    assert cell_int("12", "a", 0, 20) == 12
    for value, text in ((None, "is NULL"), ("x" * (LONGEST_CELL + 1), "allowed"), ("a\0b", "NUL")):
        with pytest.raises(ValueError, match=text):
            cell_text(value, "a")
    for number, text in ((None, "NULL"), (21, "not 0 to 20"), ("1_0x", "no number"), (float("inf"), "no number")):
        with pytest.raises(ValueError, match=text):
            cell_int(number, "a", 0, 20)
