"""Databases and key-value stores in a whole server: from the script, by management commands, in the statistics."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from opensipspy.cachedb import CacheDbs
from opensipspy.db import DatabaseError, Databases
from opensipspy.dbdrivers.cachedb_local import CachedbLocal
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.management import CacheCommands, MiError, Registry, Statistics, StatusReports
from opensipspy.module.testing import FakeCore
from opensipspy.server.errors import LoadError
from opensipspy.server.simulation import Simulation
from opensipspy.server.stores import NamedStores, count_queries, count_stores, report_back_end

MESSAGE = """
    MESSAGE sip:bob@example.org SIP/2.0
    Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKm1
    From: <sip:alice@example.com>;tag=1
    To: <sip:bob@example.org>
    Call-ID: m1
    CSeq: 1 MESSAGE
    Max-Forwards: 70
"""
HEAD = """
log_level=3
socket=udp:127.0.0.1:5060
loadmodule "proto_udp.so"
loadmodule "cachedb_local.so"
modparam("cachedb_local", "cache_collections", "calls = 4")
modparam("cachedb_local", "cachedb_url", "local:calls:///calls")
"""


def run(folder: Path, body: str, head: str = HEAD) -> list[str]:
    """What xlog() printed as "@ ..." for one request, and errors of the cache functions."""
    path = folder / "opensips.cfg"
    path.write_text(f"{head}\nroute {{ {body} }}\n", encoding="utf-8")
    with Simulation(str(path)) as site:
        site.receive(MESSAGE)
        lines = [line for line in site.log if "@ " in line or "cache_" in line]
        return [line.partition("@ ")[2] if "@ " in line else line for line in lines]


def test_scripts_store_fetch_and_remove(tmp_path: Path) -> None:
    assert run(
        tmp_path,
        """
        $var(rc) = cache_fetch("local", "key_$fU", $avp(v));
        xlog("@ $var(rc)");
        cache_store("local", "key_$fU", "of $rU", 60);
        $var(rc) = cache_fetch("local", "key_alice", $avp(v));
        xlog("@ $var(rc) $avp(v)");
        if (!cache_fetch("local:calls", "key_alice", $avp(v))) xlog("@ groups are apart");
        cache_remove("local", "key_alice");
        $var(rc) = cache_remove("local", "key_alice");
        xlog("@ $var(rc)");
        """,
    ) == ["-2", "1 of bob", "groups are apart", "1"]


def test_scripts_count(tmp_path: Path) -> None:
    printed = run(
        tmp_path,
        """
        cache_add("local:calls", "n", 5, 0, $var(n));
        cache_sub("local:calls", "n", 2, 0);
        cache_counter_fetch("local:calls", "n", $var(m));
        xlog("@ $var(n) $var(m)");
        cache_store("local", "text", "abc");
        $var(rc) = cache_add("local", "text", 1, 0);
        xlog("@ $var(rc)");
        $var(rc) = cache_raw_query("local", "anything", "$avp(x)");
        xlog("@ $var(rc)");
        $var(store) = "local:nobody";
        $var(rc) = cache_store($var(store), "a", "b");
        xlog("@ $var(rc)");
        """,
    )
    assert [line for line in printed if "cache_" not in line][:3] == ["5 3", "-1", "-1"]
    failed = [line for line in printed if "cache_" in line]
    assert sum("cache_add(local)" in line for line in failed) == 1
    assert sum("cache_raw_query(local)" in line for line in failed) == 1


def test_a_store_that_no_parameter_names_is_found_at_load(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="local:nobody"):
        run(tmp_path, 'cache_store("local:nobody", "a", "b");')


def test_a_collection_that_is_not_there_is_found_at_the_start(tmp_path: Path) -> None:
    head = HEAD + 'modparam("cachedb_local", "cachedb_url", "local:x:///nowhere")\n'
    with pytest.raises(Exception, match="nowhere"):
        run(tmp_path, "exit;", head)


def test_management_reaches_the_same_stores() -> None:
    core = FakeCore()
    core.add(CachedbLocal())
    stores: CacheDbs = core.cachedbs
    registry = Registry()
    CacheCommands(registry, NamedStores(stores)).register()
    statistics = Statistics()
    count_stores(statistics, stores)

    async def scenario() -> None:
        await registry.call("cache:store", {"system": "local", "attr": "k", "value": "v", "expire": 10})
        assert await registry.call("cache_fetch", {"system": "local", "attr": "k"}) == {"key": "k", "value": "v"}
        core.advance(11)
        with pytest.raises(MiError):
            await registry.call("cache:fetch", {"system": "local", "attr": "k"})
        await registry.call("cache:remove", {"system": "local", "attr": "k"})
        with pytest.raises(MiError):
            await registry.call("cache:fetch", {"system": "redis:x", "attr": "k"})

    asyncio.run(scenario())
    assert statistics.read(["cdb_total_queries", "cdb_slow_queries"]) == {
        "cdb:cdb_total_queries": 4,
        "cdb:cdb_slow_queries": 0,
    }


def test_a_back_end_that_goes_and_comes_back_is_reported() -> None:
    status = StatusReports(lambda: 1_000.0)
    watch = partial(report_back_end, status, "db")
    watch("mysql://h/d", True, "")
    watch("mysql://h/d", False, "gone")
    watch("mysql://h/d", True, "")
    group = status.group("db")
    assert group is not None
    known = group["mysql://h/d"]
    assert known.as_json() == {"Name": "mysql://h/d", "Readiness": True, "Status": 1, "Details": "available"}
    assert [text for _, text in known.reports] == ["not available: gone", "available again"]


def test_a_lost_database_shows_in_the_status_reports(tmp_path: Path) -> None:
    """From the driver's own finding to the report: a folder that does not exist yet is a database that is away."""

    async def run() -> None:
        status = StatusReports(lambda: 1_000.0)
        databases = Databases()
        databases.watch(partial(report_back_end, status, "db"))
        databases.add(DbSqlite())
        url = f"sqlite:{tmp_path}/later/db.sqlite"
        database = databases.get(url)
        identifier = (status.group("db") or {})[str(database.url)]
        assert identifier.ready
        with pytest.raises(DatabaseError):
            await database.raw("SELECT 1")
        assert not identifier.ready
        assert identifier.details
        (tmp_path / "later").mkdir()
        await DbSqlite().create_tables(database.url, ())
        await database.raw("SELECT 1")
        assert identifier.ready
        await databases.close()

    asyncio.run(run())


def test_queries_of_all_databases_are_counted() -> None:
    statistics, databases = Statistics(), Databases()
    count_queries(statistics, databases)
    names = ["sql_total_queries", "sql_slow_queries"]
    assert statistics.read(names) == {"sql:sql_total_queries": 0, "sql:sql_slow_queries": 0}
    databases.add(DbSqlite())
    first, second = databases.get("sqlite:/one"), databases.get("sqlite:/two")
    first.queries, second.queries, second.slow_queries = 3, 4, 1
    assert statistics.read(names) == {"sql:sql_total_queries": 7, "sql:sql_slow_queries": 1}
