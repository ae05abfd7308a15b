"""config: settings in memory and in a real SQLite table."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.management import MiError
from opensipspy.module import ParamError, StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.config import CONFIG_TABLE, KEEP_S, RETRY_S, Config
from tests.modules.memory_database import MemoryDatabase

URL = "sqlite:config"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "config.sqlite"
    asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [CONFIG_TABLE]))
    with_sql(path, "INSERT INTO config (name, value, description) VALUES ('debug', '1', 'Talk'), ('none', NULL, NULL)")
    return path


def with_sql(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(path)
    rows = connection.execute(sql).fetchall()
    connection.commit()
    connection.close()
    return rows


def play(path: Path, scenario: Callable[[FakeCore, Config], Awaitable[None]], **params: Any) -> None:
    async def run() -> None:
        database = DbSqlite().open_database(parse_url(f"sqlite:{path}"))
        core = FakeCore(
            databases={URL: database}, globals={"restart_persistency_cache_file": str(path.parent / "kept")}
        )
        module = core.add(Config(db_url=URL, **params))
        try:
            await module.launch()
            await scenario(core, module)
            await module.shutdown()
        finally:
            await database.close()

    asyncio.run(run())


def value(core: FakeCore, name: str, variable: str = "$config") -> object:
    return core.read(variable, make_run(request(), core=core), name)


def test_settings_are_read_from_the_table_at_the_start(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        assert value(core, "debug") == "1"
        assert value(core, "debug", "$config.description") == "Talk"
        assert value(core, "none") is None
        assert value(core, "unknown") is None
        assert value(core, "unknown", "$config.description") is None
        group = core.status.group("config")
        assert group is not None
        assert group["main"].ready
        assert group["main"].details == "data available"

    play(table, scenario)


def test_the_script_changes_the_memory_and_not_the_table(table: Path):
    """Manual, overview: the change is not persisted until it is flushed; a reload takes it back."""

    async def scenario(core: FakeCore, _: Config) -> None:
        run = make_run(request(), core=core)
        core.write("$config", run, 5, "debug")
        core.write("$config", run, "x", "new")
        assert value(core, "debug") == "5"
        assert value(core, "debug", "$config.description") == "Talk"
        assert with_sql(table, "SELECT value FROM config WHERE name = 'debug'") == [("1",)]
        assert await core.mi_call("config:reload") == "OK"
        assert value(core, "debug") == "1"
        assert value(core, "new") is None
        core.write("$config", run, None, "debug")
        assert value(core, "debug") is None

    play(table, scenario)


def test_config_list(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        assert await core.mi_call("config:list") == {"debug": "1", "none": None}
        assert await core.mi_call("config_list", ["0"]) == {"debug": "1", "none": None}
        assert await core.mi_call("config:list", {"description": 1}) == [
            {"name": "debug", "value": "1", "description": "Talk"},
            {"name": "none", "value": None, "description": None},
        ]

    play(table, scenario)


def test_config_push_inherits_the_description(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        await core.mi_call("config:push", ["debug", "2"])
        assert (value(core, "debug"), value(core, "debug", "$config.description")) == ("2", "Talk")
        await core.mi_call("config:push", ["debug", "3", "Louder"])
        assert value(core, "debug", "$config.description") == "Louder"
        await core.mi_call("config:push", ["fresh", "1"])
        assert value(core, "fresh", "$config.description") is None
        await core.mi_call("config:push", ["debug"])
        assert value(core, "debug") is None
        with pytest.raises(MiError, match="characters"):
            await core.mi_call("config:push", ["x" * 300, "1"])
        with pytest.raises(MiError, match="characters"):
            await core.mi_call("config:push", ["x", "1" * 70_000])

    play(table, scenario)


def test_config_push_bulk(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        configs = [
            {"name": "debug", "value": "9"},
            {"name": "level", "value": 5, "description": "How loud"},
            {"name": "off", "value": None},
            {"name": "y" * 300, "value": "1"},
        ]
        assert await core.mi_call("config:push_bulk", [configs]) == 3
        assert [value(core, name) for name in ("debug", "level", "off")] == ["9", "5", None]
        for wrong in ([1], [{"value": "1"}], [{"name": "debug", "value": []}], [{"name": 1}]):
            with pytest.raises(MiError):
                await core.mi_call("config:push_bulk", [[{"name": "debug", "value": "0"}, *wrong]])
        assert value(core, "debug") == "9"

    play(table, scenario)


def test_config_flush_writes_one_or_all(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        await core.mi_call("config:push", ["debug", "2"])
        await core.mi_call("config:push", ["fresh", "3", "New"])
        assert await core.mi_call("config:flush", ["fresh"]) == 1
        assert await core.mi_call("config:flush", ["unknown"]) == 0
        select = "SELECT name, value, description FROM config ORDER BY name"
        assert with_sql(table, select) == [("debug", "1", "Talk"), ("fresh", "3", "New"), ("none", None, None)]
        assert await core.mi_call("config:flush") == 3
        assert with_sql(table, select)[0] == ("debug", "2", "Talk")

    play(table, scenario)


def test_restart_persistency_brings_back_the_memory_and_not_the_table(table: Path):
    async def first(core: FakeCore, _: Config) -> None:
        await core.mi_call("config:push", ["debug", "7"])

    async def second(core: FakeCore, _: Config) -> None:
        assert value(core, "debug") == "7"
        await core.mi_call("config:reload")
        assert value(core, "debug") == "1"

    play(table, first, enable_restart_persistency=1)
    play(table, second, enable_restart_persistency=1)
    (table.parent / "kept.config").write_text("[[1]]")

    async def third(core: FakeCore, _: Config) -> None:
        assert value(core, "debug") == "1"

    play(table, third, enable_restart_persistency=1)


def test_a_crash_loses_little_of_what_is_to_be_kept(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        await core.mi_call("config:push", ["debug", "8"])
        core.advance(KEEP_S)
        await core.settle()
        kept = table.parent / "kept.config"
        text = kept.read_text()
        assert '["debug", "8", "Talk"]' in text
        kept.write_text("untouched")
        core.advance(KEEP_S)
        await core.settle()
        assert kept.read_text() == "untouched", "nothing has changed"

    play(table, scenario, enable_restart_persistency=1)


def test_a_broken_database_leaves_the_settings(table: Path):
    async def scenario(core: FakeCore, _: Config) -> None:
        with_sql(table, "DROP TABLE config")
        with pytest.raises(MiError, match="reload"):
            await core.mi_call("config:reload")
        with pytest.raises(MiError, match="write"):
            await core.mi_call("config:flush")
        assert value(core, "debug") == "1"

    play(table, scenario)


def test_a_missing_table_stops_the_start_and_a_database_that_is_away_does_not(tmp_path: Path):
    async def nothing(core: FakeCore, _: Config) -> None:
        raise AssertionError

    with_sql(tmp_path / "empty.sqlite", "CREATE TABLE version (table_name TEXT, table_version INT)")
    with pytest.raises(StartError, match="table config"):
        play(tmp_path / "empty.sqlite", nothing)

    async def away() -> None:
        database = MemoryDatabase({"config": [{"name": "a", "value": "1", "description": None}]}, config=1)
        database.away = True
        core = FakeCore(databases={URL: database})
        module = core.add(Config(db_url=URL))
        await module.launch()
        assert not core.status.groups()["config"]["main"].ready
        core.advance(RETRY_S)
        await core.settle()
        database.away = False
        core.advance(RETRY_S)
        await core.settle()
        assert value(core, "a") == "1"
        await module.shutdown()

    asyncio.run(away())


def test_an_unset_url_is_named():
    core = FakeCore()
    with pytest.raises(ParamError, match="db_url"):
        asyncio.run(core.add(Config()).launch())


def test_hostile_names_do_not_fill_the_memory(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("opensipspy.modules.config.MAX_SETTINGS", 3)
    caplog.set_level(logging.WARNING)

    async def scenario(core: FakeCore, _: Config) -> None:
        run = make_run(request(), core=core)
        for name in ("a", "b", "x" * 10_000):
            core.write("$config", run, "1", name)
        assert len(await core.mi_call("config:list")) == 3

    play(table, scenario)
    assert len(caplog.text) < 2000
