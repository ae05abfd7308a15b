"""db_unixodbc: connection strings and what a raw statement may be. The shared suite asks PostgreSQL through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensipspy.db import DatabaseError, check_single, parse_url
from opensipspy.dbdrivers import db_unixodbc
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_unixodbc import DbUnixodbc, connection_text
from opensipspy.module.testing import FakeCore
from tests.backends import PostgresServer
from tests.modules.asynchronous import in_loop


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("unixodbc://user:pass@localhost/my_dsn", "DSN=my_dsn;UID=user;PWD=pass"),
        ("unixodbc://localhost/my_dsn", "DSN=my_dsn"),
        (
            "unixodbc://u@10.0.0.1:5432/calls?driver=PostgreSQL Unicode&SSLmode=require",
            "Driver={PostgreSQL Unicode};Database=calls;Server=10.0.0.1;Port=5432;UID=u;SSLmode=require",
        ),
        ("unixodbc://u:a%3BDSN=x}y@h/d", "DSN=d;UID=u;PWD={a;DSN=x}}y}"),
    ],
)
def test_connection_strings(url: str, text: str) -> None:
    """A value cannot become a second setting."""
    assert connection_text(parse_url(url)) == text


@pytest.mark.parametrize("url", ["unixodbc://user@host", "unixodbc://host/dsn?a;b=1"])
def test_urls_that_cannot_be_right(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"names a DSN|no name of an ODBC setting"):
        connection_text(parse_url(url))


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1", "SELECT 1;", "SELECT ';' , \";\" ; \n", "SELECT 1 -- ; no", "SELECT 1 /* ; */", "SELECT beginning"],
)
def test_one_statement(sql: str) -> None:
    check_single(sql)


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 'a'; DROP TABLE x", "begin", " COMMIT", "rollback;"])
def test_more_than_one_statement(sql: str) -> None:
    with pytest.raises(DatabaseError):
        check_single(sql)


@in_loop
async def test_a_driver_that_is_not_there_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pyodbc")
    module = FakeCore().add(DbUnixodbc())
    database = module.open_database(parse_url("unixodbc://u:geheim@h/d?driver=No such driver"))
    with pytest.raises(DatabaseError) as caught:
        await database.ping()
    assert caught.value.transient
    assert "geheim" not in str(caught.value) + caplog.text
    await database.close()


@in_loop
async def test_another_database(tmp_path: Path) -> None:
    """SQLite by its ODBC driver: other quotes, no limit of time."""
    pyodbc = pytest.importorskip("pyodbc")
    if "SQLite3" not in pyodbc.drivers():
        pytest.skip("needs the Debian package libsqliteodbc")
    module = FakeCore().add(DbUnixodbc())
    database = module.open_database(parse_url(f"unixodbc://h/{tmp_path / 'x.sqlite'}?driver=SQLite3"))
    await database.raw("CREATE TABLE t (a INTEGER, b TEXT)")
    await database.insert_many("t", [{"a": 1, "b": "one"}, {"a": 2, "b": "two"}])
    await database.insert_update("t", {"a": 2, "b": "zwei"}, ("a",))
    await database.insert_update("t", {"a": 3, "b": "drei"}, ("a",))
    assert await database.select("t", ("a", "b"), (("a", ">", 1),), "a desc", 5) == [(3, "drei"), (2, "zwei")]
    with pytest.raises(DatabaseError):
        await database.raw("SELECT 1; SELECT 2")
    await database.close()


@in_loop
async def test_a_connection_that_died_while_idle_takes_no_raw_statement(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raw statement is sent once only, so the connection is asked first whether it lives."""
    pyodbc = pytest.importorskip("pyodbc")
    if "PostgreSQL Unicode" not in pyodbc.drivers():
        pytest.skip("needs the Debian package odbc-postgresql")
    monkeypatch.setattr(db_unixodbc, "IDLE_S", -1.0)
    await DbPostgres().create_tables(parse_url(postgres_server.url("idle")), [])
    module = FakeCore().add(DbUnixodbc())
    database = module.open_database(
        parse_url(f"unixodbc://postgres@127.0.0.1:{postgres_server.port}/idle?driver=PostgreSQL Unicode")
    )
    [(first,)] = await database.raw("SELECT pg_backend_pid()")
    other = DbPostgres().open_database(parse_url(postgres_server.url("idle")))
    await other.raw(f"SELECT pg_terminate_backend({first})")
    [(second,)] = await database.raw("SELECT pg_backend_pid()")
    assert second != first
    await other.close()
    await database.close()
