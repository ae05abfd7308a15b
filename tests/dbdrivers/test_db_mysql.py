"""MySQL and MariaDB: what they have beside what every driver does. The rest is in test_conformance.py."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from opensipspy.cli import main
from opensipspy.db import Database, DatabaseError, InsertUpdate, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql, MysqlText
from opensipspy.module import ParamError, StartError
from tests.backends import MariadbServer


def test_rows_are_added_or_changed_in_mysql_words() -> None:
    text = MysqlText()
    sql, args = text.write(InsertUpdate("t", {"k": 1, "v": "x"}, ("k",)))
    assert sql == "INSERT INTO `t` (`k`, `v`) VALUES (?, ?) ON DUPLICATE KEY UPDATE `v` = VALUES(`v`)"
    assert args == [1, "x"]
    sql, _ = text.write(InsertUpdate("t", {"k": 1}, ("k",)))
    assert sql.endswith("ON DUPLICATE KEY UPDATE `k` = `k`")


def test_statements_beyond_prepared_ones(mariadb_server: MariadbServer) -> None:
    """What cannot be prepared is sent as a text, a second statement behind it is refused all the same."""

    async def scenario(database: Database) -> None:
        assert await database.raw("SELECT 1 + ?", ("2",)) == [(3.0,)]
        for sql in ("SELECT 1; SELECT 2", "LOCK TABLES user READ; DROP DATABASE mysql"):
            with pytest.raises(DatabaseError) as caught:
                await database.raw(sql)
            assert not caught.value.transient
        with pytest.raises(DatabaseError, match="1 arguments"):
            await database.raw("SELECT ?", ())
        with pytest.raises(DatabaseError, match="64 bits"):
            await database.raw("SELECT ?", (1 << 70,))
        assert await database.raw("SELECT CAST(1.5 AS DECIMAL(5,2)), CAST(7 AS DECIMAL(5)), '1:02:03'") == [
            (1.5, 7, "1:02:03")
        ]
        await database.raw("XA RECOVER")

    async def run() -> None:
        database = DbMysql().open_database(parse_url(mariadb_server.url("mysql")))
        try:
            await scenario(database)
        finally:
            await database.close()

    asyncio.run(run())


def test_tls(secure_mariadb: MariadbServer, mariadb_server: MariadbServer, certificate: tuple[Path, Path]) -> None:
    """use_tls=1 always; the server is verified when tls_ca says by what."""

    async def cipher(url: str, **params: Any) -> object:
        database = DbMysql(max_db_retries=1, **params).open_database(parse_url(url))
        try:
            return (await database.raw("SHOW STATUS LIKE 'Ssl_cipher'"))[0][1]
        finally:
            await database.close()

    url = secure_mariadb.url("mysql")
    assert not asyncio.run(cipher(url))
    assert asyncio.run(cipher(url, use_tls=1))
    assert asyncio.run(cipher(f"{url}?tls_ca={certificate[0]}", use_tls=1))
    with pytest.raises(DatabaseError):
        asyncio.run(cipher(f"{url}?tls_ca=/etc/ssl/certs/ca-certificates.crt", use_tls=1))
    with pytest.raises(DatabaseError):
        asyncio.run(cipher(mariadb_server.url("mysql"), use_tls=1))


def test_the_command_line_makes_and_shows_the_tables(
    mariadb_server: MariadbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = mariadb_server.url("by_hand")
    assert main.main(["db", "create", "--url", url, "--modules", "auth_db", "sqlops"]) == 0
    assert "made version, subscriber, uri, usr_preferences" in capsys.readouterr().out
    assert main.main(["db", "create", "--url", url, "--modules", "auth_db", "sqlops"]) == 0
    assert main.main(["db", "show", "--url", url, "--modules", "auth_db"]) == 0
    assert "subscriber           version 8" in capsys.readouterr().out


def test_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"opensipspy\[mysql\]"):
        asyncio.run(DbMysql().start())
    monkeypatch.setitem(sys.modules, "asyncmy", None)

    async def ask() -> None:
        database = DbMysql().open_database(parse_url("mysql://a@127.0.0.1/b"))
        try:
            await database.ping()
        finally:
            await database.close()

    with pytest.raises(DatabaseError, match=r"opensipspy\[mysql\]"):
        asyncio.run(ask())


def test_parameters_are_numbers() -> None:
    with pytest.raises(ParamError):
        DbMysql(timeout_interval="soon")
