"""Servers of several kinds, with the same people in each, and a script that asks all of them in a single call."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from opensipspy.cachedb import CacheDbDriver
from opensipspy.db import Column, DbDriver, Index, Table, auto_id, parse_url
from opensipspy.dbdrivers.cachedb_mongodb import CachedbMongodb
from opensipspy.dbdrivers.cachedb_redis import CachedbRedis
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.module.testing import FakeCore
from tests.backends import (
    BackendServer,
    FreeradiusServer,
    MariadbServer,
    PostgresServer,
    RedisServer,
    SecantusServer,
    SlapdServer,
)

PEOPLE: Final = Table(
    "people",
    1,
    (auto_id(), Column("name", "string", 64, default=""), Column("value", "string", 64, default="")),
    (Index("name_idx", ("name",), unique=True),),
)
LDIF: Final = """dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: uid=alice,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: alice of ldap
sn: Alice
"""
LDAP_SESSION: Final = """[directory]
ldap_server_url = "ldap://127.0.0.1:{port}"
ldap_bind_dn = "cn=admin,dc=example,dc=com"
ldap_bind_password = "secret"
"""
USERS: Final = 'alice Cleartext-Password := "secret"\n\tReply-Message := "alice of radius"\n'
HEAD: Final = """
log_level=3
stderror_enabled=yes
socket=udp:127.0.0.1:{port}
loadmodule "proto_udp.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "signaling.so"
loadmodule "db_mysql.so"
loadmodule "db_postgres.so"
loadmodule "sqlops.so"
loadmodule "cachedb_redis.so"
loadmodule "cachedb_mongodb.so"
loadmodule "ldap.so"
loadmodule "aaa_radius.so"
modparam("sqlops", "db_url", "{mysql}")
modparam("sqlops", "db_url", "1 {postgres}")
modparam("cachedb_redis", "cachedb_url", "{redis}")
modparam("cachedb_mongodb", "cachedb_url", "{mongodb}")
modparam("ldap", "config_file", "{folder}/ldap.cfg")
modparam("aaa_radius", "radius_config", "{radius}")
modparam("aaa_radius", "sets", "question = (User-Name=$var(name), User-Password=$var(password))")
modparam("aaa_radius", "sets", "answer = (Reply-Message=$avp(radius))")

route[mysql] {{
    sql_query_one("SELECT value FROM people WHERE name = 'alice'", "$avp(mysql)");
}}

route[postgres] {{
    sql_query_one("SELECT value FROM people WHERE name = 'alice'", "$avp(postgres)", 1);
}}

route[redis] {{
    cache_fetch("redis:main", "alice", $avp(redis));
}}

route[mongodb] {{
    cache_fetch("mongodb:main", "alice", $avp(mongodb));
}}

route[ldap] {{
    if (ldap_search("ldap://directory/dc=example,dc=com?cn?sub?(uid=alice)"))
        ldap_result("cn", $avp(ldap));
}}

route[radius] {{
    $var(name) = "alice";
    $var(password) = "secret";
    radius_send_auth("question", "answer");
}}
"""


class BackEnds:
    """MariaDB, PostgreSQL, Redis, MongoDB (SecantusDB), slapd and FreeRADIUS, each with what it knows of alice."""

    names: tuple[str, ...] = ("mysql", "postgres", "redis", "mongodb", "ldap", "radius")

    def __init__(self) -> None:
        """Skips when a program or a client is missing."""
        for package in ("asyncmy", "asyncpg", "redis"):
            pytest.importorskip(package, reason=f"needs the package {package}")
        kinds: Sequence[type[BackendServer]] = (
            MariadbServer,
            PostgresServer,
            RedisServer,
            SecantusServer,
            SlapdServer,
            FreeradiusServer,
        )
        for kind in kinds:
            if kind.programs() is None:  # type: ignore[attr-defined]
                pytest.skip(f"needs the package {kind.package}")  # type: ignore[attr-defined]
        self.mysql = MariadbServer()
        self.postgres = PostgresServer()
        self.redis = RedisServer()
        self.mongodb = SecantusServer()
        self.ldap = SlapdServer()
        self.radius = FreeradiusServer()

    def server(self, name: str) -> BackendServer:
        found: BackendServer = getattr(self, name)
        return found

    def start(self) -> None:
        self.mysql.prepare()
        self.postgres.prepare()
        self.ldap.prepare(LDIF)
        self.radius.prepare(USERS)
        with (self.radius.folder / "radiusclient.conf").open("a", encoding="utf-8") as file:
            file.write("radius_timeout 1\n")  # more than one of them is to outlast a stall
        for name in self.names:
            self.server(name).start()
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        sql: Sequence[tuple[DbDriver, str, str]] = (
            (DbMysql(), self.mysql.url("people"), "mysql"),
            (DbPostgres(), self.postgres.url("people"), "postgres"),
        )
        for driver, url, name in sql:
            await driver.create_tables(parse_url(url), (PEOPLE,))
            database = driver.open_database(parse_url(url))
            await database.insert("people", {"name": "alice", "value": f"alice of {name}"})
            await database.close()
        core = FakeCore()
        stores: Sequence[tuple[type[CacheDbDriver], str, str]] = (
            (CachedbRedis, self.redis.url("main"), "redis"),
            (CachedbMongodb, self.mongodb.url("main"), "mongodb"),
        )
        for kind, url, name in stores:
            core.add(kind(cachedb_url=url))  # type: ignore[type-var]
            await core.cachedb(url).store("alice", f"alice of {name}")
        await core.cachedbs.close()

    def stop(self) -> None:
        for name in self.names:
            self.server(name).signal(signal.SIGCONT)
            self.server(name).stop()

    def script(self, folder: Path, port: int, body: str) -> Path:
        """The script file: the head, which has a route for each back-end, and the text of its main route."""
        (folder / "ldap.cfg").write_text(LDAP_SESSION.format(port=self.ldap.port), encoding="utf-8")
        path = folder / "back_ends.cfg"
        head = HEAD.format(
            port=port,
            folder=folder,
            mysql=self.mysql.url("people"),
            postgres=self.postgres.url("people"),
            redis=self.redis.url("main"),
            mongodb=self.mongodb.url("main"),
            radius=self.radius.url.partition(":")[2],
        )
        path.write_text(head + body, encoding="utf-8")
        return path
