"""A server whose tables are collections of MongoDB, by db_cachedb: one that starts, asks and writes as with SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensipspy.db import parse_url
from opensipspy.dbdrivers.cachedb_mongodb import CachedbMongodb
from opensipspy.dbdrivers.db_cachedb import DbCachedb
from opensipspy.module.testing import FakeCore
from opensipspy.modules.acc import ACC, MISSED_CALLS
from opensipspy.modules.alias_db import ALIAS_TABLE
from tests.backends import SecantusServer, free_port
from tests.scenarios.peer import Phone
from tests.scenarios.server import ServerProcess

pytestmark = pytest.mark.scenario

SCRIPT = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
db_default_url="cachedb://mongodb:tables"
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "cachedb_mongodb.so"
loadmodule "db_cachedb.so"
loadmodule "alias_db.so"
loadmodule "acc.so"
modparam("db_cachedb", "cachedb_url", "{store}")
modparam("acc", "db_url", "cachedb://mongodb:tables")

route {{
    if (!alias_db_lookup("dbaliases")) {{
        sl_send_reply(404, "Nobody");
        exit;
    }}
    do_accounting("db");
    $du = "sip:127.0.0.1:{callee}";
    t_relay();
}}
"""


@pytest.fixture
def mongodb() -> Iterator[SecantusServer]:
    if SecantusServer.programs() is None:
        pytest.skip(f"needs the package {SecantusServer.package}")
    server = SecantusServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_modules_on_documents(mongodb: SecantusServer, tmp_path: Path) -> None:
    store = mongodb.url("tables", "keys")
    tables = (ALIAS_TABLE, ACC, MISSED_CALLS)

    async def ask() -> list[tuple[object, ...]]:
        """The tables, with an alias; later: the records in them."""
        core = FakeCore()
        core.add(CachedbMongodb(cachedb_url=store))
        driver = core.add(DbCachedb(cachedb_url=store))
        driver.declared = {table.name: table for table in tables}
        url = parse_url("cachedb://mongodb:tables")
        database = driver.open_database(url)
        try:
            if await driver.create_tables(url, tables):
                alias = {"alias_username": "sales", "alias_domain": "127.0.0.1"}
                await database.insert("dbaliases", {**alias, "username": "bob", "domain": "example.com"})
            return [*await database.select("acc", ("method", "sip_code", "callid"))]
        finally:
            await database.close()
            await core.cachedbs.close()

    assert asyncio.run(ask()) == []
    port = free_port()
    caller, callee = Phone("alice", ("127.0.0.1", port)), Phone("bob", ("127.0.0.1", port))
    script = tmp_path / "documents.cfg"
    script.write_text(SCRIPT.format(port=port, store=store, callee=callee.port), encoding="utf-8")
    server = ServerProcess(script, tmp_path)
    server.start()
    try:
        caller.send(caller.request("MESSAGE", "sip:nobody@127.0.0.1"))
        caller.expect(404)
        caller.send(caller.request("MESSAGE", "sip:sales@127.0.0.1", call_id="known@test"))
        request = callee.expect("MESSAGE")
        assert request.request_uri == "sip:bob@example.com"
        callee.send(callee.reply(request, 200))
        caller.expect(200)
        assert server.stop() == 0, server.log_text()
    finally:
        caller.close()
        callee.close()
        server.stop()
    assert asyncio.run(ask()) == [("MESSAGE", "200", "known@test")]
