"""sql_cacher: full and on-demand caching, the variable, the dump, reloads and databases that are away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cachedb import CacheDb, parse_url
from opensipspy.db import Column, Database, DatabaseError, Index, Table
from opensipspy.db import parse_url as parse_db_url
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.management import MiError
from opensipspy.module import StartError
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.sql_cacher import Spec, SqlCacher

ROUTES = Table(
    "routes",
    1,
    (
        Column("id", "int", 10, primary=True),
        Column("domain", "string", 64, default=""),
        Column("host", "string", 64, null=True, default=None),
        Column("code", "int", 10, null=True, default=None),
    ),
    (Index("domain_idx", ("domain",)),),
)


def spec(url: str, key: str = "domain", extra: str = "", cachedb: str = "local://") -> str:
    lines = f"id=r\ndb_url={url}\ncachedb_url={cachedb}\ntable=routes\nkey={key}"
    return f"{lines}\ncolumns=host code\n{extra}" if "columns" not in extra else f"{lines}\n{extra}"


class House:
    """A core with SQLite, the table, and the module."""

    def __init__(self, folder: Path, extra: str = "", key: str = "domain", **params: Any) -> None:
        self.url = f"sqlite://{folder / 'x.sqlite'}"
        self.core = FakeCore()
        driver = self.core.add(DbSqlite())
        self.core.add(CachedbLocal())
        asyncio.run(driver.create_tables(parse_db_url(self.url), (ROUTES,)))
        self.database: Database = driver.open_database(parse_db_url(self.url))
        self.core.databases[self.url] = self.database
        self.module = self.core.add(SqlCacher(cache_table=spec(self.url, key, extra), **params))
        self.run = make_run(request("INVITE"), core=self.core)

    def play(self, scenario: Callable[[], Awaitable[None]], rows: int = 3) -> None:
        async def work() -> None:
            try:
                await self.database.insert_many(
                    "routes",
                    [{"id": n, "domain": f"d{n}", "host": f"gw{n}", "code": 400 + n} for n in range(1, rows + 1)],
                )
                await self.module.launch()
                await scenario()
                await self.module.shutdown()
                await self.core.settle()
            finally:
                await self.database.close()

        asyncio.run(asyncio.wait_for(work(), 60))

    def value(self, name: str) -> Any:
        return self.core.read("$sql_cached_value", self.run, name)

    def status(self) -> int:
        group = self.core.status.group("sql_cacher")
        return int(group["r"].status)


def test_the_whole_table_is_cached(tmp_path: Path) -> None:
    house = House(tmp_path)

    async def scenario() -> None:
        assert house.value("r:host:d1") == "gw1"
        assert house.value("r:code:d2") == 402
        assert house.value("r:host:nobody") is None
        # Another row comes into the table: it is seen after a reload.
        await house.database.insert("routes", {"id": 9, "domain": "d9", "host": None, "code": 409})
        await house.database.delete("routes", (("domain", "=", "d1"),))
        assert house.value("r:code:d9") is None
        assert await house.core.mi_call("sql_cacher:reload", {"id": "r"}) == "OK"
        assert house.value("r:code:d9") == 409
        assert house.value("r:host:d9") is None
        assert house.value("r:host:d1") is None
        assert house.status() == 1
        # Other servers find the rows in the store.
        assert await house.core.cachedb("local://").fetch("r:d9") == "[null, 409]"

    house.play(scenario)


@pytest.mark.parametrize("at_once", [1, 2, 7, 100])
def test_tables_are_read_in_parts(tmp_path: Path, at_once: int) -> None:
    house = House(tmp_path, sql_fetch_nr_rows=at_once)

    async def scenario() -> None:
        assert [house.value(f"r:code:d{n}") for n in range(1, 16)] == list(range(401, 416))

    house.play(scenario, rows=15)


def test_a_key_may_be_a_number_and_hold_the_delimiter(tmp_path: Path) -> None:
    house = House(tmp_path, key="id", extra="key_type=int\non_demand=1\n")

    async def scenario() -> None:
        assert house.value("r:host:2") == "gw2"
        assert house.value("r:host:two") is None
        assert house.value("r:host:2:3") is None

    house.play(scenario)


def test_rows_are_read_on_demand_and_expire(tmp_path: Path) -> None:
    house = House(tmp_path, extra="on_demand=1\nexpire=10\n")

    async def scenario() -> None:
        assert house.value("r:host:d1") == "gw1"
        await house.database.update("routes", {"host": "new"}, (("domain", "=", "d1"),))
        assert house.value("r:host:d1") == "gw1"
        house.core.advance(11)
        assert house.value("r:host:d1") == "new"
        # One key is read again, all are forgotten.
        await house.database.update("routes", {"host": "newer"}, (("domain", "=", "d1"),))
        await house.core.mi_call("sql_cacher:reload", {"id": "r", "key": "d1"})
        assert house.value("r:host:d1") == "newer"
        await house.database.update("routes", {"host": "newest"}, (("domain", "=", "d1"),))
        await house.core.mi_call("sql_cacher_reload", {"id": "r"})
        assert house.value("r:host:d1") == "newest"
        with pytest.raises(MiError):
            await house.core.mi_call("sql_cacher:reload", {"id": "nobody"})
        # No status for what is cached on demand.
        assert house.core.status.group("sql_cacher") is None

    house.play(scenario)


def test_hostile_keys_are_only_keys(tmp_path: Path) -> None:
    house = House(tmp_path, extra="on_demand=1\n")

    async def scenario() -> None:
        for key in ("' OR 1=1 --", "\0", "d1\r\n", "x" * 100_000, "%", "\udcff"):
            assert house.value(f"r:host:{key}") is None
        assert house.value("r:host:d1") == "gw1"

    house.play(scenario)


def test_the_table_is_read_again_before_it_expires(tmp_path: Path) -> None:
    house = House(tmp_path, full_caching_expire=100, reload_interval=20)

    async def scenario() -> None:
        await house.database.update("routes", {"host": "new"}, (("domain", "=", "d1"),))
        house.core.advance(79)
        await house.core.settle()
        assert house.value("r:host:d1") == "gw1"
        house.core.advance(2)
        await house.core.settle()
        assert house.value("r:host:d1") == "new"
        house.core.advance(60)
        await house.core.settle()
        assert house.value("r:host:d1") == "new"

    house.play(scenario)


def test_a_reload_that_fails_leaves_the_old_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    house = House(tmp_path, full_caching_expire=100)

    async def scenario() -> None:
        await house.database.raw("ALTER TABLE routes RENAME TO elsewhere")
        with pytest.raises(MiError):
            await house.core.mi_call("sql_cacher:reload", {"id": "r"})
        assert house.value("r:host:d1") == "gw1"
        assert house.status() == 1
        house.core.advance(101)
        await house.core.settle()
        assert house.value("r:host:d1") is None

    house.play(scenario)
    assert "r is not loaded" in caplog.text


def test_all_rows_are_dumped(tmp_path: Path) -> None:
    house = House(tmp_path)

    async def scenario() -> None:
        dump = house.core.call
        assert dump("sql_cache_dump", house.run, "r", "host, code", "$avp(h),$avp(c)") == 3
        # [0] is the top of the stack.
        assert house.run.avps["h"][::-1] == ["gw1", "gw2", "gw3"]
        assert house.run.avps["c"][::-1] == [401, 402, 403]
        assert dump("sql_cache_dump", house.run, "r", "host", "$avp(h),$avp(c)") == -1
        assert dump("sql_cache_dump", house.run, "r", "nothing", "$avp(h)") == -1
        assert dump("sql_cache_dump", house.run, "r", "host", "$var(h)") == -1
        assert dump("sql_cache_dump", house.run, "x", "host", "$avp(h)") == -1
        house.core.advance(86401)
        await house.core.settle()
        house.module._tables["r"].rows.clear()
        assert dump("sql_cache_dump", house.run, "r", "host", "$avp(h)") == -2

    house.play(scenario)


def test_large_numbers_may_become_text(tmp_path: Path) -> None:
    house = House(tmp_path, bigint_to_str=1, extra="on_demand=1\n")

    async def scenario() -> None:
        await house.database.insert("routes", {"id": 7, "domain": "big", "code": 2**40})
        assert house.value("r:code:big") == str(2**40)
        assert house.value("r:code:d1") == 401

    house.play(scenario)


@pytest.mark.parametrize("name", ["r", "r:host", "x:host:d1", "r:nothing:d1"])
def test_wrong_names_are_found_at_load(tmp_path: Path, name: str) -> None:
    house = House(tmp_path)
    with pytest.raises(ValueError, match=r"id|column|name"):
        house.module.parse_cached_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id=a",
        "id=a\nid=b",
        "colour=red",
        "id=a\ndb_url=x\ncachedb_url=y\ntable=t\nkey=k",
        "id=a\ndb_url=x\ncachedb_url=y\ntable=t\nkey=k\ncolumns=c\non_demand=2",
        "id=a\ndb_url=x\ncachedb_url=y\ntable=t\nkey=k\ncolumns=c\nexpire=soon",
        "id=a\ndb_url=x\ncachedb_url=y\ntable=t\nkey=k\ncolumns=c\nkey_type=float",
    ],
)
def test_wrong_entries_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Spec(text, "\n", " ")

    async def run() -> None:
        module = FakeCore().add(SqlCacher(cache_table=text))
        with pytest.raises(StartError):
            await module.start()

    asyncio.run(run())


class SlowStore(CacheDb):
    """A store that answers after a turn of the loop, as a server does."""

    def __init__(self) -> None:
        super().__init__(parse_url("slow://"))
        self.values: dict[str, str] = {}

    async def fetch(self, key: str) -> str | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    async def store(self, key: str, value: str | int, expire_s: int = 0) -> None:
        await asyncio.sleep(0)
        self.values[key] = str(value)

    async def remove(self, key: str) -> bool:
        return self.values.pop(key, None) is not None

    async def add(self, key: str, amount: int, expire_s: int = 0) -> int:
        raise NotImplementedError


def test_on_demand_from_a_server_answers_the_second_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(tmp_path, extra="on_demand=1\n")
    store = SlowStore()
    monkeypatch.setattr(house.core, "cachedb", lambda url: store)

    async def scenario() -> None:
        assert house.value("r:host:d1") is None
        await house.core.settle()
        assert house.value("r:host:d1") == "gw1"
        assert store.values == {"r:d1": '["gw1", 401]'}
        # What another server stored is not asked of the database.
        store.values["r:d77"] = '["elsewhere", null]'
        assert house.value("r:host:d77") is None
        await house.core.settle()
        assert house.value("r:host:d77") == "elsewhere"
        store.values["r:d78"] = "broken"
        assert house.value("r:host:d78") is None
        await house.core.settle()
        assert house.value("r:host:d78") is None
        await house.core.settle()

    house.play(scenario)
    assert caplog.text.count("the first question for a key gives NULL") == 1


def test_a_database_that_is_away_at_the_start_is_asked_again(tmp_path: Path) -> None:
    house = House(tmp_path, full_caching_expire=100)
    select = house.database.select

    async def scenario() -> None:
        async def fail(*args: Any, **kwargs: Any) -> Any:
            raise DatabaseError("away", transient=True)

        house.database.select = fail  # type: ignore[method-assign]
        house.module._tables["r"].rows.clear()
        with pytest.raises(MiError):
            await house.core.mi_call("sql_cacher:reload", {"id": "r"})
        assert house.status() == -2
        house.database.select = select  # type: ignore[method-assign]
        house.core.advance(41)
        await house.core.settle()
        assert house.value("r:host:d1") == "gw1"

    house.play(scenario)
