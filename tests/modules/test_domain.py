"""Local domains, from memory and from the table, with real SQLite files."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import parse_url
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.management import MiError
from opensipspy.module import ParamError
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.domain import DOMAIN_TABLE, DomainModule

URL = "sqlite:domain"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "domain.sqlite"
    asyncio.run(DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [DOMAIN_TABLE]))
    change(
        path,
        "INSERT INTO domain (domain, attrs, accept_subdomain) VALUES ('Example.com', 'gold', 0), ('wide.org', NULL, 1)",
    )
    return path


def change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


class Asked:
    def __init__(self, core: FakeCore) -> None:
        self.core = core

    async def __call__(self, function: str, *args: Any, **message: Any) -> int:
        run = make_run(request(**message), core=self.core)
        result = self.core.call(function, run, *args)
        return int(await result if inspect.isawaitable(result) else result)


def play(path: Path, scenario: Callable[[Asked], Coroutine[Any, Any, None]], **params: Any) -> None:
    async def run() -> None:
        database = DbSqlite(busy_timeout=10).open_database(parse_url(f"sqlite:{path}"))
        core = FakeCore(databases={URL: database})
        module = core.add(DomainModule(db_url=URL, **params))
        await module.launch()
        try:
            await scenario(Asked(core))
        finally:
            await module.shutdown()
            await database.close()

    asyncio.run(run())


@pytest.fixture(params=[0, 1], ids=["table", "memory"])
def mode(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_ipv6_addresses_with_and_without_brackets(table: Path, mode: int):
    """A row may spell an address as URIs do, or bare."""
    change(table, "INSERT INTO domain (domain) VALUES ('[2001:db8::1]'), ('2001:db8::2')")

    async def scenario(ask: Asked) -> None:
        for address in ("2001:db8::1", "2001:DB8::2"):
            assert await ask("is_from_local", from_=f"<sip:a@[{address}]>;tag=1") == 1
            assert await ask("is_domain_local", address) == 1
            assert await ask("is_domain_local", f"[{address}]") == 1
        assert await ask("is_domain_local", "[2001:db8::3]") == -1

    play(table, scenario, db_mode=mode)


def test_texts_that_name_no_host_do_not_reach_the_database(table: Path, mode: int, caplog: pytest.LogCaptureFixture):
    """A peer cannot have the log say that the domains are not known."""

    async def scenario(ask: Asked) -> None:
        for text in (chr(0xD800), "wide.org\0", "a\r\nb", "x" * 300):
            assert await ask("is_domain_local", text) == -1
        assert await ask("is_domain_local", "wide.org") == 1

    play(table, scenario, db_mode=mode)
    assert not caplog.records


def test_hosts_of_from_and_request_uri(table: Path, mode: int):
    change(table, "UPDATE domain SET domain = lower(domain)")

    async def scenario(ask: Asked) -> None:
        assert await ask("is_from_local", from_="<sip:a@EXAMPLE.com>;tag=1") == 1
        assert await ask("is_from_local", from_="<sip:a@example.net>;tag=1") == -1
        assert await ask("is_uri_host_local", ruri="sip:b@example.com:5070;transport=tcp") == 1
        assert await ask("is_uri_host_local", ruri="sip:b@sub.example.com") == -1
        assert await ask("is_domain_local", "example.com.") == 1
        assert await ask("is_domain_local", "") == -1

    play(table, scenario, db_mode=mode)


def test_subdomains_where_they_are_accepted(table: Path, mode: int):
    async def scenario(ask: Asked) -> None:
        for host, result in (("wide.org", 1), ("a.wide.org", 1), ("a.b.wide.org", 1), ("awide.org", -1), ("org", -1)):
            assert await ask("is_domain_local", host) == result, host

    play(table, scenario, db_mode=mode)


def test_attributes_are_put_into_the_variable(table: Path, mode: int):
    change(table, "UPDATE domain SET domain = lower(domain)")

    async def scenario(ask: Asked) -> None:
        run = make_run(request(), core=ask.core)
        for host, wanted in (("example.com", "gold"), ("wide.org", None)):
            run.vars.clear()
            result = ask.core.call("is_domain_local", run, host, make_var("attrs"))
            assert (await result if inspect.isawaitable(result) else result) == 1
            assert run.vars.get("attrs") == wanted

    play(table, scenario, db_mode=mode)


def test_in_memory_nothing_waits(table: Path):
    async def scenario(ask: Asked) -> None:
        run = make_run(request(), core=ask.core)
        for host in ("example.com", "a.wide.org", "nobody.net"):
            assert isinstance(ask.core.call("is_domain_local", run, host), int)

    play(table, scenario, db_mode=1)


def test_reload_and_dump(table: Path):
    async def scenario(ask: Asked) -> None:
        assert await ask.core.mi_call("domain:dump") == {
            "Domains": [{"name": "example.com", "attributes": "gold"}, {"name": "wide.org"}]
        }
        change(table, "INSERT INTO domain (domain) VALUES ('new.net')")
        assert await ask("is_domain_local", "new.net") == -1
        assert await ask.core.mi_call("domain:reload") == "OK"
        assert await ask("is_domain_local", "new.net") == 1

    play(table, scenario, db_mode=1)


def test_a_reload_that_fails_keeps_what_was_there(table: Path):
    async def scenario(ask: Asked) -> None:
        os.unlink(table)
        with pytest.raises(MiError, match="Domain table reload failed"):
            await ask.core.mi_call("domain:reload")
        assert await ask("is_domain_local", "example.com") == 1

    play(table, scenario, db_mode=1)


def test_without_a_cache_the_table_is_asked_each_time(table: Path):
    async def scenario(ask: Asked) -> None:
        change(table, "INSERT INTO domain (domain) VALUES ('new.net')")
        assert await ask("is_domain_local", "new.net") == 1
        for command in ("domain:dump", "domain:reload"):
            with pytest.raises(MiError, match="db_mode=0"):
                await ask.core.mi_call(command)

    play(table, scenario)


def test_a_missing_table_is_told_once_and_read_when_it_is_there(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "later.sqlite"

    async def scenario(ask: Asked) -> None:
        for _ in range(3):
            assert await ask("is_domain_local", "example.com") == -1
        await DbSqlite().create_tables(parse_url(f"sqlite:{path}"), [DOMAIN_TABLE])
        change(path, "INSERT INTO domain (domain) VALUES ('example.com')")
        assert await ask("is_domain_local", "example.com") == 1

    with caplog.at_level(logging.WARNING):
        play(path, scenario, db_mode=mode)
    assert sum("local domains are not known" in m for m in caplog.messages) == 1
    assert sum("local domains are known again" in m for m in caplog.messages) == 1


def test_rows_that_cannot_be_domains_are_skipped(table: Path, caplog: pytest.LogCaptureFixture):
    change(table, "DROP TABLE domain")
    change(table, "CREATE TABLE domain (domain, attrs, accept_subdomain)")
    change(
        table,
        "INSERT INTO domain VALUES (NULL, 'x', 0), ('', 'x', 0), ('a.org', 'x', 'many'), (x'ff', x'ff', 1),"
        " ('ok.org', 5, NULL)",
    )

    async def scenario(ask: Asked) -> None:
        assert await ask("is_domain_local", "ok.org") == 1
        assert await ask("is_domain_local", "a.org") == -1

    with caplog.at_level(logging.WARNING):
        play(table, scenario, db_mode=1)
    assert [m for m in caplog.messages if "skipped" in m] == ["table domain: 3 rows are skipped; the first: no domain"]


@pytest.mark.parametrize("params", [{"db_mode": 2, "db_url": URL}, {}])
def test_parameters_that_cannot_be_stop_the_start(params: dict[str, Any]):
    async def run() -> None:
        module = FakeCore(databases={}).add(DomainModule(**params))
        with pytest.raises(ParamError):
            await module.start()

    asyncio.run(run())
