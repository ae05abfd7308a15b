"""trie: the longest prefix of a number, from real SQLite tables."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import Database, parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.management import MiError
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.trie import RETRY_S, TRIE_PARTITIONS, TRIE_TABLE, Trie
from tests.modules.memory_database import MemoryDatabase

URL = "sqlite:trie"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "trie.sqlite"
    asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [TRIE_TABLE, TRIE_PARTITIONS]))
    with_sql(
        path,
        "INSERT INTO trie_table (prefix, attrs, enabled) VALUES "
        "('40', 'ro', 1), ('4021', 'bucharest', 1), ('402', 'off', 0), ('1', NULL, 1), ('#9', 'hash', 1), ('', 'x', 1)",
    )
    return path


def with_sql(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def play(path: Path, scenario: Callable[[FakeCore], Awaitable[None]], **params: Any) -> None:
    async def run() -> None:
        database = DbSqlite().open_database(parse_url(f"sqlite:{path}"))
        core = FakeCore(databases={URL: database})
        if "use_partitions" not in params:
            params["db_url"] = URL
        module = core.add(Trie(**params))
        try:
            await module.launch()
            await scenario(core)
            await module.shutdown()
        finally:
            await database.close()

    asyncio.run(run())


def search(core: FakeCore, number: str | None, flags: str | None = None, partition: str | None = None) -> Any:
    run = make_run(request(), core=core)
    attrs, prefix = make_var("attrs"), make_var("prefix")
    if core.call("trie_search", run, number, flags, attrs, prefix, partition) == 1:
        return run.vars["prefix"], run.vars["attrs"]
    assert not run.vars
    return None


def test_trie_search_finds_the_longest_prefix(table: Path):
    async def scenario(core: FakeCore) -> None:
        assert search(core, "40213334455") == ("4021", "bucharest")
        assert search(core, "4022") == ("40", "ro"), "402 is not enabled"
        assert search(core, "4021") == ("4021", "bucharest")
        assert search(core, "1555") == ("1", ""), "attributes that are NULL"
        assert search(core, "4") is None
        assert search(core, "") is None
        assert search(core, None) is None
        assert search(core, "+4021") is None
        assert search(core, "4021" + "x" * 100_000) == ("4021", "bucharest")
        assert search(core, "#9") is None, "a character that prefixes do not have"
        assert core.call("trie_search", make_run(request(), core=core), "4021") == 1

    play(table, scenario)


def test_flag_l_matches_the_whole_number_only(table: Path):
    async def scenario(core: FakeCore) -> None:
        assert search(core, "4021", "L") == ("4021", "bucharest")
        assert search(core, "40213", "L") is None
        assert search(core, "40213", "xyz") == ("4021", "bucharest"), "unknown flags mean nothing"

    play(table, scenario)


def test_extra_prefix_chars(table: Path):
    async def scenario(core: FakeCore) -> None:
        assert search(core, "#91") == ("#9", "hash")

    play(table, scenario, extra_prefix_chars="#-%")
    with pytest.raises(ParamError, match="ASCII"):
        Trie(extra_prefix_chars="\u00e9")


def test_trie_reload_and_its_status(table: Path):
    async def scenario(core: FakeCore) -> None:
        before = await core.mi_call("trie:reload_status")
        assert set(before) == {"Date", "HASH"}
        with_sql(table, "INSERT INTO trie_table (prefix, attrs) VALUES ('402133', 'new')")
        assert search(core, "402133") == ("4021", "bucharest")
        assert await core.mi_call("trie:reload") == "OK"
        assert search(core, "402133") == ("402133", "new")
        assert (await core.mi_call("trie:reload_status"))["HASH"] != before["HASH"]
        with pytest.raises(MiError, match="partition_name"):
            await core.mi_call("trie:reload", ["none"])
        with_sql(table, "DROP TABLE trie_table")
        with pytest.raises(MiError, match="Failed to reload"):
            await core.mi_call("trie:reload")
        assert search(core, "402133") == ("402133", "new"), "what was loaded stays"

    play(table, scenario)


def test_the_search_command(table: Path):
    async def scenario(core: FakeCore) -> None:
        assert await core.mi_call("trie:search", {"number": "40211"}) == {
            "Matched Prefix": "4021",
            "ATTRS": "bucharest",
        }
        assert await core.mi_call("trie_search", {"number": "1999"}) == {"Matched Prefix": "1"}
        assert await core.mi_call("trie:search", {"number": "999"}) == "No match"
        with pytest.raises(MiError, match="Invalid params"):
            await core.mi_call("trie:search", ["1999"])

    play(table, scenario)


def test_numbers_are_put_in_and_taken_out_of_the_memory(table: Path):
    async def scenario(core: FakeCore) -> None:
        put = {"partition_name": "default", "number": ["777", "4021", 88], "attrs": ["a", "b", "c"]}
        assert await core.mi_call("trie:number_upsert", put) == "OK"
        assert (search(core, "7771"), search(core, "40211"), search(core, "889")) == (
            ("777", "a"),
            ("4021", "b"),
            ("88", "c"),
        )
        gone = {"partition_name": "default", "number": ["4021", "unknown"]}
        assert await core.mi_call("trie:number_delete", gone) == "OK"
        assert search(core, "40211") == ("40", "ro")
        for number, attrs in ((["5"], []), (["5", "x"], ["a", "b"]), ([["5"]], ["a"]), ([""], ["a"])):
            with pytest.raises(MiError):
                await core.mi_call("trie:number_upsert", {**put, "number": number, "attrs": attrs})
        assert search(core, "5") is None
        with pytest.raises(MiError):
            await core.mi_call("trie:number_delete", {"partition_name": "other", "number": ["1"]})
        await core.mi_call("trie:reload")
        assert search(core, "40211") == ("4021", "bucharest")

    play(table, scenario)


def test_partitions(table: Path):
    with_sql(table, "CREATE TABLE other AS SELECT * FROM trie_table WHERE 0")
    with_sql(table, "INSERT INTO other (prefix, attrs, enabled) VALUES ('49', 'de', 1)")
    with_sql(table, "INSERT INTO version VALUES ('other', 1)")
    with_sql(
        table,
        f"INSERT INTO trie_partitions (partition_name, db_url, trie_table) VALUES "
        f"('ro', '{URL}', 'trie_table'), ('de', '{URL}', 'other'), ('same', '{URL}', NULL)",
    )

    async def scenario(core: FakeCore) -> None:
        assert search(core, "4930", partition="de") == ("49", "de")
        assert search(core, "4930", partition="ro") is None
        assert search(core, "4021", partition="same") == ("4021", "bucharest")
        assert search(core, "4021") is None, "the partition is needed"
        assert search(core, "4021", partition="*") is None
        status = await core.mi_call("trie:reload_status")
        assert [item["name"] for item in status["Partitions"]] == ["ro", "de", "same"]
        assert (await core.mi_call("trie:reload_status", ["de"]))["name"] == "de"
        assert await core.mi_call("trie:reload", ["de"]) == "OK"
        assert await core.mi_call("trie:reload") == "OK"
        with pytest.raises(MiError, match="not found"):
            await core.mi_call("trie:reload", ["fr"])
        with pytest.raises(MiError, match="Missing"):
            await core.mi_call("trie:search", {"number": "49"})
        found = await core.mi_call("trie:search", {"partition_name": "de", "number": "4930"})
        assert found == {"Matched Prefix": "49", "ATTRS": "de"}

    play(table, scenario, use_partitions=1, db_partitions_url=URL)
    with pytest.raises(ParamError, match="db_partitions_url"):
        play(table, scenario, use_partitions=1)


class SlowDatabase(MemoryDatabase):
    """Answers selects of the table only when told."""

    def __init__(self) -> None:
        super().__init__({"trie_table": [{"prefix": "1", "attrs": "a", "enabled": 1}]}, trie_table=1)
        self.go = asyncio.Event()
        self.go.set()

    async def select(self, table: str, *args: Any, **kwargs: Any) -> Any:
        await self.go.wait()
        return await super().select(table, *args, **kwargs)


@pytest.mark.parametrize("refused", [0, 1])
def test_no_concurrent_reload(refused: int):
    async def run() -> None:
        database = SlowDatabase()
        core = FakeCore(databases={URL: database})
        await core.add(Trie(db_url=URL, no_concurrent_reload=refused)).launch()
        database.go.clear()
        first = asyncio.create_task(core.mi_call("trie:reload"))
        await asyncio.sleep(0)
        second = asyncio.create_task(core.mi_call("trie:reload"))
        await asyncio.sleep(0)
        assert search(core, "12") == ("1", "a"), "the old data answers meanwhile"
        database.go.set()
        assert await first == "OK"
        if refused:
            with pytest.raises(MiError, match="Failed to reload"):
                await second
        else:
            assert await second == "OK"
        assert await core.mi_call("trie:reload") == "OK"

    asyncio.run(run())


def test_a_database_that_is_away_is_asked_again_and_a_missing_table_stops_the_start(tmp_path: Path):
    async def away() -> None:
        database: Database = MemoryDatabase({"trie_table": [{"prefix": "1", "attrs": "a", "enabled": 1}]}, trie_table=1)
        assert isinstance(database, MemoryDatabase)
        database.away = True
        core = FakeCore(databases={URL: database})
        await core.add(Trie(db_url=URL)).launch()
        assert search(core, "1") is None
        with pytest.raises(MiError, match="No data"):
            await core.mi_call("trie:search", {"number": "1"})
        core.advance(RETRY_S)
        await core.settle()
        database.away = False
        core.advance(RETRY_S)
        await core.settle()
        assert search(core, "1") == ("1", "a")

    asyncio.run(away())

    async def nothing(core: FakeCore) -> None:
        raise AssertionError

    with_sql(tmp_path / "empty.sqlite", "CREATE TABLE version (table_name TEXT, table_version INT)")
    with pytest.raises(StartError, match="trie_table"):
        play(tmp_path / "empty.sqlite", nothing)
    with pytest.raises(ParamError, match="db_url"):
        asyncio.run(FakeCore().add(Trie()).launch())
