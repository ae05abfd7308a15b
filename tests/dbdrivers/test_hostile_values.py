"""Values within the quotes of a raw statement of sqlops stay there, whatever they hold, on every kind of database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from opensipspy.db import DbDriver, DbUrl, parse_url
from opensipspy.dbdrivers.db_mysql import DbMysql
from opensipspy.dbdrivers.db_postgres import DbPostgres
from opensipspy.dbdrivers.db_sqlite import DbSqlite
from opensipspy.module.testing import FakeCore, make_run, request
from opensipspy.modules.sqlops.statement import StatementText
from opensipspy.script.core import build_catalogue
from opensipspy.script.formats import parse_format
from tests.script.fakes import FakeServices

BACKENDS = {
    "sqlite": (DbSqlite, ""),
    "postgres": (DbPostgres, "postgres_server"),
    "mysql": (DbMysql, "mariadb_server"),
}
HOSTILE = [
    "it's",
    "'",
    "\\",
    "\\'",
    "a\\' OR 1=1 -- ",
    "x' UNION SELECT 'y",
    "x'; DROP TABLE t; --",
    "\\\\' or '1'='1",
    'say "hi"',
    "`x`",
    "*/ 'x",
    "-- x",
    "? $1 :1 %s",
    "ü€\U0001f600'",
    "a\nb'",
]


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DbDriver, DbUrl]:
    driver, server = BACKENDS[request.param]
    text = request.getfixturevalue(server).url("hostile") if server else f"sqlite:{tmp_path}/hostile.sqlite"
    return driver(), parse_url(text)


def statement(text: str, value: str, backslashes: bool | None) -> str:
    """The statement that goes to a database for a value of $var(x)."""
    made = StatementText(parse_format(text, build_catalogue(FakeServices())))
    run = make_run(request(), core=FakeCore())
    run.vars["x"] = value
    return made(run).text(backslashes)


def test_quotes_hold_what_a_caller_sends(backend: tuple[DbDriver, DbUrl]) -> None:
    driver, url = backend

    async def play() -> None:
        await driver.create_tables(url, [])
        database = driver.open_database(url)
        try:
            for value in HOSTILE:
                for text in ("$var(x)", "$(var(x){s.escape.common})"):
                    if text == "$var(x)" and "\\" in value and database.backslashes:
                        continue  # it may be one that the script has escaped
                    sql = statement(
                        f"SELECT 'a{text}', /* {text} */ 'it''s {text}', '' -- {text}\n", value, database.backslashes
                    )
                    assert await database.raw(sql) == [(f"a{value}", f"it's {value}", "")], (value, sql)
                if database.backslashes:
                    # What stays within the quotes as it is, stays what the script meant.
                    sql = statement("SELECT '$var(x)'", value.replace("\\", "\\\\").replace("'", "\\'"), True)
                    assert await database.raw(sql) == [(value,)], sql
                sql = statement("SELECT '$var(x)'", value.replace("'", "''"), database.backslashes)
                if not database.backslashes:
                    assert await database.raw(sql) == [(value,)], sql
        finally:
            await database.close()

    asyncio.run(play())


def test_a_server_without_backslash_escapes_is_asked_for_them(request: pytest.FixtureRequest) -> None:
    """NO_BACKSLASH_ESCAPES in the server's sql_mode: what a script has escaped would end its quotes there."""
    url = parse_url(request.getfixturevalue("mariadb_server").url("hostile"))

    async def play() -> None:
        await DbMysql().create_tables(url, [])
        first = DbMysql().open_database(url)
        second = DbMysql().open_database(url)
        try:
            (before,) = await first.raw("SELECT @@GLOBAL.sql_mode")
            await first.raw("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES'")
            try:
                assert await second.raw("SELECT 'it\\'s', @@sql_mode LIKE '%STRICT_TRANS_TABLES%'") == [("it's", 1)]
            finally:
                await first.raw(f"SET GLOBAL sql_mode = '{before[0]}'")
        finally:
            await first.close()
            await second.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("text", "value", "plain", "special", "unknown"),
    [
        ("'$var(x)'", "o'b", "'o''b'", "'o''b'", "'o''b'"),
        ("'$var(x)'", "o\\'b", "'o\\''b'", "'o\\'b'", "'o\\\\''b'"),
        ("'$var(x)'", "o''b", "'o''b'", "'o''b'", "'o''b'"),
        ("'$var(x)'", "o\\", "'o\\'", "'o\\\\'", "'o\\\\'"),
        ("E'$var(x)'", "o\\' x", "E'o\\' x'", "E'o\\' x'", "E'o\\\\'' x'"),
        ("E'$var(x)'", "o\\", "E'o\\\\'", "E'o\\\\'", "E'o\\\\'"),
        ("LIKE'$var(x)'", "o\\' x", "LIKE'o\\'' x'", "LIKE'o\\' x'", "LIKE'o\\\\'' x'"),
        ("`$var(x)`", "a` b", "`a`` b`", "`a`` b`", "`a`` b`"),
        ('"$var(x)"', 'a" b', '"a"" b"', '"a"" b"', '"a"" b"'),
        ("x=$var(x)", "1 or 1", "x=1 or 1", "x=1 or 1", "x=1 or 1"),
        ("$var(x)", "SELECT 'a'", "SELECT 'a'", "SELECT 'a'", "SELECT 'a'"),
        ("'it\\'$var(x)'", "b' ", "'it\\'b' '", "'it\\'b'' '", "'it\\'b'' '"),
        ("-- it's\n'$var(x)'", "'", "-- it's\n''''", "-- it's\n''''", "-- it's\n''''"),
    ],
)
def test_what_a_value_becomes(text: str, value: str, plain: str, special: str, unknown: str) -> None:
    """Without and with backslashes as escapes, and where it is not known."""
    assert [statement(text, value, backslashes) for backslashes in (False, True, None)] == [plain, special, unknown]
