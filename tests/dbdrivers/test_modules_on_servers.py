"""Modules with tables of their own give the same answers on PostgreSQL and MySQL as on SQLite."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from opensipspy.db import Database, DbDriver, DbUrl, DbValue, Table, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module.testing import FakeCore, make_run, make_var, request
from opensipspy.modules.alias_db import ALIAS_TABLE, AliasDb
from opensipspy.modules.dialplan import DIALPLAN_TABLE, Dialplan
from opensipspy.modules.domainpolicy import POLICY_TABLE, DomainPolicy
from opensipspy.modules.group import EXPRESSION_TABLE, GROUP_TABLE, Group
from opensipspy.modules.permissions import ADDRESS_TABLE, Permissions
from opensipspy.modules.speeddial import SPEED_DIAL_TABLE, SpeedDial
from opensipspy.modules.userblacklist import GLOBAL_TABLE, USER_TABLE, UserBlacklist

URL = "some:database"
TABLES = (
    ADDRESS_TABLE,
    DIALPLAN_TABLE,
    ALIAS_TABLE,
    GROUP_TABLE,
    EXPRESSION_TABLE,
    SPEED_DIAL_TABLE,
    USER_TABLE,
    GLOBAL_TABLE,
    POLICY_TABLE,
)
ROWS: Sequence[tuple[Table, dict[str, DbValue]]] = (
    (ADDRESS_TABLE, {"grp": 1, "ip": "192.0.2.0", "mask": 24, "port": 0, "proto": "any", "context_info": "net"}),
    (ADDRESS_TABLE, {"grp": 2, "ip": "2001:db8::1", "mask": 128, "port": 5060, "proto": "udp", "pattern": "a*"}),
    (
        DIALPLAN_TABLE,
        {"dpid": 1, "pr": 0, "match_op": 1, "match_exp": "^0(\\d+)$", "subst_exp": "^0(.*)$", "repl_exp": "40\\1"},
    ),
    (DIALPLAN_TABLE, {"dpid": 1, "pr": 0, "match_op": 0, "match_exp": "Ärger", "match_flags": 1, "attrs": "ü"}),
    (DIALPLAN_TABLE, {"dpid": 1, "pr": 0, "match_op": 0, "match_exp": "off", "disabled": 1}),
    (ALIAS_TABLE, {"alias_username": "sales", "alias_domain": "example.org", "username": "bob", "domain": "b.org"}),
    (GROUP_TABLE, {"username": "alice", "domain": "example.com", "grp": "int"}),
    (EXPRESSION_TABLE, {"reg_exp": "^sip:alice@", "group_id": 7}),
    (SPEED_DIAL_TABLE, {"username": "alice", "domain": "example.com", "sd_username": "11", "new_uri": "sip:x@b.org"}),
    (GLOBAL_TABLE, {"prefix": "90", "whitelist": "0"}),
    (GLOBAL_TABLE, {"prefix": "9011", "whitelist": "1"}),
    (USER_TABLE, {"username": "alice", "domain": "example.com", "prefix": "44", "whitelist": "0"}),
    (POLICY_TABLE, {"rule": "example.org", "type": "dom", "att": "portoverride", "val": "5070", "description": ""}),
)
BACKENDS = {
    "sqlite": (DbSqlite, ""),
    "postgres": (DbPostgres, "postgres_server"),
    "mysql": (DbMysql, "mariadb_server"),
}


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DbDriver, DbUrl]:
    driver, server = BACKENDS[request.param]
    text = request.getfixturevalue(server).url("who_may_call") if server else f"sqlite:{tmp_path}/who.sqlite"
    return driver(), parse_url(text)


async def answers(database: Database) -> dict[str, Any]:
    """What the modules say about a few messages."""
    core = FakeCore(databases={URL: database})
    lists = UserBlacklist(db_url=URL)
    modules = [
        core.add(module)
        for module in (
            Permissions(db_url=URL),
            Dialplan(db_url=URL),
            AliasDb(db_url=URL),
            Group(db_url=URL, re_table="re_grp"),
            SpeedDial(db_url=URL, use_domain=1),
            lists,
            DomainPolicy(db_url=URL),
        )
    ]
    table = core.catalogue.functions["check_blacklist"].params[0].fixup
    assert table is not None
    table("globalblacklist")
    for module in modules:
        await module.launch()

    async def ask(ruri: str, function: str, *args: Any) -> tuple[Any, ...]:
        run = make_run(request(ruri=ruri), core=core)
        result = core.call(function, run, *args)
        result = await result if inspect.isawaitable(result) else result
        return (result, run.ruri, dict(run.vars), dict(run.avps))

    out, sip = make_var("out"), "sip:11@example.org"
    found = {
        "net": await ask(sip, "check_address", 1, "192.0.2.9", 5060, 1, out),
        "six": await ask(sip, "check_address", 2, "2001:db8::1", 5060, 1, out, "abc"),
        "six b": await ask(sip, "check_address", 2, "2001:db8::1", 5060, 1, out, "bcd"),
        "plan": await ask(sip, "dp_translate", 1, "0211", out),
        "equal": await ask(sip, "dp_translate", 1, "ÄRGER", None, out),
        "off": await ask(sip, "dp_translate", 1, "off", out),
        "alias": await ask("sip:sales@example.org", "alias_db_lookup", "dbaliases"),
        "group": await ask(sip, "db_is_user_in", "From", "int"),
        "no group": await ask(sip, "db_is_user_in", "To", "int"),
        "number": await ask(sip, "db_get_user_group", "From", out),
        "speed": await ask(sip, "sd_lookup", "speed_dial"),
        "barred": await ask("sip:9000@example.org", "check_blacklist", "globalblacklist"),
        "open": await ask("sip:90112@example.org", "check_blacklist", "globalblacklist"),
        "user": await ask("sip:441@example.org", "check_user_blacklist", "alice", "example.com"),
        "policy": await ask(sip, "dp_can_connect"),
    }
    for module in modules:
        await module.shutdown()
    return found


def test_the_same_rows_give_the_same_answers(backend: tuple[DbDriver, DbUrl]) -> None:
    driver, url = backend

    async def scenario() -> dict[str, Any]:
        await driver.create_tables(url, list(TABLES))
        database = driver.open_database(url)
        try:
            for table, row in ROWS:
                await database.insert(table.name, row)
            return await answers(database)
        finally:
            await database.close()

    found = asyncio.run(scenario())
    sip = "sip:11@example.org"
    assert found == {
        "net": (1, sip, {"out": "net"}, {}),
        "six": (1, sip, {"out": ""}, {}),
        "six b": (-1, sip, {}, {}),
        "plan": (1, sip, {"out": "40211"}, {}),
        "equal": (1, sip, {"out": "ü"}, {}),
        "off": (-1, sip, {}, {}),
        "alias": (1, "sip:bob@b.org", {}, {}),
        "group": (1, sip, {}, {}),
        "no group": (-6, sip, {}, {}),
        "number": (1, sip, {"out": 7}, {}),
        "speed": (1, "sip:x@b.org", {}, {}),
        "barred": (-1, "sip:9000@example.org", {}, {}),
        "open": (1, "sip:90112@example.org", {}, {}),
        "user": (-1, "sip:441@example.org", {}, {}),
        "policy": (1, sip, {}, {"portoverride": ["5070"]}),
    }
